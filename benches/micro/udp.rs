//! The driver under UDP: io_uring against poll, GSO × GRO, a full buffer of packets each time; and
//! one datagram there and back.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput};
use landro_sys::{
    Availability, Backend, Caps, Completion, Driver, DriverConfig, Pool, Run, SendBuffer, SendRun,
    SocketId, UdpOptions, UdpSocket,
};
use nix::sys::socket::{setsockopt, sockopt::UdpGroSegment};

const DATAGRAM_BYTES: usize = 1_472;
/// What fits one message.
const DATAGRAMS: usize = SendBuffer::BYTES / DATAGRAM_BYTES;
const BATCH_BYTES: usize = DATAGRAMS * DATAGRAM_BYTES;

const PING_BYTES: usize = 64;

/// Loopback delivers in microseconds or not at all.
const LOST_AFTER: Duration = Duration::from_secs(5);

/// Two sockets of one driver, so that what is measured is the cost of both sides and no scheduling.
struct Pair {
    driver: Driver,
    sockets: [(SocketId, SocketAddr); 2],
    buffer: Option<SendBuffer>,
}

impl Pair {
    fn new(backend: Backend, gro: bool) -> Pair {
        let pool = Pool::new(1).expect("a pool");
        // As a worker has it.
        let config = DriverConfig {
            recv_buffers: 16,
            queue_entries: 256,
        };
        let mut driver = Driver::new(backend, &config, &pool).expect("a driver");
        let sockets = [(); 2].map(|()| {
            let options = UdpOptions {
                recv_buffer_bytes: 4 << 20,
                send_buffer_bytes: 256 << 10,
                reuse_port: false,
            };
            let socket =
                UdpSocket::bind((Ipv4Addr::LOCALHOST, 0).into(), &options).expect("a socket");
            setsockopt(&socket, UdpGroSegment, &gro).expect("UDP_GRO");
            let address = socket.local_addr().expect("its address");
            (
                driver.add_socket(socket).expect("room for a socket"),
                address,
            )
        });
        Pair {
            driver,
            sockets,
            buffer: Some(SendBuffer::new()),
        }
    }

    /// Sends from one socket to the other; gives the number of messages that `datagrams` datagrams
    /// arrived in.
    fn send(&mut self, from: usize, runs: Vec<Run>, datagrams: usize) -> usize {
        let buffer = self.buffer.take().expect("the buffer came back");
        let (socket, to) = (self.sockets[from].0, self.sockets[1 - from].1);
        self.driver.send(
            0,
            SendRun {
                socket,
                buffer,
                runs,
                to,
                from: None,
            },
        );
        let (mut missing, mut messages) = (datagrams, 0);
        while missing > 0 || self.buffer.is_none() {
            self.driver
                .submit_and_wait(Some(LOST_AFTER))
                .expect("the driver works");
            let before = (missing, self.buffer.is_some());
            while let Some(completion) = self.driver.next_completion() {
                match completion {
                    Completion::Received(received) => {
                        missing -= received.payload().len().div_ceil(received.segment_bytes());
                        messages += 1;
                        self.driver.recycle(received);
                    }
                    Completion::Sent { buffer, result, .. } => {
                        result.expect("loopback takes it");
                        self.buffer = Some(buffer);
                    }
                    Completion::File { .. }
                    | Completion::Refused { .. }
                    | Completion::Ready { .. }
                    | Completion::Woken => {}
                }
            }
            assert_ne!(
                before,
                (missing, self.buffer.is_some()),
                "{missing} datagrams were lost"
            );
        }
        messages
    }
}

fn batch(gso: bool) -> Vec<Run> {
    let step_bytes = if gso { BATCH_BYTES } else { DATAGRAM_BYTES };
    let starts = (0..BATCH_BYTES).step_by(step_bytes);
    let segment_bytes = gso.then_some(DATAGRAM_BYTES as u16);
    starts
        .map(|start| Run {
            range: start..start + step_bytes,
            segment_bytes,
        })
        .collect()
}

fn backends() -> Vec<(&'static str, Backend)> {
    let mut backends = vec![("poll", Backend::Poll)];
    match Caps::probe().io_uring {
        Availability::Yes => backends.insert(0, ("io_uring", Backend::IoUring)),
        Availability::No(reason) => eprintln!("io_uring is not measured: {reason}"),
    }
    backends
}

fn switch(on: bool) -> &'static str {
    if on { "on" } else { "off" }
}

pub fn bench(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("udp/44 datagrams of 1472 bytes");
    group.throughput(Throughput::Bytes(BATCH_BYTES as u64));
    for (name, backend) in backends() {
        for (gso, gro) in [(true, true), (true, false), (false, true), (false, false)] {
            let (mut pair, runs) = (Pair::new(backend, gro), batch(gso));
            // Loopback keeps a GSO message whole for whoever takes it whole, and joins nothing that
            // was sent singly.
            assert_eq!(pair.send(0, runs.clone(), DATAGRAMS) == 1, gso && gro);
            let parameter = format!("gso-{},gro-{}", switch(gso), switch(gro));
            group.bench_function(BenchmarkId::new(name, parameter), |bencher| {
                bencher.iter(|| pair.send(0, runs.clone(), DATAGRAMS));
            });
        }
    }
    group.finish();

    let mut group = criterion.benchmark_group("udp/there and back");
    for (name, backend) in backends() {
        let mut pair = Pair::new(backend, true);
        let ping = vec![Run {
            range: 0..PING_BYTES,
            segment_bytes: None,
        }];
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                pair.send(0, ping.clone(), 1);
                pair.send(1, ping.clone(), 1)
            });
        });
    }
    group.finish();
}
