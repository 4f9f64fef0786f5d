//! Metrics of neighbours, and of the worker of this node.

use std::fmt::Error;

use prometheus_client::metrics::MetricType;

use super::Out;
use crate::neighbour::{NeighbourStatus, Roster};

/// Name, help and value of a metric per neighbour.
type Metric<T> = (&'static str, &'static str, fn(&NeighbourStatus) -> T);

pub(super) fn encode(roster: &Roster, out: &mut Out<'_>) -> Result<(), Error> {
    let all = roster.status();
    let counters: [Metric<u64>; 7] = [
        ("neighbour_sent", "Chunks sent to a neighbour", |one| one.counts.sent),
        ("neighbour_returned", "Chunks whose result came in time", |one| one.counts.returned),
        ("neighbour_late", "Chunks whose result did not come by their deadline", |one| one.counts.late),
        ("neighbour_refused", "Chunks that a neighbour refused, or whose answer was unreadable", |one| one.counts.refused),
        ("neighbour_layers", "Layers that a neighbour ran for returned chunks", |one| one.counts.layers),
        ("neighbour_sent_bytes", "Bytes of tasks sent to a neighbour", |one| one.counts.bytes_sent),
        ("neighbour_received_bytes", "Bytes of answers from a neighbour", |one| one.counts.bytes_received),
    ];
    for (name, help, value) in counters {
        let values = all.iter().map(|one| (one.name.as_str(), value(one) as f64));
        out.by_label(MetricType::Counter, name, help, "neighbour", values)?;
    }
    let gauges: [Metric<f64>; 6] = [
        ("neighbour_present", "1 for a neighbour that is present", |one| f64::from(u8::from(one.present))),
        ("neighbour_compute_seconds", "Mean time per task there", |one| one.compute_seconds),
        ("neighbour_transfer_seconds", "Mean time for the way there and back", |one| one.transfer_seconds),
        ("neighbour_input_tasks", "Its input queue", |one| one.input as f64),
        ("neighbour_output_tasks", "Its output queue", |one| one.output as f64),
        ("neighbour_in_flight_chunks", "Chunks that are there now", |one| one.sent_now as f64),
    ];
    for (name, help, value) in gauges {
        out.by_label(MetricType::Gauge, name, help, "neighbour", all.iter().map(|one| (one.name.as_str(), value(one))))?;
    }
    let help = "Messages of neighbours that could not be read";
    out.counter("neighbour_unreadable", help, roster.unreadable())?;
    let (adapted, factor) = roster.adaptation();
    out.counter("chunks_adapted", "Chunks with raised thresholds because live audio waited", adapted)?;
    out.gauge("threshold_factor", "Factor of the policy's thresholds", f64::from(factor))?;
    let own = roster.own();
    let (answered, refused) = own.totals();
    out.counter("worker_computed", "Tasks computed for other nodes", answered)?;
    out.counter("worker_refused", "Tasks of other nodes refused", refused)?;
    let load = own.load();
    out.gauge("worker_input_tasks", "Tasks that wait or run here, with chunks of this node that wait", load.input as f64)?;
    out.gauge("worker_compute_seconds", "Mean time per task here", load.compute_seconds)
}
