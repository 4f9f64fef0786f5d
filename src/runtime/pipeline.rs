//! The inference and consumer threads, from start to end. Sources, the policy and consumers may be replaced in between.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Sender, bounded, unbounded};

use super::connection::{Connection, Opened};
use super::counters::{Counters, PendingLatencies};
use super::delivery::{self, ConsumerThread, Gate};
use super::inference::{Change, Control, Inference, Input};
use super::level::LevelMeter;
use super::run::RunReport;
use super::summary::Summary;
use super::{Adjust, RunError, RunOptions, StopFlag};
use crate::audio::{ChannelMixer, Resampler};
use crate::consumer::{Consumer, ConsumerError, Requirements, StreamInfo};
use crate::engine::Encoder;
use crate::exit::ExitPolicy;
use crate::stream::{Session, SessionError, SessionOptions};

/// A consumer with a unique label.
pub struct NamedConsumer {
    /// The label in counters and metrics.
    pub label: String,
    /// The consumer.
    pub consumer: Box<dyn Consumer>,
}

impl From<Box<dyn Consumer>> for NamedConsumer {
    fn from(consumer: Box<dyn Consumer>) -> Self {
        Self { label: consumer.name().to_owned(), consumer }
    }
}

/// A consumer whose thread has ended.
pub struct EndedConsumer {
    /// Its label.
    pub label: String,
    /// Whether it was removed or restarted, so that another consumer may have its label.
    pub leaving: bool,
    /// Its result.
    pub outcome: Result<(), ConsumerError>,
}

/// The threads behind the source.
pub struct Pipeline {
    encoder: Arc<Encoder>,
    options: RunOptions,
    stream: StreamInfo,
    counters: Arc<Counters>,
    control: Sender<Control>,
    inference: JoinHandle<Result<(), SessionError>>,
    consumers: Vec<ConsumerThread>,
    /// Set when a consumer has failed.
    failed: StopFlag,
    discard: StopFlag,
    began: Instant,
}

/// Polling interval while waiting for a thread to end.
const ENDING: Duration = Duration::from_millis(5);

impl Pipeline {
    /// Starts the threads, with a session that `prepare` has seen. The source's name and whether it is live describe the stream to the
    /// consumers.
    pub fn start(
        encoder: &Arc<Encoder>,
        policy: Box<dyn ExitPolicy>,
        consumers: Vec<NamedConsumer>,
        options: &RunOptions,
        (source, live): (&str, bool),
        prepare: impl FnOnce(&mut Session),
    ) -> Result<Self, RunError> {
        let pack_rate = encoder.audio().sample_rate;
        let stream = StreamInfo {
            source: source.to_owned(),
            pack: encoder.name().to_owned(),
            sample_rate: pack_rate,
            hop_samples: encoder.audio().hop,
            dim: encoder.dim(),
            units: encoder.units(),
            quiet_unit: encoder.quiet_unit(),
            vocabulary: encoder.vocabulary().to_vec(),
            layers: encoder.layers(),
            chunk_frames: options.session.chunk_frames.unwrap_or_else(|| encoder.default_chunk_frames()),
            policy: policy.description(),
            live,
        };
        let session = with_requirements(&options.session, consumers.iter().map(|one| one.consumer.requires()));
        let mut session = Session::new(encoder, policy, session)?;
        prepare(&mut session);
        let counters = Arc::new(Counters::new(pack_rate, encoder.layers()));
        let (failed, discard) = (StopFlag::default(), StopFlag::default());
        let (control, receiver) = unbounded();
        let (mut queues, mut threads) = (Vec::new(), Vec::new());
        for NamedConsumer { label, consumer } in consumers {
            let own = counters.add_consumer(consumer.name(), &label);
            let (permit, permitted) = bounded(1);
            let gate = Gate { permitted, predecessor: None };
            let started = delivery::start(consumer, options.queue_chunks, stream.clone(), own, &failed, gate);
            let (queue, thread) = started.map_err(RunError::Thread)?;
            let _ = permit.send(());
            queues.push(queue);
            threads.push(thread);
        }
        let inference = Inference {
            control: receiver,
            session,
            queues,
            counters: counters.clone(),
            priority: options.priority,
            discard: discard.clone(),
            pending: PendingLatencies::default(),
            level: LevelMeter::new(options.gain),
            inputs: Default::default(),
            began: false,
        };
        let inference =
            std::thread::Builder::new().name("inference".into()).spawn(move || inference.run()).map_err(RunError::Thread)?;
        let (encoder, options) = (encoder.clone(), options.clone());
        let began = Instant::now();
        Ok(Self { encoder, options, stream, counters, control, inference, consumers: threads, failed, discard, began })
    }

    /// Connects `opened` after the previous source. `missed` is the time in between, during which nothing was captured.
    pub fn connect(&mut self, opened: Opened, missed: Duration) -> Result<Connection, RunError> {
        let Opened { source, spec, ring, ring_channels, events } = opened;
        let pack_rate = self.encoder.audio().sample_rate;
        let resampler = Resampler::new(spec.sample_rate, pack_rate)?;
        let stats = ring.stats().clone();
        let missed = (missed.as_secs_f64() * f64::from(pack_rate)) as u64;
        let mixer = (ring_channels > 1).then(|| ChannelMixer::new(ring_channels, spec.sample_rate));
        let input = Input::new(spec.name.clone(), ring, mixer, resampler, spec.sample_rate, spec.live, missed);
        let connection =
            Connection::new(source, spec, events, stats.clone(), input.source_stopped.clone(), self.counters.clone());
        self.counters.add_ring(stats);
        // If the inference thread has ended, its result contains the reason.
        let _ = self.control.send(Control::Input(Box::new(input)));
        Ok(connection)
    }

    /// Replaces the policy and the consumers between two chunks. Running consumers whose labels are in `keep` continue. A consumer in
    /// `join` with the label of one that leaves begins when that one has completed its output.
    ///
    /// # Errors
    ///
    /// The pack cannot provide what the consumers require, or a thread cannot be started. Nothing has changed then.
    pub fn change(
        &mut self,
        policy: Option<Box<dyn ExitPolicy>>,
        session: &SessionOptions,
        keep: Vec<String>,
        join: Vec<NamedConsumer>,
        adjust: Option<Adjust>,
    ) -> Result<(), RunError> {
        let stays = |thread: &ConsumerThread| !thread.leaving && keep.iter().any(|label| label == thread.counters.label());
        let stay = self.consumers.iter().filter(|thread| stays(thread));
        let session = with_requirements(
            session,
            stay.map(|thread| thread.requirements).chain(join.iter().map(|one| one.consumer.requires())),
        );
        session.check(&self.encoder)?;
        let mut stream = self.stream.clone();
        if let Some(policy) = &policy {
            stream.policy = policy.description();
        }
        let (mut add, mut permits, mut threads) = (Vec::new(), Vec::new(), Vec::new());
        for NamedConsumer { label, consumer } in join {
            let known = self.counters.consumers().into_iter().find(|known| known.label() == label);
            let own = known.unwrap_or_else(|| self.counters.add_consumer(consumer.name(), &label));
            let predecessor = self.consumers.iter().rfind(|thread| thread.counters.label() == label);
            let (permit, permitted) = bounded(1);
            let gate = Gate { permitted, predecessor: predecessor.map(|thread| thread.ended.clone()) };
            let started = delivery::start(consumer, self.options.queue_chunks, stream.clone(), own, &self.failed, gate);
            // An error drops the permits of the others: they end without having begun.
            let (queue, thread) = started.map_err(RunError::Thread)?;
            add.push(queue);
            permits.push(permit);
            threads.push(thread);
        }
        // Everything is prepared; nothing below fails.
        self.stream = stream;
        // Consumers that were removed have not failed any more; those that join report it themselves.
        let removed = |label: &str| !keep.iter().any(|kept| kept == label);
        self.counters.consumers().iter().filter(|one| removed(one.label())).for_each(|one| one.set_failed(false));
        for thread in &mut self.consumers {
            thread.leaving |= !keep.iter().any(|label| label == thread.counters.label());
        }
        self.consumers.extend(threads);
        for permit in permits {
            let _ = permit.send(());
        }
        let _ = self.control.send(Control::Change(Change { policy, session, keep, add, adjust }));
        self.inference.thread().unpark();
        Ok(())
    }

    /// The counters.
    pub fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    /// The description of the stream for the consumers.
    pub fn stream(&self) -> &StreamInfo {
        &self.stream
    }

    /// Whether a consumer has ever failed.
    pub fn consumer_failed(&self) -> bool {
        self.failed.is_set()
    }

    /// Labels of the running consumers.
    pub fn labels(&self) -> Vec<String> {
        let running = self.consumers.iter().filter(|thread| !thread.leaving && !thread.handle.is_finished());
        running.map(|thread| thread.counters.label().to_owned()).collect()
    }

    /// Removes the consumers that have ended.
    pub fn reap(&mut self) -> Vec<EndedConsumer> {
        let ended: Vec<_> = self.consumers.extract_if(.., |thread| thread.handle.is_finished()).collect();
        for thread in ended.iter().filter(|thread| thread.leaving) {
            let label = thread.counters.label();
            if !self.consumers.iter().any(|running| running.counters.label() == label) {
                thread.counters.set_failed(false);
            }
        }
        self.counters.limit_removed(|label| self.consumers.iter().any(|running| running.counters.label() == label));
        ended
            .into_iter()
            .map(|thread| EndedConsumer {
                label: thread.counters.label().to_owned(),
                leaving: thread.leaving,
                outcome: thread.outcome(),
            })
            .collect()
    }

    /// Whether the inference thread has ended; unless requested, that is a failure.
    pub fn inference_ended(&self) -> bool {
        self.inference.is_finished()
    }

    /// Processes the remaining audio, stops all threads, and adds their results to `outcome`. With `patience`, audio that is not
    /// processed within half of that time is dropped and counted, and a thread that does not stop in time is an error.
    pub fn finish(self, outcome: Result<(), RunError>, patience: Option<Duration>) -> RunReport {
        drop(self.control);
        let until = patience.map(|patience| Instant::now() + patience);
        let computing = patience.map(|patience| Instant::now() + patience / 2);
        if !ends(&self.inference, computing) {
            self.discard.stop();
        }
        let mut outcome = match ends(&self.inference, until) {
            false => outcome.and(Err(RunError::Stuck("inference thread".into()))),
            true => {
                let computed = self.inference.join().map_err(|_| RunError::ThreadDied("inference"));
                outcome.and(computed.and_then(|computed| computed.map_err(RunError::from)))
            }
        };
        // A hanging inference thread keeps the consumers' queues open.
        let stuck = matches!(outcome, Err(RunError::Stuck(_)));
        for thread in self.consumers.into_iter().filter(|_| !stuck) {
            let name = thread.counters.label().to_owned();
            outcome = outcome.and(match ends(&thread.handle, until) {
                false => Err(RunError::Stuck(format!("consumer {name}"))),
                true => match thread.outcome() {
                    Ok(()) | Err(ConsumerError::Closed) => Ok(()),
                    Err(ConsumerError::Panicked) => Err(RunError::ThreadDied("consumer")),
                    Err(source) => Err(RunError::Consumer { name, source }),
                },
            });
        }
        RunReport { summary: Summary::new(&self.stream, &self.counters, self.began.elapsed()), outcome }
    }
}

/// Waits for a thread to end; returns false if `until` comes first.
fn ends<T>(thread: &JoinHandle<T>, until: Option<Instant>) -> bool {
    let Some(until) = until else { return true };
    while !thread.is_finished() {
        if Instant::now() >= until {
            return false;
        }
        std::thread::sleep(ENDING);
    }
    true
}

/// The session's own options combined with the requirements of its consumers.
fn with_requirements(own: &SessionOptions, consumers: impl Iterator<Item = Requirements>) -> SessionOptions {
    consumers.fold(own.clone(), |mut session, requirements| {
        session.posteriors |= requirements.posteriors;
        session.embedding |= requirements.embedding;
        session.ctc |= requirements.ctc;
        session.audio |= requirements.audio;
        session
    })
}
