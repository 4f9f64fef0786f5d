//! Whether the phones of a phrase are the ones that were said, from the CTC branch at full depth.
//!
//! A score averages over a phrase, so one wrong word of four hardly changes it. The phone ratio is the log-likelihood of the
//! phrase's phones, log P(phones | frames), minus that of the likeliest sequence with one phone replaced, left out or inserted between two
//! others: it is as low as the worst phone. In a voice that the branch recognises badly, every phone is doubtful, and a low ratio says little: then
//! even the likeliest sequence costs much relative to the branch's own reading, and the limit of the ratio is lower by a share of that cost.
//! The phrase is also compared with known near-phrases, for example "off" instead of "on". A keyword's score is reduced by a factor
//! that falls exponentially with the ratio below its limit.
//!
//! In unclear audio no phone is unlikely, so the scores of all phrases are higher. The factor also falls with the entropy of the frames, and one
//! threshold then fits quiet and noise.

use serde::{Deserialize, Serialize};

use super::phone_search::{Classes, PhoneSearch};

/// Fall of the log score per nat of the ratio below its limit.
const SLOPE: f32 = 1.0;
/// Limit of the ratio in a voice that is recognised well, nats. This, the slope and the share below were chosen on nine phrases by six synthetic voices
/// and their near-phrases: docs/keywords-figures.md has the figures.
const LIMIT: f32 = -3.5;
/// Share of the cost of the likeliest sequence by which the limit is lower.
const SHARE: f32 = 0.35;
/// Fall of the log score per nat of the frames' mean entropy above [`CLEAR`].
const UNCLEAR: f32 = 1.0;
/// Mean entropy of frames in clear audio, nats. Both were chosen on the pack's reading, so that phrases get similar thresholds on its clear and its noisy
/// half.
const CLEAR: f32 = 0.4;
/// Largest number of phones in a phrase; 40 take about three seconds.
pub(super) const MOST_PHONES: usize = 40;
/// Limit of the ratio to a near-phrase, nats.
const LEAST_TO_NEAR: f32 = 1.0;

/// The phones of a phrase, in a pack's vocabulary.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Phones {
    /// The pronunciations of the phrase: one, or one of each accent.
    pub phrase: Vec<Vec<String>>,
    /// Near-phrases that must not be detected.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub near: Vec<Vec<String>>,
}

impl Phones {
    /// The factor, 0 to 1, for the score of a match with these CTC logits, `[frames, vocabulary]`: that of the pronunciation with the highest one; 1
    /// if a phone is not in the vocabulary.
    pub fn factor(&self, logits: &[f32], vocabulary: &[String]) -> f32 {
        let factor = |Ratios { to_edits, cost, to_near, entropy }| {
            let excess = (to_edits - LIMIT + SHARE * cost).min(to_near - LEAST_TO_NEAR).min(0.0);
            (SLOPE * excess - UNCLEAR * (entropy - CLEAR).max(0.0)).exp()
        };
        self.phrase.iter().map(|own| self.ratios(own, logits, vocabulary).map_or(1.0, factor)).fold(0.0, f32::max)
    }

    /// The highest score of the phrase in these CTC logits, `[frames, vocabulary]`; `None` if a phone is not in the vocabulary.
    pub(super) fn highest_score(&self, logits: &[f32], vocabulary: &[String]) -> Option<f32> {
        let mut search = PhoneSearch::new(self.classes(vocabulary)?);
        logits.chunks_exact(vocabulary.len()).map(|row| search.step(row).0).reduce(f32::max)
    }

    /// The classes of its pronunciations; `None` if a phone is not in the vocabulary.
    pub(super) fn classes(&self, vocabulary: &[String]) -> Option<Vec<Classes>> {
        self.phrase.iter().map(|own| Classes::new(own, vocabulary)).collect()
    }

    fn ratios(&self, own: &[String], logits: &[f32], vocabulary: &[String]) -> Option<Ratios> {
        let classes = Classes::new(own, vocabulary)?;
        let frames = Frames::new(logits, vocabulary.len(), &classes.blanks)?;
        let phrase = classes.phrase;
        if frames.rows.len() < phrase.len() {
            return None;
        }
        let own = frames.likelihood(&phrase).ln();
        let edits = frames.likeliest_edit(&phrase).ln();
        let near = self.near.iter().filter_map(|near| Classes::new(near, vocabulary));
        let near = near.map(|near| frames.likelihood(&near.phrase).ln()).fold(f64::NEG_INFINITY, f64::max);
        let ratio = |other: f64| if own.is_finite() { (own - other) as f32 } else { f32::NEG_INFINITY };
        Some(Ratios { to_edits: ratio(edits), cost: (-edits).max(0.0) as f32, to_near: ratio(near), entropy: frames.entropy() })
    }
}

/// Log-likelihood ratios of a phrase, nats.
struct Ratios {
    to_edits: f32,
    /// Minus the log-likelihood of the likeliest edit, relative to the likeliest class of each frame.
    cost: f32,
    to_near: f32,
    /// Mean of the frames, nats.
    entropy: f32,
}

/// Likelihoods of frames, each relative to its likeliest class, so that products do not underflow unless the phrase is impossible.
struct Frames {
    /// `[frames][vocabulary]`.
    rows: Vec<Vec<f64>>,
    /// Sum of the blanks of each frame.
    blank: Vec<f64>,
    /// Classes that are phones.
    phones: Vec<usize>,
}

impl Frames {
    fn new(logits: &[f32], classes: usize, blanks: &[usize]) -> Option<Self> {
        let phones: Vec<usize> = (0..classes).filter(|class| !blanks.contains(class)).collect();
        if logits.is_empty() || logits.iter().any(|x| !x.is_finite()) {
            return None;
        }
        let row = |row: &[f32]| {
            let highest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            row.iter().map(|x| f64::from(x - highest).exp()).collect::<Vec<f64>>()
        };
        let rows: Vec<Vec<f64>> = logits.chunks_exact(classes).map(row).collect();
        let blank = rows.iter().map(|row| blanks.iter().map(|&class| row[class]).sum()).collect();
        Some(Self { rows, blank, phones })
    }

    /// Mean entropy of the classes, nats.
    fn entropy(&self) -> f32 {
        let entropy = |row: &Vec<f64>| {
            let sum = row.iter().sum::<f64>();
            // Σ r ln r, where 0 ln 0 = 0.
            sum.ln() - row.iter().map(|&r| r * r.max(f64::MIN_POSITIVE).ln()).sum::<f64>() / sum
        };
        (self.rows.iter().map(entropy).sum::<f64>() / self.rows.len() as f64) as f32
    }

    /// The likelihood of state `state` of `phones` in frame `t`: states are blank, phone 0, blank, phone 1, …, blank.
    fn emission(&self, t: usize, state: usize, phones: &[usize]) -> f64 {
        if state.is_multiple_of(2) { self.blank[t] } else { self.rows[t][phones[state / 2]] }
    }

    /// Whether a path may go from the phone two states back to `state` without a blank.
    fn may_skip(state: usize, phones: &[usize]) -> bool {
        state >= 3 && state % 2 == 1 && phones[state / 2] != phones[state / 2 - 1]
    }

    /// The likelihood of all paths that start and are in each state at each frame, `[frames][states]`.
    fn forward(&self, phones: &[usize]) -> Vec<Vec<f64>> {
        let states = 2 * phones.len() + 1;
        let mut alpha = vec![vec![0.0; states]; self.rows.len()];
        for t in 0..self.rows.len() {
            for state in 0..states {
                let from = match t.checked_sub(1).map(|before| &alpha[before]) {
                    None => f64::from(u8::from(state < 2)),
                    Some(before) => {
                        let skip = if Self::may_skip(state, phones) { before[state - 2] } else { 0.0 };
                        before[state] + state.checked_sub(1).map_or(0.0, |previous| before[previous]) + skip
                    }
                };
                alpha[t][state] = from * self.emission(t, state, phones);
            }
        }
        alpha
    }

    /// The likelihood of all paths from each state at each frame to the end, without that frame, `[frames][states]`.
    fn backward(&self, phones: &[usize]) -> Vec<Vec<f64>> {
        let states = 2 * phones.len() + 1;
        let mut beta = vec![vec![0.0; states]; self.rows.len()];
        for t in (0..self.rows.len()).rev() {
            for state in 0..states {
                beta[t][state] = if t + 1 == self.rows.len() {
                    f64::from(u8::from(state + 2 >= states))
                } else {
                    let to = |next: usize| self.emission(t + 1, next, phones) * beta[t + 1][next];
                    let skip = if state + 2 < states && Self::may_skip(state + 2, phones) { to(state + 2) } else { 0.0 };
                    to(state) + if state + 1 < states { to(state + 1) } else { 0.0 } + skip
                };
            }
        }
        beta
    }

    /// P(phones | frames), summed over all alignments (the CTC forward algorithm).
    fn likelihood(&self, phones: &[usize]) -> f64 {
        let alpha = self.forward(phones);
        alpha.last().map_or(0.0, |last| last.iter().rev().take(2).sum())
    }

    /// The highest likelihood of `phones` with one phone replaced, left out, or inserted between two others; what precedes and follows the
    /// phrase does not count.
    fn likeliest_edit(&self, phones: &[usize]) -> f64 {
        let (alpha, beta) = (self.forward(phones), self.backward(phones));
        let mut highest = 0.0f64;
        for at in 0..phones.len() {
            let left_out: Vec<usize> = [&phones[..at], &phones[at + 1..]].concat();
            highest = highest.max(self.likelihood(&left_out));
            for &class in self.phones.iter().filter(|class| **class != phones[at]) {
                highest = highest.max(self.with_replacement(phones, at, class, &alpha, &beta));
            }
            for &class in self.phones.iter().filter(|_| at > 0) {
                highest = highest.max(self.with_insertion(phones, at, class, &alpha, &beta));
            }
        }
        highest
    }

    /// The likelihood with phone `at` replaced by `class`. Every path enters and leaves its state once, so the rest comes from `alpha` and `beta`.
    fn with_replacement(&self, phones: &[usize], at: usize, class: usize, alpha: &[Vec<f64>], beta: &[Vec<f64>]) -> f64 {
        let (state, frames) = (2 * at + 1, self.rows.len());
        let after_other = at > 0 && phones[at - 1] != class;
        let before_other = at + 1 < phones.len() && phones[at + 1] != class;
        let (mut inside, mut total) = (0.0, 0.0);
        for t in 0..frames {
            let entered = match t.checked_sub(1).map(|before| &alpha[before]) {
                None => f64::from(u8::from(at == 0)),
                Some(before) => before[state - 1] + if after_other { before[state - 2] } else { 0.0 },
            };
            inside = (inside + entered) * self.rows[t][class];
            let left = if t + 1 == frames {
                f64::from(u8::from(at + 1 == phones.len()))
            } else {
                let to = |next: usize| self.emission(t + 1, next, phones) * beta[t + 1][next];
                to(state + 1) + if before_other { to(state + 2) } else { 0.0 }
            };
            total += inside * left;
        }
        total
    }

    /// The likelihood with `class` inserted before phone `at`, which is not the first: its state comes after the blank between the two
    /// phones, and another such blank follows it.
    fn with_insertion(&self, phones: &[usize], at: usize, class: usize, alpha: &[Vec<f64>], beta: &[Vec<f64>]) -> f64 {
        let blank = 2 * at;
        let (mut inside, mut total) = (0.0, 0.0);
        for t in 1..self.rows.len().saturating_sub(1) {
            let from = |state: usize| alpha[t - 1][state];
            let entered = from(blank) + if phones[at - 1] != class { from(blank - 1) } else { 0.0 };
            inside = (inside + entered) * self.rows[t][class];
            let to = |next: usize| self.emission(t + 1, next, phones) * beta[t + 1][next];
            total += inside * (to(blank) + if phones[at] != class { to(blank + 1) } else { 0.0 });
        }
        total
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vocabulary() -> Vec<String> {
        ["<blank>", "<wb>", "a", "b", "c"].map(str::to_owned).to_vec()
    }

    /// Logits of frames in which each letter, or `-` for a blank, is `sure` nats above the others.
    fn logits(letters: &str, sure: f32) -> Vec<f32> {
        let class = |letter: char| "-|abc".find(letter).unwrap_or(0);
        letters.chars().flat_map(|letter| (0..5).map(move |k| if k == class(letter) { sure } else { 0.0 })).collect()
    }

    fn phones(phrase: &str, near: &[&str]) -> Phones {
        let split = |text: &str| text.chars().map(String::from).collect::<Vec<_>>();
        Phones { phrase: vec![split(phrase)], near: near.iter().map(|near| split(near)).collect() }
    }

    #[test]
    fn the_likelihood_is_the_sum_over_all_alignments() {
        let (logits, vocabulary) = (logits("a-bb", 2.0), vocabulary());
        let frames = Frames::new(&logits, vocabulary.len(), &[0, 1]).unwrap();
        // Every labelling of four frames whose repetitions and blanks collapse to "ab".
        let mut expected = 0.0;
        for labels in (0..5usize.pow(4)).map(|n| [n % 5, n / 5 % 5, n / 25 % 5, n / 125]) {
            let mut collapsed: Vec<usize> = labels.iter().map(|&label| if label == 1 { 0 } else { label }).collect();
            collapsed.dedup();
            collapsed.retain(|label| *label != 0);
            if collapsed == [2, 3] {
                expected += labels.iter().zip(&frames.rows).map(|(label, row)| row[*label]).product::<f64>();
            }
        }
        let found = frames.likelihood(&[2, 3]);
        assert!((found / expected - 1.0).abs() < 1e-9, "{found} {expected}");
    }

    #[test]
    fn the_likeliest_edit_is_that_of_all_edited_sequences() {
        let (logits, vocabulary) = (logits("aab-bcca-ac", 1.5), vocabulary());
        let frames = Frames::new(&logits, vocabulary.len(), &[0, 1]).unwrap();
        for phrase in [vec![2, 3, 3, 4, 2], vec![4], vec![2, 2], vec![3, 4, 2, 2, 4]] {
            let mut expected = 0.0f64;
            for at in 0..phrase.len() {
                let mut edited = phrase.clone();
                for class in (2..5).filter(|class| *class != phrase[at]) {
                    edited[at] = class;
                    expected = expected.max(frames.likelihood(&edited));
                }
                edited.remove(at);
                expected = expected.max(frames.likelihood(&edited));
                for class in (2..5).filter(|_| at > 0) {
                    expected = expected.max(frames.likelihood(&[&phrase[..at], &[class], &phrase[at..]].concat()));
                }
            }
            let found = frames.likeliest_edit(&phrase);
            assert!((found / expected - 1.0).abs() < 1e-9, "{phrase:?}: {found} {expected}");
        }
    }

    #[test]
    fn one_wrong_phone_lowers_the_ratio_of_a_long_phrase() {
        let (phones, vocabulary) = (phones("abcabc", &[]), vocabulary());
        let ratio = |said: &str| phones.ratios(&phones.phrase[0], &logits(said, 4.0), &vocabulary).unwrap().to_edits;
        assert!(ratio("aa-bb-cc-aa-bb-cc") > 2.0);
        assert!(ratio("aa-bb-cc-cc-bb-cc") < -4.0);
        assert!(ratio("aa-bb-cc----bb-cc") < -1.0, "a phone left out");
        assert!(ratio("aa-bb-cc-aa-bb-aa-cc") < -1.0, "a phone inserted");
        assert!(ratio("bb-aa-bb-cc-aa-bb-cc-aa") > -1.0, "phones before and after");
    }

    #[test]
    fn the_factor_falls_with_one_wrong_phone_and_for_near_phrases() {
        let vocabulary = vocabulary();
        let factor = |phones: &Phones, said: &str, sure: f32| phones.factor(&logits(said, sure), &vocabulary);
        let alone = phones("abc", &[]);
        assert_eq!(factor(&alone, "aa-bb-cc", 4.0), 1.0);
        assert!(factor(&alone, "aa-bb-aa", 6.0) < 0.1);
        // A near-phrase that differs in two phones.
        let near = phones("abcabc", &["abcbac"]);
        assert!(factor(&near, "a-b-c-b-a-c", 6.0) < 0.5 * factor(&phones("abcabc", &[]), "a-b-c-b-a-c", 6.0));
        assert_eq!(factor(&near, "a-b-c-a-b-c", 6.0), 1.0);
    }

    #[test]
    fn in_unclear_audio_the_factor_is_lower() {
        let (vocabulary, phones) = (vocabulary(), phones("abc", &[]));
        let unclear = logits("aaa-bbb-ccc", 1.2);
        let frames = Frames::new(&unclear, vocabulary.len(), &[0, 1]).unwrap();
        // One class of five is 1.2 nats likelier than the others.
        let (sure, other) = (1.2f32.exp() / (4.0 + 1.2f32.exp()), 1.0 / (4.0 + 1.2f32.exp()));
        assert!((frames.entropy() + sure * sure.ln() + 4.0 * other * other.ln()).abs() < 1e-5, "{}", frames.entropy());
        assert!((phones.factor(&unclear, &vocabulary) - (CLEAR - frames.entropy()).exp()).abs() < 1e-5);
        assert_eq!(phones.factor(&logits("aaa-bbb-ccc", 9.0), &vocabulary), 1.0);
    }

    #[test]
    fn in_a_voice_that_is_recognised_badly_the_limit_is_lower() {
        let (vocabulary, phones) = (vocabulary(), phones("abcabc", &[]));
        let ratios = |said: &str| phones.ratios(&phones.phrase[0], &logits(said, 6.0), &vocabulary).unwrap();
        // One edit explains the first one; three would be needed for the second.
        let (one, three) = (ratios("a-b-b-a-b-c"), ratios("a-b-b-b-b-b"));
        assert!(one.cost < 1.0 && three.cost > 8.0, "{} {}", one.cost, three.cost);
        assert!(
            phones.factor(&logits("a-b-b-b-b-b", 6.0), &vocabulary) > phones.factor(&logits("a-b-b-a-b-c", 6.0), &vocabulary)
        );
    }

    #[test]
    fn of_several_pronunciations_the_best_one_counts() {
        let (vocabulary, mut phones) = (vocabulary(), phones("abc", &[]));
        let said = logits("a-b-a", 6.0);
        assert!(phones.factor(&said, &vocabulary) < 0.5);
        phones.phrase.push(["a", "b", "a"].map(String::from).to_vec());
        assert_eq!(phones.factor(&said, &vocabulary), 1.0);
    }

    #[test]
    fn nothing_is_reduced_without_evidence() {
        let (alone, vocabulary) = (phones("abc", &[]), vocabulary());
        assert_eq!(alone.factor(&[], &vocabulary), 1.0);
        assert_eq!(alone.factor(&[f32::NAN; 50], &vocabulary), 1.0);
        assert_eq!(phones("xyz", &[]).factor(&logits("aabbcc", 4.0), &vocabulary), 1.0);
        assert_eq!(alone.factor(&[0.0; 12], &["x".into(), "y".into(), "z".into()]), 1.0, "a vocabulary without a blank");
    }
}
