//! How a command ends: its exit code, and what stops it before or outside of a transfer.

use std::io;

use landro_sys::trusted::Untrusted;

use crate::daemon::DaemonError;
use crate::engine::{EngineError, ShutdownError};

use super::args::route::RouteError;
use super::args::url::UrlError;
use super::say::of_resolver;
use super::settings::SettingsError;
use super::trust::TrustError;

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
    Route(#[from] RouteError),
    #[error(transparent)]
    Url(#[from] UrlError),
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// The daemon's identity is not what it should be; the text says all.
    #[error("{0}")]
    Identity(String),
    #[error(
        "{host}: cannot find its address: {}; is the name spelt right?",
        of_resolver(source)
    )]
    Resolve { host: String, source: io::Error },
    #[error(
        "{host}: no answer from the resolver in {seconds} s: do the name servers of \
         /etc/resolv.conf answer? An address in place of the name needs none"
    )]
    ResolverSilent { host: String, seconds: u64 },
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Daemon(#[from] DaemonError),
    #[error("{0}; nobody may come in by it")]
    Peers(#[from] Untrusted),
    #[error("for --keylog or --qlog: {0}")]
    Diagnostics(Untrusted),
    #[error(
        "--log-format journald: the journal's socket /run/systemd/journal/socket cannot be used: \
         {0}; is systemd-journald running, and the socket visible in this container?"
    )]
    Journal(io::Error),
    #[error("the transfer's worker failed: {0}")]
    Worker(io::Error),
    #[error("setting up signal handling: {0}")]
    Signals(io::Error),
    #[error(
        "{0}: is on another host; unfinished files are removed over there, by landro clean or by \
         landro serve --partial-max-age"
    )]
    NotHere(String),
    #[error("cannot look for unfinished files in {path}: {source}")]
    Search { path: String, source: io::Error },
    #[error("writing to standard output: {0}")]
    Stdout(io::Error),
}

impl CliError {
    /// The exit code, and the word for it in JSON.
    pub fn exit(&self) -> (Exit, &'static str) {
        match self {
            CliError::Route(_) | CliError::Url(_) | CliError::NotHere(_) => (Exit::Usage, "usage"),
            CliError::Settings(SettingsError::File(_)) => (Exit::Error, "other"),
            CliError::Settings(_) => (Exit::Usage, "usage"),
            CliError::Identity(_) => (Exit::Identity, "identity"),
            CliError::Trust(_) => (Exit::Error, "identity"),
            CliError::Resolve { .. } | CliError::ResolverSilent { .. } => {
                (Exit::Unreachable, "unreachable")
            }
            CliError::Daemon(DaemonError::Shutdown(ShutdownError::Stuck { .. })) => {
                (Exit::Stuck, "stuck")
            }
            CliError::Engine(_)
            | CliError::Daemon(_)
            | CliError::Diagnostics(_)
            | CliError::Peers(_)
            | CliError::Journal(_)
            | CliError::Worker(_)
            | CliError::Signals(_)
            | CliError::Search { .. }
            | CliError::Stdout(_) => (Exit::Error, "other"),
        }
    }
}
