//! Consumers of representations: the [`Consumer`] trait, and the consumers of the command line.
//!
//! In a [run](crate::runtime), each consumer has its own thread behind a bounded queue. It receives a description of the stream,
//! every representation in order, and the end of the stream, also after an error.

pub mod asr;
mod files;
mod jsonl;
#[cfg(feature = "keywords")]
mod keyword;
mod npy;
mod null;
mod repair;
mod reports;
mod spec;
pub mod stream;
#[cfg(test)]
pub(crate) mod testing;
mod wav;
mod work;

use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;

pub use files::LineFile;
pub use jsonl::{JsonLines, JsonOptions};
#[cfg(feature = "keywords")]
pub use keyword::{KeywordLines, KeywordObserver, KeywordReport};
pub use npy::Npy;
pub use null::Null;
pub use repair::repair;
pub use reports::{HitKind, KeywordHit, KeywordScore, KeywordScores, Phone};
pub use spec::{ConsumerSpec, ConsumerSpecError, StreamOutput, TextOutput, spec_label};
pub use wav::{Wav, WavFormat};
pub use work::ConsumerWork;

use crate::stream::Representation;

/// Description of a stream, known before its first chunk.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[non_exhaustive]
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
    /// The unit for silence, if the pack has one.
    pub quiet_unit: Option<usize>,
    /// Classes of the CTC branches, the blank first; empty for a pack without them.
    pub vocabulary: Vec<String>,
    /// Number of layers.
    pub layers: usize,
    /// Frames of a whole chunk.
    pub chunk_frames: usize,
    /// Description of the policy.
    pub policy: String,
    /// Whether the source is live: audio arrives in real time.
    pub live: bool,
}

/// What happens to a representation if its consumer's queue is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnOverflow {
    /// The inference thread waits. Suitable for files: nothing is dropped. With a live source, the ring fills up and audio is dropped.
    Block,
    /// The new representation is dropped for this consumer and counted.
    DropNewest,
    /// The oldest queued representation is dropped and counted, so that the consumer receives the newest state.
    DropOldest,
}

/// Errors of a consumer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConsumerError {
    /// The reader of the output closed it (`bellis run … | head`). The run ends without an error.
    #[error("the reader of the output closed it")]
    Closed,
    /// The output cannot be written.
    #[error("cannot write to {place}")]
    #[non_exhaustive]
    Write {
        /// The file or stream.
        place: String,
        /// The system's error.
        source: std::io::Error,
    },
    /// The consumer panicked: a bug in the consumer.
    #[error("the consumer panicked; please report it with the log")]
    Panicked,
    /// Any other failure.
    #[error(transparent)]
    Other(Box<dyn std::error::Error + Send + Sync>),
}

impl ConsumerError {
    /// Wraps a message or an error of the consumer.
    pub fn other(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Other(error.into())
    }

    /// An input/output error at `place`; a closed pipe is [`ConsumerError::Closed`].
    pub fn write(place: impl Into<String>, source: std::io::Error) -> Self {
        match source.kind() {
            std::io::ErrorKind::BrokenPipe | std::io::ErrorKind::ConnectionReset => Self::Closed,
            _ => Self::Write { place: place.into(), source },
        }
    }
}

/// Parts of a representation, beyond its vectors and evidence, that a consumer reads. A part that no consumer requires is not computed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Requirements {
    /// Log-posteriors of the units at the exit layer.
    pub posteriors: bool,
    /// Keyword embeddings.
    pub embedding: bool,
    /// Logits of the exit layer's CTC branch.
    pub ctc: bool,
    /// The chunk's audio.
    pub audio: bool,
}

impl Requirements {
    /// Adds log-posteriors of the units.
    pub fn posteriors(mut self) -> Self {
        self.posteriors = true;
        self
    }

    /// Adds keyword embeddings.
    pub fn embedding(mut self) -> Self {
        self.embedding = true;
        self
    }

    /// Adds logits of the CTC branch.
    pub fn ctc(mut self) -> Self {
        self.ctc = true;
        self
    }

    /// Adds the chunk's audio.
    pub fn audio(mut self) -> Self {
        self.audio = true;
        self
    }
}

/// Receives the representations of one stream.
///
/// ```
/// use bellis::consumer::{Consumer, ConsumerError};
/// use bellis::stream::Representation;
///
/// /// Prints a bar per chunk, whose length is the exit layer.
/// struct Depth;
///
/// impl Consumer for Depth {
///     fn name(&self) -> &str {
///         "depth"
///     }
///
///     fn consume(&mut self, chunk: &Representation) -> Result<(), ConsumerError> {
///         println!("{:6.2} s  {}", chunk.start_seconds(), "▇".repeat(chunk.exit_layer));
///         Ok(())
///     }
/// }
/// ```
pub trait Consumer: Send {
    /// Short name, for counters and messages.
    fn name(&self) -> &str;

    /// Parts of representations that it reads beyond vectors and evidence. Called once, before the stream begins.
    fn requires(&self) -> Requirements {
        Requirements::default()
    }

    /// Called once, before [`begin`](Self::begin): a consumer that computes, such as one that verifies keywords, counts it here.
    fn count_work(&mut self, _work: Arc<ConsumerWork>) {}

    /// Called once, before the first chunk.
    ///
    /// # Errors
    ///
    /// An error ends the run; [`finish`](Self::finish) is still called.
    fn begin(&mut self, _stream: &StreamInfo) -> Result<(), ConsumerError> {
        Ok(())
    }

    /// Processes one chunk.
    ///
    /// # Errors
    ///
    /// An error ends the run; [`finish`](Self::finish) is still called.
    fn consume(&mut self, representation: &Representation) -> Result<(), ConsumerError>;

    /// Called once, at the end of the stream or after an error: completes and closes the output.
    ///
    /// # Errors
    ///
    /// An error fails the run.
    fn finish(&mut self) -> Result<(), ConsumerError> {
        Ok(())
    }

    /// What happens to a representation if the queue is full. By default, live streams drop it, and others wait.
    fn on_overflow(&self, live: bool) -> OnOverflow {
        if live { OnOverflow::DropNewest } else { OnOverflow::Block }
    }
}

impl<C: Consumer + ?Sized> Consumer for Box<C> {
    fn name(&self) -> &str {
        (**self).name()
    }

    fn requires(&self) -> Requirements {
        (**self).requires()
    }

    fn count_work(&mut self, work: Arc<ConsumerWork>) {
        (**self).count_work(work);
    }

    fn begin(&mut self, stream: &StreamInfo) -> Result<(), ConsumerError> {
        (**self).begin(stream)
    }

    fn consume(&mut self, representation: &Representation) -> Result<(), ConsumerError> {
        (**self).consume(representation)
    }

    fn finish(&mut self) -> Result<(), ConsumerError> {
        (**self).finish()
    }

    fn on_overflow(&self, live: bool) -> OnOverflow {
        (**self).on_overflow(live)
    }
}

/// The side file's path: `x.npy` → `x.chunks.jsonl`.
pub fn side_file(path: &std::path::Path) -> PathBuf {
    path.with_extension("chunks.jsonl")
}
