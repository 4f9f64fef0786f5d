//! Audio files and pipes: WAV, FLAC, Ogg (Vorbis, Opus, FLAC), MP3, AIFF, at any rate and channel count.
//!
//! Each format has its own reader, which keeps positions correct across damage: a damaged frame is a gap of known length, and the audio
//! after it keeps its position. Damage is reported once, at the end, as [`AudioErrorKind::Damaged`].

mod bytes;
mod codec;
mod damage;
mod decoder;
mod detect;
mod flac;
mod mpeg;
mod ogg;
mod other;
mod wav;

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_channel::{Receiver, bounded};

use super::pace::Pace;
use super::{
    AudioError, AudioErrorKind, ChannelPick, EventSender, PcmFormat, PcmSource, Resampler, RingWriter, STOP_TIMEOUT, Source,
    SourceEvent, SourceSpec,
};
use bytes::Bytes;
use decoder::{Decoder, Next};

/// The next piece of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Piece {
    /// Samples were appended, possibly none.
    Samples,
    /// This number of samples per channel is damaged here.
    Lost { samples: u64 },
    /// The stream ends early: its header declares this number of further samples per channel, 0 if it declares no length. Another
    /// stream may follow.
    CutOff { samples: u64 },
    /// Another stream begins, with a layout of its own.
    Next,
    /// The end.
    End,
}

/// Rate and channels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Layout {
    rate: u32,
    channels: u16,
}

/// A reader of one format.
trait Stream: Send {
    /// Rate and channels of the next samples.
    fn layout(&self) -> Layout;

    /// Samples per channel that the header declares.
    fn announced(&self) -> Option<u64>;

    /// Appends the next samples, interleaved.
    fn next(&mut self, out: &mut Vec<f32>) -> Result<Piece, Failure>;

    /// After the end: what follows, if that was not read.
    fn rest(&mut self) -> Option<&mut Bytes>;
}

/// Why a stream cannot be read further.
#[derive(Debug)]
enum Failure {
    /// The system reported an error.
    Io(std::io::Error),
    /// The data is not valid.
    Malformed(String),
    /// The name of a format or codec that Bellis does not support.
    Unsupported(String),
}

impl Failure {
    fn unsupported(name: &str) -> Self {
        Self::Unsupported(name.to_owned())
    }

    fn at(self, place: &str) -> AudioError {
        match self {
            Self::Io(error) => AudioError::new(AudioErrorKind::NotReadable, place, error.to_string()),
            Self::Malformed(text) => AudioError::new(AudioErrorKind::Malformed, place, text),
            Self::Unsupported(name) => {
                let input = if place == STDIN { "-".to_owned() } else { place.replace('\'', r"'\''") };
                let text = format!("{name} is not supported; convert it: ffmpeg -i '{input}' -ac 1 -ar 16000 audio.wav");
                AudioError::new(AudioErrorKind::Unsupported, place, text)
            }
        }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error)
    }
}

/// Name of a pipe in errors.
const STDIN: &str = "standard input";

/// A file or pipe, read by its own thread as fast as it is processed, or in real time.
pub struct FileSource {
    spec: SourceSpec,
    decoder: Option<Decoder>,
    stop: Arc<AtomicBool>,
    done: Option<Receiver<()>>,
}

impl FileSource {
    /// Opens `path`. With `realtime`, it is delivered in real time like live audio, and audio that does not fit into the ring is dropped.
    pub fn open(path: &Path, pick: ChannelPick, realtime: bool) -> Result<Self, AudioError> {
        Ok(Self::new(open(path, pick)?, realtime))
    }

    fn new(decoder: Decoder, realtime: bool) -> Self {
        let spec = SourceSpec {
            name: decoder.place.clone(),
            sample_rate: decoder.layout.rate,
            channels: decoder.layout.channels,
            live: realtime,
            total_samples: decoder.announced,
        };
        Self { spec, decoder: Some(decoder), stop: Arc::default(), done: None }
    }
}

/// Layout of raw PCM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RawLayout {
    /// Sample format.
    pub format: PcmFormat,
    /// Samples per second.
    pub sample_rate: u32,
    /// Interleaved channels.
    pub channels: u16,
    /// Whether the user specified the format. If so, bytes that look like bare MP3 frames are read as samples.
    pub is_given: bool,
}

/// Opens standard input or another pipe: a file in any format that [`FileSource`] reads, or raw PCM. Waits for the first bytes.
pub fn open_pipe(
    reader: Box<dyn Read + Send>,
    raw: RawLayout,
    pick: ChannelPick,
    realtime: bool,
) -> Result<Box<dyn Source>, AudioError> {
    let not_readable = |error: std::io::Error| Failure::from(error).at(STDIN);
    let mut bytes = Bytes::new(reader, None);
    if bytes.fill(1).map_err(not_readable)?.is_empty() {
        return Err(AudioError::new(AudioErrorKind::Malformed, STDIN, "is empty: the program that feeds the pipe wrote nothing"));
    }
    let is_file = detect::is_container(bytes.fill(detect::HEAD_BYTES).map_err(not_readable)?)
        || (!raw.is_given
            && (mpeg::detect_later(&mut bytes).map_err(not_readable)?
                || ogg::contains_page(bytes.buffered())
                || detect::has_unsupported_frames(&mut bytes).map_err(not_readable)?));
    if is_file {
        return Ok(Box::new(FileSource::new(Decoder::open(bytes, STDIN.to_owned(), pick)?, realtime)));
    }
    let source = PcmSource::new(Box::new(bytes), STDIN, raw.format, raw.sample_rate, raw.channels, pick)?;
    Ok(Box::new(source.in_real_time(realtime)))
}

fn open(path: &Path, pick: ChannelPick) -> Result<Decoder, AudioError> {
    let place = path.display().to_string();
    let not_readable = |error: std::io::Error| Failure::from(error).at(&place);
    let file = File::open(path).map_err(not_readable)?;
    let metadata = file.metadata().map_err(not_readable)?;
    if metadata.is_dir() {
        return Err(AudioError::new(AudioErrorKind::NotReadable, &place, "is a folder; pass an audio file"));
    }
    let length = metadata.is_file().then_some(metadata.len());
    Decoder::open(Bytes::new(Box::new(file), length), place, pick)
}

impl Source for FileSource {
    fn spec(&self) -> &SourceSpec {
        &self.spec
    }

    fn start(&mut self, mut ring: RingWriter, events: EventSender) -> Result<(), AudioError> {
        let place = self.spec.name.clone();
        let error = |message: &str| AudioError::new(AudioErrorKind::Backend, place.clone(), message);
        let mut decoder = self.decoder.take().ok_or_else(|| error("was already started"))?;
        let (stop, live, rate) = (self.stop.clone(), self.spec.live, self.spec.sample_rate);
        let (done_sender, done) = bounded::<()>(0);
        let reader = move || {
            let _done = done_sender;
            let mut block = Vec::new();
            let mut pace = Pace::new(rate);
            let outcome = loop {
                block.clear();
                match decoder.next(&mut block) {
                    Ok(Next::Samples) if live => {
                        for callback in block.chunks(pace.period()) {
                            pace.wait(callback.len());
                            if stop.load(Ordering::Relaxed) {
                                return;
                            }
                            ring.push_live(callback);
                        }
                    }
                    Ok(Next::Samples) => {
                        if !ring.push_blocking(&block, &stop) {
                            return;
                        }
                    }
                    Ok(Next::Lost(samples)) => {
                        pace.skip(samples);
                        ring.lose(samples);
                    }
                    Ok(Next::End) => break decoder.damage(),
                    Err(error) => break Err(error),
                }
            };
            drop(ring);
            events.send(outcome.map_or_else(SourceEvent::Error, |()| SourceEvent::End));
        };
        let thread = std::thread::Builder::new().name("file".into()).spawn(reader);
        thread.map_err(|system| error(&format!("cannot start a thread: {system}")))?;
        self.done = Some(done);
        Ok(())
    }

    fn stop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(done) = self.done.take() {
            // A thread that waits for an idle pipe cannot be woken. It is abandoned, and writes nothing more to the ring.
            let _ = done.recv_timeout(STOP_TIMEOUT);
        }
    }
}

/// Decodes a whole file to mono and returns the samples and their rate.
///
/// # Errors
///
/// A damaged file is an error of kind [`AudioErrorKind::Damaged`].
pub fn decode_file(path: &Path, pick: ChannelPick) -> Result<(Vec<f32>, u32), AudioError> {
    let mut decoder = open(path, pick)?;
    let mut samples = Vec::new();
    while decoder.next(&mut samples)? != Next::End {}
    decoder.damage()?;
    Ok((samples, decoder.layout.rate))
}

/// Decodes a whole file to mono at `rate`.
///
/// # Errors
///
/// A damaged file is an error of kind [`AudioErrorKind::Damaged`].
pub fn decode_file_at(path: &Path, pick: ChannelPick, rate: u32) -> Result<Vec<f32>, AudioError> {
    let mut samples = Vec::new();
    read_file_at(path, pick, rate, |block| {
        samples.extend_from_slice(block);
        Ok::<_, AudioError>(())
    })?;
    Ok(samples)
}

/// Decodes a stream in any format that [`FileSource`] reads to mono at `rate`; `place` names it in errors.
///
/// # Errors
///
/// A damaged stream is an error of kind [`AudioErrorKind::Damaged`].
pub fn decode_stream_at(reader: Box<dyn Read + Send>, place: &str, pick: ChannelPick, rate: u32) -> Result<Vec<f32>, AudioError> {
    let mut samples = Vec::new();
    read_at(Decoder::open(Bytes::new(reader, None), place.to_owned(), pick)?, rate, |block| {
        samples.extend_from_slice(block);
        Ok::<_, AudioError>(())
    })?;
    Ok(samples)
}

/// Decodes a file to mono at `rate` and calls `each` per block until it fails. Damaged parts are replaced by silence, so that
/// positions stay correct.
///
/// # Errors
///
/// A damaged file is an error of kind [`AudioErrorKind::Damaged`], after all blocks.
pub fn read_file_at<E: From<AudioError>>(
    path: &Path,
    pick: ChannelPick,
    rate: u32,
    each: impl FnMut(&[f32]) -> Result<(), E>,
) -> Result<(), E> {
    read_at(open(path, pick)?, rate, each)
}

fn read_at<E: From<AudioError>>(mut decoder: Decoder, rate: u32, mut each: impl FnMut(&[f32]) -> Result<(), E>) -> Result<(), E> {
    let mut resampler = Resampler::new(decoder.layout.rate, rate)?;
    let (mut block, mut out) = (Vec::new(), Vec::new());
    loop {
        match decoder.next(&mut block)? {
            Next::Samples => resampler.push(&block, &mut out),
            Next::Lost(samples) => {
                let silence = [0.0; 1024];
                for from in (0..samples).step_by(silence.len()) {
                    resampler.push(&silence[..(samples - from).min(silence.len() as u64) as usize], &mut out);
                    each(&out)?;
                    out.clear();
                }
            }
            Next::End => break,
        }
        each(&out)?;
        block.clear();
        out.clear();
    }
    resampler.finish(&mut out);
    each(&out)?;
    Ok(decoder.damage()?)
}
