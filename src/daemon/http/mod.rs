//! HTTP server of the daemon, on one thread. It remains available while other clients idle, send slowly, or send garbage.

mod connections;
mod keywords;
mod origin;
mod routes;
mod stream;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::oneshot;

use super::status::Status;
use connections::{Connections, Slot};
pub use keywords::KeywordAccess;
use routes::Routes;

/// Maximum size of a request's head.
const MAX_HEAD_BYTES: usize = 8 << 10;
/// Maximum number of header fields.
const MAX_HEADERS: usize = 64;
/// Time that a client has to send the head of its request.
const HEAD_TIME: Duration = Duration::from_secs(5);
/// Connections that wait to be accepted; the kernel limits it further (`net.core.somaxconn`).
const BACKLOG: u32 = 1024;
/// Pause after a failed accept, for example without file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);

/// A server that runs until it is dropped.
#[derive(Debug)]
pub struct HttpServer {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// A bound address, at which nothing is served yet.
pub struct HttpListener {
    runtime: tokio::runtime::Runtime,
    listener: TcpListener,
}

impl HttpListener {
    /// Listens on `address`; port 0 selects a free port.
    ///
    /// # Errors
    ///
    /// The address cannot be bound.
    pub fn bind(address: SocketAddr) -> std::io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
        let listener = {
            let _entered = runtime.enter();
            listen(address)?
        };
        Ok(Self { runtime, listener })
    }
}

impl HttpServer {
    /// Serves `status` at the address of `listener`. `keywords` enables enrolment over HTTP, which is disabled by default.
    ///
    /// # Errors
    ///
    /// The thread cannot be started.
    pub fn start(
        HttpListener { runtime, listener }: HttpListener,
        status: Arc<Status>,
        keywords: KeywordAccess,
    ) -> std::io::Result<Self> {
        let address = listener.local_addr()?;
        if !address.ip().is_loopback() {
            log::warn!("HTTP on {address} is open to the network, without authentication and encryption");
            if keywords.enabled() {
                log::warn!("the token of the live page is sent without encryption; use SSH or a reverse proxy with TLS");
            }
        }
        status.enrolment.store(keywords.enabled(), Ordering::Relaxed);
        let routes = Arc::new(Routes::new(status, keywords));
        let (stop, stopped) = oneshot::channel();
        let serve = async move {
            tokio::select! {
                _ = stopped => {}
                () = accept(listener, routes) => {}
            }
        };
        let thread = std::thread::Builder::new().name("http".into()).spawn(move || runtime.block_on(serve))?;
        Ok(Self { address, stop: Some(stop), thread: Some(thread) })
    }

    /// The address that it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // A restarted daemon takes its port back although connections of the previous one linger.
    #[cfg(unix)]
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

async fn accept(listener: TcpListener, routes: Arc<Routes>) {
    let connections = Connections::default();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let _ = stream.set_nodelay(true);
                // Closes the oldest connection if there are too many. Its task ends at the next yield.
                let slot = connections.open();
                let task = tokio::spawn(serve(stream, slot.clone(), routes.clone()));
                slot.set_task(task.abort_handle());
                tokio::task::yield_now().await;
            }
            Err(error) => {
                log::debug!("HTTP: cannot accept a connection: {error}");
                connections.close_oldest();
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Answers one request.
async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin, slot: Slot, routes: Arc<Routes>) {
    let answered = slot.clone();
    let service = service_fn(move |request| {
        let (routes, answered) = (routes.clone(), answered.clone());
        async move { Ok::<_, Infallible>(routes.respond(request, &answered).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .keep_alive(false)
        .header_read_timeout(HEAD_TIME)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        outcome = connection => {
            if let Err(error) = outcome {
                log::debug!("HTTP: {error}");
            }
        }
        () = slot.expired() => log::debug!("HTTP: a client is too slow and is disconnected"),
    }
    slot.close();
}

/// The server's response to a client that sends `request`, closes its side, and leaves once the response is complete or pauses, without a
/// socket.
///
/// # Errors
///
/// The runtime cannot be started.
pub fn answer(status: &Arc<Status>, request: &[u8]) -> std::io::Result<Vec<u8>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    Ok(runtime.block_on(async {
        let (mut client, server) = tokio::io::duplex(MAX_HEAD_BYTES);
        tokio::spawn(serve(
            server,
            Connections::default().open(),
            Arc::new(Routes::new(status.clone(), KeywordAccess::default())),
        ));
        // The server may close the connection before it has read everything.
        let _ = client.write_all(request).await;
        let _ = client.shutdown().await;
        let mut response = Vec::new();
        // An event stream does not end.
        while let Ok(Ok(1..)) = tokio::time::timeout(CLIENT_WAITS, client.read_buf(&mut response)).await {}
        response
    }))
}

/// How long the client of [`answer`] waits for more.
const CLIENT_WAITS: Duration = Duration::from_millis(20);
