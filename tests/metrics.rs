//! What `serve --metrics` tells: what was really moved, in series that do not multiply, to whoever
//! asks properly, whatever others do meanwhile.

mod common;
#[path = "metrics/scrape.rs"]
mod scrape;

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::thread;
use std::time::Duration;

use common::tree::Rng;
use common::{Daemon, Running, Side, World, command, landro, within};
use scrape::{GET, Scraped, ask, ask_socket, port_of};

on_both_backends!(
    values_are_those_of_what_was_moved,
    series_do_not_multiply,
    scrapers_that_say_nothing_keep_nobody_out,
    what_nobody_knows_is_counted,
    a_socket_among_files,
);

/// As in the daemon.
const SCRAPES_MAX: usize = 32;
const REQUEST_BYTES_MAX: usize = 8 << 10;

const AT_A_PORT: &[&str] = &["--metrics", "127.0.0.1:0"];

/// Of the one large file, whose chunks have 256 KiB or more.
const LARGE_BYTES: u64 = 20 << 20;
const SMALL_FILES: u64 = 100;
const SMALL_BYTES: u64 = 3000;
const ALL_BYTES: f64 = (LARGE_BYTES + SMALL_FILES * SMALL_BYTES) as f64;

/// What a worker looks up once a second is there.
fn settled(at: &str, is_it: impl Fn(&Scraped) -> bool) -> Scraped {
    let mut last = Scraped::of(at);
    let came = within(Duration::from_secs(20), || {
        last = Scraped::of(at);
        is_it(&last)
    });
    let missing = missing(&last);
    assert!(came, "{missing:?}: {:#?}", last.series);
    last
}

/// So many sessions are over, with all their connections, and what these carried is counted.
fn is_quiet(scraped: &Scraped, sessions: u32) -> bool {
    let ended = scraped.sum("landro_sessions_ended_total", "");
    let begun = scraped.sum("landro_connections_begun_total", "");
    let is_over = begun == scraped.sum("landro_connections_ended_total", "");
    // Gauges are looked up now and then.
    let gauges = [
        "landro_connections",
        "landro_keys",
        "landro_streams",
        "landro_sessions",
        "landro_driver_operations",
        "landro_disk_hung",
    ];
    let are_zero = gauges.iter().all(|gauge| scraped.sum(gauge, "") == 0.0);
    ended == f64::from(sessions) && is_over && are_zero
}

fn a_tree(world: &World) {
    let mut rng = Rng::new("metrics");
    fs::create_dir_all(world.here("tree")).unwrap();
    fs::write(world.here("tree/large"), rng.bytes(LARGE_BYTES as usize)).unwrap();
    for number in 0..SMALL_FILES {
        let name = format!("tree/small{number}");
        fs::write(world.here(&name), rng.bytes(SMALL_BYTES as usize)).unwrap();
    }
}

fn values_are_those_of_what_was_moved(backend: &'static str) {
    let world = World::with(backend, AT_A_PORT);
    let at = port_of(&world.daemon);
    let before = Scraped::of(&at);
    let workers = format!("landro_workers{{backend=\"{backend}\"}}");
    assert!(before.value(&workers) >= 1.0);
    assert_eq!(before.sum("landro_file_bytes_total", ""), 0.0);
    a_tree(&world);
    let tree = world.here("tree");
    let over = |kinds: &str, name: &str| {
        let args = [
            "--lane-kinds",
            kinds,
            "-T",
            tree.to_str().unwrap(),
            &world.url(name),
        ];
        world.cp(&args).expect(0);
    };
    over("quic", "one");
    let after_quic = settled(&at, |scraped| is_quiet(scraped, 1));
    over("tls", "two");
    world.pull("two", world.here("back")).expect(0);
    let after = settled(&at, |scraped| {
        is_quiet(scraped, 3) && missing(scraped).is_empty()
    });

    let bytes = |scraped: &Scraped, kind: &str, direction: &str| {
        let labels = format!("{{kind=\"{kind}\",direction=\"{direction}\"}}");
        scraped.value(&format!("landro_transport_bytes_total{labels}"))
    };
    let came = bytes(&after_quic, "quic", "received");
    assert!((ALL_BYTES..1.3 * ALL_BYTES).contains(&came), "{came}");
    assert_eq!(bytes(&after_quic, "tls", "received"), 0.0);
    let came = bytes(&after, "tls", "received");
    assert!((ALL_BYTES..1.3 * ALL_BYTES).contains(&came), "{came}");
    let left = bytes(&after, "quic", "sent") + bytes(&after, "tls", "sent");
    assert!((ALL_BYTES..1.5 * ALL_BYTES).contains(&left), "{left}");

    let file_bytes =
        |verb: &str| after.value(&format!("landro_file_bytes_total{{verb=\"{verb}\"}}"));
    assert_eq!(file_bytes("push"), 2.0 * ALL_BYTES);
    assert_eq!(file_bytes("pull"), ALL_BYTES);
    let entries = after.value("landro_entries_total{result=\"done\"}");
    assert_eq!(
        entries,
        3.0 * (SMALL_FILES + 2) as f64,
        "files and a directory"
    );
    let chunks = |way: &str| after.value(&format!("landro_chunks_total{{direction=\"{way}\"}}"));
    assert!(
        chunks("received") > 2.0 * SMALL_FILES as f64,
        "{}",
        chunks("received")
    );
    assert_eq!(chunks("received"), 2.0 * chunks("sent"), "the same tree");
    assert_eq!(
        after.value("landro_sessions_ended_total{outcome=\"complete\"}"),
        3.0
    );
    for (series, value) in before.growing() {
        assert!(after.value(series) >= *value, "{series}");
    }
    stranger_is_counted(&world, &at);
}

/// What is not there of what three transfers leave, once all that is looked up was.
fn missing(after: &Scraped) -> Vec<String> {
    let count = |name: &str| after.value(name);
    let mut missing = Vec::new();
    let mut expect = |is_there: bool, what: &str| {
        if !is_there {
            missing.push(what.to_owned());
        }
    };
    expect(
        count("landro_first_byte_seconds_count") == 3.0,
        "first bytes",
    );
    for kind in ["quic", "tls"] {
        let handshakes = format!("landro_handshake_seconds_count{{kind=\"{kind}\"}}");
        let rtt = format!("landro_rtt_seconds_count{{kind=\"{kind}\"}}");
        expect(count(&handshakes) >= 1.0 && count(&rtt) >= 1.0, kind);
    }
    for work in ["read", "write", "journal", "publish", "open"] {
        let operations = format!("landro_disk_operation_seconds_count{{operation=\"{work}\"}}");
        expect(count(&operations) >= 1.0, work);
    }
    for batches in ["landro_gso_batch_packets", "landro_gro_batch_packets"] {
        let (sum, calls) = (format!("{batches}_sum"), format!("{batches}_count"));
        let all = count(&format!("{batches}_bucket{{le=\"+Inf\"}}"));
        let are_right = count(&sum) >= count(&calls) && all == count(&calls);
        expect(count(&calls) >= 1.0 && are_right, batches);
    }
    let packets = count("landro_packets_total{direction=\"received\"}");
    expect(packets >= ALL_BYTES / 65_536.0, "packets");
    let cpu = after.sum("landro_worker_cpu_seconds_total", "");
    let turns = after.sum("landro_worker_turns_total", "");
    expect(cpu > 0.0 && turns > 10.0, "what workers took");
    let budget = count("landro_memory_budget_bytes");
    let windows = count("landro_memory_limit_bytes{addend=\"windows\"}");
    expect(
        budget == f64::from(64 << 20) && windows == budget / 2.0,
        "the budget",
    );
    // All is over, and given back.
    for addend in ["windows", "quic", "handshakes", "pool", "sessions"] {
        let used = format!("landro_memory_bytes{{addend=\"{addend}\"}}");
        expect(count(&used) == 0.0, &used);
    }
    missing
}

fn stranger_is_counted(world: &World, at: &str) {
    const REFUSED: &str = "landro_refused_total{reason=\"unauthorised\"}";
    assert_eq!(Scraped::of(at).value(REFUSED), 0.0);
    let stranger = Side::new();
    for kinds in ["quic", "tls"] {
        let peer = &world.daemon.fingerprint;
        let url = world.url("");
        let args = ["ls", "--lane-kinds", kinds, "--peer", peer, &url];
        landro(&stranger, args).expect(4);
    }
    let after = settled(at, |scraped| scraped.value(REFUSED) >= 2.0);
    let failures = after.value("landro_connection_failures_total{reason=\"identity_refused\"}");
    assert!(failures >= 2.0, "{failures}");
}

fn series_do_not_multiply(backend: &'static str) {
    const SESSIONS: usize = 96;
    const AT_A_TIME: usize = 8;
    let world = World::with(backend, AT_A_PORT);
    let at = port_of(&world.daemon);
    let names = |scraped: &Scraped| scraped.series.keys().cloned().collect::<Vec<_>>();
    let before = names(&Scraped::of(&at));
    let (url, peer) = (world.url(""), &world.daemon.fingerprint);
    let list = || landro(&world.client, ["ls", "--peer", peer, &url]).expect(0);
    thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            scope.spawn(|| (0..SESSIONS / AT_A_TIME).for_each(|_| drop(list())));
        }
    });
    let after = settled(&at, |scraped| {
        scraped.value("landro_sessions_ended_total{outcome=\"complete\"}") == SESSIONS as f64
    });
    assert_eq!(names(&after), before);
    assert!(before.len() < 600, "{}", before.len());
}

fn scrapers_that_say_nothing_keep_nobody_out(backend: &'static str) {
    let world = World::with(backend, AT_A_PORT);
    let at = port_of(&world.daemon);
    let connect = || TcpStream::connect(&at).unwrap();
    let mut silent: Vec<TcpStream> = (0..2 * SCRAPES_MAX).map(|_| connect()).collect();
    for (number, stream) in silent.iter_mut().enumerate() {
        // Some have begun to ask; those that were given up for others may be gone by now.
        let _ = stream.write(&GET[..number % GET.len()]);
        if number % 4 == 0 {
            assert!(Scraped::of(&at).types.len() > 20);
        }
    }
    let scraping = || {
        let threads = fs::read_dir(format!("/proc/{}/task", world.daemon.pid())).unwrap();
        let names = threads.filter_map(|it| fs::read_to_string(it.ok()?.path().join("comm")).ok());
        names.filter(|name| name.trim() == "landro-scrape").count()
    };
    // One that has ended may be there still.
    assert!(within(Duration::from_secs(5), || scraping() <= SCRAPES_MAX));
    // The last of them is not waited for any longer than it may take.
    let mut last = connect();
    last.write_all(&GET[..10]).unwrap();
    last.set_read_timeout(Some(Duration::from_secs(30)))
        .unwrap();
    let ended = last.read(&mut [0; 1]);
    assert!(
        matches!(ended, Ok(0))
            || ended.is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionReset)
    );

    for (request, status) in [
        (&b"GET / HTTP/1.1\r\n\r\n"[..], "404"),
        (b"POST /metrics HTTP/1.1\r\n\r\n", "405"),
        (b"\x16\x03\x01 no HTTP at all\r\n\r\n", "400"),
    ] {
        let answer = ask(&at, request);
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{answer}"
        );
    }
    // As much as there is room for, so that nothing unread has the kernel reset the connection.
    let mut endless = [&GET[..GET.len() - 2], b"A: "].concat();
    endless.resize(REQUEST_BYTES_MAX, b'a');
    let answer = ask(&at, &endless);
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    let head = ask(&at, b"HEAD /metrics HTTP/1.1\r\n\r\n");
    assert!(
        head.starts_with("HTTP/1.1 200 OK\r\n") && head.ends_with("\r\n\r\n"),
        "{head}"
    );
    assert!(Scraped::of(&at).types.len() > 20);
    drop(silent);
    assert_eq!(world.daemon.stop().code, Some(0));
}

fn a_socket_among_files(backend: &'static str) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("metrics.sock");
    let told = format!("unix:{}", path.display());
    let side = Side::new();
    let start = || {
        let args = ["--backend", backend, "--metrics", &told];
        let daemon = Daemon::start(&side, dir.path(), &args);
        assert!(Scraped::read(&ask_socket(&path)).types.len() > 20);
        daemon
    };
    let mut killed = start();
    let mode = fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let second = refusal(dir.path(), &told);
    assert!(second.contains("is used by another process"), "{second}");
    killed.kill();
    assert!(path.exists());
    assert_eq!(start().stop().code, Some(0));
    assert!(!path.exists());
    // A daemon whose socket nobody finds any more ends all the same, and takes nothing with it.
    let daemon = start();
    fs::remove_file(&path).unwrap();
    fs::write(&path, "another's").unwrap();
    assert_eq!(daemon.stop().code, Some(0));
    assert_eq!(fs::read(&path).unwrap(), b"another's");
}

/// Datagrams that belong to no connection take a worker's time, and that is told while they come.
fn what_nobody_knows_is_counted(backend: &'static str) {
    let world = World::with(backend, AT_A_PORT);
    let at = port_of(&world.daemon);
    let cpu = |scraped: &Scraped| scraped.sum("landro_worker_cpu_seconds_total", "");
    // What the start took is looked up by then.
    let mut before = cpu(&Scraped::of(&at));
    assert!(within(Duration::from_secs(20), || {
        thread::sleep(Duration::from_millis(1500));
        let last = std::mem::replace(&mut before, cpu(&Scraped::of(&at)));
        last == before
    }));
    let junk = UdpSocket::bind("127.0.0.1:0").unwrap();
    for _ in 0..500 {
        junk.send_to(&[0x40; 1200], world.daemon.address()).unwrap();
    }
    settled(&at, |scraped| cpu(scraped) > before);
}

/// What a daemon says that does not start.
fn refusal(root: &Path, metrics: &str) -> String {
    let side = Side::new();
    let root = root.to_str().unwrap();
    let args = [
        "serve",
        root,
        "--listen",
        "127.0.0.1:0",
        "--metrics",
        metrics,
    ];
    let ended = Running::spawn(command(&side, &[], args)).wait();
    assert!(matches!(ended.code, Some(1 | 2)), "{ended:?}");
    ended.stderr
}

#[test]
fn an_address_that_cannot_be_had_is_an_error_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let held = TcpListener::bind("127.0.0.1:0").unwrap();
    let said = refusal(dir.path(), &held.local_addr().unwrap().to_string());
    assert!(
        said.contains("--metrics") && said.contains("ss -tlpn"),
        "{said}"
    );
    let said = refusal(dir.path(), "localhost");
    assert!(said.contains("unix:PATH"), "{said}");
    let file = dir.path().join("file");
    fs::write(&file, "data").unwrap();
    let said = refusal(dir.path(), &format!("unix:{}", file.display()));
    assert!(said.contains("no socket"), "{said}");
    assert_eq!(fs::read(&file).unwrap(), b"data");
    let no_directory = dir.path().join("no/where");
    let said = refusal(dir.path(), &format!("unix:{}", no_directory.display()));
    assert!(said.contains("directory has to exist"), "{said}");
}

/// What docs/monitoring.md lists is what is served, with the same types.
#[test]
fn the_document_lists_what_is_served() {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/monitoring.md"));
    let text = text.unwrap();
    let rows = text
        .lines()
        .filter_map(|line| line.strip_prefix("| `landro_"));
    let listed: BTreeMap<String, String> = rows
        .map(|row| {
            let (name, rest) = row.split_once('`').unwrap();
            let kind = rest.split('|').nth(1).unwrap().trim();
            (format!("landro_{name}"), kind.to_owned())
        })
        .collect();
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(&Side::new(), dir.path(), AT_A_PORT);
    let served = Scraped::of(&port_of(&daemon)).types;
    // As they are asked for: a counter's name ends in _total, that of an info in _info.
    let shown = served.into_iter().map(|(name, kind)| match &kind[..] {
        "counter" => (format!("{name}_total"), kind),
        "info" => (format!("{name}_info"), kind),
        _ => (name, kind),
    });
    assert_eq!(listed, shown.collect());
    for file in ["rules.yml", "dashboard.json"] {
        names_in_file_are_served(file, &listed);
    }
}

/// Every metric that rules or a dashboard ask for is one.
fn names_in_file_are_served(file: &str, listed: &BTreeMap<String, String>) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("docs/monitoring")
        .join(file);
    let text = fs::read_to_string(path).unwrap();
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut found = 0;
    for (at, _) in text.match_indices("landro_") {
        if text[..at].ends_with(is_word) {
            continue;
        }
        let name: String = text[at..].chars().take_while(|c| is_word(*c)).collect();
        let ends = ["_bucket", "_sum", "_count"];
        let base = ends.iter().find_map(|end| name.strip_suffix(end));
        let is_histogram =
            base.is_some_and(|base| listed.get(base).is_some_and(|it| it == "histogram"));
        assert!(
            is_histogram || listed.contains_key(&name),
            "{file} asks for {name}"
        );
        found += 1;
    }
    assert!(found > 5, "{file}");
}
