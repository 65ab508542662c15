//! What `landro` does for each of its commands: a file for each.

mod bench;
mod cp;
mod id;
mod ls;
mod serve;

use super::args::CliCommand;
use super::exit::{CliError, Exit};

/// Runs one command to its end; an error is one that nobody was told yet.
pub fn run(command: CliCommand) -> Result<Exit, CliError> {
    match command {
        CliCommand::Serve(args) => serve::run(args),
        CliCommand::Cp(args) => cp::run(args),
        CliCommand::Ls(args) => ls::run(args),
        CliCommand::Bench(args) => bench::run(args),
        CliCommand::Id(args) => id::run(args),
    }
}
