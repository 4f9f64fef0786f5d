//! Any bytes as a stage of a small pack, with the right checksum: rejected, or computes a second of audio.
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

/// The first byte of the input selects one; the seeds of scripts/fuzz are in this order.
const STAGES: [&str; 4] = ["frontend.onnx", "layer_01.onnx", "head_01.onnx", "ctc_01.onnx"];

/// A folder with links to the stages, the manifest, and the checksums of `STAGES` in it.
static PACK: LazyLock<(TempDir, String, Vec<String>)> = LazyLock::new(|| {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let pack = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/data/ctc/pack");
    for entry in std::fs::read_dir(&pack).expect("tests/data/ctc/pack").flatten() {
        if entry.path().extension().is_some_and(|kind| kind == "onnx") {
            std::os::unix::fs::symlink(entry.path(), folder.path().join(entry.file_name())).expect("a link");
        }
    }
    let manifest = std::fs::read_to_string(pack.join("pack.toml")).expect("pack.toml");
    let checksums: Vec<_> = STAGES.iter().map(|stage| sha256(&std::fs::read(pack.join(stage)).expect("the stage"))).collect();
    assert!(checksums.iter().all(|checksum| manifest.contains(checksum)), "pack.toml has other checksums");
    bellis_fuzz::abort_on_panics_after_loading();
    (folder, manifest, checksums)
});

fn sha256(bytes: &[u8]) -> String {
    sha2::Sha256::digest(bytes).iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fuzz_target!(|bytes: &[u8]| {
    let Some((&choice, graph)) = bytes.split_first() else { return };
    let (folder, manifest, checksums) = &*PACK;
    let (folder, stage): (&Path, _) = (folder.path(), usize::from(choice) % STAGES.len());
    // The other stages are links, which `write` would follow.
    let path = folder.join("changed.onnx");
    std::fs::write(path, graph).expect("the pack's folder is writable");
    let manifest = manifest.replace(STAGES[stage], "changed.onnx").replace(&checksums[stage], &sha256(graph));
    std::fs::write(folder.join("pack.toml"), manifest).expect("the pack's folder is writable");
    let Ok(pack) = Pack::open(folder) else { return };
    let Ok(encoder) = Encoder::load(&pack, &LoadOptions::default()) else { return };
    let Ok(policy) = PolicySpec::default().build(&pack) else { return };
    let Ok(mut session) = Session::new(&encoder, policy, SessionOptions::default()) else { return };
    let _ = session.push(&[0.1; 16_000]);
    session.finish();
    session.representations().for_each(drop);
});
