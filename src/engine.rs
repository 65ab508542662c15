//! Starts the workers, hands them their work, and joins them: the process behind a daemon or a
//! command.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;
use std::{io, thread};

use crossbeam::channel::{Receiver, bounded};
use landro_sys::{Availability, Backend, Caps, Pool, UdpOptions, UdpSocket, probe};

use crate::budget::Budget;
use crate::config::QuicConfig;
use crate::ids::{Fingerprint, WorkerId};
use crate::proto::session::{Request, Transfer};
use crate::proto::{Event, Outcome};
use crate::quic::{Identity, Secrets, Setup, TicketKeys, Trust};
use crate::worker::{
    self, ClientStart, Mail, Mailbox, Pulse, Refusals, Shared, Worker, WorkerParts,
};

pub use crate::proto::session::Grant;
pub use crate::worker::{Authorize, ClientEvent, Ended, PeerAccess, Service, TransportStats};

/// Mail a worker may have waiting: strays of a busy moment; more are dropped like datagrams may
/// be.
const MAILBOX_ROOM: usize = 1024;

/// Events a command may have waiting before its worker waits for the reader.
const CLIENT_EVENTS: usize = 4096;

/// How long a daemon that is told to stop tells its peers.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(5);

/// A worker that has not ended by then never will: after the grace its driver waits up to 5 s for
/// the kernel to let go of its memory.
const SHUTDOWN_AT_MOST: Duration = Duration::from_secs(12);

/// How often it is looked whether a worker has ended.
const JOIN_PAUSE: Duration = Duration::from_millis(2);

/// Receive buffer asked of the kernel: 4 MiB are 2 ms at 16 Gbit/s, the longest a worker is away
/// from its ring.
const SOCKET_RECEIVE_BYTES: usize = 4 << 20;

/// Send buffer asked of the kernel: larger than the queue below it, a socket overruns that queue
/// silently (the send succeeds and the qdisc drops); at this size the ring waits instead. Measured
/// on a 1 GbE wire.
const SOCKET_SEND_BYTES: usize = 256 << 10;

/// One second in all for an address to become free.
const REBIND_TRIES: u32 = 50;
const REBIND_PAUSE: Duration = Duration::from_millis(20);

/// Which I/O backend to run on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum BackendChoice {
    /// io_uring where the kernel allows it, else poll.
    #[default]
    Auto,
    IoUring,
    Poll,
}

#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    #[error("cannot listen on {addr}: {source}")]
    Bind { addr: SocketAddr, source: io::Error },
    #[error("cannot serve {path}: {source}", path = path.display())]
    Root { path: PathBuf, source: io::Error },
    #[error("the io_uring backend was asked for, but: {0}")]
    Backend(String),
    #[error("identity: {0}")]
    Identity(#[from] crate::quic::QuicError),
    #[error("cannot start: {0}")]
    Io(#[from] io::Error),
}

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
    threads: Vec<JoinHandle<io::Result<()>>>,
}

impl Server {
    /// Binds, opens the root and starts the workers.
    ///
    /// # Errors
    /// When an address or the root cannot be had, or a worker cannot set up its ring.
    pub fn start(config: ServeConfig) -> Result<Server, EngineError> {
        raise_open_files();
        if !landro_sys::weigh::is_counting() {
            tracing::warn!(
                "what QUIC keeps for each peer is not bounded: make landro_sys::weigh::Weighed the global allocator"
            );
        }
        let backend = choose(config.backend, || Caps::probe().io_uring)?;
        let cores = landro_sys::cpu::cores()?;
        let workers = config.workers.clamp(1, 255) as u8;
        let root = std::fs::File::open(&config.root)
            .and_then(|root| match root.metadata()?.is_dir() {
                true => Ok(OwnedFd::from(root)),
                false => Err(io::Error::from_raw_os_error(20)), // ENOTDIR
            })
            .map_err(|source| EngineError::Root {
                path: config.root.clone(),
                source,
            })?;
        let (addresses, sockets) = bind_all(&config.listen, workers)?;
        let budget = Budget::new(
            config.memory_budget_bytes,
            workers,
            config.quic.receive_window_bytes,
        );
        let pool_buffers = budget.pool_bytes_per_worker() as usize / Pool::BUFFER_BYTES;
        let service = Service {
            root: Arc::new(root),
            authorize: config.authorize.clone(),
        };
        let secrets = Arc::new(Secrets::of_daemon(
            &config.reset_secret,
            &absolute(&config.root),
            now(),
        ));
        let (shared, inboxes) = share(workers, secrets, budget, config.quic.clone(), Some(service));
        let tickets = TicketKeys::random()?;
        let mut threads = Vec::new();
        for (number, (sockets, inbox)) in sockets.into_iter().zip(inboxes).enumerate() {
            let authorize = config.authorize.clone();
            let trust: Trust = Arc::new(move |peer| authorize(peer).is_some());
            let mut listeners = Vec::new();
            for socket in sockets {
                let trust = Arc::clone(&trust);
                let mut accept = Setup::server(&config.identity, trust, &config.quic, &tickets)?;
                accept.tell_on_link(landro_sys::is_on_link);
                listeners.push((socket, accept));
            }
            let core = (usize::from(workers) <= cores.len()).then(|| cores[number % cores.len()]);
            threads.push(spawn(WorkerParts {
                id: WorkerId(number as u8),
                backend: backend.0,
                core,
                listeners,
                inbox,
                shared: shared.clone(),
                pool_buffers,
            })?);
        }
        Ok(Server {
            addresses,
            backend,
            shared,
            threads,
        })
    }

    /// What is listened on, with the ports taken for port 0.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The backend that runs, and why.
    pub fn backend(&self) -> (Backend, &str) {
        (self.backend.0, &self.backend.1)
    }

    /// Whether a worker ended by itself, which only a failure makes it do.
    pub fn has_failed(&self) -> bool {
        self.threads.iter().any(JoinHandle::is_finished)
    }

    /// Tells the workers that [`ServeConfig::authorize`] answers otherwise now: sessions and
    /// connections of peers that lost rights end.
    pub fn reauthorise(&self) {
        for worker in 0..self.shared.workers {
            self.shared.insist(WorkerId(worker), Mail::Reauthorise);
        }
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

    /// Tells peers, waits for the workers (at most some seconds); gives what all connections did.
    /// After [`ShutdownError::Stuck`] the process is to end: the threads of those workers run on.
    ///
    /// # Errors
    /// What a worker failed with, if one did, or who did not end.
    pub fn shutdown(self) -> Result<TransportStats, ShutdownError> {
        let until = now() + SHUTDOWN_AT_MOST;
        for worker in 0..self.shared.workers {
            self.shared
                .insist(WorkerId(worker), Mail::Shutdown(SHUTDOWN_GRACE));
        }
        let is_running = |thread: &JoinHandle<_>| !thread.is_finished();
        while now() < until && self.threads.iter().any(is_running) {
            thread::sleep(JOIN_PAUSE);
        }
        let (stuck, ended): (Vec<_>, Vec<_>) = self.threads.into_iter().partition(is_running);
        let mut result = Ok(());
        for thread in ended {
            let ended = thread
                .join()
                .unwrap_or_else(|_| Err(io::Error::other("a worker panicked")));
            result = result.and(ended);
        }
        if !stuck.is_empty() {
            let names: Vec<&str> = stuck
                .iter()
                .filter_map(|thread| thread.thread().name())
                .collect();
            return Err(ShutdownError::Stuck {
                workers: names.join(", "),
            });
        }
        result.map_err(ShutdownError::Worker)?;
        Ok(self
            .shared
            .served
            .lock()
            .map_or_else(|_| Default::default(), |served| served.clone()))
    }
}

pub struct ClientConfig {
    /// Tried in order.
    pub peer: Vec<SocketAddr>,
    pub backend: BackendChoice,
    pub quic: QuicConfig,
    pub memory_budget_bytes: u64,
    pub identity: Identity,
    /// Asked in the handshake with the server's fingerprint; may not block.
    pub trust: Arc<dyn Fn(&Fingerprint) -> bool + Send + Sync>,
    /// Most data streams at once.
    pub streams: usize,
}

/// One session with a daemon: one transfer or listing.
pub struct Client {
    events: Receiver<ClientEvent>,
    shared: Arc<Shared>,
    thread: JoinHandle<io::Result<()>>,
}

impl Client {
    /// Starts a worker that dials and carries out `request`.
    ///
    /// # Errors
    /// When no socket or ring can be had; everything later is a [`ClientEvent::Ended`].
    pub fn start(config: ClientConfig, request: Request) -> Result<Client, EngineError> {
        raise_open_files();
        // A command lives for milliseconds, and the whole probe takes one.
        let (backend, backend_reason) = choose(config.backend, probe::ring_can_be_set_up)?;
        let budget = Budget::new(
            config.memory_budget_bytes,
            1,
            config.quic.receive_window_bytes,
        );
        let pool_buffers = budget.pool_bytes_per_worker() as usize / Pool::BUFFER_BYTES;
        let secrets = Arc::new(Secrets::fresh(now()));
        let (shared, mut inboxes) = share(1, secrets, budget, config.quic.clone(), None);
        let trust_refused = Arc::new(Mutex::new(None));
        let refused = trust_refused.clone();
        let decide = config.trust;
        let trust: Trust = Arc::new(move |peer: &Fingerprint| {
            let trusted = decide(peer);
            if !trusted && let Ok(mut refused) = refused.lock() {
                *refused = Some(*peer);
            }
            trusted
        });
        let mut setup = Setup::client(&config.identity, trust, &config.quic)?;
        setup.tell_on_link(landro_sys::is_on_link);
        let (sender, events) = bounded(CLIENT_EVENTS);
        let Some(inbox) = inboxes.pop() else {
            return Err(io::Error::other("no inbox").into());
        };
        // Unpinned: a lone worker is moved by the scheduler to the core that is free, which matters
        // when the daemon is on the same host and pinned.
        let thread = spawn(WorkerParts {
            id: WorkerId(0),
            backend,
            core: None,
            listeners: Vec::new(),
            inbox,
            shared: shared.clone(),
            pool_buffers,
        })?;
        let start = ClientStart {
            peers: config.peer,
            setup,
            trust_refused,
            request,
            streams: config.streams,
            socket_options: options(false),
            events: sender,
            backend_reason,
        };
        shared.post(WorkerId(0), Mail::Start(Box::new(start)));
        Ok(Client {
            events,
            shared,
            thread,
        })
    }

    pub fn events(&self) -> &Receiver<ClientEvent> {
        &self.events
    }

    /// Stops the transfer, keeping what can be resumed; ends with [`ClientEvent::Ended`].
    pub fn cancel(&self) {
        self.shared.insist(WorkerId(0), Mail::Cancel);
    }

    /// Waits for the worker, after `Ended`.
    ///
    /// # Errors
    /// What the worker failed with.
    pub fn join(self) -> io::Result<()> {
        drop(self.events);
        self.thread
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("the worker panicked")))
    }
}

/// Copies within this host, on this thread; every entry is reported through `on`. `stop` is asked
/// between two operations on files, of which the longest copies 64 MiB.
///
/// # Errors
/// When there is no memory to begin with. What goes wrong with single entries is an event.
pub fn copy_locally(
    transfer: &Transfer,
    stop: &dyn Fn() -> bool,
    on: &mut dyn FnMut(Event),
) -> io::Result<Outcome> {
    raise_open_files();
    worker::copy_locally(transfer, stop, on)
}

/// One name of a directory, however it was typed.
fn absolute(root: &std::path::Path) -> Vec<u8> {
    let path = root.canonicalize().unwrap_or_else(|_| root.to_path_buf());
    path.into_os_string().into_encoded_bytes()
}

/// A session may hold some 200 descriptors (64 directories, 64 partial files and their journals),
/// and there are many.
fn raise_open_files() {
    if let Err(error) = landro_sys::process::raise_open_files() {
        tracing::warn!(%error, "cannot raise the limit of open files (ulimit -n)");
    }
}

/// The backend to run on, and why.
fn choose(
    choice: BackendChoice,
    io_uring: impl FnOnce() -> Availability,
) -> Result<(Backend, String), EngineError> {
    match choice {
        BackendChoice::Poll => Ok((Backend::Poll, "asked for".to_owned())),
        BackendChoice::Auto => Ok(probe::best_backend(&io_uring())),
        BackendChoice::IoUring => match io_uring() {
            Availability::No(why) => Err(EngineError::Backend(why)),
            Availability::Yes => Ok((Backend::IoUring, "asked for".to_owned())),
        },
    }
}

fn share(
    workers: u8,
    secrets: Arc<Secrets>,
    budget: Budget,
    quic: QuicConfig,
    service: Option<Service>,
) -> (Arc<Shared>, Vec<Receiver<Mail>>) {
    let (mailboxes, inboxes) = (0..workers)
        .map(|_| {
            let (sender, inbox) = bounded(MAILBOX_ROOM);
            (
                Mailbox {
                    sender,
                    wake: OnceLock::new(),
                    pulse: Pulse::default(),
                },
                inbox,
            )
        })
        .unzip();
    let settler = service.as_ref().and_then(|_| {
        let started = crate::disk::start_settler();
        if let Err(error) = &started {
            tracing::warn!(%error, "no thread to see data reach the disk: marks of unsynced directories stay");
        }
        started.ok()
    });
    let shared = Shared {
        workers,
        secrets,
        mailboxes,
        budget,
        quic,
        service,
        settler,
        refusals: Refusals::default(),
        served: Mutex::default(),
    };
    (Arc::new(shared), inboxes)
}

fn options(reuse_port: bool) -> UdpOptions {
    UdpOptions {
        recv_buffer_bytes: SOCKET_RECEIVE_BYTES,
        send_buffer_bytes: SOCKET_SEND_BYTES,
        reuse_port,
    }
}

/// Binds every address once per worker; gives the addresses and each worker's sockets in the same
/// order.
fn bind_all(
    listen: &[SocketAddr],
    workers: u8,
) -> Result<(Vec<SocketAddr>, Vec<Vec<UdpSocket>>), EngineError> {
    let mut addresses = Vec::new();
    let mut sockets: Vec<Vec<UdpSocket>> = (0..workers).map(|_| Vec::new()).collect();
    for &wanted in listen {
        let bind = |addr: SocketAddr| bind_patiently(addr, workers > 1);
        // SO_REUSEPORT would let a second daemon of the same user join the port and steal its
        // packets: a bind without it fails when anybody is there.
        if workers > 1 && wanted.port() != 0 {
            bind_patiently(wanted, false)?;
        }
        let first = bind(wanted)?;
        let addr = first.local_addr()?;
        let (receive, _) = first.buffer_sizes()?;
        if receive < SOCKET_RECEIVE_BYTES {
            tracing::warn!(
                %addr,
                got_bytes = receive,
                wanted_bytes = SOCKET_RECEIVE_BYTES,
                "the receive buffer is smaller than wanted; raise net.core.rmem_max"
            );
        }
        sockets[0].push(first);
        for worker in sockets.iter_mut().skip(1) {
            worker.push(bind(addr)?);
        }
        if workers > 1 {
            sockets[0][addresses.len()].steer_by_cid(workers)?;
        }
        addresses.push(addr);
    }
    Ok((addresses, sockets))
}

/// Binds; an address in use may be that of a daemon that was killed a moment ago: the kernel closes
/// the sockets of an io_uring only some milliseconds after the death of its process.
fn bind_patiently(addr: SocketAddr, reuse_port: bool) -> Result<UdpSocket, EngineError> {
    let mut tries_left = REBIND_TRIES;
    loop {
        match UdpSocket::bind(addr, &options(reuse_port)) {
            Ok(socket) => return Ok(socket),
            Err(source) if source.kind() == io::ErrorKind::AddrInUse && tries_left > 0 => {
                tries_left -= 1;
                thread::sleep(REBIND_PAUSE);
            }
            Err(source) => return Err(EngineError::Bind { addr, source }),
        }
    }
}

/// Starts a worker's thread and waits until its ring is set up.
fn spawn(parts: WorkerParts) -> Result<JoinHandle<io::Result<()>>, EngineError> {
    let (ready, is_ready) = bounded(1);
    let shared = parts.shared.clone();
    let id = parts.id;
    let thread = thread::Builder::new()
        .name(format!("landro-{}", id.0))
        .spawn(move || {
            let built = Worker::new(parts, |wake| {
                if let Some(mailbox) = shared.mailboxes.get(id.0 as usize) {
                    let _ = mailbox.wake.set(wake);
                }
            });
            match built {
                Ok(worker) => {
                    let _ = ready.send(Ok(()));
                    worker.run()
                }
                Err(error) => {
                    let _ = ready.send(Err(error));
                    Ok(())
                }
            }
        })?;
    match is_ready.recv() {
        Ok(Ok(())) => Ok(thread),
        Ok(Err(error)) => Err(error.into()),
        Err(_) => Err(io::Error::other("a worker ended while it started").into()),
    }
}

/// Reads the clock through its owner, for callers that time a whole run.
pub fn now() -> std::time::Instant {
    worker::now()
}
