//! The daemon in this process, with scripted devices: repeated losses, a hanging inference thread, an overloaded and a throttled board.
#![cfg(feature = "serve")]
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bellis::audio::{AudioError, AudioErrorKind, EventSender, RingWriter, Source, SourceSpec};
use bellis::consumer::{Consumer, ConsumerError, Null};
use bellis::daemon::{Backoff, Clock, Command, Daemon, DaemonOptions, Notice, Notify, Prepared, Reload, Reloader, State, Status};
use bellis::exit::{Deadline, Decision, ExitPolicy, Fixed, Needs, Observation, Reason};
use bellis::internal::{ScriptedSource, Step, abandon_stream};
use bellis::runtime::{NamedConsumer, RunError, RunOptions, RunReport};
use bellis::stream::{Representation, SessionOptions};
use common::Collect;

/// Records the messages to the service manager.
#[derive(Clone, Default)]
struct Recorder {
    notices: Arc<Mutex<Vec<Notice>>>,
    ping_every: Option<Duration>,
    /// Number of times that the supervisor decided about a ping.
    rounds: Arc<AtomicU64>,
}

impl Recorder {
    fn count(&self, notice: &Notice) -> usize {
        self.notices.lock().unwrap().iter().filter(|one| *one == notice).count()
    }

    /// Puts the clock forward, and waits until the supervisor has taken the new time into account.
    #[track_caller]
    fn advance(&self, clock: &Clock, by: Duration) {
        clock.advance(by);
        let before = self.rounds.load(Ordering::Relaxed);
        within_long("two rounds of the supervisor", || self.rounds.load(Ordering::Relaxed) >= before + 2);
    }

    /// Checks that no ping is sent for ten intervals.
    #[track_caller]
    fn is_silent(&self, clock: &Clock) {
        let pings = self.count(&Notice::Ping);
        (0..10).for_each(|_| self.advance(clock, PING_EVERY));
        assert_eq!(self.count(&Notice::Ping), pings);
    }
}

const PING_EVERY: Duration = Duration::from_millis(200);

impl Notify for Recorder {
    fn notify(&mut self, notice: Notice) {
        self.notices.lock().unwrap().push(notice);
    }

    fn ping_every(&self) -> Option<Duration> {
        self.rounds.fetch_add(1, Ordering::Relaxed);
        self.ping_every
    }
}

fn options(ring: Duration) -> DaemonOptions {
    DaemonOptions::new(RunOptions::default().session(SessionOptions::default().chunk_frames(16)).ring(ring))
}

/// Runs a daemon on a thread of this process until `during` returns.
fn daemon(
    policy: Box<dyn ExitPolicy>,
    options: DaemonOptions,
    open: impl FnMut() -> Result<Box<dyn Source>, AudioError> + Send + 'static,
    recorder: &Recorder,
    during: impl FnOnce(&Status),
) -> (RunReport, Vec<Representation>) {
    let (_, encoder) = common::default_pack();
    let collect = Collect::default();
    let consumers = vec![NamedConsumer { label: "collect".into(), consumer: Box::new(collect.clone()) }];
    let daemon = Daemon::start(encoder, policy, consumers, options, "script", true).unwrap();
    let status = daemon.status().clone();
    let (sender, commands) = crossbeam_channel::unbounded();
    let mut recorder = recorder.clone();
    let thread = std::thread::spawn(move || {
        daemon.run(open, &commands, &mut |_: &[String]| Err("no configuration".into()), &mut recorder)
    });
    during(&status);
    sender.send(Command::Stop).unwrap();
    let report = thread.join().unwrap();
    assert_eq!(status.state(), State::Stopped);
    (report, collect.take())
}

fn lost() -> AudioError {
    AudioError::new(AudioErrorKind::DeviceLost, "script", "is gone")
}

fn denied() -> AudioError {
    AudioError::new(AudioErrorKind::PermissionDenied, "script", "may not be used")
}

/// A daemon without commands, until it ends by itself.
#[track_caller]
fn until_its_end(
    consumer: impl Consumer + 'static,
    options: DaemonOptions,
    live: bool,
    open: impl FnMut() -> Result<Box<dyn Source>, AudioError> + Send + 'static,
) -> RunReport {
    let (_, encoder) = common::default_pack();
    let consumers = vec![NamedConsumer { label: "only".into(), consumer: Box::new(consumer) }];
    let daemon = Daemon::start(encoder, Box::new(Fixed::new(1)), consumers, options, "script", live).unwrap();
    let (_sender, commands) = crossbeam_channel::unbounded();
    let thread = std::thread::spawn(move || {
        daemon.run(open, &commands, &mut |_: &[String]| Err("no configuration".into()), &mut Recorder::default())
    });
    within_long("the end of the daemon", || thread.is_finished());
    thread.join().unwrap()
}

#[test]
fn at_startup_an_error_that_a_retry_cannot_fix_ends_the_daemon() {
    let report = until_its_end(Null, options(Duration::from_secs(2)), true, || Err(denied()));
    assert!(matches!(&report.outcome, Err(RunError::Audio(found)) if *found == denied()), "{:?}", report.outcome);
}

#[test]
fn a_device_that_may_return_is_retried() {
    // At startup, and one that has worked whatever its error.
    for (worked, error) in [(false, lost()), (true, lost()), (true, denied())] {
        let attempts = Arc::new(AtomicU64::new(0));
        let count = attempts.clone();
        let open = move || -> Result<Box<dyn Source>, AudioError> {
            if count.fetch_add(1, Ordering::Relaxed) > 0 || !worked {
                return Err(error.clone());
            }
            let steps = vec![Step::Callback(vec![0.1; 8_000]), Step::Fail(lost())];
            Ok(Box::new(ScriptedSource::new(16_000, true, steps)))
        };
        let mut options = options(Duration::from_secs(2));
        options.backoff = Backoff { first: Duration::from_millis(1), longest: Duration::from_millis(4) };
        let (report, _) = daemon(Box::new(Fixed::new(1)), options, open, &Recorder::default(), |status| {
            within_long("attempts", || attempts.load(Ordering::Relaxed) >= 5);
            assert_eq!((status.state(), status.opened()), (State::Reconnecting, u64::from(worked)));
        });
        report.outcome.unwrap();
    }
}

/// Takes longer for six seconds of audio than a stop may.
struct Late(Collect);

impl Consumer for Late {
    fn name(&self) -> &str {
        "late"
    }

    fn consume(&mut self, representation: &Representation) -> Result<(), ConsumerError> {
        std::thread::sleep(Duration::from_millis(150));
        self.0.consume(representation)
    }
}

#[test]
fn a_file_is_processed_and_delivered_to_its_end_by_a_slow_consumer() {
    let audio = common::speech()[..6 * 16_000].to_vec();
    let collect = Collect::default();
    let mut options = options(Duration::from_secs(2));
    (options.reopen, options.stop_within) = (false, Duration::from_millis(1_500));
    let report = until_its_end(Late(collect.clone()), options, false, move || {
        Ok(Box::new(ScriptedSource::in_callbacks(16_000, false, &audio, &[1_000])))
    });
    report.outcome.unwrap();
    let (samples, consumer) = (report.summary.samples, &report.summary.consumers[0]);
    assert_eq!((samples.captured, samples.processed, samples.dropped), (96_000, 96_000, 0));
    assert_eq!((report.summary.chunks, consumer.delivered, consumer.dropped), (19, 19, 0));
    assert_eq!(collect.take().iter().map(|chunk| chunk.samples).sum::<u64>(), 96_000);
}

/// Started by the test below in a process of its own, so that its threads and descriptors can be counted.
#[test]
#[ignore = "started by a_hundred_losses_leak_nothing"]
fn hundred_losses() {
    // Each device delivers two chunks and a part of a third at alternating rates, then fails or hangs. Every third attempt to open fails.
    let speech = common::speech();
    let tries = Arc::new(AtomicU64::new(0));
    let count = tries.clone();
    let open = move || -> Result<Box<dyn Source>, AudioError> {
        let number = count.fetch_add(1, Ordering::Relaxed);
        if number % 3 == 2 {
            return Err(lost());
        }
        let mut steps: Vec<Step> = speech[..12_345].chunks(480).map(|samples| Step::Callback(samples.to_vec())).collect();
        steps.push(if number.is_multiple_of(2) { Step::Fail(lost()) } else { Step::Hang });
        let rate = if number.is_multiple_of(4) { 16_000 } else { 48_000 };
        Ok(Box::new(ScriptedSource::new(rate, true, steps)))
    };
    let entries = |folder: &str| std::fs::read_dir(folder).unwrap().count();
    let memory = || -> u64 {
        let text = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = text.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    let mut options = options(Duration::from_secs(2));
    options.backoff = Backoff { first: Duration::from_millis(1), longest: Duration::from_millis(4) };
    options.run.watchdog = Duration::from_millis(200);
    let mut opened = 0;
    let (report, said) = daemon(Box::new(Fixed::new(2)), options, open, &Recorder::default(), |status| {
        let usage = || (entries("/proc/self/task"), entries("/proc/self/fd"), memory());
        let losses = |wanted: u64| within_long("losses", || status.lost() >= wanted);
        losses(10);
        let early = usage();
        losses(100);
        let late = usage();
        println!("after 10 losses {early:?}, after 100 {late:?} (threads, descriptors, KiB)");
        // The current source has a thread or none.
        assert!(late.0 <= early.0 + 1 && late.1 <= early.1 + 1, "{early:?} → {late:?}");
        assert!(late.2 < early.2 + 4_096, "{early:?} → {late:?}");
        opened = status.opened() as usize;
    });
    report.outcome.unwrap();
    let samples = report.summary.samples;
    assert_eq!((samples.captured, samples.left), (samples.processed + samples.dropped, 0));
    assert!(samples.captured >= 100 * 12_345, "{samples:?}");
    let mut next = 0;
    for (number, representation) in said.iter().enumerate() {
        assert_eq!(representation.sequence, number as u64);
        assert_eq!(representation.first_sample, next + representation.lost_samples);
        next = representation.first_sample + representation.samples;
    }
    let discontinuities = said.iter().filter(|representation| representation.lost_samples > 0).count();
    // The last source may be stopped before it delivers, and another may be opened after the count.
    assert!((opened - 2..=opened + 1).contains(&discontinuities), "{discontinuities} discontinuities of {opened} sources");
}

#[track_caller]
fn within_long(what: &str, condition: impl Fn() -> bool) {
    let until = Instant::now() + Duration::from_secs(300);
    while !condition() {
        assert!(Instant::now() < until, "timeout while waiting for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_hundred_losses_leak_nothing() {
    in_own_process("hundred_losses");
}

/// Runs an ignored test of this program in a process of its own.
#[track_caller]
fn in_own_process(test: &str) {
    let child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", test, "--nocapture"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&child.stdout).into_owned() + &String::from_utf8_lossy(&child.stderr);
    println!("{text}");
    assert!(child.status.success() && text.contains("1 passed"), "{text}");
}

/// A device whose opening hangs: the attempt is given up, and its thread remains, or ends late.
struct HangingDevice {
    spec: SourceSpec,
    ends: bool,
}

impl Source for HangingDevice {
    fn spec(&self) -> &SourceSpec {
        &self.spec
    }

    fn start(&mut self, _ring: RingWriter, _events: EventSender) -> Result<(), AudioError> {
        Err(AudioError::new(AudioErrorKind::Backend, "script", "does not open"))
    }

    fn stop(&mut self) {
        let (thread, ended) = crossbeam_channel::bounded(0);
        abandon_stream(ended);
        if !self.ends {
            std::mem::forget(thread);
        }
    }
}

/// Started by the test below in a process of its own: abandoned streams are counted per process.
#[test]
#[ignore = "started by a_device_whose_opening_hangs_ends_the_daemon"]
fn hanging_openings() {
    let attempts = Arc::new(AtomicU64::new(0));
    let count = attempts.clone();
    let open = move || -> Result<Box<dyn Source>, AudioError> {
        // Those that end late do not add up.
        let ends = count.fetch_add(1, Ordering::Relaxed) < 20;
        let spec = SourceSpec { name: "script".into(), sample_rate: 16_000, channels: 1, live: true, total_samples: None };
        Ok(Box::new(HangingDevice { spec, ends }))
    };
    let mut options = options(Duration::from_secs(2));
    options.backoff = Backoff { first: Duration::from_millis(1), longest: Duration::from_millis(4) };
    let (_, encoder) = common::default_pack();
    let consumers = vec![NamedConsumer { label: "collect".into(), consumer: Box::new(Collect::default()) }];
    let daemon = Daemon::start(encoder, Box::new(Fixed::new(1)), consumers, options, "script", true).unwrap();
    let (_sender, commands) = crossbeam_channel::unbounded();
    let report = daemon.run(open, &commands, &mut |_: &[String]| Err("no configuration".into()), &mut ());
    assert!(matches!(report.outcome, Err(RunError::Abandoned(8))), "{:?}", report.outcome);
    assert_eq!(attempts.load(Ordering::Relaxed), 20 + 8);
}

#[test]
fn a_device_whose_opening_hangs_ends_the_daemon() {
    in_own_process("hanging_openings");
}

/// Hangs within a chunk while the first flag is set; the second one is set meanwhile.
struct Hanging(Arc<AtomicBool>, Arc<AtomicBool>);

impl ExitPolicy for Hanging {
    fn needs(&self, _layer: usize) -> Needs {
        Needs::Nothing
    }

    fn decide(&mut self, _observation: &Observation<'_>) -> Decision {
        while self.0.load(Ordering::Relaxed) {
            self.1.store(true, Ordering::Relaxed);
            std::thread::sleep(Duration::from_millis(5));
        }
        Decision::Exit(Reason::Schedule)
    }
}

/// A device that delivers audio for longer than any test takes.
fn endless() -> Result<Box<dyn Source>, AudioError> {
    let speech = common::speech();
    let minutes: Vec<f32> = speech.iter().copied().cycle().take(16_000 * 240).collect();
    Ok(Box::new(ScriptedSource::paced(16_000, &minutes, 1_600)))
}

#[test]
fn pings_stop_while_the_inference_thread_hangs() {
    let (hangs, inside) = (Arc::new(AtomicBool::new(false)), Arc::default());
    let recorder = Recorder { ping_every: Some(PING_EVERY), ..Recorder::default() };
    let (policy, options) = (Box::new(Hanging(hangs.clone(), Arc::clone(&inside))), options(Duration::from_secs(2)));
    let clock = options.clock.clone();
    let (report, _) = daemon(policy, options, endless, &recorder, |status| {
        within_long("pings", || recorder.count(&Notice::Ping) >= 3 && status.state() == State::Running);
        hangs.store(true, Ordering::Relaxed);
        within_long("the hanging chunk", || inside.load(Ordering::Relaxed));
        recorder.advance(&clock, Duration::from_secs(2));
        within_long("stalled", || status.state() == State::Stalled);
        assert!(!status.healthy());
        recorder.is_silent(&clock);
        let pings = recorder.count(&Notice::Ping);
        // Pings continue with the inference thread.
        hangs.store(false, Ordering::Relaxed);
        within_long("running", || status.state() == State::Running && recorder.count(&Notice::Ping) > pings);
        hangs.store(true, Ordering::Relaxed);
    });
    assert!(matches!(report.outcome, Err(RunError::Stuck(_))), "{:?}", report.outcome);
    assert_eq!(recorder.count(&Notice::Ready), 1);
    hangs.store(false, Ordering::Relaxed);
}

#[test]
fn pings_stop_while_a_device_hangs_in_its_opening() {
    let (open, opened) = crossbeam_channel::bounded::<()>(0);
    let recorder = Recorder { ping_every: Some(PING_EVERY), ..Recorder::default() };
    let options = options(Duration::from_secs(2));
    let clock = options.clock.clone();
    let device = move || {
        let _ = opened.recv();
        endless()
    };
    let (report, _) = daemon(Box::new(Fixed::new(1)), options, device, &recorder, |status| {
        within_long("pings", || recorder.count(&Notice::Ping) >= 1);
        recorder.advance(&clock, Duration::from_secs(10));
        recorder.is_silent(&clock);
        let pings = recorder.count(&Notice::Ping);
        drop(open);
        within_long("pings of the open device", || status.state() == State::Running && recorder.count(&Notice::Ping) > pings);
    });
    report.outcome.unwrap();
}

/// Fails at its first chunk, as on a full disk.
struct Fails;

impl Consumer for Fails {
    fn name(&self) -> &str {
        "fails"
    }

    fn consume(&mut self, _: &Representation) -> Result<(), ConsumerError> {
        Err(ConsumerError::other("no space left on device"))
    }
}

/// Keeps the consumer `stays`, in reloads and in refreshes.
/// Counts what was applied.
struct KeepsOne(Arc<AtomicU64>);

impl KeepsOne {
    fn reload() -> Reload {
        let session = SessionOptions::default().chunk_frames(16);
        Reload { policy: Box::new(Fixed::new(1)), session, keep: vec!["stays".into()], join: Vec::new(), adjust: None }
    }
}

impl Reloader for KeepsOne {
    fn prepare(&mut self, _: &[String]) -> Prepared {
        Ok(Self::reload())
    }

    fn refresh(&mut self, _: &[String]) -> Option<Prepared> {
        Some(Ok(Self::reload()))
    }

    fn applied(&mut self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn a_failed_consumer_has_failed_until_a_reload() {
    let (_, encoder) = common::default_pack();
    let fixed = || Box::new(Fixed::new(1));
    let named = |label: &str, consumer: Box<dyn Consumer>| NamedConsumer { label: label.to_owned(), consumer };
    let consumers = vec![named("stays", Box::new(Null)), named("fails", Box::new(Fails))];
    let daemon = Daemon::start(encoder, fixed(), consumers, options(Duration::from_secs(2)), "script", true).unwrap();
    let status = daemon.status().clone();
    let (sender, commands) = crossbeam_channel::unbounded();
    let applied = Arc::new(AtomicU64::new(0));
    let mut reloader = KeepsOne(applied.clone());
    let thread = std::thread::spawn(move || daemon.run(endless, &commands, &mut reloader, &mut Recorder::default()));
    let failed = |label: &str| status.counters().consumers().iter().any(|one| one.label() == label && one.failed());
    within_long("failure", || failed("fails") && !status.healthy());
    // Enrolled keywords have changed.
    sender.send(Command::Refresh).unwrap();
    within_long("the change", || applied.load(Ordering::Relaxed) >= 1);
    assert!(failed("fails") && !status.healthy());
    assert_eq!(status.reloads(), (0, 0), "it is no reload of the configuration");
    sender.send(Command::Reload).unwrap();
    within_long("health", || !failed("fails") && status.healthy());
    assert!(!failed("stays"));
    sender.send(Command::Stop).unwrap();
    thread.join().unwrap().outcome.unwrap();
}

/// Simulates a slow board: every layer takes 60 ms.
struct Slow;

const SLOW_LAYER: Duration = Duration::from_millis(60);

impl ExitPolicy for Slow {
    fn needs(&self, _layer: usize) -> Needs {
        Needs::Nothing
    }

    fn decide(&mut self, _observation: &Observation<'_>) -> Decision {
        std::thread::sleep(SLOW_LAYER);
        Decision::Continue
    }
}

#[test]
fn throttling_is_reported_once_per_change() {
    let folder = tempfile::tempdir().unwrap();
    let firmware = folder.path().join("devices/platform/soc/soc:firmware/get_throttled");
    std::fs::create_dir_all(firmware.parent().unwrap()).unwrap();
    std::fs::write(&firmware, "4\n").unwrap();
    let mut options = options(Duration::from_secs(2));
    options.board = folder.path().to_owned();
    let (clock, recorder) = (options.clock.clone(), Recorder::default());
    let read = || recorder.advance(&clock, Duration::from_secs(5));
    daemon(Box::new(Fixed::new(1)), options, endless, &recorder, |status| {
        within_long("throttling", || status.reading().throttled == ["throttled by the firmware"]);
        (0..3).for_each(|_| read());
        assert_eq!(status.throttles(), 1);
        std::fs::write(&firmware, "40000\n").unwrap();
        read();
        assert!(status.reading().throttled.is_empty());
        std::fs::write(&firmware, "40004\n").unwrap();
        read();
        assert_eq!(status.reading().throttled, ["throttled by the firmware"]);
        assert_eq!(status.throttles(), 2);
    });
}

#[test]
fn under_load_the_deadline_sheds_layers_before_audio_is_dropped() {
    // Ten layers take twice the duration of a chunk.
    let shed = |status: &Status| status.counters().reasons().find(|(reason, _)| *reason == Reason::Deadline).unwrap().1;
    let policy = Box::new(Deadline::new(Box::new(Slow), Duration::from_millis(250)));
    let (report, _) = daemon(policy, options(Duration::from_secs(20)), endless, &Recorder::default(), |status| {
        within_long("chunks", || status.counters().chunks() >= 20);
        assert!(shed(status) >= 15, "{}", shed(status));
        // At the stop, what is left at the time limit is dropped.
        assert_eq!(status.counters().samples().dropped, 0);
    });
    assert!(report.summary.mean_exit_layer < 7.0, "{}", report.summary.mean_exit_layer);

    // Without a deadline, audio is dropped.
    let ring = Duration::from_secs(1);
    let (report, _) = daemon(Box::new(Slow), options(ring), endless, &Recorder::default(), |status| {
        within_long("drops", || status.counters().samples().dropped > 0);
        assert_eq!(shed(status), 0);
    });
    // At the stop, the ring holds a second of audio that takes two to process: what is left at the time limit is dropped and counted.
    let samples = report.summary.samples;
    assert_eq!(samples.captured, samples.processed + samples.dropped + samples.left, "{samples:?}");
}
