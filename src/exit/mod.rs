//! Exit policies, which decide after which layer a chunk exits from the evidence of heads, CTC branches and gain predictors.
//!
//! [`PolicySpec`] names a policy and its parameters, as in configuration files; [`PolicySpec::build`] builds the policy for a pack.
//! Custom policies implement [`ExitPolicy`].

pub(crate) mod evidence;
mod gate;
mod policies;
mod policy;
mod schedules;
mod spec;
mod text;

pub(crate) use evidence::Measurer;
#[cfg(feature = "runtime")]
pub(crate) use evidence::log_probabilities;
pub use evidence::{Evidence, Measure};
pub use gate::{DEFAULT_HANGOVER, Gate};
pub use policy::{Decision, ExitPolicy, Needs, Observation, Reason};
pub use schedules::{Deadline, Fixed, Periodic};
pub use spec::{PolicyError, PolicyName, PolicySpec};
