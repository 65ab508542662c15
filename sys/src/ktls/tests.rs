//! Records between the kernel and [`crate::aead`], and between two sockets of the kernel. Where it
//! has no TLS there is nothing to test; tests/kernels boots kernels that have, and says so.

use std::io::{Read, Seek, SeekFrom, Write};
use std::time::Duration;

use super::*;
use crate::aead::{Aead, TAG_BYTES};

const APPLICATION_DATA: u8 = 23;
const HANDSHAKE: u8 = 22;
const ALERT: u8 = 21;
const HEADER_BYTES: usize = 5;

fn key(number: u8) -> RecordKey {
    RecordKey {
        key: [number; 16],
        iv: [number ^ 0x5a; 12],
        sequence: 3,
    }
}

/// Our own TLS records, as [`RecordKey`] says.
struct Records {
    aead: Aead,
    iv: [u8; 12],
    sequence: u64,
}

impl Records {
    fn new(key: &RecordKey) -> Records {
        Records {
            aead: Aead::new(&key.key),
            iv: key.iv,
            sequence: key.sequence,
        }
    }

    fn nonce(&mut self) -> [u8; 12] {
        let mut nonce = self.iv;
        for (byte, number) in nonce[4..].iter_mut().zip(self.sequence.to_be_bytes()) {
            *byte ^= number;
        }
        self.sequence += 1;
        nonce
    }

    fn seal(&mut self, content: u8, said: &[u8]) -> Vec<u8> {
        let mut body = said.to_vec();
        body.push(content);
        let [high, low] = ((body.len() + TAG_BYTES) as u16).to_be_bytes();
        let header = [APPLICATION_DATA, 3, 3, high, low];
        let nonce = self.nonce();
        let tag = self.aead.seal_in_place(&nonce, &header, &mut body);
        [&header[..], &body, &tag].concat()
    }

    /// Opens the record that comes next: its type, and what it says.
    fn open(&mut self, from: &mut impl Read) -> (u8, Vec<u8>) {
        let mut header = [0; HEADER_BYTES];
        from.read_exact(&mut header).unwrap();
        let mut body = vec![0; usize::from(u16::from_be_bytes([header[3], header[4]]))];
        from.read_exact(&mut body).unwrap();
        let nonce = self.nonce();
        let bytes = self.aead.open_in_place(&nonce, &header, &mut body).unwrap();
        body.truncate(bytes);
        let content = body.pop().unwrap();
        (content, body)
    }
}

/// Whether the kernel has TLS, be it without next keys. It is no failure that it has not, but where
/// it is said to.
fn has_tls() -> bool {
    let tried = try_it();
    let has = !matches!(&tried, Err((step, _)) if *step != NEXT_KEY);
    if !has {
        println!("skipped: {tried:?}");
        assert!(std::env::var_os("LANDRO_KTLS").is_none(), "{tried:?}");
    }
    has
}

fn can_renew() -> bool {
    probe().is_yes()
}

/// A connection with TLS, and its peer's end without.
fn pair() -> (TcpStream, std::net::TcpStream) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let stream = TcpStream::connect(listener.local_addr().unwrap(), None, None).unwrap();
    let (peer, _) = listener.accept().unwrap();
    peer.set_read_timeout(Some(Duration::from_secs(60)))
        .unwrap();
    stream.layer_tls().unwrap();
    (stream, peer)
}

/// Both ends with TLS, in both directions.
fn kernel_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0".parse().unwrap(), false).unwrap();
    let one = TcpStream::connect(listener.local_addr().unwrap(), None, None).unwrap();
    let (other, _) = listener.accept().unwrap().unwrap();
    for (stream, seals, opens) in [(&one, 1, 2), (&other, 2, 1)] {
        stream.layer_tls().unwrap();
        stream.seal_with(&key(seals)).unwrap();
        stream.open_with(&key(opens)).unwrap();
    }
    (one, other)
}

/// Waits for a record, for no longer than a machine under load needs.
fn next_record(stream: &TcpStream) -> io::Result<(u8, Vec<u8>)> {
    let mut buffer = vec![0; 64 << 10];
    for _ in 0..6_000 {
        match stream.receive_record(&mut buffer)? {
            RecordsHeard::Nothing => {}
            RecordsHeard::Of { content, bytes } => return Ok((content, buffer[..bytes].to_vec())),
            RecordsHeard::End => return Ok((0, Vec::new())),
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("nothing came for a minute");
}

fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 1u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..bytes).map(|_| next()).collect()
}

#[test]
fn the_probe_says_what_is_missing() {
    let why = |step, errno| hint(step, &io::Error::from_raw_os_error(errno));
    assert!(why(LAYER, libc::ENOENT).contains("modprobe tls"));
    assert!(why(KEY, libc::ENOENT).contains("gcm"));
    assert!(why(NEXT_KEY, libc::EBUSY).contains("6.14"));
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    println!("Linux {}: kernel TLS: {}", release.trim(), probe());
    if has_tls() {
        let mut numbers = release.split('.').map(|part| part.parse().unwrap_or(0));
        let version: (u32, u32) = (numbers.next().unwrap(), numbers.next().unwrap());
        assert_eq!(can_renew(), version >= (6, 14), "{release}");
    }
}

#[test]
fn what_the_kernel_seals_is_opened_here() {
    if !has_tls() {
        return;
    }
    let (stream, mut peer) = pair();
    stream.seal_with(&key(1)).unwrap();
    let mut records = Records::new(&key(1));
    let said = noise(40_000);
    let sent = stream.send(&[IoSlice::new(&said[..100]), IoSlice::new(&said[100..])]);
    assert_eq!(sent.unwrap(), Some(said.len()));
    let mut heard = Vec::new();
    while heard.len() < said.len() {
        let (content, part) = records.open(&mut peer);
        assert_eq!(content, APPLICATION_DATA);
        assert!(part.len() <= 16 << 10);
        heard.extend(part);
    }
    assert_eq!(heard, said);
    assert_eq!(stream.send_record(ALERT, &[1, 0]).unwrap(), Some(2));
    assert_eq!(records.open(&mut peer), (ALERT, vec![1, 0]));
}

#[test]
fn what_is_sealed_here_the_kernel_opens() {
    if !has_tls() {
        return;
    }
    let (stream, mut peer) = pair();
    let mut records = Records::new(&key(1));
    // Before the key is given: the kernel begins with what nobody received.
    peer.write_all(&records.seal(APPLICATION_DATA, b"one"))
        .unwrap();
    stream.open_with(&key(1)).unwrap();
    let data = (APPLICATION_DATA, b"one".to_vec());
    assert_eq!(next_record(&stream).unwrap(), data);
    let mut more = records.seal(APPLICATION_DATA, b"two");
    more.extend(records.seal(APPLICATION_DATA, b"three"));
    more.extend(records.seal(ALERT, &[2, 20]));
    peer.write_all(&more).unwrap();
    let mut heard = Vec::new();
    let last = loop {
        match next_record(&stream).unwrap() {
            (APPLICATION_DATA, part) => heard.extend(part),
            other => break other,
        }
    };
    assert_eq!(heard, b"twothree");
    assert_eq!(last, (ALERT, vec![2, 20]));
    let mut wrong = records.seal(APPLICATION_DATA, b"changed on the way");
    wrong[10] ^= 1;
    peer.write_all(&wrong).unwrap();
    let error = next_record(&stream).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EBADMSG));
}

#[test]
fn a_file_goes_from_the_page_cache_into_records() {
    if !has_tls() {
        return;
    }
    let (stream, mut peer) = pair();
    stream.seal_with(&key(1)).unwrap();
    let mut file = tempfile::tempfile().unwrap();
    let said = noise(100_000);
    file.write_all(&said).unwrap();
    file.seek(SeekFrom::Start(0)).unwrap();
    let sent = nix::sys::sendfile::sendfile(&stream, &file, None, said.len()).unwrap();
    assert!(sent > 0);
    let (mut records, mut heard) = (Records::new(&key(1)), Vec::new());
    while heard.len() < sent {
        heard.extend(records.open(&mut peer).1);
    }
    assert_eq!(heard, said[..sent]);
}

#[test]
fn megabytes_pass_through_full_buffers() {
    if !has_tls() {
        return;
    }
    let (one, other) = kernel_pair();
    let said = noise(8 << 20);
    for (from, to) in [(&one, &other), (&other, &one)] {
        let (mut sent, mut heard, mut was_full) = (0, Vec::new(), false);
        let mut buffer = vec![0; 256 << 10];
        #[allow(clippy::disallowed_methods)] // Ends what hangs.
        let begun = std::time::Instant::now();
        while heard.len() < said.len() {
            while sent < said.len()
                && let Some(bytes) = from.send(&[IoSlice::new(&said[sent..])]).unwrap()
            {
                sent += bytes;
            }
            was_full |= sent < said.len();
            while let RecordsHeard::Of { content, bytes } = to.receive_record(&mut buffer).unwrap()
            {
                assert_eq!(content, APPLICATION_DATA);
                heard.extend_from_slice(&buffer[..bytes]);
            }
            assert!(begun.elapsed() < Duration::from_secs(120));
        }
        assert!(was_full);
        assert!(heard == said);
    }
    // The end is told, too.
    drop(one);
    assert_eq!(next_record(&other).unwrap(), (0, Vec::new()));
}

#[test]
fn a_key_is_renewed_in_both_directions_or_not_at_all() {
    if !has_tls() {
        return;
    }
    let (one, other) = kernel_pair();
    let key_update = [24, 0, 0, 1, 0];
    assert_eq!(one.send_record(HANDSHAKE, &key_update).unwrap(), Some(5));
    let renewed = one.seal_with(&key(7));
    if !can_renew() {
        let error = renewed.unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EBUSY));
        return;
    }
    renewed.unwrap();
    let data = b"sealed with the next key";
    assert_eq!(one.send(&[IoSlice::new(data)]).unwrap(), Some(data.len()));
    assert_eq!(
        next_record(&other).unwrap(),
        (HANDSHAKE, key_update.to_vec())
    );
    let error = next_record(&other).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EKEYEXPIRED));
    other.open_with(&key(7)).unwrap();
    let said = (APPLICATION_DATA, data.to_vec());
    assert_eq!(next_record(&other).unwrap(), said);
}
