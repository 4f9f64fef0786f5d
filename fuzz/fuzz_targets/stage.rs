//! Any bytes as the first layer of `daisy-nano`, with the right checksum: rejected, or computes a second of audio.
#![no_main]

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use bellis::engine::{Encoder, LoadOptions};
use bellis::exit::PolicySpec;
use bellis::pack::Pack;
use bellis::stream::{Session, SessionOptions};
use libfuzzer_sys::fuzz_target;
use sha2::Digest;
use tempfile::TempDir;

const STAGE: &str = "layer_01.onnx";

/// A folder with links to all files but the stage, and the manifest with the stage's checksum.
static PACK: LazyLock<(TempDir, String, String)> = LazyLock::new(|| {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let pack = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../models/daisy-nano");
    for entry in std::fs::read_dir(&pack).expect("models/daisy-nano").flatten() {
        let is_stage = entry.path().extension().is_some_and(|kind| kind == "onnx");
        if is_stage && entry.file_name() != STAGE {
            std::os::unix::fs::symlink(entry.path(), folder.path().join(entry.file_name())).expect("a link");
        }
    }
    let manifest = std::fs::read_to_string(pack.join("pack.toml")).expect("pack.toml");
    let checksum = sha256(&std::fs::read(pack.join(STAGE)).expect("the stage"));
    assert!(manifest.contains(&checksum), "pack.toml has another checksum of {STAGE}");
    // A library that panics on a broken graph is caught; its message is not a finding.
    std::panic::set_hook(Box::new(|panic| {
        if !bellis::internal::is_loading() {
            eprintln!("{panic}");
            std::process::abort();
        }
    }));
    (folder, manifest, checksum)
});

fn sha256(bytes: &[u8]) -> String {
    sha2::Sha256::digest(bytes).iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fuzz_target!(|graph: &[u8]| {
    let (folder, manifest, checksum) = &*PACK;
    let folder: &Path = folder.path();
    std::fs::write(folder.join(STAGE), graph).expect("the pack's folder is writable");
    std::fs::write(folder.join("pack.toml"), manifest.replace(checksum, &sha256(graph))).expect("the pack's folder is writable");
    let Ok(pack) = Pack::open(folder) else { return };
    let Ok(encoder) = Encoder::load(&pack, &LoadOptions::default()) else { return };
    let Ok(policy) = PolicySpec::default().build(&pack) else { return };
    let Ok(mut session) = Session::new(&encoder, policy, SessionOptions::default()) else { return };
    let _ = session.push(&[0.1; 16_000]);
    session.finish();
    session.representations().for_each(drop);
});
