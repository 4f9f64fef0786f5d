//! The simulation of MDI-Exit on the bundled recording: `cargo run --release --features neighbours --example neighbours`.
//!
//! Prints the two tables of docs/notes/neighbours.md: what is processed at a fixed threshold, and the agreement at a fixed rate.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bellis::audio::{ChannelPick, decode_file};
use bellis::engine::{Encoder, LoadOptions, Precision};
use bellis::internal::{Chunker, EncoderState, Measurer};
use bellis::neighbour::policy::{Bands, RateAdaptation, ThresholdAdaptation};
use bellis::neighbour::simulation::{Admission, Experiment, Outcome, Strategy, Topology, Trace, run};
use bellis::pack::Pack;

/// Seconds per layer and chunk of 320 ms, HuBERT-base, a window of 1.4 s: 0.5 GMAC per layer at 2.5, 6 and 40 GMAC/s, which is
/// half of what one core of a Zero 2 W and a Pi 4 (f32) and a Pi 5 (int8) can reach. Assumptions, not measurements.
const ZERO_2_W: f64 = 0.2;
const PI_4: f64 = 0.083;
const PI_5: f64 = 0.0125;
/// Bytes of a chunk: states of 768 dimensions of the whole window as int8, PCM with its context as 16 bits, states of one chunk.
const BYTES: [f64; 3] = [70.0 * 772.0, 44_800.0, 16.0 * 772.0];
const SECONDS: f64 = 1800.0;

const STRATEGIES: [(&str, Strategy); 5] = [
    ("MDI-Exit", Strategy::MdiExit),
    ("no exit", Strategy::NoExit),
    ("no neighbours", Strategy::NoNeighbours),
    ("always offload", Strategy::AlwaysOffload),
    ("send the audio", Strategy::SendAudio),
];

fn topologies() -> Vec<(&'static str, Topology)> {
    vec![
        ("local", Topology::mesh(&[PI_4])),
        ("2 nodes", Topology::mesh(&[PI_4, PI_4])),
        ("3-node mesh", Topology::mesh(&[PI_4; 3])),
        ("3-node ring", Topology::ring(&[PI_4; 3])),
        ("5-node mesh", Topology::mesh(&[PI_4; 5])),
        ("Zero 2 W with a Pi 5", Topology::mesh(&[ZERO_2_W, PI_5])),
        ("100 nodes, grid", Topology::grid(&[PI_4; 100], 10)),
    ]
}

/// Confidence and agreement of every chunk of the recording, layer by layer, from the heads of daisy-tiny.
fn traces(encoder: &Arc<Encoder>, audio: &[f32]) -> Result<Vec<Trace>, Box<dyn std::error::Error>> {
    let mut chunker = Chunker::new(encoder, encoder.default_chunk_frames());
    let mut state = EncoderState::new(encoder)?;
    let mut measurer = Measurer::default();
    chunker.push(audio);
    chunker.finish();
    let mut traces = Vec::new();
    while let Some(chunk) = chunker.next_chunk() {
        let mut pass = state.begin(chunk.audio, chunk.span)?;
        let (mut confidence, mut units) = (Vec::new(), Vec::<Vec<usize>>::new());
        measurer.begin_chunk();
        for layer in 1..=encoder.layers() {
            pass.step()?;
            let logits = pass.head()?;
            confidence.push(f64::from(measurer.measure(layer, logits.as_slice(), encoder.units(), false).max_prob));
            let top = |row: &[f32]| (0..row.len()).max_by(|a, b| row[*a].total_cmp(&row[*b])).unwrap_or(0);
            units.push(logits.rows().map(top).collect());
        }
        pass.finish();
        let last = units.last().cloned().unwrap_or_default();
        let same = |layer: &Vec<usize>| layer.iter().zip(&last).filter(|(a, b)| a == b).count() as f64 / last.len().max(1) as f64;
        traces.push(Trace { confidence, agreement: units.iter().map(same).collect() });
    }
    Ok(traces)
}

/// Mean exit layer at the lowest threshold whose mean agreement is at least `least`, and that of a policy that knows where each chunk
/// reaches it.
fn depths(traces: &[Trace], least: f64) -> (f64, f64) {
    let layers = traces.first().map_or(0, |trace| trace.confidence.len());
    let exit =
        |trace: &Trace, passes: &dyn Fn(usize) -> bool| (0..trace.confidence.len()).find(|k| passes(*k)).unwrap_or(layers - 1);
    let mean = |of: &dyn Fn(&Trace) -> f64| traces.iter().map(of).sum::<f64>() / traces.len().max(1) as f64;
    let at = |threshold: f64| {
        let layer = move |trace: &Trace| exit(trace, &|k| trace.confidence[k] >= threshold);
        (mean(&|trace| trace.agreement[layer(trace)]), mean(&|trace| 1.0 + layer(trace) as f64))
    };
    let found = (0..=1000).map(|step| at(f64::from(step) / 1000.0)).find(|(agreement, _)| *agreement >= least);
    let known = mean(&|trace| 1.0 + exit(trace, &|k| trace.agreement[k..].iter().all(|agreement| *agreement >= least)) as f64);
    (found.map_or(layers as f64, |(_, depth)| depth), known)
}

fn experiment(topology: Topology, strategy: Strategy, admission: Admission, megabits: f64, latency: f64) -> Experiment {
    Experiment {
        topology,
        strategy,
        admission,
        threshold: 0.6,
        output_limit: 8,
        bytes: BYTES,
        bytes_per_second: megabits * 125e3,
        latency_seconds: latency,
        publish_seconds: 0.2,
        seconds: SECONDS,
        seed: 1,
    }
}

fn table(title: &str, cell: impl Fn(Topology, Strategy) -> String) {
    println!("{title}\n\n| | {} |\n|---|{}", STRATEGIES.map(|(name, _)| name).join(" | "), "---|".repeat(STRATEGIES.len()));
    for (name, topology) in topologies() {
        let cells: Vec<String> = STRATEGIES.iter().map(|(_, strategy)| cell(topology.clone(), *strategy)).collect();
        println!("| {name} | {} |", cells.join(" | "));
    }
    println!();
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let pack = Pack::open(Path::new("models/daisy-tiny"))?;
    let encoder = Encoder::load(&pack, &LoadOptions::default().precision(Precision::F32))?;
    let (audio, _) = decode_file(Path::new("models/sample.wav"), ChannelPick::MixDown)?;
    let traces = traces(&encoder, &audio)?;
    for least in [0.9, 0.95, 0.99] {
        let (measured, known) = depths(&traces, least);
        let layers = encoder.layers();
        println!(
            "Agreement of {:.0} %: {measured:.2} of {layers} layers by confidence, {known:.2} if the exits were known in advance; at most \
             {:.2} and {:.2} times the data of no exit.",
            100.0 * least,
            layers as f64 / measured,
            layers as f64 / known,
        );
    }
    println!();
    let bands = Bands::default();
    let first = Duration::from_millis(320);
    let rate = Admission::Rate(RateAdaptation { bands, between: (Duration::from_millis(5), Duration::from_secs(30)) }, first);
    for (threshold, megabits, latency) in [(0.6, 10.0, 0.002), (0.4, 10.0, 0.002), (0.4, 1.0, 0.02)] {
        let title =
            format!("Chunks per second at T_e = {threshold}, and their agreement, {megabits} Mbit/s, {} ms:", latency * 1e3);
        table(&title, |topology, strategy| {
            let Outcome { processed, agreement, .. } =
                run(&Experiment { threshold, ..experiment(topology, strategy, rate, megabits, latency) }, &traces);
            format!("{:.2}, {:.1} %", processed as f64 / SECONDS, 100.0 * agreement)
        });
    }
    for (microphones, interval) in [(1, first), (4, first / 4)] {
        let adaptation = ThresholdAdaptation { bands, least: 0.2 };
        let title = format!("Agreement and 95 % delay of {microphones} microphone(s), T_e adapts, 10 Mbit/s, 2 ms:");
        table(&title, |topology, strategy| {
            let admission = Admission::Threshold(adaptation, interval);
            let outcome = run(&experiment(topology, strategy, admission, 10.0, 0.002), &traces);
            match outcome.processed as f64 >= 0.98 * outcome.admitted as f64 {
                true => format!("{:.1} %, {:.1} s", 100.0 * outcome.agreement, outcome.delay_95_seconds),
                false => format!("falls behind ({:.0} %)", 100.0 * outcome.processed as f64 / outcome.admitted as f64),
            }
        });
    }
    Ok(())
}
