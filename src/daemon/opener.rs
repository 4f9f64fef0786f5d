//! Opening of sources, on a separate thread: a hanging audio server must not delay signals or the watchdog.

use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use super::clock::Clock;
use crate::audio::{AudioError, Source};
use crate::runtime::Opened;

/// Time between attempts: doubled after each one, from `first` to `longest`.
#[derive(Debug, Clone, Copy)]
pub struct Backoff {
    /// After a device is lost, or fails to open for the first time.
    pub first: Duration,
    /// The upper limit.
    pub longest: Duration,
}

/// Run time of a source after which the backoff starts again at `first`.
const RELIABLE_AFTER: Duration = Duration::from_secs(10);

pub(super) struct Opener {
    ask: Sender<()>,
    answers: Receiver<Result<Opened, AudioError>>,
    /// Start of the attempt in progress.
    asked: Option<Instant>,
    backoff: Backoff,
    wait: Duration,
    due: Instant,
    opened: Option<Instant>,
    clock: Clock,
}

impl Opener {
    pub fn start(
        mut open: impl FnMut() -> Result<Box<dyn Source>, AudioError> + Send + 'static,
        ring: Duration,
        backoff: Backoff,
        clock: Clock,
    ) -> std::io::Result<Self> {
        let (ask, asked) = bounded::<()>(1);
        let (answer, answers) = bounded(1);
        std::thread::Builder::new().name("opener".into()).spawn(move || {
            while asked.recv().is_ok() {
                if answer.send(open().and_then(|source| Opened::start(source, ring))).is_err() {
                    break;
                }
            }
        })?;
        Ok(Self { ask, answers, asked: None, backoff, wait: backoff.first, due: clock.now(), opened: None, clock })
    }

    /// Starts an attempt when it is due, and waits for its result for at most `patience`.
    pub fn poll(&mut self, patience: Duration) -> Option<Result<Opened, AudioError>> {
        if self.asked.is_none() {
            let early = self.due.saturating_duration_since(self.clock.now());
            if early > patience {
                std::thread::sleep(patience);
                return None;
            }
            std::thread::sleep(early);
            if self.ask.try_send(()).is_ok() {
                self.asked = Some(self.clock.now());
            }
        }
        match self.answers.recv_timeout(patience) {
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => {
                std::thread::sleep(patience);
                None
            }
            Ok(answer) => {
                self.asked = None;
                match answer {
                    Ok(_) => self.opened = Some(self.clock.now()),
                    Err(_) => self.schedule_retry(),
                }
                Some(answer)
            }
        }
    }

    /// Schedules an attempt after the open source was lost.
    pub fn lost(&mut self) {
        if self.opened.take().is_some_and(|opened| self.clock.since(opened) >= RELIABLE_AFTER) {
            self.wait = self.backoff.first;
        }
        self.schedule_retry();
    }

    /// Duration of the attempt in progress.
    pub fn hangs_for(&self) -> Duration {
        self.asked.map_or(Duration::ZERO, |asked| self.clock.since(asked))
    }

    fn schedule_retry(&mut self) {
        self.due = self.clock.now() + self.wait;
        self.wait = (2 * self.wait).min(self.backoff.longest);
    }
}
