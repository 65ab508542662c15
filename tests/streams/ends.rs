//! Ends of streams where packets are lost: each arrives, and in time.

use super::lossy::{far, lossy};
use super::*;

/// Both ways, and each end as soon as there is nothing more: what comes twice for a loss is no
/// other end.
#[test]
fn requests_and_answers_are_whole_where_packets_are_lost() {
    let seed = 8;
    let pair = pair_by(BackendChoice::Auto, |at| lossy(at, 20, seed));
    soon(async {
        for round in 0..60_u64 {
            let data = made_up(3000, round);
            let ours = async {
                let (mut send, mut receive) = pair.here.open_bi().await.unwrap();
                send.write_all(&data).await.unwrap();
                if round % 2 == 0 {
                    // Its end goes alone.
                    thread::sleep(Duration::from_millis(round % 7));
                }
                send.finish().unwrap();
                let back = receive.read_to_end(usize::MAX).await.unwrap();
                assert!(back == data, "round {round}, seed {seed}");
            };
            let theirs = async {
                let (mut send, mut receive) = pair.there.accept_bi().await.unwrap();
                let all = receive.read_to_end(usize::MAX).await.unwrap();
                send.write_bytes(all).await.unwrap();
                send.finish().unwrap();
            };
            zip(ours, theirs).await;
        }
    });
}

/// The transport forgets a stream whose bytes are all acknowledged, and an end that was lost with
/// it: such an end has to arrive all the same.
#[test]
fn ends_that_go_alone_arrive_where_packets_are_lost() {
    let seed = 7;
    let pair = pair_by(BackendChoice::Auto, |at| lossy(at, 20, seed));
    soon(async {
        for round in 0..60_u64 {
            let ours = async {
                let mut send = pair.here.open_uni().await.unwrap();
                send.write_all(&made_up(3000, round)).await.unwrap();
                if round % 2 == 0 {
                    // Long enough for some of it to be acknowledged.
                    send.flush().await.unwrap();
                    thread::sleep(Duration::from_millis(round % 7));
                }
                send.finish().unwrap();
                send.delivered().await.unwrap();
            };
            let theirs = async {
                let mut receive = pair.there.accept_uni().await.unwrap();
                let all = receive.read_to_end(usize::MAX).await.unwrap();
                assert!(all == made_up(3000, round), "round {round}, seed {seed}");
            };
            zip(ours, theirs).await;
        }
    });
}

/// A path with some way to go, on which something is always under way: an end that goes alone after
/// losses waits for all that may have gone twice, and not for a silence that never comes.
#[test]
fn ends_that_go_alone_arrive_where_something_is_always_under_way() {
    let pair = pair_by(BackendChoice::Auto, |at| {
        lossy(far(at, Duration::from_millis(30)), 5, 9)
    });
    let (chatty, is_over) = (pair.here.clone(), Arc::new(AtomicBool::new(false)));
    let over = is_over.clone();
    let chats = thread::spawn(move || {
        while !over.load(Ordering::Acquire) {
            let _ = chatty.send_datagram(Bytes::from_static(b"little, and often"));
            thread::sleep(Duration::from_millis(10));
        }
    });
    soon(async {
        for round in 0..5_u64 {
            let begun = landro::engine::now();
            let ours = async {
                let mut send = pair.here.open_uni().await.unwrap();
                send.write_all(&made_up(100_000, round)).await.unwrap();
                send.flush().await.unwrap();
                thread::sleep(Duration::from_millis(200));
                send.finish().unwrap();
                send.delivered().await.unwrap();
            };
            let theirs = async {
                let mut receive = pair.there.accept_uni().await.unwrap();
                let all = receive.read_to_end(usize::MAX).await.unwrap();
                assert!(all == made_up(100_000, round), "round {round}");
            };
            zip(ours, theirs).await;
            let took = landro::engine::now() - begun;
            assert!(
                took < Duration::from_secs(15),
                "round {round} took {took:?}"
            );
        }
    });
    is_over.store(true, Ordering::Release);
    chats.join().unwrap();
    assert!(
        pair.here.statistics().lost_packets > 0,
        "that is what it is about"
    );
}
