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

/// Memory of the frames that one stage returns, used again once nothing else refers to them: a stream allocates none after its first chunks.
#[derive(Debug, Default)]
pub(super) struct FramePool {
    known: Vec<Arc<Vec<f32>>>,
}

impl FramePool {
    /// Maximum number of matrices. A consumer that keeps more makes the stage allocate.
    const MOST: usize = 32;

    /// A copy of `rows`, `[frames, dim]`.
    pub fn copy(&mut self, rows: &[f32], dim: usize) -> Frames {
        assert!(rows.len().is_multiple_of(dim.max(1)), "{} values are not a multiple of the dimension {dim}", rows.len());
        // Unique, so that no reader can see the change.
        for known in &mut self.known {
            if let Some(values) = Arc::get_mut(known) {
                values.clear();
                values.extend_from_slice(rows);
                return Frames { values: known.clone(), dim };
            }
        }
        let frames = Frames::from_rows(rows, dim);
        if self.known.len() < Self::MOST {
            self.known.push(frames.values.clone());
        }
        frames
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_uses_only_memory_that_nothing_refers_to() {
        let mut pool = FramePool::default();
        let first = pool.copy(&[1.0, 2.0], 2);
        let second = pool.copy(&[3.0, 4.0], 1);
        assert_eq!((first.as_slice(), second.as_slice(), second.frames()), (&[1.0, 2.0][..], &[3.0, 4.0][..], 2));
        let (address, kept) = (first.as_slice().as_ptr(), first.clone());
        drop(first);
        assert_ne!(pool.copy(&[5.0, 6.0], 2).as_slice().as_ptr(), address);
        assert_eq!(kept.as_slice(), [1.0, 2.0]);
        drop(kept);
        let third = pool.copy(&[7.0], 1);
        assert_eq!((third.as_slice().as_ptr(), third.as_slice()), (address, &[7.0][..]));
        let many: Vec<Frames> = (0..FramePool::MOST * 2).map(|i| pool.copy(&[i as f32], 1)).collect();
        assert!(many.iter().enumerate().all(|(i, frames)| frames.as_slice() == [i as f32]));
        assert_eq!(pool.known.len(), FramePool::MOST);
    }
}
