//! The task that keeps a connection to the broker and publishes on it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;

use super::Broker;
use super::client::{ClientError, Identity, Incoming, KEEP_ALIVE_SECONDS, MqttClient};
use super::discovery::Device;
use crate::chain::Chain;
use crate::daemon::events::{Event, KeywordEvent, StatusEvent, Subscription};
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
/// Time between events with the status.
const STATUS_EVERY: Duration = Duration::from_secs(1);

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
    #[error("the broker closed the connection (as it does if another client with the same name connects: set `name` in [mqtt])")]
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
    interval: Duration,
    dropped: Arc<AtomicU64>,
    keywords: Vec<String>,
    speech: bool,
    readings: Readings,
    pending: VecDeque<KeywordEvent>,
    /// Published keywords without a receipt yet, with the numbers of their messages.
    sent: VecDeque<(u16, KeywordEvent)>,
}

/// What is published next, apart from keywords, which are pending.
#[derive(Debug, Clone, Copy, PartialEq)]
enum News {
    Speech(bool),
    Reading(Reading),
    /// Other event types.
    Description,
}

/// Depth over an interval, and level.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
struct Reading {
    exit_layer: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    level_dbfs: Option<f64>,
}

/// Readings from the counters of the status, which comes every second.
#[derive(Debug, Default)]
struct Readings {
    last: Option<Reading>,
    /// Time, chunks and layers at the last reading.
    since: Option<(Instant, u64, f64)>,
}

impl Readings {
    /// The reading that is due after `status`, at `now`.
    fn after(&mut self, status: &StatusEvent, now: Instant, interval: Duration) -> Option<Reading> {
        let layers = status.mean_exit_layer.unwrap_or_default() * status.chunks as f64;
        let (since, chunks, before) = *self.since.get_or_insert((now, 0, 0.0));
        let is_due = now.duration_since(since) + STATUS_EVERY / 2 >= interval;
        if !is_due || status.chunks <= chunks {
            return None;
        }
        self.since = Some((now, status.chunks, layers));
        let exit_layer = (100.0 * (layers - before) / (status.chunks - chunks) as f64).round() / 100.0;
        self.last = Some(Reading { exit_layer, level_dbfs: status.level_dbfs });
        self.last
    }
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

    fn publish(&mut self, topic: &str, payload: &[u8], retain: bool, acknowledged: bool) -> Result<Option<u16>, ClientError> {
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
        interval: Duration,
        dropped: Arc<AtomicU64>,
    ) -> Self {
        Self {
            broker,
            identity,
            device,
            tls,
            interval,
            dropped,
            keywords: Vec::new(),
            speech: false,
            readings: Readings::default(),
            pending: VecDeque::new(),
            sent: VecDeque::new(),
        }
    }

    /// Publishes until `stop`. Keywords that no broker has got by then are counted as dropped.
    pub async fn run(mut self, mut events: Subscription, stop: watch::Receiver<bool>) {
        self.publish_until(&mut events, stop).await;
        while let Some(event) = events.try_recv() {
            self.take(&event);
        }
        self.requeue();
        self.dropped.fetch_add(self.pending.len() as u64, Ordering::Relaxed);
    }

    async fn publish_until(&mut self, events: &mut Subscription, mut stop: watch::Receiver<bool>) {
        let mut retry = Retry::new();
        loop {
            let began = Instant::now();
            let Err(reason) = self.session(events, stop.clone(), &mut retry).await else { return };
            let text = Chain(&reason).to_string();
            if retry.is_new(&text) {
                log::warn!("mqtt: {}:{}: {text}; retrying until it works", self.broker.host, self.broker.port);
            }
            self.requeue();
            let until = sleep(retry.wait(began.elapsed()));
            tokio::pin!(until);
            loop {
                tokio::select! {
                    () = &mut until => break,
                    _ = stop.changed() => return,
                    event = events.recv() => match event {
                        Some(event) => _ = self.take(&event),
                        // The daemon has ended.
                        None => return,
                    },
                }
            }
        }
    }

    /// Remembers what is published now or later. Returns what is new.
    fn take(&mut self, event: &Event) -> Option<News> {
        match event {
            Event::Speech { speech } => {
                self.speech = *speech;
                self.device.speech.then_some(News::Speech(*speech))
            }
            Event::Status(status) => self.readings.after(status, Instant::now(), self.interval).map(News::Reading),
            Event::Keywords { keywords } => {
                self.keywords.clone_from(keywords);
                Some(News::Description)
            }
            _ => {
                let found = event.detection()?;
                if self.pending.len() >= PENDING {
                    self.pending.pop_front();
                    self.dropped.fetch_add(1, Ordering::Relaxed);
                }
                self.pending.push_back(found.clone());
                // Home Assistant ignores event types that it does not know, such as those of a second consumer.
                let known = self.keywords.contains(&found.hit.keyword);
                (!known).then(|| {
                    self.keywords.push(found.hit.keyword.clone());
                    News::Description
                })
            }
        }
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
        events: &mut Subscription,
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
                _ = stop.changed() => break,
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
                            Incoming::Receipt(number) => self.sent.retain(|(sent, _)| *sent != number),
                            _ => {}
                        }
                    }
                }
                event = events.recv() => {
                    let Some(event) = event else { break };
                    if let Some(news) = self.take(&event)
                        && subscribed
                    {
                        self.publish(news, &mut link)?;
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
        if subscribed {
            // What was found until the end.
            while let Some(event) = events.try_recv() {
                self.take(&event);
            }
            self.publish_pending(&mut link)?;
        }
        self.leave(&mut link).await
    }

    /// Describes the device, and publishes its state.
    fn introduce(&self, link: &mut Link) -> Result<(), ClientError> {
        self.publish(News::Description, link)?;
        link.publish(&self.device.availability(), b"online", true, true)?;
        if self.device.speech {
            self.publish(News::Speech(self.speech), link)?;
        }
        match self.readings.last {
            Some(reading) => self.publish(News::Reading(reading), link),
            None => Ok(()),
        }
    }

    fn publish(&self, news: News, link: &mut Link) -> Result<(), ClientError> {
        let sent = match news {
            News::Speech(speech) => link.publish(&self.device.speech_topic(), if speech { b"ON" } else { b"OFF" }, false, false),
            News::Reading(reading) => link.publish(&self.device.reading(), json!(reading).to_string().as_bytes(), false, false),
            News::Description => {
                let expire_after = 3 * self.interval.as_secs().max(1) + 60;
                let description = self.device.description(&self.keywords, expire_after).to_string();
                link.publish(&self.device.discovery(), description.as_bytes(), true, true)
            }
        };
        sent.map(drop)
    }

    /// After the end of a connection: keywords without a receipt are published again.
    fn requeue(&mut self) {
        for (_, event) in self.sent.drain(..).rev() {
            self.pending.push_front(event);
        }
    }

    fn publish_pending(&mut self, link: &mut Link) -> Result<(), ClientError> {
        while let Some(found) = self.pending.front() {
            if found.at.elapsed() > PENDING_WITHIN {
                self.pending.pop_front();
                self.dropped.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            let hit = &found.hit;
            let event = json!({
                "event_type": hit.keyword,
                "keyword": hit.keyword,
                "score": hit.score,
                "threshold": hit.threshold,
                "start": hit.start,
                "end": hit.end,
            });
            let number = link.publish(&self.device.keyword(), event.to_string().as_bytes(), false, true)?;
            let found = self.pending.pop_front();
            self.sent.extend(number.zip(found));
        }
        Ok(())
    }

    /// Publishes what a last will would, and disconnects cleanly.
    async fn leave(&self, link: &mut Link) -> Result<(), SessionEnd> {
        link.publish(&self.device.availability(), b"offline", true, false)?;
        link.client.disconnect(&mut link.out)?;
        link.flush().await?;
        link.socket.shutdown().await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readings_are_means_over_the_interval() {
        let status = |chunks: u64, layers: f64| StatusEvent {
            chunks,
            mean_exit_layer: (chunks > 0).then(|| layers / chunks as f64),
            level_dbfs: Some(-30.0),
            ..StatusEvent::default()
        };
        let (mut readings, began, interval) = (Readings::default(), Instant::now(), Duration::from_secs(3));
        let mut at = |second: u64, chunks, layers| {
            readings.after(&status(chunks, layers), began + Duration::from_secs(second), interval).map(|one| one.exit_layer)
        };
        assert_eq!([at(0, 0, 0.0), at(1, 3, 6.0), at(2, 6, 12.0)], [None; 3]);
        assert_eq!(at(3, 10, 20.0), Some(2.0));
        assert_eq!([at(4, 13, 50.0), at(5, 16, 80.0)], [None; 2]);
        assert_eq!(at(6, 20, 120.0), Some(10.0), "of the last ten chunks");
        assert_eq!([at(9, 20, 120.0), at(10, 20, 120.0)], [None; 2], "without audio there is nothing to report");
        assert_eq!(at(11, 21, 123.0), Some(3.0));
    }
}
