//! The flags for neighbours, shared by `bellis run` and `bellis worker`, and the lines of the summary about them.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use bellis::engine::Encoder;
use bellis::exit::PolicySpec;
use bellis::neighbour::{Endpoints, Network, Offloading, Roster, Source, Tls};
use bellis::pack::Pack;
use clap::Args;

use super::values;

/// How long a run waits at its start for the neighbours that it connects to.
const PATIENCE: Duration = Duration::from_secs(1);

/// How to reach other machines.
#[derive(Debug, Clone, Default, Args)]
pub struct NetworkArgs {
    /// Endpoint of another machine, tcp/HOST:PORT or tls/HOST:PORT; repeatable
    #[arg(long, value_name = "ENDPOINT", help_heading = "Neighbours")]
    connect: Vec<String>,
    /// Endpoint to listen on; repeatable [default: none]
    #[arg(long, value_name = "ENDPOINT", help_heading = "Neighbours")]
    listen: Vec<String>,
    /// Certificate of the authority that signs all nodes' certificates (PEM)
    #[arg(long, value_name = "FILE", requires_all = ["tls_cert", "tls_key"], help_heading = "Neighbours")]
    tls_ca: Option<PathBuf>,
    /// Certificate of this machine (PEM)
    #[arg(long, value_name = "FILE", requires_all = ["tls_ca", "tls_key"], help_heading = "Neighbours")]
    tls_cert: Option<PathBuf>,
    /// Private key of this machine (PEM)
    #[arg(long, value_name = "FILE", requires_all = ["tls_ca", "tls_cert"], help_heading = "Neighbours")]
    tls_key: Option<PathBuf>,
}

impl NetworkArgs {
    /// The endpoints.
    pub fn endpoints(self) -> anyhow::Result<Endpoints> {
        let Self { connect, listen, tls_ca, tls_cert, tls_key } = self;
        let uses_tls = connect.iter().chain(&listen).any(|endpoint| endpoint.starts_with("tls/"));
        let tls = match (tls_ca, tls_cert, tls_key) {
            (Some(ca), Some(certificate), Some(key)) => Some(Tls { ca, certificate, key }),
            _ if uses_tls => bail!("tls/ endpoints need --tls-ca, --tls-cert and --tls-key (docs/neighbours.md)"),
            _ => None,
        };
        Ok(Endpoints { connect, listen, tls })
    }

    fn is_empty(&self) -> bool {
        self.connect.is_empty() && self.listen.is_empty()
    }
}

/// The flags of a source.
#[derive(Debug, Clone, Default, Args)]
pub struct NeighbourArgs {
    /// When chunks continue on neighbours [default: auto]
    ///
    /// Without --connect and --listen, there are none.
    #[arg(long, value_parser = values::offloading(), help_heading = "Neighbours")]
    neighbours: Option<Offloading>,
    #[command(flatten)]
    network: NetworkArgs,
}

impl NeighbourArgs {
    /// Connects to neighbours, if any are configured.
    pub fn open(self, pack: &Pack, encoder: &Arc<Encoder>, policy: &PolicySpec) -> anyhow::Result<Option<(Network, Source)>> {
        let offloading = self.neighbours.unwrap_or_default();
        if self.network.is_empty() && self.neighbours.is_some_and(|mode| mode != Offloading::Never) {
            bail!("--neighbours {offloading} needs --connect or --listen, or no neighbour can be found");
        }
        if self.network.is_empty() || offloading == Offloading::Never {
            return Ok(None);
        }
        let endpoints = self.network.endpoints()?;
        let network = Network::open(&endpoints)?;
        network.wait_for(endpoints.connect.len(), PATIENCE);
        let source = Source::new(pack, encoder, policy, offloading, network.roster().clone(), network.carrier()?)?;
        Ok(Some((network, source)))
    }
}

/// Prints what was computed where; `exits` are the chunks by exit layer.
pub fn tell(roster: &Roster, exits: &[u64]) {
    let all = roster.status();
    if all.is_empty() {
        errln!("  neighbour none was found");
    }
    let there: u64 = all.iter().map(|one| one.counts.layers).sum();
    let layers: u64 = exits.iter().zip(0..).map(|(chunks, layer)| chunks * layer).sum();
    errln!("  layers    {} ran here, {there} on neighbours (one layer of one chunk each)", layers.saturating_sub(there));
    for one in all {
        let counts = one.counts;
        errln!(
            "  neighbour {}: {} chunks sent = {} returned + {} late + {} refused; {} layers, {:.1} kB sent, {:.1} kB received, \
             {:.1} ms per chunk there, {:.1} ms on the way",
            one.name,
            counts.sent,
            counts.returned,
            counts.late,
            counts.refused,
            counts.layers,
            counts.bytes_sent as f64 / 1e3,
            counts.bytes_received as f64 / 1e3,
            one.compute_seconds * 1e3,
            one.transfer_seconds * 1e3,
        );
    }
    if roster.unreadable() > 0 {
        errln!("  warning   {} messages of neighbours could not be read", roster.unreadable());
    }
}
