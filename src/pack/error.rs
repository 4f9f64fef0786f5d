//! What can be wrong with a pack, and what to do about it.

use std::path::PathBuf;

use crate::toml_file::TomlFileError;

/// Why a pack was refused. Nothing of it has been computed when this is returned.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// The folder is not there or is no folder.
    #[error("there is no pack at {path}: a pack is a folder with a pack.toml in it (`bellis inspect PACK` shows one)")]
    NotAPack {
        /// The path given.
        path: PathBuf,
    },
    /// `pack.toml` does not parse.
    #[error(transparent)]
    Manifest(#[from] TomlFileError),
    /// The pack is in another version of the format.
    #[error(
        "{path}: pack format {found} is not supported, this version reads format {supported}; get the pack again or export it again \
         (docs/pack.md lists what changed)"
    )]
    Format {
        /// The `pack.toml`.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// The format that is read.
        supported: u32,
    },
    /// A value of `pack.toml` contradicts another one or makes no sense.
    #[error("{path}: {key}: {problem}")]
    Invalid {
        /// The `pack.toml`.
        path: PathBuf,
        /// The key, as `[section] key`.
        key: String,
        /// What is wrong and what would be right.
        problem: String,
    },
    /// A listed file is missing or cannot be read.
    #[error("{path}: cannot read it ({source}); {stage} of the pack needs it — copy the pack anew")]
    File {
        /// The file.
        path: PathBuf,
        /// The stage that lists it.
        stage: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// A listed file is larger than the runtime will load.
    #[error("{path}: {bytes} bytes, and a stage may have at most {limit}; this is not a stage of a pack for small boards")]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
        /// The limit.
        limit: u64,
    },
    /// A listed file is not the one that the manifest was written for.
    #[error(
        "{path}: SHA-256 is {found}, but pack.toml says {expected} for {stage}; the file was changed or damaged — copy the pack anew, \
         or write the new hash into pack.toml if you changed it on purpose"
    )]
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
