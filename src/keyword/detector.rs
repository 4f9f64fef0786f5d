//! A trained detector: a small graph that scores the last frames of a stream, for words with many examples.
//!
//! It reads what the matcher reads, a vector of length 1 of each frame (see [`super::template`]), so that it takes chunks from every exit as well.
//! `models/keywords/train.py` makes one.

use super::template::{FrameBlock, LANES};
use crate::engine::{EngineError, Scorer, ScorerState};

/// Frames from one look to the next.
const HOP: u64 = 4;

/// One detector in one stream.
#[derive(Debug)]
pub struct Detector {
    scorer: Scorer,
    state: ScorerState,
    /// The last frames, oldest first: `[window, units]`; zeros before the stream.
    frames: Vec<f32>,
}

impl Detector {
    /// Listens from the start of a stream.
    pub fn new(scorer: &Scorer) -> Result<Self, EngineError> {
        let frames = vec![0.0; scorer.window() * scorer.width()];
        Ok(Self { state: scorer.state()?, scorer: scorer.clone(), frames })
    }

    /// Frames that it looks at.
    pub fn window(&self) -> usize {
        self.scorer.window()
    }

    /// Forgets the stream so far.
    pub fn reset(&mut self) {
        self.frames.fill(0.0);
    }

    /// Takes the frames of `block`, the first of which has number `first`: the probability that the word ends about each of them, 0 where
    /// it did not look.
    pub fn step(&mut self, block: &FrameBlock, first: u64) -> Result<[f32; LANES], EngineError> {
        let mut probabilities = [0.0; LANES];
        let (width, kept) = (self.scorer.width(), self.frames.len() - self.scorer.width());
        for (number, (vector, probability)) in (first + 1..).zip(block.vectors().chunks_exact(width).zip(&mut probabilities)) {
            self.frames.copy_within(width.., 0);
            self.frames[kept..].copy_from_slice(vector);
            if number.is_multiple_of(HOP) {
                let logit = self.state.logit(&self.frames)?;
                // What is no number is no detection.
                *probability = if logit.is_nan() { 0.0 } else { (1.0 + (-logit).exp()).recip() };
            }
        }
        Ok(probabilities)
    }
}
