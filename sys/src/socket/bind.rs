//! Where packets leave this host: from an address of its own, or through an interface.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::str::FromStr;

use socket2::Socket;

use super::interfaces::all_interfaces;
use super::set_int;

/// IFNAMSIZ in include/uapi/linux/if.h, less the end of the string.
const NAME_BYTES_MAX: usize = 15;

/// What sockets of a side that dials are bound to.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Bind {
    /// One of this host's addresses.
    Address(IpAddr),
    /// An interface, whatever its addresses are.
    Interface(String),
}

/// Not what can be bound to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BadBind {
    text: String,
}

impl fmt::Display for BadBind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for BadBind {}

impl fmt::Display for Bind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Bind::Address(address) => address.fmt(f),
            Bind::Interface(name) => f.write_str(name),
        }
    }
}

impl FromStr for Bind {
    type Err = BadBind;

    /// An address of this host, or the name of one of its interfaces. An interface need not be up.
    fn from_str(typed: &str) -> Result<Bind, BadBind> {
        let bad = |text: &str| BadBind {
            text: text.to_owned(),
        };
        let interfaces = all_interfaces();
        if let Ok(address) = typed.parse::<IpAddr>() {
            let own = address.to_canonical();
            if is_link_local(own) {
                return Err(bad("an address of one link alone; name the interface"));
            }
            return match interfaces.iter().any(|it| it.address == own) {
                true => Ok(Bind::Address(own)),
                false => Err(bad(
                    "no interface of this host has that address (ip address)",
                )),
            };
        }
        // What stands behind a colon is a label of an address.
        let is_name = (1..=NAME_BYTES_MAX).contains(&typed.len()) && !typed.contains(['/', ':']);
        match is_name && nix::net::if_::if_nametoindex(typed).is_ok() {
            true => Ok(Bind::Interface(typed.to_owned())),
            false => Err(bad(
                "neither an address nor an interface of this host (ip link)",
            )),
        }
    }
}

impl Bind {
    /// Whether packets to `peer` can leave from there, as far as the families of addresses go.
    pub fn fits(&self, peer: IpAddr) -> bool {
        match self {
            Bind::Address(own) => own.is_ipv4() == peer.to_canonical().is_ipv4(),
            Bind::Interface(_) => true,
        }
    }

    /// The leading bits that `peer` has in common with an address there: a peer in the same network
    /// has most. 0: none, or of another family.
    pub fn common_bits(&self, peer: IpAddr) -> u32 {
        let peer = peer.to_canonical();
        let interfaces = all_interfaces();
        let own = interfaces.iter().filter(|it| match self {
            Bind::Address(own) => it.address == *own,
            Bind::Interface(name) => it.name == *name,
        });
        let common = own.map(|it| match (it.address, peer) {
            (IpAddr::V4(own), IpAddr::V4(peer)) => (own.to_bits() ^ peer.to_bits()).leading_zeros(),
            (IpAddr::V6(own), IpAddr::V6(peer)) => (own.to_bits() ^ peer.to_bits()).leading_zeros(),
            _ => 0,
        });
        common.max().unwrap_or(0)
    }

    /// The address and port 0 that a socket is bound to which sends to `peer`.
    pub(crate) fn local(bind: Option<&Bind>, peer: SocketAddr) -> SocketAddr {
        let any: IpAddr = match peer.is_ipv4() {
            true => Ipv4Addr::UNSPECIFIED.into(),
            false => Ipv6Addr::UNSPECIFIED.into(),
        };
        match bind {
            Some(Bind::Address(own)) => SocketAddr::new(*own, 0),
            Some(Bind::Interface(_)) | None => SocketAddr::new(any, 0),
        }
    }

    /// Binds a stream that is about to be connected to `peer`.
    pub(crate) fn bind_stream(&self, socket: &Socket, peer: SocketAddr) -> io::Result<()> {
        match self {
            Bind::Interface(_) => self.limit(socket),
            Bind::Address(_) => {
                // The port is taken at connect(2), where the whole four-tuple is known (Linux 4.2):
                // bound alone, ports would run out sooner.
                let fd = socket.as_raw_fd();
                set_int(fd, libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, 1)?;
                socket.bind(&Bind::local(Some(self), peer).into())
            }
        }
    }

    /// Has what `socket` sends leave through the interface, if it is one. From Linux 5.7 on anybody
    /// may do that once for a socket; before, it takes CAP_NET_RAW (`EPERM`).
    pub(crate) fn limit(&self, socket: &Socket) -> io::Result<()> {
        match self {
            Bind::Interface(name) => socket.bind_device(Some(name.as_bytes())),
            Bind::Address(_) => Ok(()),
        }
    }
}

fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_this_host_has() {
        assert_eq!(
            "127.0.0.1".parse(),
            Ok(Bind::Address(Ipv4Addr::LOCALHOST.into()))
        );
        assert_eq!("lo".parse(), Ok(Bind::Interface("lo".to_owned())));
        for bad in [
            "",
            "192.0.2.1",
            "there-is-no-such",
            "2001:db8::1",
            "a/b",
            "lo\0",
        ] {
            assert!(bad.parse::<Bind>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_peer_in_the_same_network_has_most_in_common() {
        for bind in ["lo", "127.0.0.1"] {
            let bind: Bind = bind.parse().unwrap();
            let near = bind.common_bits("127.0.0.9".parse().unwrap());
            let far = bind.common_bits("198.18.0.1".parse().unwrap());
            assert!(near >= 24 && far < 8, "{near} and {far}");
        }
        let bind = Bind::Address(Ipv4Addr::LOCALHOST.into());
        assert_eq!(bind.common_bits("::1".parse().unwrap()), 0);
        assert!(!bind.fits("::1".parse().unwrap()));
        assert!(bind.fits("::ffff:198.18.0.1".parse().unwrap()));
    }
}
