//! Any text as `pack.toml`, beside the stages of `daisy-nano`: rejected, or usable by every policy.
#![no_main]

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use bellis::exit::PolicySpec;
use bellis::pack::Pack;
use libfuzzer_sys::fuzz_target;
use tempfile::TempDir;

static FOLDER: LazyLock<TempDir> = LazyLock::new(|| {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let pack = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../models/daisy-nano");
    for entry in std::fs::read_dir(pack).expect("models/daisy-nano").flatten() {
        if entry.path().extension().is_some_and(|kind| kind == "onnx") {
            std::os::unix::fs::symlink(entry.path(), folder.path().join(entry.file_name())).expect("a link");
        }
    }
    folder
});

fuzz_target!(|text: &[u8]| {
    let folder: &Path = FOLDER.path();
    std::fs::write(folder.join("pack.toml"), text).expect("the pack's folder is writable");
    if let Ok(pack) = Pack::open(folder) {
        let _ = pack.default_chunk_frames();
        let _ = PolicySpec::default().build(&pack);
    }
});
