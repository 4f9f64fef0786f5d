//! Element-wise activation functions.

use rten_simd::{Isa, SimdUnaryOp};

/// The activation applied to the result of a matmul.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Activation {
    None,
    /// x · (1 + erf(x / √2)) / 2
    Gelu,
}

impl Activation {
    #[inline(always)]
    pub fn apply<I: Isa>(self, isa: I, x: I::F32) -> I::F32 {
        match self {
            Self::None => x,
            Self::Gelu => rten_vecmath::Gelu {}.eval(isa, x),
        }
    }

    /// Applies the activation to every element of `values`.
    pub fn map(self, values: &mut [f32]) {
        match self {
            Self::None => {}
            Self::Gelu => {
                rten_vecmath::Gelu {}.map_mut(values);
            }
        }
    }
}
