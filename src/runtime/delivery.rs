//! From the inference thread to the consumers: a bounded queue and a thread for each.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

use super::StopFlag;
use super::counters::ConsumerCounters;
use crate::consumer::{Consumer, ConsumerError, OnOverflow, Requirements, StreamInfo};
use crate::stream::Representation;

/// The inference thread's end of one consumer's queue.
pub(super) struct Queue {
    sender: Sender<Arc<Representation>>,
    /// Taken from by `Coalesce`.
    receiver: Receiver<Arc<Representation>>,
    on_overflow: OnOverflow,
    counters: Arc<ConsumerCounters>,
    /// Set when the consumer takes no more.
    dead: Arc<AtomicBool>,
}

/// A consumer's thread; it ends with the consumer's error, if it had one.
pub(super) struct ConsumerThread {
    pub counters: Arc<ConsumerCounters>,
    pub requirements: Requirements,
    pub handle: JoinHandle<Result<(), ConsumerError>>,
}

impl ConsumerThread {
    /// Waits for its end.
    pub fn outcome(self) -> Result<(), ConsumerError> {
        self.handle.join().unwrap_or(Err(ConsumerError::Panicked))
    }
}

/// Tells the others when a consumer's thread ends before its queue did, by an error or a panic: what waits for it is
/// counted as dropped, and whoever runs the stream is told.
struct FailureGuard {
    whole: bool,
    queue: Receiver<Arc<Representation>>,
    counters: Arc<ConsumerCounters>,
    dead: Arc<AtomicBool>,
    failed: StopFlag,
}

impl Drop for FailureGuard {
    fn drop(&mut self) {
        if !self.whole {
            self.dead.store(true, Ordering::Release);
            self.counters.set_failed(true);
            self.queue.try_iter().for_each(|_| self.counters.count_dropped());
            self.failed.stop();
        }
    }
}

/// Starts `consumer` on its own thread behind a queue of `capacity` chunks. Its failure sets `failed`.
pub(super) fn start(
    mut consumer: Box<dyn Consumer>,
    capacity: usize,
    stream: StreamInfo,
    counters: Arc<ConsumerCounters>,
    failed: &StopFlag,
) -> std::io::Result<(Queue, ConsumerThread)> {
    let (sender, receiver) = bounded::<Arc<Representation>>(capacity.max(1));
    let (requirements, on_overflow) = (consumer.requires(), consumer.on_overflow(stream.live));
    let dead = Arc::<AtomicBool>::default();
    counters.set_failed(false);
    let queue = receiver.clone();
    let mut guard = FailureGuard { whole: false, queue, counters: counters.clone(), dead: dead.clone(), failed: failed.clone() };
    let name = format!("consumer-{}", counters.name());
    let handle = std::thread::Builder::new().name(name).spawn(move || {
        let mut outcome = consumer.begin(&stream);
        if outcome.is_ok() {
            while let Ok(representation) = guard.queue.recv() {
                outcome = consumer.consume(&representation);
                if outcome.is_err() {
                    guard.counters.count_dropped();
                    break;
                }
                guard.counters.count_delivered();
            }
        }
        guard.whole = outcome.is_ok();
        drop(guard);
        // What is open is closed also after an error; the first error is the one that tells.
        outcome.and(consumer.finish())
    })?;
    let thread = ConsumerThread { counters: counters.clone(), requirements, handle };
    Ok((Queue { sender, receiver, on_overflow, counters, dead }, thread))
}

impl Queue {
    /// What tells its consumer from others.
    pub fn label(&self) -> &str {
        self.counters.label()
    }

    /// Hands a representation on, according to the consumer's overflow rule when its queue is full.
    pub fn send(&self, representation: Arc<Representation>) {
        let counter = &self.counters;
        counter.count_queued();
        if self.dead.load(Ordering::Acquire) {
            return counter.count_dropped();
        }
        let full = match self.sender.try_send(representation) {
            Ok(()) => return,
            Err(TrySendError::Full(representation)) => representation,
            Err(TrySendError::Disconnected(_)) => return counter.count_dropped(),
        };
        match self.on_overflow {
            OnOverflow::DropNewest => counter.count_dropped(),
            OnOverflow::DropOldest => {
                if self.receiver.try_recv().is_ok() {
                    counter.count_dropped();
                }
                if self.sender.try_send(full).is_err() {
                    counter.count_dropped();
                }
            }
            OnOverflow::Block => {
                let mut waiting = full;
                // This end keeps a receiver of its own, so a consumer that died is noticed by asking, not by the channel.
                while let Err(error) = self.sender.send_timeout(waiting, std::time::Duration::from_millis(50)) {
                    waiting = error.into_inner();
                    if self.dead.load(Ordering::Acquire) {
                        return counter.count_dropped();
                    }
                }
            }
        }
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        // What was sent while the consumer died is in nobody's hands.
        if self.dead.load(Ordering::Acquire) {
            self.receiver.try_iter().for_each(|_| self.counters.count_dropped());
        }
    }
}
