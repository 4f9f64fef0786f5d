//! The verification pass: computes the audio of a possible detection again at full depth.
//!
//! Chunks that exit early are cheap, and full depth discriminates words better across voices. Peaks above a threshold are rare, so the last
//! four or five seconds before one are computed again through all layers, and the keyword's score is the lower one of both depths. Only
//! peaks that reach the threshold at the stream's own depth are verified, and a threshold has nearly the same meaning under any exit policy.
//!
//! Embeddings of the verification pass depend on the stream alone: a pass begins at every fourth chunk, and a peak is verified in the last
//! pass that begins [`LEAD_SECONDS`] before it. A pass is computed on demand, as far as needed, and is shared by all keywords of the stream.
//! So verification costs at most a few times full depth, for any number of keywords and any audio.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use super::phones::Phones;
use super::template::{FrameBlock, blocks};
use crate::consumer::ConsumerWork;
use crate::engine::{Encoder, EngineError};
use crate::exit::Fixed;
use crate::stream::{Representation, Session, SessionError, SessionOptions};

/// Least audio before a peak in its pass. In the bundled packs the attention of a layer reaches back 1.28 s, and without that context words
/// are discriminated less well across voices.
pub(super) const LEAD_SECONDS: f64 = 2.56;
/// Chunks from the start of one pass to the start of the next.
const PASS_CHUNKS: u64 = 4;
/// Number of passes kept; an older one is computed again if needed.
const PASSES: usize = 4;
/// Audio kept in addition to a pass: the longest match of the longest example, and its surroundings.
const KEPT_SECONDS: f64 = 10.0;
/// Audio that a pass takes at a time.
const PIECE_SAMPLES: usize = 8_000;
/// Frames before a match in which its first phones may be: the best alignment may start late.
pub(super) const PHONE_LEAD_FRAMES: u64 = 12;

/// What peaks are verified with.
pub trait FullDepth {
    /// Passes the frames `start` to `end` at full depth to `each`, and up to [`LEAD_SECONDS`] before them, in blocks with the number of their
    /// first frame. Returns the factor of `phones` for the frames `start` to `end`; 1 for a pack without CTC branches.
    fn blocks(
        &mut self,
        range: (u64, u64),
        phones: Option<&Phones>,
        each: impl FnMut(u64, &FrameBlock),
    ) -> Result<f32, SessionError>;
}

/// The last seconds of a stream, with the passes that compute them at full depth.
pub struct Verifier {
    encoder: Arc<Encoder>,
    chunk_frames: usize,
    hop: usize,
    lead: u64,
    kept: u64,
    /// Audio from frame `first` to the end of the last frame's lookahead.
    audio: Vec<f32>,
    first: u64,
    /// Number of frames so far.
    frames: u64,
    /// First frame of the current stretch without a gap.
    origin: u64,
    passes: VecDeque<Pass>,
    work: Arc<ConsumerWork>,
}

/// A stretch of the stream at full depth.
struct Pass {
    session: Session,
    /// Its first frame.
    began: u64,
    /// The sample after the last one processed.
    processed: u64,
    /// The embeddings so far, `[frames, width]`.
    rows: Vec<f32>,
    width: usize,
    /// Logits of the CTC branch so far, `[frames, vocabulary]`; empty for a pack without one.
    logits: Vec<f32>,
    classes: usize,
}

impl Verifier {
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
            audio: Vec::new(),
            first: 0,
            frames: 0,
            origin: 0,
            passes: VecDeque::new(),
            work: Arc::default(),
        })
    }

    /// Counts passes and their computation in `work`.
    pub fn count(&mut self, work: Arc<ConsumerWork>) {
        self.work = work;
    }

    /// Begins a stream in chunks of `chunk_frames` frames, so that both depths have the same chunk boundaries.
    pub fn begin(&mut self, chunk_frames: usize) {
        self.chunk_frames = chunk_frames;
        self.reset();
    }

    /// Adds frames of the next chunk of the stream, which must have its audio.
    pub fn push(&mut self, chunk: &Representation, frames: Range<usize>) {
        let (own, lookahead) = (chunk.audio.as_deref().unwrap_or_default(), chunk.lookahead.as_deref().unwrap_or_default());
        let at = |frame: usize| (frame * self.hop).min(own.len());
        let (own, after) = (&own[at(frames.start)..at(frames.end)], &own[at(frames.end)..]);
        // Replaces the lookahead of the frames before. The last frame of a stream may have less than a hop.
        self.audio.truncate((self.frames - self.first) as usize * self.hop);
        self.audio.extend(own.iter().chain(std::iter::repeat(&0.0)).take(frames.len() * self.hop));
        self.audio.extend(after.iter().chain(lookahead).take(lookahead.len()));
        self.frames += frames.len() as u64;
        // Only now and then, because this moves the kept audio to the front.
        let kept = self.kept + self.pass_frames();
        if self.frames - self.first > 2 * kept {
            let old = self.frames - self.first - kept;
            self.audio.drain(..old as usize * self.hop);
            self.first += old;
            self.passes.retain(|pass| pass.began >= self.first);
        }
    }

    /// Starts a new stretch of the stream: audio was dropped here.
    pub fn reset(&mut self) {
        self.audio.clear();
        self.passes.clear();
        (self.first, self.origin) = (self.frames, self.frames);
    }

    /// First frame of the pass that contains `frame`.
    fn pass_at(&self, frame: u64) -> u64 {
        self.origin + frame.saturating_sub(self.origin) / self.pass_frames() * self.pass_frames()
    }

    fn pass_frames(&self) -> u64 {
        PASS_CHUNKS * self.chunk_frames as u64
    }
}

impl FullDepth for Verifier {
    fn blocks(
        &mut self,
        (start, end): (u64, u64),
        phones: Option<&Phones>,
        each: impl FnMut(u64, &FrameBlock),
    ) -> Result<f32, SessionError> {
        let started = Instant::now();
        let (from, oldest) = (start.saturating_sub(self.lead), self.first + self.pass_frames() - 1);
        let began = self.pass_at(from).max(self.pass_at(oldest));
        let kept = self.passes.iter().position(|pass| pass.began == began).and_then(|index| self.passes.remove(index));
        let begun = u64::from(kept.is_none());
        let mut pass = match kept {
            Some(pass) => pass,
            None => Pass::begin(&self.encoder, self.chunk_frames, began, began * self.hop as u64)?,
        };
        let known = ((pass.processed - self.first * self.hop as u64) as usize).min(self.audio.len());
        pass.push(&self.audio[known..])?;
        // At the end of the stream the last frames have no lookahead.
        let over = pass.end() < end.min(self.frames);
        if over {
            pass.finish()?;
        }
        self.work.add(begun, started.elapsed());
        pass.blocks(from.max(began)..end, each);
        let logits = pass.logits(start.saturating_sub(PHONE_LEAD_FRAMES)..end);
        let factor = phones.map_or(1.0, |phones| phones.factor(logits, self.encoder.vocabulary()));
        if !over {
            self.passes.truncate(PASSES - 1);
            self.passes.push_front(pass);
        }
        Ok(factor)
    }
}

impl Pass {
    fn begin(encoder: &Arc<Encoder>, chunk_frames: usize, frame: u64, sample: u64) -> Result<Self, EngineError> {
        let ctc = encoder.has_ctc(encoder.layers());
        let options = SessionOptions::default().chunk_frames(chunk_frames).embedding(true).ctc(ctc);
        let session = Session::new(encoder, Box::new(Fixed::new(encoder.layers())), options)?;
        Ok(Self {
            session,
            began: frame,
            processed: sample,
            rows: Vec::new(),
            width: 1,
            logits: Vec::new(),
            classes: encoder.vocabulary().len(),
        })
    }

    /// Pushes `audio` in pieces of about a chunk, because sessions keep the memory for the longest one.
    fn push(&mut self, audio: &[f32]) -> Result<(), SessionError> {
        self.processed += audio.len() as u64;
        for piece in audio.chunks(PIECE_SAMPLES) {
            self.session.push(piece)?;
            self.compute()?;
        }
        Ok(())
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
            if let Some(logits) = &chunk.ctc_logits {
                self.logits.extend_from_slice(logits.as_slice());
            }
            Ok(())
        })
    }

    /// The frame after the last one computed.
    fn end(&self) -> u64 {
        self.began + (self.rows.len() / self.width) as u64
    }

    /// The CTC logits of the computed part of `frames`, `[frames, vocabulary]`; empty for a pack without CTC branches.
    fn logits(&self, frames: Range<u64>) -> &[f32] {
        let at = |frame: u64| (frame.clamp(self.began, self.end()) - self.began) as usize * self.classes;
        self.logits.get(at(frames.start)..at(frames.end)).unwrap_or_default()
    }

    /// The computed part of `frames`, which begin no earlier than the pass.
    fn blocks(&self, frames: Range<u64>, mut each: impl FnMut(u64, &FrameBlock)) {
        let at = |frame: u64| (frame.clamp(self.began, self.end()) - self.began) as usize * self.width;
        let mut number = frames.start;
        let rows = &self.rows[at(frames.start)..at(frames.end)];
        let Ok(()) = blocks(&mut FrameBlock::default(), (rows, self.width), self.logits(frames), |block| {
            each(number, block);
            number += block.frames() as u64;
            Ok::<_, Infallible>(())
        });
    }
}
