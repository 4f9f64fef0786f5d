//! Supervision of a running daemon, about twenty times a second: the source, the threads, the watchdog, the board, and commands.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;

use super::board::Board;
use super::clock::Clock;
use super::events::{Event, StatusEvent, StreamEvent};
use super::feed::{self, Feed};
use super::notify::{Notice, Notify};
use super::opener::Opener;
use super::status::State;
use super::{Command, Daemon, Prepared, Reload, Reloader};
use crate::audio::abandoned_streams;
use crate::chain::Chain;
use crate::process;
use crate::runtime::{Connection, EndedConsumer, NamedConsumer, RunError, RunReport, SUPERVISION, SourceStatus};
use crate::stream::SessionOptions;

/// Time without progress of the device or the inference thread after which the state is `stalled`.
const STALLED_AFTER: Duration = Duration::from_secs(2);
/// Time after which an attempt to open a source counts as hung: watchdog pings stop.
const OPENING_HANGS_AFTER: Duration = Duration::from_secs(10);
/// Number of streams that could not be closed after which the daemon exits, so that the service manager restarts it.
const MAX_ABANDONED_STREAMS: u64 = 8;
/// Interval of status messages to the service manager.
const STATUS_EVERY: Duration = Duration::from_secs(10);
/// Interval of reading the board.
const BOARD_EVERY: Duration = Duration::from_secs(5);

/// Interval of looking for changes besides the configuration.
const REFRESH_EVERY: Duration = Duration::from_secs(5);
/// Interval of status events.
const STATUS_EVENT_EVERY: Duration = Duration::from_secs(1);

/// A daemon with an open source, or none.
pub(super) struct Supervisor<'a> {
    daemon: Daemon,
    opener: Opener,
    connection: Option<Connection>,
    /// Whether the source has ended: what it delivered is still being processed.
    ended: bool,
    /// Time of the last sample of the previous source.
    last_sample: Option<Instant>,
    /// Time without a source before the present one, until its first sample.
    absent: Option<Duration>,
    ready: bool,
    /// Why the last attempt to open a source failed. Logged only when it changes.
    problem: String,
    /// The inference thread's heartbeats, and when they last increased.
    beats: u64,
    beat_at: Instant,
    pinged: Instant,
    status_sent: Instant,
    board_read: Option<Instant>,
    board: Board,
    /// Options of the session in effect.
    session: SessionOptions,
    /// Whether the consumer that publishes events runs.
    feeding: bool,
    event_sent: Instant,
    refreshed: Instant,
    /// CPU time, computing time and audio at the last measurement, and the percentages of the second before it.
    used: Usage,
    load: (Option<f64>, Option<f64>),
    clock: Clock,
    notify: &'a mut dyn Notify,
}

impl<'a> Supervisor<'a> {
    pub fn new(daemon: Daemon, opener: Opener, notify: &'a mut dyn Notify) -> Self {
        let clock = daemon.options.clock.clone();
        let now = clock.now();
        Self {
            clock,
            board: Board::at(&daemon.options.board),
            session: daemon.options.run.session.clone(),
            feeding: false,
            event_sent: now,
            refreshed: now,
            used: Usage::default(),
            load: (None, None),
            daemon,
            opener,
            connection: None,
            ended: false,
            last_sample: None,
            absent: None,
            ready: false,
            problem: String::new(),
            beats: 0,
            beat_at: now,
            pinged: now,
            status_sent: now,
            board_read: None,
            notify,
        }
    }

    /// Runs until the daemon stops.
    pub fn run(mut self, commands: &Receiver<Command>, reload: &mut dyn Reloader) -> RunReport {
        self.send_status();
        let mut outcome = None;
        let mut stop_requested = false;
        while outcome.is_none() && !stop_requested {
            outcome = match self.connection.take() {
                Some(connection) => self.poll_source(connection),
                None if self.ended => self.wait_for_the_rest(),
                None => self.open_source(),
            };
            outcome = outcome.or_else(|| self.check_threads());
            self.ping();
            self.read_board();
            self.update_feed();
            if self.clock.since(self.refreshed) >= REFRESH_EVERY {
                self.refresh(reload);
            }
            if self.clock.since(self.event_sent) >= STATUS_EVENT_EVERY {
                self.measure_load();
                self.publish_status();
            }
            if self.clock.since(self.status_sent) >= STATUS_EVERY {
                self.send_status();
            }
            for command in commands.try_iter() {
                match command {
                    Command::Stop => stop_requested = true,
                    Command::Reload => self.reload(reload),
                    Command::Refresh => self.refresh(reload),
                }
            }
        }
        self.end(outcome.unwrap_or(Ok(())))
    }

    /// Polls the open source. `Some` ends the run.
    fn poll_source(&mut self, mut connection: Connection) -> Option<Result<(), RunError>> {
        let polled = connection.poll(self.daemon.options.run.watchdog);
        if connection.captured() > 0
            && let Some(absent) = self.absent.take()
        {
            self.daemon.status.count_absent(absent);
        }
        match polled {
            SourceStatus::Running => {
                let silence = connection.silence().max(self.inference_silence());
                if silence >= STALLED_AFTER {
                    self.set_state(State::Stalled);
                } else if connection.captured() > 0 {
                    self.set_state(State::Running);
                }
                self.connection = Some(connection);
                None
            }
            SourceStatus::Ended => {
                let _ = connection.close();
                self.ended = true;
                None
            }
            SourceStatus::Failed(error) => {
                let name = connection.spec().name.clone();
                self.last_sample = connection.last_sample_at().or(self.last_sample);
                let _ = connection.close();
                if !self.daemon.options.reopen {
                    return Some(Err(error));
                }
                let abandoned = abandoned_streams();
                if abandoned >= MAX_ABANDONED_STREAMS {
                    return Some(Err(RunError::Abandoned(abandoned)));
                }
                log::warn!("{name} is lost ({}); retrying until it returns", Chain(&error));
                self.daemon.status.lost.fetch_add(1, Ordering::Relaxed);
                // The next chunk, in which the speech sensor would report the end, may arrive hours later.
                self.daemon.options.events.publish(Event::Speech { speech: false });
                self.opener.lost();
                self.problem.clear();
                self.set_state(State::Reconnecting);
                None
            }
        }
    }

    /// Ends the run as soon as the audio of the source, which has ended, is processed and delivered.
    fn wait_for_the_rest(&self) -> Option<Result<(), RunError>> {
        let counters = self.daemon.pipeline.counters();
        if counters.live_rings() == 0 && counters.consumers().iter().all(|consumer| consumer.queued() == 0) {
            return Some(Ok(()));
        }
        std::thread::sleep(SUPERVISION);
        None
    }

    /// Tries to open a source. `Some` ends the run.
    fn open_source(&mut self) -> Option<Result<(), RunError>> {
        if self.daemon.options.idle {
            self.set_state(State::Idle);
            std::thread::sleep(SUPERVISION);
            return None;
        }
        // At most two rings at a time: each may hold seconds of audio that are not processed yet.
        if self.daemon.pipeline.counters().live_rings() > 1 {
            std::thread::sleep(SUPERVISION);
            return None;
        }
        match self.opener.poll(SUPERVISION)? {
            Ok(opened) => {
                let absent = self.last_sample.map_or(Duration::ZERO, |last| last.elapsed());
                match self.daemon.pipeline.connect(opened, absent) {
                    Ok(connection) => {
                        let spec = connection.spec();
                        log::info!("{} is open: {} Hz, {} channel(s)", spec.name, spec.sample_rate, spec.channels);
                        let status = &self.daemon.status;
                        status.opened.fetch_add(1, Ordering::Relaxed);
                        status.source_rate.store(spec.sample_rate, Ordering::Relaxed);
                        self.problem.clear();
                        self.absent = Some(absent);
                        self.connection = Some(connection);
                        None
                    }
                    Err(error) => Some(Err(error)),
                }
            }
            Err(error) => {
                self.daemon.status.open_failures.fetch_add(1, Ordering::Relaxed);
                let abandoned = abandoned_streams();
                if abandoned >= MAX_ABANDONED_STREAMS {
                    return Some(Err(RunError::Abandoned(abandoned)));
                }
                // At start-up, an error that a retry cannot fix is reported at once. Later the device did work, and may return.
                let permanent = !error.kind().retry_helps() && self.daemon.status.opened() == 0;
                if !self.daemon.options.reopen || permanent {
                    return Some(Err(error.into()));
                }
                let problem = error.to_string();
                if problem != self.problem {
                    log::warn!("{problem}; retrying until it opens");
                    self.problem = problem;
                }
                self.set_state(State::Reconnecting);
                None
            }
        }
    }

    /// Handles threads that have ended. `Some` ends the run.
    fn check_threads(&mut self) -> Option<Result<(), RunError>> {
        let daemon = &mut self.daemon;
        for EndedConsumer { label, leaving, outcome } in daemon.pipeline.reap() {
            let Err(error) = outcome else { continue };
            if leaving {
                log::error!("consumer {label} could not complete its output: {}", Chain(&error));
                continue;
            }
            if label == feed::LABEL {
                log::error!("events are not published any more: {}", Chain(&error));
                continue;
            }
            let last = daemon.labels().is_empty();
            log::error!("consumer {label} failed and receives nothing until the next reload: {}", Chain(&error));
            daemon.status.consumer_failed.store(true, Ordering::Release);
            if last {
                log::error!("no consumer is left");
                return Some(Err(RunError::Consumer { name: label, source: error }));
            }
        }
        // `Pipeline::finish` returns its error.
        daemon.pipeline.inference_ended().then_some(Ok(()))
    }

    fn reload(&mut self, reload: &mut dyn Reloader) {
        self.notify.notify(Notice::Reloading);
        let prepared = reload.prepare(&self.daemon.labels());
        match self.apply(prepared, reload, Vec::new()) {
            Ok(()) => {
                self.daemon.status.consumer_failed.store(false, Ordering::Release);
                self.daemon.status.reloads.fetch_add(1, Ordering::Relaxed);
                log::info!("configuration reloaded: {}", self.daemon.pipeline.stream().policy);
            }
            Err(error) => {
                self.daemon.status.rejected_reloads.fetch_add(1, Ordering::Relaxed);
                log::error!("reload rejected, the old configuration remains in effect: {error}");
            }
        }
        self.notify.notify(Notice::Ready);
        self.send_status();
    }

    /// Applies what has changed besides the configuration.
    fn refresh(&mut self, reload: &mut dyn Reloader) {
        self.refreshed = self.clock.now();
        if let Some(prepared) = reload.refresh(&self.daemon.labels()) {
            // Those that have failed wait for a reload.
            let failed = self.daemon.failed_labels();
            match self.apply(prepared, reload, failed) {
                Ok(()) => log::info!("the changed keywords are in effect"),
                Err(error) => log::error!("the changed keywords cannot be used, the old ones remain in effect: {error}"),
            }
        }
    }

    /// Applies a change, of which consumers in `also_keep` are no part.
    fn apply(
        &mut self,
        prepared: Prepared,
        reload: &mut dyn Reloader,
        also_keep: Vec<String>,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let daemon = &mut self.daemon;
        let running = daemon.labels();
        let Reload { policy, session, mut keep, join, adjust } = prepared?;
        keep.retain(|label| running.contains(label));
        keep.extend(self.feeding.then(|| feed::LABEL.to_owned()).into_iter().chain(also_keep));
        daemon.pipeline.change(Some(policy), &session, keep, join, adjust)?;
        self.session = session;
        reload.applied();
        daemon.status.set_stream(daemon.pipeline.stream().clone());
        daemon.options.events.publish(Event::Stream(Box::new(StreamEvent::of(&daemon.status))));
        Ok(())
    }

    /// Starts the consumer that publishes events with the first subscriber to everything, and stops it with the last.
    fn update_feed(&mut self) {
        let daemon = &mut self.daemon;
        let wanted = daemon.options.events.wants_chunks();
        if wanted == self.feeding {
            return;
        }
        let feed = || NamedConsumer {
            label: feed::LABEL.to_owned(),
            consumer: Box::new(Feed::new(daemon.options.events.clone(), daemon.phones)),
        };
        let join = wanted.then(feed).into_iter().collect();
        let keep = [daemon.labels(), daemon.failed_labels()].concat();
        if let Err(error) = daemon.pipeline.change(None, &self.session, keep, join, None) {
            log::error!("cannot publish events: {}", Chain(&error));
        }
        self.feeding = wanted;
    }

    fn measure_load(&mut self) {
        self.event_sent = self.clock.now();
        let used = Usage::of(&self.daemon);
        let before = std::mem::replace(&mut self.used, used);
        if let Some(at) = before.at {
            let cpu = percent(used.cpu.saturating_sub(before.cpu), at.elapsed());
            let computing = percent(used.compute.saturating_sub(before.compute), used.audio.saturating_sub(before.audio));
            self.load = (cpu, computing);
        }
    }

    fn publish_status(&self) {
        let events = &self.daemon.options.events;
        if events.count() == 0 {
            return;
        }
        let (cpu_percent, compute_percent) = self.load;
        let event = StatusEvent { cpu_percent, compute_percent, ..StatusEvent::of(&self.daemon.status) };
        events.publish(Event::Status(Box::new(event)));
    }

    /// Time since the inference thread last made progress.
    fn inference_silence(&mut self) -> Duration {
        let beats = self.daemon.pipeline.counters().heartbeats();
        if beats != self.beats {
            (self.beats, self.beat_at) = (beats, self.clock.now());
        }
        self.clock.since(self.beat_at)
    }

    /// Pings the watchdog while capture and inference make progress, or while a missing device is retried.
    fn ping(&mut self) {
        let Some(every) = self.notify.ping_every() else { return };
        let alive = self.inference_silence() < STALLED_AFTER
            && self.daemon.status.state() != State::Stalled
            && self.opener.hangs_for() < OPENING_HANGS_AFTER;
        if alive && self.clock.since(self.pinged) >= every {
            self.notify.notify(Notice::Ping);
            self.daemon.status.pings.fetch_add(1, Ordering::Relaxed);
            self.pinged = self.clock.now();
        }
    }

    fn read_board(&mut self) {
        if self.board_read.is_some_and(|read| self.clock.since(read) < BOARD_EVERY) {
            return;
        }
        self.board_read = Some(self.clock.now());
        let status = &self.daemon.status;
        let (before, now) = (status.reading().throttled, self.board.read());
        if now.throttled != before {
            match now.throttled.is_empty() {
                true => log::info!("the board is no longer throttled"),
                false => {
                    log::warn!("the board is throttled: {}; with a deadline, chunks exit earlier", now.throttled.join(", "))
                }
            }
            if before.is_empty() {
                status.throttles.fetch_add(1, Ordering::Relaxed);
            }
        }
        status.set_reading(now);
    }

    fn set_state(&mut self, state: State) {
        let before = self.daemon.status.state();
        if state == before {
            return;
        }
        self.daemon.status.set_state(state);
        match state {
            State::Stalled => log::warn!("{before} → {state}"),
            _ => log::info!("{before} → {state}"),
        }
        if !self.ready && matches!(state, State::Running | State::Reconnecting | State::Idle) {
            self.ready = true;
            self.notify.notify(Notice::Ready);
        }
        self.publish_status();
        self.send_status();
    }

    fn send_status(&mut self) {
        self.status_sent = self.clock.now();
        self.notify.notify(Notice::Status(self.daemon.status.to_string()));
    }

    fn end(mut self, outcome: Result<(), RunError>) -> RunReport {
        let until = Instant::now() + self.daemon.options.stop_within;
        self.notify.notify(Notice::Stopping);
        if let Some(connection) = self.connection.take() {
            let _ = connection.close();
        }
        let Daemon { pipeline, status, .. } = self.daemon;
        let report = pipeline.finish(outcome, Some(until.saturating_duration_since(Instant::now())));
        let before = status.state();
        status.set_state(State::Stopped);
        log::info!("{before} → {}", State::Stopped);
        self.notify.notify(Notice::Status(status.to_string()));
        report
    }
}

/// Time used so far.
#[derive(Clone, Copy, Default)]
struct Usage {
    at: Option<Instant>,
    cpu: Duration,
    compute: Duration,
    audio: Duration,
}

impl Usage {
    fn of(daemon: &Daemon) -> Self {
        let counters = daemon.pipeline.counters();
        let cpu = process::cpu_time().unwrap_or_default();
        let (verification, _) = counters.verification();
        Self { at: Some(Instant::now()), cpu, compute: counters.compute() + verification, audio: counters.audio() }
    }
}

fn percent(part: Duration, of: Duration) -> Option<f64> {
    (!of.is_zero()).then(|| (1000.0 * part.as_secs_f64() / of.as_secs_f64()).round() / 10.0)
}
