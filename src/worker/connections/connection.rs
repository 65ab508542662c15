//! One connection of this worker: what it has whatever runs on it.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use landro_sys::{Bind, RouteTo};

use super::app::App;
use super::doubt::Doubt;
use super::transport::Transport;
use crate::ids::Fingerprint;
use crate::quic::{CloseReason, Conn, PathSnapshot};
use crate::worker::counted::Counted;
use crate::worker::event_loop::Loop;
use crate::worker::handles::StreamsApp;
use crate::worker::lane::TransferLane;
use crate::worker::limits::LINGER;
use crate::worker::log::Who;
use crate::worker::paths::Path;
use crate::worker::timers::{Scheduled, Timer};

/// A client that was silent for so long did not hear, or could not say, four requests for a sign of
/// life ([`super::doubt::SIGN_OF_LIFE`]).
const SILENT_CLIENT: Duration = Duration::from_secs(1);

/// How soon after a look at the way to a peer the next failed send is a reason for another.
const LOOK_PAUSE: Duration = Duration::from_millis(100);

pub(crate) struct WorkerConnection {
    pub(crate) serial: u64,
    pub(crate) conn: Transport,
    pub(crate) peer: SocketAddr,
    /// Of one that we dialled: where packets leave from, if we chose, and its number.
    pub(crate) bind: Option<(u8, Bind)>,
    pub(crate) app: App,
    /// Whether it stands in the lists of that name ([`super::Connections`]).
    pub(super) touched: bool,
    pub(super) unfinished: bool,
    pub(super) waiting_to_send: bool,
    /// It had a turn since what it did was last counted.
    pub(super) is_news: bool,
    pub(super) timer: Scheduled,
    /// When it is given up: a missing preface, a finished session, a silent handshake.
    pub(crate) deadline: Option<Instant>,
    /// Last time a datagram of it arrived, and when we last asked for a sign of life.
    pub(crate) heard: Instant,
    pub(crate) pinged: Instant,
    /// How long one that we dialled is silent before we ask. None: accepted; a daemon, which has
    /// many, asks seldom.
    pub(super) quiet: Option<Duration>,
    /// Of one that we dialled: when the way to the peer was last looked at, whether a send failed
    /// since, and why there is none.
    pub(crate) looked_at: Instant,
    pub(super) failed_to_leave: bool,
    pub(crate) cut_off: Option<String>,
    /// The peer's port is said to be closed.
    pub(super) doubt: Option<Doubt>,
    /// Window bytes granted out of the memory budget, given back when it ends.
    pub(super) granted_bytes: u64,
    /// What QUIC held for it when that was last added up.
    pub(super) held_bytes: u64,
    /// Closed for holding too much: to be dropped with the turn that says so.
    pub(super) evicted: bool,
    /// A handshake that is given up to make room for others.
    pub(super) is_displaced: bool,
    pub(super) begun: Instant,
    /// What of it is in the worker's numbers.
    pub(super) counted: Counted,
    /// The path's numbers; quiche forgets its active path when the connection closes.
    path: PathSnapshot,
}

impl WorkerConnection {
    pub(super) fn new(
        io: &mut Loop,
        conn: Transport,
        peer: SocketAddr,
        app: App,
    ) -> WorkerConnection {
        WorkerConnection {
            serial: io.serial(),
            conn,
            peer,
            bind: None,
            app,
            touched: false,
            unfinished: false,
            waiting_to_send: false,
            is_news: true,
            timer: Scheduled::default(),
            deadline: Some(io.now + io.shared.quic.handshake_timeout),
            heard: io.now,
            pinged: io.now,
            quiet: None,
            looked_at: io.now,
            failed_to_leave: false,
            cut_off: None,
            doubt: None,
            granted_bytes: 0,
            held_bytes: 0,
            evicted: false,
            is_displaced: false,
            begun: io.now,
            counted: Counted::default(),
            path: PathSnapshot::default(),
        }
    }

    /// The way it was dialled.
    pub(crate) fn path(&self) -> Path {
        Path {
            bind: self.bind.as_ref().map(|(number, _)| *number),
            peer: self.peer,
        }
    }

    /// How the kernel would reach the peer now.
    pub(crate) fn route(&self) -> io::Result<RouteTo> {
        landro_sys::route_to(self.peer, self.bind.as_ref().map(|(_, bind)| bind))
    }

    /// The transport's part and the lane's, if this is a lane.
    pub(crate) fn lane_mut(&mut self) -> Option<(&mut Transport, &mut TransferLane)> {
        match &mut self.app {
            App::Undecided(_) | App::Streams(_) => None,
            App::Transfer(lane) => Some((&mut self.conn, lane)),
        }
    }

    pub(crate) fn lane(&self) -> Option<&TransferLane> {
        match &self.app {
            App::Undecided(_) | App::Streams(_) => None,
            App::Transfer(lane) => Some(lane),
        }
    }

    /// Whose doing it is, for the log.
    pub(crate) fn who(&self) -> Who {
        self.conn
            .peer_fingerprint()
            .map_or(Who::Strangers, Who::Peer)
    }

    pub(crate) fn is_of(&self, peer: &Fingerprint) -> bool {
        self.conn.peer_fingerprint().as_ref() == Some(peer)
    }

    /// It goes to make room for others.
    pub(crate) fn displace(&mut self) {
        self.is_displaced = true;
    }

    pub(crate) fn is_evicted(&self) -> bool {
        self.evicted
    }

    /// Whether the way to the peer is to be looked at: a send failed, and not only a moment ago.
    pub(crate) fn takes_look(&mut self, now: Instant) -> bool {
        let is_due = self.failed_to_leave && self.looked_at + LOOK_PAUSE <= now;
        self.failed_to_leave &= !is_due;
        is_due
    }

    /// Why it is closing or closed: where nothing was heard because there was no way, that is why.
    pub(crate) fn close_reason(&self) -> Option<CloseReason> {
        let reason = self.conn.close_reason()?;
        Some(match (reason, &self.cut_off) {
            (CloseReason::IdleTimeout, Some(why)) => CloseReason::GivenUp(format!(
                "this host had no way to {} any more: {why}",
                self.peer
            )),
            (reason, _) => reason,
        })
    }

    /// Takes the path's numbers while there is a path.
    pub(crate) fn last_stats(&mut self) {
        let path = self.conn.snapshot();
        if path.sent_bytes > 0 {
            self.path = path;
        }
    }

    /// What [`WorkerConnection::last_stats`] took last.
    pub(crate) fn measured_path(&self) -> &PathSnapshot {
        &self.path
    }

    /// A client that is there asks for signs of life; while one is silent, probes of ours are
    /// wasted, and each doubles the time to the next. One is kept for when it is back.
    pub(super) fn spare_probes(&mut self, io: &Loop) {
        let is_silent = self.heard + SILENT_CLIENT <= io.now;
        let serves = self.app.session().is_some();
        if let Some(conn) = self.conn.quic_mut()
            && conn.is_server()
            && is_silent
            && serves
        {
            conn.hold_timers(self.heard + io.shared.quic.idle_timeout / 2);
        }
    }

    /// Closes with CONNECTION_CLOSE; what runs on it learns it when the connection is closed.
    pub(super) fn close(&mut self, now: Instant, code: u64, reason: &str) {
        self.last_stats();
        self.conn.close(now, code, reason.as_bytes());
        self.app.stop_reading();
        self.deadline = Some(now + LINGER);
    }

    /// Asks for a sign of life.
    pub(crate) fn ping(&mut self, now: Instant) {
        self.pinged = now;
        self.conn.keep_alive();
    }

    /// Whether one that we dialled was asked twice for a sign of life and gave none.
    pub(crate) fn is_silent(&self, now: Instant) -> bool {
        self.quiet
            .is_some_and(|quiet| self.heard + 2 * quiet <= now)
    }

    /// When it was silent for so long that it is to be asked.
    pub(super) fn ask_at(&self, keep_alive: Duration) -> Option<Instant> {
        let silent = self.heard.max(self.pinged) + self.quiet.unwrap_or(keep_alive);
        let is_kept_alive = match &self.app {
            App::Undecided(_) => false,
            App::Transfer(lane) => lane.session().is_some(),
            App::Streams(_) => !self.conn.is_closing(),
        };
        is_kept_alive.then_some(silent)
    }

    /// Whether its peer is to hear why it closes, and may not if it is dropped now.
    pub(crate) fn lingers(&self) -> bool {
        match &self.conn {
            Transport::Quic(_) => false,
            Transport::Tcp(link) => link.lingers(),
        }
    }

    /// Puts its next deadline into the loop's timers, and has the driver watch its stream.
    pub(super) fn schedule(&mut self, io: &mut Loop, key: usize) {
        let now = io.now;
        let look = self.conn.tcp_mut().and_then(|link| link.look_at);
        let quic = self.conn.quic();
        let pacing = quic.and_then(|conn| conn.release_time(now));
        let pacing = pacing.filter(|at| *at > now);
        // One that passed is seen to in the turn that a send buffer or pacing allows.
        let stuck = quic.and_then(Conn::stuck_check).filter(|at| *at > now);
        let doubt = self.doubt.as_ref().map(Doubt::until);
        let streams = self.app.streams().and_then(StreamsApp::due);
        let due = [
            self.conn.timeout(),
            self.deadline,
            pacing,
            self.ask_at(io.shared.quic.keep_alive),
            stuck,
            // As with one that is stuck.
            streams.filter(|at| *at > now && !self.conn.is_closing()),
            look.filter(|_| !self.conn.is_closing()),
            doubt.filter(|_| !self.conn.is_closing()),
        ]
        .into_iter()
        .flatten()
        .min();
        let serial = self.serial;
        let timer = Timer::Connection { key, serial };
        self.timer.want(due, &mut io.timers, timer);
        if let Transport::Tcp(link) = &mut self.conn {
            link.watch(&mut io.driver, now);
        }
    }
}
