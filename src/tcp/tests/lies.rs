//! Peers that break the rules of TLS or of our frames: each is found out, and told where it can be.

use super::interop::Foreign;
use super::{Pair, cross, read_all};
use crate::carrier::{CloseReason, ConnState};
use crate::tcp::CONTROL_STREAM;
use crate::tcp::frame::{MAX_DATA_BYTES, TcpFrame};
use bytes::Bytes;

/// A frame of data with its bytes.
fn data(stream: u64, bytes: usize, ends: bool) -> Vec<u8> {
    let mut all = Vec::new();
    TcpFrame::Data {
        stream,
        bytes,
        ends,
    }
    .write(&mut all);
    all.resize(all.len() + bytes, 7);
    all
}

fn written(frames: &[TcpFrame]) -> Vec<u8> {
    let mut all = Vec::new();
    for frame in frames {
        frame.write(&mut all);
    }
    all
}

/// Says it, and is shown the door.
fn is_refused(what: &str, says: &[u8]) {
    let mut foreign = Foreign::established();
    foreign.heard();
    foreign.say(says);
    let reason = foreign.server.close_reason();
    let is_found_out = matches!(reason, Some(CloseReason::Transport(_)));
    assert!(is_found_out, "{what}: {reason:?}");
    let heard = foreign.heard();
    // CLOSE with code 1; the reason behind it is text.
    let close = heard.iter().position(|&byte| byte == 7);
    let close = close.unwrap_or_else(|| panic!("{what}: no CLOSE"));
    assert_eq!(
        heard[close..close + 9],
        [7, 0, 0, 0, 0, 0, 0, 0, 1],
        "{what}"
    );
}

#[test]
fn frames_that_break_rules_are_answered_with_a_close() {
    let ping = TcpFrame::Ping;
    let credit = |stream, limit| TcpFrame::Credit { stream, limit };
    let grant = |limit, stream_bytes| TcpFrame::Grant {
        limit,
        stream_bytes,
    };
    is_refused("an unknown kind", &[99]);
    is_refused("a frame too long", &[0, 0, 0, 0, 0, 0, 0, 0, 2, 0xff, 0xff]);
    is_refused("an empty frame", &data(2, 0, false));
    is_refused("two PINGs", &written(&[ping.clone(), ping]));
    is_refused("an answer to nothing", &written(&[TcpFrame::Pong]));
    is_refused("credit for no stream", &written(&[credit(2, 9)]));
    is_refused("credit of nothing", &written(&[credit(0, 1)]));
    is_refused("a grant of nothing", &written(&[grant(0, 9)]));
    is_refused("a changed grant", &written(&[grant(9, 9), grant(10, 8)]));
    is_refused(
        "read, but not sent",
        &written(&[TcpFrame::ReadOut { stream: 0 }]),
    );
    is_refused("the second stream first", &data(6, 1, false));
    is_refused("a stream of ours", &data(3, 1, false));
    is_refused("a bidirectional stream", &data(4, 1, false));
    let twice = [data(2, 1, true), data(2, 1, false)].concat();
    is_refused("data behind the end", &twice);
    let twice = [data(2, 1, true), data(2, 0, true)].concat();
    is_refused("two ends", &twice);
}

#[test]
fn credit_is_kept_to() {
    let full = data(2, MAX_DATA_BYTES, false);
    let frames = (512 << 10) / MAX_DATA_BYTES;
    is_refused("a stream's credit", &full.repeat(frames + 1));
    let mut three = Vec::new();
    for stream in [2, 6, 10] {
        three.extend(data(stream, MAX_DATA_BYTES, false).repeat(frames));
    }
    is_refused("the connection's credit", &three);
    let control = data(CONTROL_STREAM, MAX_DATA_BYTES, false);
    is_refused("the control stream's credit", &control.repeat(17));
}

#[test]
fn there_are_no_more_streams_than_allowed() {
    let streams = |count: u64| -> Vec<u8> {
        (0..count)
            .flat_map(|at| data(2 + 4 * at, 1, true))
            .collect()
    };
    is_refused("65 streams", &streams(65));
    let mut foreign = Foreign::established();
    foreign.say(&streams(64));
    assert_eq!(foreign.server.state(), ConnState::Established);
    // One that was read makes room for another.
    assert!(read_all(&mut foreign.server, 6).1);
    foreign.run();
    foreign.say(&data(2 + 4 * 64, 1, true));
    assert_eq!(foreign.server.state(), ConnState::Established);
}

/// A record of a client.
fn sealed() -> (Pair, Vec<u8>) {
    let mut pair = Pair::established();
    let message = Bytes::from_static(b"some message");
    pair.client.send(CONTROL_STREAM, message, false).unwrap();
    let out = pair.client.outgoing(pair.now).to_vec();
    (pair, out)
}

fn give(pair: &mut Pair, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        let room = pair.server.receive_buffer();
        let some = room.len().min(bytes.len());
        room[..some].copy_from_slice(&bytes[..some]);
        pair.server.received(pair.now, some);
        bytes = &bytes[some..];
    }
}

#[test]
fn a_flipped_bit_anywhere_is_found_out() {
    let length = sealed().1.len();
    for at in 0..length {
        let (mut pair, mut bytes) = sealed();
        bytes[at] ^= 1 << (at % 8);
        give(&mut pair, &bytes);
        // A length that is longer now waits for more.
        pair.server.ended(pair.now);
        assert!(
            read_all(&mut pair.server, CONTROL_STREAM).0.is_empty(),
            "{at}"
        );
        assert!(pair.server.is_closing(), "{at}");
    }
}

#[test]
fn records_out_of_order_or_twice_are_found_out() {
    let mut pair = Pair::established();
    let mut records = Vec::new();
    for text in [b"one", b"two"] {
        pair.client
            .send(CONTROL_STREAM, Bytes::from_static(text), false)
            .unwrap();
        let record = pair.client.outgoing(pair.now).to_vec();
        pair.client.sent(record.len());
        records.push(record);
    }
    give(&mut pair, &records[1]);
    let reason = pair.server.close_reason();
    assert!(
        matches!(reason, Some(CloseReason::Transport(_))),
        "{reason:?}"
    );

    let mut pair = Pair::established();
    let message = Bytes::from_static(b"one");
    pair.client.send(CONTROL_STREAM, message, false).unwrap();
    let record = pair.client.outgoing(pair.now).to_vec();
    give(&mut pair, &record);
    assert_eq!(pair.server.state(), ConnState::Established);
    give(&mut pair, &record);
    assert!(pair.server.is_closing());
    assert_eq!(read_all(&mut pair.server, CONTROL_STREAM).0, b"one");
    // The client hears of it by an alert: bad_record_mac.
    pair.client.sent(record.len());
    cross(pair.now, &mut pair.server, &mut pair.client, usize::MAX);
    let told = pair.client.close_reason();
    assert!(
        matches!(told, Some(CloseReason::PeerTransport { code: 0x114, .. })),
        "{told:?}"
    );
}

#[test]
fn a_truncated_record_is_no_data() {
    let (mut pair, bytes) = sealed();
    give(&mut pair, &bytes[..bytes.len() - 1]);
    assert_eq!(pair.server.state(), ConnState::Established);
    pair.server.ended(pair.now);
    let state = pair.server.state();
    assert!(
        matches!(state, ConnState::Closed(CloseReason::GivenUp(_))),
        "{state:?}"
    );
}

#[test]
fn what_is_not_tls_ends_at_its_first_bytes() {
    let mut pair = Pair::new();
    give(&mut pair, b"GET / HTTP/1.1\r\n\r\n");
    assert!(pair.server.is_closing());
    assert!(matches!(
        pair.server.close_reason(),
        Some(CloseReason::Transport(_))
    ));
}

/// What is not authentic is found out while rustls still decrypts.
#[test]
fn a_recorded_handshake_is_none() {
    let mut recorded = Vec::new();
    let mut pair = Pair::new();
    for _ in 0..3 {
        let flight = pair.client.outgoing(pair.now).to_vec();
        pair.client.sent(flight.len());
        give(&mut pair, &flight);
        recorded.extend(flight);
        cross(pair.now, &mut pair.server, &mut pair.client, usize::MAX);
    }
    assert_eq!(pair.server.state(), ConnState::Established);
    let mut again = Pair::new();
    give(&mut again, &recorded);
    let reason = again.server.close_reason();
    assert!(
        matches!(reason, Some(CloseReason::Transport(_))),
        "{reason:?}"
    );
    assert!(!again.server.outgoing(again.now).is_empty());
}

#[test]
fn a_handshake_has_an_end() {
    // A client hello of 60 KiB, of which every record is well formed.
    let mut pair = Pair::new();
    let mut message = vec![1, 0, 0xf0, 0];
    message.resize(4 + 0xf000, 0);
    let mut given = 0;
    for part in message.chunks(1_000) {
        let mut record = vec![22, 3, 3];
        record.extend((part.len() as u16).to_be_bytes());
        record.extend(part);
        give(&mut pair, &record);
        given += record.len();
        assert!(pair.server.held_bytes() < 100 << 10);
        if pair.server.is_closing() {
            break;
        }
    }
    assert!(pair.server.is_closing() && given < 34 << 10, "{given}");
}
