//! Turns an identity, a trust decision and a `QuicConfig` into what quiche and BoringSSL need.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use boring::ssl::{
    SslAlert, SslContextBuilder, SslMethod, SslRef, SslSignatureAlgorithm, SslVerifyError,
    SslVerifyMode, SslVersion,
};

use super::held::Quiche;
use super::kept::STOPPED_MAX;
use super::reason::QuicError;
use crate::carrier::ALPN;
use crate::config::{
    CongestionControl, DATAGRAM_QUEUE_PACKETS, Diagnosis, ETHERNET_UDP_PAYLOAD_BYTES,
    MAX_RECV_UDP_PAYLOAD_BYTES, MAX_UDP_PAYLOAD_BYTES, MIN_UDP_PAYLOAD_BYTES, QuicConfig,
};
use crate::identity::{Identity, Trust, certificate_fingerprint};

/// Streams of one direction that QUIC can count (RFC 9000 §4.6).
const MAX_STREAMS: u64 = 1 << 60;

/// What a peer's stream is granted at first where early data is taken: as much as each peer has,
/// however many there are (`budget::MIN_WINDOW_BYTES`).
const EARLY_STREAM_BYTES: u64 = 32 << 10;

/// What IPv6 headers take more than IPv4's.
const IPV6_EXTRA_BYTES: usize = 20;

/// Keys that session tickets are sealed with: random per process, shared by its workers, so that
/// any of them resumes what another began.
#[derive(Clone)]
pub struct TicketKeys([u8; 48]);

impl TicketKeys {
    /// # Errors
    /// BoringSSL has no random bytes.
    pub fn random() -> Result<TicketKeys, QuicError> {
        let mut keys = [0; 48];
        boring::rand::rand_bytes(&mut keys)?;
        Ok(TicketKeys(keys))
    }
}

/// Everything connections of one role have in common. One per worker and role; connections made
/// earlier are not affected by later changes.
pub struct Setup {
    pub(super) quiche: quiche::Config,
    pub(super) quic: QuicConfig,
    pub(super) trust: Trust,
    interface_payload_bytes: usize,
    pub(super) most_window_bytes: u64,
    pub(super) is_on_link: fn(IpAddr) -> bool,
    pub(super) allows_early: bool,
}

impl Setup {
    /// How long a handshake may take.
    pub fn handshake_timeout(&self) -> Duration {
        self.quic.handshake_timeout
    }

    /// For connections we make.
    ///
    /// # Errors
    /// BoringSSL or quiche refuse a value.
    pub fn client(
        identity: &Identity,
        trust: Trust,
        quic: &QuicConfig,
    ) -> Result<Setup, QuicError> {
        Setup::new(identity, trust, quic)
    }

    /// How to tell whether a peer is in a subnet of ours, for those on one wire are paced together;
    /// until this is said, none is.
    pub fn tell_on_link(&mut self, is_on_link: fn(IpAddr) -> bool) {
        self.is_on_link = is_on_link;
    }

    /// What connections may carry instead of `landro/1`, in the order of preference (RFC 7301).
    ///
    /// # Errors
    /// A name is empty or longer than 255 bytes.
    pub fn speak(&mut self, protocols: &[Vec<u8>]) -> Result<(), QuicError> {
        let names: Vec<&[u8]> = protocols.iter().map(Vec::as_slice).collect();
        let (bidi, uni) = (self.quic.max_bidi_streams, self.quic.max_uni_streams);
        let more = |streams: u64| streams.saturating_add(STOPPED_MAX).min(MAX_STREAMS);
        self.quiche.set_initial_max_streams_bidi(more(bidi));
        self.quiche.set_initial_max_streams_uni(more(uni));
        Ok(self.quiche.set_application_protos(&names)?)
    }

    /// Data may travel before the handshake is complete (0-RTT, RFC 8446 §2.3): ours where a ticket
    /// allows it, or a peer's, which whoever recorded it may send again.
    pub fn allow_early(&mut self) {
        self.quiche.enable_early_data();
        self.allows_early = true;
    }

    /// For connections we accept.
    ///
    /// # Errors
    /// BoringSSL or quiche refuse a value.
    pub fn server(
        identity: &Identity,
        trust: Trust,
        quic: &QuicConfig,
        tickets: &TicketKeys,
    ) -> Result<Setup, QuicError> {
        let mut setup = Setup::new(identity, trust, quic)?;
        setup.quiche.set_ticket_key(&tickets.0)?;
        Ok(setup)
    }

    fn new(identity: &Identity, trust: Trust, quic: &QuicConfig) -> Result<Setup, QuicError> {
        let tls = tls_context(identity, Arc::clone(&trust))?;
        let mut quiche =
            quiche::Config::with_boring_ssl_ctx_builder(quiche::PROTOCOL_VERSION, tls)?;
        apply(&mut quiche, quic)?;
        let mut setup = Setup {
            quiche,
            quic: quic.clone(),
            trust,
            interface_payload_bytes: ETHERNET_UDP_PAYLOAD_BYTES,
            most_window_bytes: 0,
            is_on_link: |_| false,
            allows_early: false,
        };
        setup.set_windows(u64::MAX, u64::MAX);
        Ok(setup)
    }

    /// Grants the next connection its window, in bytes: what is advertised at once, and what that
    /// may grow to while the peer fills it and we keep up (quiche doubles a window that is used up
    /// within two round trips). The profile's values are the upper bound; nothing above the grant
    /// is ever advertised. A stream may use all of it.
    pub fn set_windows(&mut self, first_bytes: u64, most_bytes: u64) {
        let most = most_bytes.min(self.quic.receive_window_bytes);
        let first = first_bytes.min(most);
        let stream_most = most.min(self.quic.stream_receive_window_bytes);
        let stream_first = first.min(stream_most);
        // A ticket names this, and whoever comes back with it is held to no less (RFC 9000 §7.4.1),
        // however many share the memory then.
        let of_peers = match self.allows_early {
            true => stream_first.min(EARLY_STREAM_BYTES),
            false => stream_first,
        };
        self.most_window_bytes = most;
        // Both pairs: quiche caps windows at 24 MB and 16 MB unless told otherwise.
        self.quiche.set_max_connection_window(most);
        self.quiche.set_max_stream_window(stream_most);
        self.quiche.set_initial_max_data(first);
        self.quiche
            .set_initial_max_stream_data_bidi_local(stream_first);
        self.quiche
            .set_initial_max_stream_data_bidi_remote(of_peers);
        self.quiche.set_initial_max_stream_data_uni(of_peers);
    }

    /// Tells what the outgoing interface carries (its MTU less 28): path MTU discovery goes that
    /// far, but across the Internet. Default: 1472 bytes, Ethernet. Probing beyond the interface
    /// costs three losses per step.
    pub fn set_interface_payload(&mut self, bytes: usize) {
        self.interface_payload_bytes = bytes.min(MAX_UDP_PAYLOAD_BYTES);
    }

    /// Largest UDP payload to one peer, probed for or used at once.
    pub(super) fn payload_ceiling(&self, peer: IpAddr) -> usize {
        let interface = self.interface_payload_bytes;
        // The larger the packets looked for, the larger BBR2's smallest window until they are found
        // not to pass: at 20 Mbit/s, 20 ms and a queue of 64 kB a host with jumbo frames lost 10 %
        // instead of 0.1.
        let passes =
            interface <= ETHERNET_UDP_PAYLOAD_BYTES || is_private(peer) || (self.is_on_link)(peer);
        let interface = if passes {
            interface
        } else {
            ETHERNET_UDP_PAYLOAD_BYTES
        };
        let wanted = match self.quic.mtu_discovery {
            true => self.quic.udp_payload_bytes.max(interface),
            false => self.quic.udp_payload_bytes,
        };
        // Sizes are named for IPv4; IPv6's longer header leaves less of the same frame.
        let fits = if peer.is_ipv6() {
            wanted - IPV6_EXTRA_BYTES
        } else {
            wanted
        };
        fits.max(MIN_UDP_PAYLOAD_BYTES)
    }

    /// Lets a connection's secrets be written, once [`Diagnosis::begin`] says so.
    pub(super) fn diagnose(&self, conn: &mut Quiche) -> Option<Diagnosis> {
        let diagnosis = Diagnosis::new(self.quic.diagnostics.clone()?);
        conn.set_keylog(Box::new(diagnosis.clone()));
        Some(diagnosis)
    }
}

/// Writes down the connection's secrets and, from here on, its qlog. A server begins when the peer
/// is authenticated.
pub(super) fn begin_diagnosis(diagnosis: &Diagnosis, quiche: &mut Quiche) {
    let side = if quiche.is_server() {
        "server"
    } else {
        "client"
    };
    let id = quiche.trace_id().to_owned();
    if let Some(file) = diagnosis.begin(&format!("{id}-{side}")) {
        quiche.set_qlog(
            Box::new(file),
            "landro".to_owned(),
            format!("{side} connection {id}"),
        );
    }
}

/// An address of somebody's own network, whose routers may well carry jumbo frames.
fn is_private(peer: IpAddr) -> bool {
    match peer.to_canonical() {
        IpAddr::V4(peer) => peer.is_private() || peer.is_link_local() || peer.is_loopback(),
        IpAddr::V6(peer) => {
            peer.is_unique_local() || peer.is_unicast_link_local() || peer.is_loopback()
        }
    }
}

/// TLS 1.3 with Ed25519 certificates on both sides, each pinned by the other's trust function.
fn tls_context(identity: &Identity, trust: Trust) -> Result<SslContextBuilder, QuicError> {
    let mut tls = SslContextBuilder::new(SslMethod::tls())?;
    tls.set_min_proto_version(Some(SslVersion::TLS1_3))?;
    // The first where both sides have it, so that what is recorded today is not read by a quantum
    // computer later. BoringSSL sends a share for each in its first flight, which takes two
    // datagrams: a peer that has the second alone is not asked again.
    tls.set_curves_list("X25519MLKEM768:X25519")?;
    // Without this BoringSSL does not accept Ed25519 signatures, and the handshake hangs.
    tls.set_verify_algorithm_prefs(&[SslSignatureAlgorithm::ED25519])?;
    tls.set_certificate(identity.certificate())?;
    tls.set_private_key(identity.key())?;
    // A server that asks for certificates resumes only sessions of a named context.
    tls.set_session_id_context(ALPN)?;
    tls.set_custom_verify_callback(
        SslVerifyMode::PEER | SslVerifyMode::FAIL_IF_NO_PEER_CERT,
        move |ssl: &mut SslRef| {
            let Some(peer) = ssl
                .peer_certificate()
                .as_deref()
                .and_then(certificate_fingerprint)
            else {
                return Err(SslVerifyError::Invalid(SslAlert::BAD_CERTIFICATE));
            };
            if trust(&peer) {
                Ok(())
            } else {
                Err(SslVerifyError::Invalid(SslAlert::ACCESS_DENIED))
            }
        },
    );
    Ok(tls)
}

fn apply(quiche: &mut quiche::Config, quic: &QuicConfig) -> Result<(), QuicError> {
    quiche.set_application_protos(&[ALPN])?;
    if quic
        .diagnostics
        .as_ref()
        .is_some_and(|diagnostics| diagnostics.logs_keys())
    {
        quiche.log_keys();
    }
    quiche.set_initial_max_streams_bidi(quic.max_bidi_streams);
    quiche.set_initial_max_streams_uni(quic.max_uni_streams);
    quiche.set_initial_rtt(quic.initial_rtt);
    quiche.set_max_ack_delay(quic.max_ack_delay.as_millis() as u64);
    quiche.set_max_idle_timeout(quic.idle_timeout.as_millis() as u64);
    quiche.set_max_recv_udp_payload_size(MAX_RECV_UDP_PAYLOAD_BYTES);
    quiche.discover_pmtu(quic.mtu_discovery);
    quiche.set_cc_algorithm(match quic.congestion_control {
        CongestionControl::Cubic => quiche::CongestionControlAlgorithm::CUBIC,
        CongestionControl::Reno => quiche::CongestionControlAlgorithm::Reno,
        CongestionControl::Bbr2 => quiche::CongestionControlAlgorithm::Bbr2Gcongestion,
    });
    quiche.set_initial_congestion_window_packets(quic.initial_window_packets);
    quiche.enable_pacing(quic.pacing);
    if quic.datagrams {
        quiche.enable_dgram(true, DATAGRAM_QUEUE_PACKETS, DATAGRAM_QUEUE_PACKETS);
    }
    // A client's address may change (`whereabouts.rs`); quiche knows of one path all the same, as
    // it is told of one address and gives out one connection id: each further path would be state
    // that a peer can make us hold.
    quiche.set_disable_active_migration(false);
    // Noise against ossified middleboxes is for protocols that browsers speak.
    quiche.grease(false);
    // Frames that tell the peer we would like to send more: each is a packet, and nobody listens.
    quiche.set_enable_send_streams_blocked(false);
    Ok(())
}
