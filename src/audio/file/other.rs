//! Formats read by Symphonia's own readers: AIFF, and WAV with ADPCM.

use std::io::Read;
use std::sync::Mutex;

use symphonia::core::codecs::audio::{AudioDecoder, AudioDecoderOptions};
use symphonia::core::errors::Error;
use symphonia::core::formats::probe::Hint;
use symphonia::core::formats::{FormatOptions, FormatReader, TrackType};
use symphonia::core::io::{MediaSourceStream, ReadOnlySource};
use symphonia::core::meta::MetadataOptions;

use super::bytes::Bytes;
use super::wav::{HEADER_LIMIT_BYTES, known_size};
use super::{Failure, Layout, Piece, Stream};

pub(super) struct Other {
    format: Box<dyn FormatReader>,
    decoder: Box<dyn AudioDecoder>,
    track: u32,
    layout: Layout,
    announced: Option<u64>,
    position: u64,
    interleaved: Vec<f32>,
}

/// Symphonia requires readers that implement `Sync`.
struct Shared(Mutex<Bytes>);

impl Read for Shared {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        self.0.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner).read(out)
    }
}

/// Chunks that can follow an empty `SSND` chunk of AIFF; any other bytes are audio.
const CHUNKS_AFTER_SOUND: [&[u8; 4]; 12] =
    [b"COMM", b"MARK", b"INST", b"COMT", b"NAME", b"AUTH", b"(c) ", b"ANNO", b"AESD", b"MIDI", b"APPL", b"ID3 "];
/// A size of audio that no pipe reaches, even and less than that of the file.
const ENDLESS: u32 = 0x7fff_fffe;

pub(super) fn detect_aiff(head: &[u8]) -> bool {
    head.len() >= 12 && head.starts_with(b"FORM") && matches!(&head[8..12], b"AIFF" | b"AIFC")
}

/// Opens AIFF. Programs that write to a pipe, or were killed, have not filled in the sizes of the file and its audio, at which the reader would stop.
pub(super) fn open_aiff(mut bytes: Bytes) -> Result<Other, Failure> {
    bytes.overwrite(4, u32::MAX.to_be_bytes());
    let (mut at, mut endless) = (12usize, false);
    while let Some(chunk) = bytes.fill(at + 8)?.get(at..at + 8) {
        let size = u32::from_be_bytes([chunk[4], chunk[5], chunk[6], chunk[7]]);
        if chunk.starts_with(b"SSND") {
            let audio = at + 8;
            endless = known_size(&mut bytes, audio, u64::from(size), &CHUNKS_AFTER_SOUND)?.is_none();
            if endless {
                bytes.overwrite(at + 4, ENDLESS.to_be_bytes());
            }
            break;
        }
        let next = at as u64 + 8 + u64::from(size) + u64::from(size % 2);
        if next > HEADER_LIMIT_BYTES {
            return Err(Failure::Malformed(format!("has a header chunk of {size} bytes")));
        }
        at = next as usize;
    }
    let opened = Other::open(bytes, "aiff")?;
    Ok(Other { announced: opened.announced.filter(|_| !endless), ..opened })
}

impl Other {
    pub fn open(bytes: Bytes, extension: &str) -> Result<Self, Failure> {
        let mut hint = Hint::new();
        hint.with_extension(extension);
        let source = ReadOnlySource::new(Shared(Mutex::new(bytes)));
        let stream = MediaSourceStream::new(Box::new(source), Default::default());
        let malformed = |error: Error| Failure::Malformed(format!("has an invalid header: {error}"));
        let format = symphonia::default::get_probe()
            .probe(&hint, stream, FormatOptions::default(), MetadataOptions::default())
            .map_err(malformed)?;
        let described = || Failure::Malformed("does not describe its format".into());
        let track = format.default_track(TrackType::Audio).ok_or_else(described)?;
        // A recorder that was killed has left 0.
        let (track_id, announced) = (track.id, track.num_frames.filter(|&frames| frames > 0));
        let parameters = track.codec_params.as_ref().and_then(|parameters| parameters.audio()).ok_or_else(described)?;
        let rate = parameters.sample_rate.ok_or_else(described)?;
        let channels = parameters.channels.as_ref().map_or(0, |channels| channels.count()) as u16;
        let decoder = symphonia::default::get_codecs()
            .make_audio_decoder(parameters, &AudioDecoderOptions::default())
            .map_err(|_| Failure::unsupported("its codec"))?;
        let layout = Layout { rate, channels };
        Ok(Self { format, decoder, track: track_id, layout, announced, position: 0, interleaved: Vec::new() })
    }
}

impl Stream for Other {
    fn layout(&self) -> Layout {
        self.layout
    }

    fn announced(&self) -> Option<u64> {
        self.announced
    }

    /// Symphonia's readers keep it.
    fn rest(&mut self) -> Option<&mut Bytes> {
        None
    }

    fn next(&mut self, out: &mut Vec<f32>) -> Result<Piece, Failure> {
        loop {
            let packet = match self.format.next_packet() {
                Ok(Some(packet)) => packet,
                Err(Error::IoError(error)) if error.kind() != std::io::ErrorKind::UnexpectedEof => return Err(error.into()),
                Ok(None) | Err(_) => {
                    let missing = self.announced.map_or(0, |announced| announced.saturating_sub(self.position));
                    self.position += missing;
                    return Ok(if missing > 0 { Piece::CutOff { samples: missing } } else { Piece::End });
                }
            };
            if packet.track_id != self.track {
                continue;
            }
            let samples = packet.dur.get();
            let Ok(decoded) = self.decoder.decode(&packet) else {
                self.position += samples;
                return Ok(Piece::Lost { samples });
            };
            if decoded.spec().channels().count() != usize::from(self.layout.channels) {
                self.position += samples;
                return Ok(Piece::Lost { samples });
            }
            self.position += decoded.frames() as u64;
            decoded.copy_to_vec_interleaved(&mut self.interleaved);
            out.extend_from_slice(&self.interleaved);
            return Ok(Piece::Samples);
        }
    }
}
