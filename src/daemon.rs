//! `landro serve` around the engine: who may come in, signals, and what the service manager is
//! told.

pub mod metrics;
pub mod notify;
mod partials;
pub mod policy;
pub mod visits;
mod watch;

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use landro_sys::trusted::{self, Others, Untrusted};

use crate::config::{LaneKinds, QuicConfig};
use crate::engine::{
    self, BackendChoice, EngineError, PeerAccess, ServeConfig, Server, ShutdownError,
};
use crate::ids::Fingerprint;
use crate::quic::Identity;
use crate::signals::{Hangup, Signals};

use metrics::{Endpoint, MetricsAddress, MetricsError};
use partials::Partials;
use policy::{Policy, Restrict};
use visits::VisitKeeper;
use watch::Watch;

/// Larger than [`policy::MAX_PEERS`] lines with options and short comments.
pub const AUTHORIZED_PEERS_MAX_BYTES: u64 = 16 << 20;

/// Bad lines that are told one by one.
const BAD_LINES_TOLD: usize = 50;

/// One daemon, resolved: nothing is asked of the environment later except what systemd says in it.
pub struct Options {
    pub listen: Vec<SocketAddr>,
    pub root: PathBuf,
    pub workers: usize,
    pub backend: BackendChoice,
    pub quic: QuicConfig,
    pub memory_budget_bytes: u64,
    /// How long nothing may be got on with in a session; None: for ever.
    pub patience: Option<Duration>,
    /// What is listened for.
    pub lane_kinds: LaneKinds,
    /// Of what is sent over TCP; None: the kernel's default.
    pub tcp_congestion: Option<String>,
    /// The kernel seals and opens the records of TLS, where it can.
    pub ktls: bool,
    /// Where values of chunks are remembered; None: they are not.
    pub digest_cache: Option<PathBuf>,
    pub allow_clear: bool,
    pub identity: Identity,
    pub reset_secret: [u8; 32],
    /// The file; it need not exist. Read again on SIGHUP.
    pub authorized_peers: PathBuf,
    /// Peers let in beside those of the file.
    pub allow: Vec<Fingerprint>,
    pub restrict: Restrict,
    /// Unfinished files go when they are older.
    pub partial_max_age: Option<Duration>,
    /// Where numbers are told; None: nowhere.
    pub metrics: Option<MetricsAddress>,
    /// Asked on SIGHUP.
    pub reread: Box<dyn Fn() -> Reread>,
}

/// What the configuration says now.
pub struct Reread {
    /// Peers let in beside those of the file.
    pub allow: Vec<Fingerprint>,
    /// None: it cannot be told, and stays.
    pub restrict: Option<Restrict>,
    /// What changed and is so only when the daemon is started anew.
    pub later: Vec<String>,
    /// Why the configuration cannot be used; `allow` is what holds without it.
    pub problem: Option<String>,
}

/// Who may do what, as it is now.
struct Standing {
    policy: Policy,
    restrict: Restrict,
    /// When the time of the next peer is over, in seconds since the epoch.
    expiry_unix_s: Option<i64>,
    /// When that was last looked at: a clock may be set back.
    looked_unix_s: i64,
}

impl Standing {
    fn new(policy: Policy, restrict: Restrict) -> Standing {
        let now_unix_s = engine::before(Duration::ZERO);
        Standing {
            expiry_unix_s: policy.next_expiry_unix_s(now_unix_s),
            looked_unix_s: now_unix_s,
            policy,
            restrict,
        }
    }

    /// What the configuration and the file of peers say now.
    fn change(&mut self, policy: Policy, restrict: Option<Restrict>) {
        *self = Standing::new(policy, restrict.unwrap_or(self.restrict));
    }

    /// What a peer may do now.
    fn access(&self, peer: &Fingerprint) -> Option<PeerAccess> {
        let now_unix_s = engine::before(Duration::ZERO);
        self.policy.access(peer, self.restrict, now_unix_s)
    }

    /// Whether somebody's time is over since this was last asked.
    fn has_expired(&mut self) -> bool {
        let now_unix_s = engine::before(Duration::ZERO);
        let has_expired = self.expiry_unix_s.is_some_and(|at| at <= now_unix_s);
        let is_set_back = now_unix_s < std::mem::replace(&mut self.looked_unix_s, now_unix_s);
        if has_expired || is_set_back {
            self.expiry_unix_s = self.policy.next_expiry_unix_s(now_unix_s);
        }
        has_expired
    }
}

/// Why a daemon did not start or run on.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error("{0}; it authorises nobody")]
    Peers(#[from] Untrusted),
    #[error("starting the thread that looks for unfinished files: {0}")]
    Partials(io::Error),
    #[error("starting the thread that writes down who came: {0}")]
    Visits(io::Error),
    #[error(transparent)]
    Metrics(#[from] MetricsError),
    #[error("setting up signal handling: {0}")]
    Signals(io::Error),
    #[error("writing to standard output: {0}")]
    Ready(io::Error),
    #[error(transparent)]
    Shutdown(#[from] ShutdownError),
}

/// Serves until SIGINT or SIGTERM; `ready` is called once peers can connect, with the bound
/// addresses.
///
/// # Errors
/// The daemon could not start.
pub fn run(
    options: Options,
    ready: impl FnOnce(&[SocketAddr]) -> io::Result<()>,
) -> Result<(), DaemonError> {
    let signals = Signals::catch(Hangup::Catch).map_err(DaemonError::Signals)?;
    let Options {
        authorized_peers,
        allow,
        restrict,
        ..
    } = options;
    let policy = load(&authorized_peers, &allow)?;
    let standing = Arc::new(RwLock::new(Standing::new(policy, restrict)));
    let asked = Arc::clone(&standing);
    // A poisoned lock still holds a whole policy: it is replaced in one assignment.
    let authorize = Arc::new(move |peer: &Fingerprint| {
        let standing = asked.read().unwrap_or_else(PoisonError::into_inner);
        standing.access(peer)
    });
    let server = Server::start(ServeConfig {
        listen: options.listen,
        root: options.root.clone(),
        workers: options.workers,
        backend: options.backend,
        quic: options.quic,
        memory_budget_bytes: options.memory_budget_bytes,
        patience: options.patience,
        lane_kinds: options.lane_kinds,
        tcp_congestion: options.tcp_congestion,
        ktls: options.ktls,
        digest_cache: options.digest_cache,
        allow_clear: options.allow_clear,
        identity: options.identity,
        reset_secret: options.reset_secret,
        authorize,
    })?;
    let (backend, reason) = server.backend();
    let search = |age| Partials::start(options.root.clone(), age);
    let partials = options.partial_max_age.map(search).transpose();
    // Searches until this function is over.
    let _partials = partials.map_err(DaemonError::Partials)?;
    // Answers until this function is over.
    let answer = |at| Endpoint::start(at, server.numbers());
    let _metrics = options.metrics.as_ref().map(answer).transpose()?;
    tracing::info!("serving {} on {backend} ({reason})", options.root.display());
    ready(server.addresses()).map_err(DaemonError::Ready)?;
    notify::tell("READY=1");
    let mut watch = Watch::new(&server, notify::watchdog());
    // Written down until this function is over.
    let _visits = keep_visits(&authorized_peers, &server, standing.clone())?;
    let write = || standing.write().unwrap_or_else(PoisonError::into_inner);
    while signals.wait(watch.pause()).is_none() && !server.has_failed() {
        watch.look(&server);
        if write().has_expired() {
            tracing::info!("the time of a peer is over: what it is doing ends");
            server.reauthorise();
        }
        if signals.take_hangup() {
            let new = (options.reread)();
            tell(&new);
            // Before the lock is taken: workers ask by it, and a disk may not answer.
            let policy = load_again(&authorized_peers, &new.allow);
            write().change(policy, new.restrict);
            server.reauthorise();
        }
    }
    tracing::info!("stopping; a second signal quits at once");
    notify::tell("STOPPING=1");
    Ok(server.shutdown().map(drop)?)
}

/// Who came is written down beside the file of who may.
fn keep_visits(
    authorized_peers: &Path,
    server: &Server,
    standing: Arc<RwLock<Standing>>,
) -> Result<VisitKeeper, DaemonError> {
    let dir = authorized_peers.parent().unwrap_or(Path::new("/"));
    let knows = move |peer: &Fingerprint| {
        let standing = standing.read().unwrap_or_else(PoisonError::into_inner);
        standing.policy.knows(peer)
    };
    VisitKeeper::start(dir, server.visits(), Box::new(knows)).map_err(DaemonError::Visits)
}

/// What of the configuration does not hold now.
fn tell(new: &Reread) {
    if let Some(problem) = &new.problem {
        tracing::error!(
            "{problem}: the configuration stays as it was, but for its `allow`, which lets NOBODY in until it is \
             mended and SIGHUP sent"
        );
    }
    for setting in &new.later {
        tracing::warn!("{setting}: is so when the daemon is started anew");
    }
}

/// As [`load`]: whoever is taken out of a file that cannot be read now must not stay in until it
/// can.
fn load_again(path: &Path, allow: &[Fingerprint]) -> Policy {
    load(path, allow).unwrap_or_else(|error| {
        tracing::error!(
            "{error}: NOBODY IS LET IN any more but by --allow, until it is mended and SIGHUP sent"
        );
        Policy::of(allow)
    })
}

/// `authorized_peers` with the command line on top; says how many there are and which lines were no
/// use.
fn load(path: &Path, allow: &[Fingerprint]) -> Result<Policy, DaemonError> {
    let text = match trusted::read(path, Others::MayRead, AUTHORIZED_PEERS_MAX_BYTES) {
        Err(error) if error.is_not_found() => Vec::new(),
        text => text?,
    };
    let (mut policy, bad) = Policy::parse(&text);
    for line in bad.iter().take(BAD_LINES_TOLD) {
        tracing::error!("{}: {line}", path.display());
    }
    if bad.len() > BAD_LINES_TOLD {
        let more = bad.len() - BAD_LINES_TOLD;
        tracing::error!(
            "{}: {more} more lines authorise nobody; is this the right file?",
            path.display()
        );
    }
    allow.iter().for_each(|peer| policy.allow(*peer));
    match policy.len_at(engine::before(Duration::ZERO)) {
        0 => tracing::warn!(
            "nobody is authorised, so nobody is let in: put the line that `landro id` prints on the client into \
             {} and send SIGHUP, or start with --allow",
            path.display()
        ),
        1 => tracing::info!("1 peer is authorised"),
        peers => tracing::info!("{peers} peers are authorised"),
    }
    Ok(policy)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn peer(byte: u8) -> Fingerprint {
        Fingerprint([byte; 32])
    }

    #[test]
    fn a_missing_file_authorises_nobody_but_the_command_line() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("authorized_peers");
        assert!(load(&path, &[]).unwrap().is_empty());
        let policy = load(&path, &[peer(1)]).unwrap();
        assert!(
            policy
                .access(&peer(1), Restrict::Nothing, 0)
                .is_some_and(|a| a.access.read && a.access.write)
        );
    }

    #[test]
    fn a_file_others_may_write_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("authorized_peers");
        fs::write(&path, format!("{}\n", peer(1))).unwrap();
        for mode in [0o666, 0o664] {
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            assert!(matches!(
                load(&path, &[]),
                Err(DaemonError::Peers(Untrusted::Writable { .. }))
            ));
        }
        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        assert_eq!(load(&path, &[]).unwrap().len(), 1);
    }
}
