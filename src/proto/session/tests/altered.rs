//! Who says that a lane was altered, where there may be such a lane and where there may not.

use super::*;

/// A server that lets clients have lanes in the clear hears a push of one that asked for them, or
/// did not, and that a lane was altered.
fn hears_of_an_altered_lane(clear: bool) -> bool {
    let now = epoch();
    let limits = Limits {
        adds_lanes: true,
        clear: ClearLanes::Allowed(ClearSecret([4; 32])),
        ..limits()
    };
    let mut server = Bench::new(now, Session::server(now, BOTH, limits));
    let Message::Hello(hello) = hello(VERSION, wire_push()) else {
        unreachable!("it is one");
    };
    server.hear(Message::Hello(Hello {
        adds_lanes: true,
        clear,
        ..hello
    }));
    server.answer(Ok(DiskDone::Target { name: None }));
    server.answer(Ok(DiskDone::Above(Vec::new())));
    let (lane, altered) = (0, true);
    server.hear(Message::LaneOver { lane, altered });
    assert_eq!(server.outcome, None);
    server.is_altered
}

#[test]
fn nothing_is_altered_where_nothing_goes_in_the_clear() {
    assert!(hears_of_an_altered_lane(true));
    assert!(!hears_of_an_altered_lane(false));
}
