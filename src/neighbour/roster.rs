//! The neighbours that a source knows: what they publish, what was measured of them, and what became of the chunks sent there.

use std::fmt;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::message::{HEARTBEAT, WorkerState};
use super::policy::Load;
use super::worker::WorkerCounters;

/// Most neighbours that are remembered; others are ignored.
pub const MOST_NEIGHBOURS: usize = 64;
/// A neighbour that has published nothing for so long is not used.
const SILENT: Duration = HEARTBEAT.saturating_mul(3);
/// One that refuses so many chunks in a row is not asked for a while.
const MOST_REFUSED: u32 = 3;
const REFUSES_FOR: Duration = Duration::from_secs(30);
/// Weight of the latest transfer in its mean.
const TRANSFER_WEIGHT: f64 = 0.2;
/// A transfer time that was measured longer ago is measured again before it is relied on.
const TRANSFER_VALID: Duration = Duration::from_secs(10);
/// Shortest time between two measurements.
const MEASURE_EVERY: Duration = Duration::from_secs(2);

/// All neighbours, shared by the source and the transport.
#[derive(Debug, Default)]
pub struct Roster {
    neighbours: Mutex<Vec<Neighbour>>,
    /// Neighbours that are present, for a look without the lock.
    present: AtomicUsize,
    /// Messages that could not be read.
    unreadable: AtomicU64,
    /// The worker of this node.
    own: Arc<WorkerCounters>,
    adapted: AtomicU64,
    factor: AtomicU32,
}

#[derive(Debug, Clone)]
struct Neighbour {
    name: String,
    state: Option<WorkerState>,
    /// When it last published its state.
    seen: Instant,
    present: bool,
    /// Not used before it publishes its state after this time: a chunk sent there came late.
    doubted: Option<Instant>,
    /// Chunks that it refused since it last returned one, and when it refused the last of them.
    refused_in_row: u32,
    refused_at: Option<Instant>,
    /// Mean time for the way there and back, D, seconds; `None` before it was measured.
    transfer_seconds: Option<f64>,
    /// When it was measured last, and when the last measurement began.
    measured: Option<Instant>,
    measuring: Option<Instant>,
    /// Chunks that are there now.
    sent_now: usize,
    counts: Counts,
}

/// What became of the chunks that were sent to one neighbour.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct Counts {
    /// Chunks sent.
    pub sent: u64,
    /// Chunks whose result came in time.
    pub returned: u64,
    /// Chunks whose result did not come by their deadline.
    pub late: u64,
    /// Chunks that it refused, or whose answer could not be read.
    pub refused: u64,
    /// Bytes of tasks and requests sent.
    pub bytes_sent: u64,
    /// Bytes of answers received.
    pub bytes_received: u64,
    /// Layers that it ran for returned chunks.
    pub layers: u64,
}

/// A neighbour as it is now.
#[derive(Debug, Clone, serde::Serialize)]
#[non_exhaustive]
pub struct NeighbourStatus {
    /// Its name.
    pub name: String,
    /// Whether it is present.
    pub present: bool,
    /// What became of the chunks sent there.
    pub counts: Counts,
    /// Its mean time per task, Γ, seconds.
    pub compute_seconds: f64,
    /// Mean time for the way there and back, D, seconds.
    pub transfer_seconds: f64,
    /// Its input queue, I.
    pub input: usize,
    /// Its output queue, O.
    pub output: usize,
    /// Chunks that are there now.
    pub sent_now: usize,
    /// Temperature of its processor, °C, if it reports it.
    pub temperature: Option<f64>,
}

/// A neighbour that can take a chunk.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Candidate {
    pub number: usize,
    pub load: Load,
    /// `None` if it is unknown, or was measured too long ago.
    pub transfer_seconds: Option<f64>,
    /// Bytes of a typical message; `None` before the first chunk.
    pub bytes: Option<usize>,
    /// Whether it has the front end and all layers.
    pub takes_audio: bool,
}

impl Neighbour {
    fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            state: None,
            seen: Instant::now(),
            present: false,
            doubted: None,
            refused_in_row: 0,
            refused_at: None,
            transfer_seconds: None,
            measured: None,
            measuring: None,
            sent_now: 0,
            counts: Counts::default(),
        }
    }

    /// Whether it can be relied on now.
    fn trusted(&self) -> bool {
        let refuses = self.refused_in_row >= MOST_REFUSED && self.refused_at.is_some_and(|at| at.elapsed() < REFUSES_FOR);
        self.present && self.seen.elapsed() < SILENT && self.doubted.is_none_or(|at| self.seen > at) && !refuses
    }

    fn took(&mut self, transfer: f64) {
        let weight = if self.measured.is_some_and(|at| at.elapsed() < TRANSFER_VALID) { TRANSFER_WEIGHT } else { 1.0 };
        let mean = self.transfer_seconds.unwrap_or(transfer);
        (self.transfer_seconds, self.measured) = (Some(mean + weight * (transfer - mean)), Some(Instant::now()));
    }
}

impl Roster {
    fn locked(&self) -> MutexGuard<'_, Vec<Neighbour>> {
        self.neighbours.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records that `name` is present.
    pub fn appeared(&self, name: &str) {
        self.with(name, |neighbour| neighbour.present = true);
    }

    /// Records that `name` is gone. Its counts stay.
    pub fn gone(&self, name: &str) {
        self.with(name, |neighbour| (neighbour.present, neighbour.state) = (false, None));
    }

    /// Records a published state; returns false if it cannot be read.
    pub fn published(&self, name: &str, message: &[u8]) -> bool {
        let Some(state) = WorkerState::decode(message) else {
            self.count_unreadable();
            return false;
        };
        self.with(name, |neighbour| {
            (neighbour.present, neighbour.state, neighbour.seen) = (true, Some(state), Instant::now());
        });
        true
    }

    fn with(&self, name: &str, change: impl FnOnce(&mut Neighbour)) {
        let mut all = self.locked();
        let number = match all.iter().position(|known| known.name == name) {
            Some(number) => number,
            None => {
                let new = Neighbour::new(name);
                // One that is gone, and has nothing on its way, makes room.
                let is_gone = |known: &Neighbour| (!known.present || known.seen.elapsed() > SILENT) && known.sent_now == 0;
                let gone = all.iter().position(is_gone);
                match gone.filter(|_| all.len() >= MOST_NEIGHBOURS) {
                    Some(number) => {
                        all[number] = new;
                        number
                    }
                    None if all.len() >= MOST_NEIGHBOURS => return,
                    None => {
                        all.push(new);
                        all.len() - 1
                    }
                }
            }
        };
        change(&mut all[number]);
        self.present.store(all.iter().filter(|neighbour| neighbour.present).count(), Ordering::Relaxed);
    }

    /// Records that the network is gone.
    pub(super) fn all_gone(&self) {
        self.locked().iter_mut().for_each(|neighbour| (neighbour.present, neighbour.state) = (false, None));
        self.present.store(0, Ordering::Relaxed);
    }

    /// The worker of this node, whose counts stay 0 if it has none.
    pub fn own(&self) -> &Arc<WorkerCounters> {
        &self.own
    }

    /// Records the factor of the thresholds for the next chunk.
    pub(super) fn set_factor(&self, factor: f32) {
        self.factor.store(factor.to_bits(), Ordering::Relaxed);
        if factor > 1.0 {
            self.adapted.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Chunks with thresholds that were raised because audio waited, and the present factor.
    pub fn adaptation(&self) -> (u64, f32) {
        let factor = f32::from_bits(self.factor.load(Ordering::Relaxed));
        (self.adapted.load(Ordering::Relaxed), if factor == 0.0 { 1.0 } else { factor })
    }

    /// Neighbours that have published a state and are present.
    pub fn ready(&self) -> usize {
        self.locked().iter().filter(|neighbour| neighbour.present && neighbour.state.is_some()).count()
    }

    /// Whether any neighbour is present.
    pub fn any_present(&self) -> bool {
        self.present.load(Ordering::Relaxed) > 0
    }

    /// Messages that could not be read.
    pub fn unreadable(&self) -> u64 {
        self.unreadable.load(Ordering::Relaxed)
    }

    pub(crate) fn count_unreadable(&self) {
        self.unreadable.fetch_add(1, Ordering::Relaxed);
    }

    /// The neighbours that can run the layers from `next_layer` to the last of `pack` now.
    pub(crate) fn candidates(&self, pack: &str, next_layer: usize, last_layer: usize) -> Vec<Candidate> {
        let suits = |state: &WorkerState| {
            state.pack == pack && state.layers[0] <= next_layer && next_layer <= state.layers[1] && state.layers[1] == last_layer
        };
        self.locked()
            .iter()
            .enumerate()
            .filter(|(_, one)| one.trusted())
            .filter_map(|(number, one)| {
                let state = one.state.as_ref().filter(|state| suits(state))?;
                // What was sent since the state was published is there as well.
                let load = Load { input: state.input.max(one.sent_now), ..state.load() };
                let transfer_seconds =
                    one.transfer_seconds.filter(|_| one.measured.is_some_and(|at| at.elapsed() < TRANSFER_VALID));
                let Counts { sent, bytes_sent, bytes_received, .. } = one.counts;
                let bytes = (bytes_sent + bytes_received).checked_div(2 * sent).map(|bytes| bytes as usize);
                Some(Candidate { number, load, transfer_seconds, bytes, takes_audio: state.layers[0] <= 1 })
            })
            .collect()
    }

    /// Whether the transfer time should be measured now; records that it is.
    pub(crate) fn measure(&self, number: usize) -> bool {
        let mut all = self.locked();
        let Some(neighbour) = all.get_mut(number) else { return false };
        let due = neighbour.measuring.is_none_or(|since| since.elapsed() > MEASURE_EVERY);
        if due {
            neighbour.measuring = Some(Instant::now());
        }
        due
    }

    /// Records a measured transfer time.
    pub(crate) fn measured(&self, number: usize, transfer: Duration) {
        if let Some(neighbour) = self.locked().get_mut(number) {
            neighbour.took(transfer.as_secs_f64());
        }
    }

    /// The neighbour's name.
    pub(crate) fn name(&self, number: usize) -> Option<String> {
        self.locked().get(number).map(|neighbour| neighbour.name.clone())
    }

    /// The neighbour's name, if it can be relied on now.
    pub(crate) fn trusted(&self, number: usize) -> Option<String> {
        self.locked().get(number).filter(|neighbour| neighbour.trusted()).map(|neighbour| neighbour.name.clone())
    }

    /// Records the bytes of a request for states, and of its answer.
    pub(crate) fn recalled(&self, number: usize, sent: usize, received: usize) {
        if let Some(neighbour) = self.locked().get_mut(number) {
            neighbour.counts.bytes_sent += sent as u64;
            neighbour.counts.bytes_received += received as u64;
        }
    }

    pub(crate) fn sent(&self, number: usize, bytes: usize) {
        if let Some(neighbour) = self.locked().get_mut(number) {
            neighbour.sent_now += 1;
            neighbour.counts.sent += 1;
            neighbour.counts.bytes_sent += bytes as u64;
        }
    }

    /// Records an answer that took `round_trip`, of which the neighbour reports `took` for itself.
    pub(crate) fn answered(&self, number: usize, bytes: usize, round_trip: Duration, took: Duration, load: Load) {
        if let Some(neighbour) = self.locked().get_mut(number) {
            neighbour.counts.bytes_received += bytes as u64;
            neighbour.took(round_trip.saturating_sub(took).as_secs_f64());
            if let Some(state) = &mut neighbour.state
                && load.compute_seconds.is_finite()
                && load.compute_seconds >= 0.0
            {
                (state.input, state.output, state.compute_seconds) = (load.input, load.output, load.compute_seconds);
            }
        }
    }

    /// Records how a chunk ended: returned after `layers` layers there, refused, or late.
    pub(crate) fn settled(&self, number: usize, end: Ending) {
        if let Some(neighbour) = self.locked().get_mut(number) {
            neighbour.sent_now = neighbour.sent_now.saturating_sub(1);
            match end {
                Ending::Returned { layers } => {
                    neighbour.refused_in_row = 0;
                    neighbour.counts.returned += 1;
                    neighbour.counts.layers += layers as u64;
                }
                Ending::Refused => {
                    neighbour.counts.refused += 1;
                    neighbour.refused_in_row += 1;
                    neighbour.refused_at = Some(Instant::now());
                    if neighbour.refused_in_row == MOST_REFUSED {
                        log::warn!(
                            "neighbour {}: refused {MOST_REFUSED} chunks in a row, and is asked again in {} s; does it run the same \
                             version and pack, without too many streams?",
                            neighbour.name,
                            REFUSES_FOR.as_secs()
                        );
                    }
                }
                Ending::Late => {
                    neighbour.counts.late += 1;
                    neighbour.doubted = Some(Instant::now());
                }
            }
        }
    }

    /// Asks neighbours again that have refused chunks in a row.
    #[cfg(test)]
    pub(super) fn forget_refusals(&self) {
        self.locked().iter_mut().for_each(|neighbour| neighbour.refused_in_row = 0);
    }

    /// Every neighbour so far.
    pub fn status(&self) -> Vec<NeighbourStatus> {
        let status = |neighbour: &Neighbour| NeighbourStatus {
            name: neighbour.name.clone(),
            present: neighbour.present,
            counts: neighbour.counts,
            compute_seconds: neighbour.state.as_ref().map_or(0.0, |state| state.compute_seconds),
            transfer_seconds: neighbour.transfer_seconds.unwrap_or(0.0),
            input: neighbour.state.as_ref().map_or(0, |state| state.input),
            output: neighbour.state.as_ref().map_or(0, |state| state.output),
            sent_now: neighbour.sent_now,
            temperature: neighbour.state.as_ref().and_then(|state| state.temperature),
        };
        self.locked().iter().map(status).collect()
    }
}

/// One line: neighbours that are present, and the chunks sent there.
impl fmt::Display for Roster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = self.locked();
        let sum = |of: fn(&Counts) -> u64| all.iter().map(|one| of(&one.counts)).sum::<u64>();
        let present = all.iter().filter(|one| one.present).count();
        let (sent, returned) = (sum(|counts| counts.sent), sum(|counts| counts.returned));
        write!(f, "{present} neighbours, {sent} chunks sent there, {returned} returned")?;
        let (answered, refused) = self.own.totals();
        match answered + refused {
            0 => Ok(()),
            _ => write!(f, ", {answered} computed for others"),
        }
    }
}

/// How a sent chunk ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    Returned { layers: usize },
    Refused,
    Late,
}
