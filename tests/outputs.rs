//! Outputs: no run overwrites its input, files stay valid however the run ends, and a closed pipe is not an error.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::io::{BufRead, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn bellis(arguments: &[&str], folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bellis"));
    command.args(arguments).current_dir(folder).stdin(Stdio::null()).env_remove("RUST_LOG");
    if let [first, ..] = arguments
        && *first == "run"
    {
        command.arg("--pack").arg(repository("models/daisy-nano"));
    }
    command
}

fn run(arguments: &[&str], folder: &Path) -> Output {
    bellis(&[&["run"], arguments].concat(), folder).output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[track_caller]
fn refused(arguments: &[&str], folder: &Path, expected: &[&str]) {
    let output = run(arguments, folder);
    let text = stderr(&output);
    assert!(
        !output.status.success() && !text.contains("panicked") && text.trim_end().lines().count() == 1,
        "{arguments:?}: {text}"
    );
    for part in expected {
        assert!(text.contains(part), "{arguments:?} does not say `{part}`: {text}");
    }
}

/// A folder with the bundled recording as `in.wav`.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(repository("models/sample.wav"), folder.path().join("in.wav")).unwrap();
    folder
}

fn python(script: &str, arguments: &[&Path]) -> String {
    let found = Command::new("python3").arg("-c").arg(script).args(arguments).output().unwrap();
    assert!(found.status.success(), "{}", stderr(&found));
    String::from_utf8(found.stdout).unwrap()
}

#[test]
fn no_output_is_an_input_or_another_output() {
    let folder = folder();
    let at = |name: &str| folder.path().join(name);
    let before = std::fs::read(at("in.wav")).unwrap();
    std::os::unix::fs::symlink("in.wav", at("soft.wav")).unwrap();
    std::fs::hard_link(at("in.wav"), at("hard.wav")).unwrap();
    std::fs::write(at("bellis.toml"), "consumer = [\"jsonl:bellis.toml\"]\n").unwrap();
    for name in ["in.wav", "./in.wav", "soft.wav", "hard.wav"] {
        for consumer in ["wav:", "wav:f32:", "jsonl:", "npy:", "phones:"] {
            refused(&["in.wav", "--consumer", &format!("{consumer}{name}")], folder.path(), &["would overwrite", "in.wav"]);
        }
        refused(&["in.wav", "--report", name], folder.path(), &["--report", "would overwrite"]);
        let mut piped = bellis(&["run", "-", "--consumer", &format!("wav:{name}")], folder.path());
        let piped = piped.stdin(std::fs::File::open(at("in.wav")).unwrap()).output().unwrap();
        assert!(stderr(&piped).contains("would overwrite standard input"), "{}", stderr(&piped));
    }
    refused(&["in.wav", "--config", "bellis.toml"], folder.path(), &["would overwrite", "bellis.toml"]);
    for pair in [["jsonl:a", "phones:./a"], ["npy:x.npy", "jsonl:x.chunks.jsonl"], ["segments:s", "jsonl:s/segments.jsonl"]] {
        refused(&["in.wav", "--consumer", pair[0], "--consumer", pair[1]], folder.path(), &["would overwrite"]);
    }
    refused(&["in.wav", "--consumer", "jsonl:a", "--report", "a"], folder.path(), &["--report a", "would overwrite"]);
    refused(&["in.wav", "--consumer", "jsonl", "--consumer", "phones"], folder.path(), &["standard output"]);
    assert!(std::fs::read(at("in.wav")).unwrap() == before);
    assert!(!at("a").exists() && !at("x.npy").exists());
    // Standard output redirected to a file.
    let mut redirected = bellis(&["run", "in.wav", "--report", "both"], folder.path());
    let redirected = redirected.stdout(std::fs::File::create(at("both")).unwrap()).output().unwrap();
    assert!(stderr(&redirected).contains("would overwrite"), "{}", stderr(&redirected));
    // A character device can have several writers.
    let fine = run(
        &["in.wav", "--consumer", "jsonl:/dev/null", "--consumer", "phones:/dev/null", "--report", "/dev/null"],
        folder.path(),
    );
    assert!(fine.status.success(), "{}", stderr(&fine));
}

#[test]
fn a_report_is_no_keyword_that_is_read() {
    let folder = folder();
    let keyword = folder.path().join("kw/lamp.keyword.toml");
    std::fs::create_dir(keyword.parent().unwrap()).unwrap();
    std::fs::write(&keyword, "a keyword").unwrap();
    let arguments = ["in.wav", "--consumer", "keyword:kw", "--report", "kw/lamp.keyword.toml"];
    refused(&arguments, folder.path(), &["--report kw/lamp.keyword.toml would overwrite", "the keyword kw/lamp.keyword.toml"]);
    assert_eq!(std::fs::read_to_string(&keyword).unwrap(), "a keyword");
}

#[test]
fn a_report_can_be_written_to_a_pipe() {
    let folder = folder();
    let found = run(&["in.wav", "--quiet", "--consumer", "null", "--report", "/dev/stdout"], folder.path());
    assert!(found.status.success(), "{}", stderr(&found));
    let report: serde_json::Value = serde_json::from_slice(&found.stdout).unwrap();
    assert_eq!(report["samples"]["processed"], 113_600);
    let lines = ["in.wav", "--quiet", "--consumer", "jsonl", "--report", "/dev/stdout"];
    refused(&lines, folder.path(), &["--report /dev/stdout would overwrite", "standard output"]);
}

#[test]
fn existing_files_are_kept() {
    let folder = folder();
    for name in ["x.jsonl", "x.npy", "x.chunks.jsonl", "x.wav"] {
        std::fs::write(folder.path().join(name), name).unwrap();
    }
    std::fs::write(folder.path().join("report.json"), "old").unwrap();
    let consumers = ["--consumer", "jsonl:x.jsonl", "--consumer", "npy:x.npy", "--consumer", "wav:x.wav"];
    let found = run(&[&["in.wav", "--report", "report.json"], &consumers[..]].concat(), folder.path());
    assert!(found.status.success(), "{}", stderr(&found));
    for (name, kept) in
        [("x.jsonl", "x.1.jsonl"), ("x.npy", "x.1.npy"), ("x.chunks.jsonl", "x.1.chunks.jsonl"), ("x.wav", "x.1.wav")]
    {
        assert_eq!(std::fs::read_to_string(folder.path().join(kept)).unwrap(), name);
        assert!(std::fs::metadata(folder.path().join(name)).unwrap().len() > 100);
    }
    assert!(std::fs::read_to_string(folder.path().join("report.json")).unwrap().starts_with('{'));
}

/// The number of an output that is kept is not that of another output of the run.
#[test]
fn an_output_with_a_number_is_no_place_for_an_older_file() {
    let folder = folder();
    let at = |name: &str| folder.path().join(name);
    std::fs::write(at("x.wav"), "old").unwrap();
    let found = run(&["in.wav", "--quiet", "--consumer", "wav:x.1.wav", "--consumer", "wav:x.wav"], folder.path());
    assert!(found.status.success(), "{}", stderr(&found));
    assert_eq!(std::fs::read_to_string(at("x.2.wav")).unwrap(), "old");
    for name in ["x.1.wav", "x.wav"] {
        assert_eq!(python(OPEN_WAV, &[&at(name)]).trim(), "1 2 16000 113600 227200", "{name}");
    }
}

const OPEN_WAV: &str = "import sys, wave
w = wave.open(sys.argv[1])
print(w.getnchannels(), w.getsampwidth(), w.getframerate(), w.getnframes(), len(w.readframes(1 << 30)))";

#[test]
fn wav_is_16_bit_pcm_by_default() {
    let folder = folder();
    let at = |name: &str| folder.path().join(name);
    let found = run(&["in.wav", "--consumer", "wav:a.wav", "--consumer", "wav:f32:b.wav"], folder.path());
    assert!(found.status.success(), "{}", stderr(&found));
    assert_eq!(python(OPEN_WAV, &[&at("a.wav")]).trim(), "1 2 16000 113600 227200");
    // 16-bit input gives identical 16-bit output.
    let samples = |path: &Path| bellis::audio::decode_file(path, bellis::audio::ChannelPick::MixDown).unwrap().0;
    assert!(samples(&at("a.wav")) == samples(&at("in.wav")) && samples(&at("b.wav")) == samples(&at("in.wav")));
    // On standard output, the header has no length.
    let mut first = bellis(&["run", "in.wav", "--quiet", "--consumer", "wav:-"], folder.path());
    let mut first = first.stdout(Stdio::piped()).spawn().unwrap();
    let mut second = bellis(&["run", "-", "--quiet", "--consumer", "wav:c.wav"], folder.path());
    let second = second.stdin(first.stdout.take().unwrap()).output().unwrap();
    assert!(first.wait().unwrap().success() && second.status.success(), "{}", stderr(&second));
    assert!(samples(&at("c.wav")) == samples(&at("in.wav")));
    refused(&["in.wav", "--consumer", "npy:-"], folder.path(), &["npy:-", "stream:-"]);
    assert!(!at("-").exists());
}

const OPEN_NPY: &str = "import ast, sys
b = open(sys.argv[1], 'rb').read()
assert b[:6] == b'\\x93NUMPY'
header = ast.literal_eval(b[10:10 + int.from_bytes(b[8:10], 'little')].decode())
rows, dim = header['shape']
assert len(b) == 128 + 4 * rows * dim, (len(b), rows, dim)
print(rows)";

/// Rows and columns in the header of an array.
fn shape(bytes: &[u8]) -> Vec<u64> {
    let header = String::from_utf8_lossy(&bytes[..128]).into_owned();
    let shape = header.split("'shape': (").nth(1).unwrap().split(')').next().unwrap();
    shape.split(", ").map(|count| count.parse().unwrap()).collect()
}

/// Simulates a full disk by a limit on the file size, which falls within a line, a row and a sample.
#[test]
fn files_are_valid_after_a_full_disk() {
    let folder = folder();
    let at = |name: &str| folder.path().join(name);
    for (consumer, kilobytes) in
        [("wav:x.wav", 33), ("wav:f32:y.wav", 33), ("npy:x.npy", 37), ("jsonl:x.jsonl", 1), ("phones:p.jsonl", 1)]
    {
        let pack = repository(if consumer.starts_with("phones") { "models/daisy-tiny" } else { "models/daisy-nano" });
        let limited = Command::new("bash")
            .arg("-c")
            .arg("trap '' XFSZ; ulimit -f \"$1\"; shift; exec \"$@\"")
            .args([
                "bash",
                &kilobytes.to_string(),
                env!("CARGO_BIN_EXE_bellis"),
                "run",
                "in.wav",
                "--quiet",
                "--consumer",
                consumer,
            ])
            .arg("--pack")
            .arg(pack)
            .current_dir(folder.path())
            .output()
            .unwrap();
        let text = stderr(&limited);
        assert!(!limited.status.success() && !text.contains("panicked"), "{consumer}: {text}");
        let name = consumer.rsplit(':').next().unwrap();
        assert!(text.contains(name) && text.contains("File too large"), "{consumer}: {text}");
        let size = std::fs::metadata(at(name)).unwrap().len();
        assert!(size > 512 * kilobytes && size <= 1024 * kilobytes, "{consumer}: {size}");
    }
    let frames = (33 * 1024 - 44) / 2;
    assert_eq!(python(OPEN_WAV, &[&at("x.wav")]).trim(), format!("1 2 16000 {frames} {}", 2 * frames));
    let float = bellis::audio::decode_file(&at("y.wav"), bellis::audio::ChannelPick::MixDown).unwrap().0;
    assert_eq!(float.len(), (33 * 1024 - 58) / 4);
    assert!(python(OPEN_NPY, &[&at("x.npy")]).trim().parse::<u64>().unwrap() > 10);
    for name in ["x.jsonl", "p.jsonl"] {
        let text = std::fs::read_to_string(at(name)).unwrap();
        assert!(text.ends_with("}\n") && text.lines().count() > 2, "{name}: {text}");
        assert!(text.lines().all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()), "{text}");
    }
    let full = run(&["in.wav", "--quiet", "--consumer", "jsonl:/dev/full"], folder.path());
    assert!(!full.status.success() && stderr(&full).contains("No space left"), "{}", stderr(&full));
}

/// A killed run leaves valid files.
#[test]
fn files_are_valid_after_a_kill() {
    let folder = folder();
    let at = |name: &str| folder.path().join(name);
    let consumers = ["--consumer", "jsonl", "--consumer", "jsonl:x.jsonl", "--consumer", "wav:x.wav", "--consumer", "npy:x.npy"];
    let mut child = bellis(&[&["run", "in.wav", "--realtime"], &consumers[..]].concat(), folder.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = std::io::BufReader::new(child.stdout.take().unwrap()).lines();
    (0..6).for_each(|_| drop(lines.next().unwrap().unwrap()));
    child.kill().unwrap();
    child.wait().unwrap();
    let opened = python(OPEN_WAV, &[&at("x.wav")]);
    let fields: Vec<u64> = opened.split_whitespace().map(|field| field.parse().unwrap()).collect();
    assert!(fields[3] >= 5 * 5_120 && fields[4] == 2 * fields[3], "{opened}");
    let text = std::fs::read_to_string(at("x.jsonl")).unwrap();
    assert!(text.ends_with("}\n") && text.lines().count() >= 5, "{text}");
    assert!(text.lines().all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()), "{text}");
    // The last row may be in flight.
    let bytes = std::fs::read(at("x.npy")).unwrap();
    let rows = shape(&bytes);
    assert!(rows[0] > 0 && (bytes.len() as u64) >= 128 + 4 * rows[0] * rows[1], "{rows:?}, {} bytes", bytes.len());
}

/// A named pipe is opened once, by its consumer: its reader gets everything.
#[cfg(unix)]
#[test]
fn named_pipes_are_outputs() {
    let folder = folder();
    let at = |name: &str| folder.path().join(name);
    let mut readers = Vec::new();
    for name in ["lines", "heard.wav", "array"] {
        assert!(Command::new("mkfifo").arg(at(name)).status().unwrap().success());
        let path = at(name);
        // Opening a pipe waits for its writer.
        let (sender, reader) = std::sync::mpsc::channel();
        std::thread::spawn(move || sender.send(std::fs::read(path).unwrap()));
        readers.push(move || reader.recv_timeout(std::time::Duration::from_secs(60)).expect("a pipe without a writer"));
    }
    let consumers = ["--consumer", "jsonl:lines", "--consumer", "wav:heard.wav"];
    let found = run(&[&["in.wav", "--quiet"], &consumers[..]].concat(), folder.path());
    assert!(found.status.success(), "{}", stderr(&found));
    let mut readers = readers.into_iter();
    let lines = readers.next().unwrap()();
    assert!(String::from_utf8(lines).unwrap().lines().count() > 5);
    std::fs::write(at("copy.wav"), readers.next().unwrap()()).unwrap();
    let heard = bellis::audio::decode_file(&at("copy.wav"), bellis::audio::ChannelPick::MixDown).unwrap().0;
    let whole = bellis::audio::decode_file(&at("in.wav"), bellis::audio::ChannelPick::MixDown).unwrap().0;
    assert_eq!(heard.len(), whole.len());
    let refused = run(&["in.wav", "--quiet", "--consumer", "npy:array"], folder.path());
    assert!(!refused.status.success() && stderr(&refused).contains("array: is a pipe"), "{}", stderr(&refused));
    readers.next().unwrap()();
}

#[test]
fn a_reader_that_closes_its_pipe_ends_the_program_quietly() {
    let folder = folder();
    let home = tempfile::tempdir().unwrap();
    let inspect = ["inspect", "daisy-nano"];
    let bench = ["bench", "--help"];
    for arguments in [&inspect[..], &["keywords", "list"], &["devices"], &bench, &["run", "in.wav"], &["--help"]] {
        // The pipe is closed from the start.
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = bellis(arguments, folder.path());
        command.current_dir(repository("")).env("BELLIS_KEYWORDS", home.path());
        if arguments[0] == "run" {
            command.current_dir(folder.path());
        }
        let found = command.stdout(writer.try_clone().unwrap()).stderr(Stdio::piped()).output().unwrap();
        let text = stderr(&found);
        assert!(!text.contains("panicked"), "{arguments:?}: {text}");
        // Also with standard error: `2>&1 | head`.
        let found = command.stdout(writer.try_clone().unwrap()).stderr(writer).status().unwrap();
        assert!(found.code().is_some_and(|code| code != 101), "{arguments:?}: {found}");
        if arguments[0] == "run" {
            assert!(found.success() && text.contains("closed by its reader") && !text.contains("too slow"), "{text}");
        }
    }
}

#[test]
fn standard_input_is_a_file_or_samples() {
    let folder = folder();
    let feed = |bytes: &[u8], arguments: &[&str]| -> Output {
        let mut command = bellis(&[&["run", "-"], arguments].concat(), folder.path());
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (mut stdin, bytes) = (child.stdin.take().unwrap(), bytes.to_vec());
        let writer = std::thread::spawn(move || drop(stdin.write_all(&bytes)));
        let output = child.wait_with_output().unwrap();
        writer.join().unwrap();
        output
    };
    let wav = std::fs::read(folder.path().join("in.wav")).unwrap();
    let expected = run(&["in.wav", "--quiet"], folder.path());
    let without_time = |output: &Output| -> Vec<serde_json::Value> {
        let parse = |line: &str| -> serde_json::Value {
            let mut value: serde_json::Value = serde_json::from_str(line).unwrap();
            value.as_object_mut().unwrap().remove("compute_ms");
            value
        };
        String::from_utf8(output.stdout.clone()).unwrap().lines().map(parse).collect()
    };
    for (bytes, arguments) in
        [(&wav[..], &["--quiet"][..]), (&wav[44..], &["--quiet"]), (&wav[44..], &["--quiet", "--format", "S16_LE"])]
    {
        let found = feed(bytes, arguments);
        assert!(found.status.success(), "{}", stderr(&found));
        assert!(without_time(&found) == without_time(&expected));
    }
    let stray = feed(&[&wav[44..], &[1]].concat(), &["--quiet"]);
    assert!(stray.status.success() && without_time(&stray) == without_time(&expected), "{}", stderr(&stray));
    for name in ["speech.flac", "speech.ogg", "speech.mp3", "speech.opus"] {
        let path = repository("tests/data/audio").join(name);
        let (piped, file) =
            (feed(&std::fs::read(&path).unwrap(), &["--quiet"]), run(&[path.to_str().unwrap(), "--quiet"], folder.path()));
        assert!(file.status.success() && without_time(&piped) == without_time(&file), "{name}: {}", stderr(&file));
    }
    let empty = feed(b"", &[]);
    assert!(!empty.status.success() && stderr(&empty).contains("standard input: is empty"), "{}", stderr(&empty));
    let m4a = feed(&std::fs::read(repository("tests/data/audio/speech.m4a")).unwrap(), &[]);
    assert!(!m4a.status.success() && stderr(&m4a).contains("AAC") && stderr(&m4a).contains("ffmpeg -i"), "{}", stderr(&m4a));
}

#[test]
fn damage_is_counted_and_reported_once_and_positions_are_kept() {
    let folder = folder();
    let mut flac = std::fs::read(repository("tests/data/audio/frames.flac")).unwrap();
    let middle = flac.len() / 2;
    flac[middle] ^= 0x11;
    std::fs::write(folder.path().join("damaged.flac"), &flac).unwrap();
    let found = run(&["damaged.flac"], folder.path());
    let text = stderr(&found);
    assert_eq!(found.status.code(), Some(1), "{text}");
    assert!(text.contains("9600 captured = 8576 processed + 1024 dropped"), "{text}");
    assert_eq!(text.matches("is damaged: 1024 samples are lost").count(), 1, "{text}");
    let lines: Vec<serde_json::Value> = found.stdout.lines().map(|line| serde_json::from_str(&line.unwrap()).unwrap()).collect();
    let last = lines.last().unwrap();
    assert_eq!(
        last["sample"].as_u64().unwrap() + last["samples"].as_u64().unwrap(),
        9_600 - if last["lost_samples"].is_u64() { 1_024 } else { 0 }
    );
    assert_eq!(lines.iter().filter_map(|line| line["lost_samples"].as_u64()).sum::<u64>(), 1_024);
}

/// Log messages of Symphonia and tract are suppressed.
#[test]
fn libraries_do_not_log() {
    let folder = folder();
    let mut mp3 = std::fs::read(repository("tests/data/audio/speech.mp3")).unwrap();
    mp3.drain(1_500..1_800);
    std::fs::write(folder.path().join("damaged.mp3"), &mp3).unwrap();
    let found = run(&["damaged.mp3", "--quiet"], folder.path());
    let text = stderr(&found);
    assert!(!text.contains("symphonia") && !text.contains("mpa:") && !text.contains("tract"), "{text}");
    assert!(text.lines().all(|line| line.contains("bellis") || line.starts_with("error: ")), "{text}");
}

/// `before`, a name that is not UTF-8, and `after`.
fn latin1(before: &str, after: &str) -> OsString {
    use std::os::unix::ffi::OsStringExt;
    OsString::from_vec([before.as_bytes(), b"caf\xe9", after.as_bytes()].concat())
}

#[test]
fn no_path_needs_to_be_utf_8() {
    let folder = folder();
    let at = |name: &OsStr| folder.path().join(name);
    std::fs::rename(at("in.wav".as_ref()), at(&latin1("", ".wav"))).unwrap();
    let pack = at(&latin1("pack-", ""));
    std::os::unix::fs::symlink(repository("models/daisy-nano"), &pack).unwrap();
    std::fs::write(at(&latin1("", ".toml")), "policy = \"fixed\"\nlayer = 2\nconsumer = [\"npy:é.npy\"]\n").unwrap();
    let run = |arguments: &[OsString]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bellis"));
        command.arg("run").arg(latin1("", ".wav")).arg("--quiet").arg("--pack").arg(&pack).args(arguments);
        command.current_dir(folder.path()).stdin(Stdio::null()).env_remove("RUST_LOG").output().unwrap()
    };
    let consumers =
        [("jsonl:", ".jsonl"), ("npy:", ".npy"), ("wav:f32:", ".out.wav"), ("phones:", ".phones"), ("segments:", ".segments")];
    let mut arguments = vec!["--report".into(), latin1("", ".json"), "--config".into(), latin1("", ".toml")];
    arguments.extend(consumers.iter().flat_map(|(kind, end)| ["--consumer".into(), latin1(kind, end)]));
    // The second run renames the files of the first.
    for _ in 0..2 {
        let found = run(&arguments);
        assert!(found.status.success(), "{}", stderr(&found));
        std::fs::remove_dir_all(at(&latin1("", ".segments"))).unwrap();
    }
    let names: BTreeSet<OsString> = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    let written = [".jsonl", ".npy", ".chunks.jsonl", ".out.wav", ".phones"];
    let first = [".1.jsonl", ".1.npy", ".1.chunks.jsonl", ".out.1.wav", ".1.phones"];
    let others = [".wav", ".toml", ".json"].map(|end| latin1("", end)).into_iter().chain([latin1("pack-", "")]);
    let expected: BTreeSet<OsString> = written.iter().chain(&first).map(|end| latin1("", end)).chain(others).collect();
    assert_eq!(names, expected);
    let report: serde_json::Value = serde_json::from_slice(&std::fs::read(at(&latin1("", ".json"))).unwrap()).unwrap();
    let lines = std::fs::read_to_string(at(&latin1("", ".jsonl"))).unwrap();
    assert_eq!(lines.lines().count() as u64, report["chunks"].as_u64().unwrap());
    // A configuration is UTF-8, and so are the paths in it; without flags, its consumer writes.
    assert!(run(&["--config".into(), latin1("", ".toml")]).status.success() && at("é.npy".as_ref()).exists());

    // Messages escape the bytes, and the rules for outputs hold.
    let before = std::fs::read(at(&latin1("", ".wav"))).unwrap();
    let found = run(&["--consumer".into(), latin1("wav:", ".wav")]);
    assert!(stderr(&found).contains(r"consumer `wav:caf\xE9.wav` would overwrite"), "{}", stderr(&found));
    assert_eq!(std::fs::read(at(&latin1("", ".wav"))).unwrap(), before);
    let found = run(&["--consumer".into(), latin1("wav:none/", ".wav")]);
    assert!(!found.status.success() && stderr(&found).trim_end().lines().count() == 1, "{}", stderr(&found));
}

/// As over ssh.
#[test]
fn standard_input_and_output_may_be_one_socket() {
    let folder = folder();
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    let mut child = bellis(&["run", "-", "--quiet"], folder.path())
        .stdin(std::os::fd::OwnedFd::from(theirs.try_clone().unwrap()))
        .stdout(std::os::fd::OwnedFd::from(theirs))
        .spawn()
        .unwrap();
    let (mut writer, audio) = (ours.try_clone().unwrap(), std::fs::read(folder.path().join("in.wav")).unwrap());
    let feeder = std::thread::spawn(move || {
        writer.write_all(&audio).unwrap();
        writer.shutdown(std::net::Shutdown::Write).unwrap();
    });
    assert_eq!(std::io::BufReader::new(ours).lines().count(), 23);
    feeder.join().unwrap();
    assert!(child.wait().unwrap().success());
}
