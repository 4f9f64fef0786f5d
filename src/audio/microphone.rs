//! Microphones (cpal).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use cpal::traits::{DeviceTrait, HostTrait, StreamTrait};
use cpal::{BufferSize, ErrorKind, FromSample, I24, Sample, SampleFormat, StreamConfig, SupportedBufferSize, U24};
use crossbeam_channel::{Receiver, Sender, bounded};

use super::{AudioError, AudioErrorKind, ChannelPick, EventSender, RingWriter, STOP_TIMEOUT, Source, SourceEvent, SourceSpec};
use crate::realtime;

/// The microphone and its capture settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MicrophoneOptions {
    /// Id, as listed by `bellis devices` or as `arecord -D` takes it (`plughw:1,0`, `hw:CARD=seeed`, `default`, a PCM of `.asoundrc`), or
    /// part of the name in any case. Default: the system's default device.
    pub device: Option<String>,
    /// Sample rate, Hz. Default: 48,000 if the device supports it.
    pub sample_rate: Option<u32>,
    /// Channels to open. Default: the fewest that the device supports.
    pub channels: Option<u16>,
    /// How the channels are converted to mono.
    pub pick: ChannelPick,
    /// Audio per callback.
    pub buffer: Duration,
    /// Real-time priority of the capture thread ([`crate::runtime::RunOptions::priority`]).
    pub priority: Option<u8>,
}

impl Default for MicrophoneOptions {
    fn default() -> Self {
        let buffer = Duration::from_millis(20);
        Self { device: None, sample_rate: None, channels: None, pick: ChannelPick::MixDown, buffer, priority: None }
    }
}

/// A microphone that the system lists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceInfo {
    /// Identifier, stable across restarts.
    pub id: String,
    /// Name for display.
    pub name: String,
    /// Whether it is the system's default.
    pub default: bool,
    /// Whether it is a plugin of the audio system (an audio server, a converter, a PCM of `.asoundrc`) rather than hardware.
    pub plugin: bool,
    /// Supported channel counts.
    pub channels: Vec<u16>,
    /// Supported ranges of sample rates, Hz.
    pub sample_rates: Vec<(u32, u32)>,
    /// Supported sample formats.
    pub formats: Vec<String>,
}

/// Default rates, in order of preference: 48 kHz, the native rate of most converters, avoids a resampler in the system; 16 kHz is the
/// rate of most packs.
const PREFERRED_RATES: [u32; 4] = [48_000, 16_000, 44_100, 32_000];
/// Sample formats, in order of preference.
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
/// Maximum time for a device to open.
const START_TIMEOUT: Duration = Duration::from_secs(5);

/// Lists all microphones: the default first, hardware before plugins. Omits plugins that cannot be opened, second names of hardware by
/// card number, and JACK, whose library prints its own messages when it is opened without a server.
pub fn devices() -> Result<Vec<DeviceInfo>, AudioError> {
    silence_alsa();
    let host = cpal::default_host();
    let default = host.default_input_device().and_then(|device| device.id().ok());
    let all = host.input_devices().map_err(|error| from_cpal("audio system", &error))?;
    let mut found: Vec<DeviceInfo> = all
        .filter_map(|device| {
            let id = device.id().ok().filter(|id| !is_jack(id.id()))?;
            // A busy or broken device reports no configurations, but is still listed.
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
                plugin: is_plugin(id.id()),
                id: id.to_string(),
                name: name_of(&device),
                channels,
                sample_rates,
                formats,
            })
        })
        .filter(|device| !device.plugin || !device.formats.is_empty())
        .collect();
    let by_name: Vec<(String, String)> = found
        .iter()
        .filter(|device| !has_card_number(&device.id))
        .map(|device| (prefix(&device.id), device.name.clone()))
        .collect();
    found.retain(|device| !has_card_number(&device.id) || !by_name.contains(&(prefix(&device.id), device.name.clone())));
    found.sort_by_key(|device| (!device.default, device.plugin));
    Ok(found)
}

/// Whether an ALSA PCM is a plugin rather than hardware. Other systems list only devices.
fn is_plugin(pcm: &str) -> bool {
    cfg!(target_os = "linux") && !["hw:", "plughw:"].iter().any(|prefix| pcm.starts_with(prefix))
}

/// Whether an ALSA PCM is the plugin that connects to a JACK server.
fn is_jack(pcm: &str) -> bool {
    cfg!(target_os = "linux") && pcm.split(':').next() == Some("jack")
}

/// Whether an id contains the card's number instead of its name, as in `alsa:hw:CARD=1,DEV=0`. The number may change at every boot.
fn has_card_number(id: &str) -> bool {
    let card = id.split_once(":CARD=").map(|(_, rest)| rest.split(',').next().unwrap_or_default());
    card.is_some_and(|card| card.parse::<u32>().is_ok())
}

/// The part of an id before the card.
fn prefix(id: &str) -> String {
    id.split_once(":CARD=").map_or(id, |(prefix, _)| prefix).to_owned()
}

/// The canonical form of an ALSA name: `plughw:1`, `plughw:1,0`, `plughw:CARD=1` and `alsa:plughw:CARD=1,DEV=0` all become
/// `plughw:CARD=1,DEV=0`.
fn canonical(name: &str) -> String {
    let name = name.strip_prefix("alsa:").unwrap_or(name);
    let Some((plugin, rest)) = name.split_once(':') else { return name.to_owned() };
    let (mut card, mut device, mut others) = (None, None, Vec::new());
    for (at, argument) in rest.split(',').map(str::trim).enumerate() {
        match argument.split_once('=') {
            Some(("CARD", value)) => card = Some(value),
            Some(("DEV", value)) => device = Some(value),
            Some(_) => others.push(argument),
            None if at == 0 => card = Some(argument),
            None if at == 1 => device = Some(argument),
            None => others.push(argument),
        }
    }
    match (card, others.is_empty()) {
        (Some(card), true) => format!("{plugin}:CARD={card},DEV={}", device.unwrap_or("0")),
        _ => name.to_owned(),
    }
}

/// Keeps the messages of ALSA's library about devices that cannot be opened off the terminal, for the calling thread. Bellis reports
/// these errors itself.
#[cfg(target_os = "linux")]
fn silence_alsa() {
    alsa::Output::local_error_handler().map_or_else(|error| log::debug!("cannot silence ALSA's messages: {error}"), drop);
}

#[cfg(not(target_os = "linux"))]
fn silence_alsa() {}

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
    /// Once set, callbacks do nothing.
    stopped: Arc<AtomicBool>,
    /// Dropping it ends the stream's thread.
    running: Option<Sender<()>>,
    ended: Option<Receiver<()>>,
}

impl MicrophoneSource {
    /// Finds the device and selects a configuration. Capture begins with `start`.
    pub fn open(options: MicrophoneOptions) -> Result<Self, AudioError> {
        silence_alsa();
        if let Some(channels) = options.channels {
            options.pick.check(channels, options.device.as_deref().unwrap_or("microphone"))?;
        }
        let device = find(options.device.as_deref())?;
        let name = name_of(&device);
        let offered: Vec<_> = device.supported_input_configs().map_err(|error| cannot_open(&name, &error))?.collect();
        let mut usable: Vec<_> = offered
            .iter()
            .filter(|config| PREFERRED_FORMATS.contains(&config.sample_format()))
            .filter(|config| options.channels.is_none_or(|channels| config.channels() == channels))
            .filter(|config| options.sample_rate.is_none_or(|rate| config.contains_rate(rate)))
            .filter(|config| !matches!(options.pick, ChannelPick::Channel(channel) if channel >= config.channels()))
            .filter(|config| config.channels() <= MOST_CHANNELS)
            .collect();
        let rate_of = |config: &cpal::SupportedStreamConfigRange| {
            let preferred = PREFERRED_RATES.into_iter().find(|&rate| config.contains_rate(rate));
            options.sample_rate.or(preferred).unwrap_or_else(|| config.max_sample_rate())
        };
        usable.sort_by_key(|config| {
            let rank = |index: Option<usize>| index.unwrap_or(usize::MAX);
            let rate = rate_of(config);
            (
                options.pick == ChannelPick::Auto && config.channels() == 1,
                config.channels(),
                rank(PREFERRED_RATES.iter().position(|&preferred| preferred == rate)),
                rank(PREFERRED_FORMATS.iter().position(|&format| format == config.sample_format())),
            )
        });
        let Some(&best) = usable.first() else {
            let most = offered.iter().map(cpal::SupportedStreamConfigRange::channels).max().unwrap_or(0);
            options.pick.check(most, &name)?;
            let channel = match options.pick {
                ChannelPick::Channel(channel) => Some(format!("channel {}", channel + 1)),
                _ => None,
            };
            let requested = [
                options.sample_rate.map(|rate| format!("{rate} Hz")),
                options.channels.map(|count| format!("{count} channels")),
                channel,
            ];
            let requested: Vec<_> = requested.into_iter().flatten().collect();
            let message = match requested.is_empty() {
                true => "has no supported sample format".to_owned(),
                false => format!("does not support {}", requested.join(" with ")),
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
        log::debug!("{}: {sample_rate} Hz, {} channel(s), {format}, {frames} frames per callback", spec.name, spec.channels);
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

fn find(requested: Option<&str>) -> Result<cpal::Device, AudioError> {
    let host = cpal::default_host();
    let not_found = |message: String| AudioError::new(AudioErrorKind::DeviceNotFound, requested.unwrap_or("microphone"), message);
    let Some(requested_name) = requested else {
        return host.default_input_device().ok_or_else(|| not_found("not found; connect one".into()));
    };
    let all: Vec<_> = host.input_devices().map_err(|error| from_cpal("audio system", &error))?.collect();
    let requested_id = canonical(requested_name);
    let by_id = |device: &cpal::Device| device.id().is_ok_and(|id| canonical(&id.to_string()) == requested_id);
    if let Some(device) = all.iter().find(|device| by_id(device)) {
        return Ok(device.clone());
    }
    if let Some(device) = host.default_input_device().filter(by_id) {
        return Ok(device);
    }
    let part = requested_name.to_lowercase();
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
            true => "no microphone has this id or name; the system lists none".into(),
            false => format!("no microphone has this id or name; available: {}", list(&all.iter().collect::<Vec<_>>())),
        })),
        _ => {
            let message = format!("several microphones match; use an id: {}", list(&matching));
            Err(AudioError::new(AudioErrorKind::AmbiguousDevice, requested_name, message))
        }
    }
}

/// The error for a device that is listed but cannot be opened, such as the default device of a machine without a microphone.
fn cannot_open(name: &str, error: &cpal::Error) -> AudioError {
    match error.kind() {
        ErrorKind::DeviceNotAvailable | ErrorKind::HostUnavailable => {
            let message = "cannot be opened; check that a microphone is connected and that the audio server is running";
            AudioError::new(AudioErrorKind::DeviceNotFound, name, message)
        }
        _ => from_cpal(name, error),
    }
}

fn from_cpal(place: &str, error: &cpal::Error) -> AudioError {
    let system = system_error(error);
    let kind = match error.kind() {
        _ if system.as_ref().and_then(std::io::Error::raw_os_error) == Some(NO_SUCH_DEVICE) => AudioErrorKind::DeviceLost,
        ErrorKind::DeviceBusy => AudioErrorKind::DeviceBusy,
        ErrorKind::DeviceNotAvailable | ErrorKind::StreamInvalidated => AudioErrorKind::DeviceLost,
        ErrorKind::PermissionDenied => AudioErrorKind::PermissionDenied,
        ErrorKind::UnsupportedConfig | ErrorKind::UnsupportedOperation | ErrorKind::InvalidInput => AudioErrorKind::Unsupported,
        _ => AudioErrorKind::Backend,
    };
    let advice = match kind {
        AudioErrorKind::DeviceLost => "reconnect it and start again",
        AudioErrorKind::DeviceBusy => "another program uses it; stop that program, or try again later",
        AudioErrorKind::PermissionDenied => "add the user to the group `audio`",
        AudioErrorKind::Unsupported => "choose another rate, channel count or device",
        _ => "check that the device is connected and works",
    };
    let cause = match system {
        Some(_) if kind == AudioErrorKind::DeviceLost => "the device was removed".to_owned(),
        Some(system) => format!("{error}: {system}"),
        None => error.to_string(),
    };
    AudioError::new(kind, place, format!("{cause}; {advice}"))
}

/// ENODEV: the number of a removed device on all Unix systems.
const NO_SUCH_DEVICE: i32 = 19;

/// The error of the system that ALSA's binding reports as `Unknown errno (-NUMBER)`, because it reads a negative number.
fn system_error(error: &cpal::Error) -> Option<std::io::Error> {
    let text = error.to_string();
    let number = text.split_once("Unknown errno (-")?.1.split_once(')')?.0.parse().ok()?;
    Some(std::io::Error::from_raw_os_error(number))
}

/// The body of the capture callback: converts any sample format and channel count to mono f32 and writes it to the ring. Never
/// allocates, locks, logs or waits.
pub struct Intake {
    ring: RingWriter,
    channels: usize,
    pick: ChannelPick,
}

/// Samples converted at a time, on the stack.
const BLOCK: usize = 256;
/// A frame must fit into a block.
const MOST_CHANNELS: u16 = 128;

impl Intake {
    /// Creates an intake for interleaved frames of `channels` channels.
    pub fn new(ring: RingWriter, channels: u16, pick: ChannelPick) -> Self {
        Self { ring, channels: usize::from(channels.max(1)), pick }
    }

    /// Handles one callback of interleaved samples. The first one was captured at `captured`.
    pub fn take<T: Sample>(&mut self, samples: &[T], captured: Instant)
    where
        f32: FromSample<T>,
    {
        self.ring.stamp(captured);
        if self.pick == ChannelPick::Auto {
            for frames in samples.chunks(BLOCK / self.channels * self.channels) {
                let mut converted = [0.0; BLOCK];
                converted.iter_mut().zip(frames).for_each(|(out, sample)| *out = f32::from_sample(*sample));
                self.ring.append(&converted[..frames.len()]);
            }
            return;
        }
        for frames in samples.chunks(BLOCK * self.channels) {
            let mut mono = [0.0; BLOCK];
            let mut count = 0;
            for (out, frame) in mono.iter_mut().zip(frames.chunks_exact(self.channels)) {
                *out = self.pick.of_frame(frame, f32::from_sample);
                count += 1;
            }
            self.ring.append(&mono[..count]);
        }
    }

    fn take_data(&mut self, data: &cpal::Data, captured: Instant) {
        macro_rules! take_as {
            ($($format:ident => $type:ty),*) => {
                match data.sample_format() {
                    $(SampleFormat::$format => if let Some(samples) = data.as_slice::<$type>() { self.take(samples, captured) },)*
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

    fn ring_channels(&self) -> u16 {
        if self.pick == ChannelPick::Auto { self.spec.channels } else { 1 }
    }

    fn start(&mut self, ring: RingWriter, events: EventSender) -> Result<(), AudioError> {
        let name = self.spec.name.clone();
        let backend = |message: &str| AudioError::new(AudioErrorKind::Backend, name.clone(), message);
        let device = self.device.take().ok_or_else(|| backend("was already started"))?;
        let (config, format, priority, stopped) = (self.config, self.format, self.priority, self.stopped.clone());
        let mut intake = Intake::new(ring, self.spec.channels, self.pick);
        let (running, stop_requested) = bounded::<()>(0);
        let (ended_sender, ended) = bounded::<()>(0);
        let (started_sender, started) = bounded(1);
        let place = name.clone();
        // The stream has its own thread, because opening and dropping it can hang with the audio server.
        let stream_thread = move || {
            let _ended = ended_sender;
            silence_alsa();
            if let Some(priority) = priority {
                // cpal starts the capture thread below, which inherits the priority.
                realtime::request(priority);
            }
            let is_stopped = stopped.clone();
            let callback = move |data: &cpal::Data, info: &cpal::InputCallbackInfo| {
                if !is_stopped.load(Ordering::Acquire) {
                    let stamp = info.timestamp();
                    let now = Instant::now();
                    let age = stamp.callback.saturating_duration_since(stamp.capture);
                    intake.take_data(data, now.checked_sub(age).unwrap_or(now));
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
                // Returns when the source drops its end.
                let _ = stop_requested.recv();
            }
            drop(stream);
        };
        std::thread::Builder::new()
            .name("microphone".into())
            .spawn(stream_thread)
            .map_err(|error| backend(&error.to_string()))?;
        (self.running, self.ended) = (Some(running), Some(ended));
        started
            .recv_timeout(START_TIMEOUT)
            .unwrap_or_else(|_| Err(backend("was not opened within 5 s; restart the audio server")))
    }

    fn stop(&mut self) {
        self.stopped.store(true, Ordering::Release);
        drop(self.running.take());
        if let Some(ended) = self.ended.take() {
            // A stream whose server hangs cannot be dropped. Its thread is abandoned, and its callbacks do nothing.
            if matches!(ended.recv_timeout(STOP_TIMEOUT), Err(crossbeam_channel::RecvTimeoutError::Timeout)) {
                super::abandon_stream(ended);
                log::warn!("{}: the device did not close within 1 s and was abandoned", self.spec.name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_an_alsa_name_is_the_same_device() {
        for name in ["plughw:1", "plughw:1,0", "plughw:CARD=1", "plughw:CARD=1,DEV=0", "alsa:plughw:1,0", "plughw:DEV=0,CARD=1"] {
            assert_eq!(canonical(name), "plughw:CARD=1,DEV=0", "{name}");
        }
        assert_eq!(canonical("hw:CARD=seeed,DEV=0"), canonical("alsa:hw:seeed"));
        assert_eq!(canonical("sysdefault:CARD=Device"), canonical("alsa:sysdefault:CARD=Device"));
        assert_ne!(canonical("hw:1,0"), canonical("hw:1,1"));
        assert_ne!(canonical("hw:1,0"), canonical("plughw:1,0"));
        for name in ["default", "mymic", "coreaudio:AppleUSBAudioEngine:1:2", "plug:'hw:1,0'"] {
            assert_eq!(canonical(&canonical(name)), canonical(name));
        }
        assert_eq!(canonical("default"), "default");
    }

    #[test]
    fn cards_are_told_from_plugins_and_numbers_from_names() {
        assert!(has_card_number("alsa:hw:CARD=1,DEV=0") && !has_card_number("alsa:hw:CARD=seeed,DEV=0"));
        assert!(!has_card_number("alsa:default"));
        #[cfg(target_os = "linux")]
        assert!(is_jack("jack") && is_jack("jack:CARD=0") && !is_jack("default") && !is_jack("jackpot"));
        #[cfg(target_os = "linux")]
        assert!(is_plugin("default") && is_plugin("dsnoop:CARD=seeed,DEV=0") && !is_plugin("plughw:CARD=seeed,DEV=0"));
    }

    #[test]
    fn a_negative_error_number_is_named() {
        let error = |number: i32| {
            let text = format!("ALSA function 'snd_pcm_readi' failed with error 'Unknown errno ({number})'");
            from_cpal("mic", &cpal::Error::with_message(ErrorKind::BackendError, text))
        };
        assert_eq!(error(-19).to_string(), "mic: the device was removed; reconnect it and start again");
        assert_eq!(error(-19).kind(), AudioErrorKind::DeviceLost);
        let text = error(-5).to_string();
        assert!(text.contains("Input/output error") && error(-5).kind() == AudioErrorKind::Backend, "{text}");
    }

    #[test]
    fn a_channel_beyond_the_requested_ones_is_named_in_the_error() {
        let options = MicrophoneOptions { channels: Some(4), pick: ChannelPick::Channel(4), ..MicrophoneOptions::default() };
        let error = MicrophoneSource::open(options).err().map(|error| error.to_string()).unwrap_or_default();
        assert!(error.contains("has 4 channel(s), but channel 5 was requested"), "{error}");
    }
}
