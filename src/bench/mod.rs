//! What a pack costs and what its exits are worth, under noise: real speech mixed with noise at exact ratios, streamed
//! through the whole runtime (ring, resampler, session) with every policy, beside full depth and fixed depths.

mod page;
mod report;
mod sound;
pub(crate) mod usage;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

pub use page::page;
pub use report::{Cell, Compared, Condition, Report};
pub use sound::{NoiseKind, Speech, sound_files};

use crate::audio::{AudioError, ScriptedSource};
use crate::consumer::{Consumer, ConsumerError, Null};
use crate::engine::{Encoder, EngineError};
use crate::exit::{PolicyError, PolicyName, PolicySpec, kl};
use crate::pack::{Pack, PackError, PerLayer};
use crate::runtime::{RunError, RunOptions, RunReport, StopFlag, run};
use crate::stream::{Representation, SessionOptions};

/// Why a benchmark could not be run.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// A folder cannot be read.
    #[error("{path}: {source}")]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A folder without sound.
    #[error("{0}: no sound files in this folder (WAV, FLAC, Ogg, MP3, AIFF)")]
    NoSound(PathBuf),
    /// No speech.
    #[error("there is no speech to run on: the files given are empty")]
    NoSpeech,
    /// Noise that cannot be scaled.
    #[error("{0}: is silent; noise needs some power to be mixed at a ratio")]
    SilentNoise(PathBuf),
    /// A sound file.
    #[error(transparent)]
    Audio(#[from] AudioError),
    /// The pack.
    #[error(transparent)]
    Pack(#[from] PackError),
    /// A policy.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// The encoder.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A run.
    #[error(transparent)]
    Run(#[from] RunError),
    /// A policy's name.
    #[error("`{text}`: {problem}")]
    PolicyText {
        /// What was given.
        text: String,
        /// What would be right.
        problem: String,
    },
}

/// What is to be measured.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The speech.
    pub speech: Speech,
    /// Kinds of noise.
    pub noises: Vec<NoiseKind>,
    /// Ratios, dB; each with every kind. Clean speech is always measured.
    pub snrs: Vec<f64>,
    /// Policies, as `NAME` or `NAME:NUMBER`.
    pub policies: Vec<String>,
    /// New frames per chunk.
    pub chunk_frames: usize,
    /// Sound comes at its own pace, so that the delay from the sound to its representation is measured, too.
    pub realtime: bool,
}

/// Samples of a callback, as many as sound cards give.
const CALLBACK_SECONDS: f64 = 0.01;

/// `NAME` or `NAME:NUMBER`: a policy and the one number that people turn.
pub fn policy(text: &str) -> Result<PolicySpec, BenchError> {
    let (name, number) = text.split_once(':').map_or((text, None), |(name, number)| (name, Some(number)));
    let wrong = |problem: &str| BenchError::PolicyText { text: text.to_owned(), problem: problem.to_owned() };
    let name = <PolicyName as clap::ValueEnum>::from_str(name, false)
        .map_err(|_| wrong("policies are threshold, range, fixed, periodic, calibrated, change, gain, never"))?;
    let mut spec = PolicySpec::named(name);
    let Some(number) = number else { return Ok(spec) };
    let value: f32 = number.parse().map_err(|_| wrong("after the colon stands a number"))?;
    match name {
        PolicyName::Threshold | PolicyName::Change | PolicyName::Gain | PolicyName::Range => {
            spec.threshold = Some(PerLayer::All(value))
        }
        PolicyName::Fixed | PolicyName::Periodic if value >= 1.0 => spec.layer = Some(value as usize),
        PolicyName::Calibrated => spec.agreement = Some(value),
        _ => return Err(wrong("this policy takes no such number")),
    }
    Ok(spec)
}

/// The policies that are compared when none are named: every one that the pack has numbers for, and every fixed depth.
pub fn default_policies(pack: &Pack) -> Vec<String> {
    let fixed = (1..=pack.manifest.encoder.layers).map(|layer| format!("fixed:{layer}"));
    let others = ["periodic", "range", "threshold", "change", "calibrated", "gain"];
    let possible = others.into_iter().filter(|text| policy(text).is_ok_and(|spec| spec.build(pack).is_ok()));
    fixed.chain(possible.map(str::to_owned)).collect()
}

/// What came out of a stream, for comparing with full depth.
#[derive(Debug, Default)]
struct Heard {
    log_posteriors: Vec<f32>,
    entropies: Vec<(f64, u64)>,
}

struct Collector(Arc<Mutex<Heard>>);

impl Consumer for Collector {
    fn name(&self) -> &str {
        "collector"
    }

    fn consume(&mut self, representation: &Representation) -> Result<(), ConsumerError> {
        let mut heard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(rows) = &representation.log_posteriors {
            heard.log_posteriors.extend_from_slice(rows.as_slice());
        }
        for evidence in &representation.evidence {
            if heard.entropies.len() < evidence.layer {
                heard.entropies.resize(evidence.layer, (0.0, 0));
            }
            let (sum, count) = &mut heard.entropies[evidence.layer - 1];
            *sum += f64::from(evidence.entropy);
            *count += 1;
        }
        Ok(())
    }
}

/// Runs `plan`; `progress` is told how many of how many runs are done.
pub fn bench(
    pack: &Pack,
    encoder: &Arc<Encoder>,
    plan: &Plan,
    stop: &StopFlag,
    progress: impl Fn(usize, usize),
) -> Result<Report, BenchError> {
    let rate = encoder.audio().sample_rate;
    let specs = plan.policies.iter().map(|text| policy(text)).collect::<Result<Vec<_>, _>>()?;
    let mut conditions = vec![Condition { name: "clean".into(), noise: None, snr: None }];
    for noise in &plan.noises {
        let at = |&snr: &f64| Condition { name: format!("{noise} {snr} dB"), noise: Some(noise.to_string()), snr: Some(snr) };
        conditions.extend(plan.snrs.iter().map(at));
    }
    let noises: Vec<&NoiseKind> = plan.noises.iter().flat_map(|noise| std::iter::repeat_n(noise, plan.snrs.len())).collect();
    let runs = conditions.len() * (specs.len() + 1);
    let mut report = Report::new(pack, plan, &conditions);
    for (index, condition) in conditions.iter().enumerate() {
        let sound = match (index.checked_sub(1).map(|at| noises[at]), condition.snr) {
            (Some(noise), Some(snr)) => plan.speech.with_noise(noise, snr, rate)?,
            _ => plan.speech.samples.clone(),
        };
        let stream = Stream { pack, encoder, plan, sound: &sound, stop };
        let (_, full) = stream.heard(&PolicySpec::named(PolicyName::Never), true)?;
        report.entropy_by_layer.push(full.entropies.iter().map(|(sum, count)| sum / (*count).max(1) as f64).collect());
        for (number, spec) in std::iter::once(&PolicySpec::named(PolicyName::Never)).chain(&specs).enumerate() {
            if stop.is_set() {
                return Ok(report);
            }
            progress(index * (specs.len() + 1) + number, runs);
            let text = number.checked_sub(1).map_or("never", |at| &plan.policies[at]);
            let (timed, cpu) = stream.timed(spec)?;
            let heard = if number == 0 { None } else { Some(stream.heard(spec, false)?.1) };
            let (kl, agreement) =
                heard.map_or((0.0, 1.0), |heard| compare(&full.log_posteriors, &heard.log_posteriors, encoder.units()));
            report.cells.push(Cell::new(condition, text, &timed.summary, cpu, kl, agreement));
        }
    }
    report.peak_memory_bytes = usage::peak_memory();
    progress(runs, runs);
    Ok(report)
}

/// Mean KL(p_L ‖ p) and share of frames with the same likeliest unit.
fn compare(full: &[f32], found: &[f32], units: usize) -> (f64, f64) {
    let likeliest = |row: &[f32]| row.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).map(|(unit, _)| unit);
    let (mut divergence, mut same, mut frames) = (0.0, 0u64, 0u64);
    for (full, found) in full.chunks_exact(units).zip(found.chunks_exact(units)) {
        divergence += kl(full, found);
        same += u64::from(likeliest(full) == likeliest(found));
        frames += 1;
    }
    let frames = frames.max(1) as f64;
    (divergence / frames, same as f64 / frames)
}

/// One condition's sound, to be streamed with any policy.
struct Stream<'a> {
    pack: &'a Pack,
    encoder: &'a Arc<Encoder>,
    plan: &'a Plan,
    sound: &'a [f32],
    stop: &'a StopFlag,
}

impl Stream<'_> {
    fn run(&self, spec: &PolicySpec, consumer: Box<dyn Consumer>, options: SessionOptions) -> Result<RunReport, BenchError> {
        let rate = self.encoder.audio().sample_rate;
        let callback = ((CALLBACK_SECONDS * f64::from(rate)) as usize).max(1);
        let source = match self.plan.realtime {
            true => ScriptedSource::paced(rate, self.sound, callback),
            false => ScriptedSource::in_callbacks(rate, false, self.sound, &[callback]),
        };
        let policy = spec.build(self.pack)?;
        let mut report =
            run(Box::new(source), self.encoder, policy, vec![consumer], &RunOptions::new(options), self.stop, |_| {})?;
        std::mem::replace(&mut report.outcome, Ok(()))?;
        Ok(report)
    }

    /// As it runs for a user, with nothing else computed: its numbers, and the processor's seconds.
    fn timed(&self, spec: &PolicySpec) -> Result<(RunReport, Option<f64>), BenchError> {
        let before = usage::cpu_time();
        let report = self.run(spec, Box::new(Null), SessionOptions::new(self.plan.chunk_frames))?;
        let used = usage::cpu_time().zip(before).map(|(after, before)| after.saturating_sub(before).as_secs_f64());
        Ok((report, used))
    }

    /// What it says: the posteriors, and with `all_heads` the entropy at every layer.
    fn heard(&self, spec: &PolicySpec, all_heads: bool) -> Result<(RunReport, Heard), BenchError> {
        let heard = Arc::new(Mutex::new(Heard::default()));
        let mut options = SessionOptions::new(self.plan.chunk_frames);
        options.posteriors = self.encoder.has_heads();
        options.all_heads = all_heads;
        let plan = Plan {
            realtime: false,
            speech: Speech { samples: Vec::new(), clips: Vec::new(), files: Vec::new() },
            ..self.plan.clone()
        };
        let stream = Stream { plan: &plan, ..*self };
        let report = stream.run(spec, Box::new(Collector(heard.clone())), options)?;
        let heard = std::mem::take(&mut *heard.lock().unwrap_or_else(PoisonError::into_inner));
        Ok((report, heard))
    }
}
