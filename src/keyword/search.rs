//! The search for one keyword in recordings, with the verification pass.

use super::matcher::Matcher;
use super::spotter::{Hit, Spotter, SpotterOptions};
use super::template::{FrameBlock, LANES};
use super::verification::Verifier;
use crate::stream::{Representation, SessionError};

/// Searches recordings, one after the other, for one keyword.
pub struct VerifiedSearch {
    spotter: Spotter,
    verifier: Verifier,
    block: FrameBlock,
}

impl VerifiedSearch {
    /// At the start of a recording.
    pub fn new(matcher: impl Into<Matcher>, options: SpotterOptions, verifier: Verifier) -> Self {
        Self { spotter: Spotter::new(matcher, options), verifier, block: FrameBlock::default() }
    }

    /// Processes the next chunk, which must have its audio and keyword embeddings; `on_hit` receives each peak.
    ///
    /// # Errors
    ///
    /// A layer that cannot be run.
    pub fn push(&mut self, chunk: &Representation, mut on_hit: impl FnMut(Hit)) -> Result<(), SessionError> {
        let Some(vectors) = &chunk.embedding else { return Ok(()) };
        self.verifier.push(chunk);
        for rows in vectors.as_slice().chunks(LANES * vectors.dim()) {
            self.block.fill(rows, vectors.dim());
            self.spotter.step(&self.block, Some(&mut self.verifier), |_, hit| on_hit(hit))?;
        }
        Ok(())
    }

    /// Ends the recording; returns the pending peak, if there is one.
    ///
    /// # Errors
    ///
    /// A layer that cannot be run.
    pub fn end(&mut self) -> Result<Option<Hit>, SessionError> {
        let pending = self.spotter.reset(Some(&mut self.verifier));
        self.verifier.reset();
        pending
    }

    /// Changes the least score of a near miss.
    pub(super) fn set_near_miss(&mut self, score: f32) {
        self.spotter.set_near_miss(score);
    }
}
