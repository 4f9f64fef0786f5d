//! One stream: samples in, chunks out.

use std::sync::{Mutex, PoisonError};

use bellis::consumer::StreamInfo;
use bellis::consumer::asr::{Decoder, PhoneReader};
use bellis::stream::{Representation, Session, SessionOptions};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::audio::{Intake, Samples};
use crate::chunk::{Chunk, Phone};
use crate::encoder::Encoder;
use crate::errors::raise;

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
    phones: Option<Phones>,
    resampled: Vec<f32>,
    ended: bool,
}

/// A chunk and its phones, before they become objects.
type Results = Vec<(Representation, Vec<Phone>)>;

impl State {
    fn new(encoder: &Encoder, options: &SessionOptions, rate: u32) -> PyResult<Self> {
        let session = Session::new(&encoder.encoder, encoder.policy()?, options.clone()).map_err(raise)?;
        let phones = options.ctc.then(|| Phones::new(&encoder.encoder));
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
        let rest = self.phones.as_mut().map_or(Vec::new(), Phones::finish);
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

/// Phones, as the command line writes them.
struct Phones {
    reader: PhoneReader,
    found: Vec<bellis::consumer::Phone>,
}

impl Phones {
    fn new(encoder: &bellis::engine::Encoder) -> Self {
        let mut info = StreamInfo::default();
        info.sample_rate = encoder.audio().sample_rate;
        info.hop_samples = encoder.audio().hop;
        info.vocabulary = encoder.vocabulary().to_vec();
        let mut reader = PhoneReader::new(Decoder::new(None));
        reader.begin(&info);
        Self { reader, found: Vec::new() }
    }

    fn push(&mut self, chunk: &Representation) -> PyResult<Vec<Phone>> {
        self.reader.push(chunk, &mut self.found).map_err(raise)?;
        Ok(self.take())
    }

    fn finish(&mut self) -> Vec<Phone> {
        self.reader.finish(&mut self.found);
        self.take()
    }

    fn take(&mut self) -> Vec<Phone> {
        let phone =
            |one: bellis::consumer::Phone| Phone { phone: one.phone, start: one.start, end: one.end, confidence: one.confidence };
        self.found.drain(..).map(phone).collect()
    }
}
