//! The services of `bellis serve` besides its HTTP server.

use std::sync::Arc;

use bellis::consumer::{Consumer, ConsumerSpec, KeywordObserver};
use bellis::daemon::events::EventBus;
use bellis::engine::Encoder;
use bellis::pack::Pack;

use super::consumers::Asked;
use super::keywords::{self, Missing};
use super::settings::Settings;

#[cfg(feature = "home")]
pub use home::{Services, check, needs_restart};

#[cfg(not(feature = "home"))]
pub use absent::{Services, check, needs_restart};

/// Label of the consumer that searches for keywords where no consumer of the configuration does.
const SEARCH: &str = "keyword-events";
/// Label of the consumer that looks for speech.
const SPEECH: &str = "speech";

/// Where consumers report what they find.
pub struct Reports {
    /// For keywords.
    pub keywords: KeywordObserver,
    /// For everything else.
    pub events: Arc<EventBus>,
}

/// The consumers that the services need besides those of the configuration.
pub fn consumers(settings: &Settings, configured: &[Asked]) -> Vec<Asked> {
    let searches = configured.iter().any(|one| matches!(one.spec, ConsumerSpec::Keyword(_)));
    let search = Asked { label: SEARCH.to_owned(), spec: ConsumerSpec::Keyword(None) };
    let speech = Asked { label: SPEECH.to_owned(), spec: ConsumerSpec::Null };
    let search = (need_input(settings) && !searches).then_some(search);
    search.into_iter().chain(has_speech_sensor(settings).then_some(speech)).collect()
}

fn has_speech_sensor(settings: &Settings) -> bool {
    settings.mqtt.as_ref().is_some_and(|table| table.speech.unwrap_or(true))
}

/// The consumer, if it is one of the services'. It writes nothing besides its reports.
pub fn consumer(
    asked: &Asked,
    settings: &Settings,
    pack: &Pack,
    encoder: &Arc<Encoder>,
    reports: &Reports,
) -> anyhow::Result<Option<Box<dyn Consumer>>> {
    Ok(match &*asked.label {
        SEARCH => {
            let lines = keywords::consumer((None, Missing::Allowed), settings, pack, encoder, (std::io::sink(), SEARCH))?;
            Some(Box::new(lines.observer(reports.keywords.clone())))
        }
        #[cfg(feature = "home")]
        SPEECH => Some(Box::new(bellis::daemon::home::SpeechSensor::new(encoder, reports.events.clone()))),
        _ => None,
    })
}

/// Whether the services need the daemon's own input.
pub fn need_input(settings: &Settings) -> bool {
    settings.mqtt.is_some() || !settings.on_detection.is_empty() || settings.voice_assistant.is_some()
}

/// Whether a service is configured that needs no input of the daemon's own.
pub fn need_none(settings: &Settings) -> bool {
    settings.wyoming.is_some()
}

#[cfg(feature = "home")]
mod home {
    use std::sync::atomic::AtomicBool;
    use std::time::Duration;

    use anyhow::bail;
    use bellis::daemon::events::Interest;
    use bellis::daemon::home::{
        DetectionCommand, Enrolled, Model, Mqtt, MqttOptions, RunningCommand, VoiceAssistant, WyomingOptions, WyomingServer,
        WyomingUri,
    };
    use bellis::keyword::PackRef;

    use super::*;
    use crate::cli::keywords::{folder, search_options};
    use crate::cli::settings::{Input, MqttSettings};

    /// Maximum of `wyoming-connections`.
    const CONNECTIONS: usize = 1000;
    /// Seconds that a program may run if nothing else is set.
    const COMMAND_SECONDS: f64 = 10.0;
    /// Seconds between readings if nothing else is set.
    const INTERVAL_SECONDS: f64 = 10.0;

    /// The running services; they end when this value is dropped.
    pub struct Services {
        muted: Arc<AtomicBool>,
        _command: Option<RunningCommand>,
        _mqtt: Option<Mqtt>,
        _voice_assistant: Option<VoiceAssistant>,
        _wyoming: Option<WyomingServer>,
    }

    impl Services {
        /// Starts the configured services.
        pub fn start(settings: &Settings, pack: &Arc<Pack>, encoder: &Arc<Encoder>, events: &EventBus) -> anyhow::Result<Self> {
            let wyoming = settings.wyoming.as_deref().map(|uri| wyoming(uri, settings, pack, encoder)).transpose()?;
            if need_input(settings) {
                encoder.check_embedding()?;
            }
            let (subscribe, muted) = (|| events.subscribe(Interest::Detections), Arc::default());
            let start_mqtt =
                |table| Ok::<_, anyhow::Error>(Mqtt::start(&mqtt_options(table), encoder.name(), interval(table)?, subscribe())?);
            let mqtt = settings.mqtt.as_ref().map(start_mqtt).transpose()?;
            let start_command = |command: &[String]| -> anyhow::Result<_> {
                let command = DetectionCommand { command: command.to_vec(), limit: command_limit(settings)? };
                Ok(command.start(events.subscribe(Interest::Keywords))?)
            };
            let command = Some(&*settings.on_detection).filter(|command| !command.is_empty());
            let command = command.map(start_command).transpose()?;
            let start_assistant = |uri: &String| VoiceAssistant::start(uri, Arc::clone(&muted), subscribe());
            let voice_assistant = settings.voice_assistant.as_ref().map(start_assistant).transpose()?;
            Ok(Self { muted, _command: command, _mqtt: mqtt, _voice_assistant: voice_assistant, _wyoming: wyoming })
        }

        /// Set while keywords start nothing.
        pub fn muted(&self) -> Arc<AtomicBool> {
            self.muted.clone()
        }
    }

    fn interval(table: &MqttSettings) -> anyhow::Result<Duration> {
        let seconds = table.interval.unwrap_or(INTERVAL_SECONDS);
        if !(1.0..=3600.0).contains(&seconds) {
            bail!("mqtt.interval must be between 1 and 3600 seconds, got {seconds}");
        }
        Ok(Duration::from_secs_f64(seconds))
    }

    fn command_limit(settings: &Settings) -> anyhow::Result<Duration> {
        let seconds = settings.on_detection_limit.unwrap_or(COMMAND_SECONDS);
        if !(0.1..=3600.0).contains(&seconds) {
            bail!("on-detection-limit must be between 0.1 and 3600 seconds, got {seconds}");
        }
        Ok(Duration::from_secs_f64(seconds))
    }

    fn mqtt_options(table: &MqttSettings) -> MqttOptions {
        let table = table.clone();
        MqttOptions {
            broker: table.broker,
            user: table.user,
            password_file: table.password_file,
            ca: table.ca,
            name: table.name,
            discovery_prefix: table.discovery_prefix,
            speech: table.speech.unwrap_or(true),
        }
    }

    /// Checks the settings of all services, without starting one.
    pub fn check(settings: &Settings) -> anyhow::Result<()> {
        if need_input(settings) && settings.input() == Input::None {
            bail!("[mqtt], on-detection and voice-assistant need an input, such as \"mic\"; it is \"none\"");
        }
        if let Some(table) = &settings.mqtt {
            interval(table)?;
            mqtt_options(table).check()?;
        }
        if let Some(uri) = &settings.voice_assistant {
            VoiceAssistant::check(uri)?;
        }
        command_limit(settings)?;
        connections(settings)?;
        if let Some(uri) = &settings.wyoming {
            uri.parse::<WyomingUri>()?;
        }
        Ok(())
    }

    /// Whether the Wyoming service would search otherwise after a restart: it keeps its policy and its keyword settings.
    pub fn needs_restart(running: &Settings, wanted: &Settings) -> bool {
        let of = |settings: &Settings| (settings.policy_spec(), search_options(settings).ok());
        running.wyoming.is_some() && of(running) != of(wanted)
    }

    fn connections(settings: &Settings) -> anyhow::Result<Option<usize>> {
        match settings.wyoming_connections {
            Some(connections) if !(1..=CONNECTIONS).contains(&connections) => {
                bail!("wyoming-connections must be between 1 and {CONNECTIONS}, got {connections}")
            }
            connections => Ok(connections),
        }
    }

    fn wyoming(uri: &str, settings: &Settings, pack: &Arc<Pack>, encoder: &Arc<Encoder>) -> anyhow::Result<WyomingServer> {
        let mut options = WyomingOptions::default();
        if let Some(connections) = connections(settings)? {
            options.connections = connections;
        }
        encoder.check_embedding()?;
        let audio = encoder.audio();
        let hop_ms = audio.hop as f64 * 1e3 / f64::from(audio.sample_rate);
        let model = Model {
            encoder: encoder.clone(),
            pack: pack.clone(),
            policy: settings.policy_spec(),
            chunk_frames: settings.chunk_frames(hop_ms, pack.default_chunk_frames())?,
            search: search_options(settings)?,
        };
        let keywords = folder(settings)?;
        let enrolled = Arc::new(Enrolled::new(&keywords, PackRef::to(pack)));
        let server = WyomingServer::start(&uri.parse()?, model, enrolled, &options)?;
        log::info!("wyoming: tcp://{}, keywords of {}", server.address(), keywords.display());
        Ok(server)
    }
}

#[cfg(not(feature = "home"))]
mod absent {
    use std::sync::atomic::AtomicBool;

    use super::*;

    /// Nothing: starting refuses the settings of services.
    pub fn check(_: &Settings) -> anyhow::Result<()> {
        Ok(())
    }

    /// Never: this build has no services.
    pub fn needs_restart(_: &Settings, _: &Settings) -> bool {
        false
    }

    /// None: this build has no services.
    pub struct Services;

    impl Services {
        /// Refuses the settings of services.
        pub fn start(settings: &Settings, _: &Arc<Pack>, _: &Arc<Encoder>, _: &EventBus) -> anyhow::Result<Self> {
            match need_input(settings) || need_none(settings) {
                false => Ok(Self),
                true => anyhow::bail!("this build of bellis has no smart-home services; build it with the feature `home`"),
            }
        }

        /// Never set.
        pub fn muted(&self) -> Arc<AtomicBool> {
            Arc::default()
        }
    }
}
