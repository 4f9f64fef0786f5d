//! The input level of a run, as captured: peak, RMS, active speech level and clipping. Warns once per source about silence,
//! clipping, and speech that is too quiet for keywords.

use std::fmt;

use serde::Serialize;

use super::gain::{Amplifier, InputGain};

/// The level of an input before the gain, relative to full scale (a sample of ±1 has 0 dBFS). Digital silence has −144 dBFS.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[non_exhaustive]
pub struct InputLevel {
    /// Largest absolute sample, dBFS.
    pub peak_dbfs: f64,
    /// RMS without the DC offset, dBFS.
    pub rms_dbfs: f64,
    /// Level of the active parts alone, after ITU-T P.56, dBFS; `None` if the level hardly varies, as without speech.
    pub active_dbfs: Option<f64>,
    /// Clipped samples.
    pub clipped: u64,
    /// Share of samples that are clipped, 0 to 1.
    pub clipped_share: f64,
    /// Gain that is applied afterwards, dB; if it is automatic, the present one.
    pub gain_db: f64,
}

impl fmt::Display for InputLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { peak_dbfs, rms_dbfs, active_dbfs, clipped_share, gain_db, .. } = self;
        if *peak_dbfs <= SILENCE_DBFS {
            return write!(f, "digital silence");
        }
        write!(f, "peak {peak_dbfs:.1}, RMS {rms_dbfs:.1}")?;
        if let Some(active) = active_dbfs {
            write!(f, ", active {active:.1}")?;
        }
        write!(f, " dBFS; {:.2} % clipped", 100.0 * clipped_share)?;
        if *gain_db != 0.0 { write!(f, "; gain {gain_db:+.1} dB") } else { Ok(()) }
    }
}

/// The levels that are shared with other threads.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Levels {
    /// Of the whole run.
    pub total: Option<InputLevel>,
    /// Of the last complete window, or of the run until the first one is complete.
    pub recent: Option<InputLevel>,
}

/// Digital silence: just below the quantisation step of 24-bit audio.
const SILENCE_DBFS: f64 = -144.0;
/// Blocks per second: long enough for the pitch periods of a voice, short enough for the pauses in speech.
const BLOCKS_PER_SECOND: u32 = 20;
/// The window of recent levels and of the warnings: 10 s.
const WINDOW_BLOCKS: u64 = 200;
/// Full scale of 16-bit and wider samples: +32,767 is 0.99997.
const FULL_SCALE: f32 = 0.9999;
/// Clipped share of a window from which on clipping is reported: less does not change what is recognised.
const CLIPPED_SHARE: f64 = 0.001;
/// Speech below this level has more phone errors (docs/microphones.md), and enrolment rejects it.
const QUIETEST_DBFS: f64 = -50.0;
/// P.56: a part is active if it is at most this far below the active level, dB.
const ACTIVE_MARGIN_DB: f64 = 15.9;
/// Active parts that are at most this far above the background are no speech but the background itself, dB.
const ABOVE_BACKGROUND_DB: f64 = 10.0;
/// Active blocks from which on the active level counts as that of speech (3 s).
const SPEECH_BLOCKS: u64 = 60;
/// Number of blocks (10 minutes) at which all counts are halved, so that recent audio has more weight.
const HISTOGRAM_BLOCKS: u64 = 12_000;

fn dbfs(power: f64) -> f64 {
    (10.0 * power.log10()).max(SILENCE_DBFS)
}

/// Sums over some samples.
#[derive(Debug, Clone, Copy, Default)]
struct Sums {
    samples: u64,
    /// Sum of the squares without the offset of each block.
    energy: f64,
    peak: f32,
    clipped: u64,
}

impl Sums {
    fn add(&mut self, other: Self) {
        self.samples += other.samples;
        self.energy += other.energy;
        self.peak = self.peak.max(other.peak);
        self.clipped += other.clipped;
    }

    fn power(&self) -> f64 {
        self.energy / self.samples.max(1) as f64
    }
}

/// Sums over the current block.
#[derive(Debug, Clone, Copy)]
struct Block {
    samples: u64,
    /// Subtracted from every sample before it is squared: near the offset, f32 is precise enough for the sums.
    reference: f32,
    sum: f64,
    squares: f64,
    lowest: f32,
    highest: f32,
    clipped: u64,
}

impl Block {
    fn new(reference: f32) -> Self {
        Self { samples: 0, reference, sum: 0.0, squares: 0.0, lowest: f32::INFINITY, highest: f32::NEG_INFINITY, clipped: 0 }
    }

    fn push(&mut self, samples: &[f32], last_is_full: &mut bool) {
        // Lanes, so that the compiler vectorises; a lane sums at most a few hundred samples, which f32 holds.
        const LANES: usize = 8;
        let (mut sum, mut squares) = ([0.0f32; LANES], [0.0f32; LANES]);
        let (mut lowest, mut highest) = ([self.lowest; LANES], [self.highest; LANES]);
        let reference = self.reference;
        let mut add = |lane: usize, sample: f32| {
            let moved = sample - reference;
            sum[lane] += moved;
            squares[lane] += moved * moved;
            lowest[lane] = lowest[lane].min(sample);
            highest[lane] = highest[lane].max(sample);
        };
        let (whole, rest) = samples.as_chunks::<LANES>();
        for samples in whole {
            for (lane, &sample) in samples.iter().enumerate() {
                add(lane, sample);
            }
        }
        rest.iter().enumerate().for_each(|(lane, &sample)| add(lane, sample));
        self.samples += samples.len() as u64;
        self.sum += sum.iter().map(|&one| f64::from(one)).sum::<f64>();
        self.squares += squares.iter().map(|&one| f64::from(one)).sum::<f64>();
        self.lowest = lowest.into_iter().fold(self.lowest, f32::min);
        self.highest = highest.into_iter().fold(self.highest, f32::max);
        // A recording that is normalised to full scale has single samples there; clipping makes runs.
        if self.highest >= FULL_SCALE || self.lowest <= -FULL_SCALE || *last_is_full {
            for sample in samples {
                let full = sample.abs() >= FULL_SCALE;
                self.clipped += u64::from(full && *last_is_full);
                *last_is_full = full;
            }
        }
    }

    /// Mean of the samples.
    fn offset(&self) -> f32 {
        self.reference + (self.sum / self.samples.max(1) as f64) as f32
    }

    fn is_constant(&self) -> bool {
        self.lowest == self.highest
    }

    fn sums(&self) -> Sums {
        let energy = self.squares - self.sum * self.sum / self.samples.max(1) as f64;
        Sums {
            samples: self.samples,
            energy: if self.is_constant() { 0.0 } else { energy.max(0.0) },
            peak: self.highest.max(-self.lowest).max(0.0),
            clipped: self.clipped,
        }
    }
}

/// Histogram of block levels, in steps of 1 dB.
#[derive(Debug, Clone)]
struct Histogram {
    /// By −dBFS.
    counts: Vec<u64>,
    /// The power of each level.
    powers: Vec<f64>,
    total: u64,
}

impl Histogram {
    fn new() -> Self {
        let levels = -SILENCE_DBFS as usize + 1;
        let powers = (0..levels).map(|bin| 10f64.powf(-(bin as f64) / 10.0)).collect();
        Self { counts: vec![0; levels], powers, total: 0 }
    }

    fn add(&mut self, dbfs: f64) {
        let bin = ((-dbfs).round().max(0.0) as usize).min(self.counts.len() - 1);
        self.counts[bin] += 1;
        self.total += 1;
        if self.total > HISTOGRAM_BLOCKS {
            self.counts.iter_mut().for_each(|count| *count /= 2);
            self.total = self.counts.iter().sum();
        }
    }

    /// The active level and the number of active blocks, if the active parts stand out from the background.
    fn active(&self) -> Option<(f64, u64)> {
        let energy: f64 = self.counts.iter().zip(&self.powers).map(|(&count, power)| power * count as f64).sum();
        // From the quietest threshold on: the first one that is within the margin of the level of what lies above it.
        let mut blocks = self.total;
        let mut found = None;
        let margin = 10f64.powf(ACTIVE_MARGIN_DB / 10.0);
        for (&count, threshold) in self.counts.iter().zip(&self.powers).rev() {
            let power = energy / blocks as f64;
            if blocks == 0 || power <= margin * threshold {
                found = (blocks > 0).then_some((10.0 * power.log10(), blocks));
                break;
            }
            blocks -= count;
        }
        let (level, blocks) = found?;
        let mut below = 0;
        let quietest_tenth = self.counts.iter().enumerate().rev().find(|(_, count)| {
            below += **count;
            10 * below >= self.total
        });
        let background = -(quietest_tenth?.0 as f64);
        (level - background >= ABOVE_BACKGROUND_DB).then_some((level, blocks))
    }
}

/// Problems of the current source that have been reported.
#[derive(Debug, Clone, Copy, Default)]
struct Reported {
    silence: bool,
    clipping: bool,
    quiet: bool,
}

/// Measures the level of a run's sources, and applies the gain.
#[derive(Debug)]
pub struct LevelMeter {
    amplifier: Amplifier,
    block_samples: u64,
    block: Block,
    last_is_full: bool,
    total: Sums,
    window: Sums,
    window_blocks: u64,
    recent: Option<Sums>,
    histogram: Histogram,
    /// Blocks since the input last varied.
    constant_blocks: u64,
    name: String,
    reported: Reported,
}

impl LevelMeter {
    /// A meter and its gain.
    pub fn new(gain: InputGain) -> Self {
        Self {
            amplifier: Amplifier::new(gain),
            block_samples: u64::MAX,
            block: Block::new(0.0),
            last_is_full: false,
            total: Sums::default(),
            window: Sums::default(),
            window_blocks: 0,
            recent: None,
            histogram: Histogram::new(),
            constant_blocks: 0,
            name: String::new(),
            reported: Reported::default(),
        }
    }

    /// Starts another source; the totals continue.
    pub fn begin(&mut self, name: &str, sample_rate: u32) {
        self.end();
        self.name = name.to_owned();
        self.block_samples = u64::from(sample_rate / BLOCKS_PER_SECOND).max(1);
        (self.constant_blocks, self.reported, self.last_is_full) = (0, Reported::default(), false);
    }

    /// Measures samples, and amplifies them. Returns the levels whenever a second of audio is complete.
    pub fn push(&mut self, mut samples: &mut [f32]) -> Option<Levels> {
        let mut second = false;
        while !samples.is_empty() {
            let free = self.block_samples - self.block.samples;
            let (now, later) = samples.split_at_mut(samples.len().min(usize::try_from(free).unwrap_or(usize::MAX)));
            let at = self.block.samples;
            self.block.push(now, &mut self.last_is_full);
            self.amplifier.amplify(now, at, self.block_samples);
            samples = later;
            if self.block.samples == self.block_samples {
                self.end_block();
                second |= self.window_blocks.is_multiple_of(u64::from(BLOCKS_PER_SECOND));
                self.warn();
            }
        }
        second.then(|| self.levels())
    }

    /// Ends a source: its last, short block counts too.
    pub fn end(&mut self) -> Levels {
        if self.block.samples > 0 {
            self.end_block();
        }
        self.levels()
    }

    fn end_block(&mut self) {
        let sums = self.block.sums();
        self.constant_blocks = if self.block.is_constant() { self.constant_blocks + 1 } else { 0 };
        self.block = Block::new(self.block.offset());
        self.total.add(sums);
        if self.window_blocks == WINDOW_BLOCKS {
            (self.window, self.window_blocks) = (Sums::default(), 0);
        }
        self.window.add(sums);
        self.window_blocks += 1;
        if self.window_blocks == WINDOW_BLOCKS {
            self.recent = Some(self.window);
        }
        self.histogram.add(dbfs(sums.power()));
        let active = if self.amplifier.is_auto() { self.histogram.active() } else { None };
        self.amplifier.follow(active);
    }

    fn levels(&self) -> Levels {
        let active = self.histogram.active().map(|(level, _)| level);
        let of = |sums: Sums| InputLevel {
            peak_dbfs: dbfs(f64::from(sums.peak).powi(2)),
            rms_dbfs: dbfs(sums.power()),
            active_dbfs: active,
            clipped: sums.clipped,
            clipped_share: sums.clipped as f64 / sums.samples.max(1) as f64,
            gain_db: self.amplifier.db(),
        };
        let total = (self.total.samples > 0).then(|| of(self.total));
        Levels { total, recent: self.recent.map(of).or(total) }
    }

    /// Reports each problem once per source.
    fn warn(&mut self) {
        let name = &self.name;
        if self.constant_blocks >= WINDOW_BLOCKS && !std::mem::replace(&mut self.reported.silence, true) {
            log::warn!(
                "{name}: 10 s of digital silence; is the microphone muted (`alsamixer`), or is it another device (`bellis devices`)?"
            );
        }
        if self.window_blocks != WINDOW_BLOCKS {
            return;
        }
        let clipped_share = self.window.clipped as f64 / self.window.samples.max(1) as f64;
        if clipped_share >= CLIPPED_SHARE && !std::mem::replace(&mut self.reported.clipping, true) {
            let percent = 100.0 * clipped_share;
            log::warn!("{name}: {percent:.1} % of the samples in 10 s are clipped; lower the capture volume (`alsamixer`)");
        }
        if let Some((level, blocks)) = self.histogram.active()
            && blocks >= SPEECH_BLOCKS
            && level + self.amplifier.db() < QUIETEST_DBFS
            && !std::mem::replace(&mut self.reported.quiet, true)
        {
            let or_gain = if self.amplifier.is_auto() { "" } else { ", or set `gain-db = \"auto\"`" };
            log::warn!(
                "{name}: the loud parts have {level:.0} dBFS; speech below {QUIETEST_DBFS:.0} dBFS is recognised badly. Raise the capture \
                 volume (`alsamixer`){or_gain}"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: u32 = 16_000;

    fn sine(amplitude: f32, seconds: f32) -> Vec<f32> {
        let samples = (seconds * RATE as f32) as usize;
        (0..samples).map(|at| amplitude * (at as f32 * 440.0 * std::f32::consts::TAU / RATE as f32).sin()).collect()
    }

    fn measured(gain_db: f32, audio: &[f32], at_a_time: usize) -> (InputLevel, Reported) {
        let mut meter = LevelMeter::new(InputGain::Fixed(gain_db));
        meter.begin("test", RATE);
        audio.to_vec().chunks_mut(at_a_time).for_each(|part| {
            meter.push(part);
        });
        let reported = meter.reported;
        (meter.end().total.unwrap(), reported)
    }

    fn near(found: f64, wanted: f64) -> bool {
        (found - wanted).abs() < 0.1
    }

    /// Bursts of a tone at `dbfs` over a background of noise at `background_dbfs`, half a second each.
    fn bursts(dbfs: f64, background_dbfs: f64, seconds: usize) -> Vec<f32> {
        let mut state = 1u32;
        let mut noise = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        let (tone, hiss) = (10f64.powf((dbfs + 3.01) / 20.0) as f32, 10f64.powf((background_dbfs + 4.77) / 20.0) as f32);
        let tone = sine(tone, seconds as f32);
        let half = RATE as usize / 2;
        tone.iter()
            .enumerate()
            .map(|(at, sample)| hiss * noise() + if (at / half).is_multiple_of(2) { *sample } else { 0.0 })
            .collect()
    }

    #[test]
    fn a_sine_of_half_scale_has_its_known_peak_and_rms_however_it_is_cut_and_whatever_its_offset() {
        for (offset, peak) in [(0.0, -6.02), (0.25, -2.5)] {
            let audio: Vec<f32> = sine(0.5, 3.3).iter().map(|sample| sample + offset).collect();
            let (whole, _) = measured(0.0, &audio, usize::MAX);
            assert!(near(whole.peak_dbfs, peak) && near(whole.rms_dbfs, -9.03), "{whole:?}");
            assert_eq!((whole.clipped, whole.active_dbfs), (0, None));
            let (cut, _) = measured(0.0, &audio, 77);
            assert!(near(cut.rms_dbfs, whole.rms_dbfs) && cut.peak_dbfs == whole.peak_dbfs, "{cut:?}");
        }
    }

    #[test]
    fn digital_silence_is_reported_after_ten_seconds_also_with_an_offset() {
        for value in [0.0, 0.125] {
            let (level, reported) = measured(0.0, &vec![value; 9 * RATE as usize], 160);
            assert!(level.rms_dbfs == SILENCE_DBFS && !reported.silence, "{level:?}");
            assert!(measured(0.0, &vec![value; 11 * RATE as usize], 160).1.silence);
        }
        let mut audio = vec![0.0; 20 * RATE as usize];
        audio[8 * RATE as usize] = 1.0 / 32_768.0;
        let (_, reported) = measured(0.0, &audio[..18 * RATE as usize], 160);
        assert!(!reported.silence, "the last bit of 16 moved in between");
    }

    #[test]
    fn clipped_samples_are_counted_and_a_normalised_recording_is_not_clipped() {
        let (normalised, reported) = measured(0.0, &sine(1.0, 11.0), 160);
        assert!(normalised.clipped_share < 1e-4 && !reported.clipping, "{normalised:?}");
        let clipped: Vec<f32> = sine(2.0, 11.0).iter().map(|sample| sample.clamp(-1.0, 32_767.0 / 32_768.0)).collect();
        let (level, reported) = measured(0.0, &clipped, 160);
        // A sine of twice full scale is beyond it for two thirds of the time; each run's first sample does not count.
        let expected = clipped.windows(2).filter(|pair| pair.iter().all(|one| one.abs() >= FULL_SCALE)).count() as u64;
        assert_eq!(level.clipped, expected);
        assert!((0.58..0.67).contains(&level.clipped_share) && reported.clipping, "{level:?}");
    }

    #[test]
    fn speech_like_bursts_have_the_level_of_the_bursts_and_are_reported_below_50_dbfs() {
        for (dbfs, background, gain, quiet) in
            [(-25.0, -70.0, 0.0, false), (-55.0, -80.0, 0.0, true), (-55.0, -80.0, 10.0, false), (-72.0, -95.0, 20.0, true)]
        {
            let (level, reported) = measured(gain, &bursts(dbfs, background, 12), 160);
            let active = level.active_dbfs.unwrap();
            assert!((active - dbfs).abs() < 1.0, "{active} instead of {dbfs}");
            assert_eq!(reported.quiet, quiet, "{dbfs} dBFS, gain {gain}");
            assert!(near(level.rms_dbfs, dbfs - 3.01), "{level:?}");
        }
    }

    #[test]
    fn a_quiet_room_in_which_nobody_speaks_is_not_reported() {
        let hiss: Vec<f32> = bursts(-150.0, -65.0, 30);
        let (level, reported) = measured(0.0, &hiss, 160);
        assert!(level.active_dbfs.is_none() && !reported.quiet && !reported.silence, "{level:?}");
    }

    #[test]
    fn another_source_is_reported_on_its_own_and_the_totals_continue() {
        let mut meter = LevelMeter::new(InputGain::default());
        meter.begin("one", RATE);
        meter.push(&mut vec![0.0; 11 * RATE as usize]);
        assert!(meter.reported.silence);
        meter.begin("two", 2 * RATE);
        assert!(!meter.reported.silence);
        meter.push(&mut sine(0.5, 1.0));
        let total = meter.end().total.unwrap();
        assert!(near(total.peak_dbfs, -6.02) && near(total.rms_dbfs, -9.03 - 10.0 * 12f64.log10()), "{total:?}");
    }

    /// The audio after the automatic gain.
    fn raised(audio: &[f32], at_a_time: usize) -> Vec<f32> {
        let mut meter = LevelMeter::new(InputGain::Auto);
        meter.begin("test", RATE);
        let mut audio = audio.to_vec();
        audio.chunks_mut(at_a_time).for_each(|part| {
            meter.push(part);
        });
        audio
    }

    /// The active level of the part from `seconds` on.
    fn active_from(audio: &[f32], seconds: usize) -> f64 {
        measured(0.0, &audio[seconds * RATE as usize..], usize::MAX).0.active_dbfs.unwrap()
    }

    #[test]
    fn the_automatic_gain_raises_quiet_speech_within_seconds_and_leaves_ordinary_speech_and_noise_as_they_are() {
        for (dbfs, background, wanted) in [(-55.0, -85.0, -30.0), (-40.0, -70.0, -30.0), (-75.0, -100.0, -35.0)] {
            let found = active_from(&raised(&bursts(dbfs, background, 20), 160), 12);
            assert!((found - wanted).abs() < 1.0, "{dbfs}: {found} instead of {wanted}");
        }
        for (dbfs, background) in [(-36.0, -70.0), (-12.0, -50.0), (-150.0, -65.0), (-45.0, -48.0)] {
            let audio = bursts(dbfs, background, 20);
            assert!(raised(&audio, 160) == audio, "{dbfs} over {background}");
        }
    }

    #[test]
    fn the_automatic_gain_falls_within_a_second_when_speech_becomes_loud_and_moves_without_a_step() {
        let audio = [bursts(-60.0, -90.0, 20), bursts(-25.0, -90.0, 4)].concat();
        let raised = raised(&audio, 777);
        assert!((active_from(&raised, 21) + 25.0).abs() < 1.0, "{}", active_from(&raised, 21));
        let gains: Vec<f32> =
            raised.iter().zip(&audio).filter(|(_, before)| before.abs() > 1e-6).map(|(after, before)| after / before).collect();
        let step = gains.windows(2).map(|pair| (pair[1] / pair[0]).ln().abs()).fold(0.0, f32::max);
        assert!(step < 0.01, "{step}");
    }

    #[test]
    fn the_automatic_gain_does_not_depend_on_how_the_audio_is_cut() {
        let audio = bursts(-52.0, -80.0, 8);
        let whole = raised(&audio, usize::MAX);
        for at_a_time in [1, 160, 799, 4096] {
            assert!(raised(&audio, at_a_time) == whole, "{at_a_time}");
        }
    }
}
