//! Cached mode: each layer keeps the keys and values of the last C frames, so a chunk costs only its own frames.
//!
//! A chunk that exits after layer e adds nothing to the caches of layers e+1 … L. When a later chunk goes deeper, the missing frames
//! of its left context are filled in first, layer by layer, and only as deep as that chunk goes ([`GapFill`]).

use std::collections::VecDeque;

use tract_onnx::prelude::*;

use super::cache::{Biases, LayerCache};
use super::error::EngineError;
use super::program::Workspace;
use super::ring::{KeyValueRing, RingBiases};
use super::stage::{Runner, Stage};
use super::{Encoder, Frames, LayerStages};
use crate::pack::GapFill;
use crate::pack::manifest::EncoderSection;

/// The outputs `y` of a chunk's layers, with their depths in ascending order.
pub(crate) type States = Vec<(usize, Frames)>;

/// A chunk in the left context, with the known outputs of its layers: that of its exit layer, and others that a neighbour may need.
#[derive(Debug, Clone)]
pub(crate) struct PastChunk {
    /// Its first frame.
    pub first_frame: u64,
    /// At least one.
    pub states: States,
}

impl PastChunk {
    /// The frame after its last one.
    pub fn end(&self) -> u64 {
        self.first_frame + self.states.last().map_or(0, |(_, state)| state.frames()) as u64
    }

    /// What stands in for the input of layer `k`: the output of the deepest known layer before it. After an exit before layer
    /// k − 1, that is the exit state.
    fn input(&self, k: usize) -> Option<&Frames> {
        self.states.iter().rev().find(|(depth, _)| *depth < k).map(|(_, state)| state)
    }

    /// Adds the states whose depths are not known yet.
    #[cfg(feature = "neighbours")]
    fn add(&mut self, states: States) {
        let frames = self.end() - self.first_frame;
        for (depth, state) in states.into_iter().filter(|(_, state)| state.frames() as u64 == frames) {
            if let Err(place) = self.states.binary_search_by_key(&depth, |(known, _)| *known) {
                self.states.insert(place, (depth, state));
            }
        }
    }
}

/// One layer and its state in this stream.
struct CachedLayer {
    full: Runner,
    /// The layer's graph up to the keys and values.
    project: Option<Runner>,
    cache: Cache,
    /// The frame after the last one in the cache.
    next_frame: u64,
}

/// The KV cache of a layer, by the engine that runs it.
enum Cache {
    /// Bellis's kernels.
    Ring(KeyValueRing),
    /// tract's plan.
    Tensors(LayerCache),
}

/// Creates a stream's state of a stage.
type MakeRunner = fn(&Stage) -> Result<Runner, EngineError>;

impl CachedLayer {
    fn new(layer: &LayerStages, spec: &EncoderSection) -> Result<Self, EngineError> {
        let width = spec.dim / spec.heads;
        let own = |stage: &Stage| stage.program().is_some();
        let programs = own(&layer.full) && layer.project.as_ref().is_none_or(own);
        let (runner, cache): (MakeRunner, _) = match programs && layer.states.is_empty() {
            true => (Stage::runner, Cache::Ring(KeyValueRing::new(spec.heads, spec.left_context, width))),
            false => {
                let failed = |error: TractError| EngineError::Run { stage: "the caches".into(), problem: format!("{error:#}") };
                let cache = LayerCache::new(spec.heads, spec.left_context, width, &layer.states).map_err(failed)?;
                (Stage::plan_runner, Cache::Tensors(cache))
            }
        };
        Ok(Self { full: runner(&layer.full)?, project: layer.project.as_ref().map(runner).transpose()?, cache, next_frame: 0 })
    }

    /// Discards all frames; the next one is `frame`.
    fn restart_at(&mut self, frame: u64) {
        self.next_frame = frame;
        match &mut self.cache {
            Cache::Ring(ring) => ring.clear(),
            Cache::Tensors(cache) => cache.clear(),
        }
    }
}

/// One stream's state of a cached encoder.
pub(super) struct CachedState {
    layers: Vec<CachedLayer>,
    /// Number of the first of them.
    first_layer: usize,
    biases: Biases,
    ring_biases: RingBiases,
    past: VecDeque<PastChunk>,
    /// The memory of a chunk that has left the context, for the next one.
    spare: States,
    left_context: u64,
    gap_fill: GapFill,
    has_feature: bool,
    /// Frame-passes through whole layers, and through projections only, since the start.
    pub layer_frames: u64,
    pub projected_frames: u64,
}

impl CachedState {
    pub fn new(encoder: &Encoder) -> Result<Self, EngineError> {
        let spec = &encoder.spec;
        let layers = encoder.layers.iter().map(|layer| CachedLayer::new(layer, spec));
        Ok(Self {
            layers: layers.collect::<Result<_, EngineError>>()?,
            first_layer: encoder.first_layer,
            biases: Biases::new(encoder.slopes.clone(), spec.left_context),
            ring_biases: RingBiases::new(encoder.slopes.clone()),
            past: VecDeque::new(),
            spare: States::new(),
            left_context: spec.left_context as u64,
            gap_fill: encoder.gap_fill,
            has_feature: encoder.has_feature(),
            layer_frames: 0,
            projected_frames: 0,
        })
    }

    /// MACs since the start.
    pub fn macs(&self) -> u64 {
        let runners = self.layers.iter().flat_map(|layer| [&layer.full].into_iter().chain(&layer.project));
        runners.map(Runner::macs).sum()
    }

    /// Runs layer `k` (from 1) on `x` of the chunk that starts at `first_frame`; returns its output and its feature.
    pub fn layer(
        &mut self,
        k: usize,
        first_frame: u64,
        x: &Frames,
        workspace: &mut Workspace,
    ) -> Result<(Frames, Frames), EngineError> {
        self.fill(k, first_frame, workspace)?;
        self.run(k, x, workspace)
    }

    /// Stores the state at the chunk's exit, and others that are known, for later chunks that go deeper.
    pub fn finish(&mut self, first_frame: u64, states: States) {
        self.past.push_back(PastChunk { first_frame, states });
        let horizon = self.past.back().map_or(0, PastChunk::end).saturating_sub(self.left_context);
        self.forget(horizon);
    }

    /// Drops the chunks that end at `horizon` or before.
    fn forget(&mut self, horizon: u64) {
        while self.past.front().is_some_and(|chunk| chunk.end() <= horizon) {
            if let Some(chunk) = self.past.pop_front() {
                self.spare = chunk.states;
                self.spare.clear();
            }
        }
    }

    /// An empty list of states, in used memory if there is some.
    pub fn no_states(&mut self) -> States {
        std::mem::take(&mut self.spare)
    }

    /// The chunks of the left context of a chunk that starts at `first_frame`, oldest first.
    #[cfg(feature = "neighbours")]
    pub fn context(&self, first_frame: u64) -> impl Iterator<Item = &PastChunk> {
        let horizon = first_frame.saturating_sub(self.left_context);
        self.past.iter().filter(move |chunk| chunk.end() > horizon && chunk.first_frame < first_frame)
    }

    /// Adds what is known elsewhere of the left context of a chunk that starts at `first_frame`: states of chunks known here,
    /// and whole chunks. A chunk that overlaps a known one is ignored.
    #[cfg(feature = "neighbours")]
    pub fn add_context(&mut self, first_frame: u64, chunks: impl IntoIterator<Item = PastChunk>) {
        self.forget(first_frame.saturating_sub(self.left_context));
        for chunk in chunks {
            match self.past.binary_search_by_key(&chunk.first_frame, |known| known.first_frame) {
                Ok(index) => self.past[index].add(chunk.states),
                Err(index) => {
                    let before = index.checked_sub(1).and_then(|index| self.past.get(index));
                    let apart = before.is_none_or(|known| known.end() <= chunk.first_frame)
                        && self.past.get(index).is_none_or(|known| chunk.end() <= known.first_frame);
                    if apart {
                        self.past.insert(index, chunk);
                    }
                }
            }
        }
    }

    /// The chunk that starts at `first_frame`, if states of it are known.
    #[cfg(feature = "neighbours")]
    pub fn chunk(&self, first_frame: u64) -> Option<&PastChunk> {
        let index = self.past.binary_search_by_key(&first_frame, |known| known.first_frame).ok()?;
        self.past.get(index)
    }

    /// Adds states of the chunk of the left context that starts at `first_frame`, if it is still there.
    #[cfg(feature = "neighbours")]
    pub fn add_to(&mut self, first_frame: u64, states: States) {
        if let Ok(index) = self.past.binary_search_by_key(&first_frame, |known| known.first_frame) {
            self.past[index].add(states);
        }
    }

    /// Fills the cache of layer `k` up to `first_frame`: adds the chunks of the left context that exited before that layer.
    fn fill(&mut self, k: usize, first_frame: u64, workspace: &mut Workspace) -> Result<(), EngineError> {
        let next = self.layers[k - self.first_layer].next_frame;
        if next == first_frame {
            return Ok(());
        }
        // Only chunks that follow each other up to this one: what was computed elsewhere may be missing before them.
        let (mut from, mut resume) = (self.past.len(), first_frame);
        while let Some(chunk) = from.checked_sub(1).map(|index| &self.past[index])
            && chunk.end() == resume
            && chunk.first_frame >= next
        {
            (from, resume) = (from - 1, chunk.first_frame);
        }
        if resume != next {
            // Frames that have left the context were never computed here, and older ones have left it as well.
            self.layers[k - self.first_layer].restart_at(resume);
        }
        for index in from..self.past.len() {
            let unknown =
                || EngineError::Run { stage: format!("layer.{k}"), problem: "no state of an earlier chunk is known".into() };
            let state = self.past[index].input(k).cloned().ok_or_else(unknown)?;
            match self.gap_fill {
                GapFill::CatchUp => {
                    let (y, _) = self.run(k, &state, workspace)?;
                    self.past[index].states.clear();
                    self.past[index].states.push((k, y));
                }
                GapFill::Project => self.project(k, &state, workspace)?,
            }
        }
        Ok(())
    }

    fn run(&mut self, k: usize, x: &Frames, workspace: &mut Workspace) -> Result<(Frames, Frames), EngineError> {
        let layer = &mut self.layers[k - self.first_layer];
        let frames = x.frames();
        self.layer_frames += frames as u64;
        layer.next_frame += frames as u64;
        match &mut layer.cache {
            Cache::Ring(ring) => {
                let bias = self.ring_biases.get(frames, ring.valid);
                let mut done = layer.full.run_program(x, Some(ring.read(bias)), workspace)?;
                let y = done.frames(0)?;
                let (f, carried) = match self.has_feature {
                    true => (done.frames(1)?, 2),
                    false => (y.clone(), 1),
                };
                ring.append(done.columns(carried)?, done.columns(carried + 1)?, frames);
                Ok((y, f))
            }
            Cache::Tensors(cache) => {
                let failed = |error: TractError| EngineError::Run { stage: format!("layer.{k}"), problem: format!("{error:#}") };
                let bias = self.biases.get(frames, cache.valid).map_err(failed)?;
                let mut inputs = tvec![x.to_tensor().map_err(failed)?, cache.keys(), cache.values(), bias];
                inputs.extend(cache.states());
                let mut outputs = layer.full.run(inputs)?.into_iter();
                let y = layer.full.to_frames(outputs.next())?;
                let f = match self.has_feature {
                    true => layer.full.to_frames(outputs.next())?,
                    false => y.clone(),
                };
                cache.append(outputs, frames).map_err(failed)?;
                Ok((y, f))
            }
        }
    }

    /// Uses the exit state as the input of layer `k`, and computes only the keys, values and states.
    fn project(&mut self, k: usize, x: &Frames, workspace: &mut Workspace) -> Result<(), EngineError> {
        let layer = &mut self.layers[k - self.first_layer];
        let failed = |problem: String| EngineError::Run { stage: format!("layer.{k} (keys and values)"), problem };
        let runner = layer.project.as_mut().ok_or_else(|| failed("was loaded without key and value projections".into()))?;
        let frames = x.frames();
        self.projected_frames += frames as u64;
        layer.next_frame += frames as u64;
        match &mut layer.cache {
            Cache::Ring(ring) => {
                let done = runner.run_program(x, None, workspace)?;
                ring.append(done.columns(0)?, done.columns(1)?, frames);
            }
            Cache::Tensors(cache) => {
                let mut inputs = tvec![x.to_tensor().map_err(|error| failed(format!("{error:#}")))?];
                inputs.extend(cache.states());
                let outputs = runner.run(inputs)?;
                cache.append(outputs, frames).map_err(|error| failed(format!("{error:#}")))?;
            }
        }
        Ok(())
    }
}
