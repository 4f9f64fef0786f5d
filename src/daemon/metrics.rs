//! Metrics in Prometheus' text format, read from the live counters at each scrape. docs/daemon.md lists them.

#[cfg(feature = "neighbours")]
mod neighbours;

use std::fmt::Error;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use super::status::{State, Status};
use crate::process;
use crate::runtime::LatencyHistogram;

/// The registry of all metrics.
pub(super) struct Metrics(Registry);

/// Upper bounds of the latency histograms, seconds.
const BOUNDS: [f64; 13] = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.32, 0.5, 1.0, 2.0, 5.0];

impl Metrics {
    pub fn new(status: Arc<Status>) -> Self {
        let mut registry = Registry::default();
        registry.sub_registry_with_prefix("bellis").register_collector(Box::new(Daemon(status)));
        registry.sub_registry_with_prefix("process").register_collector(Box::new(Process));
        Self(registry)
    }

    pub fn text(&self) -> Result<String, Error> {
        let mut text = String::new();
        prometheus_client::encoding::prometheus_text::encode(&mut text, &self.0)?;
        Ok(text)
    }
}

/// Writes metrics whose values were read elsewhere.
struct Out<'a>(DescriptorEncoder<'a>);

impl Out<'_> {
    fn counter(&mut self, name: &str, help: &str, value: u64) -> Result<(), Error> {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        metric.encode_counter::<NoLabelSet, _, u64>(&value, None)
    }

    fn seconds(&mut self, name: &str, help: &str, value: f64) -> Result<(), Error> {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        metric.encode_counter::<NoLabelSet, _, u64>(&value, None)
    }

    fn gauge(&mut self, name: &str, help: &str, value: f64) -> Result<(), Error> {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        metric.encode_gauge(&value)
    }

    /// One counter or gauge per value of a label.
    fn by_label<'l>(
        &mut self,
        kind: MetricType,
        name: &str,
        help: &str,
        label: &str,
        values: impl IntoIterator<Item = (impl AsRef<str> + 'l, f64)>,
    ) -> Result<(), Error> {
        let mut values = values.into_iter().peekable();
        if values.peek().is_none() {
            return Ok(());
        }
        let counts = matches!(kind, MetricType::Counter);
        let mut metric = self.0.encode_descriptor(name, help, None, kind)?;
        for (value_of_label, value) in values {
            let labels = [(label, value_of_label.as_ref())];
            let mut one = metric.encode_family(&labels)?;
            match counts {
                // Counts below 2^53 are exact, and read better without a fraction.
                true => one.encode_counter::<NoLabelSet, _, u64>(&(value as u64), None)?,
                false => one.encode_gauge(&value)?,
            }
        }
        Ok(())
    }

    /// A histogram in seconds.
    fn histogram(&mut self, name: &str, help: &str, of: &LatencyHistogram, sum: f64) -> Result<(), Error> {
        let mut before = 0;
        let mut buckets: Vec<(f64, u64)> = Vec::with_capacity(BOUNDS.len() + 1);
        for bound in BOUNDS {
            let up_to = of.count_up_to(Duration::from_secs_f64(bound));
            buckets.push((bound, up_to - before));
            before = up_to;
        }
        buckets.push((f64::INFINITY, of.count() - before));
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Histogram)?;
        metric.encode_histogram::<NoLabelSet>(sum, of.count(), &buckets, None)
    }
}

#[derive(Debug)]
struct Daemon(Arc<Status>);

impl Collector for Daemon {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let (status, counters) = (&self.0, self.0.counters());
        let mut out = Out(encoder);
        let state = status.state();
        let states = State::ALL.map(|one| (one.name(), f64::from(u8::from(one == state))));
        out.by_label(MetricType::Gauge, "state", "1 for the current state, 0 for the others", "state", states)?;
        let stream = status.stream();
        let mut info = out.0.encode_descriptor("build", "Version of Bellis", None, MetricType::Info)?;
        info.encode_info(&[("version", env!("CARGO_PKG_VERSION"))])?;
        let mut info = out.0.encode_descriptor("stream", "Source, pack and exit policy", None, MetricType::Info)?;
        info.encode_info(&[("source", &stream.source), ("pack", &stream.pack), ("policy", &stream.policy)])?;

        let samples = counters.samples();
        out.counter("samples_captured", "Samples delivered by all sources, at their rates", samples.captured)?;
        out.counter("samples_processed", "Samples read from the ring and processed", samples.processed)?;
        out.counter("samples_dropped", "Samples dropped because the ring was full", samples.dropped)?;
        out.counter("samples_not_finite", "Samples that were NaN or infinite, replaced with zeros", samples.non_finite)?;
        if let (Some(level), Some(recent)) = (counters.level(), counters.recent_level()) {
            out.counter("samples_clipped", "Samples in runs at full scale", level.clipped)?;
            out.gauge("input_peak_dbfs", "Peak of the last complete 10 s, before the gain", recent.peak_dbfs)?;
            out.gauge("input_rms_dbfs", "RMS of the last complete 10 s, before the gain", recent.rms_dbfs)?;
            out.gauge("input_clipped_ratio", "Clipped share of the last complete 10 s", recent.clipped_share)?;
            if let Some(active) = recent.active_dbfs {
                out.gauge("input_active_dbfs", "Active speech level (ITU-T P.56), before the gain", active)?;
            }
        }
        out.gauge("ring_samples", "Samples waiting in the ring", samples.left as f64)?;
        out.gauge("source_rate_hertz", "Sample rate of the current source", f64::from(status.source_rate()))?;
        out.counter("xruns", "Overruns reported by devices: audio lost before it reached Bellis", counters.xruns())?;
        out.counter("source_opened", "Sources opened", status.opened())?;
        out.counter("source_lost", "Sources lost", status.lost())?;
        out.counter("source_open_failures", "Failed attempts to open a source", status.open_failures())?;
        let help = "Streams that hang in their audio server; each holds threads and descriptors";
        out.gauge("source_abandoned_streams", help, crate::audio::abandoned_streams() as f64)?;
        out.seconds("source_absent_seconds", "Time without a source", status.absent().as_secs_f64())?;

        out.counter("chunks", "Chunks processed", counters.chunks())?;
        out.counter("frames", "Frames processed", counters.frames())?;
        out.seconds("audio_seconds", "Audio whose representations have been delivered", counters.audio().as_secs_f64())?;
        let (verification, passes) = counters.verification();
        let help = "Time spent computing chunks and verification passes";
        out.seconds("compute_seconds", help, (counters.compute() + verification).as_secs_f64())?;
        let help = "Time spent in verification passes of keywords";
        out.seconds("verification_seconds", help, verification.as_secs_f64())?;
        out.counter("verification_passes", "Verification passes of keywords at full depth", passes)?;
        let exits: Vec<_> = counters.exits().iter().zip(0..).map(|(count, layer)| (layer.to_string(), *count as f64)).collect();
        out.by_label(MetricType::Counter, "exits", "Chunks by exit layer", "layer", exits)?;
        let by_reason = counters.reasons().map(|(reason, count)| (reason.name(), count as f64));
        out.by_label(MetricType::Counter, "exit_reasons", "Chunks by exit reason", "reason", by_reason)?;
        let shed = counters.reasons().find(|(reason, _)| *reason == crate::exit::Reason::Deadline).map_or(0, |(_, count)| count);
        out.counter("chunks_shed", "Chunks that exited early because of the deadline", shed)?;
        if let Some(depth) = counters.mean_exit_layer() {
            out.gauge("exit_layer_mean", "Mean exit layer since the start", depth)?;
        }
        out.counter("heads_not_finite", "Heads with non-finite logits", counters.non_finite_heads())?;
        let latencies = counters.latencies();
        let help = "Time to compute a chunk";
        out.histogram("chunk_compute_seconds", help, &latencies.compute, counters.compute().as_secs_f64())?;
        let help = "Time from the capture of a chunk's last sample to its representation";
        out.histogram("chunk_delay_seconds", help, &latencies.delay, counters.delay().as_secs_f64())?;

        let consumers = counters.consumers();
        let of = |value: fn(&crate::runtime::ConsumerCounters) -> u64| {
            consumers.iter().map(move |one| (one.label(), value(one) as f64)).collect::<Vec<_>>()
        };
        let (count, gauge, label) = (MetricType::Counter, MetricType::Gauge, "consumer");
        out.by_label(count, "consumer_delivered", "Chunks delivered to a consumer", label, of(|one| one.delivered()))?;
        out.by_label(
            count,
            "consumer_dropped",
            "Chunks dropped because a consumer was too slow or had failed",
            label,
            of(|one| one.dropped()),
        )?;
        out.by_label(gauge, "consumer_queue_chunks", "Chunks queued for a consumer", label, of(|one| one.queued()))?;
        out.by_label(gauge, "consumer_failed", "1 for a failed consumer", label, of(|one| one.failed().into()))?;

        let (reloads, rejected) = status.reloads();
        out.counter("reloads", "Configuration reloads applied", reloads)?;
        out.counter("reloads_rejected", "Configuration reloads rejected", rejected)?;
        out.gauge("event_subscribers", "Subscribers to events", status.events().count() as f64)?;
        out.counter("events_lost", "Events that subscribers were too slow for", status.events().lost())?;
        out.counter("watchdog_pings", "Watchdog pings sent to the service manager", status.pings())?;

        #[cfg(feature = "neighbours")]
        if let Some(roster) = status.neighbours() {
            neighbours::encode(roster, &mut out)?;
        }
        if let Some(bytes) = process::peak_memory() {
            out.gauge("resident_memory_peak_bytes", "Maximum resident memory size so far", bytes as f64)?;
        }
        let reading = status.reading();
        out.by_label(
            MetricType::Gauge,
            "temperature_celsius",
            "Temperatures reported by the board",
            "zone",
            reading.temperatures,
        )?;
        out.by_label(
            MetricType::Gauge,
            "cpu_frequency_hertz",
            "CPU frequencies reported by the board",
            "policy",
            reading.frequencies,
        )?;
        if reading.reports_throttling {
            let throttled = f64::from(u8::from(!reading.throttled.is_empty()));
            out.gauge("throttled", "1 while the board is throttled by heat or low voltage", throttled)?;
            out.counter("throttles", "Number of times that throttling began", status.throttles())?;
        }
        Ok(())
    }
}

/// The process, under the standard names of Prometheus clients.
#[derive(Debug)]
struct Process;

impl Collector for Process {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let mut out = Out(encoder);
        if let Some(time) = process::cpu_time() {
            out.seconds("cpu_seconds", "Total user and system CPU time spent in seconds", time.as_secs_f64())?;
        }
        let gauges = [
            ("start_time_seconds", "Start time of the process since the Unix epoch in seconds", process::start_time()),
            ("resident_memory_bytes", "Resident memory size in bytes", process::resident_memory().map(|bytes| bytes as f64)),
            ("virtual_memory_bytes", "Virtual memory size in bytes", process::virtual_memory().map(|bytes| bytes as f64)),
            ("open_fds", "Number of open file descriptors", process::entries("/proc/self/fd").map(|open| open as f64)),
            ("max_fds", "Maximum number of open file descriptors", process::max_descriptors().map(|limit| limit as f64)),
            ("threads", "Number of threads", process::entries("/proc/self/task").map(|threads| threads as f64)),
        ];
        for (name, help, value) in gauges {
            if let Some(value) = value {
                out.gauge(name, help, value)?;
            }
        }
        Ok(())
    }
}
