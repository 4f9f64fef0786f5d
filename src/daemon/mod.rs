//! The daemon of `bellis serve`: a pipeline across many sources.
//!
//! The threads behind the source are those of [`crate::runtime`]. The daemon supervises them: it reopens a lost device, replaces the
//! policy and the consumers between two chunks, reports to the service manager, and serves its metrics over HTTP ([`HttpServer`]).
//!
//! **Positions.** A process is one timeline. Chunk numbers have no gaps. Sample positions continue after a device is lost: the time
//! without a device counts as lost samples of the next chunk, and the encoder is reset there. From start to end,
//! samples captured = processed + dropped.

mod board;
mod clock;
#[cfg(all(feature = "keywords", feature = "files"))]
mod enrolment;
pub mod events;
mod feed;
#[cfg(feature = "home")]
pub mod home;
pub(crate) mod http;
mod metrics;
mod notify;
mod opener;
#[cfg(any(feature = "home", all(feature = "keywords", feature = "files")))]
mod secret;
mod status;
mod supervisor;

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::Receiver;

pub use board::{Board, Reading};
pub use clock::Clock;
#[cfg(all(feature = "keywords", feature = "files"))]
pub use enrolment::{Enrolment, TokenError};
pub use http::{HttpListener, HttpServer, KeywordAccess};
#[cfg(unix)]
pub use notify::Systemd;
pub use notify::{Notice, Notify};
pub use opener::Backoff;
pub use status::{State, Status};

use crate::audio::{AudioError, Source};
use crate::engine::Encoder;
use crate::exit::ExitPolicy;
use crate::runtime::{Adjust, NamedConsumer, Pipeline, RunError, RunOptions, RunReport};
use crate::stream::{Session, SessionOptions};
use events::EventBus;
use opener::Opener;
use supervisor::Supervisor;

/// Options of a daemon.
#[derive(Debug, Clone)]
pub struct DaemonOptions {
    /// Options of the pipeline. A live source that delivers nothing for `watchdog` is closed and reopened.
    pub run: RunOptions,
    /// Whether to reopen a source that is lost or missing: true for devices, false for files.
    pub reopen: bool,
    /// Whether there is no source at all, and the daemon only offers services.
    pub idle: bool,
    /// Time between attempts to open a source.
    pub backoff: Backoff,
    /// Maximum time from the stop command to the end.
    pub stop_within: Duration,
    /// Where the board's sensors are read: `/sys`.
    pub board: std::path::PathBuf,
    /// Where events are published.
    pub events: Arc<EventBus>,
    /// The clock of every time limit.
    pub clock: Clock,
}

impl DaemonOptions {
    /// The defaults: attempts to open a device after 0.1 s at first, at most 1 s apart; the end within two seconds.
    pub fn new(run: RunOptions) -> Self {
        let backoff = Backoff { first: Duration::from_millis(100), longest: Duration::from_secs(1) };
        let (stop_within, events, clock) = (Duration::from_millis(1_900), Arc::default(), Clock::default());
        Self { run, reopen: true, idle: false, backoff, stop_within, board: "/sys".into(), events, clock }
    }
}

/// A command to a running daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Reload the configuration.
    Reload,
    /// Read again what changes besides the configuration: the enrolled keywords.
    Refresh,
    /// Process the captured audio, then end.
    Stop,
}

/// The changes of a reloaded configuration, prepared without any effect.
pub struct Reload {
    /// The policy, from the next chunk on.
    pub policy: Box<dyn ExitPolicy>,
    /// Contents of the representations.
    pub session: SessionOptions,
    /// Labels of the running consumers that continue.
    pub keep: Vec<String>,
    /// New consumers.
    pub join: Vec<NamedConsumer>,
    /// Further changes to the session.
    pub adjust: Option<Adjust>,
}

/// A reload, or why it is not possible.
pub type Prepared = Result<Reload, Box<dyn std::error::Error + Send + Sync>>;

/// Reads the configuration again.
pub trait Reloader {
    /// Prepares the changes. `running` has the labels of the running consumers. Nothing may change yet: files are opened when their
    /// consumer begins.
    ///
    /// # Errors
    ///
    /// The configuration is invalid. It has no effect then.
    fn prepare(&mut self, running: &[String]) -> Prepared;

    /// Prepares the changes that follow from what has changed besides the configuration, such as enrolled keywords; `None` if there are
    /// none. Called every few seconds.
    fn refresh(&mut self, _running: &[String]) -> Option<Prepared> {
        None
    }

    /// Called once the prepared changes are in effect.
    fn applied(&mut self) {}
}

impl<F: FnMut(&[String]) -> Prepared> Reloader for F {
    fn prepare(&mut self, running: &[String]) -> Prepared {
        self(running)
    }
}

/// A daemon with running threads and no source yet.
pub struct Daemon {
    pipeline: Pipeline,
    options: DaemonOptions,
    status: Arc<Status>,
    /// Whether events include phones.
    phones: bool,
}

impl Daemon {
    /// Starts the threads behind the source. `source` is the source's name; `live` states whether it delivers at its own pace.
    pub fn start(
        encoder: &Arc<Encoder>,
        policy: Box<dyn ExitPolicy>,
        consumers: Vec<NamedConsumer>,
        options: DaemonOptions,
        source: &str,
        live: bool,
    ) -> Result<Self, RunError> {
        Self::start_with(encoder, policy, consumers, options, (source, live), |_| {})
    }

    /// Starts the threads, with a session that `prepare` has seen.
    pub fn start_with(
        encoder: &Arc<Encoder>,
        policy: Box<dyn ExitPolicy>,
        consumers: Vec<NamedConsumer>,
        options: DaemonOptions,
        (source, live): (&str, bool),
        prepare: impl FnOnce(&mut Session),
    ) -> Result<Self, RunError> {
        let pipeline = Pipeline::start(encoder, policy, consumers, &options.run, (source, live), prepare)?;
        let events = options.events.clone();
        // Exits must not depend on whether a page is open.
        let phones = encoder.has_all_ctc();
        let status = Arc::new(Status::new(pipeline.counters().clone(), pipeline.stream().clone(), events, phones));
        Ok(Self { pipeline, options, status, phones })
    }

    /// State and counters, readable while it runs.
    pub fn status(&self) -> &Arc<Status> {
        &self.status
    }

    /// Labels of the consumers that have failed, without the one that publishes events.
    fn failed_labels(&self) -> Vec<String> {
        let failed = self.status.counters().consumers().into_iter().filter(|one| one.failed());
        failed.map(|one| one.label().to_owned()).filter(|label| label != feed::LABEL).collect()
    }

    /// Labels of the running consumers, without the one that publishes events.
    fn labels(&self) -> Vec<String> {
        let mut labels = self.pipeline.labels();
        labels.retain(|label| label != feed::LABEL);
        labels
    }

    /// Runs until a stop command, the end of a source that is not reopened, or the failure of the last consumer.
    pub fn run(
        self,
        open: impl FnMut() -> Result<Box<dyn Source>, AudioError> + Send + 'static,
        commands: &Receiver<Command>,
        reload: &mut dyn Reloader,
        notify: &mut dyn Notify,
    ) -> RunReport {
        let opener = match Opener::start(open, self.options.run.ring, self.options.backoff, self.options.clock.clone()) {
            Ok(opener) => opener,
            Err(error) => return self.pipeline.finish(Err(RunError::Thread(error)), Some(self.options.stop_within)),
        };
        Supervisor::new(self, opener, notify).run(commands, reload)
    }
}
