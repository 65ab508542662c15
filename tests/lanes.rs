//! A lane is replaced before its AEAD limit, here lowered to a few thousand packets, while the
//! transfer goes on; over TLS its key is renewed.

mod common;

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use landro::config::{LaneCount, LaneKind, LaneKinds, QuicConfig};
use landro::engine::{
    BackendChoice, Client, ClientConfig, ClientEvent, Ended, Grant, PeerAccess, Persistence,
    ServeConfig, Server, TransportStats,
};
use landro::proto::session::{BenchWork, Direction, Request, Transfer, TransferOptions};
use landro::proto::{Outcome, Totals};
use landro::quic::Identity;

/// Packets of one lane. 64 MiB in packets of at most 16 KiB are over 4,000, so there are several
/// lanes, also where a busy machine lets a lane carry on for long before its successor is there.
const LANE_PACKETS: u64 = 250;
const FILE_BYTES: usize = 64 << 20;
const BUDGET_BYTES: u64 = 64 << 20;

/// Records of one key of TLS: 64 MiB are at least 4,096 full ones.
const KEY_RECORDS: u64 = 200;

/// Moves one file and gives the transport's statistics.
fn transfer(
    backend: BackendChoice,
    kind: LaneKind,
    root: &Path,
    request: Request,
) -> TransportStats {
    let (totals, stats) = run(backend, kind, root, request);
    assert_eq!((totals.files, totals.errors), (1, 0));
    stats
}

/// One session to its end, and the client's statistics.
fn run(
    backend: BackendChoice,
    kind: LaneKind,
    root: &Path,
    request: Request,
) -> (Totals, TransportStats) {
    let quic = QuicConfig::auto()
        .lane_packet_limit(LANE_PACKETS)
        .key_record_limit(KEY_RECORDS);
    match session(backend, kind, root, quic, request) {
        (Ended::Outcome(Outcome::Complete(totals)), stats) => (totals, stats),
        (other, _) => panic!("not complete: {other:?}"),
    }
}

/// A server that lets everybody do everything below `root`.
fn serving(backend: BackendChoice, kind: LaneKind, root: &Path, quic: QuicConfig) -> ServeConfig {
    let access = PeerAccess {
        access: Grant {
            read: true,
            write: true,
        },
        path: None,
        clear: false,
    };
    ServeConfig {
        listen: vec!["127.0.0.1:0".parse().unwrap()],
        root: root.to_path_buf(),
        workers: 2,
        backend,
        quic,
        memory_budget_bytes: BUDGET_BYTES,
        patience: Some(Duration::from_secs(60)),
        lane_kinds: LaneKinds::Only(kind),
        tcp_congestion: None,
        ktls: false,
        digest_cache: None,
        allow_clear: false,
        identity: Identity::generate().unwrap(),
        reset_secret: [0; 32],
        authorize: Arc::new(move |_| Some(access.clone())),
    }
}

fn dialling(
    backend: BackendChoice,
    kind: LaneKind,
    peer: SocketAddr,
    quic: QuicConfig,
) -> ClientConfig {
    ClientConfig {
        peer: vec![peer],
        binds: Vec::new(),
        backend,
        quic,
        memory_budget_bytes: BUDGET_BYTES,
        patience: Some(Duration::from_secs(60)),
        lane_kinds: LaneKinds::Only(kind),
        tcp_congestion: None,
        clear: false,
        ktls: false,
        identity: Identity::generate().unwrap(),
        trust: Arc::new(|_| true),
        streams: 16,
        lanes: LaneCount::Auto,
        persistence: Persistence::NONE,
        workers: 1,
    }
}

fn session(
    backend: BackendChoice,
    kind: LaneKind,
    root: &Path,
    quic: QuicConfig,
    request: Request,
) -> (Ended, TransportStats) {
    let server = Server::start(serving(backend, kind, root, quic.clone())).unwrap();
    let config = dialling(backend, kind, server.addresses()[0], quic);
    let mut client = Client::start(config, request).unwrap();
    let mut stats = None;
    let ended = loop {
        match client
            .next(Duration::from_secs(60))
            .expect("the transfer hangs")
        {
            ClientEvent::Stats(found) => stats = Some(*found),
            ClientEvent::Ended(ended) => break ended,
            ClientEvent::Connected { .. } | ClientEvent::Session(_) => {}
            ClientEvent::Lost { ended, .. } => panic!("it is begun anew: {ended:?}"),
        }
    };
    client.join().unwrap();
    server.shutdown().unwrap();
    (ended, stats.expect("statistics come before the end"))
}

/// Neither side starts with a configuration that no connection can have, and says what there may be
/// in its place.
#[test]
fn a_configuration_is_checked_by_whoever_starts() {
    let root = tempfile::tempdir().unwrap();
    let unknown = QuicConfig::auto().congestion_control("vegas");
    let idle = Duration::from_secs(1);
    let impossible = QuicConfig::auto().idle_timeout(idle);
    for (quic, expected) in [
        (
            unknown,
            "unknown congestion control \"vegas\": bbr, cubic or reno",
        ),
        (
            impossible,
            "idle_timeout cannot be 1s: it has to be longer than keep_alive",
        ),
    ] {
        let (backend, kind) = (BackendChoice::Poll, LaneKind::Quic);
        let serving = serving(backend, kind, root.path(), quic.clone());
        let dialling = dialling(backend, kind, "127.0.0.1:1".parse().unwrap(), quic);
        let request = Request::Bench {
            work: BenchWork::Send,
            duration: LONGEST_BENCHMARK,
        };
        for error in [
            Server::start(serving).err().expect("it serves"),
            Client::start(dialling, request).err().expect("it dials"),
        ] {
            let said = error.to_string();
            assert!(said.contains(expected), "{said}");
        }
    }
}

/// Nobody replaces a lane here, so its key would be spent: whichever side sends closes before.
fn spent_keys_end_the_session(backend: BackendChoice) {
    const KEY_PACKETS: u64 = 1_000;
    let root = tempfile::tempdir().unwrap();
    let quic = QuicConfig::auto()
        .lane_packet_limit(KEY_PACKETS)
        .key_packet_limit(KEY_PACKETS);
    for work in [BenchWork::Send, BenchWork::Receive] {
        let request = Request::Bench {
            work,
            duration: LONGEST_BENCHMARK,
        };
        let (ended, stats) = session(backend, LaneKind::Quic, root.path(), quic.clone(), request);
        let Ended::Lost(why) = ended else {
            panic!("{work:?}: {ended:?}")
        };
        assert!(
            why.contains("its key has sealed as many packets as it may"),
            "{why}"
        );
        assert_eq!(stats.lanes, 1);
        assert!(
            stats.sent_packets <= KEY_PACKETS && stats.received_packets <= KEY_PACKETS,
            "{stats:?}"
        );
    }
}

#[test]
fn io_uring_closes_before_a_key_is_spent() {
    if common::has_io_uring() {
        spent_keys_end_the_session(BackendChoice::IoUring);
    }
}

#[test]
fn poll_closes_before_a_key_is_spent() {
    spent_keys_end_the_session(BackendChoice::Poll);
}

/// The statistics of a push and of a pull of one file, which arrives both times.
fn push_and_pull(backend: BackendChoice, kind: LaneKind) -> [TransportStats; 2] {
    let dir = || tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (here, there) = (dir(), dir());
    let content: Vec<u8> = (0..FILE_BYTES)
        .map(|i| (i * 31 + (i >> 12)) as u8)
        .collect();
    let local =
        |name: &str| Bytes::from(here.path().join(name).into_os_string().into_encoded_bytes());
    fs::write(here.path().join("file"), &content).unwrap();

    let push = Request::Transfer(Transfer {
        direction: Direction::Push,
        sources: vec![local("file")],
        target: Bytes::from_static(b"pushed"),
        options: TransferOptions::default(),
    });
    let pushed = transfer(backend, kind, there.path(), push);
    assert!(
        fs::read(there.path().join("pushed")).unwrap() == content,
        "the pushed file differs"
    );
    let pull = Request::Transfer(Transfer {
        direction: Direction::Pull,
        sources: vec![Bytes::from_static(b"pushed")],
        target: local("pulled"),
        options: TransferOptions::default(),
    });
    let pulled = transfer(backend, kind, there.path(), pull);
    assert!(
        fs::read(here.path().join("pulled")).unwrap() == content,
        "the pulled file differs"
    );
    [pushed, pulled]
}

fn replaces_lanes(backend: BackendChoice) {
    for stats in push_and_pull(backend, LaneKind::Quic) {
        assert!(stats.lanes > 2, "lanes used: {}", stats.lanes);
        assert_eq!(stats.keys_renewed, 0);
    }
}

/// Who sends renews its key again and again, on the one lane that there is.
fn renews_keys(backend: BackendChoice) {
    for stats in push_and_pull(backend, LaneKind::Tls) {
        let least = FILE_BYTES as u64 / (16 << 10) / KEY_RECORDS;
        assert!(stats.keys_renewed >= least, "{stats:?}");
        assert_eq!(stats.lanes, 1);
    }
}

#[test]
fn io_uring_renews_keys_of_tls() {
    if common::has_io_uring() {
        renews_keys(BackendChoice::IoUring);
    }
}

#[test]
fn poll_renews_keys_of_tls() {
    renews_keys(BackendChoice::Poll);
}

/// The longest benchmark. A lane carries on until its successor is there, so a machine that often
/// does something else has few lanes in a second.
const LONGEST_BENCHMARK: Duration = Duration::from_secs(32);

/// Lanes are replaced while it runs, more often than a session may have lanes at a time, and
/// nothing is lost or out of place.
fn benchmarks(backend: BackendChoice) {
    let root = tempfile::tempdir().unwrap();
    for work in [
        BenchWork::Send,
        BenchWork::Receive,
        BenchWork::Echo { size_bytes: 1024 },
    ] {
        let mut duration = Duration::from_secs(1);
        loop {
            let request = Request::Bench { work, duration };
            let (totals, stats) = run(backend, LaneKind::Quic, root.path(), request);
            assert!(totals.sent_bytes > 0);
            if stats.lanes > 4 {
                break;
            }
            assert!(duration < LONGEST_BENCHMARK, "{work:?}: {stats:?}");
            duration *= 2;
        }
    }
}

#[test]
fn io_uring_measures_over_many_lanes() {
    if common::has_io_uring() {
        benchmarks(BackendChoice::IoUring);
    }
}

#[test]
fn poll_measures_over_many_lanes() {
    benchmarks(BackendChoice::Poll);
}

#[test]
fn io_uring_replaces_lanes_without_losing_a_byte() {
    if common::has_io_uring() {
        replaces_lanes(BackendChoice::IoUring);
    }
}

#[test]
fn poll_replaces_lanes_without_losing_a_byte() {
    replaces_lanes(BackendChoice::Poll);
}
