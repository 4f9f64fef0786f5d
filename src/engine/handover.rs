//! Handing over a chunk between two layers: the state that one encoder exports and another continues from.
//!
//! Before the first layer, a chunk is its audio. Between two layers, a windowed encoder needs only the window's states at the current depth. A cached one also needs the keys and values of the left
//! context in the remaining layers. Those of a frame in layer k depend only on the frame's input of layer k, so they are rebuilt
//! exactly by projection from the outputs of layer k − 1: the [`PastChunk`]s of the handover.

use std::ops::Range;

use super::cached::{PastChunk, States};
use super::{Encoder, EncoderState, EngineError, Frames, ModeState, Pass, WindowSpan};
use crate::pack::{GapFill, Mode};

/// What a chunk continues from.
#[derive(Debug, Clone)]
pub(crate) enum Input {
    /// Input of the next layer: `[W, D]` of the whole window, `[T, D]` of the chunk in cached mode.
    States(Frames),
    /// The samples of these frames, for the front end: no layer has run.
    Audio(Vec<f32>),
}

/// A chunk before its first layer, or between two layers.
#[derive(Debug, Clone)]
pub(crate) struct Handover {
    /// Number of layers that have run.
    pub depth: usize,
    /// The chunk's first frame in its stream.
    pub first_frame: u64,
    /// What the next layer, or the front end, reads.
    pub input: Input,
    /// Frames of the input that are the chunk's own.
    pub own: Range<usize>,
    /// Earlier chunks of the stream in the left context (cached mode), oldest first.
    pub past: Vec<PastChunk>,
}

impl Encoder {
    /// Whether chunks of this encoder can be handed over: windowed ones always, cached ones if gaps are filled by projection.
    pub(crate) fn can_hand_over(&self) -> bool {
        self.spec.mode == Mode::Windowed || self.gap_fill == GapFill::Project && !self.has_layer_states()
    }

    /// Whether layers carry states of their own from chunk to chunk.
    pub(crate) fn has_layer_states(&self) -> bool {
        self.layers.iter().any(|layer| !layer.states.is_empty())
    }

    /// Whether a chunk can be computed from its own samples alone, without frames that the front end has kept.
    pub(crate) fn can_begin_anywhere(&self) -> bool {
        match self.spec.mode {
            Mode::Cached => self.spec.right_context == 0,
            Mode::Windowed => self.frontend_needs_window(),
        }
    }

    /// Samples that a frame shares with the one before.
    pub(crate) fn shared_samples(&self) -> usize {
        self.audio.receptive_field.saturating_sub(self.audio.hop)
    }

    /// Whether context comes from a KV cache.
    pub(crate) fn is_cached(&self) -> bool {
        self.spec.mode == Mode::Cached
    }
}

impl EncoderState {
    /// Keeps the outputs of all layers for the left context from now on, which handing over and continuing chunks require.
    pub(crate) fn keep_states(&mut self) {
        self.keep_states = true;
    }

    /// Continues a chunk that another encoder of the same pack handed over.
    ///
    /// # Errors
    ///
    /// [`EngineError::Handover`] if its shape is not that of this encoder.
    pub(crate) fn take_over(&mut self, handover: Handover) -> Result<Pass<'_>, EngineError> {
        self.check(&handover)?;
        let Handover { depth, first_frame, input, own, past } = handover;
        let x = match input {
            Input::States(x) => x,
            Input::Audio(samples) => {
                if let ModeState::Cached(state) = &mut self.mode {
                    state.add_context(first_frame, past);
                }
                let window_first = first_frame - own.start as u64;
                let span =
                    WindowSpan { audio_first: window_first, window_first, chunk_first: first_frame, chunk_frames: own.len() };
                return self.begin(&samples, span);
            }
        };
        let feature = match &mut self.mode {
            ModeState::Windowed(state) => {
                state.set_own(own);
                state.own_rows(&x)
            }
            ModeState::Cached(state) => {
                state.add_context(first_frame, past);
                x.clone()
            }
        };
        let mut features = Vec::with_capacity(self.encoder.layers() + 1 - depth);
        features.push(feature);
        Ok(Pass { state: self, first_frame, x, first_depth: depth, features, earlier: Vec::new() })
    }

    /// Rejects handovers that no encoder of this pack creates. Chunk sizes of the context may differ: the last chunk of a stream is short.
    fn check(&self, handover: &Handover) -> Result<(), EngineError> {
        let Handover { depth, first_frame, input, own, past } = handover;
        let (encoder, depth, first_frame) = (&self.encoder, *depth, *first_frame);
        let refused = |problem: String| Err(EngineError::Handover { pack: encoder.name.clone(), problem });
        let frames = match input {
            Input::States(x) if x.dim() != encoder.dim() => {
                return refused(format!("frames must have {} dimensions", encoder.dim()));
            }
            Input::States(x) => x.frames(),
            Input::Audio(_) if depth > 0 => return refused(format!("{depth} layers have run on audio")),
            Input::Audio(samples) => {
                let audio = &encoder.audio;
                let hops = samples.len().checked_sub(audio.receptive_field).filter(|rest| rest % audio.hop == 0);
                match hops.filter(|_| own.start as u64 <= first_frame) {
                    Some(rest) => rest / audio.hop + 1,
                    None => return refused(format!("{} samples are not those of whole frames", samples.len())),
                }
            }
        };
        if depth >= encoder.layers() {
            return refused(format!("{depth} layers have run, but the pack has only {}", encoder.layers()));
        }
        if depth + 1 < encoder.first_layer {
            return refused(format!("{depth} layers have run, but layers from {} on are loaded", encoder.first_layer));
        }
        let context = match self.mode {
            ModeState::Windowed(_) => encoder.left_context() + encoder.right_context(),
            ModeState::Cached(_) => 0,
        };
        let most = encoder.largest_chunk() + context;
        if own.is_empty() || own.end > frames || frames > most {
            return refused(format!("{frames} frames, of which {own:?} are the chunk's own, where {most} are the most"));
        }
        match self.mode {
            ModeState::Windowed(_) if !past.is_empty() => refused("a windowed pack has no earlier chunks".into()),
            ModeState::Cached(_) if own.len() != frames => refused("a cached pack has no frames around the chunk".into()),
            ModeState::Cached(_) => self.check_context(first_frame, past),
            ModeState::Windowed(_) => Ok(()),
        }
    }

    /// Rejects what cannot be the left context of a chunk that starts at `first_frame`.
    fn check_context(&self, first_frame: u64, past: &[PastChunk]) -> Result<(), EngineError> {
        let encoder = &self.encoder;
        let refused = |problem: String| Err(EngineError::Handover { pack: encoder.name.clone(), problem });
        if past.iter().flat_map(|chunk| &chunk.states).any(|(_, state)| state.dim() != encoder.dim()) {
            return refused(format!("frames must have {} dimensions", encoder.dim()));
        }
        let horizon = first_frame.saturating_sub(encoder.left_context() as u64);
        let mut next = 0;
        for chunk in past {
            let frames = (chunk.end() - chunk.first_frame) as usize;
            let even = chunk.states.iter().all(|(_, state)| state.frames() == frames);
            let in_order = chunk.first_frame >= next && chunk.end() <= first_frame && chunk.end() > horizon;
            if frames == 0 || frames > encoder.largest_chunk() || !even || !in_order {
                return refused(format!("frame {} is not an earlier chunk in the left context", chunk.first_frame));
            }
            next = chunk.end();
        }
        Ok(())
    }

    /// The chunk of `span`, before anything has run, for another encoder of the same pack: with `samples` as for
    /// [`begin`](Self::begin).
    pub(crate) fn hand_over_audio(&self, samples: &[f32], span: WindowSpan) -> Handover {
        let (start, past) = match &self.mode {
            ModeState::Windowed(_) => ((span.chunk_first - span.window_first) as usize, Vec::new()),
            ModeState::Cached(state) => (0, state.context(span.chunk_first).cloned().collect()),
        };
        let (input, own) = (Input::Audio(samples.to_vec()), start..start + span.chunk_frames);
        Handover { depth: 0, first_frame: span.chunk_first, input, own, past }
    }

    /// Adds `past`, which was computed elsewhere, to the left context of the chunk that starts at `first_frame`.
    ///
    /// # Errors
    ///
    /// [`EngineError::Handover`] if it cannot be that; nothing is added then.
    pub(crate) fn add_context(&mut self, first_frame: u64, past: Vec<PastChunk>) -> Result<(), EngineError> {
        self.check_context(first_frame, &past)?;
        if let ModeState::Cached(state) = &mut self.mode {
            state.add_context(first_frame, past);
        }
        Ok(())
    }

    /// The known ones of the chunks that start at `frames`, with all their states.
    pub(crate) fn chunks(&self, frames: &[u64]) -> Vec<PastChunk> {
        match &self.mode {
            ModeState::Cached(state) => frames.iter().filter_map(|frame| state.chunk(*frame)).cloned().collect(),
            ModeState::Windowed(_) => Vec::new(),
        }
    }

    /// Whether states of the chunk that starts at `first_frame` are known.
    pub(crate) fn knows(&self, first_frame: u64) -> bool {
        match &self.mode {
            ModeState::Cached(state) => state.chunk(first_frame).is_some(),
            ModeState::Windowed(_) => false,
        }
    }

    /// A pass with `feature` at `depth`, for evaluating the heads of a chunk computed elsewhere.
    pub(crate) fn revisit(&mut self, depth: usize, feature: Frames) -> Pass<'_> {
        let x = feature.clone();
        Pass { state: self, first_frame: 0, x, first_depth: depth, features: vec![feature], earlier: Vec::new() }
    }

    /// Adds the states of a handed-over chunk computed elsewhere.
    pub(crate) fn add_states(&mut self, first_frame: u64, states: States) {
        if let ModeState::Cached(state) = &mut self.mode {
            state.add_to(first_frame, states);
        }
    }
}

impl Pass<'_> {
    /// Adds the states of an earlier handed-over chunk computed elsewhere.
    pub(crate) fn add_states(&mut self, first_frame: u64, states: States) {
        self.state.add_states(first_frame, states);
    }

    /// The chunk at its current depth, for another encoder of the same pack.
    pub(crate) fn hand_over(&self) -> Handover {
        let (own, past) = match &self.state.mode {
            ModeState::Windowed(state) => (state.own(), Vec::new()),
            ModeState::Cached(state) => (0..self.x.frames(), state.context(self.first_frame).cloned().collect()),
        };
        Handover { depth: self.depth(), first_frame: self.first_frame, input: Input::States(self.x.clone()), own, past }
    }

    /// The outputs of the layers that this pass ran, up to the current depth, which the encoder that handed the chunk over needs for its
    /// own left context. Only the inputs of layers that ran and the current output are known.
    pub(crate) fn states(&self) -> States {
        let first = self.first_depth;
        let mut states: States = self.earlier.iter().filter(|(depth, _)| *depth > first).cloned().collect();
        if self.depth() > first {
            states.push((self.depth(), self.x.clone()));
        }
        states
    }
}
