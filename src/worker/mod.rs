//! One worker: a pinned thread with its own ring, sockets, connections and buffers, and the only
//! clock.
//!
//! The loop of [`Worker::run`] is the whole order of events. Completions are queued by the driver
//! and taken here at our own pace; nothing acts from inside anything else.

mod client;
mod egress;
mod ingress;
mod lane;
mod life;
mod link;
mod local;
mod log;
mod pulse;
mod refused;
mod revoke;
mod session;
mod share;
mod stats;
mod succession;
mod timers;
mod turn;

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam::channel::Receiver;
use landro_sys::{
    Backend, Completion, Driver, DriverConfig, Pool, SendBuffer, SocketId, UdpSocket, WakeHandle,
};

use crate::disk::{DESCRIPTOR_RETRY, Disk};
use crate::ids::{SessionId, WorkerId};
use crate::quic::{Router, Setup};
use lane::Lane;
use log::Log;
use session::Running;
use timers::{Timer, Timers};

pub use link::{
    Access, Authorize, ClientEvent, ClientStart, Command, Ended, Mailbox, PeerAccess, Refusals,
    Service, Shared,
};
pub use local::copy_locally;
pub use pulse::Pulse;
pub use stats::TransportStats;

/// Completions handled before the connections get their turn. With GRO each holds up to 64 KiB (44
/// packets of 1472 bytes), and one turn sends one acknowledgement: a few per turn keep
/// acknowledgements frequent enough (cost is flat beyond 16 packets per ACK) without letting a busy
/// socket starve timers.
const MAX_COMPLETIONS_PER_TURN: usize = 4;

/// Send buffers of 64 KiB per worker: enough to keep a queue below us busy, few enough to stay in
/// cache.
const SEND_BUFFERS: usize = 8;

/// Receive ring: 16 buffers of 64 KiB are about one millisecond of 10 Gbit/s and fit the
/// second-level cache.
const RECEIVE_BUFFERS: u16 = 16;

/// Submission queue entries; file operations of many sessions share it, the driver submits when it
/// is full.
const QUEUE_ENTRIES: u32 = 256;

/// What a worker is made of; built on the thread that starts it.
pub struct WorkerParts {
    pub id: WorkerId,
    pub backend: Backend,
    /// Core to stay on; None leaves placement to the scheduler (a command with fewer workers than
    /// cores).
    pub core: Option<usize>,
    pub sockets: Vec<UdpSocket>,
    pub inbox: Receiver<Command>,
    pub shared: Arc<Shared>,
    /// Pool buffers this worker may use.
    pub pool_buffers: usize,
    /// Set for a daemon: how it accepts.
    pub accept: Option<Setup>,
}

pub struct Worker {
    id: WorkerId,
    now: Instant,
    driver: Driver,
    pool: Pool,
    sockets: Vec<(SocketId, SocketAddr)>,
    router: Router,
    accept: Option<Setup>,
    lanes: slab::Slab<Lane>,
    sessions: slab::Slab<Running>,
    session_ids: HashMap<SessionId, usize>,
    disk: Disk,
    timers: Timers,
    /// Timers that expire in this turn; empty between turns, kept for its room.
    due: Vec<Timer>,
    /// Lanes that something happened to since their last turn.
    touched: Vec<usize>,
    /// Lanes that have more to send or read than one turn allowed.
    unfinished: Vec<usize>,
    /// Lanes that want to read and found no pool buffer.
    hungry: Vec<usize>,
    /// Lanes that have something to send and found no send buffer.
    waiting_to_send: VecDeque<usize>,
    /// Free ones; up to `SEND_BUFFERS` are made as they are needed.
    send_buffers: Vec<SendBuffer>,
    send_buffers_made: usize,
    inbox: Receiver<Command>,
    shared: Arc<Shared>,
    client: Option<link::ClientLink>,
    stopping: Option<Instant>,
    serials: u64,
    /// Accepted lanes whose handshake is not complete.
    handshaking: usize,
    /// What QUIC holds for those, and for all lanes.
    handshakes_bytes: u64,
    held_bytes: u64,
    /// What all sessions keep.
    sessions_bytes: u64,
    /// When lanes that hold much are looked through for silent ones.
    listen_at: Option<Instant>,
    /// When this worker came back after it was away for longer than that takes.
    awake_since: Instant,
    /// What lanes held that were dropped since memory was last given back.
    shed_bytes: u64,
    /// Older sessions that new ones of the same peer wait for.
    questions: Vec<succession::Question>,
    /// When they are looked through next.
    review_at: Instant,
    /// When free memory is given back to the kernel.
    trim_at: Option<Instant>,
    /// When what found no descriptor tries again.
    descriptors_at: Option<Instant>,
    gro_packets: u64,
    gro_receives: u64,
    log: Log,
}

/// The time, for callers outside the loop that measure a whole run (the command's summary).
#[allow(clippy::disallowed_methods, reason = "this module owns the clock")]
pub fn now() -> Instant {
    Instant::now()
}

impl Worker {
    /// Builds a worker on the thread that will run it (the ring is SINGLE_ISSUER) and reports how
    /// to wake it.
    ///
    /// # Errors
    /// When the driver cannot be set up.
    pub fn new(parts: WorkerParts, started: impl FnOnce(WakeHandle)) -> io::Result<Worker> {
        if let Some(core) = parts.core
            && let Err(error) = landro_sys::cpu::pin(core)
        {
            tracing::warn!(core, %error, "cannot pin the worker to its core; going on unpinned");
        }
        let pool = Pool::new(parts.pool_buffers)?;
        let config = DriverConfig {
            recv_buffers: RECEIVE_BUFFERS,
            queue_entries: QUEUE_ENTRIES,
        };
        let mut driver = Driver::new(parts.backend, &config, &pool)?;
        let mut sockets = Vec::new();
        for socket in parts.sockets {
            let local = socket.local_addr()?;
            sockets.push((driver.add_socket(socket)?, local));
        }
        started(driver.wake_handle());
        let now = now();
        let server = parts.accept.is_some();
        Ok(Worker {
            id: parts.id,
            now,
            disk: Disk::new(pool.clone(), parts.shared.settler.clone()),
            driver,
            pool,
            sockets,
            router: Router::new(
                parts.id,
                parts.shared.workers,
                parts.shared.secrets.clone(),
                server,
            ),
            accept: parts.accept,
            lanes: slab::Slab::new(),
            sessions: slab::Slab::new(),
            session_ids: HashMap::new(),
            timers: Timers::default(),
            due: Vec::new(),
            touched: Vec::new(),
            unfinished: Vec::new(),
            hungry: Vec::new(),
            waiting_to_send: VecDeque::new(),
            send_buffers: Vec::new(),
            send_buffers_made: 0,
            inbox: parts.inbox,
            shared: parts.shared,
            client: None,
            stopping: None,
            serials: 0,
            handshaking: 0,
            handshakes_bytes: 0,
            held_bytes: 0,
            sessions_bytes: 0,
            listen_at: None,
            awake_since: now,
            shed_bytes: 0,
            questions: Vec::new(),
            review_at: now,
            trim_at: None,
            descriptors_at: None,
            gro_packets: 0,
            gro_receives: 0,
            log: Log::default(),
        })
    }

    /// Runs until it is told to stop and everything has been said.
    ///
    /// # Errors
    /// When the kernel refuses the ring or the poll itself; single operations fail into their own
    /// connections.
    pub fn run(mut self) -> io::Result<()> {
        loop {
            self.now = now();
            self.beat();
            self.take_completions();
            self.take_commands();
            self.expire_timers();
            self.feed_hungry();
            self.feed_waiting_to_send();
            self.trim_when_due();
            self.make_room();
            self.make_room_for_sessions();
            self.listen();
            self.log.tell_counts(self.now);
            self.turn_sessions();
            self.turn_lanes();
            self.review_questions();
            if self.is_over() {
                self.sum_up();
                self.log.tell_all_counts();
                return Ok(());
            }
            self.hand_over_file_operations();
            let wait = self.wait_limit();
            self.driver.submit_and_wait(wait)?;
        }
    }

    /// Says that the loop turned.
    fn beat(&self) {
        if let Some(mailbox) = self.shared.mailboxes.get(self.id.0 as usize) {
            mailbox.pulse.beat();
        }
    }

    fn take_completions(&mut self) {
        for _ in 0..MAX_COMPLETIONS_PER_TURN {
            match self.driver.next_completion() {
                Some(Completion::Received(datagrams)) => self.received(datagrams),
                Some(Completion::Sent {
                    token,
                    buffer,
                    result,
                }) => self.sent(token, buffer, result),
                Some(Completion::File { token, result }) => self.disk.complete(token, result),
                Some(Completion::Refused { socket, error }) => self.refused(socket, &error),
                Some(Completion::Woken) => {}
                None => break,
            }
        }
    }

    fn hand_over_file_operations(&mut self) {
        self.disk.feed_starved();
        if self.descriptors_at.take_if(|at| *at <= self.now).is_some() {
            self.disk.retry_descriptors();
        }
        if self.descriptors_at.is_none() && self.disk.is_short_of_descriptors() {
            self.descriptors_at = Some(self.now + DESCRIPTOR_RETRY);
        }
        while let Some((token, op)) = self.disk.next_operation() {
            self.driver.file(token, op);
        }
    }

    /// None: until something happens.
    fn wait_limit(&self) -> Option<Duration> {
        let more =
            !self.unfinished.is_empty() || !self.touched.is_empty() || self.disk.has_finished();
        // A buffer that came free in this very turn is nobody else's event.
        let can_read = !self.hungry.is_empty() && self.pool.in_use() < self.pool.capacity();
        let can_send = !self.waiting_to_send.is_empty() && self.free_send_buffers() > 0;
        if more || can_read || can_send {
            return Some(Duration::ZERO);
        }
        let due = [
            self.timers.next(),
            self.stopping,
            self.trim_at,
            self.listen_at,
            self.descriptors_at,
            self.questions_due(),
            self.log.due(),
        ]
        .into_iter()
        .flatten()
        .min();
        due.map(|due| due.saturating_duration_since(self.now))
    }

    fn trim_when_due(&mut self) {
        if self.trim_at.is_some_and(|at| at <= self.now) {
            self.trim_at = None;
            self.shed_bytes = 0;
            if self.sessions.is_empty() {
                self.driver.trim();
            }
            self.lanes.shrink_to_fit();
            self.router.shrink();
            landro_sys::weigh::give_back();
        }
    }

    fn touch(&mut self, lane: usize) {
        if let Some(found) = self.lanes.get_mut(lane)
            && !found.touched
        {
            found.touched = true;
            self.touched.push(lane);
        }
    }

    fn free_send_buffers(&self) -> usize {
        self.send_buffers.len() + (SEND_BUFFERS - self.send_buffers_made)
    }

    fn take_send_buffer(&mut self) -> Option<SendBuffer> {
        if self.send_buffers.is_empty() && self.send_buffers_made < SEND_BUFFERS {
            self.send_buffers_made += 1;
            return Some(SendBuffer::new());
        }
        self.send_buffers.pop()
    }

    fn serial(&mut self) -> u64 {
        self.serials += 1;
        self.serials
    }
}
