//! What a daemon tells whoever started it: systemd's notify protocol (sd_notify(3)).

use std::time::Duration;

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
    /// One message; the supervisor waits until it has been taken.
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

/// The socket that systemd names in `NOTIFY_SOCKET`; silent where it names none.
#[cfg(unix)]
#[derive(Debug)]
pub struct Systemd {
    /// Half of the time after which systemd takes the service for dead.
    ping_every: Option<Duration>,
    told: bool,
}

#[cfg(unix)]
impl Systemd {
    /// As the environment says.
    pub fn from_environment() -> Self {
        Self { ping_every: sd_notify::watchdog_enabled().map(|limit| limit / 2), told: false }
    }
}

#[cfg(unix)]
impl Notify for Systemd {
    fn notify(&mut self, notice: Notice) {
        use sd_notify::NotifyState;
        let sent = match &notice {
            Notice::Ready => sd_notify::notify(&[NotifyState::Ready]),
            Notice::Status(text) => sd_notify::notify(&[NotifyState::Status(text)]),
            Notice::Ping => sd_notify::notify(&[NotifyState::Watchdog]),
            Notice::Reloading => {
                NotifyState::monotonic_usec_now().and_then(|now| sd_notify::notify(&[NotifyState::Reloading, now]))
            }
            Notice::Stopping => sd_notify::notify(&[NotifyState::Stopping]),
        };
        match sent {
            Err(error) if !std::mem::replace(&mut self.told, true) => {
                log::warn!("the service manager does not hear: {error}; it is told on all the same");
            }
            _ => {}
        }
    }

    fn ping_every(&self) -> Option<Duration> {
        self.ping_every
    }
}
