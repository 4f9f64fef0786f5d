//! A node in the network: the neighbours that it sees, its connection to them, and its own worker if it has one.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Sender, bounded};
use zenoh::query::ConsolidationMode;
use zenoh::sample::{Sample, SampleKind};
use zenoh::{Session, Wait};

use super::super::codec::MAX_MESSAGE_BYTES;
use super::super::message::MAX_STATE_BYTES;
use super::super::roster::Roster;
use super::super::source::{Carrier, OnAnswer};
use super::super::worker::Worker;
use super::{Endpoints, NetworkError, PREFIX, WorkerNode, failed, is_name, named};

/// Tasks that wait to be sent; more are not sent.
const MOST_UNSENT: usize = 16;
/// A query outlives its chunk's deadline by this, so that the deadline itself decides.
const AFTER_DEADLINE: Duration = Duration::from_millis(500);
/// Maximum time for an echo, and for the answer to a request for a worker's state.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// A source's place in the network. It outlives its connections, so that counts and carriers stay valid when its endpoints change.
pub struct Network {
    roster: Arc<Roster>,
    session: Slot,
    queue: Sender<Outgoing>,
    worker: Option<(Arc<AtomicBool>, JoinHandle<()>)>,
}

/// The present session, if there is one.
type Slot = Arc<Mutex<Option<Session>>>;

fn locked(slot: &Slot) -> MutexGuard<'_, Option<Session>> {
    slot.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Network {
    /// A place without connections, which enters its neighbours into `roster`.
    ///
    /// # Errors
    ///
    /// [`NetworkError::Thread`].
    pub fn new(roster: Arc<Roster>) -> Result<Self, NetworkError> {
        let (queue, tasks) = bounded::<Outgoing>(MOST_UNSENT);
        let session = Slot::default();
        let slot = session.clone();
        let send_all = move || {
            for task in tasks {
                // Not in the loop's condition, which would hold the lock while sending.
                let session = locked(&slot).clone();
                if let Some(session) = session {
                    send(&session, task);
                }
            }
        };
        std::thread::Builder::new().name("neighbour-send".into()).spawn(send_all).map_err(NetworkError::Thread)?;
        Ok(Self { roster, session, queue, worker: None })
    }

    /// Leaves the present network and joins the one behind `endpoints`, as a source and, with `worker`, as a worker of the given name.
    ///
    /// # Errors
    ///
    /// Every [`NetworkError`]; there is no connection then. An endpoint that cannot be reached is none: it is tried again.
    pub fn join(&mut self, endpoints: &Endpoints, worker: Option<(Worker, Option<&str>)>) -> Result<(), NetworkError> {
        self.leave();
        if endpoints.is_empty() {
            return Ok(());
        }
        let session = endpoints.open()?;
        let own = worker.as_ref().map(|(_, name)| named(&session, *name)).transpose()?;
        watch(&session, &self.roster, own.as_deref(), &self.queue)?;
        if let (Some((worker, _)), Some(name)) = (worker, own) {
            let node = WorkerNode::on(session.clone(), worker, name, self.roster.own().clone())?;
            let stop = Arc::new(AtomicBool::new(false));
            let stopped = stop.clone();
            let work = move || {
                // The node's own audio comes first.
                crate::background::preemptible();
                if let Err(error) = node.run(|| stopped.load(Ordering::Relaxed)) {
                    log::error!("the worker stopped: {error}");
                }
            };
            let thread = std::thread::Builder::new().name("neighbour-worker".into()).spawn(work).map_err(NetworkError::Thread)?;
            self.worker = Some((stop, thread));
        }
        *locked(&self.session) = Some(session);
        Ok(())
    }

    /// Closes all connections. Chunks that are on their way do not return.
    pub fn leave(&mut self) {
        if let Some((stop, thread)) = self.worker.take() {
            stop.store(true, Ordering::Relaxed);
            let _ = thread.join();
        }
        let session = locked(&self.session).take();
        if let Some(session) = session {
            let _ = session.close().wait();
        }
        self.roster.all_gone();
    }

    /// Waits until `neighbours` workers are known, at most for `patience`; returns how many are.
    pub fn wait_for(&self, neighbours: usize, patience: Duration) -> usize {
        let until = Instant::now() + patience;
        loop {
            let known = self.roster.ready();
            if known >= neighbours || Instant::now() >= until {
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
    pub fn carrier(&self) -> Box<dyn Carrier> {
        Box::new(Queries(self.queue.clone()))
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.leave();
    }
}

/// Enters workers and their states into `roster`, without the node's `own` worker.
fn watch(session: &Session, roster: &Arc<Roster>, own: Option<&str>, queue: &Sender<Outgoing>) -> Result<(), NetworkError> {
    let (seen, itself, requests) = (roster.clone(), own.map(str::to_owned), queue.clone());
    let on_token = move |sample: Sample| {
        let name = worker_of(sample.key_expr().as_str(), "").filter(|name| itself.as_deref() != Some(*name));
        match (name, sample.kind()) {
            (Some(name), SampleKind::Put) => {
                seen.appeared(name);
                request_state(name, &seen, &requests);
            }
            (Some(name), SampleKind::Delete) => seen.gone(name),
            (None, _) => {}
        }
    };
    let tokens = session.liveliness().declare_subscriber(format!("{PREFIX}/*")).history(true);
    tokens.callback(on_token).background().wait().map_err(failed)?;
    let (seen, itself) = (roster.clone(), own.map(str::to_owned));
    let on_state = move |sample: Sample| {
        let name = worker_of(sample.key_expr().as_str(), "/state").filter(|name| itself.as_deref() != Some(*name));
        let Some(name) = name else { return };
        match sample.payload().len() <= MAX_STATE_BYTES {
            true => drop(seen.published(name, &sample.payload().to_bytes())),
            false => seen.count_unreadable(),
        }
    };
    let states = session.declare_subscriber(format!("{PREFIX}/*/state"));
    states.callback(on_state).background().wait().map_err(failed)
}

/// Requests the state of a worker that has appeared: it may publish it only a second later.
fn request_state(name: &str, roster: &Arc<Roster>, queue: &Sender<Outgoing>) {
    let (key, until) = (format!("{PREFIX}/{name}/state"), Instant::now() + ANSWER_WITHIN);
    let (roster, name) = (roster.clone(), name.to_owned());
    let on_answer = move |state: &[u8]| {
        roster.published(&name, state);
    };
    // If the queue is full, the state is received when it is published.
    let _ = queue.try_send(Outgoing { key, message: Vec::new(), until, on_answer: Box::new(on_answer) });
}

/// The worker's name in a key, if it is one.
fn worker_of<'a>(key: &'a str, suffix: &str) -> Option<&'a str> {
    let name = key.strip_prefix(PREFIX)?.strip_prefix('/')?.strip_suffix(suffix)?;
    is_name(name).then_some(name)
}

/// Hands messages to a thread that sends them, since sending waits while the network is slow.
struct Queries(Sender<Outgoing>);

struct Outgoing {
    key: String,
    message: Vec<u8>,
    until: Instant,
    on_answer: OnAnswer,
}

impl Carrier for Queries {
    fn carry(&self, neighbour: &str, task: Vec<u8>, within: Duration, on_answer: OnAnswer) {
        let key = format!("{PREFIX}/{neighbour}/task");
        // If the queue is full, the task is not sent, and the chunk is refused.
        let _ = self.0.try_send(Outgoing { key, message: task, until: Instant::now() + within, on_answer });
    }

    fn echo(&self, neighbour: &str, message: Vec<u8>, on_answer: OnAnswer) {
        let key = format!("{PREFIX}/{neighbour}/echo");
        let _ = self.0.try_send(Outgoing { key, message, until: Instant::now() + ANSWER_WITHIN, on_answer });
    }
}

fn send(session: &Session, Outgoing { key, message, until, on_answer }: Outgoing) {
    let within = until.saturating_duration_since(Instant::now());
    if within.is_zero() {
        return;
    }
    let on_answer = Mutex::new(Some(on_answer));
    let query = session.get(&key).payload(message).timeout(within + AFTER_DEADLINE).consolidation(ConsolidationMode::None);
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
        log::debug!("{key}: a message was not sent: {error}");
    }
}
