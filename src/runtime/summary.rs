//! The summary of a run, as text and as JSON.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use super::counters::Counters;
use super::latency::Percentiles;
use super::level::InputLevel;
use super::samples::Samples;
use crate::consumer::StreamInfo;

/// Statistics of a finished or running run.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct Summary {
    /// The source.
    pub source: String,
    /// The pack.
    pub pack: String,
    /// The policy.
    pub policy: String,
    /// Audio processed, seconds.
    pub audio_seconds: f64,
    /// Wall-clock time, seconds.
    pub wall_seconds: f64,
    /// Time spent computing chunks, seconds.
    pub compute_seconds: f64,
    /// compute_seconds / audio_seconds; below 1 is faster than real time.
    pub real_time_factor: f64,
    /// Chunks.
    pub chunks: u64,
    /// Frames.
    pub frames: u64,
    /// Dimensions of a frame.
    pub dim: usize,
    /// Chunks that exited at layer 0, 1, ….
    pub exits: Vec<u64>,
    /// Mean exit layer.
    pub mean_exit_layer: f64,
    /// Layer passes per frame, including gap filling after early exits.
    pub layer_passes_per_frame: f64,
    /// Passes through only the key and value projections, per frame.
    pub projections_per_frame: f64,
    /// MACs of every stage that ran, heads included, per second of audio.
    pub macs_per_second: f64,
    /// Time to compute a chunk.
    pub compute: Percentiles,
    /// Time from the capture of a chunk's last sample to its representation (live sources).
    pub delay: Option<Percentiles>,
    /// Level of the captured audio, before the gain.
    pub level: Option<InputLevel>,
    /// Samples at the source's rate.
    pub samples: Samples,
    /// Overruns reported by the device.
    pub xruns: u64,
    /// Heads whose logits were not finite.
    pub non_finite_heads: u64,
    /// Statistics per consumer.
    pub consumers: Vec<ConsumerSummary>,
}

/// Statistics of a consumer.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct ConsumerSummary {
    /// Name.
    pub name: String,
    /// Representations delivered.
    pub delivered: u64,
    /// Representations dropped because it was too slow, had failed or was closed.
    pub dropped: u64,
    /// Whether the reader of its output closed it.
    pub closed: bool,
    /// Whether it failed.
    pub failed: bool,
}

impl Summary {
    pub(super) fn new(stream: &StreamInfo, counters: &Counters, wall: Duration) -> Self {
        let latencies = counters.latencies();
        let (audio, compute) = (counters.audio().as_secs_f64(), counters.compute().as_secs_f64());
        let per = |value: f64, of: f64| if of > 0.0 { value / of } else { 0.0 };
        let frames = counters.frames() as f64;
        Self {
            source: stream.source.clone(),
            pack: stream.pack.clone(),
            policy: stream.policy.clone(),
            audio_seconds: audio,
            wall_seconds: wall.as_secs_f64(),
            compute_seconds: compute,
            real_time_factor: per(compute, audio),
            chunks: counters.chunks(),
            frames: counters.frames(),
            dim: stream.dim,
            exits: counters.exits(),
            mean_exit_layer: counters.mean_exit_layer().unwrap_or(0.0),
            layer_passes_per_frame: per(counters.layer_frames() as f64, frames),
            projections_per_frame: per(counters.projected_frames() as f64, frames),
            macs_per_second: per(counters.macs() as f64, audio),
            compute: latencies.compute.percentiles().unwrap_or_default(),
            delay: latencies.delay.percentiles(),
            level: counters.level(),
            samples: counters.samples(),
            xruns: counters.xruns(),
            non_finite_heads: counters.non_finite_heads(),
            consumers: counters
                .consumers()
                .iter()
                .map(|c| ConsumerSummary {
                    name: c.name().to_owned(),
                    delivered: c.delivered(),
                    dropped: c.dropped(),
                    closed: c.closed(),
                    failed: c.failed(),
                })
                .collect(),
        }
    }
}

/// Width of the histogram's longest bar.
const BAR: usize = 40;

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} through {} ({})", self.source, self.pack, self.policy)?;
        writeln!(
            f,
            "  audio     {:.2} s, {} chunks, {} frames of {} dimensions",
            self.audio_seconds, self.chunks, self.frames, self.dim
        )?;
        writeln!(
            f,
            "  compute   {:.3} s: real-time factor {:.4} ({:.0} times real time)",
            self.compute_seconds,
            self.real_time_factor,
            if self.real_time_factor > 0.0 { 1.0 / self.real_time_factor } else { 0.0 }
        )?;
        writeln!(f, "  chunk     {}", self.compute)?;
        if let Some(delay) = &self.delay {
            writeln!(f, "  delay     {delay} after the chunk's last sample")?;
        }
        if let Some(level) = &self.level {
            writeln!(f, "  level     {level}")?;
        }
        let Samples { captured, processed, dropped, left, non_finite } = self.samples;
        write!(f, "  samples   {captured} captured = {processed} processed + {dropped} dropped")?;
        if left > 0 {
            write!(f, " + {left} unprocessed after the failure")?;
        }
        match (non_finite, self.xruns) {
            (0, 0) => writeln!(f)?,
            (bad, xruns) => writeln!(f, "; {bad} non-finite (replaced with zeros), {xruns} device overruns")?,
        }
        for ConsumerSummary { name, delivered, dropped, closed, failed } in &self.consumers {
            match (closed, dropped) {
                (false, _) if *failed => writeln!(f, "  consumer  {name}: {delivered} chunks delivered, then failed")?,
                (true, _) => writeln!(f, "  consumer  {name}: {delivered} chunks delivered, then closed by its reader")?,
                (false, 0) => {}
                (false, dropped) => {
                    writeln!(f, "  consumer  {name}: {delivered} chunks delivered, {dropped} dropped (too slow)")?
                }
            }
        }
        if self.non_finite_heads > 0 {
            writeln!(
                f,
                "  warning   {} heads returned non-finite logits; their chunks continued to the next layer",
                self.non_finite_heads
            )?;
        }
        writeln!(
            f,
            "  depth     mean exit layer {:.2} of {}; {:.2} layer passes and {:.2} projections per frame, {:.0} M MACs per second",
            self.mean_exit_layer,
            self.exits.len() - 1,
            self.layer_passes_per_frame,
            self.projections_per_frame,
            self.macs_per_second / 1e6
        )?;
        let most = self.exits.iter().copied().max().unwrap_or(0).max(1) as f64;
        for (count, layer) in self.exits.iter().zip(0..) {
            let bar = "█".repeat((*count as f64 * BAR as f64 / most).ceil() as usize);
            let share = if self.chunks > 0 { 100.0 * *count as f64 / self.chunks as f64 } else { 0.0 };
            writeln!(f, "   layer {layer:>2} {bar:<BAR$} {count:>6} {share:>5.1} %")?;
        }
        Ok(())
    }
}
