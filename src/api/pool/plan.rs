//! All peers of a pool: who is given what, and who is dialled when. No I/O, no clock: what happens
//! is told with its time, and [`PoolPlan::next_step`] says what is to be done about it.

#[cfg(test)]
mod tests;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use super::config::{ConnectionPoolConfig, PEERS_MAX};
use super::errors::PoolError;
use super::events::PoolStatistics;
use super::name::PeerName;
use super::peer::{PoolDesk, PoolPeer, PoolStep, SignOfLife, WaitingCaller};
use crate::api::{ConnectError, ConnectionError};
use crate::ids::Fingerprint;

/// What somebody gets who wants a connection.
#[derive(PartialEq, Eq, Debug)]
pub(super) enum PoolPlace {
    On(u64),
    /// As this caller, until there is something for it.
    Waits(u64),
}

/// A pool without its connections.
pub(super) struct PoolPlan {
    peers: HashMap<Arc<PeerName>, PoolPeer>,
    desk: PoolDesk,
    phase: PoolPhase,
}

/// How far a pool is.
enum PoolPhase {
    /// Next: any other.
    Open,
    /// What is in use is waited for until then. Next: any later one.
    Draining {
        until: Instant,
    },
    /// So many connections were in use still.
    Drained {
        cut_off: usize,
    },
    Dropped,
}

impl PoolPlan {
    pub(super) fn new(config: ConnectionPoolConfig, seed: u64) -> PoolPlan {
        PoolPlan {
            peers: HashMap::new(),
            desk: PoolDesk {
                config,
                steps: VecDeque::new(),
                counts: PoolStatistics::default(),
                open: 0,
                waiting: 0,
                last_number: 0,
                random: seed,
            },
            phase: PoolPhase::Open,
        }
    }

    /// What is to be done next.
    pub(super) fn next_step(&mut self) -> Option<PoolStep> {
        self.desk.steps.pop_front()
    }

    /// Whether it takes a turn, or steps are to be done.
    pub(super) fn wants_turn(&self) -> bool {
        let is_full = self.desk.open >= self.desk.config.max_connections;
        let is_open = matches!(self.phase, PoolPhase::Open);
        !self.desk.steps.is_empty() || !is_open || (is_full && self.desk.waiting > 0)
    }

    fn check_open(&self) -> Result<(), PoolError> {
        match self.phase {
            PoolPhase::Open => Ok(()),
            PoolPhase::Draining { .. } | PoolPhase::Drained { .. } => Err(PoolError::Draining),
            PoolPhase::Dropped => Err(PoolError::Dropped),
        }
    }

    /// Somebody wants a connection. `over` says why one is over that the plan has not heard of.
    pub(super) fn get(
        &mut self,
        now: Instant,
        name: &Arc<PeerName>,
        over: impl Fn(u64) -> Option<ConnectionError>,
    ) -> Result<PoolPlace, PoolError> {
        self.check_open()?;
        self.make_known(now, name)?;
        let desk = &mut self.desk;
        let Some(peer) = self.peers.get_mut(name) else {
            return Err(PoolError::TooManyPeers(PEERS_MAX));
        };
        desk.counts.gets += 1;
        while let Some(connection) = peer.take(now, desk) {
            match over(connection) {
                None => {
                    desk.counts.hits += 1;
                    return Ok(PoolPlace::On(connection));
                }
                Some(why) => peer.ended(now, (connection, why), desk),
            }
        }
        if let Some(refusal) = peer.refusal(now) {
            return Err(refusal);
        }
        if desk.waiting >= desk.config.max_waiting_callers {
            return Err(PoolError::TooManyWaiting(desk.config.max_waiting_callers));
        }
        Ok(PoolPlace::Waits(peer.wait(now, desk)))
    }

    /// What a caller was to be given is over: it waits again, before those who came later.
    pub(super) fn wait_again(&mut self, now: Instant, name: &Arc<PeerName>, caller: WaitingCaller) {
        let known = self.check_open().and_then(|()| self.make_known(now, name));
        match (known, self.peers.get_mut(name)) {
            (Ok(()), Some(peer)) => peer.wait_again(now, caller, &mut self.desk),
            (Ok(()), None) => {}
            (Err(error), _) => {
                let caller = caller.number;
                let refuse = PoolStep::Refuse { caller, error };
                self.desk.steps.push_back(refuse);
            }
        }
    }

    /// The peer has an entry then. Where there is no room for one, that goes which nobody asked for
    /// for the longest time, and with it the memory of its failures.
    fn make_known(&mut self, now: Instant, name: &Arc<PeerName>) -> Result<(), PoolError> {
        if self.peers.contains_key(name) {
            return Ok(());
        }
        if self.peers.len() >= PEERS_MAX {
            let unwanted = self.peers.iter().filter(|(_, peer)| peer.is_unwanted());
            let oldest = unwanted.min_by_key(|(_, peer)| peer.asked_at());
            let Some(oldest) = oldest.map(|(name, _)| name.clone()) else {
                return Err(PoolError::TooManyPeers(PEERS_MAX));
            };
            self.peers.remove(&oldest);
        }
        let peer = PoolPeer::new(now, name.clone());
        self.peers.insert(name.clone(), peer);
        Ok(())
    }

    /// From now on so many connections are kept. Those of all peers together leave one at least:
    /// no room is made of them, and callers of other peers would wait in vain.
    pub(super) fn keep_warm(
        &mut self,
        now: Instant,
        name: &Arc<PeerName>,
        wanted: usize,
    ) -> Result<(), PoolError> {
        self.check_open()?;
        let config = &self.desk.config;
        let others = self.peers.iter().filter(|(other, _)| *other != name);
        let elsewhere: usize = others.map(|(_, peer)| peer.warm()).sum();
        let room = (config.max_connections - 1).saturating_sub(elsewhere);
        let most = room.min(config.max_connections_per_peer);
        if wanted > most {
            return Err(PoolError::TooManyWarm { wanted, most });
        }
        self.make_known(now, name)?;
        if let Some(peer) = self.peers.get_mut(name) {
            peer.keep_warm(now, wanted);
        }
        Ok(())
    }

    fn with<T>(
        &mut self,
        name: &Arc<PeerName>,
        does: impl FnOnce(&mut PoolPeer, &mut PoolDesk) -> T,
    ) -> Option<T> {
        let peer = self.peers.get_mut(name)?;
        Some(does(peer, &mut self.desk))
    }

    /// A caller does not wait any more.
    pub(super) fn forget_caller(&mut self, name: &Arc<PeerName>, caller: u64) {
        self.with(name, |peer, desk| peer.forget_caller(caller, desk));
    }

    /// A caller does not need a connection any more.
    pub(super) fn hand_back(&mut self, now: Instant, name: &Arc<PeerName>, connection: u64) {
        let keeps = matches!(self.phase, PoolPhase::Open);
        self.with(name, |peer, desk| {
            peer.hand_back(now, (connection, keeps), desk);
        });
    }

    /// A dial brought a connection. False: nobody waits for it any more.
    pub(super) fn connected(
        &mut self,
        now: Instant,
        name: &Arc<PeerName>,
        (dial, key): (u64, Fingerprint),
    ) -> bool {
        let wanted = self.with(name, |peer, desk| peer.connected(now, (dial, key), desk));
        wanted.unwrap_or(false)
    }

    pub(super) fn dial_failed(
        &mut self,
        now: Instant,
        name: &Arc<PeerName>,
        (dial, error): (u64, ConnectError),
    ) {
        self.with(name, |peer, desk| {
            peer.dial_failed(now, (dial, error), desk);
        });
    }

    /// A connection is over.
    pub(super) fn ended(
        &mut self,
        now: Instant,
        name: &Arc<PeerName>,
        (connection, why): (u64, ConnectionError),
    ) {
        self.with(name, |peer, desk| peer.ended(now, (connection, why), desk));
    }

    /// Whether a connection's peer gave the sign of life that it was asked for.
    pub(super) fn judged(
        &mut self,
        now: Instant,
        name: &Arc<PeerName>,
        (connection, sign): (u64, SignOfLife),
    ) {
        self.with(name, |peer, desk| {
            peer.judged(now, (connection, sign), desk);
        });
    }

    /// Nobody gets anything any more, and what is in use is waited for, but not for ever.
    pub(super) fn drain(&mut self, now: Instant) {
        if let PoolPhase::Open = self.phase {
            let until = now + self.desk.config.drain_timeout;
            self.phase = PoolPhase::Draining { until };
            for peer in self.peers.values_mut() {
                peer.drain(&mut self.desk);
            }
        }
    }

    /// How many connections were in use when a drain was over.
    pub(super) fn drained(&self) -> Option<usize> {
        match self.phase {
            PoolPhase::Drained { cut_off } => Some(cut_off),
            PoolPhase::Dropped => Some(0),
            PoolPhase::Open | PoolPhase::Draining { .. } => None,
        }
    }

    /// The last handle is gone: who waits hears of it, and what is in use is its users' alone.
    pub(super) fn drop_all(&mut self) {
        for peer in self.peers.values_mut() {
            peer.refuse_all(&mut self.desk, &PoolError::Dropped);
        }
        self.peers.clear();
        self.desk.open = 0;
        if self.drained().is_none() {
            self.phase = PoolPhase::Dropped;
        }
    }

    /// Does what is due.
    pub(super) fn turn(&mut self, now: Instant) {
        for peer in self.peers.values_mut() {
            peer.turn(now, &mut self.desk);
        }
        match self.phase {
            PoolPhase::Open => self.dial(now),
            PoolPhase::Draining { until } if self.desk.open == 0 || until <= now => {
                let peers = self.peers.values_mut();
                let cut_off = peers.map(|peer| peer.cut_off_all(&mut self.desk)).sum();
                self.phase = PoolPhase::Drained { cut_off };
            }
            PoolPhase::Draining { .. } | PoolPhase::Drained { .. } | PoolPhase::Dropped => {}
        }
        self.peers.retain(|_, peer| !peer.is_blank(now));
    }

    /// Begins the dials that are due: first for who has waited longest, last to keep connections
    /// warm.
    fn dial(&mut self, now: Instant) {
        let config = &self.desk.config;
        let wanting = self.peers.iter().filter_map(|(name, peer)| {
            let waits_since = peer.wants_dial(config)?;
            let may = peer.not_before(now).is_none();
            may.then(|| (waits_since.is_none(), waits_since, name.clone()))
        });
        let mut wanting: Vec<_> = wanting.collect();
        wanting.sort_by_key(|(is_warm, since, _)| (*is_warm, *since));
        for (is_warm, _, name) in wanting {
            if self.desk.open >= self.desk.config.max_connections {
                if is_warm {
                    return;
                }
                self.make_room();
            }
            if self.desk.open >= self.desk.config.max_connections {
                return;
            }
            self.with(&name, |peer, desk| peer.begin_dial(now, desk));
        }
    }

    /// Closes the connection that nobody has used for the longest time, if there is one.
    fn make_room(&mut self) {
        let unused = self.peers.values_mut().filter_map(|peer| {
            let since = peer.unused_since()?;
            Some((since, peer))
        });
        if let Some((_, peer)) = unused.min_by_key(|(since, _)| *since) {
            peer.expire_one(&mut self.desk);
        }
    }

    /// When something is due though nothing happens.
    pub(super) fn deadline(&self, now: Instant) -> Option<Instant> {
        let config = &self.desk.config;
        let phase = match self.phase {
            PoolPhase::Draining { until } => Some(until),
            PoolPhase::Open | PoolPhase::Drained { .. } | PoolPhase::Dropped => None,
        };
        let dials = self.peers.values().filter_map(|peer| {
            peer.wants_dial(config)?;
            peer.not_before(now)
        });
        let peers = self.peers.values();
        let others = peers.filter_map(|peer| peer.deadline(now, config));
        others.chain(dials).chain(phase).min()
    }

    pub(super) fn statistics(&self) -> PoolStatistics {
        let mut all = self.desk.counts;
        for peer in self.peers.values() {
            peer.count(&mut all);
        }
        all
    }
}
