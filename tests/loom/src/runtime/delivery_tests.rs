//! The queue of a consumer: every chunk is delivered or counted as dropped, also if the consumer fails or is removed.

use std::sync::Arc;

use crossbeam_channel::bounded;

use crate::consumer::{Consumer, ConsumerError, OnOverflow, StreamInfo};
use crate::explore;
use crate::stream::Representation;
use crate::sync::atomic::Ordering;

use super::StopFlag;
use super::counters::ConsumerCounters;
use super::delivery::{Gate, start};

struct Recorder {
    on_overflow: OnOverflow,
    /// Chunk at which it fails.
    fails_at: Option<u64>,
    next: u64,
    gaps: bool,
}

impl Consumer for Recorder {
    fn consume(&mut self, representation: &Representation) -> Result<(), ConsumerError> {
        assert!(representation.sequence >= self.next, "a chunk arrives twice or too late");
        assert!(self.gaps || representation.sequence == self.next, "a chunk is missing");
        self.next = representation.sequence + 1;
        match self.fails_at {
            Some(fails_at) if representation.sequence >= fails_at => Err(ConsumerError::Full),
            _ => Ok(()),
        }
    }

    fn on_overflow(&self, _: bool) -> OnOverflow {
        self.on_overflow
    }
}

/// Sends `chunks` chunks through a queue for one chunk.
fn deliver(on_overflow: OnOverflow, fails_at: Option<u64>, chunks: u64, permitted: bool) {
    let counters = Arc::new(ConsumerCounters::default());
    let failed = StopFlag::default();
    let (permit, gate) = bounded(1);
    let gaps = !matches!(on_overflow, OnOverflow::Block);
    let consumer = Box::new(Recorder { on_overflow, fails_at, next: 0, gaps });
    let gate = Gate { permitted: gate, predecessor: None };
    let (queue, thread) = start(consumer, 1, StreamInfo { live: gaps }, counters.clone(), &failed, gate).unwrap();
    match permitted {
        true => permit.send(()).unwrap(),
        false => drop(permit),
    }
    if permitted {
        (0..chunks).for_each(|sequence| queue.send(Arc::new(Representation { sequence })));
    }
    drop(queue);
    let outcome = thread.outcome();
    let count = |counter: &crate::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    let (offered, delivered, dropped) = (count(&counters.offered), count(&counters.delivered), count(&counters.dropped));
    assert_eq!(offered, if permitted { chunks } else { 0 });
    assert_eq!(offered, delivered + dropped, "{delivered} delivered, {dropped} dropped");
    assert_eq!(failed.is_set(), outcome.is_err());
    if matches!(on_overflow, OnOverflow::Block) && fails_at.is_none() {
        assert_eq!(dropped, 0);
    }
}

#[test]
fn a_slow_consumer_loses_chunks_which_are_counted() {
    explore(2, || deliver(OnOverflow::DropNewest, None, 3, true));
    explore(2, || deliver(OnOverflow::DropOldest, None, 3, true));
}

#[test]
fn a_consumer_that_is_waited_for_receives_every_chunk() {
    explore(2, || deliver(OnOverflow::Block, None, 2, true));
}

#[test]
fn a_consumer_that_fails_is_not_waited_for_and_its_chunks_are_counted() {
    explore(2, || deliver(OnOverflow::DropNewest, Some(0), 2, true));
    explore(2, || deliver(OnOverflow::DropOldest, Some(1), 3, true));
    explore(2, || deliver(OnOverflow::Block, Some(0), 2, true));
}

#[test]
fn a_consumer_that_may_not_begin_ends() {
    explore(2, || deliver(OnOverflow::DropNewest, None, 0, false));
}
