//! One peer of a pool: its connections, who waits for one, and what is done when. No I/O, no
//! clock.

use std::cmp::Reverse;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::circuit::{Circuit, PROVEN_AFTER, pause};
use super::config::ConnectionPoolConfig;
use super::errors::{PeerFailure, PoolError};
use super::events::{PoolEvent, PoolEventKind, PoolStatistics};
use super::name::PeerName;
use crate::api::{ConnectError, ConnectionError};
use crate::ids::Fingerprint;

/// A judgement that is late by so much is none: this process was stopped or starved, and an answer
/// may be waiting that its workers have not read. A timer of a process that runs is late by a few
/// milliseconds, or by some ten where every core is taken.
const JUDGED_LATE_AFTER: Duration = Duration::from_millis(100);

/// What is to be done outside. A connection has the number of its dial.
#[derive(Debug)]
pub(super) enum PoolStep {
    Dial {
        peer: Arc<PeerName>,
        dial: u64,
    },
    /// Nobody wants what a dial brings.
    StopDial(u64),
    Give {
        peer: Arc<PeerName>,
        caller: WaitingCaller,
        connection: u64,
    },
    Refuse {
        caller: u64,
        error: PoolError,
    },
    Close {
        connection: u64,
        why: &'static str,
    },
    /// Ask its peer for a sign of life.
    Ask(u64),
    /// Say whether one came: [`super::plan::PoolPlan::judged`].
    Judge {
        peer: Arc<PeerName>,
        connection: u64,
    },
    Tell(PoolEvent),
}

/// What all peers of a pool have in common.
pub(super) struct PoolDesk {
    pub(super) config: ConnectionPoolConfig,
    pub(super) steps: VecDeque<PoolStep>,
    /// Of what happened so far; what there is now is counted when somebody asks.
    pub(super) counts: PoolStatistics,
    /// Connections and dials.
    pub(super) open: usize,
    pub(super) waiting: usize,
    pub(super) last_number: u64,
    pub(super) random: u64,
}

impl PoolDesk {
    pub(super) fn number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }

    /// SplitMix64: chance enough for pauses, and the same from the same seed.
    fn random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.random ^ (self.random >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

/// One peer.
pub(super) struct PoolPeer {
    name: Arc<PeerName>,
    circuit: Circuit,
    members: Vec<Member>,
    /// One at a time: callers share what it brings.
    dial: Option<DialUnderWay>,
    /// In the order in which they came.
    callers: VecDeque<WaitingCaller>,
    /// So many connections are kept whether or not anybody uses them.
    warm: usize,
    /// When somebody wanted something of it last.
    asked_at: Instant,
}

/// A connection.
struct Member {
    number: u64,
    callers: usize,
    connected_at: Instant,
    /// When it was given out or came back.
    used_at: Instant,
    health: Health,
}

/// How a connection's health is looked after.
enum Health {
    /// Its peer is asked then. Next: Asked.
    Fine { ask_at: Instant },
    /// Its peer has until then. Next: Fine, or the connection leaves the pool.
    Asked { until: Instant },
}

/// What became of a question for a sign of life.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum SignOfLife {
    Came,
    Missing,
    /// The peer was not asked so far: the connection's worker had no turn.
    NotAskedFor,
}

/// A dial.
struct DialUnderWay {
    number: u64,
    until: Instant,
}

/// Somebody who waits.
#[derive(Debug)]
pub(super) struct WaitingCaller {
    pub(super) number: u64,
    since: Instant,
    until: Instant,
}

impl PoolPeer {
    pub(super) fn new(now: Instant, name: Arc<PeerName>) -> PoolPeer {
        PoolPeer {
            name,
            circuit: Circuit::new(),
            members: Vec::new(),
            dial: None,
            callers: VecDeque::new(),
            warm: 0,
            asked_at: now,
        }
    }

    fn tell(&self, desk: &mut PoolDesk, kind: PoolEventKind) {
        let address = self.name.address.clone();
        desk.steps
            .push_back(PoolStep::Tell(PoolEvent { address, kind }));
    }

    /// A connection with room for another caller, if nobody waits for it.
    pub(super) fn take(&mut self, now: Instant, desk: &PoolDesk) -> Option<u64> {
        self.asked_at = now;
        if !self.callers.is_empty() {
            return None;
        }
        self.take_place(now, desk)
    }

    /// Of the connections with room the one with the fewest callers; among those the one that was
    /// used last, so that the others may expire.
    fn take_place(&mut self, now: Instant, desk: &PoolDesk) -> Option<u64> {
        let most = desk.config.max_callers_per_connection;
        let with_room = self.members.iter_mut().filter(|it| it.callers < most);
        let member = with_room.min_by_key(|it| (it.callers, Reverse(it.used_at)))?;
        member.callers += 1;
        member.used_at = now;
        Some(member.number)
    }

    /// What a caller is told who need not wait: nobody is dialled, and there is nothing to come.
    pub(super) fn refusal(&self, now: Instant) -> Option<PoolError> {
        if !self.members.is_empty() {
            return None;
        }
        self.circuit.refusal(now).map(|it| PoolError::CircuitOpen {
            address: self.name.address.clone(),
            open_for: it.open_for,
            failures: it.failures,
            why: Box::new(it.why),
            next_try_in: it.next_try_in,
        })
    }

    /// One more waits. Gives its number.
    pub(super) fn wait(&mut self, now: Instant, desk: &mut PoolDesk) -> u64 {
        let number = desk.number();
        desk.waiting += 1;
        self.callers.push_back(WaitingCaller {
            number,
            since: now,
            until: now + desk.config.wait_timeout,
        });
        number
    }

    /// A caller does not wait any more.
    pub(super) fn forget_caller(&mut self, caller: u64, desk: &mut PoolDesk) {
        let before = self.callers.len();
        self.callers.retain(|it| it.number != caller);
        desk.waiting -= before - self.callers.len();
    }

    pub(super) fn warm(&self) -> usize {
        self.warm
    }

    pub(super) fn keep_warm(&mut self, now: Instant, count: usize) {
        self.asked_at = now;
        self.warm = count;
    }

    /// Places go to who waits, in order.
    fn serve(&mut self, now: Instant, desk: &mut PoolDesk) {
        while !self.callers.is_empty()
            && let Some(connection) = self.take_place(now, desk)
            && let Some(caller) = self.callers.pop_front()
        {
            desk.waiting -= 1;
            let peer = self.name.clone();
            desk.steps.push_back(PoolStep::Give {
                peer,
                caller,
                connection,
            });
        }
    }

    /// What a caller was to be given is over. It has its place in the order again: callers have
    /// their numbers as they come.
    pub(super) fn wait_again(&mut self, now: Instant, caller: WaitingCaller, desk: &mut PoolDesk) {
        desk.waiting += 1;
        let at = self.callers.partition_point(|it| it.number < caller.number);
        self.callers.insert(at, caller);
        self.refuse_if_open(now, desk);
    }

    /// Who waits is told as who comes now would be: an open circuit may stay so for longer than
    /// they wait.
    fn refuse_if_open(&mut self, now: Instant, desk: &mut PoolDesk) {
        if self.dial.is_none()
            && let Some(refusal) = self.refusal(now)
        {
            self.refuse_all(desk, &refusal);
        }
    }

    pub(super) fn refuse_all(&mut self, desk: &mut PoolDesk, error: &PoolError) {
        for caller in self.callers.drain(..) {
            desk.waiting -= 1;
            desk.steps.push_back(PoolStep::Refuse {
                caller: caller.number,
                error: error.clone(),
            });
        }
    }

    /// Since when somebody waits whom a dial could help; `None`: nobody, but connections are to be
    /// kept warm.
    pub(super) fn wants_dial(&self, config: &ConnectionPoolConfig) -> Option<Option<Instant>> {
        if self.dial.is_some() || self.members.len() >= config.max_connections_per_peer {
            return None;
        }
        match self.callers.front() {
            Some(caller) => Some(Some(caller.since)),
            None => (self.members.len() < self.warm).then_some(None),
        }
    }

    /// When it may be dialled, if that is later.
    pub(super) fn not_before(&self, now: Instant) -> Option<Instant> {
        self.circuit.not_before().filter(|at| *at > now)
    }

    pub(super) fn begin_dial(&mut self, now: Instant, desk: &mut PoolDesk) {
        if self.circuit.dialled() {
            self.tell(desk, PoolEventKind::CircuitHalfOpen);
        }
        self.tell(desk, PoolEventKind::Dialled);
        let dial = desk.number();
        desk.open += 1;
        desk.counts.dials += 1;
        let until = now + desk.config.connect_timeout;
        self.dial = Some(DialUnderWay {
            number: dial,
            until,
        });
        let peer = self.name.clone();
        desk.steps.push_back(PoolStep::Dial { peer, dial });
    }

    /// A dial brought a connection. False: nobody waits for it any more.
    pub(super) fn connected(
        &mut self,
        now: Instant,
        (number, key): (u64, Fingerprint),
        desk: &mut PoolDesk,
    ) -> bool {
        if self.dial.take_if(|dial| dial.number == number).is_none() {
            return false;
        }
        self.tell(desk, PoolEventKind::Connected(key));
        if self.circuit.connected(now) {
            self.tell(desk, PoolEventKind::CircuitClosed);
        }
        let ask_at = now + desk.config.health_interval;
        self.members.push(Member {
            number,
            callers: 0,
            connected_at: now,
            used_at: now,
            health: Health::Fine { ask_at },
        });
        self.serve(now, desk);
        true
    }

    /// A dial failed, and all who wait hear why. But where too many are under way in this process
    /// the peer has no part in it: they wait on.
    pub(super) fn dial_failed(
        &mut self,
        now: Instant,
        (number, error): (u64, ConnectError),
        desk: &mut PoolDesk,
    ) {
        if self.dial.take_if(|dial| dial.number == number).is_none() {
            return;
        }
        desk.open -= 1;
        if error == ConnectError::Busy {
            // Of many peers that found no room not all come back at once.
            let random = desk.random();
            self.circuit.put_off(now + pause(&desk.config, 0, random));
            return;
        }
        desk.counts.failed_dials += 1;
        let failure = PeerFailure::Connect(error);
        self.tell(desk, PoolEventKind::Failed(failure.clone()));
        self.refuse_all(desk, &failure.clone().into());
        self.failed(now, failure, desk);
    }

    fn failed(&mut self, now: Instant, why: PeerFailure, desk: &mut PoolDesk) {
        let is_proven = |it: &Member| it.connected_at + PROVEN_AFTER <= now;
        if self.members.iter().any(is_proven) {
            self.circuit.lasts_elsewhere(now, &desk.config);
        }
        let was_open = self.circuit.is_open();
        let random = desk.random();
        let next_try = self
            .circuit
            .failed(now, why.clone(), (&desk.config, random));
        if let (false, Some(next_try)) = (was_open, next_try) {
            let next_try_in = next_try - now;
            self.tell(desk, PoolEventKind::CircuitOpened { why, next_try_in });
        }
    }

    /// A connection that was made then went wrong. One outage ends all that a peer has, and counts
    /// once.
    fn member_failed(
        &mut self,
        now: Instant,
        connected_at: Instant,
        why: PeerFailure,
        desk: &mut PoolDesk,
    ) {
        if !self.circuit.knows_of_what_befell(connected_at) {
            self.failed(now, why, desk);
        }
    }

    fn remove(&mut self, number: u64, desk: &mut PoolDesk) -> Option<Member> {
        let at = self.members.iter().position(|it| it.number == number)?;
        desk.open -= 1;
        Some(self.members.remove(at))
    }

    /// A connection is over.
    pub(super) fn ended(
        &mut self,
        now: Instant,
        (number, why): (u64, ConnectionError),
        desk: &mut PoolDesk,
    ) {
        let Some(member) = self.remove(number, desk) else {
            return;
        };
        self.tell(desk, PoolEventKind::Closed(why.clone()));
        // What its users closed is no failure of the peer.
        let is_closed_here = matches!(why, ConnectionError::ClosedHere { .. });
        if !is_closed_here && now < member.connected_at + PROVEN_AFTER {
            let failure = PeerFailure::EndedAtOnce(why);
            self.member_failed(now, member.connected_at, failure, desk);
        }
        self.refuse_if_open(now, desk);
    }

    /// A caller does not need a connection any more. `keeps`: it stays in the pool.
    pub(super) fn hand_back(
        &mut self,
        now: Instant,
        (number, keeps): (u64, bool),
        desk: &mut PoolDesk,
    ) {
        let Some(member) = self.members.iter_mut().find(|it| it.number == number) else {
            return;
        };
        member.callers -= 1;
        member.used_at = now;
        if !keeps && member.callers == 0 {
            self.close(number, "the pool is drained", desk);
        } else {
            self.serve(now, desk);
        }
    }

    fn close(&mut self, number: u64, why: &'static str, desk: &mut PoolDesk) {
        if self.remove(number, desk).is_some() {
            let connection = number;
            desk.steps.push_back(PoolStep::Close { connection, why });
        }
    }

    /// Whether a connection's peer gave the sign of life that it was asked for.
    pub(super) fn judged(
        &mut self,
        now: Instant,
        (number, sign): (u64, SignOfLife),
        desk: &mut PoolDesk,
    ) {
        let found = self.members.iter_mut().find(|it| it.number == number);
        let Some(member) = found else {
            return;
        };
        let connected_at = member.connected_at;
        let timeout = desk.config.health_timeout;
        match sign {
            SignOfLife::Came => {
                let asked_at = match member.health {
                    Health::Asked { until } => until - timeout,
                    Health::Fine { .. } => now,
                };
                let ask_at = now.max(asked_at + desk.config.health_interval);
                member.health = Health::Fine { ask_at };
                return;
            }
            SignOfLife::NotAskedFor => {
                let until = now + timeout;
                member.health = Health::Asked { until };
                return;
            }
            SignOfLife::Missing => {}
        }
        self.close(number, "the peer gave no sign of life", desk);
        desk.counts.unhealthy += 1;
        self.tell(desk, PoolEventKind::Unhealthy);
        let failure = PeerFailure::Unhealthy(timeout);
        self.member_failed(now, connected_at, failure, desk);
        self.refuse_if_open(now, desk);
    }

    /// Does what is due, dials apart.
    pub(super) fn turn(&mut self, now: Instant, desk: &mut PoolDesk) {
        if let Some(DialUnderWay { number, .. }) =
            self.dial.as_ref().filter(|dial| dial.until <= now)
        {
            let dial = *number;
            desk.steps.push_back(PoolStep::StopDial(dial));
            let error = ConnectError::NoAnswer {
                name: self.name.address.clone(),
                why: format!("not within {:?}", desk.config.connect_timeout),
            };
            self.dial_failed(now, (dial, error), desk);
        }
        self.serve(now, desk);
        while let Some(caller) = self.callers.front().filter(|it| it.until <= now) {
            let error = PoolError::TimedOut {
                address: self.name.address.clone(),
                waited: now - caller.since,
                is_dialling: self.dial.is_some(),
                connections: self.members.len(),
            };
            let caller = caller.number;
            desk.counts.timed_out += 1;
            self.forget_caller(caller, desk);
            desk.steps.push_back(PoolStep::Refuse { caller, error });
        }
        self.look_after_health(now, desk);
        let timeout = desk.config.idle_timeout;
        while self.unused_since().is_some_and(|at| at + timeout <= now) {
            self.expire_one(desk);
        }
    }

    fn look_after_health(&mut self, now: Instant, desk: &mut PoolDesk) {
        let timeout = desk.config.health_timeout;
        let late_after = JUDGED_LATE_AFTER.min(timeout);
        for member in &mut self.members {
            let connection = member.number;
            match member.health {
                Health::Asked { until } if until <= now && now < until + late_after => {
                    let peer = self.name.clone();
                    desk.steps.push_back(PoolStep::Judge { peer, connection });
                }
                // Too late to judge: it is asked again.
                Health::Fine { ask_at: due } | Health::Asked { until: due } if due <= now => {
                    let until = now + timeout;
                    member.health = Health::Asked { until };
                    desk.steps.push_back(PoolStep::Ask(connection));
                }
                Health::Fine { .. } | Health::Asked { .. } => {}
            }
        }
    }

    /// Of the connections that nobody uses, the one that was not used for the longest time; `None`
    /// where all are to be kept warm.
    fn unused(&self) -> Option<&Member> {
        if self.members.len() <= self.warm {
            return None;
        }
        let unused = self.members.iter().filter(|it| it.callers == 0);
        unused.min_by_key(|it| it.used_at)
    }

    /// Since when that one is unused.
    pub(super) fn unused_since(&self) -> Option<Instant> {
        self.unused().map(|it| it.used_at)
    }

    /// Its place is needed elsewhere.
    pub(super) fn expire_one(&mut self, desk: &mut PoolDesk) {
        if let Some(number) = self.unused().map(|it| it.number) {
            desk.counts.expired += 1;
            self.close(number, "nobody uses this connection", desk);
            self.tell(desk, PoolEventKind::Expired);
        }
    }

    /// Nobody gets anything any more. What is in use stays until it comes back.
    pub(super) fn drain(&mut self, desk: &mut PoolDesk) {
        self.warm = 0;
        self.refuse_all(desk, &PoolError::Draining);
        if let Some(dial) = self.dial.take() {
            desk.open -= 1;
            desk.steps.push_back(PoolStep::StopDial(dial.number));
        }
        self.cut_off(desk, |member| member.callers == 0);
    }

    /// Closes connections. Gives how many.
    pub(super) fn cut_off_all(&mut self, desk: &mut PoolDesk) -> usize {
        self.cut_off(desk, |_| true)
    }

    fn cut_off(&mut self, desk: &mut PoolDesk, which: impl Fn(&Member) -> bool) -> usize {
        let those = self.members.iter().filter(|member| which(member));
        let numbers: Vec<u64> = those.map(|member| member.number).collect();
        for number in &numbers {
            self.close(*number, "the pool is drained", desk);
        }
        numbers.len()
    }

    /// Whether it has nothing, and nobody wants anything of it.
    pub(super) fn is_unwanted(&self) -> bool {
        self.members.is_empty() && self.dial.is_none() && self.callers.is_empty() && self.warm == 0
    }

    /// Whether nothing is lost with it.
    pub(super) fn is_blank(&self, now: Instant) -> bool {
        self.is_unwanted() && self.circuit.is_blank(now)
    }

    pub(super) fn asked_at(&self) -> Instant {
        self.asked_at
    }

    /// When something is due, dials apart.
    pub(super) fn deadline(&self, now: Instant, config: &ConnectionPoolConfig) -> Option<Instant> {
        let dial = self.dial.as_ref().map(|dial| dial.until);
        let callers = self.callers.front().map(|caller| caller.until);
        let members = self.members.iter().flat_map(|member| {
            let health = match member.health {
                Health::Fine { ask_at } => ask_at,
                Health::Asked { until } => until,
            };
            // One in use may come back before it is looked at again.
            let used_at = if member.callers == 0 {
                member.used_at
            } else {
                now
            };
            let expires = self.members.len() > self.warm;
            [Some(health), expires.then(|| used_at + config.idle_timeout)]
        });
        members.flatten().chain(dial).chain(callers).min()
    }

    /// Adds what there is now.
    pub(super) fn count(&self, into: &mut PoolStatistics) {
        into.peers += 1;
        into.connections += self.members.len();
        into.dialling += usize::from(self.dial.is_some());
        into.callers += self.members.iter().map(|it| it.callers).sum::<usize>();
        into.waiting += self.callers.len();
        into.open_circuits += usize::from(!self.circuit.is_closed());
    }
}
