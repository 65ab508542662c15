//! What a fuzzer says to a server that lets one lane in, in the clear.

use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use super::{ClearPass, ClearPasses, TcpConn, TcpLimits, TcpSetup, TcpWindows};
use crate::identity::Identity;
use crate::ids::{Fingerprint, SessionId};

const WINDOWS: TcpWindows = TcpWindows {
    connection_bytes: 64 << 10,
    stream_bytes: 64 << 10,
};

const LIMITS: TcpLimits = TcpLimits {
    handshake: Duration::from_secs(10),
    idle: Duration::from_secs(60),
    linger: Duration::from_secs(3),
    key_records: 1 << 24,
};

static SERVER: LazyLock<TcpSetup> = LazyLock::new(|| {
    let identity = Identity::generate().expect("a key can be made");
    let setup = TcpSetup::server(&identity, Arc::new(|_| false), LIMITS);
    let mut setup = setup.expect("it is a good key");
    setup.admit_clear(ClearPasses {
        find: Arc::new(|session, lane| {
            let is_it = (session, lane) == (pass().session, pass().lane);
            is_it.then(pass)
        }),
        // Each input is one connection.
        take: Arc::new(|_, _| true),
    });
    setup
});

fn pass() -> ClearPass {
    ClearPass {
        session: SessionId([0; 16]),
        lane: 0,
        secret: [7; 32],
        peer: Fingerprint([1; 32]),
    }
}

/// Whether somebody without the secret is let in by saying `data`, so many bytes at a time; or,
/// where an honest client `is_let_in`, whether anything of what is said in its place is taken. And
/// how many bytes are held for that.
pub fn is_taken_in_the_clear(
    now: Instant,
    (data, cut): (&[u8], usize),
    is_let_in: bool,
) -> (bool, u64) {
    let mut server = TcpConn::accept(&SERVER, WINDOWS, now);
    if is_let_in {
        let mut client = TcpConn::connect_clear(&SERVER, pass(), WINDOWS, now);
        cross(&mut client, &mut server, now);
        cross(&mut server, &mut client, now);
        cross(&mut client, &mut server, now);
        assert!(server.is_established());
    }
    let mut is_taken = false;
    for part in data.chunks(cut.max(1)) {
        let mut rest = part;
        while !rest.is_empty() && !server.is_closing() {
            let room = server.receive_buffer();
            let bytes = rest.len().min(room.len());
            room[..bytes].copy_from_slice(&rest[..bytes]);
            server.received(now, bytes);
            rest = &rest[bytes..];
        }
        is_taken |= server.readable_next().is_some();
    }
    is_taken |= !is_let_in && server.peer_fingerprint().is_some();
    (is_taken, server.held_bytes())
}

fn cross(from: &mut TcpConn, to: &mut TcpConn, now: Instant) {
    let out = from.outgoing(now).to_vec();
    from.sent(out.len());
    to.receive_buffer()[..out.len()].copy_from_slice(&out);
    to.received(now, out.len());
}
