//! The choice between the two decoders.

use super::beam::Beam;
use super::greedy::Greedy;
use super::phone::PhoneSpan;

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
