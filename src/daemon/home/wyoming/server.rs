//! The listening socket, and the threads of its connections.

use std::io::{ErrorKind, Read};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::audio::Model;
use super::connection::{ConnectionError, Conversation, Service, error, farewell};
use super::message::Parser;
use crate::chain::Chain;
use crate::daemon::home::Enrolled;

/// Bytes read at a time.
const READ_BYTES: usize = 16 << 10;
/// From the first byte of a message to its last.
const MESSAGE_WITHIN: Duration = Duration::from_secs(10);
/// How long a peer may take to accept an answer.
const WRITE_WITHIN: Duration = Duration::from_secs(10);
/// A connection that has been silent for this time may be replaced by a new one.
const REPLACED_AFTER: Duration = Duration::from_secs(30);
/// How long a new connection waits for a place. One that was just closed takes its place until its thread has noticed.
const PLACE_WITHIN: Duration = Duration::from_millis(250);
const PLACE_AGAIN: Duration = Duration::from_millis(10);
/// Wait after an error of the listening socket, such as too many open files.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// `tcp://ADDRESS:PORT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WyomingUri(String);

/// Why a service cannot be offered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WyomingError {
    /// No address of the form.
    #[error("wyoming must be tcp://ADDRESS:PORT, such as tcp://127.0.0.1:10400, got `{0}`")]
    Uri(String),
    /// The address cannot be used.
    #[error("cannot offer Wyoming on {uri}")]
    Listen {
        /// The address.
        uri: String,
        /// The system's error.
        source: std::io::Error,
    },
}

impl FromStr for WyomingUri {
    type Err = WyomingError;

    fn from_str(text: &str) -> Result<Self, WyomingError> {
        let wrong = || WyomingError::Uri(text.to_owned());
        let address = text.strip_prefix("tcp://").ok_or_else(wrong)?.trim_end_matches('/');
        let (host, port) = address.rsplit_once(':').ok_or_else(wrong)?;
        match !host.is_empty() && port.parse::<u16>().is_ok() {
            true => Ok(Self(address.to_owned())),
            false => Err(wrong()),
        }
    }
}

/// Bounds of the service.
#[derive(Debug, Clone)]
pub struct WyomingOptions {
    /// Connections at the same time.
    pub connections: usize,
}

impl Default for WyomingOptions {
    fn default() -> Self {
        Self { connections: 8 }
    }
}

/// A service that runs until it is dropped.
pub struct WyomingServer {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    peers: Arc<Peers>,
}

impl WyomingServer {
    /// Listens on `uri`; port 0 selects a free one.
    ///
    /// # Errors
    ///
    /// An address that cannot be used.
    pub fn start(
        uri: &WyomingUri,
        model: Model,
        enrolled: Arc<Enrolled>,
        options: &WyomingOptions,
    ) -> Result<Self, WyomingError> {
        let failed = |source| WyomingError::Listen { uri: format!("tcp://{}", uri.0), source };
        let addresses: Vec<SocketAddr> = uri.0.to_socket_addrs().map_err(failed)?.collect();
        let listener = TcpListener::bind(&addresses[..]).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        if !address.ip().is_loopback() {
            log::warn!("Wyoming is open to the network on {address}, without authentication or encryption");
        }
        let peers = Arc::new(Peers { limit: options.connections, began: Instant::now(), list: Mutex::default() });
        let (stop, service) = (Arc::<AtomicBool>::default(), Arc::new(Service { model, enrolled }));
        let (stopped, known) = (stop.clone(), peers.clone());
        let accept = move || {
            for client in listener.incoming() {
                if stopped.load(Ordering::Acquire) {
                    return;
                }
                let accepted = client.and_then(|client| serve(client, &known, &service));
                if let Err(error) = accepted {
                    log::warn!("wyoming: {error}");
                    std::thread::sleep(ACCEPT_AGAIN);
                }
            }
        };
        std::thread::Builder::new().name("wyoming".into()).spawn(accept).map_err(failed)?;
        Ok(Self { address, stop, peers })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for WyomingServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        // Wakes the thread, which then ends.
        let _ = TcpStream::connect_timeout(&self.address, WRITE_WITHIN);
        for peer in self.peers.list().drain(..) {
            peer.close();
        }
    }
}

/// The open connections.
struct Peers {
    limit: usize,
    began: Instant,
    list: Mutex<Vec<Arc<Peer>>>,
}

struct Peer {
    stream: TcpStream,
    name: String,
    /// Time of its last activity, milliseconds after `began`.
    active: AtomicU64,
}

impl Peer {
    fn close(&self) {
        // Its thread is in a read or a write, which ends now.
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

impl Peers {
    /// What is behind the lock is whole at any time.
    fn list(&self) -> MutexGuard<'_, Vec<Arc<Peer>>> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> u64 {
        self.began.elapsed().as_millis() as u64
    }

    /// Adds a connection; `None` if there are too many, and none of them has been silent for long.
    fn add(&self, stream: TcpStream) -> Option<Arc<Peer>> {
        let name = stream.peer_addr().map_or_else(|_| "a peer".to_owned(), |address| address.to_string());
        let mut list = self.list();
        if list.len() >= self.limit {
            let silent = |peer: &Arc<Peer>| self.now().saturating_sub(peer.active.load(Ordering::Relaxed));
            let (at, longest) = list.iter().map(silent).enumerate().max_by_key(|(_, time)| *time)?;
            if longest < REPLACED_AFTER.as_millis() as u64 {
                return None;
            }
            let old = list.swap_remove(at);
            log::info!("wyoming: {} has been silent for {} s and makes room for {name}", old.name, longest / 1000);
            old.close();
        }
        let peer = Arc::new(Peer { stream, name, active: AtomicU64::new(self.now()) });
        list.push(peer.clone());
        Some(peer)
    }

    fn remove(&self, peer: &Arc<Peer>) {
        self.list().retain(|one| !Arc::ptr_eq(one, peer));
    }
}

/// Starts the thread of a connection, or refuses the connection.
fn serve(mut client: TcpStream, peers: &Arc<Peers>, service: &Arc<Service>) -> std::io::Result<()> {
    client.set_write_timeout(Some(WRITE_WITHIN))?;
    client.set_nodelay(true)?;
    let asked = Instant::now();
    let peer = loop {
        match peers.add(client.try_clone()?) {
            None if asked.elapsed() < PLACE_WITHIN => std::thread::sleep(PLACE_AGAIN),
            place => break place,
        }
    };
    let Some(peer) = peer else {
        log::warn!("wyoming: a connection is refused: {} are open (wyoming-connections)", peers.limit);
        let _ = error(&format!("all {} connections are in use", peers.limit), "busy").write(&mut client);
        return Ok(());
    };
    let (known, own, service) = (peers.clone(), peer.clone(), service.clone());
    let thread = std::thread::Builder::new().name("wyoming-peer".into()).spawn(move || {
        log::debug!("wyoming: {} connects", own.name);
        let outcome = converse(&mut client, &own, &known, service);
        known.remove(&own);
        match outcome {
            Ok(()) => log::debug!("wyoming: {} disconnects", own.name),
            Err(reason) => {
                log::warn!("wyoming: {} is disconnected: {}", own.name, Chain(&reason));
                if let Some(message) = farewell(&reason) {
                    let _ = message.write(&mut client);
                }
            }
        }
    });
    thread.map(drop).inspect_err(|_| {
        peers.remove(&peer);
        let _ = error("the system permits no more connections", "busy").write(&mut &peer.stream);
    })
}

/// Reads and answers until the peer closes the connection.
fn converse(client: &mut TcpStream, peer: &Peer, peers: &Peers, service: Arc<Service>) -> Result<(), ConnectionError> {
    let (mut parser, mut conversation) = (Parser::default(), Conversation::new(service));
    let mut bytes = vec![0; READ_BYTES];
    // When the present message began to arrive.
    let mut began: Option<Instant> = None;
    loop {
        let left = match began {
            None => None,
            Some(began) => match MESSAGE_WITHIN.saturating_sub(began.elapsed()) {
                Duration::ZERO => return Err(ConnectionError::Slow),
                left => Some(left),
            },
        };
        client.set_read_timeout(left)?;
        let count = match client.read(&mut bytes) {
            Ok(0) => return Ok(()),
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return Err(ConnectionError::Slow);
            }
            // The peer vanished: nothing to repair.
            Err(error) if matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        parser.push(&bytes[..count]);
        let mut complete = false;
        while let Some(message) = parser.next_message()? {
            complete = true;
            conversation.handle(&message, client)?;
        }
        began = match (parser.is_within_message(), began, complete) {
            (false, ..) => None,
            (true, Some(began), false) => Some(began),
            (true, ..) => Some(Instant::now()),
        };
        peer.active.store(peers.now(), Ordering::Relaxed);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_tcp_uris() {
        for good in ["tcp://127.0.0.1:10400", "tcp://0.0.0.0:0", "tcp://[::1]:10400", "tcp://localhost:10400/"] {
            assert!(good.parse::<WyomingUri>().is_ok(), "{good}");
        }
        for bad in ["", "127.0.0.1:10400", "tcp://", "tcp://:10400", "tcp://host", "tcp://host:99999", "unix:///run/x"] {
            assert!(bad.parse::<WyomingUri>().unwrap_err().to_string().contains("must be tcp://ADDRESS:PORT"), "{bad}");
        }
    }

    /// A connection, and the peer's end.
    fn pair(listener: &TcpListener) -> (TcpStream, TcpStream) {
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (listener.accept().unwrap().0, client)
    }

    #[test]
    fn a_new_connection_replaces_a_silent_one_and_no_active_one() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let peers = Peers { limit: 2, began: Instant::now() - 2 * REPLACED_AFTER, list: Mutex::default() };
        let (first, mut at_first) = pair(&listener);
        let (second, _at_second) = pair(&listener);
        let first = peers.add(first).unwrap();
        let second = peers.add(second).unwrap();
        assert!(peers.add(pair(&listener).0).is_none());
        first.active.store(0, Ordering::Relaxed);
        let third = peers.add(pair(&listener).0).unwrap();
        assert_eq!(at_first.read(&mut [0; 8]).unwrap(), 0, "its end is closed");
        assert!(Arc::ptr_eq(&peers.list()[0], &second) && Arc::ptr_eq(&peers.list()[1], &third));
    }
}
