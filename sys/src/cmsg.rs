//! Control messages and socket addresses as bytes: written for sendmsg, read from recvmsg.

use std::mem::size_of;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

/// Control bytes of the largest message either way: UDP_SEGMENT or UDP_GRO (24) and IPV6_PKTINFO
/// (40), and slack.
pub(crate) const CONTROL_BYTES: usize = 80;

/// cmsg(3): every header and every data part begins at a multiple of the word size.
const fn align(len: usize) -> usize {
    len.next_multiple_of(size_of::<usize>())
}

const HEADER_BYTES: usize = align(size_of::<libc::cmsghdr>());

/// The control part of a message to send.
#[derive(Clone, Debug)]
#[repr(C, align(8))]
pub(crate) struct ControlPart {
    bytes: [u8; CONTROL_BYTES],
    len: usize,
}

impl ControlPart {
    pub fn new() -> ControlPart {
        ControlPart {
            bytes: [0; CONTROL_BYTES],
            len: 0,
        }
    }

    pub fn clear(&mut self) {
        self.len = 0;
    }

    /// Cuts the message into datagrams of this size (the last may be shorter).
    pub fn push_segment(&mut self, segment_bytes: u16) {
        self.push(
            libc::SOL_UDP,
            libc::UDP_SEGMENT,
            &segment_bytes.to_ne_bytes(),
        );
    }

    /// Sends from this local address (in the socket's family, v4 already mapped for v6 sockets).
    pub fn push_source(&mut self, source: IpAddr) {
        match source {
            // struct in_pktinfo: interface (0: by route), ipi_spec_dst (the source), ipi_addr
            // (unused here).
            IpAddr::V4(ip) => {
                let mut info = [0u8; 12];
                info[4..8].copy_from_slice(&ip.octets());
                self.push(libc::IPPROTO_IP, libc::IP_PKTINFO, &info);
            }
            // struct in6_pktinfo: address, interface (0: by route or the destination's scope).
            IpAddr::V6(ip) => {
                let mut info = [0u8; 20];
                info[..16].copy_from_slice(&ip.octets());
                self.push(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &info);
            }
        }
    }

    /// What is sent on a socket with TLS is a record of this type.
    pub fn push_record_type(&mut self, content: u8) {
        self.push(libc::SOL_TLS, libc::TLS_SET_RECORD_TYPE, &[content]);
    }

    fn push(&mut self, level: i32, kind: i32, data: &[u8]) {
        let message = &mut self.bytes[self.len..][..HEADER_BYTES + align(data.len())];
        message.fill(0);
        let word = size_of::<usize>();
        message[..word].copy_from_slice(&(HEADER_BYTES + data.len()).to_ne_bytes());
        message[word..word + 4].copy_from_slice(&level.to_ne_bytes());
        message[word + 4..word + 8].copy_from_slice(&kind.to_ne_bytes());
        message[HEADER_BYTES..][..data.len()].copy_from_slice(data);
        self.len += message.len();
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// What the control part of a received message says.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Received {
    /// The local address it was sent to.
    pub to: Option<IpAddr>,
    /// UDP_GRO: size of the datagrams that were joined.
    pub segment_bytes: Option<usize>,
    /// The type of the TLS records that the kernel opened.
    pub record_type: Option<u8>,
}

/// Reads control messages; unknown and malformed ones are skipped.
pub(crate) fn decode(mut control: &[u8]) -> Received {
    let mut received = Received::default();
    while let Some((level, kind, data, rest)) = next(control) {
        match (level, kind) {
            (libc::SOL_UDP, libc::UDP_GRO) => {
                let size = data.first_chunk().map(|&raw| i32::from_ne_bytes(raw));
                received.segment_bytes = size.and_then(|size| usize::try_from(size).ok());
            }
            (libc::SOL_TLS, libc::TLS_GET_RECORD_TYPE) => {
                received.record_type = data.first().copied();
            }
            (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                let ip = data.get(8..12).and_then(|raw| raw.first_chunk::<4>());
                received.to = ip
                    .map(|&raw| IpAddr::V4(Ipv4Addr::from(raw)))
                    .or(received.to);
            }
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                let ip = data.first_chunk::<16>();
                received.to = ip
                    .map(|&raw| Ipv6Addr::from(raw).to_canonical())
                    .or(received.to);
            }
            _ => {}
        }
        control = rest;
    }
    received
}

/// (level, type, data, what follows) of the first control message, if there is a whole one.
fn next(control: &[u8]) -> Option<(i32, i32, &[u8], &[u8])> {
    let word = size_of::<usize>();
    let len = usize::from_ne_bytes(control.get(..word)?.try_into().ok()?);
    let level = i32::from_ne_bytes(control.get(word..word + 4)?.try_into().ok()?);
    let kind = i32::from_ne_bytes(control.get(word + 4..word + 8)?.try_into().ok()?);
    let data = control.get(HEADER_BYTES..len)?;
    Some((level, kind, data, control.get(align(len)..).unwrap_or(&[])))
}

/// A `sockaddr_in` or `sockaddr_in6` as the kernel wrote it; v4-mapped addresses become plain v4.
pub(crate) fn decode_address(raw: &[u8]) -> Option<SocketAddr> {
    let family = u16::from_ne_bytes(*raw.first_chunk()?);
    let port = u16::from_be_bytes(*raw.get(2..)?.first_chunk()?);
    match i32::from(family) {
        libc::AF_INET => {
            let ip = Ipv4Addr::from(*raw.get(4..)?.first_chunk::<4>()?);
            Some(SocketAddr::V4(SocketAddrV4::new(ip, port)))
        }
        libc::AF_INET6 => {
            let flow = u32::from_be_bytes(*raw.get(4..)?.first_chunk()?);
            let ip = Ipv6Addr::from(*raw.get(8..)?.first_chunk::<16>()?);
            let scope = u32::from_ne_bytes(*raw.get(24..)?.first_chunk()?);
            Some(plain(SocketAddr::V6(SocketAddrV6::new(
                ip, port, flow, scope,
            ))))
        }
        _ => None,
    }
}

/// A v4-mapped v6 address as the v4 address it means; anything else as it is.
pub(crate) fn plain(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        IpAddr::V4(ip) => SocketAddr::V4(SocketAddrV4::new(ip, address.port())),
        IpAddr::V6(_) => address,
    }
}

/// `ip` as a v6 socket names it.
pub(crate) fn mapped(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => IpAddr::V6(ip.to_ipv6_mapped()),
        IpAddr::V6(_) => ip,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let mut control = ControlPart::new();
        control.push_segment(1472);
        control.push_source("::1".parse().unwrap());
        assert_eq!(control.as_bytes().len(), 64);
        assert_eq!(decode(control.as_bytes()).to, Some("::1".parse().unwrap()));
        control.clear();
        control.push_source(mapped("10.1.2.3".parse().unwrap()));
        assert_eq!(
            decode(control.as_bytes()).to,
            Some("10.1.2.3".parse().unwrap())
        );
    }

    #[test]
    fn a_short_or_lying_control_part_is_no_harm() {
        let mut control = ControlPart::new();
        control.push(libc::SOL_UDP, libc::UDP_GRO, &1200i32.to_ne_bytes());
        let whole = control.as_bytes().to_vec();
        assert_eq!(decode(&whole).segment_bytes, Some(1200));
        for cut in 0..20 {
            assert_eq!(decode(&whole[..cut]), Received::default());
        }
        for len in [0usize, 1, 15, 16, 1 << 20, usize::MAX, usize::MAX - 7] {
            let mut lying = whole.clone();
            lying[..8].copy_from_slice(&len.to_ne_bytes());
            assert_eq!(decode(&lying).segment_bytes, None);
        }
    }
}
