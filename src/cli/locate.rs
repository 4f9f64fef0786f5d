//! Paths of packs, recordings and keywords.

use std::path::{Path, PathBuf};

use anyhow::bail;

/// The default pack.
pub const DEFAULT_PACK: &str = "daisy-tiny";
/// The default input.
const SAMPLE: &str = "sample.wav";

/// Folders with packs: `models` in the working directory, those above the program (a checkout), and the system's.
fn model_folders() -> Vec<PathBuf> {
    let program = std::env::current_exe().unwrap_or_default();
    let above =
        program.ancestors().skip(1).take(4).flat_map(|folder| [folder.join("models"), folder.join("share/bellis/models")]);
    [PathBuf::from("models")]
        .into_iter()
        .chain(above)
        .chain(["/usr/local/share/bellis/models".into(), "/usr/share/bellis/models".into()])
        .collect()
}

/// A pack by its folder or its name.
pub fn pack(name: &Path) -> anyhow::Result<PathBuf> {
    // A name with a separator is a path, so that errors contain it.
    if name.join("pack.toml").is_file() || name.components().count() > 1 || name.is_dir() {
        return Ok(name.to_owned());
    }
    let folders = model_folders();
    if let Some(found) = folders.iter().map(|folder| folder.join(name)).find(|folder| folder.join("pack.toml").is_file()) {
        return Ok(found);
    }
    let mut known: Vec<String> = folders
        .iter()
        .filter_map(|folder| std::fs::read_dir(folder).ok())
        .flatten()
        .filter_map(|entry| entry.ok().filter(|entry| entry.path().join("pack.toml").is_file()))
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    known.sort();
    known.dedup();
    let hint = match (bellis::internal::nearest(&name.to_string_lossy(), known.iter().map(String::as_str)), known.is_empty()) {
        (Some(nearest), _) => format!("did you mean `{nearest}`?"),
        (None, false) => format!("available: {}", known.join(", ")),
        (None, true) => "run from the repository's root, or pass a pack's folder with --pack".into(),
    };
    bail!("no pack `{}`; {hint}", name.display())
}

/// The bundled speech or noise of `bellis bench`.
pub fn bench_audio(kind: &str) -> anyhow::Result<PathBuf> {
    match model_folders().into_iter().map(|folder| folder.join("bench").join(kind)).find(|path| path.is_dir()) {
        Some(path) => Ok(path),
        None => bail!("the bundled {kind} was not found; run from the repository's root, or pass files with --{kind}"),
    }
}

/// The bundled background speech for keyword thresholds.
pub fn keyword_background() -> Option<PathBuf> {
    model_folders().into_iter().map(|folder| folder.join("keywords/background")).find(|path| path.is_dir())
}

/// The default folder for keywords.
pub fn keyword_folder() -> anyhow::Result<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let data = set("XDG_DATA_HOME").or_else(|| set("HOME").map(|home| home.join(".local/share")));
    match set("BELLIS_KEYWORDS").or_else(|| data.map(|data| data.join("bellis/keywords"))) {
        Some(folder) => Ok(folder),
        None => bail!("no folder for keywords: pass it (--folder or --keywords), or set BELLIS_KEYWORDS"),
    }
}

/// The bundled recording.
pub fn sample() -> anyhow::Result<PathBuf> {
    match model_folders().into_iter().map(|folder| folder.join(SAMPLE)).find(|path| path.is_file()) {
        Some(path) => Ok(path),
        None => bail!("the bundled recording was not found; pass an INPUT: a file, `-` for standard input, or `mic`"),
    }
}
