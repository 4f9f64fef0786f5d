//! One peer: what it sends, and what it is answered.

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::audio::{AudioFormat, AudioStream, AudioStreamError, Found, Model};
use super::info::info;
use super::message::{Message, MessageError};
use crate::chain::Chain;
use crate::daemon::home::Enrolled;
use crate::keyword::Keyword;

/// Names of one `detect`.
const NAMES: usize = 256;

/// What all connections share.
pub struct Service {
    /// What streams are computed with.
    pub model: Model,
    /// The keywords.
    pub enrolled: Arc<Enrolled>,
}

/// Why a connection is closed.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    /// What it sends is not Wyoming.
    #[error(transparent)]
    Message(#[from] MessageError),
    /// `detect` without a list of names.
    #[error("`detect` needs `names`, a list of at most {NAMES} names, or null")]
    Names,
    /// Audio that cannot be processed.
    #[error(transparent)]
    Audio(#[from] AudioStreamError),
    /// A message that began and does not end.
    #[error("the rest of a message did not arrive in time")]
    Slow,
    /// The connection failed.
    #[error("the connection failed")]
    Io(#[from] std::io::Error),
}

/// A conversation with one peer.
pub struct Conversation {
    service: Arc<Service>,
    /// Names that the peer wants detected; None for all.
    wanted: Option<Vec<String>>,
    /// The stream, from the first audio after `audio-start` to `audio-stop`.
    stream: Option<AudioStream>,
}

impl Conversation {
    /// Before its first message.
    pub fn new(service: Arc<Service>) -> Self {
        Self { service, wanted: None, stream: None }
    }

    /// Handles one message, and writes the answers to `out`. Messages that are none of a wake-word service are ignored.
    ///
    /// # Errors
    ///
    /// The connection has to be closed.
    pub fn handle(&mut self, message: &Message, out: &mut impl Write) -> Result<(), ConnectionError> {
        match message.kind.as_str() {
            "describe" => info(self.service.enrolled.read().iter().map(|(_, keyword)| &**keyword)).write(out)?,
            "ping" => Message::new("pong", json!({"text": message.data.get("text")})).write(out)?,
            "detect" => {
                self.wanted = names(&message.data)?;
                // Names that are not enrolled are reported now, while the user is configuring the client.
                let enrolled = self.service.enrolled.read();
                for name in self.wanted.iter().flatten() {
                    if find(&enrolled, name).is_none() {
                        let folder = self.service.enrolled.folder().display().to_string();
                        error(&format!("no keyword `{name}` in {folder}; enroll it with `bellis enroll`"), "unknown-keyword")
                            .write(out)?;
                    }
                }
            }
            "audio-start" => {
                format(&message.data)?;
                self.finish(out)?;
                self.stream = Some(self.begin()?);
            }
            "audio-chunk" => {
                let format = format(&message.data)?;
                let milliseconds = message.data.get("timestamp").and_then(Value::as_i64);
                let stream = match &mut self.stream {
                    Some(stream) => stream,
                    None => self.stream.insert(begin(&self.service, self.wanted.as_deref())?),
                };
                for found in stream.push(format, milliseconds, &message.payload)? {
                    detection(found).write(out)?;
                }
            }
            "audio-stop" => {
                if self.finish(out)? == Some(0) {
                    Message::new("not-detected", json!({})).write(out)?;
                }
            }
            other => log::debug!("wyoming: a message of type `{other}` is ignored"),
        }
        Ok(())
    }

    /// Ends the stream, if there is one: the number of its detections.
    fn finish(&mut self, out: &mut impl Write) -> Result<Option<u64>, ConnectionError> {
        let Some(mut stream) = self.stream.take() else { return Ok(None) };
        for found in stream.finish()? {
            detection(found).write(out)?;
        }
        Ok(Some(stream.detections()))
    }

    fn begin(&self) -> Result<AudioStream, AudioStreamError> {
        begin(&self.service, self.wanted.as_deref())
    }
}

/// A stream for the wanted keywords that are enrolled now.
fn begin(service: &Service, wanted: Option<&[String]>) -> Result<AudioStream, AudioStreamError> {
    let enrolled = service.enrolled.read();
    let keywords: Vec<(String, PathBuf, Arc<Keyword>)> = match wanted {
        None => enrolled.into_iter().map(|(path, keyword)| (keyword.name.clone(), path, keyword)).collect(),
        Some(names) => names
            .iter()
            .filter_map(|name| find(&enrolled, name).map(|(path, keyword)| (name.clone(), path.clone(), keyword.clone())))
            .collect(),
    };
    AudioStream::new(&service.model, &keywords)
}

/// The keyword that a peer means: by its name, or else by its name in another spelling (`Hey Bellis` for `hey_bellis`).
fn find<'a>(enrolled: &'a [(PathBuf, Arc<Keyword>)], name: &str) -> Option<&'a (PathBuf, Arc<Keyword>)> {
    let spelt = |name: &str| name.to_lowercase().replace(['_', '-'], " ");
    let same = |one: &&(PathBuf, Arc<Keyword>)| one.1.name == name;
    enrolled.iter().find(same).or_else(|| enrolled.iter().find(|(_, keyword)| spelt(&keyword.name) == spelt(name)))
}

/// An `error` message.
pub fn error(text: &str, code: &str) -> Message {
    Message::new("error", json!({"text": text, "code": code}))
}

/// The `error` message for what closes a connection; none if the peer cannot read it any more.
pub fn farewell(reason: &ConnectionError) -> Option<Message> {
    let code = match reason {
        ConnectionError::Message(_) | ConnectionError::Names => "invalid-message",
        ConnectionError::Audio(_) => "invalid-audio",
        ConnectionError::Slow => "timeout",
        ConnectionError::Io(_) => return None,
    };
    Some(error(&Chain(reason).to_string(), code))
}

fn detection(found: Found) -> Message {
    log::info!("wyoming: keyword `{}` detected, score {:.3}", found.name, found.score);
    Message::new("detection", json!({"name": found.name, "timestamp": found.milliseconds}))
}

fn names(data: &Map<String, Value>) -> Result<Option<Vec<String>>, ConnectionError> {
    match data.get("names") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Array(names)) if names.len() <= NAMES => {
            let names: Option<Vec<_>> = names.iter().map(|name| name.as_str().map(str::to_owned)).collect();
            // As in other services, an empty list asks for everything.
            Ok(Some(names.ok_or(ConnectionError::Names)?).filter(|names| !names.is_empty()))
        }
        Some(_) => Err(ConnectionError::Names),
    }
}

fn format(data: &Map<String, Value>) -> Result<AudioFormat, AudioStreamError> {
    let number = |key| data.get(key).and_then(Value::as_u64).ok_or(AudioStreamError::Missing(key));
    AudioFormat::new(number("rate")?, number("width")?, number("channels")?)
}
