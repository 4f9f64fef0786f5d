//! Enrolment over HTTP: one job at a time, on a thread of its own, from text or from the daemon's own input.
//!
//! It is off unless a token is configured. [`Enrolment::authorize`] compares the token of a request in constant time.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::events::{EnrolmentEvent, Event, EventBus, Interest, Stage};
use super::secret;
use crate::chain::Chain;
use crate::keyword::{
    EnrollError, Enroller, Enrolment as Example, Keyword, KeywordError, Label, Origin, OtherSpeech, PackRef, Recorder,
    RecorderEvent, Take, TakeProblem, check_name, false_accepts_of, find, load, weaknesses,
};

/// Least length of a token.
const LEAST_TOKEN: usize = 16;
/// Largest size of a token's file.
const TOKEN_BYTES: u64 = 4096;
/// Most takes of a phrase.
const MOST_TAKES: u8 = 16;
/// Time that recording all takes may last.
const RECORDING: Duration = Duration::from_secs(180);
/// Pause between looks at the queue of audio.
const PAUSE: Duration = Duration::from_millis(40);
/// The language of a phrase without one.
const LANGUAGE: &str = "en-us";

/// A token's file that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// The file cannot be read.
    #[error("cannot read the token of the page, {}", path.display())]
    #[non_exhaustive]
    File {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// The token is too easy to guess.
    #[error("{}: a token needs {LEAST_TOKEN} to {TOKEN_BYTES} visible ASCII characters; make one: openssl rand -hex 16", path.display())]
    #[non_exhaustive]
    Weak {
        /// The file.
        path: PathBuf,
    },
}

/// Why a request is refused.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    #[error("{0}")]
    Invalid(String),
    #[error("{0}")]
    Absent(String),
    #[error("{0}")]
    Conflict(String),
    #[error("{0}")]
    Failed(String),
}

/// A request, as JSON.
#[derive(Debug, Deserialize)]
#[serde(tag = "action", rename_all = "kebab-case", deny_unknown_fields)]
pub(super) enum Request {
    /// Enrolls a keyword from a phrase, from takes that are recorded now, or from both.
    Enroll {
        name: String,
        say: Option<String>,
        language: Option<String>,
        #[serde(default)]
        takes: u8,
        #[serde(default = "middle")]
        sensitivity: f64,
        #[serde(default)]
        replace: bool,
    },
    /// Sets the threshold of a keyword.
    Sensitivity { name: String, sensitivity: f64 },
    /// Labels the score of a detection or a near miss, which moves the threshold.
    Feedback { name: String, score: f32, label: Label },
    /// Removes a keyword.
    Remove { name: String },
    /// Stops the running job.
    Cancel,
}

fn middle() -> f64 {
    0.5
}

/// A keyword, as JSON.
#[derive(Debug, Serialize)]
pub(super) struct Listed {
    name: String,
    threshold: f32,
    #[serde(skip_serializing_if = "Option::is_none")]
    sensitivity: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    phrase: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    language: Option<String>,
    examples: usize,
}

/// What is enrolled, and how.
pub struct Enrolment {
    enroller: Enroller,
    folder: PathBuf,
    background: Vec<PathBuf>,
    token: String,
    events: Arc<EventBus>,
    /// Applies changed keywords to the running consumers.
    changed: Box<dyn Fn() + Send + Sync>,
    /// Set to stop the running job, whose thread owns it.
    job: Mutex<Weak<AtomicBool>>,
}

/// The values of an enrolment.
struct Wanted {
    name: String,
    say: Option<String>,
    language: String,
    takes: u8,
    false_accepts: f64,
}

/// Why a job ended without a keyword.
#[derive(Debug, thiserror::Error)]
enum JobError {
    #[error(transparent)]
    Enroll(#[from] EnrollError),
    #[error(transparent)]
    Keyword(#[from] KeywordError),
    #[error("cannot access {}", folder.display())]
    Folder { folder: PathBuf, source: std::io::Error },
    #[error("no {missing} within {} s", RECORDING.as_secs())]
    Late { missing: &'static str },
}

impl Enrolment {
    /// Keywords in `folder`, with thresholds set on the speech in `background`. `changed` applies them to the running consumers.
    ///
    /// # Errors
    ///
    /// A token that cannot be read, or is too short.
    pub fn new(
        enroller: Enroller,
        folder: PathBuf,
        background: Vec<PathBuf>,
        token_file: &Path,
        events: Arc<EventBus>,
        changed: impl Fn() + Send + Sync + 'static,
    ) -> Result<Self, TokenError> {
        let token = read_token(token_file)?;
        Ok(Self { enroller, folder, background, token, events, changed: Box::new(changed), job: Mutex::default() })
    }

    /// Whether `token` is the configured one.
    pub(super) fn authorize(&self, token: &str) -> bool {
        let (own, given) = (self.token.as_bytes(), token.as_bytes());
        own.len() == given.len() && own.iter().zip(given).fold(0, |all, (a, b)| all | (a ^ b)) == 0
    }

    /// The keywords.
    pub(super) fn list(&self) -> Vec<Listed> {
        let listed = |keyword: Keyword| Listed {
            threshold: keyword.threshold,
            sensitivity: keyword.false_accepts_per_hour.map(|rate| (100.0 * sensitivity_of(rate)).round() / 100.0),
            phrase: keyword.say.as_ref().map(|say| say.phrase.clone()),
            language: keyword.say.as_ref().map(|say| say.language.clone()),
            examples: keyword.example.len(),
            name: keyword.name,
        };
        self.enrolled().into_iter().map(listed).collect()
    }

    /// The keywords of this pack; files that cannot be used are left out.
    fn enrolled(&self) -> Vec<Keyword> {
        let reference = PackRef::to(self.enroller.pack());
        find(&self.folder).unwrap_or_default().iter().filter_map(|file| load(file, Some(&reference)).ok()).collect()
    }

    /// Handles a request, and returns a warning if it had no effect. An enrolment only starts here; events report how it goes.
    pub(super) fn handle(self: &Arc<Self>, request: Request) -> Result<Option<String>, Refusal> {
        match request {
            Request::Enroll { name, say, language, takes, sensitivity, replace } => {
                check_name(&name).map_err(|error| Refusal::Invalid(error.to_string()))?;
                let say = say.map(|text| text.trim().to_owned()).filter(|text| !text.is_empty());
                if say.is_none() && takes == 0 || takes > MOST_TAKES {
                    return Err(Refusal::Invalid(format!("a keyword needs `say`, or 1 to {MOST_TAKES} `takes`")));
                }
                let false_accepts = false_accepts(sensitivity)?;
                let other_pack = |path: &Path| {
                    let loaded = load(path, Some(&PackRef::to(self.enroller.pack())));
                    matches!(loaded, Err(KeywordError::OtherPack { .. }))
                };
                // One of another pack is not in the list that the page shows.
                let path = self.path(&name)?;
                if !replace && path.exists() && !other_pack(&path) {
                    return Err(Refusal::Conflict(format!("keyword `{name}` exists; replace it, or use another name")));
                }
                let language = language.filter(|text| !text.is_empty()).unwrap_or_else(|| LANGUAGE.to_owned());
                self.start(Wanted { name, say, language, takes, false_accepts })?;
            }
            Request::Sensitivity { name, sensitivity } => {
                let rate = false_accepts(sensitivity)?;
                self.change(&name, |keyword| match keyword.set_false_accepts(rate) {
                    true => Ok(()),
                    false => Err(Refusal::Conflict(format!("keyword `{name}` was enrolled with a fixed threshold"))),
                })?;
            }
            Request::Feedback { name, score, label } => {
                if !(0.0..=1.0).contains(&score) {
                    return Err(Refusal::Invalid(format!("score must be between 0 and 1, got {score}")));
                }
                let mut warning = None;
                self.change(&name, |keyword| {
                    keyword.feedback.add(label, score);
                    keyword.apply_feedback();
                    let (threshold, against) = (keyword.threshold, keyword.feedback.contradicted(keyword.threshold));
                    warning = (against > 0).then(|| {
                        format!(
                            "the threshold {threshold:.3} contradicts {against} of the scores, and no allowed one agrees with more of them; \
                             add a take, or use a longer phrase"
                        )
                    });
                    Ok(())
                })?;
                return Ok(warning);
            }
            Request::Remove { name } => {
                let path = self.existing(&name)?;
                std::fs::remove_file(&path).map_err(|error| Refusal::Failed(format!("{}: {error}", path.display())))?;
                log::info!("keyword `{name}` removed from the live page");
                (self.changed)();
            }
            Request::Cancel => {
                if let Some(stop) = self.job().upgrade() {
                    stop.store(true, Ordering::Relaxed);
                }
            }
        }
        Ok(None)
    }

    /// Changes the file of a keyword, and applies it.
    fn change(&self, name: &str, change: impl FnOnce(&mut Keyword) -> Result<(), Refusal>) -> Result<(), Refusal> {
        let path = self.existing(name)?;
        let failed = |error: KeywordError| Refusal::Failed(Chain(&error).to_string());
        let mut keyword = load(&path, None).map_err(failed)?;
        change(&mut keyword)?;
        keyword.save(&path).map_err(failed)?;
        log::info!("keyword `{name}`: threshold {:.3}, from the live page", keyword.threshold);
        (self.changed)();
        Ok(())
    }

    fn path(&self, name: &str) -> Result<PathBuf, Refusal> {
        // Names are checked, so that the file is in the folder.
        let keyword = Keyword::new(name, PackRef::to(self.enroller.pack()), Vec::new());
        Ok(keyword.map_err(|error| Refusal::Invalid(error.to_string()))?.path_in(&self.folder))
    }

    fn existing(&self, name: &str) -> Result<PathBuf, Refusal> {
        let path = self.path(name)?;
        if path.is_file() { Ok(path) } else { Err(Refusal::Absent(format!("no keyword `{name}`"))) }
    }

    fn job(&self) -> MutexGuard<'_, Weak<AtomicBool>> {
        self.job.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn start(self: &Arc<Self>, wanted: Wanted) -> Result<(), Refusal> {
        let mut job = self.job();
        if job.strong_count() > 0 {
            return Err(Refusal::Conflict("an enrolment is running; cancel it, or wait".into()));
        }
        let (stop, this) = (Arc::<AtomicBool>::default(), self.clone());
        let running = Arc::downgrade(&stop);
        let run = move || {
            let outcome = this.enroll(&wanted, &stop);
            drop(stop);
            let (stage, message) = match outcome {
                Ok(warnings) => {
                    log::info!("keyword `{}` enrolled from the live page", wanted.name);
                    (this.changed)();
                    (Stage::Done, warnings)
                }
                Err(error) => {
                    log::warn!("keyword `{}` was not enrolled: {}", wanted.name, Chain(&error));
                    (Stage::Failed, Chain(&error).to_string())
                }
            };
            this.tell(&wanted, stage, None, message);
        };
        let spawned = std::thread::Builder::new().name("enrolment".into()).spawn(run);
        spawned.map_err(|error| Refusal::Failed(format!("cannot start a thread: {error}")))?;
        *job = running;
        Ok(())
    }

    fn tell(&self, wanted: &Wanted, stage: Stage, progress: Option<f64>, message: String) {
        self.events.publish(Event::Enrolment(EnrolmentEvent { keyword: wanted.name.clone(), stage, progress, message }));
    }

    /// Enrolls the keyword, and returns its weaknesses.
    fn enroll(&self, wanted: &Wanted, stop: &AtomicBool) -> Result<String, JobError> {
        let mut keyword = Keyword::new(&wanted.name, PackRef::to(self.enroller.pack()), Vec::new())?;
        let mut takes = if wanted.takes > 0 { self.record(wanted, stop)? } else { Vec::new() };
        if let Some(phrase) = &wanted.say {
            self.tell(wanted, Stage::Synthesis, None, String::new());
            takes.extend(self.enroller.say(&mut keyword, phrase, &wanted.language)?);
        }
        if let Some(score) = self.enroller.adopt(&mut keyword, &takes) {
            log::warn!(
                "keyword `{}`: its recordings score at most {score:.2} as its phrase, so only they are searched for",
                wanted.name
            );
        }
        self.set_threshold(&mut keyword, wanted, stop)?;
        let io = |source| JobError::Folder { folder: self.folder.clone(), source };
        std::fs::create_dir_all(&self.folder).map_err(io)?;
        let path = keyword.path_in(&self.folder);
        keyword.replace(&path);
        keyword.save(&path)?;
        let weak = weaknesses(&keyword, &takes, &self.enrolled(), self.enroller.pack());
        Ok(weak.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
    }

    fn set_threshold(&self, keyword: &mut Keyword, wanted: &Wanted, stop: &AtomicBool) -> Result<(), JobError> {
        // The length of the recordings is not known before they are read; every condition reads them once.
        let (done, told) = (Mutex::new(0.0f64), Mutex::new(Instant::now()));
        let lock = |value| -> MutexGuard<'_, f64> { Mutex::lock(value).unwrap_or_else(PoisonError::into_inner) };
        let progress = |seconds: f64| {
            *lock(&done) += seconds;
            let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
            if told.elapsed() > Duration::from_millis(500) {
                *told = Instant::now();
                self.tell(wanted, Stage::Threshold, Some(*lock(&done)), String::new());
            }
            !stop.load(Ordering::Relaxed)
        };
        self.tell(wanted, Stage::Threshold, Some(0.0), String::new());
        Ok(self.enroller.set_threshold(keyword, wanted.false_accepts, OtherSpeech::Default(&self.background), progress)?)
    }

    /// Takes of the phrase from the daemon's input.
    fn record(&self, wanted: &Wanted, stop: &AtomicBool) -> Result<Vec<Example>, JobError> {
        let mut audio = self.events.subscribe(Interest::Audio);
        let mut recorder = Recorder::new(self.enroller.encoder().audio().sample_rate);
        let (mut takes, until, mut heard) = (Vec::<Example>::new(), Instant::now() + RECORDING, false);
        let count = usize::from(wanted.takes);
        let say = |takes: &[Example], message: String| {
            self.tell(wanted, Stage::Recording, Some(takes.len() as f64), message);
        };
        say(&takes, format!("take 1 of {count}: speak now"));
        while takes.len() < count {
            if stop.load(Ordering::Relaxed) {
                return Err(EnrollError::Cancelled.into());
            }
            if Instant::now() > until {
                return Err(JobError::Late { missing: if heard { "more takes" } else { "audio" } });
            }
            let Some(event) = audio.try_recv() else {
                std::thread::sleep(PAUSE);
                continue;
            };
            let Event::Audio(samples) = &*event else { continue };
            heard = true;
            let RecorderEvent::Take(samples) = recorder.push(samples) else { continue };
            let number = takes.len() + 1;
            let take = Take { source: format!("take {number}"), origin: Origin::Recording, audio: samples };
            let outcome = self.enroller.take(&take)?;
            match outcome.and_then(|take| take.likeness(takes.iter()).unwrap_or(Ok(1.0)).map(|_| take)) {
                Ok(take) => {
                    takes.push(take);
                    let next = number + 1;
                    say(&takes, if number < count { format!("take {next} of {count}: speak now") } else { String::new() });
                }
                Err(problem) => {
                    // With two takes, it is unknown which one is wrong.
                    if takes.len() == 1 && matches!(problem, TakeProblem::TooUnlike { .. }) {
                        takes.clear();
                    }
                    say(&takes, format!("rejected: {problem}; take {} of {count}: speak again", takes.len() + 1));
                }
            }
        }
        Ok(takes)
    }
}

fn false_accepts(sensitivity: f64) -> Result<f64, Refusal> {
    match (0.0..=1.0).contains(&sensitivity) {
        true => Ok(false_accepts_of(sensitivity)),
        false => Err(Refusal::Invalid(format!("sensitivity must be between 0 and 1, got {sensitivity}"))),
    }
}

/// The inverse of [`false_accepts_of`].
fn sensitivity_of(false_accepts: f64) -> f64 {
    ((false_accepts / 0.05).ln() / 100f64.ln()).clamp(0.0, 1.0)
}

fn read_token(path: &Path) -> Result<String, TokenError> {
    let weak = || TokenError::Weak { path: path.to_owned() };
    let token = secret::read(path, "token", TOKEN_BYTES).map_err(|source| match source.kind() {
        std::io::ErrorKind::InvalidData => weak(),
        _ => TokenError::File { path: path.to_owned(), source },
    })?;
    let token = token.trim().to_owned();
    if token.len() < LEAST_TOKEN || !token.chars().all(|c| c.is_ascii_graphic()) {
        return Err(weak());
    }
    Ok(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_long_and_read_from_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        assert!(matches!(read_token(&path), Err(TokenError::File { .. })));
        for weak in ["", "short", "fifteen letters", "sixteen letters with spaces"] {
            std::fs::write(&path, weak).unwrap();
            assert!(matches!(read_token(&path), Err(TokenError::Weak { .. })), "{weak}");
        }
        std::fs::write(&path, "0123456789abcdef\n").unwrap();
        assert_eq!(read_token(&path).unwrap(), "0123456789abcdef");
    }

    #[test]
    fn sensitivities_are_rates() {
        for (sensitivity, per_hour) in [(0.0, 0.05), (0.5, 0.5), (1.0, 5.0)] {
            assert!((false_accepts_of(sensitivity) - per_hour).abs() < 1e-9);
        }
        for sensitivity in [0.0, 0.25, 0.5, 1.0] {
            assert!((sensitivity_of(false_accepts_of(sensitivity)) - sensitivity).abs() < 1e-9);
        }
        assert!(false_accepts(1.1).is_err() && false_accepts(f64::NAN).is_err());
    }
}
