//! The search for one keyword in recordings, with the verification pass.

use super::matcher::Matcher;
use super::spotter::{Hit, Spotter, SpotterOptions};
use super::template::{FrameBlock, blocks};
use super::verification::Verifier;
use crate::engine::Frames;
use crate::stream::{Representation, SessionError, SessionOptions};

/// Options of a session whose chunks are searched for keywords: keyword embeddings, the audio that a verification pass processes
/// again and, for keywords from text, the logits of the CTC branch.
pub(super) fn searched(chunk_frames: usize, phones: bool) -> SessionOptions {
    SessionOptions::default().chunk_frames(chunk_frames).embedding(true).audio(true).ctc(phones)
}

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

    /// Of the sessions whose chunks are searched.
    pub fn session_options(&self, chunk_frames: usize) -> SessionOptions {
        searched(chunk_frames, self.spotter.reads_phones())
    }

    /// Processes the next chunk of a session with [`session_options`](Self::session_options); `on_hit` receives each peak.
    ///
    /// # Errors
    ///
    /// A layer that cannot be run.
    pub fn push(&mut self, chunk: &Representation, mut on_hit: impl FnMut(Hit)) -> Result<(), SessionError> {
        let Some(vectors) = &chunk.embedding else { return Ok(()) };
        self.verifier.push(chunk, 0..vectors.frames());
        let Self { spotter, verifier, block } = self;
        blocks(block, (vectors.as_slice(), vectors.dim()), chunk.ctc_logits.as_ref().map_or(&[], Frames::as_slice), |block| {
            spotter.step(block, Some(&mut *verifier), |_, hit| on_hit(hit))
        })
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

    /// Sets the factor of the scores from here on.
    pub(super) fn set_gain(&mut self, gain: f32) {
        self.spotter.set_gain(gain);
    }

    /// Changes the least score of a near miss.
    pub(super) fn set_near_miss(&mut self, score: f32) {
        self.spotter.set_near_miss(score);
    }
}
