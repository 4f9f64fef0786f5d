//! MP3. Frames have no positions: the audio between two valid frames is estimated from its size in bytes, which is exact at constant
//! bit rate.

use symphonia::core::codecs::audio::well_known::CODEC_ID_MP3;

use super::bytes::Bytes;
use super::codec::Codec;
use super::{Failure, Layout, Piece, Stream, detect};

/// Bytes searched for a frame before they are dropped.
const SEARCH_BLOCK_BYTES: usize = 64 << 10;
/// Maximum offset of the first frame of an MP3 file.
const SEARCH_LIMIT_BYTES: u64 = 1 << 20;
/// Maximum size of a frame: 320 kbit/s at 32 kHz.
const LONGEST_FRAME_BYTES: usize = 1_441;
/// Delay of every decoder, in samples.
const DECODER_DELAY: u64 = 529;
/// Maximum size of the bit reservoir: how far before a frame its main data can begin.
const RESERVOIR_BYTES: usize = 511;

const RATES: [u32; 3] = [44_100, 48_000, 32_000];
/// Bit rates of layer III, kbit/s: MPEG-1, then MPEG-2 and MPEG-2.5.
const BIT_RATES: [[u32; 15]; 2] = [
    [0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320],
    [0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160],
];

pub(super) struct Mpeg {
    bytes: Bytes,
    layout: Layout,
    codec: Codec,
    /// Stream information from the first frame, if present.
    info: Info,
    /// Decoded or lost samples of this stream, including the encoder delay.
    position: u64,
    frames: u64,
    frame_bytes: u64,
    /// Bytes of main data since the last gap; `None` if there was none.
    reservoir: Option<usize>,
    /// Samples after the declared end: encoder padding, unless frames follow.
    held: Vec<f32>,
    /// Samples in front of the first frame, which are damaged.
    before: u64,
    ended: bool,
}

/// The Xing, Info or VBRI frame.
#[derive(Debug, Clone, Copy, Default)]
struct Info {
    frames: Option<u64>,
    delay: u64,
    padding: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Header {
    /// Divisor of the sample rate: 1 for MPEG-1, 2 for MPEG-2, 4 for MPEG-2.5.
    version: u32,
    rate: u32,
    channels: u16,
    bytes: usize,
    has_crc: bool,
}

impl Header {
    fn read(bytes: &[u8]) -> Option<Self> {
        let &[0xff, b, c, d, ..] = bytes else { return None };
        // Only layer III; `detect` reports other layers.
        if b & 0xe6 != 0xe2 {
            return None;
        }
        let version = match b >> 3 & 3 {
            3 => 1,
            2 => 2,
            0 => 4,
            _ => return None,
        };
        let kilobits = *BIT_RATES[usize::from(version > 1)].get(usize::from(c >> 4)).filter(|&&rate| rate > 0)?;
        let rate = RATES.get(usize::from(c >> 2 & 3))? / version;
        let slots = if version == 1 { 144_000 } else { 72_000 };
        let bytes = (slots * kilobits / rate) as usize + usize::from(c >> 1 & 1);
        Some(Self { version, rate, channels: if d >> 6 == 3 { 1 } else { 2 }, bytes, has_crc: b & 1 == 0 })
    }

    fn samples(&self) -> u64 {
        if self.version == 1 { 1_152 } else { 576 }
    }

    fn layout(&self) -> Layout {
        Layout { rate: self.rate, channels: self.channels }
    }

    /// Whether a frame with this header can follow one with header `other`.
    fn continues(&self, other: &Self) -> bool {
        (self.version, self.rate, self.channels) == (other.version, other.rate, other.channels)
    }

    fn side_info_bytes(&self) -> usize {
        match (self.version, self.channels) {
            (1, 2) => 32,
            (1, _) | (_, 2) => 17,
            _ => 9,
        }
    }

    /// Offset of the side information.
    fn side_info(&self) -> usize {
        if self.has_crc { 6 } else { 4 }
    }

    /// Size of a frame's main data, and how far before the frame it begins, in bytes.
    fn main_data(&self, frame: &[u8]) -> (usize, usize) {
        let at = self.side_info();
        let own = frame.len().saturating_sub(at + self.side_info_bytes());
        let begin = match (self.version, frame.get(at..at + 2)) {
            (1, Some(&[a, b])) => usize::from(a) << 1 | usize::from(b >> 7),
            (_, Some(&[a, _])) => a.into(),
            _ => 0,
        };
        (own, begin)
    }

    /// Parses a Xing, Info or VBRI frame, which contains no audio.
    fn info(&self, frame: &[u8]) -> Option<Info> {
        let u32_at = |at: usize| Some(u32::from_be_bytes(frame.get(at..at + 4)?.try_into().ok()?));
        // A recorder that was killed has left 0.
        let frames_at = |at: usize| u32_at(at).map(u64::from).filter(|&frames| frames > 0);
        if frame.get(36..40) == Some(b"VBRI") {
            return Some(Info { frames: frames_at(50), ..Info::default() });
        }
        let at = 4 + self.side_info_bytes();
        if !matches!(frame.get(at..at + 4), Some(b"Xing" | b"Info")) {
            return None;
        }
        let flags = u32_at(at + 4)?;
        let field = |mask: u32| if flags & mask != 0 { 4 } else { 0 };
        let frames = if flags & 1 != 0 { frames_at(at + 8) } else { None };
        let lame = at + 8 + field(1) + field(2) + if flags & 4 != 0 { 100 } else { 0 } + field(8);
        let (mut delay, mut padding) = (0, 0);
        if let (Some(b"LAME" | b"Lavf" | b"Lavc"), Some(&[a, b, c])) =
            (frame.get(lame..lame + 4), frame.get(lame + 21..lame + 24))
        {
            delay = (u64::from(a) << 4 | u64::from(b >> 4)) + DECODER_DELAY;
            padding = (u64::from(b & 15) << 8 | u64::from(c)).saturating_sub(DECODER_DELAY);
        }
        Some(Info { frames, delay, padding })
    }
}

/// Size in bytes of the tag at the start of `head` (at least 32 bytes); 0 if there is none.
pub(super) fn tag_bytes(head: &[u8]) -> u64 {
    if let &[b'I', b'D', b'3', 2..=9, _, flags, a, b, c, d, ..] = head
        && (a | b | c | d) & 0x80 == 0
    {
        let size = [a, b, c, d].iter().fold(0u64, |size, &byte| size << 7 | u64::from(byte));
        return 10 + size + if flags & 0x10 != 0 { 10 } else { 0 };
    }
    if head.starts_with(b"TAG") {
        return 128;
    }
    if let (true, Some(&[a, b, c, d])) = (head.starts_with(b"APETAGEX"), head.get(12..16)) {
        // The size excludes the header of 32 bytes.
        return 32 + u64::from(u32::from_le_bytes([a, b, c, d]));
    }
    0
}

/// Whether several consecutive MP3 frames are at the front.
pub(super) fn detect(bytes: &mut Bytes) -> std::io::Result<bool> {
    bytes.fill(4)?;
    detect_at(bytes, 0)
}

/// The same within the first bytes: a stream that is joined late begins with a part of a frame.
pub(super) fn detect_later(bytes: &mut Bytes) -> std::io::Result<bool> {
    bytes.fill(2 * LONGEST_FRAME_BYTES)?;
    for at in 0..2 * LONGEST_FRAME_BYTES {
        if detect_at(bytes, at)? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn detect_at(bytes: &mut Bytes, at: usize) -> std::io::Result<bool> {
    match bytes.buffered().get(at..).and_then(Header::read) {
        Some(first) => follows(bytes, at, &first, 3),
        None => Ok(false),
    }
}

/// Whether `count` consecutive frames, or frames up to the end of the file, begin at `at`.
fn follows(bytes: &mut Bytes, mut at: usize, first: &Header, count: usize) -> std::io::Result<bool> {
    for number in 0..count {
        let buffer = bytes.fill(at + 4)?;
        if buffer.len() < at + 4 {
            // A single frame can be a coincidence.
            return Ok(number > 0 && buffer.len() >= at);
        }
        match Header::read(&buffer[at..]) {
            Some(header) if header.continues(first) => at += header.bytes,
            _ => return Ok(number > 0 && tag_bytes(bytes.fill(at + 32)?.get(at..).unwrap_or_default()) > 0),
        }
    }
    Ok(true)
}

/// The data at the current position.
enum Found {
    Frame(Header),
    /// This number of bytes is not a frame; a frame or a tag follows.
    Junk(u64),
    End,
}

impl Mpeg {
    pub fn open(mut bytes: Bytes) -> Result<Self, Failure> {
        let mut before = 0;
        let header = loop {
            match find(&mut bytes, None)? {
                Found::Frame(header) => break header,
                Found::Junk(bytes) => before += bytes,
                Found::End => return Err(Failure::Malformed("is not an MP3 file: it contains no frames".into())),
            }
        };
        let codec = Codec::new(CODEC_ID_MP3, header.rate, header.channels, None)?;
        let mut mpeg = Self {
            bytes,
            layout: header.layout(),
            codec,
            info: Info::default(),
            position: 0,
            frames: 0,
            frame_bytes: 0,
            reservoir: None,
            held: Vec::new(),
            // A stream that was joined late begins with a part of a frame; more than that is damage.
            before: before / header.bytes as u64 * header.samples(),
            ended: false,
        };
        mpeg.take_info(&header)?;
        Ok(mpeg)
    }

    /// Consumes the frame at the front if it contains stream information.
    fn take_info(&mut self, header: &Header) -> std::io::Result<bool> {
        let frame = self.bytes.fill(header.bytes)?;
        let found = frame.get(..header.bytes).and_then(|frame| header.info(frame));
        if let Some(info) = found {
            self.info = info;
            self.bytes.consume(header.bytes);
        }
        Ok(found.is_some())
    }

    /// Starts the next stream.
    fn begin(&mut self, header: &Header) -> Result<(), Failure> {
        if header.layout() == self.layout {
            self.codec.reset();
        } else {
            self.layout = header.layout();
            self.codec = Codec::new(CODEC_ID_MP3, header.rate, header.channels, None)?;
        }
        (self.info, self.position, self.frames, self.frame_bytes, self.reservoir) = (Info::default(), 0, 0, 0, None);
        self.held.clear();
        Ok(())
    }

    /// Samples up to the declared end.
    fn total(&self, header_samples: u64) -> Option<u64> {
        self.info.frames.map(|frames| (frames * header_samples).saturating_sub(self.info.padding))
    }

    /// Samples that the header declares but the stream does not contain.
    fn missing(&self) -> u64 {
        let samples = if self.layout.rate >= 32_000 { 1_152 } else { 576 };
        // Some encoders count the header frame, which contains no audio.
        self.total(samples).map_or(0, |total| total.saturating_sub(self.position).saturating_sub(samples))
    }

    /// Counts `samples` as lost, except the encoder delay, which is never played.
    fn lose(&mut self, samples: u64) -> Piece {
        let from = self.position.max(self.info.delay);
        self.position += samples;
        self.codec.reset();
        self.reservoir = Some(0);
        Piece::Lost { samples: self.position.saturating_sub(from) }
    }

    /// Decodes the frame at the front.
    fn decode(&mut self, header: &Header, out: &mut Vec<f32>) -> Result<Piece, Failure> {
        let frame = self.bytes.fill(header.bytes)?;
        let Some(frame) = frame.get(..header.bytes) else {
            self.bytes.skip(u64::MAX)?;
            self.ended = true;
            let missing = self.total(header.samples()).map_or(header.samples(), |total| total.saturating_sub(self.position));
            return Ok(if missing == 0 { Piece::End } else { Piece::CutOff { samples: missing } });
        };
        let (own, begin) = header.main_data(frame);
        // After a gap, the first frames refer to main data in lost frames.
        let incomplete = self.reservoir.is_some_and(|kept| begin > kept);
        self.reservoir = self.reservoir.map(|kept| (kept + own).min(RESERVOIR_BYTES));
        let mut samples = Vec::new();
        let decoded = self.codec.decode(frame, &mut samples).is_ok() && !incomplete;
        self.bytes.consume(header.bytes);
        self.frames += 1;
        self.frame_bytes += header.bytes as u64;
        let channels = usize::from(self.layout.channels);
        if !decoded || samples.len() != header.samples() as usize * channels {
            let (from, kept) = (self.position.max(self.info.delay), self.reservoir);
            self.position += header.samples();
            // An incomplete frame is decoded for the state that the next one needs.
            if !incomplete {
                self.codec.reset();
            }
            self.reservoir = if incomplete { kept } else { Some(0) };
            return Ok(Piece::Lost { samples: self.position.saturating_sub(from) });
        }
        // There are more frames than the header declares: the header is wrong, and there is no padding.
        if self.info.frames.is_some_and(|frames| self.frames > frames) {
            self.info.frames = None;
            out.append(&mut self.held);
        }
        let early = self.info.delay.saturating_sub(self.position).min(header.samples()) as usize * channels;
        let end = match self.total(header.samples()) {
            Some(total) => total.saturating_sub(self.position).min(header.samples()) as usize * channels,
            None => samples.len(),
        };
        self.position += header.samples();
        self.held.extend_from_slice(&samples[end..]);
        out.extend_from_slice(samples.get(early..end).unwrap_or_default());
        Ok(Piece::Samples)
    }
}

impl Stream for Mpeg {
    fn layout(&self) -> Layout {
        self.layout
    }

    fn announced(&self) -> Option<u64> {
        let samples = if self.layout.rate >= 32_000 { 1_152 } else { 576 };
        self.total(samples).map(|total| total.saturating_sub(self.info.delay))
    }

    fn rest(&mut self) -> Option<&mut Bytes> {
        Some(&mut self.bytes)
    }

    fn next(&mut self, out: &mut Vec<f32>) -> Result<Piece, Failure> {
        if self.ended {
            return Ok(Piece::End);
        }
        if self.before > 0 {
            let samples = std::mem::take(&mut self.before);
            return Ok(self.lose(samples));
        }
        let Layout { rate, channels } = self.layout;
        let last = Header { version: version_of(rate), rate, channels, bytes: 0, has_crc: false };
        match find(&mut self.bytes, Some(&last))? {
            Found::End => {
                self.ended = true;
                let missing = self.missing();
                Ok(if missing > 0 { Piece::CutOff { samples: missing } } else { Piece::End })
            }
            Found::Junk(bytes) => {
                // Estimated from the mean size of this stream's frames.
                let mean = self.frame_bytes.checked_div(self.frames).unwrap_or(0);
                let frames = (bytes + mean / 2).checked_div(mean).unwrap_or(0);
                let samples = if last.version == 1 { 1_152 } else { 576 };
                // Tags may follow the declared end.
                let is_complete = self.total(samples).is_some_and(|total| self.position >= total);
                let frames = if is_complete { 0 } else { frames };
                self.frames += frames;
                self.frame_bytes += frames * mean;
                Ok(if frames == 0 { Piece::Samples } else { self.lose(frames * samples) })
            }
            Found::Frame(header) => {
                let is_info =
                    self.bytes.fill(header.bytes)?.get(..header.bytes).is_some_and(|frame| header.info(frame).is_some());
                if is_info || header.layout() != self.layout {
                    let missing = self.missing();
                    if missing > 0 {
                        self.info.frames = None;
                        return Ok(Piece::CutOff { samples: missing });
                    }
                    self.begin(&header)?;
                    self.take_info(&header)?;
                    return Ok(Piece::Next);
                }
                self.decode(&header, out)
            }
        }
    }
}

fn version_of(rate: u32) -> u32 {
    match rate {
        32_000.. => 1,
        16_000.. => 2,
        _ => 4,
    }
}

/// Finds the next frame. At the expected position, a header like the `last` one is enough; elsewhere, further frames must follow.
fn find(bytes: &mut Bytes, last: Option<&Header>) -> Result<Found, Failure> {
    // Tags are not damage.
    loop {
        let tag = tag_bytes(bytes.fill(32)?);
        if tag == 0 {
            break;
        }
        bytes.skip(tag)?;
    }
    let head = bytes.fill(detect::HEAD_BYTES)?;
    if head.is_empty() || detect::is_container(head) {
        return Ok(Found::End);
    }
    if let (Some(header), Some(last)) = (Header::read(head), last)
        && header.continues(last)
    {
        return Ok(Found::Frame(header));
    }
    let (mut at, mut skipped, mut only_zeros) = (0, 0u64, true);
    loop {
        let buffer = bytes.fill(at + 32)?;
        let Some(rest) = buffer.get(at..).filter(|rest| !rest.is_empty()) else {
            // Zeros after the last frame are padding.
            bytes.consume(at);
            return Ok(if only_zeros { Found::End } else { Found::Junk(skipped + at as u64) });
        };
        let is_tag = tag_bytes(rest) > 0 && !rest.starts_with(b"TAG");
        if is_tag && skipped + at as u64 > 0 {
            bytes.consume(at);
            return Ok(Found::Junk(skipped + at as u64));
        }
        let (header, first) = (Header::read(rest), rest[0]);
        if let Some(header) = header {
            let chain = if last.is_some_and(|last| header.continues(last)) { 2 } else { 3 };
            if follows(bytes, at, &header, chain)? {
                bytes.consume(at);
                return Ok(if skipped + at as u64 == 0 { Found::Frame(header) } else { Found::Junk(skipped + at as u64) });
            }
        }
        only_zeros &= first == 0;
        at += 1;
        if at >= SEARCH_BLOCK_BYTES {
            bytes.consume(at);
            (at, skipped) = (0, skipped + at as u64);
            if last.is_none() && skipped >= SEARCH_LIMIT_BYTES {
                return Ok(Found::End);
            }
        }
    }
}
