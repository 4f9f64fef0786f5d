//! The metrics, in Prometheus' text format: read from the live counters whenever they are asked for. docs/daemon.md lists them.

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

/// Everything that is told, ready to be written.
pub(super) struct Metrics(Registry);

/// Upper bounds of the latency histograms, seconds.
const BOUNDS: [f64; 13] = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.32, 0.5, 1.0, 2.0, 5.0];

impl Metrics {
    pub fn new(status: Arc<Status>) -> Self {
        let mut registry = Registry::default();
        registry.sub_registry_with_prefix("bellis").register_collector(Box::new(Daemon(status.clone())));
        registry.sub_registry_with_prefix("process").register_collector(Box::new(Process(status)));
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
        out.by_label(MetricType::Gauge, "state", "1 for what the daemon is doing, 0 for the rest", "state", states)?;
        let stream = status.stream();
        let mut info = out.0.encode_descriptor("build", "The program", None, MetricType::Info)?;
        info.encode_info(&[("version", env!("CARGO_PKG_VERSION"))])?;
        let mut info = out.0.encode_descriptor("stream", "What is computed", None, MetricType::Info)?;
        info.encode_info(&[("source", &stream.source), ("pack", &stream.pack), ("policy", &stream.policy)])?;

        let samples = counters.samples();
        out.counter("samples_captured", "Samples that sources delivered, at their rates", samples.captured)?;
        out.counter("samples_processed", "Samples that were taken from the ring and computed", samples.processed)?;
        out.counter("samples_dropped", "Samples that found the ring full", samples.dropped)?;
        out.counter("samples_not_finite", "Samples that were no numbers, and were taken as zeros", samples.non_finite)?;
        out.gauge("ring_samples", "Samples that wait in the ring", samples.left as f64)?;
        out.gauge("source_rate_hertz", "Rate of the present source", f64::from(status.source_rate()))?;
        out.counter("xruns", "Overruns that devices reported: sound lost below Bellis", counters.xruns())?;
        out.counter("source_opened", "Sources that were opened", status.opened())?;
        out.counter("source_lost", "Sources that were lost", status.lost())?;
        out.counter("source_not_opened", "Attempts to open a source that failed", status.not_opened())?;
        let help = "Streams that did not close when their sound server died, and hold threads";
        out.counter("source_left_behind", help, crate::audio::abandoned_streams())?;
        out.seconds("source_away_seconds", "Time between sounds without a source", status.away().as_secs_f64())?;

        out.counter("chunks", "Chunks computed", counters.chunks())?;
        out.counter("frames", "Frames computed", counters.frames())?;
        out.seconds("audio_seconds", "Sound whose representation is out", counters.audio().as_secs_f64())?;
        out.seconds("compute_seconds", "Time spent on computing chunks", counters.compute().as_secs_f64())?;
        let exits: Vec<_> = counters.exits().iter().zip(0..).map(|(count, layer)| (layer.to_string(), *count as f64)).collect();
        out.by_label(MetricType::Counter, "exits", "Chunks by the layer after which they stopped", "layer", exits)?;
        let by_reason = counters.reasons().map(|(reason, count)| (reason.name(), count as f64));
        out.by_label(MetricType::Counter, "exit_reasons", "Chunks by the reason why they stopped", "reason", by_reason)?;
        let shed = counters.reasons().find(|(reason, _)| *reason == crate::exit::Reason::Deadline).map_or(0, |(_, count)| count);
        out.counter("chunks_shed", "Chunks that stopped early for their deadline: load took layers from them", shed)?;
        if let Some(depth) = counters.mean_exit_layer() {
            out.gauge("exit_layer_mean", "Mean exit layer since the start", depth)?;
        }
        out.counter("heads_not_finite", "Heads whose logits were not finite", counters.non_finite_heads())?;
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
        out.by_label(count, "consumer_delivered", "Chunks that a consumer took", label, of(|one| one.delivered()))?;
        out.by_label(count, "consumer_dropped", "Chunks that a consumer was too slow for", label, of(|one| one.dropped()))?;
        out.by_label(gauge, "consumer_queue_chunks", "Chunks that wait for a consumer", label, of(|one| one.queued()))?;
        out.by_label(gauge, "consumer_failed", "1 for a consumer that has failed", label, of(|one| one.failed().into()))?;

        let (reloads, refused) = status.reloads();
        out.counter("reloads", "Configurations that took effect", reloads)?;
        out.counter("reloads_refused", "Configurations that were refused", refused)?;
        out.counter("watchdog_pings", "Pings of the watchdog", status.pings())?;

        let reading = status.reading();
        out.by_label(MetricType::Gauge, "temperature_celsius", "What the board shows", "zone", reading.temperatures)?;
        out.by_label(MetricType::Gauge, "cpu_frequency_hertz", "What the board shows", "policy", reading.frequencies)?;
        if reading.shows_throttling {
            let throttled = f64::from(u8::from(!reading.throttled.is_empty()));
            out.gauge("throttled", "1 while the board slows down: heat, or too little voltage", throttled)?;
            out.counter("throttles", "Times that the board began to slow down", status.throttles())?;
        }
        Ok(())
    }
}

/// The process, by the names that every Prometheus client gives.
#[derive(Debug)]
struct Process(Arc<Status>);

impl Collector for Process {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let mut out = Out(encoder);
        out.gauge("uptime_seconds", "Time since the start", self.0.uptime().as_secs_f64())?;
        if let Some(time) = process::cpu_time() {
            out.seconds("cpu_seconds", "Processor time, user and system", time.as_secs_f64())?;
        }
        if let Some(bytes) = process::resident_memory() {
            out.gauge("resident_memory_bytes", "Resident memory", bytes as f64)?;
        }
        if let Some(bytes) = process::peak_memory() {
            out.gauge("resident_memory_peak_bytes", "The most resident memory ever", bytes as f64)?;
        }
        if let Some(threads) = process::entries("/proc/self/task") {
            out.gauge("threads", "Threads", threads as f64)?;
        }
        if let Some(open) = process::entries("/proc/self/fd") {
            out.gauge("open_fds", "Open file descriptors", open as f64)?;
        }
        Ok(())
    }
}
