//! Selection of the decoder.

use super::beam::Beam;
use super::greedy::Greedy;
use super::phone::PhoneSpan;

/// Decodes log-probabilities to phones, frame by frame. Its output is final.
#[derive(Debug, Clone)]
pub enum Decoder {
    /// The most probable class of each frame; repeats are merged, blanks removed.
    Greedy(Greedy),
    /// Prefix beam search: the most probable phones, summed over their alignments.
    Beam(Beam),
}

impl Decoder {
    /// Greedy decoding, or a prefix beam search of this width.
    pub fn new(width: Option<usize>) -> Self {
        width.map_or_else(|| Self::Greedy(Greedy::default()), |width| Self::Beam(Beam::new(width)))
    }

    /// Processes one frame's log-probabilities `[vocabulary]`; appends final phones to `out`.
    pub fn push(&mut self, log_p: &[f32], out: &mut Vec<PhoneSpan>) {
        match self {
            Self::Greedy(greedy) => greedy.push(log_p, out),
            Self::Beam(beam) => beam.push(log_p, out),
        }
    }

    /// Outputs the rest and resets.
    pub fn finish(&mut self, out: &mut Vec<PhoneSpan>) {
        match self {
            Self::Greedy(greedy) => greedy.finish(out),
            Self::Beam(beam) => beam.finish(out),
        }
    }

    /// The earliest possible start of a phone that was not output yet.
    pub fn pending_since(&self) -> u64 {
        match self {
            Self::Greedy(greedy) => greedy.pending_since(),
            Self::Beam(beam) => beam.pending_since(),
        }
    }
}
