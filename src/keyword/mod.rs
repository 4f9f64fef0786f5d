//! Keywords: the phones of a phrase, a few recordings of it, or both become a keyword file, and streams are searched for it.
//!
//! Every layer has a CTC branch, whose logits are searched for the phones of a phrase (`phone_search`), and which is read at whichever layer a
//! chunk exits. The score is the geometric mean, per phone, of the likelihood relative to the freest reading.
//!
//! Recordings are compared by embeddings. Every layer has a branch, `embedding.k`, that estimates the same vector from its state: the keyword
//! embedding. So a chunk is comparable with an example at whichever layer it exits. An example consists of the embeddings of its speech (a template), averaged with those of
//! the other examples ([`examples`]). A stream is aligned with it frame by frame by subsequence dynamic time warping in constant
//! memory. The score of a span is the mean cosine over the example's frames along the best path: 1 for the example itself, 0 for unrelated audio.
//! Two utterances of a word by one speaker score 0.3 to 0.6.
//!
//! Peaks of the score become detections if they reach a threshold that was set on speech without the keyword
//! ([`Tail`]), both at the stream's own depth and at full depth ([`Verifier`]). For a keyword with phones, the verification pass also
//! compares them with those of near-phrases.

mod barycenter;
pub(crate) mod calibrate;
mod contrast;
mod enroll;
#[cfg(feature = "files")]
mod enroller;
mod feedback;
mod file;
pub(crate) mod matcher;
#[cfg(feature = "files")]
mod opposites;
mod phone_search;
pub(crate) mod phones;
mod rating;
#[cfg(feature = "files")]
mod reading;
mod record;
#[cfg(feature = "files")]
mod say;
#[cfg(feature = "files")]
mod script;
pub(crate) mod search;
pub(crate) mod speech;
#[cfg(feature = "files")]
mod spelling;
pub(crate) mod spotter;
mod stream;
pub(crate) mod template;
pub(crate) mod track;
mod verification;
pub(crate) mod warp;
mod watch;

pub use calibrate::{Background, Tail, false_accepts_of};
pub use enroll::{Enrolment, Take, check_alike, enroll, examples};
#[cfg(feature = "files")]
pub use enroller::{EnrollError, Enroller, OtherSpeech};
pub use feedback::{Feedback, Label};
pub use file::{
    Example, KEYWORD_SUFFIX, Keyword, KeywordError, MOST_REFRACTORY, MatchError, Origin, PackRef, Say, check_name, find, load,
};
pub use rating::{Estimate, Weakness, expected_false_accepts, expected_recall, weaknesses};
#[cfg(feature = "files")]
pub use reading::ReadingError;
pub use record::{Recorder, RecorderEvent};
#[cfg(feature = "files")]
pub use say::{SayError, Synthesiser};
pub use speech::{Span, TakeProblem};
pub use spotter::Event;
pub use stream::{KeywordStream, KeywordStreamError};
pub use verification::Verifier;
#[cfg(feature = "home")]
pub(crate) use watch::usable;
pub use watch::{Detection, KeywordSearch, SearchError, SearchOptions, Watched};
