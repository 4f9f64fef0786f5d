//! A life of many sources: what `bellis serve` runs.
//!
//! The threads behind the source are those of [`crate::runtime`]; here is who supervises them: a device that vanishes is waited
//! for and opened again, the policy and the consumers can be replaced between two chunks, the service manager is told, and the
//! numbers are there for whoever asks ([`MetricsServer`]).
//!
//! **Positions.** The life is one timeline. Chunks are numbered through; positions of samples go on after a loss, and the time
//! without a device counts as lost samples of the next chunk. The encoder starts afresh there. Over the whole life, samples
//! captured = processed + dropped.

mod board;
mod http;
mod life;
mod metrics;
mod notify;
mod opener;
mod status;

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::Receiver;

pub use board::{Board, Reading};
pub use http::MetricsServer;
#[cfg(unix)]
pub use notify::Systemd;
pub use notify::{Notice, Notify};
pub use opener::Backoff;
pub use status::{State, Status};

use crate::audio::{AudioError, Source};
use crate::engine::Encoder;
use crate::exit::ExitPolicy;
use crate::runtime::{NamedConsumer, Pipeline, RunError, RunOptions, RunReport};
use crate::stream::SessionOptions;
use life::Life;
use opener::Opener;

/// Sizes and times of a daemon.
#[derive(Debug, Clone)]
pub struct DaemonOptions {
    /// Of the runtime. A live source that is silent for its `watchdog` is closed and opened again.
    pub run: RunOptions,
    /// Whether a source that is lost, or is not there yet, is waited for: for devices, not for files.
    pub reopen: bool,
    /// How often it is looked for.
    pub backoff: Backoff,
    /// From the wish to stop to the end.
    pub stop_within: Duration,
    /// What the board shows is read here (`/sys`).
    pub board: std::path::PathBuf,
}

impl DaemonOptions {
    /// A device is looked for after a tenth of a second, then ever more seldom, every second at last; the end comes within two seconds.
    pub fn new(run: RunOptions) -> Self {
        let backoff = Backoff { first: Duration::from_millis(100), longest: Duration::from_secs(1) };
        Self { run, reopen: true, backoff, stop_within: Duration::from_millis(1_900), board: "/sys".into() }
    }
}

/// What a daemon can be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Read the configuration again.
    Reload,
    /// Compute what was captured, and end.
    Stop,
}

/// What a configuration that was read again wants.
pub struct Reload {
    /// The policy, from the next chunk on.
    pub policy: Box<dyn ExitPolicy>,
    /// What representations carry.
    pub session: SessionOptions,
    /// Labels of the consumers that go on as they are, where they live.
    pub keep: Vec<String>,
    /// Consumers that begin.
    pub join: Vec<NamedConsumer>,
}

/// Reads the configuration again. It is told the labels of the consumers that live.
pub type Reloader<'a> = dyn FnMut(&[String]) -> Result<Reload, Box<dyn std::error::Error + Send + Sync>> + 'a;

/// A daemon whose threads run, and which has no source yet.
pub struct Daemon {
    pipeline: Pipeline,
    options: DaemonOptions,
    status: Arc<Status>,
    labels: Vec<String>,
}

impl Daemon {
    /// Starts the threads behind the source. `source` names it, `live` tells whether it comes at its own pace.
    pub fn start(
        encoder: &Arc<Encoder>,
        policy: Box<dyn ExitPolicy>,
        consumers: Vec<NamedConsumer>,
        options: DaemonOptions,
        source: &str,
        live: bool,
    ) -> Result<Self, RunError> {
        let labels = consumers.iter().map(|one| one.label.clone()).collect();
        let pipeline = Pipeline::start(encoder, policy, consumers, &options.run, source, live)?;
        let status = Arc::new(Status::new(pipeline.counters().clone(), pipeline.stream().clone()));
        Ok(Self { pipeline, options, status, labels })
    }

    /// What can be asked of it while it runs.
    pub fn status(&self) -> &Arc<Status> {
        &self.status
    }

    /// Runs until it is told to stop, a source that is not opened again ends, or nothing is left to run for.
    pub fn run(
        self,
        open: impl FnMut() -> Result<Box<dyn Source>, AudioError> + Send + 'static,
        commands: &Receiver<Command>,
        reload: &mut Reloader<'_>,
        notify: &mut dyn Notify,
    ) -> RunReport {
        let opener = match Opener::start(open, self.options.run.ring, self.options.backoff) {
            Ok(opener) => opener,
            Err(error) => return self.pipeline.finish(Err(RunError::Thread(error)), Some(self.options.stop_within)),
        };
        Life::new(self, opener, notify).run(commands, reload)
    }
}
