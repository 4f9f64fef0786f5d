//! The keyword embeddings of a whole recording, computed by a session.

use std::sync::Arc;

use super::template::{FrameBlock, blocks};
use crate::engine::Encoder;
use crate::exit::ExitPolicy;
use crate::stream::{Session, SessionError, SessionOptions};

/// The keyword embeddings of a recording, `[frames, width]`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Track {
    vectors: Vec<f32>,
    width: usize,
    /// Probability of silence of each frame; empty for a pack without a quiet unit.
    quiet: Vec<f32>,
    /// Logits of the CTC branches, `[frames, classes]`; empty for a pack without them.
    logits: Vec<f32>,
}

impl Track {
    /// Processes `audio`, at the pack's rate, with `encoder` in chunks of `chunk_frames` frames.
    pub fn of(
        audio: &[f32],
        encoder: &Arc<Encoder>,
        policy: Box<dyn ExitPolicy>,
        chunk_frames: usize,
    ) -> Result<Self, SessionError> {
        let quiet_unit = encoder.quiet_unit();
        let options = SessionOptions::default().chunk_frames(chunk_frames).embedding(true).posteriors(quiet_unit.is_some());
        let options = options.ctc(encoder.has_ctc(encoder.layers()));
        let mut session = Session::new(encoder, policy, options)?;
        session.push(audio)?;
        session.finish();
        let mut track = Self::default();
        session.each(|chunk| {
            let Some(vectors) = &chunk.embedding else { return Ok(()) };
            track.width = vectors.dim();
            track.vectors.extend_from_slice(vectors.as_slice());
            if let Some(logits) = &chunk.ctc_logits {
                track.logits.extend_from_slice(logits.as_slice());
            }
            if let (Some(unit), Some(log_posteriors)) = (quiet_unit, &chunk.log_posteriors) {
                track.quiet.extend((0..log_posteriors.frames()).map(|t| log_posteriors.row(t)[unit].exp()));
            }
            Ok::<_, SessionError>(())
        })?;
        Ok(track)
    }

    /// The mean of several tracks of the same audio, each with the number of its first frame that counts.
    pub(super) fn mean(tracks: &[(usize, Self)]) -> Self {
        let Some(width) = tracks.first().map(|(_, track)| track.width) else { return Self::default() };
        let mean = |of: &dyn Fn(&(usize, Self)) -> &[f32]| {
            let count = tracks.iter().map(|track| of(track).len()).max().unwrap_or(0);
            let mut mean = vec![0.0; count];
            for track in tracks {
                mean.iter_mut().zip(of(track)).for_each(|(mean, x)| *mean += x / tracks.len() as f32);
            }
            mean
        };
        Self {
            vectors: mean(&|(first, track)| &track.vectors[(first * width).min(track.vectors.len())..]),
            width,
            quiet: mean(&|(first, track)| &track.quiet[(*first).min(track.quiet.len())..]),
            // CTC places a phone in one of several frames, so a mean over boundaries would blur it.
            logits: tracks[0].1.logits.clone(),
        }
    }

    /// The vectors of `frames`.
    pub fn rows(&self, frames: std::ops::Range<usize>) -> &[f32] {
        &self.vectors[frames.start * self.width..frames.end * self.width]
    }

    /// The logits of the CTC branches, `[frames, classes]`; empty for a pack without them.
    pub(super) fn logits(&self) -> &[f32] {
        &self.logits
    }

    /// Dimensions of a vector.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Number of frames.
    pub fn frames(&self) -> usize {
        self.vectors.len() / self.width.max(1)
    }

    /// Probability of silence in frame `t`; 0 for a pack without a quiet unit.
    pub(super) fn quiet(&self, t: usize) -> f32 {
        self.quiet.get(t).copied().unwrap_or(0.0)
    }

    /// All frames, in blocks of up to [`LANES`](super::template::LANES).
    pub fn blocks<E>(&self, each: impl FnMut(&FrameBlock) -> Result<(), E>) -> Result<(), E> {
        blocks(&mut FrameBlock::default(), (&self.vectors, self.width), &[], each)
    }
}
