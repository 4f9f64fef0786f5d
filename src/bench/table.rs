//! The report as text.

use std::fmt;

use super::device::SegmentKind;
use super::policies::is_fixed_depth;
use super::report::{Cell, ConditionKind, Report};

/// Width of a column of names.
pub(super) fn column<'a>(head: &str, names: impl IntoIterator<Item = &'a str>) -> usize {
    names.into_iter().map(|name| name.chars().count()).chain([head.len()]).max().unwrap_or(0)
}

/// A number, or a dash for `None`.
struct Maybe(Option<f64>, usize);

impl fmt::Display for Maybe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(value) => f.pad(&format!("{value:.*}", self.1)),
            None => f.pad("–"),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let clean = self.conditions.first().map_or(0.0, |condition| condition.seconds);
        writeln!(
            f,
            "{} in {} on {} ({} cores): chunks of {:.0} ms, {clean:.0} s of speech at {} Hz, {} conditions{}\n",
            self.pack,
            self.precision,
            self.machine,
            self.cores,
            self.chunk_ms,
            self.rate,
            self.conditions.len(),
            if self.realtime { ", in real time" } else { "" }
        )?;
        self.policies_table(f)?;
        self.depth_table(f)?;
        self.entropy_table(f)?;
        self.device_table(f)?;
        self.footer(f)
    }
}

impl Report {
    fn policies_table(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = column("policy", self.policies());
        writeln!(
            f,
            "{:<width$} {:>6} {:>8} {:>8} {:>9} {:>8} {:>8} {:>7} {:>7} {:>7} {:>7} {:>7}",
            "policy", "depth", "KL nats", "fixed *", "agreement", "M MAC/s", "CPU s/s", "RTF", "p50 ms", "p90", "p99", "max"
        )?;
        for policy in self.policies() {
            let mean = |value: &dyn Fn(&Cell) -> Option<f64>| self.mean(policy, value);
            let same_cost = self.fixed_at_same_cost(policy, false).filter(|_| self.adaptive().contains(&policy));
            let agreement = mean(&|c| c.agreement).map_or_else(|| "–".to_owned(), |value| format!("{:.1} %", 100.0 * value));
            writeln!(
                f,
                "{policy:<width$} {:>6} {:>8} {:>8} {agreement:>9} {:>8} {:>8} {:>7} {:>7} {:>7} {:>7} {:>7.2}",
                Maybe(mean(&|c| Some(c.depth)), 2),
                Maybe(mean(&|c| c.kl), 4),
                Maybe(same_cost, 4),
                Maybe(mean(&|c| Some(c.macs_per_second / 1e6)), 0),
                Maybe(mean(&|c| c.cpu_seconds_per_second), 4),
                Maybe(mean(&|c| Some(c.real_time_factor)), 4),
                Maybe(mean(&|c| Some(c.chunk_ms.p50)), 2),
                Maybe(mean(&|c| Some(c.chunk_ms.p90)), 2),
                Maybe(mean(&|c| Some(c.chunk_ms.p99)), 2),
                self.with_speech(policy).map(|cell| cell.chunk_ms.max).fold(0.0, f64::max)
            )?;
        }
        writeln!(f, "means over the conditions with speech; * KL of a fixed depth with the same MACs; `never` is full depth")
    }

    fn depth_table(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let adaptive = self.adaptive();
        if adaptive.is_empty() {
            return Ok(());
        }
        let width = column("mean exit layer", self.condition_names());
        write!(f, "\n{:<width$}", "mean exit layer")?;
        adaptive.iter().try_for_each(|name| write!(f, " {name:>11}"))?;
        writeln!(f)?;
        for condition in &self.conditions {
            write!(f, "{:<width$}", condition.name)?;
            for name in &adaptive {
                let depth = self.of(name).find(|cell| cell.condition == condition.name).map(|cell| cell.depth);
                write!(f, " {:>1$}", Maybe(depth, 2), name.chars().count().max(11))?;
            }
            writeln!(f)?;
        }
        Ok(())
    }

    fn condition_names(&self) -> impl Iterator<Item = &str> {
        self.conditions.iter().map(|condition| condition.name.as_str())
    }

    /// Clean speech, the worst case of every noise, and the device-like stream; the JSON has the rest.
    fn entropy_table(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.heads.is_empty() {
            return Ok(());
        }
        let width = column("entropy, nats", self.condition_names());
        let worst = self.conditions.iter().filter_map(|condition| condition.snr).fold(f64::INFINITY, f64::min);
        write!(f, "\n{:<width$}", "entropy, nats")?;
        self.heads.iter().try_for_each(|layer| write!(f, " {layer:>5}"))?;
        writeln!(f)?;
        for condition in self.conditions.iter().filter(|condition| condition.snr.is_none_or(|snr| snr == worst)) {
            write!(f, "{:<width$}", condition.name)?;
            condition.entropy.iter().try_for_each(|entropy| write!(f, " {entropy:>5.2}"))?;
            writeln!(f)?;
        }
        Ok(())
    }

    fn device_table(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(device) = &self.device else { return Ok(()) };
        let width = column("policy", self.policies());
        writeln!(
            f,
            "\ndevice-like stream: 30 % speech, 40 % silence, 30 % noise alone\n{:<width$} {:>6} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8} {:>11} {:>12}",
            "policy", "depth", "speech", "silence", "noise", "KL nats", "fixed *", "CPU s/s", "CPU / clean", "MAC / clean"
        )?;
        for policy in self.policies().into_iter().filter(|name| !is_fixed_depth(name) || *name == "never") {
            let Some(cell) = self.first_of_kind(policy, ConditionKind::Device) else { continue };
            let kind = |kind| Maybe(device.depth(policy, kind, self.chunk_ms / 1e3), 2);
            let same_cost = self.fixed_at_same_cost(policy, true).filter(|_| policy != "never");
            let (cpu, mul) = self.device_over_clean(policy);
            writeln!(
                f,
                "{policy:<width$} {:>6.2} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8} {:>11} {:>12}",
                cell.depth,
                kind(SegmentKind::Speech),
                kind(SegmentKind::Silence),
                kind(SegmentKind::Noise),
                Maybe(cell.kl, 4),
                Maybe(same_cost, 4),
                Maybe(cell.cpu_seconds_per_second, 4),
                Maybe(cpu, 2),
                Maybe(mul, 2),
            )?;
        }
        Ok(())
    }

    /// Cost on the device-like stream relative to clean speech: processor time and MACs.
    pub fn device_over_clean(&self, policy: &str) -> (Option<f64>, Option<f64>) {
        let cells = self.first_of_kind(policy, ConditionKind::Device).zip(self.first_of_kind(policy, ConditionKind::Clean));
        let Some((device, clean)) = cells else { return (None, None) };
        let cpu = device.cpu_seconds_per_second.zip(clean.cpu_seconds_per_second).map(|(device, clean)| device / clean);
        (cpu, Some(device.macs_per_second / clean.macs_per_second))
    }

    fn footer(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for curve in &self.delay {
            let at = |quantile: f64| {
                let near = curve.points.iter().min_by(|a, b| (a.0 - quantile).abs().total_cmp(&(b.0 - quantile).abs()));
                near.map_or(0.0, |(_, milliseconds)| *milliseconds)
            };
            writeln!(
                f,
                "\ndelay from a chunk's last sample to its representation, {}: p50 {:.1}  p90 {:.1}  p99 {:.1}  max {:.1} ms",
                curve.policy,
                at(0.5),
                at(0.9),
                at(0.99),
                at(1.0)
            )?;
        }
        let with_allocations = self.of(self.focus()).find_map(|cell| cell.allocations_per_chunk);
        if let Some(allocations) = with_allocations {
            writeln!(
                f,
                "\nallocations per chunk ({}, clean): {:.0}, {:.0} kB",
                self.focus(),
                allocations.count,
                allocations.bytes / 1e3
            )?;
        }
        let dropped: u64 = self.cells.iter().map(|cell| cell.dropped).sum();
        match dropped {
            0 => writeln!(f, "\nno sample was dropped")?,
            _ => writeln!(f, "\nwarning: {dropped} samples were dropped; this machine is too slow for this pack at this depth")?,
        }
        match self.peak_memory_bytes {
            Some(bytes) => writeln!(
                f,
                "peak memory {:.1} MB (the pack has {:.1} MB on disk)",
                bytes as f64 / 1e6,
                self.pack_bytes as f64 / 1e6
            ),
            None => Ok(()),
        }
    }
}
