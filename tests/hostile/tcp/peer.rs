//! A peer over TCP whose handshake rustls makes and whose records are sealed here, so that it can
//! send anything.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use boring::pkey::PKey;
use boring::symm::{Cipher, decrypt_aead, encrypt_aead};
use boring::x509::X509;
use bytes::{Bytes, BytesMut};
use landro::ids::SessionId;
use landro::proto::wire::{self, Message, Preface, PrefaceKind, WireRequest};
use landro::quic::Identity;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, socket};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, Connection, ServerConfig, ServerConnection};

use crate::craft::expand;
use crate::peer::hello;

/// How long a turn waits for something to come.
const TURN: Duration = Duration::from_millis(10);

/// Turns after which a peer that should have answered has not: as long as `peer.rs` waits.
const PATIENCE_TURNS: usize = 3000;

pub const HANDSHAKE: u8 = 22;
pub const APPLICATION_DATA: u8 = 23;
const ALERT: u8 = 21;

/// The message that says that the next record has the next key, and that ours is asked for.
pub const KEY_UPDATE: [u8; 5] = [24, 0, 0, 1, 1];

/// Frames (docs/protocol.md §8).
pub const PING: u8 = 5;
const DATA: u8 = 0;
const LAST_DATA: u8 = 1;
const GRANT: u8 = 2;
const CREDIT: u8 = 3;
const READ_OUT: u8 = 4;
const PONG: u8 = 6;
const CLOSE: u8 = 7;

const HEADER_BYTES: usize = 5;
const TAG_BYTES: usize = 16;
const MAX_PLAIN_BYTES: usize = 1 << 14;
const MAX_DATA_BYTES: usize = 16_373;

/// How the other side ended it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TcpEnd {
    /// Its last word within TLS.
    Alert(u8),
    Close {
        code: u64,
        reason: String,
    },
    /// No more bytes come, or the connection was reset.
    Silence,
}

/// One direction's key.
struct Sealing {
    secret: Vec<u8>,
    sequence: u64,
}

impl Sealing {
    fn new(secret: Vec<u8>) -> Sealing {
        Sealing {
            secret,
            sequence: 0,
        }
    }

    fn key_and_nonce(&mut self) -> (Vec<u8>, Vec<u8>) {
        let mut nonce = expand(&self.secret, "iv", 12);
        let number = self.sequence.to_be_bytes();
        nonce[4..].iter_mut().zip(number).for_each(|(a, b)| *a ^= b);
        self.sequence += 1;
        (expand(&self.secret, "key", 16), nonce)
    }

    /// RFC 8446 §7.2.
    fn renew(&mut self) {
        *self = Sealing::new(expand(&self.secret, "traffic upd", 32));
    }
}

/// A connection whose handshake is over on our side.
pub struct TlsPeer {
    socket: TcpStream,
    seal: Sealing,
    open: Sealing,
    arrived: Vec<u8>,
    frames: Vec<u8>,
    decoder: wire::Decoder,
    messages: VecDeque<Message>,
    /// As a server: bytes of the control stream that precede its messages.
    skip_preface: usize,
    control_read: u64,
    /// Control bytes that may be sent, and that were.
    control_limit: u64,
    control_bytes: u64,
    end: Option<TcpEnd>,
    /// A PING of ours is not answered yet.
    asks: bool,
    /// Data the other side sent on its streams, counted and thrown away.
    pub received_bytes: u64,
    /// Most that one record says.
    pub record_bytes: usize,
    /// All that was sent since the TCP connection began.
    pub sent: Vec<u8>,
}

/// Whoever is there: hostility does not check whom it meets.
#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        vec![rustls::SignatureScheme::ED25519]
    }
}

/// The secrets that keys of both directions are made from.
#[derive(Debug, Default)]
struct Secrets(Mutex<Vec<(String, Vec<u8>)>>);

impl rustls::KeyLog for Secrets {
    fn log(&self, label: &str, _: &[u8], secret: &[u8]) {
        let secret = (label.to_owned(), secret.to_vec());
        self.0.lock().unwrap().push(secret);
    }
}

impl Secrets {
    fn of(&self, label: &str) -> Sealing {
        let all = self.0.lock().unwrap();
        let (_, secret) = all.iter().find(|(known, _)| known == label).unwrap();
        Sealing::new(secret.clone())
    }
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::CryptoProvider {
        cipher_suites: vec![rustls::crypto::ring::cipher_suite::TLS13_AES_128_GCM_SHA256],
        ..rustls::crypto::ring::default_provider()
    })
}

fn client(identity: Option<&Identity>, alpn: &[&[u8]], log: Arc<Secrets>) -> ClientConnection {
    let config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody));
    let mut config = match identity {
        None => config.with_no_client_auth(),
        Some(identity) => {
            let (certificate, key) = shown(identity);
            config
                .with_client_auth_cert(vec![certificate], key.into())
                .unwrap()
        }
    };
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    config.key_log = log;
    let name = ServerName::try_from("landro.invalid").unwrap();
    ClientConnection::new(Arc::new(config), name).unwrap()
}

fn server(identity: &Identity, log: Arc<Secrets>) -> ServerConnection {
    let (certificate, key) = shown(identity);
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key.into())
        .unwrap();
    config.alpn_protocols = vec![b"landro/1".to_vec()];
    config.send_tls13_tickets = 0;
    config.key_log = log;
    ServerConnection::new(Arc::new(config)).unwrap()
}

fn shown(identity: &Identity) -> (CertificateDer<'static>, PrivatePkcs8KeyDer<'static>) {
    let pem = identity.to_pem().unwrap();
    let certificate = X509::from_pem(pem.as_bytes()).unwrap();
    let key = PKey::private_key_from_pem(pem.as_bytes()).unwrap();
    (
        CertificateDer::from(certificate.to_der().unwrap()),
        PrivatePkcs8KeyDer::from(key.private_key_to_der_pkcs8().unwrap()),
    )
}

/// The first flight of one who offers landro's protocol.
pub fn client_hello(identity: &Identity) -> Vec<u8> {
    let mut bytes = Vec::new();
    client(Some(identity), &[b"landro/1"], Arc::default())
        .write_tls(&mut bytes)
        .unwrap();
    bytes
}

/// A TCP connection from 127.0.0.`from`.
pub fn dial(address: &str, from: u8) -> TcpStream {
    let SocketAddr::V4(to) = address.parse().unwrap() else {
        panic!("{address}")
    };
    let here = SocketAddrV4::new(Ipv4Addr::new(127, 0, 0, from), 0);
    let stream = socket(
        AddressFamily::Inet,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC,
        None,
    )
    .unwrap();
    bind(stream.as_raw_fd(), &SockaddrIn::from(here)).unwrap();
    connect(stream.as_raw_fd(), &SockaddrIn::from(to)).unwrap();
    TcpStream::from(stream)
}

/// Reads one record, header included. None: the other side ended.
fn next_record(socket: &mut TcpStream) -> Option<Vec<u8>> {
    let mut record = vec![0; HEADER_BYTES];
    socket.read_exact(&mut record).ok()?;
    let bytes = usize::from(u16::from_be_bytes([record[3], record[4]]));
    record.resize(HEADER_BYTES + bytes, 0);
    socket.read_exact(&mut record[HEADER_BYTES..]).ok()?;
    Some(record)
}

/// One record after the other, so that nothing behind the handshake is taken. What was sent, or how
/// it ended.
fn shake(mut tls: Connection, socket: &mut TcpStream) -> Result<Vec<u8>, TcpEnd> {
    socket
        .set_read_timeout(Some(Duration::from_secs(30)))
        .unwrap();
    let mut sent = Vec::new();
    loop {
        let mut flight = Vec::new();
        while tls.wants_write() {
            tls.write_tls(&mut flight).unwrap();
        }
        sent.extend(&flight);
        if socket.write_all(&flight).is_err() {
            return Err(TcpEnd::Silence);
        }
        if !tls.is_handshaking() {
            return Ok(sent);
        }
        let record = next_record(socket).ok_or(TcpEnd::Silence)?;
        tls.read_tls(&mut &record[..]).unwrap();
        match tls.process_new_packets() {
            Ok(_) => {}
            Err(rustls::Error::AlertReceived(alert)) => return Err(TcpEnd::Alert(alert.into())),
            Err(error) => panic!("{error}"),
        }
    }
}

impl TlsPeer {
    pub fn connect(address: &str, identity: &Identity) -> TlsPeer {
        let stream = TcpStream::connect(address).unwrap();
        TlsPeer::shaken(stream, Some(identity), &[b"landro/1"]).expect("no handshake")
    }

    /// Whatever is offered. A client of TLS 1.3 is through before the server has looked at it.
    pub fn shaken(
        mut socket: TcpStream,
        identity: Option<&Identity>,
        alpn: &[&[u8]],
    ) -> Result<TlsPeer, TcpEnd> {
        let log = Arc::new(Secrets::default());
        let sent = shake(client(identity, alpn, log.clone()).into(), &mut socket)?;
        let mut peer = TlsPeer::of(socket, &log, sent, false);
        peer.grant();
        Ok(peer)
    }

    /// The server's side of it.
    pub fn accept(mut socket: TcpStream, identity: &Identity) -> Result<TlsPeer, TcpEnd> {
        let log = Arc::new(Secrets::default());
        let sent = shake(server(identity, log.clone()).into(), &mut socket)?;
        Ok(TlsPeer::of(socket, &log, sent, true))
    }

    fn of(socket: TcpStream, log: &Secrets, sent: Vec<u8>, is_server: bool) -> TlsPeer {
        let client = log.of("CLIENT_TRAFFIC_SECRET_0");
        let server = log.of("SERVER_TRAFFIC_SECRET_0");
        let (seal, open) = match is_server {
            true => (server, client),
            false => (client, server),
        };
        socket
            .set_write_timeout(Some(Duration::from_secs(30)))
            .unwrap();
        TlsPeer {
            socket,
            seal,
            open,
            arrived: Vec::new(),
            frames: Vec::new(),
            decoder: wire::Decoder::new(),
            messages: VecDeque::new(),
            skip_preface: if is_server { Preface::BYTES } else { 0 },
            control_limit: 32 << 10,
            control_bytes: 0,
            control_read: 0,
            end: None,
            asks: false,
            received_bytes: 0,
            record_bytes: MAX_PLAIN_BYTES,
            sent,
        }
    }

    // ---- what it says

    /// Bytes as they are.
    pub fn throw(&mut self, bytes: &[u8]) {
        self.sent.extend(bytes);
        // Whoever hangs up is asked for the reason later.
        let _ = self.socket.write_all(bytes);
    }

    /// A record of any content.
    pub fn sealed(&mut self, content: u8, plain: &[u8]) -> Vec<u8> {
        let inner = [plain, &[content]].concat();
        let bytes = (inner.len() + TAG_BYTES) as u16;
        let mut record = [&[APPLICATION_DATA, 3, 3], &bytes.to_be_bytes()[..]].concat();
        let (key, nonce) = self.seal.key_and_nonce();
        let mut tag = [0; TAG_BYTES];
        let cipher = Cipher::aes_128_gcm();
        let body = encrypt_aead(cipher, &key, Some(&nonce), &record, &inner, &mut tag).unwrap();
        record.extend(body);
        record.extend(tag);
        record
    }

    /// Asks for the other side's next key, and goes on to the next one of its own.
    pub fn renewed(&mut self) -> Vec<u8> {
        let record = self.sealed(HANDSHAKE, &KEY_UPDATE);
        self.seal.renew();
        record
    }

    /// Frames, in records.
    pub fn say(&mut self, frames: &[u8]) {
        let mut records = Vec::new();
        for part in frames.chunks(self.record_bytes) {
            records.extend(self.sealed(APPLICATION_DATA, part));
        }
        self.throw(&records);
    }

    /// Asks for a sign of life, once until it is given.
    pub fn ask(&mut self) {
        if !std::mem::replace(&mut self.asks, true) {
            self.say(&[PING]);
        }
    }

    /// More than anybody sends.
    fn grant(&mut self) {
        const MUCH: u64 = 1 << 40;
        let mut frames = vec![GRANT];
        frames.extend(MUCH.to_be_bytes());
        frames.extend(MUCH.to_be_bytes());
        self.say(&frames);
        self.credit(MUCH);
    }

    /// So much may come on the control stream.
    pub fn credit(&mut self, limit: u64) {
        let frame = credit_frame(limit);
        self.say(&frame);
    }

    /// Bytes of a stream.
    pub fn data(&mut self, stream: u64, bytes: &[u8], ends: bool) {
        let parts = bytes.chunks(MAX_DATA_BYTES).collect::<Vec<_>>();
        let count = parts.len();
        for (at, part) in parts.into_iter().enumerate() {
            let is_last = ends && at + 1 == count;
            let mut frame = vec![if is_last { LAST_DATA } else { DATA }];
            frame.extend(stream.to_be_bytes());
            frame.extend((part.len() as u16).to_be_bytes());
            frame.extend(part);
            self.say(&frame);
        }
    }

    /// Bytes of the control stream, once there is credit for them.
    pub fn control(&mut self, bytes: &[u8]) {
        for _ in 0..PATIENCE_TURNS {
            if self.may_say(bytes.len()) || self.end.is_some() {
                break;
            }
            self.turn();
        }
        self.control_bytes += bytes.len() as u64;
        self.data(0, bytes, false);
    }

    pub fn may_say(&self, bytes: usize) -> bool {
        self.control_bytes + bytes as u64 <= self.control_limit
    }

    pub fn preface(&mut self, kind: PrefaceKind, session: SessionId, lane: u32) {
        let preface = Preface {
            kind,
            session,
            lane,
        };
        self.control(&preface.encode());
    }

    pub fn message(&mut self, message: &Message) {
        let mut bytes = BytesMut::new();
        wire::encode(message, &mut bytes);
        self.control(&bytes);
    }

    /// The server's control bytes begin with how many it has read.
    pub fn skip_count(&mut self) {
        self.skip_preface = 8;
    }

    /// Control bytes of the session that came here.
    pub fn control_read(&self) -> u64 {
        self.control_read
    }

    /// A session of this id: preface, hello and welcome. Lanes may be added to it.
    pub fn begin(&mut self, session: SessionId, request: WireRequest) {
        self.preface(PrefaceKind::New, session, 0);
        let Message::Hello(mut said) = hello(request) else {
            unreachable!()
        };
        said.adds_lanes = true;
        self.message(&Message::Hello(said));
        match self.next_message() {
            Some(Message::Welcome(welcome)) => assert!(welcome.adds_lanes),
            other => panic!("no welcome: {other:?} {:?}", self.end),
        }
    }

    /// Says that nothing follows, within TCP alone.
    pub fn shut(&mut self) {
        let _ = self.socket.shutdown(std::net::Shutdown::Write);
    }

    // ---- what it hears

    /// Takes what comes within a turn's time.
    pub fn turn(&mut self) {
        if self.end == Some(TcpEnd::Silence) {
            return;
        }
        let mut buffer = vec![0; 64 << 10];
        self.socket.set_read_timeout(Some(TURN)).unwrap();
        match self.socket.read(&mut buffer) {
            Ok(0) => self.ended(TcpEnd::Silence),
            Ok(bytes) => self.arrived.extend_from_slice(&buffer[..bytes]),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => self.ended(TcpEnd::Silence),
        }
        while self.open_one() {}
    }

    /// The first word is the last.
    fn ended(&mut self, end: TcpEnd) {
        self.end.get_or_insert(end);
    }

    fn open_one(&mut self) -> bool {
        let &[_, _, _, high, low, ..] = &self.arrived[..] else {
            return false;
        };
        let bytes = HEADER_BYTES + usize::from(u16::from_be_bytes([high, low]));
        if self.arrived.len() < bytes {
            return false;
        }
        let record: Vec<u8> = self.arrived.drain(..bytes).collect();
        let (header, body) = record.split_at(HEADER_BYTES);
        let (body, tag) = body.split_at(body.len() - TAG_BYTES);
        let (key, nonce) = self.open.key_and_nonce();
        let cipher = Cipher::aes_128_gcm();
        let mut plain = decrypt_aead(cipher, &key, Some(&nonce), header, body, tag).unwrap();
        match plain.pop() {
            Some(APPLICATION_DATA) => {
                self.frames.extend(plain);
                while self.take_frame() {}
            }
            Some(ALERT) => self.ended(TcpEnd::Alert(plain[1])),
            Some(HANDSHAKE) if plain[0] == KEY_UPDATE[0] => self.open.renew(),
            other => panic!("a record of content {other:?}"),
        }
        true
    }

    fn take_frame(&mut self) -> bool {
        let number = |bytes: &[u8]| u64::from_be_bytes(bytes[..8].try_into().unwrap());
        let Some((&kind, fields)) = self.frames.split_first() else {
            return false;
        };
        let fixed = match kind {
            DATA | LAST_DATA | CLOSE => 10,
            GRANT | CREDIT => 16,
            READ_OUT => 8,
            PING | PONG => 0,
            _ => panic!("a frame of kind {kind}"),
        };
        if fields.len() < fixed {
            return false;
        }
        let behind = match kind {
            DATA | LAST_DATA | CLOSE => usize::from(u16::from_be_bytes([fields[8], fields[9]])),
            _ => 0,
        };
        if fields.len() < fixed + behind {
            return false;
        }
        let frame: Vec<u8> = self.frames.drain(..1 + fixed + behind).skip(1).collect();
        match kind {
            DATA | LAST_DATA if number(&frame) == 0 => self.take_control(&frame[fixed..]),
            DATA | LAST_DATA => self.received_bytes += behind as u64,
            CREDIT if number(&frame) == 0 => self.control_limit = number(&frame[8..]),
            PING => self.say(&[PONG]),
            PONG => self.asks = false,
            CLOSE => {
                let reason = String::from_utf8_lossy(&frame[fixed..]).into_owned();
                let code = number(&frame);
                self.ended(TcpEnd::Close { code, reason });
            }
            _ => {}
        }
        true
    }

    fn take_control(&mut self, bytes: &[u8]) {
        let skipped = self.skip_preface.min(bytes.len());
        self.skip_preface -= skipped;
        self.control_read += (bytes.len() - skipped) as u64;
        self.decoder.push(Bytes::copy_from_slice(&bytes[skipped..]));
        while let Some(message) = self
            .decoder
            .next()
            .expect("the other side speaks the protocol")
        {
            self.messages.push_back(message);
        }
    }

    /// The next control message; None when the connection ended instead.
    pub fn next_message(&mut self) -> Option<Message> {
        for _ in 0..PATIENCE_TURNS {
            match self.messages.pop_front() {
                Some(Message::Working { .. }) => continue,
                Some(message) => return Some(message),
                None if self.end.is_some() => return None,
                None => self.turn(),
            }
        }
        panic!("neither a message nor the end");
    }

    pub fn is_over(&self) -> bool {
        self.end.is_some()
    }

    /// Waits until the other side ends it.
    pub fn wait_end(&mut self) -> TcpEnd {
        for _ in 0..PATIENCE_TURNS {
            if let Some(end) = &self.end {
                return end.clone();
            }
            self.turn();
        }
        panic!("the other side put up with it: {:?}", self.messages);
    }

    #[track_caller]
    pub fn expect_close(&mut self, wanted: u64, what: &str) -> String {
        match self.wait_end() {
            TcpEnd::Close { code, reason } if code == wanted => reason,
            other => panic!("{what}: {other:?}"),
        }
    }
}

/// CREDIT of the control stream.
pub fn credit_frame(limit: u64) -> Vec<u8> {
    [&[CREDIT][..], &0_u64.to_be_bytes(), &limit.to_be_bytes()].concat()
}
