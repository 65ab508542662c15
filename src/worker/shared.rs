//! What all workers of a process have in common: the service, the budget, each other's mailboxes.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::descriptors::StreamDescriptors;
use super::handles::AcceptQueue;
use super::mailbox::{Mail, Mailbox};
use super::visits::Visits;
use crate::budget::Budget;
use crate::config::{LaneKinds, QuicConfig};
use crate::disk::{Digests, ServedRoot, Settler};
use crate::ids::{Fingerprint, SessionId, WorkerId};
use crate::metrics::Metrics;
use crate::proto::clear::ClearSecret;
use crate::proto::session::Grant;
use crate::quic::Secrets;
use crate::quic::Trust;
use crate::tcp::{ClearPass, TcpSetup};

/// What a peer may do, and the sub-directory of the root it is confined to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerAccess {
    pub access: Grant,
    pub path: Option<Vec<u8>>,
    /// It may have lanes in the clear, where the daemon allows them.
    pub clear: bool,
}

/// Asked in the handshake and again when a session starts; None: not authorised.
pub type Authorize = Arc<dyn Fn(&Fingerprint) -> Option<PeerAccess> + Send + Sync>;

/// The daemon's side: what it serves, and to whom.
pub struct Service {
    pub root: Arc<ServedRoot>,
    pub authorize: Authorize,
    pub addresses: OwnAddresses,
    /// Whose access says so may have lanes in the clear.
    pub allow_clear: bool,
}

/// Protocols of the embedding program, and whom it speaks them with.
pub(crate) struct Programs {
    /// Names (RFC 7301), in the order of preference.
    pub(crate) protocols: Vec<Vec<u8>>,
    pub(crate) trust: Trust,
    /// Peers may send before the handshake is complete.
    pub(crate) accepts_early: bool,
    /// Where connections wait to be accepted.
    pub(crate) incoming: Arc<AcceptQueue>,
}

/// The addresses of interfaces are looked up anew after so long: it costs a netlink dump, and a
/// cable is plugged in now and then.
const ADDRESSES_LAST: Duration = Duration::from_secs(5);

/// Where a daemon can be reached.
pub struct OwnAddresses {
    /// What it listens on.
    listens: Vec<IpAddr>,
    /// When they were looked up, and what came of it.
    known: Mutex<Option<(Instant, Arc<[IpAddr]>)>>,
}

impl OwnAddresses {
    /// With several ports none is named: a client knows the one that it dialled.
    pub fn of(listens: &[SocketAddr]) -> OwnAddresses {
        let port = listens.first().map(SocketAddr::port);
        let is_one = listens.iter().all(|at| Some(at.port()) == port);
        OwnAddresses {
            listens: listens
                .iter()
                .map(SocketAddr::ip)
                .filter(|_| is_one)
                .collect(),
            known: Mutex::default(),
        }
    }

    /// Those that it listens on, of which an unspecified one stands for all of its family; `[::]`
    /// for both.
    pub fn look(&self, now: Instant) -> Arc<[IpAddr]> {
        let known = || self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let last = match &mut *known() {
            Some((at, addresses)) if now - *at < ADDRESSES_LAST => return addresses.clone(),
            // Others do not look meanwhile.
            Some((at, addresses)) => {
                *at = now;
                addresses.clone()
            }
            none @ None => none.insert((now, Arc::default())).1.clone(),
        };
        if self.listens.is_empty() {
            return last;
        }
        let all = landro_sys::reachable_addresses();
        let is_heard = |ip: &IpAddr| self.listens.iter().any(|at| hears(*at, *ip));
        let addresses: Arc<[IpAddr]> = all.into_iter().filter(is_heard).collect();
        *known() = Some((now, addresses.clone()));
        addresses
    }
}

/// Whether a socket that listens on `at` takes what comes to `ip`.
fn hears(at: IpAddr, ip: IpAddr) -> bool {
    at == ip || at.is_unspecified() && (at.is_ipv6() || ip.is_ipv4())
}

pub struct Shared {
    pub workers: u8,
    pub secrets: Arc<Secrets>,
    pub mailboxes: Vec<Mailbox>,
    pub budget: Budget,
    pub quic: QuicConfig,
    /// What may carry sessions.
    pub lane_kinds: LaneKinds,
    /// Of what is sent over TCP; None: the kernel's default.
    pub tcp_congestion: Option<String>,
    /// How long nothing may be got on with in a session; None: for ever.
    pub patience: Option<Duration>,
    pub service: Option<Service>,
    /// Set for a command: how lanes are dialled that are added, and that a session does without
    /// when they are silent.
    pub added_lanes: Option<TcpSetup>,
    pub homes: Arc<SessionHomes>,
    /// Peers of a daemon whose sessions began.
    pub visits: Arc<Visits>,
    pub descriptors: StreamDescriptors,
    /// Set for a daemon: takes the marks of directories away when their data is on disk.
    pub settler: Option<Settler>,
    /// Set for a daemon that is to remember values of chunks.
    pub digests: Option<Arc<Digests>>,
    /// Set where protocols of the embedding program are accepted.
    pub(crate) programs: Option<Programs>,
    /// What the workers count.
    pub metrics: Arc<Metrics>,
}

impl Shared {
    pub fn post(&self, worker: WorkerId, mail: Mail) -> bool {
        self.mailboxes
            .get(worker.0 as usize)
            .is_some_and(|mailbox| mailbox.post(mail))
    }

    /// As [`Shared::post`], but gives back what could not be posted.
    ///
    /// # Errors
    /// The queue is full, or the worker is gone.
    pub fn try_post(&self, worker: WorkerId, mail: Mail) -> Result<(), Mail> {
        match self.mailboxes.get(worker.0 as usize) {
            Some(mailbox) => mailbox.try_post(mail),
            None => Err(mail),
        }
    }

    /// How much mail waits for a worker.
    pub fn waiting(&self, worker: WorkerId) -> usize {
        self.mailboxes
            .get(worker.0 as usize)
            .map_or(0, |mailbox| mailbox.sender.len())
    }

    pub fn insist(&self, worker: WorkerId, mail: Mail) -> bool {
        self.mailboxes
            .get(worker.0 as usize)
            .is_some_and(|mailbox| mailbox.insist(mail))
    }

    /// What a peer may do here; None: it is not authorised, or this is no daemon.
    pub fn authorised(&self, peer: &Fingerprint) -> Option<PeerAccess> {
        self.service
            .as_ref()
            .and_then(|service| (service.authorize)(peer))
    }
}

/// Which worker has which session, where its added lanes are, and what lets those in the clear in:
/// the kernel gives a TCP connection to any of a daemon's workers, and a command's lanes are on
/// several.
#[derive(Default)]
pub struct SessionHomes(Mutex<HashMap<SessionId, SessionPlaces>>);

struct SessionPlaces {
    home: Home,
    /// Of a daemon: added lanes, by worker.
    lanes: BTreeMap<WorkerId, u32>,
    clear: Option<ClearDoor>,
}

/// What lets a session's lanes in the clear in.
struct ClearDoor {
    peer: Fingerprint,
    secret: ClearSecret,
    used: UsedNumbers,
}

/// Numbers of lanes that came, each of which lets one connection in: all below `next` but the last
/// 64 count as used, and of those the bits say it, the last in the lowest.
#[derive(Default)]
struct UsedNumbers {
    next: u64,
    last: u64,
}

impl UsedNumbers {
    fn is_used(&self, number: u32) -> bool {
        match self.next.checked_sub(u64::from(number)) {
            None | Some(0) => false,
            Some(back @ 1..=64) => self.last & (1 << (back - 1)) != 0,
            Some(_) => true,
        }
    }

    fn use_up(&mut self, number: u32) {
        let number = u64::from(number);
        let shift =
            |bits: u64, by: u64| bits.checked_shl(by as u32).filter(|_| by < 64).unwrap_or(0);
        let next = self.next.max(number + 1);
        self.last = shift(self.last, next - self.next);
        self.last |= shift(1, next - number - 1);
        self.next = next;
    }
}

/// The worker that has a session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Home {
    pub worker: WorkerId,
    /// Added lanes of it may be on other workers; whether data goes from here to the peer.
    pub sends: Option<bool>,
}

impl SessionHomes {
    /// A session is to begin. False: there is one of its id, which goes on as if nothing was said.
    pub fn claim(&self, session: SessionId, worker: WorkerId) -> bool {
        let sends = None;
        let places = SessionPlaces {
            home: Home { worker, sends },
            lanes: BTreeMap::new(),
            clear: None,
        };
        self.lock().entry(session).or_insert(places).home.worker == worker
    }

    /// Added lanes of a session may be on other workers from now on.
    pub fn open(&self, session: &SessionId, sends: bool) {
        if let Some(places) = self.lock().get_mut(session) {
            places.home.sends = Some(sends);
        }
    }

    /// Where another added lane is to be, of so many workers: the first at home, whose lane carries
    /// small files, each other one where there are fewest, and rather where it arrived. None: at
    /// home, if there is one.
    pub fn place(&self, session: &SessionId, here: WorkerId, workers: u8) -> Option<WorkerId> {
        let mut all = self.lock();
        let places = all.get_mut(session)?;
        places.home.sends?;
        let lanes = &places.lanes;
        let cost = |worker: &WorkerId| {
            let count = lanes.get(worker).copied().unwrap_or(0);
            (count, *worker != here)
        };
        let place = match lanes.is_empty() {
            true => places.home.worker,
            false => (0..workers).map(WorkerId).min_by_key(cost)?,
        };
        *places.lanes.entry(place).or_default() += 1;
        Some(place)
    }

    /// Another added lane is to be at home.
    pub fn place_at_home(&self, session: &SessionId) -> Option<WorkerId> {
        let mut all = self.lock();
        let places = all.get_mut(session)?;
        let home = places.home.worker;
        *places.lanes.entry(home).or_default() += 1;
        Some(home)
    }

    /// An added lane that had its place there is gone.
    pub fn left(&self, session: &SessionId, worker: WorkerId) {
        if let Some(places) = self.lock().get_mut(session)
            && let Some(count) = places.lanes.get_mut(&worker)
        {
            *count -= 1;
            if *count == 0 {
                places.lanes.remove(&worker);
            }
        }
    }

    /// How many added lanes of a session are on other workers than its home now.
    pub fn lanes_elsewhere(&self, session: &SessionId) -> u64 {
        let all = self.lock();
        let Some(places) = all.get(session) else {
            return 0;
        };
        let counts = places.lanes.iter();
        let elsewhere = counts.filter(|(worker, _)| **worker != places.home.worker);
        elsewhere.map(|(_, count)| u64::from(*count)).sum()
    }

    /// A session is over.
    pub fn remove(&self, session: &SessionId) {
        self.lock().remove(session);
    }

    pub fn find(&self, session: &SessionId) -> Option<Home> {
        self.lock().get(session).map(|places| places.home)
    }

    /// A session may have lanes in the clear, which come with this secret.
    pub fn let_in(&self, session: &SessionId, peer: Fingerprint, secret: ClearSecret) {
        if let Some(places) = self.lock().get_mut(session) {
            let used = UsedNumbers::default();
            places.clear = Some(ClearDoor { peer, secret, used });
        }
    }

    /// Nothing more of a session comes in the clear.
    pub fn leave_clear(&self, session: &SessionId) {
        if let Some(places) = self.lock().get_mut(session) {
            places.clear = None;
        }
    }

    /// What the lane of this number of a session is let in by.
    pub fn pass(&self, session: SessionId, lane: u32) -> Option<ClearPass> {
        let homes = self.lock();
        let door = homes.get(&session)?.clear.as_ref();
        let door = door.filter(|door| !door.used.is_used(lane))?;
        Some(ClearPass {
            session,
            lane,
            secret: door.secret.of_lane(lane).0,
            peer: door.peer,
        })
    }

    /// Uses up what the lane of this number is let in by. False: it was, or is no more.
    pub fn use_pass(&self, session: SessionId, lane: u32) -> bool {
        let mut homes = self.lock();
        let door = homes
            .get_mut(&session)
            .and_then(|places| places.clear.as_mut());
        let Some(door) = door.filter(|door| !door.used.is_used(lane)) else {
            return false;
        };
        door.used.use_up(lane);
        true
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SessionId, SessionPlaces>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SESSION: SessionId = SessionId([1; 16]);
    const PEER: Fingerprint = Fingerprint([2; 32]);

    #[test]
    fn a_pass_is_used_once_and_ends_with_the_clear() {
        let homes = SessionHomes::default();
        assert!(homes.claim(SESSION, WorkerId(0)));
        assert!(homes.pass(SESSION, 0).is_none() && !homes.use_pass(SESSION, 0));
        homes.let_in(&SESSION, PEER, ClearSecret([3; 32]));
        // Lanes come in about any order, and some never do.
        for lane in [0, 2, 1, 7, 3, 40, 60, 50, 120, u32::MAX] {
            assert!(homes.pass(SESSION, lane).is_some(), "{lane}");
            assert!(homes.use_pass(SESSION, lane), "{lane}");
            assert!(homes.pass(SESSION, lane).is_none(), "{lane} again");
            assert!(!homes.use_pass(SESSION, lane), "{lane} again");
        }
        assert!(!homes.use_pass(SESSION, 4), "of long ago");
        homes.let_in(&SESSION, PEER, ClearSecret([3; 32]));
        assert!(homes.pass(SESSION, 1).is_some());
        homes.leave_clear(&SESSION);
        assert!(homes.pass(SESSION, 1).is_none() && !homes.use_pass(SESSION, 1));
        assert!(homes.find(&SESSION).is_some());
    }

    #[test]
    fn lanes_are_spread_beginning_with_home() {
        let (homes, session) = (SessionHomes::default(), SessionId([1; 16]));
        let place = |here| homes.place(&session, WorkerId(here), 3).map(|at| at.0);
        assert_eq!(place(0), None, "no such session");
        assert!(homes.claim(session, WorkerId(1)));
        assert!(!homes.claim(session, WorkerId(0)));
        assert_eq!(place(0), None, "all its lanes are at home");
        homes.open(&session, true);
        assert_eq!([place(2), place(2), place(2)], [Some(1), Some(2), Some(0)]);
        assert_eq!([place(2), place(2)], [Some(2), Some(0)]);
        homes.left(&session, WorkerId(2));
        homes.left(&session, WorkerId(2));
        assert_eq!([place(0), place(0)], [Some(2), Some(1)]);
        homes.remove(&session);
        homes.left(&session, WorkerId(2));
        assert_eq!(homes.find(&session), None);
    }
}
