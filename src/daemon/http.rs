//! The metrics over HTTP: `GET /metrics` and `GET /healthz`, nothing else. One thread, one request at a time, every step bounded:
//! it is asked every few seconds, by one or two programs of the same machine.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::metrics::Metrics;
use super::status::Status;

/// A request's head has at most this many bytes.
const HEAD_LIMIT: usize = 8 << 10;
const HEADERS: usize = 32;
/// How long one client may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// A server that runs until it is dropped.
#[derive(Debug)]
pub struct MetricsServer {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
}

impl MetricsServer {
    /// Listens on `address`; port 0 takes any.
    pub fn start(address: SocketAddr, status: Arc<Status>) -> std::io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        let address = listener.local_addr()?;
        if !address.ip().is_loopback() {
            log::warn!("metrics are open to the network on {address}, to anyone, unencrypted");
        }
        let stop = Arc::<AtomicBool>::default();
        let (stopped, metrics) = (stop.clone(), Metrics::new(status.clone()));
        let serve = move || {
            for client in listener.incoming() {
                if stopped.load(Ordering::Acquire) {
                    return;
                }
                match client.and_then(|client| answer(client, &metrics, &status)) {
                    Ok(()) => {}
                    // Out of descriptors, say: asking again at once would only spin.
                    Err(error) if !matches!(error.kind(), ErrorKind::TimedOut | ErrorKind::WouldBlock) => {
                        log::debug!("metrics: {error}");
                        std::thread::sleep(Duration::from_millis(10));
                    }
                    Err(error) => log::debug!("metrics: {error}"),
                }
            }
        };
        std::thread::Builder::new().name("metrics".into()).spawn(serve)?;
        Ok(Self { address, stop })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for MetricsServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        // Wakes the thread, which then sees that it is over.
        let _ = TcpStream::connect_timeout(&self.address, PATIENCE);
    }
}

fn answer(mut client: TcpStream, metrics: &Metrics, status: &Status) -> std::io::Result<()> {
    let until = Instant::now() + PATIENCE;
    client.set_write_timeout(Some(PATIENCE))?;
    let mut head = vec![0; HEAD_LIMIT];
    let mut length = 0;
    let (code, kind, body) = loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ErrorKind::TimedOut.into());
        }
        client.set_read_timeout(Some(left))?;
        match client.read(&mut head[length..])? {
            0 if length == HEAD_LIMIT => break plain("431 Request Header Fields Too Large", "too long"),
            0 => return Ok(()),
            count => length += count,
        }
        let mut headers = [httparse::EMPTY_HEADER; HEADERS];
        let mut request = httparse::Request::new(&mut headers);
        match request.parse(&head[..length]) {
            Ok(httparse::Status::Partial) => {}
            Ok(httparse::Status::Complete(_)) => {
                break respond(request.method.unwrap_or_default(), request.path.unwrap_or_default(), metrics, status);
            }
            Err(error) => break plain("400 Bad Request", &error.to_string()),
        }
    };
    let length = body.len();
    let body = if head.starts_with(b"HEAD ") { "" } else { &body };
    let answer = format!(
        "HTTP/1.1 {code}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n{body}"
    );
    client.write_all(answer.as_bytes())
}

fn respond(method: &str, path: &str, metrics: &Metrics, status: &Status) -> (&'static str, &'static str, String) {
    let path = path.split('?').next().unwrap_or_default();
    match (method, path) {
        ("GET" | "HEAD", "/metrics") => match metrics.text() {
            Ok(text) => ("200 OK", prometheus_client::encoding::prometheus_text::CONTENT_TYPE, text),
            Err(error) => plain("500 Internal Server Error", &error.to_string()),
        },
        ("GET" | "HEAD", "/healthz") => {
            let code = if status.healthy() { "200 OK" } else { "503 Service Unavailable" };
            plain(code, &status.to_string())
        }
        ("GET" | "HEAD", _) => plain("404 Not Found", "there are /metrics and /healthz"),
        _ => plain("405 Method Not Allowed", "GET only"),
    }
}

fn plain(code: &'static str, text: &str) -> (&'static str, &'static str, String) {
    (code, "text/plain; charset=utf-8", format!("{text}\n"))
}
