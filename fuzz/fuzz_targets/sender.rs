//! A sending server or client fed whatever the bytes say: verdicts, chunks it is said to have, disk
//! results.
#![no_main]

use bytes::Bytes;
use landro::proto::session::{Direction, Grant, Request, Session, Transfer, TransferOptions};
use landro::proto::wire::{Message, VERSION, Verdict, VerdictKind, Welcome, WireRequest};
use landro::proto::{EntryError, EntryErrorCode, EntryPlace};
use landro_fuzz::{Script, World, limits};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut script = Script(data);
    let how = script.byte();
    let sources = vec![Bytes::from_static(b"a"); usize::from(how >> 1 & 3)];
    let bwlimit_bps = (how & 8 != 0).then(|| 1 << (script.byte() % 64));
    let entry_window = u32::from(script.byte());
    if how & 1 == 0 {
        let grant = Grant {
            read: true,
            write: true,
        };
        let mut world = World::new(script, |now| Session::server(now, grant, limits()));
        world.hello(
            WireRequest::Pull {
                sources,
                follow_named: false,
                no_growing: false,
                place: None,
            },
            bwlimit_bps,
        );
        world.run(step);
    } else {
        let (target, must_be_dir, force, fsync) = (Bytes::from_static(b"t"), true, false, false);
        let request = Request::Transfer(Transfer {
            direction: Direction::Push,
            sources,
            target,
            options: TransferOptions {
                must_be_dir,
                force,
                fsync,
                bwlimit_bps,
                ..TransferOptions::default()
            },
        });
        let mut world = World::new(script, |now| Session::client(now, request, limits()));
        world.say(&Message::Welcome(Welcome {
            version: VERSION,
            entry_window,
            inside: false,
            place: None,
            adds_lanes: false,
            addresses: Vec::new(),
            clear: None,
        }));
        world.run(step);
    }
});

fn step(world: &mut World<'_>) {
    match world.script.byte() % 12 {
        0..4 => world.complete(),
        4..6 => judge(world, |_| VerdictKind::Send {}),
        6 => judge(world, |_| VerdictKind::Skipped {}),
        7 => judge(world, |script| {
            let (values, first) = (1 + usize::from(script.byte() % 8), u32::from(script.byte()));
            VerdictKind::Have {
                first,
                values: vec![1; 32 * values].into(),
            }
        }),
        8 => judge(world, |script| VerdictKind::Done {
            resumed_bytes: u64::from(script.byte()) << (script.byte() % 56),
        }),
        9 => judge(world, |_| {
            let (code, text) = (EntryErrorCode::Full, String::new());
            VerdictKind::Failed {
                error: EntryError {
                    code,
                    errno: 28,
                    text,
                    place: EntryPlace::Destination,
                    call: String::new(),
                    advice: String::new(),
                },
            }
        }),
        10 => world.say(&Message::Finished {}),
        _ => {
            let what = world.script.byte();
            world.anything(what);
        }
    }
}

fn judge(world: &mut World<'_>, kind: impl FnOnce(&mut Script<'_>) -> VerdictKind) {
    let entry = world.script.entry();
    let kind = kind(&mut world.script);
    world.judge(Verdict { entry, kind });
}
