//! Lanes that take over from others, and lie about it, or do so for ever.

use std::thread;
use std::time::Duration;

use landro::ids::SessionId;
use landro::proto::wire::PrefaceKind;

use super::peer::TlsPeer;
use super::sessions::{NO_SESSION, VIOLATION, a_file_arrives, id};
use crate::Scene;

/// Another lane takes over.
const TAKEN_OVER: u64 = 11;

/// As many as a server has not seen while it saw younger ones.
const UNSEEN_MAX: u32 = 16;

impl Scene {
    /// A lane that takes over, and says how many control bytes it has read.
    fn takes_over(&self, session: SessionId, number: u32, read: Option<u64>) -> TlsPeer {
        let mut peer = self.tls();
        peer.skip_count();
        peer.preface(PrefaceKind::TakeOver, session, number);
        if let Some(read) = read {
            peer.control(&read.to_be_bytes());
        }
        peer
    }
}

pub fn that_lie(scene: &Scene) {
    // As another number than the next ones.
    let mut owner = scene.tls_push(id(1));
    for number in [0, 1 + UNSEEN_MAX, u32::MAX] {
        let mut lane = scene.takes_over(id(1), number, Some(0));
        lane.expect_close(NO_SESSION, "a number that is not due");
    }
    (0..20).for_each(|_| owner.turn());
    assert!(!owner.is_over(), "{:?}", owner.wait_end());
    // As one that does what it says, and the same bytes once more by somebody who recorded them.
    let read = owner.control_read();
    let mut second = scene.takes_over(id(1), 1, Some(read));
    owner.expect_close(TAKEN_OVER, "the lane before");
    replayed(scene, &second);
    a_file_arrives(scene, &mut second, "of-the-second");
    // As one that was there, and as a second one of that number.
    for number in [0, 1] {
        let mut lane = scene.takes_over(id(1), number, Some(0));
        lane.expect_close(NO_SESSION, "a number that was used");
    }
    // As one that has read what was never said: its session is over.
    for read in [u64::MAX, 1 << 40] {
        let session = id(2 + (read >> 63) as u8);
        let mut owner = scene.tls_push(session);
        let mut lane = scene.takes_over(session, 1, Some(read));
        owner.expect_close(TAKEN_OVER, "the lane before");
        lane.expect_close(VIOLATION, "control bytes that there never were");
        let mut late = scene.takes_over(session, 2, Some(0));
        late.expect_close(NO_SESSION, "a session that is over");
    }
}

fn replayed(scene: &Scene, lane: &TlsPeer) {
    use std::io::{Read, Write};
    let mut stream = super::peer::dial(scene.world.daemon.address(), 5);
    let _ = stream.write_all(&lane.sent);
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    let ended = stream.read_to_end(&mut Vec::new());
    let is_late = |error: std::io::Error| error.kind() == std::io::ErrorKind::WouldBlock;
    assert!(!ended.is_err_and(is_late), "it is waited for");
}

/// One after the other takes over, and none says how far it has read: the session is where it was,
/// and whoever is the last goes on with it.
pub fn without_end(scene: &Scene) {
    const TIMES: u32 = 300;
    let owner = scene.tls_push(id(1));
    let read = owner.control_read();
    let mut last = owner;
    for number in 1..=TIMES {
        let lane = scene.takes_over(id(1), number, None);
        last.expect_close(TAKEN_OVER, "the lane before");
        last = lane;
    }
    println!(
        "{TIMES} lanes took over: {} MiB",
        scene.world.daemon.rss_bytes() >> 20
    );
    last.control(&read.to_be_bytes());
    a_file_arrives(scene, &mut last, "of-the-last");
    many_that_are_cut(scene);
}

/// Sessions whose lanes break, and that nobody takes up again: they are not kept for long, and not
/// many of them.
fn many_that_are_cut(scene: &Scene) {
    const SESSIONS: u8 = 100;
    for number in 0..SESSIONS {
        let mut peer = scene.tls_push(id(100 + number));
        peer.turn();
    }
    println!(
        "{SESSIONS} sessions were cut: {} MiB",
        scene.world.daemon.rss_bytes() >> 20
    );
    thread::sleep(Duration::from_millis(100));
    let lives = |number: u8| {
        let mut lane = scene.takes_over(id(100 + number), 1, Some(0));
        (0..40).for_each(|_| lane.turn());
        !lane.is_over()
    };
    let kept = (0..SESSIONS)
        .step_by(5)
        .filter(|number| lives(*number))
        .count();
    assert!(kept <= 16, "{kept} of 20 sessions that were cut are kept");
}
