//! Why a run failed.

use std::time::Duration;

use crate::audio::AudioError;
use crate::consumer::ConsumerError;
use crate::engine::EngineError;
use crate::stream::SessionError;

/// Why a run failed. Unless the encoder failed, everything captured before was still computed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// The source failed.
    #[error(transparent)]
    Audio(#[from] AudioError),
    /// A live source delivered nothing for too long.
    #[error("{source_name}: no audio for {} s; the device or the sound server hangs", .silence.as_secs())]
    #[non_exhaustive]
    Stalled {
        /// The source.
        source_name: String,
        /// For how long.
        silence: Duration,
    },
    /// The encoder cannot run with these options.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A chunk could not be computed.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// A consumer failed.
    #[error("consumer {name} failed")]
    #[non_exhaustive]
    Consumer {
        /// The consumer.
        name: String,
        /// Why.
        source: ConsumerError,
    },
    /// The system refused a thread.
    #[error("cannot start a thread")]
    Thread(#[source] std::io::Error),
    /// A thread did not end in time.
    #[error("the {0} does not end; it is abandoned")]
    Stuck(String),
    /// Too many streams hang in a sound server.
    #[error("{0} streams did not close when their sound server died; restart the process to free them")]
    Abandoned(u64),
    /// A thread panicked: a bug in Bellis.
    #[error("the {0} thread died; this is a bug in Bellis, please report it with the log")]
    ThreadDied(&'static str),
}
