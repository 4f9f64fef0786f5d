//! The report, as serialised to JSON.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::allocations::Allocations;
use super::device::{Segment, SegmentKind};
use super::noise::NoiseKind;
use super::policies::is_fixed_depth;
use super::study::{Distance, Study};
use super::{Candidate, Plan, Timed, default_policy};
use crate::engine::Precision;
use crate::pack::Pack;
use crate::process;
use crate::runtime::{LatencyHistogram, Percentiles};

/// Version of the JSON format; others are rejected.
pub const FORMAT: u32 = 2;

/// Kind of a condition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ConditionKind {
    /// Speech alone.
    Clean,
    /// Speech in noise.
    Noisy,
    /// 30 % speech, 40 % silence, 30 % noise alone.
    Device,
}

/// A condition.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Condition {
    /// Display name.
    pub name: String,
    /// Kind.
    pub kind: ConditionKind,
    /// Kind of noise; empty for clean speech.
    pub noise: Option<String>,
    /// SNR, dB.
    pub snr: Option<f64>,
    /// Length, seconds.
    pub seconds: f64,
    /// Mean entropy of each of the report's `heads` at full depth, nats.
    pub entropy: Vec<f64>,
}

impl Condition {
    fn new(name: String, kind: ConditionKind, noise: Option<String>, snr: Option<f64>) -> Self {
        Self { name, kind, noise, snr, seconds: 0.0, entropy: Vec::new() }
    }

    pub(super) fn clean() -> Self {
        Self::new("clean".into(), ConditionKind::Clean, None, None)
    }

    pub(super) fn noisy(noise: &NoiseKind, snr: f64) -> Self {
        Self::new(format!("{noise} {snr} dB"), ConditionKind::Noisy, Some(noise.to_string()), Some(snr))
    }

    pub(super) fn device() -> Self {
        Self::new("device-like".into(), ConditionKind::Device, None, None)
    }
}

/// One policy in one condition.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Cell {
    /// The condition's name.
    pub condition: String,
    /// The policy as requested.
    pub policy: String,
    /// The policy with its parameters.
    pub policy_with_numbers: String,
    /// Mean exit layer.
    pub depth: f64,
    /// Chunks that exited before the first layer, after layer 1, 2, …
    pub exits: Vec<u64>,
    /// Mean KL(p_L ‖ p_exit), nats; `None` for a pack without heads.
    pub kl: Option<f64>,
    /// Share of frames with the same most probable unit as at full depth.
    pub agreement: Option<f64>,
    /// Layer passes per frame, including gap filling after early exits.
    pub layer_passes_per_frame: f64,
    /// MACs of every stage that ran, per second of audio.
    pub macs_per_second: f64,
    /// Processor seconds per second of audio, all threads. A fixed depth is timed on clean speech only, because its cost does
    /// not depend on the audio.
    pub cpu_seconds_per_second: Option<f64>,
    /// Computing time per second of audio.
    pub real_time_factor: f64,
    /// Time to compute a chunk, milliseconds.
    pub chunk_ms: Percentiles,
    /// Time from a chunk's last sample to its representation, milliseconds (`--realtime`).
    pub delay_ms: Option<Percentiles>,
    /// Samples dropped.
    pub dropped: u64,
    /// Peak memory of the run without the benchmark's own audio, bytes (Linux).
    pub peak_memory_bytes: Option<u64>,
    /// Heap allocations per chunk (builds with the feature `count-allocations`).
    pub allocations_per_chunk: Option<Allocations>,
}

impl Cell {
    pub(super) fn new(condition: &Condition, policy: &str, timed: &Timed, distance: Option<Distance>) -> Self {
        let summary = &timed.summary;
        Self {
            condition: condition.name.clone(),
            policy: policy.to_owned(),
            policy_with_numbers: summary.policy.clone(),
            depth: summary.mean_exit_layer,
            exits: summary.exits.clone(),
            kl: distance.map(|distance| distance.kl),
            agreement: distance.map(|distance| distance.agreement),
            layer_passes_per_frame: summary.layer_passes_per_frame,
            macs_per_second: summary.macs_per_second,
            cpu_seconds_per_second: timed.cpu.map(|cpu| cpu / summary.audio_seconds.max(1e-9)),
            real_time_factor: summary.real_time_factor,
            chunk_ms: summary.compute,
            delay_ms: summary.delay,
            dropped: summary.samples.dropped,
            peak_memory_bytes: timed.peak_memory,
            allocations_per_chunk: timed.allocations,
        }
    }
}

/// The device-like stream, and the depth of every policy on it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DeviceStream {
    /// Segments of the stream.
    pub segments: Vec<Segment>,
    /// Exit layer of every chunk per policy; empty for fixed depths.
    pub exits: Vec<(String, Vec<usize>)>,
}

impl DeviceStream {
    /// Mean exit layer of `policy` over the chunks whose middle is in `kind`.
    pub fn depth(&self, policy: &str, kind: SegmentKind, chunk_seconds: f64) -> Option<f64> {
        let (_, exits) = self.exits.iter().find(|(name, _)| name == policy)?;
        let is_of_kind = |index: usize| {
            let middle = (index as f64 + 0.5) * chunk_seconds;
            let at = self.segments.iter().find(|segment| (segment.start..segment.start + segment.seconds).contains(&middle));
            at.is_some_and(|segment| segment.kind == kind)
        };
        let found: Vec<usize> = exits.iter().enumerate().filter(|(index, _)| is_of_kind(*index)).map(|(_, &exit)| exit).collect();
        (!found.is_empty()).then(|| found.iter().sum::<usize>() as f64 / found.len() as f64)
    }
}

/// Distribution of a latency over all conditions.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Curve {
    /// The policy.
    pub policy: String,
    /// Chunks.
    pub chunks: u64,
    /// (quantile, milliseconds), up to the longest.
    pub points: Vec<(f64, f64)>,
}

impl Curve {
    /// Quantiles 1 − 10^(−n/10), as far as the number of chunks allows; `None` for an empty histogram.
    fn of(policy: &str, histogram: &LatencyHistogram) -> Option<Self> {
        let chunks = histogram.count();
        let tail = (0..).map(|n| 10f64.powf(-f64::from(n) / 10.0)).take_while(|tail| tail * chunks as f64 >= 1.0);
        let milliseconds = |latency: Duration| latency.as_micros() as f64 / 1e3;
        let at = |quantile| (quantile, milliseconds(histogram.quantile(quantile)));
        let points = tail.map(|tail| at(1.0 - tail)).chain([(1.0, milliseconds(histogram.max()))]).collect();
        (chunks > 0).then(|| Self { policy: policy.to_owned(), chunks, points })
    }
}

/// The report.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Report {
    /// Format version, [`FORMAT`].
    pub format: u32,
    /// Version of Bellis.
    pub bellis: String,
    /// Processor or board.
    pub machine: String,
    /// Number of cores.
    pub cores: usize,
    /// The pack's name.
    pub pack: String,
    /// Size of its files, bytes.
    pub pack_bytes: u64,
    /// Precision of its matmuls.
    pub precision: String,
    /// Number of layers.
    pub layers: usize,
    /// The pack's default policy.
    pub default_policy: String,
    /// Length of a chunk, milliseconds.
    pub chunk_ms: f64,
    /// Sample rate of the source, Hz.
    pub rate: u32,
    /// Whether audio was played in real time.
    pub realtime: bool,
    /// Depths that have a head, for the conditions' entropies.
    pub heads: Vec<usize>,
    /// The conditions.
    pub conditions: Vec<Condition>,
    /// Every policy in every condition.
    pub cells: Vec<Cell>,
    /// The device-like stream.
    pub device: Option<DeviceStream>,
    /// Time to compute a chunk, per policy.
    pub chunk_latency: Vec<Curve>,
    /// Time from a chunk's last sample to its representation, per policy (`--realtime`).
    pub delay: Vec<Curve>,
    /// Peak memory of any run without the benchmark's own audio, bytes (Linux).
    pub peak_memory_bytes: Option<u64>,
}

impl Report {
    pub(super) fn new(pack: &Pack, precision: Precision, plan: &Plan) -> Self {
        let (audio, encoder) = (&pack.manifest.audio, &pack.manifest.encoder);
        let (machine, cores) = process::machine();
        Self {
            format: FORMAT,
            bellis: env!("CARGO_PKG_VERSION").to_owned(),
            machine,
            cores,
            pack: pack.manifest.name.clone(),
            pack_bytes: pack.bytes(),
            precision: precision.to_string(),
            layers: encoder.layers,
            default_policy: default_policy(pack),
            chunk_ms: plan.chunk_frames as f64 * audio.hop as f64 * 1e3 / f64::from(audio.sample_rate),
            rate: plan.rate,
            realtime: plan.realtime,
            heads: Vec::new(),
            conditions: Vec::new(),
            cells: Vec::new(),
            device: None,
            chunk_latency: Vec::new(),
            delay: Vec::new(),
            peak_memory_bytes: None,
        }
    }

    pub(super) fn add_condition(&mut self, condition: &Condition, seconds: f64, study: &Study) {
        self.heads.clone_from(&study.depths);
        self.conditions.push(Condition { seconds, entropy: study.entropy.clone(), ..condition.clone() });
    }

    /// Removes a condition that was interrupted.
    pub(super) fn drop_condition(&mut self, condition: &Condition) {
        self.cells.retain(|cell| cell.condition != condition.name);
        self.conditions.retain(|one| one.name != condition.name);
        if condition.kind == ConditionKind::Device {
            self.device = None;
        }
    }

    /// Adds what is known at the end.
    pub(super) fn finish(&mut self, candidates: &[Candidate]) {
        self.add_curves(candidates);
        self.peak_memory_bytes = self.cells.iter().filter_map(|cell| cell.peak_memory_bytes).max();
    }

    fn add_curves(&mut self, candidates: &[Candidate]) {
        for candidate in candidates {
            self.chunk_latency.extend(Curve::of(&candidate.text, &candidate.chunk_latency));
            self.delay.extend(Curve::of(&candidate.text, &candidate.delay));
        }
    }

    /// The policies, in order.
    pub fn policies(&self) -> Vec<&str> {
        let mut names: Vec<&str> = Vec::new();
        for cell in &self.cells {
            if !names.contains(&cell.policy.as_str()) {
                names.push(&cell.policy);
            }
        }
        names
    }

    /// Policies other than fixed depths: the pack's default first, then DAISY's threshold, then the others.
    pub fn adaptive(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.policies().into_iter().filter(|name| !is_fixed_depth(name)).collect();
        names.sort_by_key(|name| if *name == self.focus() { 0 } else { 1 + u8::from(!name.starts_with("threshold")) });
        names
    }

    /// The policy in focus: the pack's default, otherwise the last one.
    pub fn focus(&self) -> &str {
        let names = self.policies();
        let own = names.iter().find(|name| name.split(':').next() == Some(self.default_policy.as_str()));
        own.or(names.last()).copied().unwrap_or("never")
    }

    /// The cells of a policy.
    pub fn of<'a>(&'a self, policy: &'a str) -> impl Iterator<Item = &'a Cell> {
        self.cells.iter().filter(move |cell| cell.policy == policy)
    }

    /// A policy's cell in the first condition of a kind.
    pub fn first_of_kind(&self, policy: &str, kind: ConditionKind) -> Option<&Cell> {
        let condition = self.conditions.iter().find(|condition| condition.kind == kind)?;
        self.cells.iter().find(|cell| cell.policy == policy && cell.condition == condition.name)
    }

    /// Mean of a policy over the conditions with speech throughout; `None` if a value is missing.
    pub fn mean(&self, policy: &str, value: impl Fn(&Cell) -> Option<f64>) -> Option<f64> {
        let values = self.with_speech(policy).map(value).collect::<Option<Vec<f64>>>()?;
        (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
    }

    /// The cells of a policy in the conditions with speech.
    pub fn with_speech<'a>(&'a self, policy: &'a str) -> impl Iterator<Item = &'a Cell> {
        let device = self.conditions.iter().find(|condition| condition.kind == ConditionKind::Device);
        self.of(policy).filter(move |cell| device.is_none_or(|device| device.name != cell.condition))
    }

    /// (MACs per second, KL) of every fixed depth, full depth last: means over the conditions with speech, or the device-like stream.
    pub fn fixed_depths(&self, device: bool) -> Vec<(f64, f64)> {
        let fixed = self.policies().into_iter().filter(|name| is_fixed_depth(name));
        let mut points: Vec<(f64, f64)> = fixed.filter_map(|name| self.cost_and_kl(name, device)).collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        points
    }

    /// (MACs per second, KL) of a policy.
    pub fn cost_and_kl(&self, policy: &str, device: bool) -> Option<(f64, f64)> {
        if device {
            let cell = self.first_of_kind(policy, ConditionKind::Device)?;
            return Some((cell.macs_per_second, cell.kl?));
        }
        Some((self.mean(policy, |cell| Some(cell.macs_per_second))?, self.mean(policy, |cell| cell.kl)?))
    }

    /// KL of a fixed depth with the same cost as `policy`, interpolated between the two nearest depths.
    pub fn fixed_at_same_cost(&self, policy: &str, device: bool) -> Option<f64> {
        let (cost, _) = self.cost_and_kl(policy, device)?;
        let points = self.fixed_depths(device);
        let pair = points.windows(2).find(|pair| (pair[0].0..=pair[1].0).contains(&cost) && pair[1].0 > pair[0].0)?;
        let share = (cost - pair[0].0) / (pair[1].0 - pair[0].0);
        Some(pair[0].1 + share * (pair[1].1 - pair[0].1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_curve_ends_where_its_chunks_do() {
        let mut histogram = LatencyHistogram::default();
        (1..=1_000).for_each(|n| histogram.record(Duration::from_micros(n * 10)));
        let curve = Curve::of("gain", &histogram).unwrap();
        assert_eq!((curve.chunks, curve.points.len()), (1_000, 32));
        let near = |quantile: f64, expected: f64| {
            let (_, found) =
                curve.points.iter().min_by(|a, b| (a.0 - quantile).abs().total_cmp(&(b.0 - quantile).abs())).unwrap();
            assert!((found / expected - 1.0).abs() < 0.01, "{quantile}: {found}");
        };
        near(0.5, 5.0);
        near(0.9, 9.0);
        near(1.0, 10.0);
        assert!(Curve::of("gain", &LatencyHistogram::default()).is_none());
    }

    #[test]
    fn depth_on_the_device_is_told_by_what_is_heard() {
        let segment = |kind, start, seconds| Segment { kind, start, seconds };
        let device = DeviceStream {
            segments: vec![segment(SegmentKind::Silence, 0.0, 0.6), segment(SegmentKind::Speech, 0.6, 1.0)],
            exits: vec![("gain".into(), vec![1, 1, 8, 6])],
        };
        assert_eq!(device.depth("gain", SegmentKind::Silence, 0.32), Some(1.0));
        assert_eq!(device.depth("gain", SegmentKind::Speech, 0.32), Some(7.0));
        assert_eq!(device.depth("gain", SegmentKind::Noise, 0.32), None);
        assert_eq!(device.depth("never", SegmentKind::Speech, 0.32), None);
    }
}
