//! Where a daemon listens, as typed: an address or host name, a port, or both.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs, UdpSocket};

use crate::cli::say::of_resolver;

use super::url::DEFAULT_PORT;

/// What one `--listen` stands for: a host name may have several addresses.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Listen(pub Vec<SocketAddr>);

const HINT: &str = "write ADDR, ADDR:PORT or :PORT, IPv6 with a port in brackets: 192.0.2.1, \
                    :4433, [::1]:0, [fe80::1%eth0]:4433";

impl Listen {
    /// `ADDR`, `ADDR:PORT`, `:PORT`; IPv6 in brackets, or bare where no port follows.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn parse(typed: &str) -> Result<Listen, String> {
        let (host, port) = split(typed).ok_or(HINT)?;
        let port = match port {
            None => DEFAULT_PORT,
            Some(digits) => port_of(digits).ok_or("the port is a number from 0 to 65535")?,
        };
        match host {
            "" | "*" => Ok(Listen(vec![everywhere(port)])),
            _ => addresses(host, port).map(Listen),
        }
    }
}

/// The host, without brackets, and the digits of the port.
fn split(typed: &str) -> Option<(&str, Option<&str>)> {
    if let Some(rest) = typed.strip_prefix('[') {
        let (host, after) = rest.split_once(']')?;
        let port = match after {
            "" => None,
            _ => Some(after.strip_prefix(':')?),
        };
        return (host.contains(':')).then_some((host, port));
    }
    match typed.rsplit_once(':') {
        None if typed.is_empty() => None,
        // getaddrinfo(3) takes a lone number for an address: 4433 for 0.0.17.81.
        None if typed.bytes().all(|byte| byte.is_ascii_digit()) => None,
        None => Some((typed, None)),
        // A second colon: IPv6 without brackets, of which a port could not be told.
        Some((host, _)) if host.contains(':') || typed.starts_with("::") => Some((typed, None)),
        Some((host, port)) => Some((host, Some(port))),
    }
}

/// Port 0 takes a free one.
fn port_of(digits: &str) -> Option<u16> {
    let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    plain.then(|| digits.parse().ok()).flatten()
}

/// All addresses of both families through one socket, or IPv4 alone where the kernel has no IPv6
/// (`ipv6.disable=1`, some containers).
pub fn everywhere(port: u16) -> SocketAddr {
    match UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)) {
        Ok(_) => (Ipv6Addr::UNSPECIFIED, port).into(),
        Err(_) => (Ipv4Addr::UNSPECIFIED, port).into(),
    }
}

fn addresses(host: &str, port: u16) -> Result<Vec<SocketAddr>, String> {
    let literal = host.split('%').next().unwrap_or(host).parse::<IpAddr>();
    match (literal, host.split_once('%')) {
        (Ok(IpAddr::V6(address)), None) if address.is_unicast_link_local() => Err(format!(
            "a link-local address is one only with its interface: [{address}%eth0]"
        )),
        (Ok(address), None) => Ok(vec![(address, port).into()]),
        // The resolver knows the numbers of interfaces. RFC 6874 spells % as %25 inside a URL.
        (Ok(_), Some((address, zone))) => {
            let plain = zone.strip_prefix("25").filter(|zone| !zone.is_empty());
            let found = [Some(zone), plain].into_iter().flatten().find_map(|zone| {
                let found = (format!("{address}%{zone}").as_str(), port).to_socket_addrs();
                found.ok().map(|found| found.collect::<Vec<_>>())
            });
            found.ok_or_else(|| format!("there is no interface {zone} here (ip link lists them)"))
        }
        (Err(_), _) if host.contains([':', '%']) => Err(format!("no IPv6 address; {HINT}")),
        (Err(_), _) => match (host, port).to_socket_addrs() {
            Ok(found) => Ok(found.collect()),
            Err(error) => Err(format!("{}; {HINT}", of_resolver(&error))),
        },
    }
}

/// An address as a URL has it: the interface of a link-local one is told by its number.
pub struct InUrl(pub SocketAddr);

impl fmt::Display for InUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            SocketAddr::V6(address) if address.scope_id() != 0 => {
                let (ip, zone, port) = (address.ip(), address.scope_id(), address.port());
                write!(f, "[{ip}%25{zone}]:{port}")
            }
            address => write!(f, "{address}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(typed: &str) -> String {
        let Listen(found) = Listen::parse(typed).unwrap_or_else(|error| panic!("{typed}: {error}"));
        assert_eq!(found.len(), 1, "{typed}");
        found[0].to_string()
    }

    #[test]
    fn addresses_ports_and_both() {
        for (typed, address) in [
            ("127.0.0.1", "127.0.0.1:4433"),
            ("127.0.0.1:0", "127.0.0.1:0"),
            ("::1", "[::1]:4433"),
            ("[::1]", "[::1]:4433"),
            ("[::1]:9", "[::1]:9"),
            ("[::]", "[::]:4433"),
            ("::", "[::]:4433"),
            ("[::]:65535", "[::]:65535"),
            ("fe80::1%lo", "[fe80::1%1]:4433"),
            ("[fe80::1%lo]:7", "[fe80::1%1]:7"),
            ("[fe80::1%25lo]:7", "[fe80::1%1]:7"),
            ("[fe80::1%1]", "[fe80::1%1]:4433"),
        ] {
            assert_eq!(one(typed), address, "{typed}");
        }
        for typed in [":4433", "*:4433", "*"] {
            assert_eq!(one(typed), everywhere(4433).to_string(), "{typed}");
        }
        assert_eq!(one(":0"), everywhere(0).to_string());
    }

    #[test]
    fn what_is_none() {
        for (typed, word) in [
            ("", "write ADDR"),
            ("4433", "write ADDR"),
            ("[::1", "write ADDR"),
            ("[::1]9", "write ADDR"),
            ("[localhost]:9", "write ADDR"),
            ("127.0.0.1:", "port"),
            ("127.0.0.1:65536", "port"),
            ("127.0.0.1:+9", "port"),
            (":", "port"),
            ("fe80::1", "interface"),
            ("[fe80::1%no-such]:9", "no interface no-such"),
            ("1::2::3", "no IPv6 address"),
            ("no-such-host.invalid", "write ADDR"),
        ] {
            let error = Listen::parse(typed).unwrap_err();
            assert!(error.contains(word), "{typed}: {error}");
        }
    }

    #[test]
    fn in_urls() {
        let shown = |typed: &str| InUrl(Listen::parse(typed).unwrap().0[0]).to_string();
        assert_eq!(shown("fe80::1%lo"), "[fe80::1%251]:4433");
        assert_eq!(shown("[::1]:5"), "[::1]:5");
        assert_eq!(shown("127.0.0.1"), "127.0.0.1:4433");
    }
}
