//! Keywords by example: a few recordings of a phrase, or takes from a speech synthesiser, become a keyword file, and streams are searched
//! for it.
//!
//! Every layer has a branch, `embedding.k`, that estimates the same vector from its state: the keyword embedding. So a chunk is comparable
//! with an example at whichever layer it exits. An example consists of the embeddings of its speech ([`Template`]), averaged with those of
//! the other examples ([`examples`]). A stream is aligned with it frame by frame by subsequence dynamic time warping ([`Warp`]) in constant
//! memory. Peaks of the score become detections ([`Spotter`]) if they reach a threshold that was set on speech without the keyword
//! ([`Tail`]), both at the stream's own depth and at full depth ([`Verifier`]). For a keyword from text, the verification pass also checks
//! its phones ([`Phones`]), which rejects phrases that differ in one word.
//!
//! The score of a span is the mean cosine over the example's frames along the best path: 1 for the example itself, 0 for unrelated audio.
//! Two utterances of a word by one speaker score 0.3 to 0.6.

mod barycenter;
mod calibrate;
mod enroll;
mod file;
mod matcher;
#[cfg(feature = "files")]
mod opposites;
mod phones;
mod rating;
mod record;
#[cfg(feature = "files")]
mod say;
mod search;
mod speech;
mod spotter;
mod template;
mod track;
mod verification;
mod warp;
mod watch;

pub use calibrate::{Background, Condition, Tail, babble, threshold};
pub use enroll::{Enrolment, Take, enroll, examples};
pub use file::{Example, ExampleError, KEYWORD_SUFFIX, Keyword, KeywordError, Origin, PackRef, Say, check_name, find, load};
pub use matcher::Matcher;
pub use phones::Phones;
pub use rating::{Weakness, weaknesses};
pub use record::{Recorder, RecorderEvent};
#[cfg(feature = "files")]
pub use say::{SayError, Synthesiser};
pub use search::VerifiedSearch;
pub use speech::{Span, TakeProblem, find_speech, trim};
pub use spotter::{Event, Hit, Spotter, SpotterOptions};
pub use template::{FrameBlock, LANES, Template};
pub use track::Track;
pub use verification::Verifier;
pub use warp::{Match, Warp};
pub use watch::{Detection, KeywordSearch, SearchError, SearchOptions, Watched};

/// The score of a mean distance.
pub fn score(distance: f32) -> f32 {
    (1.0 - distance).max(0.0)
}
