//! `bellis manual`: man pages and shell completions for packages, generated from the command-line definition.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Args, Command};
use clap_complete::Shell;

/// Write man pages and shell completions
#[derive(Debug, Args)]
pub struct Manual {
    /// Output folder; `man1` and `completions` are created in it
    folder: PathBuf,
}

impl Manual {
    pub fn run(self, command: Command) -> anyhow::Result<()> {
        let folder = |name: &str| -> anyhow::Result<PathBuf> {
            let path = self.folder.join(name);
            std::fs::create_dir_all(&path).with_context(|| path.display().to_string())?;
            Ok(path)
        };
        write(command, &folder("man1")?, &folder("completions")?).with_context(|| self.folder.display().to_string())
    }
}

fn write(mut command: Command, man: &Path, completions: &Path) -> std::io::Result<()> {
    // Before the completions, which fix the `help` subcommand: there is a page per command, but none for `bellis help`.
    clap_mangen::generate_to(command.clone().disable_help_subcommand(true), man)?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        clap_complete::generate_to(shell, &mut command, "bellis", completions)?;
    }
    Ok(())
}
