//! One stream: chunks cut from samples, the session that computes them, and the representation that comes out.

pub(crate) mod chunker;
mod mixture;
mod representation;
mod session;

pub(crate) use chunker::Chunker;
pub use chunker::Discontinuity;
pub use mixture::Mixture;
pub use representation::Representation;
pub use session::{Session, SessionError, SessionOptions, Vectors};
