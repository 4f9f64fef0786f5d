//! Policy specifications: a policy's name and parameters, from which the policy for a pack is built.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::evidence::Measure;
use super::gate::{DEFAULT_HANGOVER, Gate};
use super::policies::{Change, CtcConfidence, Gain, Threshold};
use super::policy::ExitPolicy;
use super::schedules::{Deadline, Fixed, Periodic};
use crate::names::named;
use crate::pack::{Pack, PerLayer};

/// Names of the policies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum PolicyName {
    /// DAISY: the first layer whose head's mean entropy is at most the threshold.
    Threshold,
    /// DAISY's released inference: heads run on a range of layers only; its last layer is a forced exit.
    Range,
    /// A fixed layer; no head runs.
    Fixed,
    /// A fixed layer, and every n-th chunk at full depth.
    Periodic,
    /// Thresholds per layer, calibrated for a target agreement with full depth.
    Calibrated,
    /// HuBERT-EE: the first layer whose CTC branch's own entropy is at most the threshold.
    Ctc,
    /// The first layer whose head differs by at most the threshold from the head before, KL(p_k ‖ p_{k−1}).
    Change,
    /// The first layer from which no deeper layer is predicted to reduce the KL divergence to full depth by more than λ per layer.
    Gain,
    /// Full depth, always.
    Never,
}

named!(PolicyName, "policy", {
    Threshold => "threshold",
    Range => "range",
    Fixed => "fixed",
    Periodic => "periodic",
    Calibrated => "calibrated",
    Ctc => "ctc",
    Change => "change",
    Gain => "gain",
    Never => "never",
});

/// A policy and its parameters. Missing parameters come from the pack.
///
/// ```
/// use bellis::exit::{PolicyName, PolicySpec};
///
/// let spec = PolicySpec::named(PolicyName::Threshold).threshold(2.5).gate(0.7);
/// assert_eq!("threshold:2.5+gate:0.7".parse(), Ok(spec));
/// ```
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct PolicySpec {
    /// The policy; the pack's default if `None`.
    pub name: Option<PolicyName>,
    /// τ of `threshold`, `range` and `ctc` (nats, or a probability), δ of `change` (nats), λ of `gain` (nats per layer).
    pub threshold: Option<PerLayer>,
    /// What `threshold`, `range` and `ctc` compare; entropy if `None`.
    pub measure: Option<Measure>,
    /// Layer of `fixed` and `periodic`.
    pub layer: Option<usize>,
    /// First and last layer of `range`.
    pub range: Option<(usize, usize)>,
    /// Period of `periodic`, chunks.
    pub period: Option<usize>,
    /// Agreement target of `calibrated`, 0 to 1.
    pub agreement: Option<f32>,
    /// Probability of silence at h⁰ from which a chunk exits there, 0 to 1; wraps any policy.
    pub gate: Option<f32>,
    /// Chunks after speech that pass the gate.
    pub gate_hangover: Option<usize>,
    /// Deadline of each chunk, milliseconds; wraps any policy.
    pub deadline_ms: Option<u64>,
    /// Factor of the thresholds, at least 1, as in [`ExitPolicy::relax`].
    pub relax: Option<f32>,
}

/// Why a policy cannot be built for a pack.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// Neither the specification nor the pack has a required parameter, or the pack lacks a stage.
    #[error("policy `{policy}`: pack `{pack}` has no {what}; {hint}")]
    #[non_exhaustive]
    Missing {
        /// The policy.
        policy: String,
        /// The pack's name.
        pack: String,
        /// The missing value.
        what: String,
        /// What to do.
        hint: String,
        /// The parameter that supplies the value: `threshold`, `range`, `agreement` or `gate`; `None` if the pack lacks a stage.
        parameter: Option<&'static str>,
    },
    /// A parameter is out of range, or the policy does not use it.
    #[error("policy `{policy}`: {problem}")]
    #[non_exhaustive]
    Invalid {
        /// The policy.
        policy: String,
        /// The problem, and the valid values.
        problem: String,
        /// The parameter, named like the field of [`PolicySpec`].
        parameter: Option<&'static str>,
    },
}

/// Default period of `periodic`, chunks.
const DEFAULT_PERIOD: usize = 8;

impl PolicySpec {
    /// The policy `name` with the pack's parameters.
    pub fn named(name: PolicyName) -> Self {
        Self { name: Some(name), ..Self::default() }
    }

    /// Sets the threshold: τ of `threshold`, `range` and `ctc`, δ of `change`, λ of `gain`.
    pub fn threshold(mut self, threshold: impl Into<PerLayer>) -> Self {
        self.threshold = Some(threshold.into());
        self
    }

    /// Sets what `threshold`, `range` and `ctc` compare.
    pub fn measure(mut self, measure: Measure) -> Self {
        self.measure = Some(measure);
        self
    }

    /// Sets the layer of `fixed` and `periodic`.
    pub fn layer(mut self, layer: usize) -> Self {
        self.layer = Some(layer);
        self
    }

    /// Sets the first and last layer of `range`.
    pub fn range(mut self, first: usize, last: usize) -> Self {
        self.range = Some((first, last));
        self
    }

    /// Sets the period of `periodic`, chunks.
    pub fn period(mut self, chunks: usize) -> Self {
        self.period = Some(chunks);
        self
    }

    /// Sets the agreement target of `calibrated`, 0 to 1.
    pub fn agreement(mut self, agreement: f32) -> Self {
        self.agreement = Some(agreement);
        self
    }

    /// Adds a gate: chunks exit before the first layer where the head on h⁰ predicts silence with this probability.
    pub fn gate(mut self, probability: f32) -> Self {
        self.gate = Some(probability);
        self
    }

    /// Sets how many chunks after speech pass the gate.
    pub fn gate_hangover(mut self, chunks: usize) -> Self {
        self.gate_hangover = Some(chunks);
        self
    }

    /// Adds a deadline per chunk, in whole milliseconds.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline_ms = Some(deadline.as_millis().try_into().unwrap_or(u64::MAX));
        self
    }

    /// The policy's name, or that of the pack's own.
    ///
    /// # Errors
    ///
    /// [`PolicyError::Invalid`] if the pack names a policy that does not exist.
    pub fn name_for(&self, pack: &Pack) -> Result<PolicyName, PolicyError> {
        match (self.name, &pack.manifest.exit.policy) {
            (Some(name), _) => Ok(name),
            (None, Some(text)) => text.parse().map_err(|error| PolicyError::Invalid {
                policy: text.clone(),
                problem: format!("pack.toml, [exit] policy: {error}"),
                parameter: None,
            }),
            (None, None) => Ok(PolicyName::Never),
        }
    }

    /// Builds the policy for `pack`.
    ///
    /// # Errors
    ///
    /// [`PolicyError::Missing`] if neither this value nor the pack has a parameter that the policy requires, or the pack lacks its heads,
    /// branches or predictors; [`PolicyError::Invalid`] if a parameter is out of range or not used by the policy.
    pub fn build(&self, pack: &Pack) -> Result<Box<dyn ExitPolicy>, PolicyError> {
        let name = self.name_for(pack)?;
        let mut policy = self.gated(name, self.make(name, pack)?, pack)?;
        match self.relax {
            None => {}
            Some(factor) if factor.is_finite() && factor >= 1.0 => policy.relax(factor),
            Some(factor) => {
                return Err(self.invalid(name, "relax", format!("the factor must be at least 1, got {factor}")));
            }
        }
        Ok(match self.deadline_ms {
            None => policy,
            Some(0) => return Err(self.invalid(name, "deadline", "the deadline must be at least 1 ms".into())),
            Some(milliseconds) => Box::new(Deadline::new(policy, Duration::from_millis(milliseconds))),
        })
    }

    fn gated(&self, name: PolicyName, policy: Box<dyn ExitPolicy>, pack: &Pack) -> Result<Box<dyn ExitPolicy>, PolicyError> {
        let Some(least) = self.gate else {
            return match self.gate_hangover {
                Some(_) => Err(self.invalid(name, "gate_hangover", "a gate hangover requires a gate".into())),
                None => Ok(policy),
            };
        };
        if !(0.0..=1.0).contains(&least) {
            return Err(self.invalid(name, "gate", format!("the gate must be between 0 and 1, got {least}")));
        }
        if pack.manifest.encoder.quiet_unit.is_none() || !pack.heads.iter().any(|(layer, _)| *layer == 0) {
            return Err(PolicyError::Missing {
                policy: label(name),
                pack: pack.manifest.name.clone(),
                what: "head on h⁰ with a unit for silence, which the gate requires".into(),
                hint: "leave out the gate, or use a pack that has both, such as daisy-tiny".into(),
                parameter: Some("gate"),
            });
        }
        Ok(Box::new(Gate::new(policy, least, self.gate_hangover.unwrap_or(DEFAULT_HANGOVER))))
    }

    fn make(&self, name: PolicyName, pack: &Pack) -> Result<Box<dyn ExitPolicy>, PolicyError> {
        let layers = pack.manifest.encoder.layers;
        let exit = &pack.manifest.exit;
        let missing_for = |parameter: Option<&'static str>, what: &str, hint: &str| {
            let (what, hint) = (what.to_owned(), hint.to_owned());
            PolicyError::Missing { policy: label(name), pack: pack.manifest.name.clone(), what, hint, parameter }
        };
        let missing = |what: &str, hint: &str| missing_for(None, what, hint);
        let without_heads = [PolicyName::Fixed, PolicyName::Periodic, PolicyName::Never, PolicyName::Ctc];
        if pack.heads.is_empty() && !without_heads.contains(&name) {
            return Err(missing("exit heads", "use `fixed`, `periodic` or `never`, or train heads (models/convert)"));
        }
        self.reject_unused(name)?;
        let layer = || {
            let layer = self.layer.or(exit.fixed).unwrap_or(layers.div_ceil(2));
            let first = pack.shallowest_exit();
            let problem = || self.invalid(name, "layer", format!("the layer must be between {first} and {layers}, got {layer}"));
            (first..=layers).contains(&layer).then_some(layer).ok_or_else(problem)
        };
        let threshold = |own: &Option<PerLayer>, hint: &str| {
            let thresholds = self
                .threshold
                .clone()
                .or_else(|| own.clone())
                .ok_or_else(|| missing_for(Some("threshold"), "threshold for it", hint))?;
            match &thresholds {
                PerLayer::Each(values) if !thresholds.fits(layers) => {
                    Err(self.invalid(name, "threshold", format!("{} thresholds for {layers} layers", values.len())))
                }
                thresholds if thresholds.has_nan() => Err(self.not_a_number(name)),
                _ => Ok(thresholds),
            }
        };
        let measure = self.measure.unwrap_or_default();
        if measure != Measure::Entropy && self.threshold.is_none() {
            return Err(missing_for(Some("threshold"), "threshold for this measure", "set one (a probability, 0 to 1)"));
        }
        let daisy = |range| -> Result<Box<dyn ExitPolicy>, PolicyError> {
            let thresholds = threshold(&exit.threshold, "set one, in nats (0 to ln(units))")?;
            Ok(Box::new(Threshold { measure, thresholds, range, label: label(name), layers, relax: 1.0 }))
        };
        Ok(match name {
            PolicyName::Threshold => daisy(None)?,
            PolicyName::Range => {
                let (first, last) = self
                    .range
                    .or_else(|| exit.range.map(|[first, last]| (first, last)))
                    .ok_or_else(|| missing_for(Some("range"), "range for it", "set the first and last layer"))?;
                if !(1 <= first && first <= last && last <= layers) {
                    return Err(self.invalid(
                        name,
                        "range",
                        format!("the range must be within layers 1 to {layers}, got {first}..{last}"),
                    ));
                }
                daisy(Some((first, last)))?
            }
            PolicyName::Fixed => Box::new(Fixed::new(layer()?)),
            PolicyName::Never => Box::new(Fixed::new(layers)),
            PolicyName::Periodic => {
                let period = self.period.unwrap_or(DEFAULT_PERIOD);
                if period == 0 {
                    return Err(self.invalid(name, "period", "the period must be at least 1 chunk".into()));
                }
                Box::new(Periodic::new(layer()?, period))
            }
            PolicyName::Calibrated => {
                let section = exit.calibrated.as_ref().filter(|section| !section.targets.is_empty());
                let section =
                    section.ok_or_else(|| missing("calibrated thresholds", "use `threshold`, or calibrate the pack"))?;
                let agreement = self.agreement.unwrap_or(0.95);
                let target =
                    section.targets.iter().find(|target| (target.agreement - agreement).abs() < 1e-4).ok_or_else(|| {
                        let known: Vec<_> = section.targets.iter().map(|target| target.agreement.to_string()).collect();
                        missing_for(
                            Some("agreement"),
                            &format!("thresholds for an agreement of {agreement}"),
                            &format!("it has {}", known.join(", ")),
                        )
                    })?;
                let thresholds = PerLayer::Each(target.thresholds.clone());
                let label = format!("calibrated for an agreement of {agreement}");
                Box::new(Threshold { measure: Measure::Entropy, thresholds, range: None, label, layers, relax: 1.0 })
            }
            PolicyName::Ctc => {
                let shallowest = pack.shallowest_exit();
                let branches: Vec<usize> = pack.ctc.iter().map(|(k, _)| *k).filter(|k| *k >= shallowest).collect();
                if branches.is_empty() {
                    return Err(missing("CTC branches", "use `gain` or `threshold`, or train branches (docs/phones.md)"));
                }
                let thresholds = threshold(&exit.ctc, "set one, in nats (such as 0.2)")?;
                Box::new(CtcConfidence { measure, thresholds, branches, layers, relax: 1.0 })
            }
            PolicyName::Change => {
                let thresholds = threshold(&exit.change, "set one, in nats (such as 0.06)")?;
                Box::new(Change { thresholds, layers, relax: 1.0 })
            }
            PolicyName::Gain => {
                let Some(&(first, _)) = pack.gain.first() else {
                    return Err(missing("gain predictors", "use `threshold` or `change`, or calibrate the pack"));
                };
                let lambda = match (&self.threshold, &exit.gain) {
                    (Some(PerLayer::All(lambda)), _) if lambda.is_nan() => return Err(self.not_a_number(name)),
                    (Some(PerLayer::All(lambda)), _) => *lambda,
                    (Some(PerLayer::Each(_)), _) => {
                        return Err(self.invalid(
                            name,
                            "threshold",
                            "uses one threshold for all layers, not one per layer".into(),
                        ));
                    }
                    (None, Some(section)) => section.lambda,
                    (None, None) => {
                        return Err(missing_for(Some("threshold"), "default for λ", "set one, in nats per layer (such as 0.02)"));
                    }
                };
                Box::new(Gain { lambda, first, layers, relax: 1.0 })
            }
        })
    }

    /// Rejects a parameter that the policy would ignore.
    fn reject_unused(&self, name: PolicyName) -> Result<(), PolicyError> {
        use PolicyName::{Calibrated, Change, Ctc, Fixed, Gain, Periodic, Range, Threshold};
        let uses: [(&'static str, bool, &[PolicyName]); 6] = [
            ("threshold", self.threshold.is_some(), &[Threshold, Range, Ctc, Change, Gain]),
            ("measure", self.measure.is_some(), &[Threshold, Range, Ctc]),
            ("layer", self.layer.is_some(), &[Fixed, Periodic]),
            ("range", self.range.is_some(), &[Range]),
            ("period", self.period.is_some(), &[Periodic]),
            ("agreement", self.agreement.is_some(), &[Calibrated]),
        ];
        for (what, given, by) in uses {
            if given && !by.contains(&name) {
                let article = if what.starts_with('a') { "an" } else { "a" };
                let verb = if by.len() == 1 { "does" } else { "do" };
                let by: Vec<_> = by.iter().map(|name| format!("`{name}`")).collect();
                return Err(self.invalid(name, what, format!("does not use {article} {what}; only {} {verb}", by.join(", "))));
            }
        }
        Ok(())
    }

    fn not_a_number(&self, name: PolicyName) -> PolicyError {
        self.invalid(name, "threshold", "the threshold is not a number".into())
    }

    fn invalid(&self, name: PolicyName, parameter: &'static str, problem: String) -> PolicyError {
        PolicyError::Invalid { policy: label(name), problem, parameter: Some(parameter) }
    }
}

fn label(name: PolicyName) -> String {
    name.name().to_owned()
}
