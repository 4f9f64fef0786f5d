//! What happens to a source while it runs, besides its samples.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

use super::AudioError;

/// Something that happened to a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SourceEvent {
    /// The device lost sound before Bellis saw it; how much, the system does not say.
    Xrun,
    /// The source failed and delivers no more. At most one comes.
    Error(AudioError),
    /// The source has delivered all it had. At most one comes, and none after an error.
    End,
}

/// The source's side. `send` never waits, and says nothing more after an error or the end: no storm of errors gets through.
#[derive(Debug, Clone)]
pub struct EventSender {
    sender: Sender<SourceEvent>,
    ended: Arc<AtomicBool>,
    xruns: Arc<AtomicU64>,
}

/// The runtime's side.
#[derive(Debug)]
pub struct EventReceiver {
    receiver: Receiver<SourceEvent>,
    xruns: Arc<AtomicU64>,
}

/// Events that wait to be seen; xruns beyond are counted but not announced.
const CAPACITY: usize = 64;

/// The two ends of a source's events.
pub fn events() -> (EventSender, EventReceiver) {
    // One place is kept for the final event, which so never meets a full channel.
    let (sender, receiver) = bounded(CAPACITY + 1);
    let xruns = Arc::new(AtomicU64::new(0));
    (EventSender { sender, ended: Arc::default(), xruns: xruns.clone() }, EventReceiver { receiver, xruns })
}

impl EventSender {
    /// Announces an event. Allocation-free for [`SourceEvent::Xrun`].
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
    /// The channel to wait on.
    pub fn receiver(&self) -> &Receiver<SourceEvent> {
        &self.receiver
    }

    /// Xruns so far, announced or not.
    pub fn xruns(&self) -> u64 {
        self.xruns.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audio::AudioErrorKind;

    #[test]
    fn a_storm_of_errors_is_one_event() {
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
    fn the_last_event_gets_through_a_storm_of_xruns() {
        let (sender, receiver) = events();
        (0..1_000).for_each(|_| sender.send(SourceEvent::Xrun));
        sender.send(SourceEvent::End);
        assert_eq!(receiver.receiver().try_iter().last(), Some(SourceEvent::End));
    }
}
