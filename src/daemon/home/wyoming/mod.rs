//! A Wyoming wake-word service, for Home Assistant and satellites: `describe`, `detect`, audio in, `detection` out.
//!
//! A connection is a thread, which reads, computes and answers in order: a peer that sends faster than the machine computes is slowed
//! down by TCP, and no peer waits for another one. Connections are bounded. If all are taken, a new one replaces the one that has been
//! silent for the longest time, so that vanished peers take no place for ever.

mod audio;
pub(crate) mod connection;
mod info;
pub(crate) mod message;
mod server;

pub use audio::Model;
pub use server::{WyomingError, WyomingOptions, WyomingServer, WyomingUri};
