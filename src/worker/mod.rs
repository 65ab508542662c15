//! One worker: a pinned thread with its own ring, sockets, connections and buffers, and the only
//! clock.
//!
//! The loop of [`Worker::run`] is the whole order of events. Completions are queued by the driver
//! and taken here at our own pace; nothing acts from inside anything else.

mod addresses;
mod apps;
mod arriving;
mod client_events;
mod client_transfer;
mod connections;
mod counted;
mod descriptors;
mod event_loop;
mod handed_over;
mod handles;
mod lane;
mod last_look;
mod limits;
mod listeners;
mod local;
mod log;
mod mailbox;
mod numbers;
mod outbox;
mod outpost_mail;
mod paths;
mod pulse;
mod race;
mod sessions;
mod share;
mod shared;
mod stats;
mod timers;
mod turn;
mod visits;
mod wanted;

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crossbeam::channel::Receiver;
use landro_sys::numa::{CoreOfNode, MemoryFrom, prefer, why_not_preferred};
use landro_sys::{
    Backend, Completion, Driver, DriverConfig, Pool, TcpListener, UdpSocket, WakeHandle,
};

use crate::disk::Disk;
use crate::ids::WorkerId;
use crate::metrics::Metric;
use crate::quic::{Router, Setup};
use crate::tcp::TcpSetup;
use apps::streams::Dials;
use client_transfer::ClientTransfer;
use connections::Connections;
use event_loop::Loop;
use handles::ReadBuffers;
use limits::{COMPLETIONS_PER_TURN, MAILS_PER_TURN, QUEUE_ENTRIES, RECEIVE_BUFFERS};
use listeners::Listeners;
use outbox::Outbox;
use sessions::Sessions;
use timers::Timer;

pub use client_events::{ClientEvent, ClientStart, Ended, TcpSetups};
pub use descriptors::StreamDescriptors;
pub(crate) use handles::{
    AcceptQueue, Accepting, Attached, ConnectsEnd, Hold, Pipe, ReceivePhase, SendPhase, ToWrite,
};
pub use handles::{
    Answer, ConnectFailure, ConnectStart, ConnectionEvent, ConnectionStatistics, Owed, Ticket,
    Tickets,
};
pub use limits::{ADDED_LANE_IDLE, LINGER};
pub use local::copy_locally;
pub use mailbox::{Mail, Mailbox};
pub use pulse::Pulse;
pub(crate) use shared::Programs;
pub use shared::{Authorize, OwnAddresses, PeerAccess, Service, Shared};
pub use stats::{Carried, TransportStats};
pub use visits::{Visit, Visits};

/// What a worker is made of; built on the thread that starts it.
pub struct WorkerParts {
    pub id: WorkerId,
    pub backend: BackendWish,
    /// Core to stay on, and the node to take memory from; None leaves both to the kernel (a command
    /// with fewer workers than cores).
    pub place: Option<CoreOfNode>,
    /// Of a daemon: what it is reached at. None: a command.
    pub listen: Option<ListenAt>,
    pub inbox: Receiver<Mail>,
    pub shared: Arc<Shared>,
    /// Pool buffers this worker may use.
    pub pool_buffers: usize,
}

/// What a daemon's worker is reached at: a socket of each kind for each address, and how it accepts
/// there.
#[derive(Default)]
pub struct ListenAt {
    pub udp: Vec<(UdpSocket, Setup)>,
    pub tcp: Vec<(TcpListener, TcpSetup)>,
}

/// What a worker is to run on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BackendWish {
    Only(Backend),
    /// Poll, if this ring cannot be had: one that was tried may have been smaller, or the last.
    RingOrPoll,
}

/// Why a worker did not start.
#[derive(Debug, thiserror::Error)]
pub enum WorkerStartError {
    #[error(
        "no memory for a worker's buffers: {0}; is it limited (ulimit -v)? --workers and \
         --memory-budget make it less"
    )]
    Buffers(io::Error),
    #[error("no io_uring for a worker: {0}; --backend poll does without")]
    Ring(String),
    #[error(
        "no poll for a worker: {0}; are the open files limited (ulimit -n, LimitNOFILE= of a \
         unit)?"
    )]
    Poll(io::Error),
}

/// The driver of a worker, and why it is not the one that was rather had.
fn start_driver(
    wish: BackendWish,
    pool: &Pool,
) -> Result<(Driver, Option<String>), WorkerStartError> {
    let config = DriverConfig {
        recv_buffers: RECEIVE_BUFFERS,
        queue_entries: QUEUE_ENTRIES,
    };
    let ring = || {
        let driver = Driver::new(Backend::IoUring, &config, pool);
        driver.map_err(|error| landro_sys::probe::why_no_ring(&error))
    };
    let poll = || Driver::new(Backend::Poll, &config, pool).map_err(WorkerStartError::Poll);
    match wish {
        BackendWish::Only(Backend::Poll) => Ok((poll()?, None)),
        BackendWish::Only(Backend::IoUring) => Ok((ring().map_err(WorkerStartError::Ring)?, None)),
        BackendWish::RingOrPoll => match ring() {
            Ok(driver) => Ok((driver, None)),
            Err(why) => Ok((poll()?, Some(why))),
        },
    }
}

fn listen_at(driver: &mut Driver, at: ListenAt) -> io::Result<Listeners> {
    let mut listeners = Listeners::default();
    for (socket, accept) in at.udp {
        listeners.add(driver, socket, Some(accept))?;
    }
    for (listener, setup) in at.tcp {
        listeners.add_door(driver, listener, setup)?;
    }
    Ok(listeners)
}

/// The parts; each method that needs more than one of them is here or in `apps`, the rest is
/// theirs.
pub struct Worker {
    io: Loop,
    inbox: Receiver<Mail>,
    listeners: Listeners,
    connections: Connections,
    sessions: Sessions,
    disk: Disk,
    /// Mail that others have no room for.
    outbox: Outbox,
    /// Of a command: its one transfer.
    client: Option<ClientTransfer>,
    /// Who is connected to for handles, and those that wait for that.
    dials: Dials,
    connects: Option<ConnectsEnd>,
    /// Where connections of the embedding program are let in.
    _accepting: Option<Accepting>,
    /// What is read for handles.
    read_buffers: ReadBuffers,
    /// Timers that expire in this turn; empty between turns, kept for its room.
    due: Vec<Timer>,
}

/// The time, for callers outside the loop that measure a whole run (the command's summary).
#[allow(clippy::disallowed_methods, reason = "this module owns the clock")]
pub fn now() -> Instant {
    Instant::now()
}

/// So long ago, in seconds since the epoch; files are dated so.
pub fn before(age: Duration) -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.map_or(0, |since| since.as_secs() as i64);
    now.saturating_sub(i64::try_from(age.as_secs()).unwrap_or(i64::MAX))
}

/// Has the calling thread stay on its core, and on a machine of several nodes take memory from that
/// of the core.
fn settle(worker: WorkerId, place: CoreOfNode) {
    let (WorkerId(worker), CoreOfNode { core, node }) = (worker, place);
    if let Err(error) = landro_sys::cpu::pin(core) {
        tracing::warn!(core, %error, "cannot pin the worker to its core; going on unpinned");
        return;
    }
    let Some(node) = node else {
        return;
    };
    match prefer(node) {
        Ok(MemoryFrom::Node) => {
            tracing::info!("worker {worker} is on core {core}, with memory of NUMA node {node}")
        }
        Ok(MemoryFrom::PolicyOfBefore) => tracing::info!(
            "worker {worker} is on core {core} of NUMA node {node}; memory comes as the policy says that landro was started with (numactl?)"
        ),
        // Nearly all is touched first by this thread, and so comes from its node all the same.
        Err(error) => tracing::info!(
            "worker {worker} is on core {core} of NUMA node {node}; that node's memory cannot be preferred: {}",
            why_not_preferred(&error)
        ),
    }
}

impl Worker {
    /// Builds a worker on the thread that will run it (the ring is SINGLE_ISSUER) and reports how
    /// to wake it. Gives with it why it runs on poll, if a ring was wanted.
    ///
    /// # Errors
    /// When the driver cannot be set up.
    pub fn new(
        parts: WorkerParts,
        started: impl FnOnce(WakeHandle),
    ) -> Result<(Worker, Option<String>), WorkerStartError> {
        // Before anything is allocated, and before the ring and the driver start threads, which
        // take memory from the same node as this one.
        if let Some(place) = parts.place {
            settle(parts.id, place);
        }
        let pool = Pool::new(parts.pool_buffers).map_err(WorkerStartError::Buffers)?;
        let (mut driver, no_ring) = start_driver(parts.backend, &pool)?;
        let is_daemon = parts.listen.is_some();
        let lets_in = parts.listen.as_ref().is_some_and(|at| !at.udp.is_empty());
        let listeners = parts.listen.map_or_else(
            || Ok(Listeners::default()),
            |at| listen_at(&mut driver, at).map_err(WorkerStartError::Poll),
        )?;
        started(driver.wake_handle());
        let now = now();
        let shared = parts.shared;
        let mailbox = shared.mailboxes.get(parts.id.0 as usize);
        let router = Router::new(parts.id, shared.workers, shared.secrets.clone(), is_daemon);
        let mut worker = Worker {
            inbox: parts.inbox,
            listeners,
            connections: Connections::new(router, now),
            sessions: Sessions::default(),
            disk: Disk::new(pool.clone(), shared.settler.clone(), shared.digests.clone())
                .timed_by(self::now),
            outbox: Outbox::default(),
            client: None,
            dials: Dials::default(),
            connects: mailbox.map(|mailbox| ConnectsEnd(mailbox.connects.clone())),
            _accepting: shared
                .programs
                .as_ref()
                .filter(|_| lets_in)
                .map(|programs| programs.incoming.begin()),
            read_buffers: ReadBuffers::default(),
            due: Vec::new(),
            io: Loop::new(parts.id, now, driver, pool, shared),
        };
        worker.look_up();
        Ok((worker, no_ring))
    }

    /// Runs until it is told to stop and everything has been said.
    ///
    /// # Errors
    /// When the kernel refuses the ring or the poll itself; single operations fail into their own
    /// connections.
    pub fn run(mut self) -> io::Result<()> {
        loop {
            self.io.now = now();
            self.io.beat();
            self.io.count(Metric::Turns, []);
            self.take_completions();
            self.take_mail();
            self.take_wanted_turns();
            self.take_connects();
            self.outbox.flush(&self.io.shared);
            self.expire_timers();
            self.dial_when_due();
            self.connect_when_due();
            self.listeners.open(&mut self.io);
            self.connections.feed_hungry(&self.io);
            self.connections.feed_waiting_to_send(&self.io);
            self.trim_when_due();
            self.make_room();
            self.make_room_for_sessions();
            self.io.log.tell_counts(self.io.now);
            self.turn_sessions();
            self.turn_connections();
            self.listen();
            self.look_up_when_due();
            if self.is_over() {
                self.say_the_end();
                return Ok(());
            }
            self.hand_over_file_operations();
            #[cfg(debug_assertions)]
            self.check();
            let wait = self.wait_limit();
            self.io.driver.submit_and_wait(wait)?;
        }
    }

    fn take_completions(&mut self) {
        for _ in 0..COMPLETIONS_PER_TURN {
            let Some(completion) = self.io.driver.next_completion() else {
                return;
            };
            if !matches!(completion, Completion::Woken) {
                self.io.lookups.want();
            }
            self.take(completion);
        }
    }

    fn take(&mut self, completion: Completion) {
        let (io, connections) = (&mut self.io, &mut self.connections);
        match completion {
            Completion::Received(datagrams) => connections.take(io, &mut self.listeners, datagrams),
            Completion::Sent {
                token,
                buffer,
                result,
            } => connections.sent(io, token, buffer, result),
            Completion::File { token, result } => self.disk.complete(token, result),
            Completion::Refused { socket, error } => {
                connections.refused(io, socket, &error);
                if let Some(client) = &mut self.client {
                    client.udp_refused(io.now);
                }
            }
            Completion::Ready {
                id,
                readable,
                writable,
            } => {
                if !self.arrive(id) {
                    self.connections.ready(id, readable, writable);
                }
            }
            Completion::Woken => {}
        }
    }

    fn take_mail(&mut self) {
        for _ in 0..MAILS_PER_TURN {
            let Ok(mail) = self.inbox.try_recv() else {
                return;
            };
            match mail {
                Mail::Stray(stray) => {
                    let (io, listeners) = (&mut self.io, &mut self.listeners);
                    self.connections.take_stray(io, listeners, stray);
                }
                Mail::AreYouAlive { asker, lane, peer } => {
                    self.question_from(asker, lane, &peer);
                }
                Mail::Answered { lane } => self.answered(lane),
                Mail::HandedOver(handed) => self.take_over(*handed),
                Mail::Outpost(mail) => self.take_outpost_mail(*mail),
                Mail::Start(start) => self.start_client(*start),
                Mail::Ask(ask) => self.ask(ask),
                Mail::Cancel => self.cancel_client(),
                Mail::Reauthorise => self.reauthorise(),
                Mail::Shutdown(grace) => self.shut_down(grace),
            }
        }
    }

    fn shut_down(&mut self, grace: Duration) {
        if self.io.stopping.is_none() {
            self.io.stopping = Some(self.io.now + grace);
            self.listeners.close_doors(&mut self.io.driver);
            self.stop_connecting();
            self.stop_all();
        }
    }

    fn hand_over_file_operations(&mut self) {
        let hung = self.disk.hung();
        self.disk.feed_yielded();
        self.disk.close_kept();
        self.disk.feed_starved();
        self.disk.feed_short(self.io.now);
        if self.disk.hung() != hung {
            self.io.lookups.want();
        }
        while let Some((token, op)) = self.disk.next_operation() {
            self.io.driver.file(token, op);
        }
    }

    /// None: until something happens.
    fn wait_limit(&self) -> Option<Duration> {
        let has_mail = !self.inbox.is_empty() || self.has_wanted_turns();
        if has_mail || self.connections.can_go_on(&self.io) || self.disk.has_finished() {
            return Some(Duration::ZERO);
        }
        let due = [
            self.io.timers.next(),
            self.io.stopping,
            self.io.trim_at,
            self.connections.listen_at(),
            self.listeners.open_at(),
            self.dials.due(),
            self.disk.short_until(),
            self.io.log.due(),
            self.io.lookups.due(),
            self.outbox.due(self.io.now),
            self.client.as_ref().and_then(ClientTransfer::dial_at),
            self.client
                .as_ref()
                .and_then(|it| it.carried_until(self.io.now)),
        ]
        .into_iter()
        .flatten()
        .min();
        due.map(|due| due.saturating_duration_since(self.io.now))
    }

    fn trim_when_due(&mut self) {
        let now = self.io.now;
        if self.io.trim_at.take_if(|at| *at <= now).is_some() {
            if self.sessions.is_empty() {
                self.io.driver.trim();
            }
            self.connections.shrink();
            self.sessions.shrink();
            landro_sys::weigh::give_back();
        }
    }

    /// Whether the loop may end.
    fn is_over(&self) -> bool {
        let all_said = self.io.send_buffers.are_all_back() && !self.connections.are_touched();
        let no_files = self.disk.in_flight() == 0;
        let now = self.io.now;
        let client_is_over = self.client.as_ref().is_some_and(|it| it.is_over(now));
        if client_is_over && all_said && no_files {
            return true;
        }
        match self.io.stopping {
            Some(at) => {
                let has_part = self.sessions.iter().any(|(_, it)| it.home.is_some());
                let is_idle = self.connections.is_empty() && no_files;
                // Homes wait for what they asked of outposts, and these for their end.
                is_idle && self.outbox.is_empty() && !has_part || at <= now
            }
            None => false,
        }
    }

    /// What the process is to know of a worker that ends.
    fn say_the_end(mut self) {
        self.look_up();
        let metrics = &self.io.shared.metrics;
        metrics.take_last(&mut self.io.recorder);
        if let Some(client) = self.client {
            client.say_the_end((&self.io.shared.metrics.snapshot()).into());
        }
        self.io.log.tell_all_counts();
    }

    /// Holds the counters of all parts against their tables.
    #[cfg(debug_assertions)]
    fn check(&self) {
        self.connections.check();
        let connections = self.connections.iter();
        self.sessions
            .check(connections.filter_map(|(_, connection)| connection.app.session()));
    }
}
