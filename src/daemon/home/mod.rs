//! The daemon in a smart home: protocols through which voice assistants and home automation use it.
//!
//! Each protocol has its own threads and its own bounds. None of them can delay capture or inference.

mod enrolled;
mod wyoming;

pub use enrolled::Enrolled;
pub use wyoming::{Model, WyomingError, WyomingOptions, WyomingServer, WyomingUri};
