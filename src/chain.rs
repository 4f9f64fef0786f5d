//! Formatting of an error and its causes on one line, for logs. Errors of this crate have their cause in `source()`, not in their text.

use std::error::Error;
use std::fmt;

/// Displays an error and its causes, separated by colons.
pub(crate) struct Chain<'a>(pub &'a dyn Error);

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}
