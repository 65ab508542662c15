//! What stands between a client and a daemon, with one port number for UDP and TCP: it passes on
//! what it is told to, and cuts what it is told to.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use nix::libc;
use nix::sys::socket::{getsockopt, setsockopt, sockopt};

/// Ports that somebody has for the other kind.
const PORT_TRIES: u32 = 50;

/// How often threads look whether they are to end.
const LOOK: Duration = Duration::from_millis(20);

/// What happens to UDP.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Udp {
    Passes,
    /// It goes nowhere, and nobody says so.
    Silent,
}

/// Of its sockets for TCP.
const RECEIVE_BYTES: usize = 256 << 10;

/// Of its sockets for UDP, about what the ends have: by default ten large datagrams are all that
/// wait, and a window that is sent at once after a pause is lost.
const UDP_RECEIVE_BYTES: usize = 4 << 20;

/// What fits into the smallest packet that every path of IPv6 carries, and less than loopback does.
const SMALL_SEGMENT_BYTES: u32 = 1280;

const RUNS: u8 = 0;
const STALLS: u8 = 1;
const RESETS: u8 = 2;

pub struct Relay {
    pub port: u16,
    state: Arc<State>,
}

struct State {
    daemon: SocketAddr,
    stop: AtomicBool,
    /// Of the TCP connections that there are.
    course: AtomicU8,
    /// UDP goes nowhere.
    is_silent: AtomicBool,
    /// Bytes that crossed in UDP, and in TCP.
    udp_bytes: AtomicU64,
    tcp_bytes: AtomicU64,
    /// What one direction of a TCP connection passes on in a second; 0: all it can.
    tcp_bytes_per_second: AtomicU64,
    /// TCP connections whose packets were to be small from their beginning.
    small_segments: AtomicU64,
    threads: Mutex<Vec<thread::JoinHandle<()>>>,
}

impl Relay {
    pub fn new(daemon: &str, udp: Udp) -> Relay {
        let state = Arc::new(State {
            daemon: daemon.parse().unwrap(),
            stop: AtomicBool::new(false),
            course: AtomicU8::new(RUNS),
            is_silent: AtomicBool::new(udp == Udp::Silent),
            udp_bytes: AtomicU64::new(0),
            tcp_bytes: AtomicU64::new(0),
            tcp_bytes_per_second: AtomicU64::new(0),
            small_segments: AtomicU64::new(0),
            threads: Mutex::default(),
        });
        let (socket, listener) = bind();
        let port = socket.local_addr().unwrap().port();
        let run = state.clone();
        state.spawn(move || pass_udp(&run, &socket));
        let run = state.clone();
        state.spawn(move || accept(&run, &listener));
        Relay { port, state }
    }

    pub fn url(&self, path: &str) -> String {
        format!("landro://127.0.0.1:{}/{path}", self.port)
    }

    pub fn tcp_bytes(&self) -> u64 {
        self.state.tcp_bytes.load(Ordering::SeqCst)
    }

    pub fn small_segments(&self) -> u64 {
        self.state.small_segments.load(Ordering::SeqCst)
    }

    pub fn udp_bytes(&self) -> u64 {
        self.state.udp_bytes.load(Ordering::SeqCst)
    }

    /// UDP goes nowhere from now on, and nobody says so; or it passes again.
    pub fn silence_udp(&self, is_silent: bool) {
        self.state.is_silent.store(is_silent, Ordering::SeqCst);
    }

    /// TCP passes no more from now on.
    pub fn slow_tcp(&self, bytes_per_second: u64) {
        let rate = &self.state.tcp_bytes_per_second;
        rate.store(bytes_per_second, Ordering::SeqCst);
    }

    /// TCP connections that there are pass nothing on any more, and nobody says so.
    pub fn stall(&self) {
        self.state.course.store(STALLS, Ordering::SeqCst);
    }

    /// TCP connections that there are end, in both directions, with RST.
    pub fn reset(&self) {
        self.state.course.store(RESETS, Ordering::SeqCst);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.state.stop.store(true, Ordering::SeqCst);
        loop {
            let thread = self.state.threads.lock().unwrap().pop();
            let Some(thread) = thread else { return };
            let ended = thread.join();
            assert!(ended.is_ok() || thread::panicking(), "a thread panicked");
        }
    }
}

impl State {
    fn spawn(&self, work: impl FnOnce() + Send + 'static) {
        self.threads.lock().unwrap().push(thread::spawn(work));
    }

    fn is_silent(&self) -> bool {
        self.is_silent.load(Ordering::SeqCst)
    }

    fn stops(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }
}

fn bind() -> (UdpSocket, TcpListener) {
    for _ in 0..PORT_TRIES {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        if let Ok(listener) = TcpListener::bind(socket.local_addr().unwrap()) {
            socket.set_read_timeout(Some(LOOK)).unwrap();
            listener.set_nonblocking(true).unwrap();
            return (socket, listener);
        }
    }
    panic!("no port is free for UDP and TCP");
}

/// One client's datagrams and the answers. Where it is silent the socket takes them all the same,
/// or ICMP would tell.
fn pass_udp(state: &Arc<State>, front: &UdpSocket) {
    let back = UdpSocket::bind("127.0.0.1:0").unwrap();
    back.connect(state.daemon).unwrap();
    for socket in [front, &back] {
        // Beyond what the host allows everybody, where it may be.
        if setsockopt(socket, sockopt::RcvBufForce, &UDP_RECEIVE_BYTES).is_err() {
            setsockopt(socket, sockopt::RcvBuf, &UDP_RECEIVE_BYTES).unwrap();
        }
    }
    back.set_read_timeout(Some(LOOK)).unwrap();
    let client: Arc<Mutex<Option<SocketAddr>>> = Arc::default();
    let (answers, whom) = (back.try_clone().unwrap(), client.clone());
    let (run, to) = (state.clone(), front.try_clone().unwrap());
    state.spawn(move || {
        let mut datagram = vec![0; 1 << 16];
        while !run.stops() {
            let (Ok(bytes), Some(client)) = (answers.recv(&mut datagram), *whom.lock().unwrap())
            else {
                continue;
            };
            if run.is_silent() {
                continue;
            }
            run.udp_bytes.fetch_add(bytes as u64, Ordering::SeqCst);
            let _ = to.send_to(&datagram[..bytes], client);
        }
    });
    let mut datagram = vec![0; 1 << 16];
    while !state.stops() {
        let Ok((bytes, from)) = front.recv_from(&mut datagram) else {
            continue;
        };
        if !state.is_silent() {
            *client.lock().unwrap() = Some(from);
            state.udp_bytes.fetch_add(bytes as u64, Ordering::SeqCst);
            let _ = back.send(&datagram[..bytes]);
        }
    }
}

fn accept(state: &Arc<State>, listener: &TcpListener) {
    while !state.stops() {
        let Ok((client, _)) = listener.accept() else {
            thread::sleep(Duration::from_millis(1));
            continue;
        };
        let Ok(daemon) = TcpStream::connect(state.daemon) else {
            continue;
        };
        let segment_bytes = getsockopt(&client, sockopt::TcpMaxSeg).unwrap();
        let is_small = segment_bytes < SMALL_SEGMENT_BYTES;
        state
            .small_segments
            .fetch_add(u64::from(is_small), Ordering::SeqCst);
        for stream in [&client, &daemon] {
            // What waits in the kernel is no path's.
            setsockopt(stream, sockopt::RcvBuf, &RECEIVE_BYTES).unwrap();
            stream.set_nonblocking(false).unwrap();
            stream.set_read_timeout(Some(LOOK)).unwrap();
            stream.set_nodelay(true).unwrap();
        }
        for (from, to) in [(&client, &daemon), (&daemon, &client)] {
            let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
            let run = state.clone();
            state.spawn(move || pass_tcp(&run, from, to));
        }
    }
}

fn pass_tcp(state: &State, mut from: TcpStream, mut to: TcpStream) {
    let mut bytes = vec![0; 1 << 16];
    while !state.stops() {
        match state.course.load(Ordering::SeqCst) {
            RUNS => {}
            RESETS => {
                for stream in [&from, &to] {
                    let now = libc::linger {
                        l_onoff: 1,
                        l_linger: 0,
                    };
                    setsockopt(&stream.as_fd(), sockopt::Linger, &now).unwrap();
                }
                return;
            }
            _ => {
                thread::sleep(LOOK);
                continue;
            }
        }
        match from.read(&mut bytes) {
            Ok(0) => {
                let _ = to.shutdown(Shutdown::Write);
                return;
            }
            Ok(count) => {
                state.tcp_bytes.fetch_add(count as u64, Ordering::SeqCst);
                if to.write_all(&bytes[..count]).is_err() {
                    return;
                }
                let rate = state.tcp_bytes_per_second.load(Ordering::SeqCst);
                if let Some(nanos) = (count as u64 * 1_000_000_000).checked_div(rate) {
                    thread::sleep(Duration::from_nanos(nanos));
                }
            }
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
                ) => {}
            Err(_) => {
                let _ = to.shutdown(Shutdown::Both);
                return;
            }
        }
    }
}
