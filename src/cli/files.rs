//! Renaming of existing output files, which a restart of the daemon must not overwrite.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::Context;
use bellis::consumer::asr::SEGMENTS;
use bellis::consumer::{ConsumerSpec, repair, side_file};
use bellis::internal::{RunFile, claim};

/// Renames an existing file with the first free number, `x.npy` to `x.1.npy`, and repairs what a power loss has left. Names in `outputs`, which
/// this run writes, are not free.
pub fn set_aside(spec: &ConsumerSpec, outputs: &[PathBuf]) -> anyhow::Result<()> {
    let taken =
        |path: &Path| path.metadata().is_ok_and(|found| found.is_file() && found.len() > 0 || path.join(SEGMENTS).exists());
    let Some(path) = spec.path() else { return Ok(()) };
    // An array and its side file have the same number, even if only one of them is left.
    let has_side = matches!(spec, ConsumerSpec::Npy(_));
    let files =
        |path: &Path| [Some(path.to_owned()), has_side.then(|| side_file(path))].into_iter().flatten().collect::<Vec<_>>();
    let existing = files(path);
    if !existing.iter().any(|file| taken(file)) {
        return Ok(());
    }
    let is_output = |file: &PathBuf| outputs.iter().any(|output| RunFile::at("", output) == RunFile::at("", file));
    let is_free = |candidate: &PathBuf| !files(candidate).iter().any(|file| file.exists() || is_output(file));
    let Some(free) = (1..).map(|number| numbered(path, number)).find(is_free) else { return Ok(()) };
    for (from, to) in existing.into_iter().zip(files(&free)).filter(|(from, _)| from.exists()) {
        std::fs::rename(&from, &to).with_context(|| format!("{} → {}", from.display(), to.display()))?;
        let text = if to.is_dir() { to.join(SEGMENTS) } else { to.clone() };
        match repair(&text) {
            Ok(None) => {}
            Ok(Some(done)) => log::warn!("{}: repaired, the last run ended with a power loss or a crash: {done}", text.display()),
            Err(error) => log::warn!("{}: not checked for damage by a power loss: {error}", text.display()),
        }
    }
    log::info!("renamed {} to {}", path.display(), free.display());
    Ok(())
}

/// The path with a number before its extension.
fn numbered(path: &Path, number: u64) -> PathBuf {
    let mut extension = OsString::from(number.to_string());
    if let Some(last) = path.extension() {
        extension.push(".");
        extension.push(last);
    }
    path.with_extension(extension)
}

/// Identity of a file or folder: the same under any name.
#[cfg(all(unix, feature = "serve"))]
pub type FileId = (u64, u64);

/// The identity of what is at `path`.
#[cfg(all(unix, feature = "serve"))]
pub fn identity(path: &Path) -> Option<FileId> {
    use std::os::unix::fs::MetadataExt;
    let found = path.metadata().ok()?;
    Some((found.dev(), found.ino()))
}

/// Checks that a file can be created or replaced, and changes nothing.
pub fn check_creatable(path: &Path) -> anyhow::Result<()> {
    match path.metadata() {
        Ok(found) if found.is_dir() => anyhow::bail!("is a folder; name a file"),
        Ok(found) if found.is_file() => Ok(std::fs::OpenOptions::new().append(true).open(path).map(drop)?),
        Ok(_) => Ok(()),
        Err(_) => {
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
            if !folder.is_dir() {
                anyhow::bail!("the folder does not exist; create it");
            }
            Ok(check_folder(folder)?)
        }
    }
}

/// The folder itself, or the nearest one above it that exists.
pub fn existing(folder: &Path) -> &Path {
    folder.ancestors().find(|one| !one.as_os_str().is_empty() && one.exists()).unwrap_or(Path::new("."))
}

/// Checks that files can be created in a folder: creates one, and removes it.
pub fn check_folder(folder: &Path) -> std::io::Result<()> {
    let probe = folder.join(format!(".bellis-{}.tmp", std::process::id()));
    std::fs::File::create_new(&probe).and_then(|_| std::fs::remove_file(&probe))
}

/// Checks that no other run writes a consumer's file or folder, which would be renamed.
pub fn check_unclaimed(spec: &ConsumerSpec) -> anyhow::Result<()> {
    let Some(path) = spec.path() else { return Ok(()) };
    let path = if path.is_dir() { &path.join(SEGMENTS) } else { path };
    if !path.is_file() {
        return Ok(());
    }
    std::fs::File::open(path).and_then(|file| claim(&file)).with_context(|| path.display().to_string())
}

/// Checks that a consumer's file or folder can be created or written, and changes nothing.
pub fn check_writable(spec: &ConsumerSpec) -> anyhow::Result<()> {
    let Some(path) = spec.path() else { return Ok(()) };
    let failed = || path.display().to_string();
    match path.metadata() {
        Ok(found) if found.is_file() => {
            return std::fs::OpenOptions::new().append(true).open(path).map(drop).with_context(failed);
        }
        // A pipe without a reader would block.
        Ok(found) if !found.is_dir() => return Ok(()),
        _ => {}
    }
    // The consumer of a folder also creates the folders above it.
    let folder = existing(path.parent().unwrap_or(path));
    let direct = path.parent().is_none_or(|parent| parent.as_os_str().is_empty() || parent == folder);
    if !direct && !matches!(spec, ConsumerSpec::SegmentFolder(_)) {
        anyhow::bail!("{}: the folder does not exist; create it", path.display());
    }
    check_folder(folder).with_context(failed)
}

#[cfg(test)]
mod tests {
    use bellis::consumer::TextOutput;

    use super::*;

    #[test]
    fn existing_files_and_folders_are_renamed_with_a_free_number() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for restart in 1..=2 {
            std::fs::create_dir_all(at("talk")).unwrap();
            // The last line is incomplete: power was lost.
            std::fs::write(at("talk").join(SEGMENTS), format!("{{\"restart\":{restart}}}\n{{\"st")).unwrap();
            std::fs::write(at("x.jsonl"), restart.to_string()).unwrap();
            set_aside(&ConsumerSpec::SegmentFolder(at("talk/")), &[]).unwrap();
            set_aside(&ConsumerSpec::Phones(TextOutput::File(at("x.jsonl"))), &[]).unwrap();
            assert!(!at("talk").exists() && !at("x.jsonl").exists());
            let text = std::fs::read_to_string(at(&format!("talk.{restart}")).join(SEGMENTS)).unwrap();
            assert_eq!(text, format!("{{\"restart\":{restart}}}\n"));
            assert_eq!(std::fs::read_to_string(at(&format!("x.{restart}.jsonl"))).unwrap(), restart.to_string());
        }
        // The array was moved without its side file, or the other way round.
        let sides = [("x.chunks.jsonl", "old"), ("x.1.chunks.jsonl", "older")];
        sides.iter().for_each(|(name, text)| std::fs::write(at(name), text).unwrap());
        set_aside(&ConsumerSpec::Npy(at("x.npy")), &[]).unwrap();
        assert!(!at("x.chunks.jsonl").exists());
        assert_eq!(std::fs::read_to_string(at("x.1.chunks.jsonl")).unwrap(), "older");
        assert_eq!(std::fs::read_to_string(at("x.2.chunks.jsonl")).unwrap(), "old");
        // A name that this run writes is not free.
        std::fs::write(at("y.jsonl"), "old").unwrap();
        std::os::unix::fs::symlink(folder.path(), at("link")).unwrap();
        set_aside(&ConsumerSpec::Phones(TextOutput::File(at("y.jsonl"))), &[at("link/y.1.jsonl")]).unwrap();
        assert_eq!(std::fs::read_to_string(at("y.2.jsonl")).unwrap(), "old");
        // A folder with other contents is not renamed: the consumer writes into it.
        std::fs::create_dir_all(at("talk")).unwrap();
        set_aside(&ConsumerSpec::SegmentFolder(at("talk")), &[]).unwrap();
        assert!(at("talk").exists());
    }

    #[test]
    fn a_number_leaves_the_other_bytes_of_a_name() {
        let numbered = |name: &Path| super::numbered(name, 3);
        assert_eq!([numbered(Path::new("a/x.tar.gz")), numbered(Path::new("x"))], [Path::new("a/x.tar.3.gz"), Path::new("x.3")]);
        #[cfg(unix)]
        {
            use std::os::unix::ffi::OsStrExt;
            let path = |bytes: &'static [u8]| Path::new(std::ffi::OsStr::from_bytes(bytes));
            assert_eq!(numbered(path(b"x\xff.\xfe")), path(b"x\xff.3.\xfe"));
        }
    }
}
