//! What users say about reports of a keyword, and the threshold that agrees with it.

use serde::{Deserialize, Serialize};

/// Distance between a score and the threshold that separates it.
const MARGIN: f32 = 0.005;
/// Number of scores of each kind that are kept.
const KEPT: usize = 32;

/// Scores that a user has labelled, the oldest first.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Feedback {
    /// Of detections of something else.
    #[serde(default)]
    pub false_accepts: Vec<f32>,
    /// Of utterances of the phrase.
    #[serde(default)]
    pub utterances: Vec<f32>,
    /// The threshold without them, if it was given as a number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub given: Option<f32>,
}

/// What a score belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Label {
    /// Something else than the phrase.
    FalseAccept,
    /// The phrase.
    Utterance,
}

impl Feedback {
    /// Whether nothing has been labelled.
    pub fn is_empty(&self) -> bool {
        self.false_accepts.is_empty() && self.utterances.is_empty()
    }

    /// Forgets all scores.
    pub fn forget(&mut self) {
        self.false_accepts.clear();
        self.utterances.clear();
    }

    /// Adds a score, 0 to 1. The 32 latest of each kind count.
    pub fn add(&mut self, label: Label, score: f32) {
        let scores = match label {
            Label::FalseAccept => &mut self.false_accepts,
            Label::Utterance => &mut self.utterances,
        };
        scores.push(score);
        scores.drain(..scores.len().saturating_sub(KEPT));
    }

    /// How many labels a threshold contradicts.
    pub fn contradicted(&self, threshold: f32) -> usize {
        let accepted = self.false_accepts.iter().filter(|score| **score >= threshold).count();
        accepted + self.utterances.iter().filter(|score| **score < threshold).count()
    }

    /// The threshold in a range that contradicts the fewest labels; of several, the one nearest to `threshold`.
    pub(super) fn adjust(&self, threshold: f32, (least, most): (f32, f32)) -> f32 {
        let above = self.false_accepts.iter().map(|score| score + MARGIN);
        let below = self.utterances.iter().map(|score| score - MARGIN);
        let moved = above.chain(below).map(|candidate| candidate.clamp(least, most));
        let cost = |candidate: f32| (self.contradicted(candidate), (candidate - threshold).abs());
        moved.fold(threshold, |best, candidate| if cost(candidate) < cost(best) { candidate } else { best })
    }

    /// Whether all scores are from 0 to 1, and not too many.
    pub(super) fn is_valid(&self) -> bool {
        let valid = |scores: &[f32]| scores.len() <= KEPT && scores.iter().all(|score| (0.0..=1.0).contains(score));
        valid(&self.false_accepts) && valid(&self.utterances) && self.given.is_none_or(|given| (0.0..=1.0).contains(&given))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RANGE: (f32, f32) = (0.2, 0.7);

    fn feedback(false_accepts: &[f32], utterances: &[f32]) -> Feedback {
        Feedback { false_accepts: false_accepts.to_vec(), utterances: utterances.to_vec(), given: None }
    }

    #[test]
    fn the_threshold_moves_no_further_than_labels_require() {
        assert_eq!(Feedback::default().adjust(0.4, RANGE), 0.4);
        assert_eq!(feedback(&[0.3], &[0.5]).adjust(0.4, RANGE), 0.4, "labels that agree change nothing");
        assert_eq!(feedback(&[0.45, 0.42], &[]).adjust(0.4, RANGE), 0.45 + MARGIN);
        assert_eq!(feedback(&[], &[0.35, 0.5]).adjust(0.4, RANGE), 0.35 - MARGIN);
        // Not both can be met: the nearest threshold with one contradiction is the present one.
        assert_eq!(feedback(&[0.45], &[0.43]).adjust(0.4, RANGE), 0.4);
        // Two against one.
        assert_eq!(feedback(&[0.45], &[0.35, 0.37]).adjust(0.4, RANGE), 0.35 - MARGIN);
    }

    #[test]
    fn the_threshold_stays_in_its_range() {
        assert_eq!(feedback(&[0.9], &[]).adjust(0.4, RANGE), 0.4, "out of reach, so not worth a move");
        assert_eq!(feedback(&[0.699], &[]).adjust(0.4, RANGE), 0.7);
        assert_eq!(feedback(&[], &[0.1]).adjust(0.4, RANGE), 0.4);
    }

    #[test]
    fn the_latest_labels_count() {
        let mut labels = Feedback::default();
        for index in 0..KEPT + 8 {
            labels.add(Label::Utterance, index as f32 / 100.0);
        }
        assert_eq!((labels.utterances.len(), labels.utterances[0]), (KEPT, 0.08));
        assert!(labels.is_valid());
    }
}
