//! Peers that are removed from the list while they are in, and do not go.

use std::fs;

use landro::proto::wire::Message;
use landro::proto::{SessionError, SessionErrorCode};
use landro::quic::Identity;

use super::common::{World, signal};
use super::peer::Peer;

/// CONNECTION_CLOSE of a daemon that does not authorise its peer.
const UNAUTHORISED: u64 = 2;

pub fn who_do_not_go(backend: &'static str) {
    let world = World::new(backend);
    let villain = Identity::generate().unwrap();
    let list = world.server.path().join("authorized_peers");
    let hangup = |lines: &str, said: &str| {
        let before = world.daemon.log().matches(said).count();
        fs::write(&list, lines).unwrap();
        signal(world.daemon.pid(), "HUP");
        world.daemon.wait_for_log_again(said, before);
    };
    hangup(
        &format!("{}\n", villain.fingerprint()),
        "2 peers are authorised",
    );
    // One that asked for nothing yet, and one that pushes.
    let mut idle = Peer::connect(world.daemon.address(), &villain);
    let mut pushing = Peer::connect(world.daemon.address(), &villain);
    pushing.push("");
    hangup("# nobody\n", "1 peer is authorised");
    let closed = idle.wait_closed();
    assert_eq!(closed.code, UNAUTHORISED, "{closed:?}");
    let said = std::iter::from_fn(|| pushing.next_message()).last();
    let Some(Message::Error(SessionError {
        code: SessionErrorCode::Permission,
        text,
        ..
    })) = said
    else {
        panic!("{said:?}")
    };
    assert!(text.contains("removed from authorized_peers"), "{text}");
    let closed = pushing.wait_closed();
    assert_eq!(closed.code, UNAUTHORISED, "{closed:?}");
    assert_eq!(world.daemon.stop().code, Some(0));
}
