//! A session of any role fed raw control and data bytes, from the greeting on.
#![no_main]

use std::time::Duration;

use bytes::Bytes;
use landro::proto::session::{
    BenchWork, Direction, Grant, Request, Session, Transfer, TransferOptions,
};
use landro_fuzz::{Script, World, limits};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut script = Script(data);
    let role = script.byte();
    let (sources, target) = (vec![Bytes::from_static(b"a")], Bytes::from_static(b"t"));
    let (must_be_dir, force, fsync, bwlimit_bps) =
        (role & 0x80 != 0, role & 0x40 != 0, false, None);
    let bench = |work| Request::Bench {
        work,
        duration: Duration::from_secs(1),
    };
    let request = match role % 8 {
        0 => Some(Request::Transfer(Transfer {
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
        })),
        1 => Some(Request::Transfer(Transfer {
            direction: Direction::Pull,
            sources,
            target,
            options: TransferOptions {
                must_be_dir,
                force,
                fsync,
                bwlimit_bps,
                ..TransferOptions::default()
            },
        })),
        2 => Some(Request::List {
            path: target,
            partial: false,
        }),
        6 => Some(Request::Queries),
        3 => Some(bench(BenchWork::Send)),
        4 => Some(bench(BenchWork::Receive)),
        5 => Some(bench(BenchWork::Echo { size_bytes: 3 })),
        _ => None,
    };
    let grant = Grant {
        read: role & 0x20 == 0,
        write: role & 0x10 == 0,
    };
    let world = World::new(script, |now| match request {
        Some(request) => Session::client(now, request, limits()),
        None => Session::server(now, grant, limits()),
    });
    world.run(|world| {
        let what = world.script.byte();
        world.anything(what);
    });
});
