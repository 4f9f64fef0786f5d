//! KV cache of one layer as a ring buffer: a new frame overwrites the oldest of the last C frames.

use std::collections::HashMap;

use super::kernels::attention::{ByHead, UNITS, padded};
use super::program::{Cached, Columns};

/// Keys and values `[C, heads · width]` each, row by row. Row `next` is the oldest once all rows are filled.
pub(super) struct KeyValueRing {
    keys: Vec<f32>,
    values: Vec<f32>,
    /// heads · width
    dim: usize,
    /// Width of one head.
    width: usize,
    /// Rows, C.
    capacity: usize,
    /// Row of the next frame.
    next: usize,
    /// Rows that contain frames of the left context.
    pub valid: usize,
}

impl KeyValueRing {
    pub fn new(heads: usize, capacity: usize, width: usize) -> Self {
        let dim = heads * width;
        let zeros = || vec![0.0; capacity * dim];
        Self { keys: zeros(), values: zeros(), dim, width, capacity, next: 0, valid: 0 }
    }

    /// Discards all frames.
    pub fn clear(&mut self) {
        (self.next, self.valid) = (0, 0);
    }

    /// The frames for attention, oldest first, with the bias `bias` of [`RingBiases::get`].
    pub fn read<'a>(&'a self, bias: &'a [f32]) -> Cached<'a> {
        let oldest = (self.next + self.capacity - self.valid) % self.capacity.max(1);
        let first = self.valid.min(self.capacity - oldest);
        let segment = |data: &'a [f32], row: usize, frames: usize| ByHead {
            data: &data[row * self.dim..(row + frames) * self.dim],
            frames,
            head_stride: self.width,
            frame_stride: self.dim,
        };
        let both = |data: &'a [f32]| [segment(data, oldest, first), segment(data, 0, self.valid - first)];
        Cached { keys: both(&self.keys), values: both(&self.values), bias }
    }

    /// Appends `frames` frames; only the last C are kept.
    pub fn append(&mut self, keys: Columns<'_>, values: Columns<'_>, frames: usize) {
        for frame in frames.saturating_sub(self.capacity)..frames {
            let row = self.next * self.dim..(self.next + 1) * self.dim;
            self.keys[row.clone()].copy_from_slice(keys.row(frame, self.dim));
            self.values[row].copy_from_slice(values.row(frame, self.dim));
            self.next = (self.next + 1) % self.capacity;
        }
        self.valid = (self.valid + frames).min(self.capacity);
    }
}

/// Number of biases that are kept: a stream of whole chunks needs fewer, and one from a neighbour may have chunks of any length.
pub(super) const MOST_BIASES: usize = 64;

/// Attention biases over a ring by number of new and cached frames, each computed once.
///
/// The bias of query q and key j is −slope · |q + valid − j|, with one slope per head (ALiBi, arXiv 2108.12409); 0 without
/// position term. A ring contains only valid frames, so no mask is needed.
pub(super) struct RingBiases {
    slopes: Vec<f32>,
    made: HashMap<(usize, usize), Vec<f32>>,
}

impl RingBiases {
    pub fn new(slopes: Vec<f32>) -> Self {
        Self { slopes, made: HashMap::new() }
    }

    /// `[heads, keys, queries]` in the kernel's [`UNITS`], of a call with `frames` new and `valid` cached frames, the queries padded to whole groups.
    pub fn get(&mut self, frames: usize, valid: usize) -> &[f32] {
        let slopes = &self.slopes;
        if self.made.len() >= MOST_BIASES && !self.made.contains_key(&(frames, valid)) {
            self.made.clear();
        }
        self.made.entry((frames, valid)).or_insert_with(|| {
            let (keys, queries) = (valid + frames, padded(frames));
            let mut bias = Vec::with_capacity(slopes.len() * keys * queries);
            for slope in slopes {
                for key in 0..keys {
                    bias.extend((0..queries).map(|query| match query < frames {
                        true => (0.0 - slope * (query + valid).abs_diff(key) as f32) * UNITS,
                        false => 0.0,
                    }));
                }
            }
            bias
        })
    }
}
