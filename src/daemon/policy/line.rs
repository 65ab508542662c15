//! One line of `authorized_peers`: every byte before the comment is understood, or the line is bad.

use std::fmt;
use std::time::UNIX_EPOCH;

use crate::ids::{Fingerprint, NAME_MAX_BYTES, PATH_MAX_BYTES, percent_decode};

use super::MAX_PEERS;

/// A word that is not understood is shown this far.
const SHOWN_CHARS: usize = 40;

/// A peer and its rights as its line states them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PeerLine {
    pub peer: Fingerprint,
    pub rights: Rights,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rights {
    pub read: bool,
    pub write: bool,
    pub path: Option<Vec<u8>>,
    /// Its files may travel in the clear, where the daemon allows it.
    pub clear: bool,
    /// From then on it may do nothing, in seconds since the epoch.
    pub expires_unix_s: Option<i64>,
}

/// Why a line authorises nobody.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Problem {
    NotUtf8,
    /// A control character that is no tab: NUL, or the line ends of another system.
    Control(char),
    /// It does not begin with a fingerprint; what is likely wrong.
    Fingerprint(&'static str),
    UnknownOption(String),
    TwoAccesses,
    TwoPaths,
    Path(&'static str),
    TwoExpiries,
    Expires(String),
    /// This peer is on an earlier line with other rights, or that line is bad.
    Disagrees {
        first_line: usize,
    },
    TooMany,
}

fn is_blank(c: char) -> bool {
    // Not `char::is_whitespace`: a no-break space looks like a blank and is part of a word.
    matches!(c, ' ' | '\t')
}

/// The words before the comment.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(is_blank)
        .filter(|word| !word.is_empty())
        .take_while(|word| !word.starts_with('#'))
}

/// Reads a line without its `\n`; None: empty or a comment.
pub fn read(bytes: &[u8]) -> Result<Option<PeerLine>, Problem> {
    let bytes = bytes.strip_suffix(b"\r").unwrap_or(bytes);
    let text = std::str::from_utf8(bytes).map_err(|_| Problem::NotUtf8)?;
    if let Some(control) = text.chars().find(|c| c.is_control() && *c != '\t') {
        return Err(Problem::Control(control));
    }
    let mut words = words(text);
    let Some(first) = words.next() else {
        return Ok(None);
    };
    let peer = first
        .parse()
        .map_err(|_| Problem::Fingerprint(what_is_wrong(first, text)))?;
    let (mut access, mut path, mut clear, mut expires) = (None, None, false, None);
    for option in words.flat_map(|word| word.split(',')) {
        let rights = match option {
            "ro" => (true, false),
            "rw" => (true, true),
            "wo" => (false, true),
            "clear" => {
                clear = true;
                continue;
            }
            _ => {
                match option.split_once('=') {
                    Some(("path", _)) if path.is_some() => return Err(Problem::TwoPaths),
                    Some(("path", sub)) => path = Some(sub_directory(sub)?),
                    Some(("expires", _)) if expires.is_some() => return Err(Problem::TwoExpiries),
                    Some(("expires", time)) => expires = Some(seconds_of(time)?),
                    Some(_) | None => return Err(Problem::UnknownOption(option.to_string())),
                }
                continue;
            }
        };
        if access.replace(rights).is_some() {
            return Err(Problem::TwoAccesses);
        }
    }
    let (read, write) = access.unwrap_or((true, true));
    Ok(Some(PeerLine {
        peer,
        rights: Rights {
            read,
            write,
            path,
            clear,
            expires_unix_s: expires,
        },
    }))
}

/// What stands behind the `#` of a line that could be read.
pub fn comment(bytes: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(bytes).ok()?.trim_end();
    let begins = |(at, _): &(usize, char)| text[..*at].ends_with(is_blank);
    let (at, _) = text
        .char_indices()
        .filter(|(_, c)| *c == '#')
        .find(begins)?;
    Some(text[at + 1..].trim_start()).filter(|comment| !comment.is_empty())
}

/// How a fingerprint begins, and how long one is.
const BEGIN: &str = "SHA256:";
const FINGERPRINT_BYTES: usize = 50;

/// The peers that a line which could not be read is about: whatever in its words could be a
/// fingerprint is one, for what was written around it, and in what case its name was, is what could
/// not be read.
pub fn peers_named(bytes: &[u8]) -> Vec<Fingerprint> {
    let text = String::from_utf8_lossy(bytes);
    words(&text).flat_map(fingerprints_in).collect()
}

fn fingerprints_in(word: &str) -> impl Iterator<Item = Fingerprint> {
    word.as_bytes()
        .windows(FINGERPRINT_BYTES)
        .filter_map(|window| {
            let (begin, digits) = window.split_at(BEGIN.len());
            let digits = std::str::from_utf8(digits).ok()?;
            begin
                .eq_ignore_ascii_case(BEGIN.as_bytes())
                .then(|| format!("{BEGIN}{digits}").parse().ok())?
        })
}

/// Whether a line that could not be read is meant to be one of a peer, rather than the rest of the
/// line above.
pub fn is_about_a_peer(bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes).to_lowercase();
    words(&text).any(|word| word.contains("sha256:"))
}

/// The bytes of `path=`: relative to the root, never leaving it.
fn sub_directory(typed: &str) -> Result<Vec<u8>, Problem> {
    // Strict, since `path=alice;ro` or `path=alice#ro` is more likely a slip than a name.
    if !typed
        .chars()
        .all(|c| c.is_alphanumeric() || "-._~+@/%".contains(c))
    {
        return Err(Problem::Path(
            "has a character to be written as % and two hexadecimal digits (# is %23)",
        ));
    }
    let bytes = percent_decode(typed.as_bytes()).ok_or(Problem::Path(
        "has a % that is not followed by two hexadecimal digits",
    ))?;
    if bytes.contains(&0) {
        return Err(Problem::Path("contains NUL"));
    }
    if bytes.starts_with(b"/") {
        return Err(Problem::Path(
            "begins with /, but is relative to the served directory",
        ));
    }
    let parts: Vec<&[u8]> = bytes
        .split(|&b| b == b'/')
        .filter(|part| !matches!(*part, b"" | b"."))
        .collect();
    if parts.is_empty() {
        return Err(Problem::Path("is empty"));
    }
    if parts.contains(&b"..".as_slice()) {
        return Err(Problem::Path("contains .."));
    }
    let path = parts.join(&b'/');
    if path.len() > PATH_MAX_BYTES || parts.iter().any(|part| part.len() > NAME_MAX_BYTES) {
        return Err(Problem::Path("is longer than a path can be"));
    }
    Ok(path)
}

/// The time of `expires=`: RFC 3339 in UTC, or a date, whose beginning it is (as with `expiry-time`
/// of sshd(8)).
fn seconds_of(typed: &str) -> Result<i64, Problem> {
    let midnight = || format!("{typed}T00:00:00Z");
    let parsed = humantime::parse_rfc3339(typed).or_else(|_| humantime::parse_rfc3339(&midnight()));
    let since = parsed
        .ok()
        .and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    since
        .and_then(|since| i64::try_from(since.as_secs()).ok())
        .ok_or_else(|| Problem::Expires(shown(typed)))
}

/// The beginning of what cannot be understood.
fn shown(word: &str) -> String {
    let shown: String = word.chars().take(SHOWN_CHARS).collect();
    let cut = if shown.len() < word.len() { "..." } else { "" };
    format!("{shown:?}{cut}")
}

/// Why the first word of a line is no fingerprint, as far as one can guess.
fn what_is_wrong(first: &str, line: &str) -> &'static str {
    let is_name = |text: &str| {
        text.get(..7)
            .is_some_and(|start| start.eq_ignore_ascii_case("SHA256:"))
    };
    if first.starts_with('\u{feff}') {
        "the file begins with a byte order mark; save it without one"
    } else if first.starts_with("SHA256:") {
        match first.len() {
            ..50 => "the fingerprint is cut short: 43 characters follow SHA256:",
            50 => "this is no fingerprint: a character of it is wrong",
            _ if first.ends_with('=') => "the fingerprint has no = at its end",
            _ => "only 43 characters follow SHA256:, then a blank",
        }
    } else if is_name(first) {
        "SHA256: is written in capitals"
    } else if first.starts_with("ssh-") || first.starts_with("MD5:") {
        "this is ssh's; the client's `landro id` prints what belongs here"
    } else if line.contains("SHA256:") {
        "the fingerprint comes first, then the options"
    } else {
        "it begins with no fingerprint SHA256:... (landro id prints it)"
    }
}

/// The option that a word was likely meant to be.
fn likely(word: &str) -> &'static str {
    let letters: String = word
        .chars()
        .filter(|c| c.is_alphabetic())
        .collect::<String>()
        .to_lowercase();
    match letters.as_str() {
        "" => "is a comma too many",
        "ro" | "r" | "or" | "read" | "readonly" | "rdonly" | "nowrite" | "nowrites"
        | "download" => "may be meant as ro",
        "wo" | "w" | "ow" | "write" | "writeonly" | "noread" | "noreads" | "upload" => {
            "may be meant as wo"
        }
        "rw" | "wr" | "readwrite" | "full" | "all" => "may be meant as rw",
        "clear" | "allowclear" | "plain" => "may be meant as clear",
        _ if letters.starts_with("exp") || letters.starts_with("until") => {
            "may be meant as expires=TIME"
        }
        _ if word.contains(['=', ':', '/']) || letters.starts_with("path") => {
            "may be meant as path=SUB"
        }
        _ => "may be a comment",
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Problem::NotUtf8 => write!(f, "not UTF-8"),
            Problem::Control(c) => write!(f, "contains the control character {c:?}"),
            Problem::Fingerprint(why) => f.write_str(why),
            Problem::UnknownOption(option) => {
                write!(
                    f,
                    "unknown option {}, which {}; options are ro, rw, wo, clear, path=SUB and expires=TIME; a comment begins with #",
                    shown(option),
                    likely(option)
                )
            }
            Problem::TwoAccesses => write!(f, "more than one of ro, rw and wo"),
            Problem::TwoPaths => write!(f, "more than one path="),
            Problem::TwoExpiries => write!(f, "more than one expires="),
            Problem::Expires(typed) => write!(
                f,
                "expires={typed} is no time: 2027-01-31, whose beginning in UTC it is, or 2027-01-31T18:00:00Z"
            ),
            Problem::Path(why) => write!(f, "path= {why}"),
            Problem::Disagrees { first_line } => {
                write!(
                    f,
                    "line {first_line} gives this peer other rights or is bad, so that no line counts"
                )
            }
            Problem::TooMany => write!(f, "more than {MAX_PEERS} peers"),
        }
    }
}
