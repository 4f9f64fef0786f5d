//! One run: source → ring → inference thread → consumers, supervised by the thread that calls [`run`]. `daemon` supervises the
//! same threads over a life of many sources.
//!
//! Whatever ends it (end of file, Ctrl-C, a device that fails, a consumer that fails), the source is stopped first, all that
//! was captured is computed, and every consumer finishes its files.

// Some of it serves the daemon only.
#[cfg_attr(not(feature = "serve"), allow(dead_code))]
mod connection;
mod counters;
mod delivery;
#[cfg_attr(not(feature = "serve"), allow(dead_code))]
mod inference;
#[cfg_attr(not(feature = "serve"), allow(dead_code))]
mod pipeline;
pub(crate) mod realtime;
mod summary;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

#[cfg(feature = "serve")]
pub(crate) use connection::Connection;
pub(crate) use connection::{Opened, SourceStatus};
pub use counters::{ConsumerCounters, Counters, Latencies};
pub use pipeline::NamedConsumer;
pub(crate) use pipeline::Pipeline;
pub use summary::{Percentiles, Samples, Summary};

use crate::audio::{AudioError, Source};
use crate::consumer::{Consumer, ConsumerError};
use crate::engine::{Encoder, EngineError};
use crate::exit::ExitPolicy;
use crate::stream::SessionOptions;

/// Asks a run to end; cheap to clone, safe to set from a signal handler.
#[derive(Debug, Clone, Default)]
pub struct StopFlag(Arc<AtomicBool>);

impl StopFlag {
    /// Asks for the end.
    pub fn stop(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Whether the end was asked for.
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// Sizes and times of a run.
#[derive(Debug, Clone)]
pub struct RunOptions {
    /// What the session computes; what the consumers want comes on top.
    pub session: SessionOptions,
    /// Sound that the ring holds: how long inference may be held up before live sound is dropped.
    pub ring: Duration,
    /// Chunks that wait for a consumer before it counts as behind.
    pub queue_chunks: usize,
    /// A live source that delivers nothing for so long is given up.
    pub watchdog: Duration,
    /// Real-time priority of the inference thread, 1 to 49 (SCHED_FIFO): below 50, where the kernel's interrupt threads are. Where
    /// the system does not allow it, the run goes on without and warns once.
    pub priority: Option<u8>,
}

impl RunOptions {
    /// Two seconds of ring, 16 chunks of queue, five seconds of watchdog.
    pub fn new(session: SessionOptions) -> Self {
        Self { session, ring: Duration::from_secs(2), queue_chunks: 16, watchdog: Duration::from_secs(5), priority: None }
    }
}

/// Why a run failed. Unless it was the encoder that failed, what was captured before was computed all the same.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The source failed.
    #[error(transparent)]
    Audio(#[from] AudioError),
    /// A live source delivered nothing for too long.
    #[error("{source_name}: no sound for {} s; the device or the sound server hangs — check it (`bellis devices`) and start again", .silence.as_secs())]
    Stalled {
        /// The source.
        source_name: String,
        /// For how long.
        silence: Duration,
    },
    /// The encoder failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A consumer failed.
    #[error("consumer {name}: {source}")]
    Consumer {
        /// The consumer.
        name: String,
        /// Why.
        source: ConsumerError,
    },
    /// The system gave no thread.
    #[error("cannot start a thread: {0}")]
    Thread(std::io::Error),
    /// A thread did not end in the time that was left for it.
    #[error("the {0} does not end; it is left behind")]
    Stuck(String),
    /// Too many streams are wedged in a sound server.
    #[error("{0} streams did not close when their sound server died; a new start frees what they hold")]
    LeftBehind(u64),
    /// A thread died: a defect of Bellis.
    #[error("the {0} thread died; this is a defect of Bellis, please report it with what the log says")]
    ThreadDied(&'static str),
}

/// How a run ended: its numbers, and whether it failed.
#[derive(Debug)]
pub struct RunReport {
    /// The numbers.
    pub summary: Summary,
    /// How it ended.
    pub outcome: Result<(), RunError>,
}

/// How often the supervisor looks around.
const SUPERVISION: Duration = Duration::from_millis(50);

/// Runs `source` through `encoder` until it ends or `stop` is set. `watch` is called about twenty times a second with the live
/// counters, from the calling thread. An error before the stream begins is returned at once; a later one is in the report.
pub fn run(
    source: Box<dyn Source>,
    encoder: &Arc<Encoder>,
    policy: Box<dyn ExitPolicy>,
    consumers: Vec<Box<dyn Consumer>>,
    options: &RunOptions,
    stop: &StopFlag,
    mut watch: impl FnMut(&Arc<Counters>),
) -> Result<RunReport, RunError> {
    let spec = source.spec().clone();
    let consumers = consumers.into_iter().map(|consumer| NamedConsumer { label: consumer.name().to_owned(), consumer }).collect();
    let mut pipeline = Pipeline::start(encoder, policy, consumers, options, &spec.name, spec.live)?;
    let counters = pipeline.counters().clone();
    let opened = Opened::start(source, options.ring).map_err(RunError::from);
    let outcome = opened.and_then(|opened| pipeline.connect(opened, Duration::ZERO)).and_then(|mut connection| {
        let mut status = SourceStatus::Running;
        while matches!(status, SourceStatus::Running)
            && !stop.is_set()
            && !pipeline.consumer_failed()
            && !pipeline.inference_ended()
        {
            status = connection.poll(options.watchdog);
            watch(&counters);
        }
        // How it ended by itself may have come while nobody looked; what was seen first counts.
        let closed = connection.close();
        match (status, closed) {
            (SourceStatus::Failed(error), _) | (SourceStatus::Running, SourceStatus::Failed(error)) => Err(error),
            (SourceStatus::Ended | SourceStatus::Running, _) => Ok(()),
        }
    });
    let report = pipeline.finish(outcome, None);
    watch(&counters);
    Ok(report)
}
