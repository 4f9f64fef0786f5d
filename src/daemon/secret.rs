//! Secrets in files: a token or a password, which others on the machine should not be able to read.

use std::io::{Error, ErrorKind, Read};
use std::path::Path;

/// The text of a file of at most `most` bytes. If every user can read it, a line in the log says so; `what` is its name there.
///
/// # Errors
///
/// If it cannot be read, is longer, or is not text.
pub(super) fn read(path: &Path, what: &str, most: u64) -> std::io::Result<String> {
    let file = std::fs::File::open(path)?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        if file.metadata()?.permissions().mode() & 0o004 != 0 {
            log::warn!("{}: every user can read this {what}; chmod o-r", path.display());
        }
    }
    let mut text = String::new();
    file.take(most + 1).read_to_string(&mut text)?;
    if text.len() as u64 > most {
        return Err(Error::new(ErrorKind::InvalidData, format!("is longer than {most} bytes, so it is no {what}")));
    }
    Ok(text)
}
