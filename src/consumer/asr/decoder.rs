//! What both decoders give, and the choice between them.

use super::beam::Beam;
use super::greedy::Greedy;

/// The blank of every CTC vocabulary.
pub(super) const BLANK: usize = 0;

/// One decoded phone, in frames counted from the first one pushed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PhoneSpan {
    /// Class of the vocabulary.
    pub class: usize,
    /// First frame that says it.
    pub start: u64,
    /// The frame after the last one.
    pub end: u64,
    /// Mean probability of the class over these frames.
    pub confidence: f32,
}

/// A phone that may still go on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct OpenSpan {
    class: usize,
    pub start: u64,
    end: u64,
    sum: f64,
}

impl OpenSpan {
    /// A phone of one frame.
    pub fn new(class: usize, frame: u64, log_p: f32) -> Self {
        Self { class, start: frame, end: frame + 1, sum: f64::from(log_p).exp() }
    }

    /// One frame more.
    pub fn extend(&mut self, log_p: f32) {
        self.end += 1;
        self.sum += f64::from(log_p).exp();
    }

    pub fn class(&self) -> usize {
        self.class
    }

    pub fn close(self) -> PhoneSpan {
        let confidence = (self.sum / (self.end - self.start) as f64).min(1.0) as f32;
        PhoneSpan { class: self.class, start: self.start, end: self.end, confidence }
    }
}

/// Log-probabilities to phones, frame by frame. What was given out is never taken back.
#[derive(Debug, Clone)]
pub enum Decoder {
    /// The likeliest class of each frame; repeats are one, blanks are dropped.
    Greedy(Greedy),
    /// The likeliest phones, summed over their alignments, among the best few prefixes.
    Beam(Beam),
}

impl Decoder {
    /// Greedy without a width, a prefix beam with one.
    pub fn new(width: Option<usize>) -> Self {
        width.map_or_else(|| Self::Greedy(Greedy::default()), |width| Self::Beam(Beam::new(width)))
    }

    /// One frame's log-probabilities `[vocabulary]`; phones that are certain now are appended to `out`.
    pub fn push(&mut self, log_p: &[f32], out: &mut Vec<PhoneSpan>) {
        match self {
            Self::Greedy(greedy) => greedy.push(log_p, out),
            Self::Beam(beam) => beam.push(log_p, out),
        }
    }

    /// Gives out what is left; the next frame begins anew.
    pub fn finish(&mut self, out: &mut Vec<PhoneSpan>) {
        match self {
            Self::Greedy(greedy) => greedy.finish(out),
            Self::Beam(beam) => beam.finish(out),
        }
    }

    /// The earliest frame that a phone not given out yet may start at.
    pub fn pending_since(&self) -> u64 {
        match self {
            Self::Greedy(greedy) => greedy.pending_since(),
            Self::Beam(beam) => beam.pending_since(),
        }
    }
}
