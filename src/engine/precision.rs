//! How an encoder is loaded, and in how many bits its products are computed.

use clap::ValueEnum;
use serde::Deserialize;

use crate::pack::GapFill;

/// How the products with a layer's weights are computed. Everything else stays in f32.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Precision {
    /// What measures best here without losing accuracy
    #[default]
    Auto,
    /// In 32 bits
    F32,
    /// Weights and hidden states in 8 bits, sums in 32, where the processor has instructions for it; f32 elsewhere
    Int8,
}

impl Precision {
    /// What is done on a processor that has fast 8-bit products, or has not.
    pub(super) fn resolve(self, int8_is_fast: bool) -> Self {
        match self {
            Self::Int8 if int8_is_fast => Self::Int8,
            Self::Int8 => {
                log::warn!(
                    "this processor has no instructions for products of 8 bits (VNNI, dot product): they are computed in f32"
                );
                Self::F32
            }
            Self::Auto if int8_is_fast => Self::Int8,
            Self::Auto => Self::F32,
            asked => asked,
        }
    }
}

impl std::fmt::Display for Precision {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::F32 => "f32",
            Self::Int8 => "int8",
        })
    }
}

/// How [`crate::engine::Encoder::load_with`] loads a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoadOptions {
    /// How gaps in deeper layers' caches are filled; the pack's own way without one (cached packs).
    pub gap_fill: Option<GapFill>,
    /// How products are computed.
    pub precision: Precision,
    /// Threads that compute wide products in f32, 1 to [`MOST_THREADS`]. All but one help only where a core is idle; no number
    /// depends on them.
    pub threads: usize,
}

/// Threads of an encoder at the most.
pub const MOST_THREADS: usize = 64;

impl Default for LoadOptions {
    fn default() -> Self {
        Self { gap_fill: None, precision: Precision::default(), threads: 1 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_the_instructions_products_are_in_f32() {
        assert_eq!(Precision::Int8.resolve(false), Precision::F32);
        assert_eq!(Precision::Int8.resolve(true), Precision::Int8);
        assert_eq!(Precision::Auto.resolve(false), Precision::F32);
        assert_eq!(Precision::Auto.resolve(true), Precision::Int8);
        for fast in [false, true] {
            assert_eq!(Precision::F32.resolve(fast), Precision::F32);
        }
    }
}
