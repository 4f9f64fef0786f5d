//! The command line: outputs, and errors for wrong input.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::io::BufRead;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use bellis::engine::Int8Kernel;
use common::repository;

fn bellis(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bellis"));
    command.args(arguments).current_dir(repository("")).stdin(Stdio::null()).env_remove("RUST_LOG");
    command
}

fn output(arguments: &[&str]) -> Output {
    bellis(arguments).output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Runs a command that must fail without a panic, with an error that contains all of `expected`.
#[track_caller]
fn refused(arguments: &[&str], expected: &[&str]) {
    let output = output(arguments);
    let text = stderr(&output);
    assert!(!output.status.success(), "{arguments:?} succeeded");
    assert!(!text.contains("panicked"), "{text}");
    for part in expected {
        assert!(text.contains(part), "{arguments:?}: no `{part}` in: {text}");
    }
}

/// A copy of the default pack to break.
fn broken_pack(break_it: impl FnOnce(&Path)) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let pack = folder.path().join("broken");
    copy_folder(&repository("models/daisy-tiny"), &pack);
    break_it(&pack);
    (folder, pack)
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
}

fn edit(path: &Path, from: &str, to: &str) {
    let text = std::fs::read_to_string(path).unwrap();
    assert!(text.contains(from), "{from}");
    std::fs::write(path, text.replacen(from, to, 1)).unwrap();
}

fn sha256(path: &Path) -> String {
    use sha2::Digest;
    sha2::Sha256::digest(std::fs::read(path).unwrap()).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[track_caller]
fn refused_pack(break_it: impl FnOnce(&Path), expected: &[&str]) {
    let (_folder, pack) = broken_pack(break_it);
    refused(&["run", "--pack", pack.to_str().unwrap()], expected);
}

#[test]
fn without_arguments_the_bundled_recording_is_processed() {
    let output = output(&["run"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let lines: Vec<serde_json::Value> = stdout(&output).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 23);
    let layers: Vec<u64> = lines.iter().map(|line| line["layer"].as_u64().unwrap()).collect();
    assert!(layers.iter().all(|layer| (1..=10).contains(layer)) && layers.iter().min() != layers.iter().max(), "{layers:?}");
    let mut next = 0;
    for line in &lines {
        assert_eq!(line["sample"].as_u64().unwrap(), next);
        next += line["samples"].as_u64().unwrap();
        let evaluated = line["entropy"].as_array().unwrap();
        assert!(evaluated.iter().all(|one| (0.0..=256f64.ln()).contains(&one[1].as_f64().unwrap())));
    }
    let summary = stderr(&output);
    for part in ["real-time factor", "p99.9", "█", &format!("{next} captured = {next} processed + 0 dropped")] {
        assert!(summary.contains(part), "{part}: {summary}");
    }
}

#[test]
fn the_input_level_is_in_the_summary_and_a_bad_one_is_reported_once_with_its_remedy() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("input.wav");
    let run = |audio: &[f32], arguments: &[&str]| {
        let spec =
            hound::WavSpec { channels: 1, sample_rate: 16_000, bits_per_sample: 16, sample_format: hound::SampleFormat::Int };
        let mut writer = hound::WavWriter::create(&path, spec).unwrap();
        audio.iter().for_each(|sample| writer.write_sample((sample.clamp(-1.0, 1.0) * 32_767.0) as i16).unwrap());
        writer.finalize().unwrap();
        let output = output(&[&["run", path.to_str().unwrap(), "--consumer", "null"], arguments].concat());
        let text = stderr(&output);
        assert!(output.status.success(), "{text}");
        let warnings: Vec<String> = text.lines().filter(|line| line.contains("WARN")).map(str::to_owned).collect();
        (text.lines().find(|line| line.starts_with("  level ")).unwrap().to_owned(), warnings)
    };
    let after = |text: &str, name: &str| text.split_once(name).unwrap().1.split([' ', ',']).next().unwrap().parse().unwrap();
    let speech = common::speech();
    let loudness = |factor: f32| speech.iter().cycle().take(25 * 16_000).map(|sample| factor * sample).collect::<Vec<f32>>();

    let (level, warnings) = run(&loudness(1.0), &[]);
    assert!(level.contains("0.00 % clipped") && warnings.is_empty(), "{level}: {warnings:?}");
    let (level, warnings) = run(&vec![0.0; 25 * 16_000], &[]);
    assert!(level.contains("digital silence"), "{level}");
    assert!(matches!(&warnings[..], [one] if one.contains("10 s of digital silence")), "{warnings:?}");
    let (_, warnings) = run(&loudness(40.0), &[]);
    assert!(matches!(&warnings[..], [one] if one.contains("clipped; lower the capture volume")), "{warnings:?}");
    let (_, warnings) = run(&loudness(0.03), &[]);
    assert!(matches!(&warnings[..], [one] if one.contains("set `gain-db = \"auto\"`")), "{warnings:?}");
    let (level, warnings) = run(&loudness(0.03), &["--gain-db", "20"]);
    assert!(level.contains("gain +20.0 dB") && warnings.is_empty(), "{level}: {warnings:?}");
    let (level, warnings) = run(&loudness(0.03), &["--gain-db", "auto"]);
    let (active, gain): (f64, f64) = (after(&level, "active "), after(&level, "gain +"));
    assert!((active + gain + 30.0).abs() < 4.0 && warnings.is_empty(), "{level}: {warnings:?}");
    refused(&["run", "--gain-db", "loud"], &["a gain is a number of decibels, or `auto`"]);
    refused(&["run", "--gain-db", "-61"], &["gain_db must be between -60 and 60, got -61 (--gain-db)"]);
}

#[test]
fn antiphase_stereo_and_dead_channels_are_audible_with_channel_auto_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("array.wav");
    let speech = common::speech();
    let spec = hound::WavSpec { channels: 4, sample_rate: 16_000, bits_per_sample: 16, sample_format: hound::SampleFormat::Int };
    let mut writer = hound::WavWriter::create(&path, spec).unwrap();
    for sample in &speech {
        let sample = (sample * 32_767.0) as i16;
        [sample, 0, -sample, 0].into_iter().for_each(|one| writer.write_sample(one).unwrap());
    }
    writer.finalize().unwrap();
    let level = |arguments: &[&str]| {
        let report = folder.path().join("report.json");
        let arguments = [&["run", "--quiet", "--consumer", "null", "--report", report.to_str().unwrap()], arguments].concat();
        let output = output(&arguments);
        assert!(output.status.success(), "{}", stderr(&output));
        let report: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(report).unwrap()).unwrap();
        report["level"]["rms_dbfs"].as_f64().unwrap()
    };
    let file = path.to_str().unwrap();
    let alone = level(&[file, "--channel", "1"]);
    assert_eq!(level(&[file]), -144.0, "the mean of all is not silent, so nothing is tested");
    assert!((level(&[file, "--channel", "auto"]) - alone).abs() < 0.2);
    let config = folder.path().join("bellis.toml");
    std::fs::write(&config, "channel = \"auto\"\n").unwrap();
    assert!((level(&[file, "--config", config.to_str().unwrap()]) - alone).abs() < 0.2);
    std::fs::write(&config, "channel = \"all\"\n").unwrap();
    refused(&["run", file, "--config", config.to_str().unwrap()], &["a channel is a number from 1, or \"auto\""]);
    refused(&["run", file, "--channel", "all"], &["must be a number from 1, or `auto`"]);
    refused(&["run", file, "--channel", "5"], &["channel 5 was requested"]);
}

#[test]
fn every_policy_runs_and_bounds_its_depth() {
    let depths = |arguments: &[&str]| -> Vec<u64> {
        let output = output(&[&["run", "--quiet"], arguments].concat());
        assert!(output.status.success(), "{arguments:?}: {}", stderr(&output));
        let layer = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["layer"].as_u64().unwrap();
        let layers: Vec<u64> = stdout(&output).lines().map(layer).collect();
        // 7.1 s in chunks of 320 or 160 ms.
        assert_eq!(layers.len(), if arguments.contains(&"--chunk") { 45 } else { 23 }, "{arguments:?}");
        layers
    };
    assert!(depths(&["--policy", "fixed", "--layer", "4"]).iter().all(|layer| *layer == 4));
    assert!(depths(&["--policy", "never"]).iter().all(|layer| *layer == 10));
    let range = depths(&["--policy", "range", "--range", "3..5"]);
    assert!(range.iter().all(|layer| (3..=5).contains(layer)), "{range:?}");
    let periodic = depths(&["--policy", "periodic", "--layer", "2", "--period", "4"]);
    assert!(periodic.iter().enumerate().all(|(chunk, layer)| *layer == if chunk % 4 == 0 { 10 } else { 2 }), "{periodic:?}");
    assert!(depths(&["--policy", "threshold", "--threshold", "9"]).iter().all(|layer| *layer == 1));
    assert!(depths(&["--policy", "threshold", "--threshold", "0"]).iter().all(|layer| *layer == 10));
    let per_layer = depths(&["--policy", "threshold", "--threshold", "0,0,9,0,0,0,0,0,0"]);
    assert!(per_layer.iter().all(|layer| *layer == 3), "{per_layer:?}");
    assert!(depths(&["--policy", "threshold", "--measure", "max-prob", "--threshold", "0"]).iter().all(|layer| *layer == 1));
    assert!(depths(&["--policy", "threshold", "--measure", "margin", "--threshold", "1.1"]).iter().all(|layer| *layer == 10));
    assert!(depths(&["--policy", "change", "--threshold", "99"]).iter().all(|layer| *layer == 2));
    assert!(depths(&["--policy", "gain", "--threshold", "99"]).iter().all(|layer| *layer == 0));
    assert!(depths(&["--policy", "gain", "--threshold", "0"]).iter().all(|layer| *layer == 10));
    for agreement in ["0.9", "0.95", "0.98"] {
        let calibrated = depths(&["--policy", "calibrated", "--agreement", agreement]);
        assert!(calibrated.iter().all(|layer| (1..=10).contains(layer)), "{calibrated:?}");
    }
    for gap_fill in ["project", "catch-up"] {
        depths(&["--gap-fill", gap_fill, "--chunk", "160"]);
    }
}

#[test]
fn the_numpy_array_contains_the_vectors_of_the_json_lines() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("frames.npy");
    let consumer = format!("npy:{}", path.display());
    let found = output(&["run", "--quiet", "--consumer", &consumer, "--consumer", "jsonl", "--with-vectors", "--with-units"]);
    assert!(found.status.success(), "{}", stderr(&found));
    let array: ndarray::Array2<f32> = ndarray_npy::read_npy(&path).unwrap();
    let lines: Vec<serde_json::Value> = stdout(&found).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let rows: Vec<f32> = lines
        .iter()
        .flat_map(|line| line["vectors"].as_array().unwrap())
        .flat_map(|row| row.as_array().unwrap())
        .map(|value| value.as_f64().unwrap() as f32)
        .collect();
    assert_eq!(array.shape(), [355, 192]);
    assert_eq!(rows, array.iter().copied().collect::<Vec<_>>());
    assert_eq!(lines.len(), 23);
    assert!(lines.iter().all(|line| line["units"].as_array().unwrap().len() == line["frames"].as_u64().unwrap() as usize));
    let side = std::fs::read_to_string(folder.path().join("frames.chunks.jsonl")).unwrap();
    assert_eq!(side.lines().count(), lines.len());
}

#[test]
fn a_configuration_file_equals_flags_and_flags_take_precedence() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bellis.toml");
    std::fs::write(&path, "policy = \"fixed\"\nlayer = 3\nquiet = true\nconsumer = [\"jsonl\"]\n").unwrap();
    let path = path.to_str().unwrap();
    let layer = |arguments: &[&str]| {
        let output = output(arguments);
        assert!(output.status.success(), "{}", stderr(&output));
        let line = stdout(&output).lines().next().unwrap().to_owned();
        serde_json::from_str::<serde_json::Value>(&line).unwrap()["layer"].as_u64().unwrap()
    };
    assert_eq!(layer(&["run", "--config", path]), 3);
    assert_eq!(layer(&["run", "--config", path, "--layer", "2"]), 2);
    // Parameters in the file are ignored if a flag selects another policy.
    assert_eq!(layer(&["run", "--config", path, "--policy", "never"]), 10);
    assert_eq!(layer(&["run", "--config", path, "--policy", "fixed"]), 3);
}

#[test]
fn raw_samples_on_standard_input_give_the_results_of_the_file() {
    let samples: Vec<u8> = common::speech().iter().flat_map(|s| ((s * 32_768.0) as i16).to_le_bytes()).collect();
    let mut child =
        bellis(&["run", "-", "--quiet", "--format", "s16le"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), &samples).unwrap();
    let piped = child.wait_with_output().unwrap();
    let depths = |output: &Output| -> Vec<serde_json::Value> {
        let line = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap();
        stdout(output).lines().map(|text| line(text)["entropy"].clone()).collect()
    };
    let expected = depths(&output(&["run", "--quiet"]));
    assert_eq!(expected.len(), 23);
    assert_eq!(depths(&piped), expected);
}

#[test]
fn the_report_contains_the_summary_as_json() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("report.json");
    assert!(output(&["run", "--quiet", "--consumer", "null", "--report", path.to_str().unwrap()]).status.success());
    let report: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    assert_eq!(report["chunks"], 23);
    assert_eq!(report["exits"].as_array().unwrap().iter().map(|count| count.as_u64().unwrap()).sum::<u64>(), 23);
}

#[test]
fn a_report_named_html_shows_the_exit_layer_of_every_chunk() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("<run>.html");
    let run = output(&["run", "--quiet", "--consumer", "jsonl", "--report", path.to_str().unwrap()]);
    let page = std::fs::read_to_string(path).unwrap();
    let band = page.split("data-band='").nth(1).unwrap().split('\'').next().unwrap();
    let band: serde_json::Value = serde_json::from_str(band).unwrap();
    let layers =
        stdout(&run).lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["layer"].clone()).collect();
    let drawn: Vec<_> = band["chunks"].as_array().unwrap().iter().map(|chunk| chunk[2].clone()).collect();
    assert_eq!(serde_json::Value::Array(drawn), serde_json::Value::Array(layers));
    assert!(page.contains("--layer-4") && page.contains("mean exit layer") && !page.contains("http"), "self-contained");
    refused(&["serve", "--report", "x.html"], &["the report of a daemon is JSON"]);
}

#[test]
fn a_closed_pipe_ends_the_run_without_an_error() {
    let mut child = bellis(&["run", "--quiet"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success() && stderr(&output).lines().count() <= 1, "{}", stderr(&output));
}

#[cfg(unix)]
#[test]
fn an_interrupt_computes_captured_audio_and_closes_the_files() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("frames.npy");
    let consumer = format!("npy:{}", path.display());
    let arguments = ["run", "--realtime", "--consumer", "jsonl", "--consumer", &consumer];
    let mut child = bellis(&arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = std::io::BufReader::new(child.stdout.take().unwrap()).lines();
    lines.nth(2).expect("three chunks came").unwrap();
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    let summary = stderr(&output);
    assert!(output.status.success(), "{summary}");
    let array: ndarray::Array2<f32> = ndarray_npy::read_npy(&path).unwrap();
    assert!(array.shape()[0] > 20 && array.shape()[0] < 355, "{:?}", array.shape());
    let line = summary.lines().find(|line| line.contains(" captured = ")).unwrap();
    let numbers: Vec<u64> = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    assert_eq!(numbers[0], numbers[1] + numbers[2], "{line}");
    assert_eq!(array.shape()[0] as u64, numbers[1].div_ceil(320), "every captured sample is in a frame");
}

#[test]
fn inspect_shows_the_kernels_and_one_can_be_forced() {
    let shown = |arguments: &[&str]| {
        let output = output(&[&["inspect"], arguments].concat());
        assert!(output.status.success(), "{}", stderr(&output));
        stdout(&output)
    };
    let available: Vec<&str> = Int8Kernel::available().into_iter().map(Int8Kernel::name).collect();
    let layers = |text: &str, kernel: &str| text.lines().any(|line| line.starts_with("layers ") && line.contains(kernel));
    let text = shown(&["--kernels", "daisy-nano"]);
    assert!(layers(&text, available.first().unwrap_or(&"f32")), "{text}");
    assert!(text.contains(&available.join(", ")) && text.contains("front end"), "{text}");
    assert!(layers(&shown(&["--kernels", "--precision", "f32", "daisy-nano"]), "f32"));
    for kernel in &available {
        let text = shown(&[&format!("--kernels={kernel}"), "daisy-nano"]);
        assert!(layers(&text, kernel), "{text}");
    }
    // Processors have kernels of one architecture only.
    let foreign = if cfg!(target_arch = "x86_64") { "neon" } else { "avx-vnni" };
    let expected = [foreign, "cannot run the kernel", available.first().unwrap_or(&"none")];
    refused(&["inspect", &format!("--kernels={foreign}")], &expected);
    refused(&["run", "--kernels", foreign], &expected);
    refused(&["bench", "--kernels", foreign], &expected);
    refused(&["run", "--kernels", "fastest"], &["fastest", "avx512-vnni", "neon"]);
}

#[test]
fn inspect_describes_the_pack() {
    let output = output(&["inspect"]);
    let text = stdout(&output);
    for part in
        ["daisy-tiny", "10 of 192 dimensions", "cached", "hop 320 samples (20.0 ms)", "threshold", "licence", "parameters"]
    {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn help_has_examples() {
    let text = stdout(&output(&["run", "--help"]));
    for part in ["Examples:", "bellis run mic", "--config", "Exit policy", "--threshold"] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn invalid_audio_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("words.wav");
    std::fs::write(&text, "no audio\n".repeat(100)).unwrap();
    refused(&["run", text.to_str().unwrap()], &["words.wav", "is not in a supported audio format"]);
    refused(&["run", "missing.wav"], &["missing.wav", "No such file"]);
    refused(&["run", "models"], &["models", "is a folder"]);
    refused(&["run", "models/sample.wav", "--channel", "2"], &["sample.wav", "channel 2"]);
    refused(&["run", "mic", "--device", "no such device at all"], &["no such device at all", "`bellis devices`"]);
}

#[test]
fn a_benchmark_overwrites_no_input_and_checks_its_outputs_first() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    std::fs::copy(repository("models/sample.wav"), at("talk.wav")).unwrap();
    let refused = |more: &[&str], expected: &[&str]| {
        refused(&[&["bench", "--seconds", "2", "--snr", "clean", "--policy", "never"], more].concat(), expected);
    };
    refused(&["--speech", &at("talk.wav"), "--json", &at("talk.wav")], &["talk.wav", "--json"]);
    assert_eq!(std::fs::read(at("talk.wav")).unwrap(), std::fs::read(repository("models/sample.wav")).unwrap());
    // A folder's recordings are inputs.
    refused(&["--speech", &at(""), "--json", &at("talk.wav")], &["--json", "would overwrite", "talk.wav"]);
    refused(&["--noise", &at(""), "--html", &at("talk.wav")], &["--html", "would overwrite", "talk.wav"]);
    assert_eq!(std::fs::read(at("talk.wav")).unwrap(), std::fs::read(repository("models/sample.wav")).unwrap());
    refused(&["--json", &at("x"), "--html", &at("x")], &["--html", "--json"]);
    refused(&["--json", &at("missing/x.json")], &["x.json", "folder does not exist"]);
    refused(&["--html", &at("")], &["is a folder"]);
    assert!(!Path::new(&at("x")).exists());
}

#[test]
fn a_truncated_file_gives_its_chunks_and_fails() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cut.wav");
    let whole = std::fs::read(repository("models/sample.wav")).unwrap();
    std::fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    let output = output(&["run", path.to_str().unwrap()]);
    assert!(!output.status.success());
    assert!(stdout(&output).lines().count() > 9, "{}", stdout(&output));
    assert!(stderr(&output).contains("cut off"), "{}", stderr(&output));
}

#[test]
fn a_typo_is_reported_with_its_line_and_the_closest_key() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("typo.toml");
    std::fs::write(&path, "input = \"models/sample.wav\"\n\ntreshold = 2.5\n").unwrap();
    refused(&["run", "--config", path.to_str().unwrap()], &["typo.toml:3", "did you mean `threshold`?"]);
    std::fs::write(&path, "policy = \"treshold\"\n").unwrap();
    refused(&["run", "--config", path.to_str().unwrap()], &["typo.toml:1", "did you mean `threshold`?"]);
    refused(&["run", "--pack", "daisy-tinny"], &["did you mean `daisy-tiny`?"]);
    refused(&["run", "--consumer", "jsnl"], &["did you mean `jsonl`?"]);
}

#[test]
fn invalid_values_are_refused_with_the_valid_ones() {
    let windowed = repository("tests/data/windowed-base/pack");
    let windowed = windowed.to_str().unwrap();
    refused(&["run", "--pack", windowed, "--policy", "gain"], &["gain", "no gain predictors", "`bellis inspect "]);
    refused(&["run", "--pack", windowed, "--policy", "calibrated"], &["calibrated"]);
    refused(&["run", "--policy", "fixed", "--layer", "11"], &["between 0 and 10, got 11", "--layer"]);
    refused(&["run", "--policy", "range", "--range", "7..3"], &["7..3"]);
    refused(&["run", "--policy", "fixed", "--threshold", "1"], &["does not use a threshold", "--threshold"]);
    refused(&["run", "--chunk", "333"], &["multiple of 20 ms", "333"]);
    refused(&["run", "--chunk", "100"], &["chunks of 8, 16, 32 frames of 20 ms"]);
    refused(&["run", "--policy", "gain", "--threshold", "nan"], &["not a number", "--threshold"]);
    refused(&["run", "--policy", "threshold", "--threshold", "1,2,3,4,nan,6,7,8,9"], &["not a number", "--threshold"]);
    refused(&["run", "--policy", "fixed", "--agreement", "0.9"], &["does not use an agreement; only `calibrated` does"]);
    refused(&["run", "--report", "-"], &["--report", "/dev/stdout"]);
    refused(&["run", "--policy", "threshold", "--threshold", "1,2"], &["2 thresholds for 10 layers", "--threshold"]);
    refused(&["run", "--deadline", "0"], &["deadline"]);
    refused(&["run", "--threads", "0"], &["threads must be between 1 and 64, got 0"]);
    refused(&["run", "--threads", "-1"], &["invalid value '-1' for '--threads"]);
    refused(&["run", "--ring", "-1"], &["ring must be between 0.05 and 600 seconds, got -1"]);
    refused(&["run", "--threads", "65"], &["threads must be between 1 and 64, got 65"]);
    refused(&["bench", "--threads", "1000000"], &["threads must be between 1 and 64, got 1000000"]);
    refused(&["run", "--gate", "1.5"], &["must be between 0 and 1, got 1.5"]);
    refused(&["run", "--gate-hangover", "1"], &["hangover requires a gate", "--gate-hangover"]);
    refused(&["run", "--pack", windowed, "--policy", "never", "--gate", "0.7"], &["head on h⁰", "leave out the gate"]);
}

#[test]
fn a_damaged_pack_is_refused() {
    let toml = |pack: &Path| pack.join("pack.toml");
    refused_pack(|pack| std::fs::remove_file(toml(pack)).unwrap(), &["pack.toml"]);
    refused_pack(|pack| edit(&toml(pack), "hop =", "hopp ="), &["pack.toml:", "did you mean `hop`?"]);
    refused_pack(|pack| edit(&toml(pack), "left_context = 64", "left_context = -1"), &["pack.toml:"]);
    refused_pack(
        |pack| edit(&toml(pack), "left_context = 64", "left_context = 65000"),
        &["[encoder] left_context", "MiB per stream"],
    );
    refused_pack(|pack| edit(&toml(pack), "heads = 4", "heads = 7"), &["[encoder] heads", "7"]);
    refused_pack(|pack| edit(&toml(pack), "receptive_field = 880", "receptive_field = 100"), &["receptive_field"]);
    refused_pack(|pack| edit(&toml(pack), "layer.7 =", "layer.77 ="), &["layer.77", "between 1 and 10"]);
    refused_pack(|pack| std::fs::remove_file(pack.join("layer_05.onnx")).unwrap(), &["layer_05.onnx", "layer.5"]);
    refused_pack(|pack| std::fs::write(pack.join("head_02.onnx"), b"changed").unwrap(), &["head_02.onnx", "SHA-256", "head.2"]);
    refused_pack(|pack| edit(&toml(pack), "frontend.onnx", "../frontend.onnx"), &["outside of the pack's folder"]);
    refused_pack(
        |pack| {
            let file = std::fs::File::options().write(true).open(pack.join("layer_01.onnx")).unwrap();
            file.set_len(600 << 20).unwrap();
        },
        &["layer_01.onnx", "bytes"],
    );
}

#[test]
fn a_wrong_graph_is_refused_by_stage_and_shape() {
    let replace = |pack: &Path, file: &str, bytes: &[u8]| {
        let old = sha256(&pack.join(file));
        std::fs::write(pack.join(file), bytes).unwrap();
        edit(&pack.join("pack.toml"), &old, &sha256(&pack.join(file)));
    };
    // A head instead of a layer.
    refused_pack(
        |pack| {
            let head = std::fs::read(pack.join("head_01.onnx")).unwrap();
            replace(pack, "layer_03.onnx", &head);
        },
        &["layer_03.onnx", "layer.3", "has no input `x`"],
    );
    // Invalid data, an empty file, and truncated graphs are errors that name the file.
    refused_pack(|pack| replace(pack, "layer_03.onnx", b"not a graph"), &["layer_03.onnx", "layer.3"]);
    refused_pack(|pack| replace(pack, "layer_03.onnx", b""), &["layer_03.onnx", "layer.3"]);
    for round in 0..12usize {
        refused_pack(
            |pack| {
                let mut layer = std::fs::read(pack.join("layer_03.onnx")).unwrap();
                layer.truncate(layer.len() * (round + 1) / 14);
                replace(pack, "layer_03.onnx", &layer);
            },
            &["layer_03.onnx", "layer.3"],
        );
    }
    // An [encoder] section of another model.
    refused_pack(|pack| edit(&pack.join("pack.toml"), "units = 256", "units = 255"), &["head.0", "[1, T, 255]"]);
    refused_pack(|pack| edit(&pack.join("pack.toml"), "dim = 192", "dim = 384"), &["frontend"]);
    refused_pack(|pack| edit(&pack.join("pack.toml"), "receptive_field = 880", "receptive_field = 1200"), &["frontend"]);
}

#[test]
fn a_benchmark_writes_its_report_and_page() {
    let folder = tempfile::tempdir().unwrap();
    let (json, html) = (folder.path().join("a.json"), folder.path().join("a.html"));
    let (json, html) = (json.to_str().unwrap(), html.to_str().unwrap());
    let what = ["bench", "--seconds", "2", "--noise", "white", "--snr", "clean,0", "--policy", "gain,threshold:2"];
    let found = output(&[&what[..], &["--json", json, "--html", html]].concat());
    assert!(found.status.success(), "{}", stderr(&found));
    assert!(stderr(&found).starts_with("expected duration: up to "), "{}", stderr(&found));
    assert!(stderr(&found).contains(&format!("wrote {html}")) && stdout(&found).contains("device-like"), "{}", stdout(&found));
    let report: serde_json::Value = serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap();
    let (cells, conditions) = (report["cells"].as_array().unwrap(), report["conditions"].as_array().unwrap());
    let kinds: Vec<_> = conditions.iter().map(|condition| condition["kind"].as_str().unwrap()).collect();
    // Full depth, nine fixed depths and the front end alone, and two policies.
    assert_eq!((kinds, cells.len()), (vec!["clean", "noisy", "device"], 3 * (1 + 10 + 2)));
    let of = |policy: &str, key: &str| -> Vec<f64> {
        cells.iter().filter(|cell| cell["policy"] == policy).map(|cell| cell[key].as_f64().unwrap()).collect()
    };
    let layers = report["layers"].as_f64().unwrap();
    assert_eq!((of("fixed:1", "depth"), of("never", "depth")), (vec![1.0; 3], vec![layers; 3]));
    assert_eq!((of("never", "kl"), of("never", "agreement")), (vec![0.0; 3], vec![1.0; 3]));
    for (index, condition) in conditions.iter().enumerate() {
        assert!(of("fixed:1", "kl")[index] > of("fixed:9", "kl")[index]);
        assert!(of("fixed:9", "kl")[index] > 0.0);
        let work = |policy| of(policy, "macs_per_second")[index];
        assert!(work("fixed:1") < work("fixed:9") && work("fixed:9") < work("never"));
        assert_eq!(condition["entropy"].as_array().unwrap().len(), report["heads"].as_array().unwrap().len());
        // The exits add up to the number of chunks.
        let chunks = (condition["seconds"].as_f64().unwrap() / 0.32).ceil() as u64;
        for cell in cells.iter().filter(|cell| cell["condition"] == condition["name"] && cell["policy"] == "gain") {
            assert_eq!(cell["exits"].as_array().unwrap().iter().map(|count| count.as_u64().unwrap()).sum::<u64>(), chunks);
        }
    }
    assert!(of("threshold:2", "depth")[1] > of("threshold:2", "depth")[0], "DAISY's rule goes deeper in noise");
    for curve in report["chunk_latency"].as_array().unwrap() {
        let points: Vec<f64> = curve["points"].as_array().unwrap().iter().map(|point| point[1].as_f64().unwrap()).collect();
        assert!(points.is_sorted() && points.len() > 5, "{curve}");
    }
    let is_whole =
        |page: &str| page.matches("<svg").count() >= 2 && page.matches("<svg").count() == page.matches("</svg>").count();
    let page = std::fs::read_to_string(html).unwrap();
    assert!(is_whole(&page) && page.matches("<svg").count() >= 8);
    assert!(!page.replace("http://www.w3.org", "").contains("http"), "the page must not load anything");

    let both = folder.path().join("both.html");
    let compared = output(&["bench", "--compare", json, json, "--html", both.to_str().unwrap()]);
    assert!(compared.status.success() && stdout(&compared).contains("1.00"), "{}", stdout(&compared));
    assert!(is_whole(&std::fs::read_to_string(&both).unwrap()));
    let old = folder.path().join("old.json");
    std::fs::write(&old, "{\"format\": 1}").unwrap();
    refused(&["bench", "--compare", old.to_str().unwrap(), json], &["old.json", "report format 1", "measure again"]);
    refused(&["bench", "--compare", html, json], &["a.html", "not a report"]);
    refused(&["bench", "--policy", "gian"], &["`gian`", "threshold, range, fixed"]);
    refused(&["bench", "--policy", "fixed:99"], &["got 99"]);
    refused(&["bench", "--snr", "loud"], &["from -100 to 100", "clean"]);
    refused(&["bench", "--noise", "pnik"], &["pnik", "white, pink"]);
    refused(&["bench", "--speech", folder.path().join("nothing").to_str().unwrap()], &["nothing"]);
}

#[test]
fn a_benchmark_writes_to_the_working_directory() {
    let folder = tempfile::tempdir().unwrap();
    let arguments = ["bench", "--seconds", "1", "--snr", "clean", "--policy", "fixed:1", "--no-device", "--realtime"];
    let found = bellis(&arguments).current_dir(folder.path()).output().unwrap();
    assert!(found.status.success(), "{}", stderr(&found));
    let report: serde_json::Value =
        serde_json::from_slice(&std::fs::read(folder.path().join("bellis-bench.json")).unwrap()).unwrap();
    assert!(folder.path().join("bellis-bench.html").is_file());
    // The delay of every chunk was measured in real time.
    assert!(report["cells"][0]["delay_ms"]["p50"].as_f64().unwrap() >= 0.0 && !report["delay"].as_array().unwrap().is_empty());
    assert_eq!(report["cells"][0]["dropped"], 0);
    let before = std::fs::read_dir(folder.path()).unwrap().count();
    let found = bellis(&["bench", "--seconds", "1", "--snr", "clean", "--policy", "fixed:1", "--no-device", "--no-files"])
        .current_dir(folder.path())
        .output()
        .unwrap();
    assert!(found.status.success() && std::fs::read_dir(folder.path()).unwrap().count() == before, "{}", stderr(&found));
}

/// Lines of JSON in a file of the documentation.
fn lines_in(document: &str) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(repository(document)).unwrap();
    let lines = text.lines().filter(|line| {
        line.starts_with("{\"chunk\"")
            || line.starts_with("{\"phone\"")
            || line.starts_with("{\"segment\"")
            || line.starts_with("{\"event\"")
    });
    lines.map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Whether a printed value is that of the documentation, but for the rounding of another processor.
fn agrees(shown: &serde_json::Value, printed: &serde_json::Value) -> bool {
    use serde_json::Value::{Array, Number};
    match (shown, printed) {
        (Number(a), Number(b)) => (a.as_f64().unwrap() - b.as_f64().unwrap()).abs() <= 0.03,
        (Array(a), Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| agrees(a, b)),
        (a, b) => a == b,
    }
}

#[cfg(target_arch = "x86_64")]
#[test]
fn the_documentation_shows_what_is_printed() {
    let folder = tempfile::tempdir().unwrap();
    let keywords = folder.path().to_str().unwrap();
    assert!(output(&["enroll", "lamp", "--say", "turn on the lamp", "--folder", keywords]).status.success());
    let cases: [(&str, &[&str]); 7] = [
        ("README.md", &["models/sample.wav"]),
        ("docs/getting-started.md", &["models/sample.wav"]),
        ("docs/output.md", &["models/sample.wav", "--policy", "threshold"]),
        ("docs/phones.md", &["models/sample.wav", "--policy", "never", "--consumer", "phones:-"]),
        ("docs/phones.md", &["models/sample.wav", "--policy", "never", "--consumer", "segments"]),
        ("docs/keywords.md", &["models/keywords/demo/lamp.opus", "--consumer", "keyword", "--keywords", keywords]),
        ("docs/phones.md", &["models/sample.wav", "--policy", "never", "--consumer", "phones"]),
    ];
    for (document, arguments) in cases {
        let printed = stdout(&output(&[&["run", "--quiet"], arguments].concat()));
        if arguments.ends_with(&["phones"]) {
            let text = std::fs::read_to_string(repository(document)).unwrap();
            assert!(text.contains(&printed), "{document} does not show {printed}");
            continue;
        }
        let printed: Vec<serde_json::Value> = printed.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let kind = ["chunk", "phone", "segment", "event"].into_iter().find(|kind| printed[0].get(kind).is_some()).unwrap();
        let shown: Vec<_> = lines_in(document).into_iter().filter(|line| line.get(kind).is_some()).collect();
        assert!(!shown.is_empty(), "{document} has no line with `{kind}`");
        // A duration differs each time, and the files of a segment are not in every output.
        let fixed = |key: &str| !["compute_ms", "wav", "npy"].contains(&key);
        for line in shown {
            let fields = line.as_object().unwrap();
            let same = |printed: &&serde_json::Value| {
                fields
                    .iter()
                    .filter(|(key, _)| fixed(key))
                    .all(|(key, value)| printed.get(key).is_some_and(|printed| agrees(value, printed)))
            };
            assert!(printed.iter().any(|printed| same(&printed)), "{document} shows {line}, which {arguments:?} does not print");
        }
    }
}
