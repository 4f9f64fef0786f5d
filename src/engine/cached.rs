//! The cached mode: every layer keeps the keys and values of the last C frames, so a chunk costs its own frames only.
//!
//! A chunk that exits after layer e leaves nothing in the caches of layers e+1 … L. When a later chunk goes deeper, those
//! of its left context are filled in first, layer by layer, only as deep as it goes ([`GapFill`]).

use std::collections::VecDeque;

use tract_onnx::prelude::*;

use super::cache::{Biases, LayerCache};
use super::error::EngineError;
use super::stage::Runner;
use super::{Encoder, Frames};
use crate::pack::GapFill;

/// A chunk in the left context, and the output `y` of the last layer that it went through.
struct PastChunk {
    first_frame: u64,
    state: Frames,
}

impl PastChunk {
    fn end(&self) -> u64 {
        self.first_frame + self.state.frames() as u64
    }
}

/// One layer with this stream's state.
struct CachedLayer {
    full: Runner,
    /// Cut at the keys and values.
    project: Option<Runner>,
    cache: LayerCache,
}

/// One stream's state of a cached encoder.
pub(super) struct CachedState {
    layers: Vec<CachedLayer>,
    biases: Biases,
    past: VecDeque<PastChunk>,
    left_context: u64,
    gap_fill: GapFill,
    has_feature: bool,
    /// Frame-passes through whole layers, and through projections alone, since the start.
    pub layer_frames: u64,
    pub projected_frames: u64,
}

impl CachedState {
    pub fn new(encoder: &Encoder) -> Result<Self, EngineError> {
        let spec = &encoder.spec;
        let run = |error: TractError| EngineError::Run { stage: "the caches".into(), problem: format!("{error:#}") };
        let layers = encoder.layers.iter().map(|layer| {
            Ok(CachedLayer {
                full: layer.full.runner()?,
                project: layer.project.as_ref().map(super::stage::Stage::runner).transpose()?,
                cache: LayerCache::new(spec.heads, spec.left_context, spec.dim / spec.heads, &layer.states).map_err(run)?,
            })
        });
        Ok(Self {
            layers: layers.collect::<Result<_, EngineError>>()?,
            biases: Biases::new(encoder.slopes.clone(), spec.left_context),
            past: VecDeque::new(),
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
    pub fn layer(&mut self, k: usize, first_frame: u64, x: &Frames) -> Result<(Frames, Frames), EngineError> {
        self.fill(k, first_frame)?;
        self.run(k, x)
    }

    /// Remembers where the chunk stopped, for later chunks that go deeper.
    pub fn finish(&mut self, first_frame: u64, state: Frames) {
        self.past.push_back(PastChunk { first_frame, state });
        let horizon = self.past.back().map_or(0, PastChunk::end).saturating_sub(self.left_context);
        while self.past.front().is_some_and(|chunk| chunk.end() <= horizon) {
            self.past.pop_front();
        }
    }

    /// Brings the cache of layer `k` up to `first_frame`: fills in the chunks of the left context that stopped before it.
    fn fill(&mut self, k: usize, first_frame: u64) -> Result<(), EngineError> {
        let next = self.layers[k - 1].cache.next_frame;
        if next == first_frame {
            return Ok(());
        }
        let from = self.past.iter().position(|chunk| chunk.first_frame >= next);
        let resume = from.map_or(first_frame, |index| self.past[index].first_frame);
        if resume != next {
            // Frames that fell out of everybody's left context were never computed here: what is older is out of it, too.
            self.layers[k - 1].cache.restart_at(resume);
        }
        for index in from.unwrap_or(self.past.len())..self.past.len() {
            let state = self.past[index].state.clone();
            match self.gap_fill {
                GapFill::CatchUp => {
                    let (y, _) = self.run(k, &state)?;
                    self.past[index].state = y;
                }
                GapFill::Project => self.project(k, &state)?,
            }
        }
        Ok(())
    }

    fn run(&mut self, k: usize, x: &Frames) -> Result<(Frames, Frames), EngineError> {
        let layer = &mut self.layers[k - 1];
        let frames = x.frames();
        self.layer_frames += frames as u64;
        let failed = |error: TractError| EngineError::Run { stage: format!("layer.{k}"), problem: format!("{error:#}") };
        let bias = self.biases.get(frames, layer.cache.valid).map_err(failed)?;
        let mut inputs = tvec![x.value(), layer.cache.keys(), layer.cache.values(), bias];
        inputs.extend(layer.cache.states());
        let mut outputs = layer.full.run(inputs)?.into_iter();
        let y = layer.full.to_frames(outputs.next())?;
        let f = match self.has_feature {
            true => layer.full.to_frames(outputs.next())?,
            false => y.clone(),
        };
        layer.cache.append(outputs, frames).map_err(failed)?;
        Ok((y, f))
    }

    /// The exit state stands in for the input of layer `k`: only its keys, values and states are made.
    fn project(&mut self, k: usize, x: &Frames) -> Result<(), EngineError> {
        let layer = &mut self.layers[k - 1];
        let failed = |problem: String| EngineError::Run { stage: format!("layer.{k} (keys and values)"), problem };
        let runner = layer.project.as_mut().ok_or_else(|| failed("was loaded without its projections".into()))?;
        let mut inputs = tvec![x.value()];
        inputs.extend(layer.cache.states());
        let outputs = runner.run(inputs)?;
        self.projected_frames += x.frames() as u64;
        layer.cache.append(outputs, x.frames()).map_err(|error| failed(format!("{error:#}")))
    }
}
