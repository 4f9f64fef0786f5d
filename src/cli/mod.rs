//! The commands; each is a short file that calls the library.

#[cfg(feature = "bench")]
mod bench;
mod consumers;
mod devices;
mod enroll;
#[cfg(all(unix, feature = "serve"))]
mod files;
mod inspect;
mod keywords;
mod locate;
mod manual;
mod record;
mod run;
#[cfg(all(unix, feature = "serve"))]
mod serve;
mod settings;
mod signals;
mod source;
mod table;
mod values;

use clap::{CommandFactory, Parser, Subcommand};

/// Bellis turns sound into a stream of speech representations, and spends on each chunk only as many transformer layers as it needs.
#[derive(Debug, Parser)]
#[command(name = "bellis", version, about, long_about = None, max_term_width = 110, arg_required_else_help = true)]
#[command(after_help = "Set RUST_LOG=info (or debug, or bellis::runtime=trace) to see more.")]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Stream a file, a pipe or the microphone through a pack
    Run(Box<run::Run>),
    /// Run as a daemon: wait for the device, tell systemd, show metrics
    #[cfg(all(unix, feature = "serve"))]
    Serve(Box<serve::Serve>),
    /// Measure depth, quality and cost under noise
    #[cfg(feature = "bench")]
    Bench(Box<bench::Bench>),
    /// Make a keyword of a few recordings of a word
    Enroll(enroll::Enroll),
    /// List, test and remove keywords
    Keywords(keywords::Keywords),
    /// List the microphones
    Devices(devices::Devices),
    /// Show what a pack is: architecture, layers, bytes, context, policies, licence, provenance
    Inspect(inspect::Inspect),
    #[command(hide = true)]
    Manual(manual::Manual),
}

impl Cli {
    /// What is logged where `RUST_LOG` says nothing. tract warns of every operator set that it was not tested with; what a stage
    /// computes is held against a reference instead.
    pub fn log_filter(&self) -> &'static str {
        match self.command {
            // Whoever reads a daemon's log was not there when it happened.
            #[cfg(all(unix, feature = "serve"))]
            Command::Serve(_) => "warn,bellis=info,tract_onnx=error",
            _ => "warn,tract_onnx=error",
        }
    }

    /// Runs the chosen command.
    pub fn run(self) -> anyhow::Result<()> {
        match self.command {
            Command::Run(command) => command.run(),
            #[cfg(all(unix, feature = "serve"))]
            Command::Serve(command) => command.run(),
            #[cfg(feature = "bench")]
            Command::Bench(command) => command.run(),
            Command::Enroll(command) => command.run(),
            Command::Keywords(command) => command.run(),
            Command::Devices(command) => command.run(),
            Command::Inspect(command) => command.run(),
            Command::Manual(command) => command.run(Self::command()),
        }
    }
}
