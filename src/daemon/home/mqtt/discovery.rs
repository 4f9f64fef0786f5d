//! Topics and payloads: what Home Assistant's MQTT integration reads.

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// Names of one device.
#[derive(Debug, Clone)]
pub struct Device {
    /// For people.
    pub name: String,
    /// For topics and identities: letters, digits, `_`.
    pub id: String,
    /// Prefix of Home Assistant's discovery topics.
    pub discovery_prefix: String,
    /// The pack.
    pub pack: String,
    /// Whether it has a sensor for speech.
    pub speech: bool,
}

impl Device {
    /// A device with this name.
    pub fn new(name: &str, discovery_prefix: &str, pack: &str) -> Self {
        let mut id: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' }).collect();
        if !id.contains(|c: char| c.is_ascii_alphanumeric()) {
            // Nothing is left of a name in another script.
            id = Sha256::digest(name).iter().take(6).fold("device_".to_owned(), |id, byte| format!("{id}{byte:02x}"));
        }
        Self { name: name.to_owned(), id, discovery_prefix: discovery_prefix.to_owned(), pack: pack.to_owned(), speech: true }
    }

    fn topic(&self, what: &str) -> String {
        format!("bellis/{}/{what}", self.id)
    }

    /// `online` or `offline`, retained.
    pub fn availability(&self) -> String {
        self.topic("status")
    }

    /// An object for each detected keyword.
    pub fn keyword(&self) -> String {
        self.topic("keyword")
    }

    /// `ON` or `OFF`.
    pub fn speech_topic(&self) -> String {
        self.topic("speech")
    }

    /// An object with the means of the last interval.
    pub fn reading(&self) -> String {
        self.topic("reading")
    }

    /// Topic on which Home Assistant announces that it has started.
    pub fn birth(&self) -> String {
        format!("{}/status", self.discovery_prefix)
    }

    /// Where Home Assistant looks for devices.
    pub fn discovery(&self) -> String {
        format!("{}/device/bellis_{}/config", self.discovery_prefix, self.id)
    }

    /// The description of the device and its entities.
    pub fn description(&self, keywords: &[String], expire_after: u64) -> Value {
        let unique = |what: &str| format!("bellis_{}_{what}", self.id);
        let version = env!("CARGO_PKG_VERSION");
        let mut description = json!({
            "device": {
                "identifiers": [format!("bellis_{}", self.id)],
                "name": self.name,
                "manufacturer": "Bellis",
                "model": self.pack,
                "sw_version": version,
            },
            "origin": {"name": "Bellis", "sw_version": version},
            "availability_topic": self.availability(),
            "components": {
                "keyword": {
                    "platform": "event",
                    "unique_id": unique("keyword"),
                    "name": "Keyword",
                    "icon": "mdi:account-voice",
                    "state_topic": self.keyword(),
                    "event_types": keywords,
                },
                "exit_layer": {
                    "platform": "sensor",
                    "unique_id": unique("exit_layer"),
                    "name": "Exit depth",
                    "icon": "mdi:layers",
                    "state_class": "measurement",
                    "entity_category": "diagnostic",
                    "state_topic": self.reading(),
                    "value_template": "{{ value_json.exit_layer }}",
                    "unit_of_measurement": "layers",
                    "expire_after": expire_after,
                },
                "level": {
                    "platform": "sensor",
                    "unique_id": unique("level"),
                    "name": "Level",
                    "icon": "mdi:volume-medium",
                    "state_class": "measurement",
                    "state_topic": self.reading(),
                    "value_template": "{{ value_json.level_dbfs }}",
                    "unit_of_measurement": "dBFS",
                    "expire_after": expire_after,
                },
            },
        });
        // A component with nothing but its platform is removed by Home Assistant, if an earlier description had it.
        description["components"]["speech"] = match self.speech {
            true => json!({
                "platform": "binary_sensor",
                "unique_id": unique("speech"),
                "name": "Speech",
                "device_class": "sound",
                "state_topic": self.speech_topic(),
            }),
            false => json!({"platform": "binary_sensor"}),
        };
        description
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_makes_topics_without_wildcards() {
        let device = Device::new("Küche/+# 1", "homeassistant", "daisy-tiny");
        assert_eq!(device.keyword(), "bellis/k_che____1/keyword");
        assert_eq!(device.discovery(), "homeassistant/device/bellis_k_che____1/config");
        let others = ["厨房", "客厅"].map(|name| Device::new(name, "homeassistant", "daisy-tiny").id);
        assert!(others[0] != others[1] && others.iter().all(|id| id.starts_with("device_") && id.len() == 19), "{others:?}");
    }

    #[test]
    fn a_device_without_a_speech_sensor_has_an_earlier_one_removed() {
        let device = Device { speech: false, ..Device::new("desk", "homeassistant", "daisy-tiny") };
        assert_eq!(device.description(&[], 60)["components"]["speech"], json!({"platform": "binary_sensor"}));
    }
}
