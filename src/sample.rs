//! Which samples are accepted.

/// Largest absolute value that is accepted. Full scale is 1, but some float files contain values as large as 32-bit integers. The
/// square of much larger ones would overflow in the front end and stay in the caches for seconds.
const MAX_ABS: f32 = 1e10;

/// Whether a sample is accepted; NaN is not.
pub fn is_valid(sample: f32) -> bool {
    sample.abs() <= MAX_ABS
}
