//! The commands: one file each, which calls the library.

#[macro_use]
pub mod say;

#[cfg(feature = "bench")]
mod bench;
mod consumers;
mod devices;
mod enroll;
mod files;
mod inspect;
mod keyword_settings;
mod keywords;
mod locate;
mod manual;
#[cfg(feature = "neighbours")]
mod neighbours;
#[cfg(not(feature = "neighbours"))]
mod no_neighbours;
mod record;
#[cfg(all(unix, feature = "serve"))]
mod reload;
#[cfg(feature = "bench")]
mod report;
mod run;
#[cfg(all(unix, feature = "serve"))]
mod serve;
#[cfg(all(unix, feature = "serve"))]
mod services;
pub mod settings;
mod signals;
pub mod source;
mod table;
mod values;
#[cfg(feature = "neighbours")]
mod worker;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

/// Streaming speech representations, keywords and phones on small CPUs, with early exit.
#[derive(Debug, Parser)]
#[command(name = "bellis", version, about, long_about = None, max_term_width = 110, arg_required_else_help = true)]
#[command(after_help = "Environment: RUST_LOG=info shows more log messages (also debug, or bellis::runtime=trace).")]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// The commands, described by their own structures.
#[derive(Debug, Subcommand)]
enum Command {
    Run(Box<run::Run>),
    #[cfg(all(unix, feature = "serve"))]
    Serve(Box<serve::Serve>),
    #[cfg(feature = "neighbours")]
    Worker(worker::Worker),
    #[cfg(feature = "bench")]
    Bench(Box<bench::Bench>),
    Enroll(enroll::Enroll),
    Keywords(keywords::Keywords),
    Devices(devices::Devices),
    Inspect(inspect::Inspect),
    #[command(hide = true)]
    Manual(manual::Manual),
}

/// Lets options take negative numbers, so that their own check rejects those, and not the parser of the command line.
fn with_negative_numbers(command: clap::Command) -> clap::Command {
    let option = |arg: &clap::Arg| arg.get_action().takes_values() && !arg.is_positional();
    command
        .mut_args(|arg| if option(&arg) { arg.allow_negative_numbers(true) } else { arg })
        .mut_subcommands(with_negative_numbers)
}

impl Cli {
    /// The arguments of this program. Ends it with a message if they are not valid.
    pub fn read() -> Self {
        let matches = with_negative_numbers(Self::command()).get_matches();
        Self::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
    }

    /// Log filter if `RUST_LOG` is not set. tract warns about every operator set that it was not tested with; our parity tests
    /// cover that.
    pub fn log_filter(&self) -> &'static str {
        match self.command {
            // A daemon's log is read later.
            #[cfg(all(unix, feature = "serve"))]
            Command::Serve(_) => "off,bellis=info",
            _ => "off,bellis=warn",
        }
    }

    /// Runs the selected command.
    pub fn run(self) -> anyhow::Result<()> {
        match self.command {
            Command::Run(command) => command.run(),
            #[cfg(all(unix, feature = "serve"))]
            Command::Serve(command) => command.run(),
            #[cfg(feature = "neighbours")]
            Command::Worker(command) => command.run(),
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
