//! Numbers that came from 16 bits, in 16 bits again, so that widening them is four vector operations.
//!
//! A half-precision float has eleven significant bits. What [`Short`] writes is like it, a sign, five bits of exponent and ten of
//! mantissa, but counts exponents from the largest number of its matrix: small numbers that are denormal in half precision are
//! ordinary here, and no processor stumbles over them. Shifted to where f32 has its fields, a code is a tiny f32, and one
//! product with a power of two makes it the number that it was, exactly.

/// How numbers with one largest exponent are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Short {
    /// f32's exponent field of the largest number, less the code's.
    base: u32,
}

/// Largest exponent of a code.
const MOST: u32 = 31;
/// So that 2 to the base is an f32; reached by numbers from 2³¹ on.
const MOST_BASE: u32 = 127;
/// Bits of an f32's mantissa that must be zero.
const LOST: u32 = (1 << Short::SHIFT) - 1;

fn exponent(number: f32) -> u32 {
    number.to_bits() >> 23 & 0xff
}

impl Short {
    /// From a code's mantissa to that of an f32.
    pub const SHIFT: i32 = 13;
    /// What of a code widened with its sign, and shifted, is its own.
    pub const MASK: i32 = 0x8fff_ffff_u32 as i32;

    /// How `numbers` are written, if that loses nothing.
    pub fn of(numbers: &[f32]) -> Option<Self> {
        let base = numbers.iter().map(|&number| exponent(number)).max()?.saturating_sub(MOST);
        if base > MOST_BASE {
            return None;
        }
        let fits = |number: f32| number == 0.0 || number.is_finite() && exponent(number) > base && number.to_bits() & LOST == 0;
        numbers.iter().all(|&number| fits(number)).then_some(Self { base })
    }

    /// The code of one of these numbers.
    pub fn code(self, number: f32) -> i16 {
        if number == 0.0 {
            return 0;
        }
        let bits = number.to_bits();
        let magnitude = (bits & 0x7fff_ffff) - (self.base << 23);
        (bits >> 16 & 0x8000 | magnitude >> Self::SHIFT) as u16 as i16
    }

    /// What a widened code is multiplied with.
    pub fn factor(self) -> f32 {
        (self.base as f32).exp2()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::f16;

    fn widened(code: i16, factor: f32) -> f32 {
        f32::from_bits(((i32::from(code) << Short::SHIFT) & Short::MASK) as u32) * factor
    }

    #[test]
    fn every_half_comes_back_exactly_beside_its_like() {
        // All halves within 31 powers of two of the largest: the whole format but its smallest denormals.
        for largest in [1.0f32, 0.37, 8.5, 65504.0] {
            let halves = (0..=u16::MAX).map(|bits| f16::from_bits(bits).to_f32());
            let numbers: Vec<f32> =
                halves.filter(|x| x.abs() <= largest && (*x == 0.0 || x.abs() > largest * 2f32.powi(-30))).collect();
            let short = Short::of(&numbers).unwrap_or_else(|| panic!("{largest}"));
            for &number in &numbers {
                assert_eq!(widened(short.code(number), short.factor()), number, "beside {largest}");
            }
        }
    }

    #[test]
    fn what_would_lose_a_bit_is_refused() {
        assert_eq!(Short::of(&[1.0, 1.0 + 2f32.powi(-11)]), None);
        assert!(Short::of(&[1.0, 1.0 + 2f32.powi(-10)]).is_some());
        assert_eq!(Short::of(&[1.0, 2f32.powi(-31)]), None);
        assert!(Short::of(&[1.0, -2f32.powi(-30)]).is_some());
        assert_eq!(Short::of(&[1.0, f32::NAN]), None);
        assert_eq!(Short::of(&[1.0, f32::INFINITY]), None);
        assert_eq!(Short::of(&[]), None);
        assert_eq!(Short::of(&[2f32.powi(32)]), None);
    }
}
