//! Pools of connections: peers that are killed, frozen, slow, or somebody else; callers that come
//! together, wait, and go away.

#[path = "streams/lossy.rs"]
#[allow(dead_code, reason = "other tests use the rest of it")]
mod lossy;
#[path = "pool/peer.rs"]
mod peer;
#[path = "pool/slow.rs"]
mod slow;

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Duration;

use futures_lite::future::{block_on, poll_once};
use landro::engine::{BackendChoice, Identity, now};
use landro::{
    ConnectError, Connection, ConnectionError, ConnectionPool, ConnectionPoolConfig, Engine,
    PeerFailure, PeerTrust, PoolError, PoolEventKind, PooledConnection,
};
use lossy::lossy;
use peer::{PROTOCOL, PeerProcess, echo, listening};
use slow::slow;

const BACKENDS: [BackendChoice; 2] = [BackendChoice::IoUring, BackendChoice::Poll];

fn loopback() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 0))
}

/// Short times, so that what is waited for comes within a test.
fn quick() -> ConnectionPoolConfig {
    ConnectionPoolConfig {
        connect_timeout: Duration::from_millis(1500),
        health_interval: Duration::from_millis(500),
        health_timeout: Duration::from_millis(800),
        backoff_initial: Duration::from_millis(50),
        backoff_max: Duration::from_millis(400),
        ..ConnectionPoolConfig::default()
    }
}

fn pool_on(backend: BackendChoice, config: ConnectionPoolConfig) -> (Engine, ConnectionPool) {
    let engine = Engine::builder().protocol(PROTOCOL).backend(backend);
    let engine = engine.start().unwrap();
    let pool = ConnectionPool::new(&engine, config).unwrap();
    (engine, pool)
}

fn pool(config: ConnectionPoolConfig) -> (Engine, ConnectionPool) {
    pool_on(BackendChoice::Auto, config)
}

struct Unparks(Thread);

impl Wake for Unparks {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Fails where something takes longer than anything here does.
fn soon<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    let waker = Waker::from(Arc::new(Unparks(thread::current())));
    let until = now() + Duration::from_secs(60);
    loop {
        let polled = future.as_mut().poll(&mut Context::from_waker(&waker));
        if let Poll::Ready(output) = polled {
            return output;
        }
        assert!(now() < until, "it took more than a minute");
        thread::park_timeout(Duration::from_secs(1));
    }
}

fn until(what: &str, is_so: impl Fn() -> bool) {
    let end = now() + Duration::from_secs(30);
    while !is_so() {
        assert!(now() < end, "{what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// The next event of such a kind.
fn told<T>(pool: &ConnectionPool, wanted: impl Fn(PoolEventKind) -> Option<T>) -> T {
    loop {
        let event = soon(pool.next_event()).expect("the pool is there");
        if let Some(found) = wanted(event.kind) {
            return found;
        }
    }
}

/// A peer in this process, which counts who comes.
struct Peer {
    engine: Engine,
    address: String,
    trust: PeerTrust,
    came: Arc<AtomicUsize>,
}

fn served(serve: impl Fn(Connection) + Send + 'static) -> Peer {
    let engine = listening(loopback(), Identity::generate().unwrap());
    let (listener, came) = (engine.listener(), Arc::new(AtomicUsize::new(0)));
    let count = came.clone();
    thread::spawn(move || {
        while let Some(connection) = block_on(listener.accept()) {
            count.fetch_add(1, Ordering::SeqCst);
            serve(connection);
        }
    });
    Peer {
        address: engine.listener().addresses()[0].to_string(),
        trust: PeerTrust::Pinned(engine.fingerprint()),
        engine,
        came,
    }
}

fn echoing() -> Peer {
    served(|connection| {
        thread::spawn(move || block_on(echo(connection)));
    })
}

impl Peer {
    fn get(&self, pool: &ConnectionPool) -> Result<PooledConnection, PoolError> {
        soon(pool.get(&self.address, self.trust.clone()))
    }

    fn came(&self) -> usize {
        self.came.load(Ordering::SeqCst)
    }
}

async fn answers(connection: &Connection) -> bool {
    let asked = async {
        let (mut send, mut receive) = connection.open_bi().await.ok()?;
        send.write_all(b"hello").await.ok()?;
        send.finish().ok()?;
        receive.read_to_end(100).await.ok()
    };
    asked.await.is_some_and(|answer| &answer[..] == b"hello")
}

#[test]
fn a_hundred_callers_cause_one_dial() {
    for backend in BACKENDS {
        let peer = echoing();
        let (_engine, pool) = pool_on(backend, ConnectionPoolConfig::default());
        thread::scope(|scope| {
            for _ in 0..100 {
                let got = pool.get(&peer.address, peer.trust.clone());
                scope.spawn(move || {
                    let connection = soon(got).unwrap();
                    assert!(soon(answers(&connection)));
                });
            }
        });
        assert_eq!(peer.came(), 1);
        let statistics = pool.statistics();
        assert_eq!((statistics.gets, statistics.dials), (100, 1));
        assert_eq!((statistics.connections, statistics.callers), (1, 0));
        assert_eq!(statistics.waiting, 0);
    }
}

#[test]
fn a_caller_that_goes_away_takes_nothing_from_the_others() {
    let peer = echoing();
    let at = slow(peer.address.parse().unwrap(), Duration::from_millis(50)).to_string();
    let (_engine, pool) = pool(ConnectionPoolConfig::default());
    let mut first = Box::pin(pool.get(&at, peer.trust.clone()));
    let mut second = Box::pin(pool.get(&at, peer.trust.clone()));
    assert!(soon(poll_once(first.as_mut())).is_none());
    assert!(soon(poll_once(second.as_mut())).is_none());
    until("it is not dialled", || pool.statistics().dialling == 1);
    drop(first);
    let connection = soon(second).unwrap();
    assert!(soon(answers(&connection)));
    assert_eq!((peer.came(), pool.statistics().callers), (1, 1));
    // Whenever it is dropped, its place is free again.
    for round in 0..200 {
        let address = format!("{at}{}", if round % 3 == 0 { "" } else { "0" });
        let mut got = Box::pin(pool.get(&address, peer.trust.clone()));
        let _ = soon(poll_once(got.as_mut()));
        if round % 2 == 0 {
            thread::sleep(Duration::from_millis(1));
        }
        drop(got);
    }
    drop(connection);
    let statistics = pool.statistics();
    assert_eq!((statistics.callers, statistics.waiting), (0, 0));
}

#[test]
fn callers_beyond_the_limits_wait_and_beyond_that_are_refused() {
    let peer = echoing();
    let config = ConnectionPoolConfig {
        max_connections_per_peer: 2,
        max_callers_per_connection: 1,
        max_waiting_callers: 1,
        wait_timeout: Duration::from_millis(300),
        ..ConnectionPoolConfig::default()
    };
    let (_engine, pool) = pool(config);
    let first = peer.get(&pool).unwrap();
    let second = peer.get(&pool).unwrap();
    until("two came", || peer.came() == 2);
    let late = peer.get(&pool).unwrap_err();
    let words = "all of its 2 connections have as many callers as they may";
    assert!(late.to_string().contains(words), "{late}");
    assert!(matches!(late, PoolError::TimedOut { connections: 2, .. }) && late.is_retryable());
    let mut waits = Box::pin(pool.get(&peer.address, peer.trust.clone()));
    assert!(soon(poll_once(waits.as_mut())).is_none());
    assert_eq!(peer.get(&pool).unwrap_err(), PoolError::TooManyWaiting(1));
    drop(second);
    let third = soon(waits).unwrap();
    assert!(soon(answers(&third)) && soon(answers(&first)));
    assert_eq!(peer.came(), 2);
}

#[test]
fn what_nobody_uses_is_closed() {
    for backend in BACKENDS {
        let (closed, ends) = std::sync::mpsc::channel();
        let peer = served(move |connection| {
            let closed = closed.clone();
            thread::spawn(move || closed.send(block_on(connection.closed())));
        });
        let config = ConnectionPoolConfig {
            idle_timeout: Duration::from_millis(300),
            ..ConnectionPoolConfig::default()
        };
        let (_engine, pool) = pool_on(backend, config);
        let begun = now();
        drop(peer.get(&pool).unwrap());
        let why = ends.recv_timeout(Duration::from_secs(30)).unwrap();
        assert!(begun.elapsed() >= Duration::from_millis(300));
        let expected = ConnectionError::ClosedByPeer {
            code: 0,
            reason: "nobody uses this connection".to_owned(),
        };
        assert_eq!(why, expected);
        told(&pool, |kind| (kind == PoolEventKind::Expired).then_some(()));
        until("it is known no more", || pool.statistics().peers == 0);
        peer.get(&pool).unwrap();
        until("it is dialled anew", || peer.came() == 2);
    }
}

#[test]
fn what_its_user_closed_is_given_to_nobody() {
    let (peer, (_engine, pool)) = (echoing(), pool(quick()));
    for dials in 1..=20 {
        peer.get(&pool).unwrap().close(4, "done");
        assert_eq!(pool.statistics().dials, dials);
    }
}

#[test]
fn a_peer_that_is_killed_is_dialled_when_it_is_there_again() {
    for backend in BACKENDS {
        let identity = Identity::generate().unwrap();
        let process = PeerProcess::start(loopback(), &identity);
        let (at, trust) = (process.address, PeerTrust::Pinned(process.key));
        let address = at.to_string();
        let (_engine, pool) = pool_on(backend, quick());
        let connection = soon(pool.get(&address, trust.clone())).unwrap();
        assert!(soon(answers(&connection)));
        process.kill();
        // Whoever has it finds it closed long before the idle timeout.
        let begun = now();
        soon(connection.closed());
        assert!(begun.elapsed() < Duration::from_secs(10), "{begun:?}");
        let failed = soon(pool.get(&address, trust.clone())).unwrap_err();
        assert!(failed.is_retryable(), "{failed}");
        let _process = PeerProcess::start(at, &identity);
        let begun = now();
        let again = loop {
            match soon(pool.get(&address, trust.clone())) {
                Ok(connection) => break connection,
                Err(error) => assert!(error.is_retryable(), "{error}"),
            }
            assert!(begun.elapsed() < Duration::from_secs(30));
            thread::sleep(Duration::from_millis(20));
        };
        assert!(soon(answers(&again)));
    }
}

#[test]
fn a_peer_that_is_frozen_is_noticed_within_the_deadline() {
    for backend in BACKENDS {
        let process = PeerProcess::start(loopback(), &Identity::generate().unwrap());
        let (address, trust) = (process.address.to_string(), PeerTrust::Pinned(process.key));
        let config = quick();
        let (_engine, pool) = pool_on(backend, config.clone());
        let connection = soon(pool.get(&address, trust.clone())).unwrap();
        // While it answers nothing happens to it, used or not.
        thread::sleep(config.health_interval * 5);
        assert_eq!(connection.close_reason(), None);
        process.signal("STOP");
        let begun = now();
        let why = soon(connection.closed());
        let most = config.health_interval.max(config.health_timeout) + config.health_timeout;
        assert!(
            begun.elapsed() < most + Duration::from_millis(700),
            "{:?}",
            begun.elapsed()
        );
        let is_told = matches!(&why, ConnectionError::ClosedHere { reason, .. }
            if reason == "the peer gave no sign of life");
        assert!(is_told, "{why}");
        told(&pool, |kind| {
            (kind == PoolEventKind::Unhealthy).then_some(())
        });
        assert_eq!(pool.statistics().connections, 0);
        process.signal("CONT");
        let begun = now();
        while soon(pool.get(&address, trust.clone())).is_err() {
            assert!(begun.elapsed() < Duration::from_secs(30));
            thread::sleep(Duration::from_millis(20));
        }
    }
}

#[test]
fn a_peer_with_another_key_is_told_from_one_that_is_away() {
    for backend in BACKENDS {
        let process = PeerProcess::start(loopback(), &Identity::generate().unwrap());
        let (at, trust) = (process.address, PeerTrust::Pinned(process.key));
        let address = at.to_string();
        let config = ConnectionPoolConfig {
            backoff_max: Duration::from_secs(8),
            ..quick()
        };
        let (_engine, pool) = pool_on(backend, config);
        pool.keep_warm(&address, trust.clone(), 1).unwrap();
        let connection = soon(pool.get(&address, trust.clone())).unwrap();
        process.kill();
        let other = Identity::generate().unwrap();
        let process = PeerProcess::start(at, &other);
        soon(connection.closed());
        let why = told(&pool, |kind| match kind {
            PoolEventKind::CircuitOpened { why, .. } if !why.is_retryable() => Some(why),
            _ => None,
        });
        let expected = PeerFailure::Connect(ConnectError::NotTrusted {
            name: address.clone(),
            shown: Some(process.key),
        });
        assert_eq!(why, expected);
        let dials = pool.statistics().dials;
        let begun = now();
        while begun.elapsed() < Duration::from_millis(1500) {
            let refused = soon(pool.get(&address, trust.clone())).unwrap_err();
            assert!(!refused.is_retryable(), "{refused}");
            let PoolError::CircuitOpen { why, .. } = &refused else {
                panic!("{refused}");
            };
            assert_eq!(**why, expected);
            let words = refused.to_string();
            assert!(words.contains("which is not trusted here"), "{words}");
            thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(pool.statistics().dials, dials, "it is dialled all the same");
        // Whoever trusts the new key need not wait for that.
        let trust = PeerTrust::Pinned(process.key);
        let connection = soon(pool.get(&address, trust)).unwrap();
        assert!(soon(answers(&connection)));
    }
}

#[test]
fn a_slow_peer_is_not_taken_for_a_dead_one() {
    let peer = echoing();
    let there = peer.address.parse().unwrap();
    let one_way = Duration::from_millis(150);
    let (_engine, pool) = pool(ConnectionPoolConfig {
        connect_timeout: Duration::from_secs(10),
        ..quick()
    });
    for at in [slow(there, one_way), lossy(there, 20, 5)] {
        let at = at.to_string();
        let connection = soon(pool.get(&at, peer.trust.clone())).unwrap();
        // Four checks.
        thread::sleep(Duration::from_secs(3));
        assert_eq!(connection.close_reason(), None);
        assert!(soon(answers(&connection)));
    }
    assert_eq!(pool.statistics().unhealthy, 0);
    // It is, where the deadline is shorter than the path.
    let (_engine, pool) = self::pool(ConnectionPoolConfig {
        health_timeout: Duration::from_millis(100),
        connect_timeout: Duration::from_secs(10),
        ..quick()
    });
    let at = slow(there, one_way).to_string();
    let connection = soon(pool.get(&at, peer.trust.clone())).unwrap();
    soon(connection.closed());
    assert_eq!(pool.statistics().unhealthy, 1);
}

#[test]
fn warm_connections_are_there_before_and_replaced_after() {
    for backend in BACKENDS {
        let (gives, taken) = std::sync::mpsc::channel();
        let peer = served(move |connection| gives.send(connection).unwrap());
        let config = ConnectionPoolConfig {
            idle_timeout: Duration::from_millis(100),
            ..quick()
        };
        let (_engine, pool) = pool_on(backend, config);
        let (address, trust) = (&peer.address, &peer.trust);
        pool.keep_warm(address, trust.clone(), 2).unwrap();
        until("they are made", || peer.came() == 2);
        // Longer than a connection takes to count as one that lasts, and than unused ones live.
        thread::sleep(Duration::from_millis(1200));
        let connection = peer.get(&pool).unwrap();
        assert_eq!((pool.statistics().hits, peer.came()), (1, 2));
        let theirs: Connection = taken.recv().unwrap();
        theirs.close(7, "a restart");
        let why = told(&pool, |kind| match kind {
            PoolEventKind::Closed(why) => Some(why),
            _ => None,
        });
        let is_theirs = matches!(why, ConnectionError::ClosedByPeer { code: 7, .. });
        assert!(is_theirs, "{why}");
        until("it is replaced", || peer.came() == 3);
        until("there are two", || pool.statistics().connections == 2);
        drop(connection);
        pool.keep_warm(address, trust.clone(), 0).unwrap();
        until("they are not closed", || pool.statistics().connections == 0);
        let many = pool.keep_warm(address, trust.clone(), 5).unwrap_err();
        assert_eq!(many, PoolError::TooManyWarm { wanted: 5, most: 4 });
    }
}

/// A peer that turns everybody away once the handshake is complete.
#[test]
fn who_closes_at_once_is_not_dialled_for_ever() {
    let peer = served(|connection| connection.close(3, "not you"));
    let (_engine, pool) = pool(quick());
    pool.keep_warm(&peer.address, peer.trust.clone(), 1)
        .unwrap();
    let why = told(&pool, |kind| match kind {
        PoolEventKind::CircuitOpened { why, .. } => Some(why),
        _ => None,
    });
    assert!(matches!(why, PeerFailure::EndedAtOnce(_)), "{why}");
    let refused = peer.get(&pool);
    let is_told =
        matches!(&refused, Err(PoolError::CircuitOpen { failures, .. }) if *failures >= 3);
    assert!(is_told, "{refused:?}");
    let before = peer.came();
    thread::sleep(Duration::from_secs(2));
    let dialled = peer.came() - before;
    assert!((2..=11).contains(&dialled), "{dialled}");
}

#[test]
fn a_circuit_opens_lets_one_dial_through_and_closes() {
    let silent = UdpSocket::bind(loopback()).unwrap();
    let at = silent.local_addr().unwrap();
    let address = at.to_string();
    let identity = Identity::generate().unwrap();
    let trust = PeerTrust::Pinned(identity.fingerprint());
    let (_engine, pool) = pool(ConnectionPoolConfig {
        connect_timeout: Duration::from_millis(200),
        ..quick()
    });
    for _ in 0..3 {
        let failed = soon(pool.get(&address, trust.clone())).unwrap_err();
        let is_silence = matches!(
            &failed,
            PoolError::Peer(PeerFailure::Connect(ConnectError::NoAnswer { .. }))
        );
        assert!(is_silence, "{failed}");
    }
    // Open: at once, with all that there is to say.
    let begun = now();
    let open = soon(pool.get(&address, trust.clone())).unwrap_err();
    assert!(begun.elapsed() < Duration::from_millis(100));
    let PoolError::CircuitOpen {
        failures: 3,
        next_try_in,
        ..
    } = open
    else {
        panic!("{open}");
    };
    assert!(next_try_in <= Duration::from_millis(200), "{next_try_in:?}");
    assert_eq!(
        (pool.statistics().dials, pool.statistics().open_circuits),
        (3, 1)
    );
    // Half-open: fifty callers, one dial; it fails, and the circuit is open again.
    thread::sleep(next_try_in);
    let all = (0..50).map(|_| Box::pin(pool.get(&address, trust.clone())));
    let mut all: Vec<_> = all.collect();
    for caller in &mut all {
        assert!(soon(poll_once(caller.as_mut())).is_none());
    }
    for caller in all {
        assert!(soon(caller).is_err());
    }
    assert_eq!(pool.statistics().dials, 4);
    // Closed, by a peer that is there again.
    drop(silent);
    let _engine = listening(at, identity);
    let begun = now();
    let connection = loop {
        if let Ok(connection) = soon(pool.get(&address, trust.clone())) {
            break connection;
        }
        assert!(begun.elapsed() < Duration::from_secs(20));
        thread::sleep(Duration::from_millis(10));
    };
    assert_eq!(pool.statistics().open_circuits, 0);
    drop(connection);
    let circuits = circuits_told(&pool, &address);
    let begins = circuits.starts_with(&["opened", "half-open", "opened", "half-open"]);
    assert!(
        begins && circuits.ends_with(&["half-open", "closed"]),
        "{circuits:?}"
    );
}

/// What was told of a circuit so far.
fn circuits_told(pool: &ConnectionPool, address: &str) -> Vec<&'static str> {
    let mut circuits = Vec::new();
    while let Some(Some(event)) = soon(poll_once(pool.next_event())) {
        assert_eq!(event.address, address);
        circuits.extend(match event.kind {
            PoolEventKind::CircuitOpened { .. } => Some("opened"),
            PoolEventKind::CircuitHalfOpen => Some("half-open"),
            PoolEventKind::CircuitClosed => Some("closed"),
            _ => None,
        });
    }
    circuits
}

#[test]
fn a_drain_waits_for_who_is_not_done() {
    for backend in BACKENDS {
        for in_time in [true, false] {
            let peer = echoing();
            let (_engine, pool) = pool_on(
                backend,
                ConnectionPoolConfig {
                    drain_timeout: Duration::from_millis(if in_time { 20_000 } else { 300 }),
                    ..quick()
                },
            );
            let connection = peer.get(&pool).unwrap();
            let mut drains = Box::pin(pool.drain());
            assert!(soon(poll_once(drains.as_mut())).is_none());
            assert_eq!(peer.get(&pool).unwrap_err(), PoolError::Draining);
            assert!(soon(answers(&connection)), "it may be used meanwhile");
            if in_time {
                drop(connection);
                assert_eq!(soon(drains), 0);
            } else {
                assert_eq!(soon(drains), 1);
                soon(connection.closed());
            }
            assert_eq!(pool.statistics().connections, 0);
            while soon(pool.next_event()).is_some() {}
            assert_eq!(soon(pool.drain()), usize::from(!in_time), "it is over");
        }
    }
}

#[test]
fn whoever_waits_is_told_when_the_pool_is_dropped() {
    let peer = echoing();
    let silent = UdpSocket::bind(loopback()).unwrap();
    let nowhere = silent.local_addr().unwrap().to_string();
    for backend in BACKENDS {
        let (_engine, pool) = pool_on(backend, ConnectionPoolConfig::default());
        let kept = peer.get(&pool).unwrap();
        let mut waiting = Vec::new();
        for polled in [true, false, true] {
            let mut got = Box::pin(pool.get(&nowhere, peer.trust.clone()));
            if polled {
                assert!(soon(poll_once(got.as_mut())).is_none());
            }
            waiting.push(got);
        }
        drop(pool);
        for caller in waiting {
            assert_eq!(soon(caller).unwrap_err(), PoolError::Dropped);
        }
        // What somebody has is theirs.
        assert!(soon(answers(&kept)));
    }
}

#[test]
fn whoever_waits_is_told_when_the_engine_ends() {
    let silent = UdpSocket::bind(loopback()).unwrap();
    let nowhere = silent.local_addr().unwrap().to_string();
    let peer = echoing();
    for backend in BACKENDS {
        let (engine, pool) = pool_on(backend, ConnectionPoolConfig::default());
        let kept = peer.get(&pool).unwrap();
        let mut waits = Box::pin(pool.get(&nowhere, peer.trust.clone()));
        assert!(soon(poll_once(waits.as_mut())).is_none());
        until("it is not dialled", || pool.statistics().dialling == 1);
        engine.shut_down();
        let ended = soon(waits).unwrap_err();
        assert_eq!(
            ended,
            PoolError::Peer(PeerFailure::Connect(ConnectError::ShutDown))
        );
        soon(kept.closed());
    }
    peer.engine.shut_down();
}

fn pool_threads() -> usize {
    let tasks = fs::read_dir("/proc/self/task").unwrap();
    let names = tasks.filter_map(|task| fs::read(task.ok()?.path().join("comm")).ok());
    names.filter(|name| name == b"landro-pool\n").count()
}

#[test]
fn the_thread_of_a_pool_ends_with_it() {
    // More than all other tests have together.
    const POOLS: usize = 60;
    let peer = echoing();
    let (engine, _first) = pool(quick());
    let new = |_| ConnectionPool::new(&engine, quick()).unwrap();
    let pools: Vec<ConnectionPool> = (0..POOLS).map(new).collect();
    for pool in &pools {
        peer.get(pool).unwrap();
    }
    assert!(pool_threads() >= POOLS);
    drop(pools);
    until("they are there still", || pool_threads() < POOLS / 2);
}

#[test]
fn impossible_values_are_refused() {
    let engine = Engine::builder().protocol(PROTOCOL).start().unwrap();
    let defaults = ConnectionPoolConfig::default;
    for (config, word) in [
        (
            ConnectionPoolConfig {
                max_connections: 0,
                ..defaults()
            },
            "max_connections",
        ),
        (
            ConnectionPoolConfig {
                failure_threshold: 0,
                ..defaults()
            },
            "failure_threshold",
        ),
        (
            ConnectionPoolConfig {
                idle_timeout: Duration::ZERO,
                ..defaults()
            },
            "idle_timeout",
        ),
        (
            ConnectionPoolConfig {
                backoff_max: Duration::from_millis(1),
                ..defaults()
            },
            "backoff_max",
        ),
    ] {
        let refused = ConnectionPool::new(&engine, config).unwrap_err();
        assert!(refused.to_string().starts_with(word), "{refused}");
    }
    // Times without an end are none.
    let endless = ConnectionPoolConfig {
        idle_timeout: Duration::MAX,
        wait_timeout: Duration::MAX,
        ..defaults()
    };
    let pool = ConnectionPool::new(&engine, endless).unwrap();
    let peer = echoing();
    assert!(soon(answers(&peer.get(&pool).unwrap())));
}
