//! Matrices of frames.

use std::sync::Arc;

use tract_onnx::prelude::*;

/// A matrix of frames, `[frames, dim]` f32 in row-major order. Clones share the values.
///
/// ```
/// use bellis::engine::Frames;
///
/// let frames = Frames::from_vec(vec![1.0, 2.0, 3.0, 4.0], 2);
/// assert_eq!(frames.rows().map(|row| row[0]).collect::<Vec<_>>(), [1.0, 3.0]);
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Frames {
    values: Arc<Vec<f32>>,
    dim: usize,
}

impl Frames {
    /// Creates a matrix of `values.len() / dim` frames.
    ///
    /// # Panics
    ///
    /// If the number of values is not a multiple of `dim`.
    pub fn from_vec(values: Vec<f32>, dim: usize) -> Self {
        assert!(values.len().is_multiple_of(dim.max(1)), "{} values are not a multiple of the dimension {dim}", values.len());
        Self { values: Arc::new(values), dim }
    }

    /// Copies rows; `rows.len()` must be `frames * dim`.
    pub(super) fn from_rows(rows: &[f32], dim: usize) -> Self {
        Self::from_vec(rows.to_vec(), dim)
    }

    /// Creates `frames` frames of `dim` zeros, which `fill` overwrites.
    pub(crate) fn build(frames: usize, dim: usize, fill: impl FnOnce(&mut [f32])) -> Self {
        let mut values = vec![0.0; frames * dim];
        fill(&mut values);
        Self::from_vec(values, dim)
    }

    /// Copies a stage's output `[1, T, D]`; `None` for any other shape or type.
    pub(super) fn from_output(value: &TValue) -> Option<Self> {
        let [1, _, dim] = *value.shape() else { return None };
        Some(Self::from_rows(value.try_as_plain_ram().ok()?.as_slice::<f32>().ok()?, dim))
    }

    /// Number of frames, T.
    pub fn frames(&self) -> usize {
        self.values.len() / self.dim.max(1)
    }

    /// Dimensions per frame, D.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// All values in row-major order.
    pub fn as_slice(&self) -> &[f32] {
        &self.values
    }

    /// The frames, each of [`dim`](Self::dim) values.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = &[f32]> {
        self.values.chunks_exact(self.dim.max(1))
    }

    /// All values in row-major order, copied only if a clone shares them.
    pub fn into_vec(self) -> Vec<f32> {
        Arc::try_unwrap(self.values).unwrap_or_else(|shared| shared.to_vec())
    }

    /// Frame `t`.
    ///
    /// # Panics
    ///
    /// If `t` is not less than [`frames`](Self::frames).
    pub fn row(&self, t: usize) -> &[f32] {
        &self.values[t * self.dim..(t + 1) * self.dim]
    }

    /// Frames `start .. start + count`: shared if that is all of them, copied otherwise.
    pub(super) fn slice(&self, start: usize, count: usize) -> Self {
        if start == 0 && count == self.frames() {
            return self.clone();
        }
        Self::from_rows(&self.values[start * self.dim..(start + count) * self.dim], self.dim)
    }

    /// A copy as a tensor `[1, T, D]`, for a stage that runs in tract.
    pub(super) fn to_tensor(&self) -> TractResult<TValue> {
        Ok(Tensor::from_shape(&[1, self.frames(), self.dim], &self.values)?.into())
    }
}
