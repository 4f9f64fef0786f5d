//! Output of the commands. A reader that closed standard output (`bellis inspect | head -1`) ends the program quietly, and standard error
//! that cannot be written is no reason to stop: the macros of the standard library panic in both cases.

use std::fmt::Arguments;
use std::io::{ErrorKind, Write};

/// Writes to standard output.
pub fn out(text: Arguments<'_>) {
    let mut stdout = std::io::stdout().lock();
    if let Err(error) = stdout.write_fmt(text).and_then(|()| stdout.flush()) {
        if error.kind() == ErrorKind::BrokenPipe {
            std::process::exit(0);
        }
        err(format_args!("error: standard output: {error}\n"));
        std::process::exit(1);
    }
}

/// Writes to standard error.
pub fn err(text: Arguments<'_>) {
    // In one call, so that it does not interleave with the log. A failure cannot be reported anywhere.
    let _ = std::io::stderr().write_all(std::fmt::format(text).as_bytes());
}

macro_rules! out {
    ($($text:tt)*) => { $crate::cli::say::out(format_args!($($text)*)) };
}
macro_rules! outln {
    () => { $crate::cli::say::out(format_args!("\n")) };
    ($($text:tt)*) => { $crate::cli::say::out(format_args!("{}\n", format_args!($($text)*))) };
}
macro_rules! err {
    ($($text:tt)*) => { $crate::cli::say::err(format_args!($($text)*)) };
}
macro_rules! errln {
    ($($text:tt)*) => { $crate::cli::say::err(format_args!("{}\n", format_args!($($text)*))) };
}
