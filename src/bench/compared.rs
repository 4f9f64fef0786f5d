//! Comparison of two reports.

use std::fmt;

use super::report::{Cell, Report};
use super::table::column;

/// Two reports, of two boards, packs or versions.
#[derive(Debug)]
pub struct Compared<'a>(pub &'a Report, pub &'a Report);

/// A policy in both reports: means over their common conditions.
#[derive(Debug)]
pub struct Row<'a> {
    /// The policy.
    pub policy: &'a str,
    /// Mean exit layer.
    pub depth: (f64, f64),
    /// KL from full depth, nats.
    pub kl: Option<(f64, f64)>,
    /// MACs per second of audio.
    pub macs: (f64, f64),
    /// Processor seconds per second of audio.
    pub cpu: Option<(f64, f64)>,
    /// Time to compute a chunk, 99th percentile, milliseconds.
    pub p99: (f64, f64),
}

impl<'a> Compared<'a> {
    /// Common conditions.
    pub fn conditions(&self) -> Vec<&'a str> {
        let known = |name: &str| self.1.conditions.iter().any(|condition| condition.name == name);
        self.0.conditions.iter().map(|condition| condition.name.as_str()).filter(|name| known(name)).collect()
    }

    /// Common policies.
    pub fn rows(&self) -> Vec<Row<'a>> {
        let Self(a, b) = *self;
        let (conditions, known) = (self.conditions(), b.policies());
        let mean = |report: &Report, policy: &str, value: &dyn Fn(&Cell) -> Option<f64>| {
            let cells = report.of(policy).filter(|cell| conditions.contains(&cell.condition.as_str()));
            let values = cells.map(value).collect::<Option<Vec<f64>>>()?;
            (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
        };
        let row = |policy: &'a str| {
            let both = |value: &dyn Fn(&Cell) -> Option<f64>| mean(a, policy, value).zip(mean(b, policy, value));
            Some(Row {
                policy,
                depth: both(&|c| Some(c.depth))?,
                kl: both(&|c| c.kl),
                macs: both(&|c| Some(c.macs_per_second))?,
                cpu: both(&|c| c.cpu_seconds_per_second),
                p99: both(&|c| Some(c.chunk_ms.p99))?,
            })
        };
        a.policies().into_iter().filter(|policy| known.contains(policy)).filter_map(row).collect()
    }

    /// One-line description of each side.
    pub fn titles(&self) -> [String; 2] {
        [self.0, self.1].map(|report| {
            format!(
                "{} in {} on {} ({} cores), {:.0} ms chunks, bellis {}",
                report.pack, report.precision, report.machine, report.cores, report.chunk_ms, report.bellis
            )
        })
    }
}

impl fmt::Display for Compared<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, title) in ["A", "B"].iter().zip(self.titles()) {
            writeln!(f, "{name}: {title}")?;
        }
        let rows = self.rows();
        let width = column("policy", rows.iter().map(|row| row.policy));
        writeln!(
            f,
            "\n{:<width$} {:>15} {:>19} {:>23} {:>27}",
            "policy", "depth A    B", "KL A       B", "CPU s/s A     B   B/A", "p99 ms A      B   B/A"
        )?;
        for row in &rows {
            let (kl, cpu) = (row.kl.unwrap_or((f64::NAN, f64::NAN)), row.cpu.unwrap_or((f64::NAN, f64::NAN)));
            writeln!(
                f,
                "{:<width$} {:>8.2} {:>6.2} {:>10.4} {:>8.4} {:>9.4} {:>7.4} {:>5.2} {:>12.2} {:>8.2} {:>5.2}",
                row.policy,
                row.depth.0,
                row.depth.1,
                kl.0,
                kl.1,
                cpu.0,
                cpu.1,
                cpu.1 / cpu.0,
                row.p99.0,
                row.p99.1,
                row.p99.1 / row.p99.0
            )?;
        }
        if rows.is_empty() {
            writeln!(f, "(the reports have no policy in common)")?;
        }
        Ok(())
    }
}
