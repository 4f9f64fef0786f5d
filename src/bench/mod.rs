//! Benchmark of a pack under noise: speech mixed with noise at exact SNRs, streamed through the whole runtime (ring, resampler,
//! session) with every policy, compared with full depth and fixed depths.

mod allocations;
mod compared;
mod device;
mod estimate;
mod noise;
mod page;
mod policies;
mod report;
mod source;
mod study;
mod table;

use std::path::PathBuf;
use std::sync::Arc;

pub use allocations::Allocations;
pub use compared::Compared;
pub use device::{Segment, SegmentKind};
pub use estimate::expected_duration;
pub use noise::{NoiseKind, Speech};
pub use page::{compared_page, page, run_page};
use policies::is_fixed_depth;
pub use policies::{default_policies, default_policy};
pub use report::{Cell, Condition, ConditionKind, Curve, DeviceStream, FORMAT, Report};

use crate::audio::{AudioError, Resampler};
use crate::consumer::Null;
use crate::engine::{Encoder, EngineError};
use crate::exit::{PolicyError, PolicyName, PolicySpec};
use crate::pack::{Pack, PackError};
use crate::process;
use crate::runtime::{LatencyHistogram, RunBuilder, RunError, RunOptions, StopFlag, Summary};
use crate::stream::{SessionError, SessionOptions};
use study::{Distance, Study};

/// Errors of a benchmark.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// No speech.
    #[error("no speech: the files are empty")]
    NoSpeech,
    /// Silent noise cannot be scaled.
    #[error("{0} is silent and cannot be mixed at an SNR")]
    SilentNoise(PathBuf),
    /// An audio file failed.
    #[error(transparent)]
    Audio(#[from] AudioError),
    /// The pack failed.
    #[error(transparent)]
    Pack(#[from] PackError),
    /// A policy failed.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// The encoder failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A session failed.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// A run failed.
    #[error(transparent)]
    Run(#[from] RunError),
}

/// Plan of a benchmark.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The speech.
    pub speech: Speech,
    /// Kinds of noise.
    pub noises: Vec<NoiseKind>,
    /// SNRs in dB, for every noise. Clean speech is always included.
    pub snrs: Vec<f64>,
    /// Whether to include the device-like stream.
    pub device: bool,
    /// Policies, as `NAME` or `NAME:NUMBER`. Full depth (`never`) is always included; so is every fixed depth, except in real time.
    pub policies: Vec<String>,
    /// New frames per chunk.
    pub chunk_frames: usize,
    /// Sample rate of the source, Hz; the runtime resamples to the pack's rate.
    pub rate: u32,
    /// Whether to play in real time and measure the delay as well.
    pub realtime: bool,
}

/// Progress of a benchmark.
#[derive(Debug)]
pub struct Progress<'a> {
    /// Audio processed so far, over all runs, seconds.
    pub done: f64,
    /// Audio in total, seconds.
    pub total: f64,
    /// Condition and policy of the next run.
    pub now: &'a str,
}

/// The audio of a condition.
enum Mix<'a> {
    Clean,
    Noisy(&'a NoiseKind, f64),
    Device,
}

impl Plan {
    fn mixes(&self) -> Vec<Mix<'_>> {
        let noisy = self.noises.iter().flat_map(|noise| self.snrs.iter().map(move |&snr| Mix::Noisy(noise, snr)));
        [Mix::Clean].into_iter().chain(noisy).chain(self.device.then_some(Mix::Device)).collect()
    }

    /// Everything that is measured: full depth, the fixed depths that policies are compared with, and the plan's own policies.
    fn all_policies(&self, pack: &Pack) -> Vec<String> {
        let fixed = (pack.shallowest_exit()..pack.manifest.encoder.layers).map(|layer| format!("fixed:{layer}"));
        let reference = std::iter::once("never".to_owned()).chain(fixed.filter(|_| !self.realtime));
        let mut all: Vec<String> = Vec::new();
        for text in reference.chain(self.policies.iter().cloned()) {
            if !all.contains(&text) {
                all.push(text);
            }
        }
        all
    }
}

/// A policy to measure. A fixed depth is timed once, because its cost does not depend on the audio.
struct Candidate {
    text: String,
    spec: PolicySpec,
    kept: Option<Timed>,
    chunk_latency: LatencyHistogram,
    delay: LatencyHistogram,
}

/// Runs `plan`; calls `progress` before every run.
pub fn bench(
    pack: &Pack,
    encoder: &Arc<Encoder>,
    plan: &Plan,
    stop: &StopFlag,
    mut progress: impl FnMut(&Progress<'_>),
) -> Result<Report, BenchError> {
    let rate = encoder.audio().sample_rate;
    let candidate = |text: String| {
        let spec: PolicySpec = text.parse()?;
        spec.build(pack)?;
        Ok(Candidate { text, spec, kept: None, chunk_latency: LatencyHistogram::default(), delay: LatencyHistogram::default() })
    };
    let mut candidates = plan.all_policies(pack).into_iter().map(candidate).collect::<Result<Vec<_>, BenchError>>()?;
    let mut report = Report::new(pack, encoder.precision(), plan);
    let mut total_seconds = 0.0;
    let (mut done, mut total) = (0.0, None);
    for mix in plan.mixes() {
        let (condition, audio) = match mix {
            Mix::Clean => (Condition::clean(), plan.speech.samples.clone()),
            Mix::Noisy(noise, snr) => (Condition::noisy(noise, snr), plan.speech.with_noise(noise, snr, rate)?),
            Mix::Device => {
                let (audio, segments) = device::stream(&plan.speech, &plan.noises, rate)?;
                report.device = Some(DeviceStream { segments, exits: Vec::new() });
                (Condition::device(), audio)
            }
        };
        let seconds = audio.len() as f64 / f64::from(rate);
        let total = *total.get_or_insert_with(|| plan.seconds_in_all(seconds, &candidates));
        total_seconds += seconds;
        let study = Study::of(encoder, &audio, plan.chunk_frames)?;
        report.add_condition(&condition, seconds, &study);
        let at_source: Arc<[f32]> = resampled(&audio, rate, plan.rate)?.into();
        let stream = Stream { pack, encoder, plan, audio: &audio, at_source, stop };
        for candidate in &mut candidates {
            if stop.is_set() {
                // Policies are compared on the same audio.
                report.drop_condition(&condition);
                report.finish(&candidates);
                return Ok(report);
            }
            progress(&Progress { done, total, now: &format!("{}, {}", condition.name, candidate.text) });
            let (cell, exits) = stream.cell(&study, &condition, candidate)?;
            if stop.is_set() {
                continue;
            }
            if let (Mix::Device, Some(device)) = (&mix, &mut report.device) {
                device.exits.push((candidate.text.clone(), exits));
            }
            report.cells.push(cell);
            done += seconds;
        }
    }
    log::debug!("{total_seconds:.0} s of audio in all conditions");
    report.finish(&candidates);
    progress(&Progress { done, total: done, now: "" });
    Ok(report)
}

impl Plan {
    /// Audio of all runs in seconds, from the length of the clean speech.
    fn seconds_in_all(&self, clean: f64, candidates: &[Candidate]) -> f64 {
        let device = if self.device { clean / device::SPEECH_SHARE } else { 0.0 };
        let conditions = 1.0 + (self.noises.len() * self.snrs.len()) as f64;
        candidates.len() as f64 * (clean * conditions + device)
    }
}

/// Resamples `audio`.
fn resampled(audio: &[f32], from: u32, to: u32) -> Result<Vec<f32>, AudioError> {
    let mut resampler = Resampler::new(from, to)?;
    let mut out = Vec::with_capacity((audio.len() as f64 * f64::from(to) / f64::from(from)) as usize + 1);
    resampler.push(audio, &mut out);
    resampler.finish(&mut out);
    Ok(out)
}

/// One condition's audio, for streaming with any policy.
struct Stream<'a> {
    pack: &'a Pack,
    encoder: &'a Arc<Encoder>,
    plan: &'a Plan,
    /// At the pack's rate.
    audio: &'a [f32],
    /// At the source's rate.
    at_source: Arc<[f32]>,
    stop: &'a StopFlag,
}

/// A timed run, without any other computation.
#[derive(Clone)]
struct Timed {
    summary: Summary,
    /// Processor time of the whole process, seconds.
    cpu: Option<f64>,
    peak_memory: Option<u64>,
    allocations: Option<Allocations>,
}

impl Stream<'_> {
    /// Measures a policy: its cell, and the exit layer of every chunk.
    fn cell(&self, study: &Study, condition: &Condition, candidate: &mut Candidate) -> Result<(Cell, Vec<usize>), BenchError> {
        let timed = match &candidate.kept {
            // What it dropped is counted once.
            Some(timed) => {
                let mut timed = timed.clone();
                timed.summary.samples.dropped = 0;
                timed
            }
            None => self.timed(study, candidate)?,
        };
        let plain = is_fixed_depth(&candidate.text);
        let depth = timed.summary.exits.iter().position(|&chunks| chunks > 0).unwrap_or(0);
        let (distance, exits) = match (plain, candidate.spec.name) {
            (true, Some(PolicyName::Never)) => {
                (Some(Distance { kl: 0.0, agreement: 1.0 }).filter(|_| study.has_heads()), Vec::new())
            }
            (true, _) => (study.fixed(depth), Vec::new()),
            _ => {
                let policy = candidate.spec.build(self.pack)?;
                study.with_policy(self.encoder, self.audio, self.plan.chunk_frames, policy)?
            }
        };
        if plain && candidate.spec.name == Some(PolicyName::Fixed) {
            candidate.kept = Some(timed.clone());
        }
        Ok((Cell::new(condition, &candidate.text, &timed, distance), exits))
    }

    fn timed(&self, study: &Study, candidate: &mut Candidate) -> Result<Timed, BenchError> {
        let chunk_frames = self.plan.chunk_frames;
        let allocations = allocations::count(self.encoder, self.audio, chunk_frames, candidate.spec.build(self.pack)?)?;
        let source = source::Playback::new(self.at_source.clone(), self.plan.rate, self.plan.realtime);
        let policy = candidate.spec.build(self.pack)?;
        let options = RunOptions::default().session(SessionOptions::default().chunk_frames(chunk_frames));
        let peak_is_of_this_run = process::reset_peak_memory();
        let before = process::cpu_time();
        let builder = RunBuilder::new(source, self.encoder, policy).consumer(Null).options(options).stop_on(self.stop.clone());
        let run = builder.start()?;
        let counters = run.counters().clone();
        let summary = run.join().into_result()?;
        let cpu = process::cpu_time().zip(before).map(|(after, before)| after.saturating_sub(before).as_secs_f64());
        let own = size_of_val(&*self.at_source)
            + size_of_val(self.audio)
            + size_of_val(&self.plan.speech.samples[..])
            + study.memory_bytes();
        let peak_memory = process::peak_memory().filter(|_| peak_is_of_this_run).map(|peak| peak.saturating_sub(own as u64));
        let latencies = counters.latencies();
        candidate.chunk_latency.merge(&latencies.compute);
        candidate.delay.merge(&latencies.delay);
        Ok(Timed { summary, cpu, peak_memory, allocations })
    }
}
