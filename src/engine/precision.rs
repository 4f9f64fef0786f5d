//! Options for loading an encoder, and the precision of its matmuls.

use serde::Deserialize;

use super::EngineError;
use super::kernels::dot::DotKernel;
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

/// Kernel of the int8 matmuls. All of them compute the same results.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub enum Int8Kernel {
    /// AVX-512 VNNI (x86).
    #[serde(rename = "avx512-vnni")]
    Avx512Vnni,
    /// AVX-VNNI (x86).
    #[serde(rename = "avx-vnni")]
    AvxVnni,
    /// Dot product (Arm): Cortex-A55, A76 and newer.
    #[serde(rename = "dotprod")]
    DotProduct,
    /// Widening multiplication (64-bit Arm).
    #[serde(rename = "neon")]
    Neon,
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

named!(Int8Kernel, "kernel", {
    Avx512Vnni => "avx512-vnni", AvxVnni => "avx-vnni", DotProduct => "dotprod", Neon => "neon",
});

impl Int8Kernel {
    /// The kernels that this processor can run, the fastest first.
    pub fn available() -> Vec<Self> {
        DotKernel::available().filter_map(|kernel| Self::all().find(|name| name.name() == kernel.name())).collect()
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
    /// Kernel of the int8 matmuls; the fastest of this processor if `None`.
    pub kernels: Option<Int8Kernel>,
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
        Self { gap_fill: None, precision: Precision::default(), kernels: None, threads: 1, first_layer: 1 }
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

    /// Sets the kernel of the int8 matmuls.
    pub fn kernels(mut self, kernel: Int8Kernel) -> Self {
        self.kernels = Some(kernel);
        self
    }

    /// Sets the number of threads for wide f32 matmuls.
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = threads;
        self
    }

    /// The kernel of int8 matmuls; `None` if this processor has none.
    pub(super) fn int8_kernel(&self) -> Result<Option<DotKernel>, EngineError> {
        let Some(asked) = self.kernels else { return Ok(DotKernel::available().next()) };
        match DotKernel::available().find(|kernel| kernel.name() == asked.name()) {
            Some(kernel) => Ok(Some(kernel)),
            None => Err(EngineError::Kernel { kernel: asked, available: Int8Kernel::available() }),
        }
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
    fn a_kernel_of_another_processor_is_refused_with_those_of_this_one() {
        assert_eq!(Int8Kernel::available().len(), DotKernel::available().count());
        for kernel in Int8Kernel::all() {
            match LoadOptions::default().kernels(kernel).int8_kernel() {
                Ok(chosen) => assert_eq!(chosen.map(DotKernel::name), Some(kernel.name())),
                Err(error) => {
                    assert!(!Int8Kernel::available().contains(&kernel));
                    let text = error.to_string();
                    assert!(text.contains(kernel.name()), "{text}");
                    assert!(Int8Kernel::available().iter().all(|one| text.contains(one.name())), "{text}");
                }
            }
        }
        let foreign = if cfg!(target_arch = "x86_64") { Int8Kernel::Neon } else { Int8Kernel::Avx512Vnni };
        assert!(LoadOptions::default().kernels(foreign).int8_kernel().is_err());
    }

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
