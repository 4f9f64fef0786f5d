//! A daemon whose configuration, files and device change at random, against a model that knows which file must hold which chunks.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant};

use bellis::audio::{AudioError, AudioErrorKind, Source};
use bellis::daemon::{Backoff, Command, Daemon, DaemonOptions};
use bellis::engine::LoadOptions;
use bellis::internal::{ScriptedSource, Step};
use bellis::runtime::RunOptions;
use proptest::prelude::*;

use super::*;

/// Consumers, and the names of their files without extension: three of JSON lines, one array with a side file of lines.
const CONSUMERS: [(&str, &str); 4] = [("jsonl", "a"), ("jsonl", "b"), ("jsonl", "c"), ("npy", "d")];

fn extension(consumer: usize) -> &'static str {
    if CONSUMERS[consumer].0 == "npy" { "npy" } else { "jsonl" }
}

/// What happens to the daemon.
#[derive(Debug, Clone)]
enum Action {
    /// A valid configuration.
    Configure { consumers: BTreeSet<usize>, with_units: bool, layer: usize },
    /// The file of a consumer is moved, and with `create` an empty one takes its place; then a reload.
    Rotate { consumer: usize, create: bool },
    /// A configuration that is rejected: one layer too many, an output that cannot be written, a setting out of range, not TOML.
    Reject(usize),
    /// A reload without a change.
    Again,
}

fn action() -> impl Strategy<Value = Action> {
    let consumers = prop::collection::btree_set(0..CONSUMERS.len(), 1..=CONSUMERS.len());
    prop_oneof![
        3 => (consumers, any::<bool>(), 1usize..4)
            .prop_map(|(consumers, with_units, layer)| Action::Configure { consumers, with_units, layer }),
        3 => (0..CONSUMERS.len(), any::<bool>()).prop_map(|(consumer, create)| Action::Rotate { consumer, create }),
        2 => (0usize..4).prop_map(Action::Reject),
        1 => Just(Action::Again),
    ]
}

/// A file, by the reloads between which its consumer ran.
#[derive(Debug, Clone)]
struct Written {
    consumer: usize,
    from: usize,
    until: Option<usize>,
}

/// Which files exist, by their name without extension, and which the consumers have open.
struct Model {
    files: BTreeMap<String, Written>,
    open: BTreeMap<usize, String>,
    with_units: bool,
    wanted: BTreeSet<usize>,
    reloads: usize,
    rotations: usize,
}

impl Model {
    fn start(wanted: &BTreeSet<usize>) -> Self {
        let (files, open) = (BTreeMap::new(), BTreeMap::new());
        let mut model = Self { files, open, with_units: false, wanted: wanted.clone(), reloads: 0, rotations: 0 };
        wanted.iter().for_each(|&consumer| model.begin(consumer));
        model
    }

    /// The consumer begins a file; one that is in its place gets the first free number.
    fn begin(&mut self, consumer: usize) {
        let name = CONSUMERS[consumer].1.to_owned();
        if let Some(old) = self.files.remove(&name) {
            let free = (1..).map(|number| format!("{name}.{number}")).find(|free| !self.files.contains_key(free)).unwrap();
            self.files.insert(free, old);
        }
        self.files.insert(name.clone(), Written { consumer, from: self.reloads, until: None });
        self.open.insert(consumer, name);
    }

    fn end(&mut self, consumer: usize) {
        if let Some(name) = self.open.remove(&consumer) {
            self.files.get_mut(&name).unwrap().until = Some(self.reloads);
        }
    }

    /// Moves the file in a consumer's place, if there is one. Returns its new name.
    fn rotate(&mut self, consumer: usize) -> Option<String> {
        let name = CONSUMERS[consumer].1;
        let written = self.files.remove(name)?;
        self.rotations += 1;
        let moved = format!("{name}-moved-{}", self.rotations);
        if self.open.get(&consumer).is_some_and(|open| open == name) {
            self.open.insert(consumer, moved.clone());
        }
        self.files.insert(moved.clone(), written);
        Some(moved)
    }

    fn reload(&mut self, wanted: &BTreeSet<usize>, with_units: bool) {
        self.reloads += 1;
        let restart = std::mem::replace(&mut self.with_units, with_units) != with_units;
        for (consumer, (_, name)) in CONSUMERS.iter().enumerate() {
            let stays = self.open.get(&consumer).is_some_and(|open| open == name) && !restart;
            if !(stays && wanted.contains(&consumer)) {
                self.end(consumer);
                if wanted.contains(&consumer) {
                    self.begin(consumer);
                }
            }
        }
        self.wanted = wanted.clone();
    }
}

fn settings(folder: &Path, consumers: &BTreeSet<usize>, with_units: bool, layer: usize) -> Settings {
    let text = |&consumer: &usize| {
        let (kind, name) = CONSUMERS[consumer];
        format!("{kind}:{}", folder.join(format!("{name}.{}", extension(consumer))).display()).into()
    };
    let consumer = consumers.iter().map(text).collect();
    let (policy, layer) = (Some(bellis::exit::PolicyName::Fixed), Some(layer));
    Settings { consumer, with_units, policy, layer, ..Settings::default() }
}

/// Seconds of speech much faster than real time, then the device is lost.
fn device() -> Result<Box<dyn Source>, AudioError> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (speech, _) = bellis::audio::decode_file(&folder.join("models/sample.wav"), bellis::audio::ChannelPick::MixDown)?;
    let step = |samples: &[f32]| [Step::Wait(Duration::from_millis(8)), Step::Callback(samples.to_vec())];
    let mut steps: Vec<Step> = speech.chunks(5120).flat_map(step).collect();
    steps.push(Step::Fail(AudioError::new(AudioErrorKind::DeviceLost, "script", "is gone")));
    Ok(Box::new(ScriptedSource::new(16_000, false, steps)))
}

fn listing(folder: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[track_caller]
fn within(what: &str, condition: impl Fn() -> bool) {
    let until = Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(Instant::now() < until, "timeout while waiting for {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// The file with a line for each chunk.
fn lines_of(consumer: usize, name: &str) -> String {
    if CONSUMERS[consumer].0 == "npy" { format!("{name}.chunks.jsonl") } else { format!("{name}.jsonl") }
}

/// Waits until all files have their names and every running consumer has written a chunk. A busy machine may compute several chunks before
/// a change, and a consumer takes over its file only when its predecessor has ended.
fn chunks_written(folder: &Path, model: &Model) {
    let length = |consumer: usize, name: &String| folder.join(lines_of(consumer, name)).metadata().map(|found| found.len()).ok();
    within("chunks in every file", || {
        model.files.iter().all(|(name, written)| length(written.consumer, name).is_some())
            && model.open.iter().all(|(&consumer, name)| length(consumer, name).is_some_and(|length| length > 0))
    });
}

/// Runs the actions and compares every file with the model.
fn check(actions: &[Action]) {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let pack = Pack::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("models/daisy-nano")).unwrap();
    let encoder = Encoder::load(&pack, &LoadOptions::default()).unwrap();
    let first = BTreeSet::from([0, 3]);
    let (mut model, mut layer) = (Model::start(&first), 1);
    let initial = settings(folder.path(), &first, false, layer);
    let read: Arc<Mutex<Result<Settings, String>>> = Arc::new(Mutex::new(Ok(initial.clone())));
    let reader = read.clone();
    let policy = initial.policy(&pack).unwrap();
    let mut options = DaemonOptions::new(RunOptions::default());
    options.backoff = Backoff { first: Duration::from_millis(1), longest: Duration::from_millis(2) };
    let mut configuration = Configuration::new(
        initial,
        move || reader.lock().unwrap().clone().map_err(|error| anyhow::anyhow!(error)),
        Arc::new(pack),
        encoder.clone(),
        Reports { keywords: Arc::new(|_| {}), events: Arc::default() },
    );
    let consumers = configuration.consumers().unwrap();
    let daemon = Daemon::start(&encoder, policy, consumers, options, "script", false).unwrap();
    let status = daemon.status().clone();
    let (sender, commands) = crossbeam_channel::unbounded();
    let thread = std::thread::spawn(move || daemon.run(device, &commands, &mut configuration, &mut ()));
    chunks_written(folder.path(), &model);

    for action in actions {
        let (applied, rejected) = status.reloads();
        let reload = |wanted: Result<Settings, String>, counts: (u64, u64)| {
            *read.lock().unwrap() = wanted;
            sender.send(Command::Reload).unwrap();
            within("a reload", || status.reloads() == counts);
        };
        match action {
            Action::Configure { consumers, with_units, layer: wanted } => {
                layer = *wanted;
                model.reload(consumers, *with_units);
                reload(Ok(settings(folder.path(), consumers, *with_units, layer)), (applied + 1, rejected));
            }
            Action::Rotate { consumer, create } => {
                let name = CONSUMERS[*consumer].1;
                if let Some(moved) = model.rotate(*consumer) {
                    for extension in [extension(*consumer), "chunks.jsonl"] {
                        let from = at(&format!("{name}.{extension}"));
                        if from.exists() {
                            std::fs::rename(&from, at(&format!("{moved}.{extension}"))).unwrap();
                        }
                    }
                    if *create {
                        std::fs::File::create_new(at(&format!("{name}.{}", extension(*consumer)))).unwrap();
                    }
                }
                let (wanted, with_units) = (model.wanted.clone(), model.with_units);
                model.reload(&wanted, with_units);
                reload(Ok(settings(folder.path(), &wanted, with_units, layer)), (applied + 1, rejected));
                // What `create` made for a consumer that does not run.
                let empty = at(&format!("{name}.{}", extension(*consumer)));
                if !model.open.contains_key(consumer) && empty.metadata().is_ok_and(|found| found.len() == 0) {
                    std::fs::remove_file(empty).unwrap();
                }
            }
            Action::Reject(kind) => {
                let all = (0..CONSUMERS.len()).collect();
                let mut wanted = settings(folder.path(), &all, !model.with_units, 2);
                match kind {
                    0 => wanted.layer = Some(50),
                    1 => wanted.consumer.push(format!("jsonl:{}", at("none/x.jsonl").display()).into()),
                    2 => wanted.beam = Some(0),
                    _ => {}
                }
                if *kind == 2 {
                    wanted.consumer.push("phones:-".into());
                }
                let before = listing(folder.path());
                reload(if *kind == 3 { Err("not TOML".into()) } else { Ok(wanted) }, (applied, rejected + 1));
                assert_eq!(listing(folder.path()), before, "a rejected reload has changed files");
            }
            Action::Again => {
                let (wanted, with_units) = (model.wanted.clone(), model.with_units);
                model.reload(&wanted, with_units);
                reload(Ok(settings(folder.path(), &wanted, with_units, layer)), (applied + 1, rejected));
            }
        }
        chunks_written(folder.path(), &model);
        let policy = status.stream().policy;
        assert!(policy.contains(&format!("layer {layer}")), "{policy} instead of layer {layer}");
    }
    sender.send(Command::Stop).unwrap();
    let report = thread.join().unwrap();
    report.outcome.unwrap();
    assert!(!status.healthy());

    // Every file holds the chunks between two reloads, and all agree about where these were.
    let mut cuts = BTreeMap::from([(0, 0), (usize::MAX, report.summary.chunks)]);
    let mut expected = BTreeSet::new();
    for (name, written) in &model.files {
        let array = CONSUMERS[written.consumer].0 == "npy";
        let lines = lines_of(written.consumer, name);
        let text = std::fs::read_to_string(at(&lines)).unwrap_or_else(|error| panic!("{lines}: {error}"));
        let rows: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let number = |line: &serde_json::Value, key: &str| line[key].as_u64().unwrap();
        let chunks: Vec<u64> = rows.iter().map(|line| number(line, "chunk")).collect();
        let (begin, end) = (chunks[0], chunks[chunks.len() - 1] + 1);
        assert_eq!(chunks, (begin..end).collect::<Vec<_>>(), "{lines}");
        for (reload, chunk) in [(written.from, begin), (written.until.unwrap_or(usize::MAX), end)] {
            assert_eq!(*cuts.entry(reload).or_insert(chunk), chunk, "{lines} at reload {reload}");
        }
        if array {
            let array_rows = ndarray_npy::read_npy::<_, ndarray::Array2<f32>>(at(&format!("{name}.npy"))).unwrap().nrows();
            assert_eq!(array_rows as u64, rows.iter().map(|line| number(line, "frames")).sum::<u64>());
            expected.insert(format!("{name}.npy"));
        }
        expected.insert(lines);
    }
    assert_eq!(listing(folder.path()), expected);
    assert!(cuts.values().is_sorted(), "{cuts:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, max_shrink_iters: 40, ..ProptestConfig::default() })]
    #[test]
    fn every_file_holds_the_chunks_that_the_model_says(actions in prop::collection::vec(action(), 1..14)) {
        check(&actions);
    }
}

#[test]
fn a_restarted_consumer_continues_at_later_reloads() {
    let rotate = Action::Rotate { consumer: 0, create: true };
    check(&[rotate, Action::Again, Action::Again, Action::Reject(1), Action::Again]);
}

#[test]
fn a_rejected_reload_has_no_effect() {
    check(&[Action::Reject(0), Action::Reject(1), Action::Reject(2), Action::Reject(3), Action::Again]);
}
