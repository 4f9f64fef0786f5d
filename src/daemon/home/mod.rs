//! The daemon in a smart home: protocols through which voice assistants and home automation use it.
//!
//! Each protocol has its own threads and its own bounds. What happens at the daemon's own microphone comes from its
//! [events](super::events), whose queues are bounded, so that no protocol can delay capture or inference.

mod command;
mod enrolled;
mod mqtt;
mod retry;
mod speech;
mod thread;
mod voice_assistant;
pub(crate) mod wyoming;

pub use command::{CommandError, DetectionCommand, RunningCommand};
pub use enrolled::Enrolled;
pub use mqtt::{Mqtt, MqttError, MqttOptions};
pub use speech::SpeechSensor;
pub use voice_assistant::{VoiceAssistant, VoiceAssistantError};
pub use wyoming::{Model, WyomingError, WyomingOptions, WyomingServer, WyomingUri};
