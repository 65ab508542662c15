//! Who may do what: the text of `authorized_peers` turned into a table, options of the command line on top.

use std::collections::HashMap;
use std::fmt;

use crate::engine::{Access, PeerAccess};
use crate::units::{Fingerprint, is_reserved_path, percent_decode};

/// More peers than this in one file is a mistake, not a list (it is read whole into memory).
pub const MAX_PEERS: usize = 100_000;

/// What the options of one run take away from everybody.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Restrict {
    Nothing,
    ReadOnly,
    WriteOnly,
}

/// One peer's rights as its line states them.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Rights {
    read: bool,
    write: bool,
    path: Option<Vec<u8>>,
}

/// Peers and their rights.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Policy {
    peers: HashMap<Fingerprint, Rights>,
}

/// A line of `authorized_peers` that authorises nobody.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BadLine {
    /// Counted from 1.
    pub line: usize,
    pub problem: Problem,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Problem {
    NotUtf8,
    Fingerprint,
    UnknownOption(String),
    TwoAccesses,
    TwoPaths,
    Path(&'static str),
    Repeated { first_line: usize },
    TooMany,
}

impl Policy {
    /// Reads `authorized_peers`: one `SHA256:...` a line; options `ro`, `rw` (the default), `wo` and
    /// `path=SUB` (percent-encoded as in URLs), separated by blanks or commas; then a comment. Empty lines and
    /// lines that begin with `#` are skipped. A bad line authorises nobody and is returned with its number.
    pub fn parse(text: &[u8]) -> (Policy, Vec<BadLine>) {
        let mut policy = Policy::default();
        let mut bad = Vec::new();
        let mut first_seen = HashMap::new();
        for (index, bytes) in text.split(|&b| b == b'\n').enumerate() {
            let line = index + 1;
            let parsed = match std::str::from_utf8(bytes) {
                Ok(text) => parse_line(text),
                Err(_) => Err(Problem::NotUtf8),
            };
            let result = parsed.and_then(|parsed| {
                let Some((peer, rights)) = parsed else { return Ok(()) };
                if policy.peers.len() >= MAX_PEERS {
                    return Err(Problem::TooMany);
                }
                let first_line = *first_seen.entry(peer).or_insert(line);
                if first_line != line {
                    return Err(Problem::Repeated { first_line });
                }
                policy.peers.insert(peer, rights);
                Ok(())
            });
            if let Err(problem) = result {
                bad.push(BadLine { line, problem });
            }
        }
        (policy, bad)
    }

    /// `--allow`: full rights below the whole root, whatever the file says of this peer.
    pub fn allow(&mut self, peer: Fingerprint) {
        self.peers.insert(peer, Rights { read: true, write: true, path: None });
    }

    pub fn len(&self) -> usize {
        self.peers.len()
    }

    pub fn is_empty(&self) -> bool {
        self.peers.is_empty()
    }

    /// What `peer` may do, if it may come in at all.
    pub fn access(&self, peer: &Fingerprint, restrict: Restrict) -> Option<PeerAccess> {
        let rights = self.peers.get(peer)?;
        let access = Access {
            read: rights.read && restrict != Restrict::WriteOnly,
            write: rights.write && restrict != Restrict::ReadOnly,
        };
        Some(PeerAccess { access, path: rights.path.clone() })
    }
}

fn parse_line(line: &str) -> Result<Option<(Fingerprint, Rights)>, Problem> {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return Ok(None);
    }
    let (peer, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let peer: Fingerprint = peer.parse().map_err(|_| Problem::Fingerprint)?;
    let (mut access, mut path) = (None, None);
    for word in rest.split_whitespace() {
        if !looks_like_options(word) {
            break; // The comment begins.
        }
        for option in word.split(',') {
            let rights = match option {
                "ro" => (true, false),
                "rw" => (true, true),
                "wo" => (false, true),
                _ => match option.strip_prefix("path=") {
                    Some(sub) if path.is_none() => {
                        path = Some(sub_directory(sub)?);
                        continue;
                    }
                    Some(_) => return Err(Problem::TwoPaths),
                    None => return Err(Problem::UnknownOption(option.to_string())),
                },
            };
            if access.replace(rights).is_some() {
                return Err(Problem::TwoAccesses);
            }
        }
    }
    let (read, write) = access.unwrap_or((true, true));
    Ok(Some((peer, Rights { read, write, path })))
}

/// Whether a word is meant as an option. Misspelt ones count, since taking `RO` or `readonly` for a comment
/// would grant more than was meant.
fn looks_like_options(word: &str) -> bool {
    const MEANT: [&str; 13] = [
        "ro",
        "rw",
        "wo",
        "r",
        "w",
        "read",
        "write",
        "readonly",
        "writeonly",
        "read-only",
        "write-only",
        "read_only",
        "write_only",
    ];
    word.contains('=') || word.to_ascii_lowercase().split([',', ';', ':']).any(|part| MEANT.contains(&part))
}

/// The bytes of `path=`: relative to the root, never leaving it.
fn sub_directory(typed: &str) -> Result<Vec<u8>, Problem> {
    let bytes = percent_decode(typed.as_bytes())
        .ok_or(Problem::Path("% must be followed by two hexadecimal digits"))?;
    if bytes.contains(&0) {
        return Err(Problem::Path("contains NUL"));
    }
    if is_reserved_path(&bytes) {
        return Err(Problem::Path("has a name that begins with .landro-, reserved for unfinished transfers"));
    }
    let parts: Vec<&[u8]> = bytes.split(|&b| b == b'/').filter(|part| !matches!(*part, b"" | b".")).collect();
    if parts.is_empty() {
        return Err(Problem::Path("is empty"));
    }
    if parts.contains(&b"..".as_slice()) {
        return Err(Problem::Path("contains .."));
    }
    Ok(parts.join(&b'/'))
}

impl fmt::Display for BadLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.problem)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Problem::NotUtf8 => write!(f, "not UTF-8"),
            Problem::Fingerprint => write!(f, "does not begin with a fingerprint SHA256:... (see landro id)"),
            Problem::UnknownOption(option) => {
                write!(f, "unknown option {option:?}; options are ro, rw, wo and path=SUB, then a comment")
            }
            Problem::TwoAccesses => write!(f, "more than one of ro, rw and wo"),
            Problem::TwoPaths => write!(f, "more than one path="),
            Problem::Path(why) => write!(f, "path= {why}"),
            Problem::Repeated { first_line } => {
                write!(f, "this peer is already on line {first_line}, which counts")
            }
            Problem::TooMany => write!(f, "more than {MAX_PEERS} peers"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(byte: u8) -> Fingerprint {
        Fingerprint([byte; 32])
    }

    fn rights(policy: &Policy, byte: u8) -> Option<(bool, bool, Option<Vec<u8>>)> {
        let found = policy.access(&peer(byte), Restrict::Nothing)?;
        Some((found.access.read, found.access.write, found.path))
    }

    fn parse(text: &str) -> (Policy, Vec<BadLine>) {
        Policy::parse(text.as_bytes())
    }

    #[test]
    fn options_and_comments() {
        let text = format!(
            "# peers\n\n{}\n{} ro\n  {} wo,path=in/box alice, her laptop = new\r\n{} path=%2fa%20b/./c rw\n{} bob ro\n",
            peer(1),
            peer(2),
            peer(3),
            peer(4),
            peer(5)
        );
        let (policy, bad) = parse(&text);
        assert_eq!(bad, []);
        assert_eq!(rights(&policy, 1), Some((true, true, None)));
        assert_eq!(rights(&policy, 2), Some((true, false, None)));
        assert_eq!(rights(&policy, 4), Some((true, true, Some(b"a b/c".to_vec()))));
        assert_eq!(rights(&policy, 5), Some((true, true, None)), "after a comment begins, all is comment");
        assert_eq!(rights(&policy, 9), None);
    }

    #[test]
    fn a_bad_line_never_authorises_and_names_its_number() {
        for (line, problem) in [
            ("SHA256:short rw".to_string(), Problem::Fingerprint),
            (format!("rw {}", peer(1)), Problem::Fingerprint),
            (format!("{} RO", peer(1)), Problem::UnknownOption("RO".into())),
            (format!("{} readonly laptop", peer(1)), Problem::UnknownOption("readonly".into())),
            (format!("{} pth=x", peer(1)), Problem::UnknownOption("pth=x".into())),
            (format!("{} ro,", peer(1)), Problem::UnknownOption(String::new())),
            (format!("{} ro rw", peer(1)), Problem::TwoAccesses),
            (format!("{} path=a path=b", peer(1)), Problem::TwoPaths),
            (format!("{} path=../x", peer(1)), Problem::Path("contains ..")),
            (format!("{} path=a/%2e%2e/b", peer(1)), Problem::Path("contains ..")),
            (format!("{} path=/", peer(1)), Problem::Path("is empty")),
            (format!("{} path=%zz", peer(1)), Problem::Path("% must be followed by two hexadecimal digits")),
            (format!("{} path=a%00", peer(1)), Problem::Path("contains NUL")),
            (
                format!("{} path=a/.landro-x", peer(1)),
                Problem::Path("has a name that begins with .landro-, reserved for unfinished transfers"),
            ),
        ] {
            let (policy, bad) = parse(&format!("\n{line}\n"));
            assert!(policy.is_empty(), "{line}");
            assert_eq!(bad, [BadLine { line: 2, problem }], "{line}");
        }
        let (policy, bad) = Policy::parse(b"\xff\n");
        assert!(policy.is_empty());
        assert_eq!(bad[0].problem, Problem::NotUtf8);
    }

    #[test]
    fn the_first_line_of_a_peer_counts() {
        let (policy, bad) = parse(&format!("{} ro\n{} rw\n", peer(1), peer(1)));
        assert_eq!(rights(&policy, 1), Some((true, false, None)));
        assert_eq!(bad, [BadLine { line: 2, problem: Problem::Repeated { first_line: 1 } }]);
    }

    #[test]
    fn command_line_on_top() {
        let (mut policy, _) = parse(&format!("{} ro,path=x\n", peer(1)));
        policy.allow(peer(1));
        policy.allow(peer(2));
        assert_eq!(rights(&policy, 1), Some((true, true, None)));
        let of = |restrict| policy.access(&peer(2), restrict).map(|a| (a.access.read, a.access.write));
        assert_eq!(of(Restrict::ReadOnly), Some((true, false)));
        assert_eq!(of(Restrict::WriteOnly), Some((false, true)));
    }
}
