//! What representations go to: the [`Consumer`] trait, and one file per consumer.
//!
//! A consumer runs on a thread of its own behind a bounded queue. It is made by whoever runs the stream, told once about the
//! stream, given every representation in order, and told when the stream has ended, also after an error.

pub mod asr;
mod jsonl;
mod keyword;
mod npy;
mod null;
pub mod stream;
#[cfg(test)]
mod testing;
mod wav;

use std::path::PathBuf;

use serde::Serialize;

pub use jsonl::{JsonLines, JsonOptions};
pub use keyword::{KeywordLines, Watched};
pub use npy::Npy;
pub use null::Null;
pub use wav::Wav;

use crate::stream::Representation;

/// What is known of a stream before its first chunk.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct StreamInfo {
    /// The source's name.
    pub source: String,
    /// The pack's name.
    pub pack: String,
    /// Rate of all positions, Hz.
    pub sample_rate: u32,
    /// Samples between frames.
    pub hop_samples: usize,
    /// Numbers per vector.
    pub dim: usize,
    /// Units of the heads.
    pub units: usize,
    /// The unit that means that nobody speaks, where the pack has one.
    pub quiet_unit: Option<usize>,
    /// Classes of the CTC branches, the blank first; empty for a pack without them.
    pub vocabulary: Vec<String>,
    /// Number of layers.
    pub layers: usize,
    /// Frames of a whole chunk.
    pub chunk_frames: usize,
    /// The policy, for people.
    pub policy: String,
    /// Whether the source comes at its own pace.
    pub live: bool,
}

/// What happens when a consumer's queue is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnOverflow {
    /// The inference thread waits. Right for files: nothing is lost. With a live source the ring fills, and drops sound.
    Wait,
    /// The new representation is dropped for this consumer, and counted.
    DropNewest,
    /// The oldest waiting one is dropped and counted: the consumer sees the newest state.
    Coalesce,
}

/// Why a consumer failed.
#[derive(Debug, thiserror::Error)]
pub enum ConsumerError {
    /// The reader of its output has gone (`bellis run … | head`): the run ends, and it is no failure.
    #[error("the reader of the output has gone")]
    Closed,
    /// Its output cannot be written.
    #[error("{place}: {source}")]
    Write {
        /// The file or stream.
        place: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// It panicked: a defect of the consumer.
    #[error("died; this is a defect of the consumer, please report it with what the log says")]
    Panicked,
    /// Anything else.
    #[error("{0}")]
    Other(String),
}

impl ConsumerError {
    /// An input/output error at `place`; a closed pipe is [`ConsumerError::Closed`].
    pub fn write(place: impl Into<String>, source: std::io::Error) -> Self {
        match source.kind() {
            std::io::ErrorKind::BrokenPipe => Self::Closed,
            _ => Self::Write { place: place.into(), source },
        }
    }
}

/// What a consumer reads of a representation beyond its vectors and evidence. What nobody wants is not computed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Requirements {
    /// Log-posteriors of the units at the exit layer.
    pub posteriors: bool,
    /// What keywords are matched in.
    pub embedding: bool,
    /// Logits of the exit layer's CTC branch.
    pub ctc: bool,
    /// The chunk's sound.
    pub audio: bool,
}

/// Receives the representations of one stream.
pub trait Consumer: Send {
    /// Short name, for counters and messages.
    fn name(&self) -> &str;

    /// What it reads of every representation beyond vectors and evidence.
    fn requires(&self) -> Requirements {
        Requirements::default()
    }

    /// The stream begins.
    fn begin(&mut self, _stream: &StreamInfo) -> Result<(), ConsumerError> {
        Ok(())
    }

    /// One chunk.
    fn consume(&mut self, representation: &Representation) -> Result<(), ConsumerError>;

    /// The stream has ended; what is open is closed here.
    fn finish(&mut self) -> Result<(), ConsumerError> {
        Ok(())
    }

    /// What happens when this consumer falls behind.
    fn on_overflow(&self, live: bool) -> OnOverflow {
        if live { OnOverflow::DropNewest } else { OnOverflow::Block }
    }
}

/// The side file's path: `x.npy` → `x.chunks.jsonl`.
pub fn side_file(path: &std::path::Path) -> PathBuf {
    path.with_extension("chunks.jsonl")
}
