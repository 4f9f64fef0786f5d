//! The numbers of a benchmark, as they stand in its JSON.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::allocations::Allocations;
use super::device::{Segment, SegmentKind};
use super::sound::NoiseKind;
use super::study::{Nearness, Study};
use super::{Candidate, Plan, Timed, default_policy};
use crate::engine::Precision;
use crate::pack::Pack;
use crate::process;
use crate::runtime::{LatencyHistogram, Percentiles};

/// Version of the JSON; another one is not read.
pub const FORMAT: u32 = 2;

/// What a condition is.
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

/// What was heard.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Condition {
    /// For people.
    pub name: String,
    /// What it is.
    pub kind: ConditionKind,
    /// Kind of noise; none for clean speech.
    pub noise: Option<String>,
    /// Ratio, dB.
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

/// One policy under one condition.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Cell {
    /// The condition's name.
    pub condition: String,
    /// The policy as it was asked for.
    pub policy: String,
    /// The policy with its numbers.
    pub policy_with_numbers: String,
    /// Mean exit layer.
    pub depth: f64,
    /// Chunks that stopped before the first layer, after layer 1, 2, …
    pub exits: Vec<u64>,
    /// Mean KL(p_L ‖ p_exit), nats; none for a pack without heads.
    pub kl: Option<f64>,
    /// Share of frames whose likeliest unit is full depth's.
    pub agreement: Option<f64>,
    /// Whole-layer passes per frame, filling in after early exits included.
    pub layer_passes_per_frame: f64,
    /// MACs of every stage that ran per second of sound.
    pub macs_per_second: f64,
    /// Processor seconds per second of sound, all threads. A fixed depth (like all its costs) is timed on clean speech alone: what it
    /// costs does not depend on the sound.
    pub cpu_seconds_per_second: Option<f64>,
    /// Computing time per second of sound.
    pub real_time_factor: f64,
    /// Computing one chunk, milliseconds.
    pub chunk_ms: Percentiles,
    /// From a chunk's last sample to its representation, milliseconds (`--realtime`).
    pub delay_ms: Option<Percentiles>,
    /// Samples dropped.
    pub dropped: u64,
    /// The most memory held during the run, without the benchmark's own sound, bytes (Linux).
    pub peak_memory_bytes: Option<u64>,
    /// What a chunk allocates on the heap (builds with the feature `count-allocations`).
    pub allocations_per_chunk: Option<Allocations>,
}

impl Cell {
    pub(super) fn new(condition: &Condition, policy: &str, timed: &Timed, nearness: Option<Nearness>) -> Self {
        let summary = &timed.summary;
        Self {
            condition: condition.name.clone(),
            policy: policy.to_owned(),
            policy_with_numbers: summary.policy.clone(),
            depth: summary.mean_exit_layer,
            exits: summary.exits.clone(),
            kl: nearness.map(|nearness| nearness.kl),
            agreement: nearness.map(|nearness| nearness.agreement),
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

/// What lies where in the device-like stream, and how deep every policy went.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DeviceStream {
    /// What the stream holds.
    pub segments: Vec<Segment>,
    /// Per policy: the exit layer of every chunk; none for fixed depths.
    pub exits: Vec<(String, Vec<usize>)>,
}

impl DeviceStream {
    /// Mean exit layer of `policy` over the chunks that lie in `kind` (by their middle).
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

/// A latency's distribution over all conditions.
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
    /// Quantiles 1 − 10^(−n/10), as far as the chunks reach; `None` for an empty histogram.
    fn of(policy: &str, histogram: &LatencyHistogram) -> Option<Self> {
        let chunks = histogram.count();
        let tail = (0..).map(|n| 10f64.powf(-f64::from(n) / 10.0)).take_while(|tail| tail * chunks as f64 >= 1.0);
        let milliseconds = |latency: Duration| latency.as_micros() as f64 / 1e3;
        let at = |quantile| (quantile, milliseconds(histogram.quantile(quantile)));
        let points = tail.map(|tail| at(1.0 - tail)).chain([(1.0, milliseconds(histogram.max()))]).collect();
        (chunks > 0).then(|| Self { policy: policy.to_owned(), chunks, points })
    }
}

/// A whole benchmark.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Report {
    /// [`FORMAT`].
    pub format: u32,
    /// Bellis's version.
    pub bellis: String,
    /// The processor or board.
    pub machine: String,
    /// Its cores.
    pub cores: usize,
    /// The pack's name.
    pub pack: String,
    /// Bytes of its files.
    pub pack_bytes: u64,
    /// In how many bits its products were computed.
    pub precision: String,
    /// Its layers.
    pub layers: usize,
    /// The pack's own policy.
    pub default_policy: String,
    /// Length of a chunk, milliseconds.
    pub chunk_ms: f64,
    /// Rate at which the sound came, Hz.
    pub rate: u32,
    /// Whether sound came at its own pace.
    pub realtime: bool,
    /// Depths that have a head: what the conditions' entropies are of.
    pub heads: Vec<usize>,
    /// What was heard.
    pub conditions: Vec<Condition>,
    /// Every policy under every condition.
    pub cells: Vec<Cell>,
    /// The device-like stream.
    pub device: Option<DeviceStream>,
    /// Computing one chunk, per policy.
    pub chunk_latency: Vec<Curve>,
    /// From a chunk's last sample to its representation, per policy (`--realtime`).
    pub delay: Vec<Curve>,
    /// The most memory held during any run, without the benchmark's own sound, bytes (Linux).
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

    pub(super) fn add_curves(&mut self, candidates: &[Candidate]) {
        for candidate in candidates {
            self.chunk_latency.extend(Curve::of(&candidate.text, &candidate.chunk_latency));
            self.delay.extend(Curve::of(&candidate.text, &candidate.delay));
        }
    }

    /// The policies, in the order in which they ran.
    pub fn policies(&self) -> Vec<&str> {
        let mut names: Vec<&str> = Vec::new();
        for cell in &self.cells {
            if !names.contains(&cell.policy.as_str()) {
                names.push(&cell.policy);
            }
        }
        names
    }

    /// The policies that are no fixed depth: the pack's own first, then DAISY's threshold, then the others.
    pub fn adaptive(&self) -> Vec<&str> {
        let mut names: Vec<&str> =
            self.policies().into_iter().filter(|name| !name.starts_with("fixed") && *name != "never").collect();
        names.sort_by_key(|name| if *name == self.focus() { 0 } else { 1 + u8::from(!name.starts_with("threshold")) });
        names
    }

    /// The policy that matters most: the pack's default, else the last one.
    pub fn focus(&self) -> &str {
        let names = self.policies();
        let own = names.iter().find(|name| name.split(':').next() == Some(self.default_policy.as_str()));
        own.or(names.last()).copied().unwrap_or("never")
    }

    /// The cells of a policy.
    pub fn of<'a>(&'a self, policy: &'a str) -> impl Iterator<Item = &'a Cell> {
        self.cells.iter().filter(move |cell| cell.policy == policy)
    }

    /// A policy's cell under a condition of a kind; the first one.
    pub fn first_of_kind(&self, policy: &str, kind: ConditionKind) -> Option<&Cell> {
        let condition = self.conditions.iter().find(|condition| condition.kind == kind)?;
        self.cells.iter().find(|cell| cell.policy == policy && cell.condition == condition.name)
    }

    /// A policy's mean over the conditions with speech throughout; `None` where `value` is none anywhere.
    pub fn mean(&self, policy: &str, value: impl Fn(&Cell) -> Option<f64>) -> Option<f64> {
        let device = self.conditions.iter().find(|condition| condition.kind == ConditionKind::Device);
        let cells = self.of(policy).filter(|cell| device.is_none_or(|device| device.name != cell.condition));
        let values = cells.map(value).collect::<Option<Vec<f64>>>()?;
        (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
    }

    /// (MACs per second, KL) of every fixed depth, full depth last: means over the conditions with speech, or the device-like stream.
    pub fn fixed_depths(&self, device: bool) -> Vec<(f64, f64)> {
        let fixed = self.policies().into_iter().filter(|name| name.starts_with("fixed") || *name == "never");
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

    /// KL of a fixed depth that costs as much as `policy` does, between the two nearest depths that were measured.
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
        let near = |quantile: f64, wanted: f64| {
            let (_, found) =
                curve.points.iter().min_by(|a, b| (a.0 - quantile).abs().total_cmp(&(b.0 - quantile).abs())).unwrap();
            assert!((found / wanted - 1.0).abs() < 0.01, "{quantile}: {found}");
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
