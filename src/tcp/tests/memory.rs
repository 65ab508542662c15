//! What a connection holds: little when idle, no more than its windows whatever the peer does.

use bytes::Bytes;

use super::interop::Foreign;
use super::{Pair, WINDOWS, pattern, read_all, transfer};
use crate::carrier::ConnState;
use crate::tcp::frame::TcpFrame;

#[test]
fn an_idle_connection_holds_little_and_gives_back_what_it_held() {
    let mut pair = Pair::established();
    let data = pattern(3 << 20);
    assert!(transfer(&mut pair, &data, true) == data);
    assert!(pair.server.held_bytes() > 100 << 10);
    pair.run();
    // Another connection may have what nothing lies in.
    for conn in [&mut pair.client, &mut pair.server] {
        conn.rest();
        assert!(conn.held_bytes() < 8 << 10, "{}", conn.held_bytes());
    }
    pair.now += super::Duration::from_secs(2);
    for conn in [&mut pair.client, &mut pair.server] {
        assert!(conn.deadline().unwrap() <= pair.now);
        conn.on_timeout(pair.now);
        assert!(conn.held_bytes() < 8 << 10, "{}", conn.held_bytes());
        // Nothing is due any more for this.
        assert!(conn.deadline().unwrap() > pair.now);
    }
    // And it goes on.
    assert!(transfer(&mut pair, &data, false) == data);
}

#[test]
fn unread_data_is_bounded_by_the_window() {
    let mut pair = Pair::established();
    let streams: Vec<u64> = (0..8).map(|_| pair.client.open_uni().unwrap()).collect();
    for _ in 0..40 {
        for &stream in &streams {
            let _ = pair
                .client
                .send(stream, Bytes::from(pattern(50_000)), false);
        }
        pair.run();
    }
    let unread: usize = streams
        .iter()
        .map(|&stream| read_all(&mut pair.server, stream).0.len())
        .sum();
    assert_eq!(unread, WINDOWS.connection_bytes as usize);
}

#[test]
fn small_frames_and_records_hold_what_they_say() {
    let mut foreign = Foreign::established();
    let mut most = 0;
    for _ in 0..20_000 {
        let mut bytes = Vec::new();
        let data = TcpFrame::Data {
            stream: 2,
            bytes: 1,
            ends: false,
        };
        data.write(&mut bytes);
        bytes.push(1);
        foreign.say(&bytes);
        most = most.max(foreign.server.held_bytes());
    }
    assert_eq!(foreign.server.state(), ConnState::Established);
    assert!(most < 80 << 10, "{most}");
}

#[test]
fn half_a_record_holds_no_whole_buffer() {
    let mut pair = Pair::established();
    let data = pattern(3 << 20);
    assert!(transfer(&mut pair, &data, true) == data);
    pair.run();
    let stream = pair.client.open_uni().unwrap();
    let _ = pair
        .client
        .send(stream, Bytes::from(pattern(16_000)), false);
    super::cross(pair.now, &mut pair.client, &mut pair.server, 9_000);
    pair.server.rest();
    assert!(pair.server.held_bytes() < 20 << 10);
    let later = pair.now + super::Duration::from_secs(2);
    pair.server.on_timeout(later);
    assert!(pair.server.held_bytes() < 20 << 10);
    pair.now = later;
    pair.run();
    assert_eq!(read_all(&mut pair.server, stream).0, pattern(16_000));
}
