//! A second look at what may be a keyword: its sound once more, through all layers.
//!
//! Chunks that stop early cost little, and full depth tells words of several voices apart better. A peak that would fire is seldom, so
//! its second or two of sound are computed again, to the last layer, and the keyword's score is the lower one of both looks: only what
//! the first look lets through is ever looked at again, and what a threshold lets through does not depend on where chunks stop.
//!
//! All keywords of a stream share what was computed, which goes on where it ended if the next peak is near: so a second look costs no
//! more than full depth itself, however many keywords there are and whatever is said.

use std::ops::Range;
use std::sync::Arc;

use super::template::{FrameBlock, LANES};
use crate::engine::{Encoder, EngineError, Frames};
use crate::exit::Fixed;
use crate::stream::{Representation, Session, SessionOptions};

/// Sound before a peak that the encoder hears, too.
const LEAD_SECONDS: f64 = 0.64;
/// How much is kept: the longest span of the longest example, and what is around it.
const KEPT_SECONDS: f64 = 8.0;

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
    deep: Option<Deep>,
}

/// What was computed at full depth.
struct Deep {
    session: Session,
    /// The frame that it began with.
    began: u64,
    /// The sample after the last one that it has heard.
    heard: u64,
    /// The frames whose vectors are known, and those: `[known, width]`.
    known: Range<u64>,
    rows: Vec<f32>,
}

impl SecondLook {
    /// At the start of a stream in chunks of `chunk_frames` frames.
    ///
    /// # Errors
    ///
    /// For a pack without matching vectors.
    pub fn new(encoder: &Arc<Encoder>, chunk_frames: usize) -> Result<Self, EngineError> {
        encoder.check_matching()?;
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
            deep: None,
        })
    }

    /// A stream begins, in chunks of `chunk_frames` frames: so that both looks have them cut at the same places.
    pub fn begin(&mut self, chunk_frames: usize) {
        self.chunk_frames = chunk_frames;
        self.reset();
    }

    /// The next chunk of the stream, with its sound.
    pub fn hear(&mut self, chunk: &Representation) {
        let frames = chunk.matching.as_ref().map_or(0, Frames::frames);
        let own = chunk.audio.as_deref().unwrap_or_default();
        // In place of what the chunk before saw of it. The last frame of a stream may have less than a hop.
        self.sound.truncate((self.frames - self.first) as usize * self.hop);
        self.sound.extend(own.iter().chain(std::iter::repeat(&0.0)).take(frames * self.hop));
        self.sound.extend_from_slice(chunk.ahead.as_deref().unwrap_or_default());
        self.frames += frames as u64;
        // Seldom, and not with every chunk: what is kept moves to the front.
        if self.frames - self.first > 2 * self.kept {
            let old = self.frames - self.first - self.kept;
            self.sound.drain(..old as usize * self.hop);
            self.first += old;
        }
    }

    /// The stream has a hole here.
    pub fn reset(&mut self) {
        self.sound.clear();
        self.deep = None;
        (self.first, self.origin) = (self.frames, self.frames);
    }

    /// The frames `start` to `end` and some before them at full depth, block by block, each with the number of its first frame.
    pub(super) fn again(&mut self, start: u64, end: u64, each: impl FnMut(u64, &FrameBlock)) -> Result<(), EngineError> {
        let (hop, oldest) = (self.hop as u64, self.cut(self.first + self.chunk_frames as u64 - 1));
        let from = self.cut(start.saturating_sub(self.lead)).max(oldest);
        let known = |deep: &Deep| (deep.known.start..=deep.known.end).contains(&from);
        let goes_on = |deep: &Deep| deep.began <= from && known(deep) && deep.heard >= self.first * hop;
        let mut deep = match self.deep.take().filter(goes_on) {
            Some(deep) => deep,
            None => Deep::begin(&self.encoder, self.chunk_frames, from, from * hop)?,
        };
        let fresh = &self.sound[((deep.heard - self.first * hop) as usize).min(self.sound.len())..];
        deep.hear(fresh)?;
        // At its end no sound comes that the last frames could see.
        let over = deep.known.end < end.min(self.frames);
        if over {
            deep.end()?;
        }
        deep.blocks(from..end, each);
        if !over {
            deep.forget(self.kept);
            self.deep = Some(deep);
        }
        Ok(())
    }

    /// Where the chunk of `frame` begins: chunks are cut where those of the stream are.
    fn cut(&self, frame: u64) -> u64 {
        let chunk = self.chunk_frames as u64;
        self.origin + frame.saturating_sub(self.origin) / chunk * chunk
    }
}

impl Deep {
    fn begin(encoder: &Arc<Encoder>, chunk_frames: usize, frame: u64, sample: u64) -> Result<Self, EngineError> {
        let options = SessionOptions { matching: true, ..SessionOptions::new(chunk_frames) };
        let session = Session::new(encoder, Box::new(Fixed { layer: encoder.layers() }), options)?;
        Ok(Self { session, began: frame, heard: sample, known: frame..frame, rows: Vec::new() })
    }

    fn hear(&mut self, sound: &[f32]) -> Result<(), EngineError> {
        self.heard += sound.len() as u64;
        self.session.push(sound);
        self.compute()
    }

    fn end(&mut self) -> Result<(), EngineError> {
        self.session.finish();
        self.compute()
    }

    fn compute(&mut self) -> Result<(), EngineError> {
        self.session.each(|chunk| {
            if let Some(vectors) = &chunk.matching {
                self.rows.extend_from_slice(vectors.as_slice());
                self.known.end += vectors.frames() as u64;
            }
            Ok(())
        })
    }

    /// What is known of `frames`.
    fn blocks(&self, frames: Range<u64>, mut each: impl FnMut(u64, &FrameBlock)) {
        let width = self.rows.len() / self.known.clone().count().max(1);
        let at = |frame: u64| (frame.min(self.known.end) - self.known.start) as usize * width;
        let (mut number, mut block) = (frames.start, FrameBlock::default());
        for rows in self.rows[at(frames.start)..at(frames.end.max(frames.start))].chunks(LANES * width.max(1)) {
            block.fill(rows, width);
            each(number, &block);
            number += block.frames() as u64;
        }
    }

    /// All but the last `kept` frames, when they are as many again.
    fn forget(&mut self, kept: u64) {
        let frames = self.known.end - self.known.start;
        if frames > 2 * kept {
            let old = frames - kept;
            let width = self.rows.len() / frames as usize;
            self.rows.drain(..old as usize * width);
            self.known.start += old;
        }
    }
}
