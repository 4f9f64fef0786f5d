//! Delivery from the inference thread to the consumers: a bounded queue and a thread for each.

use std::convert::Infallible;
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

use super::StopFlag;
use super::counters::ConsumerCounters;
use crate::consumer::{Consumer, ConsumerError, OnOverflow, Requirements, StreamInfo};
use crate::stream::Representation;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::thread::{self, JoinHandle};

/// The inference thread's end of a consumer's queue.
pub(super) struct Queue {
    /// Number of the first chunk that it receives. Neighbours may still compute earlier ones, without what its consumer requires.
    pub first: u64,
    sender: Sender<Arc<Representation>>,
    /// Used by `DropOldest`.
    receiver: Receiver<Arc<Representation>>,
    on_overflow: OnOverflow,
    counters: Arc<ConsumerCounters>,
    /// Set when the consumer accepts no more representations.
    dead: Arc<AtomicBool>,
}

/// A consumer's thread; its result is the consumer's error, if any.
pub(super) struct ConsumerThread {
    pub counters: Arc<ConsumerCounters>,
    pub requirements: Requirements,
    /// Set when it receives nothing more, because it was removed or restarted.
    pub leaving: bool,
    /// Disconnected when it has ended.
    pub ended: Receiver<Infallible>,
    pub handle: JoinHandle<Result<(), ConsumerError>>,
}

impl ConsumerThread {
    /// Waits for its end.
    pub fn outcome(self) -> Result<(), ConsumerError> {
        self.handle.join().unwrap_or(Err(ConsumerError::Panicked))
    }
}

/// Reports that a consumer's thread has ended before its queue, by an error or a panic: the queued representations
/// count as dropped, and the supervisor is notified.
struct FailureGuard {
    /// Whether it has not begun, or has ended without an error.
    whole: bool,
    /// Whether the consumer has a representation that is not counted yet.
    in_hand: bool,
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
            if self.in_hand {
                self.counters.count_dropped();
            }
            self.queue.try_iter().for_each(|_| self.counters.count_dropped());
            self.failed.stop();
        }
    }
}

/// What a consumer waits for before it begins.
pub(super) struct Gate {
    /// Receives a message when the consumer may begin. If it is disconnected instead, the consumer never begins.
    pub permitted: Receiver<()>,
    /// The consumer of the same label before it, which has to complete its output first.
    pub predecessor: Option<Receiver<Infallible>>,
}

impl Gate {
    /// Returns whether to begin.
    fn wait(self) -> bool {
        if self.permitted.recv().is_err() {
            return false;
        }
        if let Some(predecessor) = self.predecessor {
            let _ = predecessor.recv();
        }
        true
    }
}

/// Starts `consumer` on its own thread behind a queue of `capacity` chunks. It begins when `gate` permits. Its failure sets `failed`.
pub(super) fn start(
    consumer: Box<dyn Consumer>,
    capacity: usize,
    stream: StreamInfo,
    counters: Arc<ConsumerCounters>,
    failed: &StopFlag,
    gate: Gate,
) -> std::io::Result<(Queue, ConsumerThread)> {
    let (sender, receiver) = bounded::<Arc<Representation>>(capacity.max(1));
    let (requirements, on_overflow) = (consumer.requires(), consumer.on_overflow(stream.live));
    let dead = Arc::<AtomicBool>::default();
    let (running, ended) = bounded(0);
    let mut guard = FailureGuard {
        whole: true,
        in_hand: false,
        queue: receiver.clone(),
        counters: counters.clone(),
        dead: dead.clone(),
        failed: failed.clone(),
    };
    let name = format!("consumer-{}", counters.name());
    let handle = thread::Builder::new().name(name).spawn(move || {
        let _running = running;
        // Dropped before it, so that the output is closed when a successor begins.
        let mut consumer = consumer;
        if !gate.wait() {
            return Ok(());
        }
        guard.whole = false;
        guard.counters.set_failed(false);
        guard.counters.set_closed(false);
        consumer.count_work(guard.counters.work().clone());
        let mut outcome = consumer.begin(&stream);
        if outcome.is_ok() {
            while let Ok(representation) = guard.queue.recv() {
                guard.in_hand = true;
                outcome = consumer.consume(&representation);
                if outcome.is_err() {
                    break;
                }
                guard.in_hand = false;
                guard.counters.count_delivered();
            }
        }
        guard.counters.set_closed(matches!(outcome, Err(ConsumerError::Closed)));
        guard.whole = outcome.is_ok();
        drop(guard);
        // Finish even after an error, to close the output; the first error is returned.
        outcome.and(consumer.finish())
    })?;
    let thread = ConsumerThread { counters: counters.clone(), requirements, leaving: false, ended, handle };
    Ok((Queue { first: 0, sender, receiver, on_overflow, counters, dead }, thread))
}

impl Queue {
    /// The consumer's unique label.
    pub fn label(&self) -> &str {
        self.counters.label()
    }

    /// Delivers a representation, following the consumer's overflow rule if its queue is full.
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
                // This end also holds a receiver, so the channel does not report a dead consumer; check its flag.
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
        // Count representations that were sent while the consumer ended.
        if self.dead.load(Ordering::Acquire) {
            self.receiver.try_iter().for_each(|_| self.counters.count_dropped());
        }
    }
}
