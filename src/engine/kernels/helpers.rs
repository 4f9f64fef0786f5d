//! Helper threads for wide matmuls, at idle priority. Helpers compute panels of the result, and the caller never waits for them: it
//! recomputes panels that a helper has not finished once no other panel is left. A helper without processor time costs only an offer,
//! and one that is preempted within a panel costs that panel (docs/performance.md).

use std::sync::{Arc, OnceLock};

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::thread;

/// Minimum MACs of a matmul that is offered to helpers. An offer takes tens of microseconds.
pub const MIN_SHARED_MACS: usize = 16 << 20;

/// The panels of a matmul, computed by helpers.
pub trait Panels: Send + Sync + 'static {
    /// Computes panel `panel` without residual, `[rows, columns of the panel]`.
    fn compute(&self, panel: usize) -> Vec<f32>;
}

/// The panels of one matmul: which are taken, and the results of helpers.
struct Offer {
    panels: Box<dyn Panels>,
    taken: Box<[AtomicBool]>,
    blocks: Box<[OnceLock<Vec<f32>>]>,
}

impl Offer {
    fn take(&self, panel: usize) -> bool {
        !self.taken[panel].swap(true, Ordering::Relaxed)
    }

    /// Computes panels from the last towards the first; the caller starts at the first.
    fn help(&self) {
        for panel in (0..self.taken.len()).rev().filter(|&panel| self.take(panel)) {
            // Only the thread that took the panel sets its result.
            let _ = self.blocks[panel].set(self.panels.compute(panel));
        }
    }
}

/// The helper threads of an encoder, which end when it is dropped.
#[derive(Debug)]
pub struct Helpers {
    offers: Sender<Arc<Offer>>,
    count: usize,
    min_macs: usize,
}

impl Helpers {
    /// Starts `count` threads for matmuls of at least `min_macs` MACs.
    ///
    /// # Errors
    /// If the system cannot start a thread.
    pub fn start(count: usize, min_macs: usize) -> std::io::Result<Self> {
        let (sender, receiver) = bounded(count);
        for index in 1..=count {
            let offers: Receiver<Arc<Offer>> = receiver.clone();
            thread::Builder::new().name(format!("helper-{index}")).spawn(move || {
                crate::background::lowest_priority();
                offers.iter().for_each(|offer| offer.help());
            })?;
        }
        Ok(Self { offers: sender, count, min_macs })
    }

    /// Calls `put` once for each of `count` panels, with a helper's result, or with `None` if the caller has to compute the panel.
    pub fn share<P: Panels>(&self, count: usize, panels: impl FnOnce() -> P, mut put: impl FnMut(usize, Option<&[f32]>)) {
        let offer = Arc::new(Offer {
            panels: Box::new(panels()),
            taken: (0..count).map(|_| AtomicBool::new(false)).collect(),
            blocks: (0..count).map(|_| OnceLock::new()).collect(),
        });
        for _ in 0..self.count {
            let _ = self.offers.try_send(offer.clone());
        }
        let mut by_helpers = Vec::new();
        for panel in 0..count {
            match offer.take(panel) {
                true => put(panel, None),
                false => by_helpers.push(panel),
            }
        }
        // Helpers started at the last panel, so the first of these is the most likely to be unfinished: read it last.
        for panel in by_helpers.into_iter().rev() {
            put(panel, offer.blocks[panel].get().map(Vec::as_slice));
        }
    }
}

/// Returns the helpers if a matmul of `macs` MACs is large enough and their queue of offers is not full.
pub fn available(helpers: Option<&Arc<Helpers>>, macs: usize) -> Option<&Helpers> {
    helpers.map(Arc::as_ref).filter(|helpers| macs >= helpers.min_macs && !helpers.offers.is_full())
}
