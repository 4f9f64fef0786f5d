//! What a daemon tells whoever started it: systemd's notify protocol (sd_notify(3)).

use std::time::Duration;

#[cfg(unix)]
use crossbeam_channel::{Receiver, Sender, bounded};

/// A message to the service manager.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// Started: sound comes, or the device is waited for.
    Ready,
    /// A line for `systemctl status`.
    Status(String),
    /// Capture and inference both progress.
    Ping,
    /// The configuration is being read again; [`Notice::Ready`] follows.
    Reloading,
    /// The end has begun.
    Stopping,
}

/// Takes the messages.
pub trait Notify {
    /// One message. It must not wait.
    fn notify(&mut self, notice: Notice);

    /// How often a ping is awaited; `None` where nobody waits for one.
    fn ping_every(&self) -> Option<Duration> {
        None
    }
}

/// Nobody listens.
impl Notify for () {
    fn notify(&mut self, _notice: Notice) {}
}

/// The socket that systemd names in `NOTIFY_SOCKET`; silent where it names none. A thread of its own sends: a service manager
/// that is busy must not hold the supervisor up.
#[cfg(unix)]
#[derive(Debug)]
pub struct Systemd {
    /// Half of the time after which systemd takes the service for dead.
    ping_every: Option<Duration>,
    notices: Option<Sender<Notice>>,
    sent: Receiver<()>,
}

/// Messages that wait for a busy service manager; later ones are lost, and pings are as good as lost by then.
#[cfg(unix)]
const WAITING: usize = 32;
/// How long the last messages may take.
#[cfg(unix)]
const LAST_WORDS: Duration = Duration::from_millis(100);

#[cfg(unix)]
impl Systemd {
    /// As the environment says.
    pub fn from_environment() -> std::io::Result<Self> {
        let (notices, waiting) = bounded::<Notice>(WAITING);
        let (all_sent, sent) = bounded::<()>(0);
        std::thread::Builder::new().name("notify".into()).spawn(move || {
            let _all_sent = all_sent;
            let mut told = false;
            for notice in waiting {
                match send(&notice) {
                    Err(error) if !std::mem::replace(&mut told, true) => {
                        log::warn!("the service manager does not hear: {error}; it is told on all the same");
                    }
                    _ => {}
                }
            }
        })?;
        Ok(Self { ping_every: sd_notify::watchdog_enabled().map(|limit| limit / 2), notices: Some(notices), sent })
    }
}

#[cfg(unix)]
fn send(notice: &Notice) -> std::io::Result<()> {
    use sd_notify::NotifyState;
    match notice {
        Notice::Ready => sd_notify::notify(&[NotifyState::Ready]),
        Notice::Status(text) => sd_notify::notify(&[NotifyState::Status(text)]),
        Notice::Ping => sd_notify::notify(&[NotifyState::Watchdog]),
        Notice::Reloading => sd_notify::notify(&[NotifyState::Reloading, NotifyState::monotonic_usec_now()?]),
        Notice::Stopping => sd_notify::notify(&[NotifyState::Stopping]),
    }
}

#[cfg(unix)]
impl Notify for Systemd {
    fn notify(&mut self, notice: Notice) {
        if let Some(Err(error)) = self.notices.as_ref().map(|notices| notices.try_send(notice)) {
            log::debug!("the service manager is too busy to hear: {error}");
        }
    }

    fn ping_every(&self) -> Option<Duration> {
        self.ping_every
    }
}

#[cfg(unix)]
impl Drop for Systemd {
    fn drop(&mut self) {
        drop(self.notices.take());
        let _ = self.sent.recv_timeout(LAST_WORDS);
    }
}
