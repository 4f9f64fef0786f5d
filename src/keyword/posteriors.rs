//! Sound through a session to the log-posteriors of its units, all of it at once: for examples and for background speech.

use std::sync::Arc;
use std::time::Duration;

use super::template::{FrameBlock, LANES};
use crate::engine::{Encoder, EngineError};
use crate::exit::ExitPolicy;
use crate::stream::{Session, SessionOptions};

/// Log-posteriors `[frames, units]` of a recording.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Posteriors {
    rows: Vec<f32>,
    units: usize,
}

impl Posteriors {
    /// Streams `audio`, at the pack's rate, through `encoder` in chunks of `chunk_frames` frames.
    pub fn of(
        audio: &[f32],
        encoder: &Arc<Encoder>,
        policy: Box<dyn ExitPolicy>,
        chunk_frames: usize,
    ) -> Result<Self, EngineError> {
        let options = SessionOptions { posteriors: true, ..SessionOptions::new(chunk_frames) };
        let mut session = Session::new(encoder, policy, options)?;
        session.push(audio);
        session.finish();
        let mut posteriors = Self { rows: Vec::new(), units: encoder.units() };
        while let Some(chunk) = session.next(Duration::ZERO)? {
            posteriors.rows.extend_from_slice(chunk.log_posteriors.as_ref().map_or(&[][..], |frames| frames.as_slice()));
        }
        Ok(posteriors)
    }

    /// Probabilities, frame after frame.
    pub(super) fn from_probabilities(mut rows: Vec<f32>, units: usize) -> Self {
        rows.iter_mut().for_each(|p| *p = p.ln());
        Self { rows, units }
    }

    /// Frame `t`.
    pub fn row(&self, t: usize) -> &[f32] {
        &self.rows[t * self.units..(t + 1) * self.units]
    }

    /// All rows.
    pub fn as_slice(&self) -> &[f32] {
        &self.rows
    }

    /// Number of units.
    pub fn units(&self) -> usize {
        self.units
    }

    /// Number of frames.
    pub fn frames(&self) -> usize {
        self.rows.len() / self.units.max(1)
    }

    /// Frame after frame.
    pub fn rows(&self) -> impl Iterator<Item = &[f32]> {
        self.rows.chunks_exact(self.units.max(1))
    }

    /// All frames, as templates read them, as many at a time as go together.
    pub fn blocks<E>(&self, mut each: impl FnMut(&FrameBlock) -> Result<(), E>) -> Result<(), E> {
        let mut block = FrameBlock::default();
        for rows in self.rows.chunks(LANES * self.units.max(1)) {
            block.clear();
            rows.chunks_exact(self.units.max(1)).for_each(|row| block.push(row));
            each(&block)?;
        }
        Ok(())
    }
}
