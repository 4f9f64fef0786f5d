//! Windowed mode: each chunk is recomputed with its left and right context, as bidirectional encoders (HuBERT, wav2vec 2.0, WavLM,
//! DistilHuBERT) require. Front-end frames that depend only on their receptive field are kept from window to window.

use tract_onnx::prelude::*;

use super::error::EngineError;
use super::program::Workspace;
use super::stage::Runner;
use super::{Encoder, Frames, WindowSpan};

/// One stream's state of a windowed encoder.
pub(super) struct WindowedState {
    layers: Vec<Runner>,
    /// Number of the first of them.
    first_layer: usize,
    position: Option<Runner>,
    has_feature: bool,
    dim: usize,
    /// Front-end frames from `first_frame` on, row by row.
    kept: Vec<f32>,
    first_frame: u64,
    /// The chunk's own rows in the current window.
    own: std::ops::Range<usize>,
    pub layer_frames: u64,
}

impl WindowedState {
    pub fn new(encoder: &Encoder) -> Result<Self, EngineError> {
        Ok(Self {
            layers: encoder.layers.iter().map(|layer| layer.full.runner()).collect::<Result<_, _>>()?,
            first_layer: encoder.first_layer,
            position: encoder.position.as_ref().map(super::stage::Stage::runner).transpose()?,
            has_feature: encoder.has_feature(),
            dim: encoder.spec.dim,
            kept: Vec::new(),
            first_frame: 0,
            own: 0..0,
            layer_frames: 0,
        })
    }

    /// The window's first hidden state, `[W, D]`: `fresh` are the front-end frames from `span.audio_first` on.
    pub fn begin(&mut self, fresh: &Frames, span: WindowSpan, workspace: &mut Workspace) -> Result<Frames, EngineError> {
        let WindowSpan { audio_first: fresh_first, window_first, chunk_first, chunk_frames } = span;
        let held = self.first_frame + (self.kept.len() / self.dim) as u64;
        if fresh_first != held {
            // The front end received the whole window, so the kept frames are replaced.
            self.kept.clear();
        }
        if self.kept.is_empty() {
            self.first_frame = fresh_first;
        }
        let stale = (window_first - self.first_frame) as usize * self.dim;
        self.kept.drain(..stale);
        self.first_frame = window_first;
        self.kept.extend_from_slice(fresh.as_slice());
        let start = (chunk_first - window_first) as usize;
        self.own = start..start + chunk_frames;
        let window = Frames::from_rows(&self.kept, self.dim);
        match &mut self.position {
            Some(position) => position.frames(&window, workspace),
            None => Ok(window),
        }
    }

    /// MACs since the start.
    pub fn macs(&self) -> u64 {
        self.layers.iter().chain(&self.position).map(Runner::macs).sum()
    }

    /// Runs layer `k` (from 1) on the window; returns its output and its feature, both `[W, D]`.
    pub fn layer(&mut self, k: usize, x: &Frames, workspace: &mut Workspace) -> Result<(Frames, Frames), EngineError> {
        let failed = |error: TractError| EngineError::Run { stage: format!("layer.{k}"), problem: format!("{error:#}") };
        self.layer_frames += x.frames() as u64;
        let runner = &mut self.layers[k - self.first_layer];
        if runner.is_program() {
            let mut done = runner.run_program(x, None, workspace)?;
            let y = done.frames(0)?;
            let f = if self.has_feature { done.frames(1)? } else { y.clone() };
            return Ok((y, f));
        }
        let mut outputs = runner.run(tvec![x.to_tensor().map_err(failed)?])?.into_iter();
        let y = runner.to_frames(outputs.next())?;
        let f = if self.has_feature { runner.to_frames(outputs.next())? } else { y.clone() };
        Ok((y, f))
    }

    /// The chunk's own rows of the present window.
    #[cfg(feature = "neighbours")]
    pub fn own(&self) -> std::ops::Range<usize> {
        self.own.clone()
    }

    /// Makes `own` the chunk's own rows of a window that comes from elsewhere.
    #[cfg(feature = "neighbours")]
    pub fn set_own(&mut self, own: std::ops::Range<usize>) {
        self.own = own;
    }

    /// The chunk's own rows of a window.
    pub fn own_rows(&self, window: &Frames) -> Frames {
        window.slice(self.own.start, self.own.len())
    }
}
