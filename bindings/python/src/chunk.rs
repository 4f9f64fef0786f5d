//! The result for one chunk.

use bellis::stream::Representation;
use numpy::{PyArray2, PyArrayMethods, PyUntypedArrayMethods};
use pyo3::prelude::*;

/// Representation of one chunk of audio.
#[pyclass(frozen, get_all, module = "bellis")]
pub struct Chunk {
    /// Number of the chunk in its stream, from 0.
    index: u64,
    /// Start of the chunk, seconds from the start of the stream.
    start: f64,
    /// Length of its audio, seconds.
    seconds: f64,
    /// The exit layer.
    layer: usize,
    /// Why it exited there.
    reason: &'static str,
    /// Entropy of the exit layer's head, nats; None if that head did not run.
    entropy: Option<f32>,
    /// Entropies of all heads that ran, (layer, nats).
    entropies: Vec<(usize, f32)>,
    /// The vectors, [frames, dim] float32.
    vectors: Py<PyArray2<f32>>,
    /// Log-posteriors of the units at the exit layer, [frames, units] float32, if requested.
    posteriors: Option<Py<PyArray2<f32>>>,
    /// Phones that have become final with this chunk, if requested.
    phones: Vec<Py<Phone>>,
}

/// A phone.
#[pyclass(frozen, get_all, module = "bellis")]
#[derive(Clone)]
pub struct Phone {
    /// Its symbol.
    pub phone: String,
    /// Start and end, seconds from the start of the stream.
    pub start: f64,
    pub end: f64,
    /// Its probability.
    pub confidence: f64,
}

impl Chunk {
    pub fn new(py: Python<'_>, chunk: Representation, phones: Vec<Phone>) -> PyResult<Self> {
        let entropy = chunk.evidence.iter().find(|one| one.layer == chunk.exit_layer && one.finite).map(|one| one.entropy);
        let entropies = chunk.evidence.iter().filter(|one| one.finite).map(|one| (one.layer, one.entropy)).collect();
        Ok(Self {
            index: chunk.sequence,
            start: chunk.start_seconds(),
            seconds: chunk.seconds(),
            layer: chunk.exit_layer,
            reason: chunk.reason.name(),
            entropy,
            entropies,
            vectors: array(py, chunk.vectors)?,
            posteriors: chunk.log_posteriors.map(|frames| array(py, frames)).transpose()?,
            phones: phones.into_iter().map(|phone| Py::new(py, phone)).collect::<PyResult<_>>()?,
        })
    }
}

/// Frames as an array that owns its memory.
fn array(py: Python<'_>, frames: bellis::engine::Frames) -> PyResult<Py<PyArray2<f32>>> {
    let shape = [frames.frames(), frames.dim()];
    let flat = numpy::PyArray1::from_vec(py, frames.into_vec());
    Ok(flat.reshape(shape)?.unbind())
}

#[pymethods]
impl Chunk {
    fn __repr__(&self, py: Python<'_>) -> String {
        let frames = self.vectors.bind(py).shape()[0];
        format!("<bellis.Chunk {}: {:.2} s, layer {} ({}), {frames} frames>", self.index, self.start, self.layer, self.reason)
    }
}

#[pymethods]
impl Phone {
    fn __repr__(&self) -> String {
        format!("<bellis.Phone {} {:.2}-{:.2} s>", self.phone, self.start, self.end)
    }
}
