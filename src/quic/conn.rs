//! A connection from its handshake to its end. Owned by one worker for life.

use std::net::SocketAddr;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use super::early::Early;
use super::held::Held;
use super::kept::KeptDatagrams;
use super::note::Note;
use super::outgoing::Outgoing;
use super::pace::Pace;
use super::packet_size::PacketSize;
use super::path::PathSnapshot;
use super::reason::{APPLICATION_ERROR, QuicError, closed_by_peer, closed_by_us};
use super::route::{NewConn, ResetTokens, Router};
use super::setup::{Setup, begin_diagnosis};
use super::share::Share;
use super::unsent::Unsent;
use super::whereabouts::Whereabouts;
use crate::carrier::{
    ACCESS_DENIED, ALPN, Alpn, CERTIFICATE_REQUIRED, CloseReason, ConnState, MAX_REASON_BYTES,
};
use crate::config::{Diagnosis, QuicConfig};
use crate::identity::{self, Trust};
use crate::ids::Fingerprint;

/// A lane is not replaced sooner because its peer asks for that.
const ASKED_FOR_AFTER: Duration = Duration::from_secs(30);

/// A QUIC connection: one lane.
pub struct Conn {
    pub(super) quiche: Held,
    pub(super) trust: Trust,
    pub(super) phase: ConnPhase,
    /// Of the one path that quiche knows, whatever becomes of the addresses.
    quiche_local: SocketAddr,
    quiche_peer: SocketAddr,
    /// Our own address now.
    pub(super) local: SocketAddr,
    pub(super) whereabouts: Whereabouts,
    peer: Option<Fingerprint>,
    pub(super) early: Early,
    /// What it was closed with on our side: quiche replaces that before the handshake is over.
    closed_as: Option<CloseReason>,
    /// quiche's word for what broke the connection.
    failure: Option<quiche::Error>,
    pub(super) next_uni: u64,
    pub(super) next_bidi: u64,
    pub(super) arrived: KeptDatagrams,
    pub(super) sending: Sending,
    pub(super) packets_received: u64,
    pub(super) share: Share,
    lane_packet_limit: u64,
    /// Ours; what holds is the shorter of both sides' (RFC 9000 §10.1).
    pub(super) idle_timeout: Duration,
    /// quiche's timers wait until then, see [`Conn::hold_timers`].
    timers_held: Option<Instant>,
    pub(super) replacing: Replacing,
    /// Where to publish the peer's reset token (a client's connections only).
    resets: Option<(ResetTokens, usize)>,
    /// Of a server's connection, whose peer is not known yet.
    diagnosis: Option<Diagnosis>,
}

/// How far a connection has come; closing and closed are quiche's to know.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum ConnPhase {
    Handshaking {
        deadline: Instant,
    },
    /// The session that is resumed names a peer that we trust, and data of its first flight
    /// travels: of ours it is sealed for that peer alone, of a peer's whoever recorded it may have
    /// sent it. Before was Handshaking.
    Early {
        deadline: Instant,
    },
    /// The handshake did not end in time; before was Handshaking, or Early.
    TimedOut,
    /// The handshake resumed a session of a peer we no longer trust; before was Handshaking, or
    /// Early.
    Refused,
    /// Both sides have proven their keys and we trust the peer's; before was Handshaking, or Early.
    Established,
}

/// Why another lane is to take over, besides a worn key.
pub(super) struct Replacing {
    made_at: Instant,
    /// Our own address changed: what congestion control believes was of another path.
    has_moved: bool,
    /// The peer asked for it.
    is_asked_for: bool,
    /// When we asked the peer, which dials.
    pub(super) asked_at: Option<Instant>,
}

/// The bookkeeping of the sending half.
pub(super) struct Sending {
    pub(super) packets: u64,
    /// See [`QuicConfig::key_packet_limit`].
    pub(super) key_packet_limit: u64,
    pub(super) size: PacketSize,
    pub(super) pace: Pace,
    pub(super) unsent: Unsent,
    pub(super) outgoing: Outgoing,
    pub(super) is_on_link: fn(std::net::IpAddr) -> bool,
}

impl Sending {
    fn new(setup: &Setup, ceiling_bytes: usize) -> Sending {
        let quic: &QuicConfig = &setup.quic;
        Sending {
            packets: 0,
            key_packet_limit: quic.key_packet_limit,
            size: PacketSize::new(quic, ceiling_bytes),
            pace: Pace::new(quic.pacing, quic.rate_policy.as_ref()),
            unsent: Unsent::default(),
            outgoing: Outgoing::new(),
            is_on_link: setup.is_on_link,
        }
    }
}

/// A connection to be made to a peer.
#[derive(Clone, Copy)]
pub struct Connect<'a> {
    /// What the router is to answer for datagrams of this connection.
    pub key: usize,
    /// The address packets really leave from: see `landro_sys::route_to`.
    pub local: SocketAddr,
    pub peer: SocketAddr,
    /// First byte of the first flight's connection id, which picks the server's worker: see
    /// [`Conn::peer_cid_first_byte`].
    pub steer: Option<u8>,
    /// From [`Conn::session_ticket`] of an earlier connection to the same server; one that does
    /// not fit is ignored.
    pub ticket: Option<&'a [u8]>,
    pub now: Instant,
}

/// A connection that a peer asks for.
pub struct Accept {
    /// What the router is to answer for datagrams of this connection.
    pub key: usize,
    /// From [`super::Route::New`].
    pub new: NewConn,
    pub local: SocketAddr,
    pub peer: SocketAddr,
    pub now: Instant,
}

impl Conn {
    /// Dials a peer.
    ///
    /// # Errors
    /// quiche or BoringSSL refuse to make a connection.
    pub fn connect(
        setup: &mut Setup,
        router: &mut Router,
        connect: Connect<'_>,
    ) -> Result<Conn, QuicError> {
        let Connect {
            key,
            local,
            peer,
            steer,
            ticket,
            now,
        } = connect;
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
        let mut conn = Conn::new(setup, quiche, (local, peer), ceiling, now);
        conn.resets = Some((router.resets(), key));
        Ok(conn)
    }

    /// Accepts what a peer asked for. Its datagram is then to be given to [`Conn::recv`].
    ///
    /// # Errors
    /// quiche or BoringSSL refuse to make a connection.
    pub fn accept(
        setup: &mut Setup,
        router: &mut Router,
        accept: Accept,
    ) -> Result<Conn, QuicError> {
        let Accept {
            key,
            new,
            local,
            peer,
            now,
        } = accept;
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
        let mut conn = Conn::new(setup, quiche, (local, peer), ceiling, now);
        conn.diagnosis = diagnosis;
        Ok(conn)
    }

    fn new(
        setup: &Setup,
        quiche: Held,
        (local, peer): (SocketAddr, SocketAddr),
        ceiling: usize,
        now: Instant,
    ) -> Conn {
        Conn {
            quiche,
            trust: setup.trust.clone(),
            phase: ConnPhase::Handshaking {
                deadline: now + setup.quic.handshake_timeout,
            },
            quiche_local: local,
            quiche_peer: peer,
            local,
            whereabouts: Whereabouts::new(peer),
            peer: None,
            early: Early::new(setup.allows_early),
            closed_as: None,
            failure: None,
            next_uni: 0,
            next_bidi: 0,
            arrived: KeptDatagrams::default(),
            sending: Sending::new(setup, ceiling),
            packets_received: 0,
            share: Share::new(setup.most_window_bytes),
            lane_packet_limit: setup.quic.lane_packet_limit,
            idle_timeout: setup.quic.idle_timeout,
            timers_held: None,
            replacing: Replacing {
                made_at: now,
                has_moved: false,
                is_asked_for: false,
                asked_at: None,
            },
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
        if !one_rtt && !self.share.admits_long_header(datagram[0]) {
            return Ok(());
        }
        let is_news = self.quiche.is_server() && self.whereabouts.is_news(from);
        let before = is_news.then(|| self.snapshot().received_packets);
        let bytes = datagram.len();
        let received = self.quiche.act().recv(
            datagram,
            quiche::RecvInfo {
                from: self.quiche_peer,
                to: self.quiche_local,
            },
        );
        self.advance();
        // What cannot be read, and what was read before, is anybody's.
        if before.is_some_and(|before| self.snapshot().received_packets > before) {
            let is_handshake_over = self.is_proven();
            self.whereabouts.heard(from, bytes, is_handshake_over);
        }
        while let Some(event) = self.quiche.act().path_event_next() {
            if let quiche::PathEvent::PmtuUpdated { pmtu, .. } = event {
                self.sending.size.prove(pmtu);
            }
        }
        self.read_notes(from);
        if self.is_proven() && (one_rtt || self.quiche.is_server()) {
            self.sending.size.confirm_handshake();
        }
        match received {
            Ok(_) | Err(quiche::Error::Done) => Ok(()),
            Err(error) => Err(self.fail(error)),
        }
    }

    /// Reads all DATAGRAM frames: kept, they are up to half a megabyte a peer can make us hold.
    fn read_notes(&mut self, from: SocketAddr) {
        if self.is_of_application() {
            return self.keep_datagrams();
        }
        let mut answer = None;
        while let Ok(note) = { self.quiche.act().dgram_recv_buf() } {
            if !self.knows_peer() {
                continue;
            }
            match (Note::parse(&note), self.quiche.is_server()) {
                (Some(Note::WhereAreYou(secret)), false) => answer = Some(secret),
                (Some(Note::Here(secret)), true) => {
                    if self.whereabouts.answered(from, secret) {
                        // What is in flight went elsewhere; an acknowledgement shows the gap.
                        self.keep_alive();
                    }
                }
                (Some(Note::ReplaceMe), false) => self.replacing.is_asked_for = true,
                // Of a later version, perhaps.
                (Some(_), _) | (None, _) => {}
            }
        }
        if let Some(secret) = answer {
            self.note(&Note::Here(secret));
        }
    }

    /// Queues a note, in place of any that has not left.
    pub(super) fn note(&mut self, note: &Note) {
        if self.is_of_application() {
            // Its datagrams are its own.
            return;
        }
        let mut quiche = self.quiche.act();
        quiche.dgram_purge_outgoing(|_| true);
        // A peer that takes none is no landro of this version; it stays where it is.
        let _ = quiche.dgram_send(&note.bytes());
    }

    /// Where the peer was when it was last known to be anywhere. Not where a handshake goes on: a
    /// host's share of handshakes must not be moved to another by whose name its packets bear.
    pub fn peer_address(&self) -> SocketAddr {
        self.whereabouts.known()
    }

    /// Where our packets leave from.
    pub fn local(&self) -> SocketAddr {
        self.local
    }

    /// Our own address changed: packets leave from this one.
    pub fn move_to(&mut self, local: SocketAddr) {
        self.replacing.has_moved |= local.ip() != self.local.ip();
        self.local = local;
    }

    /// Keeps back what quiche would do for want of acknowledgements, at most until then: each probe
    /// doubles its patience, and one that was due is sent at once when [`Conn::release_timers`]
    /// says that somebody may hear it.
    pub fn hold_timers(&mut self, until: Instant) {
        self.timers_held = Some(until);
    }

    pub fn release_timers(&mut self) {
        self.timers_held = None;
    }

    /// When [`Conn::on_timeout`] is due.
    pub fn timeout(&self) -> Option<Instant> {
        let quiche = self.quiche.timeout_instant();
        let held = self.timers_held.filter(|_| !self.is_closing());
        let quiche = quiche.map(|at| held.map_or(at, |until| at.max(until)));
        match self.phase {
            ConnPhase::Handshaking { deadline } | ConnPhase::Early { deadline }
                if !self.is_closing() =>
            {
                Some(quiche.map_or(deadline, |at| at.min(deadline)))
            }
            ConnPhase::Handshaking { .. }
            | ConnPhase::Early { .. }
            | ConnPhase::TimedOut
            | ConnPhase::Refused
            | ConnPhase::Established => quiche,
        }
    }

    /// Does what is due. Harmless when nothing is.
    pub fn on_timeout(&mut self, now: Instant) {
        self.quiche.act().on_timeout();
        if let ConnPhase::Handshaking { deadline } | ConnPhase::Early { deadline } = self.phase
            && deadline <= now
            && !self.is_closing()
        {
            self.phase = ConnPhase::TimedOut;
            // The only thing that may be said before the peer is known.
            let _ = self
                .quiche
                .act()
                .close(false, APPLICATION_ERROR, b"handshake timeout");
        }
    }

    /// How far the connection is. `Established` on a client means that we trust the server; whether
    /// it trusts us shows with its first message or with [`CloseReason::IdentityRefused`].
    pub fn state(&self) -> ConnState {
        if self.quiche.is_closed() {
            ConnState::Closed(self.close_reason().unwrap_or(CloseReason::StatelessReset))
        } else if self.is_closing() {
            ConnState::Closing
        } else if self.knows_peer() {
            ConnState::Established
        } else {
            ConnState::Handshaking
        }
    }

    /// What the peer says may be read: both keys are proven, or it is early.
    pub(super) fn knows_peer(&self) -> bool {
        self.is_proven() || self.is_early()
    }

    /// Both keys are proven.
    pub(super) fn is_proven(&self) -> bool {
        self.phase == ConnPhase::Established
    }

    /// Whether the peer dialled.
    pub fn is_server(&self) -> bool {
        self.quiche.is_server()
    }

    pub fn is_established(&self) -> bool {
        self.knows_peer() && !self.is_closing()
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
        let handshaking = !self.is_proven();
        Some(if let Some(error) = self.quiche.peer_error() {
            closed_by_peer(error)
        } else if self.phase == ConnPhase::TimedOut || (self.quiche.is_timed_out() && handshaking) {
            CloseReason::HandshakeTimeout
        } else if self.quiche.is_timed_out() {
            CloseReason::IdleTimeout
        } else if let Some(reason) = &self.closed_as {
            reason.clone()
        } else if let Some(error) = self.quiche.local_error() {
            closed_by_us(error, self.failure)
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
        // TLS fails a handshake without one that was offered and is spoken (RFC 9001 §8.1).
        match self.quiche.application_proto() == ALPN {
            true => Alpn::Landro1,
            false => Alpn::Streams,
        }
    }

    /// Its name.
    pub fn protocol(&self) -> &[u8] {
        self.quiche.application_proto()
    }

    /// Whose certificate the peer shows, which proves nothing: for a word on who was refused.
    pub fn shown_fingerprint(&self) -> Option<Fingerprint> {
        self.certificate_of_peer()
    }

    pub(super) fn certificate_of_peer(&self) -> Option<Fingerprint> {
        let certificate = boring::x509::X509::from_der(self.quiche.peer_cert()?).ok()?;
        identity::certificate_fingerprint(&certificate)
    }

    /// First byte of the peer's connection id: connect the next lane with it as `steer` to meet the
    /// same worker.
    pub fn peer_cid_first_byte(&self) -> Option<u8> {
        self.quiche.destination_id().first().copied()
    }

    /// Whether the handshake resumed an earlier session.
    #[cfg(test)]
    pub fn is_resumed(&self) -> bool {
        self.quiche.is_resumed()
    }

    /// Notices the end of the handshake.
    pub(super) fn advance(&mut self) {
        let (ConnPhase::Handshaking { deadline } | ConnPhase::Early { deadline }) = self.phase
        else {
            return;
        };
        if self.is_closing() {
            return;
        }
        if !self.quiche.is_established() {
            return self.advance_early(deadline);
        }
        self.peer = self.certificate_of_peer();
        if let Some((resets, key)) = &self.resets
            && let Some(token) = self.peer_reset_token()
        {
            resets
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .insert(token, *key);
        }
        // TLS asks nobody when it resumes a session: the peer may have lost our trust since.
        let alert = match self.peer {
            Some(peer)
                if (!self.quiche.is_resumed() || (self.trust)(&peer)) && self.is_as_early(peer) =>
            {
                self.phase = ConnPhase::Established;
                if let Some(diagnosis) = self.diagnosis.take() {
                    begin_diagnosis(&diagnosis, &mut self.quiche.act());
                }
                return;
            }
            Some(_) => ACCESS_DENIED,
            None => CERTIFICATE_REQUIRED,
        };
        self.refuse(alert);
    }

    pub(super) fn fail(&mut self, error: quiche::Error) -> QuicError {
        self.failure.get_or_insert(error);
        QuicError::Quiche(error)
    }

    /// Starts to close; the reason leaves with the next [`Conn::fill`]. Reasons are cut to 256
    /// bytes.
    pub fn close(&mut self, code: u64, reason: &[u8]) {
        let reason = &reason[..reason.len().min(MAX_REASON_BYTES)];
        let closed = match self.is_early() {
            // The program's words cannot be read before the handshake is complete, nor may they be
            // said (RFC 9000 §10.2.3); quiche takes them all the same, and says nothing.
            true => self.quiche.act().close(false, APPLICATION_ERROR, b""),
            false => self.quiche.act().close(true, code, reason),
        };
        if closed.is_ok() {
            self.closed_as = Some(CloseReason::Local {
                code,
                reason: String::from_utf8_lossy(reason).into_owned(),
            });
        }
    }

    /// Closes for a reason that is no word between the two sides: the connection itself cannot go
    /// on.
    pub fn give_up(&mut self, code: u64, why: &str) {
        self.close(code, why.as_bytes());
        self.closed_as = Some(CloseReason::GivenUp(why.to_owned()));
    }

    /// Asks for an acknowledgement with the next [`Conn::fill`], outside congestion control.
    pub fn keep_alive(&mut self) {
        let _ = self.quiche.act().send_ack_eliciting();
    }

    pub fn packets_sent(&self) -> u64 {
        self.sending.packets
    }

    /// Whether this lane is *worn*: its keys have sealed or opened so many packets that another
    /// lane is to replace it, long before AES-GCM's limit of 2^23 packets (RFC 9001 §6.6). quiche
    /// never updates a key.
    pub fn is_worn(&self) -> bool {
        self.packets_sent().max(self.packets_received) >= self.lane_packet_limit
    }

    /// Whether another lane is to take over, for whatever reason.
    pub fn is_to_be_replaced(&self, now: Instant) -> bool {
        let replacing = &self.replacing;
        // A peer could ask for ever; one that is honest does so after [`super::packet_size`]'s
        // patience.
        let asked_for = replacing.is_asked_for && replacing.made_at + ASKED_FOR_AFTER <= now;
        self.is_worn()
            || replacing.has_moved
            || asked_for
            || self.sending.size.is_to_search_anew(now)
    }

    /// Packets may not be larger than that, says the kernel.
    pub fn limit_packets(&mut self, now: Instant, bytes: usize) {
        if self.sending.size.exceeds(bytes) {
            self.sending.size.shrink(now, &mut self.quiche);
        }
    }

    /// What a later connection to the same server resumes from. Clients get it just after the
    /// handshake.
    pub fn session_ticket(&self) -> Option<&[u8]> {
        self.quiche.session()
    }

    /// The path's numbers. Cheap, but not for every packet.
    pub fn snapshot(&self) -> PathSnapshot {
        PathSnapshot::of(&self.quiche)
    }

    /// Heap bytes that QUIC keeps for this connection now.
    pub fn held_bytes(&self) -> u64 {
        self.quiche.bytes()
    }

    fn peer_reset_token(&self) -> Option<u128> {
        let peer = self.quiche.peer_transport_params();
        peer.and_then(|peer| peer.stateless_reset_token)
    }

    fn share_bytes(&self) -> u64 {
        self.share.bytes(self.peer_is())
    }

    /// Whether the peer has made us keep more than any honest one does: to be closed and forgotten
    /// at once.
    pub fn is_too_heavy(&self) -> bool {
        self.held_bytes() > self.share_bytes()
    }

    /// Whether we make it heavy ourselves: what is in flight weighs, too, and more of it has to
    /// wait.
    pub(super) fn is_full(&self) -> bool {
        self.held_bytes() > self.share_bytes() / 4 * 3
    }
}

impl Drop for Conn {
    fn drop(&mut self) {
        if let Some((resets, key)) = &self.resets
            && let Some(token) = self.peer_reset_token()
        {
            let mut resets = resets.lock().unwrap_or_else(PoisonError::into_inner);
            if resets.get(&token) == Some(key) {
                resets.remove(&token);
            }
        }
    }
}
