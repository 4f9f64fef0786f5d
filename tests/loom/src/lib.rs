//! Interleavings of the ring between the capture callback and the inference thread, of the helper threads, and of the consumer queues.
//!
//! loom runs a test once for every order of the threads and for every value that the memory model permits a load to return.
#![cfg(test)]
// Parts of the sources that these tests do not use.
#![allow(dead_code)]

#[path = "../../../src/background.rs"]
mod background;
#[path = "../../../src/engine/kernels/helpers.rs"]
mod helpers;
#[path = "../../../src/audio/ring.rs"]
mod ring;
#[path = "../../../src/sample.rs"]
mod sample;
mod sync;
// What src/runtime/delivery.rs refers to.
mod consumer;
mod runtime;
mod stream;

mod helpers_tests;
mod ring_tests;

/// Runs `test` in every order of its threads with at most this many preemptions: most errors need two.
fn explore(preemptions: usize, test: impl Fn() + Sync + Send + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(preemptions);
    model.check(test);
}
