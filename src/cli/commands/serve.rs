//! `landro serve`: options resolved, and the one line that says the daemon is ready.

use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use crate::budget::DEFAULT_MEMORY_BUDGET_BYTES;
use crate::cli::args::ServeArgs;
use crate::cli::args::listen::{InUrl, everywhere};
use crate::cli::args::route::RouteError;
use crate::cli::args::url::DEFAULT_PORT;
use crate::cli::exit::{CliError, Exit};
use crate::cli::{diagnostics, trust};
use crate::config::LaneKind;
use crate::daemon::metrics::MetricsAddress;
use crate::daemon::policy::Restrict;
use crate::daemon::{self, Options};
use crate::engine::one_per_core;

pub fn run(args: ServeArgs) -> Result<Exit, CliError> {
    if args.allow_clear && !args.engine.lane_kinds.has(LaneKind::Tls) {
        return Err(RouteError::NothingInTheClear.into());
    }
    let dir = absolute(&trust::config_dir()?);
    let identity = trust::identity(&dir)?;
    let own = identity.fingerprint();
    tracing::info!(
        "this daemon is {own}, by {}",
        trust::identity_file(&dir).display()
    );
    let diagnostics = diagnostics::asked_for(args.keylog.as_deref(), args.qlog.as_deref());
    let options = Options {
        listen: listen(&args),
        backend: args.engine.backend(),
        quic: {
            let quic = args.engine.quic();
            quic.diagnostics(diagnostics.map_err(CliError::Diagnostics)?)
        },
        workers: args.workers.map_or_else(one_per_core, usize::from),
        patience: args.engine.patience(),
        lane_kinds: args.engine.lane_kinds,
        tcp_congestion: args.engine.tcp_congestion.clone(),
        ktls: args.engine.ktls(),
        digest_cache: args.digest_cache.as_deref().map(absolute),
        allow_clear: args.allow_clear,
        memory_budget_bytes: args.memory_budget.unwrap_or(DEFAULT_MEMORY_BUDGET_BYTES),
        identity,
        reset_secret: trust::reset_secret(&dir).unwrap_or_else(|error| {
            tracing::warn!("{error}; after a restart peers of this run learn late that it is over");
            rand::random()
        }),
        authorized_peers: dir.join("authorized_peers"),
        allow: args.allow,
        partial_max_age: args.partial_max_age,
        metrics: args.metrics.map(in_place),
        restrict: match (args.read_only, args.write_only) {
            (true, _) => Restrict::ReadOnly,
            (_, true) => Restrict::WriteOnly,
            _ => Restrict::Nothing,
        },
        root: absolute(&args.root),
    };
    // What is below the working directory of a daemon could not be unmounted.
    if let Err(error) = std::env::set_current_dir("/") {
        tracing::warn!("the working directory is kept, and so mounted: {error}");
    }
    daemon::run(options, |addresses| {
        let urls: Vec<String> = addresses
            .iter()
            .map(|&address| format!("landro://{}/", InUrl(address)))
            .collect();
        let mut stdout = std::io::stdout().lock();
        writeln!(stdout, "listening on {} id {own}", urls.join(" "))?;
        stdout.flush()
    })?;
    Ok(Exit::Done)
}

/// The same of a socket.
fn in_place(at: MetricsAddress) -> MetricsAddress {
    match at {
        MetricsAddress::Unix(path) => MetricsAddress::Unix(absolute(&path)),
        MetricsAddress::Tcp(_) => at,
    }
}

/// As it was meant where the daemon was started.
fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf())
}

/// Cores this process may use: its affinity and its cgroup's quota count. A connection id has room
/// for 255.
fn listen(args: &ServeArgs) -> Vec<SocketAddr> {
    if args.listen.is_empty() {
        return vec![everywhere(DEFAULT_PORT)];
    }
    args.listen
        .iter()
        .flat_map(|listen| listen.0.clone())
        .collect()
}
