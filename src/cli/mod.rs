//! The command: from arguments to an exit code. Only the command lines' own concerns; the work is
//! the engine's.

pub(crate) mod args;
mod bench;
mod client;
mod cp;
mod diagnostics;
pub(crate) mod escape;
mod id;
mod ls;
mod outcome;
mod report;
mod serve;
pub(crate) mod trust;
pub(crate) mod url;

use std::io;
use std::process::ExitCode;

use clap::Parser;
use landro_sys::trusted::Untrusted;
use tracing_subscriber::EnvFilter;

use crate::daemon::DaemonError;
use crate::engine::{EngineError, ShutdownError};

use args::{Arguments, Command, TransferError};
use trust::TrustError;
use url::UrlError;

/// How the process ends; the numbers are part of the interface.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exit {
    Done,
    Error,
    Usage,
    /// Some entries failed, the rest is complete.
    Partial,
    /// Identity unknown, changed or refused, or permission refused by the peer.
    Identity,
    /// Peer unreachable, lost or timed out; a rerun resumes.
    Unreachable,
    /// Destination full.
    Full,
    Integrity,
    /// `serve`: a worker did not stop.
    Stuck,
    /// SIGINT; state kept, a rerun resumes.
    Interrupted,
    /// SIGTERM; state kept, a rerun resumes.
    Terminated,
}

impl Exit {
    pub fn code(self) -> u8 {
        match self {
            Exit::Done => 0,
            Exit::Error => 1,
            Exit::Usage => 2,
            Exit::Partial => 3,
            Exit::Identity => 4,
            Exit::Unreachable => 5,
            Exit::Full => 6,
            Exit::Integrity => 7,
            Exit::Stuck => 8,
            Exit::Interrupted => 128 + signal_hook::consts::SIGINT as u8,
            Exit::Terminated => 128 + signal_hook::consts::SIGTERM as u8,
        }
    }
}

/// Why a command ended before, or outside of, a transfer.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    #[error(transparent)]
    Transfer(#[from] TransferError),
    #[error(transparent)]
    Url(#[from] UrlError),
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// The daemon's identity is not what it should be; the text says all.
    #[error("{0}")]
    Identity(String),
    #[error("{host}: cannot find its address: {source}; is the name spelt right?")]
    Resolve { host: String, source: io::Error },
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Daemon(#[from] DaemonError),
    #[error("for --keylog or --qlog: {0}")]
    Diagnostics(Untrusted),
    #[error("the transfer's worker failed: {0}")]
    Worker(io::Error),
    #[error("setting up signal handling: {0}")]
    Signals(io::Error),
    #[error("writing to standard output: {0}")]
    Stdout(io::Error),
    #[error("{path}: cannot find its real name: {source}; does it exist?")]
    NoName { path: String, source: io::Error },
}

impl CliError {
    /// The exit code, and the word for it in JSON.
    fn exit(&self) -> (Exit, &'static str) {
        match self {
            CliError::Transfer(_) | CliError::Url(_) => (Exit::Usage, "usage"),
            CliError::Identity(_) => (Exit::Identity, "identity"),
            CliError::Trust(_) => (Exit::Error, "identity"),
            CliError::Resolve { .. } => (Exit::Unreachable, "unreachable"),
            CliError::Daemon(DaemonError::Shutdown(ShutdownError::Stuck { .. })) => {
                (Exit::Stuck, "stuck")
            }
            CliError::Engine(_)
            | CliError::Daemon(_)
            | CliError::Diagnostics(_)
            | CliError::Worker(_)
            | CliError::Signals(_)
            | CliError::Stdout(_)
            | CliError::NoName { .. } => (Exit::Error, "other"),
        }
    }
}

/// Runs the command line this process was started with.
pub fn main() -> ExitCode {
    let command = Arguments::parse().command;
    start_log(if matches!(command, Command::Serve(_)) {
        "info"
    } else {
        "warn"
    });
    let result = match command {
        Command::Serve(args) => serve::run(args),
        Command::Cp(args) => cp::run(args),
        Command::Ls(args) => ls::run(args),
        Command::Bench(args) => bench::run(args),
        Command::Id => id::run(),
    };
    let exit = result.unwrap_or_else(|error| {
        eprintln!("landro: {error}");
        error.exit().0
    });
    ExitCode::from(exit.code())
}

/// The log goes to stderr; `LANDRO_LOG` takes tracing's directives, such as `debug` or
/// `landro::quic=trace`.
fn start_log(default: &str) {
    let filter = EnvFilter::try_from_env("LANDRO_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::IsTerminal::is_terminal(&io::stderr()))
        .with_target(false)
        .init();
}
