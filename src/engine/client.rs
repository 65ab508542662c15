//! A command: the workers that dial and carry out a request, and the next ones where the session
//! was lost.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, RecvTimeoutError, bounded};
use landro_sys::{Availability, Bind, Pool, probe};

use super::pursuit::{Persistence, Pursuit, Setback};
use super::sockets::options;
use super::workers::{Chosen, Sharing, WorkerThread, choose, share, spawn};
use super::{BackendChoice, EngineError, checked, demand_calls, now, tcp_limits, tls_in_kernel};
use crate::budget::Budget;
use crate::config::{LaneCount, LaneKinds, QuicConfig};
use crate::ids::{Fingerprint, WorkerId};
use crate::metrics::Metrics;
use crate::proto::query::QueryRequest;
use crate::proto::session::Request;
use crate::proto::{CancelReason, Event, Outcome, Totals};
use crate::quic::{Identity, Secrets, Setup, Trust};
use crate::tcp::{TcpLimits, TcpSetup};
use crate::worker::{
    ADDED_LANE_IDLE, ClientEvent, ClientStart, Ended, Mail, Shared, TcpSetups, WorkerParts,
};

/// Events a command may have waiting before its worker waits for the reader.
const CLIENT_EVENTS: usize = 4096;

pub struct ClientConfig {
    /// In the order of preference; the first that answers is taken.
    pub peer: Vec<SocketAddr>,
    /// Where packets leave from. With more than one each has lanes of its own, added to the first;
    /// empty: from where the kernel has them.
    pub binds: Vec<Bind>,
    pub backend: BackendChoice,
    pub quic: QuicConfig,
    pub memory_budget_bytes: u64,
    /// How long nothing may be got on with; None: for ever.
    pub patience: Option<Duration>,
    /// What is done about a transfer whose session is lost. What else is asked for is asked once.
    pub persistence: Persistence,
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
    /// Those are TCP without TLS, where the server lets them; the wire is to be trusted.
    pub clear: bool,
    /// By whose rules data leaves over TCP; None: the kernel's default.
    pub tcp_congestion: Option<String>,
    /// The kernel seals and opens the records of TLS, where it can.
    pub ktls: bool,
}

/// One request to a daemon, a transfer or a listing, and the sessions that it takes.
pub struct Client {
    config: ClientConfig,
    request: Request,
    pursuit: Pursuit,
    /// What all its sessions count.
    metrics: Arc<Metrics>,
    phase: Phase,
    is_cancelled: bool,
    /// What a worker failed with.
    failed: Option<io::Error>,
}

/// Asks in one session, from any thread.
pub(crate) struct Asker(Arc<Shared>);

impl Asker {
    /// False: it has no room now. What is asked of a session that has not begun, or is over, is
    /// heard by nobody.
    pub(crate) fn ask(&self, ask: QueryRequest) -> bool {
        self.0.post(WorkerId(0), Mail::Ask(ask))
    }
}

/// How far a request is.
enum Phase {
    /// Workers dial, or have a session. Next: Pausing, Over.
    Trying(Trying),
    /// Another session is begun then. Next: Trying, Over.
    Pausing(Instant),
    Over,
}

/// Workers with one session.
struct Trying {
    events: Receiver<ClientEvent>,
    workers: Workers,
}

/// The first has the session, the others nothing but lanes of it. All are told to end when this is
/// dropped.
struct Workers {
    shared: Arc<Shared>,
    threads: Vec<WorkerThread>,
}

impl Client {
    /// Starts a worker that dials and carries out `request`.
    ///
    /// # Errors
    /// When no socket or ring can be had, or the configuration is impossible; everything later is a
    /// [`ClientEvent::Ended`].
    pub fn start(mut config: ClientConfig, request: Request) -> Result<Client, EngineError> {
        config.quic = checked(config.quic)?;
        let persistence = match request {
            Request::Transfer(_) => {
                demand_calls()?;
                config.persistence
            }
            Request::List { .. } | Request::Queries | Request::Bench { .. } => Persistence::NONE,
        };
        let metrics = Arc::new(Metrics::new(workers(&config)));
        let trying = Trying::start(&config, &request, metrics.clone())?;
        Ok(Client {
            pursuit: Pursuit::new(now(), persistence, config.patience),
            config,
            request,
            metrics,
            phase: Phase::Trying(trying),
            is_cancelled: false,
            failed: None,
        })
    }

    /// The next event, waiting for it at most so long. A session that was lost is followed by the
    /// next one from in here. Behind [`ClientEvent::Ended`] there is none.
    pub fn next(&mut self, at_most: Duration) -> Option<ClientEvent> {
        let until = match &self.phase {
            Phase::Trying(trying) => {
                return match trying.events.recv_timeout(at_most) {
                    Ok(event) => Some(self.hear(event)),
                    Err(RecvTimeoutError::Timeout) if trying.workers.are_running() => None,
                    Err(RecvTimeoutError::Timeout) => {
                        // What it had to do would be waited for.
                        trying.workers.shut_down();
                        Some(self.end(Ended::Failed("a worker failed".to_owned())))
                    }
                    Err(RecvTimeoutError::Disconnected) => {
                        let why = "the worker ended without a result; this is a bug in landro";
                        Some(self.end(Ended::Failed(why.to_owned())))
                    }
                };
            }
            Phase::Pausing(until) => *until,
            Phase::Over => return None,
        };
        if self.is_cancelled {
            return Some(self.end(Ended::Outcome(Outcome::Cancelled {
                reason: CancelReason::User,
                totals: Totals::default(),
            })));
        }
        let left = until.saturating_duration_since(now());
        if !left.is_zero() {
            thread::sleep(left.min(at_most));
            return None;
        }
        match Trying::start(&self.config, &self.request, self.metrics.clone()) {
            Ok(trying) => {
                self.phase = Phase::Trying(trying);
                None
            }
            Err(error) => Some(self.end(Ended::Failed(error.to_string()))),
        }
    }

    /// Another session is to dial these addresses: to be told behind [`ClientEvent::Lost`], by whom
    /// knows the daemon's name.
    pub fn redirect(&mut self, peer: Vec<SocketAddr>) {
        self.config.peer = peer;
    }

    /// Stops the transfer, keeping what can be resumed; ends with [`ClientEvent::Ended`].
    pub fn cancel(&mut self) {
        self.is_cancelled = true;
        if let Phase::Trying(trying) = &self.phase {
            trying.workers.shared.insist(WorkerId(0), Mail::Cancel);
        }
    }

    /// What asks in a session of queries, from [`ClientEvent::Connected`] to its end.
    pub(crate) fn asker(&self) -> Option<Asker> {
        match &self.phase {
            Phase::Trying(trying) => Some(Asker(trying.workers.shared.clone())),
            Phase::Pausing(_) | Phase::Over => None,
        }
    }

    /// Waits for the worker, after `Ended`.
    ///
    /// # Errors
    /// What a worker failed with.
    pub fn join(self) -> io::Result<()> {
        if let Phase::Trying(trying) = self.phase {
            trying.end()?;
        }
        self.failed.map_or(Ok(()), Err)
    }

    fn hear(&mut self, event: ClientEvent) -> ClientEvent {
        match event {
            ClientEvent::Connected { fingerprint, .. } => {
                // Whoever it was that was trusted, nobody else may go on with it.
                self.config.trust = Arc::new(move |shown| *shown == fingerprint);
                event
            }
            ClientEvent::Session(event) => {
                self.pursuit.note(now(), &event);
                self.keep_name(&event);
                if let Event::ClearOff(_) = event {
                    // The sessions to come cross the same wire to the same daemon.
                    self.config.clear = false;
                }
                ClientEvent::Session(event)
            }
            ClientEvent::Ended(ended) => self.end(ended),
            ClientEvent::Stats(_) | ClientEvent::Lost { .. } => event,
        }
    }

    /// What lands under the target's name now lands there in each session to come, though a
    /// directory stands there then: whole, it would be one to copy into.
    fn keep_name(&mut self, event: &Event) {
        if let (Event::Placed { inside: false }, Request::Transfer(transfer)) =
            (event, &mut self.request)
        {
            transfer.options.no_target_dir = true;
        }
    }

    /// A session is over, and with it the request, unless another one may go on with it.
    fn end(&mut self, ended: Ended) -> ClientEvent {
        if let Phase::Trying(trying) = std::mem::replace(&mut self.phase, Phase::Over) {
            self.failed = trying.end().err();
        }
        if self.is_cancelled || self.failed.is_some() {
            return ClientEvent::Ended(ended);
        }
        let now = now();
        let Some(setback) = self.pursuit.ended(now, &ended) else {
            return ClientEvent::Ended(ended);
        };
        let Setback {
            pause,
            got_further,
            times_left,
        } = setback;
        tracing::debug!(?ended, ?pause, "the session is lost, and is taken up again");
        self.phase = Phase::Pausing(now + pause);
        ClientEvent::Lost {
            ended,
            pause,
            got_further,
            times_left,
        }
    }
}

impl Trying {
    fn start(
        config: &ClientConfig,
        request: &Request,
        metrics: Arc<Metrics>,
    ) -> Result<Trying, EngineError> {
        // A command lives for milliseconds, and the whole probe takes one.
        let chosen = choose(config.backend, probe::ring_can_be_set_up)?;
        let workers = workers(config);
        let met = Arc::new(OnceLock::new());
        let (tcp, added_lanes) = tcp_setups(config, &of_one(config.trust.clone(), met.clone()))?;
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
                digests: None,
                programs: None,
                metrics,
            },
        );
        let trust_refused = Arc::new(Mutex::new(None));
        let trust = remembering(config.trust.clone(), trust_refused.clone());
        let trust = of_one(trust, met.clone());
        let mut setup = Setup::client(&config.identity, trust, &config.quic)?;
        setup.tell_on_link(landro_sys::is_on_link);
        let (sender, events) = bounded(CLIENT_EVENTS);
        let (workers, no_ring) = Workers::start(&chosen, inboxes, shared)?;
        let start = ClientStart {
            peers: config.peer.clone(),
            binds: config.binds.clone(),
            setup,
            tcp,
            trust_refused,
            met,
            request: request.clone(),
            streams: config.streams,
            kinds: config.lane_kinds,
            lanes: config.lanes,
            clear: config.clear,
            socket_options: options(false),
            events: sender,
            backend_reason: no_ring.unwrap_or(chosen.reason),
        };
        let start = Mail::Start(Box::new(start));
        workers.shared.post(WorkerId(0), start);
        Ok(Trying { events, workers })
    }

    fn end(self) -> io::Result<()> {
        drop(self.events);
        self.workers.end()
    }
}

impl Workers {
    /// Starts one for each inbox. Gives with them why one of them runs on poll, if a ring was
    /// wanted.
    fn start(
        chosen: &Chosen,
        inboxes: Vec<Receiver<Mail>>,
        shared: Arc<Shared>,
    ) -> Result<(Workers, Option<String>), EngineError> {
        let pool_buffers = shared.budget.pool_bytes_per_worker() as usize / Pool::BUFFER_BYTES;
        let threads = Vec::new();
        let (mut no_ring, mut workers) = (None, Workers { shared, threads });
        for (number, inbox) in inboxes.into_iter().enumerate() {
            // Unpinned: a worker is moved by the scheduler to the core that is free, which matters
            // when the daemon is on the same host and pinned.
            let started = spawn(WorkerParts {
                id: WorkerId(number as u8),
                backend: chosen.wish,
                place: None,
                listen: None,
                inbox,
                shared: workers.shared.clone(),
                pool_buffers,
            })?;
            no_ring = no_ring.or(started.no_ring);
            workers.threads.push(started.thread);
        }
        Ok((workers, no_ring))
    }

    /// False: one of those has ended that go on until they are told to.
    fn are_running(&self) -> bool {
        self.threads.iter().skip(1).all(WorkerThread::is_running)
    }

    fn shut_down(&self) {
        for worker in (0..self.shared.workers).map(WorkerId) {
            self.shared.insist(worker, Mail::Shutdown(Duration::ZERO));
        }
    }

    /// Waits for the first to end, and then for the others, which have nothing without it.
    ///
    /// # Errors
    /// What one of them failed with.
    fn end(mut self) -> io::Result<()> {
        let mut threads = std::mem::take(&mut self.threads).into_iter();
        let ended = threads.next().map_or(Ok(()), WorkerThread::end);
        drop(self);
        threads.map(WorkerThread::end).fold(ended, Result::and)
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.shut_down();
    }
}

/// How many threads there are to be.
fn workers(config: &ClientConfig) -> u8 {
    config.workers.clamp(1, 255) as u8
}

/// How lanes over TCP are dialled: those that carry a session's messages, too, and those that are
/// added.
fn tcp_setups(config: &ClientConfig, trust: &Trust) -> Result<(TcpSetups, TcpSetup), EngineError> {
    let carrying = tcp_limits(&config.quic);
    // Before the session is taken for one that does not get on, a lane that is silent is gone.
    let patience = config.patience.unwrap_or(ADDED_LANE_IDLE);
    let added = TcpLimits {
        idle: carrying.idle.min(ADDED_LANE_IDLE).min(patience / 3),
        ..carrying
    };
    let ktls = tls_in_kernel(config.ktls);
    let setup = |limits| {
        let mut setup = TcpSetup::client(&config.identity, trust.clone(), limits)?;
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

/// Once a session has begun, lanes are those of its daemon, whoever else may be trusted.
fn of_one(decide: Trust, met: Arc<OnceLock<Fingerprint>>) -> Trust {
    Arc::new(move |peer: &Fingerprint| match met.get() {
        Some(met) => met == peer,
        None => decide(peer),
    })
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
