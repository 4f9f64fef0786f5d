//! The trait for exit policies, with its input and output.

use std::time::Duration;

use serde::Serialize;

use super::evidence::Evidence;
use crate::names::named;

/// Why a chunk exited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Reason {
    /// The head passed the threshold (`threshold`, `range`, `calibrated`), or the CTC branch did (`ctc`).
    Threshold,
    /// The heads stopped changing (`change`).
    Change,
    /// No deeper layer was predicted to be worth its cost (`gain`).
    Gain,
    /// The layer was fixed in advance (`fixed`, `periodic`, the end of a `range`).
    Schedule,
    /// The chunk is silent (`--gate`).
    Gate,
    /// The next layer would have missed the chunk's deadline.
    Deadline,
    /// There is no further layer, or none with the required branch (a CTC branch for phones).
    LastLayer,
}

named!(Reason, "reason", {
    Threshold => "threshold",
    Change => "change",
    Gain => "gain",
    Schedule => "schedule",
    Gate => "gate",
    Deadline => "deadline",
    LastLayer => "last-layer",
});

/// A policy's answer after a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Run the next layer.
    Continue,
    /// Exit here, for this reason.
    Exit(Reason),
}

/// The state of a chunk after a layer, and after the front end in packs whose front end has a head.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Observation<'a> {
    /// The layer that has just run, from 1; 0 after the front end.
    pub layer: usize,
    /// Number of layers.
    pub layers: usize,
    /// Evidence of this chunk's evaluated heads, in order; the last one is the current layer's, if its head ran.
    pub evidence: &'a [Evidence],
    /// Evidence of the current layer's CTC branch; `None` if the policy did not request it.
    pub ctc: Option<&'a Evidence>,
    /// Predicted ln KL(p_L ‖ p_j), nats, for j = the current layer … L−1; empty if the policy did not request it.
    pub forecast: &'a [f32],
    /// Time since the chunk's computation began.
    pub elapsed: Duration,
    /// Audio that is queued after this chunk: the current delay of the stream.
    pub backlog: Duration,
}

impl<'a> Observation<'a> {
    /// An observation without evidence, for tests of policies; its fields are public.
    pub fn new(layer: usize, layers: usize) -> Self {
        let (elapsed, backlog) = (Duration::ZERO, Duration::ZERO);
        Self { layer, layers, evidence: &[], ctc: None, forecast: &[], elapsed, backlog }
    }

    /// Evidence of the current layer, if its head ran.
    pub fn current(&self) -> Option<&'a Evidence> {
        self.evidence.last().filter(|evidence| evidence.layer == self.layer)
    }
}

/// The evidence that a policy needs to decide after a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Needs {
    /// Nothing: no head runs.
    Nothing,
    /// The forecast of the layer's gain predictor ([`Observation::forecast`]).
    Forecast,
    /// The head's evidence: entropy, probability and margin.
    Head,
    /// The head's evidence with [`Evidence::change`], which costs as much again.
    Change,
    /// The evidence of the layer's CTC branch, if it has one.
    Ctc,
}

/// Decides layer by layer where a chunk exits.
///
/// Every stream has a policy of its own, which may keep state between chunks. After the front end (in packs whose front end has
/// a head) and after each layer, the session computes what the policy [`needs`](Self::needs) and calls
/// [`decide`](Self::decide).
///
/// ```
/// use bellis::exit::{Decision, ExitPolicy, Needs, Observation, Reason};
///
/// /// Exits at the first layer whose head has a mean maximum probability of at least 0.6.
/// struct Confident;
///
/// impl ExitPolicy for Confident {
///     fn needs(&self, _layer: usize) -> Needs {
///         Needs::Head
///     }
///
///     fn decide(&mut self, observation: &Observation<'_>) -> Decision {
///         match observation.current() {
///             Some(evidence) if evidence.finite && evidence.max_prob >= 0.6 => Decision::Exit(Reason::Threshold),
///             _ => Decision::Continue,
///         }
///     }
/// }
/// ```
pub trait ExitPolicy: Send {
    /// Called before a chunk's first decision.
    fn begin_chunk(&mut self) {}

    /// The evidence that [`decide`](Self::decide) needs after `layer`; 0 is the front end. A head that is not needed does not run.
    fn needs(&self, layer: usize) -> Needs;

    /// Decides after a layer. A chunk exits after the last layer regardless of the decision.
    fn decide(&mut self, observation: &Observation<'_>) -> Decision;

    /// Makes exits more likely from the next chunk on, where live audio waits: `factor`, at least 1, multiplies thresholds of entropy,
    /// change and gain, and divides those of probabilities. 1 restores the policy. One without thresholds ignores it.
    fn relax(&mut self, _factor: f32) {}

    /// One line for summaries and logs: the policy and its numbers.
    fn description(&self) -> String {
        "custom policy".to_owned()
    }
}
