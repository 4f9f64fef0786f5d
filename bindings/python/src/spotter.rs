//! Keywords in a stream.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bellis::keyword::{
    Detection, Event, Keyword, KeywordError, KeywordSearch, Origin, PackRef, SearchError, SearchOptions, Take, Verifier, Watched,
    enroll, examples, find, load,
};
use bellis::stream::{Session, SessionError, SessionOptions};
use pyo3::exceptions::{PyFileExistsError, PyValueError};
use pyo3::prelude::*;

use crate::audio::{Intake, Samples};
use crate::encoder::Encoder;
use crate::errors::{BellisError, raise};

/// A detection, or a near miss.
#[pyclass(frozen, get_all, module = "bellis")]
#[derive(Clone)]
pub struct KeywordEvent {
    /// Name of the keyword.
    keyword: String,
    /// True for a detection, False for a near miss.
    detected: bool,
    /// Its score, 0 to 1, and the score that a detection has to reach.
    score: f64,
    threshold: f64,
    /// Start and end, seconds from the start of the stream.
    start: f64,
    end: f64,
}

#[pymethods]
impl KeywordEvent {
    fn __repr__(&self) -> String {
        let kind = if self.detected { "detected" } else { "near miss" };
        format!("<bellis.KeywordEvent {} {kind} {:.2}-{:.2} s, score {:.3}>", self.keyword, self.start, self.end, self.score)
    }
}

/// Searches a stream for the keywords of a folder. Calls from several threads take turns.
#[pyclass(frozen, subclass, module = "bellis")]
pub struct KeywordSpotter {
    encoder: Py<Encoder>,
    folder: PathBuf,
    options: SearchOptions,
    rate: u32,
    /// Locked only without the interpreter, so that no thread waits for both.
    state: Mutex<State>,
}

/// One stream.
struct State {
    intake: Intake,
    session: Session,
    search: KeywordSearch,
    names: Vec<String>,
    resampled: Vec<f32>,
    pack_rate: f64,
    ended: bool,
}

/// What a search or a callback of it can fail with.
enum Failure {
    Search(SearchError),
    Session(SessionError),
}

impl From<SearchError> for Failure {
    fn from(error: SearchError) -> Self {
        Self::Search(error)
    }
}

impl From<SessionError> for Failure {
    fn from(error: SessionError) -> Self {
        Self::Session(error)
    }
}

impl From<Failure> for PyErr {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Search(error) => raise(error),
            Failure::Session(error) => raise(error),
        }
    }
}

impl State {
    fn new(encoder: &Encoder, folder: &Path, options: &SearchOptions, rate: u32) -> PyResult<Self> {
        let (audio, chunk_frames) = (encoder.encoder.audio(), encoder.pack.default_chunk_frames());
        let hop_seconds = audio.hop as f64 / f64::from(audio.sample_rate);
        let reference = PackRef::to(&encoder.pack);
        let mut watched = Vec::new();
        let files = match find(folder) {
            Err(KeywordError::NoKeywords { .. }) => Vec::new(),
            Err(KeywordError::File { source, .. }) if source.kind() == ErrorKind::NotFound => Vec::new(),
            files => files.map_err(raise)?,
        };
        for file in files {
            let keyword = load(&file, Some(&reference)).map_err(raise)?;
            watched.push(Watched::new(&keyword, &file, options, hop_seconds).map_err(raise)?);
        }
        let names = watched.iter().map(|one| one.name.clone()).collect();
        let verifier = Verifier::new(&encoder.encoder, chunk_frames).map_err(raise)?;
        let mut search = KeywordSearch::new(watched, Some(verifier));
        search.begin(audio.hop, chunk_frames);
        let options = SessionOptions::default().chunk_frames(chunk_frames).embedding(true).audio(true);
        let session = Session::new(&encoder.encoder, encoder.policy()?, options).map_err(raise)?;
        let intake = Intake::new(rate, audio.sample_rate)?;
        let pack_rate = f64::from(audio.sample_rate);
        Ok(Self { intake, session, search, names, resampled: Vec::new(), pack_rate, ended: false })
    }

    /// Takes samples, or ends the stream.
    fn push(&mut self, samples: Option<&[f32]>) -> Result<Vec<KeywordEvent>, Failure> {
        self.resampled.clear();
        match samples {
            Some(samples) => self.intake.push(samples, &mut self.resampled),
            None => self.intake.finish(&mut self.resampled),
        }
        let (mut events, rate) = (Vec::new(), self.pack_rate);
        let round = |value: f64| (value * 1e4).round() / 1e4;
        let mut each = |found: Detection<'_>| {
            events.push(KeywordEvent {
                keyword: found.keyword.to_owned(),
                detected: found.event == Event::Detection,
                score: round(f64::from(found.score)),
                threshold: round(f64::from(found.threshold)),
                start: round(found.start as f64 / rate),
                end: round(found.end as f64 / rate),
            });
            Ok::<_, Failure>(())
        };
        let Self { session, search, resampled, .. } = self;
        session.push(resampled)?;
        if samples.is_none() {
            session.finish();
        }
        session.each(|chunk| search.search(chunk, &mut each))?;
        if samples.is_none() {
            search.end(&mut each)?;
        }
        Ok(events)
    }
}

impl KeywordSpotter {
    /// Runs `work` without the interpreter.
    fn run<T: Send>(&self, py: Python<'_>, work: impl FnOnce(&mut State) -> PyResult<T> + Send) -> PyResult<T> {
        py.detach(|| work(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner)))
    }
}

#[pymethods]
impl KeywordSpotter {
    #[new]
    #[pyo3(signature = (folder, encoder, *, rate=None, near_misses=None, false_accepts=None, refractory=None))]
    fn new(
        py: Python<'_>,
        folder: PathBuf,
        encoder: Py<Encoder>,
        rate: Option<u32>,
        near_misses: Option<f32>,
        false_accepts: Option<f64>,
        refractory: Option<f64>,
    ) -> PyResult<Self> {
        let wrong = |text: String| Err(PyValueError::new_err(text));
        if let Some(score) = near_misses.filter(|score| !(0.0..=1.0).contains(score)) {
            return wrong(format!("near_misses must be between 0 and 1, got {score}"));
        }
        if let Some(rate) = false_accepts.filter(|rate| !(rate.is_finite() && *rate > 0.0)) {
            return wrong(format!("false_accepts must be above 0, got {rate}"));
        }
        if let Some(seconds) = refractory.filter(|seconds| !(0.0..=3600.0).contains(seconds)) {
            return wrong(format!("refractory must be between 0 and 3600 seconds, got {seconds}"));
        }
        let options =
            SearchOptions { near_miss: near_misses, false_accepts, refractory: refractory.map(Duration::from_secs_f64) };
        let own = encoder.get();
        let rate = rate.unwrap_or(own.encoder.audio().sample_rate);
        let state = Mutex::new(py.detach(|| State::new(own, &folder, &options, rate))?);
        Ok(Self { encoder, folder, options, rate, state })
    }

    /// Takes samples, and returns what was detected with them.
    fn accept(&self, py: Python<'_>, samples: Samples<'_>) -> PyResult<Vec<KeywordEvent>> {
        let samples = samples.read()?;
        self.run(py, |state| match state.ended {
            true => Err(PyValueError::new_err("the stream has ended; reset() begins a new one")),
            false => Ok(state.push(Some(&samples))?),
        })
    }

    /// Ends the stream, and returns what was still pending.
    fn finish(&self, py: Python<'_>) -> PyResult<Vec<KeywordEvent>> {
        self.run(py, |state| match std::mem::replace(&mut state.ended, true) {
            true => Ok(Vec::new()),
            false => Ok(state.push(None)?),
        })
    }

    /// Begins a new stream with the keywords that are in the folder now.
    fn reset(&self, py: Python<'_>) -> PyResult<()> {
        self.run(py, |state| {
            *state = State::new(self.encoder.get(), &self.folder, &self.options, self.rate)?;
            Ok(())
        })
    }

    /// Names of the keywords.
    #[getter]
    fn keywords(&self, py: Python<'_>) -> PyResult<Vec<String>> {
        self.run(py, |state| Ok(state.names.clone()))
    }

    /// Enrolls a keyword from takes at `rate` (the pack's by default) and begins a new stream with it.
    #[pyo3(signature = (name, *, takes, threshold, rate=None, replace=false))]
    fn enroll(
        &self,
        py: Python<'_>,
        name: &str,
        takes: Vec<Samples<'_>>,
        threshold: f32,
        rate: Option<u32>,
        replace: bool,
    ) -> PyResult<()> {
        if !(0.0..=1.0).contains(&threshold) {
            return Err(PyValueError::new_err(format!("threshold must be between 0 and 1, got {threshold}")));
        }
        if !(1..=16).contains(&takes.len()) {
            return Err(PyValueError::new_err(format!("takes must be 1 to 16 recordings, got {}", takes.len())));
        }
        let own = self.encoder.get();
        let mut keyword = Keyword::new(name, PackRef::to(&own.pack), Vec::new()).map_err(raise)?;
        let path = keyword.path_in(&self.folder);
        if path.exists() && !replace {
            return Err(PyFileExistsError::new_err(format!("{}: the keyword exists; pass replace=True", path.display())));
        }
        let mut audio = Vec::new();
        for take in &takes {
            let mut resampled = Vec::new();
            let pack_rate = own.encoder.audio().sample_rate;
            let mut intake = Intake::new(rate.unwrap_or(pack_rate), pack_rate)?;
            intake.push(&take.read()?, &mut resampled);
            intake.finish(&mut resampled);
            audio.push(resampled);
        }
        let enrolled = py.detach(|| {
            let mut enrolled = Vec::new();
            for (number, audio) in (1..).zip(audio) {
                let take = Take { source: format!("take {number}"), origin: Origin::Recording, audio };
                let outcome = enroll(&take, &own.encoder, || own.policy().map_err(Problem), own.pack.default_chunk_frames());
                match outcome.map_err(|problem| problem.0)? {
                    Ok(one) => enrolled.push(one),
                    Err(problem) => return Err(BellisError::new_err(format!("take {number}: {problem}"))),
                }
            }
            Ok(enrolled)
        })?;
        keyword.example = examples(&enrolled);
        keyword.threshold = threshold;
        std::fs::create_dir_all(&self.folder)?;
        keyword.save(&path).map_err(raise)?;
        self.reset(py)
    }
}

/// An exception of a callback.
struct Problem(PyErr);

impl From<SessionError> for Problem {
    fn from(error: SessionError) -> Self {
        Self(raise(error))
    }
}
