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

pub(super) fn detect_aiff(head: &[u8]) -> bool {
    head.len() >= 12 && head.starts_with(b"FORM") && matches!(&head[8..12], b"AIFF" | b"AIFC")
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
