//! Streams: the session that computes chunks of samples, and their representations.

pub(crate) mod chunker;
pub(crate) mod descent;
mod mixture;
#[cfg(feature = "neighbours")]
mod neighbourhood;
#[cfg(feature = "neighbours")]
pub(crate) mod offload;
mod representation;
mod session;

pub(crate) use chunker::Chunker;
pub use chunker::Discontinuity;
pub use mixture::Mixture;
pub use representation::{Forecast, Representation};
pub use session::{Session, SessionError, SessionOptions, Vectors};
