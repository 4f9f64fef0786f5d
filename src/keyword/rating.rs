//! The rating of a keyword at enrolment: what to expect of it, whether it is long enough, and whether it is confusable with another keyword.

use super::calibrate::Condition;
use super::enroll::Enrolment;
use super::file::{Keyword, Origin};
use crate::pack::Pack;

/// Phrases with fewer phones or less speech than this are detected less well.
const FEW_PHONES: usize = 6;
const SHORT_SECONDS: f64 = 0.4;
/// The phone check separates phrases that differ in more phones than this.
const CONFUSABLE_EDITS: usize = 1;

/// An estimate with its 95 % confidence interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// Its value.
    pub value: f64,
    /// The interval.
    pub interval: (f64, f64),
    /// Number of events that it was estimated from.
    pub count: usize,
    /// Hours of speech, or number of trials.
    pub of: f64,
}

/// The false accepts per hour of clear speech, from what the background contains.
pub fn expected_false_accepts(keyword: &Keyword) -> Option<Estimate> {
    let tail = keyword.background.iter().find(|tail| tail.condition == Condition::Plain && tail.hours > 0.0)?;
    let count = tail.peaks.iter().filter(|peak| **peak >= keyword.threshold).count();
    // Exact limits of a Poisson distribution: as few or as many are found in one of forty cases.
    let low = if count == 0 { 0.0 } else { root(|mean| 1.0 - at_most(count - 1, mean) - TAIL) };
    let high = root(|mean| TAIL - at_most(count, mean));
    let rate = |count: f64| count / tail.hours;
    Some(Estimate { value: rate(count as f64), interval: (rate(low), rate(high)), count, of: tail.hours })
}

/// The share of the recordings that the others detect, if there are several: what to expect of further utterances by this speaker. The interval is Wilson's.
pub fn expected_recall(keyword: &Keyword, takes: &[Enrolment]) -> Option<Estimate> {
    let recordings: Vec<&Enrolment> = takes.iter().filter(|take| take.example.origin == Origin::Recording).collect();
    if recordings.len() < 2 {
        return None;
    }
    let found = |number: &usize| {
        let others = recordings.iter().enumerate().filter(|(other, _)| other != number).map(|(_, take)| *take);
        recordings[*number].best_score(others).is_some_and(|score| score >= keyword.threshold)
    };
    let (count, of) = ((0..recordings.len()).filter(found).count(), recordings.len() as f64);
    let (share, z2) = (count as f64 / of, 1.96f64.powi(2));
    let (middle, width) = (share + z2 / (2.0 * of), 1.96 * (share * (1.0 - share) / of + z2 / (4.0 * of * of)).sqrt());
    let limit = |value: f64| (value / (1.0 + z2 / of)).clamp(0.0, 1.0);
    Some(Estimate { value: share, interval: (limit(middle - width), limit(middle + width)), count, of })
}

/// Probability of each end of an interval.
const TAIL: f64 = 0.025;

/// The probability of at most `count` events where `mean` are expected.
fn at_most(count: usize, mean: f64) -> f64 {
    let mut term = (-mean).exp();
    (1..=count).fold(term, |sum, number| {
        term *= mean / number as f64;
        sum + term
    })
}

/// Where an increasing function is 0, between 0 and 1000.
fn root(function: impl Fn(f64) -> f64) -> f64 {
    let (mut low, mut high) = (0.0, 1e3);
    for _ in 0..60 {
        let middle = (low + high) / 2.0;
        if function(middle) < 0.0 { low = middle } else { high = middle }
    }
    low
}

/// A weakness of a keyword.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Weakness {
    /// It has few phones, or little speech.
    Short,
    /// It is said in ordinary speech.
    Common {
        /// Number of sentences.
        times: u32,
        /// Minutes of speech.
        minutes: u32,
    },
    /// It was enrolled from text in a language whose phones the pack does not recognise well.
    Language {
        /// The language of the phrase.
        language: String,
        /// Those that the pack recognises well.
        known: Vec<String>,
    },
    /// Its examples reach the threshold of another keyword, which has this name, or the other way round.
    Confusable(String),
}

impl std::fmt::Display for Weakness {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Short => f.write_str("the phrase is short, so expect misses and false accepts; use three or more syllables"),
            Self::Common { times, minutes } => write!(
                f,
                "the phrase is common: {times} sentences in {minutes} minutes of speech contain it, and each would be a detection; use a longer one"
            ),
            Self::Language { language, known } => {
                write!(
                    f,
                    "the pack recognises the phones of {} well, and those of `{language}` badly, so expect most utterances to be missed; \
                     enroll recordings instead",
                    known.join(", ")
                )
            }
            Self::Confusable(other) => {
                write!(f, "the phrase resembles the keyword `{other}`, so each may trigger the other; use another phrase")
            }
        }
    }
}

/// The weaknesses of `keyword`, which was enrolled from `takes` with `pack`, beside the keywords `others`.
pub fn weaknesses(keyword: &Keyword, takes: &[Enrolment], others: &[Keyword], pack: &Pack) -> Vec<Weakness> {
    let known = pack.manifest.ctc.as_ref().map_or(&[][..], |ctc| &ctc.languages);
    [language(keyword, known), length(keyword), common(keyword)]
        .into_iter()
        .flatten()
        .chain(confusable(keyword, takes, others))
        .collect()
}

/// A phrase in none of the `known` languages, if there are any.
fn language(keyword: &Keyword, known: &[String]) -> Option<Weakness> {
    let from_text = keyword.phones.is_some() || keyword.example.iter().any(|example| example.origin == Origin::Synthesis);
    let language = &keyword.say.as_ref().filter(|_| from_text)?.language;
    let code = language.split('-').next().map(|code| if code == "cmn" { "zh" } else { code });
    let unknown = !known.is_empty() && !known.iter().any(|one| Some(one.as_str()) == code);
    unknown.then(|| Weakness::Language { language: language.clone(), known: known.to_vec() })
}

fn length(keyword: &Keyword) -> Option<Weakness> {
    let seconds = keyword.example.iter().map(|example| example.seconds).sum::<f64>() / keyword.example.len().max(1) as f64;
    let short =
        keyword.phones.as_ref().map_or(seconds < SHORT_SECONDS, |phones| phones.phrase.iter().any(|own| own.len() < FEW_PHONES));
    short.then_some(Weakness::Short)
}

/// A phrase that is said more often than its false accepts are allowed to be.
fn common(keyword: &Keyword) -> Option<Weakness> {
    let times = keyword.background.iter().map(|tail| tail.said).sum::<u32>();
    let hours = keyword.background.iter().map(|tail| tail.hours).sum::<f64>();
    let allowed = keyword.false_accepts_per_hour? * hours;
    (f64::from(times) > allowed).then_some(Weakness::Common { times, minutes: (60.0 * hours) as u32 })
}

fn confusable(keyword: &Keyword, takes: &[Enrolment], others: &[Keyword]) -> impl Iterator<Item = Weakness> {
    let resembles = |other: &&Keyword| other.name != keyword.name && is_confusable(keyword, takes, other);
    others.iter().filter(resembles).map(|other| Weakness::Confusable(other.name.clone()))
}

fn is_confusable(keyword: &Keyword, takes: &[Enrolment], other: &Keyword) -> bool {
    if keyword.pack != other.pack {
        return false;
    }
    if let (Some(own), Some(others)) = (&keyword.phones, &other.phones) {
        return own.phrase.iter().any(|a| others.phrase.iter().any(|b| edits(a, b) <= CONFUSABLE_EDITS));
    }
    let threshold = keyword.threshold.max(other.threshold);
    let templates: Vec<_> = other.example.iter().filter_map(|example| example.template(other.pack.width).ok()).collect();
    takes.iter().any(|take| templates.iter().any(|template| take.score_of(template) >= threshold))
}

/// Least number of insertions, deletions and replacements that turn `a` into `b`.
fn edits(a: &[String], b: &[String]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, own) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, other) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(own != other);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::super::calibrate::{Condition, Tail};
    use super::super::file::{Example, PackRef, Say};
    use super::super::phones::Phones;
    use super::*;

    fn keyword(name: &str, phones: &str) -> Keyword {
        let pack = PackRef { name: "test".into(), identity: "0".into(), width: 2 };
        let example = Example::new("x".into(), 0.0, 1.0, &[1.0, 0.0], 2);
        let mut keyword = Keyword::new(name, pack, vec![example]).unwrap();
        keyword.phones = Some(Phones { phrase: vec![phones.chars().map(String::from).collect()], near: Vec::new() });
        keyword
    }

    #[test]
    fn edits_are_counted() {
        let edits = |a: &str, b: &str| {
            let split = |text: &str| text.chars().map(String::from).collect::<Vec<_>>();
            edits(&split(a), &split(b))
        };
        assert_eq!((edits("kitten", "sitting"), edits("abc", "abc"), edits("", "ab"), edits("abc", "ac")), (3, 0, 2, 1));
    }

    #[test]
    fn text_in_a_language_that_the_pack_does_not_know_is_reported() {
        let known = ["en".to_owned(), "pt".to_owned()];
        let spoken = |code: &str| {
            let mut keyword = keyword("lamp", "tənɔnðəlæmp");
            keyword.say = Some(Say { phrase: "turn on the lamp".into(), language: code.into() });
            keyword
        };
        assert_eq!(
            (language(&spoken("en-us"), &known), language(&spoken("pt-br"), &known), language(&spoken("ru"), &[])),
            (None, None, None)
        );
        let found = language(&spoken("ru"), &known).unwrap().to_string();
        assert!(found.contains("en, pt well") && found.contains("`ru`"), "{found}");
        // Recordings alone need no phones.
        let recorded = Keyword { phones: None, ..spoken("ru") };
        assert_eq!(language(&recorded, &known), None);
        let mut synthesised = recorded;
        synthesised.example[0].origin = Origin::Synthesis;
        assert!(language(&synthesised, &known).is_some(), "takes of a synthesiser");
    }

    #[test]
    fn false_accepts_are_estimated_with_exact_limits() {
        let mut keyword = keyword("computer", "kəmpjutə");
        let of = |keyword: &Keyword| expected_false_accepts(keyword).map(|one| (one.count, one.value, one.interval));
        assert_eq!(of(&keyword), None);
        let tail = |peaks: &[f32]| Tail { condition: Condition::Plain, hours: 2.0, peaks: peaks.to_vec(), said: 0 };
        keyword.threshold = 0.3;
        // Limits for 0 and 3 events: 3.689; 0.619 and 8.767.
        for (peaks, count, limits) in [(&[0.2][..], 0, (0.0, 3.689)), (&[0.5, 0.4, 0.3, 0.2], 3, (0.619, 8.767))] {
            keyword.background = vec![tail(peaks)];
            let (found, value, (low, high)) = of(&keyword).unwrap();
            assert_eq!((found, value), (count, count as f64 / 2.0));
            assert!((low - limits.0 / 2.0).abs() < 1e-3 && (high - limits.1 / 2.0).abs() < 1e-3, "{low} {high}");
        }
    }

    #[test]
    fn a_phrase_that_is_said_in_ordinary_speech_is_reported() {
        let mut keyword = keyword("computer", "kəmpjutə");
        let tail = |said| Tail { condition: Condition::Plain, hours: 4.0, peaks: vec![0.2], said };
        (keyword.false_accepts_per_hour, keyword.background) = (Some(0.5), vec![tail(2)]);
        assert_eq!(common(&keyword), None);
        keyword.background = vec![tail(3)];
        assert_eq!(common(&keyword), Some(Weakness::Common { times: 3, minutes: 240 }));
        keyword.false_accepts_per_hour = None;
        assert_eq!(common(&keyword), None, "a fixed threshold");
    }

    #[test]
    fn short_and_confusable_phrases_are_reported() {
        let others = [keyword("lamp", "tənɔnðəlæmp"), keyword("radio", "tənɔnðəreidio")];
        let found = |name: &str, phones: &str| {
            let keyword = keyword(name, phones);
            length(&keyword).into_iter().chain(confusable(&keyword, &[], &others)).collect::<Vec<_>>()
        };
        assert_eq!(found("ramp", "tənɔnðəræmp"), [Weakness::Confusable("lamp".into())]);
        assert_eq!(found("go", "goʊ"), [Weakness::Short]);
        assert!(found("music", "stɔpðəmjusɪk").is_empty() && found("lamp", "tənɔnðəlæmp").is_empty());
        let mut elsewhere = keyword("ramp", "tənɔnðəræmp");
        elsewhere.pack.identity = "1".into();
        assert_eq!(
            confusable(&elsewhere, &[], &others).next(),
            None,
            "a keyword of another pack is never active at the same time"
        );
    }
}
