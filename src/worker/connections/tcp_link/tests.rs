//! Two links over loopback whose records the kernel seals and opens, where it can: tests/kernels
//! boots kernels that do. Where it cannot, links that try come to the same.

use std::collections::VecDeque;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use landro_sys::{Backend, Completion, DriverConfig, Pool, TcpListener, TcpStream};

use super::*;
use crate::ids::SessionId;
use crate::quic::{CloseReason, Identity, Trust};
use crate::tcp::{ClearPass, ClearPasses, TcpLimits, TcpSetup, TcpWindows};

const LIMITS: TcpLimits = TcpLimits {
    handshake: Duration::from_secs(60),
    idle: Duration::from_secs(60),
    linger: Duration::from_secs(60),
    // Many keys, of which each lasts for two batches or so.
    key_records: 8,
};

const WINDOWS: TcpWindows = TcpWindows {
    connection_bytes: 1 << 20,
    stream_bytes: 512 << 10,
};

/// More than the windows, and many keys of eight records.
const DATA_BYTES: usize = 3 << 20;

#[allow(clippy::disallowed_methods, reason = "any time would do")]
fn now() -> Instant {
    Instant::now()
}

/// Both ends on one driver; `in_kernel`: which of them have the kernel's TLS.
struct Ends {
    driver: Driver,
    links: Vec<TcpLink>,
    begun: Instant,
}

impl Ends {
    fn new(backend: Backend, in_kernel: [bool; 2]) -> Ends {
        let (client, server) = (Identity::generate().unwrap(), Identity::generate().unwrap());
        let only = |whom: &Identity| -> Trust {
            let whom = whom.fingerprint();
            Arc::new(move |peer| *peer == whom)
        };
        let mut setups = [
            TcpSetup::client(&client, only(&server), LIMITS).unwrap(),
            TcpSetup::server(&server, only(&client), LIMITS).unwrap(),
        ];
        for (setup, in_kernel) in setups.iter_mut().zip(in_kernel) {
            if in_kernel {
                setup.use_kernel();
            }
        }
        Ends::of(backend, &setups, TcpConn::connect)
    }

    /// Without TLS, by the pass of a lane.
    fn in_the_clear(backend: Backend) -> Ends {
        let identity = Identity::generate().unwrap();
        let pass = ClearPass {
            session: SessionId([1; 16]),
            lane: 0,
            secret: [2; 32],
            peer: identity.fingerprint(),
        };
        let nobody: Trust = Arc::new(|_| false);
        let mut server = TcpSetup::server(&identity, nobody.clone(), LIMITS).unwrap();
        let found = pass.clone();
        server.admit_clear(ClearPasses {
            find: Arc::new(move |_, _| Some(found.clone())),
            take: Arc::new(|_, _| true),
        });
        let client = TcpSetup::client(&identity, nobody, LIMITS).unwrap();
        Ends::of(backend, &[client, server], |setup, windows, now| {
            TcpConn::connect_clear(setup, pass.clone(), windows, now)
        })
    }

    fn of(
        backend: Backend,
        setups: &[TcpSetup; 2],
        connect: impl FnOnce(&TcpSetup, TcpWindows, Instant) -> TcpConn,
    ) -> Ends {
        let pool = Pool::new(1).unwrap();
        let config = DriverConfig {
            recv_buffers: 2,
            queue_entries: 8,
        };
        let mut driver = Driver::new(backend, &config, &pool).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0".parse().unwrap(), false).unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap(), None, None).unwrap();
        let (accepted, _) = listener.accept().unwrap().unwrap();
        let begun = now();
        let ids = [stream, accepted].map(|stream| driver.add_stream(stream).unwrap());
        let ours = connect(&setups[0], WINDOWS, begun);
        let theirs = TcpConn::accept(&setups[1], WINDOWS, begun);
        let links = vec![
            TcpLink::new(ours, ids[0], true),
            TcpLink::new(theirs, ids[1], false),
        ];
        Ends {
            driver,
            links,
            begun,
        }
    }

    /// Where the handshake is over, and who has which records is settled.
    fn established(backend: Backend, in_kernel: [bool; 2]) -> Ends {
        let mut ends = Ends::new(backend, in_kernel);
        let can = landro_sys::ktls::probe().is_yes();
        let is_settled = |link: &TcpLink, in_kernel: bool| {
            let in_kernel = in_kernel && can;
            link.conn.is_established() && link.conn.is_opened_by_kernel() == in_kernel
        };
        while !(ends.links.iter().zip(in_kernel)).all(|(link, it)| is_settled(link, it)) {
            ends.turn();
        }
        ends
    }

    /// Ends when one of them knows why.
    fn reason_of(&mut self, end: usize) -> CloseReason {
        loop {
            self.turn();
            if let Some(reason) = self.links[end].conn.close_reason() {
                return reason;
            }
        }
    }

    /// Receives and sends what is possible, and waits for what is not.
    fn turn(&mut self) {
        assert!(self.begun.elapsed() < Duration::from_secs(120), "it hangs");
        for link in &mut self.links {
            link.receive(&self.driver, now());
            while link.send(&self.driver, now()) {}
            link.watch(&mut self.driver, now());
        }
        self.driver
            .submit_and_wait(Some(Duration::from_millis(10)))
            .unwrap();
        while let Some(completion) = self.driver.next_completion() {
            if let Completion::Ready {
                id,
                readable,
                writable,
            } = completion
            {
                let link = self.links.iter_mut().find(|link| link.id == id);
                link.unwrap().ready(readable, writable);
            }
        }
    }

    /// Sends the data from one end to the other, and gives what came.
    fn carry(&mut self, from: usize, data: &Bytes) -> Vec<u8> {
        let mut rest = Some(data.clone());
        self.carry_by(from, |conn, stream| {
            if let Some(data) = rest.take() {
                rest = conn.send(stream, data, true).unwrap();
            }
            rest.is_none()
        })
    }

    /// The same of parts of which every other one is in a pipe.
    fn carry_piped(&mut self, from: usize, data: &Bytes) -> Vec<u8> {
        let mut parts = VecDeque::new();
        for pair in data.chunks(PART_BYTES * 2) {
            let (piped, said) = pair.split_at(PART_BYTES.min(pair.len()));
            let (read, mut write) = std::io::pipe().unwrap();
            write.write_all(piped).unwrap();
            parts.push_back(Part::Piped(Arc::new(read.into()), piped.len()));
            parts.push_back(Part::Said(Bytes::copy_from_slice(said)));
        }
        self.carry_by(from, |conn, stream| {
            while let Some(part) = parts.pop_front() {
                let rest = match part {
                    Part::Piped(pipe, bytes) => {
                        let taken = conn.send_piped(stream, pipe.clone(), bytes).unwrap();
                        (taken < bytes).then(|| Part::Piped(pipe, bytes - taken))
                    }
                    Part::Said(bytes) => {
                        let rest = conn.send(stream, bytes, parts.is_empty()).unwrap();
                        rest.map(Part::Said)
                    }
                };
                if let Some(rest) = rest {
                    parts.push_front(rest);
                    return false;
                }
            }
            true
        })
    }

    /// Has one end be offered what it is to send on a stream, until all of it was taken, and gives
    /// what came at the other.
    fn carry_by(
        &mut self,
        from: usize,
        mut offer: impl FnMut(&mut TcpConn, u64) -> bool,
    ) -> Vec<u8> {
        let (mut stream, mut is_given) = (None, false);
        let (mut heard, mut out, mut is_over) = (Vec::new(), [0; 50_000], false);
        while !is_over {
            self.turn();
            let conn = &mut self.links[from].conn;
            stream = stream.or_else(|| conn.open_uni());
            if let Some(stream) = stream.filter(|_| !is_given) {
                is_given = offer(conn, stream);
            }
            let conn = &mut self.links[1 - from].conn;
            while let Some(stream) = conn.readable_next() {
                while let Ok(Some((bytes, ends))) = conn.read(stream, &mut out) {
                    heard.extend_from_slice(&out[..bytes]);
                    is_over |= ends;
                    if ends {
                        break;
                    }
                }
            }
            for end in &self.links {
                assert_eq!(end.conn.close_reason(), None);
            }
        }
        heard
    }
}

/// What is sent next: so much of a pipe, or bytes.
enum Part {
    Piped(Arc<OwnedFd>, usize),
    Said(Bytes),
}

/// What fits into a pipe as it is made, and is no whole number of records.
const PART_BYTES: usize = 60_001;

fn pattern() -> Bytes {
    let data = (0..DATA_BYTES).map(|at| (at * 7 + at / 251) as u8);
    data.collect::<Vec<u8>>().into()
}

/// In the clear, and where the kernel seals, with new keys between.
#[test]
fn what_is_in_pipes_goes_to_the_socket() {
    let data = pattern();
    for backend in [Backend::IoUring, Backend::Poll] {
        let mut ends = Ends::in_the_clear(backend);
        for from in [0, 1] {
            assert!(ends.carry_piped(from, &data) == data, "{from}");
        }
        if !landro_sys::ktls::probe().is_yes() {
            continue;
        }
        for in_kernel in [[true, true], [true, false]] {
            let mut ends = Ends::established(backend, in_kernel);
            for from in [0, 1] {
                if in_kernel[from] {
                    while !ends.links[from].conn.takes_pipes() {
                        ends.turn();
                    }
                    assert!(
                        ends.carry_piped(from, &data) == data,
                        "{in_kernel:?} {from}"
                    );
                }
                assert!(ends.carry(from, &data) == data, "{in_kernel:?} {from}");
            }
            assert!(ends.links[0].conn.counters().keys_renewed > 10);
        }
    }
}

/// Where the kernel cannot, nothing else is different.
#[test]
fn the_kernel_seals_and_opens_and_renews_keys() {
    let found = landro_sys::ktls::probe();
    println!("TLS in the kernel: {found}");
    for backend in [Backend::IoUring, Backend::Poll] {
        for in_kernel in [[true, true], [true, false], [false, true]] {
            let mut ends = Ends::new(backend, in_kernel);
            let data = pattern();
            for from in [0, 1] {
                assert!(ends.carry(from, &data) == data, "{in_kernel:?} {from}");
            }
            for (link, in_kernel) in ends.links.iter().zip(in_kernel) {
                let in_kernel = in_kernel && found.is_yes();
                assert_eq!(link.conn.is_sealed_by_kernel(), in_kernel);
                assert_eq!(link.conn.is_opened_by_kernel(), in_kernel);
                assert!(link.conn.counters().keys_renewed > 20);
            }
            ends.links[0].conn.close(now(), 7, b"that was all");
            let reason = CloseReason::PeerApp {
                code: 7,
                reason: "that was all".to_owned(),
            };
            assert_eq!(ends.reason_of(1), reason);
            while !matches!(ends.links[1].conn.state(), ConnState::Closed(_)) {
                ends.turn();
            }
            // As a worker does.
            let closed = ends.links.pop().unwrap();
            drop(ends.driver.remove_stream(closed.id));
            while !matches!(ends.links[0].conn.state(), ConnState::Closed(_)) {
                ends.turn();
            }
        }
    }
}

/// What a peer sends in place of a record, why the other end then closes, and with which alert.
type Lie = (fn(&mut Vec<u8>), &'static str, Option<u64>);

const LIES: [Lie; 5] = [
    (
        |record| *record.last_mut().unwrap() ^= 1,
        "a record that is not authentic",
        Some(20),
    ),
    (
        |record| record[4] -= 1,
        "a record that is not authentic",
        Some(20),
    ),
    (|record| record[3] = 0xff, "a record is too long", Some(22)),
    (
        |record| *record = b"GET / HTTP/1.1\r\nHost: files\r\n\r\n".to_vec(),
        "what came is not TLS",
        Some(50),
    ),
    (
        |record| record.truncate(record.len() - 1),
        "the TCP connection ended without a word",
        None,
    ),
];

/// Whoever opens the records, an end says the same of what it cannot open.
#[test]
fn what_is_no_record_ends_a_link_in_the_same_words() {
    for backend in [Backend::IoUring, Backend::Poll] {
        for in_kernel in [[false, true], [false, false]] {
            for (lie, why, alert) in LIES {
                let mut ends = Ends::established(backend, in_kernel);
                let liar = &mut ends.links[0];
                liar.conn.keep_alive();
                let mut record = liar.conn.outgoing(now()).to_vec();
                liar.conn.sent(record.len());
                lie(&mut record);
                let stream = ends.driver.stream(liar.id);
                stream.send(&[IoSlice::new(&record)]).unwrap();
                if alert.is_none() {
                    stream.shutdown_write().unwrap();
                }
                let reason = match ends.reason_of(1) {
                    CloseReason::Transport(why) | CloseReason::GivenUp(why) => why,
                    other => panic!("{other:?}"),
                };
                assert_eq!(reason, why, "{in_kernel:?}");
                if let Some(alert) = alert {
                    let told = CloseReason::PeerTransport {
                        // As QUIC numbers the alerts of TLS.
                        code: 0x100 + alert,
                        reason: format!("TLS alert {alert}"),
                    };
                    assert_eq!(ends.reason_of(0), told, "{in_kernel:?} {why}");
                }
            }
        }
    }
}
