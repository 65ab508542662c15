//! `landro://HOST[:PORT]/PATH` and local paths, as typed on the command line.

use std::ffi::OsStr;
use std::fmt::{self, Write};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::unix::ffi::OsStrExt;

use crate::ids::percent_decode;

use crate::cli::escape;

/// Port a daemon listens on, of UDP and TCP, when none is named.
pub const DEFAULT_PORT: u16 = 4433;

const SCHEME: &[u8] = b"landro://";

const FILE_SCHEME: &[u8] = b"file://";

/// Longest DNS name (RFC 1035); an address literal with a zone is shorter.
const HOST_MAX_BYTES: usize = 253;

/// A daemon, as the user named it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DaemonName {
    /// DNS name in lower case, or an address literal without brackets (IPv6 perhaps with `%zone`).
    pub name: String,
    pub port: u16,
}

/// A path on a daemon.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Url {
    pub host: DaemonName,
    /// Percent-decoded bytes below the daemon's root, without leading `/`; empty is the root
    /// itself.
    pub path: Vec<u8>,
}

/// One SRC or DST.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Operand {
    Local(Vec<u8>),
    Remote(Url),
}

/// Why an argument is not a place.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum UrlError {
    #[error("{0}: empty path")]
    Empty(String),
    #[error("{0}: no host; write landro://HOST[:PORT]/PATH")]
    NoHost(String),
    #[error(
        "{0}: is not the URL of a daemon; write landro://HOST[:PORT]/PATH (for what is on this host \
         there are ls and du)"
    )]
    NoUrl(String),
    #[error("{typed}: a file of this host is written as its path: {path}")]
    OfThisHost { typed: String, path: String },
    /// `how`: what the syntax is.
    #[error(
        "{typed}: {how}; write {url} (below what is served there), or ./{typed} for a file of this \
         host"
    )]
    Foreign {
        typed: String,
        how: String,
        url: String,
    },
    #[error(
        "{0}: not a host name or address; IPv6 addresses go in brackets: landro://[::1]:4433/PATH"
    )]
    BadHost(String),
    #[error(
        "{0}: a link-local address is one only with its interface, as in [fe80::1%25eth0]; `ip \
         address` shows which"
    )]
    NoZone(String),
    #[error("{0}: the port is not a number from 1 to 65535")]
    BadPort(String),
    #[error(
        "{0}: user names and passwords have no place here; peers are known by their keys \
         (landro id)"
    )]
    UserInfo(String),
    #[error("{0}: % must be followed by two hexadecimal digits; write a plain % as %25")]
    BadPercent(String),
    #[error("{0}: a benchmark takes no path; write landro://HOST[:PORT]")]
    Path(String),
    #[error("{0}: no path contains a NUL byte")]
    Nul(String),
}

impl Operand {
    /// Anything that neither begins with `landro://` nor names another host by the syntax of other
    /// programs is a local path.
    ///
    /// # Errors
    /// Says which part of a URL is wrong, what to write in place of other programs' syntax, or that
    /// a path is empty or holds NUL.
    pub fn parse(typed: &OsStr) -> Result<Operand, UrlError> {
        let bytes = typed.as_bytes();
        match bytes.get(..SCHEME.len()) {
            Some(scheme) if scheme.eq_ignore_ascii_case(SCHEME) => {
                Url::parse(typed).map(Operand::Remote)
            }
            _ if bytes.is_empty() => Err(UrlError::Empty("''".into())),
            _ if bytes.contains(&0) => Err(UrlError::Nul(escape::name(bytes))),
            _ if remote_colon(bytes).is_some() => Err(foreign(bytes)),
            _ => Ok(Operand::Local(bytes.to_vec())),
        }
    }
}

impl Url {
    /// There is no query and no fragment: `?` and `#` are ordinary characters of the path.
    ///
    /// # Errors
    /// Says which part is wrong.
    pub fn parse(typed: &OsStr) -> Result<Url, UrlError> {
        let bytes = typed.as_bytes();
        let shown = || escape::name(bytes);
        let rest = match bytes.get(..SCHEME.len()) {
            Some(scheme) if scheme.eq_ignore_ascii_case(SCHEME) => &bytes[SCHEME.len()..],
            _ if remote_colon(bytes).is_some() => return Err(foreign(bytes)),
            _ => return Err(UrlError::NoUrl(shown())),
        };
        let slash = rest.iter().position(|&b| b == b'/').unwrap_or(rest.len());
        let (authority, path) = rest.split_at(slash);
        if authority.contains(&b'@') {
            return Err(UrlError::UserInfo(shown()));
        }
        let authority = std::str::from_utf8(authority).map_err(|_| UrlError::BadHost(shown()))?;
        let (name, port) = split_authority(authority).ok_or_else(|| UrlError::BadHost(shown()))?;
        if name.is_empty() {
            return Err(UrlError::NoHost(shown()));
        }
        let name = normal_host(name).ok_or_else(|| UrlError::BadHost(shown()))?;
        // connect(2) says EINVAL of one, whatever interfaces there are.
        if name
            .parse()
            .is_ok_and(|address: Ipv6Addr| address.is_unicast_link_local())
        {
            return Err(UrlError::NoZone(shown()));
        }
        let port = match port {
            None => DEFAULT_PORT,
            Some(digits) => parse_port(digits).ok_or_else(|| UrlError::BadPort(shown()))?,
        };
        let path = percent_decode(path).ok_or_else(|| UrlError::BadPercent(shown()))?;
        if path.contains(&0) {
            return Err(UrlError::Nul(shown()));
        }
        let start = path.iter().position(|&b| b != b'/').unwrap_or(path.len());
        Ok(Url {
            host: DaemonName { name, port },
            path: path[start..].to_vec(),
        })
    }
}

/// Where scp (its `colon`) and rsync see the end of a host's name: at a colon before any slash,
/// behind the brackets of an address. A colon at the very beginning is one of a file's name.
fn remote_colon(typed: &[u8]) -> Option<usize> {
    let end = typed.iter().position(|&b| b == b'/').unwrap_or(typed.len());
    let head = &typed[..end];
    let user_bytes = head.iter().position(|&b| b == b'@').map_or(0, |at| at + 1);
    let found = match head[user_bytes..].starts_with(b"[") || head.starts_with(b"[") {
        true => head
            .windows(2)
            .position(|two| two == b"]:")
            .map(|at| at + 1),
        false => head.iter().position(|&b| b == b':'),
    };
    found.filter(|&at| at > 0)
}

/// Schemes that scp and rsync have not either.
const OTHER_SCHEMES: &[&str] = &[
    "http", "https", "ftp", "ftps", "s3", "gs", "smb", "nfs", "dav", "davs", "webdav", "hdfs",
];

/// `file:///path` or `file://localhost/path`, which is a path of this host.
fn of_this_host(typed: &[u8]) -> Option<UrlError> {
    let rest = match typed.get(..FILE_SCHEME.len()) {
        Some(scheme) if scheme.eq_ignore_ascii_case(FILE_SCHEME) => &typed[FILE_SCHEME.len()..],
        _ => return None,
    };
    let path = rest.strip_prefix(b"localhost").unwrap_or(rest);
    let path = percent_decode(path).filter(|path| path.starts_with(b"/"))?;
    let (typed, path) = (escape::name(typed), escape::name(&path));
    Some(UrlError::OfThisHost { typed, path })
}

/// `user@host:path`, `host::module/path`, `rsync://user@host:873/path`: what to write in its place.
fn foreign(typed: &[u8]) -> UrlError {
    if let Some(path) = of_this_host(typed) {
        return path;
    }
    let colon = remote_colon(typed).unwrap_or(typed.len());
    let (mut host, mut path) = (&typed[..colon], typed.get(colon + 1..).unwrap_or_default());
    let is_ours = host.eq_ignore_ascii_case(b"landro");
    let slashes = path.iter().take_while(|&&b| b == b'/').count();
    if is_ours || slashes >= 2 {
        let rest = &path[slashes..];
        // Another program's URL; its port is that of another program, too.
        let end = rest.iter().position(|&b| b == b'/').unwrap_or(rest.len());
        (host, path) = rest.split_at(end);
        let user_bytes = host.iter().rposition(|&b| b == b'@').map_or(0, |at| at + 1);
        let port = host
            .iter()
            .rposition(|&b| b == b':')
            .filter(|&at| at > user_bytes);
        if !host.ends_with(b"]") {
            host = &host[..port.unwrap_or(host.len())];
        }
    }
    let user_bytes = host.iter().rposition(|&b| b == b'@').map_or(0, |at| at + 1);
    let start = path.iter().position(|&b| !matches!(b, b'/' | b':'));
    let path: String = path[start.unwrap_or(path.len())..]
        .iter()
        .map(in_path)
        .collect();
    let host = String::from_utf8_lossy(&host[user_bytes..]);
    // The port that somebody thought of is no directory.
    let (port, path) = match path.split_once('/') {
        Some((digits, path)) if parse_port(digits).is_some() => (format!(":{digits}"), path),
        _ => (String::new(), path.as_str()),
    };
    let url = format!("landro://{host}{port}/{path}");
    let url = match Url::parse(OsStr::new(&url)) {
        Ok(_) => url,
        Err(_) => "landro://HOST[:PORT]/PATH".to_owned(),
    };
    let scheme = String::from_utf8_lossy(&typed[..colon]).to_ascii_lowercase();
    let how = match OTHER_SCHEMES.contains(&scheme.as_str()) && slashes >= 2 {
        true => format!("landro does not speak {scheme}"),
        false => "that is how scp and rsync name another host".to_owned(),
    };
    let typed = escape::name(typed);
    UrlError::Foreign { typed, how, url }
}

/// A byte of a path as a URL and a shell take it.
fn in_path(byte: &u8) -> String {
    match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => char::from(*byte).to_string(),
        b'-' | b'.' | b'_' | b'~' | b'/' | b'+' | b',' | b'@' | b':' => {
            char::from(*byte).to_string()
        }
        _ => format!("%{byte:02x}"),
    }
}

/// `HOST`, `HOST:PORT`, `[V6]`, `[V6]:PORT` into the host and the digits of the port.
fn split_authority(authority: &str) -> Option<(&str, Option<&str>)> {
    if let Some(rest) = authority.strip_prefix('[') {
        let (literal, after) = rest.split_once(']')?;
        let (address, _zone) = literal.split_once('%').unwrap_or((literal, ""));
        address.parse::<Ipv6Addr>().ok()?;
        return match after {
            "" => Some((literal, None)),
            _ => after.strip_prefix(':').map(|port| (literal, Some(port))),
        };
    }
    match authority.split_once(':') {
        None => Some((authority, None)),
        // A second colon: an IPv6 address without brackets.
        Some((_, port)) if port.contains(':') => None,
        Some((name, port)) => Some((name, Some(port))),
    }
}

/// One spelling per host, so that `known_hosts` is not asked about two of them.
fn normal_host(name: &str) -> Option<String> {
    if name.contains(':') {
        // RFC 6874 spells the zone's % as %25 inside a URL; the plain % that people paste is taken
        // too.
        let (address, zone) = name
            .split_once('%')
            .map_or((name, None), |(address, zone)| (address, Some(zone)));
        // An interface of the number 25 is told by nothing more.
        let zone = zone.map(|zone| match zone.strip_prefix("25") {
            None | Some("") => zone,
            Some(plain) => plain,
        });
        let address: Ipv6Addr = address.parse().ok()?;
        return match zone {
            None => Some(address.to_string()),
            Some(zone) if !zone.is_empty() && zone.bytes().all(is_host_byte) => {
                Some(format!("{address}%{zone}"))
            }
            Some(_) => None,
        };
    }
    if let Ok(address) = name.parse::<Ipv4Addr>() {
        return Some(address.to_string());
    }
    let good = name.len() <= HOST_MAX_BYTES && name.bytes().all(is_host_byte);
    good.then(|| name.to_ascii_lowercase())
}

fn is_host_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_')
}

fn parse_port(digits: &str) -> Option<u16> {
    if !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok().filter(|&port| port != 0)
}

impl DaemonName {
    /// A path on it as it can be typed: without the port that needs no naming, and with what a
    /// shell or a terminal would act on percent-encoded.
    pub fn url(&self, path: &[u8]) -> String {
        let host = self.to_string();
        let host = host
            .strip_suffix(&format!(":{DEFAULT_PORT}"))
            .unwrap_or(&host);
        let mut url = format!("landro://{host}/");
        for part in path.utf8_chunks() {
            for c in part.valid().chars() {
                match c == ' ' || c == '%' || escape::acts_on_terminal(c) {
                    true => push_encoded(&mut url, c.encode_utf8(&mut [0; 4]).as_bytes()),
                    false => url.push(c),
                }
            }
            push_encoded(&mut url, part.invalid());
        }
        url
    }
}

fn push_encoded(url: &mut String, bytes: &[u8]) {
    for byte in bytes {
        // Writing to a String cannot fail.
        let _ = write!(url, "%{byte:02X}");
    }
}

/// `host:port`, IPv6 in brackets: the key of `known_hosts`.
impl fmt::Display for DaemonName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.name.contains(':') {
            // What is read back must not lose the beginning of a zone.
            let name = self.name.replacen("%25", "%2525", 1);
            write!(f, "[{name}]:{}", self.port)
        } else {
            write!(f, "{}:{}", self.name, self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn shown_urls_can_be_typed_again() {
        let host = |name: &str, port| DaemonName {
            name: name.into(),
            port,
        };
        assert_eq!(host("h", 4433).url(b"two/"), "landro://h/two/");
        assert_eq!(host("::1", 4433).url(b""), "landro://[::1]/");
        for path in [&b"a b%41\n\x1b\xff"[..], "gr\u{fc}n\u{202e}".as_bytes()] {
            let url = host("::1", 44331).url(path);
            let parsed = Url::parse(OsStr::new(&url)).unwrap();
            assert_eq!((parsed.host, &parsed.path[..]), (host("::1", 44331), path));
            assert!(!url.contains(escape::acts_on_terminal), "{url}");
        }
        for zone in ["eth0", "2", "25", "251", "25eth", "2525"] {
            let host = host(&format!("fe80::1%{zone}"), 4433);
            let parsed = Url::parse(OsStr::new(&host.url(b"")));
            assert_eq!(parsed.unwrap().host, host, "{zone}");
        }
    }

    use super::*;

    fn url(typed: &str) -> Result<Url, UrlError> {
        Url::parse(OsStr::new(typed))
    }

    fn good(typed: &str) -> (String, u16, Vec<u8>) {
        let url = url(typed).unwrap();
        (url.host.name, url.host.port, url.path)
    }

    #[test]
    fn host_port_path() {
        assert_eq!(
            good("landro://host/a/b"),
            ("host".into(), 4433, b"a/b".to_vec())
        );
        assert_eq!(
            good("LANDRO://Host.Example:99/"),
            ("host.example".into(), 99, b"".to_vec())
        );
        assert_eq!(
            good("landro://10.0.0.1"),
            ("10.0.0.1".into(), 4433, b"".to_vec())
        );
        assert_eq!(good("landro://h//a/"), ("h".into(), 4433, b"a/".to_vec()));
        assert_eq!(
            good("landro://h/a?b#c"),
            ("h".into(), 4433, b"a?b#c".to_vec())
        );
    }

    #[test]
    fn ipv6_literals() {
        assert_eq!(
            good("landro://[::1]/x"),
            ("::1".into(), 4433, b"x".to_vec())
        );
        assert_eq!(
            good("landro://[0:0::1]:5/x"),
            ("::1".into(), 5, b"x".to_vec())
        );
        assert_eq!(
            good("landro://[fe80::1%25eth0]:5/"),
            ("fe80::1%eth0".into(), 5, b"".to_vec())
        );
        assert_eq!(
            good("landro://[fe80::1%eth0]/"),
            ("fe80::1%eth0".into(), 4433, b"".to_vec())
        );
        assert_eq!(
            url("landro://[::1]:5/x").unwrap().host.to_string(),
            "[::1]:5"
        );
        assert!(matches!(
            url("landro://[fe80::1]/"),
            Err(UrlError::NoZone(_))
        ));
        for bad in [
            "landro://::1/x",
            "landro://[::1/x",
            "landro://[host]/x",
            "landro://[::1]5/x",
            "landro://[]/",
        ] {
            assert!(matches!(url(bad), Err(UrlError::BadHost(_))), "{bad}");
        }
    }

    #[test]
    fn paths_decode_to_bytes() {
        assert_eq!(good("landro://h/%ff%0a%2e").2, b"\xff\n.");
        assert_eq!(good("landro://h/%2fetc").2, b"etc");
        for bad in ["landro://h/100%", "landro://h/%g0", "landro://h/%2"] {
            assert!(matches!(url(bad), Err(UrlError::BadPercent(_))), "{bad}");
        }
        assert!(matches!(url("landro://h/a%00b"), Err(UrlError::Nul(_))));
    }

    #[test]
    fn what_is_refused() {
        assert!(matches!(url("landro:///x"), Err(UrlError::NoHost(_))));
        assert!(matches!(url("landro://:4433/x"), Err(UrlError::NoHost(_))));
        assert!(matches!(url("landro://me@h/x"), Err(UrlError::UserInfo(_))));
        assert!(matches!(url("host/x"), Err(UrlError::NoUrl(_))));
        assert!(matches!(url("landro://h o/x"), Err(UrlError::BadHost(_))));
        for bad in [
            "landro://h:/x",
            "landro://h:0/x",
            "landro://h:65536/x",
            "landro://h:+1/x",
        ] {
            assert!(matches!(url(bad), Err(UrlError::BadPort(_))), "{bad}");
        }
    }

    #[test]
    fn other_programs_syntax_is_answered_with_ours() {
        for (typed, ours) in [
            ("host:", "landro://host/"),
            ("host:/", "landro://host/"),
            ("host:a/b", "landro://host/a/b"),
            (
                "me@Host.example:/srv/x y",
                "landro://Host.example/srv/x%20y",
            ),
            ("me@host:100%", "landro://host/100%25"),
            ("host::module/x", "landro://host/module/x"),
            ("[::1]:x", "landro://[::1]/x"),
            ("me@[fe80::1%eth0]:x", "landro://[fe80::1%eth0]/x"),
            ("rsync://me@host:873/x", "landro://host/x"),
            ("https://[::1]/x", "landro://[::1]/x"),
            ("landro:/host/x", "landro://host/x"),
            ("Landro:host", "landro://host/"),
            ("host:4433/x", "landro://host:4433/x"),
            ("host:é", "landro://host/%c3%a9"),
            ("12:30.log", "landro://12/30.log"),
            ("b d:x", "landro://HOST[:PORT]/PATH"),
            ("host:.landro-x", "landro://host/.landro-x"),
        ] {
            let error = Operand::parse(OsStr::new(typed)).unwrap_err();
            let UrlError::Foreign { url: said, .. } = &error else {
                panic!("{typed}: {error}")
            };
            assert_eq!(said, ours, "{typed}");
            assert_eq!(url(typed), Err(error), "{typed}");
        }
        for local in [
            "./host:", "a/b:c", "/host:x", ":x", "[1:2]", "../a:b", "é", "@x", "[a/b]:c",
        ] {
            let place = Operand::parse(OsStr::new(local));
            assert_eq!(place, Ok(Operand::Local(local.into())), "{local}");
        }
    }

    #[test]
    fn places() {
        assert_eq!(
            Operand::parse(OsStr::new("./landro://h")),
            Ok(Operand::Local(b"./landro://h".to_vec()))
        );
        assert_eq!(
            Operand::parse(OsStr::from_bytes(b"a\xff")),
            Ok(Operand::Local(b"a\xff".to_vec()))
        );
        assert!(matches!(
            Operand::parse(OsStr::new("landro://h/")),
            Ok(Operand::Remote(_))
        ));
        assert!(matches!(
            Operand::parse(OsStr::new("")),
            Err(UrlError::Empty(_))
        ));
    }
}
