//! The command: from arguments to an exit code. Only the command lines' own concerns; the work is
//! the engine's.

pub(crate) mod args;
mod commands;
mod diagnostics;
mod dial;
pub(crate) mod escape;
mod exit;
mod output;
mod resolve;
mod say;
mod stance;
pub(crate) mod trust;

use std::io;
use std::process::ExitCode;

use clap::Parser;
use tracing_subscriber::EnvFilter;

use args::{Arguments, CliCommand, habits};
use exit::Exit;

/// What manual pages and completions are made of (packaging/pages).
#[cfg(feature = "internals")]
pub mod manual {
    pub use super::args::reference::{CONFIG_DIR, ENVIRONMENT, EXIT_CODES, FILES, Row, examples};

    /// All commands and their options.
    pub fn command() -> clap::Command {
        <super::args::Arguments as clap::CommandFactory>::command()
    }
}

/// Runs the command line this process was started with.
pub fn main() -> ExitCode {
    let command = match Arguments::try_parse() {
        Ok(arguments) => arguments.command,
        Err(error) => match habits::in_words(&error, std::env::args_os()) {
            Some(words) => {
                eprintln!("{words}");
                return ExitCode::from(Exit::Usage.code());
            }
            None => error.exit(),
        },
    };
    start_log(if matches!(command, CliCommand::Serve(_)) {
        "info"
    } else {
        "warn"
    });
    own_process();
    let exit = commands::run(command).unwrap_or_else(|error| {
        say::say(&say::without_numbers(&format!("landro: {error}")));
        error.exit().0
    });
    ExitCode::from(exit.code())
}

/// What a process is given that is all landro's: the library leaves such things to its program.
fn own_process() {
    // A session may hold some 200 descriptors (64 directories, 64 partial files and their
    // journals), and there are many.
    if let Err(error) = landro_sys::process::raise_open_files() {
        tracing::warn!(%error, "cannot raise the limit of open files (ulimit -n)");
    }
    if !landro_sys::process::has_more_rights_than_its_caller() {
        crate::engine::keep_aside_in(std::env::temp_dir());
    }
}

/// Whether the log may be coloured: on a terminal that has colours, unless somebody wants none
/// (no-color.org).
fn takes_colours() -> bool {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    let is_plain = set("NO_COLOR").is_some() || set("TERM").is_none_or(|term| term == "dumb");
    !is_plain && io::IsTerminal::is_terminal(&io::stderr())
}

/// The log goes to stderr; `LANDRO_LOG` takes tracing's directives, such as `debug` or
/// `landro::quic=trace`.
fn start_log(default: &str) {
    let filter = EnvFilter::try_from_env("LANDRO_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(takes_colours())
        .with_target(false)
        .init();
}
