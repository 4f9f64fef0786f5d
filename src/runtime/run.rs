//! A run: builder, handle, report.

use std::convert::Infallible;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, bounded};

use super::connection::{Connection, Opened, SourceStatus};
use super::counters::Counters;
use super::pipeline::{NamedConsumer, Pipeline};
use super::{RunError, RunOptions, StopFlag, Summary};
use crate::audio::Source;
use crate::consumer::{Consumer, StreamInfo};
use crate::engine::Encoder;
use crate::exit::ExitPolicy;
use crate::stream::Session;

/// Builder of a [`Run`].
///
/// ```no_run
/// use bellis::audio::{ChannelPick, FileSource};
/// use bellis::consumer::{JsonLines, JsonOptions};
/// use bellis::engine::{Encoder, LoadOptions};
/// use bellis::exit::PolicySpec;
/// use bellis::pack::Pack;
/// use bellis::runtime::RunBuilder;
///
/// # #[cfg(feature = "files")]
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let pack = Pack::open("models/daisy-tiny".as_ref())?;
/// let encoder = Encoder::load(&pack, &LoadOptions::default())?;
/// let source = FileSource::open("talk.flac".as_ref(), ChannelPick::MixDown, false)?;
/// let run = RunBuilder::new(source, &encoder, PolicySpec::default().build(&pack)?)
///     .consumer(JsonLines::new(std::io::stdout(), "standard output", JsonOptions::default()))
///     .start()?;
/// let summary = run.join().into_result()?;
/// eprint!("{summary}");
/// # Ok(())
/// # }
/// # #[cfg(not(feature = "files"))]
/// # fn main() {}
/// ```
pub struct RunBuilder {
    source: Box<dyn Source>,
    encoder: Arc<Encoder>,
    policy: Box<dyn ExitPolicy>,
    consumers: Vec<NamedConsumer>,
    options: RunOptions,
    stop: StopFlag,
    #[cfg(feature = "neighbours")]
    neighbours: Option<crate::neighbour::Source>,
}

impl RunBuilder {
    /// A run of `source` through `encoder` with `policy`, without consumers.
    pub fn new(source: impl Source + 'static, encoder: &Arc<Encoder>, policy: Box<dyn ExitPolicy>) -> Self {
        Self {
            source: Box::new(source),
            encoder: encoder.clone(),
            policy,
            consumers: Vec::new(),
            options: RunOptions::default(),
            stop: StopFlag::default(),
            #[cfg(feature = "neighbours")]
            neighbours: None,
        }
    }

    /// Adds a consumer, which runs on its own thread.
    pub fn consumer(mut self, consumer: impl Consumer + 'static) -> Self {
        self.consumers.push(NamedConsumer::from(Box::new(consumer) as Box<dyn Consumer>));
        self
    }

    /// Adds several consumers.
    pub fn consumers(mut self, consumers: impl IntoIterator<Item = Box<dyn Consumer>>) -> Self {
        self.consumers.extend(consumers.into_iter().map(NamedConsumer::from));
        self
    }

    /// Sets the options.
    pub fn options(mut self, options: RunOptions) -> Self {
        self.options = options;
        self
    }

    /// Ends the run when `stop` is set, as by a signal handler.
    pub fn stop_on(mut self, stop: StopFlag) -> Self {
        self.stop = stop;
        self
    }

    /// Lets chunks continue on neighbours.
    #[cfg(feature = "neighbours")]
    #[doc(hidden)]
    pub fn neighbours(mut self, source: crate::neighbour::Source) -> Self {
        self.neighbours = Some(source);
        self
    }

    /// Starts the source and the threads.
    ///
    /// # Errors
    ///
    /// [`RunError::Engine`] if the encoder lacks a stage that the options or a consumer need, [`RunError::Audio`] if the source does
    /// not start, [`RunError::Thread`] if the system cannot start a thread. The consumers have then finished.
    pub fn start(self) -> Result<Run, RunError> {
        #[cfg(feature = "neighbours")]
        let neighbours = self.neighbours;
        let prepare = |_session: &mut Session| {
            #[cfg(feature = "neighbours")]
            if let Some(neighbours) = neighbours {
                neighbours.attach(_session);
            }
        };
        let Self { source, encoder, policy, consumers, options, stop, .. } = self;
        let spec = source.spec().clone();
        let mut pipeline = Pipeline::start(&encoder, policy, consumers, &options, (&spec.name, spec.live), prepare)?;
        let opened = Opened::start(source, options.ring).map_err(RunError::from);
        let connection = match opened.and_then(|opened| pipeline.connect(opened, Duration::ZERO)) {
            Ok(connection) => connection,
            Err(error) => {
                pipeline.finish(Ok(()), None);
                return Err(error);
            }
        };
        let (counters, stream, began) = (pipeline.counters().clone(), pipeline.stream().clone(), Instant::now());
        let (flag, watchdog) = (stop.clone(), options.watchdog);
        let (running, ended) = bounded::<Infallible>(0);
        let supervise = move || {
            let _running = running;
            supervise(pipeline, connection, watchdog, &flag)
        };
        let supervisor = std::thread::Builder::new().name("supervisor".into()).spawn(supervise).map_err(RunError::Thread)?;
        Ok(Run { supervisor, ended, counters, stream, stop, began })
    }
}

/// Polls the source until the run ends, and stops all threads.
fn supervise(pipeline: Pipeline, mut connection: Connection, watchdog: Duration, stop: &StopFlag) -> RunReport {
    let mut status = SourceStatus::Running;
    while matches!(status, SourceStatus::Running) && !stop.is_set() && !pipeline.consumer_failed() && !pipeline.inference_ended()
    {
        status = connection.poll(watchdog);
    }
    // The source may have reported its end between two polls; the first report counts.
    let outcome = match (status, connection.close()) {
        (SourceStatus::Failed(error), _) | (SourceStatus::Running, SourceStatus::Failed(error)) => Err(error),
        (SourceStatus::Ended | SourceStatus::Running, _) => Ok(()),
    };
    pipeline.finish(outcome, None)
}

/// A stream that runs on its own threads.
///
/// Dropping the handle lets the run continue to the end of its source.
#[derive(Debug)]
pub struct Run {
    supervisor: JoinHandle<RunReport>,
    /// Disconnected at the end.
    ended: Receiver<Infallible>,
    counters: Arc<Counters>,
    stream: StreamInfo,
    stop: StopFlag,
    began: Instant,
}

impl Run {
    /// Requests the end: the source stops, and captured audio is still computed.
    pub fn stop(&self) {
        self.stop.stop();
    }

    /// The live counters; they remain readable after the end.
    pub fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    /// The description of the stream for consumers.
    pub fn stream(&self) -> &StreamInfo {
        &self.stream
    }

    /// Whether the run has ended; [`join`](Self::join) then returns at once.
    pub fn is_finished(&self) -> bool {
        self.supervisor.is_finished()
    }

    /// Waits for the end, at most for `patience`; returns whether the run has ended.
    pub fn wait_for(&self, patience: Duration) -> bool {
        matches!(self.ended.recv_timeout(patience), Err(RecvTimeoutError::Disconnected))
    }

    /// Waits for the end.
    pub fn join(self) -> RunReport {
        self.supervisor.join().unwrap_or_else(|_| RunReport {
            summary: Summary::new(&self.stream, &self.counters, self.began.elapsed()),
            outcome: Err(RunError::ThreadDied("supervisor")),
        })
    }
}

/// The summary of a run, and its result.
#[derive(Debug)]
#[non_exhaustive]
pub struct RunReport {
    /// The summary, also of a failed run.
    pub summary: Summary,
    /// The result.
    pub outcome: Result<(), RunError>,
}

impl RunReport {
    /// The summary, or the error of a failed run.
    ///
    /// # Errors
    ///
    /// The run's [`outcome`](Self::outcome).
    pub fn into_result(self) -> Result<Summary, RunError> {
        self.outcome.map(|()| self.summary)
    }
}
