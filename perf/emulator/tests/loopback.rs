//! The real binary between two sockets of loopback: what arrives, and in which order. Nothing here
//! depends on time.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, UdpSocket};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

/// A packet that does not come within this is lost; one that comes does not wait for it.
const GIVE_UP: Duration = Duration::from_secs(20);

struct Emulator {
    child: Child,
    stdout: BufReader<ChildStdout>,
    address: SocketAddr,
}

impl Emulator {
    fn start(target: &UdpSocket, options: &[&str]) -> Emulator {
        let mut child = Command::new(env!("CARGO_BIN_EXE_landro-emulator"))
            .args(["--listen", "127.0.0.1:0", "--seed", "7"])
            .args(["--to", &target.local_addr().unwrap().to_string()])
            .args(options)
            .args(if options.contains(&"--rate") {
                &[][..]
            } else {
                &["--rate", "100M"]
            })
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        let words: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(
            (words[0], words[1], words[3], words[4]),
            ("listening", "on", "seed", "7")
        );
        Emulator {
            child,
            stdout,
            address: words[2].parse().unwrap(),
        }
    }

    fn end(mut self) -> serde_json::Value {
        let pid = nix::unistd::Pid::from_raw(self.child.id() as i32);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        let mut line = String::new();
        self.stdout.read_to_string(&mut line).unwrap();
        assert!(self.child.wait().unwrap().success());
        serde_json::from_str(&line).unwrap()
    }
}

/// A test that fails leaves nothing running.
impl Drop for Emulator {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn socket() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(GIVE_UP)).unwrap();
    socket
}

/// What fits into the default receive buffer of a socket (about 270 small datagrams), however late
/// it is read.
const DATAGRAMS: u32 = 200;

/// Sends [`DATAGRAMS`] numbered ones.
fn send_numbers(client: &UdpSocket, emulator: &Emulator) {
    for number in 0..DATAGRAMS {
        client
            .send_to(&number.to_be_bytes(), emulator.address)
            .unwrap();
    }
}

fn receive_number(server: &UdpSocket) -> u32 {
    let mut buffer = [0; 2048];
    let length = server.recv(&mut buffer).expect("a datagram comes");
    u32::from_be_bytes(buffer[..length].try_into().unwrap())
}

#[test]
fn there_and_back_for_two_clients() {
    let (server, one, other) = (socket(), socket(), socket());
    let emulator = Emulator::start(&server, &["--delay", "1ms"]);
    let mut buffer = [0; 2048];
    for (client, text) in [(&one, b"one"), (&other, b"two"), (&one, b"one")] {
        client.send_to(text, emulator.address).unwrap();
        let (length, from) = server.recv_from(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], text);
        server.send_to(&buffer[..length], from).unwrap();
        let (length, from) = client.recv_from(&mut buffer).unwrap();
        assert_eq!((&buffer[..length], from), (&text[..], emulator.address));
    }
    let report = emulator.end();
    assert_eq!(
        (&report["clients"], &report["seed"]),
        (&2.into(), &7.into())
    );
    for way in ["there", "back"] {
        assert_eq!(
            (&report[way]["packets"], &report[way]["bytes"]),
            (&3.into(), &(3 * (28 + 3)).into())
        );
        assert_eq!(report[way]["passed_packets"], 3);
    }
}

/// Which of all but the last 50 datagrams pass. The order being kept, they have when a later one
/// comes.
fn passing(options: &[&str]) -> Vec<u32> {
    let (server, client) = (socket(), socket());
    let emulator = Emulator::start(&server, options);
    send_numbers(&client, &emulator);
    let numbers: Vec<u32> = std::iter::repeat_with(|| receive_number(&server))
        .take_while(|&n| n < DATAGRAMS - 50)
        .collect();
    // It may be ended before it has read the last ones. None before those may be missing.
    let report = emulator.end();
    assert!(
        report["there"]["packets"].as_u64() > Some(u64::from(DATAGRAMS - 50)),
        "{report}"
    );
    assert_eq!(report["own_drops"]["receive_buffer"], 0);
    assert!(numbers.is_sorted());
    numbers
}

#[test]
fn the_same_seed_loses_the_same() {
    let options = ["--loss", "10", "--jitter", "1ms"];
    let numbers = passing(&options);
    assert!(
        (120..149).contains(&numbers.len()),
        "{} of 150",
        numbers.len()
    );
    assert_eq!(numbers, passing(&options));
    assert_ne!(numbers, passing(&["--burst-loss", "2:20"]));
}

#[test]
fn duplicates_and_overtaken_ones_all_arrive() {
    let (server, client) = (socket(), socket());
    // All are queued before the first that is held back (for 100 ms of this rate) leaves.
    let emulator = Emulator::start(
        &server,
        &[
            "--rate",
            "1M",
            "--queue",
            "1M",
            "--reorder",
            "2",
            "--duplicate",
            "5",
        ],
    );
    send_numbers(&client, &emulator);
    let mut numbers = Vec::new();
    while numbers.iter().collect::<BTreeSet<_>>().len() < DATAGRAMS as usize {
        numbers.push(receive_number(&server));
    }
    let report = emulator.end();
    assert!(!numbers.is_sorted());
    assert!(numbers.len() > DATAGRAMS as usize);
    let there = &report["there"];
    assert!(
        there["reordered"].as_u64() > Some(0) && there["duplicated"].as_u64() > Some(0),
        "{there}"
    );
}
