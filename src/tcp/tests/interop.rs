//! Plain rustls as the peer: handshakes, key updates, and who does not keep to landro's rules.

use std::io::{Read, Write};
use std::sync::Arc;
use std::time::Instant;

use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection};

use super::{TIMES, WINDOWS, now, only, read_all};
use crate::carrier::{ALPN, CERTIFICATE_REQUIRED, CloseReason, ConnState};
use crate::identity::Identity;
use crate::tcp::frame::TcpFrame;
use crate::tcp::{CONTROL_STREAM, TcpConn, TcpSetup};

/// A client of plain rustls, and a server of ours.
pub(super) struct Foreign {
    pub client: ClientConnection,
    pub server: TcpConn,
    pub now: Instant,
}

/// Lets in whoever the server is.
#[derive(Debug)]
struct Anybody(rustls::crypto::WebPkiSupportedAlgorithms);

impl rustls::client::danger::ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::HandshakeNotComplete)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        // webpki reads our certificates, too.
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.supported_schemes()
    }
}

impl Foreign {
    pub fn new(alpn: &[&[u8]], has_certificate: bool) -> Foreign {
        let (theirs, ours) = (Identity::generate().unwrap(), Identity::generate().unwrap());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = Anybody(provider.signature_verification_algorithms);
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let mut config = if has_certificate {
            let certificate = CertificateDer::from(theirs.certificate_der().unwrap());
            let key = PrivatePkcs8KeyDer::from(theirs.key_der().unwrap());
            config
                .with_client_auth_cert(vec![certificate], key.into())
                .unwrap()
        } else {
            config.with_no_client_auth()
        };
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        let name = ServerName::try_from("landro.invalid").unwrap();
        let setup = TcpSetup::server(&ours, only(&theirs), TIMES).unwrap();
        let now = now();
        let mut foreign = Foreign {
            client: ClientConnection::new(Arc::new(config), name).unwrap(),
            server: TcpConn::accept(&setup, WINDOWS, now),
            now,
        };
        foreign.client.set_buffer_limit(None);
        foreign.run();
        foreign
    }

    pub fn established() -> Foreign {
        let foreign = Foreign::new(&[ALPN], true);
        assert_eq!(foreign.server.state(), ConnState::Established);
        foreign
    }

    /// Until neither has anything to send.
    pub fn run(&mut self) {
        loop {
            let mut bytes = Vec::new();
            while self.client.wants_write() {
                self.client.write_tls(&mut bytes).unwrap();
            }
            let there = bytes.len();
            self.give(&bytes);
            let out = self.server.outgoing(self.now).to_vec();
            self.server.sent(out.len());
            let mut rest = &out[..];
            while !rest.is_empty() {
                self.client.read_tls(&mut rest).unwrap();
                let _ = self.client.process_new_packets();
            }
            if there + out.len() == 0 {
                return;
            }
        }
    }

    /// Bytes for the server, as they are.
    pub fn give(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let room = self.server.receive_buffer();
            let some = room.len().min(bytes.len());
            room[..some].copy_from_slice(&bytes[..some]);
            self.server.received(self.now, some);
            bytes = &bytes[some..];
        }
    }

    /// Says something inside TLS.
    pub fn say(&mut self, bytes: &[u8]) {
        self.client.writer().write_all(bytes).unwrap();
        self.run();
    }

    pub fn say_frames(&mut self, frames: &[TcpFrame]) {
        let mut bytes = Vec::new();
        for frame in frames {
            frame.write(&mut bytes);
        }
        self.say(&bytes);
    }

    fn control(&mut self, text: &[u8]) {
        let mut bytes = Vec::new();
        let data = TcpFrame::Data {
            stream: CONTROL_STREAM,
            bytes: text.len(),
            ends: false,
        };
        data.write(&mut bytes);
        bytes.extend(text);
        self.say(&bytes);
    }

    /// What the client read of the server.
    pub fn heard(&mut self) -> Vec<u8> {
        let mut all = Vec::new();
        let mut out = [0; 4_096];
        while let Ok(bytes @ 1..) = self.client.reader().read(&mut out) {
            all.extend_from_slice(&out[..bytes]);
        }
        all
    }
}

#[test]
fn another_tls_stack_is_understood_and_understands() {
    let mut foreign = Foreign::established();
    foreign.control(b"hello");
    assert_eq!(read_all(&mut foreign.server, CONTROL_STREAM).0, b"hello");
    let heard = foreign.heard();
    let granted = TcpFrame::Grant {
        limit: 1 << 20,
        stream_bytes: 512 << 10,
    };
    assert!(matches!(TcpFrame::parse(&heard), Ok(Some((frame, 17))) if frame == granted));
}

#[test]
fn keys_are_renewed_in_both_directions_when_asked() {
    let mut foreign = Foreign::established();
    for round in 0..100_u8 {
        // Asks for ours, too.
        foreign.client.refresh_traffic_keys().unwrap();
        foreign.run();
        foreign.control(&[round]);
        assert_eq!(read_all(&mut foreign.server, CONTROL_STREAM).0, [round]);
        foreign.server.keep_alive();
        foreign.run();
        let heard = foreign.heard();
        assert_eq!(heard.last(), Some(&5), "a PING");
        foreign.say_frames(&[TcpFrame::Pong]);
        assert_eq!(foreign.server.state(), ConnState::Established);
    }
    assert_eq!(foreign.server.counters().keys_renewed, 200);
}

#[test]
fn key_updates_without_data_are_no_connection() {
    let mut foreign = Foreign::established();
    for _ in 0..40 {
        let _ = foreign.client.refresh_traffic_keys();
        foreign.run();
    }
    let reason = foreign.server.close_reason();
    assert!(
        matches!(reason, Some(CloseReason::Transport(_))),
        "{reason:?}"
    );
    assert!(foreign.server.counters().keys_renewed <= 66);
}

#[test]
fn who_offers_no_certificate_is_refused() {
    let foreign = Foreign::new(&[ALPN], false);
    let refused = CloseReason::IdentityRefused {
        by_peer: false,
        alert: CERTIFICATE_REQUIRED,
    };
    assert_eq!(foreign.server.close_reason(), Some(refused));
    assert_eq!(foreign.server.peer_fingerprint(), None);
}

#[test]
fn other_protocols_are_refused_and_so_is_none() {
    for alpn in [&[b"h2".as_slice()][..], &[]] {
        let foreign = Foreign::new(alpn, true);
        let reason = foreign.server.close_reason();
        assert!(
            matches!(reason, Some(CloseReason::Transport(_))),
            "{reason:?}"
        );
        assert!(!foreign.server.is_established());
    }
}
