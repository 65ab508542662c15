//! A daemon that is gone, or back, or another one: what its clients hear of that, and whom they
//! believe.

mod common;

use std::ffi::OsStr;
use std::net::{SocketAddr, SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, sendto, socket,
};

use common::{Daemon, Running, World, is_root, landro};

on_both_backends!(
    a_daemon_that_is_back_resets,
    a_retry_goes_on,
    a_daemon_of_the_same_identity_resets_nothing,
    a_port_nobody_listens_on,
    a_daemon_that_died_is_missed_at_once,
    a_silent_daemon_that_died_is_missed_at_once,
    forged_messages_end_nothing,
);

/// What is copied takes some seconds under [`LIMIT`].
const FILE_BYTES: u64 = 8 << 20;
const LIMIT: &str = "1M";

/// Server's connection ids are so long (docs/protocol.md).
const CID_BYTES: usize = 5;

/// What ICMP brings, instead of 60 s of silence.
const NOBODY: &str = "nobody listens on the peer's UDP port";

/// Starts a copy of one session, of a file without holes, which would take no time, and waits until
/// data flows.
fn slow(world: &World, limit: &str, from: &Path, args: [&OsStr; 2]) -> Running {
    std::fs::write(from, vec![7; FILE_BYTES as usize]).unwrap();
    let options = ["--retry", "0", "--bwlimit", limit].map(OsStr::new);
    let mut command = world.cp_command(&[], &[&options[..], &args[..]].concat());
    command.env("LANDRO_LOG", "landro=debug");
    let running = Running::spawn(command);
    running
        .line(|line| line.contains("\"progress\""))
        .expect("data flows");
    running
}

fn slow_pull(world: &World, url: &str) -> Running {
    slow(
        world,
        LIMIT,
        &world.root("file"),
        [url.as_ref(), world.here("file").as_os_str()],
    )
}

fn slow_push(world: &World) -> Running {
    let from = world.here("up");
    slow(
        world,
        LIMIT,
        &from,
        [from.as_os_str(), world.url("").as_ref()],
    )
}

fn a_retry_goes_on(backend: &'static str) {
    let mut world = World::over_quic(backend);
    let (url, file) = (world.url("file"), world.here("file"));
    std::fs::write(world.root("file"), vec![7; FILE_BYTES as usize]).unwrap();
    let options = ["--retry", "5", "--bwlimit", "4M"].map(OsStr::new);
    let args = [&options[..], &[url.as_ref(), file.as_os_str()]].concat();
    let pull = world.cp_start(&args);
    let some = |line: &str| {
        let event: serde_json::Value = serde_json::from_str(line).unwrap();
        event["event"] == "progress" && event["bytes"].as_u64().unwrap() >= 3 << 20
    };
    assert!(pull.line(some).is_some(), "data flows");
    world.restart();
    let output = pull.wait().expect(0);
    assert!(output.number("resumed_bytes") > 0, "{output:?}");
    assert!(output.stderr.contains("(--retry, "), "{output:?}");
    assert_eq!(std::fs::read(file).unwrap().len() as u64, FILE_BYTES);
}

/// By way of a relay: a daemon that takes its time to start would be missed first, by ICMP.
fn a_daemon_that_is_back_resets(backend: &'static str) {
    let mut world = World::over_quic(backend);
    let relay = Relay::new(world.daemon.address().parse().unwrap());
    let pull = slow_pull(&world, &format!("landro://{}/file", relay.address));
    world.restart();
    let output = pull.wait().expect(5);
    assert!(
        output
            .stdout
            .contains("the daemon was restarted, or ended without a word"),
        "{output:?}"
    );
}

/// A UDP relay that keeps the connection id of what it carries to the daemon, and takes datagrams
/// for the client from others, too.
struct Relay {
    address: SocketAddr,
    cid: Arc<Mutex<Vec<u8>>>,
    client: Arc<Mutex<Option<SocketAddr>>>,
}

impl Relay {
    fn new(daemon: SocketAddr) -> Relay {
        let (front, back) = (
            UdpSocket::bind("127.0.0.1:0").unwrap(),
            UdpSocket::bind("127.0.0.1:0").unwrap(),
        );
        let relay = Relay {
            address: front.local_addr().unwrap(),
            cid: Arc::default(),
            client: Arc::default(),
        };
        back.connect(daemon).unwrap();
        let (cid, client) = (relay.cid.clone(), relay.client.clone());
        let (up, down, known) = (
            front.try_clone().unwrap(),
            back.try_clone().unwrap(),
            client.clone(),
        );
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
            loop {
                // That nobody listens, while a daemon is away, is not passed on.
                let Ok(bytes) = down.recv(&mut datagram) else {
                    continue;
                };
                if let Some(client) = *client.lock().unwrap() {
                    let _ = front.send_to(&datagram[..bytes], client);
                }
            }
        });
        relay
    }
}

/// Whoever asks a daemon about a connection it never had gets a reset; with the tokens of the
/// daemon that has it, anybody could end it.
fn a_daemon_of_the_same_identity_resets_nothing(backend: &'static str) {
    let world = World::over_quic(backend);
    let relay = Relay::new(world.daemon.address().parse().unwrap());
    let pull = slow_pull(&world, &format!("landro://{}/file", relay.address));
    let cid = relay.cid.lock().unwrap().clone();
    let other_root = tempfile::tempdir().unwrap();
    // Another address; another address and root; and a host to which the identity was copied.
    let copy = common::Side::new();
    std::fs::copy(
        world.server.path().join("identity.pem"),
        copy.path().join("identity.pem"),
    )
    .unwrap();
    for (side, root) in [
        (&world.server, world.root("")),
        (&world.server, other_root.path().to_owned()),
        (&copy, world.root("")),
    ] {
        let other = Daemon::start(side, &root, &["--backend", backend, "--lane-kinds", "quic"]);
        assert_eq!(
            other.fingerprint, world.daemon.fingerprint,
            "the identity is one"
        );
        let attacker = UdpSocket::bind("127.0.0.1:0").unwrap();
        attacker
            .set_read_timeout(Some(Duration::from_secs(30)))
            .unwrap();
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
    assert_eq!(
        landro(&world.server, ["id"]).stdout.trim(),
        world.daemon.fingerprint
    );
}

/// A port that is closed to everybody but one who is not there, so that no other test gets it.
fn closed_port(address: &str) -> (UdpSocket, SocketAddr) {
    let socket = UdpSocket::bind(address).unwrap();
    let found = socket.local_addr().unwrap();
    socket.connect(SocketAddr::new(found.ip(), 9)).unwrap();
    (socket, found)
}

fn a_port_nobody_listens_on(backend: &'static str) {
    let world = World::over_quic(backend);
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let (_held, closed) = closed_port(address);
        let url = format!("landro://{closed}/file");
        let output = world
            .cp(&[url.as_ref(), world.here("file").as_os_str()])
            .expect(5);
        assert!(output.stdout.contains(NOBODY), "{output:?}");
        assert!(output.stdout.contains("\"unreachable\""), "{output:?}");
    }
}

fn a_daemon_that_died_is_missed_at_once(backend: &'static str) {
    for start in [
        |world: &World| slow_pull(world, &world.url("file")),
        slow_push,
    ] {
        let mut world = World::over_quic(backend);
        let running = start(&world);
        world.daemon.kill();
        let output = running.wait().expect(5);
        assert!(output.stdout.contains(NOBODY), "{output:?}");
    }
}

/// Under this limit nothing follows the burst for minutes: without a sign of life that is asked
/// for, nobody would say anything.
fn a_silent_daemon_that_died_is_missed_at_once(backend: &'static str) {
    let mut world = World::over_quic(backend);
    let (url, here) = (world.url("file"), world.here("file"));
    let running = slow(
        &world,
        "1K",
        &world.root("file"),
        [url.as_ref(), here.as_os_str()],
    );
    world.daemon.kill();
    let output = running.wait().expect(5);
    assert!(output.stdout.contains(NOBODY), "{output:?}");
}

/// Anybody who knows the addresses can say that a port is closed.
fn forged_messages_end_nothing(backend: &'static str) {
    if !is_root() {
        common::skipped("needs root");
        return;
    }
    let world = World::over_quic(backend);
    let relay = Relay::new(world.daemon.address().parse().unwrap());
    let mut pull = slow_pull(&world, &format!("landro://{}/file", relay.address));
    let (SocketAddr::V4(from), SocketAddr::V4(to)) =
        (relay.client.lock().unwrap().unwrap(), relay.address)
    else {
        panic!("IPv4 was asked for");
    };
    let raw = socket(
        AddressFamily::Inet,
        SockType::Raw,
        SockFlag::empty(),
        SockProtocol::Icmp,
    )
    .unwrap();
    // Until the client heard one and found it untrue.
    while !pull
        .stderr()
        .contains("the peer is there, whatever ICMP says")
    {
        let message = port_unreachable(from, to);
        sendto(
            raw.as_raw_fd(),
            &message,
            &SockaddrIn::from(from),
            MsgFlags::empty(),
        )
        .unwrap();
        thread::sleep(Duration::from_millis(5));
        assert!(pull.is_running(), "{}\n{}", pull.stdout(), pull.stderr());
    }
    pull.wait().expect(0);
}

/// ICMP's destination unreachable, port unreachable (RFC 792), for a datagram `from` there `to`
/// here.
fn port_unreachable(from: SocketAddrV4, to: SocketAddrV4) -> Vec<u8> {
    let mut message = vec![3, 3, 0, 0, 0, 0, 0, 0];
    // The header of the datagram it is about, 1,200 bytes of UDP (17), and the beginning of its
    // content.
    message.extend([0x45, 0, 0x04, 0xcc, 0, 0, 0x40, 0, 64, 17, 0, 0]);
    message.extend(from.ip().octets().into_iter().chain(to.ip().octets()));
    message.extend(
        from.port()
            .to_be_bytes()
            .into_iter()
            .chain(to.port().to_be_bytes()),
    );
    message.extend([0x04, 0xb8, 0, 0]);
    let words = message
        .chunks(2)
        .map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])));
    let sum: u32 = words.sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    message[2..4].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    message
}
