//! Ogg: Vorbis, Opus and FLAC. Each page contains its number, a checksum and the position of its last sample, so the length of a gap is
//! known exactly. Several streams can follow each other (`cat a.ogg b.ogg`).

use opus_decoder::OpusDecoder;
use symphonia::core::codecs::audio::well_known::{CODEC_ID_FLAC, CODEC_ID_VORBIS};

use super::bytes::Bytes;
use super::codec::{Codec, Undecodable};
use super::detect::is_file_or_tag;
use super::{Failure, Layout, Piece, Stream, flac};

const PAGE_HEADER_BYTES: usize = 27;
/// Maximum size of a page: the header and 255 segments of 255 bytes.
const PAGE_LIMIT_BYTES: usize = PAGE_HEADER_BYTES + 255 + 255 * 255;
/// Maximum size of the headers (codebooks, cover art in comments).
const PACKET_LIMIT_BYTES: usize = 64 << 20;
/// Rate at which Opus counts samples, independent of the recording.
const OPUS_RATE: u32 = 48_000;

/// A stream without its first pages begins at its first one if more than this is missing: a listener has joined it. Otherwise they are lost.
const JOINS_FROM_SECONDS: i64 = 10;

const CONTINUED: u8 = 1;
const FIRST: u8 = 2;
const LAST: u8 = 4;

pub(super) struct Ogg {
    bytes: Bytes,
    logical: Logical,
    /// Pieces ready for delivery: samples of a page and gaps between them.
    ready: std::collections::VecDeque<Ready>,
    /// Whether bytes since the last valid page belonged to no page.
    skipped: bool,
    /// Serial numbers of streams without audio.
    ignored: Vec<u32>,
    finished: bool,
}

enum Ready {
    Samples(Vec<f32>),
    Piece(Piece),
}

pub(super) fn detect(head: &[u8]) -> bool {
    head.starts_with(b"OggS")
}

/// Whether a page begins within these bytes.
pub(super) fn contains_page(bytes: &[u8]) -> bool {
    bytes.windows(5).any(|five| five == b"OggS\0")
}

/// One page with a correct checksum.
struct Page {
    flags: u8,
    /// Position after the last packet that ends on this page; -1 if none does.
    granule: i64,
    serial: u32,
    number: u32,
    /// Ends of packets in `body`; the rest continues on the next page.
    ends: Vec<usize>,
    body: Vec<u8>,
}

/// The logical stream being decoded.
struct Logical {
    serial: u32,
    kind: Kind,
    layout: Layout,
    next_page: u32,
    /// Remaining header packets.
    headers: usize,
    identification: Vec<u8>,
    /// The part of a packet on earlier pages; `None` if part of it is lost.
    partial: Option<Vec<u8>>,
    coder: Option<Coder>,
    /// Position of the next sample, at the codec's rate.
    position: Option<i64>,
    /// Samples before this position are not played.
    first: i64,
    /// Decoded interleaved samples whose position is not yet known, and the offset of a gap in them.
    pending: Vec<f32>,
    hole: Option<usize>,
    ended: bool,
    /// Whether a page after the headers was read.
    has_audio: bool,
    /// Whether pages are missing after the headers, and nothing else.
    joins: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Vorbis,
    Opus,
    Flac,
}

enum Coder {
    Symphonia(Codec),
    Opus { decoder: Box<OpusDecoder>, gain: f32, channels: usize, buffer: Vec<f32> },
}

impl Ogg {
    pub fn open(mut bytes: Bytes) -> Result<Self, Failure> {
        let mut skipped = false;
        let (mut found, mut ignored) = (Vec::new(), Vec::new());
        // A file begins with the first pages of all multiplexed streams.
        while let Some(page) = read_page(&mut bytes, &mut skipped)? {
            if page.flags & FIRST == 0 {
                break;
            }
            match Logical::begin(&page) {
                Ok(logical) => return Self::start(bytes, logical, ignored),
                Err(name) => {
                    found.push(name);
                    ignored.push(page.serial);
                }
            }
        }
        match found.iter().find(|name| !name.is_empty()) {
            Some(name) => Err(Failure::unsupported(name)),
            None => Err(Failure::Malformed("contains no audio stream".into())),
        }
    }

    fn start(bytes: Bytes, logical: Logical, ignored: Vec<u32>) -> Result<Self, Failure> {
        let mut ogg = Self { bytes, logical, ready: Default::default(), skipped: false, ignored, finished: false };
        // The first packet contains the rate and the channel count; the codebooks are required before the first sample.
        while ogg.logical.coder.is_none() {
            let Some(page) = read_page(&mut ogg.bytes, &mut ogg.skipped)? else {
                return Err(Failure::Malformed("is cut off within its header".into()));
            };
            if page.serial == ogg.logical.serial {
                ogg.logical.take(page, false, &mut ogg.ready)?;
            } else if page.flags & FIRST != 0 {
                ogg.ignored.push(page.serial);
            }
        }
        Ok(ogg)
    }

    /// Whether a stream that ends here is cut off: it had part of a page or of a packet more.
    fn is_half(&mut self) -> bool {
        std::mem::take(&mut self.skipped) || self.logical.partial.as_ref().is_some_and(|partial| !partial.is_empty())
    }

    /// Reads the next page and appends the completed pieces to `ready`.
    fn read(&mut self) -> Result<(), Failure> {
        let Some(page) = read_page(&mut self.bytes, &mut self.skipped)? else {
            self.finished = true;
            let half = self.is_half();
            return self.logical.finish(half && !self.logical.ended, &mut self.ready);
        };
        if page.flags & FIRST != 0 {
            let is_next = self.logical.ended || self.logical.has_audio;
            match Logical::begin(&page) {
                Ok(next) if is_next => {
                    let half = self.is_half();
                    if !self.logical.ended {
                        self.logical.finish(half, &mut self.ready)?;
                    }
                    self.logical = next;
                    self.ready.push_back(Ready::Piece(Piece::Next));
                }
                _ => self.ignored.push(page.serial),
            }
            return Ok(());
        }
        if page.serial == self.logical.serial {
            let damaged = std::mem::take(&mut self.skipped);
            self.logical.take(page, damaged, &mut self.ready)?;
        } else if !self.ignored.contains(&page.serial) {
            // The first page of this stream is damaged.
            self.ignored.push(page.serial);
            self.ready.push_back(Ready::Piece(Piece::CutOff { samples: 0 }));
        }
        Ok(())
    }
}

impl Stream for Ogg {
    fn layout(&self) -> Layout {
        self.logical.layout
    }

    fn announced(&self) -> Option<u64> {
        None
    }

    fn rest(&mut self) -> Option<&mut Bytes> {
        Some(&mut self.bytes)
    }

    fn next(&mut self, out: &mut Vec<f32>) -> Result<Piece, Failure> {
        loop {
            match self.ready.pop_front() {
                Some(Ready::Samples(samples)) if samples.is_empty() => {}
                Some(Ready::Samples(samples)) => {
                    out.extend_from_slice(&samples);
                    return Ok(Piece::Samples);
                }
                Some(Ready::Piece(piece)) => return Ok(piece),
                None if self.finished => return Ok(Piece::End),
                None => self.read()?,
            }
        }
    }
}

impl Logical {
    /// Parses the first page of a stream. The error is the name of an unsupported codec, or empty if the stream is not audio.
    fn begin(page: &Page) -> Result<Self, String> {
        let packet = page.ends.first().map_or(&page.body[..], |&end| &page.body[..end]);
        let u32_at = |at: usize| packet.get(at..at + 4).map_or(0, |b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        let (kind, layout, headers, first) = if packet.starts_with(b"\x01vorbis") && packet.len() >= 30 {
            (Kind::Vorbis, Layout { rate: u32_at(12), channels: packet[11].into() }, 2, 0)
        } else if packet.starts_with(b"OpusHead") && packet.len() >= 19 {
            let (channels, family) = (packet[9], packet[18]);
            if !(1..=2).contains(&channels) {
                return Err(format!("Ogg Opus with {channels} channels"));
            }
            // Other families than 0 list their streams: one, with the channels in the usual order.
            if family != 0 && packet.get(19..) != Some(&[1, channels - 1, 0, 1][..2 + usize::from(channels)]) {
                return Err(format!("Ogg Opus with mapping family {family}"));
            }
            let skip = i64::from(u16::from_le_bytes([packet[10], packet[11]]));
            (Kind::Opus, Layout { rate: OPUS_RATE, channels: channels.into() }, 1, skip)
        } else if packet.starts_with(b"\x7fFLAC") && packet.len() >= 51 {
            let Some(info) = flac::StreamInfo::read(&packet[17..]) else { return Err(String::new()) };
            (Kind::Flac, Layout { rate: info.rate, channels: info.channels }, 1, 0)
        } else {
            return Err(if packet.starts_with(b"Speex   ") { "Speex".into() } else { String::new() });
        };
        Ok(Self {
            serial: page.serial,
            kind,
            layout,
            next_page: page.number.wrapping_add(1),
            headers,
            identification: packet.to_vec(),
            partial: Some(Vec::new()),
            coder: None,
            position: None,
            first,
            pending: Vec::new(),
            hole: None,
            ended: false,
            has_audio: false,
            joins: false,
        })
    }

    /// Decodes a page's packets. `damaged`: the bytes before it belonged to no page.
    fn take(&mut self, page: Page, damaged: bool, ready: &mut std::collections::VecDeque<Ready>) -> Result<(), Failure> {
        if damaged || page.number != self.next_page {
            // Servers send the headers and then the current page.
            self.joins = !damaged && self.headers == 0 && !self.has_audio;
            self.lose();
        }
        self.next_page = page.number.wrapping_add(1);
        let begun = self.partial.as_ref().is_some_and(|partial| !partial.is_empty());
        match page.flags & CONTINUED != 0 {
            true if !begun => self.partial = None,
            true => {}
            false => {
                // The packet was begun on an earlier page and is not continued: it is lost.
                if begun {
                    self.lose();
                }
                self.partial = Some(Vec::new());
            }
        }
        let mut from = 0;
        for &end in &page.ends {
            let part = &page.body[from..end];
            from = end;
            match self.partial.replace(Vec::new()) {
                // The end of a packet whose beginning is lost.
                None => {}
                Some(begun) if begun.is_empty() => self.packet(part)?,
                Some(mut packet) => {
                    packet.extend_from_slice(part);
                    self.packet(&packet)?;
                }
            }
        }
        if let Some(partial) = &mut self.partial {
            if partial.len() > PACKET_LIMIT_BYTES {
                return Err(Failure::Malformed("has a packet of more than 64 MiB".into()));
            }
            partial.extend_from_slice(&page.body[from..]);
        }
        self.ended = page.flags & LAST != 0;
        if page.granule >= 0 && self.headers == 0 && self.coder.is_some() {
            self.place(page.granule, ready);
        }
        Ok(())
    }

    /// Records a gap of unknown length.
    fn lose(&mut self) {
        if self.headers == 0 {
            self.hole.get_or_insert(self.pending.len());
            if let Some(coder) = &mut self.coder {
                coder.reset();
            }
        }
        self.partial = None;
    }

    fn packet(&mut self, packet: &[u8]) -> Result<(), Failure> {
        if self.headers > 0 {
            self.headers -= 1;
            return self.header(packet);
        }
        // Further FLAC headers, whose number is not always declared.
        if self.kind == Kind::Flac && packet.first().is_some_and(|&byte| byte != 0xff) {
            return Ok(());
        }
        self.has_audio = true;
        let Some(coder) = &mut self.coder else { return Ok(()) };
        let before = self.pending.len();
        if !packet.is_empty() && coder.decode(packet, &mut self.pending).is_err() {
            self.pending.truncate(before);
            self.hole.get_or_insert(before);
            coder.reset();
        }
        Ok(())
    }

    fn header(&mut self, packet: &[u8]) -> Result<(), Failure> {
        let Layout { rate, channels } = self.layout;
        let broken = || Failure::Malformed("has a damaged header".into());
        match self.kind {
            Kind::Vorbis if self.headers > 0 => {}
            Kind::Vorbis => {
                if !packet.starts_with(b"\x05vorbis") {
                    return Err(broken());
                }
                let extra = [&self.identification, packet].concat();
                self.coder = Some(Coder::Symphonia(Codec::new(CODEC_ID_VORBIS, rate, channels, Some(&extra))?));
            }
            Kind::Opus => {
                let gain = i16::from_le_bytes([self.identification[16], self.identification[17]]);
                let decoder = OpusDecoder::new(OPUS_RATE, channels.into()).map_err(|_| broken())?;
                self.coder = Some(Coder::Opus {
                    // In 1/256 dB.
                    gain: 10f32.powf(f32::from(gain) / (20.0 * 256.0)),
                    channels: channels.into(),
                    buffer: vec![0.0; decoder.max_frame_size_per_channel() * usize::from(channels)],
                    decoder: Box::new(decoder),
                });
            }
            Kind::Flac => {
                let block = self.identification.get(17..51).ok_or_else(broken)?;
                self.coder = Some(Coder::Symphonia(Codec::new(CODEC_ID_FLAC, rate, channels, Some(block))?));
            }
        }
        Ok(())
    }

    /// Delivers the pending samples, which end at position `granule`. The samples missing up to that position are the length of the gap.
    fn place(&mut self, granule: i64, ready: &mut std::collections::VecDeque<Ready>) {
        let channels = usize::from(self.layout.channels.max(1));
        let mut samples = std::mem::take(&mut self.pending);
        let count = (samples.len() / channels) as i64;
        let hole = self.hole.take();
        let begins = granule.saturating_sub(count);
        let is_late = begins > i64::from(self.layout.rate) * JOINS_FROM_SECONDS;
        let (position, mut lost) = match self.position {
            _ if std::mem::take(&mut self.joins) && is_late => (begins, 0),
            Some(position) => (position, begins.saturating_sub(position)),
            // The beginning is damaged, or the only page contains more samples than its position allows.
            None if hole.is_some() || self.ended => (0, begins),
            // A stream extracted from a longer one begins after 0. One whose first page contains more samples than its position allows
            // begins before 0.
            None => (begins, 0),
        };
        if lost < 0 {
            // The position of the last page marks the end of the audio. On other pages, extra samples are an encoder's mistake.
            if self.ended {
                let keep = (count + lost).max(0) as usize * channels;
                samples.truncate(keep);
            }
            lost = 0;
        }
        self.position = Some(granule);
        // Samples before the first one to be played.
        let early = (self.first - position).clamp(0, (samples.len() / channels) as i64);
        samples.drain(..early as usize * channels);
        match hole {
            Some(at) if lost > 0 => {
                let at = at.saturating_sub(early as usize * channels).min(samples.len());
                let after = samples.split_off(at);
                ready.push_back(Ready::Samples(samples));
                ready.push_back(Ready::Piece(Piece::Lost { samples: lost as u64 }));
                ready.push_back(Ready::Samples(after));
            }
            // Without damage, a jump in the positions is an encoder's mistake.
            _ => ready.push_back(Ready::Samples(samples)),
        }
    }

    /// Ends this stream at the end of the file or at the next stream, if no page marked its end.
    fn finish(&mut self, half: bool, ready: &mut std::collections::VecDeque<Ready>) -> Result<(), Failure> {
        if let Some(position) = self.position {
            let count = (self.pending.len() / usize::from(self.layout.channels.max(1))) as i64;
            self.place(position.saturating_add(count), ready);
        } else if !self.pending.is_empty() {
            ready.push_back(Ready::Samples(std::mem::take(&mut self.pending)));
        }
        if half {
            ready.push_back(Ready::Piece(Piece::CutOff { samples: 0 }));
        } else if !self.ended && self.has_audio {
            log::warn!("an Ogg stream ends without an end marker; it may be truncated");
        }
        Ok(())
    }
}

impl Coder {
    fn decode(&mut self, packet: &[u8], out: &mut Vec<f32>) -> Result<(), Undecodable> {
        match self {
            Self::Symphonia(codec) => codec.decode(packet, out),
            Self::Opus { decoder, gain, channels, buffer } => {
                let frames = decoder.decode_float(packet, buffer, false).map_err(|_| Undecodable)?;
                let samples = buffer.get(..frames * *channels).ok_or(Undecodable)?;
                out.extend(samples.iter().map(|sample| sample * *gain));
                Ok(())
            }
        }
    }

    fn reset(&mut self) {
        match self {
            Self::Symphonia(codec) => codec.reset(),
            Self::Opus { decoder, .. } => decoder.reset(),
        }
    }
}

/// CRC-32 with polynomial 0x04c11db7, most significant bit first, over the page with its checksum set to zero.
const CRC: [u32; 256] = {
    let mut table = [0; 256];
    let mut at = 0;
    while at < 256 {
        let (mut crc, mut bit) = ((at as u32) << 24, 0);
        while bit < 8 {
            crc = crc << 1 ^ if crc & 0x8000_0000 != 0 { 0x04c1_1db7 } else { 0 };
            bit += 1;
        }
        table[at] = crc;
        at += 1;
    }
    table
};

fn crc(page: &[u8]) -> u32 {
    let step = |crc: u32, byte: u8| crc << 8 ^ CRC[usize::from((crc >> 24) as u8 ^ byte)];
    let zeroed = page.iter().enumerate().map(|(at, &byte)| if (22..26).contains(&at) { 0 } else { byte });
    zeroed.fold(0, step)
}

/// Reads the next page with a correct checksum; `None` at the end of the file. Sets `skipped` if bytes before it belonged to no page.
fn read_page(bytes: &mut Bytes, skipped: &mut bool) -> std::io::Result<Option<Page>> {
    loop {
        let head = bytes.fill(PAGE_HEADER_BYTES + 255)?;
        if head.is_empty() || !detect(head) && is_file_or_tag(head) {
            return Ok(None);
        }
        if let Some(length) = page_length(head) {
            let page = bytes.fill(length)?;
            if let Some(page) = page.get(..length).and_then(parse) {
                bytes.consume(length);
                return Ok(Some(page));
            }
        }
        *skipped = true;
        // Continue at the next capture pattern.
        let buffered = &bytes.fill(PAGE_LIMIT_BYTES)?[1..];
        let next = buffered.windows(4).position(|four| four == b"OggS").unwrap_or_else(|| buffered.len().saturating_sub(3));
        bytes.consume(1 + next);
        if bytes.fill(4)?.len() < 4 {
            bytes.consume(4);
        }
    }
}

fn page_length(head: &[u8]) -> Option<usize> {
    if !head.starts_with(b"OggS") || *head.get(4)? != 0 {
        return None;
    }
    let segments = usize::from(*head.get(26)?);
    let table = head.get(PAGE_HEADER_BYTES..PAGE_HEADER_BYTES + segments)?;
    Some(PAGE_HEADER_BYTES + segments + table.iter().map(|&length| usize::from(length)).sum::<usize>())
}

fn parse(page: &[u8]) -> Option<Page> {
    let u32_at = |at: usize| u32::from_le_bytes([page[at], page[at + 1], page[at + 2], page[at + 3]]);
    if crc(page) != u32_at(22) {
        return None;
    }
    let segments = usize::from(page[26]);
    let (mut ends, mut at) = (Vec::new(), 0);
    for &length in &page[PAGE_HEADER_BYTES..PAGE_HEADER_BYTES + segments] {
        at += usize::from(length);
        if length < 255 {
            ends.push(at);
        }
    }
    Some(Page {
        flags: page[5],
        granule: i64::from_le_bytes(page[6..14].try_into().ok()?),
        serial: u32_at(14),
        number: u32_at(18),
        ends,
        body: page[PAGE_HEADER_BYTES + segments..].to_vec(),
    })
}
