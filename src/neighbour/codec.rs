//! Wire encoding of numbers and matrices: little-endian, bounded, and checked before allocation.
//!
//! A matrix of frames is int8 with one f32 scale per frame, scale = max |x| / 127. The error of a value is at most half a scale:
//! 1/254 of the frame's largest absolute value. Audio is 16-bit PCM: that of 16-bit sources is exact.

use crate::engine::Frames;

/// Maximum frames of a matrix, and maximum dimensions of a frame: well above those of any pack.
pub const MAX_FRAMES: usize = 4096;
/// See [`MAX_FRAMES`].
pub const MAX_DIM: usize = 8192;
/// Maximum size of a message. A windowed pack of HuBERT-large's size needs 150 kB.
pub const MAX_MESSAGE_BYTES: usize = 4 << 20;

/// Largest quantised value.
const STEPS: f32 = 127.0;
/// Quantised samples in full scale.
const PCM_STEPS: f32 = 32_768.0;
/// Largest scale of a sample: far above that of any audio, and no sample overflows.
const MOST_PCM_SCALE: f32 = 1e12;

/// Errors of reading or writing a message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CodecError {
    /// The message is truncated.
    #[error("the message ends at byte {length}, within {what}")]
    Truncated {
        /// The value at which it ends.
        what: &'static str,
        /// Length of the message.
        length: usize,
    },
    /// The message continues after its contents.
    #[error("{bytes} bytes follow the end of the message")]
    Trailing {
        /// Number of extra bytes.
        bytes: usize,
    },
    /// Another format version, or not a message of Bellis.
    #[error(
        "the message has format {found:#010x}, this version of Bellis reads {expected:#010x}; use the same version on both machines"
    )]
    Format {
        /// The first four bytes.
        found: u32,
        /// The first four bytes in this version.
        expected: u32,
    },
    /// A number is larger than allowed.
    #[error("{what}: {found} is more than {most}")]
    TooLarge {
        /// Meaning of the number.
        what: &'static str,
        /// The number.
        found: u64,
        /// The largest allowed value.
        most: u64,
    },
    /// An invalid value.
    #[error("{what} is not valid")]
    Invalid {
        /// Meaning of the value.
        what: &'static str,
    },
    /// A state, or a sample, is not finite, and cannot be sent.
    #[error("a state or a sample is not finite")]
    NotFinite,
}

/// Writes a message.
#[derive(Debug, Default)]
pub struct Writer(Vec<u8>);

impl Writer {
    /// A message that begins with `format`.
    pub fn new(format: u32) -> Self {
        Self(format.to_le_bytes().to_vec())
    }

    /// One byte.
    pub fn u8(&mut self, value: u8) {
        self.0.push(value);
    }

    /// Four bytes.
    pub fn u32(&mut self, value: u32) {
        self.0.extend(value.to_le_bytes());
    }

    /// Eight bytes.
    pub fn u64(&mut self, value: u64) {
        self.0.extend(value.to_le_bytes());
    }

    /// Four bytes.
    pub fn f32(&mut self, value: f32) {
        self.0.extend(value.to_le_bytes());
    }

    /// A length, and the bytes.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.u32(bytes.len() as u32);
        self.0.extend(bytes);
    }

    /// A matrix as int8.
    ///
    /// # Errors
    ///
    /// [`CodecError::NotFinite`].
    pub fn frames(&mut self, frames: &Frames) -> Result<(), CodecError> {
        self.u32(frames.frames() as u32);
        self.u32(frames.dim() as u32);
        for row in frames.rows() {
            let largest = row.iter().fold(0f32, |largest, value| largest.max(value.abs()));
            if !largest.is_finite() || row.iter().any(|value| value.is_nan()) {
                return Err(CodecError::NotFinite);
            }
            let scale = largest / STEPS;
            // If the inverse of the scale overflows, the frame is encoded as zeros.
            let inverse = if scale > f32::MIN_POSITIVE { 1.0 / scale } else { 0.0 };
            self.f32(if inverse > 0.0 { scale } else { 0.0 });
            self.0.extend(row.iter().map(|value| nearest(value * inverse) as i8 as u8));
        }
        Ok(())
    }

    /// Samples as 16-bit integers, with a scale above 1 / 32768 only for samples above full scale.
    ///
    /// # Errors
    ///
    /// [`CodecError::NotFinite`].
    pub fn audio(&mut self, samples: &[f32]) -> Result<(), CodecError> {
        let largest = samples.iter().fold(0f32, |largest, sample| largest.max(sample.abs()));
        if largest / PCM_STEPS > MOST_PCM_SCALE || samples.iter().any(|sample| sample.is_nan()) {
            return Err(CodecError::NotFinite);
        }
        let scale = largest.max(1.0) / PCM_STEPS;
        self.u32(samples.len() as u32);
        self.f32(scale);
        let inverse = 1.0 / scale;
        self.0.reserve(2 * samples.len());
        for sample in samples {
            self.0.extend((nearest(sample * inverse) as i16).to_le_bytes());
        }
        Ok(())
    }

    /// The message.
    pub fn finish(self) -> Vec<u8> {
        self.0
    }
}

/// Reads a message.
#[derive(Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
    length: usize,
}

impl<'a> Reader<'a> {
    /// Checks the size and the first four bytes of `message`.
    ///
    /// # Errors
    ///
    /// [`CodecError::TooLarge`], [`CodecError::Truncated`], [`CodecError::Format`].
    pub fn new(message: &'a [u8], format: u32) -> Result<Self, CodecError> {
        at_most("bytes of the message", message.len() as u64, MAX_MESSAGE_BYTES as u64)?;
        let mut reader = Self { rest: message, length: message.len() };
        match reader.u32("the format")? {
            found if found == format => Ok(reader),
            found => Err(CodecError::Format { found, expected: format }),
        }
    }

    fn take(&mut self, bytes: usize, what: &'static str) -> Result<&'a [u8], CodecError> {
        let (taken, rest) = self.rest.split_at_checked(bytes).ok_or(CodecError::Truncated { what, length: self.length })?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], CodecError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N, what)?);
        Ok(array)
    }

    /// One byte.
    pub fn u8(&mut self, what: &'static str) -> Result<u8, CodecError> {
        Ok(self.array::<1>(what)?[0])
    }

    /// Four bytes.
    pub fn u32(&mut self, what: &'static str) -> Result<u32, CodecError> {
        self.array(what).map(u32::from_le_bytes)
    }

    /// Eight bytes.
    pub fn u64(&mut self, what: &'static str) -> Result<u64, CodecError> {
        self.array(what).map(u64::from_le_bytes)
    }

    /// Four bytes; any value.
    pub fn f32(&mut self, what: &'static str) -> Result<f32, CodecError> {
        self.array(what).map(f32::from_le_bytes)
    }

    /// Samples.
    pub fn audio(&mut self, what: &'static str) -> Result<Vec<f32>, CodecError> {
        let count = self.count(what, MAX_MESSAGE_BYTES / 2)?;
        let scale = self.f32(what)?;
        if !(scale > 0.0 && scale <= MOST_PCM_SCALE) {
            return Err(CodecError::Invalid { what });
        }
        let (samples, _) = self.take(2 * count, what)?.as_chunks::<2>();
        Ok(samples.iter().map(|sample| f32::from(i16::from_le_bytes(*sample)) * scale).collect())
    }

    /// A number that is at most `most`.
    pub fn count(&mut self, what: &'static str, most: usize) -> Result<usize, CodecError> {
        let found = self.u32(what)?;
        at_most(what, u64::from(found), most as u64)?;
        Ok(found as usize)
    }

    /// At most `most` bytes.
    pub fn bytes(&mut self, what: &'static str, most: usize) -> Result<&'a [u8], CodecError> {
        let length = self.count(what, most)?;
        self.take(length, what)
    }

    /// A flag.
    pub fn flag(&mut self, what: &'static str) -> Result<bool, CodecError> {
        match self.u8(what)? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(CodecError::Invalid { what }),
        }
    }

    /// A matrix.
    pub fn frames(&mut self, what: &'static str) -> Result<Frames, CodecError> {
        let (frames, dim) = (self.count(what, MAX_FRAMES)?, self.count(what, MAX_DIM)?);
        let bytes = self.take(frames * (4 + dim), what)?;
        let mut values = Vec::with_capacity(frames * dim);
        for row in bytes.chunks_exact(4 + dim) {
            let (scale, row) = row.split_at(4);
            let scale = f32::from_le_bytes([scale[0], scale[1], scale[2], scale[3]]);
            if !(0.0..=f32::MAX / STEPS).contains(&scale) {
                return Err(CodecError::Invalid { what: "a scale" });
            }
            values.extend(row.iter().map(|&step| f32::from(step as i8) * scale));
        }
        Ok(Frames::from_vec(values, dim))
    }

    /// Requires the end of the message.
    pub fn finish(self) -> Result<(), CodecError> {
        match self.rest.len() {
            0 => Ok(()),
            bytes => Err(CodecError::Trailing { bytes }),
        }
    }
}

/// What a conversion to an integer, which truncates, makes the nearest one. Much faster than `round` where that is a call.
fn nearest(value: f32) -> f32 {
    value + 0.5f32.copysign(value)
}

fn at_most(what: &'static str, found: u64, most: u64) -> Result<(), CodecError> {
    if found > most { Err(CodecError::TooLarge { what, found, most }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FORMAT: u32 = 0x0102_0304;

    fn written(frames: &Frames) -> Vec<u8> {
        let mut writer = Writer::new(FORMAT);
        writer.frames(frames).unwrap();
        writer.finish()
    }

    #[test]
    fn states_that_are_not_finite_are_not_sent() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let frames = Frames::from_vec(vec![1.0, bad], 2);
            assert_eq!(Writer::new(FORMAT).frames(&frames), Err(CodecError::NotFinite));
        }
    }

    #[test]
    fn a_matrix_that_claims_to_be_large_is_refused_before_memory_is_reserved() {
        let mut writer = Writer::new(FORMAT);
        writer.u32(MAX_FRAMES as u32);
        writer.u32(MAX_DIM as u32);
        let message = writer.finish();
        let mut reader = Reader::new(&message, FORMAT).unwrap();
        assert!(matches!(reader.frames("x"), Err(CodecError::Truncated { what: "x", .. })));
    }

    #[test]
    fn audio_of_16_bits_is_exact_and_any_other_within_a_step() {
        let carried = |samples: &[f32]| {
            let mut writer = Writer::new(FORMAT);
            writer.audio(samples)?;
            let message = writer.finish();
            assert_eq!(message.len(), 12 + 2 * samples.len());
            Reader::new(&message, FORMAT)?.audio("x")
        };
        let exact: Vec<f32> = (-32_768..32_768).map(|sample| sample as f32 / PCM_STEPS).collect();
        assert_eq!(carried(&exact).unwrap(), exact);
        for loudest in [0.3, 1.0, 7.5, 1e9] {
            let samples: Vec<f32> = (-500..=500).map(|step| loudest * step as f32 / 500.0).collect();
            let step = loudest.max(1.0) / PCM_STEPS * 1.01;
            assert!(carried(&samples).unwrap().iter().zip(&samples).all(|(a, b)| (a - b).abs() <= step), "{loudest}");
        }
        for bad in [f32::NAN, f32::INFINITY, f32::MAX] {
            assert_eq!(carried(&[0.0, bad]), Err(CodecError::NotFinite));
        }
    }

    #[test]
    fn audio_that_claims_to_be_long_or_loud_is_refused() {
        let message =
            |count: u32, scale: f32| [&FORMAT.to_le_bytes(), &count.to_le_bytes(), &scale.to_le_bytes(), &[1, 0][..]].concat();
        let read = |message: &[u8]| Reader::new(message, FORMAT).unwrap().audio("x");
        assert_eq!(read(&message(1, 0.5)), Ok(vec![0.5]));
        for (count, scale) in [(2, 0.5), (u32::MAX, 0.5), (1, f32::NAN), (1, 0.0), (1, -1.0), (1, f32::INFINITY), (1, 1e30)] {
            assert!(read(&message(count, scale)).is_err(), "{count} {scale}");
        }
    }

    proptest! {
        /// Every value comes back within 1/254 of its frame's largest absolute value; a chunk of 16 frames of 192 takes 3.1 kB.
        #[test]
        fn the_error_is_at_most_half_a_step(
            rows in prop::collection::vec(prop::collection::vec(prop_oneof![-1e3f32..1e3, -1e-30f32..1e-30, Just(3e38f32)], 5), 1..9),
        ) {
            let frames = Frames::from_vec(rows.concat(), 5);
            let message = written(&frames);
            prop_assert_eq!(message.len(), 12 + frames.frames() * 9);
            let mut reader = Reader::new(&message, FORMAT).unwrap();
            let found = reader.frames("x").unwrap();
            reader.finish().unwrap();
            for (row, expected) in found.rows().zip(frames.rows()) {
                let largest = expected.iter().fold(0f32, |largest, x| largest.max(x.abs()));
                for (found, expected) in row.iter().zip(expected) {
                    prop_assert!((found - expected).abs() <= largest / 254.0 * 1.000_01 + f32::MIN_POSITIVE * 127.0, "{found} {expected}");
                }
            }
        }

        /// Arbitrary bytes are a matrix or an error; what was read is never larger than the message.
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..400), frames in 0u32..9, dim in 0u32..40) {
            let message = [FORMAT.to_le_bytes().to_vec(), frames.to_le_bytes().to_vec(), dim.to_le_bytes().to_vec(), bytes].concat();
            let mut reader = Reader::new(&message, FORMAT).unwrap();
            if let Ok(found) = reader.frames("x") {
                prop_assert!(found.as_slice().len() <= message.len());
                prop_assert!(found.as_slice().iter().all(|x| x.is_finite()));
            }
        }

        #[test]
        fn a_message_that_is_cut_anywhere_is_refused(cut in 0usize..12) {
            let message = written(&Frames::from_vec(vec![1.0, 2.0, 3.0], 3));
            let read = |bytes: &[u8]| Reader::new(bytes, FORMAT).and_then(|mut reader| { let frames = reader.frames("x")?; reader.finish()?; Ok(frames) });
            prop_assert!(read(&message).is_ok());
            let cut_off = matches!(read(&message[..message.len() - 1 - cut]), Err(CodecError::Truncated { .. }));
            prop_assert!(cut_off);
            let longer = matches!(read(&[&message[..], &[0]].concat()), Err(CodecError::Trailing { bytes: 1 }));
            prop_assert!(longer);
        }
    }
}
