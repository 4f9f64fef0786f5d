//! Sources and workers as processes on the loopback interface: killed, frozen, replaced, sent noise, behind mutual TLS.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;
#[path = "common/served.rs"]
mod served;

use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use common::repository;
use served::{Served, within};
use zenoh::Wait;

const BELLIS: &str = env!("CARGO_BIN_EXE_bellis");

/// A process that is killed at the end of its test.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Process {
    fn signal(&self, name: &str) {
        assert!(Command::new("kill").args([name, &self.0.id().to_string()]).status().unwrap().success());
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A worker that has begun to listen.
fn worker(port: u16, name: &str, more: &[&str]) -> Process {
    let listen = format!("tcp/127.0.0.1:{port}");
    start_worker(&[&["--listen", &listen, "--name", name], more].concat())
}

fn start_worker(arguments: &[&str]) -> Process {
    let mut child = Command::new(BELLIS).arg("worker").args(arguments).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    lines.read_line(&mut line).unwrap();
    assert!(line.starts_with("worker "), "{line}");
    // Whoever writes must find a reader.
    std::thread::spawn(move || std::io::copy(&mut lines, &mut std::io::sink()));
    Process(child)
}

/// What a source printed and counted.
struct Run {
    summary: String,
    report: serde_json::Value,
    chunks: Vec<serde_json::Value>,
}

struct Source {
    child: Process,
    report: PathBuf,
    _folder: tempfile::TempDir,
}

fn source(arguments: &[&str], input: &Path) -> Source {
    let folder = tempfile::tempdir().unwrap();
    let report = folder.path().join("report.json");
    let lines = format!("jsonl:{}", folder.path().join("lines").display());
    let mut command = Command::new(BELLIS);
    command.arg("run").arg(input).args(arguments).args(["--consumer", &lines, "--report"]).arg(&report);
    let child = Process(command.stderr(Stdio::piped()).spawn().unwrap());
    Source { child, report, _folder: folder }
}

impl Source {
    /// Waits for so many chunks.
    fn has_written(&self, chunks: usize) {
        let lines = self.report.with_file_name("lines");
        within("chunks", || std::fs::read_to_string(&lines).is_ok_and(|text| text.lines().count() >= chunks));
    }

    fn finish(mut self) -> Run {
        let mut summary = String::new();
        self.child.0.stderr.take().unwrap().read_to_string(&mut summary).unwrap();
        assert!(self.child.0.wait().unwrap().success(), "{summary}");
        let report = serde_json::from_str(&std::fs::read_to_string(&self.report).unwrap()).unwrap();
        let lines = std::fs::read_to_string(self.report.with_file_name("lines")).unwrap();
        Run { summary, report, chunks: lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect() }
    }
}

impl Run {
    /// Numbers of one neighbour's line: sent, returned, late, refused.
    fn counts(&self, name: &str) -> [u64; 4] {
        let start = format!("  neighbour {name}: ");
        let line = self.summary.lines().find_map(|line| line.strip_prefix(&start)).unwrap_or_else(|| panic!("{}", self.summary));
        let numbers: Vec<u64> = line.split([' ', ';']).filter_map(|word| word.parse().ok()).collect();
        numbers[..4].try_into().unwrap()
    }

    /// All samples were processed, and every chunk came out in order.
    fn is_complete(&self) {
        let samples = &self.report["samples"];
        assert_eq!(samples["captured"], samples["processed"], "{}", self.summary);
        assert_eq!(samples["dropped"], 0, "{}", self.summary);
        let mut next = 0;
        for (index, chunk) in self.chunks.iter().enumerate() {
            assert_eq!(chunk["chunk"], index);
            assert_eq!(chunk["sample"], next);
            next += chunk["samples"].as_u64().unwrap();
        }
        assert_eq!(self.report["chunks"], self.chunks.len());
    }
}

fn sample() -> PathBuf {
    repository("models/sample.wav")
}

/// Writes `seconds` of speech.
fn recording(folder: &Path, seconds: usize) -> PathBuf {
    let path = folder.join("speech.wav");
    let spec = hound::WavSpec { channels: 1, sample_rate: 16_000, bits_per_sample: 16, sample_format: hound::SampleFormat::Int };
    let mut writer = hound::WavWriter::create(&path, spec).unwrap();
    for sample in common::speech().iter().cycle().take(seconds * 16_000) {
        writer.write_sample((sample * 32_767.0) as i16).unwrap();
    }
    writer.finalize().unwrap();
    path
}

/// The lines of docs/neighbours.md: two workers and a source.
#[test]
fn two_workers_share_the_layers_of_a_source() {
    let ports = [free_port(), free_port()];
    let _workers = [worker(ports[0], "kitchen", &[]), worker(ports[1], "hall", &["--layers", "5..10"])];
    let endpoints = ports.map(|port| format!("tcp/127.0.0.1:{port}"));
    let network = ["--connect", &endpoints[0], "--connect", &endpoints[1]];
    let run = source(&[&network[..], &["--neighbours", "always", "--policy", "never"]].concat(), &sample()).finish();
    run.is_complete();
    let [sent, returned, late, refused] = run.counts("kitchen");
    assert!(sent > 0 && sent == returned && late == 0 && refused == 0, "{}", run.summary);
    assert_eq!(run.report["mean_exit_layer"], 10.0, "{}", run.summary);
    assert!(run.summary.contains("on neighbours"), "{}", run.summary);
    // The same exits and nearly the same units as alone.
    let alone = source(&["--policy", "gain", "--with-units"], &sample()).finish();
    let shared =
        source(&[&network[..], &["--neighbours", "always", "--policy", "gain", "--with-units"]].concat(), &sample()).finish();
    assert_eq!(shared.chunks.len(), alone.chunks.len());
    let both = || alone.chunks.iter().zip(&shared.chunks);
    let layers = both().filter(|(a, b)| a["layer"] == b["layer"]).count();
    assert!(layers * 10 >= alone.chunks.len() * 9, "{layers} of {} exits are the same", alone.chunks.len());
    let units = |chunk: &serde_json::Value| chunk["units"].as_array().unwrap().clone();
    let pairs: Vec<_> = both().flat_map(|(a, b)| units(a).into_iter().zip(units(b))).collect();
    let same = pairs.iter().filter(|(a, b)| a == b).count();
    assert!(!pairs.is_empty() && same * 10 >= pairs.len() * 9, "{same} of {} units are the same", pairs.len());
}

/// A source without backlog keeps its chunks, and one that must not use neighbours opens no connection.
#[test]
fn neighbours_are_left_alone_where_they_do_not_help() {
    let folder = tempfile::tempdir().unwrap();
    let port = free_port();
    let _worker = worker(port, "idle", &[]);
    let endpoint = format!("tcp/127.0.0.1:{port}");
    let input = recording(folder.path(), 4);
    let run = source(&["--connect", &endpoint, "--neighbours", "auto", "--realtime"], &input).finish();
    run.is_complete();
    assert_eq!(run.counts("idle")[0], 0, "{}", run.summary);
    let never = source(&["--connect", &endpoint, "--neighbours", "never"], &input).finish();
    never.is_complete();
    assert!(!never.summary.contains("neighbour"), "{}", never.summary);
}

/// Sockets that a process listens on or has bound, TCP and UDP.
fn bound(process: u32) -> Vec<String> {
    let descriptors = std::fs::read_dir(format!("/proc/{process}/fd")).unwrap().flatten();
    let sockets: Vec<String> = descriptors
        .filter_map(|entry| {
            std::fs::read_link(entry.path()).ok()?.to_str()?.strip_prefix("socket:[")?.strip_suffix(']').map(str::to_owned)
        })
        .collect();
    let mut found = Vec::new();
    for table in ["tcp", "tcp6", "udp", "udp6"] {
        for line in std::fs::read_to_string(format!("/proc/net/{table}")).unwrap_or_default().lines().skip(1) {
            let fields: Vec<&str> = line.split_whitespace().collect();
            // State 0A is LISTEN; UDP has no states.
            if sockets.iter().any(|socket| socket == fields[9]) && (fields[3] == "0A" || table.starts_with("udp")) {
                found.push(format!("{table} {}", fields[1]));
            }
        }
    }
    found
}

#[test]
fn nothing_listens_that_was_not_configured() {
    let folder = tempfile::tempdir().unwrap();
    let port = free_port();
    let worker = worker(port, "only", &[]);
    let endpoint = format!("tcp/127.0.0.1:{port}");
    let source = source(&["--connect", &endpoint, "--realtime"], &recording(folder.path(), 4));
    source.has_written(3);
    assert_eq!(bound(source.child.0.id()), Vec::<String>::new());
    assert_eq!(bound(worker.0.id()), [format!("tcp 0100007F:{port:04X}")]);
    source.finish().is_complete();
    let refused = Command::new(BELLIS).arg("worker").output().unwrap();
    assert!(String::from_utf8_lossy(&refused.stderr).contains("needs --listen or --connect"), "{refused:?}");
}

/// A neighbour that is killed, frozen, continued, and replaced by one with another pack costs depth at most.
#[test]
fn a_neighbour_may_die_freeze_and_change_its_pack() {
    let folder = tempfile::tempdir().unwrap();
    let port = free_port();
    let endpoint = format!("tcp/127.0.0.1:{port}");
    let first = worker(port, "shaky", &[]);
    let flags = ["--connect", &endpoint, "--neighbours", "always", "--policy", "never", "--deadline", "250", "--realtime"];
    let source = source(&flags, &recording(folder.path(), 24));
    let pause = |seconds| std::thread::sleep(Duration::from_secs(seconds));
    pause(4);
    first.signal("-STOP");
    pause(3);
    first.signal("-CONT");
    pause(4);
    first.signal("-KILL");
    drop(first);
    pause(2);
    let other = worker(port, "shaky", &["--pack", "daisy-nano"]);
    pause(3);
    drop(other);
    let _same = worker(port, "shaky", &[]);
    let run = source.finish();
    run.is_complete();
    let [sent, returned, late, refused] = run.counts("shaky");
    assert_eq!(sent, returned + late + refused);
    assert!(returned > 10 && late + refused > 0, "{}", run.summary);
}

/// A foreign Zenoh client sees tokens and states; its noise is refused, and the worker goes on.
#[test]
fn other_clients_see_workers_and_cannot_harm_them() {
    let port = free_port();
    let worker = worker(port, "public", &[]);
    let mut config = zenoh::Config::default();
    for (key, value) in [
        ("connect/endpoints", format!("[\"tcp/127.0.0.1:{port}\"]")),
        ("listen/endpoints", "[]".into()),
        ("scouting/multicast/enabled", "false".into()),
    ] {
        config.insert_json5(key, &value).unwrap();
    }
    let session = zenoh::open(config).wait().unwrap();
    let states = session.declare_subscriber("bellis/1/worker/*/state").wait().unwrap();
    let state = states.recv_timeout(Duration::from_secs(5)).unwrap().expect("a state within five seconds");
    let state: serde_json::Value = serde_json::from_slice(&state.payload().to_bytes()).unwrap();
    assert_eq!((&state["name"], &state["input"]), (&"daisy-tiny".into(), &0.into()));
    // It can also be queried, which sources do when a worker appears.
    let replies = session.get("bellis/1/worker/*/state").timeout(Duration::from_secs(5)).wait().unwrap();
    let queried = replies.recv().unwrap().into_result().unwrap();
    let queried: serde_json::Value = serde_json::from_slice(&queried.payload().to_bytes()).unwrap();
    assert_eq!((&queried["pack"], &queried["layers"]), (&state["pack"], &state["layers"]));
    let tokens = session.liveliness().get("bellis/1/worker/*").wait().unwrap();
    let token = tokens.recv().unwrap();
    assert_eq!(token.result().unwrap().key_expr().as_str(), "bellis/1/worker/public");
    let ask = |message: Vec<u8>| {
        let replies = session.get("bellis/1/worker/public/task").payload(message).timeout(Duration::from_secs(5)).wait().unwrap();
        replies.recv().ok()?.into_result().ok().map(|sample| sample.payload().to_bytes().len())
    };
    for noise in
        [Vec::new(), b"noise".to_vec(), b"BNT\x02".to_vec(), [&b"BNT\x02"[..], &[0xff; 4_000]].concat(), vec![7; 1 << 20]]
    {
        let answer = ask(noise);
        assert!(answer.is_some_and(|bytes| bytes < 64), "{answer:?}");
    }
    // One that is larger than a message may be gets no answer, and does no harm.
    assert_eq!(ask(vec![7; 5 << 20]), None);
    // A false state is ignored by sources.
    session.put("bellis/1/worker/fake/state", "x".repeat(10_000)).wait().unwrap();
    let endpoint = format!("tcp/127.0.0.1:{port}");
    let run = source(&["--connect", &endpoint, "--neighbours", "always", "--policy", "never"], &sample()).finish();
    run.is_complete();
    assert!(run.counts("public")[1] > 0, "{}", run.summary);
    drop(worker);
}

/// Certificates of an authority, and of a machine called localhost.
fn certificates(folder: &Path) -> [String; 3] {
    let run = |arguments: &[&str]| {
        let done =
            Command::new("openssl").args(arguments).current_dir(folder).output().expect("openssl (Debian package openssl)");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    };
    std::fs::create_dir_all(folder).unwrap();
    std::fs::write(folder.join("names"), "subjectAltName=DNS:localhost\n").unwrap();
    let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
    run(&[&["req", "-x509", "-days", "2", "-subj", "/CN=authority", "-keyout", "ca.key", "-out", "ca.pem"][..], &key].concat());
    run(&[&["req", "-subj", "/CN=localhost", "-keyout", "node.key", "-out", "node.csr"][..], &key].concat());
    run(&[
        "x509",
        "-req",
        "-days",
        "2",
        "-in",
        "node.csr",
        "-CA",
        "ca.pem",
        "-CAkey",
        "ca.key",
        "-CAcreateserial",
        "-extfile",
        "names",
        "-out",
        "node.pem",
    ]);
    ["ca.pem", "node.pem", "node.key"].map(|name| folder.join(name).display().to_string())
}

fn tls(certificates: &[String; 3]) -> [&str; 6] {
    let [ca, certificate, key] = certificates;
    ["--tls-ca", ca, "--tls-cert", certificate, "--tls-key", key]
}

#[test]
fn mutual_tls_admits_only_nodes_of_the_same_authority() {
    let folder = tempfile::tempdir().unwrap();
    let (own, foreign) = (certificates(&folder.path().join("own")), certificates(&folder.path().join("foreign")));
    let endpoint = format!("tls/localhost:{}", free_port());
    let _worker = start_worker(&[&["--listen", &endpoint, "--name", "safe"][..], &tls(&own)].concat());
    let flags = ["--connect", &endpoint, "--neighbours", "always", "--policy", "never"];
    let run = source(&[&flags[..], &tls(&own)].concat(), &sample()).finish();
    run.is_complete();
    assert!(run.counts("safe")[1] > 0, "{}", run.summary);
    let run = source(&[&flags[..], &tls(&foreign)].concat(), &sample()).finish();
    run.is_complete();
    assert!(run.summary.contains("neighbour none was found"), "{}", run.summary);
    let without = Command::new(BELLIS).arg("run").arg(sample()).args(flags).output().unwrap();
    assert!(String::from_utf8_lossy(&without.stderr).contains("need --tls-ca"), "{without:?}");
}

/// A source does not wait for ever for an endpoint that nothing answers at, and loses no audio.
#[test]
fn a_neighbour_that_is_not_there_costs_nothing() {
    let endpoint = format!("tcp/127.0.0.1:{}", free_port());
    let run = source(&["--connect", &endpoint, "--neighbours", "always"], &sample()).finish();
    run.is_complete();
    assert!(run.summary.contains("neighbour none was found"), "{}", run.summary);
}

/// The configuration of a daemon that plays `input` in real time.
fn configure(folder: &Path, name: &str, input: &Path, more: &str) -> String {
    let path = folder.join(name).with_extension("toml");
    let text = format!(
        "input = \"{}\"\nrealtime = true\nring = 30\nmetrics = \"127.0.0.1:0\"\npolicy = \"never\"\nconsumer = [\"null\"]\n{more}",
        input.display()
    );
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

/// Two daemons, each a source and a worker, over one connection; modes and endpoints change on reload.
#[test]
fn daemons_compute_for_each_other_and_reload_their_neighbours() {
    let folder = tempfile::tempdir().unwrap();
    let input = recording(folder.path(), 300);
    let endpoint = format!("tcp/127.0.0.1:{}", free_port());
    let hall = format!("[neighbours]\nmode = \"always\"\nlisten = [\"{endpoint}\"]\nworker = true\nname = \"hall\"\n");
    let hall = Served::start(&[], &["--config", &configure(folder.path(), "hall", &input, &hall)]);
    let desk = |mode: &str| {
        let table = format!("[neighbours]\nmode = \"{mode}\"\nconnect = [\"{endpoint}\"]\nworker = true\nname = \"desk\"\n");
        configure(folder.path(), "desk", &input, &table)
    };
    let config = desk("always");
    let served = Served::start(&[], &["--config", &config]);
    let of = |served: &Served, metric: &str, neighbour: &str| {
        served.metrics().get(&format!("bellis_neighbour_{metric}{{neighbour=\"{neighbour}\"}}")).copied().unwrap_or(0.0)
    };
    within("chunks that return to both", || {
        of(&served, "returned_total", "hall") > 5.0 && of(&hall, "returned_total", "desk") > 5.0
    });
    for (one, other) in [(&served, "hall"), (&hall, "desk")] {
        assert!(one.metric("bellis_worker_computed_total") > 3.0);
        assert!(of(one, "layers_total", other) >= 9.0 * 5.0);
        assert!(of(one, "sent_bytes_total", other) > 1_000.0 && of(one, "compute_seconds", other) > 0.0);
        // Nobody is a neighbour of itself.
        assert_eq!(one.metrics().keys().filter(|key| key.starts_with("bellis_neighbour_sent_total")).count(), 1);
    }
    let reload = |expected: f64| {
        served.signal("HUP");
        within("the reload", || served.metric("bellis_reloads_total") == expected);
    };
    // It still computes for the other one.
    desk("never");
    reload(1.0);
    within("the last chunk", || of(&served, "in_flight_chunks", "hall") == 0.0);
    let (sent, computed) = (of(&served, "sent_total", "hall"), served.metric("bellis_worker_computed_total"));
    within("chunks for the other", || served.metric("bellis_worker_computed_total") > computed + 3.0);
    assert_eq!(of(&served, "sent_total", "hall"), sent);
    // Without the table, it leaves.
    configure(folder.path(), "desk", &input, "");
    reload(2.0);
    within("the departure", || of(&hall, "present", "desk") == 0.0 && of(&served, "present", "hall") == 0.0);
    // A table that is not valid changes nothing.
    desk("sometimes");
    served.signal("HUP");
    within("the rejection", || served.metric("bellis_reloads_rejected_total") == 1.0);
    desk("always");
    reload(3.0);
    within("chunks after the return", || of(&served, "returned_total", "hall") > sent + 5.0);
    within("the other's return", || of(&hall, "present", "desk") == 1.0);
    for one in [&served, &hall] {
        assert_eq!(one.metric("bellis_samples_dropped_total"), 0.0);
    }
    served.hears("STATUS=running");
    served.signal("TERM");
    let (success, log) = served.end();
    assert!(success, "{log}");
    assert!(log.contains(" on neighbours (one layer of one chunk each)") && log.contains("  neighbour hall: "), "{log}");
}

/// Audio that waits raises the thresholds of a live stream; chunks then exit earlier, and the thresholds return.
#[test]
fn thresholds_of_live_audio_follow_its_queue() {
    let folder = tempfile::tempdir().unwrap();
    let endpoint = format!("tcp/127.0.0.1:{}", free_port());
    let flags = ["--listen", &endpoint, "--policy", "gain", "--realtime", "--ring", "10"];
    let stopped = |more: &[&str]| {
        let source = source(&[&flags[..], more].concat(), &recording(folder.path(), 16));
        source.has_written(10);
        // The audio of three seconds waits behind a process that does not run.
        source.child.signal("-STOP");
        std::thread::sleep(Duration::from_secs(3));
        source.child.signal("-CONT");
        let run = source.finish();
        run.is_complete();
        run
    };
    let (adapts, fixed) = (stopped(&[]), stopped(&["--adapt", "1"]));
    let number = |run: &Run| {
        let line = run.summary.lines().find_map(|line| line.strip_prefix("  adapted   "));
        line.map_or(0, |line| line.split(' ').next().unwrap().parse::<usize>().unwrap())
    };
    assert_eq!(number(&fixed), 0, "{}", fixed.summary);
    assert!((2..30).contains(&number(&adapts)), "{}", adapts.summary);
    let layers = |run: &Run| run.chunks.iter().map(|chunk| chunk["layer"].as_u64().unwrap()).collect::<Vec<_>>();
    let pairs: Vec<(u64, u64)> = layers(&adapts).into_iter().zip(layers(&fixed)).collect();
    assert!(pairs.iter().any(|(adapted, fixed)| adapted < fixed) && pairs.last().is_some_and(|(a, b)| a == b), "{pairs:?}");
}
