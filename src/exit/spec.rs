//! A policy as it is asked for, and the policy that a pack's numbers make of it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::evidence::Measure;
use super::gate::{DEFAULT_HANGOVER, Gate};
use super::policies::{Change, CtcConfidence, Gain, Threshold};
use super::policy::ExitPolicy;
use super::schedules::{Deadline, Fixed, Periodic};
use crate::pack::{Pack, PerLayer};

/// Names of the policies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum PolicyName {
    /// DAISY: the first layer whose head's entropy is at most --threshold
    Threshold,
    /// DAISY's released inference: heads run on the layers of --range only, its last one is a forced exit
    Range,
    /// Always --layer; no head runs
    Fixed,
    /// --layer, and every --period-th chunk at full depth
    Periodic,
    /// Thresholds per layer that were calibrated for an --agreement with full depth
    Calibrated,
    /// HuBERT-EE: the first layer whose CTC branch's own entropy is at most --threshold
    Ctc,
    /// The first layer that changed the head's mind by at most --threshold (KL to the layer before)
    Change,
    /// Where no deeper layer is predicted to bring full depth nearer by more than --threshold per layer (KL)
    Gain,
    /// Every layer, always
    Never,
}

/// A policy and its numbers; what is left out comes from the pack.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicySpec {
    /// Which one; the pack's default without.
    pub name: Option<PolicyName>,
    /// τ of `threshold`, `range` and `ctc` (nats, or a probability), δ of `change` (nats), λ of `gain` (nats per layer).
    pub threshold: Option<PerLayer>,
    /// What `threshold`, `range` and `ctc` compare.
    pub measure: Option<Measure>,
    /// Layer of `fixed` and `periodic`.
    pub layer: Option<usize>,
    /// First and last layer of `range`.
    pub range: Option<(usize, usize)>,
    /// Period of `periodic`, chunks.
    pub period: Option<usize>,
    /// Agreement promised by `calibrated`, 0 to 1.
    pub agreement: Option<f32>,
    /// Least probability of quiet at h⁰ that stops a chunk there, 0 to 1; wraps any policy.
    pub gate: Option<f32>,
    /// Chunks after speech that the gate lets through.
    pub gate_hangover: Option<usize>,
    /// Deadline of each chunk, milliseconds; wraps any policy.
    pub deadline_ms: Option<u64>,
}

/// Why a policy cannot be made for a pack.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// The pack lacks the numbers.
    #[error("policy `{policy}`: pack `{pack}` has no {what}; {hint}")]
    Missing {
        /// The policy.
        policy: String,
        /// The pack's name.
        pack: String,
        /// What it lacks.
        what: String,
        /// The way out.
        hint: String,
    },
    /// A number makes no sense.
    #[error("policy `{policy}`: {problem}")]
    Invalid {
        /// The policy.
        policy: String,
        /// What is wrong and what would be right.
        problem: String,
    },
}

/// Every how many chunks `periodic` refreshes when it is not said.
const DEFAULT_PERIOD: usize = 8;

impl PolicySpec {
    /// The policy `name` with the pack's own numbers.
    pub fn named(name: PolicyName) -> Self {
        Self { name: Some(name), ..Self::default() }
    }

    /// Makes the policy for `pack`.
    pub fn build(&self, pack: &Pack) -> Result<Box<dyn ExitPolicy>, PolicyError> {
        let name = match (self.name, &pack.manifest.exit.policy) {
            (Some(name), _) => name,
            (None, Some(text)) => {
                PolicyName::deserialize(serde::de::value::StrDeserializer::<serde::de::value::Error>::new(text)).map_err(
                    |error| PolicyError::Invalid { policy: text.clone(), problem: format!("pack.toml, [exit] policy: {error}") },
                )?
            }
            (None, None) => PolicyName::Never,
        };
        let policy = self.gated(name, self.make(name, pack)?, pack)?;
        Ok(match self.deadline_ms {
            None => policy,
            Some(0) => return Err(self.invalid(name, "a deadline has at least 1 millisecond".into())),
            Some(milliseconds) => Box::new(Deadline::new(policy, Duration::from_millis(milliseconds))),
        })
    }

    fn gated(&self, name: PolicyName, policy: Box<dyn ExitPolicy>, pack: &Pack) -> Result<Box<dyn ExitPolicy>, PolicyError> {
        let Some(least) = self.gate else {
            return match self.gate_hangover {
                Some(_) => Err(self.invalid(name, "a hangover wants a gate: `--gate 0.7`, say".into())),
                None => Ok(policy),
            };
        };
        if !(0.0..=1.0).contains(&least) {
            return Err(self.invalid(name, format!("a gate stands at a probability, 0 to 1, and not at {least}")));
        }
        if pack.manifest.encoder.quiet_unit.is_none() || !pack.heads.iter().any(|(layer, _)| *layer == 0) {
            return Err(PolicyError::Missing {
                policy: label(name),
                pack: pack.manifest.name.clone(),
                what: "head on h⁰ with a unit for quiet, which the gate asks".into(),
                hint: "leave the gate out, or take a pack that has both, such as daisy-tiny".into(),
            });
        }
        Ok(Box::new(Gate::new(policy, least, self.gate_hangover.unwrap_or(DEFAULT_HANGOVER))))
    }

    fn make(&self, name: PolicyName, pack: &Pack) -> Result<Box<dyn ExitPolicy>, PolicyError> {
        let layers = pack.manifest.encoder.layers;
        let exit = &pack.manifest.exit;
        let missing = |what: &str, hint: &str| {
            let (what, hint) = (what.to_owned(), hint.to_owned());
            PolicyError::Missing { policy: label(name), pack: pack.manifest.name.clone(), what, hint }
        };
        let without_heads = [PolicyName::Fixed, PolicyName::Periodic, PolicyName::Never, PolicyName::Ctc];
        if pack.heads.is_empty() && !without_heads.contains(&name) {
            return Err(missing("exit heads", "use `fixed`, `periodic` or `never`, or train heads (models/convert)"));
        }
        self.refuse_unused(name)?;
        let layer = || {
            let layer = self.layer.or(exit.fixed).unwrap_or(layers.div_ceil(2));
            let first = pack.shallowest_exit();
            let problem = || self.invalid(name, format!("there is no layer {layer}; the pack has layers {first} to {layers}"));
            (first..=layers).contains(&layer).then_some(layer).ok_or_else(problem)
        };
        let threshold = |own: &Option<PerLayer>, hint: &str| {
            let thresholds = self.threshold.clone().or_else(|| own.clone()).ok_or_else(|| missing("threshold for it", hint))?;
            match &thresholds {
                PerLayer::Each(values) if values.len() + 1 != layers && values.len() != layers => {
                    Err(self.invalid(name, format!("{} thresholds for {layers} layers", values.len())))
                }
                PerLayer::All(value) if value.is_nan() => Err(self.invalid(name, "the threshold is no number".into())),
                _ => Ok(thresholds),
            }
        };
        let measure = self.measure.unwrap_or_default();
        if measure != Measure::Entropy && self.threshold.is_none() {
            return Err(missing("threshold for this measure", "give one with --threshold (a probability, 0 to 1)"));
        }
        let daisy = |range| -> Result<Box<dyn ExitPolicy>, PolicyError> {
            let thresholds = threshold(&exit.threshold, "give one with --threshold, in nats (0 to ln(units))")?;
            Ok(Box::new(Threshold { measure, thresholds, range, label: label(name), layers }))
        };
        Ok(match name {
            PolicyName::Threshold => daisy(None)?,
            PolicyName::Range => {
                let (first, last) = self
                    .range
                    .or_else(|| exit.range.map(|[first, last]| (first, last)))
                    .ok_or_else(|| missing("range for it", "give one with --range FIRST..LAST"))?;
                if !(1 <= first && first <= last && last <= layers) {
                    return Err(self.invalid(name, format!("{first}..{last} is no range of layers 1 to {layers}")));
                }
                daisy(Some((first, last)))?
            }
            PolicyName::Fixed => Box::new(Fixed { layer: layer()? }),
            PolicyName::Never => Box::new(Fixed { layer: layers }),
            PolicyName::Periodic => {
                let period = self.period.unwrap_or(DEFAULT_PERIOD);
                if period == 0 {
                    return Err(self.invalid(name, "a period has at least 1 chunk".into()));
                }
                Box::new(Periodic::new(layer()?, period))
            }
            PolicyName::Calibrated => {
                let section = exit.calibrated.as_ref().filter(|section| !section.targets.is_empty());
                let section =
                    section.ok_or_else(|| missing("calibrated thresholds", "use `threshold`, or calibrate the pack"))?;
                let wanted = self.agreement.unwrap_or(0.95);
                let target = section.targets.iter().find(|target| (target.agreement - wanted).abs() < 1e-4).ok_or_else(|| {
                    let known: Vec<_> = section.targets.iter().map(|target| target.agreement.to_string()).collect();
                    missing(&format!("thresholds for an agreement of {wanted}"), &format!("it has {}", known.join(", ")))
                })?;
                let thresholds = PerLayer::Each(target.thresholds.clone());
                let label = format!("calibrated for an agreement of {wanted}");
                Box::new(Threshold { measure: Measure::Entropy, thresholds, range: None, label, layers })
            }
            PolicyName::Ctc => {
                let shallowest = pack.shallowest_exit();
                let branches: Vec<usize> = pack.ctc.iter().map(|(k, _)| *k).filter(|k| *k >= shallowest).collect();
                if branches.is_empty() {
                    return Err(missing("CTC branches", "use `gain` or `threshold`, or train branches (docs/phones.md)"));
                }
                let thresholds = threshold(&exit.ctc, "give one with --threshold, in nats (0.2, say)")?;
                Box::new(CtcConfidence { measure, thresholds, branches, layers })
            }
            PolicyName::Change => {
                let thresholds = threshold(&exit.change, "give one with --threshold, in nats (0.06, say)")?;
                Box::new(Change { thresholds, layers })
            }
            PolicyName::Gain => {
                let Some(&(first, _)) = pack.gain.first() else {
                    return Err(missing("gain predictors", "use `threshold` or `change`, or calibrate the pack"));
                };
                let lambda = match (&self.threshold, &exit.gain) {
                    (Some(PerLayer::All(lambda)), _) => *lambda,
                    (Some(PerLayer::Each(_)), _) => return Err(self.invalid(name, "takes one threshold for all layers".into())),
                    (None, Some(section)) => section.lambda,
                    (None, None) => {
                        return Err(missing("default for λ", "give one with --threshold, in nats per layer (0.02, say)"));
                    }
                };
                Box::new(Gain { lambda, first, layers })
            }
        })
    }

    /// A number that the policy would silently not use is a mistake of whoever gave it.
    fn refuse_unused(&self, name: PolicyName) -> Result<(), PolicyError> {
        use PolicyName::{Calibrated, Change, Ctc, Fixed, Gain, Never, Periodic, Range, Threshold};
        let takes: [(&str, bool, &[PolicyName]); 6] = [
            ("a threshold", self.threshold.is_some(), &[Threshold, Range, Ctc, Change, Gain]),
            ("a measure", self.measure.is_some(), &[Threshold, Range, Ctc]),
            ("a layer", self.layer.is_some(), &[Fixed, Periodic]),
            ("a range", self.range.is_some(), &[Range]),
            ("a period", self.period.is_some(), &[Periodic]),
            ("an agreement", self.agreement.is_some(), &[Calibrated]),
        ];
        debug_assert!(takes.iter().all(|(_, _, by)| !by.contains(&Never)));
        for (what, given, by) in takes {
            if given && !by.contains(&name) {
                let by: Vec<_> = by.iter().map(|&name| format!("`{}`", label(name))).collect();
                return Err(self.invalid(
                    name,
                    format!("takes no {}; {} does", &what[what.find(' ').map_or(0, |i| i + 1)..], by.join(", ")),
                ));
            }
        }
        Ok(())
    }

    fn invalid(&self, name: PolicyName, problem: String) -> PolicyError {
        PolicyError::Invalid { policy: label(name), problem }
    }
}

fn label(name: PolicyName) -> String {
    clap::ValueEnum::to_possible_value(&name).map_or_else(String::new, |value| value.get_name().to_owned())
}
