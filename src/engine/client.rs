//! A command: the worker that dials and carries out a request, and others that have lanes of it.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crossbeam::channel::{Receiver, bounded};
use landro_sys::{Availability, Pool, probe};

use super::sockets::options;
use super::workers::{Chosen, Sharing, WorkerThread, choose, raise_open_files, share, spawn};
use super::{BackendChoice, EngineError, demand_calls, now, tcp_limits, tls_in_kernel};
use crate::budget::Budget;
use crate::config::{LaneCount, LaneKinds, QuicConfig};
use crate::ids::{Fingerprint, WorkerId};
use crate::proto::session::Request;
use crate::quic::{Identity, Secrets, Setup, Trust};
use crate::tcp::{TcpLimits, TcpSetup};
use crate::worker::{
    ADDED_LANE_IDLE, ClientEvent, ClientStart, Mail, Shared, TcpSetups, WorkerParts,
};

/// Events a command may have waiting before its worker waits for the reader.
const CLIENT_EVENTS: usize = 4096;

pub struct ClientConfig {
    /// In the order of preference; the first that answers is taken.
    pub peer: Vec<SocketAddr>,
    pub backend: BackendChoice,
    pub quic: QuicConfig,
    pub memory_budget_bytes: u64,
    /// How long nothing may be got on with; None: for ever.
    pub patience: Option<Duration>,
    pub identity: Identity,
    /// Asked in the handshake with the server's fingerprint; may not block.
    pub trust: Arc<dyn Fn(&Fingerprint) -> bool + Send + Sync>,
    /// Most data streams at once.
    pub streams: usize,
    /// What may carry the session.
    pub lane_kinds: LaneKinds,
    /// How many lanes are added to it.
    pub lanes: LaneCount,
    /// Threads that have these lanes, from 1 to 255.
    pub workers: usize,
    /// By whose rules data leaves over TCP; None: the kernel's default.
    pub tcp_congestion: Option<String>,
    /// The kernel seals and opens the records of TLS, where it can.
    pub ktls: bool,
}

/// One session with a daemon: one transfer or listing.
pub struct Client {
    events: Receiver<ClientEvent>,
    shared: Arc<Shared>,
    thread: WorkerThread,
    /// Workers that have nothing but lanes.
    others: Vec<WorkerThread>,
}

impl Client {
    /// Starts a worker that dials and carries out `request`.
    ///
    /// # Errors
    /// When no socket or ring can be had; everything later is a [`ClientEvent::Ended`].
    pub fn start(config: ClientConfig, request: Request) -> Result<Client, EngineError> {
        if let Request::Transfer(_) = request {
            demand_calls()?;
        }
        raise_open_files();
        // A command lives for milliseconds, and the whole probe takes one.
        let chosen = choose(config.backend, probe::ring_can_be_set_up)?;
        let workers = config.workers.clamp(1, 255) as u8;
        let (tcp, added_lanes) = tcp_setups(&config)?;
        let budget = Budget::new(
            config.memory_budget_bytes,
            workers,
            config.quic.receive_window_bytes,
        );
        let secrets = Arc::new(Secrets::fresh(now()));
        let (shared, inboxes) = share(
            workers,
            Sharing {
                secrets,
                budget,
                quic: config.quic.clone(),
                lane_kinds: config.lane_kinds,
                tcp_congestion: config.tcp_congestion.clone(),
                patience: config.patience,
                service: None,
                added_lanes: Some(added_lanes),
            },
        );
        let trust_refused = Arc::new(Mutex::new(None));
        let trust = remembering(config.trust.clone(), trust_refused.clone());
        let mut setup = Setup::client(&config.identity, trust, &config.quic)?;
        setup.tell_on_link(landro_sys::is_on_link);
        let (sender, events) = bounded(CLIENT_EVENTS);
        let (mut threads, no_ring) = spawn_all(&chosen, inboxes, &shared)?;
        let others = threads.split_off(1);
        let Some(thread) = threads.pop() else {
            return Err(io::Error::other("no worker").into());
        };
        let start = ClientStart {
            peers: config.peer,
            setup,
            tcp,
            trust_refused,
            request,
            streams: config.streams,
            kinds: config.lane_kinds,
            lanes: config.lanes,
            socket_options: options(false),
            events: sender,
            backend_reason: no_ring.unwrap_or(chosen.reason),
        };
        shared.post(WorkerId(0), Mail::Start(Box::new(start)));
        Ok(Client {
            events,
            shared,
            thread,
            others,
        })
    }

    pub fn events(&self) -> &Receiver<ClientEvent> {
        &self.events
    }

    /// Stops the transfer, keeping what can be resumed; ends with [`ClientEvent::Ended`].
    pub fn cancel(&self) {
        self.shared.insist(WorkerId(0), Mail::Cancel);
    }

    /// Waits for the workers, after `Ended`.
    ///
    /// # Errors
    /// What one of them failed with.
    pub fn join(self) -> io::Result<()> {
        drop(self.events);
        let ended = self.thread.end();
        for worker in (1..self.shared.workers).map(WorkerId) {
            self.shared.insist(worker, Mail::Shutdown(Duration::ZERO));
        }
        let others = self.others.into_iter().map(WorkerThread::end);
        others.fold(ended, Result::and)
    }
}

/// Starts a worker for each inbox. Gives with them why one of them runs on poll, if a ring was
/// wanted.
fn spawn_all(
    chosen: &Chosen,
    inboxes: Vec<Receiver<Mail>>,
    shared: &Arc<Shared>,
) -> Result<(Vec<WorkerThread>, Option<String>), EngineError> {
    let pool_buffers = shared.budget.pool_bytes_per_worker() as usize / Pool::BUFFER_BYTES;
    let (mut no_ring, mut threads) = (None, Vec::new());
    for (number, inbox) in inboxes.into_iter().enumerate() {
        // Unpinned: a worker is moved by the scheduler to the core that is free, which matters when
        // the daemon is on the same host and pinned.
        let started = spawn(WorkerParts {
            id: WorkerId(number as u8),
            backend: chosen.wish,
            core: None,
            listen: None,
            inbox,
            shared: shared.clone(),
            pool_buffers,
        })?;
        no_ring = no_ring.or(started.no_ring);
        threads.push(started.thread);
    }
    Ok((threads, no_ring))
}

/// How lanes over TCP are dialled: those that carry a session's messages, too, and those that are
/// added.
fn tcp_setups(config: &ClientConfig) -> Result<(TcpSetups, TcpSetup), EngineError> {
    let carrying = tcp_limits(&config.quic);
    // Before the session is taken for one that does not get on, a lane that is silent is gone.
    let patience = config.patience.unwrap_or(ADDED_LANE_IDLE);
    let added = TcpLimits {
        idle: carrying.idle.min(ADDED_LANE_IDLE).min(patience / 3),
        ..carrying
    };
    let ktls = tls_in_kernel(config.ktls);
    let setup = |limits| {
        let mut setup = TcpSetup::client(&config.identity, config.trust.clone(), limits)?;
        if ktls.as_ref().is_some_and(Availability::is_yes) {
            setup.use_kernel();
        }
        Ok::<_, EngineError>(setup)
    };
    let setups = TcpSetups {
        carrying: setup(carrying)?,
        ktls: ktls.as_ref().map(Availability::to_string),
    };
    Ok((setups, setup(added)?))
}

/// Leaves whom it does not trust where the worker finds it.
fn remembering(
    decide: Arc<dyn Fn(&Fingerprint) -> bool + Send + Sync>,
    refused: Arc<Mutex<Option<Fingerprint>>>,
) -> Trust {
    Arc::new(move |peer: &Fingerprint| {
        let trusted = decide(peer);
        if !trusted && let Ok(mut refused) = refused.lock() {
            *refused = Some(*peer);
        }
        trusted
    })
}
