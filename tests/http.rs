//! The daemon's HTTP server with hostile clients: thousands that idle, send slowly, or send garbage.
#![cfg(feature = "serve")]
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;
#[path = "common/served.rs"]
mod served;

use std::io::{BufRead, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use served::Served;

/// Hostile connections, within this process's limit on file descriptors.
const HOSTILE: u64 = 10_000;
/// Upper limit for the server's file descriptors: its 256 connections, and everything else.
const DESCRIPTORS: f64 = 400.0;

/// A daemon that waits for its microphone.
fn idle_daemon(folder: &std::path::Path) -> (Served, SocketAddr) {
    let silent = [("HOME", folder.display().to_string()), ("XDG_RUNTIME_DIR", folder.display().to_string())];
    let served = Served::start(&silent, &["mic", "--device", "no such microphone", "--consumer", "null"]);
    served.is("reconnecting");
    let address = served.address();
    (served, address)
}

/// Sends bytes and returns the response until the server closes the connection.
fn exchange(address: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    // The server may respond and close before it has read everything.
    let _ = stream.write_all(bytes);
    let mut response = Vec::new();
    match stream.read_to_end(&mut response) {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        Err(error) => panic!("{error}"),
    }
    String::from_utf8_lossy(&response).into_owned()
}

#[test]
fn scrapes_succeed_while_thousands_of_hostile_connections_are_open() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard.min(HOSTILE + 1_000), hard).unwrap();
    let (limit, _) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    let count = HOSTILE.min(limit - 200);
    let folder = tempfile::tempdir().unwrap();
    let (served, address) = idle_daemon(folder.path());

    let oversized = format!("GET /metrics HTTP/1.1\r\nX: {}\r\n", "x".repeat(100_000));
    let openings: [&[u8]; 6] = [
        b"",                                                                 // idle
        b"G",                                                                // sends one byte at a time
        b"GET /metrics HTTP/1.1\r\nHost: ",                                  // incomplete
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\xff\xfe\x00\r\n\r\n", // TLS
        b"POST /metrics HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n",    // a body that does not come
        oversized.as_bytes(),
    ];
    let stop = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..4)
        .map(|thread| {
            let (stop, openings) = (stop.clone(), openings.map(<[u8]>::to_vec));
            std::thread::spawn(move || {
                let mut open = Vec::new();
                for number in 0..count / 4 {
                    let Ok(mut stream) = TcpStream::connect(address) else { continue };
                    stream.set_nonblocking(true).unwrap();
                    let _ = stream.write(&openings[(number + thread) as usize % openings.len()]);
                    open.push(stream);
                }
                let opened = open.len();
                // The slow ones continue, and dropped ones come back.
                while !stop.load(Ordering::Relaxed) {
                    for stream in open.iter_mut().step_by(7) {
                        if stream.write(b"x").is_err_and(|error| error.kind() != ErrorKind::WouldBlock)
                            && let Ok(again) = TcpStream::connect(address)
                        {
                            again.set_nonblocking(true).unwrap();
                            *stream = again;
                        }
                    }
                    std::thread::sleep(Duration::from_millis(50));
                }
                opened
            })
        })
        .collect();

    let (mut times, began) = (Vec::new(), Instant::now());
    while times.len() < 200 || began.elapsed() < Duration::from_secs(3) {
        let scrape = Instant::now();
        let metrics = served.metrics();
        times.push(scrape.elapsed());
        assert_eq!(metrics["bellis_state{state=\"reconnecting\"}"], 1.0);
        assert!(metrics["process_open_fds"] < DESCRIPTORS, "{}", metrics["process_open_fds"]);
        assert_eq!(served.get("/healthz").0, 503);
    }
    stop.store(true, Ordering::Relaxed);
    let opened: usize = clients.into_iter().map(|client| client.join().unwrap()).sum();
    assert!(opened as u64 > count / 2, "only {opened} of {count} connections could be opened");
    times.sort();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
    println!(
        "{opened} hostile connections, {} scrapes: median {:?}, p99 {:?}, max {:?}",
        times.len(),
        at(0.5),
        at(0.99),
        at(1.0)
    );
    served.signal("TERM");
    assert!(served.end().0);
}

#[test]
fn malformed_oversized_and_slow_requests_are_answered_or_disconnected() {
    let folder = tempfile::tempdir().unwrap();
    let (served, address) = idle_daemon(folder.path());
    let status = |bytes: &[u8]| exchange(address, bytes).split(' ').nth(1).unwrap_or("closed").to_owned();
    assert_eq!(status(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"), "503");
    assert_eq!(status(b"GET /healthz HTTP/1.0\r\n\r\n"), "503");
    assert_eq!(status(b"GET /none HTTP/1.1\r\nHost: x\r\n\r\n"), "404");
    assert_eq!(status(b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"), "405");
    assert_eq!(status(b"garbage\r\n\r\n"), "400");
    assert_eq!(status(format!("GET /metrics HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(20_000)).as_bytes()), "431");
    let many = (0..100).map(|number| format!("X-{number}: x\r\n")).collect::<String>();
    assert_eq!(status(format!("GET /metrics HTTP/1.1\r\n{many}\r\n").as_bytes()), "431");
    let head = exchange(address, b"HEAD /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(head.contains("content-length: ") && head.ends_with("\r\n\r\n"), "{head}");
    // An idle client and one that never completes its request: disconnected, without a response or with 408.
    for incomplete in [&b""[..], b"GET /metrics HTTP/1.1\r\n"] {
        assert!(["closed", "408"].contains(&status(incomplete).as_str()));
    }
    // Metrics under the names that dashboards expect.
    let metrics = served.metrics();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
    let started = metrics["process_start_time_seconds"];
    assert!(started <= now + 1.0 && started > now - 600.0, "{started}");
    for name in ["resident_memory_bytes", "virtual_memory_bytes", "open_fds", "max_fds", "threads", "cpu_seconds_total"] {
        assert!(metrics[&format!("process_{name}")] > 0.0, "{name}");
    }
    served.signal("TERM");
    assert!(served.end().0);
}

/// Reads events until `found` returns true.
fn events(address: SocketAddr, headers: &str, mut found: impl FnMut(&serde_json::Value) -> bool) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    write!(stream, "GET /events HTTP/1.1\r\n{headers}\r\n").unwrap();
    let mut head = String::new();
    let mut reader = std::io::BufReader::new(stream);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap() == 0 {
            return head;
        }
        match line.strip_prefix("data: ") {
            Some(json) => {
                if found(&serde_json::from_str(json).unwrap_or_else(|error| panic!("{json}: {error}"))) {
                    return head;
                }
            }
            None => head.push_str(&line),
        }
    }
}

#[test]
fn events_describe_every_chunk_while_someone_subscribes() {
    let folder = tempfile::tempdir().unwrap();
    let talk = folder.path().join("talk.wav");
    common::write_speech(&talk, 60);
    let served =
        Served::start(&[], &[talk.to_str().unwrap(), "--realtime", "--ring", "30", "--consumer", "null", "--policy", "gain"]);
    served.is("running");
    let address = served.address();
    let label = "bellis_consumer_delivered_total{consumer=\"events\"}";
    assert!(!served.metrics().contains_key(label));
    let mut seen = Vec::new();
    events(address, "Host: localhost\r\n", |event| {
        seen.push(event.clone());
        let of = |kind: &str| seen.iter().filter(|event| event["event"] == kind).count();
        of("chunk") >= 6 && of("status") >= 3 && of("phone") >= 3
    });
    assert_eq!((&seen[0]["event"], &seen[1]["event"]), (&"stream".into(), &"status".into()));
    assert_eq!(seen[0]["pack"], "daisy-tiny");
    let chunks: Vec<_> = seen.iter().filter(|event| event["event"] == "chunk").collect();
    for pair in chunks.windows(2) {
        assert_eq!(pair[1]["chunk"], pair[0]["chunk"].as_u64().unwrap() + 1);
        assert_eq!(pair[1]["sample"], pair[0]["sample"].as_u64().unwrap() + pair[0]["samples"].as_u64().unwrap());
    }
    for chunk in chunks {
        assert_eq!(chunk["waveform"].as_array().unwrap().len(), 16);
        let (peak, rms) = (chunk["peak"].as_f64().unwrap(), chunk["rms"].as_f64().unwrap());
        assert!((0.0..=1.0).contains(&peak) && rms <= peak + 1e-3, "{chunk}");
        assert!(!chunk["predicted_kl"].as_array().unwrap().is_empty(), "{chunk}");
    }
    let status = seen.iter().rfind(|event| event["event"] == "status").unwrap();
    assert!(status["cpu_percent"].as_f64().unwrap() >= 0.0 && status["state"] == "running", "{status}");

    let metrics = served.metrics();
    dashboard_has_only_metrics_of(&metrics);

    // The stream's consumer leaves with the last subscriber.
    served::within("the last subscriber to leave", || served.metric("bellis_event_subscribers") == 0.0);
    let delivered = served.metric(label);
    let chunks = served.metric("bellis_chunks_total");
    served::within("chunks", || served.metric("bellis_chunks_total") >= chunks + 4.0);
    assert!(served.metric(label) <= delivered + 1.0);
    assert_eq!(served.metric("bellis_samples_dropped_total"), 0.0);
    served.signal("TERM");
    assert!(served.end().0);
}

/// Checks that the metrics in the Grafana dashboard exist.
fn dashboard_has_only_metrics_of(metrics: &std::collections::BTreeMap<String, f64>) {
    let known: std::collections::BTreeSet<&str> = metrics.keys().map(|name| name.split('{').next().unwrap()).collect();
    // Only where the board reports them.
    let of_boards = ["bellis_temperature_celsius", "bellis_cpu_frequency_hertz", "bellis_throttled"];
    let text = std::fs::read_to_string(common::repository("targets/grafana/bellis.json")).unwrap();
    let dashboard: serde_json::Value = serde_json::from_str(&text).unwrap();
    let mut used = 0;
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().into_iter().flatten() {
            let query = target["expr"].as_str().unwrap();
            let words = query.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            for name in words.filter(|word| word.starts_with("bellis_") || word.starts_with("process_")) {
                assert!(known.contains(name) || of_boards.contains(&name), "{name} in {query}");
                used += 1;
            }
        }
    }
    assert!(used > 30, "{used}");
}

#[test]
fn event_streams_are_limited_and_closed_to_other_sites() {
    let folder = tempfile::tempdir().unwrap();
    let (served, address) = idle_daemon(folder.path());
    let response = |headers: &str| events(address, headers, |_| true);
    assert!(response("Host: localhost\r\n").starts_with("HTTP/1.1 200"));
    for headers in ["Host: site.example\r\n", "Host: 127.0.0.1\r\nOrigin: https://site.example\r\n"] {
        assert!(response(headers).starts_with("HTTP/1.1 403"), "{headers}");
    }
    let no_subscribers = || served::within("the subscribers to leave", || served.metric("bellis_event_subscribers") == 0.0);
    no_subscribers();
    let open: Vec<_> = (0..16)
        .map(|_| {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
            stream.write_all(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
            let mut status = [0; 12];
            stream.read_exact(&mut status).unwrap();
            assert_eq!(&status, b"HTTP/1.1 200");
            stream
        })
        .collect();
    assert!(response("Host: localhost\r\n").starts_with("HTTP/1.1 503"));
    // Scrapes are not affected.
    assert_eq!(served.metric("bellis_event_subscribers"), 16.0);
    drop(open);
    no_subscribers();
    assert!(response("Host: localhost\r\n").starts_with("HTTP/1.1 200"));
    served.signal("TERM");
    assert!(served.end().0);
}

#[test]
fn a_removed_keyword_is_not_searched_for_any_more_even_if_it_was_the_last_one() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    common::write_speech(&at("talk.wav"), 60);
    let environment = [("BELLIS_KEYWORDS", at("keywords").display().to_string())];
    let bellis = |arguments: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_bellis"));
        command.args(arguments).current_dir(common::repository("")).envs(environment.clone()).output().unwrap()
    };
    let enroll = || bellis(&["enroll", "lamp", "--say", "turn on the lamp", "--threshold", "0.3"]);
    assert!(enroll().status.success());
    let talk = at("talk.wav").display().to_string();
    let served = Served::start(&environment, &[&talk, "--realtime", "--ring", "30", "--consumer", "keyword"]);
    let changes =
        |count| served::within("a change", || served.log().matches("the changed keywords are in effect").count() == count);
    served::within("chunks", || served.metric("bellis_chunks_total") >= 1.0);
    assert!(bellis(&["keywords", "remove", "lamp"]).status.success());
    changes(1);
    assert!(enroll().status.success());
    changes(2);
    served.signal("TERM");
    let (success, log) = served.end();
    assert!(success && !log.contains("cannot be used"), "{log}");
}

#[test]
fn keywords_are_changed_only_with_the_token_and_from_this_site() {
    const TOKEN: &str = "0123456789abcdef0123456789abcdef";
    let folder = tempfile::tempdir().unwrap();
    let (token, keywords) = (folder.path().join("token"), folder.path().join("keywords"));
    std::fs::write(&token, format!("{TOKEN}\n")).unwrap();
    let home = folder.path().display().to_string();
    let environment = [("HOME", home.clone()), ("XDG_RUNTIME_DIR", home), ("BELLIS_KEYWORDS", keywords.display().to_string())];
    let arguments =
        ["mic", "--device", "no such microphone", "--consumer", "keyword", "--page-token-file", token.to_str().unwrap()];
    let served = Served::start(&environment, &arguments);
    served.is("reconnecting");
    let address = served.address();
    let send = |method: &str, headers: &str, body: &str| {
        let length = body.len();
        let head = format!("{method} /keywords HTTP/1.1\r\n{headers}Content-Length: {length}\r\n\r\n{body}");
        let response = exchange(address, head.as_bytes());
        assert!(!response.to_lowercase().contains("access-control"), "{response}");
        let body = response.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default();
        (response.split(' ').nth(1).unwrap_or("closed").to_owned(), body)
    };
    let good = format!("Host: {address}\r\nAuthorization: Bearer {TOKEN}\r\nContent-Type: application/json\r\n");
    let code = |method: &str, headers: &str, body: &str| send(method, headers, body).0;
    let remove = r#"{"action":"remove","name":"lamp"}"#;

    // Without the token, or with another one, nothing is read or changed.
    for headers in
        ["", "Authorization: Bearer \r\n", "Authorization: Bearer 0123456789abcdef0123456789abcdeF\r\n", "Cookie: token=x\r\n"]
    {
        let headers = format!("Host: {address}\r\nContent-Type: application/json\r\n{headers}");
        for method in ["GET", "POST", "OPTIONS", "DELETE"] {
            assert_eq!(code(method, &headers, remove), "401", "{method} {headers}");
        }
    }
    // Not even with the token from another site, or by a rebound name.
    for headers in ["Origin: https://site.example\r\n", "Origin: null\r\n"] {
        assert_eq!(code("POST", &format!("{good}{headers}"), remove), "403", "{headers}");
    }
    assert_eq!(code("POST", &good.replace(&address.to_string(), "site.example"), remove), "403");
    assert_eq!(code("POST", &good.replace("application/json", "text/plain"), remove), "415");
    // From this one.
    assert_eq!(send("GET", &format!("{good}Origin: http://{address}\r\n"), ""), ("200".into(), r#"{"keywords":[]}"#.into()));
    assert_eq!(code("PUT", &good, remove), "405");
    assert_eq!(code("POST", &good, remove), "404");
    assert_eq!(code("POST", &good, &"x".repeat(5000)), "413");
    for invalid in [
        "",
        "{}",
        r#"{"action":"sing"}"#,
        r#"{"action":"remove","name":"../lamp"}"#,
        r#"{"action":"enroll","name":"lamp"}"#,
        r#"{"action":"enroll","name":"a/b","say":"lamp"}"#,
        r#"{"action":"enroll","name":"lamp","takes":17}"#,
        r#"{"action":"enroll","name":"lamp","say":"lamp","sensitivity":2}"#,
        r#"{"action":"enroll","name":"lamp","say":"lamp","folder":"/"}"#,
    ] {
        let (code, body) = send("POST", &good, invalid);
        assert!(code == "400" && body.contains("error"), "{invalid}: {code} {body}");
    }

    // One enrolment at a time, which can be cancelled.
    let enroll = r#"{"action":"enroll","name":"lamp","takes":2}"#;
    let mut stages = Vec::new();
    let mut sent = false;
    events(address, &format!("Host: {address}\r\n"), |event| {
        if !std::mem::replace(&mut sent, true) {
            assert_eq!(event["enrolment"], true, "{event}");
            assert_eq!(code("POST", &good, enroll), "200");
            assert_eq!(code("POST", &good, enroll), "409");
            assert_eq!(code("POST", &good, r#"{"action":"cancel"}"#), "200");
        }
        if event["event"] == "enrolment" {
            stages.push((event["stage"].as_str().unwrap().to_owned(), event["message"].as_str().unwrap_or_default().to_owned()));
        }
        stages.last().is_some_and(|(stage, _)| stage == "failed")
    });
    assert!(stages[0].0 == "recording" && stages.last().unwrap().1.contains("cancelled"), "{stages:?}");
    assert!(!keywords.exists());
    served.signal("TERM");
    assert!(served.end().0);

    // Without a token in the configuration there is nothing.
    let (served, address) = idle_daemon(folder.path());
    let response = exchange(address, format!("GET /keywords HTTP/1.1\r\n{good}\r\n").as_bytes());
    assert!(response.starts_with("HTTP/1.1 404"), "{response}");
    served.signal("TERM");
    assert!(served.end().0);
    // A token that is easy to guess is refused.
    std::fs::write(&token, "secret").unwrap();
    let served = Served::start(&environment, &arguments);
    let (success, log) = served.end();
    assert!(!success && log.contains("openssl rand"), "{log}");
}
