//! The addresses of this host's interfaces.

use std::net::IpAddr;

use nix::net::if_::InterfaceFlags;

/// Whether `peer` is in a subnet of one of our interfaces (or is ourselves), so that no router need
/// be between. False where the interfaces cannot be listed. Costs a netlink dump: not for every
/// packet.
pub fn is_on_link(peer: IpAddr) -> bool {
    let peer = peer.to_canonical();
    let bits = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => u128::from(u32::from(ip)),
        IpAddr::V6(ip) => u128::from(ip),
    };
    all_interfaces().iter().any(|it| {
        let Some(mask) = it.netmask else {
            return false;
        };
        // A mask of no bits, as some tunnels have, says nothing.
        bits(mask) != 0
            && it.address.is_ipv4() == peer.is_ipv4()
            && (bits(it.address) ^ bits(peer)) & bits(mask) == 0
    })
}

/// An address of one of this host's interfaces.
pub(super) struct InterfaceAddress {
    pub(super) name: String,
    pub(super) address: IpAddr,
    netmask: Option<IpAddr>,
    is_running: bool,
}

/// All of them; none where they cannot be listed. Costs a netlink dump.
pub(super) fn all_interfaces() -> Vec<InterfaceAddress> {
    let ip = |address: Option<nix::sys::socket::SockaddrStorage>| -> Option<IpAddr> {
        let address = address?;
        let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
    };
    let interfaces = nix::ifaddrs::getifaddrs().into_iter().flatten();
    interfaces
        .filter_map(|it| {
            let is_running = InterfaceFlags::IFF_UP | InterfaceFlags::IFF_RUNNING;
            Some(InterfaceAddress {
                address: ip(it.address)?,
                netmask: ip(it.netmask),
                is_running: it.flags.contains(is_running),
                name: it.interface_name,
            })
        })
        .collect()
}

/// The addresses that another host may reach this one at: those of interfaces that have a carrier,
/// without those that are known to one link or host alone. Costs a netlink dump.
pub fn reachable_addresses() -> Vec<IpAddr> {
    let is_far = |ip: &IpAddr| match ip {
        IpAddr::V4(ip) => !ip.is_loopback() && !ip.is_link_local() && !ip.is_unspecified(),
        IpAddr::V6(ip) => !ip.is_loopback() && !ip.is_unicast_link_local() && !ip.is_unspecified(),
    };
    let running = all_interfaces().into_iter().filter(|it| it.is_running);
    running.map(|it| it.address).filter(is_far).collect()
}

/// The interfaces that packets to this address of ours come in by: those that have it, or all that
/// have a carrier where it is any. Costs a netlink dump.
pub(crate) fn interfaces_at(listen: IpAddr) -> Vec<String> {
    let has = |it: &InterfaceAddress| match listen.is_unspecified() {
        true => it.is_running && !it.address.is_loopback(),
        false => it.address == listen.to_canonical(),
    };
    let found = all_interfaces().into_iter().filter(has);
    found.map(|it| it.name).collect()
}
