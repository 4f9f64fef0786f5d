//! The trait of all exit policies, and what they see and answer.

use std::fmt::{Debug, Display};
use std::time::Duration;

use serde::Serialize;

use super::evidence::Evidence;

/// Why a chunk stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// The head was sure enough (`threshold`, `range`, `calibrated`), or the CTC branch (`ctc`).
    Threshold,
    /// The heads stopped changing their mind (`change`).
    Change,
    /// No deeper layer was predicted to be worth its cost (`gain`).
    Gain,
    /// The layer was fixed beforehand (`fixed`, `periodic`, the end of a `range`).
    Schedule,
    /// Nobody speaks: the gate in front of the first layer is closed.
    Gate,
    /// The next layer would have broken the chunk's deadline.
    Deadline,
    /// There was no further layer, or none that could give what was asked for (phones, where no deeper layer has a CTC branch).
    LastLayer,
}

impl Reason {
    /// Every reason.
    pub const ALL: [Self; 7] =
        [Self::Threshold, Self::Change, Self::Gain, Self::Schedule, Self::Gate, Self::Deadline, Self::LastLayer];

    /// Its name in every output.
    pub fn name(self) -> &'static str {
        match self {
            Self::Threshold => "threshold",
            Self::Change => "change",
            Self::Gain => "gain",
            Self::Schedule => "schedule",
            Self::Gate => "gate",
            Self::Deadline => "deadline",
            Self::LastLayer => "last-layer",
        }
    }
}

/// Go on, or stop after the present layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Run the next layer.
    Continue,
    /// Stop here.
    Exit(Reason),
}

/// What a policy sees after a layer; before the first one, too, in packs whose front end has a head.
#[derive(Debug, Clone, Copy)]
pub struct Observation<'a> {
    /// The layer that has just run; 0 before the first one.
    pub layer: usize,
    /// Number of layers.
    pub layers: usize,
    /// Evidence of this chunk's evaluated heads, in order; the present layer's is the last one, if its head ran.
    pub evidence: &'a [Evidence],
    /// Evidence of the present layer's CTC branch; `None` where the policy did not ask.
    pub ctc: Option<&'a Evidence>,
    /// Predicted ln KL(p_L ‖ p_j), nats, for j = the present layer … L−1; empty where the policy did not ask.
    pub forecast: &'a [f32],
    /// Time since the chunk's computation began.
    pub elapsed: Duration,
    /// Sound that waits behind this chunk: how late the stream already is.
    pub backlog: Duration,
}

impl Observation<'_> {
    /// Evidence of the present layer, if its head ran.
    pub fn present(&self) -> Option<&Evidence> {
        self.evidence.last().filter(|evidence| evidence.layer == self.layer)
    }
}

/// What a policy wants to see after a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    /// Nothing: it decides without the head.
    Nothing,
    /// What the layer's predictor expects of the layers to come.
    Forecast,
    /// The head's entropy, probability and margin.
    Head,
    /// Also [`Evidence::change`], which costs as much again.
    Change,
    /// The CTC branch's entropy, probability and margin; asked for only where the layer has a branch.
    Ctc,
}

/// Decides layer by layer where a chunk stops. A policy is a value: made from configuration, printable, sent between threads.
pub trait ExitPolicy: Debug + Display + Send {
    /// A new chunk begins.
    fn begin_chunk(&mut self) {}

    /// What is needed after `layer` to decide. A head that nobody needs does not run.
    fn needs(&self, layer: usize) -> Needs;

    /// Decides after a layer. The session stops after the last layer whatever the answer.
    fn decide(&mut self, observation: &Observation<'_>) -> Decision;
}
