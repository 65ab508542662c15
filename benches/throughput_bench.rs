//! What each part costs by itself, and files by size through two engines in one process (loopback,
//! files in memory).
//!
//! `cargo bench --bench throughput_bench [-- FILTER]`; a part is `table`, `quic`, `wire`, `hash`,
//! `chunks`, `session`, `udp` or `engine`. `table` is the specification's, of transfers by handles;
//! it comes first where all are run. For comparisons of the others keep the numbers of before: `--
//! --save-baseline NAME`, then `-- --baseline NAME`.

mod micro;

use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput, criterion_group};
use landro::budget::DEFAULT_MEMORY_BUDGET_BYTES;
use landro::config::{LaneCount, LaneKind, LaneKinds, QuicConfig};
use landro::engine::{
    BackendChoice, Client, ClientConfig, ClientEvent, Ended, Grant, PeerAccess, Persistence,
    ServeConfig, Server,
};
use landro::proto::Outcome;
use landro::proto::session::{Direction, Request, Transfer, TransferOptions};
use landro::quic::Identity;
use tempfile::TempDir;

/// The allocator of the binary: another one would be another engine.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The specification's table.
const SIZES: [(&str, usize); 5] = [
    ("1KB", 1_000),
    ("100KB", 100_000),
    ("1MB", 1_000_000),
    ("10MB", 10_000_000),
    ("100MB", 100_000_000),
];
const STREAMS: [usize; 2] = [1, 16];

/// A daemon that lets one client in, and files to send.
struct Host {
    dir: TempDir,
    server: Server,
    client: Identity,
}

impl Host {
    fn start() -> Host {
        let dir = dir_in_memory();
        let client = Identity::generate().expect("an identity");
        let allowed = client.fingerprint();
        let root = dir.path().join("root");
        std::fs::create_dir(&root).expect("the served root");
        let server = Server::start(ServeConfig {
            listen: vec![(Ipv4Addr::LOCALHOST, 0).into()],
            root,
            // One lane has one worker; a second would only make its core a matter of chance.
            workers: 1,
            backend: BackendChoice::Auto,
            quic: QuicConfig::auto(),
            memory_budget_bytes: DEFAULT_MEMORY_BUDGET_BYTES,
            patience: None,
            lane_kinds: LaneKinds::Only(LaneKind::Quic),
            tcp_congestion: None,
            allow_clear: false,
            ktls: false,
            digest_cache: None,
            identity: Identity::generate().expect("an identity"),
            reset_secret: [0; 32],
            authorize: Arc::new(move |peer| {
                let access = Grant {
                    read: true,
                    write: true,
                };
                (*peer == allowed).then_some(PeerAccess {
                    access,
                    path: None,
                    clear: false,
                })
            }),
        });
        Host {
            dir,
            server: server.expect("a daemon on loopback"),
            client,
        }
    }

    /// A source of this size whose bytes no layer could shorten.
    fn source(&self, size_bytes: usize) -> PathBuf {
        let path = self.dir.path().join(format!("source-{size_bytes}"));
        std::fs::write(&path, micro::noise(size_bytes)).expect("a source");
        path
    }

    /// One session from its thread's start to its end: handshake, transfer, verification, rename.
    fn push(&self, source: &Path, streams: usize) {
        let config = ClientConfig {
            peer: self.address(),
            binds: Vec::new(),
            backend: BackendChoice::Auto,
            quic: QuicConfig::auto(),
            memory_budget_bytes: DEFAULT_MEMORY_BUDGET_BYTES,
            patience: None,
            lane_kinds: LaneKinds::Only(LaneKind::Quic),
            tcp_congestion: None,
            clear: false,
            ktls: false,
            identity: self.client.clone(),
            trust: Arc::new(|_| true),
            streams,
            lanes: LaneCount::Auto,
            persistence: Persistence::NONE,
            workers: 1,
        };
        let request = Request::Transfer(Transfer {
            direction: Direction::Push,
            sources: vec![Bytes::copy_from_slice(source.as_os_str().as_bytes())],
            target: Bytes::from_static(b"copy"),
            options: TransferOptions {
                force: true,
                ..TransferOptions::default()
            },
        });
        let mut client = Client::start(config, request).expect("a client");
        let ended = loop {
            if let Some(ClientEvent::Ended(ended)) = client.next(Duration::from_secs(60)) {
                break ended;
            }
        };
        match ended {
            Ended::Outcome(Outcome::Complete(totals))
                if totals.errors == 0 && totals.files == 1 => {}
            other => panic!("the transfer ended with {other:?}"),
        }
        client.join().expect("the client's worker");
    }

    fn address(&self) -> Vec<SocketAddr> {
        self.server.addresses().to_vec()
    }
}

/// In memory where there is such a place: the disk is not what is measured.
fn dir_in_memory() -> TempDir {
    tempfile::tempdir_in("/dev/shm")
        .or_else(|_| tempfile::tempdir())
        .expect("a temporary directory")
}

fn engine(criterion: &mut Criterion) {
    let host = Host::start();
    let mut group = criterion.benchmark_group("engine/push");
    for (name, size_bytes) in SIZES {
        let source = host.source(size_bytes);
        group.throughput(Throughput::Bytes(size_bytes as u64));
        group.sampling_mode(SamplingMode::Flat);
        for streams in STREAMS {
            group.bench_function(
                BenchmarkId::new(name, format!("{streams}-streams")),
                |bencher| {
                    bencher.iter(|| host.push(&source, streams));
                },
            );
        }
    }
    group.finish();
    host.server.shutdown().expect("the daemon ends in order");
}

/// Some forty figures: the file stays below three minutes.
fn parts_config() -> Criterion {
    Criterion::default()
        .without_plots()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_millis(1_500))
}

/// A transfer of 100 MB takes a tenth of a second.
fn engine_config() -> Criterion {
    Criterion::default()
        .without_plots()
        .sample_size(15)
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(3))
}

criterion_group! {
    name = parts;
    config = parts_config();
    targets = micro::packets::bench, micro::wire::bench, micro::hashing::bench, micro::chunks::bench,
        micro::sessions::bench, micro::udp::bench
}
criterion_group! { name = whole; config = engine_config(); targets = engine }

fn main() {
    // cargo itself adds `--bench`.
    let mut words = std::env::args().skip(1).filter(|word| word != "--bench");
    let first = words.next();
    if first.as_deref().is_none_or(|word| word == "table") {
        micro::table::print(&dir_in_memory());
    }
    if first.as_deref() != Some("table") {
        parts();
        whole();
        Criterion::default().configure_from_args().final_summary();
    }
}
