//! Streaming speech representations with early exit, for small CPUs.
//!
//! A [pack] is a speech encoder: a front end and L transformer layers, with exit heads, CTC branches or predictors on its
//! layers. Bellis cuts a stream into chunks, computes layer after layer of each chunk, and lets an [exit policy](exit) decide after
//! which layer the chunk exits: few layers for silence and clear speech, more where they change the result. The result of a chunk is a
//! [`Representation`](stream::Representation): vectors `[frames, dim]`, with the exit layer, the evidence and the position.
//!
//! # A file
//!
//! The feature `runtime` (on by default) adds threads: a source, the inference thread, and one thread per consumer.
//!
//! ```no_run
//! # #[cfg(feature = "files")]
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use bellis::audio::{ChannelPick, FileSource};
//! use bellis::consumer::Npy;
//! use bellis::engine::{Encoder, LoadOptions};
//! use bellis::exit::PolicySpec;
//! use bellis::pack::Pack;
//! use bellis::runtime::RunBuilder;
//!
//! let pack = Pack::open("models/daisy-tiny".as_ref())?;
//! let encoder = Encoder::load(&pack, &LoadOptions::default())?;
//! let source = FileSource::open("talk.flac".as_ref(), ChannelPick::MixDown, false)?;
//! let policy = PolicySpec::default().build(&pack)?;
//! let run = RunBuilder::new(source, &encoder, policy).consumer(Npy::new("talk.npy".as_ref())).start()?;
//! println!("{}", run.join().into_result()?);
//! # Ok(())
//! # }
//! # #[cfg(not(feature = "files"))]
//! # fn main() {}
//! ```
//!
//! # A microphone
//!
//! Feature `capture`. The source is live: if inference stalls for longer than the ring buffer, audio is dropped and counted.
//!
//! ```no_run
//! # #[cfg(feature = "capture")]
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use std::time::Duration;
//!
//! use bellis::audio::{MicrophoneOptions, MicrophoneSource};
//! use bellis::consumer::{JsonLines, JsonOptions};
//! # use bellis::engine::{Encoder, LoadOptions};
//! # use bellis::exit::PolicySpec;
//! # use bellis::pack::Pack;
//! use bellis::runtime::RunBuilder;
//!
//! # let pack = Pack::open("models/daisy-tiny".as_ref())?;
//! # let encoder = Encoder::load(&pack, &LoadOptions::default())?;
//! let source = MicrophoneSource::open(MicrophoneOptions::default())?;
//! // Exits early rather than return a chunk more than 200 ms late.
//! let policy = PolicySpec::default().deadline(Duration::from_millis(200)).build(&pack)?;
//! let lines = JsonLines::new(std::io::stdout(), "standard output", JsonOptions::default());
//! let run = RunBuilder::new(source, &encoder, policy).consumer(lines).start()?;
//! std::thread::sleep(Duration::from_secs(10));
//! run.stop();
//! println!("{:?}", run.counters().samples());
//! run.join().into_result()?;
//! # Ok(())
//! # }
//! # #[cfg(not(feature = "capture"))]
//! # fn main() {}
//! ```
//!
//! # Your own threads and audio
//!
//! A [`Session`](stream::Session) is one stream without threads. It needs none of the features: with `default-features = false`, the
//! crate consists of [`pack`], [`engine`], [`exit`] and [`stream`].
//!
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use bellis::engine::{Encoder, LoadOptions};
//! use bellis::exit::PolicySpec;
//! use bellis::pack::Pack;
//! use bellis::stream::{Session, SessionOptions};
//!
//! # let samples = vec![0.0f32; 16_000];
//! let pack = Pack::open("models/daisy-tiny".as_ref())?;
//! let encoder = Encoder::load(&pack, &LoadOptions::default())?;
//! let mut session = Session::new(&encoder, PolicySpec::default().build(&pack)?, SessionOptions::default())?;
//! session.push(&samples)?; // f32, mono, at the pack's rate
//! session.finish();
//! for chunk in session.representations() {
//!     let chunk = chunk?;
//!     println!("{:.2} s: layer {} of {}", chunk.start_seconds(), chunk.exit_layer, encoder.layers());
//!     for _frame in chunk.vectors.rows() {
//!         // dim values
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! The weights are shared by all sessions (`Arc<Encoder>`); a session may move between threads.
//!
//! # Policies
//!
//! [`PolicySpec`](exit::PolicySpec) names the built-in policies. A custom policy implements [`ExitPolicy`](exit::ExitPolicy):
//!
//! ```
//! use bellis::exit::{Decision, ExitPolicy, Needs, Observation, Reason};
//!
//! /// Exits when the entropy changes little from one head to the next.
//! struct Settled;
//!
//! impl ExitPolicy for Settled {
//!     fn needs(&self, _layer: usize) -> Needs {
//!         Needs::Head
//!     }
//!
//!     fn decide(&mut self, observation: &Observation<'_>) -> Decision {
//!         match observation.evidence {
//!             [.., before, now] if now.finite && (before.entropy - now.entropy).abs() < 0.05 => Decision::Exit(Reason::Change),
//!             _ => Decision::Continue,
//!         }
//!     }
//! }
//! ```
//!
//! # Consumers
//!
//! A [`Consumer`](consumer::Consumer) receives every representation of a run on its own thread:
//!
//! ```
//! # #[cfg(feature = "runtime")]
//! # mod example {
//! use bellis::consumer::{Consumer, ConsumerError, Requirements};
//! use bellis::stream::Representation;
//!
//! /// Counts the frames whose most probable unit is 7.
//! struct Sevens(u64);
//!
//! impl Consumer for Sevens {
//!     fn name(&self) -> &str {
//!         "sevens"
//!     }
//!
//!     fn requires(&self) -> Requirements {
//!         Requirements::default().posteriors()
//!     }
//!
//!     fn consume(&mut self, chunk: &Representation) -> Result<(), ConsumerError> {
//!         let Some(posteriors) = &chunk.log_posteriors else { return Ok(()) };
//!         let sevens = posteriors.rows().filter(|row| row.iter().all(|p| *p <= row[7]));
//!         self.0 += sevens.count() as u64;
//!         Ok(())
//!     }
//! }
//! # }
//! ```
//!
//! # Keywords
//!
//! Feature `keywords`: [`keyword`] describes how a keyword is enrolled from text or a few recordings. The consumer
//! [`KeywordLines`](consumer::KeywordLines) detects enrolled keywords in a run.
//!
//! # Features
//!
//! | feature | adds | default |
//! |---|---|---|
//! | `runtime` | [`audio`], [`consumer`], [`runtime`] | yes |
//! | `capture` | microphones (cpal) | yes |
//! | `files` | audio files (symphonia) | yes |
//! | `keywords` | [`keyword`] | yes |
//! | `serve` | the daemon of `bellis serve` | yes |
//! | `home` | `bellis serve` in a smart home: Wyoming, MQTT, Linux Voice Assistant, programs on detection | yes |
//! | `bench` | `bellis bench` | yes |
//! | `neighbours` | `neighbour`: continuing chunks on other machines (MDI-Exit) | no |
//! | `cli` | the `bellis` program | yes |
//! | `test-util` | `audio::ScriptedSource`, which plays a script of callbacks, pauses and faults | no |
//! | `count-allocations` | heap allocations per chunk in `bellis bench` | no |
//!
//! # Logging
//!
//! Bellis logs through the `log` crate and never installs a logger.

// The default build finds dead code; with fewer features, helpers of the missing parts are unused.
#![cfg_attr(not(all(feature = "bench", feature = "cli", feature = "home")), allow(dead_code, unused_imports))]

#[cfg(feature = "runtime")]
pub mod audio;
mod background;
#[cfg(feature = "bench")]
#[doc(hidden)]
pub mod bench;
#[cfg(feature = "runtime")]
mod chain;
#[cfg(feature = "runtime")]
pub mod consumer;
#[cfg(feature = "serve")]
#[doc(hidden)]
pub mod daemon;
#[cfg(any(feature = "bench", feature = "serve"))]
#[doc(hidden)]
pub mod drawing;
pub mod engine;
pub mod exit;
#[cfg(any(feature = "cli", feature = "test-util"))]
#[doc(hidden)]
pub mod internal;
#[cfg(feature = "keywords")]
pub mod keyword;
mod names;
#[cfg(feature = "neighbours")]
#[doc(hidden)]
pub mod neighbour;
#[cfg(feature = "runtime")]
mod output;
pub mod pack;
#[cfg(any(feature = "bench", feature = "serve"))]
mod process;
#[cfg(feature = "runtime")]
mod realtime;
#[cfg(feature = "runtime")]
pub mod runtime;
mod sample;
pub mod stream;
mod sync;
mod toml_file;

pub use names::UnknownName;
pub use toml_file::TomlFileError;
