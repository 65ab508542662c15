//! What each part costs by itself, and files by size through two engines in one process (loopback,
//! files in memory).
//!
//! `cargo bench --bench throughput_bench [-- FILTER]`; a part is `table`, `quic`, `wire`, `hash`,
//! `chunks`, `session`, `udp` or `engine`. `table` is the specification's, of transfers by handles;
//! it comes first where all are run. For comparisons of the others keep the numbers of before: `--
//! --save-baseline NAME`, then `-- --baseline NAME`.

mod ends;
mod micro;

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput, criterion_group};
use ends::Ends;
use landro::engine::Grant;
use landro::proto::session::{Direction, Request, Transfer, TransferOptions};
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
    ends: Ends,
}

impl Host {
    fn start() -> Host {
        let dir = dir_in_memory();
        let root = dir.path().join("root");
        std::fs::create_dir(&root).expect("the served root");
        let all = Grant {
            read: true,
            write: true,
        };
        Host {
            ends: Ends::start(root, all),
            dir,
        }
    }

    /// A source of this size whose bytes no layer could shorten.
    fn source(&self, size_bytes: usize) -> PathBuf {
        let path = self.dir.path().join(format!("source-{size_bytes}"));
        std::fs::write(&path, micro::noise(size_bytes)).expect("a source");
        path
    }

    /// Handshake, transfer, verification, rename.
    fn push(&self, source: &Path, streams: usize) {
        let request = Request::Transfer(Transfer {
            direction: Direction::Push,
            sources: vec![Bytes::copy_from_slice(source.as_os_str().as_bytes())],
            target: Bytes::from_static(b"copy"),
            options: TransferOptions {
                force: true,
                ..TransferOptions::default()
            },
        });
        let totals = self.ends.run(request, streams, |_| {});
        assert_eq!((totals.errors, totals.files), (0, 1), "{totals:?}");
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
    host.ends
        .server
        .shutdown()
        .expect("the daemon ends in order");
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
