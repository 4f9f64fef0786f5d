//! Any bytes as a consumer on the command line, and as the policy section of a configuration.
#![no_main]

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::LazyLock;

use bellis::consumer::ConsumerSpec;
use bellis::exit::PolicySpec;
use bellis::pack::Pack;
use libfuzzer_sys::fuzz_target;

static PACK: LazyLock<Pack> = LazyLock::new(|| {
    Pack::open(&PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../models/daisy-nano")).expect("models/daisy-nano")
});

fuzz_target!(|bytes: &[u8]| {
    if let Ok(spec) = ConsumerSpec::try_from(OsStr::from_bytes(bytes)) {
        let _ = (spec.is_stdout(), spec.path().map(|path| path.to_owned()), spec.files());
    }
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(spec) = toml::from_str::<PolicySpec>(text) {
        let _ = spec.build(&PACK).map(|policy| policy.description());
    }
});
