//! Keywords by example: a few recordings of a word become a keyword file, and streams are searched for it.
//!
//! Every layer has a branch that makes of its state what it can of one and the same vector, so a chunk compares with an example
//! wherever either stopped. An example is the vectors that those stages, `embedding.k`, make of its speech ([`Template`]), drawn
//! towards those of the other examples ([`examples`]); a stream is aligned with it frame by frame by subsequence dynamic time
//! warping ([`Warp`]) in memory that does not grow; peaks of the score become detections ([`Spotter`]) where they pass a threshold
//! that speech without the keyword was asked for ([`Tail`]), and pass it again when their sound is computed at full depth
//! ([`SecondLook`]).
//!
//! The score of a span is 1 − d, d being the mean over the example's frames of the local distance along the best path: the mean
//! cosine, 1 for the example itself, 0 for what has nothing in common with it. Two utterances of a word by one speaker have 0.3 to 0.6.

mod barycenter;
mod calibrate;
mod detector;
mod enroll;
mod file;
mod listener;
mod record;
mod second_look;
mod speech;
mod spotter;
mod template;
mod track;
mod warp;

pub use calibrate::{Background, Condition, Tail, babble, threshold};
pub use detector::Detector;
pub use enroll::{Enrolment, Take, enroll, examples};
pub use file::{DetectorFile, Example, KEYWORD_SUFFIX, Keyword, KeywordError, PackRef, check_name, find, load};
pub use listener::Listener;
pub use record::{Heard, Recorder};
pub use second_look::SecondLook;
pub use speech::{Span, TakeProblem, find_speech};
pub use spotter::{Event, Hit, Search, Spotter, SpotterOptions};
pub use template::{FrameBlock, LANES, Template};
pub use track::Track;
pub use warp::{Match, Warp};

/// The score of a mean distance.
pub fn score(distance: f32) -> f32 {
    (1.0 - distance).max(0.0)
}
