//! Policies that use evidence: `threshold`, `range`, `calibrated`, `ctc`, `change`, `gain`.

use std::fmt;

use super::evidence::{Evidence, Measure};
use super::policy::{Decision, ExitPolicy, Needs, Observation, Reason};
use crate::pack::PerLayer;

/// DAISY (arXiv 2406.05464): exits at the first layer whose head passes the threshold.
#[derive(Debug, Clone)]
pub(super) struct Threshold {
    /// The measure to compare.
    pub measure: Measure,
    /// The threshold: one number, or one per layer.
    pub thresholds: PerLayer,
    /// Layers whose heads run; the last one is a forced exit (`range`, DAISY's released inference). `None` for all layers (`threshold`).
    pub range: Option<(usize, usize)>,
    /// Name in the description: `threshold`, `range`, `calibrated for 0.95`.
    pub label: String,
    /// Number of layers.
    pub layers: usize,
    /// Factor of [`ExitPolicy::relax`].
    pub relax: f32,
}

impl ExitPolicy for Threshold {
    fn needs(&self, layer: usize) -> Needs {
        let (first, last) = self.range.unwrap_or((1, self.layers));
        if first <= layer && layer < last { Needs::Head } else { Needs::Nothing }
    }

    fn decide(&mut self, observation: &Observation<'_>) -> Decision {
        if self.range.is_some_and(|(_, last)| observation.layer >= last) {
            return Decision::Exit(Reason::Schedule);
        }
        match (observation.current(), self.thresholds.at(observation.layer)) {
            (Some(evidence), Some(threshold))
                if self.needs(observation.layer) == Needs::Head
                    && self.measure.passes(evidence, self.measure.relaxed(threshold, self.relax)) =>
            {
                Decision::Exit(Reason::Threshold)
            }
            _ => Decision::Continue,
        }
    }

    fn relax(&mut self, factor: f32) {
        self.relax = factor;
    }

    fn description(&self) -> String {
        let layers = self.range.map_or_else(String::new, |(first, last)| format!(", layers {first} to {last}"));
        format!("{}: {} {}{layers}", self.label, condition(self.measure), Numbers(&self.thresholds))
    }
}

fn condition(measure: Measure) -> &'static str {
    match measure {
        Measure::Entropy => "entropy ≤",
        Measure::MaxProb => "max probability ≥",
        Measure::Margin => "margin ≥",
    }
}

/// HuBERT-EE (arXiv 2204.06328): exits at the first layer whose CTC branch is confident.
///
/// The measure is averaged over the chunk's frames, H_k = −1/T Σ_t Σ_v p_k(v|t) ln p_k(v|t), where the blank is one of the classes v.
/// Most frames of a CTC branch are confident blanks, so H_k is small and thresholds are far below those of `threshold`.
#[derive(Debug, Clone)]
pub(super) struct CtcConfidence {
    /// The measure to compare.
    pub measure: Measure,
    /// The threshold: one number, or one per layer (h⁰ is then skipped).
    pub thresholds: PerLayer,
    /// Layers with a branch; 0 for h⁰, if a chunk may exit there.
    pub branches: Vec<usize>,
    /// Number of layers.
    pub layers: usize,
    /// Factor of [`ExitPolicy::relax`].
    pub relax: f32,
}

impl ExitPolicy for CtcConfidence {
    fn needs(&self, layer: usize) -> Needs {
        let acts = layer < self.layers && self.branches.contains(&layer) && self.thresholds.at(layer).is_some();
        if acts { Needs::Ctc } else { Needs::Nothing }
    }

    fn decide(&mut self, observation: &Observation<'_>) -> Decision {
        match (observation.ctc, self.thresholds.at(observation.layer)) {
            (Some(evidence), Some(threshold)) if self.measure.passes(evidence, self.measure.relaxed(threshold, self.relax)) => {
                Decision::Exit(Reason::Threshold)
            }
            _ => Decision::Continue,
        }
    }

    fn relax(&mut self, factor: f32) {
        self.relax = factor;
    }

    fn description(&self) -> String {
        format!("ctc: the CTC branch's {} {}", condition(self.measure), Numbers(&self.thresholds))
    }
}

/// Exits at the first layer where KL(p_k ‖ p_{k−1}) is at most δ: the heads have converged.
#[derive(Debug, Clone)]
pub(super) struct Change {
    /// δ, nats.
    pub thresholds: PerLayer,
    /// Number of layers.
    pub layers: usize,
    /// Factor of [`ExitPolicy::relax`].
    pub relax: f32,
}

impl ExitPolicy for Change {
    fn needs(&self, layer: usize) -> Needs {
        if (1..self.layers).contains(&layer) { Needs::Change } else { Needs::Nothing }
    }

    fn decide(&mut self, observation: &Observation<'_>) -> Decision {
        match observation.current() {
            Some(Evidence { finite: true, change: Some(change), .. })
                if observation.layer < self.layers
                    && self.thresholds.at(observation.layer).is_some_and(|most| *change <= most * self.relax) =>
            {
                Decision::Exit(Reason::Change)
            }
            _ => Decision::Continue,
        }
    }

    fn relax(&mut self, factor: f32) {
        self.relax = factor;
    }

    fn description(&self) -> String {
        format!("change: KL(p_k ‖ p_k-1) ≤ {} nats", Numbers(&self.thresholds))
    }
}

/// Exits where no deeper layer is worth its cost.
///
/// A small network for h⁰ and for each layer reads the chunk's state and predicts K_j = KL(p_L ‖ p_j) for this layer and all
/// deeper ones (K_L = 0). The chunk exits at the first k with K_k − K_j ≤ λ (j − k) for every j > k. With exact predictions this is
/// optimal stopping at a cost of λ nats per layer. No head runs.
#[derive(Debug, Clone)]
pub(super) struct Gain {
    /// λ, nats per layer.
    pub lambda: f32,
    /// The first layer with a predictor, 0 or 1.
    pub first: usize,
    /// Number of layers.
    pub layers: usize,
    /// Factor of [`ExitPolicy::relax`].
    pub relax: f32,
}

impl ExitPolicy for Gain {
    fn needs(&self, layer: usize) -> Needs {
        if (self.first..self.layers).contains(&layer) { Needs::Forecast } else { Needs::Nothing }
    }

    fn decide(&mut self, observation: &Observation<'_>) -> Decision {
        let Some((present, deeper)) = observation.forecast.split_first() else { return Decision::Continue };
        let (present, lambda) = (present.exp(), self.lambda * self.relax);
        let deeper = deeper.iter().map(|log_kl| log_kl.exp()).chain([0.0]);
        // NaN fails the comparison, so such a chunk continues.
        match deeper.zip(1u16..).all(|(kl, layers)| present - kl <= lambda * f32::from(layers)) {
            true => Decision::Exit(Reason::Gain),
            false => Decision::Continue,
        }
    }

    fn relax(&mut self, factor: f32) {
        self.relax = factor;
    }

    fn description(&self) -> String {
        format!("gain: predicted gain ≤ {} nats per layer", self.lambda)
    }
}

/// Formats thresholds.
struct Numbers<'a>(&'a PerLayer);

impl fmt::Display for Numbers<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            PerLayer::All(value) => write!(f, "{value}"),
            PerLayer::Each(values) => {
                write!(f, "[{}]", values.iter().map(|value| format!("{value:.3}")).collect::<Vec<_>>().join(", "))
            }
        }
    }
}
