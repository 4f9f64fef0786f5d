//! The policies that look at the evidence: `threshold`, `range`, `calibrated`, `change`, `gain`.

use std::fmt;
use std::sync::Arc;

use super::evidence::{Evidence, Measure};
use super::policy::{Decision, ExitPolicy, Needs, Progress, Reason};
use crate::pack::PerLayer;
use crate::pack::gain::{Feature, GainFile, GainLayer};

/// DAISY (arXiv 2406.05464): stop at the first layer whose head is sure enough.
#[derive(Debug, Clone)]
pub struct Threshold {
    /// What is compared.
    pub measure: Measure,
    /// With what; one number, or one per layer.
    pub thresholds: PerLayer,
    /// Layers whose heads run; the last one is a forced exit. All layers without one (`threshold`),
    /// DAISY's released inference with one (`range`).
    pub range: Option<(usize, usize)>,
    /// How it was asked for: `threshold`, `range`, `calibrated for 0.95`.
    pub label: String,
    /// Number of layers.
    pub layers: usize,
}

impl ExitPolicy for Threshold {
    fn needs(&self, layer: usize) -> Needs {
        let (first, last) = self.range.unwrap_or((1, self.layers));
        if first <= layer && layer < last { Needs::Head } else { Needs::Nothing }
    }

    fn decide(&mut self, progress: &Progress<'_>) -> Decision {
        if self.range.is_some_and(|(_, last)| progress.layer >= last) {
            return Decision::Exit(Reason::Schedule);
        }
        match progress.present() {
            Some(evidence)
                if self.needs(progress.layer) == Needs::Head
                    && self.measure.passes(evidence, self.thresholds.at(progress.layer)) =>
            {
                Decision::Exit(Reason::Threshold)
            }
            _ => Decision::Continue,
        }
    }
}

impl fmt::Display for Threshold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let measure = match self.measure {
            Measure::Entropy => "entropy ≤",
            Measure::MaxProb => "max probability ≥",
            Measure::Margin => "margin ≥",
        };
        write!(f, "{}: {measure} {}", self.label, Numbers(&self.thresholds))?;
        self.range.map_or(Ok(()), |(first, last)| write!(f, ", layers {first} to {last}"))
    }
}

/// Stop at the first layer where KL(p_k ‖ p_{k−1}) is at most δ: the heads have stopped changing their mind.
#[derive(Debug, Clone)]
pub struct Change {
    /// δ, nats.
    pub thresholds: PerLayer,
    /// Number of layers.
    pub layers: usize,
}

impl ExitPolicy for Change {
    fn needs(&self, layer: usize) -> Needs {
        if layer < self.layers { Needs::Change } else { Needs::Nothing }
    }

    fn decide(&mut self, progress: &Progress<'_>) -> Decision {
        match progress.present() {
            Some(Evidence { finite: true, change: Some(change), .. }) if *change <= self.thresholds.at(progress.layer) => {
                Decision::Exit(Reason::Change)
            }
            _ => Decision::Continue,
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "change: KL(p_k ‖ p_k-1) ≤ {} nats", Numbers(&self.thresholds))
    }
}

/// Bellis's own: stop when the predicted KL(p_L ‖ p_k), per layer left, is at most λ. Entropy asks whether the model is
/// sure; gain asks whether more layers would help.
#[derive(Debug, Clone)]
pub struct Gain {
    /// The predictors, from the pack.
    pub predictors: Arc<GainFile>,
    /// λ, nats per layer left.
    pub lambda: f32,
    /// Number of layers.
    pub layers: usize,
}

impl Gain {
    /// Predicted KL(p_L ‖ p_k), nats, from the evidence so far.
    pub fn predict(&self, progress: &Progress<'_>) -> Option<f32> {
        let present = progress.present().filter(|evidence| evidence.finite)?;
        let previous = progress.evidence.iter().rev().nth(1).filter(|evidence| evidence.layer + 1 == progress.layer);
        let predictor = self.predictors.layer.get(progress.layer - 1)?;
        Some(predictor.output(&self.predictors.features, present, previous).exp())
    }
}

impl GainLayer {
    fn output(&self, features: &[Feature], present: &Evidence, previous: Option<&Evidence>) -> f32 {
        let before = |value: fn(&Evidence) -> f32| previous.map_or(0.0, value);
        let input = |feature: Feature| match feature {
            Feature::Entropy => present.entropy,
            Feature::MaxProb => present.max_prob,
            Feature::Margin => present.margin,
            Feature::Change => present.change.unwrap_or(0.0),
            Feature::PrevEntropy => before(|e| e.entropy),
            Feature::PrevMaxProb => before(|e| e.max_prob),
            Feature::PrevMargin => before(|e| e.margin),
            Feature::PrevChange => before(|e| e.change.unwrap_or(0.0)),
        };
        let hidden = self.w1.iter().zip(&self.b1).map(|(row, bias)| {
            let inputs = features.iter().zip(row).zip(self.mean.iter().zip(&self.scale));
            inputs.map(|((&feature, weight), (mean, scale))| weight * (input(feature) - mean) / scale).sum::<f32>() + bias
        });
        hidden.zip(&self.w2).map(|(sum, weight)| weight * sum.tanh()).sum::<f32>() + self.b2
    }
}

impl ExitPolicy for Gain {
    fn needs(&self, layer: usize) -> Needs {
        match self.predictors.features.iter().any(|feature| matches!(feature, Feature::Change | Feature::PrevChange)) {
            _ if layer >= self.layers => Needs::Nothing,
            true => Needs::Change,
            false => Needs::Head,
        }
    }

    fn decide(&mut self, progress: &Progress<'_>) -> Decision {
        let left = progress.layers.saturating_sub(progress.layer).max(1) as f32;
        match self.predict(progress) {
            Some(gain) if gain / left <= self.lambda => Decision::Exit(Reason::Gain),
            _ => Decision::Continue,
        }
    }
}

impl fmt::Display for Gain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "gain: predicted KL to full depth ≤ {} nats per layer left", self.lambda)
    }
}

/// Thresholds as people read them.
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
