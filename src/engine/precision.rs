//! Options for loading an encoder, and the precision of its matmuls.

use serde::Deserialize;

use crate::names::named;
use crate::pack::GapFill;

/// Precision of the matmuls with the layers' weights. Everything else is computed in f32.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Precision {
    /// The fastest precision on this processor: int8 if it has instructions for it, else f32.
    #[default]
    Auto,
    /// 32-bit floats.
    F32,
    /// 8-bit weights and hidden states with 32-bit sums if the processor has instructions for it, else f32.
    Int8,
}

impl Precision {
    /// The precision on a processor with or without int8 kernels.
    pub(super) fn resolve(self, int8_is_fast: bool) -> Self {
        match self {
            Self::Int8 if int8_is_fast => Self::Int8,
            Self::Int8 => {
                log::warn!("this processor has no instructions for int8 (VNNI, NEON); using f32");
                Self::F32
            }
            Self::Auto if int8_is_fast => Self::Int8,
            Self::Auto => Self::F32,
            asked => asked,
        }
    }
}

named!(Precision, "precision", { Auto => "auto", F32 => "f32", Int8 => "int8" });

/// Options of [`Encoder::load`](crate::engine::Encoder::load). The defaults are those of the command line.
///
/// ```
/// use bellis::engine::{LoadOptions, Precision};
///
/// let options = LoadOptions::default().precision(Precision::F32).threads(2);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct LoadOptions {
    /// How the caches of deeper layers are filled after an early exit (cached packs); the pack's default if `None`.
    pub gap_fill: Option<GapFill>,
    /// Precision of the matmuls.
    pub precision: Precision,
    /// Threads for wide f32 matmuls, 1 to [`MAX_THREADS`]. All but the first run only on idle cores. Results are bit-identical.
    pub threads: usize,
    /// First layer to load, from 1. An encoder without the first layers has no front end: it only continues chunks that another encoder
    /// hands over.
    pub first_layer: usize,
}

/// Maximum number of threads of an encoder.
pub const MAX_THREADS: usize = 64;

impl Default for LoadOptions {
    fn default() -> Self {
        Self { gap_fill: None, precision: Precision::default(), threads: 1, first_layer: 1 }
    }
}

impl LoadOptions {
    /// Sets how the caches of deeper layers are filled after an early exit (cached packs).
    pub fn gap_fill(mut self, gap_fill: GapFill) -> Self {
        self.gap_fill = Some(gap_fill);
        self
    }

    /// Sets the precision of the matmuls.
    pub fn precision(mut self, precision: Precision) -> Self {
        self.precision = precision;
        self
    }

    /// Sets the number of threads for wide f32 matmuls.
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = threads;
        self
    }

    /// Sets the first layer to load.
    pub fn first_layer(mut self, layer: usize) -> Self {
        self.first_layer = layer;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_int8_instructions_the_precision_is_f32() {
        assert_eq!(Precision::Int8.resolve(false), Precision::F32);
        assert_eq!(Precision::Int8.resolve(true), Precision::Int8);
        assert_eq!(Precision::Auto.resolve(false), Precision::F32);
        assert_eq!(Precision::Auto.resolve(true), Precision::Int8);
        for fast in [false, true] {
            assert_eq!(Precision::F32.resolve(fast), Precision::F32);
        }
    }
}
