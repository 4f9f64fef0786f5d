//! Ogg: Vorbis, Opus and FLAC. Every page has a number, a checksum and the position of its last sample, so that the length of a hole is
//! known exactly. Streams may follow each other (`cat a.ogg b.ogg`).

use opus_decoder::OpusDecoder;
use symphonia::core::codecs::audio::well_known::{CODEC_ID_FLAC, CODEC_ID_VORBIS};

use super::bytes::Bytes;
use super::codec::{Codec, Undecodable};
use super::{Failure, Layout, Piece, Stream, flac};

const PAGE_HEADER_BYTES: usize = 27;
/// 255 segments of 255 bytes and the header.
const PAGE_LIMIT_BYTES: usize = PAGE_HEADER_BYTES + 255 + 255 * 255;
/// Headers (codebooks, cover art in comments) of more than this are refused.
const PACKET_LIMIT_BYTES: usize = 64 << 20;
/// Opus counts samples at this rate, whatever was recorded.
const OPUS_RATE: u32 = 48_000;

const CONTINUED: u8 = 1;
const FIRST: u8 = 2;
const LAST: u8 = 4;

pub(super) struct Ogg {
    bytes: Bytes,
    logical: Logical,
    /// Pieces that are ready: samples of a page around a hole.
    ready: std::collections::VecDeque<Ready>,
    /// Bytes that belonged to no page since the last good one.
    skipped: bool,
    /// Serial numbers of streams that are no audio.
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

/// One page with a correct checksum.
struct Page {
    flags: u8,
    /// Position after the last packet that ends on this page; -1 where none does.
    granule: i64,
    serial: u32,
    number: u32,
    /// Ends of packets in `body`; what is behind the last one continues on the next page.
    ends: Vec<usize>,
    body: Vec<u8>,
}

/// The stream that is decoded.
struct Logical {
    serial: u32,
    kind: Kind,
    layout: Layout,
    next_page: u32,
    /// Packets of headers that are to come.
    headers: usize,
    identification: Vec<u8>,
    /// The part of a packet that earlier pages held; `None` while a hole is in it.
    partial: Option<Vec<u8>>,
    coder: Option<Coder>,
    /// Position of the next sample, in the codec's count.
    position: Option<i64>,
    /// Samples before this position are not played.
    first: i64,
    /// Decoded samples of packets that end on pages without a position so far, interleaved; and where in them something is missing.
    pending: Vec<f32>,
    hole: Option<usize>,
    ended: bool,
    /// A page was seen behind the headers.
    has_audio: bool,
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
        // The first pages of all multiplexed streams come first.
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
            None => Err(Failure::Malformed("holds no audio stream".into())),
        }
    }

    fn start(bytes: Bytes, logical: Logical, ignored: Vec<u32>) -> Result<Self, Failure> {
        let mut ogg = Self { bytes, logical, ready: Default::default(), skipped: false, ignored, finished: false };
        // The rate and the channels are known from the first packet; the codebooks are needed before the first sample.
        while ogg.logical.coder.is_none() {
            let Some(page) = read_page(&mut ogg.bytes, &mut ogg.skipped)? else {
                return Err(Failure::Malformed("its header is cut off".into()));
            };
            if page.serial == ogg.logical.serial {
                ogg.logical.take(page, false, &mut ogg.ready)?;
            }
        }
        Ok(ogg)
    }

    /// Reads the next page, and what it completes into `ready`.
    fn read(&mut self) -> Result<(), Failure> {
        let Some(page) = read_page(&mut self.bytes, &mut self.skipped)? else {
            self.finished = true;
            // Half a page, or half a packet: the file was cut off.
            let half =
                std::mem::take(&mut self.skipped) || self.logical.partial.as_ref().is_some_and(|partial| !partial.is_empty());
            return self.logical.finish(half && !self.logical.ended, &mut self.ready);
        };
        if page.flags & FIRST != 0 {
            let is_next = self.logical.ended || self.logical.has_audio;
            match Logical::begin(&page) {
                Ok(next) if is_next => {
                    if !self.logical.ended {
                        self.logical.finish(false, &mut self.ready)?;
                    }
                    self.skipped = false;
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
            // A stream whose first page is damaged.
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
    /// What the first page of a stream holds; the name of a coding that Bellis does not read otherwise, empty for what is no audio.
    fn begin(page: &Page) -> Result<Self, String> {
        let packet = page.ends.first().map_or(&page.body[..], |&end| &page.body[..end]);
        let u32_at = |at: usize| packet.get(at..at + 4).map_or(0, |b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        let (kind, layout, headers, first) = if packet.starts_with(b"\x01vorbis") && packet.len() >= 30 {
            (Kind::Vorbis, Layout { rate: u32_at(12), channels: packet[11].into() }, 2, 0)
        } else if packet.starts_with(b"OpusHead") && packet.len() >= 19 {
            if packet[18] != 0 || packet[9] > 2 {
                return Err(format!("Ogg Opus with {} channels", packet[9]));
            }
            let skip = i64::from(u16::from_le_bytes([packet[10], packet[11]]));
            (Kind::Opus, Layout { rate: OPUS_RATE, channels: packet[9].into() }, 1, skip)
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
        })
    }

    /// Decodes a page's packets. `damaged`: bytes in front of it belonged to no page.
    fn take(&mut self, page: Page, damaged: bool, ready: &mut std::collections::VecDeque<Ready>) -> Result<(), Failure> {
        if damaged || page.number != self.next_page {
            self.lose();
        }
        self.next_page = page.number.wrapping_add(1);
        let begun = self.partial.as_ref().is_some_and(|partial| !partial.is_empty());
        match page.flags & CONTINUED != 0 {
            true if !begun => self.partial = None,
            true => {}
            false => {
                // A packet that was begun and is not continued is lost.
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
                // The rest of a packet whose beginning is lost.
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
                return Err(Failure::Malformed("a packet of it is larger than 64 MiB".into()));
            }
            partial.extend_from_slice(&page.body[from..]);
        }
        self.ended = page.flags & LAST != 0;
        if page.granule >= 0 && self.headers == 0 && self.coder.is_some() {
            self.place(page.granule, ready);
        }
        Ok(())
    }

    /// Something is missing here.
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
        // Further headers of FLAC; their number is not always given.
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
        let broken = || Failure::Malformed("its header is damaged".into());
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

    /// Gives out what is pending, whose last sample is in front of `granule`; what a hole swallowed is what is missing up to there.
    fn place(&mut self, granule: i64, ready: &mut std::collections::VecDeque<Ready>) {
        let channels = usize::from(self.layout.channels.max(1));
        let mut samples = std::mem::take(&mut self.pending);
        let count = (samples.len() / channels) as i64;
        let hole = self.hole.take();
        let begins = granule.saturating_sub(count);
        let (position, mut lost) = match self.position {
            Some(position) => (position, begins.saturating_sub(position)),
            // The beginning is damaged, or the only page holds more than is to be played.
            None if hole.is_some() || self.ended => (0, begins),
            // A stream that was cut out of a longer one begins later than 0. One whose first page holds more than its position allows
            // begins before.
            None => (begins, 0),
        };
        if lost < 0 {
            // The last page says where the audio ends; other pages that hold too much are an encoder's mistake.
            if self.ended {
                let keep = (count + lost).max(0) as usize * channels;
                samples.truncate(keep);
            }
            lost = 0;
        }
        self.position = Some(granule);
        // What comes before the first sample to be played.
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
            // Without damage, a jump in the positions is an encoder's.
            _ => ready.push_back(Ready::Samples(samples)),
        }
    }

    /// The file ends, or another stream begins, and no page marked the end of this one.
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
            log::warn!("an Ogg stream ends without a mark: it may have been cut off");
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

/// Polynomial 0x04c11db7, highest bit first, over the page with its checksum as zeros.
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

/// The next page with a correct checksum; `skipped` is set when bytes in front of it were none, `None` at the end of the file.
fn read_page(bytes: &mut Bytes, skipped: &mut bool) -> std::io::Result<Option<Page>> {
    loop {
        let head = bytes.fill(PAGE_HEADER_BYTES + 255)?;
        if head.is_empty() {
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
        // Go on behind the mark, at the next one.
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
