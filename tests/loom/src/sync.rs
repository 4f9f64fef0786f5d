//! loom's primitives in place of `src/sync.rs`.

pub use loom::sync::atomic;

pub mod thread {
    use std::time::Duration;

    pub use loom::thread::{Builder, JoinHandle, Thread, current};

    /// Time does not exist: another thread runs.
    pub fn sleep(_: Duration) {
        loom::thread::yield_now();
    }

    /// Without its timeout, so that a lost wake-up is a deadlock, which loom reports.
    pub fn park_timeout(_: Duration) {
        loom::thread::park();
    }
}
