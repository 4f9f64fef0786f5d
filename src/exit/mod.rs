//! When a chunk has been computed deep enough: evidence from the heads, and policies that judge it.

mod evidence;
mod gate;
mod policies;
mod policy;
mod schedules;
mod spec;

pub(crate) use evidence::log_probabilities;
pub use evidence::{Evidence, Measure, Measurer, kl};
pub use gate::{DEFAULT_HANGOVER, Gate};
pub use policies::{Change, CtcConfidence, Gain, Threshold};
pub use policy::{Decision, ExitPolicy, Needs, Observation, Reason};
pub use schedules::{Deadline, Fixed, Periodic};
pub use spec::{PolicyError, PolicyName, PolicySpec};
