//! The counters of a consumer, and the flag of a failure.

use std::sync::Arc;

#[path = "../../../../src/runtime/delivery.rs"]
mod delivery;
mod delivery_tests;

use crate::sync::atomic::{AtomicBool, Ordering};

#[derive(Clone, Default)]
pub struct StopFlag(Arc<AtomicBool>);

impl StopFlag {
    pub fn stop(&self) {
        self.0.store(true, Ordering::Release);
    }

    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

pub mod counters {
    use std::sync::Arc;

    use crate::consumer::ConsumerWork;
    use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};

    #[derive(Default)]
    pub struct ConsumerCounters {
        pub offered: AtomicU64,
        pub delivered: AtomicU64,
        pub dropped: AtomicU64,
        pub failed: AtomicBool,
    }

    impl ConsumerCounters {
        pub fn name(&self) -> &str {
            "test"
        }

        pub fn label(&self) -> &str {
            "test"
        }

        pub fn work(&self) -> Arc<ConsumerWork> {
            Arc::new(ConsumerWork)
        }

        pub fn count_queued(&self) {
            self.offered.fetch_add(1, Ordering::Relaxed);
        }

        pub fn count_delivered(&self) {
            self.delivered.fetch_add(1, Ordering::Relaxed);
        }

        pub fn count_dropped(&self) {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }

        pub fn set_failed(&self, failed: bool) {
            self.failed.store(failed, Ordering::Relaxed);
        }

        pub fn set_closed(&self, _: bool) {}
    }
}
