//! Utterances of synthetic streams: exact samples and frames, including dropped audio.

use std::io::Write;
use std::sync::{Arc, Mutex};

use proptest::prelude::*;

use super::{SegmentRules, SegmentTarget, Segments, SpeechDetector};
use crate::consumer::Consumer;
use crate::consumer::testing::{HOP, chunks, stream};
use crate::engine::Frames;
use crate::stream::{Discontinuity, Representation};

const RULES: SegmentRules =
    SegmentRules { speech: 0.5, quiet: 0.3, least_speech: 3, hangover: 5, pad: 2, longest: 1000, phones: None };

/// Chunks of `sizes` frames in which '#' is speech, by the posterior of unit 0 of two.
fn speech(text: &str, sizes: &[usize]) -> Vec<Representation> {
    let mut chunks = chunks(&vec![0.0; text.len()], 1, sizes);
    let mut frames = text.chars();
    for chunk in &mut chunks {
        let rows =
            frames.by_ref().take(chunk.vectors.frames()).flat_map(|c| if c == '#' { [0.01f32, 0.99] } else { [0.99, 0.01] });
        let rows: Vec<f32> = rows.map(f32::ln).collect();
        chunk.log_posteriors = Some(Frames::build(rows.len() / 2, 2, |out| out.copy_from_slice(&rows)));
    }
    chunks
}

#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Vec<u8>>>);

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn run(target: SegmentTarget, chunks: &[Representation]) {
    let mut segments = Segments::new(target, SpeechDetector::new(Some(0), false), RULES);
    segments.begin(&stream(1)).unwrap();
    chunks.iter().for_each(|chunk| segments.consume(chunk).unwrap());
    segments.finish().unwrap();
}

fn lines(chunks: &[Representation]) -> Vec<serde_json::Value> {
    let out = Shared::default();
    run(SegmentTarget::Lines(Box::new(out.clone()), "test".into()), chunks);
    let bytes = out.0.lock().unwrap().clone();
    String::from_utf8(bytes).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Lines, audio in units of 1/32768 and the first number of each vector, read back from a folder.
fn folder(chunks: &[Representation]) -> Vec<(serde_json::Value, Vec<i16>, Vec<f32>)> {
    let folder = tempfile::tempdir().unwrap();
    run(SegmentTarget::Folder(folder.path().to_owned()), chunks);
    let text = std::fs::read_to_string(folder.path().join("segments.jsonl")).unwrap();
    let one = |line: &str| {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        let path = |key: &str| folder.path().join(line[key].as_str().unwrap());
        let audio = hound::WavReader::open(path("wav")).unwrap().into_samples::<i16>().map(Result::unwrap).collect();
        let vectors: ndarray::Array2<f32> = ndarray_npy::read_npy(path("npy")).unwrap();
        (line.clone(), audio, vectors.column(0).to_vec())
    };
    text.lines().map(one).collect()
}

fn number(line: &serde_json::Value, key: &str) -> u64 {
    line[key].as_u64().unwrap()
}

/// Expected values at these positions of the test's audio.
fn counted(positions: std::ops::Range<u64>) -> Vec<i16> {
    positions.map(|sample| (sample % 30_000) as i16).collect()
}

#[test]
fn an_utterance_has_exactly_its_samples_and_frames() {
    let found = folder(&speech("....####.....####.......", &[5, 7, 12]));
    assert_eq!(found.len(), 2);
    for ((line, audio, vectors), (start, end)) in found.iter().zip([(2, 10), (11, 19)]) {
        assert_eq!((number(line, "sample"), number(line, "samples")), (start * HOP as u64, (end - start) * HOP as u64));
        assert_eq!(line["cut"], "quiet");
        assert_eq!(*audio, counted(start * HOP as u64..end * HOP as u64));
        assert_eq!(*vectors, (start..end).map(|frame| frame as f32).collect::<Vec<_>>());
    }
}

#[test]
fn short_holes_are_silence_in_place_and_long_ones_part_utterances() {
    // Dropped: 500 samples before the second chunk, and 700 within it, in the middle of its second frame.
    let mut torn = speech("..######........", &[4, 12]);
    torn[1].first_sample += 500;
    torn[1].discontinuities.push(Discontinuity { offset: 480, lost_samples: 700 });
    let [(line, audio, vectors)] = &folder(&torn)[..] else { panic!() };
    assert_eq!((number(line, "sample"), number(line, "samples")), (0, 10 * HOP as u64 + 1200));
    assert_eq!(number(line, "lost_samples"), 1200);
    let mut expected = counted(0..4 * HOP as u64);
    expected.extend([0; 500]);
    expected.extend(counted(1280..1760));
    expected.extend([0; 700]);
    expected.extend(counted(1760..3200));
    assert_eq!(*audio, expected);
    assert_eq!(vectors.len(), 10);

    // Chunks that the consumer did not receive are dropped audio as well.
    let whole = speech("..######............####.......", &[8, 12, 11]);
    let missing = [whole[0].clone(), whole[2].clone()];
    let found = folder(&missing);
    let at = |index: usize| {
        (number(&found[index].0, "sample") / 320, number(&found[index].0, "samples") / 320, &found[index].0["cut"])
    };
    assert_eq!(at(0), (0, 8, &serde_json::json!("lost")));
    assert_eq!(at(1), (20, 6, &serde_json::json!("quiet")), "no padding in front, because that audio was not received");
    assert_eq!(found[1].1, counted(20 * 320..26 * 320));

    // A long gap within a frame: half before, half after, in no utterance.
    let mut torn = speech("..####.####.....", &[16]);
    torn[0].discontinuities.push(Discontinuity { offset: 6 * 320 + 100, lost_samples: 100_000 });
    let found = folder(&torn);
    assert_eq!(found.len(), 2);
    assert_eq!((found[0].1.clone(), number(&found[1].0, "sample")), (counted(0..6 * 320), 7 * 320 + 100_000));
    assert_eq!(found[1].1, counted(7 * 320..13 * 320));
}

#[test]
fn a_folder_with_another_runs_segments_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("segments.jsonl"), "").unwrap();
    let target = SegmentTarget::Folder(folder.path().to_owned());
    let error = Segments::new(target, SpeechDetector::new(None, false), RULES).begin(&stream(1)).unwrap_err();
    assert!(error.to_string().contains("another folder"), "{error}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_folder_that_is_renamed_receives_its_last_utterance() {
    let parent = tempfile::tempdir().unwrap();
    let (place, moved) = (parent.path().join("talk"), parent.path().join("talk.1"));
    let mut segments = Segments::new(SegmentTarget::Folder(place.clone()), SpeechDetector::new(Some(0), false), RULES);
    segments.begin(&stream(1)).unwrap();
    let chunks = speech("....####.....####", &[9, 8]);
    segments.consume(&chunks[0]).unwrap();
    std::fs::rename(&place, &moved).unwrap();
    // Another run begins in its place.
    std::fs::create_dir(&place).unwrap();
    segments.consume(&chunks[1]).unwrap();
    segments.finish().unwrap();
    let lines = std::fs::read_to_string(moved.join("segments.jsonl")).unwrap();
    assert_eq!(lines.lines().count(), 2);
    for line in lines.lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(moved.join(line["wav"].as_str().unwrap()).is_file() && moved.join(line["npy"].as_str().unwrap()).is_file());
    }
    assert_eq!(std::fs::read_dir(&place).unwrap().count(), 0);
}

proptest! {
    #[test]
    fn utterances_do_not_depend_on_the_chunks(
        frames in prop::collection::vec(any::<bool>(), 1..150), sizes in prop::collection::vec(1usize..20, 150), run_length in 1usize..6,
    ) {
        let text: String = frames.iter().flat_map(|speak| std::iter::repeat_n(if *speak { '#' } else { '.' }, run_length)).collect();
        let mut left = text.len();
        let mut cut: Vec<usize> = sizes.iter().map(|size| { let take = (*size).min(left); left -= take; take }).collect();
        cut.push(left);
        cut.retain(|size| *size > 0);
        prop_assert_eq!(lines(&speech(&text, &cut)), lines(&speech(&text, &[text.len()])));
    }
}
