//! Python bindings: `bellis.Encoder`, its streams, and `bellis.KeywordSpotter`.
//!
//! The extension module is `bellis._bellis`; `python/bellis` adds the search for packs, docstrings and types.
#![allow(missing_docs)]

mod audio;
mod chunk;
mod encoder;
mod errors;
mod spotter;
mod stream;

use pyo3::prelude::*;

#[pymodule]
fn _bellis(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add("BellisError", module.py().get_type::<errors::BellisError>())?;
    module.add_class::<encoder::Encoder>()?;
    module.add_class::<stream::Stream>()?;
    module.add_class::<chunk::Chunk>()?;
    module.add_class::<chunk::Phone>()?;
    module.add_class::<spotter::KeywordSpotter>()?;
    module.add_class::<spotter::KeywordEvent>()?;
    Ok(())
}
