//! FLAC. Each frame contains its number and two checksums, so damaged frames are detected and their positions are known exactly.

use symphonia::core::codecs::audio::well_known::CODEC_ID_FLAC;

use super::bytes::Bytes;
use super::codec::Codec;
use super::{Failure, Layout, Piece, Stream, detect};

/// Maximum size of a frame header.
const HEADER_BYTES: usize = 16;
/// Maximum total size of the metadata blocks (cover art) in front of the audio.
const METADATA_LIMIT_BYTES: u64 = 256 << 20;

pub(super) struct Flac {
    bytes: Bytes,
    info: StreamInfo,
    codec: Codec,
    /// Samples before this stream; several can follow each other.
    position: u64,
    /// A frame that was read ahead, while the samples before it are reported as lost.
    waiting: Option<usize>,
    /// Whether bytes after the last whole frame were skipped.
    damaged: bool,
    ended: bool,
}

/// The required fields of STREAMINFO.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct StreamInfo {
    least_block: u16,
    largest_block: u16,
    pub rate: u32,
    pub channels: u16,
    bits: u32,
    total: u64,
}

/// Position and number of samples of a frame, from its header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Header {
    start: u64,
    samples: u32,
}

pub(super) fn detect(head: &[u8]) -> bool {
    head.starts_with(b"fLaC")
}

impl StreamInfo {
    pub fn read(block: &[u8]) -> Option<Self> {
        let block: &[u8; 34] = block.get(..34)?.try_into().ok()?;
        let field = u64::from_be_bytes([block[10], block[11], block[12], block[13], block[14], block[15], block[16], block[17]]);
        let info = Self {
            least_block: u16::from_be_bytes([block[0], block[1]]),
            largest_block: u16::from_be_bytes([block[2], block[3]]),
            rate: (field >> 44) as u32,
            channels: (field >> 41 & 7) as u16 + 1,
            bits: (field >> 36 & 31) as u32 + 1,
            total: field & 0xf_ffff_ffff,
        };
        (info.rate > 0 && info.bits >= 4 && info.largest_block >= 16).then_some(info)
    }

    /// Parses a frame header at the start of `bytes`.
    fn header(&self, bytes: &[u8]) -> Option<Header> {
        let &[0xff, sync @ (0xf8 | 0xf9), sizes, format, ..] = bytes else { return None };
        let variable = sync & 1 != 0;
        if format & 1 != 0 || sizes >> 4 == 0 || sizes & 15 == 15 {
            return None;
        }
        let channels = match format >> 4 {
            count @ 0..=7 => u16::from(count) + 1,
            8..=10 => 2,
            _ => return None,
        };
        let bits = match format >> 1 & 7 {
            0 => self.bits,
            1 => 8,
            2 => 12,
            4 => 16,
            5 => 20,
            6 => 24,
            7 => 32,
            _ => return None,
        };
        let (number, mut at) = coded_number(bytes, 4)?;
        let mut take = |count: usize| {
            let part = bytes.get(at..at + count)?;
            at += count;
            Some(part.iter().fold(0u32, |value, &byte| value << 8 | u32::from(byte)))
        };
        let samples = match sizes >> 4 {
            1 => 192,
            code @ 2..=5 => 576 << (code - 2),
            6 => take(1)? + 1,
            7 => take(2)? + 1,
            code => 256 << (code - 8),
        };
        let rate = match sizes & 15 {
            0 => self.rate,
            1 => 88_200,
            2 => 176_400,
            3 => 192_000,
            4 => 8_000,
            5 => 16_000,
            6 => 22_050,
            7 => 24_000,
            8 => 32_000,
            9 => 44_100,
            10 => 48_000,
            11 => 96_000,
            12 => take(1)? * 1_000,
            13 => take(2)?,
            _ => take(2)? * 10,
        };
        let crc = *bytes.get(at)?;
        let start = if variable { number } else { number * u64::from(self.block()) };
        let matches = crc8(&bytes[..at]) == crc
            && (channels, bits, rate) == (self.channels, self.bits, self.rate)
            && samples <= u32::from(self.largest_block)
            && (self.total == 0 || start < self.total);
        matches.then_some(Header { start, samples })
    }

    /// Maximum size of a frame: that of uncompressed samples.
    fn frame_limit(&self) -> usize {
        let bits = u64::from(self.largest_block) * u64::from(self.channels) * u64::from(self.bits + 1);
        (bits / 8) as usize + 256
    }

    /// Samples per frame, except the last, of a stream with fixed block size.
    fn block(&self) -> u16 {
        self.least_block.max(16)
    }
}

/// Parses FLAC's variable-length number at offset `at`; returns the number and the offset after it.
fn coded_number(bytes: &[u8], at: usize) -> Option<(u64, usize)> {
    let first = *bytes.get(at)?;
    let more = match first.leading_ones() {
        0 => return Some((u64::from(first), at + 1)),
        ones @ 2..=7 => ones as usize - 1,
        _ => return None,
    };
    let mut value = if more == 6 { 0 } else { u64::from(first) & (0x3f >> more) };
    for &byte in bytes.get(at + 1..at + 1 + more)? {
        if byte & 0xc0 != 0x80 {
            return None;
        }
        value = value << 6 | u64::from(byte & 0x3f);
    }
    Some((value, at + 1 + more))
}

/// Whether another stream begins here: the marker and the mandatory block after it.
fn is_marker(bytes: &[u8]) -> bool {
    bytes.starts_with(b"fLaC\0\0\0\x22") || bytes.starts_with(b"fLaC\x80\0\0\x22")
}

fn crc8(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |crc, &byte| (0..8).fold(crc ^ byte, |crc, _| crc << 1 ^ if crc & 0x80 != 0 { 7 } else { 0 }))
}

/// CRC-16 over a frame including its own checksum is 0.
const CRC16: [u16; 256] = {
    let mut table = [0; 256];
    let mut at = 0;
    while at < 256 {
        let (mut crc, mut bit) = ((at as u16) << 8, 0);
        while bit < 8 {
            crc = crc << 1 ^ if crc & 0x8000 != 0 { 0x8005 } else { 0 };
            bit += 1;
        }
        table[at] = crc;
        at += 1;
    }
    table
};

fn crc16(crc: u16, byte: u8) -> u16 {
    crc << 8 ^ CRC16[usize::from((crc >> 8) as u8 ^ byte)]
}

/// The end of a frame.
enum Boundary {
    /// The frame is complete and has this many bytes.
    Whole(usize),
    /// The frame is damaged; the next frame or stream begins after this many bytes.
    Damaged(usize),
    /// The stream ends within a frame of this many samples.
    CutOff(u64),
    /// The end of the file.
    End,
}

impl Flac {
    pub fn open(mut bytes: Bytes) -> Result<Self, Failure> {
        let info = read_metadata(&mut bytes)?;
        let codec = codec(&info)?;
        Ok(Self { bytes, info, codec, position: 0, waiting: None, damaged: false, ended: false })
    }

    /// Finds the end of the frame at the front: the position at which its checksum is correct and another header or the end follows.
    fn boundary(&mut self) -> std::io::Result<Boundary> {
        let own = self.info.header(self.bytes.fill(HEADER_BYTES)?);
        let (limit, least) = (self.info.frame_limit(), self.position + u64::from(own.is_some()));
        let (mut at, mut crc, mut next, mut closed) = (0, 0, None, Vec::new());
        loop {
            let buffer = self.bytes.fill(at + HEADER_BYTES + 1)?;
            if at >= buffer.len() {
                break;
            }
            if at > limit {
                return Ok(self.closed(&closed, next).unwrap_or(Boundary::Damaged(next.unwrap_or(at))));
            }
            // Everything buffered, except what could be part of a header.
            let end = if buffer.len() > at + HEADER_BYTES { buffer.len() - HEADER_BYTES } else { buffer.len() };
            while at < end && at <= limit {
                let rest = &buffer[at..];
                let is_whole = own.is_some() && crc == 0;
                if at > 0 && is_marker(rest) {
                    return Ok(match is_whole {
                        true => Boundary::Whole(at),
                        false => self.closed(&closed, next).unwrap_or(Boundary::Damaged(next.unwrap_or(at))),
                    });
                }
                let found = if at > 0 && rest[0] == 0xff { self.info.header(rest) } else { None };
                if let Some(found) = found {
                    if is_whole {
                        return Ok(Boundary::Whole(at));
                    }
                    // Either the frame is damaged, or these bytes look like a header by chance.
                    if found.start >= least {
                        next.get_or_insert(at);
                        if own.is_none() {
                            return Ok(Boundary::Damaged(at));
                        }
                    }
                }
                if at > 0 && is_whole && next.is_none() {
                    closed.push(at);
                }
                crc = crc16(crc, rest[0]);
                at += 1;
            }
        }
        if own.is_some() && next.is_none() && crc == 0 && at > 0 {
            return Ok(Boundary::Whole(at));
        }
        Ok(match (own, next) {
            (Some(own), None) => self.closed(&closed, None).unwrap_or(Boundary::CutOff(u64::from(own.samples))),
            (Some(_), Some(at)) => self.closed(&closed, next).unwrap_or(Boundary::Damaged(at)),
            (None, Some(next)) => Boundary::Damaged(next),
            (None, None) => Boundary::End,
        })
    }

    /// Handles a complete frame that is not followed by another: the next one is damaged, or a tag follows the last one. Returns the
    /// first length with a correct checksum that can be decoded.
    fn closed(&mut self, lengths: &[usize], next: Option<usize>) -> Option<Boundary> {
        let fits = |length: &&usize| next.is_none_or(|next| **length <= next);
        lengths.iter().filter(fits).find_map(|&length| {
            let mut samples = Vec::new();
            let frame = self.bytes.buffered().get(..length)?;
            (self.codec.decode(frame, &mut samples).is_ok() && !samples.is_empty()).then_some(Boundary::Whole(length))
        })
    }

    /// Decodes the frame of `length` bytes at the front.
    fn decode(&mut self, length: usize, out: &mut Vec<f32>) -> Result<Piece, Failure> {
        let frame = &self.bytes.fill(length)?[..length];
        let samples = self.info.header(frame).map_or(0, |header| u64::from(header.samples));
        let before = out.len();
        let decoded = self.codec.decode(frame, out).is_ok();
        self.bytes.consume(length);
        self.position += samples;
        match decoded && out.len() > before {
            true => Ok(Piece::Samples),
            false => {
                out.truncate(before);
                Ok(Piece::Lost { samples })
            }
        }
    }

    /// Ends this stream: samples that the header declares but the stream does not contain are lost. Another stream may follow.
    fn end(&mut self) -> Result<Piece, Failure> {
        let missing = self.info.total.saturating_sub(self.position);
        if missing > 0 {
            self.position = self.info.total;
            return Ok(Piece::CutOff { samples: missing });
        }
        if self.bytes.fill(4)?.starts_with(b"fLaC") {
            self.info = read_metadata(&mut self.bytes)?;
            (self.codec, self.position) = (codec(&self.info)?, 0);
            return Ok(Piece::Next);
        }
        self.ended = true;
        Ok(Piece::End)
    }
}

impl Stream for Flac {
    fn layout(&self) -> Layout {
        Layout { rate: self.info.rate, channels: self.info.channels }
    }

    fn announced(&self) -> Option<u64> {
        (self.info.total > 0).then_some(self.info.total)
    }

    fn rest(&mut self) -> Option<&mut Bytes> {
        Some(&mut self.bytes)
    }

    fn next(&mut self, out: &mut Vec<f32>) -> Result<Piece, Failure> {
        if let Some(length) = self.waiting.take() {
            return self.decode(length, out);
        }
        while !self.ended {
            if detect::is_file_or_tag(self.bytes.fill(detect::HEAD_BYTES)?) {
                return self.end();
            }
            match self.boundary()? {
                boundary @ (Boundary::End | Boundary::CutOff(_)) => {
                    // What begins as frames do is one with a damaged header; a tag is not.
                    let damaged = std::mem::take(&mut self.damaged) || self.bytes.buffered().first() == Some(&0xff);
                    self.bytes.skip(u64::MAX)?;
                    return match (boundary, self.info.total) {
                        (Boundary::CutOff(samples), 0) => Ok(Piece::CutOff { samples }),
                        // Without a length in the header, the loss is at least known.
                        (_, 0) if damaged => Ok(Piece::CutOff { samples: 0 }),
                        _ => self.end(),
                    };
                }
                Boundary::Damaged(length) => {
                    self.damaged = true;
                    self.bytes.consume(length);
                }
                Boundary::Whole(length) => {
                    self.damaged = false;
                    let header = self.info.header(self.bytes.buffered());
                    let start = header.map_or(self.position, |header| header.start);
                    if start > self.position {
                        let samples = start - self.position;
                        self.position = start;
                        self.waiting = Some(length);
                        return Ok(Piece::Lost { samples });
                    }
                    if start < self.position {
                        // A duplicate.
                        self.bytes.consume(length);
                        continue;
                    }
                    return self.decode(length, out);
                }
            }
        }
        Ok(Piece::End)
    }
}

/// A decoder for frames of this stream.
pub(super) fn codec_of(info: &StreamInfo, block: &[u8]) -> Result<Codec, Failure> {
    Codec::new(CODEC_ID_FLAC, info.rate, info.channels, Some(block))
}

fn codec(info: &StreamInfo) -> Result<Codec, Failure> {
    let mut block = [0; 34];
    block[..2].copy_from_slice(&info.least_block.max(16).to_be_bytes());
    block[2..4].copy_from_slice(&info.largest_block.to_be_bytes());
    let field = u64::from(info.rate) << 44 | u64::from(info.channels - 1) << 41 | u64::from(info.bits - 1) << 36 | info.total;
    block[10..18].copy_from_slice(&field.to_be_bytes());
    codec_of(info, &block)
}

/// Reads the marker and the metadata blocks up to the first frame.
fn read_metadata(bytes: &mut Bytes) -> Result<StreamInfo, Failure> {
    let cut_off = || Failure::Malformed("is cut off within its header".into());
    let begun = bytes.position();
    bytes.consume(4);
    let mut info = None;
    loop {
        let &[kind, a, b, c, ..] = bytes.fill(4)? else { return Err(cut_off()) };
        let length = u32::from_be_bytes([0, a, b, c]);
        bytes.consume(4);
        if kind & 0x7f == 0 {
            let block = bytes.fill(34)?.get(..34).ok_or_else(cut_off)?;
            info = Some(StreamInfo::read(block).ok_or_else(|| Failure::Malformed("has an invalid header".into()))?);
        }
        if bytes.position() - begun > METADATA_LIMIT_BYTES || bytes.skip(u64::from(length))? < u64::from(length) {
            return Err(cut_off());
        }
        if kind & 0x80 != 0 {
            return info.ok_or_else(|| Failure::Malformed("does not describe its format".into()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_every_length() {
        assert_eq!(coded_number(&[0x7f], 0), Some((127, 1)));
        assert_eq!(coded_number(&[0xc2, 0xa2], 0), Some((0xa2, 2)));
        assert_eq!(coded_number(&[0xe2, 0x82, 0xac], 0), Some((0x20ac, 3)));
        assert_eq!(coded_number(&[0xfe, 0x80, 0x80, 0x80, 0x80, 0x81, 0x80], 0), Some((64, 7)));
        assert_eq!(coded_number(&[0x80], 0), None);
        assert_eq!(coded_number(&[0xc2], 0), None);
    }
}
