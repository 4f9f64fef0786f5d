//! The commands; each is a short file that calls the library.

mod bench;
mod consumers;
mod devices;
mod enroll;
mod inspect;
mod keywords;
mod locate;
mod record;
mod run;
mod settings;
mod signals;
mod source;
mod table;

use clap::{Parser, Subcommand};

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
    /// Measure depth, quality and cost under noise
    Bench(Box<bench::Bench>),
    /// Make a keyword of a few recordings of a word
    Enroll(enroll::Enroll),
    /// List, test and remove keywords
    Keywords(keywords::Keywords),
    /// List the microphones
    Devices(devices::Devices),
    /// Show what a pack is: architecture, layers, bytes, context, policies, licence, provenance
    Inspect(inspect::Inspect),
}

impl Cli {
    /// Runs the chosen command.
    pub fn run(self) -> anyhow::Result<()> {
        match self.command {
            Command::Run(command) => command.run(),
            Command::Bench(command) => command.run(),
            Command::Enroll(command) => command.run(),
            Command::Keywords(command) => command.run(),
            Command::Devices(command) => command.run(),
            Command::Inspect(command) => command.run(),
        }
    }
}
