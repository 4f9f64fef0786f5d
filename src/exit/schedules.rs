//! Policies that do not use evidence: `fixed`, `never`, `periodic`; and `deadline`, which wraps another policy.

use std::time::Duration;

use super::policy::{Decision, ExitPolicy, Needs, Observation, Reason};

/// The policies `fixed` and, at the last layer, `never`: always the same layer. No head runs.
#[derive(Debug, Clone)]
pub struct Fixed {
    layer: usize,
}

impl Fixed {
    /// Exits after `layer`; after the front end for layer 0, in packs whose front end has a head, and after the last layer for any
    /// number beyond it.
    pub fn new(layer: usize) -> Self {
        Self { layer }
    }
}

impl ExitPolicy for Fixed {
    fn needs(&self, _layer: usize) -> Needs {
        Needs::Nothing
    }

    fn decide(&mut self, observation: &Observation<'_>) -> Decision {
        match observation.layer >= self.layer {
            true => Decision::Exit(Reason::Schedule),
            false => Decision::Continue,
        }
    }

    fn description(&self) -> String {
        format!("fixed: layer {}", self.layer)
    }
}

/// A fixed layer, with every n-th chunk at full depth (arXiv 2603.09215).
#[derive(Debug, Clone)]
pub struct Periodic {
    layer: usize,
    period: usize,
    chunk: usize,
}

impl Periodic {
    /// Exits after `layer`, except for the stream's first chunk and every `period`-th one after it. A period of 0 counts as 1.
    pub fn new(layer: usize, period: usize) -> Self {
        let period = period.max(1);
        Self { layer, period, chunk: period - 1 }
    }
}

impl ExitPolicy for Periodic {
    fn begin_chunk(&mut self) {
        self.chunk = (self.chunk + 1) % self.period;
    }

    fn needs(&self, _layer: usize) -> Needs {
        Needs::Nothing
    }

    fn decide(&mut self, observation: &Observation<'_>) -> Decision {
        match self.chunk != 0 && observation.layer >= self.layer {
            true => Decision::Exit(Reason::Schedule),
            false => Decision::Continue,
        }
    }

    fn description(&self) -> String {
        format!("periodic: layer {}, every {}th chunk at full depth", self.layer, self.period)
    }
}

/// A wrapper that exits if the next layer is predicted to end after the deadline, from a running mean of recent layer times.
pub struct Deadline {
    inner: Box<dyn ExitPolicy>,
    /// Maximum time from the capture of the chunk's last sample to its representation.
    deadline: Duration,
    /// Running mean of the time per layer including its head, seconds.
    layer_seconds: f64,
    last_elapsed: Duration,
}

/// Weight of the latest layer in the running mean: it follows a change of load within about ten layers.
const LAYER_WEIGHT: f64 = 0.1;

impl Deadline {
    /// Adds `deadline` to `inner`.
    pub fn new(inner: Box<dyn ExitPolicy>, deadline: Duration) -> Self {
        Self { inner, deadline, layer_seconds: 0.0, last_elapsed: Duration::ZERO }
    }
}

impl ExitPolicy for Deadline {
    fn begin_chunk(&mut self) {
        self.last_elapsed = Duration::ZERO;
        self.inner.begin_chunk();
    }

    fn needs(&self, layer: usize) -> Needs {
        self.inner.needs(layer)
    }

    fn decide(&mut self, observation: &Observation<'_>) -> Decision {
        // The first layer's time includes the front end, so it is not counted.
        if observation.layer > 1 {
            let took = observation.elapsed.saturating_sub(self.last_elapsed).as_secs_f64();
            let weight = if self.layer_seconds == 0.0 { 1.0 } else { LAYER_WEIGHT };
            self.layer_seconds += weight * (took - self.layer_seconds);
        }
        self.last_elapsed = observation.elapsed;
        let spent =
            observation.elapsed.saturating_add(observation.backlog).saturating_add(Duration::from_secs_f64(self.layer_seconds));
        match self.inner.decide(observation) {
            Decision::Continue if spent > self.deadline && observation.layer < observation.layers => {
                // If every chunk exits at the first layer, no layer is timed: decay the estimate until one is tried again.
                self.layer_seconds *= 1.0 - LAYER_WEIGHT;
                Decision::Exit(Reason::Deadline)
            }
            decision => decision,
        }
    }

    fn relax(&mut self, factor: f32) {
        self.inner.relax(factor);
    }

    fn description(&self) -> String {
        format!("{}; deadline {} ms", self.inner.description(), self.deadline.as_millis())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Simulates layers of `layer_ms` each, and returns the exit layer.
    fn depth(policy: &mut Deadline, layer_ms: u64) -> usize {
        policy.begin_chunk();
        let stop = (1..=10).find(|&layer| {
            let elapsed = Duration::from_millis(layer_ms * layer as u64);
            let observation =
                Observation { layer, layers: 10, evidence: &[], ctc: None, forecast: &[], elapsed, backlog: Duration::ZERO };
            policy.decide(&observation) == Decision::Exit(Reason::Deadline)
        });
        stop.unwrap_or(10)
    }

    #[test]
    fn a_deadline_sheds_layers_under_load_and_takes_them_back_afterwards() {
        let never = Box::new(Fixed::new(10));
        let mut policy = Deadline::new(never, Duration::from_millis(100));
        assert_eq!(depth(&mut policy, 5), 10);
        // One layer took seconds, as in a process that was suspended.
        assert_eq!(depth(&mut policy, 3_000), 1);
        let depths: Vec<usize> = (0..80).map(|_| depth(&mut policy, 5)).collect();
        assert_eq!(depths.last(), Some(&10), "{depths:?}");
        // Half the required speed: half of the layers.
        let loaded: Vec<usize> = (0..60).map(|_| depth(&mut policy, 20)).collect();
        assert!((3..=5).contains(loaded.last().unwrap()), "{loaded:?}");
    }

    #[test]
    fn the_last_layer_is_no_deadline() {
        // It would continue.
        let deeper = Box::new(Fixed::new(11));
        let mut policy = Deadline::new(deeper, Duration::from_millis(100));
        let observation = Observation {
            layer: 10,
            layers: 10,
            evidence: &[],
            ctc: None,
            forecast: &[],
            elapsed: Duration::from_secs(9),
            backlog: Duration::ZERO,
        };
        assert_eq!(policy.decide(&observation), Decision::Continue);
        assert_eq!(policy.decide(&Observation { layer: 9, ..observation }), Decision::Exit(Reason::Deadline));
    }
}
