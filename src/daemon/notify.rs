//! Messages to the service manager: systemd's notify protocol, sd_notify(3).

use std::time::Duration;

#[cfg(unix)]
use crossbeam_channel::{Receiver, Sender, bounded};

/// A message to the service manager.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// Started: audio arrives, or a missing device is retried.
    Ready,
    /// A line of `systemctl status`.
    Status(String),
    /// Capture and inference make progress.
    Ping,
    /// The configuration is being reloaded; [`Notice::Ready`] follows.
    Reloading,
    /// The daemon is stopping.
    Stopping,
}

/// Receives the messages.
pub trait Notify {
    /// Takes one message without waiting.
    fn notify(&mut self, notice: Notice);

    /// The interval of pings; `None` without a watchdog.
    fn ping_every(&self) -> Option<Duration> {
        None
    }
}

/// Discards all messages.
impl Notify for () {
    fn notify(&mut self, _notice: Notice) {}
}

/// The socket in `NOTIFY_SOCKET`; without it, messages are discarded. A separate thread sends, so that a busy service manager does not
/// block the supervisor.
#[cfg(unix)]
#[derive(Debug)]
pub struct Systemd {
    /// Half of systemd's watchdog timeout.
    ping_every: Option<Duration>,
    notices: Option<Sender<Notice>>,
    sent: Receiver<()>,
}

/// Messages queued for a busy service manager; later ones are dropped.
#[cfg(unix)]
const QUEUE_MESSAGES: usize = 32;
/// Time for the last messages before the process ends.
#[cfg(unix)]
const FLUSH_TIME: Duration = Duration::from_millis(100);

#[cfg(unix)]
impl Systemd {
    /// Configured by the environment.
    pub fn from_environment() -> std::io::Result<Self> {
        let (notices, waiting) = bounded::<Notice>(QUEUE_MESSAGES);
        let (all_sent, sent) = bounded::<()>(0);
        std::thread::Builder::new().name("notify".into()).spawn(move || {
            let _all_sent = all_sent;
            let mut reported = false;
            for notice in waiting {
                match send(&notice) {
                    Err(error) if !std::mem::replace(&mut reported, true) => {
                        log::warn!("cannot notify the service manager ({error}); still trying with each message");
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
            log::debug!("a message to the service manager is dropped: {error}");
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
        let _ = self.sent.recv_timeout(FLUSH_TIME);
    }
}
