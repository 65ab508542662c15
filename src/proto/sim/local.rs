//! A copy within one host from a seed: two sessions, a lane in memory, and disk operations that end
//! in any order.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Instant;

use super::Rng;
use super::check::Strictness;
use super::disk::{Body, Disk, Ino};
use super::ops::Handles;
use super::scenario::Scenario;
use super::tests::{files_of, for_seeds, start};
use super::tree::TreeShape;
use crate::ids::{FileId, MoverId};
use crate::proto::session::{Grant, Session};
use crate::proto::{
    CancelReason, Carriage, DiskDone, DiskOp, Event, Input, Outcome, Output, PIECE_BYTES, Totals,
};

const TREE: TreeShape = TreeShape {
    max_entries: 60,
    max_large: 2,
};

/// The client, which sends.
const SENDER: usize = 0;
const RECEIVER: usize = 1;

struct End {
    session: Session,
    handles: Handles,
    disk: Disk,
    inbox: VecDeque<Input>,
    outcome: Option<Outcome>,
}

struct LocalWorld {
    ends: [End; 2],
    /// Where the next range of each source begins.
    positions: HashMap<FileId, u64>,
    events: Vec<Event>,
    copied_bytes: u64,
    now: Instant,
    rng: Rng,
}

impl LocalWorld {
    fn new(scenario: &mut Scenario) -> LocalWorld {
        scenario.push = true;
        scenario.source_limits.carriage = Carriage::Copies;
        scenario.target_limits.carriage = Carriage::Copies;
        let mut rng = Rng::new(scenario.rng.next());
        scenario.source_limits.read_ahead_bytes = rng.pick(&[100_000, 300_000, 8 << 20]);
        let (now, request) = (start(), scenario.request());
        let everything = Grant {
            read: true,
            write: true,
        };
        let client = Session::client(now, request, scenario.source_limits.clone());
        let server = Session::server(now, everything, scenario.target_limits.clone());
        (scenario.source.device, scenario.target.device) = (1, 2);
        let end = |session, disk: &mut Disk| End {
            session,
            handles: Handles::default(),
            disk: std::mem::take(disk),
            inbox: VecDeque::new(),
            outcome: None,
        };
        let ends = [
            end(client, &mut scenario.source),
            end(server, &mut scenario.target),
        ];
        let mut world = LocalWorld {
            ends,
            positions: HashMap::new(),
            events: Vec::new(),
            copied_bytes: 0,
            now,
            rng: Rng::new(rng.next()),
        };
        world.drain(SENDER);
        world.drain(RECEIVER);
        world
    }

    /// One thing that could happen next. False: nothing could.
    fn step(&mut self) -> bool {
        let first = self.rng.below(2);
        for end in [first, 1 - first] {
            let waits = !self.ends[end].inbox.is_empty();
            let works = !self.ends[end].handles.pending.is_empty();
            if waits && (!works || self.rng.chance(60)) {
                if let Some(input) = self.ends[end].inbox.pop_front() {
                    self.ends[end].session.handle(self.now, input);
                    self.drain(end);
                }
                return true;
            }
            if works {
                self.complete(end);
                return true;
            }
        }
        let deadline = self.ends[SENDER].session.deadline();
        if let Some(deadline) = deadline.filter(|_| self.ends[RECEIVER].outcome.is_none()) {
            self.now = self.now.max(deadline);
            self.ends[SENDER].inbox.push_back(Input::Tick);
            return true;
        }
        false
    }

    fn drain(&mut self, at: usize) {
        while let Some(output) = self.ends[at].session.poll() {
            match output {
                Output::Control(bytes) => {
                    self.ends[1 - at].inbox.push_back(Input::Control(bytes));
                }
                Output::Copy(step) => self.ends[1 - at].inbox.push_back(Input::Copy(step)),
                Output::Disk { op, cmd } => self.ends[at].handles.start(op, cmd),
                Output::Event(event) if at == SENDER => self.events.push(event),
                Output::Finished(outcome) => self.ends[at].outcome = Some(outcome),
                Output::Data { .. } | Output::Piece { .. } => panic!("data on a lane that copies"),
                Output::Stays(_)
                | Output::Retired(_)
                | Output::AddsLanes { .. }
                | Output::Altered
                | Output::LaneOver(_)
                | Output::LaneAccount(_)
                | Output::ToOutpost(..)
                | Output::ToHome(_) => panic!("one lane is all"),
                Output::Event(_) | Output::TakesData(_) | Output::AnswersMax(_) => {}
            }
        }
    }

    /// Ends a disk operation of a side.
    fn complete(&mut self, at: usize) {
        let picked = self.rng.below(self.ends[at].handles.pending.len());
        if let DiskOp::CopyRange {
            from, len_bytes, ..
        } = self.ends[at].handles.pending[picked].cmd
        {
            return self.copy(picked, from, len_bytes);
        }
        let End { handles, disk, .. } = &mut self.ends[at];
        let (op, result) = handles.complete(picked, disk, &mut self.rng);
        self.ends[at].inbox.push_back(Input::Disk { op, result });
    }

    fn copy(&mut self, picked: usize, from: FileId, len_bytes: u64) {
        let [sender, receiver] = &mut self.ends;
        let source = sender.handles.has_source(from).then(|| {
            let ino = sender.handles.source_of(from);
            match &sender.disk.node(ino).body {
                Body::File(data) => &data[..],
                _ => panic!("a range of something that is no file"),
            }
        });
        let position = self.positions.entry(from).or_default();
        let is_unsized = sender.handles.has_source(from)
            && sender
                .disk
                .unsized_files
                .contains(&sender.handles.source_of(from));
        let rng = &mut self.rng;
        let data = source.map(|source| {
            let begin = source.len().min(*position as usize);
            let mut end = source
                .len()
                .min(position.saturating_add(len_bytes) as usize);
            // A pipe gives what it has.
            if is_unsized && begin < end && rng.chance(50) {
                end = begin + 1 + rng.below(end - begin);
            }
            *position = end as u64;
            &source[begin..end]
        });
        let (op, result) = receiver.handles.copy(picked, &mut receiver.disk, data);
        let copied = match &result {
            Ok(DiskDone::Copied { bytes }) => Some(*bytes),
            _ => None,
        };
        receiver.inbox.push_back(Input::Disk { op, result });
        if let Some(bytes) = copied {
            self.copied_bytes += bytes;
            sender.inbox.push_back(Input::Sent {
                mover: MoverId::CONTROL,
                bytes,
            });
        }
    }

    /// Whether a range of this file was copied, and another is to come.
    fn is_half_copied(&self, ino: Option<Ino>) -> bool {
        let End { handles, disk, .. } = &self.ends[SENDER];
        let size_bytes = match ino.map(|ino| &disk.node(ino).body) {
            Some(Body::File(data)) => data.len() as u64,
            _ => 0,
        };
        self.positions.iter().any(|(file, &position)| {
            let reads = handles.has_source(*file) && Some(handles.source_of(*file)) == ino;
            reads && 0 < position && position < size_bytes
        })
    }

    /// Nothing is to be done but to wait: time passes.
    fn wait(&mut self) -> bool {
        let Some(at) = self.ends[SENDER].session.deadline() else {
            return false;
        };
        assert!(at > self.now, "a deadline that passed");
        self.now = at;
        self.ends[SENDER].inbox.push_back(Input::Tick);
        true
    }

    /// Until neither side has anything to do.
    fn run(&mut self) {
        while self.step() || self.wait() {}
        for end in &self.ends {
            assert!(end.outcome.is_some(), "a side stands still");
            let open = end.handles.open_count();
            assert_eq!(open, (0, 0), "directories and files are left open");
        }
    }

    fn totals(&self) -> Totals {
        match (&self.ends[SENDER].outcome, &self.ends[RECEIVER].outcome) {
            (Some(Outcome::Complete(totals)), Some(Outcome::Complete(_))) => *totals,
            other => panic!("{other:?}"),
        }
    }

    fn give_back(self, scenario: &mut Scenario) {
        let [sender, receiver] = self.ends;
        (scenario.source, scenario.target) = (sender.disk, receiver.disk);
        assert!(scenario.target.parts.is_empty(), "partial files are left");
    }
}

#[test]
fn local_copies_arrive() {
    for_seeds("local_copies_arrive", 300, |seed| {
        let mut scenario = Scenario::random(seed, TREE);
        for _ in 0..2 {
            let (source, before) = (scenario.source.clone(), scenario.target.clone());
            let mut world = LocalWorld::new(&mut scenario);
            let began = world.now;
            world.run();
            let totals = world.totals();
            assert_eq!(totals.sent_bytes, world.copied_bytes);
            if let Some(bps) = scenario.bwlimit_bps {
                // A burst goes at once, and what is begun is not cut short.
                let burst = (bps / 80).max(PIECE_BYTES as u64) * 2;
                let paid = totals.sent_bytes.saturating_sub(burst) * 8;
                let took = (world.now - began).as_secs_f64();
                assert!(
                    took * bps as f64 >= paid as f64 * 0.99,
                    "{took} s at {bps} bit/s: {totals:?}"
                );
            }
            let told = |event: &&Event| matches!(event, Event::Entry { .. });
            let counted = totals.files
                + totals.directories
                + totals.symlinks
                + totals.skipped
                + totals.errors;
            assert_eq!(
                world.events.iter().filter(told).count() as u64,
                counted,
                "{totals:?}"
            );
            world.give_back(&mut scenario);
            scenario.check(
                &source,
                &before,
                Strictness::Exact,
                BTreeMap::new(),
                Some(&totals),
            );
        }
    });
}

#[test]
fn local_copies_that_are_stopped_leave_nothing_half_done() {
    for_seeds("local_copies_that_are_stopped", 300, |seed| {
        let mut scenario = Scenario::random(seed, TREE);
        let (source, before) = (scenario.source.clone(), scenario.target.clone());
        let mut world = LocalWorld::new(&mut scenario);
        for _ in 0..world.rng.below(400) {
            world.step();
        }
        world.ends[SENDER]
            .inbox
            .push_back(Input::Cancel(CancelReason::User));
        world.run();
        world.give_back(&mut scenario);
        let changed = BTreeMap::new();
        scenario.check(&source, &before, Strictness::Partial, changed, None);
    });
}

#[test]
fn local_copies_to_a_full_disk_fail_files_and_nothing_else() {
    for_seeds("local_copies_to_a_full_disk", 100, |seed| {
        let mut scenario = Scenario::random(seed, TREE);
        let room = scenario.rng.next() % 300_000;
        scenario.target.faults.capacity_bytes = Some(scenario.target.used_bytes() + room);
        let (source, before) = (scenario.source.clone(), scenario.target.clone());
        let mut world = LocalWorld::new(&mut scenario);
        world.run();
        let totals = world.totals();
        world.give_back(&mut scenario);
        let (full, changed) = (Strictness::Full, BTreeMap::new());
        scenario.check(&source, &before, full, changed, Some(&totals));
    });
}

#[test]
fn a_source_that_changes_never_arrives_mixed() {
    for_seeds("a_source_that_changes_never_arrives_mixed", 200, |seed| {
        let mut rng = Rng::new(seed ^ 0xc4a6);
        let mut scenario = Scenario::random(seed, TREE);
        let (source, before) = (scenario.source.clone(), scenario.target.clone());
        let mut files = files_of(&source, scenario.root());
        // The large ones first.
        let size = |(dir, name): &(Ino, Vec<u8>)| {
            let ino = source.child(*dir, name).expect("just found");
            source.meta(ino).size_bytes
        };
        files.sort_by_key(|file| std::cmp::Reverse(size(file)));
        files.truncate(1 + rng.below(5));
        let mut changed = BTreeMap::new();
        let mut world = LocalWorld::new(&mut scenario);
        for (dir, name) in files {
            // Whenever it comes, or between two ranges of this very file.
            let early = rng.chance(30).then(|| rng.below(300));
            let ino = world.ends[SENDER].disk.child(dir, &name);
            let mut steps = 0;
            while early.is_none_or(|early| steps < early)
                && !(early.is_none() && world.is_half_copied(ino))
                && world.step()
            {
                steps += 1;
            }
            let disk = &mut world.ends[SENDER].disk;
            disk.mutate(dir, &name, &mut rng);
            let now = match disk.child(dir, &name).map(|ino| &disk.node(ino).body) {
                Some(Body::File(data)) => Some(data.clone()),
                _ => None,
            };
            changed.insert((dir, name), now);
        }
        world.run();
        let totals = world.totals();
        assert_eq!(totals.sent_bytes, world.copied_bytes);
        world.give_back(&mut scenario);
        let exact = Strictness::Exact;
        scenario.check(&source, &before, exact, changed, Some(&totals));
    });
}
