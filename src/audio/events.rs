//! Events of a running source: overruns, errors and the end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

use super::AudioError;

/// An event of a running source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SourceEvent {
    /// The device dropped audio before Bellis received it. The system does not report how much.
    Xrun,
    /// The source failed and delivers nothing more. Sent at most once.
    Error(AudioError),
    /// The source has delivered all its audio. Sent at most once, and never after an error.
    End,
}

/// The source's end of the channel. `send` never waits, and sends nothing after an error or the end, so repeated errors of a driver
/// are reported once.
#[derive(Debug, Clone)]
pub struct EventSender {
    sender: Sender<SourceEvent>,
    ended: Arc<AtomicBool>,
    xruns: Arc<AtomicU64>,
}

/// The runtime's end of the channel.
#[derive(Debug)]
pub struct EventReceiver {
    receiver: Receiver<SourceEvent>,
    xruns: Arc<AtomicU64>,
}

/// Capacity of the channel; further overruns are counted but not sent as events.
const CAPACITY: usize = 64;

/// Creates the channel for a source's events.
pub fn events() -> (EventSender, EventReceiver) {
    // One slot is reserved for the final event, which therefore never finds the channel full.
    let (sender, receiver) = bounded(CAPACITY + 1);
    let xruns = Arc::new(AtomicU64::new(0));
    (EventSender { sender, ended: Arc::default(), xruns: xruns.clone() }, EventReceiver { receiver, xruns })
}

impl EventSender {
    /// Sends an event. Does not allocate for [`SourceEvent::Xrun`].
    pub fn send(&self, event: SourceEvent) {
        if event == SourceEvent::Xrun {
            self.xruns.fetch_add(1, Ordering::Relaxed);
            if self.sender.len() >= CAPACITY || self.ended.load(Ordering::Acquire) {
                return;
            }
        } else if self.ended.swap(true, Ordering::AcqRel) {
            return;
        }
        match self.sender.try_send(event) {
            Ok(()) | Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {}
        }
    }
}

impl EventReceiver {
    /// The channel, for `select!`.
    pub fn receiver(&self) -> &Receiver<SourceEvent> {
        &self.receiver
    }

    /// Number of overruns, including those not sent as events.
    pub fn xruns(&self) -> u64 {
        self.xruns.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audio::AudioErrorKind;

    #[test]
    fn repeated_errors_are_sent_once() {
        let (sender, receiver) = events();
        for _ in 0..100_000 {
            sender.send(SourceEvent::Error(AudioError::new(AudioErrorKind::DeviceLost, "mic", "gone")));
            sender.send(SourceEvent::Xrun);
        }
        sender.send(SourceEvent::End);
        assert_eq!(receiver.receiver().try_iter().count(), 1);
        assert_eq!(receiver.xruns(), 100_000);
    }

    #[test]
    fn the_final_event_is_sent_after_any_number_of_overruns() {
        let (sender, receiver) = events();
        (0..1_000).for_each(|_| sender.send(SourceEvent::Xrun));
        sender.send(SourceEvent::End);
        assert_eq!(receiver.receiver().try_iter().last(), Some(SourceEvent::End));
    }
}
