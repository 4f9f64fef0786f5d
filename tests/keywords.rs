//! Keyword search: its results follow the documented recursion and do not depend on chunk boundaries.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::cell::Cell;
use std::io::Write;
use std::sync::{Arc, Mutex};

use bellis::consumer::{Consumer, KeywordLines, StreamInfo};
use bellis::exit::{ExitPolicy, Fixed, PolicySpec};
use bellis::internal::ScriptedSource;
use bellis::internal::keyword::{
    Condition, FrameBlock, Hit, LANES, Matcher, Spotter, SpotterOptions, Template, Track, VerifiedSearch, Warp,
};
use bellis::keyword::{
    Background, Detection, Enrolment, Event, KeywordSearch, Origin, PackRef, SearchError, Take, TakeProblem, Verifier, Watched,
    enroll, examples,
};
use bellis::runtime::{RunBuilder, RunOptions};
use bellis::stream::{Forecast, Representation, Session, SessionError, SessionOptions};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

const WIDTH: usize = 12;

/// Keyword embeddings.
fn rows(frames: std::ops::Range<usize>) -> impl Strategy<Value = Vec<Vec<f32>>> {
    prop::collection::vec(prop::collection::vec(-6.0f32..6.0, WIDTH), frames)
}

/// Runs of equal rows along few axes.
fn runs(count: std::ops::Range<usize>) -> impl Strategy<Value = Vec<Vec<f32>>> {
    let run = (0usize..4, 1usize..6).prop_map(|(axis, frames)| vec![axis; frames]);
    prop::collection::vec(run, count).prop_map(|runs| along(&runs.concat()))
}

fn template(rows: &[Vec<f32>]) -> Template {
    Template::new(&rows.concat(), WIDTH)
}

fn one_less_cosine(a: &[f32], b: &[f32]) -> f32 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    (1.0 - dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()).max(0.0) as f32
}

/// Passes frames in blocks of these sizes, repeated; sizes up to [`LANES`].
fn blocks(stream: &[Vec<f32>], sizes: &[usize], mut each: impl FnMut(&FrameBlock, u64)) {
    let (mut at, mut block) = (0, FrameBlock::default());
    for size in sizes.iter().cycle() {
        if at == stream.len() {
            return;
        }
        let end = (at + size).min(stream.len());
        block.clear();
        stream[at..end].iter().for_each(|row| block.push(row));
        each(&block, at as u64);
        at = end;
    }
}

/// All hits of a spotter in a stream.
fn hits(spotter: &mut Spotter, stream: &[Vec<f32>]) -> Vec<Hit> {
    let mut hits = Vec::new();
    blocks(stream, &[LANES], |block, _| spotter.step(block, None::<&mut Verifier>, |_, hit| hits.push(hit)).unwrap());
    hits.extend(spotter.reset(None::<&mut Verifier>).unwrap());
    hits
}

/// The documented recursion of `Warp` over the whole matrix: the mean distance of the best match that ends at each frame.
fn offline(example: &[Vec<f32>], stream: &[Vec<f32>]) -> Vec<f32> {
    const WARP_COST: f32 = 0.05;
    let rows = example.len();
    let d: Vec<Vec<f32>> = stream.iter().map(|row| example.iter().map(|own| one_less_cosine(own, row)).collect()).collect();
    let mut cost = vec![vec![f32::INFINITY; rows]; stream.len()];
    for j in 0..stream.len() {
        cost[j][0] = d[j][0];
        for i in 1..rows {
            let mut best = f32::INFINITY;
            if j >= 1 {
                best = best.min(cost[j - 1][i - 1] + d[j][i]);
            }
            if j >= 2 {
                best = best.min(cost[j - 2][i - 1] + (0.5 * (d[j - 1][i] + d[j][i]) + WARP_COST));
            }
            if j >= 1 && i >= 2 {
                best = best.min(cost[j - 1][i - 2] + (d[j][i - 1] + d[j][i] + WARP_COST));
            }
            cost[j][i] = best;
        }
    }
    cost.iter().map(|column| column[rows - 1] / rows as f32).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn streaming_equals_the_recursion(example in rows(1..9), stream in rows(1..60), sizes in prop::collection::vec(1..=LANES, 1..6)) {
        let template = template(&example);
        let wanted = offline(&example, &stream);
        let mut warp = Warp::new(&template);
        let mut found = Vec::new();
        blocks(&stream, &sizes, |block, _| found.extend_from_slice(&warp.step(block)[..block.frames()]));
        prop_assert_eq!(found.len(), wanted.len());
        for (j, (found, wanted)) in found.iter().zip(&wanted).enumerate() {
            prop_assert!(found.distance == *wanted || (found.distance - wanted).abs() < 1e-5, "{} {:?} {}", j, found, wanted);
            prop_assert!(found.distance.is_infinite() || found.frames as usize <= j + 1, "{} {:?}", j, found);
        }
        // Bit-identical for any block size.
        let (mut one, mut single) = (Warp::new(&template), Vec::new());
        blocks(&stream, &[1], |block, _| single.push(one.step(block)[0]));
        prop_assert_eq!(found, single);
    }

    #[test]
    fn any_chunking_gives_the_same_lines(example in rows(3..8), before in rows(0..20), after in rows(0..40), sizes in prop::collection::vec(1usize..17, 1..6)) {
        let stream = [before, example.clone(), after].concat();
        let whole = lines(&example, &stream, &[stream.len()]);
        prop_assert!(whole.contains("\"event\":\"keyword\""), "the example itself is detected: {}", whole);
        let without_delay = |text: &str| text.lines().map(|line| line.split(",\"delay\"").next().unwrap().to_owned()).collect::<Vec<_>>();
        prop_assert_eq!(without_delay(&whole), without_delay(&lines(&example, &stream, &sizes)));
    }

    #[test]
    fn frames_that_are_not_finite_are_never_detected(example in rows(3..8), mut stream in rows(10..40), bad in prop::collection::vec((0usize..40, 0usize..WIDTH, prop_oneof![Just(f32::NAN), Just(f32::INFINITY), Just(f32::NEG_INFINITY)]), 1..30)) {
        for (j, number, value) in bad {
            let frames = stream.len();
            stream[j % frames][number] = value;
        }
        let mut spotter = Spotter::new(vec![template(&example)], SpotterOptions { near_miss: 0.0, ..SpotterOptions::new(0.5, 0.02) });
        for hit in hits(&mut spotter, &stream) {
            prop_assert!((0.0..=1.0).contains(&hit.score), "{:?}", hit);
        }
        for hit in hits(&mut spotter, &vec![vec![f32::NAN; WIDTH]; 60]) {
            prop_assert!(hit.score < 0.01, "{:?}", hit);
        }
    }
}

#[test]
fn a_lower_peak_hides_no_higher_one() {
    let config = ProptestConfig { source_file: Some(file!()), ..ProptestConfig::with_cases(64) };
    let detections = Cell::new(0);
    let each = |(example, stream): (Vec<Vec<f32>>, Vec<Vec<f32>>)| {
        let found = |options| hits(&mut Spotter::new(vec![template(&example)], options), &stream);
        let near = found(SpotterOptions { near_miss: 0.01, ..SpotterOptions::new(f32::INFINITY, 0.02) });
        for detection in found(SpotterOptions::new(0.3, 0.02)) {
            detections.set(detections.get() + 1);
            let seen =
                near.iter().any(|hit| hit.score >= detection.score && hit.end > detection.start && hit.start < detection.end);
            prop_assert!(seen, "{:?} of {:?}", detection, near);
        }
        Ok(())
    };
    TestRunner::new(config).run(&(runs(4..8), runs(10..30)), each).unwrap_or_else(|error| panic!("{error}"));
    assert!(detections.get() > 0, "nothing was detected, so the test checks nothing");
}

#[derive(Clone, Default)]
struct Page(Arc<Mutex<Vec<u8>>>);

impl Write for Page {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Page {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

const HOP: usize = 320;

/// A chunk of these rows, before which `lost` samples were lost.
fn chunk(sequence: u64, first_sample: u64, rows: &[Vec<f32>], lost: u64) -> Representation {
    let frames = |width: usize, values: &[f32]| bellis::engine::Frames::from_vec(values.to_vec(), width);
    Representation {
        sequence,
        first_sample,
        samples: (rows.len() * HOP) as u64,
        lost_samples: lost,
        discontinuities: Vec::new(),
        ctc_evidence: Vec::new(),
        sample_rate: 16_000,
        hop_samples: HOP,
        exit_layer: 1,
        reason: bellis::exit::Reason::Gain,
        evidence: Vec::new(),
        expected_kl: None,
        forecast: Forecast::default(),
        vectors: frames(1, &vec![0.0; rows.len()]),
        log_posteriors: None,
        embedding: Some(frames(WIDTH, &rows.concat())),
        ctc_logits: None,
        audio: None,
        lookahead: None,
        compute: std::time::Duration::ZERO,
        captured_at: None,
    }
}

fn stream_info() -> StreamInfo {
    let mut stream = StreamInfo::default();
    stream.source = "test".into();
    stream.pack = "test".into();
    stream.sample_rate = 16_000;
    stream.hop_samples = HOP;
    stream.dim = 1;
    stream.units = 1;
    stream.quiet_unit = None;
    stream.vocabulary = Vec::new();
    stream.layers = 1;
    stream.chunk_frames = 16;
    stream.policy = "none".into();
    stream.live = false;
    stream
}

fn watched(example: &[Vec<f32>]) -> Vec<Watched> {
    let options = SpotterOptions::new(0.9, 0.02);
    vec![Watched {
        name: "word".into(),
        threshold: 0.9,
        noise_gain: 1.0,
        priority: 0,
        spotter: Spotter::new(vec![template(example)], options),
    }]
}

/// The consumer's output for a stream in chunks of these sizes, repeated.
fn lines(example: &[Vec<f32>], stream: &[Vec<f32>], sizes: &[usize]) -> String {
    lines_of(watched(example), stream, sizes)
}

fn lines_of(keywords: Vec<Watched>, stream: &[Vec<f32>], sizes: &[usize]) -> String {
    let page = Page::default();
    let mut consumer = KeywordLines::new(page.clone(), "page", keywords, None);
    consumer.begin(&stream_info()).unwrap();
    let (mut at, mut sequence) = (0, 0);
    for size in sizes.iter().cycle() {
        if at == stream.len() {
            break;
        }
        let end = (at + size).min(stream.len());
        consumer.consume(&chunk(sequence, (at * HOP) as u64, &stream[at..end], 0)).unwrap();
        (at, sequence) = (end, sequence + 1);
    }
    consumer.finish().unwrap();
    page.text()
}

/// Rows along one axis each.
fn along(axes: &[usize]) -> Vec<Vec<f32>> {
    axes.iter().map(|&axis| (0..WIDTH).map(|k| if k == axis { 3.0 } else { 0.0 }).collect()).collect()
}

/// In noise, scores have the keyword's factor; in clear audio and after a gap they do not.
#[test]
fn scores_follow_the_noise() {
    // Four of six frames are those of the word.
    let (word, heard, pause) = (along(&[1, 1, 2, 3, 3, 4]), along(&[1, 1, 2, 3, 5, 5]), along(&[0; 74]));
    let stream = [pause.clone(), heard, pause].concat();
    let scores = |noise_gain: f32, amplitude: &dyn Fn(usize) -> f32, lost: u64| {
        let keywords = watched(&word).into_iter().map(|one| Watched { noise_gain, ..one }).collect();
        let mut search = KeywordSearch::new(keywords, None);
        search.begin(HOP, 16);
        let mut found = Vec::new();
        for (number, rows) in stream.chunks(16).enumerate() {
            let first = number * 16 * HOP;
            let sample = |at: usize| amplitude(at) * if at.wrapping_mul(2_654_435_761) & 0x8000 == 0 { 1.0 } else { -1.0 };
            let audio = Some((first..first + rows.len() * HOP).map(sample).collect());
            // The word begins in the fifth chunk.
            let (lost, shift) = if number == 4 { (lost, lost) } else { (0, if number > 4 { lost } else { 0 }) };
            let chunk = chunk(number as u64, first as u64 + shift, rows, lost);
            search.search(&Representation { audio, ..chunk }, &mut |_: Detection<'_>| Ok::<_, SearchError>(())).unwrap();
            found.extend(search.take_scores().into_iter().map(|one| one.score));
        }
        found.into_iter().fold(0.0, f32::max)
    };
    let noisy = |_: usize| 0.1;
    let clear = |at: usize| if (at / 8_000).is_multiple_of(2) { 0.1 } else { 0.001 };
    let plain = scores(1.0, &noisy, 0);
    assert!((0.4..0.9).contains(&plain), "{plain}");
    assert_eq!(scores(1.1, &noisy, 0), plain * 1.1);
    assert_eq!(scores(0.8, &noisy, 0), plain * 0.8);
    assert_eq!(scores(1.1, &clear, 0), plain);
    // After a gap, it is unknown whether the audio is noisy.
    assert_eq!(scores(1.1, &noisy, 320), plain);
    assert_eq!(scores(9.0, &noisy, 0), 1.0, "no score is above 1");
}

#[test]
fn one_utterance_is_one_detection_with_its_place() {
    let word = along(&[1, 1, 2, 3, 3, 4]);
    let pause = along(&[0; 60]);
    let stream = [pause.clone(), word.clone(), pause.clone(), word.clone(), pause].concat();
    let found: Vec<serde_json::Value> =
        lines(&word, &stream, &[16]).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let places: Vec<(u64, u64)> =
        found.iter().map(|line| (line["sample"].as_u64().unwrap(), line["samples"].as_u64().unwrap())).collect();
    assert_eq!(places, [(60 * HOP as u64, 6 * HOP as u64), (126 * HOP as u64, 6 * HOP as u64)]);
    assert!(found.iter().all(|line| line["score"].as_f64().unwrap() > 0.99), "{found:?}");
    // A peak is final after 6 frames, and reported at the end of a chunk of 16.
    assert!(found.iter().all(|line| line["delay"].as_f64().unwrap() <= 0.02 * (6 + 16) as f64), "{found:?}");
}

#[test]
fn heavier_examples_count_more() {
    let word = along(&[1, 1, 2, 3, 3, 4]);
    let other = along(&[5, 5, 6, 7, 7, 8]);
    let stream = [along(&[0; 10]), word.clone(), along(&[0; 30])].concat();
    let score = |weights: [f32; 2]| {
        let matcher = Matcher::new([(template(&word), weights[0]), (template(&other), weights[1])]);
        hits(&mut Spotter::new(matcher, SpotterOptions::new(0.2, 0.02)), &stream)[0].score
    };
    // One example matches exactly and the other one not at all: √(w / Σ w).
    assert!((score([1.0, 1.0]) - 0.5f32.sqrt()).abs() < 1e-4 && (score([3.0, 1.0]) - 0.75f32.sqrt()).abs() < 1e-4);
}

#[test]
fn no_detection_in_the_refractory_time() {
    let word = along(&[1, 1, 2, 3, 3, 4]);
    let stream = [along(&[0; 10]), word.clone(), along(&[0; 20]), word.clone(), along(&[0; 60])].concat();
    let count = |seconds: u64| {
        let options = SpotterOptions::new(0.9, 0.02).with_refractory(std::time::Duration::from_secs(seconds), 0.02);
        let mut spotter = Spotter::new(vec![template(&word)], options);
        let hits = hits(&mut spotter, &stream);
        assert!(hits.iter().all(|hit| hit.event == Event::Detection));
        hits.len()
    };
    assert_eq!((count(0), count(1)), (2, 1));
}

#[test]
fn of_keywords_in_the_same_audio_one_is_reported() {
    let word = along(&[1, 1, 2, 3, 3, 4]);
    let alike = along(&[1, 1, 2, 7, 3, 4]);
    let longer = [word.clone(), along(&[5, 5, 6, 6, 7, 7, 8, 8])].concat();
    let stream = [along(&[0; 20]), longer.clone(), along(&[0; 60]), word.clone(), along(&[0; 40])].concat();
    let keyword = |name: &str, rows: &[Vec<f32>], priority| Watched {
        name: name.into(),
        threshold: 0.7,
        noise_gain: 1.0,
        priority,
        spotter: Spotter::new(vec![template(rows)], SpotterOptions::new(0.7, 0.02)),
    };
    let found = |keywords: &dyn Fn() -> Vec<Watched>| {
        let names = |sizes: &[usize]| -> Vec<String> {
            let text = lines_of(keywords(), &stream, sizes);
            let name = |line| serde_json::from_str::<serde_json::Value>(line).unwrap()["keyword"].as_str().unwrap().to_owned();
            text.lines().map(name).collect()
        };
        let whole = names(&[1000]);
        assert_eq!(names(&[16]), whole);
        assert_eq!(names(&[3, 5]), whole);
        whole
    };
    // Each utterance is detected as both; without a priority, the higher score counts.
    assert_eq!(found(&|| vec![keyword("alike", &alike, 0), keyword("word", &word, 0)]), ["word", "word"]);
    assert_eq!(found(&|| vec![keyword("alike", &alike, 1), keyword("word", &word, 0)]), ["alike", "alike"]);
    // The first one has ended before the longer one, which is reported as well if its priority is higher.
    assert_eq!(found(&|| vec![keyword("longer", &longer, 0), keyword("word", &word, 0)]), ["word", "word"]);
    assert_eq!(found(&|| vec![keyword("longer", &longer, 1), keyword("word", &word, 0)]), ["word", "longer", "word"]);
}

#[test]
fn near_misses_are_reported_on_request_only() {
    let word = along(&[1, 1, 2, 3, 3, 4]);
    let alike = along(&[1, 1, 2, 7, 3, 4]);
    let stream = [along(&[0; 10]), alike, along(&[0; 30])].concat();
    let reported = |near_miss: f32| {
        let options = SpotterOptions { near_miss, ..SpotterOptions::new(0.95, 0.02) };
        hits(&mut Spotter::new(vec![template(&word)], options), &stream)
    };
    assert!(reported(f32::INFINITY).is_empty());
    let near = reported(0.5);
    assert!(near.len() == 1 && near[0].event == Event::NearMiss && near[0].score < 0.95, "{near:?}");
}

#[test]
fn no_match_spans_lost_audio() {
    let word = along(&[1, 1, 2, 3, 3, 4]);
    let run = |lost: u64| {
        let page = Page::default();
        let mut consumer = KeywordLines::new(page.clone(), "page", watched(&word), None);
        consumer.begin(&stream_info()).unwrap();
        let first = [along(&[0; 5]), word[..3].to_vec()].concat();
        let second = [word[3..].to_vec(), along(&[0; 40])].concat();
        let third = [word.clone(), along(&[0; 40])].concat();
        let mut at = 0;
        for (sequence, (rows, lost)) in [(first, 0), (second, lost), (third, 0)].iter().enumerate() {
            at += lost;
            consumer.consume(&chunk(sequence as u64, at, rows, *lost)).unwrap();
            at += (rows.len() * HOP) as u64;
        }
        consumer.finish().unwrap();
        page.text()
            .lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["sample"].as_u64().unwrap())
            .collect::<Vec<_>>()
    };
    assert_eq!(run(0), [5 * 320]);
    // The third chunk's word is after 8 + 43 frames and the lost samples; it is complete, and detected there.
    assert_eq!(run(4000), [51 * 320 + 4000]);
}

/// With the bundled pack and its policy.
fn enrolled(take: Take) -> Result<Enrolment, TakeProblem> {
    let (pack, encoder) = common::default_pack();
    enroll(&take, encoder, || Ok::<_, SessionError>(PolicySpec::default().build(pack).unwrap()), 16).unwrap()
}

/// A stretch of the bundled recording as the word: every peak is the same in a live stream and in a file.
#[test]
fn live_and_file_give_the_same_lines() {
    let (pack, encoder) = common::default_pack();
    let speech = common::speech();
    let silence = vec![0.0; 6_400];
    let audio = [&silence[..], &speech[20_000..30_000], &silence[..]].concat();
    let take = Take { source: "a stretch".into(), origin: Origin::Recording, audio };
    let enrolment = enrolled(take).unwrap();
    let template = enrolment.example.template(PackRef::to(pack).width).unwrap();
    let options = SpotterOptions { near_miss: 0.1, ..SpotterOptions::new(0.999, 0.02) };
    let keywords = || {
        vec![Watched {
            name: "stretch".into(),
            threshold: 0.999,
            noise_gain: 1.0,
            priority: 0,
            spotter: Spotter::new(vec![template.clone()], options),
        }]
    };
    let run_over = |source: ScriptedSource| {
        let page = Page::default();
        let consumer: Box<dyn Consumer> =
            Box::new(KeywordLines::new(page.clone(), "page", keywords(), Some(Verifier::new(encoder, 16).unwrap())));
        let session = SessionOptions::default().chunk_frames(16);
        let options = RunOptions::default().session(session).ring(std::time::Duration::from_secs(60)).queue_chunks(64);
        let policy = PolicySpec::default().build(pack).unwrap();
        let run = RunBuilder::new(source, encoder, policy).consumer(consumer).options(options).start().unwrap();
        run.join().into_result().unwrap();
        page.text()
    };
    let file = run_over(ScriptedSource::in_callbacks(16_000, false, &speech, &[4096]));
    let live = run_over(ScriptedSource::in_callbacks(16_000, true, &speech, &[160, 477, 33]));
    assert_eq!(file, live);
    assert!(!file.is_empty());
}

#[test]
fn an_unsuitable_take_gives_the_reason() {
    let fit = |audio: Vec<f32>| enrolled(Take { source: "x".into(), origin: Origin::Recording, audio });
    assert!(matches!(fit(vec![0.0; 32_000]), Err(TakeProblem::TooQuiet { .. })));
    assert!(matches!(fit(Vec::new()), Err(TakeProblem::TooQuiet { .. })));
    let speech = common::speech();
    let silence = vec![0.0; 16_000];
    let two = [&silence[..], &speech[20_000..30_000], &silence[..], &speech[40_000..50_000], &silence[..]].concat();
    assert!(matches!(fit(two), Err(TakeProblem::SeveralWords { words: 2, .. })));
    assert!(matches!(fit(speech.clone()), Err(TakeProblem::TooLong { .. } | TakeProblem::SeveralWords { .. })));
    let word = |from: usize| [&silence[..], &speech[from..from + 10_000], &silence[..]].concat();
    let (a, b) = (fit(word(20_000)).unwrap(), fit(word(60_000)).unwrap());
    let again = fit(word(20_000)).unwrap();
    assert!(a.likeness([&again].into_iter()).unwrap().is_ok());
    let (own, other) = (a.score_of(&again.template), a.score_of(&b.template));
    assert!(own > 0.95 && own > other + 0.1, "{own} {other}");
    assert!(a.likeness([].into_iter()).is_none());
}

/// Embeddings of all exit layers are comparable: a recording matches itself better than another one.
#[test]
fn embeddings_of_all_exits_are_comparable() {
    let (_, encoder) = common::default_pack();
    let speech = common::speech();
    let track =
        |from: usize, layer: usize| Track::of(&speech[from..from + 16_000], encoder, Box::new(Fixed::new(layer)), 16).unwrap();
    let nearest = |template: &Template, track: &Track| {
        let (mut warp, mut nearest) = (Warp::new(template), f32::INFINITY);
        let all = track.blocks(|block| {
            nearest = warp.step(block)[..block.frames()].iter().fold(nearest, |nearest, found| nearest.min(found.distance));
            Ok::<_, SessionError>(())
        });
        all.unwrap();
        nearest
    };
    let (own, other) = (track(20_000, encoder.layers()), track(60_000, encoder.layers()));
    for layer in usize::from(!encoder.may_exit_at_frontend())..=encoder.layers() {
        let shallow = track(20_000, layer);
        assert_eq!((shallow.frames(), shallow.width()), (50, own.width()));
        let template = Template::new(shallow.rows(10..40), shallow.width());
        let (own, other) = (nearest(&template, &own), nearest(&template, &other));
        let margin = if layer < 2 { 0.05 } else { 0.2 };
        assert!(layer < 1 || own + margin < other, "layer {layer}: {own} {other}");
    }
}

/// A recording in pieces of any size gives the frames of the whole recording.
#[test]
fn a_recording_in_pieces_has_the_frames_of_the_whole() {
    let (pack, encoder) = common::default_pack();
    let policy = || PolicySpec::default().build(pack).unwrap();
    let sound = &common::speech()[20_000..47_777];
    let whole = Track::of(sound, encoder, policy(), 16).unwrap();
    let mut pieces = Vec::new();
    stream(sound, policy(), |chunk| {
        pieces.extend_from_slice(chunk.embedding.as_ref().unwrap().as_slice());
        Ok(())
    });
    assert!(whole.frames() == sound.len().div_ceil(320) && pieces == whole.rows(0..whole.frames()));
}

/// Streams a recording in pieces, and passes on each chunk.
fn stream(sound: &[f32], policy: Box<dyn ExitPolicy>, mut each: impl FnMut(&Representation) -> Result<(), SessionError>) {
    let (_, encoder) = common::default_pack();
    let options = SessionOptions::default().chunk_frames(16).embedding(true).audio(true);
    let mut session = Session::new(encoder, policy, options).unwrap();
    for piece in sound.chunks(4_321) {
        session.push(piece).unwrap();
        session.each(&mut each).unwrap();
    }
    session.finish();
    session.each(each).unwrap();
}

/// A stretch of the recording as the keyword: the highest background peak is the stretch itself, and 24 peaks are kept.
#[test]
fn the_background_keeps_its_highest_peaks() {
    let (_, encoder) = common::default_pack();
    let sound = &common::speech()[20_000..84_000];
    let full = || Box::new(Fixed::new(encoder.layers()));
    let track = Track::of(sound, encoder, full(), 16).unwrap();
    for first in (0..170).step_by(40) {
        let template = Template::new(track.rows(first..first + 25), track.width());
        let mut background = Background::new(vec![template].into(), Verifier::new(encoder, 16).unwrap(), 0.02);
        stream(sound, full(), |chunk| background.push(chunk));
        background.end_recording().unwrap();
        let tail = background.tail(Condition::Plain);
        // The verification pass has other chunk boundaries and less left context.
        assert!(tail.peaks[0] > 0.7 && tail.peaks.len() <= 24, "{first}: {tail:?}");
    }
}

/// A peak of a shallow stream is verified at full depth, and the lower score counts.
#[test]
fn the_lower_score_of_both_depths_counts() {
    let (_, encoder) = common::default_pack();
    let sound = &common::speech()[20_000..84_000];
    let track = |layer: usize| Track::of(sound, encoder, Box::new(Fixed::new(layer)), 16).unwrap();
    let best_of = |frames: std::ops::Range<usize>, rows: &Track, layer: usize, verified: bool| {
        let template = Template::new(rows.rows(frames), rows.width());
        let options = SpotterOptions { near_miss: 0.05, ..SpotterOptions::new(f32::INFINITY, 0.02) };
        let mut hits = Vec::new();
        if verified {
            let mut search = VerifiedSearch::new(vec![template], options, Verifier::new(encoder, 16).unwrap());
            stream(sound, Box::new(Fixed::new(layer)), |chunk| search.push(chunk, |hit| hits.push(hit)));
            hits.extend(search.end().unwrap());
        } else {
            let mut spotter = Spotter::new(vec![template], options);
            track(layer).blocks(|block| spotter.step(block, None::<&mut Verifier>, |_, hit| hits.push(hit))).unwrap();
            hits.extend(spotter.reset(None::<&mut Verifier>).unwrap());
        }
        hits.iter().map(|hit| hit.score).fold(0.0, f32::max)
    };
    let best = |rows: &Track, layer: usize, verified: bool| best_of(60..85, rows, layer, verified);
    let (shallow, full) = (track(2), track(encoder.layers()));
    // An example of shallow rows matches a shallow stream exactly, and full depth less well.
    let (once, twice) = (best(&shallow, 2, false), best(&shallow, 2, true));
    let at_depth = best(&shallow, encoder.layers(), false);
    assert!(once > 0.99 && twice < once - 0.05 && (twice - at_depth).abs() < 0.1, "{once} {twice} {at_depth}");
    // For a stream at full depth both scores are nearly the same; the pass has less left context.
    let (once, twice) = (best(&full, encoder.layers(), false), best(&full, encoder.layers(), true));
    assert!(once > 0.99 && twice > 0.95, "{once} {twice}");
    // Also later in a stream: a pass begins before its peak.
    let late = best_of(140..165, &full, encoder.layers(), true);
    assert!(late > 0.95, "{late}");
    // An example of full depth scores no higher in a shallow stream because it matches the pass exactly.
    let (once, twice) = (best(&full, 2, false), best(&full, 2, true));
    assert!((once - twice).abs() < 1e-6 && once < 0.9, "{once} {twice}");
}

/// Scores depend on the stream alone: not on other keywords, nor on audio before a gap.
#[test]
fn other_keywords_do_not_change_a_score() {
    let (pack, encoder) = common::default_pack();
    let sound = &common::speech()[20_000..];
    let policy = || PolicySpec::default().build(pack).unwrap();
    let track = Track::of(sound, encoder, policy(), 16).unwrap();
    let mut chunks = Vec::new();
    stream(sound, policy(), |chunk| {
        chunks.push(chunk.clone());
        Ok(())
    });
    let lines = |starts: &[usize], near_miss: f32, chunks: &[Representation]| {
        let options = SpotterOptions { near_miss, ..SpotterOptions::new(0.25, 0.02) };
        let watched = |&first: &usize| {
            let template = Template::new(track.rows(first..first + 12), track.width());
            Watched {
                name: format!("at {first}"),
                threshold: 0.25,
                noise_gain: 1.0,
                priority: 0,
                spotter: Spotter::new(vec![template], options),
            }
        };
        let (page, second) = (Page::default(), Verifier::new(encoder, 16).unwrap());
        let keywords = starts.iter().map(watched).collect();
        let mut consumer = KeywordLines::new(page.clone(), "page", keywords, Some(second));
        consumer.begin(&stream_info()).unwrap();
        chunks.iter().for_each(|chunk| consumer.consume(chunk).unwrap());
        consumer.finish().unwrap();
        page.text()
    };
    let of_the_first = |text: &str| -> Vec<String> {
        text.lines().filter(|line| line.contains(r#""event":"keyword","keyword":"at 70""#)).map(str::to_owned).collect()
    };
    let alone = of_the_first(&lines(&[70], f32::INFINITY, &chunks));
    assert!(alone.len() >= 2, "{alone:?}");
    assert_eq!(alone, of_the_first(&lines(&[40, 70, 100, 130], 0.05, &chunks)));

    // The same audio after a gap.
    let shift = chunks.iter().map(|chunk| chunk.samples).sum::<u64>() + 1;
    let later = chunks.iter().map(|chunk| Representation { first_sample: chunk.first_sample + shift, ..chunk.clone() });
    let both: Vec<Representation> = chunks.iter().cloned().chain(later).collect();
    let scores = |lines: &[String]| -> Vec<String> {
        lines.iter().map(|line| line[line.find("score").unwrap()..line.find(r#","sample""#).unwrap()].to_owned()).collect()
    };
    let twice = of_the_first(&lines(&[70], f32::INFINITY, &both));
    assert_eq!(scores(&twice), [scores(&alone), scores(&alone)].concat());
}

/// What a stream delivers after another.
enum Part<'a> {
    Audio(&'a [f32]),
    Lost(u64),
    /// The end of the stream, and a start without lost audio.
    Restart,
}

/// Start and score of the detections of the frames `first` to `first` + 25 of `audio` in a stream.
fn detections(audio: &[f32], first: usize, parts: &[Part<'_>]) -> Vec<(u64, f32)> {
    let (pack, encoder) = common::default_pack();
    let policy = || PolicySpec::default().build(pack).unwrap();
    let track = Track::of(audio, encoder, policy(), 16).unwrap();
    let template = Template::new(track.rows(first..first + 25), track.width());
    let spotter = Spotter::new(vec![template], SpotterOptions::new(0.5, 0.02));
    let watched = Watched { name: "one".into(), threshold: 0.5, noise_gain: 1.0, priority: 0, spotter };
    let mut search = KeywordSearch::new(vec![watched], Some(Verifier::new(encoder, 16).unwrap()));
    search.begin(HOP, 16);
    let mut session = Session::new(encoder, policy(), search.session_options(16)).unwrap();
    let mut hits = Vec::new();
    let mut each = |hit: Detection<'_>| {
        hits.push((hit.start, hit.score));
        Ok::<_, SearchError>(())
    };
    let mut received = 0;
    let mut take = |session: &mut Session| {
        while let Some(chunk) = session.next_chunk().unwrap() {
            search.search(&chunk, &mut each).unwrap();
        }
    };
    for part in parts {
        match part {
            Part::Audio(samples) => {
                session.push(samples).unwrap();
                received += samples.len() as u64;
            }
            Part::Lost(samples) => session.gap(received, *samples).unwrap(),
            Part::Restart => {
                session.finish();
                take(&mut session);
                session.restart(0).unwrap();
            }
        }
    }
    session.finish();
    take(&mut session);
    search.end(&mut each).unwrap();
    hits
}

/// A phrase is found if it begins or ends in the chunk that a gap is in, at its position in the stream.
#[test]
fn a_phrase_before_or_after_a_gap_in_its_chunk_is_found() {
    const LOST: u64 = 12_345;
    let audio = &common::speech()[20_000..84_000];
    // Phrases that begin in the second half of a chunk of 16 frames, and end in the first half of a later one.
    for first in [28, 60, 92, 124] {
        let cut = |frame: usize| {
            let (before, after) = audio.split_at(frame * HOP);
            detections(audio, first, &[Part::Audio(before), Part::Lost(LOST), Part::Audio(after)])
        };
        let [whole] = detections(audio, first, &[Part::Audio(audio)])[..] else { panic!("{first}: not one detection") };
        assert!(whole.0.abs_diff((first * HOP) as u64) < 1_000, "{first}: {whole:?}");
        for (gap, shift) in [(first / 16 * 16 + 4, LOST), (first + 28, 0)] {
            let [found] = cut(gap)[..] else { panic!("{first}, gap at {gap}: {:?}", cut(gap)) };
            assert!(
                found.0.abs_diff(whole.0 + shift) < 1_000 && found.1 > 0.6 * whole.1,
                "{first}, gap at {gap}: {whole:?} {found:?}"
            );
        }
        // Within the phrase.
        assert_eq!(cut(first + 12), [], "{first}");
    }
}

/// Positions after a restart are exact, although the last frame of a stream is short.
#[test]
fn a_phrase_after_a_restart_has_its_position_in_the_stream() {
    let audio = &common::speech()[20_000..83_777];
    let once = detections(audio, 60, &[Part::Audio(audio)]);
    let found = detections(audio, 60, &[Part::Audio(audio), Part::Restart, Part::Audio(audio)]);
    let later = once.iter().map(|(start, score)| (start + audio.len() as u64, *score));
    assert_eq!(found, once.iter().copied().chain(later).collect::<Vec<_>>());
}

/// The three bundled takes: averaging brings each closer to the others, and keeps its place and length.
#[test]
fn averaging_brings_examples_closer_to_each_other() {
    let (pack, _) = common::default_pack();
    let takes: Vec<Enrolment> = (1..=3)
        .map(|number| {
            let path = common::repository(&format!("models/keywords/demo/take-{number}.wav"));
            let audio = bellis::audio::decode_file_at(&path, bellis::audio::ChannelPick::MixDown, 16_000).unwrap();
            enrolled(Take { source: path.display().to_string(), origin: Origin::Recording, audio }).unwrap()
        })
        .collect();
    let drawn = examples(&takes);
    for (index, (take, drawn)) in takes.iter().zip(&drawn).enumerate() {
        assert_eq!(
            (&drawn.source, drawn.start, drawn.rows.len()),
            (&take.example.source, take.example.start, take.example.rows.len())
        );
        let drawn = drawn.template(PackRef::to(pack).width).unwrap();
        for other in takes.iter().enumerate().filter(|(other, _)| *other != index).map(|(_, other)| other) {
            let (before, after) = (other.score_of(&take.template), other.score_of(&drawn));
            assert!(after > before + 0.05, "{before} {after}");
        }
        assert!(take.score_of(&drawn) > 0.7);
    }
    // With synthesised takes, recordings have half of the weight.
    let mut mixed = takes.clone();
    mixed[1].example.origin = Origin::Synthesis;
    mixed[2].example.origin = Origin::Synthesis;
    assert_eq!(examples(&mixed).iter().map(|example| example.weight).collect::<Vec<_>>(), [0.5, 0.25, 0.25]);
    let alone = examples(&takes[..1]);
    assert_eq!(alone[0].rows, takes[0].example.rows);
}
