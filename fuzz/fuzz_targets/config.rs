//! Any text as a configuration of `bellis run` and `bellis serve`: rejected, or usable, and unchanged by a reload of the same text.
#![no_main]
#![allow(dead_code, unused_imports, unused_macros)]

#[macro_use]
#[path = "../../src/cli/mod.rs"]
mod cli;

use std::path::PathBuf;
use std::sync::LazyLock;

use bellis::consumer::ConsumerSpec;
use bellis::pack::Pack;
use bellis::runtime::InputGain;
use cli::settings::{Input, Settings};
use libfuzzer_sys::fuzz_target;
use tempfile::TempDir;

static FOLDER: LazyLock<TempDir> = LazyLock::new(|| tempfile::tempdir().expect("a temporary folder"));

static PACK: LazyLock<Pack> = LazyLock::new(|| {
    Pack::open(&PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../models/daisy-nano")).expect("models/daisy-nano")
});

fuzz_target!(|text: &[u8]| {
    let path = FOLDER.path().join("bellis.toml");
    std::fs::write(&path, text).expect("the folder is writable");
    let Ok(settings) = Settings::from_file(&path) else { return };
    let _ = (settings.policy(&PACK), settings.channel_pick(), settings.load_options());
    if let Ok(options) = cli::source::run_options(&settings, &PACK) {
        assert!(
            options.ring.as_secs_f64() <= 600.0
                && !matches!(options.gain, InputGain::Fixed(db) if db.is_nan() || db.abs() > 60.0)
        );
    }
    // Of the inputs, only files are opened: they have a path that cannot exist.
    let _ = matches!(settings.input(), Input::File(_));
    for consumer in &settings.consumer {
        let _ = ConsumerSpec::try_from(&**consumer);
    }
    let again = Settings::from_file(&path).expect("a configuration that was accepted before");
    assert!(again.changes_for_a_restart(&settings).is_empty() || has_nan(text));
    assert!(Settings::default().over(again.clone()) == again || has_nan(text));
});

/// NaN differs from itself, so that a reload restarts what depends on it.
fn has_nan(text: &[u8]) -> bool {
    text.windows(3).any(|three| three == b"nan")
}
