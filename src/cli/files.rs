//! The files of a daemon's consumers, which a later life must not overwrite.

use std::path::Path;

use anyhow::Context;
use bellis::consumer::side_file;

/// Consumers that write the file behind their colon.
const WRITE_FILES: [&str; 4] = ["jsonl", "npy", "phones", "wav"];

/// The file that a consumer writes.
pub fn file_of(text: &str) -> Option<&Path> {
    let (name, path) = text.split_once(':')?;
    (WRITE_FILES.contains(&name) && path != "-").then(|| Path::new(path))
}

/// Moves what an earlier life wrote out of the way: `x.npy` becomes `x.1.npy`, or the first number that is free.
pub fn set_aside(text: &str) -> anyhow::Result<()> {
    let Some(path) = file_of(text).filter(|path| path.metadata().is_ok_and(|found| found.is_file() && found.len() > 0)) else {
        return Ok(());
    };
    let extension = path.extension().unwrap_or_default().to_string_lossy();
    let numbered = |number: u64| path.with_extension(format!("{number}.{extension}").trim_end_matches('.'));
    let Some(free) = (1..).map(numbered).find(|free| !free.exists()) else { return Ok(()) };
    let side = text.starts_with("npy:").then(|| (side_file(path), side_file(&free)));
    for (from, to) in [(path.to_owned(), free.clone())].into_iter().chain(side).filter(|(from, _)| from.is_file()) {
        std::fs::rename(&from, &to).with_context(|| format!("{} → {}", from.display(), to.display()))?;
    }
    log::info!("{} is kept as {}", path.display(), free.display());
    Ok(())
}
