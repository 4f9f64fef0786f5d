//! TOML files, with errors that name the file, the line and, for an unknown key, the nearest known one.

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

/// Errors of reading a TOML file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TomlFileError {
    /// The file is missing or cannot be read.
    #[error("cannot read {path}")]
    #[non_exhaustive]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// The file is too large.
    #[error("{path}: must have at most {limit} bytes, got {bytes}")]
    #[non_exhaustive]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The file's size.
        bytes: u64,
        /// The limit.
        limit: u64,
    },
    /// The text is not TOML, or has an unknown key or a value of the wrong type.
    #[error("{path}:{line}: {message}{hint}")]
    #[non_exhaustive]
    Parse {
        /// The file.
        path: PathBuf,
        /// Line, counted from 1.
        line: usize,
        /// The problem.
        message: String,
        /// A suggestion to append to the message, or an empty string.
        hint: String,
    },
}

/// Reads and parses one TOML file of at most `limit` bytes.
#[cfg(feature = "runtime")]
pub fn read<T: DeserializeOwned>(path: &Path, limit: u64) -> Result<T, TomlFileError> {
    parse(&text(path, limit)?, path)
}

/// Reads a text file of at most `limit` bytes.
pub fn text(path: &Path, limit: u64) -> Result<String, TomlFileError> {
    let io = |source| TomlFileError::Read { path: path.to_owned(), source };
    let bytes = std::fs::metadata(path).map_err(io)?.len();
    if bytes > limit {
        return Err(TomlFileError::TooLarge { path: path.to_owned(), bytes, limit });
    }
    std::fs::read_to_string(path).map_err(io)
}

/// Parses TOML text; `path` is used in errors only.
pub fn parse<T: DeserializeOwned>(text: &str, path: &Path) -> Result<T, TomlFileError> {
    toml::from_str(text).map_err(|error| {
        let offset = error.span().map_or(0, |span| span.start).min(text.len());
        let line = text.as_bytes()[..offset].iter().filter(|&&byte| byte == b'\n').count() + 1;
        let message = error.message().trim().replace('\n', " ");
        let hint = nearest_key(&message).map_or_else(String::new, |key| format!("; did you mean `{key}`?"));
        TomlFileError::Parse { path: path.to_owned(), line, message, hint }
    })
}

/// The known name closest to x in serde's message "unknown field `x`, expected one of `a`, `b`".
fn nearest_key(message: &str) -> Option<String> {
    if !message.starts_with("unknown field") && !message.starts_with("unknown variant") {
        return None;
    }
    let mut quoted = message.split('`').skip(1).step_by(2);
    let unknown = quoted.next()?;
    nearest(unknown, quoted)
}

/// The candidate closest to `word`, if close enough to be a typo.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<String> {
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(word, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= 1 + candidate.chars().count() / 3 && *distance < word.chars().count())
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Table {
        #[allow(dead_code)]
        threshold: f32,
    }

    #[test]
    fn an_unknown_key_names_its_line_and_the_nearest_known_one() {
        let error = parse::<Table>("# one\n\ntreshold = 1.0\n", Path::new("x.toml")).unwrap_err().to_string();
        assert!(error.starts_with("x.toml:3:"), "{error}");
        assert!(error.contains("did you mean `threshold`?"), "{error}");
    }

    #[test]
    fn a_word_far_from_all_suggests_nothing() {
        assert_eq!(nearest("zzzzzz", ["chunk", "policy"]), None);
    }
}
