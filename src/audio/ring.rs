//! The lock-free ring between a source (the writer) and the inference thread (the reader): mono f32 at the source's rate.
//!
//! A full ring never blocks a live source. The newest samples are dropped and counted, and the reader receives the gap in stream order.
//! captured = read + dropped + queued, exactly.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use ringbuf::traits::{Consumer, Observer, Producer, Split};
use ringbuf::{HeapCons, HeapProd, HeapRb};

use crate::sample::is_valid;
use crate::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering, fence};
use crate::sync::thread::{self, Thread};

/// A run of dropped samples.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Gap {
    /// Position of the first dropped sample, counted in captured samples.
    pub position: u64,
    /// Number of dropped samples.
    pub samples: u64,
}

/// Counters of a ring, readable at any time.
#[derive(Debug)]
pub struct RingStats {
    sample_rate: u32,
    /// Samples of a frame, which are written, read and dropped together. All counts and positions are in frames.
    channels: usize,
    /// Reference of `origin_nanos`.
    epoch: Instant,
    /// Capture time of sample 0, extrapolated from the newest samples: nanoseconds after `epoch`.
    origin_nanos: AtomicI64,
    captured: AtomicU64,
    dropped: AtomicU64,
    read: AtomicU64,
    non_finite: AtomicU64,
    closed: AtomicBool,
    last_gap_position: AtomicU64,
    last_gap_samples: AtomicU64,
    /// The thread that waits for samples.
    reader: OnceLock<Thread>,
    /// Fill level at which the reader is woken, samples.
    wake_at: AtomicUsize,
}

impl RingStats {
    fn new(sample_rate: u32, channels: usize) -> Self {
        let zero = || AtomicU64::new(0);
        Self {
            sample_rate,
            channels,
            epoch: Instant::now(),
            origin_nanos: AtomicI64::new(0),
            captured: zero(),
            dropped: zero(),
            read: zero(),
            non_finite: zero(),
            closed: AtomicBool::new(false),
            last_gap_position: zero(),
            last_gap_samples: zero(),
            reader: OnceLock::new(),
            wake_at: AtomicUsize::new(usize::MAX),
        }
    }

    /// Capture time of the audio `seconds` after the first sample.
    pub fn captured_at(&self, seconds: f64) -> Option<Instant> {
        let nanos = self.origin_nanos.load(Ordering::Relaxed) + (seconds * 1e9) as i64;
        match u64::try_from(nanos) {
            Ok(nanos) => self.epoch.checked_add(Duration::from_nanos(nanos)),
            Err(_) => self.epoch.checked_sub(Duration::from_nanos(nanos.unsigned_abs())),
        }
    }

    /// Time since the newest sample was captured: the delay of the device's buffer, and the time since the last callback.
    pub fn age(&self) -> Duration {
        let newest = self.captured_at(self.captured() as f64 / f64::from(self.sample_rate));
        newest.map_or(Duration::ZERO, |newest| newest.elapsed())
    }

    /// Wakes the reader if it waits. Never waits, locks or allocates.
    pub fn wake_reader(&self) {
        // Pairs with the fence of `RingReader::wait`: a reader that is not known yet observes what the caller has stored.
        fence(Ordering::SeqCst);
        if let Some(reader) = self.reader.get() {
            reader.unpark();
        }
    }

    /// Samples delivered by the source.
    pub fn captured(&self) -> u64 {
        self.captured.load(Ordering::Acquire)
    }

    /// Samples dropped because the ring was full, or lost by the source.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Acquire)
    }

    /// Samples read by the inference thread.
    pub fn read(&self) -> u64 {
        self.read.load(Ordering::Acquire)
    }

    /// NaN, infinite and extreme samples, which were replaced by zeros.
    pub fn non_finite(&self) -> u64 {
        self.non_finite.load(Ordering::Relaxed)
    }
}

/// The source's end of the ring. Dropping it closes the ring.
pub struct RingWriter {
    samples: HeapProd<f32>,
    gaps: HeapProd<Gap>,
    /// A gap that ends at the current position and has not been sent to the reader.
    pending: Option<Gap>,
    stats: Arc<RingStats>,
}

/// The inference thread's end of the ring.
pub struct RingReader {
    samples: HeapCons<f32>,
    gaps: HeapCons<Gap>,
    next_gap: Option<Gap>,
    /// Position in captured samples: samples read and samples dropped before them.
    position: u64,
    last_gap_reported: bool,
    stats: Arc<RingStats>,
}

/// Result of a read, in stream order.
#[derive(Debug, PartialEq)]
pub enum Block<'a> {
    /// The next samples.
    Samples(&'a [f32]),
    /// Samples were dropped here.
    Gap(Gap),
    /// The ring is empty; more samples may follow.
    Empty,
    /// The ring is closed and empty.
    Closed,
}

/// Maximum number of unread gaps. Beyond it, gaps are merged; the count of dropped samples stays exact.
const GAP_CAPACITY: usize = 1024;
/// How long a source that can wait sleeps if the ring is full: less than the time to process a ring of two seconds at 500 times real
/// time, and long enough that the wake-ups cost nothing compared with the encoder.
const FULL_SLEEP: Duration = Duration::from_millis(4);
/// Samples checked and copied at a time, on the stack.
const BLOCK: usize = 256;

/// Creates a ring of `capacity` samples at `sample_rate`.
pub fn ring(capacity: usize, sample_rate: u32) -> (RingWriter, RingReader) {
    ring_of_frames(capacity, sample_rate, 1)
}

/// A ring of `capacity` frames of `channels` interleaved samples.
pub fn ring_of_frames(capacity: usize, sample_rate: u32, channels: u16) -> (RingWriter, RingReader) {
    let channels = usize::from(channels.clamp(1, BLOCK as u16));
    let stats = Arc::new(RingStats::new(sample_rate, channels));
    let (samples_in, samples_out) = HeapRb::new(capacity.max(1) * channels).split();
    let (gaps_in, gaps_out) = HeapRb::new(GAP_CAPACITY).split();
    let writer = RingWriter { samples: samples_in, gaps: gaps_in, pending: None, stats: stats.clone() };
    let reader =
        RingReader { samples: samples_out, gaps: gaps_out, next_gap: None, position: 0, last_gap_reported: false, stats };
    (writer, reader)
}

impl RingWriter {
    /// Appends samples, the last of which was captured now, without waiting, allocating or locking. Samples that do not fit are dropped
    /// and counted.
    pub fn push_live(&mut self, samples: &[f32]) {
        let frames = samples.len() / self.stats.channels;
        let length = Duration::from_secs_f64(frames as f64 / f64::from(self.stats.sample_rate));
        if let Some(first) = Instant::now().checked_sub(length) {
            self.stamp(first);
        }
        self.append(samples);
    }

    /// Sets the capture time of the next sample.
    pub(crate) fn stamp(&self, captured: Instant) {
        let position = self.stats.captured.load(Ordering::Relaxed);
        let since_first = (u128::from(position) * 1_000_000_000 / u128::from(self.stats.sample_rate)) as i64;
        let after_epoch = match captured.checked_duration_since(self.stats.epoch) {
            Some(after) => after.as_nanos() as i64,
            None => -(self.stats.epoch.duration_since(captured).as_nanos() as i64),
        };
        self.stats.origin_nanos.store(after_epoch - since_first, Ordering::Relaxed);
    }

    /// Like [`push_live`](Self::push_live), for samples whose capture time was set with [`stamp`](Self::stamp).
    pub(crate) fn append(&mut self, samples: &[f32]) {
        let channels = self.stats.channels;
        for block in samples.chunks(BLOCK / channels * channels) {
            let mut clean = [0.0; BLOCK];
            let clean = self.cleaned(block, &mut clean);
            let fits = match self.send_pending() {
                true => self.push(clean),
                false => 0,
            };
            let frames = clean.len() / channels;
            let dropped = (frames - fits) as u64;
            if dropped > 0 {
                let position = self.stats.captured.load(Ordering::Relaxed) + fits as u64;
                self.pending.get_or_insert(Gap { position, samples: 0 }).samples += dropped;
                self.stats.dropped.fetch_add(dropped, Ordering::Release);
            }
            self.stats.captured.fetch_add(frames as u64, Ordering::Release);
        }
        self.wake();
    }

    /// Appends samples and waits while the ring is full. Returns false if `stop` is set or the reader was dropped; samples that were not
    /// appended do not count as captured.
    pub fn push_blocking(&mut self, samples: &[f32], stop: &AtomicBool) -> bool {
        let channels = self.stats.channels;
        for block in samples.chunks(BLOCK / channels * channels) {
            let mut clean = [0.0; BLOCK];
            let mut left = self.cleaned(block, &mut clean);
            while !left.is_empty() {
                if stop.load(Ordering::Relaxed) || !self.samples.read_is_held() {
                    return false;
                }
                let pushed = if self.send_pending() { self.push(left) } else { 0 };
                self.stats.captured.fetch_add(pushed as u64, Ordering::Release);
                left = &left[pushed * channels..];
                self.wake();
                if !left.is_empty() {
                    thread::sleep(FULL_SLEEP);
                }
            }
        }
        true
    }

    /// Appends the whole frames that fit, and returns their number.
    fn push(&mut self, samples: &[f32]) -> usize {
        let channels = self.stats.channels;
        let frames = (samples.len() / channels).min(self.samples.vacant_len() / channels);
        self.samples.push_slice(&samples[..frames * channels]) / channels
    }

    /// Records samples that the source knows to be missing at this position. They count as captured and dropped, and the reader receives
    /// the gap.
    pub fn lose(&mut self, samples: u64) {
        let position = self.stats.captured.load(Ordering::Relaxed);
        self.pending.get_or_insert(Gap { position, samples: 0 }).samples += samples;
        self.stats.dropped.fetch_add(samples, Ordering::Release);
        self.stats.captured.fetch_add(samples, Ordering::Release);
    }

    /// Wakes the reader if the ring holds the samples that it waits for.
    fn wake(&self) {
        // Pairs with the fence of `RingReader::wait`: at least one thread observes the store of the other.
        fence(Ordering::SeqCst);
        if self.samples.occupied_len() / self.stats.channels >= self.stats.wake_at.load(Ordering::Relaxed) {
            self.stats.wake_reader();
        }
    }

    /// Copies a block. NaN, infinite and extreme samples are replaced by zeros and counted.
    fn cleaned<'a>(&self, block: &[f32], clean: &'a mut [f32; BLOCK]) -> &'a [f32] {
        let clean = &mut clean[..block.len()];
        let mut invalid = 0;
        for (out, &sample) in clean.iter_mut().zip(block) {
            let valid = is_valid(sample);
            *out = if valid { sample } else { 0.0 };
            invalid += u64::from(!valid);
        }
        if invalid > 0 {
            self.stats.non_finite.fetch_add(invalid, Ordering::Relaxed);
        }
        clean
    }

    /// Sends the pending gap, if any, to the reader. Returns false if there is no room for it: then no sample may follow yet, and the gap
    /// grows.
    fn send_pending(&mut self) -> bool {
        let Some(gap) = self.pending else { return true };
        if self.samples.vacant_len() < self.stats.channels {
            return false;
        }
        let sent = self.gaps.try_push(gap).is_ok();
        if sent {
            self.pending = None;
        }
        sent
    }
}

impl Drop for RingWriter {
    fn drop(&mut self) {
        let gap = self.pending.unwrap_or_default();
        self.stats.last_gap_position.store(gap.position, Ordering::Relaxed);
        self.stats.last_gap_samples.store(gap.samples, Ordering::Relaxed);
        self.stats.closed.store(true, Ordering::Release);
        self.stats.wake_reader();
    }
}

impl RingReader {
    /// Reads the next samples, up to the next gap, into `out`; or returns the gap.
    pub fn read<'a>(&mut self, out: &'a mut [f32]) -> Block<'a> {
        // The order of these loads matters: a gap is sent before the sample that follows it.
        let closed = self.stats.closed.load(Ordering::Acquire);
        let channels = self.stats.channels;
        let available = self.samples.occupied_len() / channels;
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
        let count = available.min(out.len() / channels).min(before_gap);
        if count > 0 {
            let out = &mut out[..count * channels];
            let read = self.samples.pop_slice(out) / channels;
            self.position += read as u64;
            self.stats.read.fetch_add(read as u64, Ordering::Release);
            return Block::Samples(&out[..read * channels]);
        }
        match closed && available == 0 {
            false => Block::Empty,
            true => self.last_gap(),
        }
    }

    /// Waits until the ring holds `samples` samples, is half full or closed, or `timeout` has passed. May return early. A ring is waited
    /// for by one thread only.
    pub fn wait(&self, samples: usize, timeout: Duration) {
        self.stats.reader.get_or_init(thread::current);
        let wake_at = samples.min(self.samples.capacity().get() / self.stats.channels / 2).max(1);
        self.stats.wake_at.store(wake_at, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        if self.queued() < wake_at && !self.stats.closed.load(Ordering::Acquire) {
            thread::park_timeout(timeout);
        }
        self.stats.wake_at.store(usize::MAX, Ordering::Relaxed);
    }

    /// Discards the samples in the ring after the source has stopped, and counts them as dropped. Returns their number.
    pub fn discard(&mut self) -> u64 {
        let waiting = (self.samples.clear() / self.stats.channels) as u64;
        let gaps = self.next_gap.take().into_iter().chain(std::iter::from_fn(|| self.gaps.try_pop()));
        self.position += waiting + gaps.map(|gap| gap.samples).sum::<u64>();
        self.stats.dropped.fetch_add(waiting, Ordering::Release);
        waiting
    }

    fn last_gap(&mut self) -> Block<'static> {
        let samples = self.stats.last_gap_samples.load(Ordering::Relaxed);
        if samples == 0 || std::mem::replace(&mut self.last_gap_reported, true) {
            return Block::Closed;
        }
        let gap = Gap { position: self.stats.last_gap_position.load(Ordering::Relaxed), samples };
        self.position += samples;
        Block::Gap(gap)
    }

    /// Samples in the ring.
    pub fn queued(&self) -> usize {
        self.samples.occupied_len() / self.stats.channels
    }

    /// The ring's counters.
    pub fn stats(&self) -> &Arc<RingStats> {
        &self.stats
    }
}
