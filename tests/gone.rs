//! A daemon that is gone, or back, or another one: what its clients hear of that, and whom they believe.

mod common;

use std::fs::File;
use std::net::{SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use common::{Daemon, World, landro};

on_both_backends!(a_daemon_that_is_back_resets, a_daemon_of_the_same_identity_resets_nothing);

/// What is copied takes some seconds under [`LIMIT`].
const FILE_BYTES: u64 = 8 << 20;
const LIMIT: &str = "20M";

/// Server's connection ids are so long (docs/protocol.md).
const CID_BYTES: usize = 5;

/// Starts a pull of a sparse file, and waits until data flows.
fn slow_pull(world: &World, url: &str) -> common::Running {
    File::create(world.root("file")).unwrap().set_len(FILE_BYTES).unwrap();
    let here = world.here("file");
    let running = world.cp_start(&["--bwlimit".as_ref(), LIMIT.as_ref(), url.as_ref(), here.as_os_str()]);
    let flows = |line: &str| line.contains("\"progress\"");
    running.line(flows).expect("data flows");
    running
}

fn a_daemon_that_is_back_resets(backend: &'static str) {
    let mut world = World::new(backend);
    let pull = slow_pull(&world, &world.url("file"));
    world.restart();
    let output = pull.wait().expect(5);
    assert!(output.stdout.contains("lost the connection's state"), "{output:?}");
}

/// A UDP relay that keeps the connection id of what it carries to the daemon, and takes datagrams for the client from
/// others, too.
struct Relay {
    address: SocketAddr,
    cid: Arc<Mutex<Vec<u8>>>,
}

impl Relay {
    fn new(daemon: SocketAddr) -> Relay {
        let (front, back) =
            (UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
        let relay = Relay { address: front.local_addr().unwrap(), cid: Arc::default() };
        back.connect(daemon).unwrap();
        let (cid, client) = (relay.cid.clone(), Arc::new(Mutex::new(None)));
        let (up, down, known) = (front.try_clone().unwrap(), back.try_clone().unwrap(), client.clone());
        // Both threads end with the process: the sockets live as long.
        thread::spawn(move || {
            let mut datagram = [0; 1 << 16];
            while let Ok((bytes, from)) = up.recv_from(&mut datagram) {
                let datagram = &datagram[..bytes];
                if known.lock().unwrap().is_none_or(|client| client == from) {
                    *known.lock().unwrap() = Some(from);
                    if datagram[0] & 0x80 == 0 {
                        *cid.lock().unwrap() = datagram[1..1 + CID_BYTES].to_vec();
                    }
                    let _ = back.send(datagram);
                } else if let Some(client) = *known.lock().unwrap() {
                    let _ = up.send_to(datagram, client);
                }
            }
        });
        thread::spawn(move || {
            let mut datagram = [0; 1 << 16];
            while let Ok(bytes) = down.recv(&mut datagram) {
                if let Some(client) = *client.lock().unwrap() {
                    let _ = front.send_to(&datagram[..bytes], client);
                }
            }
        });
        relay
    }
}

/// Whoever asks a daemon about a connection it never had gets a reset; with the tokens of the daemon that has it, anybody
/// could end it.
fn a_daemon_of_the_same_identity_resets_nothing(backend: &'static str) {
    let world = World::new(backend);
    let relay = Relay::new(world.daemon.address().parse().unwrap());
    let pull = slow_pull(&world, &format!("landro://{}/file", relay.address));
    let cid = relay.cid.lock().unwrap().clone();
    let other_root = tempfile::tempdir().unwrap();
    // Another address; another address and root; and a host to which the identity was copied.
    let copy = common::Side::new();
    std::fs::copy(world.server.path().join("identity.pem"), copy.path().join("identity.pem")).unwrap();
    for (side, root) in [
        (&world.server, world.root("")),
        (&world.server, other_root.path().to_owned()),
        (&copy, world.root("")),
    ] {
        let other = Daemon::start(side, &root, &["--backend", backend]);
        assert_eq!(other.fingerprint, world.daemon.fingerprint, "the identity is one");
        let attacker = UdpSocket::bind("127.0.0.1:0").unwrap();
        attacker.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let mut asked = vec![0x40];
        asked.extend_from_slice(&cid);
        asked.resize(80, 7);
        let mut reset = [0; 100];
        // Of several workers the one the id belongs to answers; a busy machine may lose a datagram.
        let bytes = loop {
            attacker.send_to(&asked, other.address()).unwrap();
            match attacker.recv(&mut reset) {
                Ok(bytes) => break bytes,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => panic!("no reset: {error}"),
            }
        };
        attacker.send_to(&reset[..bytes], relay.address).unwrap();
    }
    pull.wait().expect(0);
    assert_eq!(landro(&world.server, ["id"]).stdout.trim(), world.daemon.fingerprint);
}
