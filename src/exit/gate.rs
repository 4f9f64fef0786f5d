//! The gate: silent chunks exit at h⁰, before the first layer.

use super::policy::{Decision, ExitPolicy, Needs, Observation, Reason};

/// Default number of chunks after speech that always pass: word endings are quiet.
pub const DEFAULT_HANGOVER: usize = 2;

/// Wraps a policy: if the head on h⁰ classifies a chunk as silence, the chunk exits before the first layer. The criterion is the mean
/// probability of the unit for silence. Otherwise the wrapped policy decides from layer 1 on. The missing keys and values of chunks that
/// exit here are filled as after any early exit.
pub struct Gate {
    inner: Box<dyn ExitPolicy>,
    /// Minimum probability of silence for an exit.
    least: f32,
    /// Chunks after speech that always pass.
    hangover: usize,
    /// Remaining chunks of the hangover.
    passing: usize,
}

impl Gate {
    /// Adds a gate to `inner`.
    pub fn new(inner: Box<dyn ExitPolicy>, least: f32, hangover: usize) -> Self {
        Self { inner, least, hangover, passing: 0 }
    }
}

impl ExitPolicy for Gate {
    fn begin_chunk(&mut self) {
        self.inner.begin_chunk();
    }

    fn needs(&self, layer: usize) -> Needs {
        if layer == 0 { Needs::Head } else { self.inner.needs(layer) }
    }

    fn decide(&mut self, observation: &Observation<'_>) -> Decision {
        if observation.layer > 0 {
            return self.inner.decide(observation);
        }
        let quiet = observation.current().filter(|evidence| evidence.finite).and_then(|evidence| evidence.quiet);
        if quiet.is_none_or(|quiet| quiet < self.least) {
            self.passing = self.hangover;
            return Decision::Continue;
        }
        match self.passing.checked_sub(1) {
            Some(left) => {
                self.passing = left;
                Decision::Continue
            }
            None => Decision::Exit(Reason::Gate),
        }
    }

    fn relax(&mut self, factor: f32) {
        self.inner.relax(factor);
    }

    fn description(&self) -> String {
        format!("{}; gate at {} quiet, {} chunks of hangover", self.inner.description(), self.least, self.hangover)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::Fixed;
    use super::super::evidence::Evidence;
    use super::*;

    fn decide(gate: &mut Gate, layer: usize, quiet: Option<f32>, finite: bool) -> Decision {
        let evidence = [Evidence { layer, entropy: 1.0, max_prob: 0.5, margin: 0.1, change: None, quiet, finite }];
        let (elapsed, backlog) = (Duration::ZERO, Duration::ZERO);
        gate.decide(&Observation { layer, layers: 10, evidence: &evidence, ctc: None, forecast: &[], elapsed, backlog })
    }

    #[test]
    fn it_closes_after_the_hangover_and_opens_at_once() {
        let mut gate = Gate::new(Box::new(Fixed::new(3)), 0.7, 2);
        let closed = Decision::Exit(Reason::Gate);
        assert_eq!(decide(&mut gate, 0, Some(0.8), true), closed, "a stream begins closed");
        assert_eq!(decide(&mut gate, 0, Some(0.1), true), Decision::Continue);
        assert_eq!(decide(&mut gate, 0, Some(0.8), true), Decision::Continue);
        assert_eq!(decide(&mut gate, 0, Some(0.8), true), Decision::Continue);
        assert_eq!(decide(&mut gate, 0, Some(0.8), true), closed);
        assert_eq!(decide(&mut gate, 0, Some(0.7), true), closed);
        assert_eq!(decide(&mut gate, 0, Some(0.69), true), Decision::Continue);
    }

    #[test]
    fn behind_it_the_wrapped_policy_decides() {
        let mut gate = Gate::new(Box::new(Fixed::new(3)), 0.7, 0);
        assert_eq!((gate.needs(0), gate.needs(1)), (Needs::Head, Needs::Nothing));
        assert_eq!(decide(&mut gate, 2, Some(0.9), true), Decision::Continue);
        assert_eq!(decide(&mut gate, 3, Some(0.1), true), Decision::Exit(Reason::Schedule));
    }

    #[test]
    fn what_it_cannot_tell_passes() {
        let mut gate = Gate::new(Box::new(Fixed::new(3)), 0.7, 0);
        assert_eq!(decide(&mut gate, 0, None, true), Decision::Continue);
        assert_eq!(decide(&mut gate, 0, Some(0.9), false), Decision::Continue);
    }
}
