//! A second look at what may be a keyword: its sound once more, through all layers.
//!
//! Chunks that stop early cost little, and full depth tells words of several voices apart better. A peak that would fire is seldom, so
//! the four or five seconds that end with it are computed again, to the last layer, and the keyword's score is the lower one of both
//! looks: only what the first look lets through is ever looked at again, and what a threshold lets through hardly depends on where
//! chunks stop.
//!
//! What a frame is at the second look depends on nothing but the stream: a pass begins with every fourth chunk, and a peak's sound is
//! that of the last pass that begins [`LEAD_SECONDS`] before it. A pass is computed when it is asked for, as far as it is asked for, and
//! the keywords of a stream share it: so second looks cost no more than a few times full depth, however many keywords there are and
//! whatever is said.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use super::template::{FrameBlock, LANES};
use crate::engine::{Encoder, EngineError, Frames};
use crate::exit::Fixed;
use crate::stream::{Representation, Session, SessionError, SessionOptions};

/// Sound before a peak that its pass hears, too, at the least: the attention of a layer looks back 1.28 s in the bundled packs, and what a
/// pass computes without it tells words of other voices apart less well.
const LEAD_SECONDS: f64 = 2.56;
/// From one pass to the next.
const PASS_CHUNKS: u64 = 4;
/// Passes that are kept; one more is computed anew when it is asked for again.
const PASSES: usize = 4;
/// How much sound is kept besides a pass: the longest span of the longest example, and what is around it.
const KEPT_SECONDS: f64 = 10.0;

/// The last seconds of a stream, and what computes them again.
pub struct SecondLook {
    encoder: Arc<Encoder>,
    chunk_frames: usize,
    hop: usize,
    lead: u64,
    kept: u64,
    /// From frame `first` on, up to the end of what the last one sees.
    sound: Vec<f32>,
    first: u64,
    /// Frames so far.
    frames: u64,
    /// Where the present stretch without a hole began.
    origin: u64,
    passes: VecDeque<Pass>,
}

/// A stretch of the stream at full depth.
struct Pass {
    session: Session,
    /// The frame that it begins with.
    began: u64,
    /// The sample after the last one that it has heard.
    heard: u64,
    /// The vectors so far, `[frames, width]`.
    rows: Vec<f32>,
    width: usize,
}

impl SecondLook {
    /// At the start of a stream in chunks of `chunk_frames` frames.
    ///
    /// # Errors
    ///
    /// For a pack without keyword embeddings.
    pub fn new(encoder: &Arc<Encoder>, chunk_frames: usize) -> Result<Self, EngineError> {
        encoder.check_embedding()?;
        let hop = encoder.audio().hop;
        let frames = |seconds: f64| (seconds * f64::from(encoder.audio().sample_rate) / hop as f64) as u64;
        Ok(Self {
            encoder: encoder.clone(),
            chunk_frames,
            hop,
            lead: frames(LEAD_SECONDS),
            kept: frames(KEPT_SECONDS),
            sound: Vec::new(),
            first: 0,
            frames: 0,
            origin: 0,
            passes: VecDeque::new(),
        })
    }

    /// A stream begins, in chunks of `chunk_frames` frames: so that both looks have them cut at the same places.
    pub fn begin(&mut self, chunk_frames: usize) {
        self.chunk_frames = chunk_frames;
        self.reset();
    }

    /// The next chunk of the stream, with its sound.
    pub fn hear(&mut self, chunk: &Representation) {
        let frames = chunk.embedding.as_ref().map_or(0, Frames::frames);
        let own = chunk.audio.as_deref().unwrap_or_default();
        // In place of what the chunk before saw of it. The last frame of a stream may have less than a hop.
        self.sound.truncate((self.frames - self.first) as usize * self.hop);
        self.sound.extend(own.iter().chain(std::iter::repeat(&0.0)).take(frames * self.hop));
        self.sound.extend_from_slice(chunk.lookahead.as_deref().unwrap_or_default());
        self.frames += frames as u64;
        // Seldom, and not with every chunk: what is kept moves to the front.
        let kept = self.kept + self.pass_frames();
        if self.frames - self.first > 2 * kept {
            let old = self.frames - self.first - kept;
            self.sound.drain(..old as usize * self.hop);
            self.first += old;
            self.passes.retain(|pass| pass.began >= self.first);
        }
    }

    /// The stream has a hole here.
    pub fn reset(&mut self) {
        self.sound.clear();
        self.passes.clear();
        (self.first, self.origin) = (self.frames, self.frames);
    }

    /// The frames `start` to `end` at full depth, and those before them that their pass has, block by block, each with the number of its
    /// first frame.
    pub(super) fn again(&mut self, start: u64, end: u64, each: impl FnMut(u64, &FrameBlock)) -> Result<(), SessionError> {
        let (from, oldest) = (start.saturating_sub(self.lead), self.first + self.pass_frames() - 1);
        let began = self.pass_at(from).max(self.pass_at(oldest));
        let kept = self.passes.iter().position(|pass| pass.began == began).and_then(|index| self.passes.remove(index));
        let mut pass = match kept {
            Some(pass) => pass,
            None => Pass::begin(&self.encoder, self.chunk_frames, began, began * self.hop as u64)?,
        };
        let known = ((pass.heard - self.first * self.hop as u64) as usize).min(self.sound.len());
        pass.hear(&self.sound[known..])?;
        // At its end no sound comes that the last frames could see.
        let over = pass.end() < end.min(self.frames);
        if over {
            pass.finish()?;
        }
        pass.blocks(from.max(began)..end, each);
        if !over {
            self.passes.truncate(PASSES - 1);
            self.passes.push_front(pass);
        }
        Ok(())
    }

    /// Where the pass begins that `frame` is in.
    fn pass_at(&self, frame: u64) -> u64 {
        self.origin + frame.saturating_sub(self.origin) / self.pass_frames() * self.pass_frames()
    }

    fn pass_frames(&self) -> u64 {
        PASS_CHUNKS * self.chunk_frames as u64
    }
}

impl Pass {
    fn begin(encoder: &Arc<Encoder>, chunk_frames: usize, frame: u64, sample: u64) -> Result<Self, EngineError> {
        let options = SessionOptions::default().chunk_frames(chunk_frames).embedding(true);
        let session = Session::new(encoder, Box::new(Fixed::new(encoder.layers())), options)?;
        Ok(Self { session, began: frame, heard: sample, rows: Vec::new(), width: 1 })
    }

    fn hear(&mut self, sound: &[f32]) -> Result<(), SessionError> {
        self.heard += sound.len() as u64;
        self.session.push(sound)?;
        self.compute()
    }

    fn finish(&mut self) -> Result<(), SessionError> {
        self.session.finish();
        self.compute()
    }

    fn compute(&mut self) -> Result<(), SessionError> {
        self.session.each(|chunk| {
            if let Some(vectors) = &chunk.embedding {
                self.width = vectors.dim();
                self.rows.extend_from_slice(vectors.as_slice());
            }
            Ok(())
        })
    }

    /// The frame after the last one that is known.
    fn end(&self) -> u64 {
        self.began + (self.rows.len() / self.width) as u64
    }

    /// What is known of `frames`, which begin no earlier than the pass.
    fn blocks(&self, frames: Range<u64>, mut each: impl FnMut(u64, &FrameBlock)) {
        let at = |frame: u64| (frame.clamp(self.began, self.end()) - self.began) as usize * self.width;
        let (mut number, mut block) = (frames.start, FrameBlock::default());
        for rows in self.rows[at(frames.start)..at(frames.end)].chunks(LANES * self.width) {
            block.fill(rows, self.width);
            each(number, &block);
            number += block.frames() as u64;
        }
    }
}
