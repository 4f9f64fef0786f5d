//! Threads that help with wide products. They take panels of the result off the caller's hands, and the caller never waits for
//! them: what a helper has not finished when no panel is left, the caller computes itself. Helpers run where the system has nothing
//! else to do. One that gets no time costs nothing but an offer, and one that is stopped in the middle costs a panel
//! (docs/performance.md).

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use crossbeam_channel::{Receiver, Sender, bounded};

/// MACs of a product that is worth an offer, which takes tens of microseconds.
pub const WORTH_FROM: usize = 16 << 20;

/// The panels of a product as a helper computes them.
pub trait Panels: Send + Sync + 'static {
    /// Panel `panel` without residual, `[rows, columns of the panel]`.
    fn compute(&self, panel: usize) -> Vec<f32>;
}

/// Panels that whoever comes first takes, and what helpers made of them.
struct Offer {
    panels: Box<dyn Panels>,
    taken: Box<[AtomicBool]>,
    blocks: Box<[OnceLock<Vec<f32>>]>,
}

impl Offer {
    fn take(&self, panel: usize) -> bool {
        !self.taken[panel].swap(true, Ordering::Relaxed)
    }

    /// Computes panels from the last on; the caller comes from the first.
    fn help(&self) {
        for panel in (0..self.taken.len()).rev().filter(|&panel| self.take(panel)) {
            // Who took it is the only one to set it.
            let _ = self.blocks[panel].set(self.panels.compute(panel));
        }
    }
}

/// The helpers of an encoder; they end with it.
#[derive(Debug)]
pub struct Helpers {
    offers: Sender<Arc<Offer>>,
    count: usize,
    worth_from: usize,
}

impl Helpers {
    /// Starts `count` threads for products of `worth_from` MACs and more.
    ///
    /// # Errors
    /// If the system gives no more threads.
    pub fn start(count: usize, worth_from: usize) -> std::io::Result<Self> {
        let (offers, wanted) = bounded(count);
        for index in 1..=count {
            let wanted: Receiver<Arc<Offer>> = wanted.clone();
            std::thread::Builder::new().name(format!("helper-{index}")).spawn(move || {
                stand_back();
                wanted.iter().for_each(|offer| offer.help());
            })?;
        }
        Ok(Self { offers, count, worth_from })
    }

    /// Calls `put` once for each of `count` panels: with what a helper computed, or with nothing, and then the panel is the
    /// caller's.
    pub fn share<P: Panels>(&self, count: usize, panels: impl FnOnce() -> P, mut put: impl FnMut(usize, Option<&[f32]>)) {
        let offer = Arc::new(Offer {
            panels: Box::new(panels()),
            taken: (0..count).map(|_| AtomicBool::new(false)).collect(),
            blocks: (0..count).map(|_| OnceLock::new()).collect(),
        });
        for _ in 0..self.count {
            let _ = self.offers.try_send(offer.clone());
        }
        let mut theirs = Vec::new();
        for panel in 0..count {
            match offer.take(panel) {
                true => put(panel, None),
                false => theirs.push(panel),
            }
        }
        // The first of them was taken last and may still be computed: it is asked for last.
        for panel in theirs.into_iter().rev() {
            put(panel, offer.blocks[panel].get().map(Vec::as_slice));
        }
    }
}

/// The helpers, where they are asked about a product of so many MACs: it is large enough, and one has come for the last.
pub fn worth(helpers: Option<&Arc<Helpers>>, macs: usize) -> Option<&Helpers> {
    helpers.map(Arc::as_ref).filter(|helpers| macs >= helpers.worth_from && !helpers.offers.is_full())
}

/// Lets every other thread of the machine come first.
#[cfg(unix)]
fn stand_back() {
    use thread_priority::{
        NormalThreadSchedulePolicy, ThreadPriority, ThreadSchedulePolicy, set_thread_priority_and_policy, thread_native_id,
    };
    let policy = ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Idle);
    if let Err(error) = set_thread_priority_and_policy(thread_native_id(), ThreadPriority::Min, policy) {
        log::debug!("a helper keeps its priority: {error:?}");
    }
}

#[cfg(not(unix))]
fn stand_back() {}
