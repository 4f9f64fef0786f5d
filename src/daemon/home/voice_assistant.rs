//! Linux Voice Assistant: a keyword starts its pipeline, and while it listens or speaks, or is muted, keywords are ignored.
//!
//! It is the client of the assistant's peripheral API, a WebSocket with one JSON object per message
//! (`docs/peripheral_api.md` of Linux Voice Assistant).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde::Deserialize;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_tungstenite::tungstenite::http::Uri;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

use super::retry::Retry;
use super::thread::ServiceThread;
use crate::chain::Chain;
use crate::daemon::events::Subscription;

/// The assistant's default port.
const PORT: u16 = 6055;
/// Largest message that is accepted.
const MESSAGE_LIMIT: usize = 64 << 10;
/// How long a step may take.
const STEP_WITHIN: Duration = Duration::from_secs(10);
/// Pings are sent so often, and something has to arrive within twice that.
const PING_EVERY: Duration = Duration::from_secs(20);
/// An assistant that has begun and says nothing for this time is taken to be idle.
const ACTIVE_WITHIN: Duration = Duration::from_secs(120);
/// A keyword that waited longer for a connection is dropped.
const WAITS_WITHIN: Duration = Duration::from_secs(3);
const START_LISTENING: &str = r#"{"command":"start_listening"}"#;

/// Why the assistant cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VoiceAssistantError {
    /// No address of the form.
    #[error("voice-assistant must be ws://HOST[:PORT], such as ws://127.0.0.1:{PORT}, got `{0}`")]
    Uri(String),
    /// The thread cannot be started.
    #[error("cannot start the thread of voice-assistant")]
    Thread(#[source] std::io::Error),
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error("cannot connect")]
    Connect(#[source] std::io::Error),
    #[error("does not answer")]
    Silent,
    #[error("closed the connection")]
    Closed,
    #[error("the connection failed")]
    WebSocket(#[from] Box<tungstenite::Error>),
}

impl From<tungstenite::Error> for End {
    fn from(error: tungstenite::Error) -> Self {
        Self::WebSocket(Box::new(error))
    }
}

/// A message of the assistant. What is not read here is not checked.
#[derive(Debug, Deserialize)]
struct Event {
    event: String,
    #[serde(default)]
    data: Option<Data>,
}

#[derive(Debug, Default, Deserialize)]
struct Data {
    #[serde(default)]
    muted: Option<bool>,
}

/// What the assistant does.
#[derive(Debug, Default)]
struct Activity {
    muted: bool,
    active: Option<Instant>,
}

impl Activity {
    /// After a message; one that is not understood changes nothing.
    fn after(&mut self, text: &str) {
        let Ok(Event { event, data }) = serde_json::from_str(text) else {
            log::debug!("voice-assistant: a message is not understood");
            return;
        };
        let muted = data.and_then(|data| data.muted);
        match event.as_str() {
            "snapshot" | "muted" => self.muted = muted.unwrap_or(self.muted),
            "wake_word_detected" | "listening" | "thinking" | "tts_speaking" => self.active = Some(Instant::now()),
            "idle" | "pipeline_error" | "disconnected" => self.active = None,
            _ => {}
        }
    }

    fn is_busy(&self) -> bool {
        self.muted || self.active.is_some_and(|since| since.elapsed() < ACTIVE_WITHIN)
    }
}

/// A client that runs until it is dropped.
pub struct VoiceAssistant {
    _thread: ServiceThread,
}

impl VoiceAssistant {
    /// Starts the thread. `muted` is set while keywords are to be ignored.
    ///
    /// # Errors
    ///
    /// No address. An assistant that is not there is no error: it is waited for.
    pub fn start(uri: &str, muted: Arc<AtomicBool>, events: Subscription) -> Result<Self, VoiceAssistantError> {
        let (uri, address) = Self::parse(uri)?;
        let client = Client { uri, address, muted };
        let thread = ServiceThread::start("voice-assistant", move |stopped| client.run(events, stopped));
        Ok(Self { _thread: thread.map_err(VoiceAssistantError::Thread)? })
    }

    /// Checks an address.
    ///
    /// # Errors
    ///
    /// One that is not of the form `ws://HOST[:PORT]`.
    pub fn check(uri: &str) -> Result<(), VoiceAssistantError> {
        Self::parse(uri).map(drop)
    }

    fn parse(uri: &str) -> Result<(Uri, (String, u16)), VoiceAssistantError> {
        let wrong = || VoiceAssistantError::Uri(uri.to_owned());
        let parsed: Uri = uri.parse().map_err(|_| wrong())?;
        let host = parsed.host().filter(|_| parsed.scheme_str() == Some("ws")).ok_or_else(wrong)?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let address = (host, parsed.port_u16().unwrap_or(PORT));
        Ok((parsed, address))
    }
}

struct Client {
    uri: Uri,
    address: (String, u16),
    muted: Arc<AtomicBool>,
}

impl Client {
    /// Keeps a connection until `stop`, or until the events end.
    async fn run(self, mut events: Subscription, mut stop: watch::Receiver<bool>) {
        let mut retry = Retry::new();
        loop {
            let began = Instant::now();
            let end = self.session(&mut events, stop.clone(), &mut retry).await;
            // An assistant that is not there does not speak.
            self.muted.store(false, Ordering::Relaxed);
            let Err(reason) = end else { return };
            let text = Chain(&reason).to_string();
            if retry.is_new(&text) {
                log::warn!("voice-assistant: {}: {text}; retrying until it works", self.uri);
            }
            let until = sleep(retry.wait(began.elapsed()));
            tokio::pin!(until);
            loop {
                tokio::select! {
                    _ = stop.changed() => return,
                    () = &mut until => break,
                    event = events.recv() => {
                        let Some(event) = event else { return };
                        if let Some(found) = event.detection() {
                            log::warn!("voice-assistant: `{}` starts nothing: there is no connection", found.hit.keyword);
                        }
                    }
                }
            }
        }
    }

    async fn connect(&self) -> Result<WebSocketStream<TcpStream>, End> {
        let (host, port) = (self.address.0.as_str(), self.address.1);
        let stream = timeout(STEP_WITHIN, TcpStream::connect((host, port))).await.map_err(|_| End::Silent)?;
        let stream = stream.map_err(End::Connect)?;
        let limits = WebSocketConfig::default().max_message_size(Some(MESSAGE_LIMIT)).max_frame_size(Some(MESSAGE_LIMIT));
        let handshake = client_async_with_config(self.uri.clone(), stream, Some(limits));
        let (socket, _) = timeout(STEP_WITHIN, handshake).await.map_err(|_| End::Silent)??;
        Ok(socket)
    }

    /// One connection; `Ok` after `stop`, or when the events end.
    async fn session(&self, events: &mut Subscription, mut stop: watch::Receiver<bool>, retry: &mut Retry) -> Result<(), End> {
        use futures_util::{SinkExt, StreamExt};
        let mut socket = tokio::select! {
            _ = stop.changed() => return Ok(()),
            socket = self.connect() => socket?,
        };
        retry.works();
        log::info!("voice-assistant: connected to {}", self.uri);
        let (mut activity, mut heard) = (Activity::default(), Instant::now());
        let mut ping = tokio::time::interval(PING_EVERY);
        loop {
            let outgoing = tokio::select! {
                _ = stop.changed() => break,
                message = socket.next() => {
                    heard = Instant::now();
                    match message.ok_or(End::Closed)?? {
                        Message::Text(text) => activity.after(&text),
                        Message::Close(_) => return Err(End::Closed),
                        _ => {}
                    }
                    None
                }
                event = events.recv() => {
                    let Some(event) = event else { break };
                    let starts = event.detection().is_some_and(|found| found.at.elapsed() < WAITS_WITHIN) && !activity.is_busy();
                    starts.then(|| Message::text(START_LISTENING))
                }
                _ = ping.tick() => {
                    if heard.elapsed() > 2 * PING_EVERY {
                        return Err(End::Silent);
                    }
                    Some(Message::Ping(Vec::new().into()))
                }
            };
            self.muted.store(activity.is_busy(), Ordering::Relaxed);
            if let Some(message) = outgoing {
                timeout(STEP_WITHIN, socket.send(message)).await.map_err(|_| End::Silent)??;
            }
        }
        let _ = timeout(STEP_WITHIN, socket.close(None)).await;
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::daemon::events::{EventBus, Interest};

    #[test]
    fn the_assistant_is_busy_from_its_wake_word_to_idle_and_while_it_is_muted() {
        let mut activity = Activity::default();
        let mut after = |text: &str| {
            activity.after(text);
            activity.is_busy()
        };
        assert!(!after(r#"{"event":"snapshot","data":{"muted":false,"volume":0.8,"ha_connected":true}}"#));
        assert!(after(r#"{"event":"wake_word_detected"}"#));
        assert!(after(r#"{"event":"tts_text","data":{"text":"Sure."}}"#));
        assert!(after(r#"{"event":"tts_finished"}"#));
        assert!(!after(r#"{"event":"idle"}"#));
        assert!(after(r#"{"event":"muted","data":{"muted":true}}"#));
        assert!(after(r#"{"event":"idle"}"#));
        assert!(!after(r#"{"event":"muted","data":{"muted":false}}"#));
        assert!(!after(r#"{"event":"volume_muted","data":{"muted":true}}"#));
        assert!(after(r#"{"event":"listening"}"#));
        assert!(!after(r#"{"event":"pipeline_error","data":{"reason":"x"}}"#));
    }

    #[test]
    fn addresses_are_websocket_uris() {
        for bad in ["", "127.0.0.1:6055", "wss://localhost", "http://localhost", "ws://"] {
            let events = EventBus::default().subscribe(Interest::Detections);
            let refused = VoiceAssistant::start(bad, Arc::default(), events).err().unwrap().to_string();
            assert!(refused.contains("must be ws://HOST[:PORT]"), "{bad}: {refused}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(10_000))]
        #[test]
        fn malformed_messages_change_nothing(text in r#"[\[\]{}":,a-z0-9.\\ -]{0,60}"#) {
            let mut activity = Activity::default();
            activity.after(&text);
            prop_assert!(!activity.is_busy());
        }
    }
}
