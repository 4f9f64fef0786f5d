//! One stream from samples to representations: chunker, encoder state, evidence, policy.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::chunker::{Chunk, Chunker};
use super::descent::{Descent, Judge};
use super::mixture::Mixture;
#[cfg(feature = "neighbours")]
use super::neighbourhood::Neighbourhood;
use super::representation::{Forecast, Representation};
use crate::engine::{Encoder, EncoderState, EngineError, Frames, Pass, Work};
use crate::exit::{ExitPolicy, Reason};

/// The vectors of a representation.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub enum Vectors {
    /// The exit layer's state.
    #[default]
    Last,
    /// DAISY's weighted mixture of the states up to the exit layer.
    Mixture(Mixture),
}

/// The chunk size of a session, and what its representations contain. By default: chunks of the pack's default size, and the exit
/// layer's state.
///
/// ```
/// use bellis::stream::SessionOptions;
///
/// let options = SessionOptions::default().chunk_frames(16).posteriors(true);
/// ```
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct SessionOptions {
    /// New frames per chunk; the pack's default if `None`.
    pub chunk_frames: Option<usize>,
    /// The vectors of a representation.
    pub vectors: Vectors,
    /// Whether to add the exit head's log-posteriors.
    pub posteriors: bool,
    /// Whether to add keyword embeddings.
    pub embedding: bool,
    /// Whether to add the logits of the exit layer's CTC branch. A chunk then exits only at layers that have a branch, and goes no
    /// deeper than the last of them.
    pub ctc: bool,
    /// Whether to add the chunk's audio.
    pub audio: bool,
    /// Whether to evaluate the head of every layer that runs, even if the policy does not need it, at the cost of those heads.
    pub all_heads: bool,
}

impl SessionOptions {
    /// Sets the chunk size, frames.
    pub fn chunk_frames(mut self, frames: usize) -> Self {
        self.chunk_frames = Some(frames);
        self
    }

    /// Sets the vectors of a representation.
    pub fn vectors(mut self, vectors: Vectors) -> Self {
        self.vectors = vectors;
        self
    }

    /// Adds the exit head's log-posteriors.
    pub fn posteriors(mut self, add: bool) -> Self {
        self.posteriors = add;
        self
    }

    /// Adds keyword embeddings.
    pub fn embedding(mut self, add: bool) -> Self {
        self.embedding = add;
        self
    }

    /// Adds the logits of the exit layer's CTC branch.
    pub fn ctc(mut self, add: bool) -> Self {
        self.ctc = add;
        self
    }

    /// Adds the chunk's audio.
    pub fn audio(mut self, add: bool) -> Self {
        self.audio = add;
        self
    }

    /// Evaluates the head of every layer that runs.
    pub fn all_heads(mut self, evaluate: bool) -> Self {
        self.all_heads = evaluate;
        self
    }

    /// Rejects an encoder without a stage that the options require.
    pub(crate) fn check(&self, encoder: &Encoder) -> Result<(), EngineError> {
        if self.posteriors || self.all_heads {
            encoder.check_heads()?;
        }
        if self.embedding {
            encoder.check_embedding()?;
        }
        if self.ctc {
            encoder.check_ctc()?;
        }
        if let Vectors::Mixture(mixture) = &self.vectors {
            mixture.check(encoder.layers())?;
        }
        Ok(())
    }
}

/// Errors of a [`Session`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SessionError {
    /// A chunk could not be computed. The session is unusable from then on.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// An earlier chunk could not be computed, so the caches are incomplete. Start a new session.
    #[error("an earlier chunk of this stream failed; start a new session")]
    Poisoned,
    /// Samples or a gap came after [`Session::finish`]. Call [`Session::restart`] first.
    #[error("the stream has ended; restart it before pushing more samples")]
    Ended,
    /// [`Session::restart`] was called before [`Session::finish`].
    #[error("the stream has not ended; finish it before restarting it")]
    NotEnded,
    /// [`Session::restart`] was called before every chunk had been taken.
    #[error("chunks of the ended stream have not been taken; take them before restarting it")]
    ChunksLeft,
    /// A gap is before an earlier gap, or in a chunk that has been returned.
    #[error("gap at sample {position}, but gaps before sample {earliest} can no longer be reported")]
    #[non_exhaustive]
    LateGap {
        /// Position of the gap.
        position: u64,
        /// The earliest position at which a gap can still be reported.
        earliest: u64,
    },
}

/// One stream: samples go in, representations come out.
///
/// A session is used by one thread at a time and owns its state; the weights are shared. [`push`](Self::push) appends samples at the
/// pack's rate ([`Encoder::audio`]), [`next_chunk`](Self::next_chunk) computes the next whole chunk, and [`finish`](Self::finish)
/// completes the last one. [`new`](Self::new) allocates; the other methods reuse memory.
///
/// ```
/// use bellis::engine::{Encoder, LoadOptions};
/// use bellis::exit::PolicySpec;
/// use bellis::pack::Pack;
/// use bellis::stream::{Session, SessionOptions};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let pack = Pack::open("models/daisy-tiny".as_ref())?;
/// let encoder = Encoder::load(&pack, &LoadOptions::default())?;
/// let mut session = Session::new(&encoder, PolicySpec::default().build(&pack)?, SessionOptions::default())?;
/// session.push(&vec![0.0; 16_000])?;
/// session.finish();
/// for chunk in session.representations() {
///     let chunk = chunk?;
///     println!("{:.2} s: exit at layer {}, {} frames", chunk.start_seconds(), chunk.exit_layer, chunk.vectors.frames());
/// }
/// # Ok(())
/// # }
/// ```
pub struct Session {
    pub(super) state: EncoderState,
    pub(super) chunker: Chunker,
    pub(super) judge: Judge,
    pub(super) options: SessionOptions,
    chunk_frames: usize,
    poisoned: bool,
    pub(super) sequence: u64,
    /// Work of earlier encoder states.
    work_before: Work,
    /// Where chunks may continue, and those that are on their way.
    #[cfg(feature = "neighbours")]
    pub(super) neighbourhood: Option<Neighbourhood>,
}

impl Session {
    /// Starts a stream on `encoder`.
    ///
    /// # Errors
    ///
    /// [`EngineError::ChunkFrames`] if the pack does not allow the chunk size, [`EngineError::NoStage`] if it lacks a stage that the
    /// options require.
    pub fn new(encoder: &Arc<Encoder>, policy: Box<dyn ExitPolicy>, options: SessionOptions) -> Result<Self, EngineError> {
        let chunk_frames = options.chunk_frames.unwrap_or_else(|| encoder.default_chunk_frames());
        encoder.check_chunk(chunk_frames)?;
        options.check(encoder)?;
        Ok(Self {
            state: EncoderState::new(encoder)?,
            chunker: Chunker::new(encoder, chunk_frames),
            chunk_frames,
            poisoned: false,
            judge: Judge::new(encoder, policy),
            options,
            sequence: 0,
            work_before: Work::default(),
            #[cfg(feature = "neighbours")]
            neighbourhood: None,
        })
    }

    /// Continues after [`finish`](Self::finish) with a reset encoder, as after a reconnected microphone: chunk numbers and sample
    /// positions continue, and the next representation reports `lost` samples in between. Returns the number of lost samples that it
    /// will report, which includes gaps at the end of the stream before.
    ///
    /// # Errors
    ///
    /// [`SessionError::NotEnded`] before `finish`, [`SessionError::ChunksLeft`] before every chunk has been taken.
    pub fn restart(&mut self, lost: u64) -> Result<u64, SessionError> {
        self.check_poison()?;
        if !self.chunker.ended() {
            return Err(SessionError::NotEnded);
        }
        if self.chunker.has_chunk() || self.on_their_way() > 0 {
            return Err(SessionError::ChunksLeft);
        }
        let work = self.work();
        self.state = EncoderState::new(&self.state.encoder().clone())?;
        #[cfg(feature = "neighbours")]
        if let Some(neighbourhood) = &mut self.neighbourhood {
            neighbourhood.restart(&mut self.state);
        }
        self.work_before = work;
        Ok(self.chunker.restart(lost))
    }

    /// Chunks that are being computed by neighbours.
    pub(crate) fn on_their_way(&self) -> usize {
        #[cfg(feature = "neighbours")]
        return self.neighbourhood.as_ref().map_or(0, Neighbourhood::waiting);
        #[cfg(not(feature = "neighbours"))]
        0
    }

    fn check_poison(&self) -> Result<(), SessionError> {
        if self.poisoned { Err(SessionError::Poisoned) } else { Ok(()) }
    }

    /// Appends mono samples at the pack's rate, full scale ±1. [`next_chunk`](Self::next_chunk) returns the chunks that they
    /// complete.
    ///
    /// # Errors
    ///
    /// [`SessionError::Ended`] after [`finish`](Self::finish), [`SessionError::Poisoned`] after a chunk has failed.
    pub fn push(&mut self, samples: &[f32]) -> Result<(), SessionError> {
        self.check_poison()?;
        if self.chunker.ended() {
            return Err(SessionError::Ended);
        }
        self.chunker.push(samples);
        Ok(())
    }

    /// Reports that `samples` samples were lost before the received sample number `position` (from the last start), which may not
    /// have been pushed yet. Gaps are reported in order.
    ///
    /// # Errors
    ///
    /// [`SessionError::LateGap`] if a chunk after `position` has been returned, or a gap after it reported.
    pub fn gap(&mut self, position: u64, samples: u64) -> Result<(), SessionError> {
        self.check_poison()?;
        if self.chunker.ended() {
            return Err(SessionError::Ended);
        }
        let earliest = self.chunker.earliest_gap();
        if position < earliest {
            return Err(SessionError::LateGap { position, earliest });
        }
        self.chunker.gap(position, samples);
        Ok(())
    }

    /// Ends the stream: the remaining samples form the last chunk, padded with zeros to whole frames.
    pub fn finish(&mut self) {
        self.chunker.finish();
    }

    /// Samples received since the last start.
    pub fn received(&self) -> u64 {
        self.chunker.received()
    }

    /// Number of the next chunk that is begun.
    pub(crate) fn next_sequence(&self) -> u64 {
        self.sequence
    }

    /// Samples still missing for the next chunk.
    pub fn missing_samples(&self) -> u64 {
        self.chunker.missing_samples()
    }

    /// Samples queued after the next chunk.
    pub fn waiting_samples(&self) -> u64 {
        self.chunker.waiting_samples()
    }

    /// Work done so far.
    pub fn work(&self) -> Work {
        let (before, now) = (self.work_before, self.state.work());
        Work {
            layer_frames: before.layer_frames + now.layer_frames,
            projected_frames: before.projected_frames + now.projected_frames,
            macs: before.macs + now.macs,
        }
    }

    /// Evaluated heads and CTC branches so far with logits that were not all finite.
    pub fn non_finite(&self) -> u64 {
        self.judge.non_finite
    }

    /// The encoder.
    pub fn encoder(&self) -> &Arc<Encoder> {
        self.state.encoder()
    }

    /// Replaces the policy from the next chunk on.
    pub fn set_policy(&mut self, policy: Box<dyn ExitPolicy>) {
        self.judge.policy = policy;
        #[cfg(feature = "neighbours")]
        if let Some(neighbourhood) = &mut self.neighbourhood {
            neighbourhood.policy_replaced();
        }
    }

    /// New frames per chunk.
    pub fn chunk_frames(&self) -> usize {
        self.chunk_frames
    }

    /// Replaces what representations contain from the next chunk on. The chunk size does not change.
    ///
    /// # Errors
    ///
    /// [`EngineError::NoStage`] if the pack lacks a stage that the options need; the options are then unchanged.
    pub fn set_options(&mut self, options: SessionOptions) -> Result<(), EngineError> {
        options.check(self.state.encoder())?;
        self.options = options;
        Ok(())
    }

    /// Computes the next chunk, or returns `None` if samples are missing for it.
    ///
    /// # Errors
    ///
    /// [`SessionError::Engine`] if a stage fails. The session is then poisoned: the caches are incomplete.
    pub fn next_chunk(&mut self) -> Result<Option<Representation>, SessionError> {
        self.next_chunk_live(Duration::ZERO)
    }

    /// Computes the next chunk of a live stream with `backlog` of audio already queued after it. Policies with a deadline count the
    /// backlog as time spent.
    ///
    /// # Errors
    ///
    /// Those of [`next_chunk`](Self::next_chunk).
    pub fn next_chunk_live(&mut self, backlog: Duration) -> Result<Option<Representation>, SessionError> {
        self.check_poison()?;
        self.poisoned = true;
        let chunk = self.compute(backlog)?;
        self.poisoned = false;
        Ok(chunk)
    }

    /// Computes the chunks whose samples have been pushed, one by one. More may follow after the next [`push`](Self::push).
    pub fn representations(&mut self) -> impl Iterator<Item = Result<Representation, SessionError>> {
        std::iter::from_fn(|| match self.next_chunk() {
            Err(SessionError::Poisoned) => None,
            chunk => chunk.transpose(),
        })
    }

    /// Computes the chunks whose samples have been pushed, and calls `each` for every one.
    ///
    /// # Errors
    ///
    /// Those of [`next_chunk`](Self::next_chunk) and of `each`, which end the loop.
    pub fn each<E: From<SessionError>>(&mut self, mut each: impl FnMut(&Representation) -> Result<(), E>) -> Result<(), E> {
        while let Some(chunk) = self.next_chunk()? {
            each(&chunk)?;
        }
        Ok(())
    }

    fn compute(&mut self, backlog: Duration) -> Result<Option<Representation>, EngineError> {
        #[cfg(feature = "neighbours")]
        if self.neighbourhood.is_some() {
            return self.compute_with_neighbours(backlog);
        }
        let began = Instant::now();
        let Some(chunk) = self.chunker.next_chunk() else { return Ok(None) };
        let place = Place::new(&chunk, &self.options, self.sequence);
        self.sequence += 1;
        let encoder = self.state.encoder().clone();
        (self.judge.all_heads, self.judge.ctc) = (self.options.all_heads, self.options.ctc);
        self.judge.begin_chunk();
        let mut pass = self.state.begin(chunk.audio, chunk.span)?;
        if !encoder.may_exit_at_frontend() {
            pass.step()?;
        }
        let descent = self.judge.descend(&encoder, &mut pass, (began, backlog), |_, _| false)?;
        let found = Outputs::of(&mut pass, descent, &mut self.judge, &self.options)?;
        pass.finish();
        Ok(Some(place.representation(&encoder, found, began.elapsed())))
    }
}

/// A chunk's position in the stream, and its audio.
pub(super) struct Place {
    sequence: u64,
    first_sample: u64,
    samples: u64,
    lost_samples: u64,
    discontinuities: Vec<super::Discontinuity>,
    audio: Option<Vec<f32>>,
    lookahead: Option<Vec<f32>>,
}

/// What the layers of a chunk gave.
pub(super) struct Outputs {
    pub exit_layer: usize,
    pub reason: Reason,
    pub evidence: Vec<crate::exit::Evidence>,
    pub ctc_evidence: Vec<crate::exit::Evidence>,
    pub expected_kl: Option<f32>,
    pub forecast: Forecast,
    pub vectors: Frames,
    pub log_posteriors: Option<Frames>,
    pub embedding: Option<Frames>,
    pub ctc_logits: Option<Frames>,
}

impl Place {
    pub fn new(chunk: &Chunk<'_>, options: &SessionOptions, sequence: u64) -> Self {
        Self {
            sequence,
            first_sample: chunk.first_sample,
            samples: chunk.samples,
            lost_samples: chunk.lost_samples,
            discontinuities: chunk.discontinuities.to_vec(),
            audio: options.audio.then(|| chunk.own.to_vec()),
            lookahead: options.audio.then(|| chunk.lookahead.to_vec()),
        }
    }

    pub fn representation(self, encoder: &Encoder, found: Outputs, compute: Duration) -> Representation {
        Representation {
            sequence: self.sequence,
            first_sample: self.first_sample,
            samples: self.samples,
            lost_samples: self.lost_samples,
            discontinuities: self.discontinuities,
            sample_rate: encoder.audio().sample_rate,
            hop_samples: encoder.audio().hop,
            exit_layer: found.exit_layer,
            reason: found.reason,
            evidence: found.evidence,
            ctc_evidence: found.ctc_evidence,
            expected_kl: found.expected_kl,
            forecast: found.forecast,
            vectors: found.vectors,
            log_posteriors: found.log_posteriors,
            embedding: found.embedding,
            ctc_logits: found.ctc_logits,
            audio: self.audio,
            lookahead: self.lookahead,
            compute,
            captured_at: None,
        }
    }
}

impl Outputs {
    /// Those of a pass that has come to its exit.
    pub fn of(pass: &mut Pass<'_>, descent: Descent, judge: &mut Judge, options: &SessionOptions) -> Result<Self, EngineError> {
        let exit_layer = pass.depth();
        let vectors = match &options.vectors {
            Vectors::Last => pass.feature(exit_layer).clone(),
            Vectors::Mixture(mixture) => mixture.mix(pass.features()),
        };
        Self::at_exit(pass, descent, vectors, judge, options)
    }

    /// Those that follow from the feature at the present depth, with `vectors`.
    pub fn at_exit(
        pass: &mut Pass<'_>,
        descent: Descent,
        vectors: Frames,
        judge: &mut Judge,
        options: &SessionOptions,
    ) -> Result<Self, EngineError> {
        let Descent { reason, layer, forecast, mut evidence, ctc_evidence, ctc_logits } = descent;
        let exit_layer = pass.depth();
        let log_posteriors = match options.posteriors {
            false => None,
            true => {
                let units = pass.units();
                if judge.measurer.log_posteriors().is_none_or(|(layer, _)| layer != exit_layer) {
                    let found = judge.measure(pass, units, false)?;
                    // A neighbour may have evaluated it already.
                    if evidence.last().is_none_or(|last| last.layer != exit_layer) {
                        evidence.push(found);
                    }
                }
                let rows = judge.measurer.log_posteriors().map_or(&[][..], |(_, rows)| rows);
                Some(Frames::build(vectors.frames(), units, |out| out.copy_from_slice(rows)))
            }
        };
        let embedding = options.embedding.then(|| pass.embedding()).transpose()?;
        // The distance to full depth from the exit layer, which may be deeper than the layer of the decision.
        let forecast = forecast.map_or_else(Forecast::default, |log_kl| Forecast::new(layer, log_kl));
        let expected_kl = forecast.at(exit_layer);
        let ctc_logits = match (options.ctc, ctc_logits) {
            (false, _) => None,
            (true, Some((layer, logits))) if layer == exit_layer => Some(logits),
            (true, _) => pass.ctc()?,
        };
        let reason = reason.unwrap_or(Reason::Deadline);
        Ok(Self {
            exit_layer,
            reason,
            evidence,
            ctc_evidence,
            expected_kl,
            forecast,
            vectors,
            log_posteriors,
            embedding,
            ctc_logits,
        })
    }
}
