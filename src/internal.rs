//! Parts of the library that the program, its tests and its benchmarks use. Not part of the API: they change without notice.

pub use crate::audio::abandon_stream;
#[cfg(feature = "capture")]
pub use crate::audio::microphone::Intake;
pub use crate::audio::{
    events::{EventReceiver, events},
    ring::{Block, Gap, RingReader, ring, ring_of_frames},
    scripted::{ScriptedSource, Step},
};
#[cfg(all(unix, feature = "serve"))]
pub use crate::daemon::http::answer;
pub use crate::engine::stage::{is_loading, parameters};
pub use crate::engine::{EncoderState, Pass, WindowSpan};
pub use crate::exit::evidence::Measurer;
#[cfg(feature = "runtime")]
pub use crate::output::{RunFile, check_outputs, claim, replace_file};
#[cfg(feature = "runtime")]
pub use crate::runtime::level::LevelMeter;
pub use crate::stream::chunker::{Chunk, Chunker};
pub use crate::toml_file::{nearest, read as read_toml};

/// Keyword search below the level of files and enrolment.
#[cfg(feature = "keywords")]
pub mod keyword {
    pub use crate::keyword::calibrate::{Condition, babble, noise_gain, threshold};
    pub use crate::keyword::matcher::Matcher;
    pub use crate::keyword::search::VerifiedSearch;
    pub use crate::keyword::speech::{find_speech, trim};
    pub use crate::keyword::spotter::{Hit, Spotter, SpotterOptions};
    pub use crate::keyword::template::{FrameBlock, LANES, Template};
    pub use crate::keyword::track::Track;
    pub use crate::keyword::warp::{Warp, score};
}

/// The Wyoming protocol below the level of sockets.
#[cfg(feature = "home")]
pub mod wyoming {
    pub use crate::daemon::home::wyoming::connection::{Conversation, Service};
    pub use crate::daemon::home::wyoming::message::{Message, MessageError, Parser};
}
