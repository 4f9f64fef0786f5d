//! Keywords in a stream.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bellis::audio::audio_files;
use bellis::keyword::{
    Detection, Enroller, Event, Keyword, KeywordStream, MOST_REFRACTORY, Origin, OtherSpeech, PackRef, SearchOptions, Take,
    check_alike, find, load, weaknesses,
};
use pyo3::exceptions::{PyFileExistsError, PyValueError};
use pyo3::prelude::*;

use crate::audio::{Intake, Samples, check_rate};
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
    stream: KeywordStream,
    ended: bool,
}

impl State {
    fn new(encoder: &Encoder, folder: &Path, options: &SearchOptions, rate: u32) -> PyResult<Self> {
        check_rate(rate)?;
        let stream =
            KeywordStream::new(&encoder.pack, &encoder.encoder, &encoder.policy, folder, options, rate).map_err(raise)?;
        Ok(Self { stream, ended: false })
    }

    /// Takes samples, or ends the stream.
    fn push(&mut self, samples: Option<&[f32]>) -> PyResult<Vec<KeywordEvent>> {
        let (mut events, rate) = (Vec::new(), self.stream.position_rate());
        let round = |value: f64| (value * 1e4).round() / 1e4;
        let each = |found: Detection<'_>| {
            events.push(KeywordEvent {
                keyword: found.keyword.to_owned(),
                detected: found.event == Event::Detection,
                score: round(f64::from(found.score)),
                threshold: round(f64::from(found.threshold)),
                start: round(found.start as f64 / rate),
                end: round(found.end as f64 / rate),
            });
        };
        match samples {
            Some(samples) => self.stream.push(samples, each),
            None => self.stream.finish(each),
        }
        .map_err(raise)?;
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
        if let Some(seconds) = refractory.filter(|seconds| !(0.0..=MOST_REFRACTORY).contains(seconds)) {
            return wrong(format!("refractory must be between 0 and {MOST_REFRACTORY} seconds, got {seconds}"));
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
            false => state.push(Some(&samples)),
        })
    }

    /// Ends the stream, and returns what was still pending.
    fn finish(&self, py: Python<'_>) -> PyResult<Vec<KeywordEvent>> {
        self.run(py, |state| match std::mem::replace(&mut state.ended, true) {
            true => Ok(Vec::new()),
            false => state.push(None),
        })
    }

    /// Begins a new stream with the keywords that are in the folder now.
    fn reset(&self, py: Python<'_>) -> PyResult<()> {
        self.run(py, |state| {
            *state = State::new(self.encoder.get(), &self.folder, &self.options, self.rate)?;
            Ok(())
        })
    }

    /// Rate of the samples, Hz.
    #[getter]
    fn rate(&self) -> u32 {
        self.rate
    }

    /// Names of the keywords.
    #[getter]
    fn keywords(&self, py: Python<'_>) -> PyResult<Vec<String>> {
        self.run(py, |state| Ok(state.stream.names().to_vec()))
    }

    /// Enrolls a keyword from a phrase, from takes at `rate` (the pack's by default), or from both, and begins a new stream with it. The
    /// threshold is set on the speech in `background` and on `own_speech`, at `rate`, unless it is given. Returns warnings.
    #[pyo3(signature = (name, *, say, language, takes, own_speech, threshold, background, default_background, false_accepts, rate, keep_unlike, replace))]
    #[allow(clippy::too_many_arguments)]
    fn enroll(
        &self,
        py: Python<'_>,
        name: &str,
        say: Option<&str>,
        language: &str,
        takes: Vec<Samples<'_>>,
        own_speech: Option<Samples<'_>>,
        threshold: Option<f32>,
        background: Vec<PathBuf>,
        default_background: Vec<PathBuf>,
        false_accepts: f64,
        rate: Option<u32>,
        keep_unlike: bool,
        replace: bool,
    ) -> PyResult<Vec<String>> {
        if let Some(threshold) = threshold.filter(|threshold| !(0.0..=1.0).contains(threshold)) {
            return Err(PyValueError::new_err(format!("threshold must be between 0 and 1, got {threshold}")));
        }
        if threshold.is_some() && own_speech.is_some() {
            return Err(PyValueError::new_err("own_speech sets the threshold; pass one of them"));
        }
        if !(false_accepts.is_finite() && false_accepts > 0.0) {
            return Err(PyValueError::new_err(format!("false_accepts must be above 0, got {false_accepts}")));
        }
        let least = usize::from(say.is_none());
        if !(least..=16).contains(&takes.len()) {
            return Err(PyValueError::new_err(format!("pass say, or takes of 1 to 16 recordings; got {}", takes.len())));
        }
        let own = self.encoder.get();
        let mut keyword = Keyword::new(name, PackRef::to(&own.pack), Vec::new()).map_err(raise)?;
        let path = keyword.path_in(&self.folder);
        if path.exists() && !replace {
            return Err(PyFileExistsError::new_err(format!("{}: the keyword exists; pass replace=True", path.display())));
        }
        // Takes are minutes of work: first, the place for their result.
        std::fs::create_dir_all(&self.folder)
            .map_err(|error| BellisError::new_err(format!("{}: {error}", self.folder.display())))?;
        let at_pack_rate = |samples: &Samples<'_>| -> PyResult<Vec<f32>> {
            let (mut resampled, pack_rate) = (Vec::new(), own.encoder.audio().sample_rate);
            let mut intake = Intake::new(rate.unwrap_or(pack_rate), pack_rate)?;
            intake.push(&samples.read()?, &mut resampled);
            intake.finish(&mut resampled);
            Ok(resampled)
        };
        let audio = takes.iter().map(&at_pack_rate).collect::<PyResult<Vec<_>>>()?;
        let talk = own_speech.as_ref().map(&at_pack_rate).transpose()?;
        let enroller = Enroller::new(own.pack.clone(), own.encoder.clone());
        let warnings = py.detach(|| {
            let mut enrolled = Vec::new();
            for (number, audio) in (1..).zip(audio) {
                let take = Take { source: format!("take {number}"), origin: Origin::Recording, audio };
                match enroller.take(&take).map_err(raise)? {
                    Ok(one) => enrolled.push(one),
                    Err(problem) => return Err(BellisError::new_err(format!("take {number}: {problem}"))),
                }
            }
            if !keep_unlike && let Err((index, problem)) = check_alike(&enrolled) {
                return Err(BellisError::new_err(format!("take {}: {problem}, or pass keep_unlike=True", index + 1)));
            }
            if let Some(phrase) = say {
                enrolled.extend(enroller.say(&mut keyword, phrase, language).map_err(raise)?);
            }
            let unlike = enroller.adopt(&mut keyword, &enrolled);
            match threshold {
                Some(threshold) => keyword.threshold = threshold,
                None => {
                    let files =
                        audio_files(if background.is_empty() { &default_background } else { &background }).map_err(raise)?;
                    let speech = if background.is_empty() { OtherSpeech::Default(&files) } else { OtherSpeech::Files(&files) };
                    enroller.set_threshold(&mut keyword, false_accepts, speech, |_| true).map_err(raise)?;
                    if let Some(talk) = talk {
                        enroller.add_own_speech(&mut keyword, &talk).map_err(raise)?;
                    }
                }
            }
            keyword.replace(&path);
            keyword.save(&path).map_err(raise)?;
            let others: Vec<Keyword> =
                find(&self.folder).map_err(raise)?.iter().filter_map(|other| load(other, None).ok()).collect();
            let unlike =
                unlike.map(|score| format!("the takes score at most {score:.2} as the phrase, so only they are searched for"));
            let weak = weaknesses(&keyword, &enrolled, &others, enroller.pack());
            Ok(unlike.into_iter().chain(weak.iter().map(ToString::to_string)).collect())
        })?;
        self.reset(py)?;
        Ok(warnings)
    }
}
