//! The encoder: a pack's weights, ready to run layer by layer.
//!
//! [`Encoder::load`] returns an immutable [`Encoder`] behind an `Arc`, shared by all streams. The state of one stream is a
//! [`Session`](crate::stream::Session).
//
// tract is used in this folder only. `EncoderState` is a stream's caches and scratch memory; `EncoderState::begin` runs the front end
// for one chunk and returns a `Pass`, which advances one layer with each `Pass::step`.

mod cache;
mod cached;
#[cfg(feature = "keywords")]
pub(crate) mod dots;
mod error;
mod frames;
mod frontend;
mod fused;
#[cfg(feature = "neighbours")]
pub(crate) mod handover;
mod kernels;
mod matmuls;
mod precision;
mod program;
mod ring;
pub(crate) mod stage;
#[cfg(test)]
mod tests;
mod windowed;

use std::sync::Arc;

use cached::CachedState;
#[cfg(feature = "neighbours")]
pub(crate) use cached::PastChunk;
pub(crate) use cached::States;
#[cfg(feature = "keywords")]
pub(crate) use dots::Dots;
pub use error::EngineError;
pub use frames::Frames;
use fused::MatmulType;
use kernels::helpers::{self, Helpers};
pub use matmuls::MatmulSpeed;
pub use precision::{Int8Kernel, LoadOptions, MAX_THREADS, Precision};
use program::Workspace;
use stage::{Loader, Port, Runner, Signature, Size, Stage};
use windowed::WindowedState;

use crate::pack::manifest::{AudioSection, EncoderSection};
use crate::pack::{ChunkFrames, Feature, FrontendScope, GapFill, Level, MAX_STREAM_BYTES, Mode, Pack, Position, StageFile};

const NO_CTC: &str = "use a pack that has them, or train some (docs/phones.md)";
const NO_HEADS: &str = "without heads there are no units, and only the policies `fixed`, `periodic` and `never` work; train heads with \
models/convert (docs/convert.md)";

const NO_EMBEDDING: &str =
    "keywords need keyword embeddings; fit them with `python -m models.keywords.embedding PACK` (docs/keywords.md)";

/// A pack's weights, ready to run, shared by all streams.
///
/// An encoder is immutable; every method takes `&self`. Sizes are in frames, samples and dimensions, as in the pack's manifest.
#[derive(Debug)]
pub struct Encoder {
    name: String,
    spec: EncoderSection,
    audio: AudioSection,
    /// `None` if the first layers are not loaded.
    frontend: Option<Stage>,
    position: Option<Stage>,
    /// The loaded layers, up to the last.
    layers: Vec<LayerStages>,
    /// Number of the first loaded layer.
    first_layer: usize,
    heads: Branches<Stage>,
    ctc: Branches<Stage>,
    vocabulary: Vec<String>,
    gain: Branches<Stage>,
    embedding: Branches<Stage>,
    slopes: Vec<f32>,
    gap_fill: GapFill,
    precision: Precision,
}

/// Branches of the layers, by layer; 0 reads h⁰.
type Branches<T> = Vec<(usize, T)>;

/// The branch of layer `k`.
fn branch<T>(branches: &mut Branches<T>, k: usize) -> Option<&mut T> {
    branches.iter_mut().find(|(layer, _)| *layer == k).map(|(_, branch)| branch)
}

#[derive(Debug)]
struct LayerStages {
    full: Stage,
    project: Option<Stage>,
    states: Vec<(String, Vec<usize>)>,
}

/// Frames of one call to the encoder, in stream positions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WindowSpan {
    /// First frame of the call's audio; earlier frames were passed in an earlier call.
    pub audio_first: u64,
    /// First frame that attention sees (windowed mode).
    pub window_first: u64,
    /// First frame of the chunk itself.
    pub chunk_first: u64,
    /// Frames of the chunk itself.
    pub chunk_frames: usize,
}

impl Encoder {
    /// Reads, checks and optimises every stage of `pack`.
    ///
    /// # Errors
    ///
    /// [`EngineError::Load`] and [`EngineError::Shape`] name the stage that is not a usable ONNX graph, or whose inputs and outputs
    /// contradict the manifest; [`EngineError::Pack`] reports a file that changed since the pack was opened.
    pub fn load(pack: &Pack, options: &LoadOptions) -> Result<Arc<Self>, EngineError> {
        let helpers = match options.threads {
            1 => None,
            2..=MAX_THREADS => Some(Helpers::start(options.threads - 1, helpers::MIN_SHARED_MACS).map_err(EngineError::Thread)?),
            threads => return Err(EngineError::Threads { threads, max: MAX_THREADS }),
        };
        Self::load_with_helpers(pack, options, helpers)
    }

    fn load_with_helpers(pack: &Pack, options: &LoadOptions, helpers: Option<Helpers>) -> Result<Arc<Self>, EngineError> {
        let (spec, audio) = (pack.manifest.encoder.clone(), pack.manifest.audio.clone());
        let gap_fill = options.gap_fill.unwrap_or(spec.gap_fill);
        let kernel = options.int8_kernel()?;
        let precision = options.precision.resolve(kernel.is_some());
        if options.kernels.is_some() && precision == Precision::F32 {
            log::warn!("the int8 kernel has no effect in f32");
        }
        // The convolutions of windowed packs are f32 matmuls in int8 as well.
        if helpers.is_some() && precision == Precision::Int8 && spec.mode == Mode::Cached {
            log::warn!("int8 matmuls run on one thread; `threads` has an effect with f32 only");
        }
        let first_layer = options.first_layer;
        if !(1..=spec.layers).contains(&first_layer) {
            return Err(EngineError::FirstLayer { pack: pack.manifest.name.clone(), layer: first_layer, layers: spec.layers });
        }
        let whole = first_layer == 1;
        let loader = Loader::new(helpers);
        // The front end, the heads and the small stages stay in f32: they are cheap, and agreement is measured at the heads.
        let exact = |file: &StageFile, signature: &Signature| loader.stage(file, signature, MatmulType::F32);
        let matmul = match kernel.filter(|_| precision == Precision::Int8) {
            Some(kernel) => MatmulType::Int8(kernel),
            None => MatmulType::F32,
        };
        let (dim, head_dim) = (Size::Fixed(spec.dim), Size::Fixed(spec.dim / spec.heads));
        let (one, heads, context) = (Size::Fixed(1), Size::Fixed(spec.heads), Size::Fixed(spec.left_context));
        let hidden = |name: &str| Port::new(name, [one, Size::T, dim]);
        let new_keys = |name: &str| Port::new(name, [one, heads, Size::T, head_dim]);
        let logits = |classes| Port::new("logits", [one, Size::T, Size::Fixed(classes)]);

        let samples = Size::Samples { receptive_field: audio.receptive_field, hop: audio.hop };
        let signature = Signature { inputs: vec![Port::new("audio", [one, samples])], outputs: vec![hidden("x")] };
        let frontend = whole.then(|| exact(&pack.frontend, &signature)).transpose()?;
        let signature = Signature { inputs: vec![hidden("x")], outputs: vec![hidden("y")] };
        let position = pack.position.as_ref().filter(|_| whole).map(|file| exact(file, &signature)).transpose()?;

        let layer = |file: &StageFile| -> Result<LayerStages, EngineError> {
            let feature = (spec.feature == Feature::BeforeNorm).then(|| hidden("f"));
            let outputs: Vec<Port> = [hidden("y")].into_iter().chain(feature).collect();
            if spec.mode == Mode::Windowed {
                let full = loader.stage(file, &Signature { inputs: vec![hidden("x")], outputs }, matmul)?;
                return Ok(LayerStages { full, project: None, states: Vec::new() });
            }
            let state = |(name, shape): &(String, Vec<usize>), suffix: &str| {
                Port::new(format!("{name}{suffix}"), shape.iter().map(|&size| Size::Fixed(size)).collect::<Vec<_>>())
            };
            let states_in = || file.state().iter().map(|one| state(one, ""));
            let carried =
                || [new_keys("k_new"), new_keys("v_new")].into_iter().chain(file.state().iter().map(|one| state(one, "_new")));
            let cache = |name: &str| Port::new(name, [one, heads, context, head_dim]);
            let bias = Port::new("bias", [one, heads, Size::T, Size::TPlus(spec.left_context)]);
            let inputs = [hidden("x"), cache("k"), cache("v"), bias].into_iter().chain(states_in()).collect();
            let signature = Signature { inputs, outputs: outputs.into_iter().chain(carried()).collect() };
            let full = loader.stage(file, &signature, matmul)?;
            let signature =
                Signature { inputs: [hidden("x")].into_iter().chain(states_in()).collect(), outputs: carried().collect() };
            let project = (gap_fill == GapFill::Project).then(|| loader.stage(file, &signature, matmul)).transpose()?;
            Ok(LayerStages { full, project, states: file.state().to_vec() })
        };
        let layers = pack.layers.iter().skip(first_layer - 1).map(layer).collect::<Result<_, _>>()?;
        let branches = |files: &[(usize, StageFile)], output: &dyn Fn(usize) -> Port| {
            let load = |(k, file): &(usize, StageFile)| {
                Ok((*k, exact(file, &Signature { inputs: vec![hidden("f")], outputs: vec![output(*k)] })?))
            };
            // The one at the depth where chunks arrive is compared with the next one.
            files.iter().filter(|(k, _)| k + 1 >= first_layer).map(load).collect::<Result<Branches<Stage>, EngineError>>()
        };
        let vocabulary = pack.manifest.ctc.as_ref().map_or_else(Vec::new, |ctc| ctc.vocabulary.clone());
        let slopes = match spec.position {
            Position::Alibi => spec.alibi_slopes.clone(),
            Position::None => vec![0.0; spec.heads],
        };
        let width = pack.manifest.embedding.as_ref().map_or(0, |embedding| embedding.width);
        Ok(Arc::new(Self {
            name: pack.manifest.name.clone(),
            frontend,
            position,
            layers,
            first_layer,
            heads: branches(&pack.heads, &|_| logits(spec.units))?,
            ctc: branches(&pack.ctc, &|_| logits(vocabulary.len()))?,
            vocabulary,
            gain: branches(&pack.gain, &|k| Port::new("log_kl", [one, one, Size::Fixed(spec.layers - k)]))?,
            embedding: branches(&pack.embedding, &|_| Port::new("vectors", [one, Size::T, Size::Fixed(width)]))?,
            slopes,
            gap_fill,
            precision,
            spec,
            audio,
        }))
    }

    /// The pack's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The precision of the matmuls, resolved for this processor: never [`Precision::Auto`].
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// Number of layers, L.
    pub fn layers(&self) -> usize {
        self.spec.layers
    }

    /// Number of the first loaded layer: 1, unless [`LoadOptions::first_layer`] left out others.
    pub fn first_layer(&self) -> usize {
        self.first_layer
    }

    /// Hidden size, D.
    pub fn dim(&self) -> usize {
        self.spec.dim
    }

    /// Classes of an exit head, U.
    pub fn units(&self) -> usize {
        self.spec.units
    }

    /// Whether layers have exit heads.
    pub fn has_heads(&self) -> bool {
        !self.heads.is_empty()
    }

    /// Whether a chunk may exit before the first layer: h⁰ has a head.
    pub fn may_exit_at_frontend(&self) -> bool {
        self.heads.first().is_some_and(|(layer, _)| *layer == 0)
    }

    /// Classes of the CTC branches, the blank first; empty for a pack without branches.
    pub fn vocabulary(&self) -> &[String] {
        if self.ctc.is_empty() { &[] } else { &self.vocabulary }
    }

    /// Whether layer `k` has a CTC branch; 0 for h⁰.
    pub fn has_ctc(&self, k: usize) -> bool {
        self.ctc.iter().any(|(layer, _)| *layer == k)
    }

    /// Whether every layer at which a chunk may exit has a CTC branch, so that recognising phones changes no exit.
    pub fn has_all_ctc(&self) -> bool {
        (usize::from(!self.may_exit_at_frontend())..=self.layers()).all(|layer| self.has_ctc(layer))
    }

    /// The unit for silence, if the pack has heads and such a unit.
    pub fn quiet_unit(&self) -> Option<usize> {
        self.spec.quiet_unit.filter(|_| self.has_heads())
    }

    /// Rate, hop and receptive field.
    pub fn audio(&self) -> &AudioSection {
        &self.audio
    }

    /// Whether the front end needs the whole window at each call (a norm over time).
    pub(crate) fn frontend_needs_window(&self) -> bool {
        self.spec.frontend_scope == FrontendScope::Window
    }

    /// Chunk size if none is chosen, frames.
    pub fn default_chunk_frames(&self) -> usize {
        self.spec.default_chunk()
    }

    /// The largest chunk that the pack allows, frames.
    #[cfg(feature = "neighbours")]
    pub(crate) fn largest_chunk(&self) -> usize {
        self.spec.chunk_frames.largest()
    }

    /// Frames before the chunk that attention sees.
    pub fn left_context(&self) -> usize {
        self.spec.left_context
    }

    /// Frames after the chunk that attention sees.
    pub fn right_context(&self) -> usize {
        self.spec.right_context
    }

    /// Rejects a chunk size that the pack does not support.
    pub fn check_chunk(&self, frames: usize) -> Result<(), EngineError> {
        let allowed: &ChunkFrames = &self.spec.chunk_frames;
        if !allowed.contains(frames) {
            let frame_ms = 1e3 * self.audio.hop as f64 / f64::from(self.audio.sample_rate);
            return Err(EngineError::ChunkFrames { pack: self.name.clone(), allowed: allowed.to_string(), frames, frame_ms });
        }
        let bytes = self.spec.stream_bytes(frames);
        match bytes > MAX_STREAM_BYTES {
            true => Err(EngineError::ChunkMemory { pack: self.name.clone(), frames, mebibytes: (bytes >> 20) as u64 }),
            false => Ok(()),
        }
    }

    /// Whether the state that heads read is the layer's output `y`.
    #[cfg(feature = "neighbours")]
    pub(crate) fn feature_is_output(&self) -> bool {
        !self.has_feature()
    }

    /// Rejects a pack without exit heads.
    ///
    /// # Errors
    ///
    /// [`EngineError::NoStage`].
    pub fn check_heads(&self) -> Result<(), EngineError> {
        match self.has_heads() {
            true => Ok(()),
            false => Err(EngineError::NoStage { pack: self.name.clone(), stage: "head.1".into(), hint: NO_HEADS.into() }),
        }
    }

    /// Rejects a pack without CTC branches.
    pub fn check_ctc(&self) -> Result<(), EngineError> {
        match self.ctc.iter().any(|(layer, _)| *layer > 0) {
            true => Ok(()),
            false => Err(EngineError::NoStage { pack: self.name.clone(), stage: "CTC branches".into(), hint: NO_CTC.into() }),
        }
    }

    /// Rejects a pack without keyword embeddings.
    pub fn check_embedding(&self) -> Result<(), EngineError> {
        match self.embedding.is_empty() {
            false => Ok(()),
            true => Err(EngineError::NoStage { pack: self.name.clone(), stage: "embedding.1".into(), hint: NO_EMBEDDING.into() }),
        }
    }

    fn has_feature(&self) -> bool {
        self.spec.feature == Feature::BeforeNorm
    }
}

/// One stream's state of an encoder.
pub struct EncoderState {
    encoder: Arc<Encoder>,
    frontend: Option<Runner>,
    mode: ModeState,
    heads: Branches<Runner>,
    ctc: Branches<Runner>,
    gain: Branches<Runner>,
    embedding: Branches<Runner>,
    /// Whether the output of every layer is kept for the left context, not only that of the exit layer (cached mode).
    keep_states: bool,
    /// The memory of the last chunk's list of features.
    features: Vec<Frames>,
    /// Memory of the programs of all stages.
    workspace: Workspace,
}

enum ModeState {
    Cached(CachedState),
    Windowed(WindowedState),
}

/// Work done since the start, in frame-passes (one frame through one layer).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Work {
    /// Through whole layers.
    pub layer_frames: u64,
    /// Through the key and value projections only.
    pub projected_frames: u64,
    /// MACs of every stage that ran, front end and heads included.
    pub macs: u64,
}

impl EncoderState {
    /// Starts a stream on `encoder`.
    pub fn new(encoder: &Arc<Encoder>) -> Result<Self, EngineError> {
        let runners = |branches: &Branches<Stage>| {
            branches.iter().map(|(k, stage)| Ok((*k, stage.runner()?))).collect::<Result<Branches<Runner>, EngineError>>()
        };
        Ok(Self {
            frontend: encoder.frontend.as_ref().map(Stage::runner).transpose()?,
            mode: match encoder.spec.mode {
                Mode::Cached => ModeState::Cached(CachedState::new(encoder)?),
                Mode::Windowed => ModeState::Windowed(WindowedState::new(encoder)?),
            },
            heads: runners(&encoder.heads)?,
            ctc: runners(&encoder.ctc)?,
            gain: runners(&encoder.gain)?,
            embedding: runners(&encoder.embedding)?,
            keep_states: false,
            features: Vec::with_capacity(encoder.layers() + 1),
            workspace: Workspace::default(),
            encoder: encoder.clone(),
        })
    }

    /// The weights.
    pub fn encoder(&self) -> &Arc<Encoder> {
        &self.encoder
    }

    /// Work done since the start.
    pub fn work(&self) -> Work {
        let (layer_frames, projected_frames, layers) = match &self.mode {
            ModeState::Cached(state) => (state.layer_frames, state.projected_frames, state.macs()),
            ModeState::Windowed(state) => (state.layer_frames, 0, state.macs()),
        };
        let branches = self.heads.iter().chain(&self.ctc).chain(&self.gain).chain(&self.embedding);
        let others: u64 = branches.map(|(_, branch)| branch.macs()).sum();
        Work { layer_frames, projected_frames, macs: self.frontend.as_ref().map_or(0, Runner::macs) + layers + others }
    }

    /// Runs the front end on the chunk's samples: `receptive_field + (T-1) * hop` of them, for T frames from `span.audio_first`; none if
    /// an earlier call provided all frames of the window (at the end of a windowed stream).
    pub fn begin(&mut self, samples: &[f32], span: WindowSpan) -> Result<Pass<'_>, EngineError> {
        let Some(frontend) = &mut self.frontend else {
            let hint = format!("only layers from {} on were loaded", self.encoder.first_layer);
            return Err(EngineError::NoStage { pack: self.encoder.name.clone(), stage: "frontend".into(), hint });
        };
        let fresh = match (samples.is_empty(), self.encoder.audio.level) {
            (true, _) => Frames::build(0, self.encoder.spec.dim, |_| {}),
            (_, Level::Raw) => frontend.audio(samples)?,
            (_, Level::WindowNorm) => frontend.audio(&normalised(samples))?,
        };
        let (x, own) = match &mut self.mode {
            ModeState::Cached(_) => (fresh.clone(), fresh),
            ModeState::Windowed(state) => {
                let window = state.begin(&fresh, span, &mut self.workspace)?;
                let own = state.own_rows(&window);
                (window, own)
            }
        };
        let earlier = match &mut self.mode {
            ModeState::Cached(state) => state.no_states(),
            ModeState::Windowed(_) => States::new(),
        };
        let mut features = std::mem::take(&mut self.features);
        features.push(own);
        Ok(Pass { state: self, first_frame: span.chunk_first, x, first_depth: 0, features, earlier })
    }
}

/// Zero mean, unit variance, as `do_normalize` of Hugging Face's feature extractors.
fn normalised(samples: &[f32]) -> Vec<f32> {
    let count = samples.len().max(1) as f64;
    let mean = samples.iter().map(|&x| f64::from(x)).sum::<f64>() / count;
    let variance = samples.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / count;
    let scale = 1.0 / (variance + 1e-7).sqrt();
    samples.iter().map(|&x| ((f64::from(x) - mean) * scale) as f32).collect()
}

/// One chunk in progress, layer by layer.
pub struct Pass<'a> {
    state: &'a mut EncoderState,
    first_frame: u64,
    /// Input of the next layer.
    x: Frames,
    /// Depth of the first of `features`: 0, unless the layers before were computed elsewhere.
    first_depth: usize,
    /// h⁰ and the features of the layers so far, the chunk's own frames.
    features: Vec<Frames>,
    /// Inputs of the layers so far, where they are kept.
    earlier: States,
}

impl Pass<'_> {
    /// Classes of an exit head.
    pub(crate) fn units(&self) -> usize {
        self.state.encoder.units()
    }

    /// Number of layers that have run.
    pub fn depth(&self) -> usize {
        self.first_depth + self.features.len() - 1
    }

    /// Runs the next layer and returns its number, from 1. Calling it after the last layer is an error.
    pub fn step(&mut self) -> Result<usize, EngineError> {
        let k = self.depth() + 1;
        let layers = self.state.encoder.layers();
        if k > layers {
            return Err(self.state.no_stage(format!("layer.{k}"), format!("its last layer is {layers}")));
        }
        let workspace = &mut self.state.workspace;
        let (y, feature) = match &mut self.state.mode {
            ModeState::Cached(state) => state.layer(k, self.first_frame, &self.x, workspace)?,
            ModeState::Windowed(state) => {
                let (y, feature) = state.layer(k, &self.x, workspace)?;
                (y, state.own_rows(&feature))
            }
        };
        let x = std::mem::replace(&mut self.x, y);
        if self.state.keep_states {
            self.earlier.push((k - 1, x));
        }
        self.features.push(feature);
        Ok(k)
    }

    /// Unit logits `[T, U]` of the current layer's head; at depth 0 of the head on h⁰, if the pack has one.
    pub fn head(&mut self) -> Result<Frames, EngineError> {
        let k = self.depth();
        match branch(&mut self.state.heads, k) {
            Some(head) => head.frames(&self.features[k - self.first_depth], &mut self.state.workspace),
            None => Err(self.state.no_stage(format!("head.{k}"), NO_HEADS.into())),
        }
    }

    /// CTC logits `[T, V]` of the current layer's branch, if it has one.
    pub fn ctc(&mut self) -> Result<Option<Frames>, EngineError> {
        let k = self.depth();
        branch(&mut self.state.ctc, k)
            .map(|branch| branch.frames(&self.features[k - self.first_depth], &mut self.state.workspace))
            .transpose()
    }

    /// Keyword embedding `[T, width]` from the current layer's branch.
    pub fn embedding(&mut self) -> Result<Frames, EngineError> {
        let k = self.depth();
        match branch(&mut self.state.embedding, k) {
            Some(embedding) => embedding.frames(&self.features[k - self.first_depth], &mut self.state.workspace),
            None => Err(self.state.no_stage(format!("embedding.{k}"), NO_EMBEDDING.into())),
        }
    }

    /// Forecast of the current layer's predictor: ln KL(p_L ‖ p_j) for j = k … L−1, nats, one row.
    pub fn forecast(&mut self) -> Result<Frames, EngineError> {
        let k = self.depth();
        match branch(&mut self.state.gain, k) {
            Some(gain) => gain.frames(&self.features[k - self.first_depth], &mut self.state.workspace),
            None => Err(self.state.no_stage(format!("gain.{k}"), "only the policy `gain` needs it".into())),
        }
    }

    /// Feature of layer k, `[T, D]`, the chunk's own frames; h⁰ at k = 0.
    pub fn feature(&self, k: usize) -> &Frames {
        &self.features[k - self.first_depth]
    }

    /// The features so far: h⁰ and layers 1 to the current one, without those computed elsewhere.
    pub fn features(&self) -> &[Frames] {
        &self.features
    }

    /// Ends the chunk here.
    pub fn finish(self) {
        let depth = self.depth();
        let Self { state, first_frame, x, mut features, mut earlier, .. } = self;
        features.clear();
        state.features = features;
        if let ModeState::Cached(state) = &mut state.mode {
            earlier.push((depth, x));
            state.finish(first_frame, earlier);
        }
    }
}

impl EncoderState {
    fn no_stage(&self, stage: String, hint: String) -> EngineError {
        EngineError::NoStage { pack: self.encoder.name.clone(), stage, hint }
    }
}
