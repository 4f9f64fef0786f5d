//! A pack's weights, shared by any number of streams and threads.

use std::path::PathBuf;
use std::sync::Arc;

use bellis::engine::{self, LoadOptions};
use bellis::exit::{ExitPolicy, PolicySpec};
use bellis::pack::Pack;
use bellis::stream::SessionOptions;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::errors::raise;
use crate::stream::Stream;

/// An encoder with an exit policy.
#[pyclass(frozen, subclass, module = "bellis")]
pub struct Encoder {
    pub pack: Arc<Pack>,
    pub encoder: Arc<engine::Encoder>,
    pub policy: PolicySpec,
}

impl Encoder {
    pub fn policy(&self) -> PyResult<Box<dyn ExitPolicy>> {
        self.policy.build(&self.pack).map_err(raise)
    }

    /// Frames of a chunk of this length.
    pub fn chunk_frames(&self, milliseconds: Option<f64>) -> PyResult<usize> {
        let Some(milliseconds) = milliseconds else { return Ok(self.pack.default_chunk_frames()) };
        let audio = self.encoder.audio();
        let hop_ms = audio.hop as f64 * 1e3 / f64::from(audio.sample_rate);
        let frames = (milliseconds / hop_ms).round();
        if !(1.0..=1e6).contains(&frames) || (milliseconds / hop_ms - frames).abs() > 1e-6 {
            return Err(PyValueError::new_err(format!("chunk must be a multiple of {hop_ms} ms, got {milliseconds}")));
        }
        Ok(frames as usize)
    }
}

#[pymethods]
impl Encoder {
    #[new]
    #[pyo3(signature = (pack, *, policy=None, precision="auto", threads=1))]
    fn new(py: Python<'_>, pack: PathBuf, policy: Option<&str>, precision: &str, threads: usize) -> PyResult<Self> {
        let value = |error: &dyn std::fmt::Display| PyValueError::new_err(error.to_string());
        let policy = match policy {
            Some(text) => text.parse::<PolicySpec>().map_err(|error| value(&error))?,
            None => PolicySpec::default(),
        };
        let precision = precision.parse().map_err(|error| value(&error))?;
        py.detach(|| {
            let pack = Pack::open(&pack).map_err(raise)?;
            policy.build(&pack).map_err(raise)?;
            let encoder =
                engine::Encoder::load(&pack, &LoadOptions::default().precision(precision).threads(threads)).map_err(raise)?;
            Ok(Self { pack: Arc::new(pack), encoder, policy })
        })
    }

    /// A stream of mono audio at `rate`; the pack's by default.
    #[pyo3(signature = (rate=None, *, chunk=None, posteriors=false, phones=false, entropies=false))]
    fn stream(
        slf: Py<Self>,
        py: Python<'_>,
        rate: Option<u32>,
        chunk: Option<f64>,
        posteriors: bool,
        phones: bool,
        entropies: bool,
    ) -> PyResult<Stream> {
        let options = SessionOptions::default()
            .chunk_frames(slf.get().chunk_frames(chunk)?)
            .posteriors(posteriors)
            .ctc(phones)
            .all_heads(entropies);
        Stream::new(py, slf, rate, options)
    }

    /// Name of the pack.
    #[getter]
    fn pack(&self) -> &str {
        self.encoder.name()
    }

    /// Rate of the encoder's input, Hz.
    #[getter]
    fn sample_rate(&self) -> u32 {
        self.encoder.audio().sample_rate
    }

    /// Seconds from one frame to the next.
    #[getter]
    fn hop_seconds(&self) -> f64 {
        self.encoder.audio().hop as f64 / f64::from(self.encoder.audio().sample_rate)
    }

    /// Number of layers.
    #[getter]
    fn layers(&self) -> usize {
        self.encoder.layers()
    }

    /// Numbers per vector.
    #[getter]
    fn dim(&self) -> usize {
        self.encoder.dim()
    }

    /// Classes of the CTC branches, the blank first; empty for a pack without them.
    #[getter]
    fn vocabulary(&self) -> Vec<String> {
        self.encoder.vocabulary().to_vec()
    }

    fn __repr__(&self) -> PyResult<String> {
        let policy = self.policy()?.description();
        Ok(format!("<bellis.Encoder {}: {} layers, {} dimensions, policy {policy}>", self.pack(), self.layers(), self.dim()))
    }
}
