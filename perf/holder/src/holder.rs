//! The loop of all sessions: one socket, one thread, no more at once than a daemon takes without
//! ado.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use landro::config::QuicConfig;
use landro::engine::now;
use landro::ids::{Fingerprint, WorkerId};
use landro::quic::{
    Conn, Connect, Identity, MAX_SEGMENTS, Route, Router, Run, Secrets, Setup, Trust,
};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::Serialize;

use crate::session::{Session, Stage};

/// Sessions that are opened or ended at a time: fewer handshakes than a daemon asks proofs of
/// address for, and fewer packets than the socket's default buffer holds.
const AT_ONCE: usize = 32;

/// Longest sleep, so that a signal that came just before it is noticed.
const LONGEST_SLEEP: Duration = Duration::from_millis(50);

/// The largest UDP payload, and what one batch of packets is built in.
const BUFFER_BYTES: usize = 64 << 10;

/// What came of it, for programs.
#[derive(Serialize, Debug)]
pub struct Report {
    pub sessions: usize,
    /// Those that the daemon finished when it was asked to in the end.
    pub finished: usize,
    /// Why others were not there any more, and how many.
    pub lost: BTreeMap<String, usize>,
    pub open_seconds: f64,
    pub held_seconds: f64,
    /// While all were held, both directions as seen from here.
    pub held_packets_sent: u64,
    pub held_packets_received: u64,
    /// Of ours; the daemon asks, too.
    pub held_keep_alives: u64,
}

pub struct Holder {
    socket: UdpSocket,
    local: SocketAddr,
    peer: SocketAddr,
    /// One for each identity.
    setups: Vec<Setup>,
    router: Router,
    sessions: Vec<Session>,
    /// When each session has something to do, by its number.
    due: Vec<Option<Instant>>,
    wanted: usize,
    buffer: Vec<u8>,
    open_seconds: f64,
    held_seconds: f64,
    held_traffic: [u64; 3],
}

impl Holder {
    /// # Errors
    /// No socket, or no TLS.
    pub fn new(
        peer: SocketAddr,
        shown: Fingerprint,
        identities: &[Identity],
        wanted: usize,
    ) -> io::Result<Holder> {
        let any: SocketAddr = match peer {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        let socket = UdpSocket::bind(any)?;
        // quiche wants to know the address packets leave from.
        socket.connect(peer)?;
        socket.set_nonblocking(true)?;
        let trust: Trust = Arc::new(move |fingerprint| *fingerprint == shown);
        let setup = |identity| Setup::client(identity, trust.clone(), &QuicConfig::auto());
        let setups = identities
            .iter()
            .map(setup)
            .collect::<Result<Vec<Setup>, _>>();
        let secrets = Arc::new(Secrets::fresh(now()));
        Ok(Holder {
            local: socket.local_addr()?,
            socket,
            peer,
            setups: setups.map_err(io::Error::other)?,
            router: Router::new(WorkerId(0), 1, secrets, false),
            sessions: Vec::new(),
            due: Vec::new(),
            wanted,
            buffer: vec![0; BUFFER_BYTES],
            open_seconds: 0.0,
            held_seconds: 0.0,
            held_traffic: [0; 3],
        })
    }

    /// Opens all. False: some were refused or lost, or it was told to stop.
    ///
    /// # Errors
    /// The kernel refuses what no daemon is the reason of.
    pub fn open(&mut self, stop: &AtomicBool) -> io::Result<bool> {
        let begun = now();
        while self.count(|stage| *stage == Stage::Idle) < self.wanted {
            if stop.load(Ordering::Relaxed)
                || self.count(|stage| matches!(stage, Stage::Lost(_))) > 0
            {
                return Ok(false);
            }
            let mut opening =
                self.count(|stage| matches!(stage, Stage::Connecting | Stage::Greeting));
            while opening < AT_ONCE && self.sessions.len() < self.wanted {
                self.dial(now())?;
                opening += 1;
            }
            self.round()?;
        }
        self.open_seconds = seconds_since(begun);
        Ok(true)
    }

    /// Keeps them until it is told to stop.
    ///
    /// # Errors
    /// As [`Holder::open`].
    pub fn hold(&mut self, stop: &AtomicBool) -> io::Result<()> {
        let (begun, before) = (now(), self.traffic());
        while !stop.load(Ordering::Relaxed) {
            self.round()?;
        }
        self.held_seconds = seconds_since(begun);
        let after = self.traffic();
        self.held_traffic = std::array::from_fn(|kind| after[kind] - before[kind]);
        Ok(())
    }

    /// Ends those that are left as a transfer ends.
    ///
    /// # Errors
    /// As [`Holder::open`].
    pub fn finish(&mut self) -> io::Result<()> {
        loop {
            let mut ending = self.count(|stage| *stage == Stage::Ending);
            let idle = self.count(|stage| *stage == Stage::Idle);
            if ending + idle == 0 {
                return Ok(());
            }
            for key in 0..self.sessions.len() {
                if ending < AT_ONCE && *self.sessions[key].stage() == Stage::Idle {
                    self.sessions[key].end();
                    self.turn(key, now());
                    ending += 1;
                }
            }
            self.round()?;
        }
    }

    pub fn report(&self) -> Report {
        let mut lost = BTreeMap::new();
        for session in &self.sessions {
            if let Stage::Lost(reason) = session.stage() {
                *lost.entry(reason.clone()).or_default() += 1;
            }
        }
        let [held_packets_sent, held_packets_received, held_keep_alives] = self.held_traffic;
        Report {
            sessions: self.wanted,
            finished: self.count(|stage| *stage == Stage::Finished),
            lost,
            open_seconds: self.open_seconds,
            held_seconds: self.held_seconds,
            held_packets_sent,
            held_packets_received,
            held_keep_alives,
        }
    }

    fn count(&self, of: impl Fn(&Stage) -> bool) -> usize {
        self.sessions
            .iter()
            .filter(|session| of(session.stage()))
            .count()
    }

    fn traffic(&self) -> [u64; 3] {
        let add = |sum: [u64; 3], one: [u64; 3]| std::array::from_fn(|kind| sum[kind] + one[kind]);
        self.sessions.iter().map(Session::traffic).fold([0; 3], add)
    }

    fn dial(&mut self, now: Instant) -> io::Result<()> {
        let key = self.sessions.len();
        let setups = self.setups.len();
        let setup = &mut self.setups[key % setups];
        let connect = Connect {
            key,
            local: self.local,
            peer: self.peer,
            steer: None,
            ticket: None,
            now,
        };
        let conn = Conn::connect(setup, &mut self.router, connect).map_err(io::Error::other)?;
        self.sessions.push(Session::new(conn, now));
        self.due.push(None);
        self.turn(key, now);
        Ok(())
    }

    /// Sleeps until something comes or is due, then sees to those that it concerns.
    fn round(&mut self) -> io::Result<()> {
        let due = self.due.iter().flatten().min();
        let sleep = due.map_or(LONGEST_SLEEP, |at| {
            at.saturating_duration_since(now()).min(LONGEST_SLEEP)
        });
        // Rounded up: what is due in half a millisecond is not waited for in a loop.
        let timeout = PollTimeout::from((sleep.as_micros() as u64).div_ceil(1000) as u8);
        match poll(
            &mut [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)],
            timeout,
        ) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let now = now();
        for key in self.receive(now) {
            self.turn(key, now);
        }
        for key in 0..self.sessions.len() {
            if self.due[key].is_some_and(|at| at <= now) {
                self.turn(key, now);
            }
        }
        Ok(())
    }

    /// Takes what is there; the sessions that got something.
    fn receive(&mut self, now: Instant) -> Vec<usize> {
        let mut touched = Vec::new();
        // An error is that nothing is there, or what a host said to an earlier datagram (the idle
        // timeout decides).
        while let Ok(bytes) = self.socket.recv(&mut self.buffer) {
            let datagram = &mut self.buffer[..bytes];
            if let Route::Conn(key) = self
                .router
                .route(datagram, self.peer, self.local, now, false)
                && let Some(session) = self.sessions.get_mut(key)
            {
                session.receive(now, datagram, self.peer);
                touched.push(key);
            }
        }
        touched.sort_unstable();
        touched.dedup();
        touched
    }

    fn turn(&mut self, key: usize, now: Instant) {
        let session = &mut self.sessions[key];
        session.turn(now);
        let mut runs: Vec<Run> = Vec::new();
        while let Some(filled) = session
            .conn()
            .fill(now, &mut self.buffer, MAX_SEGMENTS, &mut runs)
        {
            for run in &runs {
                let bytes = &self.buffer[run.range.clone()];
                for datagram in bytes.chunks(run.segment_bytes.map_or(bytes.len(), usize::from)) {
                    // One that the kernel does not take is lost like any may be.
                    let _ = self.socket.send(datagram);
                }
            }
            if !filled.more {
                break;
            }
        }
        self.due[key] = session.due(now);
    }
}

fn seconds_since(begun: Instant) -> f64 {
    now().saturating_duration_since(begun).as_secs_f64()
}
