//! WAV and RF64: PCM, float, A-law and µ-law. Headers are not always correct: a recorder that was killed or that wrote to a pipe leaves
//! meaningless sizes, and ALSA's `S24_LE` has the tag of packed 24-bit samples.

use super::bytes::Bytes;
use super::detect::{self, is_container};
use super::{Failure, Layout, Piece, Stream};

/// Maximum size of the chunks in front of the audio.
pub(super) const HEADER_LIMIT_BYTES: u64 = 64 << 20;
/// Maximum size of a `fmt ` chunk, which has 16, 18 or 40 bytes.
const FORMAT_LIMIT_BYTES: u32 = 1 << 16;
/// Bytes decoded at a time.
const BLOCK_BYTES: usize = 16 << 10;
/// Sizes that recorders write if the length is unknown, minus their own header and rounded down to frames.
const UNKNOWN_SIZES: [u32; 4] = [0x7f00_0008, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff];
/// Metadata after audio of a declared size is at most this long.
const LONGEST_TAIL_BYTES: u64 = 16 << 20;
/// Audio of a file by which the alignment of 24-bit samples is decided: five seconds and more.
const ALIGNMENT_BYTES: usize = 1 << 20;
/// Sizes up to this much below one of [`UNKNOWN_SIZES`] also mean "unknown": sox writes 0x7ffff000, and 0x7f000008 in AIFF.
const UNKNOWN_BELOW: u32 = 0x1000;
/// Chunks that can follow an empty `data` chunk; any other bytes are audio.
const CHUNKS_AFTER_DATA: [&[u8; 4]; 20] = [
    b"LIST", b"list", b"fact", b"bext", b"id3 ", b"ID3 ", b"cue ", b"smpl", b"JUNK", b"junk", b"PEAK", b"iXML", b"axml", b"_PMX",
    b"afsp", b"DISP", b"PAD ", b"inst", b"levl", b"data",
];

/// Sample format, little-endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sample {
    U8,
    S16,
    S24,
    S32,
    /// 24 bits in the low three of four bytes (ALSA's S24_LE).
    S24In32,
    F32,
    F64,
    ALaw,
    MuLaw,
}

/// 24-bit samples in 4-byte containers, aligned low (ALSA) or high (the WAVE specification). The first audio that is not silent decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Coding {
    Known(Sample),
    S24Padded,
}

pub(super) struct Wav {
    bytes: Bytes,
    layout: Layout,
    coding: Coding,
    frame_bytes: usize,
    /// Remaining bytes of audio, if the header declares them.
    left: Option<u64>,
    announced: Option<u64>,
}

/// Whether a stream begins like a WAV file.
pub(super) fn detect(head: &[u8]) -> bool {
    head.len() >= 12 && matches!(&head[..4], b"RIFF" | b"RF64" | b"BW64") && &head[8..12] == b"WAVE"
}

/// The fields of the `fmt ` chunk.
struct Format {
    tag: u16,
    channels: u16,
    rate: u32,
    block_align: u16,
    bits: u16,
}

/// The result of reading a header: a stream, or a codec for another reader (ADPCM).
pub(super) enum Opened {
    Stream(Box<Wav>),
    Other(Bytes),
}

impl Wav {
    /// Reads the header up to the audio.
    pub fn open(mut bytes: Bytes) -> Result<Opened, Failure> {
        let is_rf64 = matches!(bytes.fill(12)?.get(..4), Some(b"RF64" | b"BW64"));
        // Nothing is consumed before the format is known, because the reader for ADPCM needs the header.
        let mut at = 12usize;
        let mut format: Option<Format> = None;
        let mut data_size_64 = None;
        loop {
            if at as u64 > HEADER_LIMIT_BYTES {
                return Err(Failure::Malformed("contains no audio in its first 64 MiB".into()));
            }
            let head = bytes.fill(at + 8)?;
            let Some(chunk) = head.get(at..at + 8) else {
                return Err(Failure::Malformed(match format {
                    None => "is cut off within its header".into(),
                    Some(_) => "contains no samples".into(),
                }));
            };
            let (id, size) = ([chunk[0], chunk[1], chunk[2], chunk[3]], u32_at(chunk, 4));
            match &id {
                b"data" => {
                    let Some(format) = format else {
                        return Err(Failure::Malformed("has its `data` chunk before its `fmt ` chunk".into()));
                    };
                    if matches!(format.tag, 0x0002 | 0x0011) {
                        // The other reader stops at the size of the file and not only of the audio; it reads to the end if both are the largest.
                        bytes.overwrite(4, u32::MAX.to_le_bytes());
                        if known_size(&mut bytes, at + 8, u64::from(size), &CHUNKS_AFTER_DATA)?.is_none() {
                            bytes.overwrite(at + 4, u32::MAX.to_le_bytes());
                        }
                        return Ok(Opened::Other(bytes));
                    }
                    let size = if is_rf64 && size == u32::MAX { data_size_64 } else { Some(u64::from(size)) };
                    bytes.consume(at + 8);
                    return Self::new(bytes, &format, size).map(|wav| Opened::Stream(Box::new(wav)));
                }
                b"fmt " if size > FORMAT_LIMIT_BYTES => {
                    return Err(Failure::Malformed(format!("contradictory header: a `fmt ` chunk of {size} bytes")));
                }
                b"fmt " => {
                    let end = at + 8 + size as usize;
                    let head = bytes.fill(end)?;
                    let Some(chunk) = head.get(at + 8..end) else {
                        return Err(Failure::Malformed("is cut off within its header".into()));
                    };
                    format = Some(Format::read(chunk)?);
                }
                b"ds64" => {
                    let head = bytes.fill(at + 8 + 16)?;
                    data_size_64 =
                        head.get(at + 16..at + 24).map(|part| u64::from(u32_at(part, 0)) | (u64::from(u32_at(part, 4)) << 32));
                }
                _ => {}
            }
            let padded = u64::from(size) + u64::from(size % 2);
            at = usize::try_from(at as u64 + 8 + padded).unwrap_or(usize::MAX);
            if at as u64 > HEADER_LIMIT_BYTES {
                return Err(Failure::Malformed(format!("has a header chunk of {size} bytes")));
            }
        }
    }

    fn new(mut bytes: Bytes, format: &Format, size: Option<u64>) -> Result<Self, Failure> {
        let (coding, frame_bytes) = format.coding()?;
        let layout = Layout { rate: format.rate, channels: format.channels };
        let left = match size {
            None => None,
            Some(size) => known_size(&mut bytes, 0, size, &CHUNKS_AFTER_DATA)?,
        };
        let announced = match left {
            Some(left) => Some(left / frame_bytes as u64),
            None => bytes.left().map(|left| left / frame_bytes as u64),
        };
        Ok(Self { bytes, layout, coding, frame_bytes, left, announced })
    }
}

/// The declared size of the audio that begins `at` bytes ahead, or `None` if it is one of those that stand for an unknown length. One of `chunks`
/// may follow audio of size 0.
pub(super) fn known_size(bytes: &mut Bytes, at: usize, size: u64, chunks: &[&[u8; 4]]) -> Result<Option<u64>, Failure> {
    if size == 0 {
        let next = bytes.fill(at + 8)?.get(at..).unwrap_or_default();
        if next.is_empty() || chunks.iter().any(|id| next.starts_with(*id)) {
            return Err(Failure::Malformed("contains no samples".into()));
        }
        return Ok(None);
    }
    let unknown = u32::try_from(size)
        .is_ok_and(|size| UNKNOWN_SIZES.iter().any(|unknown| size <= *unknown && unknown - size < UNKNOWN_BELOW));
    // A file that really has this length keeps its size; one that is longer than the header can say is read to its end.
    let left = bytes.left().map(|left| left.saturating_sub(at as u64));
    let wrong = left.is_none_or(|left| left < size || left - size > LONGEST_TAIL_BYTES);
    Ok(Some(size).filter(|_| !(unknown && wrong)))
}

impl Format {
    fn read(chunk: &[u8]) -> Result<Self, Failure> {
        if chunk.len() < 16 {
            return Err(Failure::Malformed(format!("contradictory header: a `fmt ` chunk of {} bytes", chunk.len())));
        }
        let mut tag = u16_at(chunk, 0);
        let bits = u16_at(chunk, 14);
        if tag == 0xfffe {
            // WAVE_FORMAT_EXTENSIBLE: the tag precedes a fixed GUID.
            const GUID: [u8; 14] = [0, 0, 0, 0, 0x10, 0, 0x80, 0, 0, 0xaa, 0, 0x38, 0x9b, 0x71];
            match chunk.get(24..40) {
                Some(guid) if guid[2..] == GUID => tag = u16_at(guid, 0),
                _ => return Err(Failure::unsupported("WAV with an unknown codec")),
            }
            if u16_at(chunk, 18) > bits {
                return Err(Failure::Malformed(format!(
                    "contradictory header: {} valid bits in samples of {bits} bits",
                    u16_at(chunk, 18)
                )));
            }
        }
        Ok(Self { tag, channels: u16_at(chunk, 2), rate: u32_at(chunk, 4), block_align: u16_at(chunk, 12), bits })
    }

    /// The sample format and bytes per frame. The header's bytes per second are redundant and ignored, as by ffmpeg and sox.
    fn coding(&self) -> Result<(Coding, usize), Failure> {
        let (bits, channels) = (self.bits, usize::from(self.channels));
        if channels == 0 {
            return Err(Failure::Malformed("has no channels".into()));
        }
        let least = usize::from(bits).div_ceil(8);
        let contradictory = || {
            Failure::Malformed(format!(
                "contradictory header: frames of {} bytes for {channels} channel(s) of {bits}-bit samples (codec {:#06x})",
                self.block_align, self.tag
            ))
        };
        let container = match usize::from(self.block_align) {
            0 => least,
            align if align % channels == 0 => align / channels,
            _ => return Err(contradictory()),
        };
        let known = |sample| Ok((Coding::Known(sample), container * channels));
        match (self.tag, bits, container) {
            (1, 1..=8, 1) => known(Sample::U8),
            (1, 9..=16, 2) => known(Sample::S16),
            (1, 17..=24, 3) => known(Sample::S24),
            (1, 24, 4) => Ok((Coding::S24Padded, container * channels)),
            (1, 25..=32, 4) => known(Sample::S32),
            (3, 32, 4) => known(Sample::F32),
            (3, 64, 8) => known(Sample::F64),
            (6, 8, 1) => known(Sample::ALaw),
            (7, 8, 1) => known(Sample::MuLaw),
            (1 | 3 | 6 | 7, ..) => Err(contradictory()),
            // ADPCM: decoded by another reader.
            (0x0002 | 0x0011, ..) => known(Sample::U8),
            (0x0055 | 0x0050, ..) => Err(Failure::unsupported("MP3 inside WAV")),
            (0x00ff | 0x1600 | 0x1610, ..) => Err(Failure::unsupported("AAC inside WAV")),
            (0x0160..=0x0163, ..) => Err(Failure::unsupported("WMA inside WAV")),
            (0x0031, ..) => Err(Failure::unsupported("GSM 6.10 inside WAV")),
            (tag, ..) => Err(Failure::unsupported(&format!("WAV with codec {tag:#06x}"))),
        }
    }
}

impl Stream for Wav {
    fn layout(&self) -> Layout {
        self.layout
    }

    fn announced(&self) -> Option<u64> {
        self.announced
    }

    fn rest(&mut self) -> Option<&mut Bytes> {
        Some(&mut self.bytes)
    }

    fn next(&mut self, out: &mut Vec<f32>) -> Result<Piece, Failure> {
        let (frame, left) = (self.frame_bytes, self.left.unwrap_or(u64::MAX));
        if left < frame as u64 {
            return self.after_the_audio(left);
        }
        // Audio from a pipe is delivered at once: this waits for one frame and includes everything that arrived with it.
        let available =
            self.bytes.fill(frame)?.len().min(BLOCK_BYTES.max(frame)).min(usize::try_from(left).unwrap_or(usize::MAX));
        let whole = available - available % frame;
        if whole == 0 {
            return Ok(match self.left {
                // An incomplete frame was just being written.
                None => Piece::End,
                Some(left) => {
                    self.left = Some(0);
                    Piece::CutOff { samples: left / frame as u64 }
                }
            });
        }
        let sample = match self.coding {
            Coding::Known(sample) => sample,
            Coding::S24Padded => {
                // A pipe does not wait for more audio than a block.
                let ahead = if self.bytes.left().is_some() { ALIGNMENT_BYTES } else { BLOCK_BYTES };
                let block = self.bytes.fill(ahead)?;
                let sample = alignment(&block[..block.len().min(usize::try_from(left).unwrap_or(usize::MAX))]);
                if let Some(sample) = sample {
                    self.coding = Coding::Known(sample);
                }
                // Recorders with 16-bit hardware are the usual case that stays undecided.
                sample.unwrap_or(Sample::S24In32)
            }
        };
        sample.decode(&self.bytes.buffered()[..whole], out);
        self.bytes.consume(whole);
        self.left = self.left.map(|left| left - whole as u64);
        Ok(Piece::Samples)
    }
}

impl Wav {
    /// Skips the metadata after the audio. Another file may follow.
    fn after_the_audio(&mut self, rest: u64) -> Result<Piece, Failure> {
        self.bytes.skip(rest)?;
        loop {
            let head = self.bytes.fill(detect::HEAD_BYTES + 1)?;
            // A byte of padding can follow the audio.
            if !is_container(head) && head.get(1..).is_some_and(is_container) {
                self.bytes.consume(1);
                return Ok(Piece::End);
            }
            let Some(chunk) = head.get(..8).filter(|chunk| CHUNKS_AFTER_DATA.iter().any(|id| chunk[..4] == **id)) else {
                return Ok(Piece::End);
            };
            let size = u64::from(u32_at(chunk, 4));
            self.bytes.skip(8 + size + size % 2)?;
        }
    }
}

/// Detects whether 24-bit samples are in the high or low bytes of their containers. In ALSA's format, the fourth byte repeats the sign
/// or is zero; in the other, the first byte is zero. `None` if both apply: silence, 16-bit samples in ALSA's format, and the other format below -48 dBFS.
fn alignment(block: &[u8]) -> Option<Sample> {
    let samples = || block.chunks_exact(4);
    let low_byte_unused = samples().all(|sample| sample[0] == 0);
    let high_byte_is_sign = samples().all(|sample| sample[3] == 0 || (sample[3] == 0xff && sample[2] & 0x80 != 0));
    match (low_byte_unused, high_byte_is_sign) {
        (true, true) => None,
        (true, false) => Some(Sample::S32),
        (false, _) => Some(Sample::S24In32),
    }
}

impl Sample {
    fn decode(self, bytes: &[u8], out: &mut Vec<f32>) {
        match self {
            Self::U8 => out.extend(bytes.iter().map(|&byte| (f32::from(byte) - 128.0) / 128.0)),
            Self::S16 => each(bytes, out, |b: [u8; 2]| f32::from(i16::from_le_bytes(b)) / 32_768.0),
            Self::S24 => each(bytes, out, |[a, b, c]: [u8; 3]| (i32::from_le_bytes([0, a, b, c]) >> 8) as f32 / 8_388_608.0),
            Self::S24In32 => {
                each(bytes, out, |[a, b, c, _]: [u8; 4]| (i32::from_le_bytes([0, a, b, c]) >> 8) as f32 / 8_388_608.0)
            }
            Self::S32 => each(bytes, out, |b: [u8; 4]| i32::from_le_bytes(b) as f32 / 2_147_483_648.0),
            Self::F32 => each(bytes, out, f32::from_le_bytes),
            Self::F64 => each(bytes, out, |b: [u8; 8]| f64::from_le_bytes(b) as f32),
            Self::ALaw => out.extend(bytes.iter().map(|&byte| a_law(byte))),
            Self::MuLaw => out.extend(bytes.iter().map(|&byte| mu_law(byte))),
        }
    }
}

fn each<const N: usize>(bytes: &[u8], out: &mut Vec<f32>, to_f32: impl Fn([u8; N]) -> f32) {
    out.extend(bytes.as_chunks::<N>().0.iter().map(|&sample| to_f32(sample)));
}

/// A-law (ITU-T G.711).
fn a_law(byte: u8) -> f32 {
    let code = byte ^ 0x55;
    let (exponent, mantissa) = (i32::from((code >> 4) & 7), i32::from(code & 15));
    let magnitude = match exponent {
        0 => (mantissa << 4) + 8,
        _ => ((mantissa << 4) + 0x108) << (exponent - 1),
    };
    (if code & 0x80 != 0 { magnitude } else { -magnitude }) as f32 / 32_768.0
}

/// µ-law (ITU-T G.711).
fn mu_law(byte: u8) -> f32 {
    let code = !byte;
    let magnitude = ((i32::from(code & 15) << 3) + 0x84) << ((code >> 4) & 7);
    (if code & 0x80 != 0 { 0x84 - magnitude } else { magnitude - 0x84 }) as f32 / 32_768.0
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}
