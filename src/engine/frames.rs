//! Matrices of frames.

use tract_onnx::prelude::*;

/// A matrix of frames, `[frames, dim]` f32 in row-major order. Clones share the values.
///
/// ```
/// use bellis::engine::Frames;
///
/// let frames = Frames::from_vec(vec![1.0, 2.0, 3.0, 4.0], 2);
/// assert_eq!(frames.rows().map(|row| row[0]).collect::<Vec<_>>(), [1.0, 3.0]);
/// ```
#[derive(Clone, Debug)]
pub struct Frames {
    value: TValue,
    frames: usize,
    dim: usize,
}

impl Frames {
    /// Wraps a stage's output `[1, T, D]`; `None` if it is of another form.
    pub(super) fn from_output(value: TValue) -> Option<Self> {
        let (frames, dim) = match *value.shape() {
            [1, frames, dim] => (frames, dim),
            _ => return None,
        };
        value.try_as_plain_ram().ok()?.as_slice::<f32>().ok()?;
        Some(Self { value, frames, dim })
    }

    /// Makes a matrix of `values.len() / dim` frames.
    ///
    /// # Panics
    ///
    /// If the number of values is not a multiple of `dim`.
    pub fn from_vec(values: Vec<f32>, dim: usize) -> Self {
        assert!(values.len().is_multiple_of(dim.max(1)), "{} values do not make frames of {dim}", values.len());
        let frames = values.len() / dim.max(1);
        // The shape was just checked, so the matrix cannot be refused; were it all the same, it would be empty.
        match tract_ndarray::Array3::from_shape_vec((1, frames, dim), values) {
            Ok(array) => Self { value: Tensor::from(array).into(), frames, dim },
            Err(_) => Self { value: Tensor::default().into(), frames: 0, dim },
        }
    }

    /// Copies rows; `rows.len()` must be `frames * dim`.
    pub(super) fn from_rows(rows: &[f32], dim: usize) -> TractResult<Self> {
        let frames = rows.len() / dim.max(1);
        Ok(Self { value: Tensor::from_shape(&[1, frames, dim], rows)?.into(), frames, dim })
    }

    /// Makes `frames` frames of `dim` zeros and lets `fill` overwrite them.
    pub(crate) fn build(frames: usize, dim: usize, fill: impl FnOnce(&mut [f32])) -> Result<Self, super::EngineError> {
        let made = || {
            let mut tensor = Tensor::zero::<f32>(&[1, frames, dim])?;
            fill(tensor.try_as_plain_ram_mut()?.as_slice_mut::<f32>()?);
            TractResult::Ok(Self { value: tensor.into(), frames, dim })
        };
        made().map_err(|error| super::EngineError::Run { stage: "a matrix of frames".into(), problem: format!("{error:#}") })
    }

    /// Number of frames, T.
    pub fn frames(&self) -> usize {
        self.frames
    }

    /// Dimensions per frame, D.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// All values in row-major order.
    pub fn as_slice(&self) -> &[f32] {
        // The type and layout were checked when the value was made.
        self.value.try_as_plain_ram().ok().and_then(|view| view.as_slice::<f32>().ok()).unwrap_or(&[])
    }

    /// The frames, each of [`dim`](Self::dim) values.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = &[f32]> {
        self.as_slice().chunks_exact(self.dim.max(1))
    }

    /// All values in row-major order.
    pub fn into_vec(self) -> Vec<f32> {
        self.as_slice().to_vec()
    }

    /// Frame `t`.
    ///
    /// # Panics
    ///
    /// If there are not more than `t` frames.
    pub fn row(&self, t: usize) -> &[f32] {
        &self.as_slice()[t * self.dim..(t + 1) * self.dim]
    }

    /// Frames `start .. start + count`: shared when that is all of them, copied otherwise.
    pub(super) fn slice(&self, start: usize, count: usize) -> TractResult<Self> {
        if start == 0 && count == self.frames {
            return Ok(self.clone());
        }
        Self::from_rows(&self.as_slice()[start * self.dim..(start + count) * self.dim], self.dim)
    }

    pub(super) fn value(&self) -> TValue {
        self.value.clone()
    }
}
