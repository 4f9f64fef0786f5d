//! Phones, utterances and the binary stream, through sessions and through the program; on a small pack with CTC branches and random
//! weights (tests/data/ctc/make.py), and on the bundled pack.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::path::Path;
use std::process::{Command, Output, Stdio};

use bellis::engine::{Encoder, EngineError, LoadOptions, Precision};
use bellis::exit::{Measure, PolicyName, PolicySpec, Reason};
use bellis::pack::{Pack, PerLayer};
use bellis::stream::{Representation, Session, SessionOptions};
use common::{Golden, deviation, repository, speech};

const PACK: &str = "tests/data/ctc/pack";

fn output(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bellis"));
    command.args(arguments).current_dir(repository("")).stdin(Stdio::null()).env_remove("RUST_LOG").output().unwrap()
}

#[track_caller]
fn ran(arguments: &[&str]) -> Vec<u8> {
    let output = output(&[&["run", "--quiet"], arguments].concat());
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

#[track_caller]
fn refused(arguments: &[&str], expected: &[&str]) {
    let output = output(&[&["run"], arguments].concat());
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success(), "{arguments:?} succeeded");
    assert!(!text.contains("panicked"), "{text}");
    expected.iter().for_each(|part| assert!(text.contains(part), "{arguments:?}: no `{part}` in: {text}"));
}

fn lines(bytes: &[u8]) -> Vec<serde_json::Value> {
    std::str::from_utf8(bytes).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The test pack with CTC branches on these layers only.
fn pack_with_branches(layers: &[usize]) -> (tempfile::TempDir, Pack) {
    let folder = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(repository(PACK)).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
    }
    let path = folder.path().join("pack.toml");
    let manifest = std::fs::read_to_string(&path).unwrap();
    let kept = |line: &&str| !line.starts_with("ctc.") || layers.iter().any(|layer| line.starts_with(&format!("ctc.{layer} ")));
    std::fs::write(&path, manifest.lines().filter(kept).collect::<Vec<_>>().join("\n")).unwrap();
    let pack = Pack::open(folder.path()).unwrap();
    (folder, pack)
}

fn stream(pack: &Pack, spec: &PolicySpec, options: SessionOptions, audio: &[f32]) -> Vec<Representation> {
    let encoder = Encoder::load(pack, &LoadOptions::default().precision(Precision::F32)).unwrap();
    let mut session = Session::new(&encoder, spec.build(pack).unwrap(), options).unwrap();
    session.push(audio).unwrap();
    session.finish();
    std::iter::from_fn(|| session.next_chunk().unwrap()).collect()
}

/// HuBERT-EE's rule gives the exit layers and logits of the reference (onnxruntime).
#[test]
fn exits_by_the_ctc_branch_equal_those_of_the_reference() {
    let pack = Pack::open(&repository(PACK)).unwrap();
    let mut golden = Golden::open(&repository("tests/data/ctc/golden.npz"));
    let options = SessionOptions::default().chunk_frames(16).ctc(true);
    let found = stream(&pack, &PolicySpec::named(PolicyName::Ctc), options, &speech()[..48_000]);
    let layers: Vec<i64> = found.iter().map(|chunk| chunk.exit_layer as i64).collect();
    assert_eq!(layers, golden.i64("exit_layer"));
    let depths: std::collections::BTreeSet<_> = layers.iter().collect();
    assert!(depths.len() > 2 && depths.contains(&0), "the exits do not vary, so the test checks nothing");
    let logits: Vec<f32> = found.iter().flat_map(|chunk| chunk.ctc_logits.as_ref().unwrap().as_slice()).copied().collect();
    assert!(deviation(&logits, &golden.f32("ctc").1) < 1e-4);
    let entropies = golden.f64("ctc_entropy");
    for (index, chunk) in found.iter().enumerate() {
        assert!(chunk.evidence.is_empty(), "no head ran");
        let judged: Vec<usize> = chunk.ctc_evidence.iter().map(|evidence| evidence.layer).collect();
        assert_eq!(judged, (0..=chunk.exit_layer.min(3)).collect::<Vec<_>>());
        // The first chunk has no left context, so it equals the reference at full depth.
        if index == 0 {
            let off =
                |evidence: &bellis::exit::Evidence| (f64::from(evidence.entropy) - entropies[evidence.layer * found.len()]).abs();
            assert!(chunk.ctc_evidence.iter().all(|evidence| off(evidence) < 1e-4));
        }
    }
}

#[test]
fn every_measure_and_a_threshold_per_layer_bound_the_depth() {
    let pack = Pack::open(&repository(PACK)).unwrap();
    let depths = |measure: Option<Measure>, threshold: PerLayer| -> Vec<usize> {
        let spec = PolicySpec::named(PolicyName::Ctc).threshold(threshold).measure(measure.unwrap_or_default());
        let found = stream(&pack, &spec, SessionOptions::default().chunk_frames(16), &speech()[..32_000]);
        assert_eq!(found.len(), 7);
        found.iter().map(|chunk| chunk.exit_layer).collect()
    };
    use Measure::{Entropy, Margin, MaxProb};
    assert!(depths(None, PerLayer::All(9.0)).iter().all(|depth| *depth == 0));
    assert!(depths(Some(Entropy), PerLayer::All(0.0)).iter().all(|depth| *depth == 4));
    assert!(depths(Some(MaxProb), PerLayer::All(0.0)).iter().all(|depth| *depth == 0));
    assert!(depths(Some(Margin), PerLayer::All(1.1)).iter().all(|depth| *depth == 4));
    // A list begins with layer 1.
    assert!(depths(None, PerLayer::Each(vec![0.0, 9.0, 9.0])).iter().all(|depth| *depth == 2));
}

/// With phones, every chunk exits at a layer with a branch, and no deeper than the last one.
#[test]
fn with_phones_a_chunk_exits_only_at_a_branch() {
    let audio = &speech()[..32_000];
    let options = SessionOptions::default().chunk_frames(16).ctc(true);
    let depths = |pack: &Pack, spec: &PolicySpec| -> Vec<(usize, Reason)> {
        let found = stream(pack, spec, options.clone(), audio);
        assert_eq!(found.len(), 7);
        assert!(
            found.iter().all(|chunk| chunk.ctc_logits.as_ref().is_some_and(|logits| logits.frames() == chunk.vectors.frames()))
        );
        found.iter().map(|chunk| (chunk.exit_layer, chunk.reason)).collect()
    };
    let fixed = |layer| PolicySpec::named(PolicyName::Fixed).layer(layer);
    let (_folder, some) = pack_with_branches(&[2, 3]);
    assert!(depths(&some, &fixed(1)).iter().all(|found| *found == (2, Reason::Schedule)));
    assert!(depths(&some, &fixed(3)).iter().all(|found| *found == (3, Reason::LastLayer)));
    assert!(depths(&some, &PolicySpec::named(PolicyName::Never)).iter().all(|found| *found == (3, Reason::LastLayer)));
    // The policy decides only at layers with a branch.
    let spec = PolicySpec::named(PolicyName::Ctc).threshold(0.0);
    let found = stream(&some, &spec, options.clone(), audio);
    assert_eq!(found.len(), 7);
    assert!(found.iter().all(|chunk| chunk.ctc_evidence.iter().map(|evidence| evidence.layer).eq([2, 3])));
    // Without phones, only the policy decides where to exit.
    let found = stream(&some, &fixed(1), SessionOptions::default().chunk_frames(16), audio);
    assert_eq!(found.len(), 7);
    assert!(found.iter().all(|chunk| chunk.exit_layer == 1 && chunk.ctc_logits.is_none()));
}

#[test]
fn posteriors_exist_at_every_exit_layer() {
    let pack = Pack::open(&repository(PACK)).unwrap();
    for layer in [0, 1, 4] {
        let options = SessionOptions::default().chunk_frames(16).posteriors(true).all_heads(layer == 0);
        let spec = PolicySpec::named(PolicyName::Fixed).layer(layer);
        let found = stream(&pack, &spec, options, &speech()[..16_000]);
        assert_eq!(found.len(), 4);
        for chunk in found {
            let rows = chunk.log_posteriors.unwrap();
            assert_eq!((chunk.exit_layer, rows.dim(), rows.frames()), (layer, 12, chunk.vectors.frames()));
            assert!((0..rows.frames()).all(|t| (rows.row(t).iter().map(|p| p.exp()).sum::<f32>() - 1.0).abs() < 1e-4));
        }
    }
}

#[test]
fn lost_samples_have_positions_within_their_chunk() {
    let pack = Pack::open(&repository(PACK)).unwrap();
    let encoder = Encoder::load(&pack, &LoadOptions::default().precision(Precision::F32)).unwrap();
    let policy = PolicySpec::named(PolicyName::Never).build(&pack).unwrap();
    let mut session = Session::new(&encoder, policy, SessionOptions::default().chunk_frames(8)).unwrap();
    // 50 lost before the second chunk's first sample, 100 before its sample 1,000, and 7 after the very last sample.
    session.gap(2_560, 50).unwrap();
    session.gap(3_560, 100).unwrap();
    session.gap(6_000, 7).unwrap();
    session.push(&vec![0.1; 6_000]).unwrap();
    session.finish();
    let chunks: Vec<_> = std::iter::from_fn(|| session.next_chunk().unwrap()).collect();
    let positions =
        |chunk: &Representation, offsets: &[u64]| offsets.iter().map(|&offset| chunk.position(offset)).collect::<Vec<_>>();
    assert_eq!(positions(&chunks[0], &[0, 2_559]), [0, 2_559]);
    assert_eq!(positions(&chunks[1], &[0, 999, 1_000, 2_559]), [2_610, 3_609, 3_710, 5_269]);
    assert_eq!(positions(&chunks[2], &[0, 879]), [5_270, 6_149]);
    assert_eq!(chunks.iter().map(|chunk| chunk.lost_samples).collect::<Vec<_>>(), [0, 150, 7]);
}

#[test]
fn phones_follow_from_the_exit_layers_logits() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let what = ["--pack", PACK, "models/sample.wav"];
    let both = ["--consumer", "stream:-", "--arrays", "ctc", "--consumer", &format!("phones:{}", path("phones.jsonl"))];
    let (header, chunks) = binary(&ran(&[&what[..], &both].concat()));
    // Greedy decoding of the logits in the stream.
    let mut expected = Vec::new();
    let (mut run, mut frame) = (0, 0);
    for (chunk, arrays) in &chunks {
        for row in arrays[0].chunks(8) {
            let class = (0..8).fold(0, |best, class| if row[class] > row[best] { class } else { best });
            if class != run && class != 0 {
                expected.push((header["vocabulary"][class].clone(), frame * 320, chunk["layer"].clone()));
            }
            run = class;
            frame += 1;
        }
    }
    let found = lines(&std::fs::read(path("phones.jsonl")).unwrap());
    let at = |line: &serde_json::Value| (line["phone"].clone(), line["sample"].as_u64().unwrap(), line["layer"].clone());
    assert!(found.len() > 20);
    assert_eq!(found.iter().map(at).collect::<Vec<_>>(), expected);
    for line in &found {
        let number = |key: &str| line[key].as_f64().unwrap();
        assert!((number("start") - number("sample") / 16_000.0).abs() < 1e-4);
        assert!((number("end") - number("start") - number("samples") / 16_000.0).abs() < 2e-4);
        assert!((0.0..=1.0).contains(&number("confidence")));
    }
    // As text: the same phones, and times.
    let text = String::from_utf8(ran(&[&what[..], &["--consumer", "phones"]].concat())).unwrap();
    let words = text.split_whitespace().filter(|word| word.parse::<f64>().is_err());
    assert!(words.eq(found.iter().map(|line| line["phone"].as_str().unwrap())), "{text}");
    // Beam search also gives phones, at any width.
    let beam = lines(&ran(&[&what[..], &["--consumer", "phones:-", "--beam", "8"]].concat()));
    assert!(beam.len() > 20 && beam.windows(2).all(|pair| pair[0]["sample"].as_u64() <= pair[1]["sample"].as_u64()));
}

/// The stream's header, and for each chunk its header and its arrays.
type Messages = (serde_json::Value, Vec<(serde_json::Value, Vec<Vec<f32>>)>);

fn binary(mut bytes: &[u8]) -> Messages {
    let mut take = |count: usize| {
        let (part, rest) = bytes.split_at(count);
        bytes = rest;
        (part, rest.is_empty())
    };
    assert_eq!(take(8).0, b"BELLIS1\n");
    let mut found = Vec::new();
    loop {
        let mut length = || u32::from_le_bytes(take(4).0.try_into().unwrap()) as usize;
        let (header_bytes, payload_bytes) = (length(), length());
        let header: serde_json::Value = serde_json::from_slice(take(header_bytes).0).unwrap();
        let (payload, last) = take(payload_bytes);
        let values: Vec<f32> = payload.chunks(4).map(|four| f32::from_le_bytes(four.try_into().unwrap())).collect();
        let mut values = values.into_iter();
        let arrays = header["arrays"].as_array().unwrap();
        let count = |array: &serde_json::Value| {
            array["shape"].as_array().unwrap().iter().map(|size| size.as_u64().unwrap()).product::<u64>()
        };
        let arrays = arrays.iter().map(|array| values.by_ref().take(count(array) as usize).collect()).collect();
        assert_eq!(values.next(), None);
        found.push((header, arrays));
        if last {
            break;
        }
    }
    let (end, _) = found.pop().unwrap();
    assert_eq!(end["type"], "end");
    (found.remove(0).0, found)
}

fn read_wav(path: &Path) -> Vec<i16> {
    hound::WavReader::open(path).unwrap().into_samples().map(Result::unwrap).collect()
}

/// On the bundled pack, utterances contain exactly the recording's samples and frames.
#[test]
fn utterances_have_the_recordings_samples_and_frames() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    // Speech between two sections of silence.
    let silence = vec![0i16; 16_000];
    let recording = [&silence[..], &read_wav(&repository("models/sample.wav")), &silence].concat();
    let spec = hound::WavSpec { channels: 1, sample_rate: 16_000, bits_per_sample: 16, sample_format: hound::SampleFormat::Int };
    let mut out = hound::WavWriter::create(path("in.wav"), spec).unwrap();
    recording.iter().for_each(|&sample| out.write_sample(sample).unwrap());
    out.finalize().unwrap();

    let target = format!("segments:{}", path("talk"));
    ran(&[&path("in.wav"), "--consumer", &target, "--consumer", &format!("npy:{}", path("all.npy"))]);
    let found = lines(&std::fs::read(path("talk/segments.jsonl")).unwrap());
    assert!((1..=4).contains(&found.len()), "{found:?}");
    let states: ndarray::Array2<f32> = ndarray_npy::read_npy(path("all.npy")).unwrap();
    for line in &found {
        let number = |key: &str| line[key].as_u64().unwrap() as usize;
        let file = |key: &str| path("talk/") + line[key].as_str().unwrap();
        let (first, samples) = (number("sample"), number("samples"));
        assert!(first > 8_000 && first + samples < recording.len() - 2_000, "silence is in no utterance: {found:?}");
        assert_eq!(read_wav(Path::new(&file("wav"))), recording[first..first + samples]);
        let rows: ndarray::Array2<f32> = ndarray_npy::read_npy(file("npy")).unwrap();
        let own = ndarray::Slice::from(first / 320..first / 320 + number("frames"));
        assert_eq!(rows, states.slice_axis(ndarray::Axis(0), own));
    }
    let total = |lines: &[serde_json::Value]| lines.iter().map(|line| line["samples"].as_u64().unwrap()).sum::<u64>();
    assert!(total(&found) as f64 > 0.6 * (recording.len() - 32_000) as f64, "most of the recording is speech: {found:?}");
    refused(&[&path("in.wav"), "--consumer", &target], &["another folder"]);
    // On standard output, without files, with the requested padding.
    let bare = lines(&ran(&[&path("in.wav"), "--consumer", "segments", "--pad", "0"]));
    assert!(!bare.is_empty() && bare.iter().all(|line| line.get("wav").is_none()));
    assert!(total(&bare) < total(&found));
}

#[test]
fn impossible_requests_are_refused_with_the_remedy() {
    let windowed = ["--pack", "tests/data/windowed-base/pack"];
    refused(&[&windowed[..], &["--consumer", "phones"]].concat(), &["`windowed-base` has no CTC branches", "docs/phones.md"]);
    refused(&[&windowed[..], &["--policy", "ctc"]].concat(), &["no CTC branches", "docs/phones.md", "`bellis inspect "]);
    refused(
        &["--pack", PACK, "--policy", "ctc", "--measure", "max-prob"],
        &["no threshold for this measure", "a probability", "--threshold"],
    );
    refused(&["--pack", PACK, "--policy", "ctc", "--layer", "2"], &["does not use a layer", "--layer"]);
    refused(&["--consumer", "phnoes"], &["did you mean `phones`?"]);
    refused(&["--pack", PACK, "--consumer", "phones", "--beam", "0"], &["--beam must be between 1 and"]);
    refused(&["--consumer", "phones", "--consumer", "jsonl"], &["standard output"]);
    refused(&["--consumer", "stream"], &["stream:-", "unix:"]);
    refused(&["--consumer", "stream:tcp:1"], &["`stream:tcp:1`", "unix:/path"]);
    refused(&["--consumer", "stream:unix:/nowhere/socket"], &["/nowhere/socket", "start the reader first"]);
    refused(&["--consumer", "segments", "--hangover", "900000"], &["--hangover", "600 seconds"]);
    let (folder, _) = pack_with_branches(&[1]);
    let path = folder.path().join("pack.toml");
    let manifest = std::fs::read_to_string(&path).unwrap();
    std::fs::write(
        &path,
        manifest
            .replace("vocabulary = [\"<blank>\", \"a\", \"e\", \"i\", \"n\", \"s\", \"t\", \"u\"]", "vocabulary = [\"<blank>\"]"),
    )
    .unwrap();
    refused(&["--pack", folder.path().to_str().unwrap()], &["[ctc] vocabulary", "the blank"]);
    let pack = Pack::open(&repository("tests/data/windowed-base/pack")).unwrap();
    let error = Encoder::load(&pack, &LoadOptions::default().precision(Precision::F32)).unwrap().check_ctc().unwrap_err();
    assert!(matches!(error, EngineError::NoStage { .. }));
}
