//! A NAT between client and daemon that forgets the client's address, at any moment, and people on
//! the way who say that it did.

mod common;

use std::ffi::OsString;
use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use common::tree::{self, Rng, assert_no_leftovers, assert_same};
use common::{Output, Running, World};

on_both_backends!(
    an_address_that_changes_is_followed,
    an_address_that_changes_in_the_handshake_is_followed,
    copies_from_elsewhere_move_nothing,
);

const MIB: u64 = 1 << 20;
const FILE_BYTES: u64 = 24 * MIB;

/// The file takes three seconds: all that is to happen fits.
const LIMIT: &str = "8M";

/// A client's datagrams until its handshake is over for certain. Whoever can take part in a
/// handshake from the first packet on can do worse than to lead it astray.
const HANDSHAKE_DATAGRAMS: u64 = 10;

/// Loopback's largest datagram.
const DATAGRAM_BYTES: usize = 1 << 16;

/// A UDP relay with a port of its own towards the daemon, as a NAT has.
struct Nat {
    address: SocketAddr,
    forgets: Arc<AtomicBool>,
    /// How often it did.
    changes: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

fn socket() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_nonblocking(true).unwrap();
    socket
}

impl Nat {
    /// `forget_after`: datagrams of the client until it forgets by itself. `spy`: each of the
    /// client's datagrams leaves from there, too, and before the original.
    fn new(daemon: SocketAddr, forget_after: &'static [u64], spy: Option<UdpSocket>) -> Nat {
        let front = socket();
        let mut nat = Nat {
            address: front.local_addr().unwrap(),
            forgets: Arc::default(),
            changes: Arc::default(),
            stop: Arc::default(),
            thread: None,
        };
        let (forgets, changes, stop) = (nat.forgets.clone(), nat.changes.clone(), nat.stop.clone());
        let work = move || {
            let (mut back, mut client, mut count) = (socket(), None, 0);
            let mut datagram = vec![0; DATAGRAM_BYTES];
            while !stop.load(Ordering::SeqCst) {
                let mut idle = true;
                if let Ok((bytes, from)) = front.recv_from(&mut datagram) {
                    (client, idle, count) = (Some(from), false, count + 1);
                    if forget_after.contains(&count) || forgets.swap(false, Ordering::SeqCst) {
                        back = socket();
                        changes.fetch_add(1, Ordering::SeqCst);
                    }
                    if let Some(spy) = spy.as_ref().filter(|_| count > HANDSHAKE_DATAGRAMS) {
                        let _ = spy.send_to(&datagram[..bytes], daemon);
                    }
                    let _ = back.send_to(&datagram[..bytes], daemon);
                }
                match (back.recv(&mut datagram), client) {
                    (Ok(bytes), Some(client)) => {
                        idle = false;
                        let _ = front.send_to(&datagram[..bytes], client);
                    }
                    (Ok(_), None) => {}
                    (Err(error), _) => assert_ne!(error.kind(), ErrorKind::NotConnected),
                }
                if idle {
                    thread::sleep(Duration::from_micros(50));
                }
            }
        };
        nat.thread = Some(thread::spawn(work));
        nat
    }

    fn forget(&self) {
        self.forgets.store(true, Ordering::SeqCst);
    }

    fn changes(&self) -> u64 {
        self.changes.load(Ordering::SeqCst)
    }
}

impl Drop for Nat {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Starts a copy through the relay.
fn start(world: &World, nat: &Nat, push: bool) -> Running {
    let name = if push { "up" } else { "down" };
    let (here, there) = (world.here(name), world.root(name));
    tree::write_file(
        if push { &here } else { &there },
        FILE_BYTES,
        &mut Rng::new(name),
    );
    let url = OsString::from(format!("landro://{}/{name}", nat.address));
    let mut args: Vec<OsString> = vec!["--bwlimit".into(), LIMIT.into()];
    args.extend(match push {
        true => [here.into(), url],
        false => [url, here.into()],
    });
    world.cp_start(&args)
}

/// The copy is whole, in one go.
fn check(world: &World, push: bool, output: Output) {
    let name = if push { "up" } else { "down" };
    let output = output.expect(0);
    assert_eq!(output.number("resumed_bytes"), 0, "one session");
    assert_same(&world.here(name), &world.root(name));
    assert_no_leftovers(&world.root(""));
}

fn an_address_that_changes_is_followed(backend: &'static str) {
    for push in [false, true] {
        let world = World::over_quic(backend);
        let nat = Nat::new(world.daemon.address().parse().unwrap(), &[], None);
        let copy = start(&world, &nat, push);
        // From the first bytes to the last ones.
        for midway in [1, 8, 12, 16, 22] {
            let came = copy.line(|line| {
                let event: serde_json::Value = serde_json::from_str(line).unwrap();
                event["bytes"]
                    .as_u64()
                    .is_some_and(|bytes| bytes >= midway * MIB)
            });
            assert!(
                came.is_some(),
                "it ended: {}{}",
                copy.stdout(),
                copy.stderr()
            );
            nat.forget();
        }
        let output = copy.wait();
        assert!(nat.changes() >= 4, "{}", nat.changes());
        check(&world, push, output);
    }
}

fn an_address_that_changes_in_the_handshake_is_followed(backend: &'static str) {
    // With the client's second datagram, its third, and so on.
    const WHEN: [&[u64]; 4] = [&[2], &[3], &[4, 5], &[2, 3, 4, 5, 6]];
    for (number, when) in WHEN.into_iter().enumerate() {
        let world = World::over_quic(backend);
        let nat = Nat::new(world.daemon.address().parse().unwrap(), when, None);
        let push = number % 2 == 0;
        check(&world, push, start(&world, &nat, push).wait());
        assert_eq!(nat.changes() as usize, when.len());
    }
}

/// Somebody who reads along sends each packet first, from another address: the daemon takes the
/// copy, and the original is a duplicate. Nothing but small questions goes to him.
fn copies_from_elsewhere_move_nothing(backend: &'static str) {
    for push in [false, true] {
        let world = World::over_quic(backend);
        let spy = socket();
        let caught = spy.try_clone().unwrap();
        let nat = Nat::new(world.daemon.address().parse().unwrap(), &[], Some(spy));
        let copy = start(&world, &nat, push);
        let catcher = thread::spawn({
            let stop = nat.stop.clone();
            move || {
                let (mut bytes, mut largest) = (0, 0);
                let mut datagram = vec![0; DATAGRAM_BYTES];
                while !stop.load(Ordering::SeqCst) {
                    match caught.recv(&mut datagram) {
                        Ok(len) => (bytes, largest) = (bytes + len as u64, largest.max(len)),
                        Err(_) => thread::sleep(Duration::from_millis(1)),
                    }
                }
                (bytes, largest)
            }
        });
        check(&world, push, copy.wait());
        drop(nat);
        let (bytes, largest) = catcher.join().unwrap();
        assert!(
            bytes < FILE_BYTES / 10 && largest <= 1_200,
            "{bytes}, {largest}"
        );
    }
}
