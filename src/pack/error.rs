//! Errors of opening a pack.

use std::path::PathBuf;

use crate::toml_file::TomlFileError;

/// Why a pack was rejected. Returned before any computation.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PackError {
    /// The path is not a folder that contains a `pack.toml`.
    #[error("{path}: not a pack; a pack is a folder that contains pack.toml")]
    #[non_exhaustive]
    NotAPack {
        /// The path.
        path: PathBuf,
    },
    /// `pack.toml` does not parse.
    #[error(transparent)]
    Manifest(#[from] TomlFileError),
    /// The pack has another version of the format.
    #[error(
        "{path}: pack format {found} is not supported, only format {supported}; export the pack again (docs/pack.md lists the changes)"
    )]
    #[non_exhaustive]
    Format {
        /// The `pack.toml`.
        path: PathBuf,
        /// The format version found.
        found: u32,
        /// The supported format version.
        supported: u32,
    },
    /// A value of `pack.toml` is out of range or contradicts another one.
    #[error("{path}: {key}: {problem}")]
    #[non_exhaustive]
    Invalid {
        /// The `pack.toml`.
        path: PathBuf,
        /// The key, as `[section] key`.
        key: String,
        /// The problem and the valid values.
        problem: String,
    },
    /// A listed file is missing or cannot be read. Copying the pack again helps.
    #[error("{path}: cannot read {stage} of the pack")]
    #[non_exhaustive]
    File {
        /// The file.
        path: PathBuf,
        /// The stage that lists it.
        stage: String,
        /// The system's error.
        source: std::io::Error,
    },
    /// A listed file exceeds the size limit.
    #[error("{path}: a stage must have at most {limit} bytes, got {bytes}")]
    #[non_exhaustive]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
        /// The limit.
        limit: u64,
    },
    /// A listed file was changed or damaged since the manifest was written.
    #[error(
        "{path}: {stage} was changed or damaged: its SHA-256 is {found}, pack.toml expects {expected}; copy the pack again, or \
         update the hash if the change is intended"
    )]
    #[non_exhaustive]
    Hash {
        /// The file.
        path: PathBuf,
        /// The stage that lists it.
        stage: String,
        /// The hash in the manifest.
        expected: String,
        /// The hash of the file.
        found: String,
    },
}
