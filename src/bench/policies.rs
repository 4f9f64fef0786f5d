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
