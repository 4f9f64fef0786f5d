//! Raw PCM from a pipe.

use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_channel::{Receiver, bounded};

use super::channels::Downmix;
use super::pace::Pace;
use super::{
    AudioError, AudioErrorKind, ChannelPick, EventSender, RingWriter, SAMPLE_RATES, STOP_TIMEOUT, Source, SourceEvent, SourceSpec,
};
use crate::names::named;

/// Sample format of raw PCM, little-endian, with the names of ffmpeg and ALSA.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum PcmFormat {
    /// Unsigned 8-bit (ffmpeg: u8, ALSA: U8)
    #[serde(alias = "U8")]
    U8,
    /// Signed 16-bit (ffmpeg: s16le, ALSA: S16_LE)
    #[serde(alias = "S16_LE")]
    S16le,
    /// Signed 24-bit in three bytes (ffmpeg: s24le, ALSA: S24_3LE)
    #[serde(alias = "S24_3LE")]
    S24le,
    /// Signed 24-bit in the low three of four bytes (ALSA: S24_LE)
    #[serde(rename = "S24_LE")]
    S24In32,
    /// Signed 32-bit (ffmpeg: s32le, ALSA: S32_LE)
    #[serde(alias = "S32_LE")]
    S32le,
    /// 32-bit float (ffmpeg: f32le, ALSA: FLOAT_LE)
    #[serde(alias = "FLOAT_LE")]
    F32le,
}

named!(PcmFormat, "PCM format", {
    U8 => "u8", S16le => "s16le", S24le => "s24le", S24In32 => "S24_LE", S32le => "s32le", F32le => "f32le",
});

impl PcmFormat {
    /// Bytes per sample.
    pub fn bytes(self) -> usize {
        match self {
            Self::U8 => 1,
            Self::S16le => 2,
            Self::S24le => 3,
            Self::S24In32 | Self::S32le | Self::F32le => 4,
        }
    }

    /// Converts one sample to f32 in −1 to 1.
    pub(crate) fn decode(self, b: &[u8]) -> f32 {
        match (self, b) {
            (Self::U8, &[a]) => (f32::from(a) - 128.0) / 128.0,
            (Self::S16le, &[a, b]) => f32::from(i16::from_le_bytes([a, b])) / 32_768.0,
            (Self::S24le, &[a, b, c]) | (Self::S24In32, &[a, b, c, _]) => {
                (i32::from_le_bytes([0, a, b, c]) >> 8) as f32 / 8_388_608.0
            }
            (Self::S32le, &[a, b, c, d]) => i32::from_le_bytes([a, b, c, d]) as f32 / 2_147_483_648.0,
            (Self::F32le, &[a, b, c, d]) => f32::from_le_bytes([a, b, c, d]),
            _ => 0.0,
        }
    }
}

/// Raw PCM from any reader, read by its own thread.
pub struct PcmSource {
    spec: SourceSpec,
    reader: Option<Box<dyn Read + Send>>,
    format: PcmFormat,
    pick: ChannelPick,
    stop: Arc<AtomicBool>,
    done: Option<Receiver<()>>,
}

/// Maximum bytes per read.
const READ_BYTES: usize = 16 << 10;

impl PcmSource {
    /// Creates a source that delivers everything from `reader` without drops. `name` identifies it in messages.
    pub fn new(
        reader: Box<dyn Read + Send>,
        name: &str,
        format: PcmFormat,
        sample_rate: u32,
        channels: u16,
        pick: ChannelPick,
    ) -> Result<Self, AudioError> {
        pick.check(channels, name)?;
        if !SAMPLE_RATES.contains(&sample_rate) {
            let message = format!("the sample rate must be between 1,000 and 384,000 Hz, got {sample_rate}");
            return Err(AudioError::new(AudioErrorKind::Unsupported, name, message));
        }
        let spec = SourceSpec { name: name.to_owned(), sample_rate, channels, live: false, total_samples: None };
        Ok(Self { spec, reader: Some(reader), format, pick, stop: Arc::default(), done: None })
    }

    /// Sets whether the audio is delivered in real time, as live audio is.
    pub fn in_real_time(mut self, realtime: bool) -> Self {
        self.spec.live = realtime;
        self
    }
}

impl Source for PcmSource {
    fn spec(&self) -> &SourceSpec {
        &self.spec
    }

    fn start(&mut self, mut ring: RingWriter, events: EventSender) -> Result<(), AudioError> {
        let place = self.spec.name.clone();
        let failed = |message: String| AudioError::new(AudioErrorKind::NotReadable, place.clone(), message);
        let mut reader = self.reader.take().ok_or_else(|| failed("was already started".into()))?;
        let (format, pick, stop, live, rate) = (self.format, self.pick, self.stop.clone(), self.spec.live, self.spec.sample_rate);
        let frame_bytes = format.bytes() * usize::from(self.spec.channels);
        let one_channel = match pick {
            ChannelPick::Channel(channel) => Some(channel),
            ChannelPick::MixDown | ChannelPick::Auto => (self.spec.channels == 1).then_some(0),
        };
        let mut downmix = Downmix::new(pick, self.spec.channels, self.spec.sample_rate);
        let (done_sender, done) = bounded::<()>(0);
        let error_at = self.spec.name.clone();
        let read_all = move || {
            let _done = done_sender;
            let mut bytes = vec![0; READ_BYTES.max(frame_bytes)];
            let mut mono = Vec::with_capacity(bytes.len() / frame_bytes);
            let mut interleaved = Vec::new();
            let (mut held, mut read) = (0, 0u64);
            let mut pace = Pace::new(rate);
            let outcome = loop {
                match reader.read(&mut bytes[held..]) {
                    Ok(0) if read == 0 => {
                        let message = format!("contains no audio: {held} bytes, less than one frame ({frame_bytes} bytes)");
                        break Err(AudioError::new(AudioErrorKind::Malformed, error_at, message));
                    }
                    // The writer stopped within a frame.
                    Ok(0) => break Ok(()),
                    Ok(count) => held += count,
                    Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                    Err(error) => break Err(AudioError::new(AudioErrorKind::NotReadable, error_at, error.to_string())),
                }
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                let whole = held - held % frame_bytes;
                mono.clear();
                match one_channel {
                    Some(channel) => {
                        let at = usize::from(channel) * format.bytes();
                        let frames = bytes[..whole].chunks_exact(frame_bytes);
                        mono.extend(frames.map(|frame| format.decode(&frame[at..at + format.bytes()])));
                    }
                    None => {
                        interleaved.clear();
                        interleaved.extend(bytes[..whole].chunks_exact(format.bytes()).map(|sample| format.decode(sample)));
                        downmix.append(&interleaved, &mut mono);
                    }
                }
                bytes.copy_within(whole..held, 0);
                held -= whole;
                read += whole as u64;
                if !live {
                    if !ring.push_blocking(&mono, &stop) {
                        return;
                    }
                    continue;
                }
                for callback in mono.chunks(pace.period()) {
                    pace.wait(callback.len());
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    ring.push_live(callback);
                }
            };
            drop(ring);
            events.send(outcome.map_or_else(SourceEvent::Error, |()| SourceEvent::End));
        };
        std::thread::Builder::new().name("pcm".into()).spawn(read_all).map_err(|error| failed(error.to_string()))?;
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
