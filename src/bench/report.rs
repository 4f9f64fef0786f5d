//! The numbers of a benchmark: JSON for machines, a table for people, two runs side by side.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Plan, usage};
use crate::pack::Pack;
use crate::runtime::{Percentiles, Summary};

/// What was mixed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Condition {
    /// For people.
    pub name: String,
    /// Kind of noise; none for clean speech.
    pub noise: Option<String>,
    /// Ratio, dB.
    pub snr: Option<f64>,
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
    /// Chunks that stopped after layer 1, 2, …
    pub exits: Vec<u64>,
    /// Mean KL(p_L ‖ p_exit), nats.
    pub kl: f64,
    /// Share of frames whose likeliest unit is full depth's.
    pub agreement: f64,
    /// Multiply-adds per second of sound.
    pub multiply_adds_per_second: f64,
    /// Processor seconds per second of sound, all threads.
    pub cpu_seconds_per_second: Option<f64>,
    /// Computing time per second of sound.
    pub real_time_factor: f64,
    /// Computing one chunk, milliseconds.
    pub chunk_ms: Percentiles,
    /// From a chunk's last sample to its representation, milliseconds (`--realtime`).
    pub delay_ms: Option<Percentiles>,
    /// Samples dropped.
    pub dropped: u64,
}

impl Cell {
    pub(super) fn new(condition: &Condition, policy: &str, summary: &Summary, cpu: Option<f64>, kl: f64, agreement: f64) -> Self {
        Self {
            condition: condition.name.clone(),
            policy: policy.to_owned(),
            policy_with_numbers: summary.policy.clone(),
            depth: summary.mean_exit_layer,
            exits: summary.exits.clone(),
            kl,
            agreement,
            multiply_adds_per_second: summary.multiply_adds_per_second,
            cpu_seconds_per_second: cpu.map(|cpu| cpu / summary.audio_seconds.max(1e-9)),
            real_time_factor: summary.real_time_factor,
            chunk_ms: summary.compute,
            delay_ms: summary.delay,
            dropped: summary.samples.dropped,
        }
    }
}

/// A whole benchmark.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Report {
    /// Bellis's version.
    pub bellis: String,
    /// The processor or board.
    pub machine: String,
    /// Its cores.
    pub cores: usize,
    /// The pack's name.
    pub pack: String,
    /// Its layers.
    pub layers: usize,
    /// Length of a chunk, milliseconds.
    pub chunk_ms: f64,
    /// Speech in each condition, seconds.
    pub speech_seconds: f64,
    /// Whether sound came at its own pace.
    pub realtime: bool,
    /// What was mixed.
    pub conditions: Vec<Condition>,
    /// Per condition: mean entropy of every layer's head at full depth, nats.
    pub entropy_by_layer: Vec<Vec<f64>>,
    /// Every policy under every condition.
    pub cells: Vec<Cell>,
    /// The most memory that the process held, bytes.
    pub peak_memory_bytes: Option<u64>,
}

impl Report {
    pub(super) fn new(pack: &Pack, plan: &Plan, conditions: &[Condition]) -> Self {
        let (audio, encoder) = (&pack.manifest.audio, &pack.manifest.encoder);
        let (machine, cores) = usage::machine();
        Self {
            bellis: env!("CARGO_PKG_VERSION").to_owned(),
            machine,
            cores,
            pack: pack.manifest.name.clone(),
            layers: encoder.layers,
            chunk_ms: plan.chunk_frames as f64 * audio.hop as f64 * 1e3 / f64::from(audio.sample_rate),
            speech_seconds: plan.speech.samples.len() as f64 / f64::from(audio.sample_rate),
            realtime: plan.realtime,
            conditions: conditions.to_vec(),
            entropy_by_layer: Vec::new(),
            cells: Vec::new(),
            peak_memory_bytes: None,
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

    /// The cells of a policy.
    pub fn of<'a>(&'a self, policy: &'a str) -> impl Iterator<Item = &'a Cell> {
        self.cells.iter().filter(move |cell| cell.policy == policy)
    }

    /// A policy's mean over the conditions.
    pub fn mean(&self, policy: &str, value: impl Fn(&Cell) -> f64) -> f64 {
        let (mut sum, mut count) = (0.0, 0u32);
        for cell in self.of(policy) {
            sum += value(cell);
            count += 1;
        }
        sum / f64::from(count.max(1))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} on {} ({} cores), bellis {}", self.pack, self.machine, self.cores, self.bellis)?;
        writeln!(
            f,
            "{:.0} s of speech in each of {} conditions, chunks of {:.0} ms",
            self.speech_seconds,
            self.conditions.len(),
            self.chunk_ms
        )?;
        writeln!(f)?;
        writeln!(f, "mean over all conditions")?;
        writeln!(
            f,
            "{:<14} {:>6} {:>8} {:>10} {:>8} {:>9} {:>8} {:>8} {:>8}",
            "policy", "depth", "KL nats", "agreement", "M mul/s", "CPU s/s", "p50 ms", "p99 ms", "max ms"
        )?;
        let full = self.mean("never", |cell| cell.multiply_adds_per_second);
        for policy in self.policies() {
            let mean = |value: &dyn Fn(&Cell) -> f64| self.mean(policy, value);
            writeln!(
                f,
                "{policy:<14} {:>6.2} {:>8.4} {:>8.1} % {:>8.0} {:>9.4} {:>8.2} {:>8.2} {:>8.2}",
                mean(&|c| c.depth),
                mean(&|c| c.kl),
                100.0 * mean(&|c| c.agreement),
                mean(&|c| c.multiply_adds_per_second) / 1e6,
                mean(&|c| c.cpu_seconds_per_second.unwrap_or(f64::NAN)),
                mean(&|c| c.chunk_ms.p50),
                mean(&|c| c.chunk_ms.p99),
                self.of(policy).map(|cell| cell.chunk_ms.max).fold(0.0, f64::max)
            )?;
        }
        writeln!(f, "(full depth: {:.0} M multiply-adds a second)", full / 1e6)?;
        let adaptive: Vec<&str> =
            self.policies().into_iter().filter(|name| !name.starts_with("fixed") && *name != "never").collect();
        if !adaptive.is_empty() {
            writeln!(f)?;
            write!(f, "mean exit layer  ")?;
            adaptive.iter().try_for_each(|name| write!(f, " {name:>11}"))?;
            writeln!(f)?;
            for condition in &self.conditions {
                write!(f, "{:<17}", condition.name)?;
                for name in &adaptive {
                    let depth = self.of(name).find(|cell| cell.condition == condition.name).map_or(f64::NAN, |cell| cell.depth);
                    write!(f, " {depth:>11.2}")?;
                }
                writeln!(f)?;
            }
        }
        if let Some(delay) = self.cells.iter().find_map(|cell| cell.delay_ms.as_ref()) {
            writeln!(f, "\ndelay after a chunk's last sample ({}): {delay}", self.cells[0].policy)?;
        }
        let dropped: u64 = self.cells.iter().map(|cell| cell.dropped).sum();
        if dropped > 0 {
            writeln!(f, "\nwarning: {dropped} samples were dropped: this machine is too slow for this pack at this depth")?;
        }
        match self.peak_memory_bytes {
            Some(bytes) => writeln!(f, "\npeak memory {:.1} MB, the benchmark's own sound included", bytes as f64 / 1e6),
            None => Ok(()),
        }
    }
}

/// Two reports side by side.
#[derive(Debug)]
pub struct Compared<'a>(pub &'a Report, pub &'a Report);

impl fmt::Display for Compared<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(a, b) = self;
        for (name, report) in [("A", a), ("B", b)] {
            writeln!(
                f,
                "{name}: {} on {} ({} cores), {:.0} ms chunks, bellis {}",
                report.pack, report.machine, report.cores, report.chunk_ms, report.bellis
            )?;
        }
        writeln!(
            f,
            "\n{:<14} {:>15} {:>19} {:>23} {:>27}",
            "policy", "depth A    B", "KL A       B", "CPU s/s A     B   B/A", "p99 ms A      B   B/A"
        )?;
        let known = b.policies();
        for policy in a.policies().into_iter().filter(|policy| known.contains(policy)) {
            let both = |value: &dyn Fn(&Cell) -> f64| (a.mean(policy, value), b.mean(policy, value));
            let (depth, kl) = (both(&|c| c.depth), both(&|c| c.kl));
            let (cpu, p99) = (both(&|c| c.cpu_seconds_per_second.unwrap_or(f64::NAN)), both(&|c| c.chunk_ms.p99));
            writeln!(
                f,
                "{policy:<14} {:>8.2} {:>6.2} {:>10.4} {:>8.4} {:>9.4} {:>7.4} {:>5.2} {:>12.2} {:>8.2} {:>5.2}",
                depth.0,
                depth.1,
                kl.0,
                kl.1,
                cpu.0,
                cpu.1,
                cpu.1 / cpu.0,
                p99.0,
                p99.1,
                p99.1 / p99.0
            )?;
        }
        Ok(())
    }
}
