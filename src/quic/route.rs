//! Which connection a datagram belongs to, and the answers that need no connection: version
//! negotiation, Retry, stateless reset.
//!
//! Connection ids carry their worker: `cid[0] % workers` is its number, which the kernel's steering
//! filter reads too. A server's ids are [`SERVER_CID_BYTES`] long, a client's [`CLIENT_CID_BYTES`]:
//! each packet repeats the receiver's id, so they are as short as a table needs.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasherDefault, Hasher};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use super::token::{RateLimit, Secrets};
use crate::ids::WorkerId;

/// A server's connection ids: one byte that steers (and is random otherwise) and four random ones,
/// unique among the at most 1,024 connections of a worker. Every packet of an upload carries it: 3
/// bytes more are 0.2 % of the wire.
pub(super) const SERVER_CID_BYTES: usize = 5;

/// A client's connection ids; they are unique among the connections of its one socket.
pub(super) const CLIENT_CID_BYTES: usize = 4;

/// Version 1 (RFC 9000), the only one spoken here.
const VERSION_1: u32 = quiche::PROTOCOL_VERSION;

/// RFC 9000 §14.1: a client's first datagrams are at least this long, or they are not worth an
/// answer.
const MIN_INITIAL_BYTES: usize = quiche::MIN_CLIENT_INITIAL_LEN;

/// RFC 9000 §7.2: a client's own choice of our connection id is at least this long.
const MIN_FIRST_DCID_BYTES: usize = 8;

/// Short packets below this get no stateless reset: a reset is smaller than its trigger and at
/// least [`MIN_RESET_BYTES`], which ends any ping-pong between two hosts that forgot each other. A
/// keep-alive PING is about 30 bytes, and for a side that only receives it is the one packet by
/// which it learns of our restart.
const MIN_RESET_TRIGGER_BYTES: usize = MIN_RESET_BYTES + 1;

/// Length of a stateless reset: that of a small packet, at least 38 unpredictable bytes of it
/// before the token's 16 are cut off.
const RESET_BYTES: usize = 42;

/// Shortest datagram that can be a stateless reset (RFC 9000 §10.3).
const MIN_RESET_BYTES: usize = 21;

/// Answers without a connection per second: enough for every host of a LAN that saw us restart, too
/// few to be a reflector.
const REPLIES_PER_SECOND: u32 = 200;

/// What to do with a datagram.
#[derive(Debug)]
pub enum Route {
    /// Belongs to the connection inserted under this key.
    Conn(usize),
    /// The first datagram that comes of a client: accept it, or drop it when there is no room.
    New(NewConn),
    /// Belongs to another worker of this process.
    Stray(WorkerId),
    /// Send this back to where the datagram came from.
    Reply(Vec<u8>),
    /// Worth nothing.
    Drop,
}

/// What a first datagram says about the connection it wants.
#[derive(Debug)]
pub struct NewConn {
    /// Our connection id as the client uses it now.
    pub(super) dcid: Vec<u8>,
    /// The client's original choice, when it went through Retry: its address is then proven.
    pub(super) retried_from: Option<Vec<u8>>,
}

impl NewConn {
    /// Whether the client has proven its address by coming back with a Retry token.
    #[cfg(any(test, feature = "internals"))]
    pub fn address_proven(&self) -> bool {
        self.retried_from.is_some()
    }
}

/// Reset tokens of peers, by token: shared with the connections, which learn them in the handshake.
pub(super) type ResetTokens = Arc<Mutex<HashMap<u128, usize>>>;

/// Connection ids of one worker's connections, and the datagrams that fit none.
pub struct Router {
    worker: WorkerId,
    workers: u8,
    server: bool,
    secrets: Arc<Secrets>,
    /// Ids we chose, as numbers: random, so they need no further hashing.
    ours: HashMap<u64, usize, BuildHasherDefault<RandomKey>>,
    /// Ids clients chose for their first flight, in use until they learn ours; keyed against
    /// collisions.
    theirs: HashMap<Vec<u8>, usize>,
    /// What to forget with a connection.
    held: HashMap<usize, RoutedIds>,
    resets: ResetTokens,
    /// The last hit: trains of packets share an id.
    last: Option<(u64, usize)>,
    replies: RateLimit,
}

#[derive(Default)]
struct RoutedIds {
    ours: Vec<u64>,
    theirs: Vec<Vec<u8>>,
}

impl Router {
    /// `workers` is how many share the listening port; a client's is 1 whatever its worker's
    /// number.
    ///
    /// # Panics
    /// A server's `workers` does not exceed the worker's number.
    pub fn new(worker: WorkerId, workers: u8, secrets: Arc<Secrets>, server: bool) -> Router {
        assert!(
            !server || worker.0 < workers,
            "worker {worker:?} of {workers}"
        );
        let (worker, workers) = if server {
            (worker, workers)
        } else {
            (WorkerId(0), 1)
        };
        Router {
            worker,
            workers,
            server,
            secrets,
            ours: HashMap::default(),
            theirs: HashMap::new(),
            held: HashMap::new(),
            resets: ResetTokens::default(),
            last: None,
            replies: RateLimit::new(REPLIES_PER_SECOND),
        }
    }

    /// Says where a datagram (one GSO segment of a received message) belongs, that came `from` a
    /// peer `to` an address of ours. `demand_retry`: prove the address of unknown clients before
    /// spending memory on them.
    pub fn route(
        &mut self,
        datagram: &mut [u8],
        from: SocketAddr,
        to: SocketAddr,
        now: Instant,
        demand_retry: bool,
    ) -> Route {
        match datagram.first() {
            Some(first) if first & 0x80 == 0 => self.route_short(datagram, to, now),
            Some(_) => self.route_long(datagram, from, now, demand_retry),
            None => Route::Drop,
        }
    }

    fn route_short(&mut self, datagram: &[u8], to: SocketAddr, now: Instant) -> Route {
        let Some(cid) = datagram.get(1..1 + self.cid_len()) else {
            return Route::Drop;
        };
        let number = cid_number(cid);
        if let Some((last, key)) = self.last
            && last == number
        {
            return Route::Conn(key);
        }
        if let Some(key) = self.ours.get(&number) {
            self.last = Some((number, *key));
            return Route::Conn(*key);
        }
        match self.owner(cid) {
            Some(owner) => Route::Stray(owner),
            None if self.server => self.stateless_reset(cid, to, datagram.len(), now),
            None => self.reset_received(datagram),
        }
    }

    fn route_long(
        &mut self,
        datagram: &mut [u8],
        from: SocketAddr,
        now: Instant,
        demand_retry: bool,
    ) -> Route {
        let Some(long) = Long::parse(datagram) else {
            return Route::Drop;
        };
        if long.dcid.len() == self.cid_len()
            && let Some(key) = self.ours.get(&cid_number(long.dcid))
        {
            return Route::Conn(*key);
        }
        if !self.server || long.version == 0 {
            return Route::Drop;
        }
        if let Some(owner) = self.owner(long.dcid) {
            return Route::Stray(owner);
        }
        if let Some(key) = self.theirs.get(long.dcid) {
            return Route::Conn(*key);
        }
        if datagram.len() < MIN_INITIAL_BYTES {
            return Route::Drop;
        }
        if long.version != VERSION_1 {
            return self.version_negotiation(&long, now);
        }
        self.first_datagram(datagram, from, now, demand_retry)
    }

    /// An Initial packet of nobody we know. A first flight is two datagrams, and each may be the
    /// first that comes. While Retry is demanded each gets one, of which the client follows the
    /// first (RFC 9000 §17.2.5.2); should the demand end between the two, the second begins a
    /// connection that its client knows nothing of, and that times out.
    fn first_datagram(
        &mut self,
        datagram: &mut [u8],
        from: SocketAddr,
        now: Instant,
        demand_retry: bool,
    ) -> Route {
        let Ok(header) = quiche::Header::from_slice(datagram, self.cid_len()) else {
            return Route::Drop;
        };
        if header.ty != quiche::Type::Initial {
            return Route::Drop;
        }
        let token = header.token.as_deref().unwrap_or_default();
        if !token.is_empty() {
            // A bad token cannot be answered with another Retry: clients follow only one (RFC 9000
            // §17.2.5.2).
            return match self
                .secrets
                .check_retry_token(token, from, &header.dcid, now)
            {
                Some(original) => Route::New(NewConn {
                    dcid: header.dcid.to_vec(),
                    retried_from: Some(original),
                }),
                None => Route::Drop,
            };
        }
        if header.dcid.len() < MIN_FIRST_DCID_BYTES {
            return Route::Drop;
        }
        if !demand_retry {
            return Route::New(NewConn {
                dcid: header.dcid.to_vec(),
                retried_from: None,
            });
        }
        let new_scid = self.random_cid();
        let token = self.secrets.retry_token(from, &header.dcid, &new_scid, now);
        let mut packet = vec![0; MIN_INITIAL_BYTES];
        let new_scid = quiche::ConnectionId::from_ref(&new_scid);
        match quiche::retry(
            &header.scid,
            &header.dcid,
            &new_scid,
            &token,
            header.version,
            &mut packet,
        ) {
            Ok(len) => {
                packet.truncate(len);
                Route::Reply(packet)
            }
            Err(_) => Route::Drop,
        }
    }

    fn version_negotiation(&mut self, long: &Long<'_>, now: Instant) -> Route {
        if !self.replies.allow(now) {
            return Route::Drop;
        }
        let mut packet = vec![0; 7 + 2 * 255 + 8];
        let (scid, dcid) = (
            quiche::ConnectionId::from_ref(long.scid),
            quiche::ConnectionId::from_ref(long.dcid),
        );
        match quiche::negotiate_version(&scid, &dcid, &mut packet) {
            Ok(len) => {
                packet.truncate(len);
                Route::Reply(packet)
            }
            Err(_) => Route::Drop,
        }
    }

    /// Tells a peer that we know nothing of its connection (we restarted): looks like a packet,
    /// ends in the token it was given for this id.
    fn stateless_reset(
        &mut self,
        cid: &[u8],
        to: SocketAddr,
        trigger_bytes: usize,
        now: Instant,
    ) -> Route {
        if trigger_bytes < MIN_RESET_TRIGGER_BYTES || !self.replies.allow(now) {
            return Route::Drop;
        }
        // Two lengths only: a chain of answers to answers has at most two links.
        let len = if trigger_bytes > RESET_BYTES {
            RESET_BYTES
        } else {
            MIN_RESET_BYTES
        };
        let mut packet = vec![0; len];
        rand::fill(&mut packet[..]);
        packet[0] = packet[0] & 0x3f | 0x40;
        let token_at = packet.len() - 16;
        packet[token_at..].copy_from_slice(&self.secrets.reset_token(cid, to).to_be_bytes());
        Route::Reply(packet)
    }

    /// A short packet with no id of ours: perhaps a peer's stateless reset, recognised by its end.
    fn reset_received(&self, datagram: &[u8]) -> Route {
        let token = match datagram.last_chunk::<16>() {
            Some(token) if datagram.len() >= MIN_RESET_BYTES => u128::from_be_bytes(*token),
            _ => return Route::Drop,
        };
        let resets = self.resets.lock().unwrap_or_else(PoisonError::into_inner);
        resets
            .get(&token)
            .map_or(Route::Drop, |key| Route::Conn(*key))
    }

    /// The other worker an id belongs to, if it is not ours.
    fn owner(&self, cid: &[u8]) -> Option<WorkerId> {
        let owner = WorkerId(cid.first()? % self.workers);
        (owner != self.worker).then_some(owner)
    }

    fn cid_len(&self) -> usize {
        if self.server {
            SERVER_CID_BYTES
        } else {
            CLIENT_CID_BYTES
        }
    }

    /// Random, except that the first byte names this worker.
    fn random_cid(&self) -> Vec<u8> {
        let mut cid = vec![0; self.cid_len()];
        rand::fill(&mut cid[..]);
        // Every byte b with b % workers == worker is equally likely.
        let last_choice = (255 - self.worker.0) / self.workers;
        cid[0] = self.worker.0 + self.workers * rand::random_range(0..=last_choice);
        cid
    }

    /// A fresh connection id for the connection under `key`.
    pub(super) fn new_cid(&mut self, key: usize) -> Vec<u8> {
        loop {
            let cid = self.random_cid();
            if self.insert_ours(&cid, key) {
                return cid;
            }
        }
    }

    /// Takes an id of ours that a peer already uses (from Retry). False: it is another
    /// connection's.
    pub(super) fn insert_ours(&mut self, cid: &[u8], key: usize) -> bool {
        match self.ours.entry(cid_number(cid)) {
            Entry::Occupied(_) => false,
            Entry::Vacant(vacant) => {
                vacant.insert(key);
                self.held.entry(key).or_default().ours.push(cid_number(cid));
                true
            }
        }
    }

    /// Routes a client's own first choice of id, too, for as long as the connection lives.
    pub(super) fn insert_theirs(&mut self, cid: &[u8], key: usize) {
        self.theirs.insert(cid.to_vec(), key);
        self.held.entry(key).or_default().theirs.push(cid.to_vec());
    }

    /// The stateless reset token that goes with an id of ours, for a peer that sends to `local`.
    pub(super) fn reset_token(&self, cid: &[u8], local: SocketAddr) -> u128 {
        self.secrets.reset_token(cid, local)
    }

    pub(super) fn resets(&self) -> ResetTokens {
        Arc::clone(&self.resets)
    }

    /// Forgets the connection under `key`. Its ids answer with a stateless reset from now on.
    pub fn remove(&mut self, key: usize) {
        let Some(held) = self.held.remove(&key) else {
            return;
        };
        for number in held.ours {
            self.ours.remove(&number);
        }
        for cid in held.theirs {
            self.theirs.remove(&cid);
        }
        self.last = None;
    }

    /// Gives back the room of many that are gone.
    pub fn shrink(&mut self) {
        self.ours.shrink_to_fit();
        self.theirs.shrink_to_fit();
        self.held.shrink_to_fit();
    }

    /// Connections known.
    #[cfg(any(test, feature = "internals"))]
    pub fn len(&self) -> usize {
        self.held.len()
    }

    #[cfg(any(test, feature = "internals"))]
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }
}

/// An id of at most eight bytes as a number. All ids of one router are equally long.
fn cid_number(cid: &[u8]) -> u64 {
    cid.iter()
        .fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// The part of a long header that all versions share (RFC 8999).
struct Long<'a> {
    version: u32,
    dcid: &'a [u8],
    scid: &'a [u8],
}

impl<'a> Long<'a> {
    fn parse(datagram: &'a [u8]) -> Option<Long<'a>> {
        let (version, rest) = datagram.get(1..)?.split_first_chunk::<4>()?;
        let (dcid_len, rest) = rest.split_first()?;
        let (dcid, rest) = rest.split_at_checked(usize::from(*dcid_len))?;
        let (scid_len, rest) = rest.split_first()?;
        let scid = rest.get(..usize::from(*scid_len))?;
        Some(Long {
            version: u32::from_be_bytes(*version),
            dcid,
            scid,
        })
    }
}

/// Hashes a number that is random already. The multiplication brings the low bytes into the high
/// bits, from which the table takes its tags; ids are chosen by us, so nobody can aim at one
/// bucket.
#[derive(Default)]
struct RandomKey(u64);

impl Hasher for RandomKey {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        self.write_u64(cid_number(bytes));
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = number.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32) ^ number;
    }
}
