//! Any bytes as a stage of a small pack, with the right checksum: rejected, or computes a second of audio.
#![no_main]

use std::fmt::Write;
use std::path::Path;
use std::sync::LazyLock;

use bellis::engine::{Encoder, LoadOptions};
use bellis::exit::PolicySpec;
use bellis::pack::Pack;
use bellis::stream::{Session, SessionOptions};
use libfuzzer_sys::fuzz_target;
use sha2::Digest;
use tempfile::TempDir;

/// Packs in tests/data, and their stages. The first byte of the input selects one; the seeds of scripts/fuzz are in this order.
const STAGES: [[&str; 2]; 6] = [
    ["ctc", "frontend.onnx"],
    ["ctc", "layer_01.onnx"],
    ["ctc", "head_01.onnx"],
    ["ctc", "ctc_01.onnx"],
    ["windowed-base", "frontend.onnx"],
    ["windowed-base", "position.onnx"],
];

/// A pack without one of its stages.
struct Incomplete {
    /// With links to the other stages.
    folder: TempDir,
    manifest: String,
    stage: &'static str,
    checksum: String,
}

static PACKS: LazyLock<Vec<Incomplete>> = LazyLock::new(|| {
    bellis_fuzz::abort_on_panics_after_loading();
    STAGES.iter().map(|[pack, stage]| Incomplete::new(pack, stage)).collect()
});

impl Incomplete {
    fn new(pack: &str, stage: &'static str) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let pack = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data").join(pack).join("pack");
        for entry in std::fs::read_dir(&pack).expect("a pack in tests/data").flatten() {
            if entry.path().extension().is_some_and(|kind| kind == "onnx") {
                std::os::unix::fs::symlink(entry.path(), folder.path().join(entry.file_name())).expect("a link");
            }
        }
        let manifest = std::fs::read_to_string(pack.join("pack.toml")).expect("pack.toml");
        let checksum = sha256(&std::fs::read(pack.join(stage)).expect("the stage"));
        assert!(manifest.contains(&checksum), "pack.toml has another checksum of {stage}");
        Self { folder, manifest, stage, checksum }
    }
}

fn sha256(bytes: &[u8]) -> String {
    sha2::Sha256::digest(bytes).iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fuzz_target!(|bytes: &[u8]| {
    let Some((&choice, graph)) = bytes.split_first() else { return };
    let Incomplete { folder, manifest, stage, checksum } = &PACKS[usize::from(choice) % STAGES.len()];
    let folder = folder.path();
    // The other stages are links, which `write` would follow.
    std::fs::write(folder.join("changed.onnx"), graph).expect("the pack's folder is writable");
    let manifest = manifest.replace(stage, "changed.onnx").replace(checksum, &sha256(graph));
    std::fs::write(folder.join("pack.toml"), manifest).expect("the pack's folder is writable");
    let Ok(pack) = Pack::open(folder) else { return };
    let Ok(encoder) = Encoder::load(&pack, &LoadOptions::default()) else { return };
    let Ok(policy) = PolicySpec::default().build(&pack) else { return };
    let Ok(mut session) = Session::new(&encoder, policy, SessionOptions::default()) else { return };
    let _ = session.push(&[0.1; 16_000]);
    session.finish();
    session.representations().for_each(drop);
});
