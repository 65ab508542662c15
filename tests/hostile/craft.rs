//! QUIC packets by hand, for what no QUIC library would send: Initial packets of a stranger, 1-RTT
//! packets of a peer.

use std::net::UdpSocket;
use std::time::Duration;

use boring::hash::hmac_sha256;
use boring::symm::{Cipher, Crypter, Mode, encrypt_aead};
use boring::x509::X509;
use landro::quic::Identity;

use super::peer::Peer;

/// RFC 9001 §5.2.
const INITIAL_SALT: [u8; 20] = [
    0x38, 0x76, 0x2c, 0xf7, 0xf5, 0x59, 0x34, 0xb3, 0x4d, 0x17, 0x9a, 0xe6, 0xa4, 0xc8, 0x0c, 0xad,
    0xcc, 0xbb, 0x7f, 0x0a,
];

/// A client's first datagrams are at least this long (RFC 9000 §14.1).
const INITIAL_BYTES: usize = 1200;

const TAG_BYTES: usize = 16;

/// One direction's keys for AES-128-GCM.
pub struct Keys {
    key: Vec<u8>,
    iv: Vec<u8>,
    header: Vec<u8>,
}

impl Keys {
    fn of_secret(secret: &[u8]) -> Keys {
        Keys {
            key: expand(secret, "quic key", 16),
            iv: expand(secret, "quic iv", 12),
            header: expand(secret, "quic hp", 16),
        }
    }

    fn of_initial(dcid: &[u8]) -> Keys {
        let secret = hmac_sha256(&INITIAL_SALT, dcid).unwrap();
        Keys::of_secret(&expand(&secret, "client in", 32))
    }

    /// A packet with a packet number of four bytes, which `header` leaves out.
    fn seal(&self, header: &[u8], number: u32, payload: &[u8]) -> Vec<u8> {
        let mut packet = [header, &number.to_be_bytes()].concat();
        let mut nonce = self.iv.clone();
        nonce[8..]
            .iter_mut()
            .zip(number.to_be_bytes())
            .for_each(|(nonce, number)| *nonce ^= number);
        let mut tag = [0; TAG_BYTES];
        let sealed = encrypt_aead(
            Cipher::aes_128_gcm(),
            &self.key,
            Some(&nonce),
            &packet,
            payload,
            &mut tag,
        )
        .unwrap();
        packet.extend(sealed);
        packet.extend(tag);
        let sample = header.len() + 4;
        let mut mask = [0; 32];
        let mut ecb =
            Crypter::new(Cipher::aes_128_ecb(), Mode::Encrypt, &self.header, None).unwrap();
        ecb.update(&packet[sample..sample + 16], &mut mask).unwrap();
        packet[0] ^= mask[0] & if packet[0] & 0x80 == 0 { 0x1f } else { 0x0f };
        packet[header.len()..sample]
            .iter_mut()
            .zip(&mask[1..])
            .for_each(|(byte, mask)| *byte ^= mask);
        packet
    }
}

/// HKDF-Expand-Label of TLS 1.3, for one block of SHA-256.
pub fn expand(secret: &[u8], label: &str, len: u8) -> Vec<u8> {
    let label = format!("tls13 {label}");
    let info = [&[0, len, label.len() as u8], label.as_bytes(), &[0, 1]].concat();
    hmac_sha256(secret, &info).unwrap()[..usize::from(len)].to_vec()
}

/// RFC 9000 §16.
pub fn varint(into: &mut Vec<u8>, value: u64) {
    match value {
        0..=0x3f => into.push(value as u8),
        0x40..=0x3fff => into.extend((value as u16 | 0x4000).to_be_bytes()),
        0x4000..=0x3fff_ffff => into.extend((value as u32 | 0x8000_0000).to_be_bytes()),
        _ => into.extend((value | 0xc000_0000_0000_0000).to_be_bytes()),
    }
}

pub fn frame(kind: u8, values: &[u64]) -> Vec<u8> {
    let mut frame = vec![kind];
    values.iter().for_each(|&value| varint(&mut frame, value));
    frame
}

/// Somebody without a key, who speaks Initial packets.
pub struct Stranger {
    socket: UdpSocket,
    dcid: Vec<u8>,
    scid: [u8; 8],
    token: Vec<u8>,
    keys: Keys,
    number: u32,
}

impl Stranger {
    pub fn new(daemon: &str, from: &str) -> Stranger {
        let socket = UdpSocket::bind(from).unwrap();
        socket.connect(daemon).unwrap();
        let (mut dcid, mut scid) = ([0; 8], [0; 8]);
        boring::rand::rand_bytes(&mut dcid).unwrap();
        boring::rand::rand_bytes(&mut scid).unwrap();
        let keys = Keys::of_initial(&dcid);
        Stranger {
            socket,
            dcid: dcid.to_vec(),
            scid,
            token: Vec::new(),
            keys,
            number: 0,
        }
    }

    pub fn send(&mut self, frames: &[u8]) -> usize {
        let mut header = vec![0xc3, 0, 0, 0, 1, self.dcid.len() as u8];
        header.extend(&self.dcid);
        header.push(self.scid.len() as u8);
        header.extend(self.scid);
        varint(&mut header, self.token.len() as u64);
        header.extend(&self.token);
        // Padded to the length of a first datagram; the length field has two bytes.
        let mut payload = frames.to_vec();
        let around = header.len() + 2 + 4 + TAG_BYTES;
        payload.resize(payload.len().max(INITIAL_BYTES.saturating_sub(around)), 0);
        header.extend(((4 + payload.len() + TAG_BYTES) as u16 | 0x4000).to_be_bytes());
        let packet = self.keys.seal(&header, self.number, &payload);
        self.number += 1;
        self.socket.send(&packet).unwrap_or(0)
    }

    /// Takes a Retry if one comes: what is sent from now on proves the address.
    pub fn follow_retry(&mut self) -> bool {
        self.socket
            .set_read_timeout(Some(Duration::from_millis(20)))
            .unwrap();
        let mut buffer = [0; 2000];
        let Ok(len) = self.socket.recv(&mut buffer) else {
            return false;
        };
        if buffer[0] & 0xf0 != 0xf0 {
            return false;
        }
        let scid_at = 6 + usize::from(buffer[5]);
        let token_at = scid_at + 1 + usize::from(buffer[scid_at]);
        self.dcid = buffer[scid_at + 1..token_at].to_vec();
        self.token = buffer[token_at..len - TAG_BYTES].to_vec();
        self.keys = Keys::of_initial(&self.dcid);
        true
    }
}

/// Somebody whose handshake goes on by hand once the server has answered: he may say that he is
/// anybody.
pub struct Impostor {
    peer: Peer,
    keys: Keys,
    number: u32,
    /// Where the next byte of TLS goes.
    offset: u64,
}

impl Impostor {
    /// Dials, and keeps silent after the server's first flight.
    pub fn new(daemon: &str, from: &str) -> Impostor {
        let identity = Identity::generate().unwrap();
        // A Retry is not sent while many answers wait to be; quiche would take a second to ask
        // again.
        for _ in 0..100 {
            let mut peer = Peer::dial_from(daemon, &identity, from);
            for _ in 0..10 {
                // The first flight, and once more behind a Retry.
                peer.send_first_flight();
                peer.listen();
                if let Some(secret) = peer.handshake_secret() {
                    return Impostor {
                        keys: Keys::of_secret(&secret),
                        peer,
                        number: 0,
                        offset: 0,
                    };
                }
            }
        }
        panic!("the daemon does not answer");
    }

    pub fn send(&mut self, frames: &[u8]) -> usize {
        let (dcid, scid) = (self.peer.conn.destination_id(), self.peer.conn.source_id());
        let mut header = vec![0xe3, 0, 0, 0, 1, dcid.len() as u8];
        header.extend(dcid.to_vec());
        header.push(scid.len() as u8);
        header.extend(scid.to_vec());
        header.extend(((4 + frames.len() + TAG_BYTES) as u16 | 0x4000).to_be_bytes());
        let packet = self.keys.seal(&header, self.number, frames);
        self.number += 1;
        self.peer.throw(&packet);
        packet.len()
    }

    /// Goes on with the client's part of TLS.
    pub fn say(&mut self, tls: &[u8]) -> usize {
        let mut sent = 0;
        for piece in tls.chunks(1100) {
            let mut frames = frame(0x06, &[self.offset, piece.len() as u64]);
            frames.extend(piece);
            self.offset += piece.len() as u64;
            sent += self.send(&frames);
        }
        sent
    }

    /// Shows the certificate of somebody, whose key is another matter.
    pub fn pretend(&mut self, somebody: &Identity) {
        let pem = somebody.to_pem().unwrap();
        let der = X509::from_pem(pem.as_bytes()).unwrap().to_der().unwrap();
        let long = |bytes: &[u8]| [&(bytes.len() as u32).to_be_bytes()[1..], bytes].concat();
        let list = long(&[&long(&der)[..], &[0, 0]].concat());
        let message = [&[11][..], &long(&[&[0][..], &list].concat())].concat();
        self.say(&message);
    }
}

/// 1-RTT packets of one side of a connection that stands.
pub struct Forge {
    keys: Keys,
    dcid: Vec<u8>,
    number: u32,
}

impl Forge {
    pub fn of(peer: &Peer) -> Forge {
        let keys = Keys::of_secret(&peer.traffic_secret());
        // Beyond the numbers that were used so far.
        Forge {
            keys,
            dcid: peer.conn.destination_id().to_vec(),
            number: 1000,
        }
    }

    pub fn packet(&mut self, frames: &[u8]) -> Vec<u8> {
        self.number += 1;
        self.keys
            .seal(&[&[0x43], &self.dcid[..]].concat(), self.number, frames)
    }
}

/// A peer that may come in, and after its handshake says what it likes. It acknowledges nothing.
pub struct Forger {
    peer: Peer,
    forge: Forge,
    /// Where the next hole is.
    pub offset: u64,
}

impl Forger {
    pub fn connect(daemon: &str, identity: &Identity) -> Forger {
        Forger::of(Peer::connect(daemon, identity))
    }

    /// Goes on with what a peer began.
    pub fn of(peer: Peer) -> Forger {
        Forger {
            forge: Forge::of(&peer),
            peer,
            offset: 1,
        }
    }

    /// The next number is never sent.
    pub fn skip(&mut self) {
        self.forge.number += 1;
    }

    pub fn send(&mut self, frames: &[u8]) -> usize {
        let packet = self.forge.packet(frames);
        self.peer.throw(&packet);
        packet.len()
    }

    /// Whether the daemon closed and forgot it: what is sent now brings a stateless reset. (Its
    /// acknowledgements are of packets that quiche knows nothing of, so that quiche cannot be
    /// asked.)
    pub fn is_forgotten(&mut self) -> bool {
        self.peer.is_forgotten()
    }

    pub fn window_bytes(&self) -> u64 {
        self.peer
            .conn
            .peer_transport_params()
            .unwrap()
            .initial_max_data
    }
}
