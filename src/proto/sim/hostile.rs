//! A peer that knows the protocol and lies: its messages are plausible until, now and then, they
//! are not.
//!
//! The session under test must never panic, never hold more than its bounds, and come to an end.

mod data;

use std::collections::HashSet;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

use super::disk::Disk;
use super::ops::Handles;
use super::tree::random_name;
use super::{Rng, root};
use crate::ids::{EntryId, MoverId, StreamKey};
use crate::proto::chunk::{MAX_DEPTH, SMALL_MAX_BYTES, chunk_count};
use crate::proto::errno::EIO;
use crate::proto::session::{Limits, Session};
use crate::proto::wire::{
    Decoder, Entry, Hello, Item, LaneAccount, LanePart, Message, VERSION, Verdict, VerdictKind,
    Welcome, WireRequest, encode,
};
use crate::proto::{
    CancelReason, EntryError, EntryErrorCode, EntryPlace, Input, Kind, LostLane, Mtime, Outcome,
    Output, PIECE_BYTES, SessionError, SessionErrorCode,
};

/// Who the liar plays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A client that pushes: the session is a receiving server.
    PushingClient,
    /// A server that was asked for files: the session is a receiving client.
    SendingServer,
    /// A client that pulls: the session is a sending server.
    PullingClient,
    /// A server files are pushed to: the session is a sending client.
    ReceivingServer,
}

pub struct Hostile {
    session: Session,
    disk: Disk,
    handles: Handles,
    /// The session said that data streams may be read.
    takes_data: bool,
    limits: Limits,
    role: Role,
    now: Instant,
    rng: Rng,
    /// One step in this many is a lie.
    lie_percent: u64,
    lies: usize,
    from_session: Decoder,
    /// What the liar announced (as sender) or heard of (as receiver).
    entries: Vec<Entry>,
    asked: Vec<EntryId>,
    /// Directories whose end was announced, or will be said to have a verdict.
    closed: HashSet<EntryId>,
    /// Chunks sent.
    sent: HashSet<(EntryId, u32)>,
    unresolved: usize,
    /// The session answered: from now on everything is plausible.
    answered: bool,
    manifest_ended: bool,
    next_stream: u32,
    outcome: Option<Outcome>,
}

/// More directories than this open at a time would be a leak: those nested, those with files
/// waiting, slack.
const MAX_OPEN_DIRS: usize = 2 * MAX_DEPTH + 512;

impl Hostile {
    pub fn new(
        role: Role,
        session: (Session, Limits),
        disk: Disk,
        now: Instant,
        mut rng: Rng,
    ) -> Hostile {
        let (session, limits) = session;
        let lie_percent = rng.pick(&[0, 1, 5, 30]);
        let mut hostile = Hostile {
            session,
            disk,
            handles: Handles::default(),
            takes_data: true,
            limits,
            role,
            now,
            rng,
            lie_percent,
            lies: 0,
            from_session: Decoder::new(),
            entries: Vec::new(),
            asked: Vec::new(),
            closed: HashSet::new(),
            sent: HashSet::new(),
            unresolved: 0,
            answered: false,
            manifest_ended: false,
            next_stream: 0,
            outcome: None,
        };
        hostile.drain();
        if matches!(role, Role::PushingClient | Role::PullingClient) {
            hostile.greet();
        }
        hostile
    }

    fn greet(&mut self) {
        let bwlimit_bps = self.rng.chance(10).then_some(self.rng.next());
        let streams = self.rng.chance(10).then_some(0);
        let entry_window = self.rng.pick(&[1, 9, 1000, u32::MAX]);
        let request = match self.role {
            Role::PushingClient => {
                let target = Bytes::from_static(self.rng.pick(&[
                    &b""[..],
                    b"in",
                    b"in/new",
                    b"../x",
                    b"no/where",
                    b"in/.landro-x",
                ]));
                let (must_be_dir, force, single, keep_dirlinks) =
                    (true, self.rng.chance(50), false, self.rng.chance(50));
                WireRequest::Push {
                    target,
                    must_be_dir,
                    force,
                    fsync: false,
                    single,
                    keep_dirlinks,
                    no_perms: self.rng.chance(20),
                    no_times: self.rng.chance(20),
                    dir_modes: self.rng.chance(20),
                    no_target_dir: false,
                    copy: None,
                }
            }
            Role::PullingClient => {
                let sources = [&b"pub"[..], b"/", b"pub/../..", b"nothing", b".landro-x"];
                let sources = (0..self.rng.below(4))
                    .map(|_| Bytes::from_static(self.rng.pick(&sources)))
                    .collect();
                WireRequest::Pull {
                    sources,
                    follow_named: false,
                    no_growing: false,
                    place: None,
                }
            }
            Role::SendingServer | Role::ReceivingServer => {
                return self.say(&Message::Welcome(Welcome {
                    version: VERSION,
                    entry_window,
                    inside: false,
                    place: None,
                    adds_lanes: true,
                    addresses: Vec::new(),
                    clear: None,
                }));
            }
        };
        let takes_kept = self.rng.chance(50);
        self.say(&Message::Hello(Hello {
            version: VERSION,
            request,
            entry_window,
            bwlimit_bps,
            streams,
            counts: false,
            patience_s: None,
            adds_lanes: true,
            asks_addresses: false,
            takes_kept,
            clear: false,
        }));
    }

    /// Lies for some steps, then hangs up and sees the session end.
    ///
    /// # Panics
    /// When one that told no lie is accused of one.
    pub fn run(mut self, steps: usize) -> Outcome {
        for _ in 0..steps {
            if self.outcome.is_some() {
                break;
            }
            self.now += Duration::from_nanos(self.rng.next() % 1_000_000);
            self.step();
        }
        self.input(Input::ControlClosed);
        let mut left = 1_000_000;
        while self.outcome.is_none() || !self.handles.pending.is_empty() {
            assert!(
                !self.handles.pending.is_empty(),
                "waits for nothing and does not end ({:?})",
                self.role
            );
            self.complete_disk();
            left -= 1;
            assert!(
                left > 0,
                "starts disk operations for ever after the end ({:?})",
                self.role
            );
        }
        if self.role == Role::SendingServer {
            self.check_what_was_asked_for();
        }
        let outcome = self.outcome.expect("the loop ends with one");
        let accused = matches!(outcome, Outcome::Violation(_));
        assert!(
            self.lies > 0 || !accused,
            "{outcome:?}, and {:?} told no lie",
            self.role
        );
        outcome
    }

    /// `pub` was asked for, into the directory `in`: nothing is made or set beside it.
    fn check_what_was_asked_for(&self) {
        let names = |path: &[u8]| -> Vec<Vec<u8>> {
            let dir = self.disk.find(path).expect("it was there");
            self.disk
                .children(dir)
                .into_iter()
                .flat_map(|children| children.keys().cloned())
                .collect()
        };
        assert_eq!(names(b""), [&b"in"[..], b"pub"], "made in the root");
        assert!(
            names(b"in").iter().all(|name| name == b"pub"),
            "made beside: {:?}",
            names(b"in")
        );
        let into = self.disk.find(b"in").expect("it was there");
        assert_eq!(
            self.disk.node(into).mode,
            0o755,
            "the mode of the directory it lands in was set"
        );
    }

    fn step(&mut self) {
        let sends = matches!(self.role, Role::PushingClient | Role::SendingServer);
        if self.rng.chance(self.lie_percent) {
            self.lies += 1;
            return self.lie();
        }
        if !self.answered {
            return match self.handles.pending.is_empty() {
                true => self.input(Input::Tick),
                false => self.complete_disk(),
            };
        }
        match self.rng.below(10) {
            0..4 if !self.handles.pending.is_empty() => self.complete_disk(),
            0..6 if sends => self.announce(),
            6..9 if sends => self.send_data(),
            4..9 if !sends => self.judge(),
            9 => {
                let bytes = self.rng.next() % 200_000;
                let mover = MoverId(self.rng.below(3) as u32);
                self.input(Input::Sent { mover, bytes });
            }
            _ => self.input(Input::Tick),
        }
    }

    fn complete_disk(&mut self) {
        let at = self.rng.below(self.handles.pending.len());
        let (op, result) = self.handles.complete(at, &mut self.disk, &mut self.rng);
        self.input(Input::Disk { op, result });
    }

    fn say(&mut self, message: &Message) {
        let mut bytes = BytesMut::new();
        encode(message, &mut bytes);
        self.input(Input::Control(bytes.freeze()));
    }

    /// A plausible next part of a manifest.
    fn announce(&mut self) {
        if self.manifest_ended {
            return;
        }
        let all_closed =
            |entry: &Entry| entry.kind != Kind::Directory || self.closed.contains(&entry.id);
        if self.entries.iter().all(all_closed) && self.rng.chance(3) {
            self.manifest_ended = true;
            return self.say(&Message::ManifestEnd {
                entries: self.entries.len() as u64,
            });
        }
        let open =
            |entry: &&Entry| entry.kind == Kind::Directory && !self.closed.contains(&entry.id);
        let directories: Vec<_> = self
            .entries
            .iter()
            .filter(open)
            .map(|entry| entry.id)
            .collect();
        if self.rng.chance(10) && !directories.is_empty() {
            let id = self.rng.pick(&directories);
            self.closed.insert(id);
            return self.say(&Message::Entries(vec![Item::EndDirectory { id }]));
        }
        let deep = self.rng.chance(60);
        let mut items = Vec::new();
        for _ in 0..=self.rng.below(5) {
            // A server was asked for one directory: beside it, it may announce nothing.
            let asked = self.role == Role::SendingServer;
            let nowhere = asked && !self.entries.is_empty() && directories.is_empty();
            if nowhere || self.unresolved >= self.limits.entry_window as usize {
                break;
            }
            let entry = self.entry(&directories, deep);
            self.unresolved += usize::from(entry.kind != Kind::Directory);
            self.entries.push(entry.clone());
            items.push(Item::Entry(entry));
        }
        self.say(&Message::Entries(items));
    }

    fn entry(&mut self, directories: &[EntryId], deep: bool) -> Entry {
        let (first, asked) = (self.entries.is_empty(), self.role == Role::SendingServer);
        let parent = match directories.last() {
            Some(last) if deep => *last,
            Some(_) if self.rng.chance(70) => self.rng.pick(directories),
            Some(last) if asked => *last,
            _ => EntryId(0),
        };
        let kind = match asked && first {
            true => Kind::Directory,
            false => self
                .rng
                .pick(&[Kind::File, Kind::File, Kind::Directory, Kind::Symlink]),
        };
        let size_bytes = match kind {
            Kind::File => self.rng.pick(&[
                0,
                10,
                SMALL_MAX_BYTES,
                SMALL_MAX_BYTES + 1,
                2 << 20,
                3_000_000,
            ]),
            Kind::Directory | Kind::Symlink | Kind::Special => 0,
        };
        Entry {
            id: EntryId(self.entries.len() as u32 + 1),
            parent,
            name: if asked && first {
                b"pub".to_vec().into()
            } else {
                random_name(&mut self.rng).into()
            },
            kind,
            mode: 0o644,
            mtime: Mtime {
                seconds: 5,
                nanoseconds: 5,
            },
            size_bytes,
            source_tag: 9,
            object: None,
            allocated_bytes: (kind == Kind::File && self.rng.chance(40)).then_some(5),
            is_unsized: false,
            link: (kind == Kind::Symlink).then(|| Bytes::from_static(b"../../etc")),
        }
    }

    /// A data stream with these bytes. A worker reads streams only while the session lets it.
    fn stream(&mut self, mut bytes: Bytes, fin: bool) {
        let stream = StreamKey(u64::from(self.next_stream));
        self.next_stream += 1;
        while !bytes.is_empty() {
            let mut waits = 10_000;
            while !self.takes_data && !self.handles.pending.is_empty() && waits > 0 {
                self.complete_disk();
                waits -= 1;
            }
            if !self.takes_data || self.outcome.is_some() {
                return;
            }
            let piece = bytes.split_to(bytes.len().min(1 + self.rng.below(PIECE_BYTES)));
            let last = bytes.is_empty() && fin;
            self.input(Input::Data {
                stream,
                bytes: piece,
                fin: last,
            });
        }
    }

    /// A plausible verdict.
    fn judge(&mut self) {
        if self.entries.is_empty() {
            return;
        }
        let entry = self.entries[self.rng.below(self.entries.len())].clone();
        let asked = self.asked.contains(&entry.id);
        let kind = match (entry.kind, self.rng.below(8)) {
            (Kind::File, 0..5) if !asked => VerdictKind::Send {},
            (Kind::File, 5)
                if !asked
                    && chunk_count(entry.size_bytes) > 1
                    && self.sent.insert((entry.id, 0)) =>
            {
                VerdictKind::Have {
                    first: 0,
                    values: Bytes::from(vec![1; 32]),
                }
            }
            (Kind::File, 6) if !asked && !self.sent.contains(&(entry.id, 0)) => {
                VerdictKind::Skipped {}
            }
            (Kind::Symlink, 0..5) => VerdictKind::Done { resumed_bytes: 0 },
            (_, 7) => VerdictKind::Failed {
                error: error(EntryErrorCode::Full),
            },
            _ => return,
        };
        if kind == (VerdictKind::Send {}) {
            self.asked.push(entry.id);
        }
        // One final verdict each, as an honest receiver would.
        if !matches!(kind, VerdictKind::Send {} | VerdictKind::Have { .. }) {
            self.entries.retain(|other| other.id != entry.id);
        }
        self.say(&Message::Verdicts(vec![Verdict {
            entry: entry.id,
            kind,
        }]));
    }

    fn lie(&mut self) {
        let id = EntryId(
            self.rng
                .pick(&[0, 1, 2, self.entries.len() as u32, u32::MAX]),
        );
        let mut lied = self.entry(&[EntryId(1), id], false);
        match self.rng.below(26) {
            0 => lied.id = id,
            1 => lied.parent = id,
            2 => {
                lied.name = Bytes::from_static(self.rng.pick(&[
                    &b".."[..],
                    b".",
                    b"",
                    b"a/b",
                    b"a\0b",
                    b"/etc/passwd",
                    b".landro-0123456789abcdef.part",
                ]))
            }
            3 => lied.kind = Kind::Special,
            4 => lied.size_bytes = i64::MAX as u64,
            5 => lied.link = None,
            what => return self.lie_otherwise(what, id),
        }
        self.entries.push(lied.clone());
        self.say(&Message::Entries(vec![Item::Entry(lied)]));
    }

    /// Lies that announce nothing.
    fn lie_otherwise(&mut self, what: usize, id: EntryId) {
        match what {
            6 => {
                let entries = self.rng.next() % 5;
                self.say(&Message::ManifestEnd { entries })
            }
            7 => {
                self.say(&root(id, [0; 32]));
            }
            8 => self.say(&Message::Abort {
                entry: id,
                error: error(EntryErrorCode::Source),
            }),
            9 => self.say(&Message::Finished {}),
            10 => self.say(&Message::Cancel {
                reason: CancelReason::default(),
            }),
            11 => self.say(&Message::Error(SessionError::told(
                SessionErrorCode::Other,
                "no",
            ))),
            12 => self.greet(),
            13 => {
                let message = match self.rng.next() % 5 {
                    0 => Message::ListEnd {},
                    finished => Message::Working { finished },
                };
                self.say(&message)
            }
            14 => self.say(&Message::Entries(vec![Item::EndDirectory { id }])),
            15 => self.judge_wrongly(id),
            16..19 => self.send_wrongly(id),
            19 => {
                let noise = self.rng.bytes(40);
                self.stream(noise.into(), true)
            }
            20 => {
                let noise = self.rng.bytes(40).into();
                self.input(Input::Control(noise))
            }
            21 => self.input(Input::DataReset),
            22 => self.say(&Message::SourceError {
                path: Bytes::from_static(b"\x1b[2J"),
                error: error(EntryErrorCode::Name),
            }),
            23 if self.rng.chance(50) => {
                let (entry, chunk) = (id, self.rng.pick(&[0, 1, u32::MAX]));
                self.say(&Message::Again { entry, chunk })
            }
            23 => {
                let lane = self.rng.pick(&[0, 1, u32::MAX]);
                self.say(&Message::LaneOver {
                    lane,
                    altered: false,
                })
            }
            24 => self.account_wrongly(),
            _ => self.input(Input::Cancel(CancelReason::User)),
        }
    }

    fn judge_wrongly(&mut self, entry: EntryId) {
        let kind = match self.rng.below(5) {
            0 => VerdictKind::Send {},
            1 => VerdictKind::Have {
                first: u32::MAX,
                values: Bytes::from(vec![0; 32 * 1024]),
            },
            2 => VerdictKind::Done {
                resumed_bytes: u64::MAX,
            },
            3 => VerdictKind::Skipped {},
            _ => VerdictKind::Failed {
                error: error(EntryErrorCode::Integrity),
            },
        };
        self.say(&Message::Verdicts(vec![Verdict { entry, kind }]));
    }

    fn account_wrongly(&mut self) {
        let stream = self.rng.pick(&[0, 1, u32::MAX]);
        let records = self.rng.pick(&[None, Some(0), Some(3), Some(u32::MAX)]);
        let lane = self.rng.pick(&[0, 1, u32::MAX]);
        let below = self.rng.pick(&[0, 1, u32::MAX]);
        let parts = vec![LanePart { stream, records }; self.rng.below(3)];
        let more = self.rng.chance(20);
        self.say(&Message::LaneAccount(LaneAccount {
            lane,
            below,
            parts,
            more,
            altered: false,
        }));
    }

    /// As if there had been such a lane, with some streams on it.
    fn lane_over(&mut self, number: u32) {
        let streams = 0..self.next_stream;
        let begun = streams.filter(|_| self.rng.chance(50));
        let begun = begun
            .map(|stream| (stream, StreamKey(u64::from(stream))))
            .collect();
        self.input(Input::LaneLost(LostLane {
            number,
            begun,
            ..LostLane::default()
        }));
    }

    /// As if the first two were there.
    fn add_lanes(&mut self) {
        for mover in (0..2).map(MoverId::of_added) {
            let pulls = true;
            self.input(Input::Pulls { mover, pulls });
        }
    }

    /// As if it were true.
    fn lane_account(&mut self, account: &LaneAccount) {
        let mover = MoverId::of_added(account.lane);
        let ours: Vec<StreamKey> = (0..4).map(|count| StreamKey::of(mover, count)).collect();
        let missing = ours.iter().map(|key| (*key, account.parts.len() as u32));
        let missing = missing.collect();
        self.input(Input::LaneLost(LostLane {
            number: account.lane,
            ..LostLane::default()
        }));
        self.input(Input::LaneAccounted { missing });
    }

    fn input(&mut self, input: Input) {
        if self.outcome.is_none() {
            self.session.handle(self.now, input);
            self.drain();
        }
    }

    fn drain(&mut self) {
        while let Some(output) = self.session.poll() {
            assert!(self.outcome.is_none(), "{output:?} after the end");
            match output {
                Output::Control(bytes) => self.listen(bytes),
                Output::TakesData(takes_data) => self.takes_data = takes_data,
                Output::AddsLanes { sends: true, .. } => self.add_lanes(),
                Output::AddsLanes { sends: false, .. } | Output::Altered => {}
                Output::LaneOver(number) => self.lane_over(number),
                Output::LaneAccount(account) => self.lane_account(&account),
                Output::ToOutpost(..) | Output::ToHome(_) => panic!("one worker is all"),
                Output::Data { .. }
                | Output::Stays(_)
                | Output::Retired(_)
                | Output::Piece { .. }
                | Output::AnswersMax(_)
                | Output::Event(_) => {}
                Output::Copy(_) => panic!("this lane leads to another host"),
                Output::Disk { op, cmd } => self.handles.start(op, cmd),
                Output::Finished(outcome) => self.outcome = Some(outcome),
            }
        }
        let written_behind = self.limits.write_behind_bytes + 2 * PIECE_BYTES;
        assert!(
            self.handles.writing_bytes <= written_behind,
            "{} bytes written behind",
            self.handles.writing_bytes
        );
        let (dirs, files) = self.handles.open_count();
        assert!(dirs <= MAX_OPEN_DIRS, "{dirs} directories are open");
        assert!(
            files <= self.limits.entry_window as usize + 16,
            "{files} files are open"
        );
    }

    fn listen(&mut self, bytes: Bytes) {
        self.from_session.push(bytes);
        let mut greet = false;
        while let Some(message) = self
            .from_session
            .next()
            .expect("the session speaks the protocol")
        {
            match message {
                Message::Welcome(_) => self.answered = true,
                Message::Hello(_) => {
                    self.answered = true;
                    greet = true;
                }
                Message::Verdicts(verdicts) => {
                    let last = |kind: &VerdictKind| {
                        !matches!(kind, VerdictKind::Send {} | VerdictKind::Have { .. })
                    };
                    for verdict in verdicts.iter().filter(|verdict| last(&verdict.kind)) {
                        let entry = self.entries.get((verdict.entry.0 as usize).wrapping_sub(1));
                        let counted = entry.is_some_and(|entry| entry.kind != Kind::Directory);
                        self.unresolved = self.unresolved.saturating_sub(usize::from(counted));
                        self.asked.retain(|id| *id != verdict.entry);
                    }
                    let wanted = verdicts
                        .iter()
                        .filter(|verdict| verdict.kind == VerdictKind::Send {});
                    self.asked.extend(wanted.map(|verdict| verdict.entry));
                }
                Message::Entries(items) => {
                    self.entries
                        .extend(items.into_iter().filter_map(|item| match item {
                            Item::Entry(entry) => Some(entry),
                            Item::EndDirectory { .. } => None,
                        }))
                }
                _ => {}
            }
        }
        if greet {
            self.greet();
        }
    }
}

fn error(code: EntryErrorCode) -> EntryError {
    EntryError {
        code,
        errno: EIO,
        text: "lies".into(),
        place: EntryPlace::Source,
        call: "read".into(),
        advice: "wait".into(),
    }
}
