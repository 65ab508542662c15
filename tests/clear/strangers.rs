//! Who comes to the TCP port without TLS, and without the secret of a lane.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use landro::engine::now;

use super::common::tree::Rng;
use super::wire::Wire;
use super::{MIB, Site, slow_push};

/// A handshake has 10 s, and the rest is for a busy machine.
const GIVEN_UP_AFTER: Duration = Duration::from_secs(20);

/// Who proves nothing is not waited for.
const AT_ONCE: Duration = Duration::from_secs(5);

/// Magic, session, lane and nonce; the daemon's nonce and proof; a proof.
const HELLO_BYTES: usize = 60;
const CHALLENGE_BYTES: usize = 64;
const PROOF_BYTES: usize = 32;

/// What a daemon with a budget of 32 MiB may hold (as in tests/hostile.rs).
const RSS_LIMIT_BYTES: u64 = (32 + 48) << 20;

const CROWD: usize = 300;

fn say(site: &Site, bytes: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(site.daemon.address()).unwrap();
    // It may have seen enough before it has all.
    let _ = stream.write_all(bytes);
    stream
}

/// Reads until the daemon has enough; what it said.
#[track_caller]
fn ends_within(mut stream: &TcpStream, limit: Duration, what: &str) -> Vec<u8> {
    let began = now();
    let (mut heard, mut out) = (Vec::new(), [0; 4096]);
    stream
        .set_read_timeout(Some(Duration::from_millis(100)))
        .unwrap();
    while began.elapsed() < limit {
        match stream.read(&mut out) {
            Ok(0) => return heard,
            Ok(bytes) => heard.extend(&out[..bytes]),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => return heard,
        }
    }
    panic!("{what}: the daemon still waits after {limit:?}");
}

/// While a transfer in the clear goes on, others try to be a lane of it, and do not disturb it.
pub fn while_a_transfer_goes_on(site: &Site) {
    let wire = Wire::new(site.daemon.address(), None);
    let transfer = slow_push(site, &wire, 48 * MIB);
    let is_there = || wire.in_the_clear().iter().any(|it| it.bytes[0] > 200_000);
    assert!(super::common::within(GIVEN_UP_AFTER, is_there), "no lane");
    let lane = wire.in_the_clear().swap_remove(0);
    // The one that came has used its pass up; of the next one nobody has.
    let mut hello = lane.kept[0][..HELLO_BYTES].to_vec();
    hello[27] += 1;
    let hello = &hello[..];
    thread::scope(|scope| {
        scope.spawn(|| garbage(site));
        scope.spawn(|| guessed(site, hello));
        scope.spawn(|| replayed(site, &lane.kept[0], hello));
        scope.spawn(|| slow(site, hello));
        scope.spawn(|| crowd(site, hello));
    });
    let output = transfer.wait().expect(0);
    assert_eq!(output.number("warnings"), 0, "{output:?}");
    assert_eq!(wire.in_the_clear().len(), 1, "the lane was lost");
    let held = site.daemon.peak_rss_bytes();
    assert!(held < RSS_LIMIT_BYTES, "{} MiB", held >> 20);
}

fn garbage(site: &Site) {
    let mut rng = Rng::new("garbage in the clear");
    for bytes in [60, 92, 5000, 300_000] {
        let stream = say(site, &rng.bytes(bytes));
        ends_within(&stream, AT_ONCE, "noise");
    }
    let mut other = b"landro:2".to_vec();
    other.resize(HELLO_BYTES, 7);
    assert!(ends_within(&say(site, &other), AT_ONCE, "another magic").is_empty());
    ends_within(&say(site, &[0; 5000]), AT_ONCE, "zeros");
    ends_within(&say(site, b"GET / HTTP/1.1\r\n\r\n"), AT_ONCE, "HTTP");
}

/// The session's id and its lanes' numbers are no secret; that is.
fn guessed(site: &Site, hello: &[u8]) {
    let mut rng = Rng::new("guesses");
    for lane in 0..20_u32 {
        let mut hello = hello.to_vec();
        hello[24..28].copy_from_slice(&lane.to_be_bytes());
        let mut all = hello.clone();
        all.extend(rng.bytes(PROOF_BYTES));
        all.extend(rng.bytes(5000));
        let heard = ends_within(&say(site, &all), AT_ONCE, "a guess");
        assert!(heard.len() <= CHALLENGE_BYTES, "it was let in");
        hello[9] ^= 1;
        let heard = ends_within(&say(site, &hello), AT_ONCE, "another session");
        assert!(heard.is_empty(), "a session that is none");
    }
}

/// What an admitted client said is said again, all of it.
fn replayed(site: &Site, said: &[u8], hello: &[u8]) {
    let heard = ends_within(&say(site, said), AT_ONCE, "a replay");
    assert!(heard.is_empty(), "a pass that was used is answered");
    // What the daemon answers proves that it has the secret, and is none of a client.
    let mut stream = say(site, hello);
    let mut challenge = [0; CHALLENGE_BYTES];
    stream.read_exact(&mut challenge).unwrap();
    let _ = stream.write_all(&challenge[CHALLENGE_BYTES - PROOF_BYTES..]);
    assert!(ends_within(&stream, AT_ONCE, "an echo").is_empty());
}

fn slow(site: &Site, hello: &[u8]) {
    let began = now();
    let mut stream = say(site, &[]);
    for byte in hello {
        if stream.write_all(&[*byte]).is_err() {
            break;
        }
        thread::sleep(Duration::from_millis(500));
        assert!(began.elapsed() < GIVEN_UP_AFTER, "it may go on for ever");
    }
    let half = say(site, &hello[..30]);
    let whole = say(site, hello);
    ends_within(&half, GIVEN_UP_AFTER, "half a hello");
    ends_within(&whole, GIVEN_UP_AFTER, "a hello and no proof");
}

/// Many at once, each with a hello and no proof, of whom many are too many.
fn crowd(site: &Site, hello: &[u8]) {
    let all: Vec<TcpStream> = (0..CROWD).map(|_| say(site, hello)).collect();
    thread::sleep(Duration::from_secs(1));
    drop(all);
}
