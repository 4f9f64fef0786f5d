//! Sound files: WAV, FLAC, Ogg Vorbis, MP3, at any rate and channel count.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, bounded};
use symphonia::core::codecs::audio::{AudioDecoder, AudioDecoderOptions};
use symphonia::core::errors::Error as SymphoniaError;
use symphonia::core::formats::probe::Hint;
use symphonia::core::formats::{FormatOptions, FormatReader, TrackType};
use symphonia::core::io::MediaSourceStream;
use symphonia::core::meta::MetadataOptions;

use super::{
    AudioError, AudioErrorKind, ChannelPick, EventSender, Resampler, RingWriter, STOP_PATIENCE, Source, SourceEvent, SourceSpec,
};

/// A file that is read by a thread of its own, as fast as it is taken or at its own pace.
pub struct FileSource {
    spec: SourceSpec,
    decoder: Option<Decoder>,
    stop: Arc<AtomicBool>,
    done: Option<Receiver<()>>,
}

/// Sound per callback of a file that is played at its own pace.
const PACE: Duration = Duration::from_millis(20);

impl FileSource {
    /// Opens `path`. With `realtime`, it comes at its own pace as a microphone's sound would, and is dropped when nobody takes it.
    pub fn open(path: &Path, pick: ChannelPick, realtime: bool) -> Result<Self, AudioError> {
        let decoder = Decoder::open(path, pick)?;
        let spec = SourceSpec {
            name: decoder.place.clone(),
            sample_rate: decoder.sample_rate,
            channels: decoder.channels,
            live: realtime,
            total_samples: decoder.announced,
        };
        Ok(Self { spec, decoder: Some(decoder), stop: Arc::default(), done: None })
    }
}

impl Source for FileSource {
    fn spec(&self) -> &SourceSpec {
        &self.spec
    }

    fn start(&mut self, mut ring: RingWriter, events: EventSender) -> Result<(), AudioError> {
        let place = self.spec.name.clone();
        let error = |message: &str| AudioError::new(AudioErrorKind::Backend, place.clone(), message);
        let mut decoder = self.decoder.take().ok_or_else(|| error("was started before"))?;
        let (stop, live) = (self.stop.clone(), self.spec.live);
        let (done_sender, done) = bounded::<()>(0);
        let reader = move || {
            let _done = done_sender;
            let mut block = Vec::new();
            let began = Instant::now();
            let mut paced = 0u64;
            let outcome = loop {
                block.clear();
                match decoder.next_block(&mut block) {
                    Ok(true) if live => {
                        for callback in block.chunks((f64::from(decoder.sample_rate) * PACE.as_secs_f64()) as usize) {
                            paced += callback.len() as u64;
                            let due = began + Duration::from_secs_f64(paced as f64 / f64::from(decoder.sample_rate));
                            std::thread::sleep(due.saturating_duration_since(Instant::now()));
                            if stop.load(Ordering::Relaxed) {
                                return;
                            }
                            ring.push_live(callback);
                        }
                    }
                    Ok(true) => {
                        if !ring.push_blocking(&block, &stop) {
                            return;
                        }
                    }
                    Ok(false) => break Ok(()),
                    Err(error) => break Err(error),
                }
            };
            drop(ring);
            events.send(outcome.map_or_else(SourceEvent::Error, |()| SourceEvent::End));
        };
        let thread = std::thread::Builder::new().name("file".into()).spawn(reader);
        thread.map_err(|system| error(&format!("no thread to read it: {system}")))?;
        self.done = Some(done);
        Ok(())
    }

    fn stop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(done) = self.done.take() {
            // A reader that waits for a silent pipe cannot be woken; it is left behind, and pushes nothing more.
            let _ = done.recv_timeout(STOP_PATIENCE);
        }
    }
}

/// Decodes a whole file to mono at its own rate: samples and rate.
pub fn decode_file(path: &Path, pick: ChannelPick) -> Result<(Vec<f32>, u32), AudioError> {
    let mut decoder = Decoder::open(path, pick)?;
    let mut samples = Vec::new();
    while decoder.next_block(&mut samples)? {}
    Ok((samples, decoder.sample_rate))
}

/// Decodes a whole file to mono at `rate`.
pub fn decode_file_at(path: &Path, pick: ChannelPick, rate: u32) -> Result<Vec<f32>, AudioError> {
    let mut samples = Vec::new();
    read_file_at(path, pick, rate, |block| {
        samples.extend_from_slice(block);
        Ok::<_, AudioError>(())
    })?;
    Ok(samples)
}

/// Decodes a file to mono at `rate`, block by block, until `each` fails.
pub fn read_file_at<E: From<AudioError>>(
    path: &Path,
    pick: ChannelPick,
    rate: u32,
    mut each: impl FnMut(&[f32]) -> Result<(), E>,
) -> Result<(), E> {
    let mut decoder = Decoder::open(path, pick)?;
    let mut resampler = Resampler::new(decoder.sample_rate, rate)?;
    let (mut block, mut out) = (Vec::new(), Vec::new());
    while decoder.next_block(&mut block)? {
        resampler.push(&block, &mut out);
        each(&out)?;
        block.clear();
        out.clear();
    }
    resampler.finish(&mut out);
    each(&out)
}

/// An open file.
struct Decoder {
    place: String,
    pick: ChannelPick,
    format: Box<dyn FormatReader>,
    decoder: Box<dyn AudioDecoder>,
    track: u32,
    sample_rate: u32,
    channels: u16,
    /// Samples per channel that the header speaks of.
    announced: Option<u64>,
    decoded: u64,
    interleaved: Vec<f32>,
}

impl Decoder {
    fn open(path: &Path, pick: ChannelPick) -> Result<Self, AudioError> {
        let place = path.display().to_string();
        let not_readable = |error: std::io::Error| AudioError::new(AudioErrorKind::NotReadable, &place, error.to_string());
        let malformed = |message: String| AudioError::new(AudioErrorKind::Malformed, &place, message);
        let file = File::open(path).map_err(not_readable)?;
        let metadata = file.metadata().map_err(not_readable)?;
        if metadata.is_dir() {
            return Err(AudioError::new(AudioErrorKind::NotReadable, &place, "is a folder; name a sound file in it"));
        }
        if metadata.is_file() && metadata.len() == 0 {
            return Err(malformed("is empty".into()));
        }
        let mut hint = Hint::new();
        if let Some(extension) = path.extension().and_then(|extension| extension.to_str()) {
            hint.with_extension(extension);
        }
        let stream = MediaSourceStream::new(Box::new(file), Default::default());
        let format =
            symphonia::default::get_probe().probe(&hint, stream, FormatOptions::default(), MetadataOptions::default()).map_err(
                |error| malformed(format!("is no sound file that Bellis reads (WAV, FLAC, Ogg Vorbis, MP3): {error}")),
            )?;
        let track = format.default_track(TrackType::Audio).ok_or_else(|| malformed("holds no sound".into()))?;
        let (track_id, announced) = (track.id, track.num_frames);
        let parameters = track
            .codec_params
            .as_ref()
            .and_then(|parameters| parameters.audio())
            .ok_or_else(|| malformed("does not say how its sound is coded".into()))?;
        let sample_rate = parameters.sample_rate.ok_or_else(|| malformed("does not say its sample rate".into()))?;
        let channels = parameters.channels.as_ref().map_or(0, |channels| channels.count()) as u16;
        pick.check(channels, &place)?;
        if !(1_000..=384_000).contains(&sample_rate) {
            return Err(malformed(format!("says that it has {sample_rate} samples a second; 1,000 to 384,000 are possible")));
        }
        let decoder = symphonia::default::get_codecs()
            .make_audio_decoder(parameters, &AudioDecoderOptions::default())
            .map_err(|error| AudioError::new(AudioErrorKind::Unsupported, &place, format!("{error}; convert it to WAV")))?;
        if announced == Some(0) {
            return Err(malformed("holds no samples".into()));
        }
        let interleaved = Vec::new();
        Ok(Self { pick, format, decoder, track: track_id, sample_rate, channels, announced, decoded: 0, interleaved, place })
    }

    /// Appends the next mono samples to `out`; false at the end of the file.
    fn next_block(&mut self, out: &mut Vec<f32>) -> Result<bool, AudioError> {
        let broken = |at: u64, message: String| {
            AudioError::new(AudioErrorKind::Malformed, &self.place, format!("broken after sample {at}: {message}"))
        };
        loop {
            let packet = match self.format.next_packet() {
                Ok(Some(packet)) => packet,
                Ok(None) => return self.at_end(),
                // Some readers tell the end of a file that is cut off this way.
                Err(SymphoniaError::IoError(error)) if error.kind() == std::io::ErrorKind::UnexpectedEof => return self.at_end(),
                Err(error) => return Err(broken(self.decoded, error.to_string())),
            };
            if packet.track_id != self.track {
                continue;
            }
            let decoded = self.decoder.decode(&packet).map_err(|error| broken(self.decoded, error.to_string()))?;
            let channels = decoded.spec().channels().count() as u16;
            if channels != self.channels || decoded.spec().rate() != self.sample_rate {
                return Err(broken(self.decoded, "its rate or channels change there".into()));
            }
            self.decoded += decoded.frames() as u64;
            decoded.copy_to_vec_interleaved(&mut self.interleaved);
            if self.interleaved.is_empty() {
                continue;
            }
            self.pick.append(&self.interleaved, channels, out);
            return Ok(true);
        }
    }

    fn at_end(&self) -> Result<bool, AudioError> {
        match self.announced {
            Some(announced) if self.decoded < announced => Err(AudioError::new(
                AudioErrorKind::Malformed,
                &self.place,
                format!("is cut off: it announces {announced} samples and holds {}; what is there was processed", self.decoded),
            )),
            _ if self.decoded == 0 => Err(AudioError::new(AudioErrorKind::Malformed, &self.place, "holds no samples")),
            _ => Ok(false),
        }
    }
}
