//! Neighbours of `bellis run` and `bellis serve`: their settings, the node's place in the network, and the lines of the summary.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use bellis::engine::Encoder;
use bellis::exit::PolicySpec;
use bellis::neighbour::{Endpoints, Network, Offloading, Roster, Source, Tls, Worker};
use bellis::pack::Pack;
use clap::Args;
use serde::Deserialize;

use super::settings::Layer;
use super::values;

/// How long a run waits at its start for the neighbours that it connects to.
const PATIENCE: Duration = Duration::from_secs(1);
/// Range of the factor by which thresholds rise.
const FACTORS: std::ops::RangeInclusive<f64> = 1.0..=100.0;

/// How to reach other machines.
#[derive(Debug, Clone, Default, PartialEq, Args, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct NetworkArgs {
    /// Endpoint of another machine, tcp/HOST:PORT or tls/HOST:PORT; repeatable
    #[arg(long, value_name = "ENDPOINT", help_heading = "Neighbours")]
    #[serde(default)]
    connect: Vec<String>,
    /// Endpoint to listen on; repeatable [default: none]
    #[arg(long, value_name = "ENDPOINT", help_heading = "Neighbours")]
    #[serde(default)]
    listen: Vec<String>,
    /// Certificate of the authority that signs all nodes' certificates (PEM)
    #[arg(long, value_name = "FILE", help_heading = "Neighbours")]
    tls_ca: Option<PathBuf>,
    /// Certificate of this machine (PEM)
    #[arg(long, value_name = "FILE", help_heading = "Neighbours")]
    tls_cert: Option<PathBuf>,
    /// Private key of this machine (PEM)
    #[arg(long, value_name = "FILE", help_heading = "Neighbours")]
    tls_key: Option<PathBuf>,
    /// Name of this machine's worker [default: random]
    #[arg(long, value_name = "NAME", help_heading = "Neighbours")]
    pub name: Option<String>,
}

impl NetworkArgs {
    /// The endpoints, checked as far as that is possible without using them.
    pub fn endpoints(&self) -> anyhow::Result<Endpoints> {
        let Self { connect, listen, tls_ca, tls_cert, tls_key, .. } = self;
        let uses_tls = connect.iter().chain(listen).any(|endpoint| endpoint.starts_with("tls/"));
        let tls = match (tls_ca, tls_cert, tls_key) {
            (Some(ca), Some(certificate), Some(key)) => {
                Some(Tls { ca: ca.clone(), certificate: certificate.clone(), key: key.clone() })
            }
            (None, None, None) if !uses_tls => None,
            _ => bail!("tls/ endpoints need --tls-ca, --tls-cert and --tls-key (docs/neighbours.md)"),
        };
        let endpoints = Endpoints { connect: connect.clone(), listen: listen.clone(), tls };
        endpoints.check()?;
        Ok(endpoints)
    }

    fn is_empty(&self) -> bool {
        self.connect.is_empty() && self.listen.is_empty()
    }
}

/// The settings of a source: flags, or the table `[neighbours]`.
#[derive(Debug, Clone, Default, PartialEq, Args, Deserialize)]
// A flattened structure denies nothing by itself; `unknown_keys_are_rejected` tests that both do together.
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct NeighbourArgs {
    /// When chunks continue on neighbours [default: auto]
    ///
    /// Without --connect and --listen, there are none.
    #[arg(long = "neighbours", value_parser = values::offloading(), help_heading = "Neighbours")]
    mode: Option<Offloading>,
    /// Also compute layers for other machines; local audio has priority
    #[arg(long, help_heading = "Neighbours")]
    #[serde(default)]
    worker: bool,
    /// Maximum factor of a live stream's thresholds while audio waits [default: 4]
    ///
    /// Applies if neighbours are configured; 1 leaves the thresholds as they are.
    #[arg(long, value_name = "FACTOR", help_heading = "Neighbours")]
    adapt: Option<f64>,
    #[command(flatten)]
    #[serde(flatten)]
    network: NetworkArgs,
}

impl Layer for NeighbourArgs {
    fn over(self, below: Self) -> Self {
        let (own, other) = (self.network, below.network);
        Self {
            mode: self.mode.over(below.mode),
            worker: self.worker.over(below.worker),
            adapt: self.adapt.over(below.adapt),
            network: NetworkArgs {
                connect: own.connect.over(other.connect),
                listen: own.listen.over(other.listen),
                tls_ca: own.tls_ca.over(other.tls_ca),
                tls_cert: own.tls_cert.over(other.tls_cert),
                tls_key: own.tls_key.over(other.tls_key),
                name: own.name.over(other.name),
            },
        }
    }
}

impl NeighbourArgs {
    fn mode(&self) -> Offloading {
        self.mode.unwrap_or_default()
    }

    /// Whether chunks of this node may continue elsewhere.
    pub fn is_source(&self) -> bool {
        !self.network.is_empty() && self.mode() != Offloading::Never
    }

    /// Whether other machines are used, or use this one.
    pub fn is_used(&self) -> bool {
        self.is_source() || self.worker
    }

    /// Whether this node computes for others.
    pub fn is_worker(&self) -> bool {
        self.worker
    }

    /// Rejects settings that cannot be used, without using them.
    pub fn check(&self) -> anyhow::Result<()> {
        let wanted = self.worker || self.mode.is_some_and(|mode| mode != Offloading::Never);
        if self.network.is_empty() && wanted {
            let what = if self.worker { "--worker".to_owned() } else { format!("--neighbours {}", self.mode()) };
            bail!("{what} needs --connect or --listen, or no other machine can be found");
        }
        if let Some(factor) = self.adapt.filter(|factor| !FACTORS.contains(factor)) {
            bail!("--adapt must be between {} and {}, got {factor}", FACTORS.start(), FACTORS.end());
        }
        self.network.endpoints().map(|_| ())
    }
}

/// A node: its neighbours, and its own worker if it has one.
pub struct Node {
    pack: Arc<Pack>,
    encoder: Arc<Encoder>,
    roster: Arc<Roster>,
    network: Option<Network>,
    /// What the present connections follow from.
    joined: (bool, bool, NetworkArgs),
}

impl Node {
    /// A node without connections.
    pub fn new(pack: Arc<Pack>, encoder: Arc<Encoder>) -> Self {
        Self { pack, encoder, roster: Arc::default(), network: None, joined: Default::default() }
    }

    /// The neighbours.
    pub fn roster(&self) -> &Arc<Roster> {
        &self.roster
    }

    /// The source for a session, or `None` if chunks stay here.
    pub fn source(&mut self, wanted: &NeighbourArgs, policy: &PolicySpec) -> anyhow::Result<Option<Source>> {
        wanted.check()?;
        if wanted.worker {
            // Refuses packs that cannot be shared.
            drop(Worker::new(&self.pack, &self.encoder)?);
        }
        if !wanted.is_source() {
            // A worker publishes how many of its own chunks wait.
            if wanted.worker {
                self.network()?;
            }
            return self.idle_source(policy);
        }
        let carrier = self.network()?.carrier();
        let source = Source::new(&self.pack, &self.encoder, policy, wanted.mode(), self.roster.clone(), carrier)?;
        Ok(Some(match wanted.adapt {
            Some(most) => source.adapt(most),
            None => source,
        }))
    }

    /// One that sends nothing, to replace an earlier one.
    pub fn idle_source(&mut self, policy: &PolicySpec) -> anyhow::Result<Option<Source>> {
        let Some(network) = &self.network else { return Ok(None) };
        let carrier = network.carrier();
        Ok(Some(Source::new(&self.pack, &self.encoder, policy, Offloading::Never, self.roster.clone(), carrier)?.adapt(1.0)))
    }

    fn network(&mut self) -> anyhow::Result<&mut Network> {
        if self.network.is_none() {
            self.network = Some(Network::new(self.roster.clone())?);
        }
        self.network.as_mut().ok_or_else(|| anyhow::anyhow!("no network"))
    }

    /// Connects as `wanted`, unless that is the case already.
    pub fn connect(&mut self, wanted: &NeighbourArgs) -> anyhow::Result<()> {
        let used = wanted.is_used();
        let join = (used, wanted.worker, if used { wanted.network.clone() } else { NetworkArgs::default() });
        if join == self.joined {
            return Ok(());
        }
        // Whatever follows, the present connections are closed.
        self.joined = Default::default();
        let endpoints = join.2.endpoints()?;
        let worker = wanted.worker.then(|| Worker::new(&self.pack, &self.encoder)).transpose()?;
        let worker = worker.map(|worker| (worker, join.2.name.as_deref()));
        self.network()?.join(&endpoints, worker)?;
        self.joined = join;
        Ok(())
    }

    /// Waits for the neighbours that are connected to, for one second at most.
    pub fn wait(&self) {
        if let Some(network) = &self.network {
            network.wait_for(self.joined.2.connect.len(), PATIENCE);
        }
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
    let (adapted, _) = roster.adaptation();
    if adapted > 0 {
        errln!("  adapted   {adapted} chunks had raised thresholds because audio waited");
    }
    let (answered, refused) = roster.own().totals();
    if answered + refused > 0 {
        errln!("  worker    {answered} chunks computed for other machines, {refused} refused");
    }
    if roster.unreadable() > 0 {
        errln!("  warning   {} messages of neighbours could not be read", roster.unreadable());
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<NeighbourArgs, String> {
        toml::from_str(text).map_err(|error| error.to_string())
    }

    #[test]
    fn unknown_keys_are_rejected() {
        let found =
            read("mode = \"always\"\nconnect = [\"tcp/kitchen:7600\"]\nworker = true\nname = \"desk\"\ntls-ca = \"ca.pem\"")
                .unwrap();
        assert_eq!((found.mode, found.worker, found.network.connect.len()), (Some(Offloading::Always), true, 1));
        for wrong in ["mod = \"auto\"", "mode = \"sometimes\"", "conect = []"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn settings_that_find_no_one_are_rejected() {
        for wrong in ["mode = \"auto\"", "worker = true", "connect = [\"kitchen:7600\"]", "connect = [\"tls/kitchen:7600\"]"] {
            assert!(read(wrong).unwrap().check().is_err(), "{wrong}");
        }
        assert!(read("listen = [\"tcp/127.0.0.1:7600\"]\nadapt = 0.5").unwrap().check().is_err());
        for right in [
            "",
            "mode = \"never\"",
            "listen = [\"tcp/[::1]:7600#iface=eth0\"]\nworker = true",
            "connect = [\"tcp/kitchen:7600\"]",
        ] {
            read(right).unwrap().check().unwrap();
        }
    }
}
