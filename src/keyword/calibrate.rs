//! Thresholds for a requested false-accept rate, set on speech that does not contain the keyword, in several conditions ([`Condition`]). A
//! threshold meets the rate in each of them.
//!
//! Some examples resemble nothing in clear speech but much in babble, so the background is also processed with babble of its own at equal
//! level. And it has few voices, so it is also played slower and faster, which gives lower and higher ones.
//!
//! Every peak of the background is a false accept at a low enough threshold. Rates too low to be observed in the background's length are
//! extrapolated: the log odds x = ln(s / (1 − s)) of the kept scores (of the speaker's own speech, the scores x = s) are modelled as exponential above the
//! lowest one, u (peaks over threshold), so that rate(x) = rate(u) · exp(−(x − u) / scale), where scale is their mean excess. A threshold is never so low that more of
//! the observed peaks would be accepted than the rate allows.

use serde::{Deserialize, Serialize};

use super::contrast::Contrast;
use super::matcher::Matcher;
use super::search::VerifiedSearch;
use super::spotter::{Hit, SpotterOptions};
use super::verification::Verifier;
use crate::stream::{Representation, SessionError, SessionOptions};

/// Largest number of peaks that the tail is fitted to.
const TAIL_PEAKS: usize = 24;
/// Least number of peaks to extrapolate from.
pub(super) const LEAST_PEAKS: usize = 4;
/// Share of the gain that is not used: with minutes of background, the threshold of one condition is known to about a tenth.
const GAIN_MARGIN: f32 = 1.1;
const MOST_GAIN: f32 = 2.5;
/// [`Condition::allowance`] of the speaker's own speech: it is taken for a twentieth of the speech around a device.
const OWN_ALLOWANCE: f64 = 20.0;
/// Number of voices in [`babble`].
const VOICES: usize = 6;
/// Least score of a background peak; any speech has higher ones.
const FLOOR: f32 = 0.05;
/// The same for a keyword with phones, whose threshold is never below [`LEAST_WITH_PHONES`]: much lower peaks do not matter, and verifying them would take
/// most of the time of an enrolment.
const FLOOR_WITH_PHONES: f32 = 0.12;
/// Lowest threshold of a keyword with phones. In quiet, phrases of synthetic voices score 0.3 to 1, those of real ones 0.1 to 0.8, near-phrases mostly less
/// than this.
pub(super) const LEAST_WITH_PHONES: f32 = 0.15;
/// Factor of the scores of a keyword from text in noise, where no phone is unlikely and any speech resembles a phrase more. Chosen on 220 phrases in five
/// conditions, so that false accepts are about as frequent in noise as in quiet (docs/notes/keywords.md).
pub(super) const TEXT_IN_NOISE: f32 = 0.85;

/// How the background is processed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Condition {
    /// Unchanged.
    Plain,
    /// In recorded noise and babble at 0 to 15 dB, for a pack's reading.
    Noise,
    /// With [`babble`] added.
    Babble,
    /// Played slower, 6 : 5.
    Lower,
    /// Played faster, 5 : 6.
    Higher,
    /// Not background, but other speech of the keyword's own speaker.
    Own,
}

impl std::fmt::Display for Condition {
    /// As an attribute of a score: "with babble ".
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Plain => "",
            Self::Noise => "in noise ",
            Self::Babble => "with babble ",
            Self::Lower => "pitched down ",
            Self::Higher => "pitched up ",
            Self::Own => "in own speech ",
        })
    }
}

impl Condition {
    /// Those in which background recordings are processed.
    pub const ALL: [Self; 4] = [Self::Plain, Self::Babble, Self::Lower, Self::Higher];

    /// How many times more often than requested this speech may be accepted: a speaker's own is a small share of all speech.
    fn allowance(self) -> f64 {
        if self == Self::Own { OWN_ALLOWANCE } else { 1.0 }
    }

    /// The sample rate to resample a recording to, for it to be processed as audio at `rate`.
    pub fn read_at(self, rate: u32) -> u32 {
        match self {
            Self::Plain | Self::Noise | Self::Babble | Self::Own => rate,
            Self::Lower => rate * 6 / 5,
            Self::Higher => rate * 5 / 6,
        }
    }
}

/// The highest peaks of one keyword in background speech.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tail {
    /// Condition of the background.
    pub condition: Condition,
    /// Duration of the background.
    pub hours: f64,
    /// The highest scores, in descending order.
    pub peaks: Vec<f32>,
    /// Sentences in which the phrase was said; they have no peaks.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub said: u32,
}

fn is_zero(count: &u32) -> bool {
    *count == 0
}

/// The false accepts per hour of a sensitivity from 0 to 1: 0.05 at 0, 0.5 at 0.5, 5 at 1.
pub fn false_accepts_of(sensitivity: f64) -> f64 {
    0.05 * 100f64.powf(sensitivity)
}

/// The threshold that meets the rate in all of `tails` ([`Tail::threshold`]); `None` if one of them has too few peaks, or there is none.
pub fn threshold<'a>(tails: impl IntoIterator<Item = &'a Tail>, per_hour: f64) -> Option<f32> {
    let each: Option<Vec<f32>> = tails.into_iter().map(|tail| tail.threshold(per_hour)).collect();
    each?.into_iter().reduce(f32::max)
}

/// The factor by which scores are higher where the audio is as noisy as [`Condition::Babble`], so that one threshold means the same rate there: 1 if that
/// condition is unknown, or has no lower threshold than the others.
pub fn noise_gain(tails: &[Tail], per_hour: f64) -> f32 {
    let noisy = tails.iter().find(|tail| tail.condition == Condition::Babble).and_then(|tail| tail.threshold(per_hour));
    // What the speaker's own speech adds to the threshold, it adds in noise, too.
    let others = tails.iter().filter(|tail| tail.condition != Condition::Own);
    match (threshold(others, per_hour), noisy) {
        (Some(all), Some(noisy)) if noisy > 0.0 => (all / noisy / GAIN_MARGIN).clamp(1.0, MOST_GAIN),
        _ => 1.0,
    }
}

/// Babble of six voices made from one recording: the sum of six copies, rotated by sevenths of its length, at the recording's RMS level.
pub fn babble(audio: &[f32]) -> impl Iterator<Item = f32> {
    let starts: [usize; VOICES] = std::array::from_fn(|voice| (voice + 1) * audio.len() / (VOICES + 1));
    let voices = move || {
        (0..audio.len()).map(move |at| {
            let wrapped = |start: usize| if start + at < audio.len() { start + at } else { start + at - audio.len() };
            starts.iter().map(|&start| audio[wrapped(start)]).sum::<f32>()
        })
    };
    let power = |samples: &mut dyn Iterator<Item = f32>| samples.map(|x| f64::from(x * x)).sum::<f64>();
    let gain = (power(&mut audio.iter().copied()) / power(&mut voices()).max(1e-12)).sqrt() as f32;
    voices().map(move |sum| sum * gain)
}

impl Tail {
    /// The score at which `per_hour` false accepts per hour are expected; `None` if the background has too few peaks.
    pub fn threshold(&self, per_hour: f64) -> Option<f32> {
        if self.peaks.len() < LEAST_PEAKS || self.hours <= 0.0 || per_hour <= 0.0 {
            return None;
        }
        let per_hour = per_hour * self.condition.allowance();
        // The log odds give higher thresholds than the scores do. That is a margin for the few voices of a background, and own speech needs none.
        let own = self.condition == Condition::Own;
        let x = |score: f64| if own { score } else { (score / (1.0 - score)).ln() };
        let tail: Vec<f64> = self.peaks.iter().map(|&peak| x(f64::from(peak).clamp(1e-6, 1.0 - 1e-6))).collect();
        let lowest = tail.iter().copied().fold(f64::INFINITY, f64::min);
        let excess = tail.iter().map(|x| x - lowest).sum::<f64>() / (tail.len() - 1) as f64;
        let rate = tail.len() as f64 / self.hours;
        let found = lowest - excess * (per_hour / rate).ln();
        let fitted = if own { found } else { (1.0 + (-found).exp()).recip() } as f32;
        // The observed peaks count as well: no more of them may reach the threshold than the rate allows.
        let mut sorted = self.peaks.clone();
        sorted.sort_by(|a, b| b.total_cmp(a));
        let observed = sorted.get((per_hour * self.hours) as usize).map_or(0.0, |peak| peak.next_up());
        Some(fitted.max(observed).min(1.0))
    }
}

/// Collects the peaks of one keyword in background speech.
pub struct Background {
    search: VerifiedSearch,
    seconds: f64,
    peaks: Peaks,
    hop_seconds: f64,
    /// Factor of the scores in audio as noisy as babble.
    noise_gain: f32,
    contrast: Contrast,
}

impl Background {
    /// For a keyword in frames of `hop_seconds`.
    pub fn new(matcher: Matcher, verifier: Verifier, hop_seconds: f64) -> Self {
        let peaks = Peaks::of(&matcher);
        let search = VerifiedSearch::new(matcher, peaks.options(hop_seconds), verifier);
        Self { search, seconds: 0.0, peaks, hop_seconds, noise_gain: 1.0, contrast: Contrast::default() }
    }

    /// Scores follow the noise as in a stream, with this factor in audio as noisy as babble.
    pub(super) fn with_noise_gain(self, noise_gain: f32) -> Self {
        Self { noise_gain, ..self }
    }

    /// Of the sessions whose chunks are searched.
    pub fn session_options(&self, chunk_frames: usize) -> SessionOptions {
        self.search.session_options(chunk_frames)
    }

    /// Processes the next chunk of a recording.
    pub fn push(&mut self, chunk: &Representation) -> Result<(), SessionError> {
        if let Some(audio) = chunk.audio.as_deref().filter(|_| self.noise_gain != 1.0) {
            let hop = (self.hop_seconds * f64::from(chunk.sample_rate)).round() as usize;
            self.contrast.push(audio, hop, chunk.sample_rate);
            self.search.set_gain(self.noise_gain.powf(self.contrast.noise()));
        }
        self.search.push(chunk, |hit| self.peaks.add(hit))?;
        self.search.set_near_miss(self.peaks.floor);
        self.seconds += chunk.seconds();
        Ok(())
    }

    /// Ends a recording: no match spans two of them.
    pub fn end_recording(&mut self) -> Result<(), SessionError> {
        if let Some(hit) = self.search.end()? {
            self.peaks.add(hit);
        }
        self.contrast.reset();
        Ok(())
    }

    /// The highest peaks.
    pub fn tail(self, condition: Condition) -> Tail {
        self.peaks.tail(condition, self.seconds)
    }
}

/// The peaks of one keyword in one condition.
pub(super) struct Peaks {
    hits: Vec<Hit>,
    /// Lower ones do not matter.
    pub floor: f32,
}

impl Peaks {
    /// None yet, of the keyword of `matcher`.
    pub fn of(matcher: &Matcher) -> Self {
        Self { hits: Vec::new(), floor: if matcher.phones().is_some() { FLOOR_WITH_PHONES } else { FLOOR } }
    }

    /// Options of the search for them.
    pub fn options(&self, hop_seconds: f64) -> SpotterOptions {
        // Near misses instead of detections, because a detection starts the refractory time, which would hide higher peaks.
        SpotterOptions { near_miss: self.floor, ..SpotterOptions::new(f32::INFINITY, hop_seconds) }
    }

    /// Adds a peak. Peaks in the same audio count as one false accept, with the higher score.
    pub fn add(&mut self, hit: Hit) {
        match self.hits.last_mut() {
            Some(last) if hit.start < last.end => *last = Hit { score: hit.score.max(last.score), ..hit },
            _ => self.hits.push(hit),
        }
        // Skips peaks below the lowest one kept: the verification pass never raises a score.
        let mut scores: Vec<f32> = self.hits.iter().map(|hit| hit.score).collect();
        if scores.len() > TAIL_PEAKS {
            let (_, lowest, _) = scores.select_nth_unstable_by(TAIL_PEAKS - 1, |a, b| b.total_cmp(a));
            self.floor = self.floor.max(*lowest);
        }
    }

    /// The highest ones, in `seconds` of speech.
    pub fn tail(mut self, condition: Condition, seconds: f64) -> Tail {
        self.hits.sort_by(|a, b| b.score.total_cmp(&a.score));
        self.hits.truncate(TAIL_PEAKS);
        let peaks = self.hits.iter().map(|hit| hit.score).collect();
        Tail { condition, hours: seconds / 3600.0, peaks, said: 0 }
    }
}
