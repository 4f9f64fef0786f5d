//! The policies of a benchmark.

use crate::exit::PolicySpec;
use crate::pack::Pack;

/// Default policies: all that the pack has parameters for.
pub fn default_policies(pack: &Pack) -> Vec<String> {
    let others = ["periodic", "range", "threshold", "ctc", "change", "calibrated", "gain"];
    let possible = others.into_iter().filter(|text| text.parse::<PolicySpec>().is_ok_and(|spec| spec.build(pack).is_ok()));
    possible.map(str::to_owned).collect()
}

/// The pack's default policy.
pub fn default_policy(pack: &Pack) -> String {
    pack.manifest.exit.policy.clone().unwrap_or_else(|| "never".to_owned())
}

/// Whether it runs every chunk to the same layer, which a gate does not.
pub(super) fn is_fixed_depth(text: &str) -> bool {
    !text.contains('+') && (text == "never" || text.starts_with("fixed"))
}

#[cfg(test)]
mod tests {
    use super::is_fixed_depth;

    #[test]
    fn a_gate_makes_the_depth_of_a_fixed_policy_depend_on_the_audio() {
        for (text, fixed) in [
            ("never", true),
            ("fixed:6", true),
            ("fixed", true),
            ("fixed:6+gate:0.7", false),
            ("never+gate:0.7", false),
            ("gain", false),
        ] {
            assert_eq!(is_fixed_depth(text), fixed, "{text}");
        }
    }
}
