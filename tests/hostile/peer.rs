//! A peer that is a connection of quiche itself, and can therefore send anything.

mod speech;

use std::collections::VecDeque;
use std::io::Write;
use std::net::{SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use boring::pkey::PKey;
use boring::ssl::{SslContextBuilder, SslMethod, SslSignatureAlgorithm, SslVerifyMode};
use boring::x509::X509;
use bytes::Bytes;
use landro::proto::wire::{self, Message, Preface};
use landro::quic::Identity;

pub use speech::*;

/// How long a turn waits unless told otherwise.
const TURN: Duration = Duration::from_millis(10);

/// Turns of 10 ms after which a peer that should have answered has not.
const PATIENCE_TURNS: usize = 3000;

/// Largest datagram taken; the daemon may send jumbo packets on loopback.
const DATAGRAM_BYTES: usize = 65_535;

/// One connection, all of it in this thread.
pub struct Peer {
    pub conn: quiche::Connection,
    socket: UdpSocket,
    local: SocketAddr,
    remote: SocketAddr,
    decoder: wire::Decoder,
    messages: VecDeque<Message>,
    buffer: Vec<u8>,
    streams: u64,
    /// How long a turn waits for something to come; zero: not at all.
    pub wait: Duration,
    /// Whether control and data streams are read at all.
    pub reads: bool,
    /// Data the other side sent on its streams, counted and thrown away.
    pub received_bytes: u64,
    /// As a server: bytes of the control stream that precede its messages.
    skip_preface: usize,
    key_log: KeyLog,
}

/// Lines as of SSLKEYLOGFILE.
#[derive(Clone, Default)]
struct KeyLog(Arc<Mutex<Vec<u8>>>);

impl Write for KeyLog {
    fn write(&mut self, lines: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend(lines);
        Ok(lines.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// How the other side ended the connection.
#[derive(Debug, PartialEq, Eq)]
pub struct Closed {
    pub by_application: bool,
    pub code: u64,
    pub reason: String,
}

/// The application's code for a broken protocol.
pub const VIOLATION: u64 = 1;

fn config(identity: &Identity) -> quiche::Config {
    let pem = identity.to_pem().unwrap();
    let mut tls = SslContextBuilder::new(SslMethod::tls()).unwrap();
    tls.set_verify_algorithm_prefs(&[SslSignatureAlgorithm::ED25519])
        .unwrap();
    tls.set_certificate(&X509::from_pem(pem.as_bytes()).unwrap())
        .unwrap();
    tls.set_private_key(&PKey::private_key_from_pem(pem.as_bytes()).unwrap())
        .unwrap();
    // Whoever is there: hostility does not check whom it meets. Both sides must show a certificate.
    tls.set_custom_verify_callback(SslVerifyMode::PEER, |_| Ok(()));
    let mut config =
        quiche::Config::with_boring_ssl_ctx_builder(quiche::PROTOCOL_VERSION, tls).unwrap();
    config.set_application_protos(&[b"landro/1"]).unwrap();
    config.set_max_idle_timeout(60_000);
    config.set_max_recv_udp_payload_size(DATAGRAM_BYTES);
    config.set_max_send_udp_payload_size(1350);
    // Generous windows, so that it is the other side's own limits that are tested.
    config.set_initial_max_data(1 << 30);
    config.set_max_connection_window(1 << 30);
    config.set_initial_max_stream_data_bidi_local(1 << 30);
    config.set_initial_max_stream_data_bidi_remote(1 << 30);
    config.set_initial_max_stream_data_uni(1 << 30);
    config.set_initial_max_streams_bidi(1000);
    config.set_initial_max_streams_uni(1000);
    config.log_keys();
    config
}

impl Peer {
    fn of(mut conn: quiche::Connection, socket: UdpSocket, remote: SocketAddr) -> Peer {
        let key_log = KeyLog::default();
        conn.set_keylog(Box::new(key_log.clone()));
        Peer {
            local: socket.local_addr().unwrap(),
            conn,
            socket,
            remote,
            decoder: wire::Decoder::new(),
            messages: VecDeque::new(),
            buffer: vec![0; DATAGRAM_BYTES],
            streams: 0,
            wait: TURN,
            reads: true,
            received_bytes: 0,
            skip_preface: 0,
            key_log,
        }
    }

    /// What the keys of our 1-RTT packets are derived from.
    pub fn traffic_secret(&self) -> Vec<u8> {
        let label = if self.conn.is_server() {
            "SERVER_TRAFFIC_SECRET_0 "
        } else {
            "CLIENT_TRAFFIC_SECRET_0 "
        };
        self.secret(label).expect("no secret")
    }

    /// The same of a client's handshake packets; None before the server has answered.
    pub fn handshake_secret(&self) -> Option<Vec<u8>> {
        self.secret("CLIENT_HANDSHAKE_TRAFFIC_SECRET ")
    }

    fn secret(&self, label: &str) -> Option<Vec<u8>> {
        let log = String::from_utf8(self.key_log.0.lock().unwrap().clone()).unwrap();
        let line = log.lines().find(|line| line.starts_with(label))?;
        let hex = line.rsplit(' ').next().unwrap();
        Some(
            (0..hex.len())
                .step_by(2)
                .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
                .collect(),
        )
    }

    /// Takes what comes within a turn's time, and says nothing to it.
    pub fn listen(&mut self) {
        self.socket.set_read_timeout(Some(self.wait)).unwrap();
        if let Ok((len, from)) = self.socket.recv_from(&mut self.buffer) {
            let info = quiche::RecvInfo {
                from,
                to: self.local,
            };
            let _ = self.conn.recv(&mut self.buffer[..len], info);
        }
    }

    /// Sends a datagram that quiche knows nothing of.
    pub fn throw(&self, datagram: &[u8]) {
        let _ = self.socket.send_to(datagram, self.remote);
    }

    /// Takes what came, unread. Whether a stateless reset was among it: the other side has
    /// forgotten the connection.
    pub fn is_forgotten(&mut self) -> bool {
        let token = self
            .conn
            .peer_transport_params()
            .and_then(|params| params.stateless_reset_token);
        let token = token.expect("a server gives one").to_be_bytes();
        let mut forgotten = false;
        self.socket.set_nonblocking(true).unwrap();
        while let Ok((len, _)) = self.socket.recv_from(&mut self.buffer) {
            forgotten |= self.buffer[..len].ends_with(&token);
        }
        self.socket.set_nonblocking(false).unwrap();
        forgotten
    }

    /// Dials and finishes the handshake.
    pub fn connect(address: &str, identity: &Identity) -> Peer {
        Peer::dial(address, identity).established()
    }

    /// As [`Peer::connect`], but with little room for what is sent on the control stream.
    pub fn connect_narrow(address: &str, identity: &Identity, window_bytes: u64) -> Peer {
        let mut config = config(identity);
        config.set_initial_max_stream_data_bidi_local(window_bytes);
        Peer::dial_as(address, &mut config).established()
    }

    fn established(self) -> Peer {
        let mut peer = self;
        for _ in 0..PATIENCE_TURNS {
            if peer.conn.is_established() {
                return peer;
            }
            peer.turn();
            assert!(
                !peer.conn.is_closed(),
                "the handshake failed: {:?}",
                peer.conn.peer_error()
            );
        }
        panic!("no handshake");
    }

    /// Dials, nothing more; the first flight is not sent yet.
    pub fn dial(address: &str, identity: &Identity) -> Peer {
        Peer::dial_as(address, &mut config(identity))
    }

    /// As [`Peer::dial`], from an address of its own.
    pub fn dial_from(address: &str, identity: &Identity, from: &str) -> Peer {
        Peer::dial_by(address, &mut config(identity), from)
    }

    fn dial_as(address: &str, config: &mut quiche::Config) -> Peer {
        Peer::dial_by(address, config, "127.0.0.1:0")
    }

    fn dial_by(address: &str, config: &mut quiche::Config, from: &str) -> Peer {
        let remote: SocketAddr = address.parse().unwrap();
        let socket = UdpSocket::bind(from).unwrap();
        let scid: [u8; 16] =
            std::array::from_fn(|at| at as u8 ^ socket.local_addr().unwrap().port() as u8);
        let scid = quiche::ConnectionId::from_ref(&scid);
        let local = socket.local_addr().unwrap();
        let conn = quiche::connect(None, &scid, local, remote, config).unwrap();
        Peer::of(conn, socket, remote)
    }

    /// Waits for a client on `socket` and finishes the handshake, as a server.
    pub fn accept(socket: UdpSocket, identity: &Identity) -> Peer {
        let mut first = vec![0; DATAGRAM_BYTES];
        socket
            .set_read_timeout(Some(Duration::from_secs(30)))
            .unwrap();
        let (len, remote) = socket.recv_from(&mut first).expect("nobody dials");
        let scid = [7; 16];
        let scid = quiche::ConnectionId::from_ref(&scid);
        let local = socket.local_addr().unwrap();
        let conn = quiche::accept(&scid, None, local, remote, &mut config(identity)).unwrap();
        let mut peer = Peer::of(conn, socket, remote);
        peer.conn
            .recv(
                &mut first[..len],
                quiche::RecvInfo {
                    from: remote,
                    to: local,
                },
            )
            .unwrap();
        peer.skip_preface = Preface::BYTES;
        for _ in 0..PATIENCE_TURNS {
            if peer.conn.is_established() || peer.conn.is_closed() {
                break;
            }
            peer.turn();
        }
        peer
    }

    /// Sends what is to be sent, waits a little for something to come, and takes what comes.
    pub fn turn(&mut self) {
        self.flush();
        if self.wait.is_zero() {
            self.socket.set_nonblocking(true).unwrap();
        } else {
            self.socket.set_read_timeout(Some(self.wait)).unwrap();
        }
        let mut any = false;
        while let Ok((len, from)) = self.socket.recv_from(&mut self.buffer) {
            let info = quiche::RecvInfo {
                from,
                to: self.local,
            };
            // What quiche does not like it answers by itself.
            let _ = self.conn.recv(&mut self.buffer[..len], info);
            self.socket.set_nonblocking(true).unwrap();
            any = true;
        }
        self.socket.set_nonblocking(false).unwrap();
        if !any {
            self.conn.on_timeout();
        }
        if self.reads {
            self.read();
        }
        self.flush();
    }

    fn flush(&mut self) {
        let mut out = [0; 1500];
        while let Ok((len, _)) = self.conn.send(&mut out) {
            // A full socket buffer loses a datagram, as networks do.
            let _ = self.socket.send_to(&out[..len], self.remote);
        }
    }

    /// Sends the first flight, and nothing after it.
    pub fn send_first_flight(&mut self) {
        self.flush();
    }

    /// Bytes the control stream would not take now; None when it is gone.
    pub fn backlog(&mut self) -> Option<usize> {
        let capacity = self.conn.stream_capacity(0).ok()?;
        Some(8000usize.saturating_sub(capacity))
    }

    /// The datagrams of the first flight, not sent.
    pub fn first_flight(&mut self) -> Vec<Vec<u8>> {
        let mut datagrams = Vec::new();
        let mut out = [0; 1500];
        while let Ok((len, _)) = self.conn.send(&mut out) {
            datagrams.push(out[..len].to_vec());
        }
        datagrams
    }

    fn read(&mut self) {
        let readable: Vec<u64> = self.conn.readable().collect();
        for stream in readable {
            let mut chunk = vec![0; 65_536];
            while let Ok((len, _)) = self.conn.stream_recv(stream, &mut chunk) {
                if stream != 0 {
                    self.received_bytes += len as u64;
                    continue;
                }
                let skipped = self.skip_preface.min(len);
                self.skip_preface -= skipped;
                self.decoder
                    .push(Bytes::copy_from_slice(&chunk[skipped..len]));
                while let Some(message) =
                    self.decoder.next().expect("the daemon speaks the protocol")
                {
                    self.messages.push_back(message);
                }
            }
        }
    }

    /// Queues bytes on a stream; takes turns while flow control refuses, gives up when the
    /// connection closes.
    pub fn send(&mut self, stream: u64, mut bytes: &[u8], fin: bool) {
        for _ in 0..PATIENCE_TURNS {
            match self.conn.stream_send(stream, bytes, fin) {
                Ok(sent) => bytes = &bytes[sent..],
                Err(quiche::Error::Done) => {}
                // Stopped or closed: the test looks at the reason later.
                Err(_) => return,
            }
            if bytes.is_empty() || self.is_closed() {
                return;
            }
            self.turn();
        }
        panic!("stream {stream} is stuck with {} bytes", bytes.len());
    }

    pub fn is_closed(&self) -> bool {
        self.conn.is_closed() || self.conn.is_draining() || self.conn.peer_error().is_some()
    }

    /// Goes on until the other side has had enough, or time to have.
    pub fn turn_until_closed(&mut self) {
        for _ in 0..PATIENCE_TURNS {
            if self.is_closed() {
                return;
            }
            self.turn();
        }
    }

    /// Waits until the other side closes the connection.
    pub fn wait_closed(&mut self) -> Closed {
        for _ in 0..PATIENCE_TURNS {
            if let Some(closed) = self.closed() {
                return closed;
            }
            let (silent, own) = (self.conn.is_timed_out(), self.conn.local_error());
            assert!(
                !self.conn.is_closed(),
                "closed without a reason: silence {silent}, of our own {own:?}"
            );
            self.turn();
        }
        panic!(
            "the other side put up with it; messages: {:?}",
            self.messages
        );
    }

    pub fn closed(&self) -> Option<Closed> {
        self.conn.peer_error().map(|error| Closed {
            by_application: error.is_app,
            code: error.error_code,
            reason: String::from_utf8_lossy(&error.reason).into_owned(),
        })
    }

    /// The connection must end with a protocol violation, now or after what is still under way.
    #[track_caller]
    pub fn expect_violation(&mut self, what: &str) -> String {
        let closed = self.wait_closed();
        assert!(
            closed.by_application && closed.code == VIOLATION,
            "{what}: {closed:?}"
        );
        assert!(!closed.reason.is_empty(), "{what}: no reason is given");
        closed.reason
    }

    pub fn hang_up(&mut self) {
        let _ = self.conn.close(true, 0, b"");
        self.flush();
    }
}
