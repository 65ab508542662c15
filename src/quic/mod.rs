//! One QUIC connection as the worker sees it. Only this directory names quiche and BoringSSL.
//!
//! quiche reads the clock and random bytes itself; nothing here can be simulated. Traps it leaves
//! to its callers are closed here: pinning in both directions, trust after resumption, handshake
//! timeout, zero-copy sends that would lose a refused buffer, one reason why a connection is over.

mod batch;
mod held;
pub(crate) mod identity;
mod pace;
mod reason;
mod route;
mod setup;
mod share;
mod token;
mod unsent;

#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use bytes::Bytes;

pub use batch::{Filled, MAX_RUN_BYTES, MAX_SEGMENTS, Run};
pub use identity::{Identity, IdentityError};
pub use reason::{CloseReason, ConnState, QuicError, StreamError};
pub use route::{CLIENT_CID_BYTES, NewConn, Route, Router, SERVER_CID_BYTES};
pub use setup::{ALPN, Alpn, Setup, TicketKeys, Trust};
pub use token::Secrets;

use crate::config::{Diagnosis, MIN_UDP_PAYLOAD_BYTES};
use crate::ids::Fingerprint;
use held::{Given, Held};
use reason::{ACCESS_DENIED, CERTIFICATE_REQUIRED, CRYPTO_ERROR};
use route::ResetTokens;
use setup::begin_diagnosis;

/// Application error code of a connection whose key may seal no more (docs/protocol.md).
pub const KEY_SPENT: u64 = 8;

/// Urgency of bidirectional streams: control messages overtake data. Lower goes first.
const CONTROL_URGENCY: u8 = 0;

/// Urgency of unidirectional streams.
const DATA_URGENCY: u8 = 3;

/// Streams sent in after which those that are over are forgotten: some more than are ever under
/// way.
const MANY_STREAMS: usize = 64;

/// Longest reason a close carries: it has to fit one packet with the rest, or it would never leave.
const MAX_REASON_BYTES: usize = 256;

/// A QUIC connection: one lane. Owned by one worker for life.
pub struct Conn {
    quiche: Held,
    trust: Trust,
    phase: Phase,
    local: SocketAddr,
    peer: Option<Fingerprint>,
    /// See [`Conn::give_up`].
    given_up: Option<String>,
    /// What `close` was asked for, quiche replaces it before the handshake is over.
    closed_with: Option<(u64, Vec<u8>)>,
    /// quiche's word for what broke the connection.
    failure: Option<quiche::Error>,
    next_uni: u64,
    next_bidi: u64,
    sending: batch::Sending,
    packets_received: u64,
    /// Of those, with long headers.
    long_headers: u32,
    /// Most unread data its flow control ever lets it have.
    window_bytes: u64,
    lane_packet_limit: u64,
    /// Where to publish the peer's reset token (a client's connections only).
    resets: Option<(ResetTokens, usize)>,
    /// Of a server's connection, whose peer is not known yet.
    diagnosis: Option<Diagnosis>,
}

/// How far a connection has come; closing and closed are quiche's to know.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Handshaking {
        deadline: Instant,
    },
    /// The handshake did not end in time; before was Handshaking.
    TimedOut,
    /// The handshake resumed a session of a peer we no longer trust; before was Handshaking.
    Refused,
    /// Both sides have proven their keys and we trust the peer's; before was Handshaking.
    Established,
}

/// Numbers of a connection's path, for reports.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PathSnapshot {
    pub rtt: Duration,
    /// `None` before the first measurement.
    pub min_rtt: Option<Duration>,
    pub cwnd_bytes: usize,
    pub sent_packets: u64,
    pub received_packets: u64,
    pub lost_packets: u64,
    pub retransmitted_frames: u64,
    pub sent_bytes: u64,
    pub received_bytes: u64,
    pub lost_bytes: u64,
    /// Of streams, counted each time they are lost.
    pub lost_stream_bytes: u64,
    /// What the congestion controller believes the path delivers; 0 before the first measurement.
    pub delivery_bytes_per_second: u64,
    /// UDP payload in use.
    pub udp_payload_bytes: usize,
    /// The congestion controller's start, when it sends ever faster, is over.
    pub left_startup: bool,
}

impl Conn {
    /// Dials `peer` from `local` (the address packets really leave from: see
    /// `landro_sys::route_to`).
    ///
    /// `key` is what the router answers for datagrams of this connection. `steer`: first byte of
    /// the first flight's connection id, which picks the server's worker (see
    /// [`Conn::peer_cid_first_byte`]). `ticket`: from [`Conn::session_ticket`] of an earlier
    /// connection to the same server; one that does not fit is ignored.
    ///
    /// # Errors
    /// quiche or BoringSSL refuse to make a connection.
    #[expect(
        clippy::too_many_arguments,
        reason = "all of them are what a connection is made of"
    )]
    pub fn connect(
        setup: &mut Setup,
        router: &mut Router,
        key: usize,
        local: SocketAddr,
        peer: SocketAddr,
        steer: Option<u8>,
        ticket: Option<&[u8]>,
        now: Instant,
    ) -> Result<Conn, QuicError> {
        let ceiling = setup.payload_ceiling(peer.ip());
        setup.quiche.set_max_send_udp_payload_size(ceiling);
        let scid = router.new_cid(key);
        let mut dcid: [u8; 16] = rand::random();
        dcid[0] = steer.unwrap_or(dcid[0]);
        let made = Held::make(|| {
            let mut quiche = quiche::connect_with_dcid_and_buffer_factory(
                None,
                &quiche::ConnectionId::from_ref(&scid),
                &quiche::ConnectionId::from_ref(&dcid),
                local,
                peer,
                &mut setup.quiche,
            )?;
            if let Some(diagnosis) = setup.diagnose(&mut quiche) {
                begin_diagnosis(&diagnosis, &mut quiche);
            }
            if let Some(Err(error)) = ticket.map(|ticket| quiche.set_session(ticket)) {
                tracing::debug!(%error, "session ticket not usable");
            }
            Ok(quiche)
        });
        let quiche = made.inspect_err(|_| router.remove(key))?;
        let mut conn = Conn::new(setup, quiche, local, ceiling, now);
        conn.resets = Some((router.resets(), key));
        Ok(conn)
    }

    /// Accepts what [`Route::New`] announced. The datagram itself is then to be given to
    /// [`Conn::recv`].
    ///
    /// # Errors
    /// quiche or BoringSSL refuse to make a connection.
    pub fn accept(
        setup: &mut Setup,
        router: &mut Router,
        key: usize,
        new: NewConn,
        local: SocketAddr,
        peer: SocketAddr,
        now: Instant,
    ) -> Result<Conn, QuicError> {
        let ceiling = setup.payload_ceiling(peer.ip());
        setup.quiche.set_max_send_udp_payload_size(ceiling);
        let scid = match &new.retried_from {
            // The id Retry gave out is ours already: the client uses it, and so do we from now on.
            Some(_) if !router.insert_ours(&new.dcid, key) => return Err(QuicError::CidInUse),
            Some(_) => new.dcid.clone(),
            None => {
                router.insert_theirs(&new.dcid, key);
                router.new_cid(key)
            }
        };
        setup
            .quiche
            .set_stateless_reset_token(Some(router.reset_token(&scid, local)));
        let mut diagnosis = None;
        let made = Held::make(|| {
            let scid = quiche::ConnectionId::from_ref(&scid);
            let mut quiche = match &new.retried_from {
                Some(original) => {
                    let retry = quiche::RetryConnectionIds {
                        original_destination_cid: &quiche::ConnectionId::from_ref(original),
                        retry_source_cid: &scid,
                    };
                    quiche::accept_with_retry(&scid, retry, local, peer, &mut setup.quiche)?
                }
                None => {
                    quiche::accept_with_buf_factory(&scid, None, local, peer, &mut setup.quiche)?
                }
            };
            diagnosis = setup.diagnose(&mut quiche);
            Ok(quiche)
        });
        let quiche = made.inspect_err(|_| router.remove(key))?;
        let mut conn = Conn::new(setup, quiche, local, ceiling, now);
        conn.diagnosis = diagnosis;
        Ok(conn)
    }

    fn new(setup: &Setup, quiche: Held, local: SocketAddr, ceiling: usize, now: Instant) -> Conn {
        Conn {
            quiche,
            trust: setup.trust.clone(),
            phase: Phase::Handshaking {
                deadline: now + setup.quic.handshake_timeout,
            },
            local,
            peer: None,
            given_up: None,
            closed_with: None,
            failure: None,
            next_uni: 0,
            next_bidi: 0,
            sending: batch::Sending::new(&setup.quic, ceiling, setup.is_on_link),
            packets_received: 0,
            long_headers: 0,
            window_bytes: setup.most_window_bytes,
            lane_packet_limit: setup.quic.lane_packet_limit,
            resets: None,
            diagnosis: None,
        }
    }

    /// Takes one datagram (decrypted in place). What is not for this connection is ignored.
    ///
    /// # Errors
    /// The peer broke QUIC or TLS. The connection is closing; keep sending, so that the peer hears
    /// why.
    pub fn recv(&mut self, datagram: &mut [u8], from: SocketAddr) -> Result<(), QuicError> {
        if datagram.is_empty() {
            return Ok(());
        }
        self.packets_received += 1;
        self.sending.unsent.received();
        let one_rtt = datagram[0] & 0x80 == 0;
        if !one_rtt && !self.admits_long_header() {
            return Ok(());
        }
        // Our own address is fixed for life: a packet for this connection that came another way in
        // is welcome.
        let received = self.quiche.act().recv(
            datagram,
            quiche::RecvInfo {
                from,
                to: self.local,
            },
        );
        self.advance();
        while let Some(event) = self.quiche.act().path_event_next() {
            if let quiche::PathEvent::PmtuUpdated { pmtu, .. } = event {
                self.sending.known_payload_bytes = pmtu.max(MIN_UDP_PAYLOAD_BYTES);
            }
        }
        // Nobody here reads DATAGRAM frames; kept, they are up to half a megabyte a peer can make
        // us hold.
        while self.quiche.act().dgram_recv_buf().is_ok() {}
        self.sending.confirmed |=
            self.phase == Phase::Established && (one_rtt || self.quiche.is_server());
        match received {
            Ok(_) | Err(quiche::Error::Done) => Ok(()),
            Err(error) => Err(self.fail(error)),
        }
    }

    /// When [`Conn::on_timeout`] is due.
    pub fn timeout(&self) -> Option<Instant> {
        let quiche = self.quiche.timeout_instant();
        match self.phase {
            Phase::Handshaking { deadline } if !self.is_closing() => {
                Some(quiche.map_or(deadline, |at| at.min(deadline)))
            }
            Phase::Handshaking { .. } | Phase::TimedOut | Phase::Refused | Phase::Established => {
                quiche
            }
        }
    }

    /// Does what is due. Harmless when nothing is.
    pub fn on_timeout(&mut self, now: Instant) {
        self.quiche.act().on_timeout();
        if let Phase::Handshaking { deadline } = self.phase
            && deadline <= now
            && !self.is_closing()
        {
            self.phase = Phase::TimedOut;
            // APPLICATION_ERROR: the only thing that may be said before the peer is known.
            let _ = self.quiche.act().close(false, 0xc, b"handshake timeout");
        }
    }

    /// How far the connection is. `Established` on a client means that we trust the server; whether
    /// it trusts us shows with its first message or with [`CloseReason::IdentityRefused`].
    pub fn state(&self) -> ConnState {
        if self.quiche.is_closed() {
            ConnState::Closed(self.close_reason().unwrap_or(CloseReason::StatelessReset))
        } else if self.is_closing() {
            ConnState::Closing
        } else if self.phase == Phase::Established {
            ConnState::Established
        } else {
            ConnState::Handshaking
        }
    }

    pub fn is_established(&self) -> bool {
        self.phase == Phase::Established && !self.is_closing()
    }

    /// Closing or closed: nothing more will be read, and nothing sent but the reason.
    pub fn is_closing(&self) -> bool {
        self.quiche.is_closed() || self.quiche.is_draining() || self.quiche.local_error().is_some()
    }

    /// Why the connection is closing or closed; `None` while it is neither.
    pub fn close_reason(&self) -> Option<CloseReason> {
        if !self.is_closing() {
            return None;
        }
        let handshaking = self.phase != Phase::Established;
        Some(if let Some(error) = self.quiche.peer_error() {
            CloseReason::by_peer(error)
        } else if self.phase == Phase::TimedOut || (self.quiche.is_timed_out() && handshaking) {
            CloseReason::HandshakeTimeout
        } else if self.quiche.is_timed_out() {
            CloseReason::IdleTimeout
        } else if let Some(why) = &self.given_up {
            CloseReason::GivenUp(why.clone())
        } else if let Some((code, reason)) = &self.closed_with {
            CloseReason::Local {
                code: *code,
                reason: String::from_utf8_lossy(reason).into_owned(),
            }
        } else if let Some(error) = self.quiche.local_error() {
            CloseReason::by_us(error, self.failure)
        } else {
            CloseReason::StatelessReset
        })
    }

    /// The peer's key, once it has proven to have it. Before that a certificate is anybody's who
    /// has seen it: what is counted or logged by identity would be somebody else's.
    pub fn peer_fingerprint(&self) -> Option<Fingerprint> {
        self.peer
    }

    /// What the handshake agreed to carry; to be asked when it is complete.
    pub fn alpn(&self) -> Alpn {
        // TLS fails a handshake without a protocol of ours (RFC 9001 §8.1), and there is one.
        debug_assert_eq!(self.quiche.application_proto(), ALPN);
        Alpn::Landro1
    }

    fn certificate_of_peer(&self) -> Option<Fingerprint> {
        let certificate = boring::x509::X509::from_der(self.quiche.peer_cert()?).ok()?;
        identity::certificate_fingerprint(&certificate)
    }

    /// First byte of the peer's connection id: dial the next lane with it as `steer` to meet the
    /// same worker.
    pub fn peer_cid_first_byte(&self) -> Option<u8> {
        self.quiche.destination_id().first().copied()
    }

    /// Whether the handshake resumed an earlier session.
    pub fn is_resumed(&self) -> bool {
        self.quiche.is_resumed()
    }

    /// Notices the end of the handshake.
    fn advance(&mut self) {
        let Phase::Handshaking { .. } = self.phase else {
            return;
        };
        if !self.quiche.is_established() || self.is_closing() {
            return;
        }
        self.peer = self.certificate_of_peer();
        if let Some((resets, key)) = &self.resets
            && let Some(token) = self
                .quiche
                .peer_transport_params()
                .and_then(|p| p.stateless_reset_token)
        {
            resets
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .insert(token, *key);
        }
        // TLS asks nobody when it resumes a session: the peer may have lost our trust since.
        let alert = match self.peer {
            Some(peer) if !self.quiche.is_resumed() || (self.trust)(&peer) => {
                self.phase = Phase::Established;
                if let Some(diagnosis) = self.diagnosis.take() {
                    begin_diagnosis(&diagnosis, &mut self.quiche.act());
                }
                return;
            }
            Some(_) => ACCESS_DENIED,
            None => CERTIFICATE_REQUIRED,
        };
        self.phase = Phase::Refused;
        let _ = self
            .quiche
            .act()
            .close(false, CRYPTO_ERROR + u64::from(alert), b"");
    }

    fn fail(&mut self, error: quiche::Error) -> QuicError {
        self.failure.get_or_insert(error);
        QuicError::Quiche(error)
    }

    /// Opens a bidirectional stream, before all others in priority. `None`: not established, or as
    /// many are open as the peer allows.
    pub fn open_bidi(&mut self) -> Option<u64> {
        let stream = self.next_bidi * 4 + u64::from(self.quiche.is_server());
        if !self.is_established() || self.quiche.peer_streams_left_bidi() == 0 {
            return None;
        }
        self.quiche
            .act()
            .stream_priority(stream, CONTROL_URGENCY, false)
            .ok()?;
        self.next_bidi += 1;
        Some(stream)
    }

    /// Opens a unidirectional stream for data, sent in the order of opening. `None`: not
    /// established, or as many are open as the peer allows; it allows more as old ones end.
    pub fn open_uni(&mut self) -> Option<u64> {
        let stream = self.next_uni * 4 + 2 + u64::from(self.quiche.is_server());
        if !self.is_established() || self.quiche.peer_streams_left_uni() == 0 {
            return None;
        }
        self.quiche
            .act()
            .stream_priority(stream, DATA_URGENCY, false)
            .ok()?;
        self.next_uni += 1;
        if self.sending.streams.len() >= MANY_STREAMS {
            self.forget_delivered();
        }
        self.sending.streams.push(stream);
        Some(stream)
    }

    /// Bytes that [`Conn::send`] would take now.
    ///
    /// # Errors
    /// The peer stopped the stream, or it is finished.
    pub fn capacity(&mut self, stream: u64) -> Result<usize, StreamError> {
        Ok(self.quiche.act().stream_capacity(stream)?)
    }

    /// Queues data by reference, `fin` after its last byte. Takes what flow and congestion control
    /// allow and returns the rest (whose `fin` is then still to come), `None` when all was taken.
    /// Keep what is queued small: quiche takes up to a whole window, which goes cold in cache.
    ///
    /// An end alone may never arrive: once all bytes are acknowledged and the peer's direction is
    /// read out quiche forgets the stream, whether or not the end left. Where it matters it goes
    /// with a byte.
    ///
    /// # Errors
    /// The peer stopped the stream, or it is finished.
    pub fn send(
        &mut self,
        stream: u64,
        data: Bytes,
        fin: bool,
    ) -> Result<Option<Bytes>, StreamError> {
        if stream & 2 == 0 {
            // A stream the peer opened has quiche's default priority until now.
            let _ = self
                .quiche
                .act()
                .stream_priority(stream, CONTROL_URGENCY, false);
            if !self.sending.streams.contains(&stream) {
                self.sending.streams.insert(0, stream);
            }
        }
        // Never offer more: each refused byte costs a DATA_BLOCKED packet, a refused buffer is
        // dropped.
        let capacity = self.quiche.act().stream_capacity(stream)?;
        if (self.is_full() || capacity == 0) && !data.is_empty() {
            return Ok(Some(data));
        }
        // Not on the scale: a slice may take memory, and does not give it back there.
        let offered = data.slice(..data.len().min(capacity));
        let ends = fin && offered.len() == data.len();
        let mut quiche = self.quiche.act();
        let given = if stream & 2 == 0 {
            Given::control(offered)
        } else {
            Given::data(offered)
        };
        let (taken, _) = quiche.stream_send_zc(stream, given, ends)?;
        drop(quiche);
        self.sending.wrote = true;
        self.sending.unsent.written(taken);
        let rest = data.slice(taken..);
        Ok(if rest.is_empty() { None } else { Some(rest) })
    }

    /// Stream bytes that were taken and not sent yet, about: what waits long is cold in cache when
    /// it is sealed.
    pub fn unsent_bytes(&self) -> usize {
        self.sending.unsent.bytes()
    }

    /// A stream that got something to read, each once: read it to the end ([`Conn::read`] gives
    /// `None`) or remember it, it is not named again until more arrives.
    ///
    /// What arrived before the peer closed stays readable; nothing ever is of a peer we refused.
    pub fn readable_next(&mut self) -> Option<u64> {
        if self.phase == Phase::Established {
            self.quiche.act().stream_readable_next()
        } else {
            None
        }
    }

    pub fn is_readable(&self, stream: u64) -> bool {
        self.phase == Phase::Established && self.quiche.stream_readable(stream)
    }

    /// Reads into `out`: the count and whether the stream ended with it. `None`: nothing there now.
    ///
    /// # Errors
    /// The peer reset the stream, or it is finished.
    pub fn read(
        &mut self,
        stream: u64,
        out: &mut [u8],
    ) -> Result<Option<(usize, bool)>, StreamError> {
        if self.phase != Phase::Established {
            return Ok(None);
        }
        match self.quiche.act().stream_recv(stream, out) {
            Ok(read) => Ok(Some(read)),
            Err(quiche::Error::Done) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether a stream of either direction that was opened is over and forgotten: the peer
    /// acknowledged all bytes that were sent in it (or stopped it), and what it sent was read to
    /// the end. That our own end arrived it says only if that went with the last byte.
    pub fn is_delivered(&mut self, stream: u64) -> bool {
        // Not `stream_closed`: that asks whether the end was written, not whether it arrived.
        self.quiche.act().stream_capacity(stream).is_err()
    }

    /// Tells the peer to stop sending on a stream and drops what it sent. Harmless on a finished
    /// stream.
    pub fn shutdown_read(&mut self, stream: u64, code: u64) {
        let _ = self
            .quiche
            .act()
            .stream_shutdown(stream, quiche::Shutdown::Read, code);
    }

    /// Resets our side of a stream, dropping what was not sent. Harmless on a finished stream.
    pub fn shutdown_write(&mut self, stream: u64, code: u64) {
        let _ = self
            .quiche
            .act()
            .stream_shutdown(stream, quiche::Shutdown::Write, code);
    }

    /// Starts to close; the reason leaves with the next [`Conn::fill`]. Reasons are cut to 256
    /// bytes.
    pub fn close(&mut self, code: u64, reason: &[u8]) {
        let reason = &reason[..reason.len().min(MAX_REASON_BYTES)];
        if self.quiche.act().close(true, code, reason).is_ok() {
            self.closed_with = Some((code, reason.to_vec()));
        }
    }

    /// Closes for a reason that is no word between the two sides: the connection itself cannot go
    /// on.
    pub fn give_up(&mut self, code: u64, why: &str) {
        self.close(code, why.as_bytes());
        self.given_up = Some(why.to_owned());
    }

    /// Asks for an acknowledgement with the next [`Conn::fill`], outside of congestion control.
    pub fn keep_alive(&mut self) {
        let _ = self.quiche.act().send_ack_eliciting();
    }

    pub fn packets_sent(&self) -> u64 {
        self.sending.packets_sent
    }

    pub fn packets_received(&self) -> u64 {
        self.packets_received
    }

    /// Whether this lane is to be replaced before its key has sealed too much.
    pub fn is_worn(&self) -> bool {
        self.packets_sent().max(self.packets_received) >= self.lane_packet_limit
    }

    /// What a later connection to the same server resumes from. Clients get it just after the
    /// handshake.
    pub fn session_ticket(&self) -> Option<&[u8]> {
        self.quiche.session()
    }

    /// The path's numbers. Cheap, but not for every packet.
    pub fn snapshot(&self) -> PathSnapshot {
        let Some(path) = self
            .quiche
            .path_stats()
            .find(|path| path.active || path.sent > 0)
        else {
            return PathSnapshot::default();
        };
        PathSnapshot {
            rtt: path.rtt,
            min_rtt: path.min_rtt,
            cwnd_bytes: path.cwnd,
            sent_packets: path.sent as u64,
            received_packets: path.recv as u64,
            lost_packets: path.lost as u64,
            retransmitted_frames: path.retrans as u64,
            sent_bytes: path.sent_bytes,
            received_bytes: path.recv_bytes,
            lost_bytes: path.lost_bytes,
            lost_stream_bytes: path.stream_retrans_bytes,
            delivery_bytes_per_second: path.delivery_rate,
            udp_payload_bytes: path.pmtu,
            left_startup: path.startup_exit.is_some(),
        }
    }
}

impl Drop for Conn {
    fn drop(&mut self) {
        if let Some((resets, key)) = &self.resets
            && let Some(token) = self
                .quiche
                .peer_transport_params()
                .and_then(|p| p.stateless_reset_token)
        {
            let mut resets = resets.lock().unwrap_or_else(PoisonError::into_inner);
            if resets.get(&token) == Some(key) {
                resets.remove(&token);
            }
        }
    }
}
