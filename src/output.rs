//! Detection of outputs that would overwrite an input or each other, through any path or link, or that another run writes, and atomic
//! replacement of files.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::SystemTime;

/// A file that a run reads or writes. Two are equal if they are the same file, under whatever name.
#[derive(Debug, Clone)]
pub struct RunFile {
    /// Name in messages: `--consumer wav:x.wav`, `the input x.wav`.
    pub label: String,
    id: FileId,
}

impl PartialEq for RunFile {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id && self.id != FileId::Shared
    }
}

/// Identity of a file, equal for all paths to it.
#[derive(Debug, Clone, PartialEq, Eq)]
enum FileId {
    /// An existing file: device and inode.
    Existing(u64, u64),
    /// A file that does not exist yet: its absolute path with links resolved.
    Missing(PathBuf),
    /// A character device (`/dev/null`, a terminal): any number of writers may share it.
    Shared,
}

/// Two outputs, or an output and an input, are the same file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{output} would overwrite {other}; choose another file")]
#[non_exhaustive]
pub struct OutputConflict {
    /// The output.
    pub output: String,
    /// The input or the other output.
    pub other: String,
}

impl RunFile {
    /// The file at `path`.
    pub fn at(label: impl Into<String>, path: &Path) -> Self {
        Self { label: label.into(), id: identify(path) }
    }

    /// Standard input or output, if it is a file or a pipe. Both may be one socket (ssh), which is no conflict.
    #[cfg(unix)]
    pub fn of(label: impl Into<String>, stream: impl std::os::fd::AsFd) -> Option<Self> {
        use std::os::unix::fs::{FileTypeExt, MetadataExt};
        let file = std::fs::File::from(stream.as_fd().try_clone_to_owned().ok()?);
        let metadata = file.metadata().ok().filter(|found| found.is_file() || found.file_type().is_fifo())?;
        Some(Self { label: label.into(), id: FileId::Existing(metadata.dev(), metadata.ino()) })
    }
}

/// Checks that no output is the same file as an input or another output. Opens nothing for writing.
///
/// # Errors
///
/// The first conflict.
pub fn check_outputs(inputs: &[RunFile], outputs: &[RunFile]) -> Result<(), OutputConflict> {
    for (number, output) in outputs.iter().enumerate() {
        let others = inputs.iter().chain(&outputs[..number]);
        if let Some(other) = others.into_iter().find(|other| *other == output) {
            return Err(OutputConflict { output: output.label.clone(), other: other.label.clone() });
        }
    }
    Ok(())
}

/// Maximum number of links followed to a file that does not exist.
const LINKS: usize = 40;

fn identify(path: &Path) -> FileId {
    if let Ok(metadata) = std::fs::metadata(path) {
        #[cfg(unix)]
        {
            use std::os::unix::fs::{FileTypeExt, MetadataExt};
            return match metadata.file_type().is_char_device() {
                true => FileId::Shared,
                false => FileId::Existing(metadata.dev(), metadata.ino()),
            };
        }
        #[cfg(not(unix))]
        return FileId::Missing(path.canonicalize().unwrap_or_else(|_| path.to_owned()));
    }
    let target = target_of(path);
    let folder = folder_of(&target);
    let folder = match folder.canonicalize() {
        Ok(folder) => folder,
        // The folder does not exist yet either: use the path without resolving links.
        Err(_) => std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned()),
    };
    FileId::Missing(target.file_name().map_or(folder.clone(), |name| folder.join(name)))
}

/// The folder that a path is in.
fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// What a path leads to: a link may lead to a file that does not exist yet.
fn target_of(path: &Path) -> PathBuf {
    let mut target = path.to_owned();
    for _ in 0..LINKS {
        let Ok(next) = std::fs::read_link(&target) else { break };
        target = folder_of(&target).join(next);
    }
    target
}

/// Replaces a file atomically: writes a temporary file next to it, which is then renamed. Symbolic links are kept; devices and pipes are
/// written to directly.
///
/// # Errors
///
/// If the file cannot be written. The old file is then unchanged.
pub fn replace_file(path: &Path, content: &[u8]) -> std::io::Result<()> {
    // Not the target of the link: that of /dev/stdout is no path if it is a pipe.
    if path.metadata().is_ok_and(|metadata| !metadata.is_file()) {
        return std::fs::OpenOptions::new().write(true).open(path)?.write_all(content);
    }
    let target = target_of(path);
    let mut name = std::ffi::OsString::from(".");
    name.push(target.file_name().ok_or(std::io::ErrorKind::InvalidInput)?);
    // Also unique among threads, and among containers that share the folder.
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let moment = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.subsec_nanos());
    name.push(format!(".{}-{number}-{moment}.tmp", std::process::id()));
    let temporary = target.with_file_name(name);
    let mut file = std::fs::File::create_new(&temporary)?;
    let written = (|| {
        if let Ok(metadata) = target.metadata() {
            file.set_permissions(metadata.permissions())?;
        }
        file.write_all(content)?;
        file.sync_all()?;
        std::fs::rename(&temporary, &target)
    })();
    if written.is_err() {
        let _ = std::fs::remove_file(&temporary);
    }
    written
}

/// Locks a file that is about to be written, until it is closed: an advisory lock, which readers and other programs need not respect. Without
/// effect where the system has no advisory locks.
///
/// # Errors
///
/// [`ResourceBusy`](std::io::ErrorKind::ResourceBusy) if another run writes the file.
pub fn claim(file: &std::fs::File) -> std::io::Result<()> {
    #[cfg(unix)]
    if let Err(std::fs::TryLockError::WouldBlock) = file.try_lock() {
        return Err(std::io::Error::new(
            std::io::ErrorKind::ResourceBusy,
            "another run of bellis writes this file; stop it, or choose another file",
        ));
    }
    #[cfg(not(unix))]
    let _ = file;
    Ok(())
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn conflict(inputs: &[&Path], outputs: &[&Path]) -> Option<String> {
        let files = |paths: &[&Path]| paths.iter().map(|path| RunFile::at(path.display().to_string(), path)).collect::<Vec<_>>();
        check_outputs(&files(inputs), &files(outputs)).err().map(|error| error.to_string())
    }

    #[test]
    fn a_file_is_the_same_through_every_link() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("in.wav"), "x").unwrap();
        std::fs::create_dir(at("sub")).unwrap();
        symlink("in.wav", at("soft.wav")).unwrap();
        std::fs::hard_link(at("in.wav"), at("hard.wav")).unwrap();
        symlink(at("sub"), at("link")).unwrap();
        for other in ["in.wav", "soft.wav", "hard.wav", "sub/../in.wav", "link/../in.wav", "./in.wav"] {
            let text = conflict(&[&at("in.wav")], &[&at(other)]).unwrap_or_else(|| panic!("{other}"));
            assert!(text.contains("would overwrite"), "{text}");
            assert!(conflict(&[], &[&at(other), &at("in.wav")]).is_some());
        }
        // Files that do not exist yet.
        symlink("sub/new.npy", at("dangling")).unwrap();
        for other in ["sub/new.npy", "link/new.npy", "dangling", "sub/../sub/./new.npy"] {
            assert!(conflict(&[], &[&at("sub/new.npy"), &at(other)]).is_some(), "{other}");
        }
        assert_eq!(conflict(&[&at("in.wav")], &[&at("out.wav"), &at("sub/out.wav"), &at("sub/in.wav")]), None);
        assert_eq!(conflict(&[], &[Path::new("/dev/null"), Path::new("/dev/null")]), None);
    }

    #[test]
    fn a_replaced_file_is_the_old_one_or_the_new_one() {
        let folder = tempfile::tempdir().unwrap();
        let (path, link) = (folder.path().join("report.json"), folder.path().join("link"));
        symlink("report.json", &link).unwrap();
        replace_file(&path, b"old").unwrap();
        replace_file(&link, b"new").unwrap();
        assert!(link.is_symlink() && std::fs::read(&path).unwrap() == b"new");
        assert!(replace_file(&folder.path().join("none/x"), b"").is_err());
        // The longest name, to which the temporary file adds more.
        let longest = folder.path().join("x".repeat(255));
        std::fs::write(&longest, "old").unwrap();
        assert!(replace_file(&longest, b"new").is_err());
        assert_eq!(std::fs::read(&longest).unwrap(), b"old");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 3);
        replace_file(Path::new("/dev/null"), b"x").unwrap();
    }
}
