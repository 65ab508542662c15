//! What `landro` does for each of its commands: a file for each.

mod bench;
mod clean;
mod config;
mod cp;
mod id;
mod ls;
mod peers;
mod serve;

use super::args::CliCommand;
use super::exit::{CliError, Exit};
use super::settings::Provenance;

/// Runs one command to its end; an error is one that nobody was told yet. `provenance`: who told
/// `serve` what.
pub fn run(command: CliCommand, provenance: Provenance) -> Result<Exit, CliError> {
    match command {
        CliCommand::Serve(args) => serve::run(args, provenance),
        CliCommand::Cp(args) => cp::run(args),
        CliCommand::Ls(args) => ls::run(args),
        CliCommand::Clean(args) => clean::run(args),
        CliCommand::Bench(args) => bench::run(args),
        CliCommand::Id(args) => id::run(args),
        CliCommand::Peers(args) => peers::run(args),
        CliCommand::Config(args) => config::run(args),
    }
}
