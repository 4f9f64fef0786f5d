//! Neighbours on Zenoh: liveliness tokens for membership, published states, and queries whose timeout is the chunk's deadline.
//!
//! | key | what |
//! |---|---|
//! | `bellis/1/worker/NAME` | liveliness token of a worker |
//! | `bellis/1/worker/NAME/state` | its [`WorkerState`] as JSON, five times a second |
//! | `bellis/1/worker/NAME/task` | queryable for tasks |
//!
//! Zenoh's own threads run its callbacks; the threads of Bellis neither wait for them nor use async.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TrySendError, bounded};
use zenoh::qos::CongestionControl;
use zenoh::query::{ConsolidationMode, Query};
use zenoh::sample::{Sample, SampleKind};
use zenoh::{Session, Wait};

use super::codec::MAX_MESSAGE_BYTES;
use super::message::{MAX_STATE_BYTES, STATE_VERSION, WorkerState};
use super::policy::Load;
use super::roster::Roster;
use super::source::{Carrier, OnAnswer};
use super::worker::{Worker, busy};

const PREFIX: &str = "bellis/1/worker";
/// How often a worker publishes its state.
const PUBLISH: Duration = Duration::from_millis(200);
/// A peer that is silent for so long is gone. Zenoh sends keep-alives four times as often.
const LEASE: Duration = Duration::from_secs(2);
/// Tasks that wait at a worker; more are refused.
const MOST_WAITING: usize = 32;
/// Tasks that wait to be sent; more are not sent.
const MOST_UNSENT: usize = 16;
/// Connections that a node accepts.
const MOST_SESSIONS: usize = 256;
/// A query outlives its chunk's deadline by this, so that the deadline itself decides.
const AFTER_DEADLINE: Duration = Duration::from_millis(500);
/// How long a worker waits for a task before it looks whether it should stop.
const IDLE: Duration = Duration::from_millis(100);

/// How a node reaches others, and others it. By default it listens nowhere, and finds nothing by itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Endpoints {
    /// Endpoints to connect to, `tcp/HOST:PORT` or `tls/HOST:PORT`; lost connections are tried again.
    pub connect: Vec<String>,
    /// Endpoints to listen on.
    pub listen: Vec<String>,
    /// Certificates for `tls/` endpoints, which both sides then require.
    pub tls: Option<Tls>,
}

/// Files for mutual TLS, PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// Certificate of the authority that must have signed every other node's certificate.
    pub ca: PathBuf,
    /// Certificate of this node, for its host name.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// Why the network cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetworkError {
    /// No endpoint is configured.
    #[error("a worker needs --listen or --connect, or no source can reach it")]
    NoEndpoint,
    /// An endpoint is not valid, is in use, or its certificates cannot be read.
    #[error("cannot use {what}: {problem}")]
    #[non_exhaustive]
    Endpoint {
        /// The endpoints.
        what: String,
        /// The problem.
        problem: String,
    },
    /// The name of a worker has other characters than letters, digits, `-` and `_`, or none.
    #[error("a worker's name may have letters, digits, `-` and `_`, got `{0}`")]
    Name(String),
    /// The system refused a thread.
    #[error("cannot start a thread for the network")]
    Thread(#[source] std::io::Error),
}

impl Endpoints {
    fn open(&self) -> Result<Session, NetworkError> {
        let what = self.connect.iter().chain(&self.listen).cloned().collect::<Vec<_>>().join(", ");
        let failed = |problem: String| NetworkError::Endpoint { what: what.clone(), problem };
        let mut config = zenoh::Config::default();
        let mut set = |key: &str, value: serde_json::Value| {
            config.insert_json5(key, &value.to_string()).map_err(|error| failed(format!("{key}: {error}")))
        };
        set("mode", "peer".into())?;
        set("connect/endpoints", self.connect.clone().into())?;
        set("listen/endpoints", self.listen.clone().into())?;
        // Nothing is found, and nothing listens, that was not configured.
        set("scouting/multicast/enabled", false.into())?;
        set("scouting/gossip/enabled", false.into())?;
        set("transport/link/tx/lease", (LEASE.as_millis() as u64).into())?;
        set("transport/link/rx/max_message_size", (2 * MAX_MESSAGE_BYTES).into())?;
        set("transport/unicast/max_sessions", MOST_SESSIONS.into())?;
        set("transport/shared_memory/enabled", false.into())?;
        if let Some(Tls { ca, certificate, key }) = &self.tls {
            let path = |path: &PathBuf| path.to_string_lossy().into_owned();
            set("transport/link/tls/root_ca_certificate", path(ca).into())?;
            for (side, certificate_key) in [("listen", "listen_certificate"), ("connect", "connect_certificate")] {
                set(&format!("transport/link/tls/{certificate_key}"), path(certificate).into())?;
                set(&format!("transport/link/tls/{side}_private_key"), path(key).into())?;
            }
            set("transport/link/tls/enable_mtls", true.into())?;
        }
        zenoh::open(config).wait().map_err(|error| failed(error.to_string()))
    }
}

/// A source's connection to its neighbours. Closed on drop.
pub struct Network {
    session: Session,
    roster: Arc<Roster>,
}

impl Network {
    /// Connects and begins to watch for workers.
    ///
    /// # Errors
    ///
    /// [`NetworkError::Endpoint`]. An endpoint that cannot be reached is none: it is tried again.
    pub fn open(endpoints: &Endpoints) -> Result<Self, NetworkError> {
        let session = endpoints.open()?;
        let roster = Arc::new(Roster::default());
        let failed = |error: zenoh::Error| NetworkError::Endpoint { what: "Zenoh".into(), problem: error.to_string() };
        let seen = roster.clone();
        let on_token = move |sample: Sample| {
            let Some(name) = worker_of(sample.key_expr().as_str(), "") else { return };
            match sample.kind() {
                SampleKind::Put => seen.appeared(name),
                SampleKind::Delete => seen.gone(name),
            }
        };
        let tokens = session.liveliness().declare_subscriber(format!("{PREFIX}/*")).history(true);
        tokens.callback(on_token).background().wait().map_err(failed)?;
        let seen = roster.clone();
        let on_state = move |sample: Sample| {
            let Some(name) = worker_of(sample.key_expr().as_str(), "/state") else { return };
            match sample.payload().len() <= MAX_STATE_BYTES {
                true => drop(seen.published(name, &sample.payload().to_bytes())),
                false => seen.count_unreadable(),
            }
        };
        let states = session.declare_subscriber(format!("{PREFIX}/*/state"));
        states.callback(on_state).background().wait().map_err(failed)?;
        Ok(Self { session, roster })
    }

    /// Waits until as many workers as `endpoints` are known, at most for `patience`; returns how many are.
    pub fn wait_for(&self, endpoints: usize, patience: Duration) -> usize {
        let until = Instant::now() + patience;
        loop {
            let known = self.roster.ready();
            if known >= endpoints || Instant::now() >= until {
                return known;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// The neighbours.
    pub fn roster(&self) -> &Arc<Roster> {
        &self.roster
    }

    /// What carries tasks to them.
    ///
    /// # Errors
    ///
    /// [`NetworkError::Thread`].
    pub fn carrier(&self) -> Result<Box<dyn Carrier>, NetworkError> {
        let (queue, tasks) = bounded::<Outgoing>(MOST_UNSENT);
        let session = self.session.clone();
        let thread = std::thread::Builder::new().name("neighbour-send".into());
        thread.spawn(move || tasks.iter().for_each(|task| send(&session, task))).map_err(NetworkError::Thread)?;
        Ok(Box::new(Queries(queue)))
    }
}

/// The worker's name in a key, if it is one.
fn worker_of<'a>(key: &'a str, suffix: &str) -> Option<&'a str> {
    let name = key.strip_prefix(PREFIX)?.strip_prefix('/')?.strip_suffix(suffix)?;
    is_name(name).then_some(name)
}

fn is_name(name: &str) -> bool {
    let allowed = |letter: char| letter.is_ascii_alphanumeric() || letter == '-' || letter == '_';
    (1..=64).contains(&name.len()) && name.chars().all(allowed)
}

/// Hands tasks to a thread that sends them, since sending waits while the network is slow.
struct Queries(Sender<Outgoing>);

struct Outgoing {
    key: String,
    task: Vec<u8>,
    until: Instant,
    on_answer: OnAnswer,
}

impl Carrier for Queries {
    fn carry(&self, neighbour: &str, task: Vec<u8>, within: Duration, on_answer: OnAnswer) {
        let key = format!("{PREFIX}/{neighbour}/task");
        // If the queue is full, the task is not sent, and the chunk is refused.
        let _ = self.0.try_send(Outgoing { key, task, until: Instant::now() + within, on_answer });
    }
}

fn send(session: &Session, Outgoing { key, task, until, on_answer }: Outgoing) {
    let within = until.saturating_duration_since(Instant::now());
    if within.is_zero() {
        return;
    }
    let on_answer = Mutex::new(Some(on_answer));
    let query = session.get(&key).payload(task).timeout(within + AFTER_DEADLINE).consolidation(ConsolidationMode::None);
    let sent = query
        .callback(move |reply| {
            let Ok(sample) = reply.result() else { return };
            if sample.payload().len() <= MAX_MESSAGE_BYTES
                && let Some(on_answer) = on_answer.lock().unwrap_or_else(PoisonError::into_inner).take()
            {
                on_answer(&sample.payload().to_bytes());
            }
        })
        .wait();
    if let Err(error) = sent {
        log::debug!("{key}: a task was not sent: {error}");
    }
}

/// What a worker's threads share.
#[derive(Default)]
struct Shared {
    /// Tasks that wait or run.
    input: AtomicUsize,
    compute_seconds: AtomicU64,
    answered: AtomicU64,
    refused: AtomicU64,
    stop: AtomicBool,
}

impl Shared {
    fn load(&self) -> Load {
        let compute_seconds = f64::from_bits(self.compute_seconds.load(Ordering::Relaxed));
        Load { input: self.input.load(Ordering::Relaxed), output: 0, compute_seconds }
    }
}

/// A worker on the network.
pub struct WorkerNode {
    worker: Worker,
    session: Session,
    name: String,
    shared: Arc<Shared>,
    tasks: Receiver<(Query, Instant)>,
}

impl WorkerNode {
    /// Listens or connects, and announces `worker` under `name`; under a random name if that is `None`.
    ///
    /// # Errors
    ///
    /// Every [`NetworkError`].
    pub fn open(worker: Worker, endpoints: &Endpoints, name: Option<&str>) -> Result<Self, NetworkError> {
        if endpoints.listen.is_empty() && endpoints.connect.is_empty() {
            return Err(NetworkError::NoEndpoint);
        }
        if let Some(name) = name.filter(|name| !is_name(name)) {
            return Err(NetworkError::Name(name.to_owned()));
        }
        let session = endpoints.open()?;
        let name = name.map_or_else(|| session.zid().to_string(), str::to_owned);
        let failed = |error: zenoh::Error| NetworkError::Endpoint { what: "Zenoh".into(), problem: error.to_string() };
        let shared = Arc::new(Shared::default());
        let (queue, tasks) = bounded(MOST_WAITING);
        let counts = shared.clone();
        let on_task = move |query: Query| enqueue(query, &queue, &counts);
        session.declare_queryable(format!("{PREFIX}/{name}/task")).callback(on_task).background().wait().map_err(failed)?;
        Ok(Self { worker, session, name, shared, tasks })
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Computes tasks until `stop` returns true; returns the numbers of answered and refused tasks.
    ///
    /// # Errors
    ///
    /// [`NetworkError`] if the worker cannot be announced.
    pub fn run(mut self, stop: impl Fn() -> bool) -> Result<(u64, u64), NetworkError> {
        let failed = |error: zenoh::Error| NetworkError::Endpoint { what: "Zenoh".into(), problem: error.to_string() };
        let publisher = self.publish()?;
        // Last: who sees the token may send tasks.
        let token = self.session.liveliness().declare_token(format!("{PREFIX}/{}", self.name)).wait().map_err(failed)?;
        while !stop() {
            match self.tasks.recv_timeout(IDLE) {
                Ok((query, arrived)) => self.answer(&query, arrived),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        self.shared.stop.store(true, Ordering::Relaxed);
        let _ = token.undeclare().wait();
        let _ = publisher.join();
        let _ = self.session.close().wait();
        Ok((self.shared.answered.load(Ordering::Relaxed), self.shared.refused.load(Ordering::Relaxed)))
    }

    fn answer(&mut self, query: &Query, arrived: Instant) {
        let task = query.payload().map(zenoh::bytes::ZBytes::to_bytes).unwrap_or_default();
        let (answer, computed) = self.worker.answer(&task, arrived, self.tasks.len());
        self.shared.input.fetch_sub(1, Ordering::Relaxed);
        self.shared.compute_seconds.store(self.worker.compute_seconds().to_bits(), Ordering::Relaxed);
        let count = if computed { &self.shared.answered } else { &self.shared.refused };
        count.fetch_add(1, Ordering::Relaxed);
        if let Err(error) = query.reply(query.key_expr(), answer).wait() {
            log::debug!("an answer was not sent: {error}");
        }
    }

    /// Starts the thread that publishes the state.
    fn publish(&self) -> Result<std::thread::JoinHandle<()>, NetworkError> {
        let failed = |error: zenoh::Error| NetworkError::Endpoint { what: "Zenoh".into(), problem: error.to_string() };
        let publisher = self.session.declare_publisher(format!("{PREFIX}/{}/state", self.name));
        let publisher = publisher.congestion_control(CongestionControl::Drop).wait().map_err(failed)?;
        let shared = self.shared.clone();
        let mut state = WorkerState {
            version: STATE_VERSION,
            name: self.worker.encoder().name().to_owned(),
            pack: self.worker.identity().to_owned(),
            layers: self.worker.layers(),
            input: 0,
            output: 0,
            compute_seconds: 0.0,
            temperature: None,
        };
        let publish = move || {
            while !shared.stop.load(Ordering::Relaxed) {
                let Load { input, output, compute_seconds } = shared.load();
                (state.input, state.output, state.compute_seconds) = (input, output, compute_seconds);
                state.temperature = temperature();
                if let Err(error) = publisher.put(state.encode()).wait() {
                    log::debug!("the state was not published: {error}");
                }
                std::thread::sleep(PUBLISH);
            }
        };
        std::thread::Builder::new().name("neighbour-state".into()).spawn(publish).map_err(NetworkError::Thread)
    }
}

/// Queues a task for the worker, or refuses it at once. Runs on a thread of Zenoh.
fn enqueue(query: Query, queue: &Sender<(Query, Instant)>, shared: &Shared) {
    let size = query.payload().map_or(0, zenoh::bytes::ZBytes::len);
    if size <= MAX_MESSAGE_BYTES {
        shared.input.fetch_add(1, Ordering::Relaxed);
        match queue.try_send((query, Instant::now())) {
            Ok(()) => return,
            Err(TrySendError::Full((query, _)) | TrySendError::Disconnected((query, _))) => {
                shared.input.fetch_sub(1, Ordering::Relaxed);
                let _ = query.reply(query.key_expr(), busy(shared.load())).wait();
            }
        }
    }
    shared.refused.fetch_add(1, Ordering::Relaxed);
}

/// Temperature of the hottest zone that the system reports, °C.
fn temperature() -> Option<f64> {
    let zones = std::fs::read_dir("/sys/class/thermal").ok()?.flatten();
    let read = |zone: std::fs::DirEntry| std::fs::read_to_string(zone.path().join("temp")).ok()?.trim().parse::<f64>().ok();
    zones.filter_map(read).map(|millidegrees| millidegrees / 1e3).reduce(f64::max)
}
