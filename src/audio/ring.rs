//! The ring between a source and the inference thread: mono f32 at the source's rate, one writer, one reader, no lock.
//!
//! A full ring never holds a live source up: the newest samples are dropped, counted, and their position is told in stream
//! order. captured = read + dropped + queued, to the sample.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use ringbuf::traits::{Consumer, Observer, Producer, Split};
use ringbuf::{HeapCons, HeapProd, HeapRb};

/// Full scale is 1; files with samples as large as 32 bit integers exist. The square of anything much larger would overflow in
/// a front end, and stay in the caches for seconds.
const LOUDEST: f32 = 1e10;

/// Samples that were dropped together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Gap {
    /// Position of the first dropped sample, counted in captured samples.
    pub position: u64,
    /// How many.
    pub samples: u64,
}

/// What a ring has seen; every number can be read at any time.
#[derive(Debug, Default)]
pub struct RingStats {
    captured: AtomicU64,
    dropped: AtomicU64,
    read: AtomicU64,
    non_finite: AtomicU64,
    closed: AtomicBool,
    last_gap_position: AtomicU64,
    last_gap_samples: AtomicU64,
}

impl RingStats {
    /// Samples that the source delivered.
    pub fn captured(&self) -> u64 {
        self.captured.load(Ordering::Acquire)
    }

    /// Samples that found the ring full.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Acquire)
    }

    /// Samples that were read.
    pub fn read(&self) -> u64 {
        self.read.load(Ordering::Acquire)
    }

    /// Samples that wait in the ring.
    pub fn queued(&self) -> u64 {
        // Read before captured: what is read was captured before.
        let gone = self.read() + self.dropped();
        self.captured().saturating_sub(gone)
    }

    /// Samples that were NaN or infinite; zeros took their place.
    pub fn non_finite(&self) -> u64 {
        self.non_finite.load(Ordering::Relaxed)
    }
}

/// The source's end. Dropping it closes the ring.
pub struct RingWriter {
    samples: HeapProd<f32>,
    gaps: HeapProd<Gap>,
    /// A gap that ends at the present position and is not told yet.
    pending: Option<Gap>,
    stats: Arc<RingStats>,
}

/// The inference thread's end.
pub struct RingReader {
    samples: HeapCons<f32>,
    gaps: HeapCons<Gap>,
    next_gap: Option<Gap>,
    /// In captured samples: those read, and those dropped before them.
    position: u64,
    last_gap_told: bool,
    stats: Arc<RingStats>,
}

/// What a read found, in stream order.
#[derive(Debug, PartialEq)]
pub enum Block<'a> {
    /// Samples.
    Samples(&'a [f32]),
    /// Samples were dropped here.
    Gap(Gap),
    /// Nothing yet.
    Empty,
    /// Nothing any more.
    Closed,
}

/// Gaps that wait to be read; past that, drops join into one gap, and their number stays exact.
const GAP_CAPACITY: usize = 1024;
/// How long a source that can wait sleeps when the ring is full: shorter than two seconds of sound last at 500 times real time, and
/// long enough that waking up costs nothing beside the encoder.
const FULL_SLEEP: Duration = Duration::from_millis(4);
/// Samples that are checked and copied at a time, on the stack.
const BLOCK: usize = 256;

/// A ring of `capacity` samples.
pub fn ring(capacity: usize) -> (RingWriter, RingReader) {
    let stats = Arc::new(RingStats::default());
    let (samples_in, samples_out) = HeapRb::new(capacity.max(1)).split();
    let (gaps_in, gaps_out) = HeapRb::new(GAP_CAPACITY).split();
    let writer = RingWriter { samples: samples_in, gaps: gaps_in, pending: None, stats: stats.clone() };
    let reader = RingReader { samples: samples_out, gaps: gaps_out, next_gap: None, position: 0, last_gap_told: false, stats };
    (writer, reader)
}

impl RingWriter {
    /// Appends samples without ever waiting, allocating or locking; what does not fit is dropped and counted.
    pub fn push_live(&mut self, samples: &[f32]) {
        for block in samples.chunks(BLOCK) {
            let mut clean = [0.0; BLOCK];
            let clean = self.cleaned(block, &mut clean);
            let fits = match self.tell_pending() {
                true => self.samples.push_slice(clean),
                false => 0,
            };
            let dropped = (clean.len() - fits) as u64;
            if dropped > 0 {
                let position = self.stats.captured.load(Ordering::Relaxed) + fits as u64;
                self.pending.get_or_insert(Gap { position, samples: 0 }).samples += dropped;
                self.stats.dropped.fetch_add(dropped, Ordering::Release);
            }
            self.stats.captured.fetch_add(clean.len() as u64, Ordering::Release);
        }
    }

    /// Appends samples and waits while the ring is full. Returns false when `stop` was set or the reader is gone;
    /// what was not appended then does not count as captured.
    pub fn push_blocking(&mut self, samples: &[f32], stop: &AtomicBool) -> bool {
        for block in samples.chunks(BLOCK) {
            let mut clean = [0.0; BLOCK];
            let mut left = self.cleaned(block, &mut clean);
            while !left.is_empty() {
                if stop.load(Ordering::Relaxed) || !self.samples.read_is_held() {
                    return false;
                }
                let pushed = if self.tell_pending() { self.samples.push_slice(left) } else { 0 };
                self.stats.captured.fetch_add(pushed as u64, Ordering::Release);
                left = &left[pushed..];
                if !left.is_empty() {
                    std::thread::sleep(FULL_SLEEP);
                }
            }
        }
        true
    }

    /// Counts samples that the source knows to be missing here: they are captured and dropped, and whoever reads finds the gap.
    pub fn lose(&mut self, samples: u64) {
        let position = self.stats.captured.load(Ordering::Relaxed);
        self.pending.get_or_insert(Gap { position, samples: 0 }).samples += samples;
        self.stats.dropped.fetch_add(samples, Ordering::Release);
        self.stats.captured.fetch_add(samples, Ordering::Release);
    }

    /// The ring's numbers.
    pub fn stats(&self) -> &Arc<RingStats> {
        &self.stats
    }

    /// Copies a block; NaN, infinity and what is beyond any sound become zeros and are counted.
    fn cleaned<'a>(&self, block: &[f32], clean: &'a mut [f32; BLOCK]) -> &'a [f32] {
        let clean = &mut clean[..block.len()];
        let mut bad = 0;
        for (out, &sample) in clean.iter_mut().zip(block) {
            let fine = sample.abs() <= LOUDEST;
            *out = if fine { sample } else { 0.0 };
            bad += u64::from(!fine);
        }
        if bad > 0 {
            self.stats.non_finite.fetch_add(bad, Ordering::Relaxed);
        }
        clean
    }

    /// Tells the gap in front of the next sample, if there is one. False when there is no room to tell it: then nothing
    /// may follow it yet, and the gap goes on.
    fn tell_pending(&mut self) -> bool {
        let Some(gap) = self.pending else { return true };
        if self.samples.is_full() {
            return false;
        }
        let told = self.gaps.try_push(gap).is_ok();
        if told {
            self.pending = None;
        }
        told
    }
}

impl Drop for RingWriter {
    fn drop(&mut self) {
        let gap = self.pending.unwrap_or_default();
        self.stats.last_gap_position.store(gap.position, Ordering::Relaxed);
        self.stats.last_gap_samples.store(gap.samples, Ordering::Relaxed);
        self.stats.closed.store(true, Ordering::Release);
    }
}

impl RingReader {
    /// Reads what comes next into `out`: samples up to the next gap, or the gap itself.
    pub fn read<'a>(&mut self, out: &'a mut [f32]) -> Block<'a> {
        // The order matters: every gap in front of a sample was told before that sample was pushed.
        let closed = self.stats.closed.load(Ordering::Acquire);
        let available = self.samples.occupied_len();
        if self.next_gap.is_none() {
            self.next_gap = self.gaps.try_pop();
        }
        let before_gap = match self.next_gap {
            Some(gap) if gap.position == self.position => {
                self.next_gap = None;
                self.position += gap.samples;
                return Block::Gap(gap);
            }
            Some(gap) => (gap.position - self.position) as usize,
            None => usize::MAX,
        };
        let count = available.min(out.len()).min(before_gap);
        if count > 0 {
            let out = &mut out[..count];
            let read = self.samples.pop_slice(out);
            self.position += read as u64;
            self.stats.read.fetch_add(read as u64, Ordering::Release);
            return Block::Samples(&out[..read]);
        }
        match closed && available == 0 {
            false => Block::Empty,
            true => self.last_gap(),
        }
    }

    /// Gives up what waits when the source has stopped: it counts as dropped. Returns how many samples it were.
    pub fn discard(&mut self) -> u64 {
        let waiting = self.samples.clear() as u64;
        let told = self.next_gap.take().into_iter().chain(std::iter::from_fn(|| self.gaps.try_pop()));
        self.position += waiting + told.map(|gap| gap.samples).sum::<u64>();
        self.stats.dropped.fetch_add(waiting, Ordering::Release);
        waiting
    }

    fn last_gap(&mut self) -> Block<'static> {
        let samples = self.stats.last_gap_samples.load(Ordering::Relaxed);
        if samples == 0 || std::mem::replace(&mut self.last_gap_told, true) {
            return Block::Closed;
        }
        let gap = Gap { position: self.stats.last_gap_position.load(Ordering::Relaxed), samples };
        self.position += samples;
        Block::Gap(gap)
    }

    /// Samples that wait.
    pub fn queued(&self) -> usize {
        self.samples.occupied_len()
    }

    /// The ring's numbers.
    pub fn stats(&self) -> &Arc<RingStats> {
        &self.stats
    }
}
