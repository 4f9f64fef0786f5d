//! Atomics and threads of the code whose interleavings tests/loom explores, where this module is replaced.

pub use std::sync::atomic;
pub use std::thread;
