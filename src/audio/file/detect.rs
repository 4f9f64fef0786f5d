//! Detection of a stream's format by its first bytes. File names are ignored.

use super::bytes::Bytes;
use super::{Failure, Stream, flac, mpeg, ogg, other, wav};

/// Maximum size of tags in front of the audio, including cover art.
const TAGS_LIMIT_BYTES: u64 = 256 << 20;

/// Formats that Bellis recognises but does not support: name, offset and magic bytes.
const NAMED: [(&str, usize, &[u8]); 22] = [
    ("MPEG-4 audio (AAC, M4A)", 4, b"ftyp"),
    ("AAC", 0, b"ADIF"),
    ("WMA or other ASF", 0, &[0x30, 0x26, 0xb2, 0x75, 0x8e, 0x66, 0xcf, 0x11]),
    ("Matroska or WebM", 0, &[0x1a, 0x45, 0xdf, 0xa3]),
    ("AMR", 0, b"#!AMR"),
    ("Core Audio (CAF)", 0, b"caff"),
    ("Sun/NeXT audio (AU)", 0, b".snd"),
    ("WavPack", 0, b"wvpk"),
    ("Monkey's Audio", 0, b"MAC "),
    ("True Audio", 0, b"TTA1"),
    ("Musepack", 0, b"MPCK"),
    ("Musepack", 0, b"MP+"),
    ("DSD", 0, b"DSD "),
    ("DSD", 0, b"FRM8"),
    ("Wave64", 0, b"riff\x2e\x91\xcf\x11"),
    ("big-endian WAV (RIFX)", 0, b"RIFX"),
    ("AVI", 8, b"AVI "),
    ("MIDI", 0, b"MThd"),
    ("NIST SPHERE", 0, b"NIST_1A"),
    ("Creative Voice", 0, b"Creative Voice File"),
    ("MPEG transport or program stream", 0, &[0, 0, 1, 0xba]),
    ("Flash video", 0, b"FLV\x01"),
];

/// Whether `head` begins like a file and not like raw PCM. Bare MPEG frames do not count: samples can look like them.
pub(super) fn is_container(head: &[u8]) -> bool {
    wav::detect(head)
        || flac::detect(head)
        || ogg::detect(head)
        || other::detect_aiff(head)
        || (head.starts_with(b"ID3") && mpeg::tag_bytes(head) > 0)
        || named(head).is_some()
}

/// Whether another file or its tags begin with `head`.
pub(super) fn is_file_or_tag(head: &[u8]) -> bool {
    is_container(head) || mpeg::tag_bytes(head) > 0
}

fn named(head: &[u8]) -> Option<&'static str> {
    NAMED.iter().find(|(_, at, mark)| head.get(*at..at + mark.len()) == Some(*mark)).map(|(name, ..)| *name)
}

/// Frames of AAC (ADTS) or MPEG layer II: the bytes of the frame, and what is the same in the next header.
fn frame(head: &[u8]) -> Option<(usize, [u8; 2])> {
    let &[0xff, b, c, d, e, f, ..] = head else { return None };
    if b & 0xf6 == 0xf0 {
        let bytes = usize::from(d & 3) << 11 | usize::from(e) << 3 | usize::from(f >> 5);
        return (bytes > 7 && c >> 2 & 15 < 13).then_some((bytes, [b, c & 0xfc]));
    }
    let mpeg_1 = match b & 0xfe {
        0xfc => true,
        0xf4 => false,
        _ => return None,
    };
    let kilobits = *LAYER_II[usize::from(!mpeg_1)].get(usize::from(c >> 4)).filter(|rate| **rate > 0)?;
    let rate = [44_100, 48_000, 32_000].get(usize::from(c >> 2 & 3))? / if mpeg_1 { 1 } else { 2 };
    let bytes = 144_000 * kilobits / rate + usize::from(c >> 1 & 1);
    Some((bytes, [b, c & 0xfc]))
}

/// Bit rates of layer II, kbit/s: MPEG-1, then MPEG-2.
const LAYER_II: [[usize; 15]; 2] = [
    [0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384],
    [0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160],
];
/// Successive frames that samples cannot look like.
const SURE: usize = 4;

/// Whether a stream begins with frames of a format that is not supported.
pub(super) fn has_unsupported_frames(bytes: &mut Bytes) -> std::io::Result<bool> {
    let Some((_, first)) = frame(bytes.fill(HEAD_BYTES)?) else { return Ok(false) };
    let mut at = 0;
    for _ in 0..SURE {
        let buffer = bytes.fill(at + HEAD_BYTES)?;
        match buffer.get(at..).and_then(frame) {
            Some((length, same)) if same == first => at += length,
            _ => return Ok(false),
        }
    }
    Ok(true)
}

/// Bytes that [`is_container`] needs.
pub(super) const HEAD_BYTES: usize = 32;

/// Skips ID3, APE and similar tags, with which FLAC files can begin, too.
pub(super) fn skip_tags(bytes: &mut Bytes) -> Result<(), Failure> {
    let begun = bytes.position();
    loop {
        let tag = mpeg::tag_bytes(bytes.fill(HEAD_BYTES)?);
        if tag == 0 {
            return Ok(());
        }
        if bytes.position() - begun + tag > TAGS_LIMIT_BYTES || bytes.skip(tag)? < tag {
            return Err(Failure::Malformed("is cut off within its tags and contains no audio".into()));
        }
    }
}

/// Opens the stream with the reader of its format.
pub(super) fn open(mut bytes: Bytes) -> Result<Box<dyn Stream>, Failure> {
    if bytes.fill(HEAD_BYTES)?.is_empty() {
        return Err(Failure::Malformed("is empty".into()));
    }
    skip_tags(&mut bytes)?;
    let head = bytes.fill(HEAD_BYTES)?;
    if let Some(name) = named(head) {
        return Err(Failure::unsupported(name));
    }
    if wav::detect(head) {
        return Ok(match wav::Wav::open(bytes)? {
            wav::Opened::Stream(wav) => wav,
            wav::Opened::Other(bytes) => Box::new(other::Other::open(bytes, "wav")?),
        });
    }
    if flac::detect(head) {
        return Ok(Box::new(flac::Flac::open(bytes)?));
    }
    if ogg::detect(head) {
        return Ok(Box::new(ogg::Ogg::open(bytes)?));
    }
    if other::detect_aiff(head) {
        return Ok(Box::new(other::open_aiff(bytes)?));
    }
    let within_ogg = ogg::contains_page(head);
    // ADTS, and the other layers of MPEG audio.
    match head {
        [0xff, b, ..] if b & 0xf6 == 0xf0 => return Err(Failure::unsupported("AAC")),
        [0xff, b, ..] if matches!(b & 0xe6, 0xe4 | 0xe6) && b & 0x18 != 0x08 => {
            return Err(Failure::unsupported("MPEG audio of layer I or II"));
        }
        _ => {}
    }
    mpeg::Mpeg::open(bytes).map(|mpeg| Box::new(mpeg) as Box<dyn Stream>).map_err(|failure| match failure {
        Failure::Malformed(_) if within_ogg => {
            Failure::Malformed("begins within an Ogg stream, without the headers that are needed to decode it".into())
        }
        Failure::Malformed(_) => Failure::Malformed("is not in a supported audio format (WAV, FLAC, Ogg, MP3, AIFF); raw PCM is read from standard input: `bellis run - --format s16le --rate 16000 < FILE`".into()),
        other => other,
    })
}
