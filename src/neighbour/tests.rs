//! Sources and workers in one process: the same results as alone, and every chunk accounted for whatever a neighbour does.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::message::{STATE_VERSION, WorkerState};
use super::policy::Draws;
use super::*;
use crate::engine::{LoadOptions, Precision};
use crate::exit::PolicySpec;
use crate::pack::Pack;
use crate::stream::{Mixture, Representation, Session, SessionOptions, Vectors};

type Loaded = (Pack, Arc<Encoder>);

fn load(folder: &str) -> Loaded {
    let pack = Pack::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)).unwrap();
    let encoder = Encoder::load(&pack, &LoadOptions::default().precision(Precision::F32)).unwrap();
    (pack, encoder)
}

fn tiny() -> &'static Loaded {
    static LOADED: OnceLock<Loaded> = OnceLock::new();
    LOADED.get_or_init(|| load("models/daisy-tiny"))
}

fn base() -> &'static Loaded {
    static LOADED: OnceLock<Loaded> = OnceLock::new();
    LOADED.get_or_init(|| load("tests/data/windowed-base/pack"))
}

fn speech() -> &'static [f32] {
    static LOADED: OnceLock<Vec<f32>> = OnceLock::new();
    LOADED.get_or_init(|| {
        let read = |path: String| {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
            crate::audio::decode_file(&path, crate::audio::ChannelPick::MixDown).unwrap().0
        };
        let clips = ["0880", "0890", "0920", "0930"].map(|clip| format!("models/bench/speech/sense_and_sensibility_{clip}.flac"));
        let mut audio = read("models/sample.wav".to_owned());
        audio.extend(clips.into_iter().flat_map(read));
        audio
    })
}

/// What a carrier does with a task.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    None,
    /// The task is lost without a reply.
    Lost,
    /// The connection breaks: the task is lost, and that is known.
    Broken,
    /// The answer is noise.
    Noise,
    /// The task comes with a changed byte.
    Damaged,
    /// The task comes twice.
    Twice,
    /// The worker is another process that knows nothing.
    Restarted,
    /// The worker has another pack.
    OtherPack,
}

const FAULTS: [Fault; 7] =
    [Fault::Lost, Fault::Broken, Fault::Noise, Fault::Damaged, Fault::Twice, Fault::Restarted, Fault::OtherPack];

/// Carries tasks to a worker in this process, at once.
struct Direct {
    worker: Mutex<Worker>,
    loaded: &'static Loaded,
    /// The fault of the next task.
    fault: Box<dyn Fn() -> Fault + Send>,
    /// Answers that are not awaited yet, which keeps the channels open.
    lost: Mutex<Vec<OnAnswer>>,
}

impl Carrier for Direct {
    fn carry(&self, neighbour: &str, mut task: Vec<u8>, _within: Duration, on_answer: OnAnswer) {
        assert_eq!(neighbour, "other");
        let mut worker = self.worker.lock().unwrap();
        let fault = (self.fault)();
        match fault {
            Fault::Lost => return self.lost.lock().unwrap().push(on_answer),
            Fault::Broken => return,
            Fault::Noise => return on_answer(&task[..task.len() / 2]),
            Fault::Damaged => {
                let middle = task.len() / 2;
                task[middle] ^= 0xff;
            }
            Fault::Twice => drop(worker.answer(&task, Instant::now(), 0)),
            Fault::Restarted => *worker = Worker::new(&self.loaded.0, &self.loaded.1).unwrap(),
            Fault::OtherPack => {
                let other = if std::ptr::eq(self.loaded, tiny()) { base() } else { tiny() };
                let answer = Worker::new(&other.0, &other.1).unwrap().answer(&task, Instant::now(), 0).0;
                return on_answer(&answer);
            }
            Fault::None => {}
        }
        on_answer(&worker.answer(&task, Instant::now(), 0).0);
    }

    fn echo(&self, _neighbour: &str, message: Vec<u8>, on_answer: OnAnswer) {
        on_answer(&message);
    }
}

fn state(loaded: &Loaded) -> WorkerState {
    let layers = [1, loaded.1.layers()];
    let (name, pack) = (loaded.1.name().to_owned(), loaded.0.stream_identity());
    WorkerState { version: STATE_VERSION, name, pack, layers, input: 0, output: 0, compute_seconds: 0.0, temperature: None }
}

/// A session, with the roster of its neighbour if there is one.
fn session(
    loaded: &'static Loaded,
    policy: &PolicySpec,
    options: SessionOptions,
    faults: Option<Box<dyn Fn() -> Fault + Send>>,
) -> (Session, Arc<Roster>) {
    session_that_sends(false, loaded, policy, options, faults)
}

/// The same; chunks leave as `audio`.
fn session_that_sends(
    audio: bool,
    loaded: &'static Loaded,
    policy: &PolicySpec,
    options: SessionOptions,
    faults: Option<Box<dyn Fn() -> Fault + Send>>,
) -> (Session, Arc<Roster>) {
    let mut session = Session::new(&loaded.1, policy.build(&loaded.0).unwrap(), options).unwrap();
    let roster = Arc::new(Roster::default());
    if let Some(fault) = faults {
        let worker = Mutex::new(Worker::new(&loaded.0, &loaded.1).unwrap());
        let carrier = Direct { worker, loaded, fault, lost: Mutex::default() };
        let mut source =
            Source::new(&loaded.0, &loaded.1, policy, Offloading::Always, roster.clone(), Box::new(carrier)).unwrap();
        if audio {
            source.as_audio();
        }
        source.attach(&mut session);
    }
    (session, roster)
}

/// Streams `audio`; the neighbour's state is published before each chunk.
fn stream(loaded: &Loaded, session: &mut Session, roster: &Roster, audio: &[f32], published: bool) -> Vec<Representation> {
    let mut found = Vec::new();
    for block in audio.chunks(4_000) {
        if published {
            assert!(roster.published("other", &state(loaded).encode()));
            roster.forget_refusals();
        }
        session.push(block).unwrap();
        found.extend(session.representations().map(Result::unwrap));
    }
    session.finish();
    found.extend(session.representations().map(Result::unwrap));
    found
}

/// What a session that sends its chunks on finds, and what one without neighbours does, in the same speech; and the first one with its counts.
fn alone_and_shared(
    as_audio: bool,
    loaded: &'static Loaded,
    policy: &PolicySpec,
    options: SessionOptions,
) -> (Vec<Representation>, Vec<Representation>, Session, Counts) {
    let (mut alone, roster) = session(loaded, policy, options.clone(), None);
    let wanted = stream(loaded, &mut alone, &roster, speech(), false);
    let (mut shared, roster) = session_that_sends(as_audio, loaded, policy, options, Some(Box::new(|| Fault::None)));
    let found = stream(loaded, &mut shared, &roster, speech(), true);
    (found, wanted, shared, roster.status()[0].counts)
}

/// Share of equal exits, share of equal units, and the mean deviation of vectors relative to their mean size.
fn compare(found: &[Representation], wanted: &[Representation]) -> (f64, f64, f64) {
    assert_eq!(found.len(), wanted.len());
    let (mut exits, mut units, mut frames, mut off, mut size) = (0, 0, 0, 0.0, 0.0);
    for (found, wanted) in found.iter().zip(wanted) {
        assert_eq!((found.sequence, found.first_sample, found.samples), (wanted.sequence, wanted.first_sample, wanted.samples));
        exits += usize::from(found.exit_layer == wanted.exit_layer);
        let top = |row: &[f32]| (0..row.len()).max_by(|a, b| row[*a].total_cmp(&row[*b]));
        let rows = |one: &Representation| one.log_posteriors.clone().unwrap();
        for (a, b) in rows(found).rows().zip(rows(wanted).rows()) {
            units += usize::from(top(a) == top(b));
            frames += 1;
        }
        if found.exit_layer == wanted.exit_layer {
            for (a, b) in found.vectors.as_slice().iter().zip(wanted.vectors.as_slice()) {
                off += f64::from((a - b).abs());
                size += f64::from(b.abs());
            }
        }
    }
    (exits as f64 / found.len() as f64, f64::from(units as u32) / f64::from(frames), off / size)
}

/// With every chunk sent on: exits, states and units are those of a session without neighbours, within the codec's error.
#[test]
fn chunks_that_continue_elsewhere_give_the_same_results() {
    let mixed = Vectors::Mixture(Mixture::uniform(10));
    for (loaded, policy, vectors) in [
        (tiny(), "gain", Vectors::Last),
        (tiny(), "never", Vectors::Last),
        (tiny(), "change", Vectors::Last),
        (tiny(), "threshold:2.0+gate:0.7", mixed),
        (base(), "never", Vectors::Last),
        (base(), "threshold:2.0", Vectors::Mixture(Mixture::uniform(3))),
    ] {
        let policy: PolicySpec = policy.parse().unwrap();
        let options = SessionOptions::default().posteriors(true).vectors(vectors);
        let (found, wanted, _, counts) = alone_and_shared(false, loaded, &policy, options);
        let (exits, units, vectors) = compare(&found, &wanted);
        println!("{} {policy:?}: {exits:.4} exits, {units:.4} units, {vectors:.5} vectors, {counts:?}", loaded.1.name());
        assert!(counts.sent as usize > found.len() / 2 && counts.returned == counts.sent, "{counts:?}");
        assert!(exits > 0.95 && units > 0.97 && vectors < 0.03, "{policy:?}: {exits} {units} {vectors}");
    }
}

/// The same for chunks that leave as audio: everything of them is computed elsewhere.
#[test]
fn chunks_that_leave_as_audio_give_the_same_results() {
    let mixed = Vectors::Mixture(Mixture::uniform(10));
    for (loaded, policy, vectors) in [
        (tiny(), "gain", Vectors::Last),
        (tiny(), "never", Vectors::Last),
        (tiny(), "change", Vectors::Last),
        (tiny(), "threshold:2.0", mixed),
        (base(), "never", Vectors::Last),
        (base(), "threshold:2.0", Vectors::Mixture(Mixture::uniform(3))),
    ] {
        let policy: PolicySpec = policy.parse().unwrap();
        let options = SessionOptions::default().posteriors(true).vectors(vectors);
        let (found, wanted, shared, counts) = alone_and_shared(true, loaded, &policy, options);
        let (exits, units, vectors) = compare(&found, &wanted);
        println!("{} {policy:?} as audio: {exits:.4} exits, {units:.4} units, {vectors:.5} vectors, {counts:?}", loaded.1.name());
        assert!(counts.sent as usize == found.len() && counts.returned == counts.sent, "{counts:?}");
        // Nothing but the front end and all layers of every chunk.
        let layers: usize = found.iter().map(|chunk| chunk.exit_layer).sum();
        assert_eq!((counts.layers, shared.work().layer_frames), (layers as u64, 0));
        if loaded.1.is_cached() {
            // Every sample is sent once, as 16 bits.
            let samples: u64 = found.iter().map(|chunk| chunk.samples).sum();
            assert!(counts.bytes_sent < 2 * samples + 500 * counts.sent, "{counts:?}");
        }
        // What goes there loses nothing, so only vectors differ, and the units that follow from them.
        assert!(exits == 1.0 && units > 0.98 && vectors < 0.02, "{policy:?}: {exits} {units} {vectors}");
    }
}

/// Chunks leave as audio, leave after the first layer, or stay, in stretches: the states of those that left come back when later ones
/// need them.
#[test]
fn streams_that_change_between_audio_states_and_the_source_give_the_same_results() {
    for (loaded, policy) in [(tiny(), "gain"), (tiny(), "never"), (base(), "never")] {
        let policy: PolicySpec = policy.parse().unwrap();
        let options = SessionOptions::default().posteriors(true);
        let (mut alone, roster) = session(loaded, &policy, options.clone(), None);
        let wanted = stream(loaded, &mut alone, &roster, speech(), false);
        let (mut shared, roster) = session_that_sends(true, loaded, &policy, options, Some(Box::new(|| Fault::None)));
        let (mut found, mut sent) = (Vec::new(), [0; 3]);
        for (number, block) in speech().chunks(5_120).enumerate() {
            let all = state(loaded);
            // Stretches of one to eleven chunks.
            let kind = [0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0, 2, 2, 2, 2, 0, 2, 1, 1, 0, 1, 2, 2][number % 24];
            let published = match kind {
                0 => all,
                1 => WorkerState { pack: "another".into(), ..all },
                _ => WorkerState { layers: [2, loaded.1.layers()], ..all },
            };
            assert!(roster.published("other", &published.encode()));
            shared.push(block).unwrap();
            let before = roster.status()[0].counts.sent;
            found.extend(shared.representations().map(Result::unwrap));
            sent[kind] += roster.status()[0].counts.sent - before;
        }
        shared.finish();
        found.extend(shared.representations().map(Result::unwrap));
        let counts = roster.status()[0].counts;
        assert!(sent[0] > 20 && sent[1] == 0 && sent[2] > 5 && counts.returned == counts.sent, "{sent:?} {counts:?}");
        let (exits, units, vectors) = compare(&found, &wanted);
        assert!(exits > 0.95 && units > 0.97 && vectors < 0.03, "{policy:?}: {exits} {units} {vectors}");
    }
}

/// Without a neighbour, and with one that must not be used, a session computes the same to the bit.
#[test]
fn a_source_without_neighbours_changes_no_bit() {
    let (loaded, policy) = (tiny(), PolicySpec::default());
    let audio = &speech()[..160_000];
    let options = SessionOptions::default().posteriors(true);
    let (mut alone, roster) = session(loaded, &policy, options.clone(), None);
    let wanted = stream(loaded, &mut alone, &roster, audio, false);
    let (mut lonely, roster) = session(loaded, &policy, options, Some(Box::new(|| panic!("there is no neighbour"))));
    let found = stream(loaded, &mut lonely, &roster, audio, false);
    assert_eq!(found.len(), wanted.len());
    for (found, wanted) in found.iter().zip(&wanted) {
        assert_eq!((found.exit_layer, &found.vectors, &found.evidence), (wanted.exit_layer, &wanted.vectors, &wanted.evidence));
    }
}

/// Whatever a neighbour does: every chunk leaves, in order, with all of its samples; every chunk that was sent has an end.
fn survives(as_audio: bool, loaded: &'static Loaded, seed: u64, share: f64, audio: &[f32]) -> Counts {
    let draws = Mutex::new(Draws::new(seed));
    let fault = move || {
        let mut draws = draws.lock().unwrap();
        let none = draws.next_unit() >= share;
        let which = FAULTS[(draws.next_unit() * FAULTS.len() as f64) as usize];
        if none { Fault::None } else { which }
    };
    // A deadline that a lost chunk misses soon. It is generous to all others, which are answered at once.
    let policy = PolicySpec::named(crate::exit::PolicyName::Never).deadline(Duration::from_millis(150));
    let options = SessionOptions::default().posteriors(true).audio(true);
    let (mut shared, roster) = session_that_sends(as_audio, loaded, &policy, options, Some(Box::new(fault)));
    let found = stream(loaded, &mut shared, &roster, audio, true);
    let mut next = 0;
    for (index, chunk) in found.iter().enumerate() {
        assert_eq!((chunk.sequence, chunk.first_sample), (index as u64, next));
        next += chunk.samples;
        assert!((1..=loaded.1.layers()).contains(&chunk.exit_layer));
        assert!(chunk.vectors.as_slice().iter().all(|x| x.is_finite()));
        let from = chunk.first_sample as usize;
        assert_eq!(chunk.audio.as_deref(), Some(&audio[from..from + chunk.samples as usize]));
    }
    assert_eq!(next, audio.len() as u64);
    let counts = roster.status()[0].counts;
    assert_eq!(counts.sent, counts.returned + counts.late + counts.refused, "{counts:?}");
    counts
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases.min(6), ..ProptestConfig::default() })]

    #[test]
    fn no_fault_of_a_neighbour_costs_audio_or_order(seed in any::<u64>(), share in 0.1f64..0.9) {
        for (loaded, as_audio) in [(tiny(), false), (tiny(), true), (base(), false), (base(), true)] {
            survives(as_audio, loaded, seed, share, &speech()[..120_000]);
        }
    }
}

/// A thousand faults in a row.
#[test]
fn a_thousand_faults_cost_depth_and_nothing_else() {
    let audio = speech().repeat(1 + 1_100 * 5_120 / speech().len());
    for as_audio in [false, true] {
        let counts = survives(as_audio, base(), 11, 1.0, &audio[..1_100 * 5_120]);
        assert!(counts.sent > 300 && counts.late > 20 && counts.refused > 100, "{counts:?}");
    }
}

/// A new worker lacks the stream's past: it reports that once, receives everything, and continues.
#[test]
fn a_restarted_worker_is_sent_the_context_again() {
    let (loaded, policy) = (tiny(), "never".parse().unwrap());
    for as_audio in [false, true] {
        let sent = Mutex::new(0);
        let fault = move || {
            let mut sent = sent.lock().unwrap();
            *sent += 1;
            if *sent == 10 { Fault::Restarted } else { Fault::None }
        };
        let options = SessionOptions::default().posteriors(true);
        let (mut shared, roster) = session_that_sends(as_audio, loaded, &policy, options.clone(), Some(Box::new(fault)));
        let audio = &speech()[..160_000];
        let found = stream(loaded, &mut shared, &roster, audio, true);
        let counts = roster.status()[0].counts;
        assert_eq!((counts.refused, counts.returned), (1, counts.sent - 1));
        let (mut alone, roster) = session(loaded, &policy, options, None);
        let wanted = stream(loaded, &mut alone, &roster, audio, false);
        // The one that is refused exits where it left, or is computed here if that was before the first layer.
        let shallow: Vec<u64> = found.iter().filter(|chunk| chunk.exit_layer < 10).map(|chunk| chunk.sequence).collect();
        assert_eq!(shallow.len(), usize::from(!as_audio), "{shallow:?}");
        let refused = shallow.first().copied().unwrap_or(9);
        // Those long before and long after the gap are as they would be alone.
        for (found, wanted) in found.iter().zip(&wanted).filter(|(one, _)| one.sequence < refused || one.sequence > refused + 12)
        {
            let (_, units, off) = compare(std::slice::from_ref(found), std::slice::from_ref(wanted));
            assert!(units > 0.8 && off < 0.05, "chunk {}: {units} {off}", found.sequence);
        }
    }
}

/// A chunk that left as audio and is lost is computed at the source: wholly in a file without a deadline, and up to its first layer
/// after a deadline.
#[test]
fn audio_that_is_lost_is_computed_here() {
    let loaded = tiny();
    for (deadline, depth) in [(None, 10), (Some(Duration::from_millis(20)), 1)] {
        let policy = PolicySpec::named(crate::exit::PolicyName::Never);
        let policy = deadline.map_or(policy.clone(), |deadline| policy.deadline(deadline));
        // A deadline that is over counts as lost at once; without one, the connection breaks.
        let fault = move || if deadline.is_some() { Fault::Lost } else { Fault::Broken };
        let (mut shared, roster) = session_that_sends(true, loaded, &policy, SessionOptions::default(), Some(Box::new(fault)));
        let found = stream(loaded, &mut shared, &roster, &speech()[..60_000], true);
        let counts = roster.status()[0].counts;
        assert!(counts.sent > 0 && counts.returned == 0 && counts.sent == counts.late + counts.refused, "{counts:?}");
        let lost = found.iter().filter(|chunk| chunk.exit_layer == depth).count();
        assert!(lost as u64 >= counts.sent, "{lost} of {counts:?}");
    }
}

#[test]
fn what_cannot_change_the_machine_is_refused_at_the_start() {
    let (pack, _) = tiny();
    let catch_up = Encoder::load(pack, &LoadOptions::default().gap_fill(crate::pack::GapFill::CatchUp)).unwrap();
    let error = Worker::new(pack, &catch_up).err().unwrap().to_string();
    assert!(error.contains("--gap-fill project"), "{error}");
    let (pack, encoder) = tiny();
    assert!(Worker::new(pack, encoder).is_ok());
    for layer in [0, 11] {
        let error = Encoder::load(pack, &LoadOptions::default().first_layer(layer)).unwrap_err().to_string();
        assert!(error.contains("layers 1 to 10"), "{error}");
    }
}

/// A worker never panics and never answers more than an error, whatever it is sent.
#[test]
fn noise_is_refused() {
    let (pack, encoder) = base();
    let mut worker = Worker::new(pack, encoder).unwrap();
    let mut draws = Draws::new(3);
    for length in 0..600 {
        let noise: Vec<u8> = (0..length).map(|_| (draws.next_unit() * 256.0) as u8).collect();
        let message = [&b"BNT\x02"[..], &noise].concat();
        assert!(worker.answer(&message, Instant::now(), 0).0.len() < 64);
    }
}

/// Thresholds rise while live audio waits: here and, through the tasks, on the neighbour. They return to the configured ones.
#[test]
fn live_audio_that_waits_raises_thresholds_here_and_there() {
    let loaded = tiny();
    let policy: PolicySpec = "gain:0.02".parse().unwrap();
    let audio = speech();
    let exits = |neighbour: bool, waiting: usize, live: bool| {
        let fault: Option<Box<dyn Fn() -> Fault + Send>> = Some(Box::new(|| Fault::None));
        let (mut session, roster) = session(loaded, &policy, SessionOptions::default(), fault);
        let mut layers = Vec::new();
        for block in audio.chunks(5_120) {
            if neighbour {
                assert!(roster.published("other", &state(loaded).encode()));
            }
            session.set_queued_before(waiting, live);
            session.push(block).unwrap();
            layers.extend(session.representations().map(|one| one.unwrap().exit_layer));
        }
        session.finish();
        layers.extend(session.representations().map(|one| one.unwrap().exit_layer));
        (layers, roster.adaptation())
    };
    let sum = |layers: &[usize]| layers.iter().sum::<usize>();
    let (calm, adapted) = exits(false, 0, true);
    assert_eq!(adapted, (0, 1.0));
    assert_eq!(exits(false, 5, false).0, calm, "the queue of a file changes nothing");
    for neighbour in [false, true] {
        let (layers, (chunks, factor)) = exits(neighbour, 5, true);
        assert!(sum(&layers) * 10 < sum(&calm) * 9, "{} of {} layers", sum(&layers), sum(&calm));
        assert!(chunks as usize == layers.len() && factor == 4.0, "{chunks} {factor}");
    }
    // As with a policy of that threshold, once the factor is at its bound.
    let wanted = {
        let (mut session, roster) = session(loaded, &"gain:0.08".parse().unwrap(), SessionOptions::default(), None);
        stream(loaded, &mut session, &roster, audio, false)
    };
    let late = |layers: &[usize]| layers[layers.len() / 2..].to_vec();
    let wanted = late(&wanted.iter().map(|one| one.exit_layer).collect::<Vec<_>>());
    let same = late(&exits(false, 5, true).0).iter().zip(&wanted).filter(|(a, b)| a == b).count();
    assert!(same * 10 >= wanted.len() * 9, "{same} of {}", wanted.len());
}

/// A worker that has loaded the last layers only continues chunks from there on, with the results of one that has all of them.
#[test]
fn a_worker_with_the_last_layers_continues_chunks_from_there() {
    for (loaded, folder, first) in [(tiny(), "models/daisy-tiny", 5), (base(), "tests/data/windowed-base/pack", 2)] {
        let pack = Pack::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)).unwrap();
        let part = Encoder::load(&pack, &LoadOptions::default().precision(Precision::F32).first_layer(first)).unwrap();
        let policy: PolicySpec = "never".parse().unwrap();
        let audio = &speech()[..160_000];
        let run = |encoder: &Arc<Encoder>| {
            let options = SessionOptions::default().posteriors(true);
            let mut session = Session::new(&loaded.1, policy.build(&loaded.0).unwrap(), options).unwrap();
            let roster = Arc::new(Roster::default());
            let worker = Mutex::new(Worker::new(&loaded.0, encoder).unwrap());
            let carrier = Direct { worker, loaded, fault: Box::new(|| Fault::None), lost: Mutex::default() };
            let source =
                Source::new(&loaded.0, &loaded.1, &policy, Offloading::Always, roster.clone(), Box::new(carrier)).unwrap();
            source.attach(&mut session);
            let mut found = Vec::new();
            for block in audio.chunks(4_000) {
                // Both are offered chunks at the same depth.
                let layers = [first, loaded.1.layers()];
                assert!(roster.published("other", &WorkerState { layers, ..state(loaded) }.encode()));
                session.push(block).unwrap();
                found.extend(session.representations().map(Result::unwrap));
            }
            let counts = roster.status()[0].counts;
            assert!(counts.sent > 10 && counts.returned == counts.sent, "{counts:?}");
            assert_eq!(counts.layers, counts.returned * (loaded.1.layers() + 1 - first) as u64);
            found
        };
        let (found, wanted) = (run(&part), run(&loaded.1));
        assert_eq!(found.len(), wanted.len());
        for (found, wanted) in found.iter().zip(&wanted) {
            assert_eq!((&found.vectors, &found.log_posteriors), (&wanted.vectors, &wanted.log_posteriors));
        }
        // It has no front end, and refuses chunks of lower depth.
        let mut session = Session::new(&part, policy.build(&pack).unwrap(), SessionOptions::default()).unwrap();
        session.push(audio).unwrap();
        let error = session.next_chunk().unwrap_err().to_string();
        assert!(error.contains("frontend") && error.contains(&format!("from {first} on")), "{error}");
    }
}

/// A neighbour that refuses everything, such as one of another version, is not asked for a while.
#[test]
fn a_neighbour_that_refuses_everything_is_left_alone() {
    let (loaded, policy) = (tiny(), "never".parse().unwrap());
    let audio = &speech()[..60 * 5_120];
    let options = SessionOptions::default();
    let (mut shared, roster) = session(loaded, &policy, options, Some(Box::new(|| Fault::OtherPack)));
    let mut full = 0;
    for block in audio.chunks(5_120) {
        assert!(roster.published("other", &state(loaded).encode()));
        shared.push(block).unwrap();
        full += shared.representations().filter(|chunk| chunk.as_ref().unwrap().exit_layer == loaded.1.layers()).count();
    }
    let counts = roster.status()[0].counts;
    assert!((3..10).contains(&counts.sent) && counts.refused == counts.sent, "{counts:?}");
    assert!(full > 45, "{full} chunks at full depth");
}

/// A worker knows its time per task before the first one.
#[test]
fn a_worker_knows_its_costs_before_the_first_chunk() {
    for loaded in [tiny(), base()] {
        let mut worker = Worker::new(&loaded.0, &loaded.1).unwrap();
        assert_eq!(worker.compute_seconds(), 0.0);
        worker.warm_up().unwrap();
        assert!(worker.compute_seconds() > 0.0);
    }
}

/// With `auto`, a neighbour that is much faster receives chunks of a long queue; one that is not, receives none.
#[test]
fn auto_sends_where_a_neighbour_processes_more() {
    for (loaded, compute_seconds, sends) in
        [(tiny(), 1e-6, true), (base(), 1e-6, true), (tiny(), 10.0, false), (base(), 10.0, false)]
    {
        let policy: PolicySpec = "never".parse().unwrap();
        let mut session = Session::new(&loaded.1, policy.build(&loaded.0).unwrap(), SessionOptions::default()).unwrap();
        let roster = Arc::new(Roster::default());
        let worker = Mutex::new(Worker::new(&loaded.0, &loaded.1).unwrap());
        let carrier = Direct { worker, loaded, fault: Box::new(|| Fault::None), lost: Mutex::default() };
        let mut source = Source::new(&loaded.0, &loaded.1, &policy, Offloading::Auto, roster.clone(), Box::new(carrier)).unwrap();
        source.settled(1e-3);
        source.attach(&mut session);
        let mut found = 0;
        for block in speech().chunks(5_120) {
            assert!(roster.published("other", &WorkerState { compute_seconds, ..state(loaded) }.encode()));
            session.set_queued_before(10_000, false);
            session.push(block).unwrap();
            found += session.representations().map(Result::unwrap).count();
        }
        session.finish();
        found += session.representations().map(Result::unwrap).count();
        let counts = roster.status()[0].counts;
        assert_eq!(counts.sent > 0, sends, "{} {compute_seconds}: {counts:?} of {found}", loaded.1.name());
    }
}

/// Over Zenoh: audio goes to a worker, and its states come back once chunks stay.
#[test]
fn audio_and_states_travel_over_the_network() {
    let (loaded, policy) = (tiny(), "never".parse().unwrap());
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let endpoint = vec![format!("tcp/127.0.0.1:{port}")];
    let worker = Worker::new(&loaded.0, &loaded.1).unwrap();
    let node = WorkerNode::open(worker, &Endpoints { listen: endpoint.clone(), ..Endpoints::default() }, Some("other")).unwrap();
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let stopped = stop.clone();
    let thread = std::thread::spawn(move || node.run(|| stopped.load(std::sync::atomic::Ordering::Relaxed)).unwrap());

    let roster = Arc::new(Roster::default());
    let mut network = Network::new(roster.clone()).unwrap();
    network.join(&Endpoints { connect: endpoint, ..Endpoints::default() }, None).unwrap();
    assert_eq!(network.wait_for(1, Duration::from_secs(20)), 1);
    let options = SessionOptions::default().posteriors(true);
    let (mut alone, none) = session(loaded, &policy, options.clone(), None);
    let wanted = stream(loaded, &mut alone, &none, speech(), false);
    let mut shared = Session::new(&loaded.1, policy.build(&loaded.0).unwrap(), options).unwrap();
    let mut source = Source::new(&loaded.0, &loaded.1, &policy, Offloading::Always, roster.clone(), network.carrier()).unwrap();
    source.as_audio();
    source.attach(&mut shared);
    let (mut found, mut stayed) = (Vec::new(), 0);
    for (number, block) in speech().chunks(5_120).enumerate() {
        let (before, stays) = (roster.status()[0].counts.sent, number % 10 > 6);
        // What the worker itself publishes a moment later takes the place of this.
        let pack = if stays { "another".into() } else { loaded.0.stream_identity() };
        assert!(roster.published("other", &WorkerState { pack, ..state(loaded) }.encode()));
        shared.push(block).unwrap();
        found.extend(shared.representations().map(Result::unwrap));
        stayed += usize::from(stays && roster.status()[0].counts.sent == before);
    }
    shared.finish();
    found.extend(shared.representations().map(Result::unwrap));
    let counts = roster.status()[0].counts;
    assert!(counts.sent > 30 && stayed > 10 && counts.returned == counts.sent, "{stayed} {counts:?}");
    let (_, units, vectors) = compare(&found, &wanted);
    assert!(units > 0.97 && vectors < 0.02, "{units} {vectors}");
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    assert_eq!(thread.join().unwrap(), (counts.sent, 0));
}
