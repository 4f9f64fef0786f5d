//! Frames of an encoder as the rest of Bellis sees them: `[frames, dim]` f32, shared without copying.

use tract_onnx::prelude::*;

/// A matrix of frames, `[frames, dim] f32`, row by row. Clones share the values.
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

    /// Makes frames from rows; `rows.len()` must be `frames * dim`.
    pub(super) fn from_rows(rows: &[f32], dim: usize) -> TractResult<Self> {
        let frames = rows.len() / dim.max(1);
        Ok(Self { value: Tensor::from_shape(&[1, frames, dim], rows)?.into(), frames, dim })
    }

    /// Makes `frames` frames of `dim` numbers and lets `fill` write them; they are zeros before.
    pub fn build(frames: usize, dim: usize, fill: impl FnOnce(&mut [f32])) -> Result<Self, super::EngineError> {
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

    /// Numbers per frame, D.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// All values, frame after frame.
    pub fn as_slice(&self) -> &[f32] {
        // The type and layout were checked when the value was made.
        self.value.try_as_plain_ram().ok().and_then(|view| view.as_slice::<f32>().ok()).unwrap_or(&[])
    }

    /// Frame `t`.
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
