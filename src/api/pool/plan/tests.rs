//! What a pool promises, on made-up time: who gets what, who is dialled when, and that whatever
//! happens each caller is answered.

mod outages;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::*;
use crate::api::pool::events::{PoolEventKind, PoolStatistics};
use crate::api::{PeerFailure, PeerTrust};

const KEY: Fingerprint = Fingerprint([7; 32]);

fn peer(address: &str) -> Arc<PeerName> {
    Arc::new(PeerName {
        address: address.to_owned(),
        trust: PeerTrust::Pinned(KEY),
    })
}

fn small() -> ConnectionPoolConfig {
    ConnectionPoolConfig {
        max_connections: 3,
        max_connections_per_peer: 2,
        max_callers_per_connection: 2,
        max_waiting_callers: 5,
        ..ConnectionPoolConfig::default()
    }
}

fn silent(name: &PeerName) -> ConnectError {
    ConnectError::NoAnswer {
        name: name.address.clone(),
        why: "silent".to_owned(),
    }
}

/// A plan, and what it had done.
struct World {
    plan: PoolPlan,
    now: Instant,
    dials: BTreeMap<u64, Arc<PeerName>>,
    connections: BTreeMap<u64, Arc<PeerName>>,
    /// Callers that wait, since when.
    waiting: BTreeMap<u64, (Arc<PeerName>, Instant)>,
    /// Who holds a place on what.
    given: Vec<(u64, Arc<PeerName>, u64)>,
    refused: Vec<PoolError>,
    told: Vec<PoolEventKind>,
    /// Connections whose peers do not answer.
    frozen: BTreeSet<u64>,
    /// No question is sent, for the workers have no turn.
    is_stuck: bool,
    asked: usize,
}

impl World {
    fn new(config: ConnectionPoolConfig, seed: u64) -> World {
        World {
            plan: PoolPlan::new(config.checked().unwrap(), seed),
            now: crate::engine::now(),
            dials: BTreeMap::new(),
            connections: BTreeMap::new(),
            waiting: BTreeMap::new(),
            given: Vec::new(),
            refused: Vec::new(),
            told: Vec::new(),
            frozen: BTreeSet::new(),
            is_stuck: false,
            asked: 0,
        }
    }

    fn get(&mut self, name: &Arc<PeerName>) -> Result<PoolPlace, PoolError> {
        let place = self.plan.get(self.now, name, |_| None);
        match &place {
            Ok(PoolPlace::On(connection)) => self.given.push((0, name.clone(), *connection)),
            Ok(PoolPlace::Waits(caller)) => {
                self.waiting.insert(*caller, (name.clone(), self.now));
            }
            Err(_) => {}
        }
        self.turn();
        place
    }

    /// As the thread does.
    fn turn(&mut self) {
        self.plan.turn(self.now);
        while let Some(step) = self.plan.next_step() {
            match step {
                PoolStep::Dial { peer, dial } => {
                    assert!(!self.dials.values().any(|other| *other == peer));
                    self.dials.insert(dial, peer);
                }
                PoolStep::StopDial(dial) => assert!(self.dials.remove(&dial).is_some()),
                PoolStep::Give {
                    peer,
                    caller,
                    connection,
                } => {
                    assert!(self.waiting.remove(&caller.number).is_some());
                    assert_eq!(self.connections.get(&connection), Some(&peer));
                    self.given.push((caller.number, peer, connection));
                }
                PoolStep::Refuse { caller, error } => {
                    assert!(self.waiting.remove(&caller).is_some());
                    self.refused.push(error);
                }
                PoolStep::Close { connection, .. } => {
                    assert!(self.connections.remove(&connection).is_some());
                }
                PoolStep::Ask(connection) => {
                    assert!(self.connections.contains_key(&connection));
                    self.asked += 1;
                }
                PoolStep::Judge { peer, connection } => {
                    let sign = match self.frozen.contains(&connection) {
                        _ if self.is_stuck => SignOfLife::NotAskedFor,
                        true => SignOfLife::Missing,
                        false => SignOfLife::Came,
                    };
                    self.plan.judged(self.now, &peer, (connection, sign));
                }
                PoolStep::Tell(event) => self.told.push(event.kind),
            }
        }
        self.check();
    }

    fn check(&self) {
        let config = &self.plan.desk.config;
        let open = self.dials.len() + self.connections.len();
        assert_eq!(open, self.plan.desk.open);
        assert!(open <= config.max_connections);
        assert_eq!(self.waiting.len(), self.plan.desk.waiting);
        for number in self.connections.keys() {
            let on_it = self.given.iter().filter(|(_, _, on)| on == number).count();
            assert!(on_it <= config.max_callers_per_connection);
        }
        for name in self.connections.values() {
            let of_it = self.connections.values().filter(|it| *it == name).count();
            assert!(of_it <= config.max_connections_per_peer);
        }
        for (_, since) in self.waiting.values() {
            assert!(*since + config.wait_timeout > self.now);
        }
        let deadline = self.plan.deadline(self.now);
        assert!(deadline.is_none_or(|at| at > self.now), "it would spin");
        let statistics = self.plan.statistics();
        assert_eq!(statistics.connections, self.connections.len());
        assert_eq!(statistics.waiting, self.waiting.len());
    }

    /// Time passes, and the thread has a turn whenever it asked for one.
    fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        let mut turns = 0;
        while let Some(at) = self.plan.deadline(self.now).filter(|at| *at <= until) {
            self.now = at;
            self.turn();
            turns += 1;
            assert!(turns < 10_000, "it spins");
        }
        self.now = until;
        self.turn();
    }

    /// What the dial of a peer leads to.
    fn dialled(&mut self, name: &Arc<PeerName>, connects: bool) {
        let dial = self.dials.iter().find(|(_, of)| *of == name);
        let dial = *dial.expect("it is dialled").0;
        self.dials.remove(&dial);
        if connects {
            self.connections.insert(dial, name.clone());
            assert!(self.plan.connected(self.now, name, (dial, KEY)));
        } else {
            let error = silent(name);
            self.plan.dial_failed(self.now, name, (dial, error));
        }
        self.turn();
    }

    fn hand_back(&mut self, at: usize) {
        let (_, name, connection) = self.given.swap_remove(at);
        self.plan.hand_back(self.now, &name, connection);
        self.turn();
    }

    fn ended(&mut self, connection: u64) {
        let name = self.connections.remove(&connection).expect("it is there");
        self.given.retain(|(_, _, on)| *on != connection);
        let why = ConnectionError::TimedOut;
        self.plan.ended(self.now, &name, (connection, why));
        self.turn();
    }

    fn statistics(&self) -> PoolStatistics {
        self.plan.statistics()
    }
}

#[test]
fn callers_share_one_dial_and_one_connection() {
    let a = peer("a");
    let mut world = World::new(ConnectionPoolConfig::default(), 1);
    for _ in 0..100 {
        assert!(matches!(world.get(&a), Ok(PoolPlace::Waits(_))));
    }
    assert_eq!(world.dials.len(), 1);
    world.dialled(&a, true);
    assert_eq!((world.given.len(), world.connections.len()), (100, 1));
    assert!(matches!(world.get(&a), Ok(PoolPlace::On(_))));
    assert_eq!(world.statistics().dials, 1);
    // Whoever trusts somebody else shares nothing.
    let other = Arc::new(PeerName {
        address: "a".to_owned(),
        trust: PeerTrust::Pinned(Fingerprint([8; 32])),
    });
    assert!(matches!(world.get(&other), Ok(PoolPlace::Waits(_))));
    assert_eq!(world.dials.len(), 1);
}

#[test]
fn more_connections_come_as_callers_do_and_go_when_unused() {
    let a = peer("a");
    let mut world = World::new(small(), 1);
    for _ in 0..7 {
        let _ = world.get(&a);
    }
    // Five wait, as many as may; the others were refused.
    assert_eq!(world.waiting.len(), 5);
    let many = world.get(&a).unwrap_err();
    assert_eq!(many, PoolError::TooManyWaiting(5));
    world.dialled(&a, true);
    assert_eq!((world.given.len(), world.dials.len()), (2, 1));
    world.dialled(&a, true);
    assert_eq!((world.given.len(), world.waiting.len()), (4, 1));
    assert!(world.dials.is_empty(), "a peer has two at most");
    // In the order in which they came.
    let order: Vec<u64> = world.given.iter().map(|(caller, ..)| *caller).collect();
    assert!(order.is_sorted(), "{order:?}");
    world.hand_back(0);
    assert_eq!((world.given.len(), world.waiting.len()), (4, 0));
    while !world.given.is_empty() {
        world.hand_back(0);
    }
    // One caller at a time keeps one of them.
    let half = world.plan.desk.config.idle_timeout / 2;
    for _ in 0..4 {
        assert!(matches!(world.get(&a), Ok(PoolPlace::On(_))));
        world.hand_back(0);
        world.pass(half);
    }
    assert_eq!(world.connections.len(), 1);
    world.pass(half * 3);
    assert!(world.connections.is_empty() && world.plan.peers.is_empty());
    assert_eq!(world.statistics().expired, 2);
    assert_eq!(
        world.plan.deadline(world.now),
        None,
        "there is nothing to do"
    );
}

#[test]
fn nobody_waits_for_longer_than_may_be() {
    let a = peer("a");
    let config = ConnectionPoolConfig {
        wait_timeout: Duration::from_secs(4),
        ..small()
    };
    let mut world = World::new(config.clone(), 1);
    let _ = world.get(&a);
    world.pass(config.wait_timeout / 2);
    let _ = world.get(&a);
    world.pass(config.wait_timeout / 2);
    assert_eq!(world.waiting.len(), 1);
    let late = &world.refused[0];
    let is_told = matches!(late, PoolError::TimedOut { is_dialling: true, waited, .. }
        if *waited == config.wait_timeout);
    assert!(is_told, "{late:?}");
    // Who waits no more is no reason to stop the dial, but its own time is.
    world.pass(config.connect_timeout);
    assert!(world.dials.is_empty() && world.waiting.is_empty());
    assert_eq!(world.statistics().failed_dials, 1);
}

#[test]
fn a_dial_that_fails_fails_all_and_the_next_waits() {
    let a = peer("a");
    let mut world = World::new(ConnectionPoolConfig::default(), 5);
    for failures in 1..=2 {
        for _ in 0..10 {
            let _ = world.get(&a);
        }
        world.pass(Duration::from_secs(1));
        world.dialled(&a, false);
        assert_eq!(world.refused.len(), 10 * failures);
        let all = world.refused.iter();
        let expected = PoolError::from(PeerFailure::Connect(silent(&a)));
        assert!(all.into_iter().all(|error| *error == expected));
        let _ = world.get(&a);
        assert!(world.dials.is_empty(), "not at once");
        world.plan.forget_caller(&a, world.plan.desk.last_number);
        world.waiting.clear();
    }
    let _ = world.get(&a);
    world.pass(Duration::from_secs(1));
    world.dialled(&a, false);
    // The circuit is open: who comes is told, and nobody is dialled.
    let Err(PoolError::CircuitOpen {
        next_try_in,
        failures: 3,
        why,
        ..
    }) = world.get(&a)
    else {
        panic!("it is not open");
    };
    assert_eq!(*why, PeerFailure::Connect(silent(&a)));
    world.pass(next_try_in - Duration::from_nanos(1));
    assert!(world.get(&a).is_err());
    assert_eq!(world.statistics().dials, 3);
    assert_eq!(world.statistics().open_circuits, 1);
    // Then one dial is let through, and those who come meanwhile share it.
    world.pass(Duration::from_nanos(1));
    for _ in 0..10 {
        assert!(matches!(world.get(&a), Ok(PoolPlace::Waits(_))));
    }
    assert_eq!(world.statistics().dials, 4);
    world.told.clear();
    world.dialled(&a, true);
    assert_eq!(world.given.len(), 10);
    let expected = [PoolEventKind::Connected(KEY), PoolEventKind::CircuitClosed];
    assert_eq!(world.told, expected);
}

#[test]
fn who_waits_for_a_busy_engine_waits_on() {
    let names: Vec<_> = (0..40).map(|at| peer(&format!("peer {at}"))).collect();
    let mut world = World::new(ConnectionPoolConfig::default(), 12);
    for name in &names {
        let _ = world.get(name);
    }
    for _ in 0..5 {
        for (dial, name) in std::mem::take(&mut world.dials) {
            let busy = (dial, ConnectError::Busy);
            world.plan.dial_failed(world.now, &name, busy);
        }
        world.turn();
        assert!(world.dials.is_empty(), "not at once");
        assert_eq!((world.waiting.len(), world.refused.len()), (40, 0));
        let initial = world.plan.desk.config.backoff_initial;
        world.pass(initial * 3 / 4);
        assert!((5..=35).contains(&world.dials.len()), "not all together");
        world.pass(initial);
    }
    for name in &names {
        world.dialled(name, true);
    }
    assert_eq!(
        (world.given.len(), world.statistics().failed_dials),
        (40, 0)
    );
    let is_failure = |kind: &PoolEventKind| matches!(kind, PoolEventKind::Failed(_));
    assert!(!world.told.iter().any(is_failure));
}

#[test]
fn another_key_is_not_hammered() {
    let a = peer("a");
    let config = ConnectionPoolConfig::default();
    let mut world = World::new(config.clone(), 9);
    world.plan.keep_warm(world.now, &a, 1).unwrap();
    world.turn();
    let begun = world.now;
    while world.now < begun + config.backoff_max * 10 {
        if let Some((&dial, _)) = world.dials.first_key_value() {
            world.dials.remove(&dial);
            let name = a.address.clone();
            let error = ConnectError::NotTrusted { name, shown: None };
            world.plan.dial_failed(world.now, &a, (dial, error));
            world.turn();
            let told = world.get(&a).unwrap_err();
            assert!(!told.is_retryable(), "{told}");
        }
        world.pass(Duration::from_millis(500));
    }
    let dials = world.statistics().dials;
    assert!((10..=21).contains(&dials), "{dials}");
}

#[test]
fn warm_connections_are_replaced_and_others_are_not() {
    let a = peer("a");
    let mut world = World::new(small(), 2);
    let most = world.plan.keep_warm(world.now, &a, 3);
    let refused = PoolError::TooManyWarm { wanted: 3, most: 2 };
    assert_eq!(most, Err(refused));
    world.plan.keep_warm(world.now, &a, 2).unwrap();
    world.turn();
    world.dialled(&a, true);
    world.dialled(&a, true);
    world.pass(world.plan.desk.config.idle_timeout * 3);
    assert_eq!(world.connections.len(), 2);
    // One that lasted is replaced at once.
    let (&first, _) = world.connections.first_key_value().unwrap();
    world.ended(first);
    assert_eq!(world.dials.len(), 1);
    world.dialled(&a, true);
    // One that ends at once is not, and after three the circuit is open.
    for _ in 0..3 {
        let (&last, _) = world.connections.last_key_value().unwrap();
        world.ended(last);
        assert!(world.dials.is_empty());
        let opened = matches!(world.told.last(), Some(PoolEventKind::CircuitOpened { .. }));
        if opened {
            return;
        }
        world.pass(Duration::from_millis(600));
        world.dialled(&a, true);
    }
    panic!("it is dialled for ever");
}

#[test]
fn warm_connections_leave_room_for_others() {
    let [a, b, c] = ["a", "b", "c"].map(peer);
    let mut world = World::new(small(), 2);
    let most = |most| Err(PoolError::TooManyWarm { wanted: 2, most });
    world.plan.keep_warm(world.now, &a, 1).unwrap();
    assert_eq!(world.plan.keep_warm(world.now, &b, 2), most(1));
    world.plan.keep_warm(world.now, &b, 1).unwrap();
    // What a peer has itself does not count against it.
    assert_eq!(world.plan.keep_warm(world.now, &a, 2), most(1));
    world.plan.keep_warm(world.now, &a, 1).unwrap();
    world.turn();
    world.dialled(&a, true);
    world.dialled(&b, true);
    for name in [&c, &peer("d")] {
        let _ = world.get(name);
        world.dialled(name, true);
        world.hand_back(0);
    }
    assert_eq!(world.connections.len(), 3);
    world.plan.keep_warm(world.now, &b, 0).unwrap();
    world.plan.keep_warm(world.now, &a, 2).unwrap();
}

#[test]
fn room_is_made_for_who_waits() {
    let names = ["a", "b", "c", "d"].map(peer);
    let mut world = World::new(small(), 4);
    for name in &names[..3] {
        let _ = world.get(name);
        world.dialled(name, true);
        world.pass(Duration::from_millis(1));
    }
    // All are in use: the fourth waits, until one comes back.
    let _ = world.get(&names[3]);
    assert!(world.dials.is_empty());
    world.hand_back(1);
    assert_eq!(world.dials.len(), 1);
    assert!(!world.connections.values().any(|name| *name == names[1]));
    world.dialled(&names[3], true);
    assert_eq!(world.given.len(), 3);
}

#[test]
fn a_drain_waits_for_what_is_in_use_but_not_for_ever() {
    for in_time in [true, false] {
        let [a, b] = ["a", "b"].map(peer);
        let mut world = World::new(small(), 6);
        let _ = world.get(&a);
        world.dialled(&a, true);
        let _ = world.get(&b);
        world.plan.drain(world.now);
        world.turn();
        assert!(world.dials.is_empty() && world.waiting.is_empty());
        assert_eq!(world.refused, [PoolError::Draining]);
        assert_eq!(world.get(&a), Err(PoolError::Draining));
        assert_eq!(world.plan.drained(), None);
        match in_time {
            true => world.hand_back(0),
            false => world.pass(world.plan.desk.config.drain_timeout),
        }
        assert_eq!(world.plan.drained(), Some(usize::from(!in_time)));
        assert!(world.connections.is_empty());
    }
}

#[test]
fn who_is_to_get_what_is_over_waits_again_and_first() {
    let a = peer("a");
    let mut world = World::new(small(), 8);
    let _ = world.get(&a);
    let _ = world.get(&a);
    let (&dial, _) = world.dials.first_key_value().unwrap();
    world.dials.remove(&dial);
    assert!(world.plan.connected(world.now, &a, (dial, KEY)));
    // It ends before anybody is given it.
    let mut gives = Vec::new();
    while let Some(step) = world.plan.next_step() {
        if let PoolStep::Give { caller, .. } = step {
            gives.push(caller);
        }
    }
    let why = ConnectionError::TimedOut;
    world.plan.ended(world.now, &a, (dial, why));
    for caller in gives {
        world.plan.wait_again(world.now, &a, caller);
    }
    world.pass(Duration::from_secs(1));
    world.dialled(&a, true);
    assert_eq!((world.given.len(), world.waiting.len()), (2, 0));
    assert!(world.given[0].0 < world.given[1].0);
}

#[test]
fn peers_are_bounded_and_those_forgotten_first_that_nobody_asks_for() {
    let mut world = World::new(ConnectionPoolConfig::default(), 11);
    let first = peer("first");
    let _ = world.get(&first);
    world.dialled(&first, true);
    for number in 0..PEERS_MAX * 2 {
        let name = peer(&format!("peer {number}"));
        let _ = world.get(&name);
        world.pass(Duration::from_millis(1));
        if world.dials.is_empty() {
            panic!("peer {number} is not dialled");
        }
        world.dialled(&name, false);
    }
    assert!(world.plan.peers.len() <= PEERS_MAX);
    assert!(world.plan.peers.contains_key(&first));
}

/// Whatever happens in whatever order, the pool keeps its bounds and answers everybody: see
/// [`World::check`].
#[test]
fn whatever_happens_everybody_is_answered() {
    for seed in 0..300_u64 {
        let mut state = seed;
        let mut random = move |below: usize| {
            state = state
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            (state >> 33) as usize % below
        };
        let names = ["a", "b", "c"].map(peer);
        let mut world = World::new(small(), seed);
        let mut asked = 0;
        for _ in 0..400 {
            let name = &names[random(3)];
            match random(10) {
                0..=2 => {
                    asked += usize::from(world.get(name).is_ok());
                }
                3 if !world.given.is_empty() => {
                    let at = random(world.given.len());
                    world.hand_back(at);
                }
                4 if world.dials.values().any(|it| it == name) => {
                    let connects = random(3) > 0;
                    world.dialled(name, connects);
                }
                5 if !world.connections.is_empty() => {
                    let at = random(world.connections.len());
                    let number = *world.connections.keys().nth(at).unwrap();
                    match random(2) {
                        0 => world.ended(number),
                        _ => drop(world.frozen.insert(number)),
                    }
                    let is_there = |on: &u64| world.connections.contains_key(on);
                    world.given.retain(|(_, _, on)| is_there(on));
                }
                6 => {
                    let count = random(3);
                    let kept = world.plan.keep_warm(world.now, name, count);
                    let is_refused =
                        matches!(kept, Err(PoolError::TooManyWarm { most: 0 | 1, .. }));
                    assert!(kept.is_ok() || is_refused, "{kept:?}");
                    world.turn();
                }
                7 if !world.waiting.is_empty() => {
                    let (&caller, (name, _)) = world.waiting.first_key_value().unwrap();
                    let name = name.clone();
                    world.waiting.remove(&caller);
                    world.plan.forget_caller(&name, caller);
                    asked -= 1;
                    world.turn();
                }
                _ => {
                    let time = 10_u64.pow(random(5) as u32);
                    world.pass(Duration::from_millis(time));
                }
            }
        }
        world.plan.drain(world.now);
        world.pass(Duration::from_secs(60));
        assert!(world.plan.drained().is_some(), "seed {seed}");
        assert!(world.waiting.is_empty() && world.dials.is_empty());
        assert!(asked > 20, "seed {seed}: {asked}");
    }
}
