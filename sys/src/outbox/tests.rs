//! Order, turns and retries of queued sends, without a kernel.

use super::*;

fn address(port: u16) -> SocketAddr {
    ([127, 0, 0, 1], port).into()
}

fn outbox() -> Outbox {
    let mut outbox = Outbox::default();
    outbox.add_socket();
    outbox
}

fn push(outbox: &mut Outbox, token: u64, to: u16, runs: &[(Range<usize>, Option<u16>)]) {
    let runs = runs.iter().map(|(range, segment_bytes)| Run {
        range: range.clone(),
        segment_bytes: *segment_bytes,
    });
    let send = SendRun {
        socket: SocketId(0),
        buffer: SendBuffer::new(),
        runs: runs.collect(),
        to: address(to),
        from: None,
    };
    assert!(outbox.push(token, send).is_none());
}

fn token(completion: Option<Completion>) -> Option<(u64, Result<usize, Option<i32>>)> {
    match completion? {
        Completion::Sent { token, result, .. } => {
            Some((token, result.map_err(|e| e.raw_os_error())))
        }
        _ => None,
    }
}

#[test]
fn one_piece_per_destination_is_in_flight_and_destinations_take_turns() {
    let mut outbox = outbox();
    push(&mut outbox, 1, 1, &[(0..10, None), (10..30, None)]);
    push(&mut outbox, 2, 2, &[(0..5, None)]);
    push(&mut outbox, 3, 1, &[(0..7, None)]);
    let first = outbox.next(SocketId(0)).unwrap();
    let other = outbox.next(SocketId(0)).unwrap();
    assert_eq!(
        (first.run.range.clone(), other.run.range.clone()),
        (0..10, 0..5)
    );
    assert!(outbox.next(SocketId(0)).is_none() && !outbox.has_runnable());
    assert_eq!(token(outbox.settle(other, Ok(5))), Some((2, Ok(5))));
    outbox.put_back(first);
    let first = outbox.next(SocketId(0)).unwrap();
    assert_eq!(first.run.range, 0..10);
    assert!(outbox.settle(first, Ok(10)).is_none());
    let second = outbox.next(SocketId(0)).unwrap();
    assert_eq!(second.run.range, 10..30);
    assert_eq!(token(outbox.settle(second, Ok(20))), Some((1, Ok(30))));
    let third = outbox.next(SocketId(0)).unwrap();
    assert_eq!(
        token(outbox.settle(third, Err(io::Error::from_raw_os_error(libc::EPERM)))),
        Some((3, Err(Some(libc::EPERM))))
    );
    assert_eq!(
        (
            outbox.len(),
            outbox.lines.len(),
            outbox.by_destination.len()
        ),
        (0, 0, 0)
    );
}

#[test]
fn eio_cuts_this_run_and_all_later_ones_into_datagrams() {
    let mut outbox = outbox();
    push(&mut outbox, 1, 1, &[(0..25, Some(10)), (25..30, Some(10))]);
    let piece = outbox.next(SocketId(0)).unwrap();
    assert!(
        outbox
            .settle(piece, Err(io::Error::from_raw_os_error(libc::EIO)))
            .is_none()
    );
    push(&mut outbox, 2, 1, &[(0..15, Some(10))]);
    let mut sent = Vec::new();
    let mut done = Vec::new();
    while let Some(piece) = outbox.next(SocketId(0)) {
        sent.push((piece.run.range.clone(), piece.run.segment_bytes));
        let bytes = piece.run.range.len();
        done.extend(token(outbox.settle(piece, Ok(bytes))));
    }
    let expected = [
        (0..10, None),
        (10..20, None),
        (20..25, None),
        (25..30, Some(10)),
        (0..10, None),
        (10..15, None),
    ];
    assert_eq!(sent, expected);
    assert_eq!(done, [(1, Ok(30)), (2, Ok(15))]);
}

#[test]
fn einval_cuts_only_the_run_it_is_for_and_single_datagrams_keep_their_errors() {
    let mut outbox = outbox();
    push(&mut outbox, 1, 1, &[(0..20, Some(10))]);
    let error = || io::Error::from_raw_os_error(libc::EINVAL);
    let piece = outbox.next(SocketId(0)).unwrap();
    assert!(outbox.settle(piece, Err(error())).is_none());
    let piece = outbox.next(SocketId(0)).unwrap();
    assert!(outbox.settle(piece, Err(error())).is_none());
    let piece = outbox.next(SocketId(0)).unwrap();
    assert_eq!(
        token(outbox.settle(piece, Ok(10))),
        Some((1, Err(Some(libc::EINVAL))))
    );
    push(&mut outbox, 2, 1, &[(0..20, Some(10))]);
    assert_eq!(outbox.next(SocketId(0)).unwrap().run.range, 0..20);
}
