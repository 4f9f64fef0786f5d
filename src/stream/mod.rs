//! One stream: chunks cut from samples, the session that computes them, and the representation that comes out.

mod chunker;
mod mixture;
mod representation;
mod session;

pub use chunker::{Chunk, Chunker, Discontinuity};
pub use mixture::Mixture;
pub use representation::Representation;
pub use session::{Session, SessionOptions, Vectors};
