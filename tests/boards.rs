//! The presets of all boards work with the program and their pack, and the man pages and completions are generated.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::path::PathBuf;
use std::process::{Command, Output};

use common::repository;

fn bellis(arguments: &[&std::ffi::OsStr]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_bellis")).args(arguments).current_dir(repository("")).output().unwrap()
}

/// Folders of `targets` that are boards.
fn boards() -> Vec<PathBuf> {
    let folders = std::fs::read_dir(repository("targets")).unwrap().map(|entry| entry.unwrap().path());
    let boards: Vec<PathBuf> = folders.filter(|folder| folder.join("board").is_file()).collect();
    assert!(boards.len() >= 6, "boards are missing: {boards:?}");
    boards
}

#[test]
fn presets_run() {
    for board in boards() {
        let preset = board.join("bellis.toml");
        let arguments = ["run", "models/sample.wav", "--consumer", "jsonl", "--config"].map(std::ffi::OsStr::new);
        let output = bellis(&[&arguments[..], &[preset.as_os_str()]].concat());
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: {stderr}", preset.display());
        assert!(!output.stdout.is_empty(), "{}: no output", preset.display());
    }
}

#[test]
fn every_board_has_build_settings_and_a_readme() {
    for board in boards() {
        let text = std::fs::read_to_string(board.join("board")).unwrap();
        for key in ["NAME=", "TRIPLE=", "CPU=", "KERNELS=", "GHZ=", "L2_MB=", "MEMORY_GBS="] {
            assert!(text.lines().any(|line| line.starts_with(key)), "{}: no {key}", board.display());
        }
        assert!(board.join("README.md").is_file(), "{}: no README.md", board.display());
    }
}

#[test]
fn man_pages_and_completions() {
    let folder = tempfile::tempdir().unwrap();
    let output = bellis(&["manual".as_ref(), folder.path().as_os_str()]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let read = |path: &str| std::fs::read_to_string(folder.path().join(path)).unwrap();
    assert!(read("man1/bellis.1").contains("bellis\\-run(1)"), "the first page does not list the others");
    assert!(read("man1/bellis-run.1").contains("policy"));
    assert!(!folder.path().join("man1/bellis-manual.1").exists(), "the hidden command has a page");
    for file in ["bellis.bash", "_bellis", "bellis.fish"] {
        assert!(read(&format!("completions/{file}")).contains("inspect"), "{file}");
    }
}
