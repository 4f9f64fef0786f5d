//! `gain.toml`: per layer, a small network from the evidence to what the remaining layers would still change.

use serde::Deserialize;

/// What a predictor sees; each is a mean over the chunk's frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Feature {
    /// Entropy of the head, nats.
    Entropy,
    /// Probability of the likeliest unit.
    MaxProb,
    /// Difference of the two likeliest.
    Margin,
    /// KL(p_k ‖ p_{k−1}), nats.
    Change,
    /// Entropy of the layer before.
    PrevEntropy,
    /// Likeliest of the layer before.
    PrevMaxProb,
    /// Margin of the layer before.
    PrevMargin,
    /// Change of the layer before.
    PrevChange,
}

/// The predictors of layers 1 … L−1.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GainFile {
    /// Inputs, in this order.
    pub features: Vec<Feature>,
    /// One network per layer.
    pub layer: Vec<GainLayer>,
}

/// `ln KL(p_L ‖ p_k) ≈ w2 · tanh(W1 · ((features − mean) / scale) + b1) + b2`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GainLayer {
    /// Subtracted from the features.
    pub mean: Vec<f32>,
    /// Divides the features.
    pub scale: Vec<f32>,
    /// Hidden rows.
    pub w1: Vec<Vec<f32>>,
    /// Hidden biases.
    pub b1: Vec<f32>,
    /// Output weights.
    pub w2: Vec<f32>,
    /// Output bias.
    pub b2: f32,
}

impl GainFile {
    /// What is wrong with the shapes, if anything is.
    pub(super) fn problem(&self, layers: usize) -> Option<String> {
        if self.layer.len() + 1 != layers {
            return Some(format!("{} predictors, but {} layers need {}", self.layer.len(), layers, layers - 1));
        }
        let inputs = self.features.len();
        for (index, layer) in self.layer.iter().enumerate() {
            let hidden = layer.w1.len();
            let fits = layer.mean.len() == inputs
                && layer.scale.len() == inputs
                && layer.w1.iter().all(|row| row.len() == inputs)
                && layer.b1.len() == hidden
                && layer.w2.len() == hidden;
            if !fits {
                return Some(format!("the predictor of layer {} does not fit its {inputs} features", index + 1));
            }
            let numbers =
                layer.mean.iter().chain(&layer.scale).chain(layer.w1.iter().flatten()).chain(&layer.b1).chain(&layer.w2);
            if numbers.chain([&layer.b2]).any(|value| !value.is_finite()) || layer.scale.contains(&0.0) {
                return Some(format!("the predictor of layer {} has a number that is not finite, or a scale of zero", index + 1));
            }
        }
        None
    }
}
