//! A daemon: the workers that serve a root, from their start to their end.

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use std::{io, thread};

use landro_sys::numa::{CoreOfNode, Topology};
use landro_sys::{Backend, Caps, Pool};

use super::numbers::DaemonNumbers;
use super::sockets::{Sockets, bind_all, rule};
use super::workers::{Chosen, Sharing, WorkerThread, choose, share, spawn};
use super::{
    BackendChoice, EngineError, before, checked, demand_calls, now, tcp_limits, tls_in_kernel,
};
use crate::budget::Budget;
use crate::config::{LaneKinds, QuicConfig};
use crate::disk::{Digests, ServedRoot};
use crate::ids::WorkerId;
use crate::metrics::Metrics;
use crate::quic::{Identity, Secrets, Setup, TRANSFER_PROTOCOL, TicketKeys, Trust};
use crate::tcp::{ClearPasses, TcpSetup};
use crate::worker::{
    Authorize, ListenAt, Mail, Mailbox, OwnAddresses, Programs, Service, Shared, TransportStats,
    Visits, WorkerParts,
};

/// How long a daemon that is told to stop tells its peers.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(5);

/// A worker that has not ended by then never will: after the grace its driver waits up to 2 s for
/// the kernel to let go of its memory.
const SHUTDOWN_AT_MOST: Duration = Duration::from_secs(12);

/// How often it is looked whether a worker has ended.
const JOIN_PAUSE: Duration = Duration::from_millis(2);

/// Why a daemon did not end in order.
#[derive(Debug, thiserror::Error)]
pub enum ShutdownError {
    #[error("a worker failed: {0}")]
    Worker(io::Error),
    #[error(
        "{workers} did not stop within {} s, so the process ends without them; does a mount below the root not answer?",
        SHUTDOWN_AT_MOST.as_secs()
    )]
    Stuck { workers: String },
}

pub struct ServeConfig {
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
    /// By whose rules data leaves over TCP; None: the kernel's default.
    pub tcp_congestion: Option<String>,
    /// The kernel seals and opens the records of TLS, where it can.
    pub ktls: bool,
    /// Where values of chunks are remembered; None: they are not.
    pub digest_cache: Option<PathBuf>,
    /// Whose access says so may have lanes without TLS beside the others.
    pub allow_clear: bool,
    pub identity: Identity,
    /// Of this host's daemons, the same after a restart: what stateless resets are made from.
    pub reset_secret: [u8; 32],
    pub authorize: Authorize,
}

/// A running daemon.
pub struct Server {
    addresses: Vec<SocketAddr>,
    backend: (Backend, String),
    shared: Arc<Shared>,
    threads: Vec<WorkerThread>,
}

impl Server {
    /// Binds, opens the root and starts the workers.
    ///
    /// # Errors
    /// When an address or the root cannot be had, a worker cannot set up its ring, or the
    /// configuration is impossible.
    pub fn start(config: ServeConfig) -> Result<Server, EngineError> {
        Server::start_with(config, None)
    }

    /// As [`Server::start`], for a program that may have protocols of its own beside `landro/1`, on
    /// the same ports over QUIC.
    pub(crate) fn start_with(
        mut config: ServeConfig,
        programs: Option<Programs>,
    ) -> Result<Server, EngineError> {
        config.quic = checked(config.quic)?;
        demand_calls()?;
        say_if_unweighed();
        let chosen = choose(config.backend, || Caps::probe().io_uring)?;
        let workers = config.workers.clamp(1, 255) as u8;
        let root = served(&config.root)?;
        let (addresses, sockets) = bind_all(&config.listen, workers, config.lane_kinds)?;
        if let Some(name) = &config.tcp_congestion {
            rule(&sockets, name).map_err(EngineError::Congestion)?;
        }
        let budget = Budget::new(
            config.memory_budget_bytes,
            workers,
            config.quic.receive_window_bytes,
        );
        let pool_buffers = budget.pool_bytes_per_worker() as usize / Pool::BUFFER_BYTES;
        let service = service(&config, root, &addresses);
        let secrets = Arc::new(Secrets::of_daemon(
            &config.reset_secret,
            &absolute(&config.root),
            now(),
        ));
        let (shared, inboxes) = share(
            workers,
            Sharing {
                secrets,
                budget,
                quic: config.quic.clone(),
                lane_kinds: config.lane_kinds,
                tcp_congestion: config.tcp_congestion.clone(),
                patience: config.patience,
                service: Some(service),
                added_lanes: None,
                digests: remembering(config.digest_cache.as_deref())?,
                programs,
                metrics: Arc::new(Metrics::new(workers)),
            },
        );
        let tickets = TicketKeys::random()?;
        let is_tls_in_kernel = tls_in_kernel(config.ktls).is_some_and(|found| found.is_yes());
        let places = places(&shared, &addresses)?;
        let mut server = Server {
            addresses,
            backend: (chosen.backend(), String::new()),
            shared: shared.clone(),
            threads: Vec::new(),
        };
        let mut no_ring = Vec::new();
        for (number, (sockets, inbox)) in sockets.into_iter().zip(inboxes).enumerate() {
            let listen = listening(&config, &tickets, sockets, is_tls_in_kernel, &shared)?;
            let started = spawn(WorkerParts {
                id: WorkerId(number as u8),
                backend: chosen.wish,
                place: places.get(number).copied(),
                listen: Some(listen),
                inbox,
                shared: shared.clone(),
                pool_buffers,
            })?;
            server.threads.push(started.thread);
            no_ring.push(started.no_ring);
        }
        server.backend = what_runs(chosen, no_ring);
        Ok(server)
    }

    /// What is listened on, with the ports taken for port 0.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The backend that runs, and why.
    pub fn backend(&self) -> (Backend, &str) {
        (self.backend.0, &self.backend.1)
    }

    /// What can tell of this daemon's numbers from any thread.
    pub fn numbers(&self) -> DaemonNumbers {
        let (backend, reason) = self.backend();
        DaemonNumbers::new(self.shared.clone(), (backend, reason.to_owned()))
    }

    /// Whether a worker ended by itself, which only a failure makes it do.
    pub fn has_failed(&self) -> bool {
        !self.threads.iter().all(WorkerThread::is_running)
    }

    /// Tells the workers that [`ServeConfig::authorize`] answers otherwise now: sessions and
    /// connections of peers that lost rights end.
    pub fn reauthorise(&self) {
        for worker in 0..self.shared.workers {
            self.shared.insist(WorkerId(worker), Mail::Reauthorise);
        }
    }

    /// Whose sessions begin, until somebody takes them.
    pub fn visits(&self) -> Arc<Visits> {
        self.shared.visits.clone()
    }

    /// Whether each worker's loop turned since it was last asked; asks those anew that answered.
    pub fn ask_workers(&self) -> Vec<bool> {
        let ask = |mailbox: &Mailbox| {
            let answered = mailbox.pulse.is_answered();
            if answered {
                mailbox.pulse.ask();
                mailbox.wake();
            }
            answered
        };
        self.shared.mailboxes.iter().map(ask).collect()
    }

    /// Whether a worker has not ended yet.
    pub(crate) fn is_running(&self) -> bool {
        self.threads.iter().any(WorkerThread::is_running)
    }

    /// Has peers told, and the workers end.
    pub(crate) fn tell_to_end(&self) {
        for worker in 0..self.shared.workers {
            self.shared
                .insist(WorkerId(worker), Mail::Shutdown(SHUTDOWN_GRACE));
        }
    }

    /// Tells peers, waits for the workers (at most some seconds); gives what all connections did.
    /// After [`ShutdownError::Stuck`] the process is to end: the threads of those workers run on.
    ///
    /// # Errors
    /// What a worker failed with, if one did, or who did not end.
    pub fn shutdown(mut self) -> Result<TransportStats, ShutdownError> {
        let until = now() + SHUTDOWN_AT_MOST;
        self.tell_to_end();
        while now() < until && self.is_running() {
            thread::sleep(JOIN_PAUSE);
        }
        let (stuck, ended): (Vec<_>, Vec<_>) = std::mem::take(&mut self.threads)
            .into_iter()
            .partition(WorkerThread::is_running);
        let mut result = Ok(());
        for thread in ended {
            result = result.and(thread.end());
        }
        if !stuck.is_empty() {
            let names: Vec<&str> = stuck.iter().map(WorkerThread::name).collect();
            return Err(ShutdownError::Stuck {
                workers: names.join(", "),
            });
        }
        if let Some(digests) = &self.shared.digests {
            digests.finish();
        }
        result.map_err(ShutdownError::Worker)?;
        Ok((&self.shared.metrics.snapshot()).into())
    }
}

/// Where the workers are to be, one by one: on cores of the node of the cards that peers come in by
/// before others. None for any where the kernel places them.
fn places(shared: &Shared, addresses: &[SocketAddr]) -> Result<Vec<CoreOfNode>, EngineError> {
    let cores = landro_sys::cpu::cores()?;
    // The cores of a program are its own.
    if shared.programs.is_some() || usize::from(shared.workers) > cores.len() {
        return Ok(Vec::new());
    }
    let topology = Topology::read();
    let near = topology.near(addresses.iter().map(SocketAddr::ip));
    Ok(topology.places(&cores, &near))
}

impl Drop for Server {
    fn drop(&mut self) {
        // Those that were started before one that could not be, too.
        if self.is_running() {
            self.tell_to_end();
        }
    }
}

fn say_if_unweighed() {
    if !landro_sys::weigh::is_counting() {
        tracing::warn!(
            "what QUIC keeps for each peer is not bounded: make landro_sys::weigh::Weighed the global allocator"
        );
    }
}

/// What is remembered of chunks, if anything is to be.
fn remembering(directory: Option<&Path>) -> Result<Option<Arc<Digests>>, EngineError> {
    let clock = || before(Duration::ZERO);
    let say = |said: &str| tracing::warn!("{said}");
    let start = |directory| Digests::start(directory, clock, say).map(Arc::new);
    directory
        .map(start)
        .transpose()
        .map_err(EngineError::Digests)
}

fn service(config: &ServeConfig, root: Arc<ServedRoot>, addresses: &[SocketAddr]) -> Service {
    Service {
        root,
        authorize: config.authorize.clone(),
        addresses: OwnAddresses::of(addresses),
        allow_clear: config.allow_clear,
    }
}

/// The backend and why, given why each worker has no ring, if it was to have one and has not:
/// locked memory may be enough for some.
fn what_runs(chosen: Chosen, no_ring: Vec<Option<String>>) -> (Backend, String) {
    let workers = no_ring.len();
    let refused: Vec<String> = no_ring.into_iter().flatten().collect();
    let rings = workers - refused.len();
    match refused.into_iter().next() {
        None => (chosen.backend(), chosen.reason),
        Some(why) if rings == 0 => (Backend::Poll, why),
        Some(why) => {
            let why = format!("{rings} of {workers} workers; the others run on poll: {why}");
            (Backend::IoUring, why)
        }
    }
}

/// What a worker is reached at, and how it accepts there.
fn listening(
    config: &ServeConfig,
    tickets: &TicketKeys,
    sockets: Sockets,
    is_tls_in_kernel: bool,
    shared: &Shared,
) -> Result<ListenAt, EngineError> {
    let mut at = ListenAt::default();
    for socket in sockets.udp {
        at.udp.push((socket, accepting(config, tickets, shared)?));
    }
    for listener in sockets.tcp {
        let limits = tcp_limits(&config.quic);
        let mut setup = TcpSetup::server(&config.identity, trust(config), limits)?;
        if is_tls_in_kernel {
            setup.use_kernel();
        }
        if config.allow_clear {
            setup.admit_clear(passes(shared));
        }
        at.tcp.push((listener, setup));
    }
    Ok(at)
}

/// What lets those in that do without TLS.
fn passes(shared: &Shared) -> ClearPasses {
    let (homes, again) = (shared.homes.clone(), shared.homes.clone());
    ClearPasses {
        find: Arc::new(move |session, lane| homes.pass(session, lane)),
        take: Arc::new(move |session, lane| again.use_pass(session, lane)),
    }
}

/// Those who are authorised.
fn trust(config: &ServeConfig) -> Trust {
    let authorize = config.authorize.clone();
    Arc::new(move |peer| authorize(peer).is_some())
}

/// How connections are accepted: from those who are authorised, or whom the embedding program
/// trusts. Which it is is asked again when the handshake has named the protocol.
fn accepting(
    config: &ServeConfig,
    tickets: &TicketKeys,
    shared: &Shared,
) -> Result<Setup, EngineError> {
    let trust = trust(config);
    let trust: Trust = match &shared.programs {
        None => trust,
        Some(programs) => {
            let of_program = programs.trust.clone();
            Arc::new(move |peer| trust(peer) || of_program(peer))
        }
    };
    let mut setup = Setup::server(&config.identity, trust, &config.quic, tickets)?;
    setup.tell_on_link(landro_sys::is_on_link);
    if let Some(programs) = &shared.programs {
        let own = std::iter::once(TRANSFER_PROTOCOL.to_vec());
        setup.speak(&own.chain(programs.protocols.clone()).collect::<Vec<_>>())?;
        if programs.accepts_early {
            setup.allow_early();
        }
    }
    Ok(setup)
}

/// A root that is there, to be opened by each session.
fn served(path: &Path) -> Result<Arc<ServedRoot>, EngineError> {
    let look = || match File::open(path)?.metadata()?.is_dir() {
        true => Ok(ServedRoot::new(path)),
        false => Err(io::ErrorKind::NotADirectory.into()),
    };
    look().map_err(|source| EngineError::Root {
        path: path.to_path_buf(),
        source,
    })
}

/// One name of a directory, however it was typed.
fn absolute(root: &Path) -> Vec<u8> {
    let path = root.canonicalize().unwrap_or_else(|_| root.to_path_buf());
    path.into_os_string().into_encoded_bytes()
}
