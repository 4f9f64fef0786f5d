//! Offloading layers to neighbours: early exit with model-distributed inference (MDI-Exit, arXiv 2408.05247).
//!
//! A device runs some layers of a chunk. A chunk that has not exited may continue on a neighbour, chosen by queue lengths.
//! docs/notes/neighbours.md describes the rules, and where they are reconstructions.

pub mod codec;
mod ledger;
pub mod message;
pub mod policy;
mod roster;
pub mod simulation;
mod source;
#[cfg(test)]
mod tests;
mod transport;
mod worker;

use std::hash::{BuildHasher, RandomState};

use crate::engine::{Encoder, EngineError};

pub use roster::{Counts, NeighbourStatus, Roster};
pub use source::{Carrier, Offloading, OnAnswer, PATIENCE, Source};
pub use transport::{Endpoints, Network, NetworkError, Tls, WorkerNode};
pub use worker::{Outcome, Worker, WorkerCounters};

/// Refuses an encoder whose chunks cannot change the machine.
fn check(encoder: &Encoder) -> Result<(), EngineError> {
    match encoder.can_hand_over() {
        true => Ok(()),
        false => {
            let problem = match encoder.has_layer_states() {
                true => "its layers have states of their own, which cannot change the machine",
                false => "gaps are filled by catch-up; use --gap-fill project",
            };
            Err(EngineError::Handover { pack: encoder.name().to_owned(), problem: problem.to_owned() })
        }
    }
}

/// A number that differs between processes, from the system's random keys of hash maps.
fn random() -> u64 {
    RandomState::new().hash_one(std::process::id())
}
