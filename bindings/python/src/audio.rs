//! Samples from Python, at any rate, to mono f32 at the pack's rate.

use bellis::audio::{Resampler, SAMPLE_RATES};
use numpy::{PyReadonlyArray1, PyUntypedArrayMethods};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;

use crate::errors::raise;

/// Samples as they were passed; borrowed from NumPy's memory.
#[derive(FromPyObject)]
pub enum Samples<'py> {
    #[pyo3(transparent)]
    F32(PyReadonlyArray1<'py, f32>),
    #[pyo3(transparent)]
    I16(PyReadonlyArray1<'py, i16>),
    #[pyo3(transparent)]
    Other(Bound<'py, PyAny>),
}

/// Full scale of 16-bit samples, as in files.
const I16_SCALE: f32 = 32_768.0;

impl Samples<'_> {
    /// The samples as f32.
    pub fn read(&self) -> PyResult<Vec<f32>> {
        Ok(match self {
            Self::F32(array) if !array.is_aligned() => return Err(not_aligned()),
            Self::I16(array) if !array.is_aligned() => return Err(not_aligned()),
            Self::F32(array) => array.as_array().iter().copied().collect(),
            Self::I16(array) => array.as_array().iter().map(|&sample| f32::from(sample) / I16_SCALE).collect(),
            Self::Other(other) => {
                let kind = other.get_type().name()?;
                let (shape, dtype) = match other.cast::<numpy::PyUntypedArray>() {
                    Ok(array) => (format!(" of shape {:?}", array.shape()), format!(" and dtype {}", array.dtype())),
                    Err(_) => Default::default(),
                };
                let text = format!("samples must be a one-dimensional NumPy array of float32 or int16, got {kind}{shape}{dtype}");
                return Err(PyTypeError::new_err(text));
            }
        })
    }
}

/// Of a buffer's odd offset, or of a packed record's field.
fn not_aligned() -> PyErr {
    PyTypeError::new_err("the samples are not aligned in memory; pass samples.copy()")
}

/// Converts one stream to the pack's rate.
pub struct Intake(Resampler);

impl Intake {
    pub fn new(rate: u32, pack_rate: u32) -> PyResult<Self> {
        check_rate(rate)?;
        Ok(Self(Resampler::new(rate, pack_rate).map_err(raise)?))
    }

    pub fn push(&mut self, samples: &[f32], out: &mut Vec<f32>) {
        self.0.push(samples, out);
    }

    pub fn finish(&mut self, out: &mut Vec<f32>) {
        self.0.finish(out);
    }
}

/// Refuses rates that the resampler does not support.
pub fn check_rate(rate: u32) -> PyResult<()> {
    match SAMPLE_RATES.contains(&rate) {
        true => Ok(()),
        false => Err(PyValueError::new_err(format!("rate must be between 1000 and 384000 Hz, got {rate}"))),
    }
}
