//! `bellis manual`: what packages install beside the program, made from the command line's own definition.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Args, Command};
use clap_complete::Shell;

/// Write the man pages and the shell completions into a folder
#[derive(Debug, Args)]
pub struct Manual {
    /// The folder; `man1` and `completions` are made in it
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
    // First, since completions settle what `help` is: a page per command is what `man` is asked for, none on `bellis help`.
    clap_mangen::generate_to(command.clone().disable_help_subcommand(true), man)?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        clap_complete::generate_to(shell, &mut command, "bellis", completions)?;
    }
    Ok(())
}
