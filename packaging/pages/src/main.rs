//! Writes landro's manual pages and shell completions: `landro-pages DIR YYYY-MM-DD`.

mod manual;

use std::error::Error;
use std::fs;
use std::path::Path;
use std::process::ExitCode;

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

/// `DIR/man/*.1` and `DIR/completions/*`.
fn write(dir: &Path, date: &str) -> Result<(), Box<dyn Error>> {
    let (pages, completions) = (dir.join("man"), dir.join("completions"));
    fs::create_dir_all(&pages)?;
    fs::create_dir_all(&completions)?;
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
    Ok(())
}
