//! Any text as a keyword file: rejected, or ready to be matched, and the same after it was saved.
#![no_main]

use std::sync::LazyLock;

use bellis::keyword;
use libfuzzer_sys::fuzz_target;
use tempfile::TempDir;

static FOLDER: LazyLock<TempDir> = LazyLock::new(|| tempfile::tempdir().expect("a temporary folder"));

fuzz_target!(|text: &[u8]| {
    let path = FOLDER.path().join("word.keyword.toml");
    std::fs::write(&path, text).expect("the folder is writable");
    let Ok(keyword) = keyword::load(&path, None) else { return };
    let phones = keyword.phones.iter().flat_map(|phones| phones.phrase.concat());
    let vocabulary: Vec<String> = std::iter::once("<blank>".to_owned()).chain(phones).collect();
    assert!(keyword.matcher(&vocabulary).is_ok(), "a keyword that was accepted cannot be matched");
    keyword.save(&path).expect("a keyword that was accepted can be saved");
    assert_eq!(keyword::load(&path, None).expect("a saved keyword can be read"), keyword);
});
