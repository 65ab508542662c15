//! The lane that carries control falls silent, or is cut, while the session could go on: another
//! takes over, from where each side stopped reading.
//!
//! - The client asks a silent lane for signs of life, and dials when none comes; where the lane is
//!   cut it dials at once, and the server waits for it. The lane that takes over says so in its
//!   preface.
//! - Each side says, as the first 8 bytes behind the preface, or in its place, how many control
//!   bytes it has read of the session. The other goes on from there: of what it sent last it keeps
//!   up to [`KEPT_BYTES`]. Before it knows, it says nothing, and no data stream begins.
//! - The lane before is over on both sides. Data that was on it is accounted for like that of an
//!   added lane (`added.rs`).
//! - What cannot be read again (unsized files), and what nobody could tell any more, is lost with
//!   its lane.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};

use super::lane::{ControlOut, Lane, LaneState};
use super::ledger::OwnStreams;
use super::ports::{DialKind, LaneClosed, LaneKey, LanesOutput, code};
use super::{Course, Growth, Lanes, LanesSide, NO_SUCH_SESSION};
use crate::ids::Fingerprint;
use crate::proto::wire::PrefaceKind;
use crate::proto::{Input, LostLane};

/// Control bytes that a side keeps of what it sent last (`LanesConfig::kept_bytes`), where it can:
/// what may be on its way, and unread, where both sides live. A TCP lane takes 320 KiB ahead of its
/// reader, which is the most. With a peer that has read less the session is over.
pub const KEPT_BYTES: usize = 512 << 10;

/// How often a lane that is silent is asked for a sign of life, and how many of these rounds may
/// pass without one. A host that sleeps for seconds while it is busy is no dead one.
const ROUND: Duration = Duration::from_secs(1);
const ROUNDS: u32 = 4;

/// A round that ends later than this does not count: it was this side that was away.
const AWAY: Duration = Duration::from_millis(250);

/// How long a server waits for another lane when one was cut. The client knows it as soon, and its
/// first two tries are a handshake each.
const SERVED_WAIT: Duration = Duration::from_secs(10);

/// And how long if the same identity begins another session meanwhile, which may want its files: a
/// client that lives has dialled by then.
const SUSPECTED_WAIT: Duration = Duration::from_secs(1);

/// Lanes in a row that a client lets take over without an answer of the server. It may have to look
/// for the session among the server's workers.
const UNANSWERED_MAX: u32 = 16;

/// From one place a client whose lane is cut dials once with each kind of transport.
pub const TAKEOVER_DIALS: u32 = 2;

/// Lanes that take over and never reached the server.
const UNSEEN_MAX: u32 = UNANSWERED_MAX;

/// Lanes that carried control whose accounts a server may await when another takes over, and
/// control bytes that its client may not have read: more than a client that lives leaves behind,
/// and not more than a session may cost. A client that takes over for ever and reads nothing comes
/// no further.
const UNACCOUNTED_MAX: usize = 3 * UNSEEN_MAX as usize;
const UNREAD_MAX_BYTES: usize = 4 << 20;

/// Length of the number of control bytes that were read.
pub(super) const COUNT_BYTES: usize = 8;

/// What a client knows of the silence of its newest lane, and of what takes over.
#[derive(Clone, Copy, Debug)]
pub(super) struct Silence {
    /// Of the newest lane, or since it is that.
    heard_at: Instant,
    round_ends: Instant,
    rounds: u32,
    step: SilenceStep,
    /// Lanes that took over since the server answered one, and dials that failed since there was
    /// one.
    unanswered: u32,
    failed: u32,
    /// When the last one took over.
    took_over_at: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SilenceStep {
    /// Next: Dialling.
    Listening,
    /// Next: Listening, Failed.
    Dialling,
    /// Next: Dialling, Listening.
    Failed { again_at: Instant },
}

impl Silence {
    pub fn new(now: Instant) -> Silence {
        Silence {
            heard_at: now,
            round_ends: now + ROUND,
            rounds: 0,
            step: SilenceStep::Listening,
            unanswered: 0,
            failed: 0,
            took_over_at: None,
        }
    }

    pub fn heard(&mut self, now: Instant) {
        (self.heard_at, self.round_ends) = (now, now + ROUND);
        (self.rounds, self.failed) = (0, 0);
        if self.step != SilenceStep::Dialling {
            self.step = SilenceStep::Listening;
        }
    }

    pub fn is_dialling(&self) -> bool {
        self.step == SilenceStep::Dialling
    }

    fn due(&self) -> Option<Instant> {
        match self.step {
            SilenceStep::Listening => Some(self.round_ends),
            SilenceStep::Dialling => None,
            SilenceStep::Failed { again_at } => Some(again_at),
        }
    }

    /// A round is over. True: a sign of life is to be asked for.
    fn end_round(&mut self, now: Instant) -> bool {
        let is_silent = self.heard_at + ROUND <= now;
        let counts = is_silent && now < self.round_ends + AWAY;
        self.rounds += u32::from(counts);
        self.round_ends = now + ROUND;
        is_silent
    }
}

/// Control bytes that lanes took: how many, and the last of them.
#[derive(Debug, Default)]
pub(super) struct KeptControl {
    most_bytes: usize,
    taken_bytes: u64,
    last: VecDeque<Bytes>,
    last_bytes: usize,
}

impl KeptControl {
    pub fn of_at_most(most_bytes: usize) -> KeptControl {
        KeptControl {
            most_bytes,
            ..KeptControl::default()
        }
    }

    pub fn add(&mut self, bytes: Bytes) {
        if bytes.is_empty() {
            return;
        }
        self.taken_bytes += bytes.len() as u64;
        self.last_bytes += bytes.len();
        self.last.push_back(bytes);
        while self.last_bytes > self.most_bytes
            && let Some(oldest) = self.last.pop_front()
        {
            self.last_bytes -= oldest.len();
        }
    }

    pub fn taken_bytes(&self) -> u64 {
        self.taken_bytes
    }

    /// Takes out what is behind the first `read` bytes, the last first. None: there are not so
    /// many, or they are not here any more.
    pub fn take_back_to(&mut self, read: u64) -> Option<Vec<Bytes>> {
        let behind = self.taken_bytes.checked_sub(read)?;
        let mut left = usize::try_from(behind).ok()?;
        if left > self.last_bytes {
            return None;
        }
        (self.taken_bytes, self.last_bytes) = (read, self.last_bytes - left);
        let mut again = Vec::new();
        while left > 0
            && let Some(mut bytes) = self.last.pop_back()
        {
            let part = bytes.split_off(bytes.len().saturating_sub(left));
            left -= part.len();
            again.push(part);
            if !bytes.is_empty() {
                self.last.push_back(bytes);
            }
        }
        Some(again)
    }
}

/// The first control bytes of a lane that takes over: behind a preface, or alone.
fn count_of(preface: &[u8], read: u64) -> Bytes {
    let mut bytes = BytesMut::with_capacity(preface.len() + COUNT_BYTES);
    bytes.put_slice(preface);
    bytes.put_u64(read);
    bytes.freeze()
}

impl Lanes {
    /// Nothing would be lost with the lanes that carry control but what can be moved again. Older
    /// ones may be there where nothing more is to be read or said.
    fn may_be_taken_over(&self) -> bool {
        let Some((newest, older)) = self.lanes.split_last() else {
            return false;
        };
        if !self.adding.is_agreed() {
            // The request, or its answer, may be lost with the lane.
            let knows_how = self.outlives_lanes || !self.is_client();
            return knows_how && newest.is_bare() && older.is_empty();
        }
        let is_done = |lane: &Lane| lane.is_said() && lane.is_read_out();
        newest.ledger().is_some() && older.iter().all(is_done)
    }

    fn listens_for_silence(&self) -> bool {
        self.is_client() && self.course == Course::Running && self.may_be_taken_over()
    }

    /// The client's session outlives the lane that carries control.
    #[cfg(test)]
    pub fn outlives_control(&self) -> bool {
        self.listens_for_silence()
    }

    /// The lane that carried control is cut, and another may take over.
    pub fn is_cut(&self) -> bool {
        self.cut_until.is_some()
    }

    pub(super) fn silence_due(&self) -> Option<Instant> {
        let is_cut = self.is_client() && self.is_cut();
        let due = self.silence.due();
        due.filter(|_| is_cut || self.listens_for_silence())
    }

    /// A client asks for a sign of life, and dials when none comes, or when there is no lane.
    pub(super) fn look_at_silence(&mut self, now: Instant) {
        let is_cut = self.is_client() && self.is_cut();
        let is_due = match self.silence.step {
            SilenceStep::Listening if is_cut => true,
            _ => self.silence_due().is_some_and(|at| at <= now),
        };
        if !is_due {
            return;
        }
        if !is_cut
            && self.silence.step == SilenceStep::Listening
            && self.silence.end_round(now)
            && let Some(lane) = self.newest()
        {
            self.outputs.push_back(LanesOutput::Ping { lane });
        }
        if is_cut || self.silence.rounds >= ROUNDS {
            self.silence.step = SilenceStep::Dialling;
            let kind = DialKind::TakeOver;
            self.outputs.push_back(LanesOutput::Dial { kind });
        }
    }

    pub(super) fn dial_to_take_over_failed(&mut self, now: Instant) {
        if !self.silence.is_dialling() {
            return;
        }
        self.silence.failed += 1;
        if !self.is_cut() {
            self.silence.step = match self.silence.rounds < ROUNDS {
                true => SilenceStep::Listening,
                false => SilenceStep::Failed {
                    again_at: now + ROUND,
                },
            };
            return;
        }
        self.silence.step = SilenceStep::Listening;
        if self.silence.failed >= self.takeover_dials {
            self.peer_lost(now);
        }
    }

    pub(super) fn dialled_to_take_over(&mut self, lane: LaneKey, peer: Fingerprint) {
        let was_dialling = self.silence.is_dialling();
        let is_silent = self.silence.rounds >= ROUNDS && self.listens_for_silence();
        let is_wanted = is_silent || self.is_cut() && self.course == Course::Running;
        self.silence.step = SilenceStep::Listening;
        if was_dialling && peer != self.peer {
            self.close(lane, code::DONE, "");
            self.silence.step = SilenceStep::Dialling;
            return self.dial_to_take_over_failed(self.now);
        }
        if !was_dialling || !is_wanted {
            return self.close(lane, code::DONE, "");
        }
        self.silence.heard(self.now);
        self.silence.unanswered += 1;
        self.silence.took_over_at = Some(self.now);
        if let LanesSide::Client(Growth::Wanted { .. }) = self.side {
            // What was worn is over.
            self.side = LanesSide::Client(Growth::Content);
        }
        let preface = self.preface(PrefaceKind::TakeOver);
        let preface = count_of(&preface, self.control_read_bytes);
        self.take_over(lane, preface);
    }

    /// Server: a lane takes over from one of which the client hears nothing any more.
    pub(super) fn joins_to_take_over(&mut self, lane: LaneKey, number: u32, peer: Fingerprint) {
        // Its last word may have been lost with the silent lane.
        let goes_on = matches!(
            self.course,
            Course::Running
                | Course::AwaitJoin { .. }
                | Course::Parting {
                    code: code::DONE,
                    ..
                }
        );
        let is_next = number >= self.next_number && number - self.next_number < UNSEEN_MAX;
        let is_possible = self.may_be_taken_over() || self.is_cut();
        let has_room = self.adding.unaccounted_control() <= UNACCOUNTED_MAX
            && self.out.control_bytes() <= UNREAD_MAX_BYTES;
        if peer != self.peer || !goes_on || !is_next || !is_possible || !has_room {
            return self.close(lane, code::NO_SESSION, NO_SUCH_SESSION);
        }
        if let Course::AwaitJoin { .. } = self.course {
            self.course = Course::Running;
        }
        let unseen = self.next_number..number;
        self.let_go(None);
        for number in unseen {
            self.lose_carried(
                LostLane::CARRIED_CONTROL | number,
                OwnStreams::default(),
                LostLane::default(),
            );
        }
        self.next_number = number;
        self.take_over(lane, count_of(&[], self.control_read_bytes));
    }

    fn take_over(&mut self, lane: LaneKey, first: Bytes) {
        self.let_go(None);
        self.cut_until = None;
        self.adopt(lane, Some(first));
        if let Some(newest) = self.lanes.last_mut() {
            newest.count_in = Some(Vec::new());
        }
    }

    /// The lanes that carried control are over, of which one may be closed already.
    fn let_go(&mut self, closed: Option<LaneKey>) {
        for mut lane in std::mem::take(&mut self.lanes) {
            let (ours, untaken_bytes) = self.out.lose_lane(&mut lane);
            let begun = lane.half_read();
            if closed != Some(lane.key) {
                self.close(lane.key, code::TAKEN_OVER, "another lane takes over");
            }
            // An older one is read out, so that there is nothing to be told of it.
            let is_newest = lane.state == LaneState::Carrying;
            let Some(ledger) = lane.take_ledger().filter(|_| is_newest) else {
                continue;
            };
            let mut lost = LostLane {
                ours,
                untaken_bytes,
                ..LostLane::default()
            };
            if !self.adding.sends() {
                lost.below = ledger.theirs.below;
                lost.ended = ledger.theirs.ahead.into_iter().collect();
                lost.begun = begun;
            }
            self.lose_carried(LostLane::CARRIED_CONTROL | ledger.number, ledger.ours, lost);
        }
    }

    /// The session is told that a lane which carried control is over, and its account is due.
    fn lose_carried(&mut self, number: u32, streams: OwnStreams, lost: LostLane) {
        if !self.adding.is_agreed() {
            return self.adding.lose_early(number);
        }
        if self.adding.sends() {
            self.adding.await_account(number, streams);
        }
        let lost = LostLane { number, ..lost };
        self.session.handle(self.now, Input::LaneLost(lost));
    }

    /// A lane that was bare when it was lost, now that there are accounts.
    pub(super) fn lose_early(&mut self, number: u32) {
        self.lose_carried(number, OwnStreams::default(), LostLane::default());
    }

    /// The newest lane is no more. True: the session waits for another one, or dials it.
    pub(super) fn waits_for_another(&mut self, now: Instant, at: usize, why: LaneClosed) -> bool {
        let goes_on = match (self.is_client(), self.course) {
            (true, Course::Running) => self.silence.unanswered < UNANSWERED_MAX,
            (false, Course::Running)
            | (
                false,
                Course::Parting {
                    code: code::DONE, ..
                },
            ) => true,
            _ => false,
        };
        if at + 1 != self.lanes.len() || !goes_on || !self.may_be_taken_over() {
            return false;
        }
        let lane = &mut self.lanes[at];
        let (key, is_unanswered) = (lane.key, lane.count_in.is_some());
        match why {
            LaneClosed::Cut => {
                self.let_go(Some(key));
                // Not one a round trip for ever, where each is cut as soon as it is there.
                let again_at = self.silence.took_over_at.map(|at| at + ROUND);
                if let Some(again_at) = again_at.filter(|at| *at > now) {
                    self.silence.step = match self.silence.step {
                        SilenceStep::Dialling => SilenceStep::Dialling,
                        _ => SilenceStep::Failed { again_at },
                    };
                }
            }
            LaneClosed::NoSession if self.is_client() && is_unanswered => {
                // Where it came to they know nothing of it: nothing is to be told of it, and its
                // number is free. The session may be another worker's.
                self.out.lose_lane(&mut self.lanes[at]);
                self.lanes.clear();
                self.next_number -= 1;
            }
            LaneClosed::NoSession
            | LaneClosed::Replaced
            | LaneClosed::Altered
            | LaneClosed::Otherwise => return false,
        }
        let wait = match self.is_client() {
            true => self.handshake * TAKEOVER_DIALS,
            false if !self.suspicions.is_empty() => SUSPECTED_WAIT,
            false => SERVED_WAIT,
        };
        self.cut_until = Some(now + wait);
        true
    }

    /// Nobody is waited for any more.
    pub(super) fn give_up_waiting(&mut self, now: Instant) {
        if self.is_cut() {
            self.peer_lost(now);
        }
    }

    /// Another session of the same peer waits for this one.
    pub(super) fn hurry_another(&mut self, now: Instant) {
        let soon = now + SUSPECTED_WAIT;
        self.cut_until = self.cut_until.map(|until| until.min(soon));
    }

    /// The first control bytes of a lane that took over say how far the peer has read. Gives what
    /// follows them; None: the lane is gone.
    pub(super) fn take_count(
        &mut self,
        now: Instant,
        at: usize,
        mut bytes: Bytes,
    ) -> Option<Bytes> {
        let lane = &mut self.lanes[at];
        let Some(so_far) = &mut lane.count_in else {
            return Some(bytes);
        };
        let missing = COUNT_BYTES - so_far.len();
        so_far.extend_from_slice(&bytes.split_to(missing.min(bytes.len())));
        let Some(count) = so_far.first_chunk().copied() else {
            return Some(bytes);
        };
        lane.count_in = None;
        if lane.control_out == ControlOut::Held {
            lane.control_out = ControlOut::Open;
        }
        let (key, read) = (lane.key, u64::from_be_bytes(count));
        if !self.out.has_said(read) {
            let text = "control bytes are asked for that there never were".to_owned();
            self.violation(now, key, text);
            return None;
        }
        if !self.out.go_back_to(read) {
            // Nobody's fault: a worker with many sessions keeps less of each.
            self.close(
                key,
                code::TIMEOUT,
                "what was said last is not kept any more",
            );
            self.lane_lost(now, key, LaneClosed::Otherwise);
            return None;
        }
        self.silence.unanswered = 0;
        self.outputs.push_back(LanesOutput::TakenOver { lane: key });
        self.wants(key);
        Some(bytes)
    }
}
