//! One stream: samples in, chunks out.

use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};

use bellis::consumer::asr::{Decoder, Form, Phones};
use bellis::consumer::{Consumer, StreamInfo};
use bellis::stream::{Representation, Session, SessionOptions};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use serde_json::Value;

use crate::audio::{Intake, Samples};
use crate::chunk::{Chunk, Phone};
use crate::encoder::Encoder;
use crate::errors::{BellisError, raise};

/// A stream of audio on an encoder. Calls from several threads take turns; different streams run in parallel.
#[pyclass(frozen, module = "bellis")]
pub struct Stream {
    encoder: Py<Encoder>,
    options: SessionOptions,
    rate: u32,
    /// Locked only without the interpreter, so that no thread waits for both.
    state: Mutex<State>,
}

/// What changes with every sample.
struct State {
    intake: Intake,
    session: Session,
    phones: Option<PhoneReader>,
    resampled: Vec<f32>,
    ended: bool,
}

/// A chunk and its phones, before they become objects.
type Results = Vec<(Representation, Vec<Phone>)>;

impl State {
    fn new(encoder: &Encoder, options: &SessionOptions, rate: u32) -> PyResult<Self> {
        let session = Session::new(&encoder.encoder, encoder.policy()?, options.clone()).map_err(raise)?;
        let phones = if options.ctc { Some(PhoneReader::new(&encoder.encoder)?) } else { None };
        let intake = Intake::new(rate, encoder.encoder.audio().sample_rate)?;
        Ok(Self { intake, session, phones, resampled: Vec::new(), ended: false })
    }

    fn push(&mut self, samples: &[f32]) -> PyResult<Results> {
        if self.ended {
            return Err(PyValueError::new_err("the stream has ended; reset() begins a new one"));
        }
        self.resampled.clear();
        self.intake.push(samples, &mut self.resampled);
        self.session.push(&self.resampled).map_err(raise)?;
        self.compute()
    }

    fn finish(&mut self) -> PyResult<Results> {
        if std::mem::replace(&mut self.ended, true) {
            return Ok(Vec::new());
        }
        self.resampled.clear();
        self.intake.finish(&mut self.resampled);
        self.session.push(&self.resampled).map_err(raise)?;
        self.session.finish();
        let mut results = self.compute()?;
        let rest = self.phones.as_mut().map_or(Ok(Vec::new()), PhoneReader::finish)?;
        if let Some((_, phones)) = results.last_mut() {
            phones.extend(rest);
        }
        Ok(results)
    }

    fn compute(&mut self) -> PyResult<Results> {
        let mut results = Vec::new();
        for chunk in self.session.representations() {
            let chunk = chunk.map_err(raise)?;
            let phones = self.phones.as_mut().map_or(Ok(Vec::new()), |phones| phones.push(&chunk))?;
            results.push((chunk, phones));
        }
        Ok(results)
    }
}

impl Stream {
    pub fn new(py: Python<'_>, encoder: Py<Encoder>, rate: Option<u32>, options: SessionOptions) -> PyResult<Self> {
        let own = encoder.get();
        let rate = rate.unwrap_or(own.encoder.audio().sample_rate);
        let state = Mutex::new(py.detach(|| State::new(own, &options, rate))?);
        Ok(Self { encoder, options, rate, state })
    }

    /// Runs `work` without the interpreter.
    fn run(&self, py: Python<'_>, work: impl FnOnce(&mut State) -> PyResult<Results> + Send) -> PyResult<Vec<Chunk>> {
        let results = py.detach(|| work(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner)))?;
        results.into_iter().map(|(chunk, phones)| Chunk::new(py, chunk, phones)).collect()
    }
}

#[pymethods]
impl Stream {
    /// Takes samples, and returns the chunks that they complete.
    fn accept(&self, py: Python<'_>, samples: Samples<'_>) -> PyResult<Vec<Chunk>> {
        let samples = samples.read()?;
        self.run(py, |state| state.push(&samples))
    }

    /// Ends the stream, and returns the rest of it.
    fn finish(&self, py: Python<'_>) -> PyResult<Vec<Chunk>> {
        self.run(py, State::finish)
    }

    /// Begins a new stream; what was not returned yet is discarded.
    fn reset(&self, py: Python<'_>) -> PyResult<()> {
        self.run(py, |state| {
            *state = State::new(self.encoder.get(), &self.options, self.rate)?;
            Ok(Vec::new())
        })
        .map(drop)
    }

    /// Rate of the samples, Hz.
    #[getter]
    fn rate(&self) -> u32 {
        self.rate
    }
}

/// The consumer `phones`, whose lines are read back: so phones are those of the command line.
struct PhoneReader {
    consumer: Phones<Page>,
    page: Page,
}

#[derive(Clone, Default)]
struct Page(Arc<Mutex<Vec<u8>>>);

impl Write for Page {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl PhoneReader {
    fn new(encoder: &bellis::engine::Encoder) -> PyResult<Self> {
        let page = Page::default();
        let mut consumer = Phones::new(page.clone(), "phones", Form::Json, Decoder::new(None));
        let mut info = StreamInfo::default();
        info.sample_rate = encoder.audio().sample_rate;
        info.hop_samples = encoder.audio().hop;
        info.vocabulary = encoder.vocabulary().to_vec();
        consumer.begin(&info).map_err(raise)?;
        Ok(Self { consumer, page })
    }

    fn push(&mut self, chunk: &Representation) -> PyResult<Vec<Phone>> {
        self.consumer.consume(chunk).map_err(raise)?;
        self.read()
    }

    fn finish(&mut self) -> PyResult<Vec<Phone>> {
        self.consumer.finish().map_err(raise)?;
        self.read()
    }

    fn read(&mut self) -> PyResult<Vec<Phone>> {
        let bytes = std::mem::take(&mut *self.page.0.lock().unwrap_or_else(PoisonError::into_inner));
        let phone = |line: &[u8]| {
            let line: Value = serde_json::from_slice(line).map_err(|error| BellisError::new_err(error.to_string()))?;
            let number = |key: &str| line[key].as_f64().unwrap_or_default();
            let phone = line["phone"].as_str().unwrap_or_default().to_owned();
            Ok(Phone { phone, start: number("start"), end: number("end"), confidence: number("confidence") })
        };
        bytes.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()).map(phone).collect()
    }
}
