//! `bellis serve` as a child process, with a notify socket and an HTTP client.
// Each test program uses a part of it.
#![allow(dead_code)]

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Time limit of every wait. Long, because the machine may be loaded.
const PATIENCE: Duration = Duration::from_secs(90);

pub struct Served {
    child: Child,
    heard: Arc<Mutex<Vec<String>>>,
    log: Arc<Mutex<String>>,
    reader: Option<std::thread::JoinHandle<()>>,
    _folder: tempfile::TempDir,
}

impl Served {
    /// Starts it in the repository's folder.
    pub fn start(environment: &[(&str, String)], arguments: &[impl AsRef<OsStr>]) -> Self {
        Self::start_in(&super::common::repository(""), environment, arguments)
    }

    pub fn start_in(place: &Path, environment: &[(&str, String)], arguments: &[impl AsRef<OsStr>]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_bellis"));
        command.arg("serve");
        if !arguments.iter().any(|flag| ["--config", "--metrics"].iter().any(|own| flag.as_ref() == *own)) {
            command.args(["--metrics", "127.0.0.1:0"]);
        }
        let mut child = command
            .args(arguments)
            .current_dir(place)
            .env_remove("RUST_LOG")
            .env_remove("JOURNAL_STREAM")
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .env("NOTIFY_SOCKET", &path)
            .env("WATCHDOG_USEC", "2000000")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = Arc::<Mutex<String>>::default();
        let (stderr, to) = (child.stderr.take().unwrap(), log.clone());
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                to.lock().unwrap().push_str(&(line + "\n"));
            }
        });
        // Read all the time, as systemd does: a sender to a full socket waits.
        let heard = Arc::<Mutex<Vec<String>>>::default();
        let (ended, to) = (log.clone(), heard.clone());
        socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while Arc::strong_count(&ended) > 1 {
                if let Ok(length) = socket.recv(&mut buffer) {
                    to.lock().unwrap().extend(String::from_utf8_lossy(&buffer[..length]).lines().map(str::to_owned));
                }
            }
        });
        Self { child, heard, log, reader: Some(reader), _folder: folder }
    }

    /// The log so far.
    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Waits for a notify message with this beginning, after those that earlier calls returned for.
    #[track_caller]
    pub fn hears(&self, beginning: &str) {
        let until = Instant::now() + PATIENCE;
        loop {
            let mut heard = self.heard.lock().unwrap();
            if let Some(at) = heard.iter().position(|line| line.starts_with(beginning)) {
                heard.drain(..=at);
                return;
            }
            assert!(Instant::now() < until, "no message {beginning}: {heard:?}\n{}", self.log());
            drop(heard);
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Address of the HTTP server.
    #[track_caller]
    pub fn address(&self) -> SocketAddr {
        let mut address = None;
        within("the address of the HTTP server", || {
            address = self.log().split_once("http://").map(|(_, rest)| rest.split('/').next().unwrap().parse().unwrap());
            address.is_some()
        });
        address.unwrap()
    }

    /// Sends a GET request; returns the status code and the body.
    #[track_caller]
    pub fn get(&self, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.address()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        // In two packets, as slow clients do.
        write!(stream, "GET {path} HTTP/1.1\r\nHo").unwrap();
        write!(stream, "st: bellis\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    /// All metrics, by name and labels as written.
    #[track_caller]
    pub fn metrics(&self) -> BTreeMap<String, f64> {
        let (code, text) = self.get("/metrics");
        assert_eq!(code, 200, "{text}");
        let mut metrics = BTreeMap::new();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let (name, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no metric: {line}"));
            let value = value.parse().unwrap_or_else(|_| panic!("no number: {line}"));
            assert!(metrics.insert(name.to_owned(), value).is_none(), "twice: {line}");
        }
        metrics
    }

    #[track_caller]
    pub fn metric(&self, name: &str) -> f64 {
        let metrics = self.metrics();
        *metrics.get(name).unwrap_or_else(|| panic!("{name} is missing: {:?}", metrics.keys()))
    }

    /// Waits until the daemon is in a state.
    #[track_caller]
    pub fn is(&self, state: &str) {
        let name = format!("bellis_state{{state=\"{state}\"}}");
        let until = Instant::now() + PATIENCE;
        while self.metric(&name) != 1.0 {
            assert!(Instant::now() < until, "the state is not {state}: {}", self.log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status().unwrap();
        assert!(status.success());
    }

    /// The real-time priorities of the threads of this name; 0 is none.
    pub fn real_time_priorities(&self, thread: &str) -> Vec<u32> {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap();
        let stats = tasks.filter_map(|task| std::fs::read_to_string(task.unwrap().path().join("stat")).ok());
        // The name is in parentheses; the priority is the field 40, and the name the second.
        stats
            .filter_map(|text| {
                let (start, fields) = text.rsplit_once(')')?;
                let named = start.split_once('(')?.1 == thread;
                named.then(|| fields.split_whitespace().nth(37)?.parse().ok())?
            })
            .collect()
    }

    /// Waits for the process to end. Returns whether it succeeded, and the log.
    #[track_caller]
    pub fn end(mut self) -> (bool, String) {
        let until = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < until, "the process does not end: {}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        };
        self.reader.take().unwrap().join().unwrap();
        (status.success(), self.log())
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until a condition holds.
#[track_caller]
pub fn within(what: &str, mut condition: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < until, "timeout while waiting for {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The complete lines of a JSON lines file; empty if there is no file.
pub fn lines(path: &Path) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"))).collect()
}

pub fn number(line: &serde_json::Value, key: &str) -> u64 {
    line[key].as_u64().unwrap_or(0)
}
