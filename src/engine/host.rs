//! Workers for handles of the library: they connect, and accept where they are to.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use landro_sys::{Backend, Caps, Pool};

use super::sockets::{Sockets, bind_all, options};
use super::workers::{Sharing, WorkerThread, choose, share, spawn};
use super::{BackendChoice, EngineError, checked, now};
use crate::budget::Budget;
use crate::config::{LaneKind, LaneKinds, QuicConfig};
use crate::ids::WorkerId;
use crate::metrics::Metrics;
use crate::quic::{Identity, QuicError, Secrets, Setup, TicketKeys, Trust};
use crate::worker::{
    Answer, ConnectStart, ListenAt, Mail, Owed, Programs, Shared, Ticket, Tickets, WorkerParts,
};

/// How long workers that are to end tell their peers.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(1);

/// What workers for handles are to be.
pub(crate) struct HostConfig {
    pub workers: usize,
    pub backend: BackendChoice,
    pub quic: QuicConfig,
    pub memory_budget_bytes: u64,
    pub identity: Identity,
    /// Where peers are let in. Empty: nobody is, here.
    pub listen: Vec<SocketAddr>,
    pub programs: Programs,
}

/// Workers that run. They are told to end when this is dropped.
pub(crate) struct Host {
    shared: Arc<Shared>,
    threads: Vec<WorkerThread>,
    addresses: Vec<SocketAddr>,
    backend: Backend,
    backend_reason: String,
    quic: QuicConfig,
    identity: Identity,
    protocols: Vec<Vec<u8>>,
    tickets: Arc<Tickets>,
    next: AtomicUsize,
}

impl Host {
    /// Binds, and starts the workers.
    ///
    /// # Errors
    /// When an address cannot be had, or a worker cannot set up its ring.
    pub fn start(config: HostConfig) -> Result<Host, EngineError> {
        let config = HostConfig {
            quic: checked(config.quic)?,
            ..config
        };
        let chosen = choose(config.backend, || Caps::probe().io_uring)?;
        let workers = config.workers.clamp(1, 255) as u8;
        let kinds = LaneKinds::Only(LaneKind::Quic);
        let (addresses, sockets) = bind_all(&config.listen, workers, kinds)?;
        let budget = Budget::new(
            config.memory_budget_bytes,
            workers,
            config.quic.receive_window_bytes,
        );
        let pool_buffers = budget.pool_bytes_per_worker() as usize / Pool::BUFFER_BYTES;
        let protocols = config.programs.protocols.clone();
        let (shared, inboxes) = share(
            workers,
            Sharing {
                secrets: Arc::new(Secrets::fresh(now())),
                budget,
                quic: config.quic.clone(),
                lane_kinds: kinds,
                tcp_congestion: None,
                patience: None,
                service: None,
                added_lanes: None,
                digests: None,
                programs: Some(config.programs),
                metrics: Arc::new(Metrics::new(workers)),
            },
        );
        let tickets = TicketKeys::random()?;
        let mut host = Host {
            shared,
            threads: Vec::new(),
            addresses,
            backend: chosen.backend(),
            backend_reason: chosen.reason,
            quic: config.quic.clone(),
            identity: config.identity,
            protocols,
            tickets: Arc::default(),
            next: AtomicUsize::new(0),
        };
        for (number, (sockets, inbox)) in sockets.into_iter().zip(inboxes).enumerate() {
            let listen = host.listening(&tickets, sockets)?;
            // Unpinned: the cores are the embedding program's.
            let started = spawn(WorkerParts {
                id: WorkerId(number as u8),
                backend: chosen.wish,
                place: None,
                listen: Some(listen),
                inbox,
                shared: host.shared.clone(),
                pool_buffers,
            })?;
            host.threads.push(started.thread);
            if let Some(why) = started.no_ring {
                (host.backend, host.backend_reason) = (Backend::Poll, why);
            }
        }
        Ok(host)
    }

    /// What is listened on, with the ports taken for port 0.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The backend that runs, and why.
    pub fn backend(&self) -> (Backend, &str) {
        (self.backend, &self.backend_reason)
    }

    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// What a peer is resumed with that was connected to as this, if one is trusted.
    pub(crate) fn take_ticket(&self, to: &str, trust: &Trust) -> Option<Ticket> {
        self.tickets.take(to, now(), |peer| trust(peer))
    }

    /// Has a worker connect to a peer's addresses, the next one each time. With a ticket, data is
    /// sent before the handshake is complete.
    ///
    /// # Errors
    /// BoringSSL or quiche refuse a value.
    pub(crate) fn connect(
        &self,
        (name, to): (&str, Vec<SocketAddr>),
        trust: Trust,
        ticket: Option<Ticket>,
    ) -> Result<Arc<Answer>, QuicError> {
        let mut setup = Setup::client(&self.identity, trust, &self.quic)?;
        setup.tell_on_link(landro_sys::is_on_link);
        setup.speak(&self.protocols)?;
        if ticket.is_some() {
            setup.allow_early();
        }
        let answer = Arc::<Answer>::default();
        let start = ConnectStart {
            to,
            setup,
            socket_options: options(false),
            ticket,
            tickets: (self.tickets.clone(), name.to_owned()),
            answer: Owed(answer.clone()),
        };
        let worker = self.next.fetch_add(1, Ordering::Relaxed) % self.shared.mailboxes.len();
        self.shared.mailboxes[worker].connect(start);
        Ok(answer)
    }

    fn listening(&self, tickets: &TicketKeys, sockets: Sockets) -> Result<ListenAt, EngineError> {
        let mut at = ListenAt::default();
        let Some(programs) = &self.shared.programs else {
            return Ok(at);
        };
        for socket in sockets.udp {
            let trust = programs.trust.clone();
            let mut setup = Setup::server(&self.identity, trust, &self.quic, tickets)?;
            setup.tell_on_link(landro_sys::is_on_link);
            setup.speak(&programs.protocols)?;
            if programs.accepts_early {
                setup.allow_early();
            }
            at.udp.push((socket, setup));
        }
        Ok(at)
    }

    /// Whether a worker has not ended yet.
    pub fn is_running(&self) -> bool {
        self.threads.iter().any(WorkerThread::is_running)
    }

    /// Has all connections closed, and the workers end.
    pub fn tell_to_end(&self) {
        for worker in (0..self.shared.workers).map(WorkerId) {
            self.shared.insist(worker, Mail::Shutdown(SHUTDOWN_GRACE));
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.tell_to_end();
    }
}
