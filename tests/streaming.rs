//! Streaming equals offline processing for any callback size and device rate, and no audio is lost.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::time::{Duration, Instant};

use bellis::audio::{AudioError, AudioErrorKind, EventSender, Resampler, RingWriter, Source, SourceEvent, SourceSpec};
use bellis::consumer::{Consumer, ConsumerError, OnOverflow};
use bellis::exit::{PolicyName, PolicySpec, Reason};
use bellis::internal::{ScriptedSource, Step};
use bellis::runtime::{InputGain, RunBuilder, RunError, RunOptions, RunReport, StopFlag};
use bellis::stream::{Representation, Session, SessionOptions};
use common::{Collect, default_pack, deviation, speech};
use proptest::prelude::*;

const TOLERANCE: f32 = 1e-4;

/// Audio of a device at `rate`, `seconds` long, resampled from the recording.
fn device_audio(rate: u32, seconds: f32) -> Vec<f32> {
    let mut resampler = Resampler::new(16_000, rate).unwrap();
    let mut audio = Vec::new();
    resampler.push(&speech()[4_000..], &mut audio);
    resampler.finish(&mut audio);
    audio.truncate((rate as f32 * seconds) as usize);
    audio
}

/// The reference: one call to the resampler, one to the session.
fn offline(audio: &[f32], rate: u32) -> Vec<Representation> {
    let (pack, encoder) = default_pack();
    let mut resampler = Resampler::new(rate, 16_000).unwrap();
    let mut resampled = Vec::new();
    resampler.push(audio, &mut resampled);
    resampler.finish(&mut resampled);
    let policy = PolicySpec::default().build(pack).unwrap();
    let mut session = Session::new(encoder, policy, SessionOptions::default().chunk_frames(16)).unwrap();
    session.push(&resampled).unwrap();
    session.finish();
    std::iter::from_fn(|| session.next_chunk().unwrap()).collect()
}

fn stream(source: ScriptedSource, options: &RunOptions, consumers: Vec<Box<dyn Consumer>>, stop: &StopFlag) -> RunReport {
    let (pack, encoder) = default_pack();
    let policy = PolicySpec::default().build(pack).unwrap();
    let run = RunBuilder::new(source, encoder, policy).consumers(consumers).options(options.clone()).stop_on(stop.clone());
    run.start().unwrap().join()
}

fn options() -> RunOptions {
    RunOptions::default().session(SessionOptions::default().chunk_frames(16))
}

/// The level is measured before the gain, and the gain applied before everything else.
#[test]
fn a_quiet_source_with_gain_gives_the_representations_of_a_loud_one_and_reports_its_own_level() {
    let loud = device_audio(48_000, 6.0);
    let quiet: Vec<f32> = loud.iter().map(|sample| sample / 8.0).collect();
    let run = |audio: &[f32], gain_db: f32| {
        let collect = Collect::default();
        let source = ScriptedSource::in_callbacks(48_000, false, audio, &[960]);
        let report =
            stream(source, &options().gain(InputGain::Fixed(gain_db)), vec![Box::new(collect.clone())], &StopFlag::default());
        report.outcome.unwrap();
        (collect.take(), report.summary.level.unwrap())
    };
    let eight_fold = 20.0 * 8f32.log10();
    let ((wanted, loud), (found, quiet)) = (run(&loud, 0.0), run(&quiet, eight_fold));
    assert_eq!(found.len(), wanted.len());
    for (found, wanted) in found.iter().zip(&wanted) {
        assert_eq!(found.exit_layer, wanted.exit_layer);
        assert!(deviation(found.vectors.as_slice(), wanted.vectors.as_slice()) < TOLERANCE);
    }
    for (loud, quiet) in [
        (loud.peak_dbfs, quiet.peak_dbfs),
        (loud.rms_dbfs, quiet.rms_dbfs),
        (loud.active_dbfs.unwrap(), quiet.active_dbfs.unwrap()),
    ] {
        assert!((loud - quiet - f64::from(eight_fold)).abs() < 0.1, "{loud} and {quiet} dBFS");
    }
}

proptest! {
    // PROPTEST_CASES reduces this number under emulation.
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases.min(40), ..ProptestConfig::default() })]

    #[test]
    fn streamed_equals_offline_for_any_callbacks_and_device_rate(
        rate in prop::sample::select(vec![8_000u32, 16_000, 22_050, 44_100, 48_000, 96_000]),
        sizes in prop::collection::vec(prop_oneof![1usize..64, 64usize..2_048, 2_048usize..=48_000], 1..6),
        seconds in 0.05f32..3.0,
    ) {
        let audio = device_audio(rate, seconds);
        let expected = offline(&audio, rate);
        let collect = Collect::default();
        let source = ScriptedSource::in_callbacks(rate, false, &audio, &sizes);
        let report = stream(source, &options(), vec![Box::new(collect.clone())], &StopFlag::default());
        report.outcome.unwrap();
        let found = collect.take();
        prop_assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(&expected) {
            prop_assert_eq!((found.exit_layer, found.first_sample, found.samples), (expected.exit_layer, expected.first_sample, expected.samples));
            let worst = deviation(found.vectors.as_slice(), expected.vectors.as_slice());
            prop_assert!(worst < TOLERANCE, "{worst}");
        }
        let samples = report.summary.samples;
        prop_assert_eq!((samples.captured, samples.processed, samples.dropped), (audio.len() as u64, audio.len() as u64, 0));
        let out: u64 = found.iter().map(|chunk| chunk.samples).sum();
        prop_assert_eq!(out, (audio.len() as u64 * 16_000 * 2 + u64::from(rate)) / (2 * u64::from(rate)));
    }
}

#[test]
fn callbacks_of_one_sample_give_the_same_result() {
    let audio = device_audio(16_000, 1.0);
    let collect = Collect::default();
    let source = ScriptedSource::in_callbacks(16_000, false, &audio, &[1]);
    stream(source, &options(), vec![Box::new(collect.clone())], &StopFlag::default()).outcome.unwrap();
    let (found, expected) = (collect.take(), offline(&audio, 16_000));
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(&expected) {
        assert!(deviation(found.vectors.as_slice(), expected.vectors.as_slice()) < TOLERANCE);
    }
}

/// A consumer that calls a function at every chunk, with the default overflow rule.
struct Each<F>(F);

impl<F: FnMut() + Send> Consumer for Each<F> {
    fn name(&self) -> &str {
        "each"
    }

    fn consume(&mut self, _representation: &Representation) -> Result<(), ConsumerError> {
        (self.0)();
        Ok(())
    }
}

#[test]
fn a_slow_consumer_delays_a_file_and_loses_nothing() {
    let audio = device_audio(16_000, 5.0);
    let mut options = options();
    options.queue_chunks = 1;
    let slow = Each(|| std::thread::sleep(Duration::from_millis(40)));
    let source = ScriptedSource::in_callbacks(16_000, false, &audio, &[1_000]);
    let report = stream(source, &options, vec![Box::new(slow)], &StopFlag::default());
    report.outcome.unwrap();
    let summary = report.summary;
    assert_eq!((summary.chunks, summary.samples.processed), (16, audio.len() as u64));
    assert_eq!((summary.consumers[0].delivered, summary.consumers[0].dropped), (summary.chunks, 0));
}

#[test]
fn with_live_audio_a_slow_consumer_loses_chunks_unless_it_chooses_another_rule() {
    let audio = device_audio(16_000, 6.0);
    let mut options = options().ring(Duration::from_secs(10));
    options.queue_chunks = 1;
    let collect = Collect::default();
    let other = collect.clone();
    // It falls behind on a machine of any speed.
    let behind = Each(move || {
        while other.0.lock().unwrap().len() < 5 {
            std::thread::sleep(Duration::from_millis(1));
        }
    });
    let source = ScriptedSource::in_callbacks(16_000, true, &audio, &[1_000]);
    let report = stream(source, &options, vec![Box::new(behind), Box::new(collect.clone())], &StopFlag::default());
    report.outcome.unwrap();
    let [behind, other] = &report.summary.consumers[..] else { panic!() };
    assert!(behind.dropped > 0, "nothing was dropped");
    assert_eq!(behind.delivered + behind.dropped, report.summary.chunks);
    // It delays neither inference nor the other consumer.
    assert_eq!((other.delivered, other.dropped), (19, 0));
    assert_eq!((report.summary.samples.processed, report.summary.samples.dropped), (audio.len() as u64, 0));
}

/// Two channels in antiphase, as a microphone delivers them for the inference thread to choose from.
struct Antiphase(SourceSpec, Vec<f32>);

impl Source for Antiphase {
    fn spec(&self) -> &SourceSpec {
        &self.0
    }

    fn ring_channels(&self) -> u16 {
        2
    }

    fn start(&mut self, mut ring: RingWriter, events: EventSender) -> Result<(), AudioError> {
        let frames: Vec<f32> = self.1.iter().flat_map(|sample| [*sample, -*sample]).collect();
        std::thread::spawn(move || {
            assert!(ring.push_blocking(&frames, &std::sync::atomic::AtomicBool::new(false)));
            drop(ring);
            events.send(SourceEvent::End);
        });
        Ok(())
    }

    fn stop(&mut self) {}
}

#[test]
fn channels_that_cancel_each_other_are_mixed_on_the_inference_thread() {
    let sound = device_audio(48_000, 4.0);
    let spec = SourceSpec { name: "array".into(), sample_rate: 48_000, channels: 2, live: false, total_samples: None };
    let (pack, encoder) = default_pack();
    let policy = PolicySpec::default().build(pack).unwrap();
    let run = RunBuilder::new(Antiphase(spec, sound.clone()), encoder, policy).options(options()).start().unwrap();
    let summary = run.join().into_result().unwrap();
    assert_eq!((summary.samples.captured, summary.samples.processed), (sound.len() as u64, sound.len() as u64));
    let mono = stream(ScriptedSource::in_callbacks(48_000, false, &sound, &[960]), &options(), vec![], &StopFlag::default());
    let (found, wanted) = (summary.level.unwrap().rms_dbfs, mono.summary.level.unwrap().rms_dbfs);
    assert!((found - wanted).abs() < 0.2, "{found} instead of {wanted} dBFS");
}

#[test]
fn a_run_can_be_waited_for_with_a_limit() {
    let (pack, encoder) = default_pack();
    let source = ScriptedSource::new(48_000, true, vec![Step::Callback(vec![0.0; 480]), Step::Hang]);
    let policy = PolicySpec::default().build(pack).unwrap();
    let run = RunBuilder::new(source, encoder, policy).options(options()).start().unwrap();
    assert!(!run.wait_for(Duration::from_millis(1)) && !run.is_finished());
    run.stop();
    assert!(run.wait_for(Duration::from_secs(60)), "the run ends when it is stopped");
    run.join().outcome.unwrap();
}

#[test]
fn the_inference_thread_wakes_for_chunks_and_not_for_callbacks() {
    let sound = device_audio(48_000, 4.0);
    let (pack, encoder) = default_pack();
    let policy = PolicySpec::default().build(pack).unwrap();
    let run = RunBuilder::new(ScriptedSource::paced(48_000, &sound, 480), encoder, policy).options(options()).start().unwrap();
    let counters = run.counters().clone();
    let report = run.join();
    report.outcome.unwrap();
    assert!(report.summary.chunks >= 12 && report.summary.delay.is_some());
    // For every chunk: the wake-up, a read of at most 4,096 samples at a time, the chunk. There are 400 callbacks.
    let (beats, chunks) = (counters.heartbeats(), report.summary.chunks);
    assert!(beats < 12 * chunks, "{beats} turns of the loop for {chunks} chunks");
}

/// A consumer that blocks at its first chunk until another consumer has received five: it falls behind on a machine of any speed.
struct Behind(OnOverflow, Collect);

impl Consumer for Behind {
    fn name(&self) -> &str {
        "behind"
    }

    fn consume(&mut self, _representation: &Representation) -> Result<(), ConsumerError> {
        while self.1.0.lock().unwrap().len() < 5 {
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    fn on_overflow(&self, _live: bool) -> OnOverflow {
        self.0
    }
}

#[test]
fn a_slow_consumer_drops_only_its_own_chunks_with_the_drop_rules() {
    for on_overflow in [OnOverflow::DropNewest, OnOverflow::DropOldest] {
        let audio = device_audio(16_000, 6.0);
        let mut options = options();
        options.queue_chunks = 1;
        let collect = Collect::default();
        let consumers: Vec<Box<dyn Consumer>> = vec![Box::new(Behind(on_overflow, collect.clone())), Box::new(collect.clone())];
        let report =
            stream(ScriptedSource::in_callbacks(16_000, false, &audio, &[1_000]), &options, consumers, &StopFlag::default());
        let [behind, other] = &report.summary.consumers[..] else { panic!() };
        assert!(behind.dropped > 0, "{on_overflow:?}: nothing was dropped, so the test checks nothing");
        assert_eq!(behind.delivered + behind.dropped, report.summary.chunks);
        assert_eq!((other.delivered, other.dropped), (report.summary.chunks, 0));
        assert_eq!(report.summary.samples.dropped, 0);
    }
}

#[test]
fn unread_live_audio_is_dropped_and_counted_exactly() {
    let audio = device_audio(16_000, 7.0);
    let mut options = options();
    options.ring = Duration::from_millis(200);
    options.queue_chunks = 1;
    let collect = Collect::default();
    // All at once, into a ring of 0.2 s: most of it is dropped, and all of it is counted.
    let steps =
        audio.chunks(1_600).map(|callback| Step::Callback(callback.to_vec())).chain([Step::Wait(Duration::from_millis(50))]);
    let steps: Vec<Step> = steps.chain(audio.chunks(1_600).take(1).map(|callback| Step::Callback(callback.to_vec()))).collect();
    let captured = audio.len() as u64 + 1_600;
    let report =
        stream(ScriptedSource::new(16_000, true, steps), &options, vec![Box::new(collect.clone())], &StopFlag::default());
    let samples = report.summary.samples;
    assert_eq!(samples.captured, captured);
    assert_eq!(samples.captured, samples.processed + samples.dropped);
    assert!(samples.dropped > 0, "nothing was dropped, so the test checks nothing");
    let chunks = collect.take();
    assert_eq!(chunks.iter().map(|chunk| chunk.samples).sum::<u64>(), samples.processed);
    assert_eq!(chunks.iter().map(|chunk| chunk.lost_samples).sum::<u64>(), samples.dropped);
    // Positions include dropped samples: the last chunk ends where the capture ended.
    for pair in chunks.windows(2) {
        assert!(pair[1].first_sample >= pair[0].first_sample + pair[0].samples);
    }
    let last = chunks.last().unwrap();
    assert!(
        last.first_sample + last.samples <= captured && last.first_sample + last.samples + last.lost_samples >= captured - 1_600
    );
}

#[test]
fn stopping_computes_all_captured_audio() {
    let audio = device_audio(16_000, 6.0);
    let (pack, encoder) = default_pack();
    let policy = PolicySpec::default().build(pack).unwrap();
    let source = ScriptedSource::new(16_000, true, vec![Step::Callback(audio.clone()), Step::Hang]);
    let collect = Collect::default();
    let options = options().ring(Duration::from_secs(10));
    let run = RunBuilder::new(source, encoder, policy).consumer(collect.clone()).options(options).start().unwrap();
    let until = Instant::now() + Duration::from_secs(60);
    while run.counters().samples().captured < audio.len() as u64 {
        assert!(Instant::now() < until, "the source delivers nothing");
        std::thread::sleep(Duration::from_millis(1));
    }
    run.stop();
    let report = run.join();
    report.outcome.unwrap();
    assert_eq!(report.summary.samples.processed, audio.len() as u64);
    assert_eq!(collect.take().iter().map(|chunk| chunk.samples).sum::<u64>(), audio.len() as u64);
}

#[test]
fn a_failed_device_ends_the_run_with_its_error_after_all_its_audio() {
    let audio = device_audio(16_000, 1.5);
    let error = AudioError::new(AudioErrorKind::DeviceLost, "mic", "unplugged");
    let steps = vec![Step::Callback(audio.clone()), Step::Xrun, Step::Fail(error.clone())];
    let report = stream(ScriptedSource::new(16_000, true, steps), &options(), vec![], &StopFlag::default());
    assert!(matches!(report.outcome, Err(RunError::Audio(found)) if found == error));
    assert_eq!(report.summary.samples.processed, audio.len() as u64);
    assert_eq!(report.summary.xruns, 1);
}

#[test]
fn the_watchdog_ends_a_run_whose_live_source_hangs() {
    let mut options = options();
    options.watchdog = Duration::from_millis(200);
    let steps = vec![Step::Callback(vec![0.0; 8_000]), Step::Hang];
    let report = stream(ScriptedSource::new(16_000, true, steps), &options, vec![], &StopFlag::default());
    assert!(matches!(report.outcome, Err(RunError::Stalled { .. })), "{:?}", report.outcome);
    assert_eq!(report.summary.samples.processed, 8_000);
}

/// A consumer that fails at the third chunk.
struct Fails(u64, fn() -> ConsumerError);

impl Consumer for Fails {
    fn name(&self) -> &str {
        "fails"
    }

    fn consume(&mut self, _representation: &Representation) -> Result<(), ConsumerError> {
        self.0 += 1;
        if self.0 == 3 { Err(self.1()) } else { Ok(()) }
    }
}

#[test]
fn a_consumer_that_fails_ends_the_run_with_its_name() {
    let audio = device_audio(16_000, 6.0);
    let mut options = options();
    options.queue_chunks = 1;
    let source = || ScriptedSource::in_callbacks(16_000, false, &audio, &[500]);
    let failing = Fails(0, || ConsumerError::other("disk full"));
    let collect = Collect::default();
    let report = stream(source(), &options, vec![Box::new(failing), Box::new(collect.clone())], &StopFlag::default());
    assert!(matches!(&report.outcome, Err(RunError::Consumer { name, .. }) if name == "fails"), "{:?}", report.outcome);
    // What was captured by then is processed, and the other consumer receives it.
    let (samples, chunks) = (report.summary.samples, report.summary.chunks);
    assert_eq!((samples.captured, samples.dropped), (samples.processed, 0));
    let [failed, other] = &report.summary.consumers[..] else { panic!() };
    assert_eq!((failed.delivered, failed.delivered + failed.dropped), (2, chunks));
    assert_eq!((other.delivered, other.dropped), (chunks, 0));
    assert_eq!(collect.take().iter().map(|chunk| chunk.samples).sum::<u64>(), samples.processed);
    // A reader that closed the output is not a failure.
    let closed = Fails(0, || ConsumerError::Closed);
    stream(source(), &options, vec![Box::new(closed)], &StopFlag::default()).outcome.unwrap();
}

#[test]
fn a_consumer_that_panics_ends_the_run_and_all_chunks_are_counted() {
    let audio = device_audio(16_000, 6.0);
    let mut options = options();
    options.queue_chunks = 1;
    let source = ScriptedSource::in_callbacks(16_000, false, &audio, &[500]);
    let panics = Fails(0, || panic!("expected by this test"));
    let (pack, encoder) = default_pack();
    let policy = PolicySpec::default().build(pack).unwrap();
    let run = RunBuilder::new(source, encoder, policy).consumer(panics).options(options).start().unwrap();
    let counters = run.counters().clone();
    let report = run.join();
    assert!(matches!(report.outcome, Err(RunError::ThreadDied("consumer"))), "{:?}", report.outcome);
    let consumer = &report.summary.consumers[0];
    // The chunk at which it panicked counts as dropped.
    assert_eq!((consumer.delivered, consumer.delivered + consumer.dropped), (2, report.summary.chunks));
    assert_eq!(counters.consumers()[0].queued(), 0);
}

#[test]
fn a_deadline_has_no_effect_on_a_file() {
    let audio = device_audio(16_000, 6.0);
    let depths = |spec: PolicySpec| {
        let (pack, encoder) = default_pack();
        let policy = spec.build(pack).unwrap();
        let source = ScriptedSource::in_callbacks(16_000, false, &audio, &[96_000]);
        let run = RunBuilder::new(source, encoder, policy).options(options().ring(Duration::from_secs(8)));
        let exits = run.start().unwrap().join().into_result().unwrap().exits;
        assert_eq!(exits.iter().sum::<u64>(), 19);
        exits
    };
    let never = PolicySpec::named(PolicyName::Never);
    assert_eq!(depths(never.clone().deadline(Duration::from_secs(60))), depths(never.clone()));
    // The ring contains the six seconds of the file. If they counted as delay, a deadline of five seconds would cause early exits. Under
    // emulation, a chunk takes one second.
    let all_deep = |exits: &[u64]| exits[..exits.len() - 1].iter().all(|count| *count == 0);
    assert!(all_deep(&depths(never.deadline(Duration::from_secs(5)))));
}

#[test]
fn a_gate_exits_silence_before_the_first_layer_and_later_speech_is_unaffected() {
    let (pack, encoder) = default_pack();
    let chunk = 16 * 320;
    let mut audio = vec![0.0; 6 * chunk];
    audio.extend(device_audio(16_000, 6.0));
    let chunks = |spec: PolicySpec| {
        let collect = Collect::default();
        let source = ScriptedSource::in_callbacks(16_000, false, &audio, &[480]);
        let run = RunBuilder::new(source, encoder, spec.build(pack).unwrap()).consumer(collect.clone()).options(options());
        run.start().unwrap().join().outcome.unwrap();
        collect.take()
    };
    let never = PolicySpec::named(PolicyName::Never);
    let gated = chunks(never.clone().gate(0.7).gate_hangover(1));
    let open = chunks(never.clone().gate(1.0));
    assert_eq!((gated.len(), open.len()), (25, 25));
    assert!(gated[..6].iter().all(|chunk| chunk.exit_layer == 0 && chunk.reason == Reason::Gate));
    assert!(open.iter().all(|chunk| chunk.exit_layer == encoder.layers()), "a gate at 1 never closes");
    let spoken = gated[6..].iter().filter(|chunk| chunk.reason != Reason::Gate).count();
    assert!(spoken * 2 > gated.len() - 6, "{spoken} of {} chunks of speech passed", gated.len() - 6);
    // Keys and values of gated chunks are projected: the speech after them differs from full depth only by the projection's error.
    let first = 6 + gated[6..].iter().position(|chunk| chunk.exit_layer > 0).unwrap();
    let (a, b) = (gated[first].vectors.as_slice(), open[first].vectors.as_slice());
    let (mut dot, mut aa, mut bb) = (0.0, 0.0, 0.0);
    a.iter().zip(b).for_each(|(a, b)| (dot, aa, bb) = (dot + a * b, aa + a * a, bb + b * b));
    assert!(dot / (aa * bb).sqrt() > 0.95, "cosine {}", dot / (aa * bb).sqrt());
}

#[test]
fn gaps_at_another_rate_add_up() {
    let (pack, encoder) = default_pack();
    let audio = device_audio(48_000, 4.0);
    let mut options = options();
    options.ring = Duration::from_millis(100);
    // Every second callback is longer than the ring of 4,800 samples: gaps at different positions, however fast the machine is.
    let mut steps = Vec::new();
    let mut rest = &audio[..];
    while let Some((burst, after)) = rest.split_at_checked(997 + 7_001) {
        let (short, long) = burst.split_at(997);
        steps.extend([Step::Callback(short.to_vec()), Step::Callback(long.to_vec()), Step::Wait(Duration::from_millis(2))]);
        rest = after;
    }
    let collect = Collect::default();
    let policy = PolicySpec::named(PolicyName::Never).build(pack).unwrap();
    let source = ScriptedSource::new(48_000, true, steps);
    let report = RunBuilder::new(source, encoder, policy).consumer(collect.clone()).options(options).start().unwrap().join();
    let samples = report.summary.samples;
    let bursts = audio.len() as u64 / (997 + 7_001);
    assert!(samples.dropped >= bursts * (7_001 - 4_800), "{samples:?}");
    assert_eq!(collect.take().iter().map(|chunk| chunk.lost_samples).sum::<u64>(), samples.dropped / 3);
}

#[test]
fn non_finite_samples_are_replaced_by_zeros_and_counted() {
    let mut audio = device_audio(16_000, 1.0);
    let clean = {
        let mut clean = audio.clone();
        [100, 5_000, 9_999].iter().for_each(|&at| clean[at] = 0.0);
        clean
    };
    (audio[100], audio[5_000], audio[9_999]) = (f32::NAN, f32::INFINITY, -1e30);
    let collect = Collect::default();
    let report = stream(
        ScriptedSource::in_callbacks(16_000, false, &audio, &[777]),
        &options(),
        vec![Box::new(collect.clone())],
        &StopFlag::default(),
    );
    assert_eq!(report.summary.samples.non_finite, 3);
    let (found, expected) = (collect.take(), offline(&clean, 16_000));
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(&expected) {
        assert!(deviation(found.vectors.as_slice(), expected.vectors.as_slice()) < TOLERANCE);
    }
}
