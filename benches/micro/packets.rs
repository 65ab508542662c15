//! What a packet costs to build, to take and to acknowledge: two connections in memory, no sockets.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput};
use landro::config::{ETHERNET_UDP_PAYLOAD_BYTES, QuicConfig};
use landro::engine::now;
use landro::ids::WorkerId;
use landro::quic::{
    Accept, Conn, Connect, Identity, Route, Router, Run, Secrets, Setup, TicketKeys,
};

use super::{PIECE_BYTES, noise};

const CLIENT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)), 1_111);
const SERVER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2)), 4_433);

/// What the routers know the only connection by.
const KEY: usize = 0;

/// UDP payload of an MTU of 9000.
const JUMBO_UDP_PAYLOAD_BYTES: usize = 8_972;

/// Batches after which path MTU discovery is over and the congestion window wide.
const WARM_UP_BATCHES: usize = 300;

/// Longer than any handshake is in round trips.
const MOST_FLIGHTS: usize = 20;

/// Both ends' worker-wide state: all that connections have in common.
struct Ends {
    client_setup: Setup,
    server_setup: Setup,
    client_router: Router,
    server_router: Router,
    out: Vec<u8>,
    runs: Vec<Run>,
}

impl Ends {
    fn new(payload_bytes: usize) -> Ends {
        let (client, server) = (identity(), identity());
        let trust = || Arc::new(|_: &_| true);
        let (quic, tickets) = (
            QuicConfig::auto(),
            TicketKeys::random().expect("random bytes"),
        );
        let secrets = Arc::new(Secrets::fresh(now()));
        let mut client_setup = Setup::client(&client, trust(), &quic).expect("a client's setup");
        let mut server_setup =
            Setup::server(&server, trust(), &quic, &tickets).expect("a server's setup");
        client_setup.set_interface_payload(payload_bytes);
        server_setup.set_interface_payload(payload_bytes);
        Ends {
            client_setup,
            server_setup,
            client_router: Router::new(WorkerId(0), 1, Arc::clone(&secrets), false),
            server_router: Router::new(WorkerId(0), 1, secrets, true),
            out: vec![0; PIECE_BYTES],
            runs: Vec::new(),
        }
    }

    /// A whole handshake, certificates on both sides.
    fn connect(&mut self) -> (Conn, Conn) {
        let Ends {
            client_setup,
            server_setup,
            client_router,
            server_router,
            out,
            runs,
        } = self;
        let connect = Connect {
            key: KEY,
            local: CLIENT,
            peer: SERVER,
            steer: None,
            ticket: None,
            now: now(),
        };
        let client = Conn::connect(client_setup, client_router, connect);
        let (mut client, mut server) = (client.expect("a client's connection"), None);
        for _ in 0..MOST_FLIGHTS {
            carry(&mut client, out, runs, |datagram| {
                if server.is_none() {
                    let Route::New(new) =
                        server_router.route(datagram, CLIENT, SERVER, now(), false)
                    else {
                        panic!("the first datagram asks for a connection");
                    };
                    let accept = Accept {
                        key: KEY,
                        new,
                        local: SERVER,
                        peer: CLIENT,
                        now: now(),
                    };
                    let accepted = Conn::accept(server_setup, server_router, accept);
                    server = Some(accepted.expect("a server's connection"));
                }
                if let Some(server) = &mut server {
                    server
                        .recv(datagram, CLIENT)
                        .expect("the client speaks QUIC");
                }
            });
            if let Some(server) = &mut server {
                carry(server, out, runs, |datagram| {
                    client
                        .recv(datagram, SERVER)
                        .expect("the server speaks QUIC");
                });
            }
            if client.is_established() && server.as_ref().is_some_and(Conn::is_established) {
                break;
            }
        }
        let server = server
            .filter(Conn::is_established)
            .expect("the handshake ends");
        (client, server)
    }

    fn forget(&mut self) {
        self.client_router.remove(KEY);
        self.server_router.remove(KEY);
    }
}

fn identity() -> Identity {
    Identity::generate().expect("an identity")
}

/// Everything `from` has to say.
fn carry(from: &mut Conn, out: &mut [u8], runs: &mut Vec<Run>, mut to: impl FnMut(&mut [u8])) {
    while let Some(filled) = from.fill(now(), out, usize::MAX, runs) {
        deliver(out, runs, &mut to);
        if !filled.more {
            break;
        }
    }
}

/// The datagrams the kernel makes of runs.
fn deliver(out: &mut [u8], runs: &[Run], to: &mut impl FnMut(&mut [u8])) {
    for run in runs {
        let bytes = &mut out[run.range.clone()];
        let segment_bytes = run.segment_bytes.map_or(bytes.len(), usize::from);
        bytes.chunks_mut(segment_bytes).for_each(&mut *to);
    }
}

/// A connection that carries one endless stream.
struct Flow {
    ends: Ends,
    client: Conn,
    server: Conn,
    stream: u64,
    data: Bytes,
    sink: Vec<u8>,
    /// Taken by the client's transport, not read by the server yet.
    under_way_bytes: usize,
}

/// Where the time of some batches went.
#[derive(Default)]
struct Spent {
    packets: usize,
    runs: usize,
    build: Duration,
    take: Duration,
    acknowledge: Duration,
}

impl Flow {
    fn new(payload_bytes: usize) -> Flow {
        let mut ends = Ends::new(payload_bytes);
        let (mut client, server) = ends.connect();
        let stream = client.open_uni().expect("a stream");
        let data = Bytes::from(noise(PIECE_BYTES));
        let sink = vec![0; PIECE_BYTES];
        let mut flow = Flow {
            ends,
            client,
            server,
            stream,
            data,
            sink,
            under_way_bytes: 0,
        };
        for _ in 0..WARM_UP_BATCHES {
            flow.batch(&mut Spent::default());
        }
        let found_bytes = flow.client.snapshot().udp_payload_bytes;
        assert_eq!(
            found_bytes, payload_bytes,
            "path MTU discovery has not come to its end"
        );
        flow
    }

    /// One buffer of packets: built, then taken and read, then acknowledged, as the two workers do
    /// it.
    fn batch(&mut self, spent: &mut Spent) {
        let (out, runs) = (&mut self.ends.out, &mut self.ends.runs);
        let began = now();
        // A piece is a little more than a buffer of packets carries.
        if self.under_way_bytes < PIECE_BYTES {
            let rest = self
                .client
                .send(self.stream, self.data.clone(), false)
                .expect("the stream is open");
            self.under_way_bytes += PIECE_BYTES - rest.map_or(0, |rest| rest.len());
        }
        let filled = self
            .client
            .fill(began, out, usize::MAX, runs)
            .expect("there is something to send");
        let built = now();
        let server = &mut self.server;
        deliver(out, runs, &mut |datagram| {
            server.recv(datagram, CLIENT).expect("a good packet")
        });
        while let Some(stream) = server.readable_next() {
            while let Some((len, _)) = server
                .read(stream, &mut self.sink)
                .expect("the stream is open")
            {
                self.under_way_bytes -= len;
            }
        }
        let taken = now();
        spent.packets += filled.packets;
        spent.runs += runs.len();
        let client = &mut self.client;
        carry(server, out, runs, |datagram| {
            client.recv(datagram, SERVER).expect("a good packet")
        });
        spent.build += built - began;
        spent.take += taken - built;
        spent.acknowledge += now() - taken;
    }

    /// The share of `packets` packets in one of the times.
    fn time(&mut self, packets: u64, part: impl Fn(&Spent) -> Duration) -> Duration {
        let mut spent = Spent::default();
        while (spent.packets as u64) < packets {
            self.batch(&mut spent);
        }
        assert!(spent.runs < spent.packets, "packets are sent one by one");
        part(&spent).mul_f64(packets as f64 / spent.packets as f64)
    }
}

type Part = (&'static str, fn(&Spent) -> Duration);

const PARTS: [Part; 3] = [
    ("build", |spent| spent.build),
    ("take", |spent| spent.take),
    ("acknowledge", |spent| spent.acknowledge),
];

pub fn bench(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("quic/packet");
    for payload_bytes in [ETHERNET_UDP_PAYLOAD_BYTES, JUMBO_UDP_PAYLOAD_BYTES] {
        let mut flow = Flow::new(payload_bytes);
        group.throughput(Throughput::Bytes(payload_bytes as u64));
        for (name, part) in PARTS {
            group.bench_function(BenchmarkId::new(name, payload_bytes), |bencher| {
                bencher.iter_custom(|packets| flow.time(packets, part));
            });
        }
    }
    group.finish();

    let mut ends = Ends::new(ETHERNET_UDP_PAYLOAD_BYTES);
    criterion.bench_function("quic/handshake of both sides", |bencher| {
        bencher.iter(|| {
            drop(ends.connect());
            ends.forget();
        });
    });
}
