//! What consumers find in a stream, apart from the form in which they write it.

use serde::Serialize;

/// A detection of a keyword, or a near miss.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct KeywordHit {
    /// Whether it is a detection or a near miss.
    #[serde(rename = "event")]
    pub kind: HitKind,
    /// The keyword's name.
    pub keyword: String,
    /// Start, seconds.
    pub start: f64,
    /// End, seconds.
    pub end: f64,
    /// Score, 0 to 1.
    pub score: f64,
    /// The keyword's threshold.
    pub threshold: f64,
    /// First sample.
    pub sample: u64,
    /// Length in samples.
    pub samples: u64,
    /// Number of the example with the highest score, from 1; absent for keywords without recordings.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub example: Option<usize>,
    /// Seconds of audio between the end of the word and the report.
    pub delay: f64,
}

/// Kind of a [`KeywordHit`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum HitKind {
    /// The score reached the threshold.
    #[default]
    #[serde(rename = "keyword")]
    Detection,
    /// The score was below the threshold.
    NearMiss,
}

/// The highest score of each keyword in a chunk, before verification.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct KeywordScores {
    /// First sample of the chunk.
    pub sample: u64,
    /// One per keyword.
    pub scores: Vec<KeywordScore>,
}

/// Score of a keyword in a chunk.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct KeywordScore {
    /// The keyword's name.
    pub keyword: String,
    /// Highest score, 0 to 1.
    pub score: f32,
    /// The keyword's threshold.
    pub threshold: f32,
}

/// A phone that has become final.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Phone {
    /// The phone.
    pub phone: String,
    /// Start, seconds.
    pub start: f64,
    /// End, seconds.
    pub end: f64,
    /// First sample.
    pub sample: u64,
    /// Length in samples.
    pub samples: u64,
    /// Mean probability.
    pub confidence: f64,
    /// Exit layer of the chunk in which it starts.
    pub layer: usize,
    /// Whether a word begins with it, in vocabularies with word boundaries.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub word_begins: bool,
}
