//! A command's ways to its daemon: from which of its own interfaces or addresses, to which of the
//! daemon's.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use landro_sys::Bind;

use crate::config::MAX_LANE_COUNT;
use crate::proto::wire::MAX_ADDRESSES;

/// Places that packets of one command may leave from: a session has no more lanes.
const MAX_PLACES: usize = MAX_LANE_COUNT as usize;

/// Addresses of a daemon that are kept: the one that answered, and those that it may name.
const MAX_PEERS: usize = MAX_ADDRESSES + 1;

/// One of them.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Path {
    /// Which of the command's places packets leave from; None: from where the kernel has them.
    pub(crate) bind: Option<u8>,
    pub(crate) peer: SocketAddr,
}

impl Path {
    /// From where the kernel has packets leave.
    pub(crate) fn to(peer: SocketAddr) -> Path {
        Path { bind: None, peer }
    }
}

/// All of them, and how they did.
pub(crate) struct Paths {
    binds: Vec<Bind>,
    /// The address that answered first, then those that the daemon says it has.
    peers: Vec<SocketAddr>,
    /// Dials that came to nothing.
    failures: HashMap<Path, u32>,
    /// From each place, since one did not.
    failures_from: HashMap<Option<u8>, u32>,
    /// The leading bits that an address of the daemon has in common with one of the place.
    common_bits: HashMap<Path, u32>,
    /// The way of the lane that carries control; those of lanes that are to take over, in turn, and
    /// how many were dialled since.
    carrying: Option<Path>,
    takes_over: Vec<Path>,
    tries: usize,
}

impl Paths {
    /// Of places that are named twice one is enough, and more than [`MAX_PLACES`] are left out.
    pub(crate) fn new(named: Vec<Bind>) -> Paths {
        let mut binds: Vec<Bind> = Vec::new();
        for bind in named {
            if binds.len() < MAX_PLACES && !binds.contains(&bind) {
                binds.push(bind);
            }
        }
        Paths {
            binds,
            peers: Vec::new(),
            failures: HashMap::new(),
            failures_from: HashMap::new(),
            common_bits: HashMap::new(),
            carrying: None,
            takes_over: Vec::new(),
            tries: 0,
        }
    }

    /// How many places packets may leave from, if the command names more than one.
    pub(crate) fn several(&self) -> Option<usize> {
        (self.binds.len() > 1).then_some(self.binds.len())
    }

    /// Where packets of a path leave from.
    pub(crate) fn bind(&self, path: Path) -> Option<&Bind> {
        self.binds.get(usize::from(path.bind?))
    }

    /// The same, with its number.
    pub(crate) fn numbered(&self, path: Path) -> Option<(u8, Bind)> {
        Some((path.bind?, self.bind(path)?.clone()))
    }

    /// The ways to `peers`, which stand in the order of preference.
    pub(crate) fn to_all(&self, peers: &[SocketAddr]) -> Vec<Path> {
        if self.binds.is_empty() {
            return peers.iter().copied().map(Path::to).collect();
        }
        let from = |peer: &SocketAddr| {
            let peer = unmapped(*peer);
            let binds = (0..).zip(&self.binds);
            let fitting = binds.filter(move |(_, bind)| bind.fits(peer.ip()));
            fitting.map(move |(bind, _)| Path {
                bind: Some(bind),
                peer,
            })
        };
        peers.iter().flat_map(from).collect()
    }

    /// A lane that carries control goes this way now.
    pub(crate) fn carries(&mut self, path: Path) {
        if self.peers.is_empty() {
            self.add_peer(path.peer);
        }
        (self.carrying, self.takes_over) = (Some(path), Vec::new());
        self.tries = 0;
        self.came(path);
    }

    /// The daemon says where else it is: at the same port.
    pub(crate) fn learn(&mut self, addresses: &[IpAddr]) {
        let Some(port) = self.peers.first().map(SocketAddr::port) else {
            return;
        };
        for address in addresses {
            let peer = SocketAddr::new(address.to_canonical(), port);
            if is_of_one_host(peer.ip())
                && self.peers.len() < MAX_PEERS
                && !self.peers.contains(&peer)
            {
                self.add_peer(peer);
            }
        }
    }

    /// A lane that was to be added did not come to be.
    pub(crate) fn failed(&mut self, path: Path) {
        *self.failures.entry(path).or_default() += 1;
        *self.failures_from.entry(path.bind).or_default() += 1;
        // The place may have another address by now.
        self.look_how_near(path);
    }

    pub(crate) fn came(&mut self, path: Path) {
        self.failures.remove(&path);
        self.failures_from.remove(&path.bind);
    }

    /// The way of a lane that is to be added to those that there are, which `lanes` counts for each
    /// place. A place that has its part of `most` comes last, so that one without a way keeps no
    /// lane from the others.
    pub(crate) fn next(&self, most: usize, lanes: impl Fn(u8) -> usize) -> Option<Path> {
        let part = most.div_ceil(self.binds.len().max(1)).max(1);
        let places = (0..).take(self.binds.len());
        let paths = places.filter_map(|bind| self.best_from(bind));
        paths.min_by_key(|path| {
            let lanes = path.bind.map(&lanes).unwrap_or(0);
            let failures = self.failures_from.get(&path.bind).copied().unwrap_or(0);
            (lanes >= part, failures, lanes, path.bind)
        })
    }

    /// The way of a lane that takes over: from elsewhere than the silent one, first from where
    /// other lanes are, at last from the same place. Each is tried twice, once with each kind of
    /// lane.
    pub(crate) fn elsewhere(&mut self, lanes: impl Fn(u8) -> usize) -> Option<Path> {
        let carrying = self.carrying?;
        // Once, for lanes go meanwhile.
        if self.takes_over.is_empty() {
            let places = (0..).take(self.binds.len());
            let others = places.filter(|bind| Some(*bind) != carrying.bind);
            let mut ways: Vec<Path> = others.filter_map(|bind| self.best_from(bind)).collect();
            ways.sort_by_key(|path| Reverse(path.bind.map(&lanes)));
            ways.push(carrying);
            self.takes_over = ways;
        }
        let at = self.tries / 2 % self.takes_over.len();
        self.tries += 1;
        self.takes_over.get(at).copied()
    }

    /// Where a lane from there is most likely to arrive: what failed least, and is nearest.
    fn best_from(&self, bind: u8) -> Option<Path> {
        let from = self.binds.get(usize::from(bind))?;
        let fitting = self.peers.iter().filter(|peer| from.fits(peer.ip()));
        let paths = fitting.map(|peer| Path {
            bind: Some(bind),
            peer: *peer,
        });
        paths.min_by_key(|path| {
            let failures = self.failures.get(path).copied().unwrap_or(0);
            let bits = self.common_bits.get(path).copied().unwrap_or(0);
            (failures, Reverse(bits))
        })
    }

    /// A peer is known: from which places it is how near.
    fn add_peer(&mut self, peer: SocketAddr) {
        self.peers.push(peer);
        for bind in (0..).take(self.binds.len()) {
            let bind = Some(bind);
            self.look_how_near(Path { bind, peer });
        }
    }

    fn look_how_near(&mut self, path: Path) {
        if let Some(bits) = self.bind(path).map(|bind| bind.common_bits(path.peer.ip())) {
            self.common_bits.insert(path, bits);
        }
    }
}

/// A socket that is bound to an address of IPv4 connects to no mapped one.
fn unmapped(peer: SocketAddr) -> SocketAddr {
    match peer.ip().to_canonical() {
        IpAddr::V4(ip) => SocketAddr::from((ip, peer.port())),
        // With its scope.
        IpAddr::V6(_) => peer,
    }
}

/// Whether an address that a daemon named can be its own, as others see it.
fn is_of_one_host(ip: IpAddr) -> bool {
    let is_local = match ip {
        IpAddr::V4(ip) => ip.is_link_local() || ip.is_broadcast(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    !(is_local || ip.is_loopback() || ip.is_unspecified() || ip.is_multicast())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(last: u8) -> SocketAddr {
        SocketAddr::from(([198, 18, 0, last], 4433))
    }

    /// Two places of this host, of which loopback alone has anything in common with 127.0.0.9.
    fn two() -> Paths {
        let one = |name: &str| Bind::Interface(name.to_owned());
        Paths::new(vec![one("no-such"), one("lo")])
    }

    fn path_from(bind: u8) -> Path {
        Path {
            bind: Some(bind),
            peer: peer(1),
        }
    }

    #[test]
    fn each_address_is_dialled_from_each_place() {
        let paths = two().to_all(&[peer(1), peer(2)]);
        let seen: Vec<_> = paths.iter().map(|it| (it.bind, it.peer)).collect();
        let from = |bind, last| (Some(bind), peer(last));
        assert_eq!(seen, [from(0, 1), from(1, 1), from(0, 2), from(1, 2)]);
        let kernel = Paths::new(Vec::new()).to_all(&[peer(1)]);
        assert_eq!(kernel, [Path::to(peer(1))]);
        let v4 = Paths::new(vec![Bind::Address(IpAddr::from([198, 18, 0, 9]))]);
        assert!(v4.to_all(&["[fd00::1]:4433".parse().unwrap()]).is_empty());
    }

    #[test]
    fn lanes_leave_from_where_fewest_are() {
        let mut paths = two();
        assert_eq!(paths.next(2, |_| 0), None, "nobody answered yet");
        paths.carries(Path {
            bind: Some(0),
            peer: peer(1),
        });
        let next = |paths: &Paths, counts: [usize; 2]| {
            let path = paths.next(4, |bind| counts[usize::from(bind)]);
            path.and_then(|path| path.bind)
        };
        assert_eq!(next(&paths, [0, 0]), Some(0));
        assert_eq!(next(&paths, [1, 0]), Some(1));
        assert_eq!(next(&paths, [1, 1]), Some(0));
        // A place without a way has none, and the other one its part.
        paths.failed(path_from(0));
        assert_eq!(next(&paths, [0, 0]), Some(1));
        assert_eq!(next(&paths, [0, 1]), Some(1));
        assert_eq!(next(&paths, [0, 2]), Some(0));
        assert_eq!(next(&paths, [2, 2]), Some(1));
        paths.came(path_from(0));
        assert_eq!(next(&paths, [0, 0]), Some(0));
    }

    #[test]
    fn the_nearest_address_is_tried_first_and_what_failed_last() {
        let mut paths = two();
        paths.carries(Path {
            bind: Some(0),
            peer: peer(1),
        });
        let near = IpAddr::from([127, 0, 0, 9]);
        // Named, it is anybody's: a daemon that lies has nothing of this host dialled.
        paths.learn(&[near, IpAddr::from([224, 0, 0, 1]), IpAddr::from([0; 4])]);
        assert_eq!(paths.peers, [peer(1)]);
        paths.add_peer(SocketAddr::new(near, 4433));
        let from_lo = |paths: &Paths| paths.best_from(1).unwrap().peer;
        assert_eq!(from_lo(&paths).ip(), near);
        let path = paths.best_from(1).unwrap();
        paths.failed(path);
        assert_eq!(from_lo(&paths), peer(1));
        paths.came(path);
        assert_eq!(from_lo(&paths).ip(), near);
        let many: Vec<IpAddr> = (0..200)
            .map(|last| IpAddr::from([198, 18, 1, last]))
            .collect();
        paths.learn(&many);
        assert_eq!(paths.peers.len(), MAX_PEERS);
    }

    #[test]
    fn who_takes_over_comes_from_elsewhere() {
        let mut paths = two();
        paths.carries(Path {
            bind: Some(0),
            peer: peer(1),
        });
        let from = |paths: &mut Paths| {
            let from = (0..6).map(|_| paths.elsewhere(|_| 0).unwrap().bind.unwrap());
            from.collect::<Vec<_>>()
        };
        // At last from the same place, and then all over again.
        assert_eq!(from(&mut paths), [1, 1, 0, 0, 1, 1]);
        // A place of another family has no way.
        let v6 = Bind::Address("::1".parse().unwrap());
        let mut paths = Paths::new(vec![Bind::Interface("lo".to_owned()), v6]);
        paths.carries(path_from(0));
        assert_eq!(from(&mut paths), [0; 6]);
        // Of several that where lanes are is the first.
        let places = ["no-such", "lo", "none-either"].map(|it| Bind::Interface(it.to_owned()));
        let mut paths = Paths::new(places.to_vec());
        paths.carries(path_from(0));
        let path = paths.elsewhere(|bind| usize::from(bind == 2));
        assert_eq!(path.and_then(|path| path.bind), Some(2));
        let mut one = Paths::new(Vec::new());
        one.carries(Path::to(peer(1)));
        assert_eq!(one.elsewhere(|_| 0), Some(Path::to(peer(1))));
    }
}
