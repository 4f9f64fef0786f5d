//! MQTT with Home Assistant's discovery: keywords as events, speech, exit depth and level as sensors.
//!
//! One thread owns the connection, and makes it again whenever it is lost. Keywords that wait for a connection for too long are dropped
//! and counted, because an automation that fires late is worse than none.

mod client;
mod discovery;
mod session;
mod tls;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::thread::ServiceThread;
use crate::daemon::events::Subscription;
use crate::daemon::secret;
use client::Identity;
use discovery::Device;
use session::Publisher;

/// Maximum size of a password file.
const PASSWORD_BYTES: u64 = 4096;

/// How a broker is reached.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MqttOptions {
    /// `mqtt://HOST[:PORT]` or `mqtts://HOST[:PORT]`.
    pub broker: String,
    /// User.
    pub user: Option<String>,
    /// File with the user's password; white space at its end does not count.
    pub password_file: Option<PathBuf>,
    /// PEM file of the certificates that sign the broker's; the system's by default.
    pub ca: Option<PathBuf>,
    /// Name of the device; the host's by default.
    pub name: Option<String>,
    /// Prefix of the discovery topics; `homeassistant` by default.
    pub discovery_prefix: Option<String>,
    /// Whether there is a sensor for speech, from a [`SpeechSensor`](super::SpeechSensor).
    pub speech: bool,
}

/// Why MQTT cannot be offered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MqttError {
    /// No address of the form.
    #[error("mqtt.broker must be mqtt://HOST[:PORT] or mqtts://HOST[:PORT], got `{0}`")]
    Broker(String),
    /// A name that cannot be one.
    #[error("mqtt.{key} must be 1 to 64 characters{without}, got `{value}`")]
    Name {
        /// The key.
        key: &'static str,
        /// What it must not contain.
        without: &'static str,
        /// The value.
        value: String,
    },
    /// A password without a user.
    #[error("mqtt.password-file needs mqtt.user")]
    NoUser,
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// A file without certificates.
    #[error("{}: no certificates in PEM format; set mqtt.ca to the file of the broker's certificate authority", path.display())]
    Certificates {
        /// The file.
        path: PathBuf,
    },
    /// TLS is not possible.
    #[error("TLS cannot be set up")]
    Tls(#[from] tokio_rustls::rustls::Error),
    /// The thread cannot be started.
    #[error("cannot start the thread of MQTT")]
    Thread(#[source] std::io::Error),
}

/// Where a broker is.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Broker {
    host: String,
    port: u16,
    tls: bool,
}

impl Broker {
    fn parse(text: &str) -> Result<Self, MqttError> {
        let wrong = || MqttError::Broker(text.to_owned());
        let (scheme, address) = text.split_once("://").ok_or_else(wrong)?;
        let (tls, port) = match scheme {
            "mqtt" => (false, 1883),
            "mqtts" => (true, 8883),
            _ => return Err(wrong()),
        };
        let address = address.trim_end_matches('/');
        // The colons of an IPv6 address are within brackets.
        let (host, port) = match address.rsplit_once(':') {
            Some((host, digits)) if !digits.ends_with(']') => (host, digits.parse().map_err(|_| wrong())?),
            _ => (address, port),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let fits = !host.is_empty() && !host.contains(['/', '@', ' ', '?', '#']);
        if fits { Ok(Self { host: host.to_owned(), port, tls }) } else { Err(wrong()) }
    }

    fn is_local(&self) -> bool {
        self.host == "localhost" || self.host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
    }
}

impl MqttOptions {
    /// Checks everything but the files.
    ///
    /// # Errors
    ///
    /// Options that cannot work.
    pub fn check(&self) -> Result<(), MqttError> {
        self.parts().map(drop)
    }

    /// The broker, the name and the discovery prefix.
    fn parts(&self) -> Result<(Broker, String, String), MqttError> {
        let broker = Broker::parse(&self.broker)?;
        let name = match &self.name {
            Some(name) => checked("name", name, "", &[])?,
            None => host_name(),
        };
        let prefix = self.discovery_prefix.as_deref().unwrap_or("homeassistant");
        let prefix = checked("discovery-prefix", prefix, " without + and #", &['+', '#'])?;
        if self.password_file.is_some() && self.user.is_none() {
            return Err(MqttError::NoUser);
        }
        Ok((broker, name, prefix))
    }
}

/// A publisher that runs until it is dropped.
pub struct Mqtt {
    thread: ServiceThread,
    dropped: Arc<AtomicU64>,
    /// Events that found no place in the queue.
    lost: Arc<AtomicU64>,
}

impl Mqtt {
    /// Starts the thread, which publishes `events`; readings of `pack`'s stream, every `interval`.
    ///
    /// # Errors
    ///
    /// Options that cannot work. A broker that is not there is no error: it is waited for.
    pub fn start(options: &MqttOptions, pack: &str, interval: Duration, events: Subscription) -> Result<Self, MqttError> {
        let (broker, name, prefix) = options.parts()?;
        let device = Device { speech: options.speech, ..Device::new(&name, &prefix, pack) };
        let password = options.password_file.as_deref().map(password).transpose()?;
        if password.is_some() && !broker.tls && !broker.is_local() {
            log::warn!("mqtt: the password is sent to {} without encryption; use mqtts://", broker.host);
        }
        let identity = Identity {
            client_id: format!("bellis-{}", device.id),
            user: options.user.clone(),
            password,
            will_topic: device.availability(),
        };
        let tls = if broker.tls { Some(tls::connector(options.ca.as_deref())?) } else { None };
        let (dropped, lost) = (Arc::<AtomicU64>::default(), events.loss_counter());
        let publisher = Publisher::new(broker, identity, device, tls, interval, dropped.clone());
        let thread = ServiceThread::start("mqtt", move |stopped| publisher.run(events, stopped)).map_err(MqttError::Thread)?;
        Ok(Self { thread, dropped, lost })
    }

    /// Events that were dropped: the queue was full, or there was no connection for too long.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed) + self.lost.load(Ordering::Relaxed)
    }
}

impl Drop for Mqtt {
    fn drop(&mut self) {
        self.thread.end();
        match self.dropped() {
            0 => {}
            count => log::warn!("mqtt: {count} events were dropped"),
        }
    }
}

fn checked(key: &'static str, value: &str, without: &'static str, forbidden: &[char]) -> Result<String, MqttError> {
    let fits = (1..=64).contains(&value.chars().count()) && !value.contains(forbidden) && !value.contains(char::is_control);
    if fits { Ok(value.to_owned()) } else { Err(MqttError::Name { key, without, value: value.to_owned() }) }
}

fn password(path: &Path) -> Result<Vec<u8>, MqttError> {
    let text = secret::read(path, "password", PASSWORD_BYTES);
    let text = text.map_err(|source| MqttError::File { path: path.to_owned(), source })?;
    Ok(text.trim_end().as_bytes().to_vec())
}

fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    match name.trim() {
        "" => "bellis".to_owned(),
        name => name.chars().take(64).collect(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::daemon::events::{EventBus, Interest};

    #[test]
    fn brokers_are_uris_with_a_default_port() {
        let broker = |text: &str| Broker::parse(text).map(|one| (one.host, one.port, one.tls)).map_err(|error| error.to_string());
        assert_eq!(broker("mqtt://localhost"), Ok(("localhost".into(), 1883, false)));
        assert_eq!(broker("mqtts://ha.local/"), Ok(("ha.local".into(), 8883, true)));
        assert_eq!(broker("mqtts://[::1]:1234"), Ok(("::1".into(), 1234, true)));
        assert_eq!(broker("mqtt://[fe80::1]"), Ok(("fe80::1".into(), 1883, false)));
        for bad in ["", "localhost", "http://a", "mqtt://", "mqtt://a:b", "mqtt://me:secret@a", "mqtt://a/b"] {
            assert!(broker(bad).unwrap_err().contains("mqtt.broker must be"), "{bad}");
        }
    }

    #[test]
    fn names_that_make_no_topic_are_refused() {
        let refused = |options: MqttOptions| {
            let options = MqttOptions { broker: "mqtt://localhost:1".into(), ..options };
            let events = EventBus::default().subscribe(Interest::Detections);
            Mqtt::start(&options, "daisy-tiny", Duration::from_secs(10), events).err().unwrap().to_string()
        };
        assert!(refused(MqttOptions { name: Some(String::new()), ..Default::default() }).contains("mqtt.name"));
        let prefix = refused(MqttOptions { discovery_prefix: Some("a/#".into()), ..Default::default() });
        assert!(prefix.contains("mqtt.discovery-prefix must be 1 to 64 characters without + and #"), "{prefix}");
        assert!(refused(MqttOptions { password_file: Some("x".into()), ..Default::default() }).contains("needs mqtt.user"));
    }
}
