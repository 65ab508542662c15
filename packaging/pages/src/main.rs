//! Writes landro's manual pages, shell completions and help: `landro-pages DIR YYYY-MM-DD`.

mod manual;

use std::error::Error;
use std::fs;
use std::path::Path;
use std::process::ExitCode;

use clap::Command;
use clap_complete::{Generator, Shell};

/// Where Debian's packages have the completions of a shell is another name for each.
const SHELLS: [(Shell, &str); 3] = [
    (Shell::Bash, "landro"),
    (Shell::Zsh, "_landro"),
    (Shell::Fish, "landro.fish"),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [dir, date] = &arguments[..] else {
        eprintln!("usage: landro-pages DIR YYYY-MM-DD (the date that the pages bear)");
        return ExitCode::from(2);
    };
    match write(Path::new(dir), date) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("landro-pages: cannot write to {dir}: {error}; may you, and is there room?");
            ExitCode::FAILURE
        }
    }
}

/// `DIR/man/*.1`, `DIR/completions/*`, and `DIR/help/*`: what each command says with `--help`, by
/// which packaging/deb.sh sees that a binary is of these sources.
fn write(dir: &Path, date: &str) -> Result<(), Box<dyn Error>> {
    let [pages, completions, help] = ["man", "completions", "help"].map(|name| dir.join(name));
    for dir in [&pages, &completions, &help] {
        fs::create_dir_all(dir)?;
    }
    for page in manual::pages(date)? {
        fs::write(pages.join(page.file), page.text)?;
    }
    for (shell, name) in SHELLS {
        let mut command = landro::cli::manual::command();
        command.set_bin_name("landro");
        command.build();
        let mut text = Vec::new();
        shell.generate(&command, &mut text);
        fs::write(completions.join(name), text)?;
    }
    let mut landro = landro::cli::manual::command();
    landro.build();
    fs::write(help.join("landro"), landro.render_long_help().to_string())?;
    let is_ours = |command: &&mut Command| command.get_name() != "help";
    for command in landro.get_subcommands_mut().filter(is_ours) {
        let name = format!("landro-{}", command.get_name());
        fs::write(help.join(name), command.render_long_help().to_string())?;
    }
    Ok(())
}
