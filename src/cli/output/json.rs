//! The NDJSON events of `--json`: one object a line, `schema` and `event` first.

use std::io::{self, Write};

use serde::Serialize;

use crate::cli::escape::acts_on_terminal;

use super::bench::BenchSummary;
use super::stats::Stats;

/// Raised when a field changes its meaning or goes away; new fields do not raise it.
pub const SCHEMA: u32 = 1;

/// About a hundred lines per write(2).
const PRINT_BYTES: usize = 16 << 10;

#[derive(Serialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub enum JsonEvent<'a> {
    Start {
        /// `push`, `pull` or `local`.
        direction: &'static str,
        /// `host:port`.
        #[serde(skip_serializing_if = "Option::is_none")]
        peer: Option<String>,
        version: &'static str,
    },
    /// Of a copy with a daemon, each time a session begins.
    Connected {
        /// `host:port`, as numbers.
        address: String,
        fingerprint: String,
        /// The kind of lane that the session begins on: `quic` or `tls`.
        kind: String,
        /// Why that one.
        reason: &'a str,
    },
    /// A session ended, and another one is begun after the pause: what is done is found done by it,
    /// and told again as skipped. `progress` begins anew.
    Lost {
        code: &'static str,
        message: &'a str,
        pause_seconds: f64,
    },
    Progress {
        /// In their final state, skipped ones included.
        files: u64,
        files_announced: u64,
        /// Crossed, skipped or resumed.
        bytes: u64,
        bytes_announced: u64,
        /// Whether the walk is over, so that the announced numbers are final.
        all_announced: bool,
        /// Of all, as far as is known: announced, or counted ahead of that.
        #[serde(skip_serializing_if = "Option::is_none")]
        files_total: Option<u64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        bytes_total: Option<u64>,
        /// Of the last seconds; skipped and resumed bytes do not move.
        rate_bps: u64,
        #[serde(skip_serializing_if = "Option::is_none")]
        seconds_left: Option<f64>,
        /// The large file that is moved.
        #[serde(skip_serializing_if = "Option::is_none")]
        current: Option<String>,
        /// For how long nothing has moved, from 5 s on.
        #[serde(skip_serializing_if = "Option::is_none")]
        stalled_seconds: Option<f64>,
        seconds: f64,
    },
    File {
        #[serde(flatten)]
        path: JsonPath,
        kind: &'static str,
        size_bytes: u64,
        /// `done` or `skipped`; what failed is an `error`.
        status: &'static str,
        resumed_bytes: u64,
    },
    /// One row of a listing.
    Entry {
        #[serde(flatten)]
        path: JsonPath,
        kind: &'static str,
        /// In octal, as chmod(1) takes it.
        mode: String,
        size_bytes: u64,
        /// `2026-01-02T03:04:05Z`; exactly in the two that follow.
        modified: String,
        modified_seconds: i64,
        modified_nanoseconds: u32,
        /// Where a symlink leads.
        #[serde(skip_serializing_if = "Option::is_none")]
        link: Option<JsonPath>,
    },
    Warning {
        #[serde(flatten)]
        path: JsonPath,
        message: &'a str,
    },
    Error {
        #[serde(flatten)]
        path: Option<JsonPath>,
        code: &'static str,
        #[serde(skip_serializing_if = "Option::is_none")]
        errno: Option<i32>,
        /// The system call that failed.
        #[serde(skip_serializing_if = "Option::is_none")]
        call: Option<&'a str>,
        /// `client` or `server`, where there are two.
        #[serde(skip_serializing_if = "Option::is_none")]
        side: Option<&'static str>,
        /// Of an entry: `source` or `destination`.
        #[serde(skip_serializing_if = "Option::is_none")]
        place: Option<&'static str>,
        message: &'a str,
    },
    Summary {
        files: u64,
        directories: u64,
        symlinks: u64,
        bytes: u64,
        skipped: u64,
        resumed_bytes: u64,
        /// Chunks that the daemon did not hash, since it remembered their digests.
        kept_chunks: u64,
        /// File bytes that crossed the wire.
        sent_bytes: u64,
        seconds: f64,
        /// `sent_bytes` in bits per second of the whole run.
        goodput_bps: u64,
        /// All of them; only so many have an `error` of their own.
        errors: u64,
        /// All of them; only so many have a `warning` of their own.
        warnings: u64,
        /// How many it took: more than one if they were lost.
        #[serde(skip_serializing_if = "Option::is_none")]
        sessions: Option<u64>,
        exit_code: u8,
        #[serde(skip_serializing_if = "Option::is_none")]
        stats: Option<&'a Stats>,
    },
    /// The last object of `ls`.
    #[serde(rename = "summary")]
    Listed { entries: u64, exit_code: u8 },
    /// The one object of `bench`.
    #[serde(rename = "summary")]
    Bench(&'a BenchSummary),
}

/// A name in JSON, which knows only text: exact when it is UTF-8; otherwise `path` has replacement
/// characters and `path_hex` the bytes.
#[derive(Serialize)]
pub struct JsonPath {
    path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    path_hex: Option<String>,
}

impl<Name: AsRef<[u8]> + ?Sized> From<&Name> for JsonPath {
    fn from(name: &Name) -> JsonPath {
        let bytes = name.as_ref();
        match std::str::from_utf8(bytes) {
            Ok(path) => JsonPath {
                path: path.to_string(),
                path_hex: None,
            },
            Err(_) => JsonPath {
                path: String::from_utf8_lossy(bytes).into_owned(),
                path_hex: Some(bytes.iter().map(|byte| format!("{byte:02x}")).collect()),
            },
        }
    }
}

#[derive(Serialize)]
struct JsonLine<'a> {
    schema: u32,
    #[serde(flatten)]
    event: &'a JsonEvent<'a>,
}

/// Prints events on stdout. `file` lines of a tree of small files come by the ten thousand: they
/// wait for each other, at most until the next progress line.
#[derive(Default)]
pub struct Printer {
    waiting: String,
    /// Why lines no longer reach stdout: that ends the JSON, not the transfer.
    unprinted: Option<io::Error>,
}

impl Printer {
    pub fn print(&mut self, event: &JsonEvent) {
        if self.unprinted.is_some() {
            return;
        }
        match to_line(event) {
            Ok(line) => self.waiting.push_str(&line),
            Err(error) => tracing::error!("an event cannot be written as JSON: {error}"),
        }
        let at_once = !matches!(event, JsonEvent::File { .. } | JsonEvent::Entry { .. });
        if at_once || self.waiting.len() >= PRINT_BYTES {
            let mut stdout = io::stdout().lock();
            let printed = stdout
                .write_all(self.waiting.as_bytes())
                .and_then(|()| stdout.flush());
            self.unprinted = printed.err();
            self.waiting.clear();
        }
    }

    /// Behind the last event, which never waits.
    ///
    /// # Errors
    /// Standard output could not be written, and not because its reader went away (`| head`).
    pub fn finish(self) -> io::Result<()> {
        match self.unprinted {
            Some(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error),
            _ => Ok(()),
        }
    }
}

/// JSON escapes only C0 controls by itself; NDJSON is looked at on terminals, so the rest is
/// escaped too. Such characters stand only inside strings, where `\uXXXX` means the same.
fn to_line(event: &JsonEvent) -> serde_json::Result<String> {
    let mut json = serde_json::to_string(&JsonLine {
        schema: SCHEMA,
        event,
    })?;
    if !json.contains(acts_on_terminal) {
        json.push('\n');
        return Ok(json);
    }
    let mut safe = String::with_capacity(json.len() + 16);
    for c in json.chars() {
        if acts_on_terminal(c) {
            c.encode_utf16(&mut [0; 2])
                .iter()
                .for_each(|unit| safe.push_str(&format!("\\u{unit:04x}")));
        } else {
            safe.push(c);
        }
    }
    safe.push('\n');
    Ok(safe)
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn schema_and_event_come_first() {
        let event = JsonEvent::Warning {
            path: JsonPath::from("a"),
            message: "m",
        };
        let line = to_line(&event).unwrap();
        assert_eq!(
            line.trim_end(),
            r#"{"schema":1,"event":"warning","path":"a","message":"m"}"#
        );
    }

    #[test]
    fn errors_with_and_without_a_path() {
        let with = JsonEvent::Error {
            path: Some("f".into()),
            code: "full",
            errno: Some(28),
            call: Some("write"),
            side: Some("server"),
            place: Some("destination"),
            message: "m",
        };
        let line = r#"{"schema":1,"event":"error","path":"f","code":"full","errno":28,"call":"write","side":"server","place":"destination","message":"m"}"#;
        assert_eq!(to_line(&with).unwrap().trim_end(), line);
        let without = JsonEvent::Error {
            path: None,
            code: "lost",
            errno: None,
            call: None,
            side: None,
            place: None,
            message: "m",
        };
        let line = r#"{"schema":1,"event":"error","code":"lost","message":"m"}"#;
        assert_eq!(to_line(&without).unwrap().trim_end(), line);
    }

    #[test]
    fn names_survive_and_nothing_acts_on_a_terminal() {
        let name = "a\n\u{1b}[2J\u{9b}\u{7f}\u{202e}\u{e0041}\"ä";
        let line = to_line(&JsonEvent::Warning {
            path: name.into(),
            message: "",
        })
        .unwrap();
        assert!(!line.trim_end().contains(acts_on_terminal), "{line}");
        let value: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["path"], name);
        assert_eq!(value.get("path_hex"), None);
    }

    #[test]
    fn names_that_are_not_utf8_keep_their_bytes() {
        let line = to_line(&JsonEvent::Warning {
            path: (&b"a\xff"[..]).into(),
            message: "",
        })
        .unwrap();
        let value: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(
            (&value["path"], &value["path_hex"]),
            (&Value::from("a\u{fffd}"), &Value::from("61ff"))
        );
    }
}
