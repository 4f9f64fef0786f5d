//! Which score makes so many false accepts an hour: measured on speech that does not hold the keyword, heard in several ways
//! ([`Condition`]). The threshold is one that holds in all of them.
//!
//! Some examples are like nothing in clear speech and like much in a crowd, a drawn out vowel or an echo: so the background is also heard in
//! babble of its own, as loud as itself. And few voices speak in it, while some examples are like much of what another voice says: so it is
//! also played slower and faster, which makes lower and higher voices of them.
//!
//! Every peak of the background is a false accept that a low enough threshold would make. Rates that are seldom seen in the
//! background's length come from its tail: the log odds x = ln(s / (1 − s)) of scores above the lowest kept one, u, are taken as exponential
//! (peaks over threshold), so that rate(x) = rate(u) · exp(−(x − u) / scale), scale being their mean excess. A threshold is never so low that more
//! of what was heard would fire than the rate allows.

use serde::{Deserialize, Serialize};

use super::listener::Listener;
use super::second_look::SecondLook;
use super::spotter::{Hit, Search, SpotterOptions};
use crate::stream::{Representation, SessionError};

/// Peaks that the tail is fitted on, at most.
const TAIL_PEAKS: usize = 24;
/// Below so many peaks nothing is extrapolated.
const LEAST_PEAKS: usize = 4;
/// Voices of [`babble`].
const VOICES: usize = 6;
/// Peaks of examples below this score are not looked for: any speech has higher ones.
const FLOOR: f32 = 0.05;
/// The same of trained detectors, which are surer of what is another word.
const DETECTOR_FLOOR: f32 = 1e-5;

/// How the background was heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Condition {
    /// As it is.
    Plain,
    /// With [`babble`] added.
    Babble,
    /// Played slower, 6 : 5.
    Lower,
    /// Played faster, 5 : 6.
    Higher,
}

impl Condition {
    /// Each of them.
    pub const ALL: [Self; 4] = [Self::Plain, Self::Babble, Self::Lower, Self::Higher];

    /// The rate to read a recording at that is then heard as one of `rate` samples a second.
    pub fn read_at(self, rate: u32) -> u32 {
        match self {
            Self::Plain | Self::Babble => rate,
            Self::Lower => rate * 6 / 5,
            Self::Higher => rate * 5 / 6,
        }
    }
}

/// The highest peaks of one keyword in background speech.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tail {
    /// How it was heard.
    pub condition: Condition,
    /// How much was heard.
    pub hours: f64,
    /// The highest scores, best first.
    pub peaks: Vec<f32>,
}

/// The score that holds in all of `tails` (see [`Tail::threshold`]); `None` where one of them says too little, or there is none.
pub fn threshold(tails: &[Tail], per_hour: f64) -> Option<f32> {
    let each: Option<Vec<f32>> = tails.iter().map(|tail| tail.threshold(per_hour)).collect();
    each?.into_iter().reduce(f32::max)
}

/// Six voices made of one recording: the sum of itself begun at each seventh, as loud (RMS) as the recording.
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
    /// The score at which `per_hour` false accepts an hour are expected; `None` where the background says too little.
    pub fn threshold(&self, per_hour: f64) -> Option<f32> {
        if self.peaks.len() < LEAST_PEAKS || self.hours <= 0.0 || per_hour <= 0.0 {
            return None;
        }
        let odds: Vec<f64> =
            self.peaks.iter().map(|&peak| f64::from(peak).clamp(1e-6, 1.0 - 1e-6)).map(|s| (s / (1.0 - s)).ln()).collect();
        let lowest = odds.iter().copied().fold(f64::INFINITY, f64::min);
        let excess = odds.iter().map(|x| x - lowest).sum::<f64>() / (odds.len() - 1) as f64;
        let rate = odds.len() as f64 / self.hours;
        let x = lowest - excess * (per_hour / rate).ln();
        let fitted = (1.0 + (-x).exp()).recip() as f32;
        // What was heard counts, too: no more of it may fire than the rate allows.
        let mut sorted = self.peaks.clone();
        sorted.sort_by(|a, b| b.total_cmp(a));
        let heard = sorted.get((per_hour * self.hours) as usize).map_or(0.0, |peak| peak.next_up());
        Some(fitted.max(heard).min(1.0))
    }
}

/// Listens to background speech for one keyword.
pub struct Background {
    listener: Listener,
    seconds: f64,
    peaks: Vec<Hit>,
    floor: f32,
}

impl Background {
    /// For a keyword at frames of `hop_seconds`.
    pub fn new(search: Search, second: SecondLook, hop_seconds: f64) -> Self {
        let floor = if matches!(search, Search::Detector(_)) { DETECTOR_FLOOR } else { FLOOR };
        // As near misses, since a detection at the floor would let the keyword rest, and hide what is higher.
        let options = SpotterOptions { near_miss: floor, ..SpotterOptions::new(f32::INFINITY, hop_seconds) };
        Self { listener: Listener::new(search, options, second), seconds: 0.0, peaks: Vec::new(), floor }
    }

    /// The next chunk of a recording, with its sound and what keywords are matched in.
    pub fn listen(&mut self, chunk: &Representation) -> Result<(), SessionError> {
        let mut found = false;
        self.listener.hear(chunk, |hit| {
            add(&mut self.peaks, hit);
            found = true;
        })?;
        self.seconds += chunk.seconds();
        if found {
            self.raise_floor();
        }
        Ok(())
    }

    /// A recording ends here: nothing matches across.
    pub fn end_recording(&mut self) -> Result<(), SessionError> {
        if let Some(hit) = self.listener.end()? {
            add(&mut self.peaks, hit);
        }
        Ok(())
    }

    /// No second look makes a score higher: below the lowest peak that would be kept there is nothing to look at.
    fn raise_floor(&mut self) {
        let mut scores: Vec<f32> = self.peaks.iter().map(|hit| hit.score).collect();
        if scores.len() > TAIL_PEAKS {
            let (_, lowest, _) = scores.select_nth_unstable_by(TAIL_PEAKS - 1, |a, b| b.total_cmp(a));
            self.floor = self.floor.max(*lowest);
            self.listener.set_near_miss(self.floor);
        }
    }

    /// What was found.
    pub fn tail(mut self, condition: Condition) -> Tail {
        self.peaks.sort_by(|a, b| b.score.total_cmp(&a.score));
        self.peaks.truncate(TAIL_PEAKS);
        let peaks = self.peaks.iter().map(|hit| hit.score).collect();
        Tail { condition, hours: self.seconds / 3600.0, peaks }
    }
}

/// Adds a peak; of the same sound the higher one counts: one false accept.
fn add(peaks: &mut Vec<Hit>, hit: Hit) {
    match peaks.last_mut() {
        Some(last) if hit.start < last.end => *last = Hit { score: hit.score.max(last.score), ..hit },
        _ => peaks.push(hit),
    }
}
