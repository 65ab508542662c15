//! Queries of one session side by side, on random disks: each answer is what the disk has, some are
//! forgotten midway, and nothing is left open.

use bytes::Bytes;

use super::Rng;
use super::disk::{Body, Disk};
use super::edge_tests::{directory, file};
use super::scenario::limits;
use super::tests::{for_seeds, start};
use super::world::{CLIENT, SERVER, Stop, World};
use crate::proto::query::{QUERIES_MAX, Query, QueryAnswer, QueryRequest};
use crate::proto::session::{Grant, Request};
use crate::proto::{Event, Input, Mtime, Outcome, SessionErrorCode};

const BOTH: Grant = Grant {
    read: true,
    write: true,
};

/// Queries of one session.
const QUERIES: usize = 60;

/// A query that has a slot, and what came of it.
struct Asked {
    query: Query,
    rows: Vec<Vec<u8>>,
    file: Option<(u64, Mtime)>,
    bytes: Vec<u8>,
    is_forgotten: bool,
    has_ended: bool,
}

impl Asked {
    fn new(query: Query) -> Asked {
        Asked {
            query,
            rows: Vec::new(),
            file: None,
            bytes: Vec::new(),
            is_forgotten: false,
            has_ended: false,
        }
    }

    /// True: its slot is free.
    fn hear(&mut self, data: &[Vec<u8>], answer: QueryAnswer) -> bool {
        assert!(
            !self.is_forgotten || answer == QueryAnswer::Free,
            "{answer:?}"
        );
        match answer {
            QueryAnswer::Row { name, .. } => self.rows.push(name.to_vec()),
            QueryAnswer::File { size_bytes, mtime } => self.file = Some((size_bytes, mtime)),
            QueryAnswer::Bytes(bytes) => self.bytes.extend_from_slice(&bytes),
            QueryAnswer::End(end) => {
                self.has_ended = true;
                match end {
                    Ok(()) => self.check(data),
                    Err(error) => {
                        assert_eq!(error.code, SessionErrorCode::NotFound);
                        assert_eq!(self.query.path(), "gone");
                    }
                }
            }
            QueryAnswer::Free => {
                assert!(self.has_ended || self.is_forgotten);
                return true;
            }
        }
        false
    }

    fn check(&mut self, data: &[Vec<u8>]) {
        match &self.query {
            Query::List { .. } => {
                self.rows.sort_unstable();
                let names: Vec<Vec<u8>> = (0..data.len()).map(|n| name(n).into_bytes()).collect();
                let mut expected = names;
                expected.sort_unstable();
                assert_eq!(self.rows, expected);
            }
            Query::Read { path, range, .. } => {
                let number = (0..data.len()).find(|n| name(*n) == *path);
                let data = &data[number.expect("a file that is there")];
                let at = |at: u64| data.len().min(at as usize);
                assert!(self.bytes == data[at(range.start)..at(range.end)]);
                let mtime = directory().mtime;
                assert_eq!(self.file, Some((data.len() as u64, mtime)));
            }
        }
    }
}

fn name(number: usize) -> String {
    format!("f{number}")
}

fn random_query(rng: &mut Rng, data: &[Vec<u8>]) -> Query {
    match rng.below(10) {
        0 => Query::List {
            path: "gone".into(),
        },
        1 | 2 => Query::List { path: Bytes::new() },
        _ => {
            let number = rng.below(data.len());
            let most = data[number].len() + 10;
            let from = rng.below(most) as u64;
            Query::Read {
                path: name(number).into(),
                range: from..from + rng.below(most) as u64,
                follow_named: rng.chance(50),
            }
        }
    }
}

/// Takes what the client was told since.
fn hear(world: &mut World, slots: &mut [Option<Asked>], data: &[Vec<u8>]) {
    for event in std::mem::take(&mut world.sides[CLIENT].events) {
        let Event::Answer { slot, answer } = event else {
            assert!(matches!(event, Event::Started), "{event:?}");
            continue;
        };
        let asked = &mut slots[usize::from(slot)];
        if asked.as_mut().expect("it was asked").hear(data, answer) {
            *asked = None;
        }
    }
}

#[test]
fn queries_side_by_side_are_answered_each() {
    for_seeds("queries_side_by_side_are_answered_each", 60, |seed| {
        let mut rng = Rng::new(seed ^ 0xa5c);
        let mut disk = Disk::new();
        let files = 1 + rng.below(40);
        let data: Vec<Vec<u8>> = (0..files)
            .map(|_| {
                let bytes = rng.pick(&[0, 1, 1000, 100_000, 1 << 20, (2 << 20) + 5]);
                (0..bytes).map(|at: usize| ((at * at) >> 5) as u8).collect()
            })
            .collect();
        for (number, data) in data.iter().enumerate() {
            disk.put(Disk::ROOT, name(number).as_bytes(), file(data));
        }
        assert!(matches!(directory().body, Body::Directory(_)));
        let limits = [limits(&mut rng), limits(&mut rng)];
        let disks = [Disk::new(), disk];
        let mut world = World::new(
            rng.clone(),
            start(),
            (Request::Queries, BOTH),
            limits,
            disks,
        );
        let mut slots: [Option<Asked>; QUERIES_MAX] = Default::default();
        let mut asked = 0;
        while asked < QUERIES || slots.iter().any(Option::is_some) {
            for (slot, place) in (0u8..).zip(&mut slots) {
                match place {
                    None if asked < QUERIES => {
                        let query = random_query(&mut rng, &data);
                        *place = Some(Asked::new(query.clone()));
                        asked += 1;
                        world.input(CLIENT, Input::Ask(QueryRequest::Query { slot, query }));
                    }
                    Some(it) if !it.is_forgotten && !it.has_ended && rng.chance(1) => {
                        it.is_forgotten = true;
                        world.input(CLIENT, Input::Ask(QueryRequest::Forget { slot }));
                    }
                    None | Some(_) => {}
                }
            }
            let stop = world.run(1 + rng.below(30));
            hear(&mut world, &mut slots, &data);
            if stop == Stop::Finished {
                // All that was asked is answered, and the server waited no longer.
                assert!(slots.iter().all(Option::is_none));
                break;
            }
        }
        assert!(asked > QUERIES / 2, "it ended behind {asked} queries");
        world.input(CLIENT, Input::Ask(QueryRequest::NoMore));
        assert_eq!(world.run(usize::MAX), Stop::Finished);
        for side in [CLIENT, SERVER] {
            let outcome = &world.sides[side].outcome;
            assert!(matches!(outcome, Some(Outcome::Complete(_))), "{outcome:?}");
            assert_eq!(world.sides[side].handles.open_count(), (0, 0));
        }
    });
}

/// Whatever step a session with queries under way ends at, files are closed.
#[test]
fn a_session_that_ends_midway_leaves_nothing_open() {
    for_seeds(
        "a_session_that_ends_midway_leaves_nothing_open",
        200,
        |seed| {
            let mut rng = Rng::new(seed ^ 0xe5c);
            let mut disk = Disk::new();
            let data = vec![7; 2 << 20];
            disk.put(Disk::ROOT, b"f0", file(&data));
            let limits = [limits(&mut rng), limits(&mut rng)];
            let disks = [Disk::new(), disk];
            let asked = (Request::Queries, BOTH);
            let mut world = World::new(rng.clone(), start(), asked, limits, disks);
            for slot in 0..QUERIES_MAX as u8 {
                let query = random_query(&mut rng, std::slice::from_ref(&data));
                world.input(CLIENT, Input::Ask(QueryRequest::Query { slot, query }));
            }
            world.run(rng.below(600));
            match rng.below(3) {
                0 => world.cut(),
                1 => world.kill(CLIENT),
                _ => world.input(CLIENT, Input::Ask(QueryRequest::NoMore)),
            }
            assert_eq!(world.run(usize::MAX), Stop::Finished);
            assert_eq!(world.sides[SERVER].handles.open_count(), (0, 0));
        },
    );
}
