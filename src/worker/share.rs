//! Who has to go when QUIC holds more than it may: each lane has a share, strangers have one, and
//! all together.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::Worker;
use super::lane::{Lane, Phase, Purpose, code};
use super::log::Who;
use crate::budget::TLS_BYTES;
use crate::ids::Fingerprint;

/// A lane below this may always send data, however little memory is left.
const SMALL_LANE_BYTES: u64 = 1 << 20;

/// A peer that is gone, or cut off, leaves what it made us hold until the idle timeout. Lanes that
/// were not heard of for this long, in which one keep-alive went unanswered ...
const SILENCE: Duration = Duration::from_secs(7);

/// ... and are not small may hold this much together on a worker. A path that has less than 3 MB on
/// its way is back in time whenever it comes back; on a longer one a cut of 7 s may end the
/// session, and a rerun resumes.
const SILENT_BYTES: u64 = 4 << 20;

/// A silent lane counts from here on: twice what an idle connection weighs (24 to 62 kB). Dozens of
/// peers that are gone, each with less than [`SMALL_LANE_BYTES`], left 16 MiB for a minute.
const SILENT_LANE_BYTES: u64 = 128 << 10;

/// How often they are looked at, and how late a look may be: a keep-alive is sent after 5 s and has
/// 2 s to be answered.
const LISTEN_EVERY: Duration = Duration::from_millis(500);
const AWAY: Duration = Duration::from_secs(1);

/// After an eviction memory is given back this soon: what was taken is to be had again.
const TRIM_AFTER_EVICTION: Duration = Duration::from_millis(500);

/// Dropped lanes that held so much leave holes worth giving back to the kernel, though others go
/// on.
const MUCH_SHED_BYTES: u64 = 4 << 20;

impl Worker {
    /// After anything that may have changed what QUIC holds for a lane.
    pub(super) fn weigh(&mut self, key: usize) {
        let Some(lane) = self.lanes.get_mut(key) else {
            return;
        };
        let bytes = lane.conn.held_bytes();
        let before = std::mem::replace(&mut lane.held_bytes, bytes);
        if bytes == before {
            return;
        }
        if lane.phase == Phase::Handshaking(Purpose::Accepted) {
            self.handshakes_bytes = self.handshakes_bytes + bytes - before;
            self.shared.budget.reweigh_handshake(before, bytes);
        }
        self.held_bytes = self.held_bytes + bytes - before;
        self.shared.budget.reweigh(before, bytes);
        self.plan_to_listen();
    }

    /// The same of a session.
    pub(super) fn weigh_session(&mut self, session: usize) {
        let Some(running) = self.sessions.get_mut(session) else {
            return;
        };
        let before = std::mem::replace(&mut running.held_bytes, running.machine.held_bytes());
        self.sessions_bytes = self.sessions_bytes + running.held_bytes - before;
        self.plan_to_listen();
    }

    fn plan_to_listen(&mut self) {
        if self.held_bytes + self.sessions_bytes > SILENT_BYTES {
            self.listen_at.get_or_insert(self.now + LISTEN_EVERY);
        }
    }

    /// A lane was accepted.
    pub(super) fn handshake_begun(&mut self) {
        self.handshaking += 1;
        self.handshakes_bytes += TLS_BYTES;
        self.shared.budget.reweigh_handshake(0, TLS_BYTES);
    }

    /// An accepted lane's handshake is over, either way: what it was promised is granted if
    /// `authorised`.
    pub(super) fn handshake_over(&mut self, key: usize, authorised: bool) {
        let Some(lane) = self.lanes.get_mut(key) else {
            return;
        };
        self.handshaking -= 1;
        let bytes = lane.held_bytes + TLS_BYTES;
        self.handshakes_bytes -= bytes;
        self.shared.budget.reweigh_handshake(bytes, 0);
        if let Some(promise) = lane.promise.take() {
            self.shared.budget.end_promise(promise);
            if authorised {
                lane.granted_bytes = self.shared.budget.grant_window(promise);
            }
        }
    }

    /// A lane is gone: what it held is free, and given back to the kernel if it was much.
    pub(super) fn shed(&mut self, lane: &Lane) {
        self.held_bytes -= lane.held_bytes;
        self.shared.budget.reweigh(lane.held_bytes, 0);
        self.shared.budget.return_window(lane.granted_bytes);
        self.shed_bytes += lane.held_bytes + TLS_BYTES;
        if self.sessions.is_empty() || self.shed_bytes > MUCH_SHED_BYTES {
            let after = if lane.evicted {
                TRIM_AFTER_EVICTION
            } else {
                super::life::TRIM_AFTER
            };
            let at = self.now + after;
            self.trim_at = Some(self.trim_at.map_or(at, |planned| planned.min(at)));
        }
    }

    /// The peer of a lane makes us hold more than any honest one does: its lane goes, with a word
    /// and without the usual wait for late packets, which would keep all of it.
    pub(super) fn evict(&mut self, key: usize, reason: &str) {
        let Some(lane) = self.lanes.get_mut(key) else {
            return;
        };
        if lane.evicted {
            return;
        }
        lane.evicted = true;
        let (peer, held_bytes) = (lane.peer, lane.conn.held_bytes());
        let who = lane
            .conn
            .peer_fingerprint()
            .map_or(Who::Strangers, Who::Peer);
        if self.log.admits(who, self.now) {
            tracing::warn!(%peer, held_bytes, reason, "connection closed");
        }
        self.close_lane(key, code::TOO_MUCH, reason);
    }

    /// A lane's data has to wait, for what is in flight weighs too, and there is little left.
    pub(super) fn has_to_wait(&self, key: usize) -> bool {
        self.shared.budget.is_nearly_overheld()
            && self
                .lanes
                .get(key)
                .is_some_and(|lane| lane.conn.held_bytes() > SMALL_LANE_BYTES)
    }

    /// Once a turn: makes room where too much is held.
    pub(super) fn make_room(&mut self) {
        while self
            .shared
            .budget
            .is_crowded(self.handshakes_bytes, self.shared.workers)
        {
            if !self.drop_oldest_handshake() {
                break;
            }
        }
        if self
            .shared
            .budget
            .is_overheld(self.held_bytes, self.shared.workers)
            && let Some(key) = self.heaviest_of_the_heaviest()
        {
            self.evict(
                key,
                "the memory budget is used up, and this identity's connections take most of it",
            );
        }
    }

    /// Once a turn: what peers announced and never send, or begin and never end, has a bound, too.
    pub(super) fn make_room_for_sessions(&mut self) {
        if self.sessions_bytes <= self.shared.budget.sessions_bytes(self.shared.workers) {
            return;
        }
        let mut identities: HashMap<Fingerprint, (u64, u64, usize)> = HashMap::new();
        for (key, running) in &self.sessions {
            // One that is over already ends as soon as its files are closed.
            if running
                .lanes
                .iter()
                .all(|lane| self.lanes.get(*lane).is_none_or(|lane| lane.evicted))
            {
                continue;
            }
            let identity = identities
                .entry(running.peer)
                .or_insert((0, running.held_bytes, key));
            identity.0 += running.held_bytes;
            if running.held_bytes > identity.1 {
                (identity.1, identity.2) = (running.held_bytes, key);
            }
        }
        let Some((_, _, session)) = identities.into_values().max_by_key(|(bytes, _, _)| *bytes)
        else {
            return;
        };
        for lane in self.sessions[session].lanes.clone() {
            self.evict(
                lane,
                "the memory budget is used up, and this identity's sessions take most of it",
            );
        }
    }

    /// Gives up silent lanes that hold much, the heaviest first.
    pub(super) fn listen(&mut self) {
        let Some(due) = self.listen_at.filter(|at| *at <= self.now) else {
            return;
        };
        // This worker was away itself, in a system call on a busy disk: what was said meanwhile
        // waits in its socket.
        if due + AWAY <= self.now {
            self.awake_since = self.now;
        }
        self.listen_at = None;
        self.plan_to_listen();
        let silent = |lane: &Lane| lane.heard.max(self.awake_since) + SILENCE <= self.now;
        let with_session = |lane: &Lane| {
            let session = lane
                .session()
                .and_then(|session| self.sessions.get(session));
            lane.held_bytes + session.map_or(0, |session| session.held_bytes)
        };
        let mut lanes: Vec<(u64, usize)> = self
            .lanes
            .iter()
            .filter(|(_, lane)| silent(lane))
            .map(|(key, lane)| (with_session(lane), key))
            .filter(|(bytes, _)| *bytes > SILENT_LANE_BYTES)
            .collect();
        lanes.sort_unstable();
        let mut sum_bytes: u64 = lanes.iter().map(|(bytes, _)| bytes).sum();
        while sum_bytes > SILENT_BYTES
            && let Some((bytes, key)) = lanes.pop()
        {
            sum_bytes -= bytes;
            self.evict(
                key,
                "nothing was heard of the peer, and what this connection holds is needed",
            );
        }
    }

    /// A connection that is over need not keep what it held until QUIC has drained.
    pub(super) fn is_heavy(&self, key: usize) -> bool {
        self.lanes
            .get(key)
            .is_some_and(|lane| lane.held_bytes > SMALL_LANE_BYTES)
    }

    /// Of the address whose handshakes take most, the oldest goes without a word: it had the most
    /// time.
    fn drop_oldest_handshake(&mut self) -> bool {
        let mut blocks: HashMap<u128, (u64, u64, usize)> = HashMap::new();
        for (key, lane) in &self.lanes {
            if lane.phase == Phase::Handshaking(Purpose::Accepted) {
                let block = blocks
                    .entry(block_of(lane.peer))
                    .or_insert((0, lane.serial, key));
                block.0 += lane.held_bytes + TLS_BYTES;
                if lane.serial < block.1 {
                    (block.1, block.2) = (lane.serial, key);
                }
            }
        }
        let Some((_, _, key)) = blocks.into_values().max_by_key(|(bytes, _, _)| *bytes) else {
            return false;
        };
        if self.log.admits(Who::Debug, self.now) {
            tracing::debug!(peer = %self.lanes[key].peer, "handshake given up to make room");
        }
        self.drop_lane(key);
        true
    }

    /// Of the identity whose lanes hold most beyond what they were granted, the lane that does so
    /// most.
    fn heaviest_of_the_heaviest(&self) -> Option<usize> {
        let mut identities: HashMap<Fingerprint, (u64, u64, usize)> = HashMap::new();
        for (key, lane) in &self.lanes {
            let Some(peer) = lane.conn.peer_fingerprint().filter(|_| !lane.evicted) else {
                continue;
            };
            // Unread bytes cost a little beside themselves.
            let beyond = lane.held_bytes.saturating_sub(lane.granted_bytes / 4 * 5);
            let identity = identities.entry(peer).or_insert((0, beyond, key));
            identity.0 += beyond;
            if beyond > identity.1 {
                (identity.1, identity.2) = (beyond, key);
            }
        }
        identities
            .into_values()
            .max_by_key(|(bytes, _, _)| *bytes)
            .map(|(_, _, key)| key)
    }

    pub(super) fn handshakes_from(&self, from: SocketAddr) -> usize {
        let block = block_of(from);
        let theirs = |lane: &Lane| {
            block_of(lane.peer) == block && lane.phase == Phase::Handshaking(Purpose::Accepted)
        };
        self.lanes.iter().filter(|(_, lane)| theirs(lane)).count()
    }
}

/// What one host can send from: its IPv4 address, and of IPv6 the network that providers give to
/// one customer, a /64.
fn block_of(address: SocketAddr) -> u128 {
    match address.ip().to_canonical() {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits() >> 64 << 64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_an_ipv4_address_or_a_64_of_ipv6() {
        let block = |text: &str| block_of(SocketAddr::new(text.parse().unwrap(), 1));
        assert_eq!(block("192.0.2.1"), block("::ffff:192.0.2.1"));
        assert_ne!(block("192.0.2.1"), block("192.0.2.2"));
        assert_eq!(block("2001:db8::1"), block("2001:db8::ffff:1"));
        assert_ne!(block("2001:db8::1"), block("2001:db8:0:1::1"));
    }
}
