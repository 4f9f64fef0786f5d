//! `bellis serve` as started by systemd: with a notify socket, a watchdog, and a virtual microphone that is removed and restored.
#![cfg(feature = "serve")]
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;
#[path = "common/pulse.rs"]
mod pulse;
#[path = "common/served.rs"]
mod served;

use std::ffi::{OsStr, OsString};
use std::time::Instant;

use pulse::Pulse;
use served::{Served, lines, number, within};

/// Checks that chunks and positions are contiguous except for the reported lost samples. Returns the number of lost samples.
#[track_caller]
fn contiguous(lines: &[serde_json::Value]) -> u64 {
    let (mut next, mut lost) = (0, 0);
    for (chunk, line) in lines.iter().enumerate() {
        let get = |key: &str| line[key].as_u64().unwrap_or(0);
        assert_eq!(get("chunk"), chunk as u64, "{line}");
        let here = get("sample");
        // Samples lost within a chunk shift only the next one.
        assert!(here >= next && here <= next + get("lost_samples"), "{line}: expected {next}");
        lost += get("lost_samples");
        next = here.max(next) + get("samples") + (next + get("lost_samples") - here);
    }
    lost
}

#[track_caller]
fn conserved(served: &Served) {
    let metrics = served.metrics();
    let of = |name: &str| metrics[&format!("bellis_samples_{name}_total")];
    assert_eq!(of("captured"), of("processed") + of("dropped") + metrics["bellis_ring_samples"]);
}

#[test]
fn device_losses_reloads_and_shutdown_under_a_service_manager() {
    let Some(pulse) = Pulse::start() else { return };
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.jsonl");
    let configure = |policy: &str| {
        let text = format!(
            "input = \"mic\"\nrate = 48000\nchannels = 1\nring = 30\nmetrics = \"127.0.0.1:0\"\npriority = 10\n\
             consumer = [\"jsonl:{}\"]\n{policy}",
            out.display()
        );
        std::fs::write(folder.path().join("bellis.toml"), text).unwrap();
    };
    configure("policy = \"fixed\"\nlayer = 3\n");
    let served = Served::start(&pulse.environment(), &["--config", folder.path().join("bellis.toml").to_str().unwrap()]);
    served.hears("READY=1");
    served.is("running");
    within("chunks", || served.metric("bellis_exits_total{layer=\"3\"}") >= 3.0);
    served.hears("STATUS=running");
    assert_eq!(served.get("/healthz").0, 200);
    conserved(&served);
    // A long chunk does not delay capture, even on a single core. Without permission, all threads have normal priority.
    match served.real_time_priorities("microphone")[..] {
        [10] => assert_eq!(served.real_time_priorities("inference"), [9]),
        ref none => assert!(none == [0] && served.log().contains("no real-time priority"), "{none:?}"),
    }
    // Nothing plays yet: digital silence.
    within("the input level", || served.metrics().contains_key("bellis_input_rms_dbfs"));
    assert_eq!(served.metric("bellis_input_peak_dbfs"), -144.0);
    assert_eq!(served.metric("bellis_samples_clipped_total"), 0.0);

    // A changed policy: no chunk is lost, and the file continues.
    configure("policy = \"fixed\"\nlayer = 5\n");
    served.signal("HUP");
    served.hears("RELOADING=1");
    served.hears("READY=1");
    within("chunks of the new policy", || served.metric("bellis_exits_total{layer=\"5\"}") >= 3.0);
    assert_eq!(served.metric("bellis_reloads_total"), 1.0);
    assert_eq!(served.metric("bellis_samples_dropped_total"), 0.0);
    let so_far = lines(&out);
    let layers: Vec<u64> = so_far.iter().map(|line| number(line, "layer")).collect();
    assert!(layers.is_sorted() && layers.first() == Some(&3) && layers.last() == Some(&5), "{layers:?}");
    assert_eq!(contiguous(&so_far), 0);

    // An invalid configuration has no effect.
    configure("policy = \"fixed\"\nlayer = 50\n");
    served.signal("HUP");
    within("the rejection", || served.metric("bellis_reloads_rejected_total") == 1.0);
    assert!(served.log().contains("got 50"), "{}", served.log());
    served.is("running");

    // The device is removed and restored, twice.
    for losses in 1..=2 {
        pulse.unload_sink();
        served.is("reconnecting");
        assert_eq!(served.get("/healthz").0, 503);
        assert_eq!(served.metric("bellis_source_lost_total"), f64::from(losses));
        served.hears("STATUS=reconnecting");
        let before = served.metric("bellis_chunks_total");
        served.hears("WATCHDOG=1");
        pulse.load_sink();
        served.is("running");
        within("chunks after the loss", || served.metric("bellis_chunks_total") >= before + 3.0);
    }
    conserved(&served);
    served.signal("TERM");
    served.hears("STOPPING=1");
    served.hears("STATUS=stopped");
    let (success, log) = served.end();
    assert!(success, "{log}");
    for line in ["starting → running", "running → reconnecting", "reconnecting → running", "running → stopped"] {
        assert!(log.contains(line), "{line}: {log}");
    }
    assert!(log.contains("processed + 0 dropped") && !log.contains("panicked"), "{log}");
    assert!(log.contains("has real-time priority") || log.matches("no real-time priority").count() == 1, "{log}");
    let all = lines(&out);
    assert!(contiguous(&all) > 0, "the time without a device is not counted");
    assert_eq!(all.iter().filter(|line| number(line, "lost_samples") > 0).count(), 2);
}

#[test]
fn a_missing_device_is_retried_and_configuration_errors_stop_the_start() {
    let nowhere = tempfile::tempdir().unwrap();
    // There is no sound server here.
    let silent = [("HOME", nowhere.path().display().to_string()), ("XDG_RUNTIME_DIR", nowhere.path().display().to_string())];
    let served = Served::start(&silent, &["--device", "no such microphone", "--consumer", "null"]);
    served.hears("READY=1");
    served.is("reconnecting");
    within("attempts", || served.metric("bellis_source_open_failures_total") >= 3.0);
    assert_eq!(served.log().matches("retrying until it opens").count(), 1, "{}", served.log());
    served.signal("TERM");
    let (success, log) = served.end();
    assert!(success && log.contains("reconnecting → stopped"), "{log}");

    let rejected = |arguments: &[&str], says: &str| {
        let (success, log) = Served::start(&silent, arguments).end();
        assert!(!success && log.contains(says) && !log.contains("panicked"), "{arguments:?}: {log}");
    };
    rejected(&["no-such-file.wav"], "no-such-file.wav");
    rejected(&["mic", "--consumer", "null", "--consumer", "null"], "listed twice");
    rejected(&["mic", "--metrics", "nine thousand"], "must be an address and port");
    rejected(&["mic", "--priority", "70"], "must be between 1 and 49");
    rejected(&["mic", "--consumer", "jsonl:/nowhere/at/all"], "/nowhere/at/all");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let _holds = std::net::TcpListener::bind(taken).unwrap();
    rejected(&["mic", "--metrics", &taken.to_string()], "selects another address");
}

#[test]
fn outputs_whose_names_are_not_utf_8_are_told_apart() {
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    let folder = tempfile::tempdir().unwrap();
    let silent = [("HOME", folder.path().display().to_string()), ("XDG_RUNTIME_DIR", folder.path().display().to_string())];
    let at = |name: &[u8]| folder.path().join(OsStr::from_bytes(name));
    let consumer = |name: &[u8]| OsString::from_vec([b"jsonl:", at(name).as_os_str().as_bytes()].concat());
    let mut arguments: Vec<OsString> = ["--device", "no such microphone", "--consumer"].map(OsString::from).into();
    arguments.extend([consumer(b"\xfe"), "--consumer".into(), consumer(b"\xff")]);
    let served = Served::start(&silent, &arguments);
    served.is("reconnecting");
    // Prometheus' format escapes the backslash.
    let label = |name: &str| format!("bellis_consumer_failed{{consumer=\"jsonl:{}/{name}\"}}", folder.path().display());
    assert_eq!([served.metric(&label(r"\\xFE")), served.metric(&label(r"\\xFF"))], [0.0, 0.0]);

    // One file is moved and written again, and the other one stays open.
    let inode = |name: &[u8]| std::os::unix::fs::MetadataExt::ino(&at(name).metadata().unwrap());
    let kept = inode(b"\xff");
    std::fs::rename(at(b"\xfe"), at(b"moved")).unwrap();
    served.signal("HUP");
    within("the reload", || served.metric("bellis_reloads_total") == 1.0);
    within("the new file", || at(b"\xfe").exists());
    assert_eq!(inode(b"\xff"), kept);
    arguments.extend(["--consumer".into(), consumer(b"\xff")]);
    let (success, log) = Served::start(&silent, &arguments).end();
    assert!(!success && log.contains(r"\xFF` is listed twice"), "{log}");
}

#[test]
fn files_of_a_killed_daemon_are_valid_and_kept_by_the_next_start() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    common::write_speech(&at("talk.wav"), 60);
    let consumers = ["jsonl:x.jsonl", "npy:x.npy", "wav:heard.wav"];
    let arguments: Vec<&str> = ["talk.wav", "--realtime", "--ring", "30"]
        .into_iter()
        .chain(consumers.iter().flat_map(|one| ["--consumer", one]))
        .collect();
    let served = Served::start_in(folder.path(), &[], &arguments);
    within("chunks", || lines(&at("x.jsonl")).len() >= 8);
    served.signal("KILL");
    served.end();
    for name in ["x.jsonl", "x.chunks.jsonl"] {
        assert!(std::fs::read_to_string(at(name)).unwrap().ends_with("}\n"), "the last line of {name} is incomplete");
    }
    let written = lines(&at("x.jsonl"));
    assert_eq!(contiguous(&written), 0);
    let frames: u64 = written.iter().map(|line| number(line, "frames")).sum();
    let array: ndarray::Array2<f32> = ndarray_npy::read_npy(at("x.npy")).unwrap_or_else(|error| panic!("{error}"));
    let chunk = number(&written[0], "frames");
    assert!((array.nrows() as u64).abs_diff(frames) <= chunk, "{} frames, and lines of {frames}", array.nrows());
    let heard = u64::from(hound::WavReader::open(at("heard.wav")).unwrap().len());
    let samples: u64 = written.iter().map(|line| number(line, "samples")).sum();
    assert!(heard.abs_diff(samples) <= number(&written[0], "samples"), "{heard} samples, and lines of {samples}");

    // The next start creates new files.
    let served = Served::start_in(folder.path(), &[], &arguments);
    within("chunks", || at("heard.1.wav").exists() && lines(&at("x.jsonl")).len() >= 3);
    assert_eq!(lines(&at("x.1.jsonl")), written);
    for kept in ["x.1.npy", "x.1.chunks.jsonl", "heard.1.wav"] {
        assert!(at(kept).exists(), "{kept}");
    }
    served.signal("TERM");
    assert!(served.end().0);
    let closed: ndarray::Array2<f32> = ndarray_npy::read_npy(at("x.npy")).unwrap();
    assert!(closed.nrows() > 0);
}

#[test]
fn a_reload_starts_new_consumers_and_those_whose_file_was_moved() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    common::write_speech(&at("talk.wav"), 60);
    let configure = |consumers: &str| {
        let text =
            format!("input = \"talk.wav\"\nrealtime = true\nring = 30\nmetrics = \"127.0.0.1:0\"\nconsumer = {consumers}\n");
        std::fs::write(at("bellis.toml"), text).unwrap();
    };
    configure("[\"jsonl:a.jsonl\", \"jsonl:b.jsonl\"]");
    let served = Served::start_in(folder.path(), &[], &["--config", "bellis.toml"]);
    within("lines", || lines(&at("a.jsonl")).len() >= 3 && lines(&at("b.jsonl")).len() >= 3);
    // a continues, b is rotated, c is new.
    std::fs::rename(at("b.jsonl"), at("b.old")).unwrap();
    configure("[\"jsonl:a.jsonl\", \"jsonl:b.jsonl\", \"npy:c.npy\"]");
    served.signal("HUP");
    within("lines", || at("b.jsonl").exists() && lines(&at("b.jsonl")).len() >= 3 && at("c.npy").exists());
    // b is removed. Of c, only the lines beside the array are moved, as by a rule for *.jsonl.
    configure("[\"jsonl:a.jsonl\", \"npy:c.npy\"]");
    within("lines", || lines(&at("c.chunks.jsonl")).len() >= 3);
    std::fs::rename(at("c.chunks.jsonl"), at("c.old")).unwrap();
    served.signal("HUP");
    within("the second reload", || served.metric("bellis_reloads_total") == 2.0);
    within("a new array", || at("c.1.npy").exists() && lines(&at("c.chunks.jsonl")).len() >= 3);
    let after = lines(&at("a.jsonl")).len();
    within("lines", || lines(&at("a.jsonl")).len() >= after + 3);
    assert_eq!(served.metric("bellis_samples_dropped_total"), 0.0);
    served.signal("TERM");
    assert!(served.end().0);
    let (a, old, b) = (lines(&at("a.jsonl")), lines(&at("b.old")), lines(&at("b.jsonl")));
    assert_eq!(contiguous(&a), 0);
    let chunks = |lines: &[serde_json::Value]| lines.iter().map(|line| number(line, "chunk")).collect::<Vec<_>>();
    let both = [chunks(&old), chunks(&b)].concat();
    assert_eq!(both, (0..both.len() as u64).collect::<Vec<_>>(), "a chunk is missing between the two files");
    assert!(both.len() < a.len());
}

#[test]
fn a_second_daemon_that_cannot_start_leaves_the_files_of_the_first_alone() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    common::write_speech(&at("talk.wav"), 60);
    let arguments = ["talk.wav", "--realtime", "--ring", "30", "--consumer", "jsonl:out.jsonl"];
    let served = Served::start_in(folder.path(), &[], &arguments);
    within("lines", || lines(&at("out.jsonl")).len() >= 2);
    let address = served.address().to_string();
    let second = |command: &str, metrics: &[&str]| {
        let mut second = std::process::Command::new(env!("CARGO_BIN_EXE_bellis"));
        let pack = common::repository("models/daisy-tiny");
        second.arg(command).args(arguments).args(metrics).arg("--pack").arg(pack).current_dir(folder.path());
        let output = second.output().unwrap();
        (output.status.success(), String::from_utf8(output.stderr).unwrap())
    };
    let (success, text) = second("serve", &["--metrics", &address]);
    assert!(!success && text.contains("does another daemon run?"), "{text}");
    for (command, metrics) in [("serve", &["--metrics", "off"][..]), ("run", &[])] {
        let (success, text) = second(command, metrics);
        assert!(!success && text.contains("out.jsonl: another run of bellis writes this file"), "{text}");
    }
    assert!(!at("out.1.jsonl").exists() && lines(&at("out.jsonl")).len() >= 2);
    served.signal("TERM");
    assert!(served.end().0);
}

#[test]
fn a_daemon_whose_only_reader_leaves_fails_so_that_it_is_restarted() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    common::write_speech(&at("talk.wav"), 60);
    let listener = std::os::unix::net::UnixListener::bind(at("s")).unwrap();
    let arguments = ["talk.wav", "--realtime", "--ring", "30", "--consumer", "stream:unix:s"];
    let served = Served::start_in(folder.path(), &[], &arguments);
    listener.set_nonblocking(true).unwrap();
    let mut reader = None;
    within("the connection", || {
        reader = listener.accept().ok();
        reader.is_some()
    });
    let (mut reader, _) = reader.unwrap();
    reader.set_nonblocking(false).unwrap();
    reader.set_read_timeout(Some(std::time::Duration::from_secs(60))).unwrap();
    std::io::Read::read_exact(&mut reader, &mut [0; 64]).unwrap();
    drop(reader);
    let (success, log) = served.end();
    assert!(!success && log.contains("no consumer is left"), "{log}");
}

#[test]
fn a_reload_rejects_what_a_restart_would() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    common::write_speech(&at("talk.wav"), 60);
    let configure = |more: &str| {
        let text = "input = \"talk.wav\"\nrealtime = true\nring = 30\nmetrics = \"127.0.0.1:0\"\nconsumer = [\"null\"]\n";
        std::fs::write(at("bellis.toml"), format!("{text}{more}\n")).unwrap();
    };
    configure("");
    let served = Served::start_in(folder.path(), &[], &["--config", "bellis.toml"]);
    within("chunks", || served.metric("bellis_chunks_total") >= 1.0);
    let wrong = ["chunk = 100", "priority = 99", "channel = 0", "wyoming = \"garbage\"", "wyoming-connections = 0"];
    for (count, wrong) in (1..).zip(wrong) {
        configure(wrong);
        served.signal("HUP");
        within(wrong, || served.metric("bellis_reloads_rejected_total") == f64::from(count));
    }
    assert_eq!(served.metric("bellis_reloads_total"), 0.0);
    served.signal("TERM");
    assert!(served.end().0);
}

#[test]
fn a_reload_reports_keys_that_require_a_restart_and_applies_the_others() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    common::write_speech(&at("talk.wav"), 60);
    let configure = |more: &str| {
        let text = format!(
            "input = \"talk.wav\"\nrealtime = true\nring = 30\nmetrics = \"127.0.0.1:0\"\nconsumer = [\"null\"]\n\
             policy = \"fixed\"\n{more}"
        );
        std::fs::write(at("bellis.toml"), text).unwrap();
    };
    configure("layer = 3\nprecision = \"f32\"\n");
    let served = Served::start_in(folder.path(), &[], &["--config", "bellis.toml"]);
    within("chunks", || served.metric("bellis_exits_total{layer=\"3\"}") >= 1.0);
    for (reloads, keys, said) in [
        (1.0, "precision = \"int8\"", "changes to precision require a restart"),
        (2.0, "precision = \"int8\"\nthreads = 2", "changes to precision, threads require a restart"),
        (3.0, "precision = \"f32\"\nthreads = 3", "changes to threads require a restart"),
    ] {
        configure(&format!("layer = 5\n{keys}\n"));
        served.signal("HUP");
        within("a reload", || served.metric("bellis_reloads_total") == reloads);
        within(said, || served.log().lines().any(|line| line.contains(&format!(" {said}"))));
    }
    within("chunks of the new layer", || served.metric("bellis_exits_total{layer=\"5\"}") >= 1.0);
    served.signal("TERM");
    let (success, log) = served.end();
    assert!(success && !log.contains("panicked"), "{log}");
}

/// A hundred losses on the real audio path: a sound server removes its microphone and restores it.
#[test]
#[ignore = "takes minutes; `cargo test --release --test serve -- --ignored a_hundred_real_losses`"]
fn a_hundred_real_losses_leak_nothing() {
    let Some(pulse) = Pulse::start() else { return };
    let served =
        Served::start(&pulse.environment(), &["mic", "--rate", "48000", "--channels", "1", "--consumer", "null", "--ring", "30"]);
    served.is("running");
    let usage = || {
        let metrics = served.metrics();
        ["process_threads", "process_open_fds", "process_resident_memory_bytes"].map(|name| metrics[name])
    };
    let (mut early, mut resumed) = ([0.0; 3], Vec::new());
    for losses in 1..=100 {
        pulse.unload_sink();
        served.is("reconnecting");
        pulse.load_sink();
        let loaded = Instant::now();
        served.is("running");
        resumed.push(loaded.elapsed());
        if losses == 10 {
            early = usage();
        }
    }
    let late = usage();
    resumed.sort();
    println!("after 10 losses {early:?}, after 100 {late:?}; audio resumed after {:?}, at most {:?}", resumed[50], resumed[99]);
    assert!(late[0] <= early[0] && late[1] <= early[1] && late[2] < early[2] + 4e6, "{early:?} → {late:?}");
    assert_eq!(served.metric("bellis_source_lost_total"), 100.0);
    conserved(&served);
    served.signal("TERM");
    let (success, log) = served.end();
    assert!(success && log.contains("processed + 0 dropped"), "{log}");
}
