//! A wire that TCP crosses: what goes over it is looked at, kept, and changed.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

/// How often threads look whether they are to end.
const LOOK: Duration = Duration::from_millis(20);

/// What is kept of each direction of a connection.
const KEPT_BYTES: usize = 1 << 20;

/// A client's first byte in TLS.
const TLS: u8 = 0x16;

/// What happens to bytes on the way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mischief {
    Flip,
    Insert,
    Remove,
    /// 64 bytes, if there are so many, and as many behind them change places.
    Swap,
    /// 64 bytes come twice.
    Twice,
}

/// Where: in connections in the clear, by direction and how many bytes came before.
#[derive(Clone, Copy, Debug)]
pub struct Change {
    pub mischief: Mischief,
    pub to_daemon: bool,
    pub at: usize,
}

/// A TCP connection that crossed.
#[derive(Clone, Default)]
pub struct Crossed {
    pub is_clear: bool,
    /// The beginning of each direction, to the daemon and from it.
    pub kept: [Vec<u8>; 2],
    pub bytes: [usize; 2],
}

pub struct Wire {
    port: u16,
    state: Arc<State>,
}

struct State {
    daemon: SocketAddr,
    stop: AtomicBool,
    change: Option<Change>,
    crossed: Mutex<Vec<Crossed>>,
    threads: Mutex<Vec<thread::JoinHandle<()>>>,
}

impl Wire {
    pub fn new(daemon: &str, change: Option<Change>) -> Wire {
        let state = Arc::new(State {
            daemon: daemon.parse().unwrap(),
            stop: AtomicBool::new(false),
            change,
            crossed: Mutex::default(),
            threads: Mutex::default(),
        });
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let port = listener.local_addr().unwrap().port();
        let run = state.clone();
        state.spawn(move || accept(&run, &listener));
        Wire { port, state }
    }

    pub fn url(&self, path: &str) -> String {
        format!("landro://127.0.0.1:{}/{path}", self.port)
    }

    pub fn crossed(&self) -> Vec<Crossed> {
        self.state.crossed().clone()
    }

    pub fn in_the_clear(&self) -> Vec<Crossed> {
        let mut all = self.crossed();
        all.retain(|crossed| crossed.is_clear);
        all
    }
}

impl Drop for Wire {
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

    fn crossed(&self) -> MutexGuard<'_, Vec<Crossed>> {
        self.crossed.lock().unwrap()
    }

    fn stops(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
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
        for stream in [&client, &daemon] {
            stream.set_nonblocking(false).unwrap();
            stream.set_read_timeout(Some(LOOK)).unwrap();
            stream.set_nodelay(true).unwrap();
        }
        let which = {
            let mut crossed = state.crossed();
            crossed.push(Crossed::default());
            crossed.len() - 1
        };
        for (side, from, to) in [(0, &client, &daemon), (1, &daemon, &client)] {
            let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
            let run = state.clone();
            state.spawn(move || pass(&run, (which, side), from, to));
        }
    }
}

fn pass(state: &State, (which, side): (usize, usize), mut from: TcpStream, mut to: TcpStream) {
    let mut buffer = vec![0; 1 << 16];
    while !state.stops() {
        match from.read(&mut buffer) {
            Ok(0) => {
                let _ = to.shutdown(Shutdown::Write);
                return;
            }
            Ok(count) => {
                let bytes = on_the_way(state, (which, side), &buffer[..count]);
                if to.write_all(&bytes).is_err() {
                    return;
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

/// What comes of what is sent.
fn on_the_way(state: &State, (which, side): (usize, usize), sent: &[u8]) -> Vec<u8> {
    let (before, is_clear) = {
        let crossed = &mut state.crossed()[which];
        let before = crossed.bytes[side];
        if side == 0 && before == 0 {
            crossed.is_clear = sent[0] != TLS;
        }
        crossed.bytes[side] += sent.len();
        let room = KEPT_BYTES.saturating_sub(crossed.kept[side].len());
        crossed.kept[side].extend(&sent[..sent.len().min(room)]);
        (before, crossed.is_clear)
    };
    let mut bytes = sent.to_vec();
    let Some(change) = state
        .change
        .filter(|change| is_clear && change.to_daemon == (side == 0))
    else {
        return bytes;
    };
    let here = before..before + sent.len();
    if !here.contains(&change.at) {
        return bytes;
    }
    let at = change.at - before;
    let some = 64.min(bytes.len() - at);
    match change.mischief {
        Mischief::Flip => bytes[at] ^= 0x10,
        Mischief::Insert => bytes.insert(at, 0x5a),
        Mischief::Remove => drop(bytes.remove(at)),
        Mischief::Swap => {
            let half = some.min((bytes.len() - at) / 2);
            bytes[at..at + 2 * half].rotate_left(half);
        }
        Mischief::Twice => {
            let again = bytes[at..at + some].to_vec();
            bytes.splice(at..at, again);
        }
    }
    bytes
}
