//! Renaming of existing output files, which a restart of the daemon must not overwrite.

use std::path::{Path, PathBuf};

use anyhow::Context;
use bellis::consumer::asr::SEGMENTS;
use bellis::consumer::{ConsumerSpec, side_file};

/// The file or folder that a consumer writes.
pub fn file_of(text: &str) -> Option<PathBuf> {
    text.parse::<ConsumerSpec>().ok().and_then(|spec| spec.path().map(Path::to_owned))
}

/// Renames an existing file with the first free number: `x.npy` becomes `x.1.npy`.
pub fn set_aside(text: &str) -> anyhow::Result<()> {
    let taken =
        |path: &PathBuf| path.metadata().is_ok_and(|found| found.is_file() && found.len() > 0 || path.join(SEGMENTS).exists());
    let Some(path) = file_of(text).filter(taken) else { return Ok(()) };
    let extension = path.extension().unwrap_or_default().to_string_lossy();
    let numbered = |number: u64| path.with_extension(format!("{number}.{extension}").trim_end_matches('.'));
    let Some(free) = (1..).map(numbered).find(|free| !free.exists()) else { return Ok(()) };
    let side = text.starts_with("npy:").then(|| (side_file(&path), side_file(&free)));
    for (from, to) in [(path.clone(), free.clone())].into_iter().chain(side).filter(|(from, _)| from.exists()) {
        std::fs::rename(&from, &to).with_context(|| format!("{} → {}", from.display(), to.display()))?;
    }
    log::info!("renamed {} to {}", path.display(), free.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn existing_files_and_folders_are_renamed_with_a_free_number() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for restart in 1..=2 {
            std::fs::create_dir_all(at("talk")).unwrap();
            std::fs::write(at("talk").join(SEGMENTS), restart.to_string()).unwrap();
            std::fs::write(at("x.jsonl"), restart.to_string()).unwrap();
            set_aside(&format!("segments:{}/", at("talk").display())).unwrap();
            set_aside(&format!("phones:{}", at("x.jsonl").display())).unwrap();
            assert!(!at("talk").exists() && !at("x.jsonl").exists());
            assert_eq!(std::fs::read_to_string(at(&format!("talk.{restart}")).join(SEGMENTS)).unwrap(), restart.to_string());
            assert_eq!(std::fs::read_to_string(at(&format!("x.{restart}.jsonl"))).unwrap(), restart.to_string());
        }
        // A folder with other contents is not renamed: the consumer writes into it.
        std::fs::create_dir_all(at("talk")).unwrap();
        set_aside(&format!("segments:{}", at("talk").display())).unwrap();
        assert!(at("talk").exists());
        assert_eq!([file_of("segments:stream:-"), file_of("phones:-"), file_of("segments")], [const { None }; 3]);
    }
}
