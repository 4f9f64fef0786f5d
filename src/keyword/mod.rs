//! Keywords by example: a few recordings of a phrase, or takes from a speech synthesiser, become a keyword file, and streams are searched
//! for it.
//!
//! Every layer has a branch, `embedding.k`, that estimates the same vector from its state: the keyword embedding. So a chunk is comparable
//! with an example at whichever layer it exits. An example consists of the embeddings of its speech (a template), averaged with those of
//! the other examples ([`examples`]). A stream is aligned with it frame by frame by subsequence dynamic time warping in constant
//! memory. Peaks of the score become detections if they reach a threshold that was set on speech without the keyword
//! ([`Tail`]), both at the stream's own depth and at full depth ([`Verifier`]). For a keyword from text, the verification pass also checks
//! its phones, which rejects phrases that differ in one word.
//!
//! The score of a span is the mean cosine over the example's frames along the best path: 1 for the example itself, 0 for unrelated audio.
//! Two utterances of a word by one speaker score 0.3 to 0.6.

mod barycenter;
pub(crate) mod calibrate;
mod enroll;
#[cfg(feature = "files")]
mod enroller;
mod file;
pub(crate) mod matcher;
#[cfg(feature = "files")]
mod opposites;
pub(crate) mod phones;
mod rating;
mod record;
#[cfg(feature = "files")]
mod say;
pub(crate) mod search;
pub(crate) mod speech;
pub(crate) mod spotter;
mod stream;
pub(crate) mod template;
pub(crate) mod track;
mod verification;
pub(crate) mod warp;
mod watch;

pub use calibrate::{Background, Tail};
pub use enroll::{Enrolment, Take, check_alike, enroll, examples};
#[cfg(feature = "files")]
pub use enroller::{EnrollError, Enroller, false_accepts_of};
pub use file::{Example, ExampleError, KEYWORD_SUFFIX, Keyword, KeywordError, Origin, PackRef, Say, check_name, find, load};
pub use rating::{Weakness, weaknesses};
pub use record::{Recorder, RecorderEvent};
#[cfg(feature = "files")]
pub use say::{SayError, Synthesiser};
pub use speech::{Span, TakeProblem};
pub use spotter::Event;
pub use stream::{KeywordStream, KeywordStreamError};
pub use verification::Verifier;
pub use watch::{Detection, KeywordSearch, SearchError, SearchOptions, Watched};
