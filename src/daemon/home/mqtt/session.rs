//! The task that keeps a connection to the broker and publishes on it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc::Receiver;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;

use super::Broker;
use super::client::{ClientError, Identity, Incoming, KEEP_ALIVE_SECONDS, MqttClient};
use super::discovery::Device;
use crate::chain::Chain;
use crate::daemon::home::events::{HomeEvent, KeywordEvent, Reading};
use crate::daemon::home::retry::Retry;

/// How long the broker may take for a step: to connect, to answer, to accept bytes.
const STEP_WITHIN: Duration = Duration::from_secs(10);
/// Pings are sent so often, and something has to arrive within twice that.
const PING_EVERY: Duration = Duration::from_secs(KEEP_ALIVE_SECONDS as u64 / 2);
/// Keywords that wait for a connection: not many, and not for long.
const PENDING: usize = 16;
const PENDING_WITHIN: Duration = Duration::from_secs(10);
/// After Home Assistant's start its other parts need a moment.
const BIRTH_WAIT: Duration = Duration::from_millis(500);

trait Socket: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Socket for T {}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
enum SessionEnd {
    #[error("cannot connect")]
    Connect(#[source] std::io::Error),
    #[error("TLS failed")]
    Tls(#[source] std::io::Error),
    #[error("the broker does not answer")]
    Silent,
    #[error("the broker closed the connection")]
    Closed,
    #[error("the connection failed")]
    Io(#[from] std::io::Error),
    #[error(transparent)]
    Client(#[from] ClientError),
}

/// What is to be published, and where.
pub struct Publisher {
    broker: Broker,
    identity: Identity,
    device: Device,
    tls: Option<TlsConnector>,
    expire_after: u64,
    dropped: Arc<AtomicU64>,
    keywords: Arc<Vec<String>>,
    speech: bool,
    reading: Option<Reading>,
    pending: VecDeque<Arc<KeywordEvent>>,
}

/// One connection.
struct Link {
    socket: Box<dyn Socket>,
    client: MqttClient,
    out: Vec<u8>,
}

impl Link {
    async fn flush(&mut self) -> Result<(), SessionEnd> {
        if !self.out.is_empty() {
            timeout(STEP_WITHIN, self.socket.write_all(&self.out)).await.map_err(|_| SessionEnd::Silent)??;
            self.out.clear();
        }
        Ok(())
    }

    fn publish(&mut self, topic: &str, payload: &[u8], retain: bool, acknowledged: bool) -> Result<(), ClientError> {
        self.client.publish(topic, payload, retain, acknowledged, &mut self.out)
    }
}

impl Publisher {
    /// A publisher without a connection.
    pub fn new(
        broker: Broker,
        identity: Identity,
        device: Device,
        tls: Option<TlsConnector>,
        expire_after: u64,
        dropped: Arc<AtomicU64>,
    ) -> Self {
        Self {
            broker,
            identity,
            device,
            tls,
            expire_after,
            dropped,
            keywords: Arc::default(),
            speech: false,
            reading: None,
            pending: VecDeque::new(),
        }
    }

    /// Publishes until `stop`.
    pub async fn run(mut self, mut events: Receiver<HomeEvent>, mut stop: watch::Receiver<bool>) {
        let mut retry = Retry::new();
        loop {
            let began = Instant::now();
            let Err(reason) = self.session(&mut events, stop.clone(), &mut retry).await else { return };
            let text = Chain(&reason).to_string();
            if retry.is_new(&text) {
                log::warn!("mqtt: {}:{}: {text}; retrying until it works", self.broker.host, self.broker.port);
            }
            let until = sleep(retry.wait(began.elapsed()));
            tokio::pin!(until);
            loop {
                tokio::select! {
                    () = &mut until => break,
                    _ = stop.changed() => return,
                    event = events.recv() => match event {
                        Some(event) => drop(self.take(event)),
                        // The consumer ended, and with it the daemon, or it is being replaced.
                        None => return,
                    },
                }
            }
        }
    }

    /// Remembers what is published now or later. Returns the event if there is something new to publish.
    fn take(&mut self, event: HomeEvent) -> HomeEvent {
        match &event {
            HomeEvent::Keyword(keyword) => {
                if self.pending.len() == PENDING {
                    self.pending.pop_front();
                    self.dropped.fetch_add(1, Ordering::Relaxed);
                }
                self.pending.push_back(keyword.clone());
            }
            HomeEvent::Speech(speech) => self.speech = *speech,
            HomeEvent::Reading(reading) => self.reading = Some(*reading),
            HomeEvent::Keywords(names) => self.keywords = names.clone(),
        }
        event
    }

    async fn connect(&self) -> Result<Link, SessionEnd> {
        let address = (self.broker.host.as_str(), self.broker.port);
        let stream = timeout(STEP_WITHIN, TcpStream::connect(address)).await.map_err(|_| SessionEnd::Silent)?;
        let stream = stream.map_err(SessionEnd::Connect)?;
        stream.set_nodelay(true)?;
        let socket: Box<dyn Socket> = match &self.tls {
            None => Box::new(stream),
            Some(connector) => {
                let name = ServerName::try_from(self.broker.host.clone())
                    .map_err(|error| SessionEnd::Tls(std::io::Error::other(error)))?;
                let encrypted = timeout(STEP_WITHIN, connector.connect(name, stream)).await.map_err(|_| SessionEnd::Silent)?;
                Box::new(encrypted.map_err(SessionEnd::Tls)?)
            }
        };
        let mut link = Link { socket, client: MqttClient::new(&self.device.birth()), out: Vec::new() };
        link.client.connect(&self.identity, &mut link.out)?;
        link.flush().await?;
        Ok(link)
    }

    /// One connection, from its beginning to its end; `Ok` after `stop`.
    async fn session(
        &mut self,
        events: &mut Receiver<HomeEvent>,
        mut stop: watch::Receiver<bool>,
        retry: &mut Retry,
    ) -> Result<(), SessionEnd> {
        let mut link = tokio::select! {
            link = self.connect() => link?,
            _ = stop.changed() => return Ok(()),
        };
        let mut bytes = vec![0; 4096];
        let (mut heard, mut accepted, mut subscribed) = (Instant::now(), false, false);
        let mut ping = tokio::time::interval(PING_EVERY);
        ping.reset();
        loop {
            tokio::select! {
                _ = stop.changed() => return self.leave(&mut link).await,
                count = link.socket.read(&mut bytes) => {
                    let count = count?;
                    if count == 0 {
                        return Err(SessionEnd::Closed);
                    }
                    heard = Instant::now();
                    for message in link.client.receive(&bytes[..count], &mut link.out)? {
                        match message {
                            Incoming::Accepted if !accepted => {
                                accepted = true;
                                link.client.subscribe(&mut link.out)?;
                            }
                            Incoming::Subscribed if accepted && !subscribed => {
                                subscribed = true;
                                retry.works();
                                log::info!("mqtt: connected to {}:{} as {}", self.broker.host, self.broker.port, self.device.name);
                                self.introduce(&mut link)?;
                            }
                            Incoming::Message { topic, payload } if topic == self.device.birth() && payload == b"online" => {
                                sleep(BIRTH_WAIT).await;
                                self.introduce(&mut link)?;
                            }
                            _ => {}
                        }
                    }
                }
                event = events.recv() => {
                    let Some(event) = event else { return self.leave(&mut link).await };
                    let event = self.take(event);
                    if subscribed {
                        self.publish(&event, &mut link)?;
                    }
                }
                _ = ping.tick() => {
                    let silent = heard.elapsed() > 2 * PING_EVERY || (!subscribed && heard.elapsed() > STEP_WITHIN);
                    if silent {
                        return Err(SessionEnd::Silent);
                    }
                    if subscribed {
                        link.client.ping(&mut link.out)?;
                    }
                }
            }
            if subscribed {
                self.publish_pending(&mut link)?;
            }
            link.flush().await?;
        }
    }

    /// Describes the device, and publishes its state.
    fn introduce(&self, link: &mut Link) -> Result<(), ClientError> {
        let description = self.device.description(&self.keywords, self.expire_after).to_string();
        link.publish(&self.device.discovery(), description.as_bytes(), true, true)?;
        link.publish(&self.device.availability(), b"online", true, true)?;
        self.publish(&HomeEvent::Speech(self.speech), link)?;
        match self.reading {
            Some(reading) => self.publish(&HomeEvent::Reading(reading), link),
            None => Ok(()),
        }
    }

    fn publish(&self, event: &HomeEvent, link: &mut Link) -> Result<(), ClientError> {
        match event {
            // Those are pending.
            HomeEvent::Keyword(_) => Ok(()),
            HomeEvent::Speech(speech) => link.publish(&self.device.speech(), if *speech { b"ON" } else { b"OFF" }, false, false),
            HomeEvent::Reading(reading) => {
                link.publish(&self.device.reading(), json!(reading).to_string().as_bytes(), false, false)
            }
            HomeEvent::Keywords(names) => {
                let description = self.device.description(names, self.expire_after).to_string();
                link.publish(&self.device.discovery(), description.as_bytes(), true, true)
            }
        }
    }

    fn publish_pending(&mut self, link: &mut Link) -> Result<(), ClientError> {
        while let Some(keyword) = self.pending.pop_front() {
            if keyword.at.elapsed() > PENDING_WITHIN {
                self.dropped.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            let mut event = json!(*keyword);
            event["event_type"] = event["keyword"].clone();
            link.publish(&self.device.keyword(), event.to_string().as_bytes(), false, true)?;
        }
        Ok(())
    }

    /// Publishes what a last will would, and takes leave.
    async fn leave(&self, link: &mut Link) -> Result<(), SessionEnd> {
        link.publish(&self.device.availability(), b"offline", true, false)?;
        link.client.disconnect(&mut link.out)?;
        link.flush().await?;
        link.socket.shutdown().await?;
        Ok(())
    }
}
