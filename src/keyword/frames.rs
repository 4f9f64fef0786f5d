//! A recording through a session to what keywords are matched in, in memory that does not grow with it.

use std::sync::Arc;
use std::time::Duration;

use super::second_look::Piece;
use super::template::FrameBlock;
use crate::engine::{Encoder, EngineError};
use crate::exit::ExitPolicy;
use crate::stream::{Session, SessionOptions};

/// One recording that is streamed: sound goes in, blocks of frames come out, each with its sound.
pub struct FrameStream {
    session: Session,
    block: FrameBlock,
}

impl FrameStream {
    /// In chunks of `chunk_frames` frames, which stop where `policy` says.
    pub fn new(encoder: &Arc<Encoder>, policy: Box<dyn ExitPolicy>, chunk_frames: usize) -> Result<Self, EngineError> {
        let options = SessionOptions { matching: true, audio: true, ..SessionOptions::new(chunk_frames) };
        Ok(Self { session: Session::new(encoder, policy, options)?, block: FrameBlock::default() })
    }

    /// Takes sound at the pack's rate; `each` gets the frames that it completes.
    pub fn push<E: From<EngineError>>(
        &mut self,
        audio: &[f32],
        each: impl FnMut(&FrameBlock, Piece<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        self.session.push(audio);
        self.take(each)
    }

    /// The recording ends here: the last frames.
    pub fn finish<E: From<EngineError>>(&mut self, each: impl FnMut(&FrameBlock, Piece<'_>) -> Result<(), E>) -> Result<(), E> {
        self.session.finish();
        self.take(each)
    }

    fn take<E: From<EngineError>>(&mut self, mut each: impl FnMut(&FrameBlock, Piece<'_>) -> Result<(), E>) -> Result<(), E> {
        while let Some(chunk) = self.session.next(Duration::ZERO)? {
            let Some(vectors) = &chunk.matching else { continue };
            let (mut sound, ahead) = (chunk.audio.as_deref().unwrap_or_default(), chunk.ahead.as_deref().unwrap_or_default());
            for t in 0..vectors.frames() {
                self.block.push(vectors.row(t));
                if self.block.is_full() || t + 1 == vectors.frames() {
                    let frames = self.block.frames();
                    // The last frame of a recording may have less than a hop.
                    let (own, rest) = sound.split_at((frames * chunk.hop_samples).min(sound.len()));
                    each(&self.block, Piece { frames, sound: own, ahead: if rest.is_empty() { ahead } else { rest } })?;
                    self.block.clear();
                    sound = rest;
                }
            }
        }
        Ok(())
    }
}
