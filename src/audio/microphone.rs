//! Microphones, by cpal.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use cpal::traits::{DeviceTrait, HostTrait, StreamTrait};
use cpal::{BufferSize, ErrorKind, FromSample, I24, Sample, SampleFormat, StreamConfig, SupportedBufferSize, U24};
use crossbeam_channel::{Receiver, Sender, bounded};

use super::{AudioError, AudioErrorKind, ChannelPick, EventSender, RingWriter, STOP_PATIENCE, Source, SourceEvent, SourceSpec};
use crate::realtime;

/// Which microphone, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MicrophoneOptions {
    /// Its id, or part of its name in any case; the default one without.
    pub device: Option<String>,
    /// Hz; without, 48,000 where the device offers it.
    pub sample_rate: Option<u32>,
    /// Channels to open; without, as few as the device offers.
    pub channels: Option<u16>,
    /// How they become one.
    pub pick: ChannelPick,
    /// Sound per callback.
    pub buffer: Duration,
    /// Real-time priority of the thread that captures ([`crate::runtime::RunOptions::priority`]).
    pub priority: Option<u8>,
}

impl Default for MicrophoneOptions {
    fn default() -> Self {
        let buffer = Duration::from_millis(20);
        Self { device: None, sample_rate: None, channels: None, pick: ChannelPick::MixDown, buffer, priority: None }
    }
}

/// A microphone that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceInfo {
    /// Stays the same from start to start.
    pub id: String,
    /// For people.
    pub name: String,
    /// Whether it is taken when none is named.
    pub default: bool,
    /// Channel counts that it offers.
    pub channels: Vec<u16>,
    /// Ranges of rates that it offers, Hz.
    pub sample_rates: Vec<(u32, u32)>,
    /// Sample formats that it offers.
    pub formats: Vec<String>,
}

/// Rates in the order in which they are taken when none is asked for: 48 kHz is what most converters run at, so nothing below
/// resamples; 16 kHz is what packs want.
const PREFERRED_RATES: [u32; 4] = [48_000, 16_000, 44_100, 32_000];
/// Formats in the order in which they are taken.
const PREFERRED_FORMATS: [SampleFormat; 12] = [
    SampleFormat::F32,
    SampleFormat::I32,
    SampleFormat::I24,
    SampleFormat::I16,
    SampleFormat::F64,
    SampleFormat::I64,
    SampleFormat::U32,
    SampleFormat::U24,
    SampleFormat::U16,
    SampleFormat::U64,
    SampleFormat::I8,
    SampleFormat::U8,
];
/// How long a device may take to open.
const START_PATIENCE: Duration = Duration::from_secs(5);

/// Streams of this process that were wedged in their sound server when they should end: each holds a few threads and descriptors
/// for as long as the process lives.
pub fn left_behind() -> u64 {
    LEFT_BEHIND.load(Ordering::Relaxed)
}

static LEFT_BEHIND: AtomicU64 = AtomicU64::new(0);

/// Every microphone.
pub fn devices() -> Result<Vec<DeviceInfo>, AudioError> {
    hush_alsa();
    let host = cpal::default_host();
    let default = host.default_input_device().and_then(|device| device.id().ok());
    let all = host.input_devices().map_err(|error| from_cpal("sound system", &error))?;
    Ok(all
        .filter_map(|device| {
            let id = device.id().ok()?;
            // A device that is busy or broken tells no configurations; it is listed all the same.
            let configs: Vec<_> = device.supported_input_configs().map(Iterator::collect).unwrap_or_default();
            let mut channels: Vec<u16> = configs.iter().map(|config| config.channels()).collect();
            let mut sample_rates: Vec<_> =
                configs.iter().map(|config| (config.min_sample_rate(), config.max_sample_rate())).collect();
            let mut formats: Vec<String> = configs.iter().map(|config| config.sample_format().to_string()).collect();
            channels.sort_unstable();
            sample_rates.sort_unstable();
            formats.sort_unstable();
            channels.dedup();
            sample_rates.dedup();
            formats.dedup();
            Some(DeviceInfo {
                default: default.as_ref() == Some(&id),
                id: id.to_string(),
                name: name_of(&device),
                channels,
                sample_rates,
                formats,
            })
        })
        .collect())
}

/// Keeps what ALSA's library has to say of devices that do not open off the terminal, for the calling thread: every open that
/// fails is an error of its own here.
#[cfg(target_os = "linux")]
fn hush_alsa() {
    alsa::Output::local_error_handler().map_or_else(|error| log::debug!("ALSA goes on printing: {error}"), drop);
}

#[cfg(not(target_os = "linux"))]
fn hush_alsa() {}

fn name_of(device: &cpal::Device) -> String {
    device.description().map_or_else(|_| "unnamed".into(), |description| description.name().to_owned())
}

/// A microphone, opened when it is started.
pub struct MicrophoneSource {
    spec: SourceSpec,
    device: Option<cpal::Device>,
    config: StreamConfig,
    format: SampleFormat,
    pick: ChannelPick,
    priority: Option<u8>,
    /// Callbacks after this was set leave no trace.
    stopped: Arc<AtomicBool>,
    /// Dropping it asks the stream's thread to end.
    running: Option<Sender<()>>,
    ended: Option<Receiver<()>>,
}

impl MicrophoneSource {
    /// Finds the device and settles on a configuration; nothing is captured yet.
    pub fn open(options: MicrophoneOptions) -> Result<Self, AudioError> {
        hush_alsa();
        let device = find(options.device.as_deref())?;
        let name = name_of(&device);
        let offered: Vec<_> = device.supported_input_configs().map_err(|error| does_not_open(&name, &error))?.collect();
        let mut usable: Vec<_> = offered
            .iter()
            .filter(|config| PREFERRED_FORMATS.contains(&config.sample_format()))
            .filter(|config| options.channels.is_none_or(|channels| config.channels() == channels))
            .filter(|config| options.sample_rate.is_none_or(|rate| config.contains_rate(rate)))
            .filter(|config| !matches!(options.pick, ChannelPick::Channel(channel) if channel >= config.channels()))
            .collect();
        let rate_of = |config: &cpal::SupportedStreamConfigRange| {
            let preferred = PREFERRED_RATES.into_iter().find(|&rate| config.contains_rate(rate));
            options.sample_rate.or(preferred).unwrap_or_else(|| config.max_sample_rate())
        };
        usable.sort_by_key(|config| {
            let place = |found: Option<usize>| found.unwrap_or(usize::MAX);
            let rate = rate_of(config);
            (
                config.channels(),
                place(PREFERRED_RATES.iter().position(|&preferred| preferred == rate)),
                place(PREFERRED_FORMATS.iter().position(|&format| format == config.sample_format())),
            )
        });
        let Some(&best) = usable.first() else {
            let asked =
                [options.sample_rate.map(|rate| format!("{rate} Hz")), options.channels.map(|count| format!("{count} channels"))];
            let asked: Vec<_> = asked.into_iter().flatten().collect();
            let message = match asked.is_empty() {
                true => {
                    "offers no format that Bellis takes, or no such channel; `bellis devices` shows what it offers".to_owned()
                }
                false => format!("does not offer {}; `bellis devices` shows what it does", asked.join(" with ")),
            };
            return Err(AudioError::new(AudioErrorKind::Unsupported, name, message));
        };
        let sample_rate = rate_of(best);
        options.pick.check(best.channels(), &name)?;
        let frames = (f64::from(sample_rate) * options.buffer.as_secs_f64()).round().max(1.0) as u32;
        let buffer_size = match *best.buffer_size() {
            SupportedBufferSize::Range { min, max } if min <= max => BufferSize::Fixed(frames.clamp(min, max)),
            _ => BufferSize::Fixed(frames),
        };
        let config = StreamConfig { channels: best.channels(), sample_rate, buffer_size };
        let spec = SourceSpec { name, sample_rate, channels: best.channels(), live: true, total_samples: None };
        let format = best.sample_format();
        log::debug!("{}: {sample_rate} Hz, {} channel(s), {format}, {frames} frames a callback", spec.name, spec.channels);
        let stopped = Arc::default();
        Ok(Self {
            spec,
            device: Some(device),
            config,
            format,
            pick: options.pick,
            priority: options.priority,
            stopped,
            running: None,
            ended: None,
        })
    }
}

fn find(wanted: Option<&str>) -> Result<cpal::Device, AudioError> {
    let host = cpal::default_host();
    let not_found = |message: String| AudioError::new(AudioErrorKind::DeviceNotFound, wanted.unwrap_or("microphone"), message);
    let Some(wanted_name) = wanted else {
        return host.default_input_device().ok_or_else(|| {
            not_found(
                "there is none; plug one in, or play a file (`bellis run FILE`). `bellis devices` lists what is there".into(),
            )
        });
    };
    let all: Vec<_> = host.input_devices().map_err(|error| from_cpal("sound system", &error))?.collect();
    let by_id = |device: &cpal::Device| device.id().is_ok_and(|id| id.to_string() == wanted_name);
    if let Some(device) = all.iter().find(|device| by_id(device)) {
        return Ok(device.clone());
    }
    let part = wanted_name.to_lowercase();
    let matching: Vec<_> = all.iter().filter(|device| name_of(device).to_lowercase().contains(&part)).collect();
    let list = |devices: &[&cpal::Device]| {
        devices
            .iter()
            .filter_map(|device| Some(format!("{} ({})", device.id().ok()?, name_of(device))))
            .collect::<Vec<_>>()
            .join(", ")
    };
    match matching[..] {
        [device] => Ok(device.clone()),
        [] => Err(not_found(match all.is_empty() {
            true => "no microphone has this id or name; there is none at all".into(),
            false => format!("no microphone has this id or name; there are: {}", list(&all.iter().collect::<Vec<_>>())),
        })),
        _ => {
            let message = format!("several microphones match; name one by its id: {}", list(&matching));
            Err(AudioError::new(AudioErrorKind::AmbiguousDevice, wanted_name, message))
        }
    }
}

/// A device that is listed but is not there: the default one of a machine without a microphone, most often.
fn does_not_open(name: &str, error: &cpal::Error) -> AudioError {
    match error.kind() {
        ErrorKind::DeviceNotAvailable | ErrorKind::HostUnavailable => {
            let message =
                "does not open: is a microphone plugged in, and does its sound server run? `bellis devices` lists what opens";
            AudioError::new(AudioErrorKind::DeviceNotFound, name, message)
        }
        _ => from_cpal(name, error),
    }
}

fn from_cpal(place: &str, error: &cpal::Error) -> AudioError {
    let kind = match error.kind() {
        ErrorKind::DeviceBusy => AudioErrorKind::DeviceBusy,
        ErrorKind::DeviceNotAvailable | ErrorKind::StreamInvalidated => AudioErrorKind::DeviceLost,
        ErrorKind::PermissionDenied => AudioErrorKind::PermissionDenied,
        ErrorKind::UnsupportedConfig | ErrorKind::UnsupportedOperation | ErrorKind::InvalidInput => AudioErrorKind::Unsupported,
        _ => AudioErrorKind::Backend,
    };
    let advice = match kind {
        AudioErrorKind::DeviceLost => "plug it in again and start anew",
        AudioErrorKind::DeviceBusy => "another program uses it; stop that one, or try again in a moment",
        AudioErrorKind::PermissionDenied => "add the user to the group `audio`",
        AudioErrorKind::Unsupported => "`bellis devices` shows what it offers",
        _ => "`bellis devices` shows what is there",
    };
    AudioError::new(kind, place, format!("{error}; {advice}"))
}

/// What happens in a callback: any sample format, any channel count, into the ring. No allocation, no lock, no log, no wait.
pub struct Intake {
    ring: RingWriter,
    channels: usize,
    pick: ChannelPick,
}

/// Samples that are converted at a time, on the stack.
const BLOCK: usize = 256;

impl Intake {
    /// Takes frames of `channels` channels.
    pub fn new(ring: RingWriter, channels: u16, pick: ChannelPick) -> Self {
        Self { ring, channels: usize::from(channels.max(1)), pick }
    }

    /// One callback of interleaved samples.
    pub fn take<T: Sample>(&mut self, samples: &[T])
    where
        f32: FromSample<T>,
    {
        for frames in samples.chunks(BLOCK * self.channels) {
            let mut mono = [0.0; BLOCK];
            let mut count = 0;
            for (out, frame) in mono.iter_mut().zip(frames.chunks_exact(self.channels)) {
                *out = self.pick.of_frame(frame, f32::from_sample);
                count += 1;
            }
            self.ring.push_live(&mono[..count]);
        }
    }

    fn take_data(&mut self, data: &cpal::Data) {
        macro_rules! take_as {
            ($($format:ident => $type:ty),*) => {
                match data.sample_format() {
                    $(SampleFormat::$format => if let Some(samples) = data.as_slice::<$type>() { self.take(samples) },)*
                    _ => {}
                }
            };
        }
        take_as!(I8 => i8, I16 => i16, I24 => I24, I32 => i32, I64 => i64, U8 => u8, U16 => u16, U24 => U24, U32 => u32, U64 => u64, F32 => f32, F64 => f64);
    }
}

impl Source for MicrophoneSource {
    fn spec(&self) -> &SourceSpec {
        &self.spec
    }

    fn start(&mut self, ring: RingWriter, events: EventSender) -> Result<(), AudioError> {
        let name = self.spec.name.clone();
        let backend = |message: &str| AudioError::new(AudioErrorKind::Backend, name.clone(), message);
        let device = self.device.take().ok_or_else(|| backend("was started before"))?;
        let (config, format, priority, stopped) = (self.config, self.format, self.priority, self.stopped.clone());
        let mut intake = Intake::new(ring, self.spec.channels, self.pick);
        let (running, stop_asked) = bounded::<()>(0);
        let (ended_sender, ended) = bounded::<()>(0);
        let (started_sender, started) = bounded(1);
        let place = name.clone();
        // The stream lives on a thread of its own: opening and dropping it can hang with the sound server.
        let own = move || {
            let _ended = ended_sender;
            hush_alsa();
            if let Some(priority) = priority {
                // The thread that captures is started below, and inherits it.
                realtime::ask_for(priority);
            }
            let silent = stopped.clone();
            let callback = move |data: &cpal::Data, _: &cpal::InputCallbackInfo| {
                if !silent.load(Ordering::Acquire) {
                    intake.take_data(data);
                }
            };
            let error_place = place.clone();
            let on_error = move |error: cpal::Error| match error.kind() {
                ErrorKind::Xrun => events.send(SourceEvent::Xrun),
                ErrorKind::RealtimeDenied | ErrorKind::DeviceChanged => log::warn!("{error_place}: {error}"),
                _ => events.send(SourceEvent::Error(from_cpal(&error_place, &error))),
            };
            let built = device.build_input_stream_raw(config, format, callback, on_error, None);
            let stream = built.and_then(|stream| stream.play().map(|()| stream));
            let outcome = stream.as_ref().map(|_| ()).map_err(|error| from_cpal(&place, error));
            let failed = outcome.is_err();
            let _ = started_sender.send(outcome);
            if !failed {
                // Ends when the source drops its end.
                let _ = stop_asked.recv();
            }
            drop(stream);
        };
        std::thread::Builder::new().name("microphone".into()).spawn(own).map_err(|error| backend(&error.to_string()))?;
        (self.running, self.ended) = (Some(running), Some(ended));
        started
            .recv_timeout(START_PATIENCE)
            .unwrap_or_else(|_| Err(backend("does not open; the sound server hangs — restart it")))
    }

    fn stop(&mut self) {
        self.stopped.store(true, Ordering::Release);
        drop(self.running.take());
        if let Some(ended) = self.ended.take() {
            // A stream that is wedged in its server cannot be dropped; its thread is left behind, and its callbacks do nothing.
            if matches!(ended.recv_timeout(STOP_PATIENCE), Err(crossbeam_channel::RecvTimeoutError::Timeout)) {
                LEFT_BEHIND.fetch_add(1, Ordering::Relaxed);
                log::warn!("{}: the device does not close; it is left to the system", self.spec.name);
            }
        }
    }
}
