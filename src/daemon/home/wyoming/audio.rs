//! The audio of one connection: PCM of any format in, detections out.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;

use crate::audio::{AudioError, PcmFormat, Resampler};
use crate::engine::Encoder;
use crate::exit::{PolicyError, PolicySpec};
use crate::keyword::{
    Detection, Event, Keyword, KeywordError, KeywordSearch, SearchError, SearchOptions, Verifier, Watched, usable,
};
use crate::pack::Pack;
use crate::stream::{Representation, Session, SessionError};

/// Format changes within one stream; each one costs a new resampler.
const FORMAT_CHANGES: u32 = 16;
/// Channels of interleaved audio.
const CHANNELS: u64 = 64;
/// Remembered time stamps: more than ten seconds of audio in the usual chunks.
const TIME_STAMPS: usize = 1024;

/// What streams are computed with. Weights are shared by all of them.
pub struct Model {
    /// The encoder.
    pub encoder: Arc<Encoder>,
    /// The pack that the encoder was loaded from.
    pub pack: Arc<Pack>,
    /// Exit policy of each stream.
    pub policy: PolicySpec,
    /// Frames per chunk.
    pub chunk_frames: usize,
    /// How keywords are searched for.
    pub search: SearchOptions,
}

/// Sample rate, bytes per sample and channels of PCM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AudioFormat {
    /// Frames per second.
    pub rate: u32,
    /// Storage of a sample.
    pub sample: Sample,
    /// Interleaved channels.
    pub channels: usize,
}

/// Storage of a sample. One byte is signed here, as in the protocol's reference implementation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sample {
    /// Signed 8-bit.
    I8,
    /// More than one byte, little-endian.
    Pcm(PcmFormat),
}

/// Why a stream of audio was refused or could not be computed.
#[derive(Debug, thiserror::Error)]
pub enum AudioStreamError {
    /// The message says no such number.
    #[error("an audio message needs `{0}`, a positive whole number")]
    Missing(&'static str),
    /// No such sample width.
    #[error("audio with {0} bytes per sample; 1 to 4 are possible")]
    Width(u64),
    /// Too many channels.
    #[error("audio with {0} channels; 1 to {CHANNELS} are possible")]
    Channels(u64),
    /// A payload that ends within a frame.
    #[error("{bytes} bytes of audio are not a whole number of frames of {frame} bytes")]
    Partial {
        /// The payload.
        bytes: usize,
        /// A frame.
        frame: usize,
    },
    /// The format changes again and again.
    #[error("the audio format changes more than {FORMAT_CHANGES} times in one stream")]
    Changes,
    /// The rate is not possible.
    #[error(transparent)]
    Audio(#[from] AudioError),
    /// A keyword that cannot be searched for.
    #[error(transparent)]
    Keyword(#[from] KeywordError),
    /// The policy does not fit the pack.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// A chunk could not be computed.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// A chunk could not be searched.
    #[error(transparent)]
    Search(#[from] SearchError),
}

impl AudioFormat {
    /// From the numbers of a message.
    pub fn new(rate: u64, width: u64, channels: u64) -> Result<Self, AudioStreamError> {
        let sample = match width {
            1 => Sample::I8,
            2 => Sample::Pcm(PcmFormat::S16le),
            3 => Sample::Pcm(PcmFormat::S24le),
            4 => Sample::Pcm(PcmFormat::S32le),
            _ => return Err(AudioStreamError::Width(width)),
        };
        if !(1..=CHANNELS).contains(&channels) {
            return Err(AudioStreamError::Channels(channels));
        }
        // What does not fit is far above the rates that the resampler accepts.
        Ok(Self { rate: u32::try_from(rate).unwrap_or(u32::MAX), sample, channels: channels as usize })
    }

    fn sample_bytes(self) -> usize {
        match self.sample {
            Sample::I8 => 1,
            Sample::Pcm(format) => format.bytes(),
        }
    }

    fn frame_bytes(self) -> usize {
        self.sample_bytes() * self.channels
    }

    /// Appends the mean of the channels of each frame.
    fn mono(self, payload: &[u8], out: &mut Vec<f32>) -> Result<(), AudioStreamError> {
        let (bytes, frame) = (self.sample_bytes(), self.frame_bytes());
        if !payload.len().is_multiple_of(frame) {
            return Err(AudioStreamError::Partial { bytes: payload.len(), frame });
        }
        let decode = |sample: &[u8]| match self.sample {
            Sample::I8 => f32::from(sample[0] as i8) / 128.0,
            Sample::Pcm(format) => format.decode(sample),
        };
        let scale = 1.0 / self.channels as f32;
        out.extend(payload.chunks_exact(frame).map(|frame| frame.chunks_exact(bytes).map(decode).sum::<f32>() * scale));
        Ok(())
    }
}

/// A detection, for the peer.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// The name under which the peer requested the keyword.
    pub name: String,
    /// End of the keyword on the peer's clock, milliseconds.
    pub milliseconds: i64,
    /// Its score.
    pub score: f32,
}

/// One stream of audio, searched for keywords.
pub struct AudioStream {
    session: Session,
    finder: Finder,
    pack_rate: u32,
    input: Option<(AudioFormat, Resampler)>,
    changes: u32,
    mono: Vec<f32>,
    resampled: Vec<f32>,
}

/// The search, and the clock of its results.
struct Finder {
    search: KeywordSearch,
    /// Requested name of each keyword.
    names: Vec<String>,
    clock: Clock,
    found: Vec<Found>,
    detections: u64,
}

/// Maps positions to the peer's time stamps: position and milliseconds of the last chunks that had one.
struct Clock {
    stamps: VecDeque<(u64, i64)>,
    samples_per_millisecond: f64,
}

impl Clock {
    fn add(&mut self, position: u64, milliseconds: i64) {
        if self.stamps.len() == TIME_STAMPS {
            self.stamps.pop_front();
        }
        self.stamps.push_back((position, milliseconds));
    }

    fn at(&self, position: u64) -> i64 {
        let before = self.stamps.iter().rev().find(|(known, _)| *known <= position).or_else(|| self.stamps.front());
        let (known, milliseconds) = before.copied().unwrap_or((0, 0));
        let after = (position as f64 - known as f64) / self.samples_per_millisecond;
        milliseconds.saturating_add(after.round() as i64)
    }
}

impl Finder {
    fn chunk(&mut self, chunk: &Representation) -> Result<(), AudioStreamError> {
        let Self { search, names, clock, found, detections } = self;
        search.search(chunk, &mut |one| Self::take(names, clock, found, detections, one))
    }

    fn end(&mut self) -> Result<(), AudioStreamError> {
        let Self { search, names, clock, found, detections } = self;
        search.end(&mut |one| Self::take(names, clock, found, detections, one))
    }

    fn take(
        names: &[String],
        clock: &Clock,
        found: &mut Vec<Found>,
        detections: &mut u64,
        one: Detection<'_>,
    ) -> Result<(), AudioStreamError> {
        if one.event == Event::Detection {
            *detections += 1;
            found.push(Found { name: names[one.index].clone(), milliseconds: clock.at(one.end), score: one.score });
        }
        Ok(())
    }
}

impl AudioStream {
    /// A stream that is searched for `keywords`, each with the name under which it was requested.
    pub fn new(model: &Model, keywords: &[(String, PathBuf, Arc<Keyword>)]) -> Result<Self, AudioStreamError> {
        let audio = model.encoder.audio();
        let read = |(name, file, keyword): &(String, PathBuf, Arc<Keyword>)| {
            Ok((Watched::new_or_fixed(keyword, file, &model.search, &model.encoder)?, name.clone()))
        };
        let (watched, names) = usable(keywords.iter().map(read))?.into_iter().unzip();
        let verifier = Verifier::new(&model.encoder, model.chunk_frames).map_err(SessionError::from)?;
        let mut search = KeywordSearch::new(watched, Some(verifier));
        search.begin(audio.hop, model.chunk_frames);
        let options = search.session_options(model.chunk_frames);
        let session = Session::new(&model.encoder, model.policy.build(&model.pack)?, options).map_err(SessionError::from)?;
        let clock = Clock { stamps: VecDeque::new(), samples_per_millisecond: f64::from(audio.sample_rate) / 1e3 };
        Ok(Self {
            session,
            finder: Finder { search, names, clock, found: Vec::new(), detections: 0 },
            pack_rate: audio.sample_rate,
            input: None,
            changes: 0,
            mono: Vec::new(),
            resampled: Vec::new(),
        })
    }

    /// Takes PCM, and returns what was detected with it.
    pub fn push(
        &mut self,
        format: AudioFormat,
        milliseconds: Option<i64>,
        payload: &[u8],
    ) -> Result<Vec<Found>, AudioStreamError> {
        self.resampled.clear();
        if self.input.as_ref().is_none_or(|(known, _)| *known != format) {
            if let Some((_, resampler)) = &mut self.input {
                resampler.finish(&mut self.resampled);
                self.changes += 1;
                if self.changes > FORMAT_CHANGES {
                    return Err(AudioStreamError::Changes);
                }
            }
            self.input = Some((format, Resampler::new(format.rate, self.pack_rate)?));
        }
        if let Some(milliseconds) = milliseconds {
            self.finder.clock.add(self.session.received() + self.resampled.len() as u64, milliseconds);
        }
        self.session.push(&self.resampled)?;
        // In pieces of at most a second, so that memory does not depend on a message's length.
        for part in payload.chunks(format.frame_bytes() * format.rate as usize) {
            self.mono.clear();
            format.mono(part, &mut self.mono)?;
            self.resampled.clear();
            if let Some((_, resampler)) = &mut self.input {
                resampler.push(&self.mono, &mut self.resampled);
            }
            self.session.push(&self.resampled)?;
            self.session.each(|chunk| self.finder.chunk(chunk))?;
        }
        Ok(std::mem::take(&mut self.finder.found))
    }

    /// Ends the stream, and returns what was still pending.
    pub fn finish(&mut self) -> Result<Vec<Found>, AudioStreamError> {
        self.resampled.clear();
        if let Some((_, resampler)) = &mut self.input {
            resampler.finish(&mut self.resampled);
        }
        self.session.push(&self.resampled)?;
        self.session.finish();
        self.session.each(|chunk| self.finder.chunk(chunk))?;
        self.finder.end()?;
        Ok(std::mem::take(&mut self.finder.found))
    }

    /// Detections so far.
    pub fn detections(&self) -> u64 {
        self.finder.detections
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn mono(width: u64, channels: u64, payload: &[u8]) -> Vec<f32> {
        let mut out = Vec::new();
        AudioFormat::new(16_000, width, channels).unwrap().mono(payload, &mut out).unwrap();
        out
    }

    #[test]
    fn every_width_decodes_to_the_same_values() {
        assert_eq!(mono(1, 1, &[0x40, 0xc0]), [0.5, -0.5]);
        assert_eq!(mono(2, 1, &[0, 0x40, 0, 0xc0]), [0.5, -0.5]);
        assert_eq!(mono(3, 1, &[0, 0, 0x40, 0, 0, 0xc0]), [0.5, -0.5]);
        assert_eq!(mono(4, 1, &[0, 0, 0, 0x40, 0, 0, 0, 0xc0]), [0.5, -0.5]);
    }

    #[test]
    fn channels_are_averaged() {
        assert_eq!(mono(2, 2, &[0, 0x40, 0, 0, 0, 0xc0, 0, 0xc0]), [0.25, -0.5]);
    }

    #[test]
    fn impossible_formats_are_refused_with_their_numbers() {
        assert_eq!(AudioFormat::new(16_000, 5, 1).unwrap_err().to_string(), "audio with 5 bytes per sample; 1 to 4 are possible");
        assert!(AudioFormat::new(16_000, 2, 0).is_err() && AudioFormat::new(16_000, 2, 65).is_err());
        let partial = AudioFormat::new(16_000, 2, 2).unwrap().mono(&[0; 6], &mut Vec::new());
        assert_eq!(partial.unwrap_err().to_string(), "6 bytes of audio are not a whole number of frames of 4 bytes");
    }

    #[test]
    fn positions_are_on_the_peers_clock_also_after_a_pause() {
        let mut clock = Clock { stamps: VecDeque::new(), samples_per_millisecond: 16.0 };
        assert_eq!(clock.at(1_600), 100);
        clock.add(0, 5_000);
        clock.add(16_000, 60_000);
        assert_eq!((clock.at(8_000), clock.at(16_000), clock.at(17_600)), (5_500, 60_000, 60_100));
    }
}
