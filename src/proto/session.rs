//! One session from the greeting to its outcome: which role this side has, what the peer may say,
//! how it ends.
//!
//! The role does the work: it sends, receives, lists, reads or measures. A session greets, hands
//! control messages to its role, and turns every way a session can end into exactly one
//! [`Outcome`], after the role has closed what it held.

mod asking;
mod clock;
mod greeting;
mod handles;
mod listing;
mod queries;
mod range;
mod role;
#[cfg(test)]
mod tests;
mod watch;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::ids::{CopyId, OpId};

use super::clear::{ClearLanes, ClearSecret};
use super::errors::{Access, Violation, session_error, violation};
use super::parallel::ParallelTransferConfig;
use super::place::HostKey;
use super::ports::{Ports, RecordsMoved};
use super::receive::{MetadataOptions, Target};
use super::wire::{Decoder, Message, WireError};
use super::{
    CancelReason, Carriage, CopyStep, DiskDone, DiskError, Input, Outcome, Output, SessionError,
    SessionErrorCode, Totals,
};
use role::{Role, RoleEnd};
use watch::ProgressWatch;

/// A server drops a session that has not said a whole `Hello` by then.
pub const HELLO_TIMEOUT: Duration = Duration::from_secs(10);

/// How long nothing may be got on with, unless the user says otherwise: a disk that spins up, a
/// server that is started anew, are back sooner.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A session that ends waits so long for its disk operations, to close what it holds; less where
/// they have been waited for already.
const CLOSING_AT_MOST: Duration = Duration::from_secs(10);
const CLOSING_WHEN_STALLED: Duration = Duration::from_secs(1);

/// Verdicts that wait to be sent before a receiver reads on: a round trip of 100 ms at some 100,000
/// small files a second.
const VERDICTS_BYTES_MAX: usize = 128 << 10;

/// A session that keeps this much is checked after each input, one that keeps twice as much after
/// every other.
#[cfg(test)]
const CHECKED_BYTES: u64 = 8 << 10;

/// What a session may use.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Entries without final verdict, directories being walked not counted. Usually 1024.
    pub entry_window: u32,
    /// Received bytes not written yet before reading of data streams stops.
    pub write_behind_bytes: usize,
    /// Bytes read from the disk and not taken by the transport yet; within one host, bytes named
    /// and not copied yet.
    pub read_ahead_bytes: usize,
    /// The same where reads are made in place (`DiskDone::Source`), if it is less.
    pub read_ahead_in_place_bytes: usize,
    /// The same of all lanes that carry data together, where several do.
    pub read_ahead_all_bytes: usize,
    pub carriage: Carriage,
    /// What the objects of this host are told with, if anything can.
    pub host_key: Option<HostKey>,
    pub parallel: ParallelTransferConfig,
    /// Disk operations that look, make or open, in flight at a time. Usually 64.
    pub lookups: usize,
    /// How long nothing may be got on with; None: for ever.
    pub patience: Option<Duration>,
    /// The transport may carry data on lanes that are added, if the peer's may, too.
    pub adds_lanes: bool,
    /// Server: the disk remembers values of chunks.
    pub keeps_digests: bool,
    /// Client: it wants to know all addresses of the server.
    pub asks_addresses: bool,
    /// Server: what it says then.
    pub addresses: Arc<[IpAddr]>,
    /// Of those that are added, some may be in the clear.
    pub clear: ClearLanes,
}

/// What the server lets this client do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// To copy from it, and list.
    pub read: bool,
    /// To copy to it.
    pub write: bool,
}

/// Files that go from one place to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// Which of both sides sends.
    pub direction: Direction,
    /// Paths on the side that sends.
    pub sources: Vec<Bytes>,
    /// A path on the side that receives.
    pub target: Bytes,
    /// How files are put in place.
    pub options: TransferOptions,
}

/// Where files go, as the client sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Local sources go to the server.
    Push,
    /// The server's sources come here.
    Pull,
}

/// How files are to be put in place. The default is no option.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TransferOptions {
    /// The target is a directory, made if it is missing. More than one source implies it.
    pub must_be_dir: bool,
    /// What looks the same is sent, too.
    pub force: bool,
    /// Each entry is on disk before it counts as done.
    pub fsync: bool,
    /// The user's own symlinks to directories are taken for directories.
    pub keep_dirlinks: bool,
    /// The one source takes the target's name, even if a directory stands there.
    pub no_target_dir: bool,
    /// Which copy this is: a directory that an earlier run of it made under the target's name is
    /// gone on with. None: that of these paths, peer and user.
    pub copy: Option<CopyId>,
    /// A source that is a symlink is what it leads to.
    pub follow_named: bool,
    /// A file that grows while it is read fails; else what it held at first is copied.
    pub no_growing: bool,
    /// What becomes of modes and times.
    pub metadata: MetadataOptions,
    /// Bits per second that the sender keeps below.
    pub bwlimit_bps: Option<u64>,
    /// A pull: the server is asked how much there is, before the manifest says so.
    pub counts: bool,
}

/// What a client wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    Transfer(Transfer),
    /// The server describes `path`.
    List {
        path: Bytes,
        /// The unfinished files there and below, instead.
        partial: bool,
    },
    /// The server answers what is asked by [`Input::Ask`], until nothing is any more.
    Queries,
    /// Filler or echoes for so long; no file is touched.
    Bench {
        work: BenchWork,
        duration: Duration,
    },
}

/// What a benchmark does, as the client sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BenchWork {
    Send,
    Receive,
    /// Messages of so many bytes go there and back, one at a time.
    Echo {
        size_bytes: usize,
    },
}

/// One side of a session.
pub struct Session {
    client: bool,
    limits: Limits,
    decoder: Decoder,
    ports: Ports,
    stage: Stage,
    role: Role,
    told: Told,
    watch: ProgressWatch,
    /// Disk operations that ended, without those that only yield.
    disk_ended: u64,
    /// Both sides know lanes that are added.
    adds_lanes: bool,
    /// Server: the client asked where it is, too.
    is_asked_addresses: bool,
    /// Lanes in the clear may be among them.
    clear: Option<ClearSecret>,
    /// Of the last input.
    now: Instant,
    end: End,
    /// Inputs since the counters were checked.
    #[cfg(test)]
    unchecked: u64,
}

/// What the world was told last of what it may read.
#[derive(Debug)]
struct Told {
    takes_data: bool,
    answers_max: Option<usize>,
}

impl Default for Told {
    fn default() -> Told {
        Told {
            takes_data: true,
            answers_max: None,
        }
    }
}

/// How far both are with agreeing.
enum Stage {
    /// Server: nothing was asked yet. Next: Placing (a push), Running.
    AwaitHello { grant: Grant, until: Instant },
    /// The receiver's target is looked up. Next: AwaitWelcome (client), Running (server).
    Placing {
        /// Client: the server is asked for these then.
        ask: Option<Sources>,
    },
    /// Client: it was said what is wanted. Next: Running.
    AwaitWelcome {
        /// A push: what is sent then.
        send: Option<Sources>,
    },
    /// The role is at work.
    Running,
}

/// What is to be sent, by whom ever.
struct Sources {
    paths: Vec<Bytes>,
    options: TransferOptions,
}

/// Whether and how a session ends.
enum End {
    /// Next: Closing.
    No,
    /// The outcome is known; the role closes what it holds. Next: Over.
    Closing { outcome: Outcome, until: Instant },
    /// `Finished` was said.
    Over,
}

impl Session {
    /// Takes one input; the contract is on the first page of [`crate::proto`].
    pub fn handle(&mut self, now: Instant, input: Input) {
        if matches!(self.end, End::Over) {
            return;
        }
        self.now = now;
        let is_tick = matches!(input, Input::Tick);
        let was_idle = self.is_idle();
        if let Err(Violation(text)) = self.take(now, input) {
            self.finish(Outcome::Violation(text));
        }
        self.advance(now);
        if was_idle && !self.is_idle() {
            // What begins now has had no time to get on.
            self.watch.looked(now);
        }
        #[cfg(test)]
        self.check();
        debug_assert!(
            !is_tick || self.has_moved_on(now),
            "still due after a tick: {:?}",
            self.deadline()
        );
    }

    /// Holds counters against the tables they count: after every input while tables are small, else
    /// after some.
    #[cfg(test)]
    fn check(&mut self) {
        self.unchecked += 1;
        if self.unchecked >= self.held_bytes() / CHECKED_BYTES {
            self.unchecked = 0;
            self.role.check();
        }
    }

    /// What holds after each `Input::Tick` at `now`: what was due is done, and the next deadline is
    /// yet to come. One that stays in the past would have the loop tick for ever.
    pub fn has_moved_on(&self, now: Instant) -> bool {
        self.deadline().is_none_or(|at| at > now)
    }

    /// The next thing wanted from the world.
    pub fn poll(&mut self) -> Option<Output> {
        if let Some(output) = self.ports.pop() {
            return Some(output);
        }
        self.flush();
        self.ports.pop()
    }

    /// When `Input::Tick` is due if nothing else happens.
    pub fn deadline(&self) -> Option<Instant> {
        match &self.end {
            End::No => {}
            End::Closing { until, .. } => return Some(*until),
            End::Over => return None,
        }
        match &self.stage {
            Stage::AwaitHello { until, .. } => Some(*until),
            Stage::Placing { .. } | Stage::AwaitWelcome { .. } | Stage::Running => {
                let role = match self.stage {
                    Stage::Running => self.role.deadline(),
                    _ => None,
                };
                let watch = self.watch.deadline(self.disk_under_way(), self.may_speak());
                role.into_iter().chain(watch).min()
            }
        }
    }

    /// Whether the peer knows who this is, and may hear of more.
    fn may_speak(&self) -> bool {
        match self.stage {
            Stage::Placing { .. } => !self.client,
            // A part on another worker has nobody to speak to.
            Stage::Running => !self.role.is_away(),
            Stage::AwaitHello { .. } | Stage::AwaitWelcome { .. } => false,
        }
    }

    fn disk_under_way(&self) -> u64 {
        self.ports.disk_wanted() - self.disk_ended
    }

    /// Nothing is watched, or nothing of this side is under way.
    fn is_idle(&self) -> bool {
        !matches!(self.end, End::No) || self.disk_under_way() == 0
    }

    /// What was moved whole of data streams here.
    pub fn records_moved(&self) -> RecordsMoved {
        self.ports.records_moved()
    }

    /// Heap bytes kept because the peer said or asked for something, about.
    pub fn held_bytes(&self) -> u64 {
        self.role.held_bytes() + self.decoder.held_bytes()
    }

    /// Says what changed of what the world may read.
    fn tell(&mut self) {
        let (takes_data, answers_max) = match self.stage {
            Stage::Running => (self.role.takes_data(), self.role.answers_max()),
            Stage::AwaitHello { .. } | Stage::Placing { .. } | Stage::AwaitWelcome { .. } => {
                (true, None)
            }
        };
        if std::mem::replace(&mut self.told.takes_data, takes_data) != takes_data {
            self.ports.takes_data(takes_data);
        }
        if std::mem::replace(&mut self.told.answers_max, answers_max) != answers_max {
            self.ports.answers_max(answers_max);
        }
    }

    fn take(&mut self, now: Instant, input: Input) -> Result<(), Violation> {
        match input {
            Input::Control(bytes) => self.on_control(now, bytes),
            Input::ControlClosed if self.role.has_finished() => Ok(()),
            // Only an ending transport resets data streams; why, it says no more.
            Input::ControlClosed | Input::DataReset => {
                self.finish(Outcome::Lost(self.totals()));
                Ok(())
            }
            Input::Data { stream, bytes, fin } => match self.end {
                End::Closing { .. } | End::Over => Ok(()),
                End::No => {
                    self.watch.moved(now, bytes.len() as u64);
                    let is_running = matches!(self.stage, Stage::Running);
                    let data = (stream, bytes, fin);
                    self.role.on_data(now, &mut self.ports, data, is_running)
                }
            },
            Input::Copy(step) => self.on_copy(step),
            Input::Sent { mover, bytes } => {
                self.watch.moved(now, bytes);
                self.role.on_sent(now, mover, bytes);
                Ok(())
            }
            Input::Disk { op, result } => self.on_disk(now, op, result),
            Input::Pulls { .. }
            | Input::TakesPipes { .. }
            | Input::PullsAway(_)
            | Input::Retire { .. }
            | Input::LaneLost(_)
            | Input::LaneAccounted { .. } => {
                if matches!(self.end, End::No) {
                    self.on_lanes(now, input);
                }
                Ok(())
            }
            Input::Cancel(_) | Input::Refuse(_) if !matches!(self.end, End::No) => Ok(()),
            Input::Cancel(reason) => {
                self.role.flush(&mut self.ports);
                self.ports.message(&Message::Cancel { reason });
                let totals = self.totals();
                self.finish(Outcome::Cancelled { reason, totals });
                Ok(())
            }
            Input::Refuse(error) => {
                self.role.flush(&mut self.ports);
                self.refuse(error);
                Ok(())
            }
            Input::DiskWorks => {
                // None under way: those that ended have said so.
                if self.disk_under_way() > 0 {
                    self.watch.finished_one(now);
                }
                Ok(())
            }
            Input::Broken(text) => violation(text),
            Input::FromOutpost(..) | Input::FromHome(_) | Input::Over => self.on_mail(now, input),
            Input::Ask(ask) => {
                if matches!(self.end, End::No) {
                    self.on_ask(now, ask);
                }
                Ok(())
            }
            Input::Tick => self.on_tick(now),
        }
    }

    /// Between a session and what of it is on another worker.
    fn on_mail(&mut self, now: Instant, input: Input) -> Result<(), Violation> {
        match input {
            Input::FromOutpost(from, report) => {
                let report = (from, *report);
                let more_bytes = self.role.on_outpost(now, &mut self.ports, report)?;
                self.watch.moved(now, more_bytes);
            }
            Input::FromHome(order) => self.role.on_home(&mut self.ports, *order)?,
            Input::Over => {
                let (reason, totals) = (CancelReason::Ending, self.totals());
                self.finish(Outcome::Cancelled { reason, totals });
            }
            _ => {}
        }
        Ok(())
    }

    fn on_disk(
        &mut self,
        now: Instant,
        op: OpId,
        result: Result<DiskDone, DiskError>,
    ) -> Result<(), Violation> {
        match result {
            Ok(DiskDone::Yielded) => self.watch.hashed(now),
            _ => {
                self.disk_ended += 1;
                self.watch.finished_one(now);
            }
        }
        self.role.on_disk(&mut self.ports, op, result)
    }

    /// Added lanes came, went, or do not carry what they did.
    fn on_lanes(&mut self, now: Instant, input: Input) {
        match (&mut self.role, input) {
            (Role::Send(sender), Input::Pulls { mover, pulls }) => {
                sender.set_pulls(now, mover, pulls);
            }
            (Role::SendAway(outpost), Input::Pulls { mover, pulls }) => {
                outpost.set_pulls(now, &mut self.ports, mover, pulls);
            }
            (Role::Send(sender), Input::TakesPipes { mover }) => sender.take_pipes(mover),
            (Role::SendAway(outpost), Input::TakesPipes { mover }) => outpost.take_pipes(mover),
            (Role::Send(sender), Input::PullsAway(pulls)) => sender.set_pulls_away(pulls),
            (Role::SendAway(outpost), Input::Retire { mover }) => {
                outpost.retire(&mut self.ports, mover);
            }
            (Role::Send(sender), Input::Retire { mover }) => {
                sender.retire(&mut self.ports, mover);
            }
            (role, Input::LaneLost(lost)) => role.on_lane_lost(&mut self.ports, lost),
            (role, Input::LaneAccounted { missing }) => {
                role.on_lane_accounted(&mut self.ports, &missing);
            }
            _ => {}
        }
    }

    fn on_copy(&mut self, step: CopyStep) -> Result<(), Violation> {
        match self.end {
            End::No => self.role.on_copy(&mut self.ports, step),
            End::Closing { .. } | End::Over => Ok(()),
        }
    }

    fn on_control(&mut self, now: Instant, bytes: Bytes) -> Result<(), Violation> {
        if !matches!(self.end, End::No) {
            return Ok(());
        }
        self.decoder.push(bytes);
        while matches!(self.end, End::No) {
            match self.decoder.next() {
                Ok(Some(message)) => self.on_message(now, message)?,
                Ok(None) => break,
                Err(error) => {
                    if let WireError::Unknown(_) = error {
                        let code = SessionErrorCode::Unsupported;
                        let error = SessionError::told(code, error.to_string());
                        self.ports.message(&Message::Error(error));
                    }
                    return violation(error.to_string());
                }
            }
        }
        Ok(())
    }

    fn on_message(&mut self, now: Instant, message: Message) -> Result<(), Violation> {
        self.watch.heard(now, &message);
        match message {
            Message::Cancel { reason } => {
                let totals = self.totals();
                self.finish(Outcome::Stopped { reason, totals });
                return Ok(());
            }
            Message::Error(error) => {
                self.finish(Outcome::Refused(error));
                return Ok(());
            }
            Message::Working { .. } if !matches!(self.stage, Stage::AwaitHello { .. }) => {
                self.role.on_sign(now, &message);
                return Ok(());
            }
            _ => {}
        }
        match (&self.stage, message) {
            (Stage::AwaitHello { .. }, Message::Hello(hello)) => self.on_hello(now, hello),
            (Stage::AwaitWelcome { .. }, Message::Welcome(welcome)) => {
                self.on_welcome(now, welcome)
            }
            (Stage::Running, Message::LaneOver { lane, altered })
                if self.adds_lanes && matches!(self.role, Role::Receive(_)) =>
            {
                // Where nothing goes in the clear, nobody can have changed anything.
                if altered && self.clear.is_some() {
                    self.ports.altered();
                }
                self.ports.lane_over(lane);
                Ok(())
            }
            (Stage::Running, Message::LaneAccount(account))
                if self.adds_lanes && matches!(self.role, Role::Send(_)) =>
            {
                if account.altered && self.clear.is_some() {
                    self.ports.altered();
                }
                self.ports.lane_account(account);
                Ok(())
            }
            (Stage::Running, message) => {
                let last = self.role.on_message(now, &mut self.ports, message)?;
                if let Some(totals) = last {
                    self.finish(Outcome::Complete(totals));
                }
                Ok(())
            }
            _ => violation("a message out of place"),
        }
    }

    /// Goes on as far as possible: starts work, notices what is complete, closes what ends.
    fn advance(&mut self, now: Instant) {
        let mut end: Option<RoleEnd> = None;
        match (&self.stage, &self.end) {
            (Stage::Placing { .. }, End::No) => self.placed(),
            (Stage::Running, End::No) => end = self.role.advance(now, &mut self.ports),
            (Stage::AwaitHello { .. } | Stage::AwaitWelcome { .. }, _)
            | (_, End::Closing { .. } | End::Over) => {}
        }
        match end {
            Some(Ok(totals)) => self.finish(Outcome::Complete(totals)),
            Some(Err(error)) => self.refuse(error),
            None => {}
        }
        match self.end {
            // What begins to be paced now may have said nothing for long.
            End::No if self.role.is_paced(now) => {
                self.watch.paced(now);
                self.sign_work(now);
            }
            End::No | End::Over => {}
            End::Closing { .. } => self.role.stop(now, &mut self.ports),
        }
        if self.ports.take_spoken() {
            self.watch.said(now);
        }
        self.tell();
        self.close();
    }

    /// The target was looked up, or not yet.
    fn placed(&mut self) {
        let (Stage::Placing { .. }, Role::Receive(receiver)) = (&self.stage, &self.role) else {
            return;
        };
        match receiver.target() {
            Target::Resolving => {}
            Target::Failed(error) => {
                let error = session_error(Access::Write, error);
                if self.client {
                    self.call_off(error);
                } else {
                    self.refuse(error);
                }
            }
            Target::Ready { .. } => self.begin_receiving(),
        }
    }

    /// The outcome is known: the role is stopped next, and closes what it holds.
    fn finish(&mut self, outcome: Outcome) {
        if matches!(self.end, End::No) {
            let patience = match outcome {
                Outcome::Stalled { .. } => CLOSING_WHEN_STALLED,
                _ => CLOSING_AT_MOST,
            };
            let until = self.now + patience;
            self.end = End::Closing { outcome, until };
        }
    }

    /// Client: nothing was asked for yet, and nothing will be. A server that is told so hangs up,
    /// and nobody has to wait.
    fn call_off(&mut self, error: SessionError) {
        let reason = CancelReason::User;
        self.ports.message(&Message::Cancel { reason });
        self.finish(Outcome::CalledOff(error));
    }

    /// Tells the peer why its session does not go on.
    fn refuse(&mut self, error: SessionError) {
        self.ports.message(&Message::Error(error.clone()));
        self.finish(Outcome::Refused(error));
    }

    /// Says `Finished` once the role holds nothing any more, or will not in time.
    fn close(&mut self) {
        let is_closed = match self.end {
            End::Closing { until, .. } => self.role.is_drained() || self.now >= until,
            End::No | End::Over => false,
        };
        if is_closed
            && let End::Closing { outcome, .. } = std::mem::replace(&mut self.end, End::Over)
        {
            self.ports.finished(outcome);
        }
    }

    fn flush(&mut self) {
        if matches!(self.end, End::No) && matches!(self.stage, Stage::Running) {
            self.role.flush(&mut self.ports);
        }
        if !matches!(self.end, End::Over) {
            self.ports.flush();
        }
    }

    fn totals(&self) -> Totals {
        self.role.totals()
    }
}
