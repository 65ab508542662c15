//! The transfer protocol alone: one session's two ends in memory, on disks that do everything at
//! once.
//!
//! What is left is what the state machines themselves cost: the walk, scheduling, codec and hashing
//! of each side.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use criterion::{Criterion, SamplingMode, Throughput};
use landro::engine::now;
use landro::ids::{MoverId, Name, StreamKey};
use landro::proto::clear::ClearLanes;
use landro::proto::journal::Storage;
use landro::proto::parallel::ParallelTransferConfig;
use landro::proto::session::{
    Direction, Grant, Limits, Request, Session, Transfer, TransferOptions,
};
use landro::proto::{
    Carriage, DirFound, DiskDone, DiskError, DiskOp, EntryResult, Event, Input, Kind, Lasting,
    Listed, Meta, Mtime, Outcome, Output, Payload,
};

use super::{MIB, PIECE_BYTES, noise};

const SENDER: usize = 0;
const RECEIVER: usize = 1;

const SMALL_FILES: usize = 2_000;
const SMALL_FILE_BYTES: usize = 1_024;
const LARGE_FILE_BYTES: usize = 64 * MIB;

/// As a worker gives them to a lone session.
fn limits() -> Limits {
    Limits {
        entry_window: 2_048,
        write_behind_bytes: 4 * MIB,
        read_ahead_bytes: 4 * MIB,
        read_ahead_in_place_bytes: 4 * MIB,
        read_ahead_all_bytes: 4 * MIB,
        carriage: Carriage::Bytes,
        host_key: None,
        parallel: ParallelTransferConfig::default(),
        lookups: 64,
        patience: None,
        adds_lanes: false,
        keeps_digests: false,
        asks_addresses: false,
        addresses: std::sync::Arc::default(),
        clear: ClearLanes::Off,
    }
}

/// What is sent: one file, or a directory of many.
#[derive(Clone, Copy)]
struct Source {
    files: usize,
    file_bytes: usize,
    in_directory: bool,
}

impl Source {
    fn meta(&self, kind: Kind) -> Meta {
        let mtime = Mtime {
            seconds: 1_700_000_000,
            nanoseconds: 5,
        };
        Meta {
            kind,
            mode: 0o644,
            mtime,
            size_bytes: self.file_bytes as u64,
            allocated_bytes: self.file_bytes as u64,
            inode: 9,
            device: 0,
            lasting: Lasting::Inode,
            links: 1,
            is_sized: true,
        }
    }

    fn file(&self) -> Meta {
        self.meta(Kind::File)
    }
}

/// Answers operations; its files hold the same piece over and over.
struct Disk {
    source: Source,
    piece: Bytes,
    listed: usize,
}

impl Disk {
    fn answer(&mut self, cmd: DiskOp) -> Result<DiskDone, DiskError> {
        Ok(match cmd {
            DiskOp::ResolveSource { .. } => {
                let kind = match self.source.in_directory {
                    true => Kind::Directory,
                    false => Kind::File,
                };
                DiskDone::Source {
                    name: Some(name("source")),
                    meta: Box::new(self.source.meta(kind)),
                    link: None,
                    in_place: false,
                }
            }
            DiskOp::List { max_entries, .. } => self.list(max_entries),
            DiskOp::ReadSmall { .. } => {
                let data = self.piece.slice(..self.source.file_bytes);
                DiskDone::Small {
                    data,
                    after: self.source.file(),
                }
            }
            DiskOp::OpenRead { .. } | DiskOp::Stat { .. } => DiskDone::Meta(self.source.file()),
            DiskOp::Read { len_bytes, .. } => DiskDone::Read {
                data: self.piece.slice(..len_bytes),
            },
            DiskOp::ResolveTarget { .. } => DiskDone::Target { name: None },
            DiskOp::DirsAbove { .. } => DiskDone::Above(Vec::new()),
            DiskOp::Check { .. } => DiskDone::Existing(None),
            DiskOp::MakeDir { .. } => DiskDone::Directory {
                found: DirFound::Missing,
            },
            DiskOp::OpenPart { resumable, .. } => {
                let storage = Storage::default();
                DiskDone::Part {
                    journal: Bytes::new(),
                    size_bytes: 0,
                    resumable,
                    storage,
                }
            }
            DiskOp::AwaitInput { .. }
            | DiskOp::ReadOn { .. }
            | DiskOp::Pipe { .. }
            | DiskOp::ReadPart { .. }
            | DiskOp::PutSymlink { .. }
            | DiskOp::CopyRange { .. }
            | DiskOp::Map { .. }
            | DiskOp::Recall { .. }
            | DiskOp::Remember { .. }
            | DiskOp::MakeHole { .. }
            | DiskOp::Yield
            | DiskOp::StatDir { .. }
            | DiskOp::LookUnfinished { .. } => {
                panic!("nobody asks for {cmd:?} here")
            }
            DiskOp::OpenDir { .. }
            | DiskOp::EnterTarget { .. }
            | DiskOp::CloseDir { .. }
            | DiskOp::CloseRead { .. }
            | DiskOp::SetDir { .. }
            | DiskOp::PutSmall { .. }
            | DiskOp::StartPart { .. }
            | DiskOp::Write { .. }
            | DiskOp::WriteJournal { .. }
            | DiskOp::CommitPart { .. }
            | DiskOp::ClosePart { .. }
            | DiskOp::CleanPart { .. } => DiskDone::Done,
        })
    }

    fn list(&mut self, max_entries: usize) -> DiskDone {
        let upto = self.source.files.min(self.listed + max_entries);
        let entries = (self.listed..upto).map(|number| Listed {
            name: Bytes::from(format!("IMG_{number:06}.jpeg")),
            found: Ok((self.source.file(), None)),
        });
        let entries = entries.collect();
        self.listed = upto;
        DiskDone::Listed {
            entries,
            end: upto == self.source.files,
        }
    }
}

fn name(text: &'static str) -> Name {
    Name::new(Bytes::from_static(text.as_bytes())).expect("a good name")
}

/// Both ends, and what is on its way to each.
struct World {
    sessions: [Session; 2],
    disks: [Disk; 2],
    inputs: VecDeque<(usize, Input)>,
    /// Data streams in the order of emission; each joins what follows on the same stream, as the
    /// transport does.
    data: VecDeque<(StreamKey, BytesMut, bool)>,
    /// Time inside of each session.
    spent: [Duration; 2],
    /// Whether the receiver takes data, and in which pieces.
    takes_data: bool,
    pieces: HashMap<StreamKey, usize>,
    files_done: usize,
    outcomes: usize,
}

impl World {
    fn new(source: Source, piece: &Bytes) -> World {
        let request = Request::Transfer(Transfer {
            direction: Direction::Push,
            sources: vec![Bytes::from_static(b"source")],
            target: Bytes::from_static(b"target"),
            options: TransferOptions {
                must_be_dir: true,
                ..TransferOptions::default()
            },
        });
        let now = now();
        let client = Session::client(now, request, limits());
        let server = Session::server(
            now,
            Grant {
                read: true,
                write: true,
            },
            limits(),
        );
        let disk = || Disk {
            source,
            piece: piece.clone(),
            listed: 0,
        };
        World {
            sessions: [client, server],
            disks: [disk(), disk()],
            inputs: VecDeque::new(),
            data: VecDeque::new(),
            spent: [Duration::ZERO; 2],
            takes_data: true,
            pieces: HashMap::new(),
            files_done: 0,
            outcomes: 0,
        }
    }

    /// Carries one session to its end; gives the time each side took.
    fn run(mut self) -> [Duration; 2] {
        self.drain(SENDER);
        while self.outcomes < 2 {
            match self.inputs.pop_front() {
                Some((side, input)) => self.handle(side, input),
                None => self.deliver_data(),
            }
        }
        assert_eq!(self.files_done, self.disks[SENDER].source.files);
        self.spent
    }

    fn handle(&mut self, side: usize, input: Input) {
        let began = now();
        self.sessions[side].handle(began, input);
        self.spent[side] += now() - began;
        self.drain(side);
    }

    /// Called when the sender has nothing to do but to wait for this.
    fn deliver_data(&mut self) {
        assert!(self.takes_data, "every write is done");
        let (stream, joined, fin) = self.data.front_mut().expect("a session waits for nothing");
        let wanted_bytes = self.pieces.get(stream).copied().unwrap_or(PIECE_BYTES);
        let bytes = joined.split_to(wanted_bytes.min(joined.len())).freeze();
        let (stream, all) = (*stream, joined.is_empty());
        let fin = all && *fin;
        if all {
            self.data.pop_front();
        }
        self.handle(RECEIVER, Input::Data { stream, bytes, fin });
    }

    fn drain(&mut self, side: usize) {
        loop {
            let began = now();
            let output = self.sessions[side].poll();
            self.spent[side] += now() - began;
            match output {
                None => break,
                Some(Output::Control(bytes)) => {
                    self.inputs.push_back((1 - side, Input::Control(bytes)))
                }
                Some(Output::Data {
                    stream,
                    payload: Payload::Bytes(bytes) | Payload::FileData(bytes),
                    fin,
                    ..
                }) => {
                    self.inputs.push_back((
                        SENDER,
                        Input::Sent {
                            mover: MoverId::CONTROL,
                            bytes: bytes.len() as u64,
                        },
                    ));
                    self.emit(stream, &bytes, fin);
                }
                Some(Output::Disk { op, cmd }) => {
                    let result = self.disks[side].answer(cmd);
                    self.inputs.push_back((side, Input::Disk { op, result }));
                }
                Some(Output::Event(Event::Entry {
                    kind: Kind::File,
                    result,
                    ..
                })) => {
                    assert!(matches!(result, EntryResult::Done { .. }), "{result:?}");
                    self.files_done += usize::from(side == SENDER);
                }
                Some(Output::Data { .. }) => panic!("a range nobody takes"),
                Some(Output::Piece { stream, bytes }) => {
                    match bytes {
                        Some(bytes) => self.pieces.insert(stream, bytes),
                        None => self.pieces.remove(&stream),
                    };
                }
                Some(Output::TakesData(takes_data)) => self.takes_data = takes_data,
                Some(Output::Copy(_)) => panic!("this lane leads to another host"),
                // Nothing waits on this wire, and there is one lane.
                Some(
                    Output::AnswersMax(_)
                    | Output::Event(_)
                    | Output::Stays(_)
                    | Output::Retired(_)
                    | Output::AddsLanes { .. }
                    | Output::Altered
                    | Output::LaneOver(_)
                    | Output::LaneAccount(_)
                    | Output::ToOutpost(..)
                    | Output::ToHome(_),
                ) => {}
                Some(Output::Finished(Outcome::Complete(_))) => self.outcomes += 1,
                Some(Output::Finished(other)) => panic!("side {side} ended with {other:?}"),
            }
        }
    }

    fn emit(&mut self, stream: StreamKey, bytes: &[u8], fin: bool) {
        match self.data.back_mut() {
            Some((last, joined, ended)) if *last == stream => {
                joined.extend_from_slice(bytes);
                *ended |= fin;
            }
            _ => self.data.push_back((stream, BytesMut::from(bytes), fin)),
        }
    }
}

pub fn bench(criterion: &mut Criterion) {
    let piece = Bytes::from(noise(PIECE_BYTES));
    let small = Source {
        files: SMALL_FILES,
        file_bytes: SMALL_FILE_BYTES,
        in_directory: true,
    };
    let large = Source {
        files: 1,
        file_bytes: LARGE_FILE_BYTES,
        in_directory: false,
    };
    let mut group = criterion.benchmark_group("session");
    group.sampling_mode(SamplingMode::Flat);
    for (what, source, throughput) in [
        (
            "2,000 files of 1 KiB",
            small,
            Throughput::Elements(SMALL_FILES as u64),
        ),
        (
            "a file of 64 MiB",
            large,
            Throughput::Bytes(LARGE_FILE_BYTES as u64),
        ),
    ] {
        group.throughput(throughput);
        for (side, verb) in [(SENDER, "send"), (RECEIVER, "receive")] {
            group.bench_function(format!("{verb} {what}"), |bencher| {
                bencher.iter_custom(|runs| {
                    (0..runs)
                        .map(|_| World::new(source, &piece).run()[side])
                        .sum()
                });
            });
        }
    }
    group.finish();
}
