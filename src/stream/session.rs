//! One stream from samples to representations: chunker, encoder state, evidence, policy.
//!
//! *initialise* ([`Session::new`]) may allocate at will; *process* ([`Session::push`], [`Session::next`]) reuses what it has.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::chunker::Chunker;
use super::mixture::Mixture;
use super::representation::Representation;
use crate::engine::{Encoder, EncoderState, EngineError, Frames, Work};
use crate::exit::{Decision, Evidence, ExitPolicy, Measurer, Needs, Observation, Reason};

/// Which vectors a representation carries.
#[derive(Debug, Clone, Default, PartialEq)]
pub enum Vectors {
    /// The exit layer's state.
    #[default]
    Last,
    /// DAISY's weighted mixture of the states up to the exit layer.
    Mixture(Mixture),
}

/// What a session puts into its representations.
#[derive(Debug, Clone)]
pub struct SessionOptions {
    /// New frames per chunk.
    pub chunk_frames: usize,
    /// Which vectors.
    pub vectors: Vectors,
    /// Add the exit head's log-posteriors.
    pub posteriors: bool,
    /// Add what keywords are matched in.
    pub embedding: bool,
    /// Add the logits of the exit layer's CTC branch. A chunk then stops only at layers that have one, and goes no deeper than the
    /// last of them.
    pub ctc: bool,
    /// Add the chunk's sound.
    pub audio: bool,
    /// Evaluate the head of every layer that runs, also where the policy does not ask: for studies, at their cost.
    pub all_heads: bool,
}

impl SessionOptions {
    /// Chunks of `chunk_frames` frames, the exit layer's state, nothing else.
    pub fn new(chunk_frames: usize) -> Self {
        Self {
            chunk_frames,
            vectors: Vectors::Last,
            posteriors: false,
            embedding: false,
            ctc: false,
            audio: false,
            all_heads: false,
        }
    }

    /// Refuses an encoder that lacks what is asked for.
    fn check(&self, encoder: &Encoder) -> Result<(), EngineError> {
        if self.posteriors || self.all_heads {
            encoder.check_heads()?;
        }
        if self.embedding {
            encoder.check_embedding()?;
        }
        if self.ctc {
            encoder.check_ctc()?;
        }
        Ok(())
    }
}

/// One stream.
pub struct Session {
    state: EncoderState,
    chunker: Chunker,
    measurer: Measurer,
    ctc_measurer: Measurer,
    policy: Box<dyn ExitPolicy>,
    options: SessionOptions,
    sequence: u64,
    non_finite: u64,
    /// Work of the states before the present one.
    work_before: Work,
}

impl Session {
    /// A fresh stream on `encoder`.
    pub fn new(encoder: &Arc<Encoder>, policy: Box<dyn ExitPolicy>, options: SessionOptions) -> Result<Self, EngineError> {
        encoder.check_chunk(options.chunk_frames)?;
        options.check(encoder)?;
        Ok(Self {
            state: EncoderState::new(encoder)?,
            chunker: Chunker::new(encoder, options.chunk_frames),
            measurer: Measurer::for_units(encoder.quiet_unit()),
            ctc_measurer: Measurer::default(),
            policy,
            options,
            sequence: 0,
            non_finite: 0,
            work_before: Work::default(),
        })
    }

    /// Starts again after [`Session::finish`], when all chunks have been taken: the encoder has forgotten the sound before, the
    /// numbers of chunks and the positions of samples go on, and the next representation says that `lost` samples lie between.
    /// Returns how many it will say, with those that no chunk has told yet.
    pub fn restart(&mut self, lost: u64) -> Result<u64, EngineError> {
        let work = self.work();
        self.state = EncoderState::new(&self.state.encoder().clone())?;
        self.work_before = work;
        Ok(self.chunker.restart(lost))
    }

    /// Appends samples at the pack's rate. [`Session::next`] gives what they complete.
    pub fn push(&mut self, samples: &[f32]) {
        self.chunker.push(samples);
    }

    /// Says that `samples` samples were lost in front of the received sample number `position`, which may still have to come.
    pub fn gap(&mut self, position: u64, samples: u64) {
        self.chunker.gap(position, samples);
    }

    /// Says that no more samples come.
    pub fn finish(&mut self) {
        self.chunker.finish();
    }

    /// Samples received so far.
    pub fn received(&self) -> u64 {
        self.chunker.received()
    }

    /// Samples that must still come before the next chunk is whole.
    pub fn missing_samples(&self) -> u64 {
        self.chunker.missing_samples()
    }

    /// Samples that wait behind the next chunk.
    pub fn waiting_samples(&self) -> u64 {
        self.chunker.waiting_samples()
    }

    /// Layer passes so far.
    pub fn work(&self) -> Work {
        let (before, now) = (self.work_before, self.state.work());
        Work {
            layer_frames: before.layer_frames + now.layer_frames,
            projected_frames: before.projected_frames + now.projected_frames,
            macs: before.macs + now.macs,
        }
    }

    /// Heads and CTC branches so far whose logits were not all finite.
    pub fn non_finite(&self) -> u64 {
        self.non_finite
    }

    /// The weights.
    pub fn encoder(&self) -> &Arc<Encoder> {
        self.state.encoder()
    }

    /// Replaces the policy from the next chunk on.
    pub fn set_policy(&mut self, policy: Box<dyn ExitPolicy>) {
        self.policy = policy;
    }

    /// What the representations carry from the next chunk on; the size of chunks stays.
    pub fn set_options(&mut self, options: SessionOptions) -> Result<(), EngineError> {
        options.check(self.state.encoder())?;
        self.options = SessionOptions { chunk_frames: self.options.chunk_frames, ..options };
        Ok(())
    }

    /// Computes every chunk whose samples are all there, where no time presses.
    pub fn each<E: From<EngineError>>(&mut self, mut each: impl FnMut(&Representation) -> Result<(), E>) -> Result<(), E> {
        while let Some(chunk) = self.next(Duration::ZERO)? {
            each(&chunk)?;
        }
        Ok(())
    }

    /// Computes the next chunk, if all its samples are there. `backlog` is the sound that waits behind it.
    pub fn next(&mut self, backlog: Duration) -> Result<Option<Representation>, EngineError> {
        let began = Instant::now();
        let Some(chunk) = self.chunker.next_chunk() else { return Ok(None) };
        let encoder = self.state.encoder().clone();
        let (layers, units) = (encoder.layers(), encoder.units());
        let (mut evidence, mut ctc_evidence) = (Vec::<Evidence>::with_capacity(layers), Vec::<Evidence>::new());
        // Where the chunk may stop, and where it must.
        let may_exit = |layer: usize| !self.options.ctc || encoder.has_ctc(layer);
        let deepest = (0..=layers).rev().find(|&layer| may_exit(layer)).unwrap_or(layers);
        let mut phones: Option<(usize, Frames)> = None;
        self.measurer.begin_chunk();
        self.ctc_measurer.begin_chunk();
        self.policy.begin_chunk();
        let mut pass = self.state.begin(chunk.audio, chunk.span)?;
        let mut layer = if encoder.may_exit_at_frontend() { 0 } else { pass.step()? };
        let (reason, forecast) = loop {
            let needs = self.policy.needs(layer);
            let all = self.options.all_heads;
            if all || matches!(needs, Needs::Head | Needs::Change) {
                let found = self.measurer.measure(layer, pass.head()?.as_slice(), units, all || needs == Needs::Change);
                self.non_finite += u64::from(!found.finite);
                evidence.push(found);
            }
            let mut ctc = None;
            if needs == Needs::Ctc
                && let Some(logits) = pass.ctc()?
            {
                let found = self.ctc_measurer.measure(layer, logits.as_slice(), encoder.vocabulary().len(), false);
                self.non_finite += u64::from(!found.finite);
                ctc_evidence.push(found);
                ctc = ctc_evidence.last();
                phones = Some((layer, logits));
            }
            let forecast = if needs == Needs::Forecast { Some(pass.forecast()?) } else { None };
            let seen = forecast.as_ref().map_or(&[][..], Frames::as_slice);
            let elapsed = began.elapsed();
            match self.policy.decide(&Observation { layer, layers, evidence: &evidence, ctc, forecast: seen, elapsed, backlog }) {
                Decision::Exit(Reason::Schedule) | Decision::Continue if layer == deepest => break (Reason::LastLayer, forecast),
                Decision::Exit(reason) => break (reason, forecast),
                Decision::Continue => layer = pass.step()?,
            }
        };
        // Where it may not stop yet, it goes on without asking again.
        while !may_exit(pass.depth()) {
            pass.step()?;
        }
        let exit_layer = pass.depth();
        let log_posteriors = match self.options.posteriors {
            false => None,
            true => {
                if self.measurer.log_posteriors().is_none_or(|(layer, _)| layer != exit_layer) {
                    let found = self.measurer.measure(exit_layer, pass.head()?.as_slice(), units, false);
                    self.non_finite += u64::from(!found.finite);
                    evidence.push(found);
                }
                let rows = self.measurer.log_posteriors().map_or(&[][..], |(_, rows)| rows);
                Some(Frames::build(chunk.span.chunk_frames, units, |out| out.copy_from_slice(rows))?)
            }
        };
        let embedding = self.options.embedding.then(|| pass.embedding()).transpose()?;
        // What full depth is away from the layer where the chunk stopped, which may be deeper than where that was decided.
        let expected_kl = forecast.and_then(|log_kl| log_kl.as_slice().get(exit_layer - layer).map(|log_kl| log_kl.exp()));
        let ctc_logits = match (self.options.ctc, phones) {
            (false, _) => None,
            (true, Some((layer, logits))) if layer == exit_layer => Some(logits),
            (true, _) => pass.ctc()?,
        };
        let vectors = match &self.options.vectors {
            Vectors::Last => pass.feature(exit_layer).clone(),
            Vectors::Mixture(mixture) => mixture.mix(pass.features())?,
        };
        pass.finish();
        let sequence = self.sequence;
        self.sequence += 1;
        Ok(Some(Representation {
            sequence,
            first_sample: chunk.first_sample,
            samples: chunk.samples,
            lost_samples: chunk.lost_samples,
            discontinuities: chunk.discontinuities.to_vec(),
            sample_rate: encoder.audio().sample_rate,
            hop_samples: encoder.audio().hop,
            exit_layer,
            reason,
            evidence,
            ctc_evidence,
            expected_kl,
            vectors,
            log_posteriors,
            embedding,
            ctc_logits,
            audio: self.options.audio.then(|| chunk.own.to_vec()),
            lookahead: self.options.audio.then(|| chunk.lookahead.to_vec()),
            compute: began.elapsed(),
            captured_at: None,
        }))
    }
}
