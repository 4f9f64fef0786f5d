//! Errors of a run.

use std::time::Duration;

use crate::audio::AudioError;
use crate::consumer::ConsumerError;
use crate::engine::EngineError;
use crate::stream::SessionError;

/// The error of a failed run. Unless the encoder failed, all audio captured before was computed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// The source failed.
    #[error(transparent)]
    Audio(#[from] AudioError),
    /// A live source stalled.
    #[error("{source_name}: no audio for {} s; the device, the audio server or the program that writes it hangs", .silence.as_secs())]
    #[non_exhaustive]
    Stalled {
        /// The source's name.
        source_name: String,
        /// Time without audio.
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
        /// The consumer's name.
        name: String,
        /// The consumer's error.
        source: ConsumerError,
    },
    /// The system could not start a thread.
    #[error("cannot start a thread")]
    Thread(#[source] std::io::Error),
    /// A thread did not end in time.
    #[error("the {0} did not stop in time and was abandoned")]
    Stuck(String),
    /// Too many streams hang in an audio server.
    #[error("{0} streams hang in the audio server; restart the process to free them")]
    Abandoned(u64),
    /// A thread panicked: a bug in Bellis.
    #[error("the {0} thread panicked; this is a bug in Bellis, please report it with the log")]
    ThreadDied(&'static str),
}
