//! Any text as `pack.toml`, beside the stages of a small pack: rejected, or usable with its own policy within the limit of memory.
#![no_main]

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use bellis::engine::{Encoder, LoadOptions};
use bellis::exit::PolicySpec;
use bellis::pack::Pack;
use bellis::stream::{Session, SessionOptions};
use libfuzzer_sys::fuzz_target;
use tempfile::TempDir;

static FOLDER: LazyLock<TempDir> = LazyLock::new(|| {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let pack = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/data/ctc/pack");
    for entry in std::fs::read_dir(pack).expect("tests/data/ctc/pack").flatten() {
        if entry.path().extension().is_some_and(|kind| kind == "onnx") {
            std::os::unix::fs::symlink(entry.path(), folder.path().join(entry.file_name())).expect("a link");
        }
    }
    bellis_fuzz::abort_on_panics_after_loading();
    folder
});

fuzz_target!(|text: &[u8]| {
    let folder: &Path = FOLDER.path();
    std::fs::write(folder.join("pack.toml"), text).expect("the pack's folder is writable");
    let Ok(pack) = Pack::open(folder) else { return };
    let _ = pack.default_chunk_frames();
    let Ok(policy) = PolicySpec::default().build(&pack) else { return };
    let Ok(encoder) = Encoder::load(&pack, &LoadOptions::default()) else { return };
    let Ok(mut session) = Session::new(&encoder, policy, SessionOptions::default()) else { return };
    let _ = session.push(&[0.1; 16_000]);
    session.finish();
    session.representations().for_each(drop);
});
