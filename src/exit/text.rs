//! The textual form of policies, used by `bellis bench --policy` and the bindings: `gain`, `threshold:2.5`, `fixed:6`, `gain+gate:0.7`.

use std::str::FromStr;

use super::spec::{PolicyError, PolicyName, PolicySpec};
use crate::names::UnknownName;
use crate::pack::PerLayer;

impl FromStr for PolicySpec {
    type Err = PolicyError;

    /// Parses `NAME` or `NAME:NUMBER`, where the number is a threshold, a layer or an agreement, optionally followed by
    /// `+gate:PROBABILITY`.
    fn from_str(text: &str) -> Result<Self, PolicyError> {
        let invalid = |problem: String| PolicyError::Invalid { policy: text.to_owned(), problem, parameter: None };
        if let Some((inner, gate)) = text.split_once("+gate:") {
            let probability = gate.parse().map_err(|_| invalid(format!("`{gate}` is not a probability")))?;
            return Ok(Self { gate: Some(probability), ..inner.parse()? });
        }
        let (name, number) = text.split_once(':').map_or((text, None), |(name, number)| (name, Some(number)));
        let name: PolicyName = name.parse().map_err(|error: UnknownName| invalid(error.to_string()))?;
        let mut spec = Self::named(name);
        let Some(number) = number else { return Ok(spec) };
        let value: f32 = number.parse().map_err(|_| invalid(format!("`{number}` is not a number")))?;
        match name {
            PolicyName::Threshold | PolicyName::Ctc | PolicyName::Change | PolicyName::Gain | PolicyName::Range => {
                spec.threshold = Some(PerLayer::All(value));
            }
            PolicyName::Fixed | PolicyName::Periodic => {
                spec.layer = Some(number.parse().map_err(|_| invalid(format!("`{number}` is not a layer number")))?);
            }
            PolicyName::Calibrated => spec.agreement = Some(value),
            PolicyName::Never => return Err(invalid("has no number".to_owned())),
        }
        Ok(spec)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_names_a_policy_its_number_and_a_gate() {
        let spec: PolicySpec = "gain:0.05+gate:0.7".parse().unwrap();
        assert_eq!((spec.name, spec.threshold, spec.gate), (Some(PolicyName::Gain), Some(PerLayer::All(0.05)), Some(0.7)));
        assert_eq!("fixed:6".parse::<PolicySpec>().unwrap().layer, Some(6));
        for (wrong, problem) in [
            (
                "gian",
                "`gian` is not a policy; expected one of threshold, range, fixed, periodic, calibrated, ctc, change, gain, never",
            ),
            ("never:3", "has no number"),
            ("fixed:half", "`half` is not a number"),
            ("fixed:2.5", "`2.5` is not a layer number"),
            ("gain+gate:x", "`x` is not a probability"),
            ("threshold:", "`` is not a number"),
        ] {
            let error = wrong.parse::<PolicySpec>().unwrap_err().to_string();
            assert!(error.ends_with(problem), "{wrong}: {error}");
        }
    }
}
