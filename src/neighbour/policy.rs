//! The rules of MDI-Exit (arXiv 2408.05247): where a task runs, how much data is admitted, and how the exit threshold adapts to the
//! queues. They use no clock, network or random numbers of their own, so that the daemon and the simulation share them.
//!
//! Reconstructed from the abstract and from secondary sources, not from the paper's text; docs/notes/neighbours.md states which parts are Bellis's own.

use std::time::Duration;

/// The load of one worker, as it measures and publishes it.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Load {
    /// Tasks in the input queue, I: they run here.
    pub input: usize,
    /// Tasks in the output queue, O: they are offered to neighbours.
    pub output: usize,
    /// Mean time to compute a task, Γ, seconds.
    pub compute_seconds: f64,
}

impl Load {
    /// Time until a new task would start here, I·Γ, seconds.
    fn wait_seconds(&self) -> f64 {
        self.input as f64 * self.compute_seconds
    }
}

/// Queue for the next task of a chunk that did not exit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placement {
    /// Into the input queue of this worker.
    Input,
    /// Into its output queue, for a neighbour.
    Output,
}

/// Places the next task of a datum that did not exit: in the input queue if that is empty or the output queue has more than
/// `output_limit` tasks, otherwise in the output queue.
pub fn place(own: &Load, output_limit: usize) -> Placement {
    match own.input == 0 || own.output > output_limit {
        true => Placement::Input,
        false => Placement::Output,
    }
}

/// Probability of sending the head of the output queue of `own` to the neighbour `other` at this opportunity.
///
/// 0 unless O_n > I_m. Then 1 if I_n·Γ_n > D_nm + I_m·Γ_m, and I_n·Γ_n / (D_nm + I_m·Γ_m) otherwise. `transfer_seconds` is D_nm.
/// Non-finite or negative numbers, which a faulty neighbour may publish, give 0.
pub fn offload_probability(own: &Load, other: &Load, transfer_seconds: f64) -> f64 {
    if own.output <= other.input {
        return 0.0;
    }
    let (here, there) = (own.wait_seconds(), transfer_seconds + other.wait_seconds());
    let sensible = |seconds: f64| seconds.is_finite() && seconds >= 0.0;
    if !sensible(here) || !sensible(there) || transfer_seconds < 0.0 {
        return 0.0;
    }
    match here > there {
        true => 1.0,
        // there ≥ here ≥ 0, so the quotient is in 0..=1 unless both are 0.
        false if there > 0.0 => here / there,
        false => 0.0,
    }
}

/// Factors by the length of a queue: α below `short`, β from there to `long`, γ from `long` on; 0 < α < β < 1 < γ.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bands {
    /// Queue length from which β applies, tasks.
    short: usize,
    /// Queue length from which γ applies, tasks.
    long: usize,
    alpha: f64,
    beta: f64,
    gamma: f64,
}

/// The error for invalid bands.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
#[error(
    "admission bands need 0 < α < β < 1 < γ and short ≤ long, got α = {alpha}, β = {beta}, γ = {gamma}, short = {short}, long = {long}"
)]
pub struct InvalidBands {
    alpha: f64,
    beta: f64,
    gamma: f64,
    short: usize,
    long: usize,
}

impl Default for Bands {
    /// A quarter faster at most, a half slower: small enough that one period of state exchange does not overshoot.
    fn default() -> Self {
        Self { short: 4, long: 12, alpha: 0.8, beta: 0.95, gamma: 1.5 }
    }
}

impl Bands {
    /// Bands for queues shorter than `short`, up to `long`, and longer.
    ///
    /// # Errors
    ///
    /// [`InvalidBands`] unless 0 < α < β < 1 < γ, all finite, and `short` ≤ `long`.
    pub fn new(short: usize, long: usize, [alpha, beta, gamma]: [f64; 3]) -> Result<Self, InvalidBands> {
        let ordered = 0.0 < alpha && alpha < beta && beta < 1.0 && 1.0 < gamma && gamma.is_finite();
        match ordered && short <= long {
            true => Ok(Self { short, long, alpha, beta, gamma }),
            false => Err(InvalidBands { alpha, beta, gamma, short, long }),
        }
    }

    /// The factor for `queue` tasks.
    pub fn factor(&self, queue: usize) -> f64 {
        match queue {
            queue if queue < self.short => self.alpha,
            queue if queue < self.long => self.beta,
            _ => self.gamma,
        }
    }
}

/// Rate adaptation: with a fixed exit threshold, the time between admitted data follows the queues of the source.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RateAdaptation {
    /// Factors.
    pub bands: Bands,
    /// Limits of the time between data.
    pub between: (Duration, Duration),
}

impl RateAdaptation {
    /// The next inter-arrival time after `current`, with `queue` tasks in both queues of the source.
    pub fn next(&self, current: Duration, queue: usize) -> Duration {
        let (shortest, longest) = self.between;
        let next = current.as_secs_f64() * self.bands.factor(queue);
        Duration::from_secs_f64(next.min(longest.as_secs_f64())).clamp(shortest, longest.max(shortest))
    }
}

/// Threshold adaptation: at a fixed rate, the confidence T_e required for an exit follows the queues of the source.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ThresholdAdaptation {
    /// Factors; T_e is divided by them.
    pub bands: Bands,
    /// Lower bound of T_e.
    pub least: f64,
}

impl ThresholdAdaptation {
    /// The next T_e after `current`, with `queue` tasks in both queues of the source: between the lower bound and 1.
    pub fn next(&self, current: f64, queue: usize) -> f64 {
        (current / self.bands.factor(queue)).clamp(self.least.min(1.0), 1.0)
    }
}

/// Threshold adaptation for live audio, whose rate is given: a factor of τ, δ or λ (upper thresholds for an exit), 1 for short
/// queues. It is never below 1, so a chunk never exits deeper than with the configured policy.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LiveAdaptation {
    /// Factors.
    pub bands: Bands,
    /// Upper bound of the factor, at least 1.
    pub most: f64,
}

impl Default for LiveAdaptation {
    /// Thresholds rise while two chunks or more wait, up to fourfold: the ring holds two seconds, six chunks of daisy-tiny.
    fn default() -> Self {
        let Bands { alpha, beta, gamma, .. } = Bands::default();
        Self { bands: Bands { short: 1, long: 2, alpha, beta, gamma }, most: 4.0 }
    }
}

impl LiveAdaptation {
    /// The next factor after `current`, with `queue` chunks waiting.
    pub fn next(&self, current: f64, queue: usize) -> f64 {
        (current * self.bands.factor(queue)).clamp(1.0, self.most.max(1.0))
    }
}

/// What a source measures of itself and of one neighbour. Times are means in seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Exchange {
    /// Time here for a chunk that stays, Γ_n.
    pub stay: f64,
    /// Time here for a chunk that leaves: its first layers, encoding, decoding.
    pub leave: f64,
    /// Transfer time there and back, D_nm.
    pub transfer: f64,
    /// Time there for a chunk that arrives, Γ_m.
    pub there: f64,
    /// Chunks queued there, I_m.
    pub queue: usize,
    /// Chunks waiting here behind this one, I_n.
    pub waiting: usize,
    /// Chunks in flight.
    pub sent: usize,
    /// Chunks that may be complete or in flight behind the oldest one in flight: results leave in order.
    pub window: usize,
    /// Whether a chunk needs the states of the one before (a cached pack).
    pub chained: bool,
}

impl Exchange {
    /// Whether sending the chunk processes more audio per second than keeping it.
    ///
    /// Only if it takes less time here than a chunk that stays. Independent chunks must also return before the window is full, or the
    /// source waits for them. Chained chunks form a pipeline of two machines, since one that stays waits for those in flight: the
    /// pipeline's slower half must be faster than the source alone, and filling it, D_nm, must pay off for the chunks that wait.
    pub fn pays(&self) -> bool {
        let Self { stay, leave, transfer, there, queue, waiting, sent, window, chained } = *self;
        let sensible = |seconds: f64| seconds.is_finite() && seconds >= 0.0;
        if ![stay, leave, transfer, there].into_iter().all(sensible) || leave > LEAST_SAVING * stay {
            return false;
        }
        if !chained {
            return transfer + (queue + 1) as f64 * there < window.saturating_sub(sent) as f64 * stay;
        }
        let saved = stay - leave.max(there);
        saved > (1.0 - LEAST_SAVING) * stay && (sent > 0 || waiting as f64 * saved > transfer)
    }
}

/// Largest share of a chunk's time that a chunk that leaves may take here, which covers errors of measurement.
const LEAST_SAVING: f64 = 0.9;

/// Deterministic pseudo-random numbers in 0..1 (SplitMix64), for probabilistic offloading.
#[derive(Debug, Clone)]
pub struct Draws(u64);

impl Draws {
    /// Draws from `seed`; equal seeds give equal draws.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next draw.
    pub fn next_unit(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((bits ^ (bits >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn load(input: usize, output: usize, compute_seconds: f64) -> Load {
        Load { input, output, compute_seconds }
    }

    #[test]
    fn a_task_stays_if_nothing_else_would_run_or_too_much_is_on_offer() {
        assert_eq!(place(&load(0, 0, 0.1), 5), Placement::Input);
        assert_eq!(place(&load(3, 6, 0.1), 5), Placement::Input);
        assert_eq!(place(&load(3, 5, 0.1), 5), Placement::Output);
    }

    #[test]
    fn the_three_cases_of_the_offloading_rule() {
        // O_n ≤ I_m: never, however fast the neighbour is.
        assert_eq!(offload_probability(&load(9, 2, 1.0), &load(2, 0, 0.001), 0.0), 0.0);
        // O_n > I_m and I_n·Γ_n = 0.9 > D + I_m·Γ_m = 0.3: always.
        assert_eq!(offload_probability(&load(9, 3, 0.1), &load(2, 0, 0.1), 0.1), 1.0);
        // O_n > I_m alone: 0.1 / (0.2 + 0.2).
        assert!((offload_probability(&load(1, 3, 0.1), &load(2, 0, 0.1), 0.2) - 0.25).abs() < 1e-12);
        // An idle worker with nothing queued keeps its work.
        assert_eq!(offload_probability(&load(0, 1, 0.1), &load(0, 0, 0.1), 0.0), 0.0);
    }

    /// A source that takes 100 ms per chunk, 10 ms of them before it leaves, and a neighbour that takes 40 ms.
    fn exchange(chained: bool) -> Exchange {
        let (stay, leave, transfer, there) = (0.1, 0.01, 0.05, 0.04);
        Exchange { stay, leave, transfer, there, queue: 0, waiting: 6, sent: 0, window: 16, chained }
    }

    #[test]
    fn a_chunk_leaves_only_if_more_is_processed() {
        for chained in [false, true] {
            let usual = exchange(chained);
            assert!(usual.pays());
            // Encoding it takes as long as computing it: a small pack is left alone, however fast the neighbour is.
            assert!(!Exchange { leave: 0.1, there: 0.0, transfer: 0.0, ..usual }.pays());
            assert!(!Exchange { stay: 0.002, leave: 0.001, transfer: 0.03, there: 0.002, ..usual }.pays());
            assert!(!Exchange { there: f64::NAN, ..usual }.pays() && !Exchange { transfer: -1.0, ..usual }.pays());
        }
        // Independent chunks: a neighbour may be slower, as long as its results come before the source would wait for them.
        let alone = exchange(false);
        assert!(Exchange { there: 0.5, ..alone }.pays());
        assert!(!Exchange { there: 0.5, queue: 3, ..alone }.pays() && !Exchange { there: 0.5, sent: 14, ..alone }.pays());
        // A chain is as fast as its slowest part, and must be long enough to pay for filling it.
        let chain = exchange(true);
        assert!(!Exchange { there: 0.12, ..chain }.pays());
        assert!(!Exchange { transfer: 0.5, ..chain }.pays() && Exchange { transfer: 0.5, waiting: 20, ..chain }.pays());
        assert!(Exchange { transfer: 0.5, waiting: 0, sent: 1, ..chain }.pays(), "a pipeline that is full is kept full");
    }

    #[test]
    fn live_thresholds_rise_while_audio_waits_and_return() {
        let live = LiveAdaptation::default();
        let mut factor = 1.0;
        for queue in [0, 1, 0, 1, 1] {
            factor = live.next(factor, queue);
            assert_eq!(factor, 1.0, "a chunk that waits briefly changes nothing");
        }
        for _ in 0..3 {
            factor = live.next(factor, 3);
        }
        assert!((factor - 3.375).abs() < 1e-9, "{factor}");
        assert_eq!(live.next(factor, 9), 4.0);
        assert!((0..7).fold(factor, |factor, _| live.next(factor, 0)) == 1.0);
    }

    #[test]
    fn bands_are_checked() {
        assert!(Bands::new(4, 12, [0.8, 0.95, 1.5]).is_ok());
        for wrong in [[0.95, 0.8, 1.5], [0.8, 1.0, 1.5], [0.8, 0.95, 1.0], [0.0, 0.5, 2.0], [0.8, 0.95, f64::NAN]] {
            assert!(Bands::new(4, 12, wrong).is_err(), "{wrong:?}");
        }
        assert!(Bands::new(5, 4, [0.8, 0.95, 1.5]).is_err());
    }

    #[test]
    fn a_queue_that_stays_long_or_short_drives_every_value_to_its_bound() {
        let bands = Bands::default();
        let rate = RateAdaptation { bands, between: (Duration::from_millis(1), Duration::from_secs(2)) };
        let threshold = ThresholdAdaptation { bands, least: 0.3 };
        let live = LiveAdaptation { bands, most: 4.0 };
        let settle = |queue: usize| {
            (0..100).fold((Duration::from_millis(100), 0.8, 1.5), |(time, confidence, factor), _| {
                (rate.next(time, queue), threshold.next(confidence, queue), live.next(factor, queue))
            })
        };
        assert_eq!(settle(100), (Duration::from_secs(2), 0.3, 4.0));
        assert_eq!(settle(0), (Duration::from_millis(1), 1.0, 1.0));
    }

    proptest! {
        /// Whatever a neighbour publishes, the probability is one.
        #[test]
        fn a_probability_is_between_0_and_1(
            input in any::<usize>(), output in any::<usize>(), compute in any::<f64>(),
            other_input in any::<usize>(), other_compute in any::<f64>(), transfer in any::<f64>(),
        ) {
            let found = offload_probability(&load(input, output, compute), &load(other_input, 0, other_compute), transfer);
            prop_assert!((0.0..=1.0).contains(&found), "{found}");
        }

        /// More work here never makes offloading less likely; more work there never makes it more likely.
        #[test]
        fn offloading_follows_the_queues(
            input in 0usize..50, output in 0usize..50, compute in 0.001f64..1.0, other in 0usize..50, transfer in 0.0f64..1.0,
        ) {
            let probability = |input, other| offload_probability(&load(input, output, compute), &load(other, 0, compute), transfer);
            prop_assert!(probability(input + 1, other) >= probability(input, other));
            prop_assert!(probability(input, other + 1) <= probability(input, other));
        }

        #[test]
        fn draws_are_even(seed in any::<u64>()) {
            let mut draws = Draws::new(seed);
            let mean = (0..4_000).map(|_| draws.next_unit()).sum::<f64>() / 4_000.0;
            prop_assert!((mean - 0.5).abs() < 0.05, "{mean}");
        }
    }
}
