//! Audio files in folders.

use std::path::PathBuf;

use super::{AudioError, AudioErrorKind};

/// File extensions of the supported formats, in lower case.
const SUFFIXES: [&str; 9] = ["wav", "wave", "flac", "ogg", "oga", "opus", "mp3", "aiff", "aif"];

/// Replaces each folder in `paths` by the audio files directly inside it, sorted by name. Files are kept, whatever their extension.
///
/// # Errors
///
/// [`AudioErrorKind::NotReadable`] if a folder cannot be listed or contains no audio file.
pub fn audio_files(paths: &[PathBuf]) -> Result<Vec<PathBuf>, AudioError> {
    let mut files = Vec::new();
    for path in paths {
        if !path.is_dir() {
            files.push(path.clone());
            continue;
        }
        let error = |message: String| AudioError::new(AudioErrorKind::NotReadable, path.display().to_string(), message);
        let entries = std::fs::read_dir(path).map_err(|system| error(format!("cannot list the folder: {system}")))?;
        let mut inside: Vec<PathBuf> = entries
            .filter_map(|entry| entry.ok().map(|entry| entry.path()))
            .filter(|path| path.extension().is_some_and(|suffix| SUFFIXES.iter().any(|known| suffix.eq_ignore_ascii_case(known))))
            .collect();
        inside.sort();
        if inside.is_empty() {
            return Err(error("contains no audio files (WAV, FLAC, Ogg, Opus, MP3, AIFF)".into()));
        }
        files.append(&mut inside);
    }
    Ok(files)
}
