//! Neighbours on Zenoh: liveliness tokens for membership, published states, and queries whose timeout is the chunk's deadline.
//!
//! | key | what |
//! |---|---|
//! | `bellis/1/worker/NAME` | liveliness token of a worker |
//! | `bellis/1/worker/NAME/state` | its [`WorkerState`](super::message::WorkerState) as JSON: published when it changes, at most five times a second, and once a second otherwise; queryable |
//! | `bellis/1/worker/NAME/task` | queryable for tasks |
//! | `bellis/1/worker/NAME/echo` | queryable that returns what it is sent, which measures the transfer time |
//!
//! Zenoh's own threads run its callbacks; the threads of Bellis neither wait for them nor use async.

mod network;
mod serving;

use std::path::PathBuf;
use std::time::Duration;

use zenoh::{Session, Wait};

use super::codec::MAX_MESSAGE_BYTES;

pub use network::Network;
pub use serving::WorkerNode;

const PREFIX: &str = "bellis/1/worker";
/// A peer that is silent for so long is gone. Zenoh sends keep-alives four times as often.
const LEASE: Duration = Duration::from_secs(4);
/// Connections that a node accepts.
const MOST_SESSIONS: usize = 256;

/// How a node reaches others, and others it. By default it listens nowhere, and finds nothing by itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Endpoints {
    /// Endpoints to connect to, `tcp/HOST:PORT` or `tls/HOST:PORT`; lost connections are tried again.
    pub connect: Vec<String>,
    /// Endpoints to listen on.
    pub listen: Vec<String>,
    /// Certificates for `tls/` endpoints, which both sides then require.
    pub tls: Option<Tls>,
}

/// Files for mutual TLS, PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// Certificate of the authority that must have signed every other node's certificate.
    pub ca: PathBuf,
    /// Certificate of this node, for its host name.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// Why the network cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetworkError {
    /// No endpoint is configured.
    #[error("a worker needs --listen or --connect, or no source can reach it")]
    NoEndpoint,
    /// An endpoint is not valid, is in use, or its certificates cannot be read.
    #[error("cannot use {what}: {problem}")]
    #[non_exhaustive]
    Endpoint {
        /// The endpoints.
        what: String,
        /// The problem.
        problem: String,
    },
    /// The name of a worker has other characters than letters, digits, `-` and `_`, or none.
    #[error("a worker's name may have letters, digits, `-` and `_`, got `{0}`")]
    Name(String),
    /// The system refused a thread.
    #[error("cannot start a thread for the network")]
    Thread(#[source] std::io::Error),
    /// The pack cannot be shared with neighbours.
    #[error(transparent)]
    Engine(#[from] crate::engine::EngineError),
}

impl Endpoints {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.connect.is_empty() && self.listen.is_empty()
    }

    /// Rejects endpoints that cannot be used, without using them.
    ///
    /// # Errors
    ///
    /// [`NetworkError::Endpoint`].
    pub fn check(&self) -> Result<(), NetworkError> {
        let valid = |endpoint: &str| {
            // Options of Zenoh may follow, such as the network interface.
            let address = endpoint.split(['?', '#']).next().unwrap_or_default();
            let address = address.strip_prefix("tcp/").or_else(|| address.strip_prefix("tls/"));
            address
                .and_then(|address| address.rsplit_once(':'))
                .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
        };
        for endpoint in self.connect.iter().chain(&self.listen) {
            if !valid(endpoint) {
                let problem = "an endpoint is tcp/HOST:PORT or tls/HOST:PORT".to_owned();
                return Err(NetworkError::Endpoint { what: endpoint.clone(), problem });
            }
        }
        let Some(Tls { ca, certificate, key }) = &self.tls else { return Ok(()) };
        for file in [ca, certificate, key] {
            let failed =
                |error: std::io::Error| NetworkError::Endpoint { what: file.display().to_string(), problem: error.to_string() };
            std::fs::File::open(file).map_err(failed)?;
        }
        Ok(())
    }

    fn open(&self) -> Result<Session, NetworkError> {
        self.check()?;
        let what = self.connect.iter().chain(&self.listen).cloned().collect::<Vec<_>>().join(", ");
        let failed = |problem: String| NetworkError::Endpoint { what: what.clone(), problem };
        let mut config = zenoh::Config::default();
        let mut set = |key: &str, value: serde_json::Value| {
            config.insert_json5(key, &value.to_string()).map_err(|error| failed(format!("{key}: {error}")))
        };
        set("mode", "peer".into())?;
        set("connect/endpoints", self.connect.clone().into())?;
        set("listen/endpoints", self.listen.clone().into())?;
        // Nothing is found, and nothing listens, that was not configured.
        set("scouting/multicast/enabled", false.into())?;
        set("scouting/gossip/enabled", false.into())?;
        set("transport/link/tx/lease", (LEASE.as_millis() as u64).into())?;
        set("transport/link/rx/max_message_size", (2 * MAX_MESSAGE_BYTES).into())?;
        set("transport/unicast/max_sessions", MOST_SESSIONS.into())?;
        set("transport/shared_memory/enabled", false.into())?;
        if let Some(Tls { ca, certificate, key }) = &self.tls {
            let path = |path: &PathBuf| path.to_string_lossy().into_owned();
            set("transport/link/tls/root_ca_certificate", path(ca).into())?;
            for (side, certificate_key) in [("listen", "listen_certificate"), ("connect", "connect_certificate")] {
                set(&format!("transport/link/tls/{certificate_key}"), path(certificate).into())?;
                set(&format!("transport/link/tls/{side}_private_key"), path(key).into())?;
            }
            set("transport/link/tls/enable_mtls", true.into())?;
        }
        zenoh::open(config).wait().map_err(|error| failed(error.to_string()))
    }
}

fn failed(error: zenoh::Error) -> NetworkError {
    NetworkError::Endpoint { what: "Zenoh".into(), problem: error.to_string() }
}

/// The name of a worker: the given one, or a random one.
fn named(session: &Session, name: Option<&str>) -> Result<String, NetworkError> {
    match name {
        Some(name) if !is_name(name) => Err(NetworkError::Name(name.to_owned())),
        Some(name) => Ok(name.to_owned()),
        None => Ok(session.zid().to_string()),
    }
}

fn is_name(name: &str) -> bool {
    let allowed = |letter: char| letter.is_ascii_alphanumeric() || letter == '-' || letter == '_';
    (1..=64).contains(&name.len()) && name.chars().all(allowed)
}
