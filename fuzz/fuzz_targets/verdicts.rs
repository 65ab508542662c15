//! Any bytes are verdicts within their bounds, or an error; a sender of some files survives them.
#![no_main]

use bytes::{Bytes, BytesMut};
use landro::proto::session::{Grant, Session};
use landro::proto::wire::{
    Decoder, MAX_ITEMS, MAX_TEXT_BYTES, MAX_VALUES, Message, VerdictKind, WireRequest,
};
use landro_fuzz::{Script, World, limits};
use libfuzzer_sys::fuzz_target;

/// What the imagined disk answers until everything is announced: a directory, opened, and in its
/// listing a small, a large and a resumable file and a symlink. Behind that, the verdicts' own
/// bytes answer.
const FOUND: &[u8] = &[
    0, 0, 0, 0, 1, 0x40, 0x11, b'a', 9, 0, 0x11, b'b', 9, 15, 0x11, b'c', 9, 23, 0x13, b'd',
];

fuzz_target!(|data: &[u8]| {
    // [8, [data]]: the CBOR of the message before the array of verdicts.
    let body = [&[0x82, 8, 0x81], data].concat();
    if let Some(Message::Verdicts(verdicts)) = decode(&body) {
        assert!(verdicts.len() <= MAX_ITEMS);
        for verdict in &verdicts {
            match &verdict.kind {
                VerdictKind::Have { values, .. } => {
                    assert!(
                        !values.is_empty()
                            && values.len() % 32 == 0
                            && values.len() / 32 <= MAX_VALUES
                    );
                }
                VerdictKind::Failed { error } => assert!(error.text.len() <= MAX_TEXT_BYTES),
                VerdictKind::Send {} | VerdictKind::Skipped {} | VerdictKind::Done { .. } => {}
            }
        }
    }
    let grant = Grant {
        read: true,
        write: false,
    };
    let script = [FOUND, data].concat();
    let mut world = World::new(Script(&script), |now| Session::server(now, grant, limits()));
    world.hello(
        WireRequest::Pull {
            sources: vec![Bytes::from_static(b"a")], follow_named: false, no_growing: false },
        None,
    );
    // The directory is found and opened; of what is then under way, the first closes the one above.
    for _ in 0..3 {
        world.complete();
    }
    world.say_raw(&body);
    world.run(World::complete);
});

fn decode(body: &[u8]) -> Option<Message> {
    let mut framed = BytesMut::from(&(body.len() as u32).to_be_bytes()[..]);
    framed.extend_from_slice(body);
    let mut decoder = Decoder::new();
    decoder.push(framed.freeze());
    decoder.next().ok().flatten()
}
