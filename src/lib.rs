//! Bellis: a real-time streaming runtime for speech representations on edge CPUs.

#![warn(missing_docs)]

pub mod audio;
pub mod bench;
pub mod consumer;
#[cfg(feature = "serve")]
pub mod daemon;
pub mod engine;
pub mod exit;
pub mod keyword;
pub mod pack;
pub mod runtime;
pub mod stream;
pub mod toml_file;
