//! The `bellis` command.

// As in the library.
#![cfg_attr(not(all(feature = "bench", feature = "cli", feature = "home")), allow(dead_code, unused_imports, unused_macros))]
#![deny(clippy::print_stdout, clippy::print_stderr)]

#[macro_use]
mod cli;

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = cli::Cli::read();
    start_log(cli.log_filter());
    quiet_while_loading();
    match cli.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The error and its causes; no error of the library repeats its cause.
            errln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start_log(filter: &str) {
    let mut log = env_logger::Builder::from_env(env_logger::Env::default().default_filter_or(filter));
    // systemd's journal adds the time itself, and reads the level from a prefix (sd-daemon(3)).
    if std::env::var_os("JOURNAL_STREAM").is_some() && !std::io::stderr().is_terminal() {
        log.format(|out, record| {
            let level = match record.level() {
                log::Level::Error => 3,
                log::Level::Warn => 4,
                log::Level::Info => 6,
                log::Level::Debug | log::Level::Trace => 7,
            };
            writeln!(out, "<{level}>{}", record.args())
        });
    }
    log.init();
}

/// Keeps panics of the ONNX library on broken graphs off the terminal: they are caught and reported as an error with the file's name.
fn quiet_while_loading() {
    let default = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| match bellis::internal::is_loading() {
        true => log::debug!("caught a panic while loading: {panic}"),
        false => default(panic),
    }));
}
