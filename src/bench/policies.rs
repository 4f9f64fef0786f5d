//! The policies that a benchmark compares.

use super::BenchError;
use crate::exit::{PolicyName, PolicySpec};
use crate::pack::{Pack, PerLayer};

/// `NAME` or `NAME:NUMBER`: a policy and the one number that people turn; behind a gate with `+gate:PROBABILITY` after it.
pub fn policy(text: &str) -> Result<PolicySpec, BenchError> {
    if let Some((inner, gate)) = text.split_once("+gate:") {
        let problem =
            || BenchError::PolicyText { text: text.to_owned(), problem: "after `+gate:` stands a probability".to_owned() };
        return Ok(PolicySpec { gate: Some(gate.parse().map_err(|_| problem())?), ..policy(inner)? });
    }
    let (name, number) = text.split_once(':').map_or((text, None), |(name, number)| (name, Some(number)));
    let wrong = |problem: &str| BenchError::PolicyText { text: text.to_owned(), problem: problem.to_owned() };
    let name = <PolicyName as clap::ValueEnum>::from_str(name, false)
        .map_err(|_| wrong("policies are threshold, range, fixed, periodic, calibrated, ctc, change, gain, never"))?;
    let mut spec = PolicySpec::named(name);
    let Some(number) = number else { return Ok(spec) };
    let value: f32 = number.parse().map_err(|_| wrong("after the colon stands a number"))?;
    match name {
        PolicyName::Threshold | PolicyName::Ctc | PolicyName::Change | PolicyName::Gain | PolicyName::Range => {
            spec.threshold = Some(PerLayer::All(value))
        }
        PolicyName::Fixed | PolicyName::Periodic => {
            spec.layer = Some(number.parse().map_err(|_| wrong("after the colon stands a layer's number"))?);
        }
        PolicyName::Calibrated => spec.agreement = Some(value),
        PolicyName::Never => return Err(wrong("this policy takes no number")),
    }
    Ok(spec)
}

/// The policies that are compared when none are named: every one that the pack has numbers for, and every fixed depth.
pub fn default_policies(pack: &Pack) -> Vec<String> {
    let fixed = (pack.shallowest_exit()..pack.manifest.encoder.layers).map(|layer| format!("fixed:{layer}"));
    let others = ["periodic", "range", "threshold", "ctc", "change", "calibrated", "gain"];
    let possible = others.into_iter().filter(|text| policy(text).is_ok_and(|spec| spec.build(pack).is_ok()));
    fixed.chain(possible.map(str::to_owned)).collect()
}

/// The pack's own default.
pub fn default_policy(pack: &Pack) -> String {
    pack.manifest.exit.policy.clone().unwrap_or_else(|| "never".to_owned())
}
