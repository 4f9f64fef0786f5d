//! When the chunks of a file may leave: in stretches, as long as a stretch processes more than the chunks that stay between them.
//!
//! What neighbours publish can be wrong, for example because their processor is limited, and a source's own speed changes with what
//! else its machine does. So both are measured in turns: a pause, in which all chunks stay, gives the time per chunk alone; the stretch
//! after it the time per chunk with neighbours. A stretch that was worth it is followed by a short pause and a longer stretch, one that
//! was not by a pause long enough for what it has lost.

/// The account of one file, whose chunks follow each other without a pause.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Ledger {
    /// Mean time from one chunk to the next while all stay, seconds.
    stay: f64,
    /// Chunks in it.
    stayed: u64,
    /// Time in it, seconds.
    stayed_seconds: f64,
    /// Start of the present chunk, seconds.
    last: Option<f64>,
    /// Chunks that have yet to stay.
    pause: u64,
    /// Length of the last pause after a stretch that was not worth it, chunks; 0 after one that was.
    penalty: u64,
    /// Time per chunk of that stretch, seconds.
    rejected: f64,
    /// Chunks that the next trip may lose beyond what is tolerated otherwise.
    credit: f64,
    /// Most chunks on their way.
    most: usize,
    /// Chunks of the next stretch, from when as many are on their way as may be.
    plan: u64,
    away: Option<Stretch>,
}

/// A stretch in which chunks leave.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Stretch {
    since: f64,
    /// Chunks that have begun since.
    chunks: u64,
    /// The last of them that have stayed.
    idle: u64,
    /// Chunks that have left since `most` was raised.
    left: usize,
    /// Announced time until the first one returns, seconds.
    trip: f64,
    /// Time and chunks at the last look at the loss.
    looked: (f64, u64),
    /// Time and chunks from when as many were on their way as may be.
    full: Option<(f64, u64)>,
    /// Why no further chunk leaves; the stretch ends when the last one is back.
    end: Option<End>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum End {
    /// As planned: the time per chunk, seconds.
    Planned(f64),
    /// It has lost too much.
    Loss,
    /// No chunk has left for a while.
    Idle,
}

/// Largest share of the throughput that is lost in the long run.
const LARGEST_LOSS: f64 = 0.015;
/// Smallest share of the time per chunk that a stretch saves if it is worth it, which covers errors of measurement.
const LEAST_GAIN: f64 = 0.05;
/// A share that is clear, so that the time alone is measured rarely.
const CLEAR_GAIN: f64 = 0.25;
/// Smallest weight of the latest chunk in the mean time per chunk. Small, because a processor with a quota works and pauses in turns.
const STAY_WEIGHT: f64 = 0.03;
/// Chunks, and seconds, before the mean time per chunk is relied on: with a quota, the first ones take a fraction of it.
const LEAST_STAYED: (u64, f64) = (8, 1.0);
/// Chunks that stay between two stretches, and where the gain is clear.
const PAUSE: (u64, u64) = (16, 8);
/// Shortest and longest pause after a stretch that was not worth it, chunks.
const PENALTY: (u64, u64) = (32, 8192);
/// Chunks of the first stretch, of the longest, and of the longest where the gain is clear.
const PLAN: (u64, u64, u64) = (32, 512, 4096);
/// Chunks after which the loss is looked at while some are always on their way.
const LOOK_EVERY: u64 = 16;
/// More chunks than may be on their way in any session.
const UNLIMITED: usize = 16;
/// Announced trips that may be lost at a time, and chunks: one fills a pipeline, and measurements vary.
const TRIPS: f64 = 1.5;
const SLACK: f64 = 2.0;
/// Chunks that the first trip of all may lose: it also pays for code and connections that were never used.
const CREDIT: f64 = 16.0;
/// Chunks in a row that stay after which a stretch has ended by itself.
const IDLE: u64 = 8;

impl Default for Ledger {
    fn default() -> Self {
        Self {
            stay: 0.0,
            stayed: 0,
            stayed_seconds: 0.0,
            last: None,
            pause: 0,
            penalty: 0,
            rejected: f64::INFINITY,
            credit: CREDIT,
            most: 1,
            plan: PLAN.0,
            away: None,
        }
    }
}

impl Ledger {
    /// A chunk begins at `now`, seconds, while `sent` are on their way. Others wait behind it, unless `waiting` is 0.
    pub fn begins(&mut self, now: f64, sent: usize, waiting: usize) {
        let last = self.last.replace(now);
        let Some(mut away) = self.away.take() else {
            if let Some(last) = last.filter(|_| waiting > 0) {
                self.stayed += 1;
                self.stayed_seconds += now - last;
                self.stay += (1.0 / self.stayed as f64).max(STAY_WEIGHT) * (now - last - self.stay);
                self.pause = self.pause.saturating_sub(1);
                // A pause that follows from a time alone which was too short ends once that is known.
                if self.penalty - self.pause.min(self.penalty) >= PAUSE.0 && self.rejected < (1.0 - LEAST_GAIN) * self.stay {
                    self.pause = 0;
                }
            }
            return;
        };
        away.chunks += 1;
        away.idle += 1;
        let stay = self.stay;
        let lost = |(since, chunks): (f64, u64)| (now - since) / stay - (away.chunks - chunks) as f64;
        if away.end.is_none() {
            let beyond = lost(away.looked) - SLACK - TRIPS * away.trip / stay;
            // More have left than may be on their way, so some are back.
            let more = sent == 0 || away.left > self.most;
            if beyond > self.credit {
                away.end = Some(End::Loss);
            } else if more || away.chunks - away.looked.1 >= LOOK_EVERY {
                self.credit = 0.0;
                if more {
                    (self.most, away.left) = (self.most.saturating_mul(2), 0);
                }
                away.looked = (now, away.chunks);
            }
            match away.full {
                None if self.most >= UNLIMITED && now - away.since >= TRIPS * away.trip => away.full = Some((now, away.chunks)),
                Some((since, chunks)) if away.chunks - chunks >= self.plan => {
                    away.end = Some(End::Planned((now - since) / (away.chunks - chunks) as f64));
                }
                _ => {}
            }
            if away.idle >= IDLE {
                away.end.get_or_insert(End::Idle);
            }
        }
        match away.end {
            Some(end) if sent == 0 => {
                let seconds = (now - away.since) / away.chunks as f64;
                self.settle(end, lost((away.since, 0)), seconds);
            }
            _ => self.away = Some(away),
        }
    }

    /// A stretch of `seconds` per chunk is over, in which `lost` chunks fewer were processed than if all had stayed.
    fn settle(&mut self, end: End, lost: f64, seconds: f64) {
        let gain = match end {
            End::Planned(full) => 1.0 - full / self.stay,
            End::Loss => f64::NEG_INFINITY,
            End::Idle => return,
        };
        if gain >= LEAST_GAIN {
            let clear = gain >= CLEAR_GAIN;
            self.penalty = 0;
            (self.pause, self.plan) = match clear {
                true => (PAUSE.1, (self.plan * 4).min(PLAN.2)),
                false => (PAUSE.0, (self.plan * 2).min(PLAN.1)),
            };
            return;
        }
        if end == End::Loss {
            self.most = 1;
        }
        self.penalty = (2 * self.penalty).max((lost.max(0.0) / LARGEST_LOSS) as u64).clamp(PENALTY.0, PENALTY.1);
        (self.pause, self.plan, self.rejected) = (self.penalty, PLAN.0, seconds);
    }

    /// The chunk that has begun leaves, for `trip` seconds as announced.
    pub fn leaves(&mut self, trip: f64) {
        let Some(since) = self.last else { return };
        let new = Stretch { since, chunks: 0, idle: 0, left: 0, trip, looked: (since, 0), full: None, end: None };
        let away = self.away.get_or_insert(new);
        (away.idle, away.left) = (0, away.left + 1);
    }

    /// Whether the next chunk may leave while `sent` are on their way. Not before it is known how long one takes that stays.
    pub fn allows(&self, sent: usize) -> bool {
        match &self.away {
            None => self.stayed >= LEAST_STAYED.0 && self.stayed_seconds >= LEAST_STAYED.1 && self.pause == 0,
            Some(away) => away.end.is_none() && sent < self.most,
        }
    }

    /// Most chunks on their way now; a chunk that leaves waits for the oldest one where more would be. No limit while all stay.
    pub fn most(&self) -> usize {
        self.away.filter(|away| away.end.is_none()).map_or(usize::MAX, |_| self.most)
    }

    /// Chunks that the next stretch lasts.
    pub fn stretch(&self) -> u64 {
        self.plan
    }

    /// That of a source which is known to take `stay` seconds per chunk.
    #[cfg(test)]
    pub fn settled(stay: f64) -> Self {
        let (stayed, stayed_seconds) = LEAST_STAYED;
        Self { stay, stayed, stayed_seconds, ..Self::default() }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::super::policy::Exchange;
    use super::*;

    /// A source with a file, and one neighbour, whose true times may differ from those that they report.
    #[derive(Clone, Copy)]
    struct Nodes {
        reported: Exchange,
        /// Time there for a chunk, seconds.
        there: f64,
        /// Time that a chunk that leaves costs here beyond the reported one: that of the connection's threads.
        hidden: f64,
        /// Factor of the source's times until a time.
        first: (f64, f64),
        /// Period of the source's quota, of which it runs a fifth, seconds; 0 without one. Times are those without a quota.
        period: f64,
    }

    impl Nodes {
        fn new(reported: Exchange) -> Self {
            Self { reported, there: reported.there, hidden: 0.0, first: (1.0, 0.0), period: 0.0 }
        }

        /// When the source, at `now`, has run for `seconds`.
        fn after(&self, now: f64, seconds: f64) -> f64 {
            let (factor, until) = self.first;
            let mut left = if now < until { seconds * factor } else { seconds };
            if self.period == 0.0 {
                return now + left;
            }
            let (mut now, share) = (now, self.period / 5.0);
            left /= 5.0;
            loop {
                let (begin, free) = ((now / self.period).floor() * self.period, share - now.rem_euclid(self.period));
                if left < free {
                    return now + left;
                }
                left -= free.max(0.0);
                now = begin + self.period * (1.0 + 1e-12);
            }
        }

        /// Seconds per chunk for `chunks` of them, and the share of chunks sent.
        fn run(&self, chunks: usize, always: bool) -> (f64, f64) {
            let reported = self.reported;
            let (mut now, mut free, mut sent, mut ledger) = (0.0f64, 0.0f64, 0, Ledger::default());
            let mut away = VecDeque::new();
            for _ in 0..chunks {
                // Those of a chain wait; of others, one stays.
                let most = if reported.chained { ledger.most() } else { usize::MAX };
                if away.len() >= reported.window.min(most) {
                    now = now.max(away.pop_front().unwrap());
                }
                while away.front().is_some_and(|back| *back <= now) {
                    away.pop_front();
                }
                ledger.begins(now, away.len(), reported.waiting);
                let waiting = reported.waiting.max(ledger.stretch() as usize);
                let offer = Exchange { sent: away.len(), queue: away.len(), waiting, ..reported };
                if always || offer.pays() && ledger.allows(away.len()) {
                    ledger.leaves(reported.leave + reported.transfer + reported.there);
                    sent += 1;
                    now = self.after(now, reported.leave + self.hidden);
                    free = free.max(now + reported.transfer / 2.0) + self.there;
                    away.push_back(free + reported.transfer / 2.0);
                    continue;
                }
                if reported.chained {
                    now = away.drain(..).fold(now, f64::max);
                }
                now = self.after(now, reported.stay);
            }
            now = away.into_iter().fold(now, f64::max);
            (now / chunks as f64, sent as f64 / chunks as f64)
        }
    }

    /// A source that takes 100 ms per chunk, 10 ms of them before it leaves, and a neighbour that takes 40 ms.
    fn exchange(chained: bool) -> Exchange {
        let (stay, leave, transfer, there) = (0.1, 0.01, 0.05, 0.04);
        Exchange { stay, leave, transfer, there, queue: 0, waiting: 6, sent: 0, window: if chained { 8 } else { 16 }, chained }
    }

    #[test]
    fn a_neighbour_that_is_slower_than_it_says_costs_little() {
        for chained in [true, false] {
            let usual = Nodes::new(exchange(chained));
            for there in [0.2, 0.5, 1.0] {
                let nodes = Nodes { there, ..usual };
                let ((auto, sent), (always, _)) = (nodes.run(2_000, false), nodes.run(2_000, true));
                // What a chunk costs that stays, 0.1 s, and at most 3 % more.
                assert!(auto < 0.103 && sent < 0.4 && always > 0.19, "{chained} {there}: {auto} {always} {sent}");
            }
            // One that is as fast as it says is used nearly all the time, also behind a slow link.
            let (auto, sent) = usual.run(2_000, false);
            assert!(auto < 0.045 && sent > 0.75, "{chained}: {auto} {sent}");
        }
        let far = Nodes::new(Exchange { transfer: 0.5, ..exchange(true) });
        let (auto, sent) = far.run(2_000, false);
        // Eight may be on their way, which takes 0.55 s.
        assert!(auto < 0.072 && sent > 0.95, "{auto} {sent}");
    }

    /// The source's first seconds are slower than all others, and a chunk that leaves costs 6 % more than one that stays: chunks that
    /// leave later look like a gain until the time per chunk is measured again.
    #[test]
    fn a_slow_start_is_not_taken_for_the_speed_of_the_source() {
        for period in [0.0, 0.05] {
            let reported = Exchange { stay: 0.02, leave: 0.01, transfer: 0.01, there: 0.01, ..exchange(true) };
            let nodes = Nodes { hidden: 0.0112, first: (1.25, 2.0), period, ..Nodes::new(reported) };
            let ((auto, sent), (always, _)) = (nodes.run(5_000, false), nodes.run(5_000, true));
            assert!(always > 0.0205 && auto < 0.0204 && sent < 0.15, "{period}: {auto} {always} {sent}");
        }
    }

    /// The source's first seconds are faster than all others, as on a processor with credit for bursts: chunks that leave look like a
    /// loss at first.
    #[test]
    fn a_fast_start_is_not_taken_for_the_speed_of_the_source() {
        for period in [0.0, 0.05] {
            let nodes = Nodes { first: (0.3, 2.0), period, ..Nodes::new(exchange(true)) };
            let (auto, sent) = nodes.run(5_000, false);
            assert!(auto < 0.045 && sent > 0.9, "{period}: {auto} {sent}");
        }
    }

    /// A neighbour that is fast at first and slow later is used as long as it is fast; one that becomes fast is found.
    #[test]
    fn a_neighbour_whose_speed_changes_is_measured_again() {
        let clock = |late: &[(f64, f64)]| {
            let (mut now, mut free, mut ledger, mut left) = (0.0f64, 0.0f64, Ledger::default(), Vec::new());
            let mut away = VecDeque::new();
            for chunk in 0..8_000 {
                if away.len() >= ledger.most().min(8) {
                    now = now.max(away.pop_front().unwrap());
                }
                while away.front().is_some_and(|back| *back <= now) {
                    away.pop_front();
                }
                ledger.begins(now, away.len(), 6);
                if ledger.allows(away.len()) {
                    ledger.leaves(0.1);
                    left.push(chunk);
                    now += 0.01;
                    let there = late.iter().rev().find(|(from, _)| *from <= now).unwrap().1;
                    free = free.max(now) + there;
                    away.push_back(free);
                } else {
                    now = away.drain(..).fold(now, f64::max) + 0.1;
                }
            }
            let half = |range: std::ops::Range<i32>| left.iter().filter(|chunk| range.contains(chunk)).count();
            (half(0..4_000), half(4_000..8_000))
        };
        let (first, last) = clock(&[(0.0, 0.03), (100.0, 0.3)]);
        assert!(first > 2_000 && last < 200, "{first} {last}");
        let (first, last) = clock(&[(0.0, 0.3), (100.0, 0.03)]);
        assert!(first < 3_500 && last > 3_600, "{first} {last}");
    }

    /// The first trip takes longer than all others, because nothing of the connection was used before.
    #[test]
    fn a_slow_first_trip_is_not_taken_for_all() {
        let (stay, mut now, mut ledger) = (0.03, 2.0, Ledger::settled(0.03));
        ledger.begins(now, 0, 5);
        assert!(ledger.allows(0));
        ledger.leaves(0.1);
        now += 0.45;
        ledger.begins(now, 0, 5);
        assert!(ledger.allows(0) && ledger.most() == 2, "{ledger:?}");
        // Another one is too much.
        ledger.leaves(0.1);
        ledger.begins(now + 0.45, 0, 5);
        assert!(!ledger.allows(0) && ledger.pause as f64 * LARGEST_LOSS * 1.1 > 0.9 / stay - 2.0, "{ledger:?}");
    }

    /// Without a gain, the share of chunks that leave falls with the length of the file, whatever a neighbour says.
    #[test]
    fn what_gains_nothing_is_tried_ever_more_rarely() {
        let nodes = Nodes { there: 0.1, ..Nodes::new(exchange(true)) };
        let ((_, short), (auto, long)) = (nodes.run(1_000, false), nodes.run(20_000, false));
        assert!(short < 0.3 && long < 0.06 && auto < 0.1005, "{short} {long} {auto}");
    }
}
