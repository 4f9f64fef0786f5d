//! Errors of the library as Python exceptions.

use std::error::Error;

use pyo3::exceptions::PyException;
use pyo3::{PyErr, create_exception};

create_exception!(bellis, BellisError, PyException, "Bellis could not do what was asked; the message says why.");

/// An error with its causes, on one line.
pub fn raise(error: impl Error) -> PyErr {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    BellisError::new_err(text)
}
