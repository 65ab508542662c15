//! A connection from its handshake to its end. It may go from one worker to another.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use super::UnknownStream;
use super::channel::Channel;
use super::clear::{ClearHandshake, ClearKeys, ClearLane, ClearPass, ClearPasses};
use super::fault::Fault;
use super::hands::InKernel;
use super::handshake::{TlsHandshake, TlsKeys};
use super::inbox::Inbox;
use super::setup::{TcpLimits, TcpSetup};
use super::write_streams::{PipedBytes, Unsealed};
use crate::carrier::{Alpn, CloseReason, ConnState, MAX_REASON_BYTES, VIOLATION};
use crate::ids::Fingerprint;

/// What rustls keeps for a handshake, about.
const HANDSHAKE_HEAP_BYTES: usize = 16 << 10;

/// Keys with their tables, and what makes the next ones: an idle connection was measured at 4.8 KB.
const KEYS_HEAP_BYTES: usize = 4 << 10;

/// The secret and the keys of a lane in the clear.
const CLEAR_HEAP_BYTES: usize = 256;

/// The smallest window: one that could be used up by a few bytes would be all frames of credit.
const MIN_WINDOW_BYTES: u64 = 64 << 10;

/// What of the peer's is to be held at most.
#[derive(Clone, Copy, Debug)]
pub struct TcpWindows {
    /// Unread data of all streams together, but the control stream's 256 KiB.
    pub connection_bytes: u64,
    /// Of one stream.
    pub stream_bytes: u64,
}

/// What went through a connection.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct TcpCounters {
    pub sent_bytes: u64,
    pub received_bytes: u64,
    pub records_sealed: u64,
    pub records_opened: u64,
    /// KeyUpdates in both directions.
    pub keys_renewed: u64,
    /// What of `sent_bytes` and `received_bytes` went under keys that are used no more.
    pub under_old_keys_bytes: [u64; 2],
}

/// How far a connection has come.
pub(super) enum TcpPhase {
    Handshaking {
        handshake: Box<TlsHandshake>,
        deadline: Instant,
        /// Bytes that rustls was shown and may want to see again.
        shown_bytes: usize,
        /// All it was shown.
        bytes: usize,
    },
    /// Without TLS; before may have been Handshaking, of a server that did not know.
    Proving {
        handshake: ClearHandshake,
        deadline: Instant,
    },
    /// Both sides have proven their keys and we trust the peer's; before was Handshaking.
    Established(Box<TlsKeys>),
    /// Both sides have proven that they have the lane's secret; before was Proving.
    Clear(Box<ClearKeys>),
    /// Before was Handshaking.
    Failed,
}

/// The last thing that is said in TLS.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Farewell {
    No,
    /// Behind our CLOSE.
    AfterClose,
    Alert(u8),
    /// Nothing may follow.
    Said,
}

/// An end that is decided.
pub(super) struct TcpEnd {
    pub reason: CloseReason,
    pub until: Instant,
    /// Whether the peer's end is waited for.
    pub awaits_peer: bool,
}

/// A connection over TCP, by TLS or in the clear: one lane.
pub struct TcpConn {
    pub(super) phase: TcpPhase,
    pub(super) is_server: bool,
    pub(super) limits: TcpLimits,
    pub(super) channel: Channel,
    pub(super) inbox: Inbox,
    pub(super) out: Vec<u8>,
    pub(super) out_at: usize,
    /// Follows `out`.
    pub(super) out_piped: Option<PipedBytes>,
    /// Of a server: who may come in the clear.
    pub(super) clear: Option<ClearPasses>,
    pub(super) peer: Option<Fingerprint>,
    pub(super) shown: Option<Fingerprint>,
    /// Part of a message behind the handshake.
    pub(super) message: Vec<u8>,
    pub(super) records_without_data: u32,
    pub(super) is_key_update_owed: bool,
    pub(super) in_kernel: InKernel,
    pub(super) farewell: Farewell,
    /// A close by the peer that is told when everything before it was read.
    pub(super) close_behind: Option<TcpEnd>,
    pub(super) end: Option<TcpEnd>,
    pub(super) has_peer_ended: bool,
    pub(super) is_over: bool,
    pub(super) heard_at: Instant,
    pub(super) release_at: Option<Instant>,
    pub(super) counters: TcpCounters,
}

impl TcpConn {
    /// Begins a handshake with whom was dialled.
    pub fn connect(setup: &TcpSetup, windows: TcpWindows, now: Instant) -> TcpConn {
        let mut conn = TcpConn::new(setup, windows, now);
        // A client speaks first.
        conn.step(now);
        conn
    }

    /// Begins a lane in the clear, which is admitted by `pass`.
    pub fn connect_clear(
        setup: &TcpSetup,
        pass: ClearPass,
        windows: TcpWindows,
        now: Instant,
    ) -> TcpConn {
        let (mut out, limits) = (Vec::new(), setup.limits);
        let phase = TcpPhase::Proving {
            handshake: ClearHandshake::ask(pass, &mut out),
            deadline: now + limits.handshake,
        };
        let mut conn = TcpConn::of(phase, limits, windows, now);
        conn.out = out;
        conn
    }

    /// Awaits a handshake of whom was accepted.
    pub fn accept(setup: &TcpSetup, windows: TcpWindows, now: Instant) -> TcpConn {
        TcpConn::new(setup, windows, now)
    }

    fn new(setup: &TcpSetup, windows: TcpWindows, now: Instant) -> TcpConn {
        let handshake = TlsHandshake::new(setup).map_err(|error| error.to_string());
        let (phase, failed) = match handshake {
            Ok(handshake) => (
                TcpPhase::Handshaking {
                    handshake: Box::new(handshake),
                    deadline: now + setup.limits.handshake,
                    shown_bytes: 0,
                    bytes: 0,
                },
                None,
            ),
            Err(why) => (TcpPhase::Failed, Some(why)),
        };
        let mut conn = TcpConn::of(phase, setup.limits, windows, now);
        if setup.is_server {
            conn.is_server = true;
            conn.channel = channel(true, windows);
        }
        conn.clear = setup.clear.clone();
        conn.in_kernel = InKernel::new(setup.is_in_kernel);
        conn.end = failed.map(|why| TcpEnd {
            reason: CloseReason::Transport(format!("TLS: {why}")),
            until: now,
            awaits_peer: false,
        });
        conn
    }

    /// A client's, without TLS in the kernel.
    fn of(phase: TcpPhase, limits: TcpLimits, windows: TcpWindows, now: Instant) -> TcpConn {
        TcpConn {
            phase,
            is_server: false,
            limits,
            channel: channel(false, windows),
            inbox: Inbox::default(),
            out: Vec::new(),
            out_at: 0,
            out_piped: None,
            clear: None,
            peer: None,
            shown: None,
            message: Vec::new(),
            records_without_data: 0,
            is_key_update_owed: false,
            in_kernel: InKernel::new(false),
            farewell: Farewell::No,
            close_behind: None,
            end: None,
            has_peer_ended: false,
            is_over: false,
            heard_at: now,
            release_at: None,
            counters: TcpCounters::default(),
        }
    }

    pub(super) fn tell_close_behind(&mut self) {
        if self.channel.reads.unread_bytes() == 0 && self.end.is_none() {
            self.end = self.close_behind.take();
        }
    }

    /// The peer broke a rule.
    pub(super) fn fail(&mut self, now: Instant, fault: Fault) {
        let what = match fault {
            Fault::Tls { alert, what } => {
                self.farewell = Farewell::Alert(alert);
                what
            }
            Fault::Frames(what) => {
                self.channel.close(VIOLATION, what.as_bytes());
                self.farewell = Farewell::AfterClose;
                what
            }
            Fault::Wire(what) => return self.give_wire_up(now, what),
        };
        self.decide(now, CloseReason::Transport(what.to_owned()), true);
    }

    pub(super) fn decide(&mut self, now: Instant, reason: CloseReason, awaits_peer: bool) {
        if self.end.is_none() {
            self.end = Some(TcpEnd {
                reason,
                until: now + self.limits.linger,
                awaits_peer,
            });
        }
    }

    /// Nothing more comes from the socket.
    pub fn ended(&mut self, now: Instant) {
        self.broken(now, "the TCP connection ended without a word");
    }

    /// The socket failed.
    pub fn broken(&mut self, now: Instant, why: &str) {
        self.has_peer_ended = true;
        if self.close_behind.is_none() {
            self.decide(now, CloseReason::GivenUp(why.to_owned()), false);
        }
    }

    /// When [`TcpConn::on_timeout`] is due.
    pub fn deadline(&self) -> Option<Instant> {
        if self.is_closed() {
            return None;
        }
        let life = match (&self.end, &self.phase) {
            (Some(end), _) => end.until,
            (None, TcpPhase::Handshaking { deadline, .. } | TcpPhase::Proving { deadline, .. }) => {
                *deadline
            }
            (None, TcpPhase::Established(_) | TcpPhase::Clear(_) | TcpPhase::Failed) => {
                self.heard_at + self.limits.idle
            }
        };
        Some(self.release_at.map_or(life, |at| at.min(life)))
    }

    /// Does what is due. Harmless when nothing is.
    pub fn on_timeout(&mut self, now: Instant) {
        if self.release_at.is_some_and(|at| at <= now) {
            self.release_at = None;
            self.channel.reads.vacate(self.inbox.bytes());
            self.inbox.shrink(true);
        }
        let (until, reason) = match (&self.end, &self.phase) {
            (Some(end), _) => (end.until, None),
            (None, TcpPhase::Handshaking { deadline, .. } | TcpPhase::Proving { deadline, .. }) => {
                (*deadline, Some(CloseReason::HandshakeTimeout))
            }
            (None, TcpPhase::Established(_) | TcpPhase::Clear(_) | TcpPhase::Failed) => (
                self.heard_at + self.limits.idle,
                Some(CloseReason::IdleTimeout),
            ),
        };
        if until <= now && !self.is_over {
            if let Some(reason) = reason {
                self.decide(now, reason, false);
            }
            self.is_over = true;
        }
    }

    /// How far the connection is. `Established` on a client means that we trust the server; whether
    /// it trusts us shows with its first message or with [`CloseReason::IdentityRefused`].
    pub fn state(&self) -> ConnState {
        match &self.end {
            Some(end) if self.is_closed() => ConnState::Closed(end.reason.clone()),
            Some(_) => ConnState::Closing,
            None if self.knows_peer() => ConnState::Established,
            None => ConnState::Handshaking,
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        let Some(end) = &self.end else {
            return false;
        };
        self.is_over || self.has_peer_ended || (!end.awaits_peer && !self.has_outgoing())
    }

    pub(super) fn knows_peer(&self) -> bool {
        matches!(self.phase, TcpPhase::Established(_) | TcpPhase::Clear(_))
    }

    /// Whether the peer dialled.
    pub fn is_server(&self) -> bool {
        self.is_server
    }

    /// Which lane it is, if it goes without TLS: the one that its peer has proven to have the
    /// secret of, and no other.
    pub fn clear_lane(&self) -> Option<ClearLane> {
        match &self.phase {
            TcpPhase::Clear(keys) => Some(keys.lane),
            TcpPhase::Handshaking { .. }
            | TcpPhase::Proving { .. }
            | TcpPhase::Established(_)
            | TcpPhase::Failed => None,
        }
    }

    /// Whether it goes without TLS, or is to.
    pub fn is_clear(&self) -> bool {
        matches!(self.phase, TcpPhase::Clear(_) | TcpPhase::Proving { .. })
    }

    pub fn is_established(&self) -> bool {
        self.knows_peer() && !self.is_closing()
    }

    /// Closing or closed: nothing more will arrive, and nothing is sent but the reason.
    pub fn is_closing(&self) -> bool {
        self.end.is_some()
    }

    /// Why the connection is closing or closed; `None` while it is neither.
    pub fn close_reason(&self) -> Option<CloseReason> {
        self.end.as_ref().map(|end| end.reason.clone())
    }

    /// The peer's key, once it has proven to have it.
    pub fn peer_fingerprint(&self) -> Option<Fingerprint> {
        self.peer
    }

    /// Whose certificate the peer shows, which proves nothing: for a word on who was refused.
    pub fn shown_fingerprint(&self) -> Option<Fingerprint> {
        self.shown
    }

    /// What the handshake agreed to carry; to be asked when it is complete.
    pub fn alpn(&self) -> Alpn {
        Alpn::Landro1
    }

    /// Starts to close; the reason leaves with [`TcpConn::outgoing`], behind what is owed and in
    /// place of what was not sent. Reasons are cut to 256 bytes.
    pub fn close(&mut self, now: Instant, code: u64, reason: &[u8]) {
        if self.end.is_some() {
            return;
        }
        let reason = &reason[..reason.len().min(MAX_REASON_BYTES)];
        let was_established = self.knows_peer();
        if was_established {
            self.channel.close(code, reason);
            self.farewell = Farewell::AfterClose;
        }
        let reason = String::from_utf8_lossy(reason).into_owned();
        self.decide(now, CloseReason::Local { code, reason }, was_established);
    }

    /// Closes for a reason that is no word between the two sides: the connection itself cannot go
    /// on.
    pub fn give_up(&mut self, now: Instant, code: u64, why: &str) {
        self.close(now, code, why.as_bytes());
        if let Some(end) = &mut self.end
            && let CloseReason::Local { .. } = end.reason
        {
            end.reason = CloseReason::GivenUp(why.to_owned());
        }
    }

    /// Asks the peer for a sign of life with the next [`TcpConn::outgoing`].
    pub fn keep_alive(&mut self) {
        self.channel.ping();
    }

    /// When an authentic record of the peer came last, or bulk of one.
    pub fn heard_at(&self) -> Instant {
        self.heard_at
    }

    /// Opens a one-way stream. `None`: not established, no credit yet, or as many are open as may
    /// be; more may as old ones are read out.
    pub fn open_uni(&mut self) -> Option<u64> {
        if !self.may_send() {
            return None;
        }
        self.channel.writes.open_uni()
    }

    /// Not when the peer has closed, though that may not be told yet.
    fn may_send(&self) -> bool {
        self.is_established() && self.farewell == Farewell::No
    }

    /// Queues data by reference, `fin` after its last byte. Takes what credit and
    /// [`TcpConn::unsent_bytes`] allow and returns the rest (whose `fin` is then still to come),
    /// `None` when all was taken.
    ///
    /// # Errors
    /// There is no such stream, or its end was given.
    pub fn send(
        &mut self,
        stream: u64,
        data: Bytes,
        fin: bool,
    ) -> Result<Option<Bytes>, UnknownStream> {
        self.send_unsealed(stream, Unsealed::Said(data), fin)
    }

    /// The same with data of a file, of which the receiver notices by a digest that follows if it
    /// was changed.
    ///
    /// # Errors
    /// As of [`TcpConn::send`].
    pub fn send_bulk(&mut self, stream: u64, data: Bytes) -> Result<Option<Bytes>, UnknownStream> {
        self.send_unsealed(stream, Unsealed::Bulk(data), false)
    }

    /// The same with so many of the bytes that are in a pipe, if [`TcpConn::takes_pipes`]. Gives
    /// how many were taken. Nobody else reads from the pipe.
    ///
    /// # Errors
    /// As of [`TcpConn::send`]; or this connection seals what it sends.
    pub fn send_piped(
        &mut self,
        stream: u64,
        pipe: Arc<OwnedFd>,
        bytes: usize,
    ) -> Result<usize, UnknownStream> {
        if !self.takes_pipes() {
            return Err(UnknownStream);
        }
        if !self.may_send() {
            return Ok(0);
        }
        let piped = Unsealed::Piped(PipedBytes { pipe, bytes });
        let rest = self.channel.writes.send(stream, piped, false)?;
        Ok(bytes - rest.map_or(0, |rest| rest.len()))
    }

    fn send_unsealed(
        &mut self,
        stream: u64,
        data: Unsealed,
        fin: bool,
    ) -> Result<Option<Bytes>, UnknownStream> {
        let rest = match self.may_send() {
            true => self.channel.writes.send(stream, data, fin)?,
            false => Some(data),
        };
        Ok(match rest {
            Some(Unsealed::Said(rest) | Unsealed::Bulk(rest)) => Some(rest),
            Some(Unsealed::Piped(_)) | None => None,
        })
    }

    /// A turn is over: what nothing lies in is for others.
    pub fn rest(&mut self) {
        if !self.reads_buffer() {
            self.inbox.shrink(false);
        }
    }

    /// Stream bytes that were taken and not sealed yet.
    pub fn unsent_bytes(&self) -> usize {
        self.channel.writes.unsent_bytes()
    }

    /// A stream that got something to read, each once: read it to the end ([`TcpConn::read`] gives
    /// `None`) or remember it, it is not named again until more arrives. What arrived before the
    /// connection ended stays readable.
    pub fn readable_next(&mut self) -> Option<u64> {
        self.channel.reads.readable_next()
    }

    /// Reads into `out`: the count and whether the stream ended with it. `None`: nothing there now.
    ///
    /// # Errors
    /// There is no such stream, or it was read to its end.
    pub fn read(
        &mut self,
        stream: u64,
        out: &mut [u8],
    ) -> Result<Option<(usize, bool)>, UnknownStream> {
        let read = self.channel.reads.read(stream, self.inbox.bytes(), out);
        self.tell_close_behind();
        read.ok_or(UnknownStream)
    }

    /// Whether a stream of either direction that was opened is over and forgotten: the peer *read*
    /// all that was sent in it, its end included, and what it sent was read to the end.
    pub fn is_delivered(&self, stream: u64) -> bool {
        !self.channel.writes.is_open(stream) && !self.channel.reads.is_open(stream)
    }

    /// Heap bytes that are kept for this connection now.
    pub fn held_bytes(&self) -> u64 {
        let keys = match self.phase {
            TcpPhase::Handshaking { .. } => HANDSHAKE_HEAP_BYTES,
            TcpPhase::Established(_) => KEYS_HEAP_BYTES,
            TcpPhase::Proving { .. } | TcpPhase::Clear(_) => CLEAR_HEAP_BYTES,
            TcpPhase::Failed => 0,
        };
        let buffers = self.inbox.held_bytes() + self.out.capacity() + self.message.capacity();
        (size_of::<TcpConn>() + keys + buffers + self.channel.held_bytes()) as u64
    }

    pub fn counters(&self) -> TcpCounters {
        self.counters
    }
}

fn channel(is_server: bool, windows: TcpWindows) -> Channel {
    Channel::new(
        is_server,
        windows.connection_bytes.max(MIN_WINDOW_BYTES),
        windows.stream_bytes.max(MIN_WINDOW_BYTES),
    )
}
