//! Streaming prefix beam search: the most probable phones, with the probability of a sequence summed over its alignments (Graves 2012,
//! Hannun et al. 2014, arXiv 1408.2873).
//!
//! A hypothesis is a sequence of phones with two probabilities: of all alignments so far that end in a blank, and of those that
//! end in its last phone. Each also keeps its best single alignment (Viterbi), which gives the times of the phones.
//!
//! The common prefix of all hypotheses is final, because hypotheses only grow: it is output once the best
//! alignment has left it. The phones are therefore those of a search that waits for the end, and none is ever retracted.
//! A phone that is still ambiguous after [`LONGEST_WAIT`] frames is decided for the best hypothesis.

use std::collections::BTreeMap;

use super::phone::{BLANK, OpenSpan, PhoneSpan};

/// Frames until an ambiguous phone is decided: 0.5 s at 20 ms. There is no language model that could change the order
/// after that time.
const LONGEST_WAIT: u64 = 25;
/// Minimum probability of a class to extend a hypothesis.
const LEAST_LOG_P: f32 = -13.8; // ln 1e-6
/// Minimum probability of a hypothesis relative to the best; less probable ones would only delay the others' agreement.
const LEAST_SHARE: f64 = 1e-3;

/// Decodes frame by frame.
#[derive(Debug, Clone)]
pub struct Beam {
    width: usize,
    least_log_p: f32,
    least_share: f64,
    longest_wait: u64,
    frame: u64,
    /// The last phone that was output, which precedes all hypotheses.
    given: Option<usize>,
    given_start: u64,
    /// In descending order.
    hypotheses: Vec<Hypothesis>,
}

#[derive(Debug, Clone)]
struct Hypothesis {
    /// Phones after those that were output.
    phones: Vec<usize>,
    /// Alignments that end in a blank, and those that end in the last phone.
    blank: Ending,
    phone: Ending,
}

/// All alignments of a hypothesis with the same ending.
#[derive(Debug, Clone)]
struct Ending {
    /// ln Σ P(alignment).
    log_p: f64,
    /// ln P of the best one, and the times of its phones.
    best: f64,
    spans: Vec<OpenSpan>,
}

impl Ending {
    fn none() -> Self {
        Self { log_p: f64::NEG_INFINITY, best: f64::NEG_INFINITY, spans: Vec::new() }
    }

    fn add(&mut self, log_p: f64, best: f64, spans: impl FnOnce() -> Vec<OpenSpan>) {
        self.log_p = log_add(self.log_p, log_p);
        if best > self.best {
            self.best = best;
            self.spans = spans();
        }
    }
}

impl Hypothesis {
    fn empty() -> Self {
        Self { phones: Vec::new(), blank: Ending { log_p: 0.0, best: 0.0, spans: Vec::new() }, phone: Ending::none() }
    }

    fn log_p(&self) -> f64 {
        log_add(self.blank.log_p, self.phone.log_p)
    }

    /// The better of the best alignments, and whether it is still in the last phone.
    fn alignment(&self) -> (&Ending, bool) {
        if self.phone.best > self.blank.best { (&self.phone, true) } else { (&self.blank, false) }
    }
}

/// ln(eᵃ + eᵇ)
fn log_add(a: f64, b: f64) -> f64 {
    let (high, low) = if a > b { (a, b) } else { (b, a) };
    if low == f64::NEG_INFINITY { high } else { high + (low - high).exp().ln_1p() }
}

impl Beam {
    /// Keeps the best `width` hypotheses, at least one.
    pub fn new(width: usize) -> Self {
        Self {
            width: width.max(1),
            least_log_p: LEAST_LOG_P,
            least_share: LEAST_SHARE,
            longest_wait: LONGEST_WAIT,
            frame: 0,
            given: None,
            given_start: 0,
            hypotheses: vec![Hypothesis::empty()],
        }
    }

    /// One frame's log-probabilities.
    pub fn push(&mut self, log_p: &[f32], out: &mut Vec<PhoneSpan>) {
        self.step(log_p);
        self.frame += 1;
        self.give_out(out);
    }

    /// Outputs the best hypothesis and resets.
    pub fn finish(&mut self, out: &mut Vec<PhoneSpan>) {
        let spans = self.hypotheses.first().map_or_else(Vec::new, |best| best.alignment().0.spans.clone());
        self.emit(&spans, out);
        self.hypotheses = vec![Hypothesis::empty()];
        self.given = None;
    }

    /// The first frame of a phone in any hypothesis that was not output yet, or the next frame.
    pub fn pending_since(&self) -> u64 {
        let endings = self.hypotheses.iter().flat_map(|one| [&one.blank, &one.phone]);
        endings.filter_map(|ending| ending.spans.first()).map(|span| span.start).min().unwrap_or(self.frame)
    }

    fn step(&mut self, log_p: &[f32]) {
        let mut next: BTreeMap<Vec<usize>, Hypothesis> = BTreeMap::new();
        fn entry(next: &mut BTreeMap<Vec<usize>, Hypothesis>, phones: Vec<usize>) -> &mut Hypothesis {
            next.entry(phones.clone()).or_insert_with(|| Hypothesis { phones, blank: Ending::none(), phone: Ending::none() })
        }
        for one in &self.hypotheses {
            let last = one.phones.last().copied().or(self.given);
            let (both, best) = (one.log_p(), one.alignment().0);
            let blank = f64::from(log_p[BLANK]);
            entry(&mut next, one.phones.clone()).blank.add(both + blank, best.best + blank, || best.spans.clone());
            for (class, &value) in log_p.iter().enumerate().skip(BLANK + 1).filter(|(_, value)| **value >= self.least_log_p) {
                let p = f64::from(value);
                let begin = |spans: &[OpenSpan]| [spans, &[OpenSpan::new(class, self.frame, value)]].concat();
                let longer = || [&one.phones[..], &[class]].concat();
                if Some(class) != last {
                    entry(&mut next, longer()).phone.add(both + p, best.best + p, || begin(&best.spans));
                    continue;
                }
                // The same phone continues or, after a blank, repeats.
                if one.phone.log_p > f64::NEG_INFINITY {
                    entry(&mut next, one.phones.clone()).phone.add(one.phone.log_p + p, one.phone.best + p, || {
                        let mut spans = one.phone.spans.clone();
                        spans.last_mut().into_iter().for_each(|span| span.extend(value));
                        spans
                    });
                }
                if one.blank.log_p > f64::NEG_INFINITY {
                    entry(&mut next, longer()).phone.add(one.blank.log_p + p, one.blank.best + p, || begin(&one.blank.spans));
                }
            }
        }
        let mut ranked: Vec<(f64, Hypothesis)> = next.into_values().map(|one| (one.log_p(), one)).collect();
        ranked.sort_by(|a, b| b.0.total_cmp(&a.0)); // stable: ties keep the order of their phones
        ranked.truncate(self.width);
        let least = ranked.first().map_or(0.0, |(best, _)| best + self.least_share.ln());
        ranked.retain(|(log_p, _)| *log_p >= least);
        self.hypotheses = ranked.into_iter().map(|(_, one)| one).collect();
    }

    /// Outputs what all hypotheses agree on and the best alignment has left.
    fn give_out(&mut self, out: &mut Vec<PhoneSpan>) {
        let Some(best) = self.hypotheses.first() else { return };
        let (alignment, open) = best.alignment();
        let left = best.phones.len() - usize::from(open && !best.phones.is_empty());
        let waited = alignment.spans.first().map_or(0, |span| self.frame - span.start);
        if left > 0 && waited > self.longest_wait {
            let decided = best.phones[0];
            self.hypotheses.retain(|one| one.phones.first() == Some(&decided));
        }
        let [best, others @ ..] = &self.hypotheses[..] else { return };
        let shared = |one: &Hypothesis| one.phones.iter().zip(&best.phones).take_while(|(a, b)| a == b).count();
        let certain = others.iter().map(shared).fold(left, usize::min);
        if certain == 0 {
            return;
        }
        self.given = Some(best.phones[certain - 1]);
        let spans = best.alignment().0.spans[..certain].to_vec();
        self.emit(&spans, out);
        for one in &mut self.hypotheses {
            one.phones.drain(..certain);
            for ending in [&mut one.blank, &mut one.phone] {
                ending.spans.drain(..certain.min(ending.spans.len()));
            }
        }
    }

    /// Keeps times monotonic: another alignment may have placed the earlier phones elsewhere.
    fn emit(&mut self, spans: &[OpenSpan], out: &mut Vec<PhoneSpan>) {
        for span in spans {
            let mut span = span.close();
            span.start = span.start.max(self.given_start);
            span.end = span.end.max(span.start + 1);
            self.given_start = span.start;
            out.push(span);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::super::greedy::Greedy;
    use super::*;

    /// A search without a limit.
    fn exact() -> Beam {
        Beam { least_log_p: f32::NEG_INFINITY, least_share: 0.0, ..Beam::new(usize::MAX) }
    }

    fn log_softmax(rows: &[Vec<f32>]) -> Vec<Vec<f32>> {
        let one = |row: &Vec<f32>| {
            let sum: f64 = row.iter().map(|&x| f64::from(x).exp()).sum();
            row.iter().map(|&x| (f64::from(x) - sum.ln()) as f32).collect()
        };
        rows.iter().map(one).collect()
    }

    /// Probability of every sequence of phones, by summing over all alignments.
    fn brute_force(rows: &[Vec<f32>]) -> HashMap<Vec<usize>, f64> {
        let mut found = HashMap::new();
        let classes = rows[0].len();
        for number in 0..classes.pow(rows.len() as u32) {
            let alignment: Vec<usize> = (0..rows.len()).map(|t| number / classes.pow(t as u32) % classes).collect();
            let log_p: f64 = alignment.iter().zip(rows).map(|(&class, row)| f64::from(row[class])).sum();
            let mut phones = alignment.clone();
            phones.dedup();
            phones.retain(|&class| class != BLANK);
            *found.entry(phones).or_insert(0.0) += log_p.exp();
        }
        found
    }

    fn rows(classes: usize, frames: std::ops::RangeInclusive<usize>, scale: f32) -> impl Strategy<Value = Vec<Vec<f32>>> {
        prop::collection::vec(prop::collection::vec(-scale..scale, classes), frames).prop_map(|rows| log_softmax(&rows))
    }

    /// Frames with one certain class.
    fn peaky(classes: usize, frames: std::ops::RangeInclusive<usize>) -> impl Strategy<Value = Vec<Vec<f32>>> {
        prop::collection::vec((0..classes, 14.0f32..18.0), frames).prop_map(move |frames| {
            let one = |&(class, peak): &(usize, f32)| (0..classes).map(|c| if c == class { peak } else { 0.0 }).collect();
            log_softmax(&frames.iter().map(one).collect::<Vec<_>>())
        })
    }

    fn decode(mut beam: Beam, rows: &[Vec<f32>]) -> Vec<PhoneSpan> {
        let mut out = Vec::new();
        rows.iter().for_each(|row| beam.push(row, &mut out));
        beam.finish(&mut out);
        out
    }

    fn classes(phones: &[PhoneSpan]) -> Vec<usize> {
        phones.iter().map(|phone| phone.class).collect()
    }

    proptest! {
        /// The sum over alignments is exact for every possible sequence.
        #[test]
        fn without_a_limit_every_probability_is_the_sum_over_all_alignments(rows in rows(3, 1..=6, 4.0)) {
            let (mut beam, mut out) = (exact(), Vec::new());
            rows.iter().for_each(|row| beam.push(row, &mut out));
            prop_assert!(out.is_empty(), "the empty sequence is among the hypotheses: nothing is certain");
            let expected = brute_force(&rows);
            prop_assert_eq!(beam.hypotheses.len(), expected.len());
            for one in &beam.hypotheses {
                let sum = expected[&one.phones];
                prop_assert!((one.log_p() - sum.ln()).abs() < 1e-9, "{:?}: {} for {}", one.phones, one.log_p(), sum.ln());
            }
            let best = expected.values().fold(0.0f64, |best, p| best.max(*p));
            beam.finish(&mut out);
            prop_assert!((expected[&classes(&out)] - best).abs() < 1e-12);
        }

        /// The best alignment of each hypothesis is optimal.
        #[test]
        fn times_are_those_of_the_best_alignment(rows in rows(3, 1..=6, 4.0)) {
            let (mut beam, mut out) = (exact(), Vec::new());
            rows.iter().for_each(|row| beam.push(row, &mut out));
            for one in &beam.hypotheses {
                let (alignment, _) = one.alignment();
                prop_assert_eq!(alignment.spans.iter().map(OpenSpan::class).collect::<Vec<_>>(), one.phones.clone());
                // Its probability from its spans.
                let mut path = vec![BLANK; rows.len()];
                for span in alignment.spans.iter().map(|span| span.close()) {
                    (span.start..span.end).for_each(|t| path[t as usize] = span.class);
                }
                let log_p: f64 = path.iter().zip(&rows).map(|(&class, row)| f64::from(row[class])).sum();
                prop_assert!((log_p - alignment.best).abs() < 1e-6);
            }
            // Over all hypotheses it is the best path, as in greedy decoding.
            let best = beam.hypotheses.iter().map(|one| one.alignment().0.best).fold(f64::NEG_INFINITY, f64::max);
            let path: f64 = rows.iter().map(|row| f64::from(row.iter().copied().fold(f32::NEG_INFINITY, f32::max))).sum();
            prop_assert!((best - path).abs() < 1e-9);
        }

        /// Early output equals that of a search that waits for the end.
        #[test]
        fn giving_out_early_changes_nothing(rows in rows(5, 1..=80, 6.0), width in 1usize..12) {
            let mut beam = Beam { longest_wait: u64::MAX, ..Beam::new(width) };
            let mut patient = Beam::new(width);
            let mut out = Vec::new();
            for row in &rows {
                beam.push(row, &mut out);
                patient.step(row);
                patient.frame += 1;
                // Every hypothesis of the waiting search begins with the early output.
                for one in &patient.hypotheses {
                    prop_assert!(one.phones.starts_with(&classes(&out)));
                }
            }
            beam.finish(&mut out);
            let mut expected = Vec::new();
            patient.finish(&mut expected);
            prop_assert_eq!(classes(&out), classes(&expected));
            prop_assert!(out.windows(2).all(|pair| pair[0].start <= pair[1].start));
            prop_assert!(out.iter().all(|phone| phone.start < phone.end && phone.end <= rows.len() as u64));
            prop_assert!(out.iter().all(|phone| (0.0..=1.0).contains(&phone.confidence)));
        }

        /// With certain posteriors, greedy decoding finds the same phones at the same times.
        #[test]
        fn equals_greedy_where_the_posteriors_are_peaky(rows in peaky(5, 1..=60), width in 1usize..9) {
            let (mut greedy, mut expected) = (Greedy::default(), Vec::new());
            rows.iter().for_each(|row| greedy.push(row, &mut expected));
            greedy.finish(&mut expected);
            prop_assert_eq!(decode(Beam::new(width), &rows), expected);
        }

        /// An ambiguous phone is output in bounded time and memory.
        #[test]
        fn contested_phones_do_not_wait_for_ever(rows in rows(4, 300..=400, 0.2), width in 2usize..9) {
            let (mut beam, mut out) = (Beam { longest_wait: 20, ..Beam::new(width) }, Vec::new());
            for row in &rows {
                beam.push(row, &mut out);
                prop_assert!(beam.hypotheses.iter().all(|one| one.phones.len() <= 60), "{:?}", beam.hypotheses.len());
            }
            prop_assert!(!out.is_empty());
        }
    }

    #[test]
    fn a_sum_over_alignments_can_beat_the_best_path() {
        // P(blank) = 0.6, P(a) = 0.4 twice: the best path is blank blank (0.36), but `a` has 0.16 + 0.24 + 0.24.
        let rows = vec![vec![0.6f32.ln(), 0.4f32.ln()]; 2];
        assert_eq!(classes(&decode(Beam::new(8), &rows)), [1]);
        let (mut greedy, mut out) = (Greedy::default(), Vec::new());
        rows.iter().for_each(|row| greedy.push(row, &mut out));
        greedy.finish(&mut out);
        assert_eq!(out, []);
    }

    #[test]
    fn a_phone_is_given_out_when_its_frames_have_passed() {
        let sure =
            |class: usize| -> Vec<f32> { (0..3).map(|c| if c == class { 0.9998f32.ln() } else { 0.0001f32.ln() }).collect() };
        let (mut beam, mut out) = (Beam::new(4), Vec::new());
        let mut given = Vec::new();
        for class in [0, 1, 1, 2, 0, 0, 2, 0, 0] {
            beam.push(&sure(class), &mut out);
            given.push(out.len());
        }
        beam.finish(&mut out);
        assert_eq!(classes(&out), [1, 2, 2]);
        assert_eq!(out.iter().map(|phone| (phone.start, phone.end)).collect::<Vec<_>>(), [(1, 3), (3, 4), (6, 7)]);
        assert!(given.windows(2).all(|pair| pair[0] <= pair[1]), "{given:?}");
        assert_eq!(given, [0, 0, 0, 1, 2, 2, 2, 3, 3]);
    }
}
