//! The `bellis` command: a thin shell over the library.

mod cli;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    // tract warns of every operator set that it was not tested with; what a stage computes is held against a reference instead.
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("warn,tract_onnx=error")).init();
    quiet_while_loading();
    match cli::Cli::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// A broken graph can make a library panic while it is read. That is caught and reported as an error with the file's name; the
/// panic itself need not be printed, too.
fn quiet_while_loading() {
    let default = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| match bellis::engine::is_loading() {
        true => log::debug!("caught while loading: {panic}"),
        false => default(panic),
    }));
}
