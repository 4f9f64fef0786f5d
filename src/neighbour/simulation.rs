//! A discrete-event simulation of MDI-Exit: nodes, links and queues in simulated time, with the rules of [`policy`](super::policy).
//!
//! A datum is a chunk of audio. Its tasks are layers; each is computed by the node that holds the chunk at that moment. Nodes know the
//! last published queues of each other.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::Duration;

use super::policy::{Draws, Load, Placement, RateAdaptation, ThresholdAdaptation, offload_probability, place};

/// Outputs of the heads for one recorded chunk, layer by layer, which determine the exits of simulated chunks.
#[derive(Debug, Clone, PartialEq)]
pub struct Trace {
    /// Confidence after layer 1, 2, …, 0 to 1; a chunk exits where it is at least T_e.
    pub confidence: Vec<f64>,
    /// Share of its frames whose unit after that layer is that of the last layer.
    pub agreement: Vec<f64>,
}

/// Nodes and the links between them. Node 0 is the source.
#[derive(Debug, Clone, PartialEq)]
pub struct Topology {
    /// Time of each node per layer and chunk, seconds.
    pub layer_seconds: Vec<f64>,
    /// Neighbours of each node.
    pub links: Vec<Vec<usize>>,
}

impl Topology {
    /// A full mesh; one node is `local`.
    pub fn mesh(layer_seconds: &[f64]) -> Self {
        let nodes = layer_seconds.len();
        let links = (0..nodes).map(|node| (0..nodes).filter(|other| *other != node).collect()).collect();
        Self { layer_seconds: layer_seconds.to_vec(), links }
    }

    /// A ring, in which each node sends to the next one only.
    pub fn ring(layer_seconds: &[f64]) -> Self {
        let nodes = layer_seconds.len();
        Self { layer_seconds: layer_seconds.to_vec(), links: (0..nodes).map(|node| vec![(node + 1) % nodes]).collect() }
    }

    /// A grid of `width` columns, in which horizontally and vertically adjacent nodes are neighbours.
    pub fn grid(layer_seconds: &[f64], width: usize) -> Self {
        let nodes = layer_seconds.len();
        let beside = |node: usize| {
            let (row, column) = (node / width, node % width);
            (0..nodes).filter(|&other| row.abs_diff(other / width) + column.abs_diff(other % width) == 1).collect()
        };
        Self { layer_seconds: layer_seconds.to_vec(), links: (0..nodes).map(beside).collect() }
    }

    /// Number of hops from every node to the source; `None` if there is no path.
    fn hops(&self) -> Vec<Option<usize>> {
        let mut hops: Vec<Option<usize>> = self.links.iter().map(|_| None).collect();
        hops[0] = Some(0);
        for distance in 0..self.links.len() {
            for node in 0..self.links.len() {
                let reaches = |&next: &usize| hops[next] == Some(distance);
                if hops[node].is_none() && self.links[node].iter().any(reaches) {
                    hops[node] = Some(distance + 1);
                }
            }
        }
        hops
    }
}

/// Where tasks run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strategy {
    /// MDI-Exit.
    MdiExit,
    /// MDI-Exit's offloading without early exit.
    NoExit,
    /// Early exit on the source only.
    NoNeighbours,
    /// Every chunk continues on a neighbour after its first layer, the one with the shortest published queue.
    AlwaysOffload,
    /// The audio is sent to a neighbour, which runs all layers with early exit.
    SendAudio,
}

/// The quantity that adapts to the queues of the source.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Admission {
    /// The threshold is fixed; the time between chunks adapts, starting with this one.
    Rate(RateAdaptation, Duration),
    /// Chunks arrive at this interval; the threshold adapts.
    Threshold(ThresholdAdaptation, Duration),
    /// Neither adapts.
    Fixed(Duration),
}

/// One experiment.
#[derive(Debug, Clone, PartialEq)]
pub struct Experiment {
    /// Nodes and links.
    pub topology: Topology,
    /// Where tasks run.
    pub strategy: Strategy,
    /// The adaptation.
    pub admission: Admission,
    /// Confidence T_e from which a chunk exits, or its initial value if it adapts.
    pub threshold: f64,
    /// Length of the output queue above which tasks stay.
    pub output_limit: usize,
    /// Bytes of a chunk's states, of its audio, and of its result.
    pub bytes: [f64; 3],
    /// Bandwidth of every link, in each direction.
    pub bytes_per_second: f64,
    /// Latency of every link, one way.
    pub latency_seconds: f64,
    /// Interval at which nodes publish their queues.
    pub publish_seconds: f64,
    /// End of the simulation.
    pub seconds: f64,
    /// Seed of the random numbers.
    pub seed: u64,
}

/// Result of an experiment.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Outcome {
    /// Chunks admitted.
    pub admitted: u64,
    /// Chunks whose result has reached the source.
    pub processed: u64,
    /// Chunks that were in a queue, a processor or a link at the end.
    pub unfinished: u64,
    /// Chunks by exit layer.
    pub exits: Vec<u64>,
    /// Mean agreement of processed chunks with full depth.
    pub agreement: f64,
    /// Mean time from a chunk's arrival to its result, seconds.
    pub delay_seconds: f64,
    /// 95th percentile of that time, seconds.
    pub delay_95_seconds: f64,
    /// Tasks (layers) computed by each node.
    pub tasks: Vec<u64>,
    /// Bytes sent over all links.
    pub bytes: f64,
    /// T_e at the end.
    pub threshold: f64,
    /// Longest queue of a node.
    pub longest_queue: usize,
}

/// A chunk in progress: recorded chunk, layers that have run, arrival time.
#[derive(Debug, Clone, Copy)]
struct Chunk {
    trace: usize,
    depth: usize,
    came: f64,
    /// The node that sent it to the present one, to which it does not return.
    from: Option<usize>,
}

#[derive(Debug, Clone, Copy)]
enum Event {
    /// Of the given number: an arrival that was brought forward leaves its first date without effect.
    Arrival(u64),
    Computed(usize),
    Arrived(usize, Chunk),
    LinkFree(usize, usize),
    Publish(usize),
    Returned(Chunk),
}

/// Events in the order of their times, and of their creation for equal times.
struct Timed(f64, u64, Event);

impl PartialEq for Timed {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Timed {}

impl PartialOrd for Timed {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Timed {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.total_cmp(&other.0).then(self.1.cmp(&other.1))
    }
}

#[derive(Debug, Clone, Default)]
struct Node {
    input: VecDeque<Chunk>,
    output: VecDeque<Chunk>,
    running: Option<Chunk>,
    published: Load,
    tasks: u64,
}

struct Simulation<'a> {
    experiment: &'a Experiment,
    traces: &'a [Trace],
    nodes: Vec<Node>,
    hops: Vec<Option<usize>>,
    busy: Vec<Vec<bool>>,
    events: BinaryHeap<Reverse<Timed>>,
    created: u64,
    now: f64,
    draws: Draws,
    threshold: f64,
    interval: Duration,
    /// Number of the next arrival.
    next_arrival: u64,
    delays: Vec<f64>,
    in_links: u64,
    outcome: Outcome,
}

/// Runs `experiment` with chunks that follow `traces` cyclically.
///
/// # Panics
///
/// Without traces, with traces of no layers, or without nodes.
pub fn run(experiment: &Experiment, traces: &[Trace]) -> Outcome {
    let layers = traces[0].confidence.len();
    assert!(layers > 0 && traces.iter().all(|trace| trace.confidence.len() == layers && trace.agreement.len() == layers));
    let nodes = experiment.topology.links.len();
    let interval = match experiment.admission {
        Admission::Rate(_, interval) | Admission::Threshold(_, interval) | Admission::Fixed(interval) => interval,
    };
    let mut simulation = Simulation {
        experiment,
        traces,
        nodes: vec![Node::default(); nodes],
        hops: experiment.topology.hops(),
        busy: vec![vec![false; nodes]; nodes],
        events: BinaryHeap::new(),
        created: 0,
        now: 0.0,
        draws: Draws::new(experiment.seed),
        threshold: experiment.threshold,
        interval,
        next_arrival: 0,
        delays: Vec::new(),
        in_links: 0,
        outcome: Outcome { exits: vec![0; layers + 1], ..Outcome::default() },
    };
    simulation.run();
    simulation.finish()
}

impl Simulation<'_> {
    fn at(&mut self, seconds: f64, event: Event) {
        self.created += 1;
        self.events.push(Reverse(Timed(self.now + seconds, self.created, event)));
    }

    fn run(&mut self) {
        self.at(0.0, Event::Arrival(0));
        for node in 0..self.nodes.len() {
            // Staggered, so that nodes do not publish at the same moment.
            let offset = self.draws.next_unit() * self.experiment.publish_seconds;
            self.at(offset, Event::Publish(node));
        }
        while let Some(Reverse(Timed(time, _, event))) = self.events.pop() {
            if time > self.experiment.seconds {
                break;
            }
            self.now = time;
            match event {
                Event::Arrival(number) if number == self.next_arrival => self.arrival(),
                Event::Arrival(_) => {}
                Event::Computed(node) => self.computed(node),
                Event::Arrived(node, chunk) => {
                    self.in_links -= 1;
                    self.nodes[node].input.push_back(chunk);
                    self.start(node);
                }
                Event::LinkFree(from, to) => {
                    self.busy[from][to] = false;
                    self.offer(from);
                    self.admit_if_idle();
                }
                Event::Publish(node) => {
                    self.nodes[node].published = self.load(node);
                    self.at(self.experiment.publish_seconds, Event::Publish(node));
                    // Publishes the queues to its neighbours.
                    (0..self.nodes.len())
                        .filter(|other| self.experiment.topology.links[*other].contains(&node))
                        .for_each(|other| self.offer(other));
                }
                Event::Returned(chunk) => self.returned(chunk),
            }
        }
    }

    /// Queues and mean time per task of a node; the running task counts as waiting.
    fn load(&self, node: usize) -> Load {
        let Node { input, output, running, .. } = &self.nodes[node];
        let compute_seconds = self.experiment.topology.layer_seconds[node];
        Load { input: input.len() + usize::from(running.is_some()), output: output.len(), compute_seconds }
    }

    fn arrival(&mut self) {
        let queue = self.nodes[0].input.len() + self.nodes[0].output.len();
        match self.experiment.admission {
            Admission::Rate(adaptation, _) => self.interval = adaptation.next(self.interval, queue),
            Admission::Threshold(adaptation, _) => self.threshold = adaptation.next(self.threshold, queue),
            Admission::Fixed(_) => {}
        }
        let trace = self.outcome.admitted as usize % self.traces.len();
        self.outcome.admitted += 1;
        let chunk = Chunk { trace, depth: 0, came: self.now, from: None };
        let placement = match self.experiment.strategy {
            // The first layer is a task as any other: the audio may leave before it.
            Strategy::MdiExit | Strategy::NoExit => place(&self.load(0), self.experiment.output_limit),
            Strategy::SendAudio if !self.experiment.topology.links[0].is_empty() => Placement::Output,
            _ => Placement::Input,
        };
        match placement {
            Placement::Output => self.nodes[0].output.push_back(chunk),
            Placement::Input => self.nodes[0].input.push_back(chunk),
        }
        self.next_arrival += 1;
        self.at(self.interval.as_secs_f64(), Event::Arrival(self.next_arrival));
        self.start(0);
        self.offer(0);
    }

    /// With rate adaptation, a source with empty queues admits the next chunk at once. Otherwise, an interval that a long queue has
    /// stretched would leave nodes idle after the queue is gone.
    fn admit_if_idle(&mut self) {
        let Node { input, output, .. } = &self.nodes[0];
        if matches!(self.experiment.admission, Admission::Rate(..)) && input.is_empty() && output.is_empty() {
            self.next_arrival += 1;
            self.at(0.0, Event::Arrival(self.next_arrival));
        }
    }

    /// Starts the next task of an idle node.
    fn start(&mut self, node: usize) {
        let state = &mut self.nodes[node];
        self.outcome.longest_queue = self.outcome.longest_queue.max(state.input.len() + state.output.len());
        if state.running.is_some() {
            return;
        }
        // An idle node takes back what it offers, unless the strategy is to send everything.
        let takes_back = matches!(self.experiment.strategy, Strategy::MdiExit | Strategy::NoExit);
        let next = state.input.pop_front().or_else(|| if takes_back { state.output.pop_front() } else { None });
        if let Some(chunk) = next {
            state.running = Some(chunk);
            self.at(self.experiment.topology.layer_seconds[node], Event::Computed(node));
        }
    }

    fn computed(&mut self, node: usize) {
        let Some(mut chunk) = self.nodes[node].running.take() else { return };
        chunk.depth += 1;
        self.nodes[node].tasks += 1;
        let trace = &self.traces[chunk.trace];
        let exits = self.experiment.strategy != Strategy::NoExit && trace.confidence[chunk.depth - 1] >= self.threshold;
        if exits || chunk.depth == trace.confidence.len() {
            let hops = self.hops[node].unwrap_or(0) as f64;
            let [_, _, result] = self.experiment.bytes;
            self.outcome.bytes += hops * result;
            self.in_links += 1;
            let way = self.experiment.latency_seconds + result / self.experiment.bytes_per_second;
            self.at(hops * way, Event::Returned(chunk));
        } else {
            let placement = match self.experiment.strategy {
                Strategy::NoNeighbours | Strategy::SendAudio => Placement::Input,
                Strategy::AlwaysOffload if node == 0 && !self.experiment.topology.links[0].is_empty() => Placement::Output,
                Strategy::AlwaysOffload => Placement::Input,
                Strategy::MdiExit | Strategy::NoExit => place(&self.load(node), self.experiment.output_limit),
            };
            match placement {
                // A chunk that continues is first, because it is the oldest.
                Placement::Input => self.nodes[node].input.push_front(chunk),
                Placement::Output => self.nodes[node].output.push_back(chunk),
            }
        }
        self.start(node);
        self.offer(node);
        self.admit_if_idle();
    }

    /// Sends the head of the output queue as long as the rule selects a neighbour.
    fn offer(&mut self, node: usize) {
        while let Some(chunk) = self.nodes[node].output.front().copied() {
            let [states, audio, _] = self.experiment.bytes;
            let bytes = if chunk.depth == 0 { audio } else { states };
            let transfer = self.experiment.latency_seconds + bytes / self.experiment.bytes_per_second;
            let own = self.load(node);
            let always = matches!(self.experiment.strategy, Strategy::AlwaysOffload | Strategy::SendAudio);
            let published = |other: usize| self.nodes[other].published;
            let wait = |other: &usize| published(*other).input as f64 * published(*other).compute_seconds;
            let free = self.experiment.topology.links[node]
                .iter()
                .copied()
                .filter(|other| !self.busy[node][*other] && chunk.from != Some(*other));
            let Some(other) = free.min_by(|a, b| wait(a).total_cmp(&wait(b))) else { return };
            let chance = if always { 1.0 } else { offload_probability(&own, &published(other), transfer) };
            if !(chance >= 1.0 || chance > 0.0 && self.draws.next_unit() < chance) {
                return;
            }
            self.nodes[node].output.pop_front();
            // Sent tasks are added to the neighbour's queue until its next publication.
            self.nodes[other].published.input += 1;
            self.busy[node][other] = true;
            self.in_links += 1;
            self.outcome.bytes += bytes;
            self.at(bytes / self.experiment.bytes_per_second, Event::LinkFree(node, other));
            self.at(transfer, Event::Arrived(other, Chunk { from: Some(node), ..chunk }));
        }
    }

    fn returned(&mut self, chunk: Chunk) {
        self.in_links -= 1;
        self.outcome.processed += 1;
        self.outcome.exits[chunk.depth] += 1;
        self.outcome.agreement += self.traces[chunk.trace].agreement[chunk.depth - 1];
        self.delays.push(self.now - chunk.came);
    }

    fn finish(mut self) -> Outcome {
        let in_node = |node: &Node| node.input.len() + node.output.len() + usize::from(node.running.is_some());
        self.outcome.unfinished = self.in_links + self.nodes.iter().map(in_node).sum::<usize>() as u64;
        self.outcome.tasks = self.nodes.iter().map(|node| node.tasks).collect();
        self.outcome.agreement /= self.outcome.processed.max(1) as f64;
        self.delays.sort_by(f64::total_cmp);
        self.outcome.delay_seconds = self.delays.iter().sum::<f64>() / self.delays.len().max(1) as f64;
        self.outcome.delay_95_seconds = self.delays.get(self.delays.len() * 95 / 100).copied().unwrap_or(0.0);
        self.outcome.threshold = self.threshold;
        self.outcome
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::policy::Bands;
    use super::Strategy;
    use super::*;

    /// Chunks of ten layers: a third sure after two, a third after five, a third never.
    fn traces() -> Vec<Trace> {
        let chunk = |sure: usize| Trace {
            confidence: (1..=10).map(|layer| if layer >= sure { 0.95 } else { 0.4 + 0.03 * layer as f64 }).collect(),
            agreement: (1..=10).map(|layer| if layer >= sure { 1.0 } else { 0.5 + 0.05 * layer as f64 }).collect(),
        };
        vec![chunk(2), chunk(5), chunk(11)]
    }

    fn experiment(topology: Topology, strategy: Strategy) -> Experiment {
        Experiment {
            topology,
            strategy,
            admission: Admission::Fixed(Duration::from_millis(320)),
            threshold: 0.9,
            output_limit: 8,
            bytes: [12_300.0, 10_240.0, 3_000.0],
            bytes_per_second: 10e6 / 8.0,
            latency_seconds: 0.002,
            publish_seconds: 0.2,
            seconds: 600.0,
            seed: 5,
        }
    }

    const STRATEGIES: [Strategy; 5] =
        [Strategy::MdiExit, Strategy::NoExit, Strategy::NoNeighbours, Strategy::AlwaysOffload, Strategy::SendAudio];

    /// With the source alone, the delay follows from a calculation.
    #[test]
    fn a_node_alone_takes_as_long_as_its_layers() {
        let topology = Topology::mesh(&[0.02]);
        let outcome = run(&experiment(topology, Strategy::MdiExit), &traces());
        // (2 + 5 + 10) / 3 layers of 20 ms, never more than one chunk at a time.
        assert!((outcome.delay_seconds - 17.0 / 3.0 * 0.02).abs() < 1e-3, "{outcome:?}");
        assert_eq!((outcome.bytes, outcome.longest_queue), (0.0, 1));
        let share = outcome.exits[10] as f64 / outcome.processed as f64;
        assert!((share - 1.0 / 3.0).abs() < 0.01);
        // The last third agrees with itself.
        assert_eq!(outcome.agreement, 1.0);
    }

    /// A source that is fast enough sends no chunks.
    #[test]
    fn nothing_leaves_a_node_without_a_queue() {
        let outcome = run(&experiment(Topology::mesh(&[0.02, 0.001, 0.001]), Strategy::MdiExit), &traces());
        assert_eq!(outcome.bytes, 0.0);
        assert_eq!(outcome.tasks[1..], [0, 0]);
    }

    /// The source takes 1.13 s for what comes every 0.32 s: alone, it falls behind without bound; with neighbours of its speed, it
    /// does not, in every topology with enough of them.
    #[test]
    fn neighbours_take_what_the_source_cannot() {
        let slow = 0.2;
        let alone = run(&experiment(Topology::mesh(&[slow]), Strategy::MdiExit), &traces());
        let mesh = run(&experiment(Topology::mesh(&[slow; 5]), Strategy::MdiExit), &traces());
        assert!(alone.processed < alone.admitted / 3, "{alone:?}");
        assert!(mesh.processed > mesh.admitted * 95 / 100 && mesh.delay_95_seconds < 10.0, "{mesh:?}");
        assert!(mesh.tasks.iter().all(|tasks| *tasks > 100), "{mesh:?}");
        let ring = run(&experiment(Topology::ring(&[slow; 3]), Strategy::MdiExit), &traces());
        assert!(ring.processed > 2 * alone.processed && ring.tasks[2] > 0, "chunks go on from hop to hop: {ring:?}");
    }

    /// Rate adaptation finds the rate of the nodes: early exit admits more data than none, and neighbours more than one node.
    #[test]
    fn admission_follows_what_can_be_processed() {
        let rate = RateAdaptation { bands: Bands::default(), between: (Duration::from_millis(5), Duration::from_secs(20)) };
        let admitted = |nodes: usize, strategy| {
            let admission = Admission::Rate(rate, Duration::from_millis(320));
            let outcome = run(&Experiment { admission, ..experiment(Topology::mesh(&vec![0.05; nodes]), strategy) }, &traces());
            assert!(outcome.longest_queue < 80, "{outcome:?}");
            outcome.processed as f64
        };
        let (all, no_exit, alone) =
            (admitted(3, Strategy::MdiExit), admitted(3, Strategy::NoExit), admitted(1, Strategy::NoNeighbours));
        assert!(all > 1.5 * no_exit, "{all} {no_exit}");
        assert!(all > 1.8 * alone, "{all} {alone}");
    }

    /// MDI-Exit is not more than 5 % below any other strategy: with equal nodes, with a neighbour that is much faster than the source
    /// (where sending the audio is best), and on slow links.
    #[test]
    fn no_other_strategy_processes_more() {
        let rate = RateAdaptation { bands: Bands::default(), between: (Duration::from_millis(5), Duration::from_secs(30)) };
        let topologies =
            [Topology::mesh(&[0.08; 2]), Topology::mesh(&[0.08; 3]), Topology::ring(&[0.08; 3]), Topology::mesh(&[0.08; 5])];
        for topology in topologies.into_iter().chain([Topology::mesh(&[0.2, 0.0125])]) {
            for (megabits, latency_seconds) in [(50.0, 0.002), (10.0, 0.002), (1.0, 0.02)] {
                let processed = |strategy| {
                    let experiment = Experiment {
                        admission: Admission::Rate(rate, Duration::from_millis(320)),
                        bytes: [54_000.0, 44_800.0, 12_300.0],
                        bytes_per_second: megabits * 125e3,
                        latency_seconds,
                        ..experiment(topology.clone(), strategy)
                    };
                    let outcome = run(&experiment, &traces());
                    assert_eq!(outcome.admitted, outcome.processed + outcome.unfinished);
                    outcome.processed as f64
                };
                let found = processed(Strategy::MdiExit);
                for other in STRATEGIES {
                    let other = (other, processed(other));
                    assert!(found >= 0.95 * other.1, "{found} < {other:?}, {megabits} Mbit/s, {topology:?}");
                }
            }
        }
    }

    /// Threshold adaptation keeps a queue finite at a rate that is too high for the threshold, at the cost of agreement.
    #[test]
    fn the_threshold_yields_to_the_queue() {
        let adaptation = ThresholdAdaptation { bands: Bands::default(), least: 0.4 };
        let admission = Admission::Threshold(adaptation, Duration::from_millis(320));
        let at = |layer_seconds| {
            run(&Experiment { admission, ..experiment(Topology::mesh(&[layer_seconds]), Strategy::MdiExit) }, &traces())
        };
        let (fast, slow) = (at(0.02), at(0.1));
        assert!(fast.threshold == 1.0 && fast.agreement > 0.99, "{fast:?}");
        assert!(slow.longest_queue < 60 && slow.agreement < 0.95 && slow.processed > slow.admitted * 9 / 10, "{slow:?}");
    }

    /// A hundred nodes: a fast source whose rate is a little too high for it, and slow neighbours. In a grid, where chunks must go on
    /// from neighbour to neighbour, the rate is that of one slow node.
    #[test]
    fn a_hundred_nodes_share_the_work() {
        let mut speeds = [0.2; 100];
        let grid = |interval| {
            let admission = Admission::Fixed(Duration::from_millis(interval));
            Experiment { admission, ..experiment(Topology::grid(&speeds, 10), Strategy::MdiExit) }
        };
        let (alone, shared) = (experiment(Topology::mesh(&speeds[..1]), Strategy::MdiExit), run(&grid(320), &traces()));
        assert!(shared.processed > 2 * run(&alone, &traces()).processed, "{shared:?}");
        assert_eq!(shared.admitted, shared.processed + shared.unfinished);
        speeds[0] = 0.005;
        let admission = Admission::Fixed(Duration::from_millis(25));
        let at = |topology| run(&Experiment { admission, ..experiment(topology, Strategy::MdiExit) }, &traces());
        let (alone, mesh) = (at(Topology::mesh(&speeds[..1])), at(Topology::mesh(&speeds)));
        let working = mesh.tasks.iter().filter(|tasks| **tasks > 0).count();
        assert!(alone.processed < alone.admitted * 95 / 100, "{alone:?}");
        assert!(working > 10 && mesh.processed > mesh.admitted * 99 / 100, "{working} nodes work: {mesh:?}");
    }

    proptest! {
        /// Nothing is lost and nothing is counted twice, in any topology, by any strategy; equal seeds give equal outcomes.
        #[test]
        fn every_chunk_is_somewhere(
            nodes in 1usize..7, ring in any::<bool>(), strategy in prop::sample::select(STRATEGIES.to_vec()), layer in 0.001f64..0.3,
            interval in 20u64..600, megabits in 0.2f64..50.0, seed in any::<u64>(),
        ) {
            let speeds = vec![layer; nodes];
            let topology = if ring && nodes > 1 { Topology::ring(&speeds) } else { Topology::mesh(&speeds) };
            let admission = Admission::Fixed(Duration::from_millis(interval));
            let experiment = Experiment { admission, seconds: 60.0, seed, bytes_per_second: megabits * 125e3, ..experiment(topology, strategy) };
            let outcome = run(&experiment, &traces());
            prop_assert_eq!(outcome.admitted, outcome.processed + outcome.unfinished);
            prop_assert_eq!(outcome.exits.iter().sum::<u64>(), outcome.processed);
            prop_assert!(outcome.tasks.iter().sum::<u64>() >= outcome.exits.iter().zip(0..).map(|(chunks, layer)| chunks * layer).sum::<u64>());
            prop_assert_eq!(run(&experiment, &traces()), outcome);
        }
    }
}
