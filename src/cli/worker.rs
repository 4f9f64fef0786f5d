//! `bellis worker`.

use std::path::{Path, PathBuf};

use anyhow::bail;
use bellis::engine::{Encoder, LoadOptions, Precision};
use bellis::neighbour::{Worker as Engine, WorkerNode};
use bellis::pack::{GapFill, Pack};
use clap::Args;

use super::locate;
use super::neighbours::NetworkArgs;
use super::signals::stop_on_signals;
use super::values;

/// Compute layers for other machines
///
/// Runs until Ctrl-C or SIGTERM. Sources that run the same pack find it by the connection.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  bellis worker --listen tcp/127.0.0.1:7600
  bellis worker --pack daisy-tiny --layers 5..10 --name kitchen --listen tcp/0.0.0.0:7600
  bellis run mic --connect tcp/kitchen:7600 --neighbours auto

Anyone who reaches the endpoint can use the worker; on networks that others share, use tls/ endpoints (docs/neighbours.md).")]
pub struct Worker {
    /// Pack: a folder, or the name of a bundled one [default: daisy-tiny]
    #[arg(long, value_name = "PACK", help_heading = "Model")]
    pack: Option<PathBuf>,
    /// Layers to load and run; the last one must be the pack's last [default: all]
    #[arg(long, value_name = "FIRST..LAST", value_parser = super::settings::range, help_heading = "Model")]
    layers: Option<(usize, usize)>,
    /// Precision of the layers' matmuls [default: auto]
    #[arg(long, value_parser = values::precision(), help_heading = "Model")]
    precision: Option<Precision>,
    /// Threads for large f32 matmuls, 1 to 64 [default: 1]
    #[arg(long, value_name = "COUNT", help_heading = "Model")]
    threads: Option<usize>,
    #[command(flatten)]
    network: NetworkArgs,
}

impl Worker {
    pub fn run(self) -> anyhow::Result<()> {
        let pack = Pack::open(&locate::pack(self.pack.as_deref().unwrap_or(Path::new(locate::DEFAULT_PACK)))?)?;
        let mut options = LoadOptions::default();
        options.precision = self.precision.unwrap_or(options.precision);
        options.threads = self.threads.unwrap_or(options.threads);
        let all = pack.manifest.encoder.layers;
        let (first, last) = self.layers.unwrap_or((1, all));
        options.first_layer = first;
        // Sources need the same.
        options.gap_fill = Some(GapFill::Project);
        let encoder = Encoder::load(&pack, &options)?;
        if last != all {
            bail!("--layers must end at the last layer of the pack, {}, got {last}: a chunk leaves a worker finished", all);
        }
        let worker = Engine::new(&pack, &encoder)?;
        let stop = stop_on_signals()?;
        let node = WorkerNode::open(worker, &self.network.endpoints()?, self.network.name.as_deref())?;
        errln!("worker {}: {}, layers {first} to {last}; Ctrl-C stops", node.name(), encoder.name());
        let (answered, refused) = node.run(|| stop.is_set())?;
        errln!("{answered} chunks computed, {refused} refused");
        Ok(())
    }
}
