//! The supervisor of a daemon: looks about twenty times a second for what has happened, and does what it asks for.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;

use super::board::Board;
use super::notify::{Notice, Notify};
use super::opener::Opener;
use super::status::State;
use super::{Command, Daemon, Reload, Reloader};
use crate::audio::abandoned_streams;
use crate::chain::Chain;
use crate::consumer::ConsumerError;
use crate::runtime::{Connection, RunError, RunReport, SourceStatus};

/// Neither the device nor the inference thread may stand still for longer: the state is then `stalled`.
const STALLED_AFTER: Duration = Duration::from_secs(2);
/// An opening that takes longer hangs, and the watchdog hears nothing.
const OPENING_HANGS_AFTER: Duration = Duration::from_secs(10);
/// Streams that a dying sound server has wedged for good; after so many the process is better started anew.
const MOST_LEFT_BEHIND: u64 = 8;
/// How long the supervisor waits for something to happen.
const SUPERVISION: Duration = Duration::from_millis(50);
/// How often the notify status is renewed.
const STATUS_EVERY: Duration = Duration::from_secs(10);
/// How often the board is read.
const BOARD_EVERY: Duration = Duration::from_secs(5);

/// A daemon's supervisor.
pub(super) struct Life<'a> {
    daemon: Daemon,
    opener: Opener,
    connection: Option<Connection>,
    /// When the last sample of the sources before was seen to come.
    last_sound: Option<Instant>,
    ready: bool,
    /// Why the source did not open the last time: told when it changes.
    problem: String,
    /// The inference thread's sign of life, and when it last changed.
    beats: u64,
    beat_at: Instant,
    pinged: Instant,
    told: Instant,
    looked: Option<Instant>,
    board: Board,
    notify: &'a mut dyn Notify,
}

impl<'a> Life<'a> {
    pub fn new(daemon: Daemon, opener: Opener, notify: &'a mut dyn Notify) -> Self {
        let now = Instant::now();
        Self {
            board: Board::at(&daemon.options.board),
            daemon,
            opener,
            connection: None,
            last_sound: None,
            ready: false,
            problem: String::new(),
            beats: 0,
            beat_at: now,
            pinged: now,
            told: now,
            looked: None,
            notify,
        }
    }

    /// Supervises until the end.
    pub fn run(mut self, commands: &Receiver<Command>, reload: &mut Reloader<'_>) -> RunReport {
        self.tell();
        let mut outcome = None;
        let mut asked_to_stop = false;
        while outcome.is_none() && !asked_to_stop {
            outcome = match self.connection.take() {
                Some(connection) => self.listen(connection),
                None => self.look_for_source(),
            };
            outcome = outcome.or_else(|| self.look_after_threads());
            self.ping();
            self.look_at_board();
            if self.told.elapsed() >= STATUS_EVERY {
                self.tell();
            }
            for command in commands.try_iter() {
                match command {
                    Command::Stop => asked_to_stop = true,
                    Command::Reload => self.reload(reload),
                }
            }
        }
        self.end(outcome.unwrap_or(Ok(())))
    }

    /// Watches the source that is open. `Some` ends the life.
    fn listen(&mut self, mut connection: Connection) -> Option<Result<(), RunError>> {
        match connection.poll(self.daemon.options.run.watchdog) {
            SourceStatus::Running => {
                let silence = connection.silence().max(self.inference_silence());
                if silence >= STALLED_AFTER {
                    self.become_(State::Stalled);
                } else if connection.captured() > 0 {
                    self.become_(State::Running);
                }
                self.connection = Some(connection);
                None
            }
            SourceStatus::Ended => {
                let _ = connection.close();
                Some(Ok(()))
            }
            SourceStatus::Failed(error) => {
                let name = connection.spec().name.clone();
                self.last_sound = connection.last_sample_at().or(self.last_sound);
                let _ = connection.close();
                if !self.daemon.options.reopen {
                    return Some(Err(error));
                }
                let left_behind = abandoned_streams();
                if left_behind >= MOST_LEFT_BEHIND {
                    return Some(Err(RunError::Abandoned(left_behind)));
                }
                log::warn!("{name} is lost ({}); it is waited for", Chain(&error));
                self.daemon.status.lost.fetch_add(1, Ordering::Relaxed);
                self.opener.lost();
                self.problem.clear();
                self.become_(State::Reconnecting);
                None
            }
        }
    }

    /// Looks for a source. `Some` ends the life.
    fn look_for_source(&mut self) -> Option<Result<(), RunError>> {
        // A ring that is still being computed holds two seconds; no more than two of them wait.
        if self.daemon.pipeline.counters().live_rings() > 1 {
            std::thread::sleep(SUPERVISION);
            return None;
        }
        match self.opener.poll(SUPERVISION)? {
            Ok(opened) => {
                let away = self.last_sound.map_or(Duration::ZERO, |last| last.elapsed());
                match self.daemon.pipeline.connect(opened, away) {
                    Ok(connection) => {
                        let spec = connection.spec();
                        log::info!("{} is open: {} Hz, {} channel(s)", spec.name, spec.sample_rate, spec.channels);
                        let status = &self.daemon.status;
                        status.count_away(away);
                        status.opened.fetch_add(1, Ordering::Relaxed);
                        status.source_rate.store(spec.sample_rate, Ordering::Relaxed);
                        self.problem.clear();
                        self.connection = Some(connection);
                        None
                    }
                    Err(error) => Some(Err(error)),
                }
            }
            Err(error) => {
                self.daemon.status.not_opened.fetch_add(1, Ordering::Relaxed);
                // At the start, what only a person can put right is told at once; later the device was there, and may come back.
                let hopeless = !error.kind().retry_helps() && self.daemon.status.opened() == 0;
                if !self.daemon.options.reopen || hopeless {
                    return Some(Err(error.into()));
                }
                let problem = error.to_string();
                if problem != self.problem {
                    log::warn!("{problem}; it is waited for");
                    self.problem = problem;
                }
                self.become_(State::Reconnecting);
                None
            }
        }
    }

    /// Notices threads that have ended. `Some` ends the life.
    fn look_after_threads(&mut self) -> Option<Result<(), RunError>> {
        let daemon = &mut self.daemon;
        for (label, outcome) in daemon.pipeline.reap() {
            daemon.labels.retain(|one| *one != label);
            if let Err(error) = outcome {
                if matches!(error, ConsumerError::Closed) && daemon.pipeline.consumers() == 0 {
                    log::info!("consumer {label}: {error}");
                    return Some(Ok(()));
                }
                log::error!("consumer {label}: {}; it gets nothing more until the configuration is read again", Chain(&error));
                daemon.status.consumer_failed.store(true, Ordering::Release);
                if daemon.pipeline.consumers() == 0 {
                    log::error!("no consumer is left");
                    return Some(Err(RunError::Consumer { name: label, source: error }));
                }
            }
        }
        // Why it ended, its end tells.
        daemon.pipeline.inference_ended().then_some(Ok(()))
    }

    fn reload(&mut self, reload: &mut Reloader<'_>) {
        self.notify.notify(Notice::Reloading);
        let daemon = &mut self.daemon;
        let outcome = reload(&daemon.labels).and_then(|wanted| {
            let Reload { policy, session, mut keep, join } = wanted;
            keep.retain(|label| daemon.labels.contains(label));
            let labels: Vec<_> = keep.iter().cloned().chain(join.iter().map(|one| one.label.clone())).collect();
            daemon.pipeline.change(Some(policy), &session, keep, join)?;
            daemon.labels = labels;
            Ok(())
        });
        match outcome {
            Ok(()) => {
                daemon.status.set_stream(daemon.pipeline.stream().clone());
                daemon.status.consumer_failed.store(false, Ordering::Release);
                daemon.status.reloads.fetch_add(1, Ordering::Relaxed);
                log::info!("the configuration was read again: {}", daemon.pipeline.stream().policy);
            }
            Err(error) => {
                daemon.status.refused_reloads.fetch_add(1, Ordering::Relaxed);
                log::error!("the configuration was read again and refused, the old one stays in force: {error}");
            }
        }
        self.notify.notify(Notice::Ready);
        self.tell();
    }

    /// For how long the inference thread has shown no life.
    fn inference_silence(&mut self) -> Duration {
        let beats = self.daemon.pipeline.counters().heartbeats();
        if beats != self.beats {
            (self.beats, self.beat_at) = (beats, Instant::now());
        }
        self.beat_at.elapsed()
    }

    /// Pings the watchdog while capture and inference progress, or the device that is away is being looked for.
    fn ping(&mut self) {
        let Some(every) = self.notify.ping_every() else { return };
        let alive = self.inference_silence() < STALLED_AFTER
            && self.daemon.status.state() != State::Stalled
            && self.opener.hangs_for() < OPENING_HANGS_AFTER;
        if alive && self.pinged.elapsed() >= every {
            self.notify.notify(Notice::Ping);
            self.daemon.status.pings.fetch_add(1, Ordering::Relaxed);
            self.pinged = Instant::now();
        }
    }

    fn look_at_board(&mut self) {
        if self.looked.is_some_and(|looked| looked.elapsed() < BOARD_EVERY) {
            return;
        }
        self.looked = Some(Instant::now());
        let status = &self.daemon.status;
        let (before, now) = (status.reading().throttled, self.board.read());
        if now.throttled != before {
            match now.throttled.is_empty() {
                true => log::info!("the board runs at full speed again"),
                false => {
                    log::warn!("the board slows down: {}; chunks may stop earlier for their deadline", now.throttled.join(", "))
                }
            }
            if before.is_empty() {
                status.throttles.fetch_add(1, Ordering::Relaxed);
            }
        }
        status.set_reading(now);
    }

    fn become_(&mut self, state: State) {
        let before = self.daemon.status.state();
        if state == before {
            return;
        }
        self.daemon.status.set_state(state);
        match state {
            State::Stalled => log::warn!("{before} → {state}"),
            _ => log::info!("{before} → {state}"),
        }
        if !self.ready && matches!(state, State::Running | State::Reconnecting) {
            self.ready = true;
            self.notify.notify(Notice::Ready);
        }
        self.tell();
    }

    fn tell(&mut self) {
        self.told = Instant::now();
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
