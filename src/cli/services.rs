//! The services of `bellis serve` besides its HTTP server.

use std::sync::Arc;

use bellis::engine::Encoder;
use bellis::pack::Pack;

use super::settings::Settings;

#[cfg(feature = "home")]
pub use home::{CONSUMER, Services};

#[cfg(not(feature = "home"))]
pub use absent::{CONSUMER, Services};

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
    use bellis::daemon::home::{
        DetectionCommand, Enrolled, HomeConsumer, Model, Mqtt, MqttOptions, Outbox, VoiceAssistant, WyomingOptions, WyomingServer,
    };
    use bellis::keyword::PackRef;
    use bellis::runtime::NamedConsumer;

    use super::*;
    use crate::cli::keywords::{folder, search_options};
    use crate::cli::settings::{Input, MqttSettings};

    /// Label of the consumer that feeds the services.
    pub const CONSUMER: &str = "home";
    /// Maximum of `wyoming-connections`.
    const CONNECTIONS: usize = 1000;
    /// Seconds that a program may run if nothing else is set.
    const COMMAND_SECONDS: f64 = 10.0;
    /// Seconds between readings if nothing else is set.
    const INTERVAL_SECONDS: f64 = 10.0;

    /// The running services; they end when this value is dropped.
    pub struct Services {
        outboxes: Vec<Outbox>,
        muted: Arc<AtomicBool>,
        interval: Duration,
        _mqtt: Option<Mqtt>,
        _voice_assistant: Option<VoiceAssistant>,
        _wyoming: Option<WyomingServer>,
    }

    impl Services {
        /// Starts the configured services.
        pub fn start(settings: &Settings, pack: &Arc<Pack>, encoder: &Arc<Encoder>) -> anyhow::Result<Self> {
            let wyoming = settings.wyoming.as_deref().map(|uri| wyoming(uri, settings, pack, encoder)).transpose()?;
            if need_input(settings) && settings.input() == Input::None {
                bail!("[mqtt], on-detection and voice-assistant need an input, such as \"mic\"; it is \"none\"");
            }
            let (mut outboxes, muted) = (Vec::new(), Arc::default());
            let interval = interval(settings.mqtt.as_ref())?;
            let mqtt = match &settings.mqtt {
                None => None,
                Some(table) => {
                    let (mqtt, outbox) = Mqtt::start(&mqtt_options(table), encoder.name(), interval)?;
                    outboxes.push(outbox);
                    Some(mqtt)
                }
            };
            if !settings.on_detection.is_empty() {
                let command = DetectionCommand { command: settings.on_detection.clone(), limit: command_limit(settings)? };
                outboxes.push(command.start()?);
            }
            let voice_assistant = match &settings.voice_assistant {
                None => None,
                Some(uri) => {
                    let (assistant, outbox) = VoiceAssistant::start(uri, Arc::clone(&muted))?;
                    outboxes.push(outbox);
                    Some(assistant)
                }
            };
            Ok(Self { outboxes, muted, interval, _mqtt: mqtt, _voice_assistant: voice_assistant, _wyoming: wyoming })
        }

        /// The consumer that feeds the services, if one of them needs it.
        pub fn consumer(
            &mut self,
            settings: &Settings,
            pack: &Pack,
            encoder: &Arc<Encoder>,
        ) -> anyhow::Result<Option<NamedConsumer>> {
            if self.outboxes.is_empty() {
                return Ok(None);
            }
            let enrolled = Arc::new(Enrolled::new(&folder(settings)?, PackRef::to(pack)));
            let (outboxes, muted) = (std::mem::take(&mut self.outboxes), self.muted.clone());
            let consumer = HomeConsumer::new(encoder, enrolled, search_options(settings)?, outboxes, muted, self.interval)?;
            Ok(Some(NamedConsumer { label: CONSUMER.to_owned(), consumer: Box::new(consumer) }))
        }
    }

    fn interval(mqtt: Option<&MqttSettings>) -> anyhow::Result<Duration> {
        let seconds = mqtt.and_then(|table| table.interval).unwrap_or(INTERVAL_SECONDS);
        if !(0.1..=3600.0).contains(&seconds) {
            bail!("mqtt.interval must be between 0.1 and 3600 seconds, got {seconds}");
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
        }
    }

    fn wyoming(uri: &str, settings: &Settings, pack: &Arc<Pack>, encoder: &Arc<Encoder>) -> anyhow::Result<WyomingServer> {
        let mut options = WyomingOptions::default();
        if let Some(connections) = settings.wyoming_connections {
            if !(1..=CONNECTIONS).contains(&connections) {
                bail!("wyoming-connections must be between 1 and {CONNECTIONS}, got {connections}");
            }
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
    use bellis::runtime::NamedConsumer;

    use super::*;

    /// Label of the consumer that feeds the services.
    pub const CONSUMER: &str = "home";

    /// None: this build has no services.
    pub struct Services;

    impl Services {
        /// Refuses the settings of services.
        pub fn start(settings: &Settings, _: &Arc<Pack>, _: &Arc<Encoder>) -> anyhow::Result<Self> {
            match need_input(settings) || need_none(settings) {
                false => Ok(Self),
                true => anyhow::bail!("this build of bellis has no smart-home services; build it with the feature `home`"),
            }
        }

        /// None.
        pub fn consumer(&mut self, _: &Settings, _: &Pack, _: &Arc<Encoder>) -> anyhow::Result<Option<NamedConsumer>> {
            Ok(None)
        }
    }
}
