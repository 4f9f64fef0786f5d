//! Opens sources on a thread of its own: a sound server that hangs must not hold up signals or the watchdog.

use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use crate::audio::{AudioError, Source};
use crate::runtime::Opened;

/// Times between attempts: doubled from the first to the longest.
#[derive(Debug, Clone, Copy)]
pub struct Backoff {
    /// After a device was lost, or did not open for the first time.
    pub first: Duration,
    /// However long it stays away.
    pub longest: Duration,
}

/// A source that has run for so long is taken to be well again: the next loss starts at the shortest time.
const WELL_AFTER: Duration = Duration::from_secs(10);

pub(super) struct Opener {
    ask: Sender<()>,
    answers: Receiver<Result<Opened, AudioError>>,
    /// Since when an answer is awaited.
    asked: Option<Instant>,
    backoff: Backoff,
    wait: Duration,
    due: Instant,
    opened: Option<Instant>,
}

impl Opener {
    pub fn start(
        mut open: impl FnMut() -> Result<Box<dyn Source>, AudioError> + Send + 'static,
        ring: Duration,
        backoff: Backoff,
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
        Ok(Self { ask, answers, asked: None, backoff, wait: backoff.first, due: Instant::now(), opened: None })
    }

    /// Opens a source when its time has come; waits for it no longer than `patience`.
    pub fn poll(&mut self, patience: Duration) -> Option<Result<Opened, AudioError>> {
        if self.asked.is_none() {
            let early = self.due.saturating_duration_since(Instant::now());
            if early > patience {
                std::thread::sleep(patience);
                return None;
            }
            std::thread::sleep(early);
            if self.ask.try_send(()).is_ok() {
                self.asked = Some(Instant::now());
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
                    Ok(_) => self.opened = Some(Instant::now()),
                    Err(_) => self.again(),
                }
                Some(answer)
            }
        }
    }

    /// The source that was opened is gone.
    pub fn lost(&mut self) {
        if self.opened.take().is_some_and(|opened| opened.elapsed() >= WELL_AFTER) {
            self.wait = self.backoff.first;
        }
        self.again();
    }

    /// For how long an answer is awaited.
    pub fn hangs_for(&self) -> Duration {
        self.asked.map_or(Duration::ZERO, |asked| asked.elapsed())
    }

    fn again(&mut self) {
        self.due = Instant::now() + self.wait;
        self.wait = (2 * self.wait).min(self.backoff.longest);
    }
}
