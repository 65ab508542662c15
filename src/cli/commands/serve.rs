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
use crate::cli::settings::{self, Changed, Origin, Provenance, Setting};
use crate::cli::{diagnostics, trust};
use crate::config::LaneKind;
use crate::daemon::metrics::MetricsAddress;
use crate::daemon::policy::Restrict;
use crate::daemon::{self, Options, Reread};
use crate::engine::one_per_core;

pub fn run(mut args: ServeArgs, provenance: Provenance) -> Result<Exit, CliError> {
    args.config = args.config.as_deref().map(absolute);
    check(&args)?;
    let dir = absolute(&trust::config_dir()?);
    let identity = trust::identity(&dir)?;
    let own = identity.fingerprint();
    tracing::info!(
        "this daemon is {own}, by {}",
        trust::identity_file(&dir).display()
    );
    let diagnostics = diagnostics::asked_for(args.keylog.as_deref(), args.qlog.as_deref());
    let restrict = restrict(&args);
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
        allow: args.allow.clone(),
        partial_max_age: args.partial_max_age,
        metrics: args.metrics.clone().map(in_place),
        restrict,
        root: absolute(&args.root),
        reread: Box::new(move || reread(&args, &provenance)),
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

/// Whether options fit together that each are right.
pub fn check(args: &ServeArgs) -> Result<(), CliError> {
    match args.allow_clear && !args.engine.lane_kinds.has(LaneKind::Tls) {
        true => Err(RouteError::NothingInTheClear.into()),
        false => Ok(()),
    }
}

/// What the configuration says now. Where it cannot be used, the command line and the environment
/// alone let somebody in, for whoever was taken out of the file must not stay in until it can.
fn reread(before: &ServeArgs, provenance: &Provenance) -> Reread {
    match settings::resolve_again(provenance, before.config.as_deref()) {
        Ok(Changed { args, later }) => Reread {
            restrict: Some(restrict(&args)),
            allow: args.allow,
            later,
            problem: None,
        },
        Err(error) => {
            let is_of_file = |setting: &Setting| {
                setting.name == "allow" && matches!(setting.origin, Origin::File { .. })
            };
            let allow = match provenance.all.iter().any(is_of_file) {
                true => Vec::new(),
                false => before.allow.clone(),
            };
            Reread {
                allow,
                restrict: None,
                later: Vec::new(),
                problem: Some(error.to_string()),
            }
        }
    }
}

fn restrict(args: &ServeArgs) -> Restrict {
    match (args.read_only, args.write_only) {
        (true, _) => Restrict::ReadOnly,
        (_, true) => Restrict::WriteOnly,
        _ => Restrict::Nothing,
    }
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
