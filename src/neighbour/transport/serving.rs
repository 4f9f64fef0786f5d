//! A worker on the network: receives tasks, answers them in order, and publishes its state.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TrySendError, bounded};
use zenoh::qos::CongestionControl;
use zenoh::query::Query;
use zenoh::{Session, Wait};

use super::super::codec::MAX_MESSAGE_BYTES;
use super::super::message::{HEARTBEAT, STATE_VERSION, WorkerState};
use super::super::policy::Load;
use super::super::worker::{Outcome, Worker, WorkerCounters, busy};
use super::{Endpoints, NetworkError, PREFIX, failed, named};

/// Interval at which a worker checks whether its state has changed.
const PUBLISH: Duration = Duration::from_millis(200);
/// Tasks that wait at a worker; more are refused.
const MOST_WAITING: usize = 32;
/// How long a worker waits for a task before it checks whether to stop.
const IDLE: Duration = Duration::from_millis(250);

/// A worker on the network.
pub struct WorkerNode {
    worker: Worker,
    session: Session,
    /// Whether the session is the worker's alone.
    alone: bool,
    name: String,
    counters: Arc<WorkerCounters>,
    tasks: Receiver<(Query, Instant)>,
}

impl WorkerNode {
    /// Listens or connects, and announces `worker` under `name`; under a random name if that is `None`.
    ///
    /// # Errors
    ///
    /// Every [`NetworkError`].
    pub fn open(worker: Worker, endpoints: &Endpoints, name: Option<&str>) -> Result<Self, NetworkError> {
        if endpoints.is_empty() {
            return Err(NetworkError::NoEndpoint);
        }
        let session = endpoints.open()?;
        let name = named(&session, name)?;
        Ok(Self { alone: true, ..Self::on(session, worker, name, Arc::default())? })
    }

    /// A worker on a session that others use as well.
    pub(super) fn on(
        session: Session,
        worker: Worker,
        name: String,
        counters: Arc<WorkerCounters>,
    ) -> Result<Self, NetworkError> {
        let (queue, tasks) = bounded(MOST_WAITING);
        counters.reset_queue();
        let counts = counters.clone();
        let on_task = move |query: Query| enqueue(query, &queue, &counts);
        session.declare_queryable(format!("{PREFIX}/{name}/task")).callback(on_task).background().wait().map_err(failed)?;
        session.declare_queryable(format!("{PREFIX}/{name}/echo")).callback(echo).background().wait().map_err(failed)?;
        let state = State::of(&worker, &counters);
        let on_state = move |query: Query| drop(query.reply(query.key_expr(), state.encode(state.load())).wait());
        session.declare_queryable(format!("{PREFIX}/{name}/state")).callback(on_state).background().wait().map_err(failed)?;
        Ok(Self { worker, session, alone: false, name, counters, tasks })
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
        self.worker.warm_up()?;
        self.counters.computed(self.worker.compute_seconds());
        let stopped = Arc::new(AtomicBool::new(false));
        let publisher = self.publish(stopped.clone())?;
        // Last: who sees the token may send tasks.
        let token = self.session.liveliness().declare_token(format!("{PREFIX}/{}", self.name)).wait().map_err(failed)?;
        while !stop() {
            match self.tasks.recv_timeout(IDLE) {
                Ok((query, arrived)) => self.answer(&query, arrived),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        stopped.store(true, Ordering::Relaxed);
        let _ = token.undeclare().wait();
        let _ = publisher.join();
        if self.alone {
            let _ = self.session.close().wait();
        }
        Ok(self.counters.totals())
    }

    fn answer(&mut self, query: &Query, arrived: Instant) {
        let task = query.payload().map(zenoh::bytes::ZBytes::to_bytes).unwrap_or_default();
        let (answer, outcome) = self.worker.answer(&task, arrived, self.tasks.len());
        self.counters.left(outcome);
        self.counters.computed(self.worker.compute_seconds());
        if let Err(error) = query.reply(query.key_expr(), answer).wait() {
            log::debug!("an answer was not sent: {error}");
        }
    }

    /// Starts the thread that publishes the state.
    fn publish(&self, stopped: Arc<AtomicBool>) -> Result<std::thread::JoinHandle<()>, NetworkError> {
        let publisher = self.session.declare_publisher(format!("{PREFIX}/{}/state", self.name));
        let publisher = publisher.congestion_control(CongestionControl::Drop).wait().map_err(failed)?;
        let state = State::of(&self.worker, &self.counters);
        let publish = move || {
            let mut last = None;
            while !stopped.load(Ordering::Relaxed) {
                let load = state.load();
                if last.is_none_or(|(at, before): (Instant, Load)| before != load || at.elapsed() >= HEARTBEAT) {
                    last = Some((Instant::now(), load));
                    if let Err(error) = publisher.put(state.encode(load)).wait() {
                        log::debug!("the state was not published: {error}");
                    }
                }
                std::thread::sleep(PUBLISH);
            }
        };
        std::thread::Builder::new().name("neighbour-state".into()).spawn(publish).map_err(NetworkError::Thread)
    }
}

/// The state that a worker publishes.
struct State {
    counters: Arc<WorkerCounters>,
    fixed: WorkerState,
}

impl State {
    fn of(worker: &Worker, counters: &Arc<WorkerCounters>) -> Self {
        let fixed = WorkerState {
            version: STATE_VERSION,
            name: worker.encoder().name().to_owned(),
            pack: worker.identity().to_owned(),
            layers: worker.layers(),
            input: 0,
            output: 0,
            compute_seconds: 0.0,
            temperature: None,
        };
        Self { counters: counters.clone(), fixed }
    }

    fn load(&self) -> Load {
        self.counters.load()
    }

    fn encode(&self, Load { input, output, compute_seconds }: Load) -> Vec<u8> {
        WorkerState { input, output, compute_seconds, temperature: temperature(), ..self.fixed.clone() }.encode()
    }
}

/// Queues a task for the worker, or refuses it at once. Runs on a thread of Zenoh.
fn enqueue(query: Query, queue: &Sender<(Query, Instant)>, counters: &WorkerCounters) {
    let size = query.payload().map_or(0, zenoh::bytes::ZBytes::len);
    if size > MAX_MESSAGE_BYTES {
        return counters.refuse();
    }
    counters.entered();
    if let Err(TrySendError::Full((query, _)) | TrySendError::Disconnected((query, _))) = queue.try_send((query, Instant::now()))
    {
        counters.left(Outcome::Refused);
        let _ = query.reply(query.key_expr(), busy(counters.load())).wait();
    }
}

/// Returns a message to its sender. Runs on a thread of Zenoh.
fn echo(query: Query) {
    if let Some(message) = query.payload().filter(|message| message.len() <= MAX_MESSAGE_BYTES) {
        let _ = query.reply(query.key_expr(), message.clone()).wait();
    }
}

/// Temperature of the hottest zone that the system reports, °C.
fn temperature() -> Option<f64> {
    let zones = std::fs::read_dir("/sys/class/thermal").ok()?.flatten();
    let read = |zone: std::fs::DirEntry| std::fs::read_to_string(zone.path().join("temp")).ok()?.trim().parse::<f64>().ok();
    zones.filter_map(read).map(|millidegrees| millidegrees / 1e3).reduce(f64::max)
}
