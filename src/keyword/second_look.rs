//! A second look at what may be a keyword: its sound once more, through all layers.
//!
//! Chunks that stop early cost little, and full depth tells words of several voices apart better. A peak that would fire is seldom, so its
//! second or two of sound are computed again, to the last layer, and the keyword's score is the lower one of both looks. So only what the first look
//! lets through is ever looked at again, and a threshold holds for any policy.

use std::sync::Arc;

use super::frames::FrameStream;
use super::template::FrameBlock;
use crate::engine::{Encoder, EngineError};
use crate::exit::Fixed;

/// Sound before the peak that the encoder hears, too.
const LEAD_SECONDS: f64 = 0.64;
/// How much sound is kept: the longest span of the longest example, and what is around it.
const KEPT_SECONDS: f64 = 8.0;

/// The last seconds of a stream, and what computes them again.
pub struct SecondLook {
    encoder: Arc<Encoder>,
    chunk_frames: usize,
    hop: usize,
    lead: u64,
    kept: usize,
    sound: Vec<f32>,
    /// Frames so far; the last of them end with the sound.
    frames: u64,
}

impl SecondLook {
    /// At the start of a stream, in chunks of `chunk_frames` frames.
    ///
    /// # Errors
    ///
    /// For a pack without matching vectors, or one that has no such chunks.
    pub fn new(encoder: &Arc<Encoder>, chunk_frames: usize) -> Result<Self, EngineError> {
        encoder.check_matching()?;
        encoder.check_chunk(chunk_frames)?;
        let hop = encoder.audio().hop;
        let frames = |seconds: f64| (seconds * f64::from(encoder.audio().sample_rate) / hop as f64) as u64;
        let (lead, kept) = (frames(LEAD_SECONDS), frames(KEPT_SECONDS) as usize * hop);
        Ok(Self { encoder: encoder.clone(), chunk_frames, hop, lead, kept, sound: Vec::new(), frames: 0 })
    }

    /// The next `frames` of the stream, and their sound; the last one of a stream may have less than a hop.
    pub fn hear(&mut self, frames: usize, sound: &[f32]) {
        let samples = frames * self.hop;
        // Seldom, and not with every chunk: what is kept moves to the front.
        if self.sound.len() + samples > 2 * self.kept {
            let old = self.sound.len().saturating_sub(self.kept);
            self.sound.drain(..old);
        }
        self.sound.extend(sound.iter().chain(std::iter::repeat(&0.0)).take(samples));
        self.frames += frames as u64;
    }

    /// The stream has a hole here.
    pub fn reset(&mut self) {
        self.sound.clear();
    }

    /// The frames `start` to `end` and some before them at full depth, block by block, each with the number of its first frame.
    pub(super) fn again(&self, start: u64, end: u64, mut each: impl FnMut(u64, &FrameBlock)) -> Result<(), EngineError> {
        let kept = (self.sound.len().min(self.kept) / self.hop) as u64;
        let oldest = self.frames - kept;
        let (first, end) = (start.saturating_sub(self.lead).max(oldest), end.min(self.frames));
        let held = self.frames - (self.sound.len() / self.hop) as u64;
        let at = |frame: u64| (frame.saturating_sub(held)) as usize * self.hop;
        let policy = Box::new(Fixed { layer: self.encoder.layers() });
        let mut stream = FrameStream::new(&self.encoder, policy, self.chunk_frames)?;
        let mut number = first;
        let mut each = |block: &FrameBlock, _: &[f32]| {
            each(number, block);
            number += block.frames() as u64;
            Ok::<_, EngineError>(())
        };
        stream.push(&self.sound[at(first)..at(end.max(first))], &mut each)?;
        stream.finish(&mut each)
    }
}
