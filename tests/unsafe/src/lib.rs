//! Tests of code that relies on unsafe code, for Miri and the sanitizers: the kernels' own tests, and the ring between two threads.
#![cfg(test)]
// Parts of the sources that these tests do not use.
#![allow(dead_code)]

#[path = "../../../src/background.rs"]
mod background;
#[path = "../../../src/engine"]
mod engine {
    mod kernels;
}
#[path = "../../../src/audio/ring.rs"]
mod ring;
#[path = "../../../src/sample.rs"]
mod sample;
#[path = "../../../src/sync.rs"]
mod sync;

mod ring_tests;
