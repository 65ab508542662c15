//! The workers of an embedding program: those that dial, those that let peers in, and what its
//! transfers begin with.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use super::host::{Host, HostConfig};
use super::server::{ServeConfig, Server};
use super::{
    BackendChoice, Client, ClientConfig, DEFAULT_STREAMS, EngineError, Persistence, now,
    one_per_core,
};
use crate::config::{LaneCount, LaneKinds, QuicConfig};
use crate::proto::session::{PATIENCE, Request};
use crate::quic::{Identity, Trust};
use crate::worker::{AcceptQueue, Authorize, Programs};

/// A worker that has not ended by then waits for the kernel, and nobody waits for it.
const SHUTDOWN_AT_MOST: Duration = Duration::from_secs(8);

const JOIN_PAUSE: Duration = Duration::from_millis(1);

/// What the workers of a program are to be.
pub(crate) struct EmbeddedConfig {
    pub(crate) workers: usize,
    pub(crate) backend: BackendChoice,
    pub(crate) quic: QuicConfig,
    pub(crate) memory_budget_bytes: u64,
    pub(crate) identity: Identity,
    /// Where peers are let in. Empty: nobody is.
    pub(crate) listen: Vec<SocketAddr>,
    /// Names of its protocols (RFC 7301), in the order of preference, and whom it speaks them with.
    pub(crate) protocols: Vec<Vec<u8>>,
    pub(crate) trust: Trust,
    /// Peers may send before the handshake is complete.
    pub(crate) accepts_early: bool,
    pub(crate) served: Option<ServedDirectory>,
}

/// A directory that peers copy from and to, and who may.
pub(crate) struct ServedDirectory {
    pub(crate) root: PathBuf,
    pub(crate) authorize: Authorize,
}

/// Workers that run. They are told to end when this is dropped.
pub(crate) struct Embedded {
    /// Dials; lets peers in, too, where no directory is served.
    host: Host,
    server: Option<Server>,
    incoming: Arc<AcceptQueue>,
    backend: BackendChoice,
    quic: QuicConfig,
    memory_budget_bytes: u64,
    transfers: Arc<Transfers>,
}

/// Transfers that are under way, and whether they are to end.
#[derive(Default)]
struct Transfers {
    running: AtomicUsize,
    are_ending: AtomicBool,
}

/// One transfer that is under way, until this is dropped.
pub(crate) struct RunningCount(Arc<Transfers>);

impl Drop for RunningCount {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::Release);
    }
}

impl Embedded {
    /// Binds, and starts the workers.
    ///
    /// # Errors
    /// An address or the directory cannot be had, a worker cannot set up its ring, or the
    /// configuration is impossible.
    pub(crate) fn start(config: EmbeddedConfig) -> Result<Embedded, EngineError> {
        let incoming = Arc::<AcceptQueue>::default();
        let programs = || Programs {
            protocols: config.protocols.clone(),
            trust: config.trust.clone(),
            accepts_early: config.accepts_early,
            incoming: incoming.clone(),
        };
        // One of both lets peers in: what serves a directory speaks the program's protocols, too.
        let (of_host, of_server) = match config.served {
            None => (config.listen, None),
            Some(served) => (Vec::new(), Some((served, config.listen))),
        };
        let host = Host::start(HostConfig {
            workers: config.workers,
            backend: config.backend,
            quic: config.quic.clone(),
            memory_budget_bytes: config.memory_budget_bytes,
            identity: config.identity.clone(),
            listen: of_host,
            programs: programs(),
        })?;
        let serve = |(served, listen): (ServedDirectory, Vec<SocketAddr>)| {
            let config = ServeConfig {
                listen,
                root: served.root,
                workers: config.workers,
                backend: config.backend,
                quic: config.quic.clone(),
                memory_budget_bytes: config.memory_budget_bytes,
                patience: Some(PATIENCE),
                lane_kinds: LaneKinds::Both,
                tcp_congestion: None,
                ktls: true,
                digest_cache: None,
                allow_clear: false,
                identity: config.identity.clone(),
                reset_secret: rand::random(),
                authorize: served.authorize,
            };
            Server::start_with(config, Some(programs()))
        };
        Ok(Embedded {
            server: of_server.map(serve).transpose()?,
            host,
            incoming,
            backend: config.backend,
            quic: config.quic,
            memory_budget_bytes: config.memory_budget_bytes,
            transfers: Arc::default(),
        })
    }

    pub(crate) fn host(&self) -> &Host {
        &self.host
    }

    pub(crate) fn incoming(&self) -> &Arc<AcceptQueue> {
        &self.incoming
    }

    /// What is listened on, with the ports taken for port 0.
    pub(crate) fn addresses(&self) -> &[SocketAddr] {
        match &self.server {
            Some(server) => server.addresses(),
            None => self.host.addresses(),
        }
    }

    /// Who may copy is asked again of everybody who is in.
    pub(crate) fn reauthorise(&self) {
        if let Some(server) = &self.server {
            server.reauthorise();
        }
    }

    /// Another transfer is under way.
    pub(crate) fn begin_transfer(&self) -> RunningCount {
        self.transfers.running.fetch_add(1, Ordering::Relaxed);
        RunningCount(self.transfers.clone())
    }

    /// Whether transfers are to end.
    pub(crate) fn is_ending(&self) -> bool {
        self.transfers.are_ending.load(Ordering::Acquire)
    }

    /// Begins a request to a daemon, on workers of its own.
    ///
    /// # Errors
    /// No socket or ring can be had.
    pub(crate) fn request(
        &self,
        peer: Vec<SocketAddr>,
        trust: Trust,
        request: Request,
    ) -> Result<Client, EngineError> {
        let lanes = LaneCount::Auto;
        let workers = match &request {
            Request::Transfer(_) | Request::Bench { .. } => lanes.lanes().min(one_per_core()),
            // One lane is all that these have.
            Request::List { .. } | Request::Queries => 1,
        };
        let config = ClientConfig {
            peer,
            binds: Vec::new(),
            backend: self.backend,
            quic: self.quic.clone(),
            memory_budget_bytes: self.memory_budget_bytes,
            patience: Some(PATIENCE),
            persistence: Persistence::default(),
            identity: self.host.identity().clone(),
            trust,
            streams: usize::from(DEFAULT_STREAMS),
            lane_kinds: LaneKinds::Both,
            lanes,
            workers,
            clear: false,
            tcp_congestion: None,
            ktls: true,
        };
        Client::start(config, request)
    }

    /// Closes all connections and waits for the workers to end, for some seconds at most.
    pub(crate) fn shut_down(&self) {
        self.tell_to_end();
        let is_running = || {
            self.host.is_running()
                || self.server.as_ref().is_some_and(Server::is_running)
                || self.transfers.running.load(Ordering::Acquire) > 0
        };
        let until = now() + SHUTDOWN_AT_MOST;
        while now() < until && is_running() {
            thread::sleep(JOIN_PAUSE);
        }
    }

    fn tell_to_end(&self) {
        self.transfers.are_ending.store(true, Ordering::Release);
        if let Some(server) = &self.server {
            server.tell_to_end();
        }
        self.host.tell_to_end();
        self.incoming.end();
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.tell_to_end();
    }
}
