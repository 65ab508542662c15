//! The command: from arguments to an exit code. Only the command lines' own concerns; the work is
//! the engine's.

pub(crate) mod args;
mod commands;
mod diagnostics;
mod dial;
pub(crate) mod escape;
mod exit;
mod log;
mod output;
mod resolve;
mod say;
mod settings;
mod stance;
pub(crate) mod trust;

use std::process::ExitCode;

use clap::Parser;

use args::{Arguments, CliCommand, LogFormat, habits};
use exit::{CliError, Exit};

/// What manual pages and completions are made of (packaging/pages).
#[cfg(feature = "internals")]
pub mod manual {
    pub use super::args::reference::{
        CONFIG_DIR, ENVIRONMENT, EXIT_CODES, FILES, OTHER_FILES, Row, examples,
    };

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
    let (command, provenance) = match settings::complete(command) {
        Ok(completed) => completed,
        Err(error) => {
            let error = CliError::from(error);
            say::say(&say::without_numbers(&format!("landro: {error}")));
            return ExitCode::from(error.exit().0.code());
        }
    };
    let (level, format) = match &command {
        CliCommand::Serve(args) => ("info", args.log_format),
        _ => ("warn", LogFormat::Text),
    };
    if let Err(error) = log::start(level, format) {
        say::say(&format!("landro: {error}"));
        return ExitCode::from(error.exit().0.code());
    }
    own_process();
    let exit = commands::run(command, provenance).unwrap_or_else(|error| {
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
