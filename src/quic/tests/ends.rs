//! Ends of streams: what quiche forgets of them, on which `worker/handles` builds.

use super::*;

/// A server that ends its direction with `end` while the wire is away, of a stream whose bytes all
/// arrived, and reads the client's end before its own left. Whether the client hears of it.
fn end_arrives(end: &'static [u8], lost: bool) -> bool {
    let mut world = Pair::new().world().established();
    let control = world.client.open_bidi().unwrap();
    world
        .client
        .send(control, Bytes::from_static(b"ask"), false)
        .unwrap();
    world.pump();
    world
        .server()
        .send(control, Bytes::from_static(b"answer"), false)
        .unwrap();
    world.pump();
    world
        .client
        .send(control, Bytes::from_static(b"."), true)
        .unwrap();
    let (mut out, ends) = ([0; 16], datagrams(&mut world.client));
    world
        .server()
        .send(control, Bytes::from_static(end), true)
        .unwrap();
    if lost {
        datagrams(world.server());
    }
    ends.into_iter()
        .for_each(|datagram| world.deliver_to_server(datagram));
    assert_eq!(world.server().read(control, &mut out), Ok(Some((4, true))));
    let (mut read, mut ended) = (0, false);
    for _ in 0..300 {
        world.pump();
        while let Some((bytes, fin)) = world.client.read(control, &mut out).unwrap_or(None) {
            (read, ended) = (read + bytes, ended | fin);
        }
        if ended {
            break;
        }
        std::thread::sleep(Duration::from_millis(1));
        world.server().on_timeout(now());
    }
    assert!(!ended || read == b"answer".len() + end.len());
    ended
}

#[test]
fn an_end_arrives_for_certain_only_with_a_byte() {
    assert!(end_arrives(b".", false));
    assert!(end_arrives(b".", true), "lost and sent again");
    // Should quiche ever keep its streams until their ends arrived, ends may go alone again.
    assert!(!end_arrives(b"", false), "never left");
    assert!(!end_arrives(b"", true), "lost and forgotten");
}

/// Of a request in three packets and an end that goes alone the first and the end are lost, and
/// found lost at once, for there is more behind them.
#[test]
fn an_end_lost_with_a_range_before_others_comes_when_written_again() {
    let mut world = Pair::new().world().established();
    assert!(world.client.is_all_acknowledged(now()));
    let (stream, mark) = (world.client.open_bidi().unwrap(), Arc::default());
    let mut packets = Vec::new();
    for part in [&b"one"[..], b"two", b"three"] {
        let part = (Bytes::from_static(part), false);
        world.client.write(stream, part, &mark).unwrap();
        packets.extend(datagrams(&mut world.client));
    }
    let end = || (Bytes::new(), true);
    world.client.write(stream, end(), &mark).unwrap();
    packets.extend(datagrams(&mut world.client));
    for _ in 0..3 {
        world.client.keep_alive();
        packets.extend(datagrams(&mut world.client));
    }
    assert_eq!(packets.len(), 7);
    assert!(!world.client.is_all_acknowledged(now()));
    let before = world.client.losses();
    for (number, packet) in packets.into_iter().enumerate() {
        if ![0, 3].contains(&number) {
            world.deliver_to_server(packet);
        }
    }
    let mut read = Vec::new();
    let goes_on = |world: &mut World, read: &mut Vec<u8>| {
        for _ in 0..100 {
            world.pump();
            let mut out = [0; 16];
            while let Some((bytes, fin)) = world.server().read(stream, &mut out).unwrap_or(None) {
                read.extend_from_slice(&out[..bytes]);
                if fin {
                    return true;
                }
            }
            std::thread::sleep(Duration::from_millis(1));
            world.client.on_timeout(now());
        }
        false
    };
    // Should quiche ever send that end again by itself, nobody has to write it again.
    assert!(!goes_on(&mut world, &mut read), "lost and forgotten");
    assert_eq!(read, b"onetwothree");
    assert!(world.client.losses() > before && world.client.is_all_acknowledged(now()));
    assert_eq!(Arc::strong_count(&mark), 1);
    world.client.write(stream, end(), &mark).unwrap();
    assert!(goes_on(&mut world, &mut read));
}
