//! Corners that random trees do not reach: depth, path length, roots, listings, journals of tens of
//! thousands of chunks.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};

use super::Rng;
use super::disk::{Body, Disk, Ino, Node};
use super::scenario::{complete, limits};
use super::tests::{for_seeds, start};
use super::tree::{TreeShape, random_tree};
use super::world::{CLIENT, SERVER, World};
use crate::ids::{ChunkIndex, EntryId};
use crate::proto::chunk::{MAX_DEPTH, chunk_count};
use crate::proto::integrity::Digest;
use crate::proto::journal::{Header, Storage};
use crate::proto::session::{
    Direction, Grant, Limits, Request, Session, Transfer, TransferOptions,
};
use crate::proto::wire::{
    Decoder, Entry, Hello, Item, Message, VERSION, Verdict, VerdictKind, Welcome, WireRequest,
    encode,
};
use crate::proto::{
    DiskDone, DiskOp, EntryErrorCode, EntryResult, Event, Input, Kind, Lasting, Meta, Mtime,
    Outcome, Output, SessionErrorCode,
};

const BOTH: Grant = Grant {
    read: true,
    write: true,
};

pub(super) fn directory() -> Node {
    Node {
        mode: 0o755,
        mtime: Mtime {
            seconds: 7,
            nanoseconds: 8,
        },
        body: Body::Directory(BTreeMap::new()),
    }
}

pub(super) fn file(data: &[u8]) -> Node {
    Node {
        body: Body::File(data.to_vec()),
        ..directory()
    }
}

fn push(source: &str, target: &str) -> Request {
    transfer(Direction::Push, source, target)
}

fn pull(source: &str, target: &str) -> Request {
    transfer(Direction::Pull, source, target)
}

fn transfer(direction: Direction, source: &str, target: &str) -> Request {
    Request::Transfer(Transfer {
        direction,
        sources: vec![Bytes::copy_from_slice(source.as_bytes())],
        target: Bytes::copy_from_slice(target.as_bytes()),
        options: TransferOptions::default(),
    })
}

fn run(seed: u64, request: Request, disks: [Disk; 2]) -> World {
    let mut rng = Rng::new(seed);
    let limits = [limits(&mut rng), limits(&mut rng)];
    let mut world = World::new(rng, start(), (request, BOTH), limits, disks);
    world.run(usize::MAX);
    world
}

fn errors(world: &World) -> Vec<EntryErrorCode> {
    let error = |event: &Event| match event {
        Event::Entry {
            result: EntryResult::Failed(error),
            ..
        } => Some(error.code),
        _ => None,
    };
    world.sides[CLIENT]
        .events
        .iter()
        .filter_map(error)
        .collect()
}

#[test]
fn trees_deeper_than_the_cap_fail_at_the_cap() {
    for pulls in [false, true] {
        let mut source = Disk::new();
        let mut at = source.put(Disk::ROOT, b"d", directory());
        for _ in 1..MAX_DEPTH + 5 {
            at = source.put(at, b"d", directory());
        }
        let request = if pulls {
            pull("d", "new")
        } else {
            push("d", "new")
        };
        let disks = if pulls {
            [Disk::new(), source]
        } else {
            [source, Disk::new()]
        };
        let world = run(3, request, disks);
        let totals = complete(&world);
        assert_eq!(totals.directories, MAX_DEPTH as u64);
        assert_eq!(
            (totals.errors, errors(&world)),
            (1, vec![EntryErrorCode::Name])
        );
    }
}

/// A client that asks hears how much there is long before the window lets the manifest say it; one
/// that does not ask hears nothing.
#[test]
fn what_there_is_is_counted_ahead_of_the_manifest() {
    for counts in [true, false] {
        let mut source = Disk::new();
        let top = source.put(Disk::ROOT, b"d", directory());
        for number in 0..40_u8 {
            let name = [b'd', b'0' + number / 10, b'0' + number % 10];
            let at = source.put(top, &name, directory());
            for name in [b"a", b"b", b"c", b"e", b"f"] {
                source.put(at, name, file(&[number; 100]));
            }
        }
        let Request::Transfer(mut transfer) = pull("d", "new") else {
            panic!()
        };
        transfer.options.counts = counts;
        let mut rng = Rng::new(11);
        let small = Limits {
            entry_window: 8,
            ..limits(&mut rng)
        };
        let request = (Request::Transfer(transfer), BOTH);
        let limits = [small.clone(), small];
        let mut world = World::new(rng, start(), request, limits, [Disk::new(), source]);
        world.run(usize::MAX);
        assert_eq!(complete(&world).files, 200);
        let mut announced = (0, false);
        let mut heard = Vec::new();
        for event in &world.sides[CLIENT].events {
            match *event {
                Event::Announced {
                    files, complete, ..
                } => announced = (files, complete),
                Event::Counted { files, bytes } => heard.push((files, bytes, announced)),
                _ => {}
            }
        }
        match (counts, &heard[..]) {
            (true, [(200, 20_000, (files, false))]) => assert!(*files < 200, "{files}"),
            (false, []) => {}
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn paths_longer_than_the_cap_fail_alone() {
    let mut source = Disk::new();
    let name = [b'n'; 255];
    let mut at = source.put(Disk::ROOT, &name, directory());
    for _ in 1..20 {
        source.put(at, b"here", file(b"x"));
        at = source.put(at, &name, directory());
    }
    let world = run(4, push(&"n".repeat(255), ""), [source, Disk::new()]);
    let totals = complete(&world);
    // 15 names of 255 bytes and their slashes are 3,839 bytes; a sixteenth makes 4,095, and a file
    // below is too much.
    assert_eq!((totals.directories, totals.files), (16, 15));
    assert!(
        errors(&world)
            .iter()
            .all(|code| *code == EntryErrorCode::Name)
            && totals.errors == 2
    );
}

#[test]
fn the_served_root_goes_straight_into_the_target() {
    for_seeds(
        "the_served_root_goes_straight_into_the_target",
        30,
        |seed| {
            let mut rng = Rng::new(seed);
            let mut source = Disk::new();
            random_tree(
                &mut source,
                Disk::ROOT,
                TreeShape {
                    max_entries: 20,
                    max_large: 0,
                },
                &mut rng,
            );
            let before = source.clone();
            let mut target = Disk::new();
            target.put(Disk::ROOT, b"in", directory());
            let world = run(seed, pull("/", "in"), [target, source]);
            let totals = complete(&world);
            let target = &world.sides[CLIENT].disk;
            let into = target.find(b"in").expect("it was there");
            let count = |disk: &Disk, from: Ino| {
                let mut count = 0;
                disk.visit(from, &mut |_, ino| {
                    count += u64::from(disk.meta(ino).kind != Kind::Special)
                });
                count
            };
            assert_eq!(count(target, into), count(&before, Disk::ROOT));
            assert_eq!(totals.errors, 0);
        },
    );
}

#[test]
fn targets_and_sources_that_do_not_exist() {
    let mut disk = Disk::new();
    disk.put(Disk::ROOT, b"f", file(b"data"));
    let no_parent = run(5, push("f", "no/where"), [disk.clone(), Disk::new()]);
    let Some(Outcome::Refused(error)) = &no_parent.sides[CLIENT].outcome else {
        panic!("{}", no_parent.state())
    };
    assert_eq!(error.code, SessionErrorCode::NotFound);
    let local = run(6, pull("f", "no/where"), [Disk::new(), disk.clone()]);
    assert!(
        matches!(local.sides[CLIENT].outcome, Some(Outcome::CalledOff(_))),
        "{}",
        local.state()
    );
    for request in [push("gone", "x"), pull("gone", "x")] {
        let world = run(7, request, [Disk::new(), Disk::new()]);
        assert_eq!(
            (complete(&world).errors, errors(&world)),
            (1, vec![EntryErrorCode::Source])
        );
    }
    // A file takes the name of a file that is there.
    let mut target = Disk::new();
    target.put(Disk::ROOT, b"old", file(b"other data"));
    let world = run(8, push("f", "old"), [disk, target]);
    assert_eq!(complete(&world).files, 1);
    let placed = world.sides[SERVER]
        .disk
        .find(b"old")
        .map(|ino| world.sides[SERVER].disk.node(ino).body.clone());
    assert!(matches!(placed, Some(Body::File(data)) if data == b"data"));
}

#[test]
fn listings_are_complete() {
    for_seeds("listings_are_complete", 50, |seed| {
        let mut rng = Rng::new(seed);
        let mut disk = Disk::new();
        let dir = disk.put(Disk::ROOT, b"pub", directory());
        random_tree(
            &mut disk,
            dir,
            TreeShape {
                max_entries: 1500,
                max_large: 0,
            },
            &mut rng,
        );
        // A listing tells of a size what the file system tells.
        disk.unsized_files.clear();
        let expected: BTreeMap<Vec<u8>, Meta> = disk
            .children(dir)
            .into_iter()
            .flatten()
            .map(|(name, ino)| (name.clone(), disk.meta(*ino)))
            // A listing does not say what is allocated.
            .map(|(name, meta)| {
                let allocated_bytes = meta.size_bytes;
                let meta = Meta {
                    allocated_bytes,
                    ..meta
                };
                (name, meta)
            })
            .collect();
        let world = run(
            seed,
            Request::List {
                path: Bytes::from_static(b"pub"),
                partial: false,
            },
            [Disk::new(), disk],
        );
        complete(&world);
        let rows = world.sides[CLIENT]
            .events
            .iter()
            .filter_map(|event| match event {
                Event::Listing { path, meta, .. } => Some((path.to_vec(), **meta)),
                _ => None,
            });
        let rows: Vec<_> = rows.collect();
        assert_eq!(rows.len(), expected.len());
        assert_eq!(rows.into_iter().collect::<BTreeMap<_, _>>(), expected);
    });
    let world = run(
        1,
        Request::List {
            path: Bytes::from_static(b"gone"),
            partial: false,
        },
        [Disk::new(), Disk::new()],
    );
    let Some(Outcome::Refused(error)) = &world.sides[CLIENT].outcome else {
        panic!("{}", world.state())
    };
    assert_eq!(error.code, SessionErrorCode::NotFound);
}

/// Drains a session: its control messages, and the disk operations it starts.
fn drain(
    session: &mut Session,
    decoder: &mut Decoder,
) -> (Vec<Message>, Vec<(crate::ids::OpId, DiskOp)>) {
    let (mut messages, mut ops) = (Vec::new(), Vec::new());
    while let Some(output) = session.poll() {
        match output {
            Output::Control(bytes) => decoder.push(bytes),
            Output::Disk { op, cmd } => ops.push((op, cmd)),
            Output::Finished(outcome) => panic!("{outcome:?}"),
            Output::Data { .. }
            | Output::Stays(_)
            | Output::Retired(_)
            | Output::AddsLanes { .. }
            | Output::Altered
            | Output::LaneOver(_)
            | Output::LaneAccount(_)
            | Output::ToOutpost(..)
            | Output::ToHome(_)
            | Output::Piece { .. }
            | Output::TakesData(_)
            | Output::AnswersMax(_)
            | Output::Event(_) => {}
            Output::Copy(_) => panic!("this lane leads to another host"),
        }
    }
    while let Some(message) = decoder.next().expect("the session speaks the protocol") {
        messages.push(message);
    }
    (messages, ops)
}

fn framed(message: &Message) -> Input {
    let mut bytes = BytesMut::new();
    encode(message, &mut bytes);
    Input::Control(bytes.freeze())
}

/// A resumed file of 60,000 chunks: its journal is told in many messages, and the sender takes them
/// all.
#[test]
fn huge_journals_are_told_and_taken() {
    let size_bytes = 60_000u64 << 20;
    let mtime = Mtime {
        seconds: 1,
        nanoseconds: 2,
    };
    for step in [1usize, 2] {
        let limits = Limits {
            entry_window: 1024,
            ..limits(&mut Rng::new(1))
        };
        let had: Vec<u32> = (0..chunk_count(size_bytes) - 1).step_by(step).collect();
        let verdicts = receiver_says(&limits, size_bytes, mtime, &had);
        let told: usize = verdicts
            .iter()
            .map(|verdict| match &verdict.kind {
                VerdictKind::Have { values, .. } => values.len() / 32,
                _ => 0,
            })
            .sum();
        assert_eq!(told, had.len());
        assert!(matches!(
            verdicts.last(),
            Some(Verdict {
                kind: VerdictKind::Send {},
                ..
            })
        ));
        sender_takes(limits, size_bytes, mtime, verdicts);
    }
}

const STORAGE: Storage = Storage {
    boot: [7; 16],
    mount: 7,
};

fn hello() -> Hello {
    let target = Bytes::from_static(b"in");
    let request = WireRequest::Push {
        target,
        must_be_dir: true,
        force: false,
        fsync: false,
        single: false,
        keep_dirlinks: false,
        no_perms: false,
        no_times: false,
        dir_modes: false,
        no_target_dir: false,
        copy: None,
    };
    Hello {
        version: VERSION,
        request,
        entry_window: 1,
        bwlimit_bps: None,
        streams: None,
        counts: false,
        patience_s: None,
        adds_lanes: false,
        asks_addresses: false,
        takes_kept: false,
        clear: false,
    }
}

fn journal_of(size_bytes: u64, mtime: Mtime, had: &[u32]) -> Bytes {
    let header = Header {
        storage: STORAGE,
        size_bytes,
        mtime,
        source_tag: 9,
    };
    let mut journal = BytesMut::from(&header.encode()[..]);
    for chunk in had {
        let value: Digest = [*chunk as u8; 32];
        header
            .key()
            .encode_record(ChunkIndex(*chunk), &value, &mut journal);
    }
    journal.freeze()
}

fn receiver_says(limits: &Limits, size_bytes: u64, mtime: Mtime, had: &[u32]) -> Vec<Verdict> {
    let journal = journal_of(size_bytes, mtime, had);
    let now = start();
    let mut session = Session::server(now, BOTH, limits.clone());
    let mut decoder = Decoder::new();
    let entry = Entry {
        id: EntryId(1),
        parent: EntryId(0),
        name: Bytes::from_static(b"huge"),
        kind: Kind::File,
        mode: 0o644,
        mtime,
        size_bytes,
        source_tag: 9,
        object: None,
        allocated_bytes: None,
        is_unsized: false,
        link: None,
    };
    session.handle(now, framed(&Message::Hello(hello())));
    let mut entry = Some(framed(&Message::Entries(vec![Item::Entry(entry)])));
    let (mut verdicts, mut journal) = (Vec::new(), Some(journal));
    loop {
        let (messages, ops) = drain(&mut session, &mut decoder);
        let welcomed = messages
            .iter()
            .any(|message| matches!(message, Message::Welcome(_)));
        for message in messages {
            if let Message::Verdicts(batch) = message {
                verdicts.extend(batch);
            }
        }
        if let (true, Some(entry)) = (welcomed, entry.take_if(|_| welcomed)) {
            session.handle(now, entry);
            continue;
        }
        if ops.is_empty() {
            return verdicts;
        }
        for (op, cmd) in ops {
            let done = match cmd {
                DiskOp::ResolveTarget { .. } => DiskDone::Target { name: None },
                DiskOp::DirsAbove { .. } => DiskDone::Above(Vec::new()),
                DiskOp::Check { .. } => DiskDone::Existing(None),
                DiskOp::OpenPart { .. } => {
                    let journal = journal.take().expect("opened once");
                    DiskDone::Part {
                        journal,
                        size_bytes,
                        resumable: true,
                        storage: STORAGE,
                    }
                }
                other => panic!("{other:?}"),
            };
            let result = Ok(done);
            session.handle(now, Input::Disk { op, result });
        }
    }
}

fn file_of(size_bytes: u64, mtime: Mtime) -> Meta {
    Meta {
        kind: Kind::File,
        mode: 0o644,
        mtime,
        size_bytes,
        allocated_bytes: size_bytes,
        inode: 9,
        device: 0,
        lasting: Lasting::Inode,
        links: 1,
        is_sized: true,
    }
}

fn sender_takes(limits: Limits, size_bytes: u64, mtime: Mtime, verdicts: Vec<Verdict>) {
    let now = start();
    let meta = file_of(size_bytes, mtime);
    let mut session = Session::client(now, push("huge", "in"), limits);
    let mut decoder = Decoder::new();
    drain(&mut session, &mut decoder);
    session.handle(
        now,
        framed(&Message::Welcome(Welcome {
            version: VERSION,
            entry_window: 9,
            inside: false,
            place: None,
            adds_lanes: false,
            addresses: Vec::new(),
            clear: None,
        })),
    );
    let (mut batches, mut reads) = (verdicts.chunks(1), 0);
    // Until the first chunks that are missing are read, behind the last of what was told.
    while reads == 0 {
        let (messages, ops) = drain(&mut session, &mut decoder);
        let announced = messages
            .iter()
            .any(|message| matches!(message, Message::Entries(_)));
        if announced {
            batches
                .by_ref()
                .for_each(|batch| session.handle(now, framed(&Message::Verdicts(batch.to_vec()))));
        }
        assert!(announced || !ops.is_empty(), "stuck");
        for (op, cmd) in ops {
            let done = match cmd {
                DiskOp::ResolveSource { .. } => {
                    let name = crate::ids::Name::new(Bytes::from_static(b"huge")).ok();
                    DiskDone::Source {
                        name,
                        meta: Box::new(meta),
                        link: None,
                        in_place: false,
                    }
                }
                DiskOp::OpenRead { .. } => DiskDone::Meta(meta),
                DiskOp::CloseDir { .. } => DiskDone::Done,
                DiskOp::Read { offset, .. } => {
                    let chunk = (offset >> 20) as u32;
                    let told = |verdict: &Verdict| match &verdict.kind {
                        VerdictKind::Have { first, values } => {
                            (*first..first + values.len() as u32 / 32).contains(&chunk)
                        }
                        _ => false,
                    };
                    assert!(
                        !verdicts.iter().any(told),
                        "chunk {chunk} was had and is read"
                    );
                    reads += 1;
                    continue;
                }
                other => panic!("{other:?}"),
            };
            let result = Ok(done);
            session.handle(now, Input::Disk { op, result });
        }
    }
}
