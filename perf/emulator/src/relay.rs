//! The relay: sockets on both sides, a clock, and what is on the way, in order of the time it
//! leaves.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_gettime};

use crate::args::BothWays;
use crate::link::{Fate, LINK_MTU_BYTES, Link, Shape, Way};
use crate::report::{Lateness, OwnDrops, Report};
use crate::socket::{self, BATCH, Buffers, Datagram, nanoseconds};

/// Clients at once, each with a socket of its own. The one that was silent for longest makes room
/// for a newer one.
const MAX_CLIENTS: usize = 256;

/// While there is traffic the relay rests this long between its rounds: each then has several
/// packets to handle, which leaves the cores to those who are measured. It is what packets are late
/// by; their arrival is stamped by the kernel.
const ROUND: Duration = Duration::from_micros(100);

/// Longest sleep, so that a signal that came just before it is noticed.
const IDLE_NS: u64 = 200_000_000;

/// Time stamps older than this are mistakes: somebody set the clock.
const OLDEST_STAMP_NS: u64 = 1_000_000_000;

/// What a datagram has in front of its payload.
const IPV4_UDP_BYTES: u64 = 20 + 8;
const IPV6_UDP_BYTES: u64 = 40 + 8;

/// A client's number; never used twice.
type ClientId = u64;

struct Client {
    address: SocketAddr,
    /// Connected to the target.
    upstream: UdpSocket,
    heard_ns: u64,
    overflows: u32,
}

/// A datagram on the way. Ordered by when it leaves, then by when it came.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Held {
    at_ns: u64,
    number: u64,
    way: Way,
    client: ClientId,
    payload: Vec<u8>,
}

pub struct Relay {
    listener: UdpSocket,
    listener_overflows: u32,
    target: SocketAddr,
    there: Link,
    back: Link,
    clients: BTreeMap<ClientId, Client>,
    by_address: HashMap<SocketAddr, ClientId>,
    next_client: ClientId,
    on_the_way: BinaryHeap<Reverse<Held>>,
    next_number: u64,
    lateness: Lateness,
    own_drops: OwnDrops,
    seed: u64,
}

impl Relay {
    /// # Errors
    /// If the listening socket cannot be had.
    pub fn new(
        listen: SocketAddr,
        target: SocketAddr,
        shapes: BothWays<Shape>,
        seed: u64,
    ) -> io::Result<Relay> {
        let listener = UdpSocket::bind(listen)?;
        socket::prepare(&listener)?;
        // The default slack of 50 µs would be added to every sleep.
        nix::sys::prctl::set_timerslack(1)?;
        Ok(Relay {
            listener,
            listener_overflows: 0,
            target,
            there: Link::new(shapes.there, seed, Way::There),
            back: Link::new(shapes.back, seed, Way::Back),
            clients: BTreeMap::new(),
            by_address: HashMap::new(),
            next_client: 0,
            on_the_way: BinaryHeap::new(),
            next_number: 0,
            lateness: Lateness::new(),
            own_drops: OwnDrops::default(),
            seed,
        })
    }

    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Relays until `stop`.
    ///
    /// # Errors
    /// What the kernel refuses and no packet is the reason of.
    pub fn run(&mut self, stop: &AtomicBool) -> io::Result<()> {
        let mut buffers = Buffers::new();
        while !stop.load(Ordering::Relaxed) {
            let ready = self.wait()?;
            let received = !ready.is_empty();
            for source in ready {
                self.receive_all(source, &mut buffers)?;
            }
            let delivered = self.deliver(Clock::read()?.now_ns);
            if received || delivered {
                thread::sleep(ROUND);
            }
        }
        Ok(())
    }

    pub fn report(&self) -> Report {
        let mut own_drops = self.own_drops;
        own_drops.receive_buffer += u64::from(self.listener_overflows)
            + self
                .clients
                .values()
                .map(|client| u64::from(client.overflows))
                .sum::<u64>();
        Report::new(
            self.seed,
            self.next_client,
            self.there.counts(),
            self.back.counts(),
            own_drops,
            &self.lateness,
        )
    }

    /// Sleeps until something came or is due; the sockets to read from. `None` is the listener.
    fn wait(&self) -> io::Result<Vec<Option<ClientId>>> {
        let now_ns = Clock::read()?.now_ns;
        let due_ns = self
            .on_the_way
            .peek()
            .map_or(u64::MAX, |Reverse(first)| first.at_ns);
        let sleep_ns = due_ns.saturating_sub(now_ns).min(IDLE_NS);
        let mut sources = vec![None];
        let mut fds = vec![PollFd::new(self.listener.as_fd(), PollFlags::POLLIN)];
        for (id, client) in &self.clients {
            sources.push(Some(*id));
            fds.push(PollFd::new(client.upstream.as_fd(), PollFlags::POLLIN));
        }
        match ppoll(
            &mut fds,
            Some(TimeSpec::from_duration(Duration::from_nanos(sleep_ns))),
            None,
        ) {
            Ok(_) => {}
            Err(Errno::EINTR) => return Ok(Vec::new()),
            Err(error) => return Err(error.into()),
        }
        // POLLERR too: reading takes the error away.
        let ready = |fd: &PollFd| fd.revents().is_some_and(|events| !events.is_empty());
        Ok(sources
            .into_iter()
            .zip(&fds)
            .filter(|(_, fd)| ready(fd))
            .map(|(source, _)| source)
            .collect())
    }

    fn receive_all(&mut self, source: Option<ClientId>, buffers: &mut Buffers) -> io::Result<()> {
        loop {
            let socket = match source {
                None => &self.listener,
                Some(id) => match self.clients.get(&id) {
                    Some(client) => &client.upstream,
                    // It made room for another since it was found to be readable.
                    None => return Ok(()),
                },
            };
            // An error is ECONNREFUSED or its like: what a host said to an earlier datagram.
            let datagrams = socket::receive(socket, buffers).unwrap_or_default();
            let clock = Clock::read()?;
            let full = datagrams.len() == BATCH;
            for datagram in datagrams {
                self.take(source, datagram, clock)?;
            }
            if !full {
                return Ok(());
            }
        }
    }

    /// A datagram comes to the path.
    fn take(
        &mut self,
        source: Option<ClientId>,
        datagram: Datagram,
        clock: Clock,
    ) -> io::Result<()> {
        let Some(from) = datagram.from else {
            return Ok(());
        };
        let (way, id) = match source {
            Some(id) => (Way::Back, id),
            None => (Way::There, self.client_at(from, clock.now_ns)?),
        };
        let counter = match (way, self.clients.get_mut(&id)) {
            (Way::There, Some(client)) => {
                client.heard_ns = clock.now_ns;
                &mut self.listener_overflows
            }
            (Way::Back, Some(client)) => &mut client.overflows,
            (_, None) => return Ok(()),
        };
        *counter = datagram.overflows.unwrap_or(*counter);
        let header_bytes = if from.is_ipv4() {
            IPV4_UDP_BYTES
        } else {
            IPV6_UDP_BYTES
        };
        let bytes = match datagram.cut {
            true => LINK_MTU_BYTES + 1,
            false => datagram.payload.len() as u64 + header_bytes,
        };
        let link = match way {
            Way::There => &mut self.there,
            Way::Back => &mut self.back,
        };
        if let Fate::Passes { at_ns, twice } =
            link.offer(clock.arrival_ns(datagram.stamp_ns), bytes)
        {
            if twice {
                self.hold(at_ns, way, id, datagram.payload.clone());
            }
            self.hold(at_ns, way, id, datagram.payload);
        }
        Ok(())
    }

    fn hold(&mut self, at_ns: u64, way: Way, client: ClientId, payload: Vec<u8>) {
        self.on_the_way.push(Reverse(Held {
            at_ns,
            number: self.next_number,
            way,
            client,
            payload,
        }));
        self.next_number += 1;
    }

    fn client_at(&mut self, address: SocketAddr, now_ns: u64) -> io::Result<ClientId> {
        if let Some(id) = self.by_address.get(&address) {
            return Ok(*id);
        }
        if self.clients.len() == MAX_CLIENTS {
            let silent = self
                .clients
                .iter()
                .min_by_key(|(_, client)| client.heard_ns)
                .map(|(id, _)| *id);
            let silent = silent
                .and_then(|id| self.clients.remove(&id))
                .expect("it is full of clients");
            self.by_address.remove(&silent.address);
            self.own_drops.receive_buffer += u64::from(silent.overflows);
        }
        let any: SocketAddr = match self.target {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        let upstream = UdpSocket::bind(any)?;
        socket::prepare(&upstream)?;
        upstream.connect(self.target)?;
        let id = self.next_client;
        self.next_client += 1;
        self.clients.insert(
            id,
            Client {
                address,
                upstream,
                heard_ns: now_ns,
                overflows: 0,
            },
        );
        self.by_address.insert(address, id);
        Ok(id)
    }

    /// Sends what is due; returns whether anything was.
    fn deliver(&mut self, now_ns: u64) -> bool {
        let mut due: Vec<Held> = Vec::new();
        while self
            .on_the_way
            .peek()
            .is_some_and(|Reverse(first)| first.at_ns <= now_ns)
        {
            due.extend(self.on_the_way.pop().map(|Reverse(held)| held));
        }
        // Neighbours that go to the same place go together.
        for run in due.chunk_by(|one, next| (one.way, one.client) == (next.way, next.client)) {
            run.iter()
                .for_each(|held| self.lateness.record(now_ns - held.at_ns));
            let payloads = run.iter().map(|held| &held.payload[..]);
            match (run[0].way, self.clients.get(&run[0].client)) {
                (Way::There, Some(client)) => {
                    self.own_drops.not_sent += socket::send(&client.upstream, None, payloads)
                }
                (Way::Back, Some(client)) => {
                    self.own_drops.not_sent +=
                        socket::send(&self.listener, Some(client.address), payloads);
                }
                (_, None) => self.own_drops.client_gone += run.len() as u64,
            }
        }
        !due.is_empty()
    }
}

/// Both clocks at one moment.
#[derive(Clone, Copy)]
struct Clock {
    /// Monotonic.
    now_ns: u64,
    /// What the kernel stamps packets with.
    real_ns: u64,
}

impl Clock {
    fn read() -> io::Result<Clock> {
        let read = |id| clock_gettime(id).map(nanoseconds);
        Ok(Clock {
            now_ns: read(ClockId::CLOCK_MONOTONIC)?,
            real_ns: read(ClockId::CLOCK_REALTIME)?,
        })
    }

    /// When a packet came, on the monotonic clock.
    fn arrival_ns(&self, stamp_ns: Option<u64>) -> u64 {
        let age_ns = stamp_ns.map_or(0, |stamp_ns| self.real_ns.saturating_sub(stamp_ns));
        if age_ns > OLDEST_STAMP_NS {
            self.now_ns
        } else {
            self.now_ns.saturating_sub(age_ns)
        }
    }
}
