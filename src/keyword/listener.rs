//! One keyword in recordings, both looks.

use super::second_look::SecondLook;
use super::spotter::{Hit, Search, Spotter, SpotterOptions};
use super::template::{FrameBlock, LANES};
use crate::stream::{Representation, SessionError};

/// Looks for one keyword in recordings that are streamed one after the other.
pub struct Listener {
    spotter: Spotter,
    second: SecondLook,
    block: FrameBlock,
}

impl Listener {
    /// At the start of a recording.
    pub fn new(search: impl Into<Search>, options: SpotterOptions, second: SecondLook) -> Self {
        Self { spotter: Spotter::new(search, options), second, block: FrameBlock::default() }
    }

    /// The next chunk, with its sound and what keywords are matched in; `told` hears each peak.
    ///
    /// # Errors
    ///
    /// A detector's graph or a layer that cannot be run.
    pub fn hear(&mut self, chunk: &Representation, mut told: impl FnMut(Hit)) -> Result<(), SessionError> {
        let Some(vectors) = &chunk.embedding else { return Ok(()) };
        self.second.hear(chunk);
        for rows in vectors.as_slice().chunks(LANES * vectors.dim()) {
            self.block.fill(rows, vectors.dim());
            self.spotter.step(&self.block, Some(&mut self.second), |_, hit| told(hit))?;
        }
        Ok(())
    }

    /// The recording ends here: the peak that stands, if there is one.
    ///
    /// # Errors
    ///
    /// A layer that cannot be run.
    pub fn end(&mut self) -> Result<Option<Hit>, SessionError> {
        let told = self.spotter.reset(Some(&mut self.second));
        self.second.reset();
        told
    }

    /// From here on, the least score of a near miss.
    pub(super) fn set_near_miss(&mut self, score: f32) {
        self.spotter.set_near_miss(score);
    }
}
