//! KV cache of a layer that tract runs: the last C frames as tensors, right-aligned to the next frame.

use std::collections::HashMap;
use std::sync::Arc;

use tract_onnx::prelude::*;

/// Additive bias of masked positions.
const MASKED: f32 = -1e4;

/// State of one layer between chunks.
pub(super) struct LayerCache {
    /// `[1, H, C, D/H]`; column C−1 is the newest frame.
    keys: Arc<Tensor>,
    values: Arc<Tensor>,
    /// Additional declared states, in the manifest's order.
    states: Vec<TValue>,
    zero_states: Vec<TValue>,
    /// Number of the C columns that contain frames.
    pub valid: usize,
}

impl LayerCache {
    pub fn new(heads: usize, context: usize, head_dim: usize, states: &[(String, Vec<usize>)]) -> TractResult<Self> {
        let zeros = || Tensor::zero::<f32>(&[1, heads, context, head_dim]).map(Arc::new);
        let zero_states: Vec<TValue> =
            states.iter().map(|(_, shape)| Ok(Tensor::zero::<f32>(shape)?.into())).collect::<TractResult<_>>()?;
        Ok(Self { keys: zeros()?, values: zeros()?, states: zero_states.clone(), zero_states, valid: 0 })
    }

    /// Drops all frames.
    pub fn clear(&mut self) {
        self.valid = 0;
        self.states.clone_from(&self.zero_states);
    }

    pub fn keys(&self) -> TValue {
        TValue::from_const(self.keys.clone())
    }

    pub fn values(&self) -> TValue {
        TValue::from_const(self.values.clone())
    }

    pub fn states(&self) -> impl Iterator<Item = TValue> + '_ {
        self.states.iter().cloned()
    }

    /// Appends `frames` new frames: `new` is k_new, v_new and the states that follow.
    pub fn append(&mut self, new: impl IntoIterator<Item = TValue>, frames: usize) -> TractResult<()> {
        let mut new = new.into_iter();
        for cache in [&mut self.keys, &mut self.values] {
            let fresh = new.next().ok_or_else(|| TractError::msg("a layer returned no keys or values"))?;
            shift_in(Arc::make_mut(cache), &fresh)?;
        }
        for (state, fresh) in self.states.iter_mut().zip(new) {
            *state = fresh;
        }
        self.valid = (self.valid + frames).min(self.keys.shape()[2]);
        Ok(())
    }
}

/// Moves `cache [1, H, C, d]` left by T columns and writes `fresh [1, H, T, d]` at its end.
fn shift_in(cache: &mut Tensor, fresh: &Tensor) -> TractResult<()> {
    let (columns, added, width) = (cache.shape()[2], fresh.shape()[2], cache.shape()[3]);
    if columns == 0 {
        return Ok(());
    }
    let (kept, taken) = (columns.saturating_sub(added), added.min(columns));
    let fresh = fresh.try_as_plain_ram()?;
    let fresh = fresh.as_slice::<f32>()?;
    let mut cache = cache.try_as_plain_ram_mut()?;
    let cache = cache.as_slice_mut::<f32>()?;
    for (cache, fresh) in cache.chunks_exact_mut(columns * width).zip(fresh.chunks_exact(added * width)) {
        cache.copy_within((columns - kept) * width.., 0);
        cache[kept * width..].copy_from_slice(&fresh[(added - taken) * width..]);
    }
    Ok(())
}

/// Attention biases `[1, H, T, C+T]` by shape, each computed once.
pub(super) struct Biases {
    slopes: Vec<f32>,
    context: usize,
    made: HashMap<(usize, usize), TValue>,
}

impl Biases {
    /// `slopes` has one slope per attention head; zeros if the pack has no position term.
    pub fn new(slopes: Vec<f32>, context: usize) -> Self {
        Self { slopes, context, made: HashMap::new() }
    }

    /// The bias of a call with `frames` new frames and `valid` cached ones.
    pub fn get(&mut self, frames: usize, valid: usize) -> TractResult<TValue> {
        if let Some(made) = self.made.get(&(frames, valid)) {
            return Ok(made.clone());
        }
        if self.made.len() >= super::ring::MOST_BIASES {
            self.made.clear();
        }
        let columns = self.context + frames;
        let mut bias = Vec::with_capacity(self.slopes.len() * frames * columns);
        for slope in &self.slopes {
            for query in 0..frames {
                bias.extend((0..columns).map(|column| {
                    let distance = (query + self.context).abs_diff(column) as f32;
                    let masked = if column < self.context - valid { MASKED } else { 0.0 };
                    masked - slope * distance
                }));
            }
        }
        let bias: TValue = Tensor::from_shape(&[1, self.slopes.len(), frames, columns], &bias)?.into();
        self.made.insert((frames, valid), bias.clone());
        Ok(bias)
    }
}
