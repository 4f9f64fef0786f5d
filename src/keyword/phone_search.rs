//! Search for the phones of a phrase in the logits of the CTC branches.
//!
//! A path visits the phones in order, with blanks between them (Viterbi algorithm of CTC). Each frame costs the log-probability of its class relative
//! to the likeliest one, so that a frame in which the phone is the likeliest class costs nothing, and a phrase that the branch reads exactly has
//! cost 0. A path may begin at any frame. Its score is exp(cost / number of phones): the geometric mean, per phone, of the likelihood relative to the
//! freest reading. Memory is constant, and a frame takes a few operations per phone.

/// Word boundaries count as blanks.
const BLANKS: [&str; 2] = ["<blank>", "<wb>"];
/// Longest match, frames per phone and in all: pauses between the words of a phrase included.
const LONGEST: (u32, u32) = (15, 250);

/// Classes of a vocabulary: the phones of a phrase, and the blanks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Classes {
    /// Of each phone.
    pub phrase: Vec<usize>,
    /// All blanks.
    pub blanks: Vec<usize>,
}

impl Classes {
    /// `None` without phones or blanks, or if a phone is not in the vocabulary.
    pub fn new(phrase: &[String], vocabulary: &[String]) -> Option<Self> {
        let class = |phone: &String| vocabulary.iter().position(|known| known == phone);
        let phrase: Vec<usize> = phrase.iter().map(class).collect::<Option<_>>()?;
        let blanks: Vec<usize> = (0..vocabulary.len()).filter(|&class| BLANKS.contains(&vocabulary[class].as_str())).collect();
        (!phrase.is_empty() && !blanks.is_empty()).then_some(Self { phrase, blanks })
    }
}

/// The search for one phrase in one stream, in all of its pronunciations.
#[derive(Debug, Clone)]
pub(super) struct PhoneSearch {
    pronunciations: Vec<Pronunciation>,
}

#[derive(Debug, Clone)]
struct Pronunciation {
    classes: Classes,
    /// Of the best path that is in each state: phone 0, blank, phone 1, …, the last phone.
    paths: Vec<Path>,
}

#[derive(Debug, Clone, Copy)]
struct Path {
    /// Sum of the relative log-probabilities.
    cost: f32,
    /// Length, frames.
    frames: u32,
}

const NONE: Path = Path { cost: f32::NEG_INFINITY, frames: 0 };

impl PhoneSearch {
    pub fn new(pronunciations: Vec<Classes>) -> Self {
        let one = |classes: Classes| Pronunciation { paths: vec![NONE; 2 * classes.phrase.len() - 1], classes };
        Self { pronunciations: pronunciations.into_iter().map(one).collect() }
    }

    /// Discards the stream so far.
    pub fn reset(&mut self) {
        self.pronunciations.iter_mut().for_each(|own| own.paths.fill(NONE));
    }

    /// Processes the logits of the next frame: score, 0 to 1, and length in frames of the best match that ends at it.
    pub fn step(&mut self, logits: &[f32]) -> (f32, u32) {
        let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        if !highest.is_finite() || logits.iter().any(|x| x.is_nan()) {
            self.reset();
            return (0.0, 0);
        }
        let found = self.pronunciations.iter_mut().map(|own| own.step(logits, highest));
        found.reduce(|best, one| if one.0 > best.0 { one } else { best }).unwrap_or_default()
    }
}

impl Pronunciation {
    fn step(&mut self, logits: &[f32], highest: f32) -> (f32, u32) {
        let Classes { phrase, blanks } = &self.classes;
        let blank = blanks.iter().map(|&class| (logits[class] - highest).exp()).sum::<f32>().ln();
        let likeliest = blank.max(0.0);
        let longest = (LONGEST.0 * phrase.len() as u32).min(LONGEST.1);
        // From the last state on, so that the states before are still those of the previous frame.
        for state in (0..self.paths.len()).rev() {
            let mut best = self.paths[state];
            let mut take = |path: Path| {
                if path.cost > best.cost {
                    best = path;
                }
            };
            match state {
                0 => take(Path { cost: 0.0, frames: 0 }),
                _ => take(self.paths[state - 1]),
            }
            let phone = state / 2;
            let gain = if state % 2 == 1 {
                blank
            } else {
                // Without a blank, unless both phones are the same.
                if phone > 0 && phrase[phone] != phrase[phone - 1] {
                    take(self.paths[state - 2]);
                }
                logits[phrase[phone]] - highest
            };
            let Path { cost, frames } = best;
            self.paths[state] = if frames < longest { Path { cost: cost + gain - likeliest, frames: frames + 1 } } else { NONE };
        }
        let Path { cost, frames } = self.paths[self.paths.len() - 1];
        ((cost / phrase.len() as f32).exp(), frames)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vocabulary() -> Vec<String> {
        ["<blank>", "<wb>", "a", "b", "c"].map(str::to_owned).to_vec()
    }

    /// The highest score of a phrase, and the length of its match, in frames whose likeliest class is each letter, or `-` for a blank, `sure` nats above
    /// the others.
    fn highest(phrase: &str, said: &str, sure: f32) -> (f32, u32) {
        let phrase: Vec<String> = phrase.chars().map(String::from).collect();
        let mut search = PhoneSearch::new(vec![Classes::new(&phrase, &vocabulary()).unwrap()]);
        let scores = said.chars().map(|letter| {
            let class = "-|abc".find(letter).unwrap();
            search.step(&std::array::from_fn::<f32, 5, _>(|k| if k == class { sure } else { 0.0 }))
        });
        scores.fold((0.0, 0), |best, found| if found.0 > best.0 { found } else { best })
    }

    #[test]
    fn a_phrase_that_is_read_exactly_scores_one() {
        for (said, length) in [("abc", 3), ("cc--a|b-c-b", 5), ("-a-b---c-", 7)] {
            let (score, frames) = highest("abc", said, 20.0);
            assert!(score > 0.999, "{said}: {score}");
            assert_eq!(frames, length, "{said}");
        }
        assert!(highest("abc", "aa-b--cc", 20.0).0 > 0.999 && highest("abc", "aabbcc", 20.0).0 > 0.999);
    }

    #[test]
    fn the_score_is_the_mean_cost_per_phone() {
        // One of three phones is `sure` nats below the likeliest class, in one frame.
        let (score, _) = highest("abc", "a-c-c", 6.0);
        assert!((score.ln() + 6.0 / 3.0).abs() < 0.01, "{score}");
        // The same phone twice needs a blank between.
        assert!(highest("abb", "a-b-b", 6.0).0 > 0.9 && highest("abb", "a-bb-", 6.0).0 < 0.2);
    }

    #[test]
    fn a_match_is_not_longer_than_its_phones_allow() {
        let pause = "-".repeat(60);
        assert!(highest("abc", &format!("ab{pause}c"), 20.0).0 < 0.1);
        assert!(highest("abc", &format!("{pause}abc"), 20.0).0 > 0.9);
    }

    #[test]
    fn frames_that_are_not_finite_end_all_paths() {
        let phrase = ["a".to_owned(), "b".to_owned()];
        let mut search = PhoneSearch::new(vec![Classes::new(&phrase, &vocabulary()).unwrap()]);
        let frame = |class: usize| std::array::from_fn::<f32, 5, _>(|k| if k == class { 20.0 } else { 0.0 });
        search.step(&frame(2));
        assert_eq!(search.step(&[f32::NAN; 5]), (0.0, 0));
        assert!(search.step(&frame(3)).0 < 0.1);
        assert_eq!(search.step(&[f32::INFINITY, 0.0, 0.0, 0.0, 0.0]), (0.0, 0));
    }

    #[test]
    fn a_phrase_needs_phones_and_blanks_of_the_vocabulary() {
        let phrase = |text: &str| text.chars().map(String::from).collect::<Vec<_>>();
        assert!(Classes::new(&phrase("ab"), &vocabulary()).is_some());
        assert!(Classes::new(&phrase("ax"), &vocabulary()).is_none() && Classes::new(&[], &vocabulary()).is_none());
        assert!(Classes::new(&phrase("ab"), &["a".into(), "b".into()]).is_none());
    }
}
