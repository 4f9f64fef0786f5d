//! The daemon in a smart home: protocols through which voice assistants and home automation use it.
//!
//! Each protocol has its own threads and its own bounds. None of them can delay capture or inference: events of the daemon's own
//! microphone go through bounded queues, and what finds no place is dropped and counted.

mod command;
mod enrolled;
mod events;
mod mqtt;
mod retry;
mod voice_assistant;
pub(crate) mod wyoming;

pub use command::{CommandError, DetectionCommand};
pub use enrolled::Enrolled;
pub use events::{HomeConsumer, HomeEvent, KeywordEvent, Outbox, Reading};
pub use mqtt::{Mqtt, MqttError, MqttOptions};
pub use voice_assistant::{VoiceAssistant, VoiceAssistantError};
pub use wyoming::{Model, WyomingError, WyomingOptions, WyomingServer, WyomingUri};
