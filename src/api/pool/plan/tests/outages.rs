//! What a pool makes of peers that fall silent, of connections that are lost, and of a stop of its
//! own process.

use super::*;

#[test]
fn who_gives_no_sign_of_life_leaves_the_pool() {
    let a = peer("a");
    let mut world = World::new(ConnectionPoolConfig::default(), 3);
    world.plan.keep_warm(world.now, &a, 1).unwrap();
    world.turn();
    world.dialled(&a, true);
    let config = world.plan.desk.config.clone();
    world.pass(config.health_interval * 20);
    assert!(world.asked >= 14 && world.connections.len() == 1);
    let (&frozen, _) = world.connections.first_key_value().unwrap();
    world.frozen.insert(frozen);
    world.pass(config.health_interval + config.health_timeout * 2);
    assert!(!world.connections.contains_key(&frozen));
    assert_eq!(world.statistics().unhealthy, 1);
    world.dialled(&a, true);
    // A process that was stopped itself asks once more before it judges.
    let (&second, _) = world.connections.last_key_value().unwrap();
    world.pass(config.health_interval);
    let asked = world.asked;
    world.frozen.insert(second);
    world.now += config.health_timeout * 10;
    world.turn();
    assert_eq!((world.asked, world.connections.len()), (asked + 1, 1));
    world.frozen.clear();
    world.pass(config.health_interval * 2);
    assert_eq!(world.connections.len(), 1);
}

#[test]
fn a_stop_of_this_process_is_no_silence_of_its_peers() {
    let a = peer("a");
    let mut world = World::new(ConnectionPoolConfig::default(), 3);
    let _ = world.get(&a);
    world.dialled(&a, true);
    let config = world.plan.desk.config.clone();
    let (&connection, _) = world.connections.first_key_value().unwrap();
    // Answers lie unread whenever it goes on.
    world.frozen.insert(connection);
    world.pass(config.health_interval);
    for late_ms in [100, 150, 500, 1999, 2000, 3000] {
        let asked = world.asked;
        world.now += config.health_timeout + Duration::from_millis(late_ms);
        world.turn();
        let state = (world.asked, world.connections.len());
        assert_eq!(state, (asked + 1, 1), "late by {late_ms} ms");
        world.frozen.clear();
        world.pass(config.health_timeout);
        world.frozen.insert(connection);
        world.pass(config.health_interval - config.health_timeout);
    }
    // A question that nobody sent is not judged, however long that lasts; once it is, it is.
    world.is_stuck = true;
    world.pass(config.health_interval * 10);
    assert_eq!(world.connections.len(), 1);
    world.is_stuck = false;
    world.pass(config.health_timeout);
    assert!(world.connections.is_empty());
    assert_eq!(world.statistics().unhealthy, 1);
}

#[test]
fn an_outage_counts_once_however_many_connections_it_ends() {
    let a = peer("a");
    for is_frozen in [true, false] {
        let config = ConnectionPoolConfig {
            max_callers_per_connection: 1,
            ..ConnectionPoolConfig::default()
        };
        let mut world = World::new(config.clone(), 3);
        for _ in 0..4 {
            let _ = world.get(&a);
            world.dialled(&a, true);
        }
        let connections: Vec<u64> = world.connections.keys().copied().collect();
        if is_frozen {
            world.frozen.extend(connections);
            world.pass(config.health_interval + config.health_timeout);
        } else {
            connections.into_iter().for_each(|it| world.ended(it));
        }
        assert!(world.connections.is_empty());
        assert_eq!(world.statistics().open_circuits, 0, "frozen: {is_frozen}");
        // What is made behind it counts for itself.
        world.given.clear();
        for _ in 0..2 {
            let _ = world.get(&a);
            world.pass(Duration::from_secs(1));
            world.dialled(&a, true);
            let (&last, _) = world.connections.last_key_value().unwrap();
            world.ended(last);
        }
        assert_eq!(world.statistics().open_circuits, 1, "frozen: {is_frozen}");
    }
}

#[test]
fn who_waits_is_told_when_the_last_connection_opens_the_circuit() {
    let a = peer("a");
    for is_frozen in [true, false] {
        let config = ConnectionPoolConfig {
            failure_threshold: 1,
            max_connections_per_peer: 1,
            max_callers_per_connection: 1,
            ..ConnectionPoolConfig::default()
        };
        let mut world = World::new(config.clone(), 3);
        let _ = world.get(&a);
        world.dialled(&a, true);
        assert!(matches!(world.get(&a), Ok(PoolPlace::Waits(_))));
        let (&connection, _) = world.connections.first_key_value().unwrap();
        if is_frozen {
            world.frozen.insert(connection);
            world.pass(config.health_interval + config.health_timeout);
        } else {
            world.ended(connection);
        }
        assert!(world.waiting.is_empty(), "frozen: {is_frozen}");
        let is_told = matches!(&world.refused[..], [PoolError::CircuitOpen { .. }]);
        assert!(is_told, "{:?}", world.refused);
    }
}
