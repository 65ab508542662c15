//! A receiving server fed whatever the bytes say: announcements, stream data, disk results in any
//! order.
#![no_main]

use bytes::{Bytes, BytesMut};
use landro::ids::ChunkIndex;
use landro::proto::chunk::{chunk_count, chunk_len_bytes};
use landro::proto::integrity::{ChunkHasher, digest_of};
use landro::proto::session::{Grant, Session};
use landro::proto::wire::{Item, Message, RecordHead, WireRequest, encode_run};
use landro_fuzz::{Script, World, limits};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let grant = Grant {
        read: true,
        write: true,
    };
    let mut world = World::new(Script(data), |now| Session::server(now, grant, limits()));
    let how = world.script.byte();
    world.hello(
        WireRequest::Push {
            target: Bytes::from_static(b"t"),
            must_be_dir: how & 1 == 0,
            force: how & 2 != 0,
            fsync: how & 4 != 0,
            single: how & 8 != 0,
            keep_dirlinks: how & 16 != 0,
            no_perms: how & 32 != 0,
            no_times: how & 64 != 0,
            dir_modes: how & 128 != 0,
            no_target_dir: false,
            copy: None,
        },
        None,
    );
    world.run(step);
});

fn step(world: &mut World<'_>) {
    match world.script.byte() % 12 {
        0..3 => world.complete(),
        3..5 => world.announce(),
        5 => {
            let id = world.script.entry();
            world.say(&Message::Entries(vec![Item::EndDirectory { id }]));
        }
        6 => {
            let entry = world.script.entry();
            let data = vec![7; usize::from(world.script.byte())];
            let head = RecordHead::Whole {
                entry,
                len_bytes: data.len() as u64,
            };
            world.record(head, &data, digest_of(&data));
        }
        7 => chunk(world),
        8 => {
            let entry = world.script.entry();
            world.say(&Message::Root {
                entry,
                digest: [0; 32],
                has_grown: false,
                agains: 0,
            });
        }
        9 => {
            let entries = u64::from(world.script.byte());
            world.say(&Message::ManifestEnd { entries });
        }
        10 => {
            let entry = world.script.entry();
            let (first, count) = (world.script.byte().into(), world.script.byte().into());
            world.say(&Message::Holes {
                entry,
                first,
                count,
            });
        }
        _ => {
            let what = world.script.byte();
            world.anything(what);
        }
    }
}

/// A chunk as a file of some size would have it, so that its length and value are right now and
/// then.
fn chunk(world: &mut World<'_>) {
    let (entry, at) = (world.script.entry(), u32::from(world.script.byte()));
    let size_bytes = u64::from(world.script.byte()) << (world.script.byte() % 56);
    let chunk = ChunkIndex(at % chunk_count(size_bytes));
    let len_bytes = chunk_len_bytes(size_bytes, chunk);
    let data = vec![7; len_bytes.min(2 << 20) as usize];
    let mut hasher = ChunkHasher::new(chunk, size_bytes);
    hasher.update(&data);
    let digest = if data.len() as u64 == len_bytes {
        hasher.finish()
    } else {
        [0; 32]
    };
    let has_holes = world.script.byte() & 1 != 0;
    let head = RecordHead::Chunk {
        entry,
        chunk,
        len_bytes,
        has_holes,
    };
    if !has_holes {
        return world.record(head, &data, digest);
    }
    let hole_bytes = u64::from(world.script.byte()) << 12;
    let mut run = BytesMut::new();
    encode_run(hole_bytes, len_bytes.saturating_sub(hole_bytes), &mut run);
    run.extend_from_slice(&data[data.len().min(hole_bytes as usize)..]);
    world.record(head, &run, digest);
}
