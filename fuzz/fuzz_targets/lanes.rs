//! The lanes of a served session, whatever comes on them and however they come and go: nothing is
//! said that was not asked for, and when all lanes are gone the session is over.
#![no_main]

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use landro::ids::{Fingerprint, SessionId, WorkerId};
use landro::proto::lanes::{
    ADD_PAUSE_MAX, ADDS_FROM_BYTES, DialKind, GOODPUT_WINDOW, KEPT_BYTES, LaneClosed, LaneKey,
    LaneStream, Lanes, LanesConfig, LanesInput, LanesOutput, QuestionId, TAKEOVER_DIALS, Taken,
};
use landro::proto::session::{Grant, Session};
use landro_fuzz::{Script, epoch, limits};
use libfuzzer_sys::fuzz_target;

const PEER: Fingerprint = Fingerprint([1; 32]);

/// Whoever may come in may measure, and needs no disk for it.
const NOTHING: Grant = Grant {
    read: false,
    write: false,
};

struct World<'a> {
    script: Script<'a>,
    now: Instant,
    lanes: Lanes,
    /// Of each lane that lives: whether its control bytes are read, and which streams are watched.
    live: BTreeMap<LaneKey, (bool, BTreeSet<LaneStream>)>,
    next: usize,
    over: bool,
}

impl World<'_> {
    fn input(&mut self, input: LanesInput) {
        self.lanes.handle(self.now, input);
        loop {
            let mut answer = None;
            while let Some(output) = self.lanes.poll() {
                assert!(!self.over, "an output after the end");
                if let Some(taken) = self.carry_out(output) {
                    assert!(
                        answer.replace(taken).is_none(),
                        "two things are offered at once"
                    );
                }
            }
            let Some(taken) = answer else { return };
            self.lanes.handle(self.now, LanesInput::Taken(taken));
        }
    }

    fn carry_out(&mut self, output: LanesOutput) -> Option<Taken> {
        match output {
            LanesOutput::Send { lane, payload, .. } => {
                assert!(self.live.contains_key(&lane), "sent on a lane that is gone");
                let len = payload.len_bytes();
                return Some(match self.script.byte() % 4 {
                    0 => Taken::Part(u64::from(self.script.byte()) % len),
                    1 => Taken::Gone,
                    _ => Taken::All,
                });
            }
            LanesOutput::ReadControl { lane, allowed } => {
                if let Some((reads, _)) = self.live.get_mut(&lane) {
                    *reads = allowed;
                }
            }
            LanesOutput::Watch { lane, stream } => {
                if let Some((_, watched)) = self.live.get_mut(&lane) {
                    watched.insert(stream);
                }
            }
            LanesOutput::Close { lane, .. } => {
                assert!(self.live.remove(&lane).is_some(), "closed twice");
            }
            LanesOutput::Over => self.over = true,
            LanesOutput::Disk { cmd, .. } => panic!("nothing may be touched: {cmd:?}"),
            LanesOutput::Dial { .. } | LanesOutput::DialClear { .. } => {
                panic!("a server dials nobody")
            }
            LanesOutput::Wants { .. }
            | LanesOutput::TakesData(_)
            | LanesOutput::Piece { .. }
            | LanesOutput::Ping { .. }
            | LanesOutput::TakenOver { .. }
            | LanesOutput::Listen(_)
            | LanesOutput::Settled(_)
            | LanesOutput::TakesOutposts { .. }
            | LanesOutput::ToOutpost { .. }
            | LanesOutput::ToHome(_)
            | LanesOutput::Event(_)
            | LanesOutput::Finished(_) => {}
        }
        None
    }

    fn pick(&mut self) -> Option<LaneKey> {
        let at = usize::from(self.script.byte());
        let keys: Vec<LaneKey> = self.live.keys().copied().collect();
        keys.get(at % keys.len().max(1)).copied()
    }

    fn question(&mut self) {
        let id = QuestionId {
            asker: WorkerId(0),
            connection: u64::from(self.script.byte()),
        };
        let (crowd, round_trip) = (1, Duration::ZERO);
        self.input(LanesInput::Question {
            id,
            crowd,
            round_trip,
        });
    }

    /// A lane comes, of the peer or (`is_other`) of somebody else.
    fn joins(&mut self, is_other: bool) {
        let (lane, number) = (LaneKey(self.next), u32::from(self.script.byte() & 0x7f));
        let kind = match self.script.byte() % 3 {
            0 => DialKind::Replace,
            1 => DialKind::TakeOver,
            _ => DialKind::Add,
        };
        self.next += 1;
        self.live.insert(lane, (false, BTreeSet::new()));
        let peer = if is_other { Fingerprint([2; 32]) } else { PEER };
        self.input(LanesInput::Joins {
            lane,
            number,
            peer,
            kind,
        });
    }

    fn step(&mut self) {
        let what = self.script.byte();
        // Without a lane another may take over, or nobody comes.
        let waits = matches!(what % 10, 5 | 7).then_some(LaneKey(usize::MAX));
        let Some(lane) = self.pick().or(waits) else {
            return;
        };
        let fin = what & 0x80 != 0;
        match what % 10 {
            0 | 1 if self.live[&lane].0 => {
                let bytes = self.script.short();
                // Nothing comes behind an end.
                if let (true, Some((reads, _))) = (fin, self.live.get_mut(&lane)) {
                    *reads = false;
                }
                self.input(LanesInput::Control { lane, bytes, fin });
            }
            2 | 3 => {
                let stream = u64::from(self.script.byte() % 8);
                let bytes = self.script.short();
                self.input(LanesInput::Data {
                    lane,
                    stream,
                    bytes,
                    fin,
                });
            }
            4 => {
                let bytes = usize::from(self.script.byte()) * 64;
                let takes_pipes = false;
                self.input(LanesInput::Room {
                    lane,
                    bytes,
                    takes_pipes,
                });
            }
            5 => {
                self.joins(fin);
            }
            6 => {
                self.live.remove(&lane);
                let whys = [
                    LaneClosed::Replaced,
                    LaneClosed::NoSession,
                    LaneClosed::Cut,
                    LaneClosed::Otherwise,
                ];
                let why = whys[usize::from(self.script.byte() % 4)];
                self.input(LanesInput::Closed { lane, why });
            }
            7 => {
                self.now += Duration::from_millis(1 << (self.script.byte() % 18));
                self.input(LanesInput::Tick);
                let due = self.lanes.deadline().is_some_and(|at| at <= self.now);
                assert!(!due, "a deadline that a tick does not move");
            }
            8 => {
                let stream = self.live.get_mut(&lane).and_then(|it| it.1.pop_first());
                if let Some(stream) = stream {
                    self.input(LanesInput::Delivered { lane, stream });
                }
            }
            _ if fin => self.question(),
            _ => self.input(LanesInput::Heard { lane }),
        }
    }
}

fuzz_target!(|data: &[u8]| {
    let (now, lane) = (epoch(), LaneKey(0));
    let config = LanesConfig {
        id: SessionId([9; 16]),
        peer: PEER,
        handshake: Duration::from_secs(10),
        idle: Duration::from_secs(60),
        adds_from_bytes: ADDS_FROM_BYTES,
        kept_bytes: KEPT_BYTES,
        adds: 0,
        add_pause_max: ADD_PAUSE_MAX,
        takeover_dials: TAKEOVER_DIALS,
        places: 1,
        workers: 1,
        outlives_lanes: false,
        goodput_window: GOODPUT_WINDOW,
        begins_on_tcp: false,
    };
    let session = Session::server(now, NOTHING, limits());
    let mut world = World {
        script: Script(data),
        now,
        lanes: Lanes::server(now, lane, session, config),
        live: BTreeMap::from([(lane, (false, BTreeSet::new()))]),
        next: 1,
        over: false,
    };
    world.input(LanesInput::Heard { lane });
    while !world.script.is_over() && !world.over {
        world.step();
    }
    while let Some((lane, _)) = world.live.pop_first() {
        let why = LaneClosed::Otherwise;
        world.input(LanesInput::Closed { lane, why });
    }
    // One whose lane was cut waits a little for another.
    while let Some(due) = world.lanes.deadline().filter(|_| !world.over) {
        world.now = world.now.max(due);
        world.input(LanesInput::Tick);
    }
    assert!(world.over, "no lane is left, and it is not over");
});
