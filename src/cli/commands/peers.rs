//! `landro peers`: who may come in, what each may do, and who came when.

use std::io::{BufWriter, Write};
use std::time::{Duration, UNIX_EPOCH};

use landro_sys::trusted::{self, Others};
use serde::Serialize;

use crate::cli::args::PeersArgs;
use crate::cli::escape;
use crate::cli::exit::{CliError, Exit};
use crate::cli::say::say;
use crate::cli::trust;
use crate::daemon::policy::{Line, Policy};
use crate::daemon::{AUTHORIZED_PEERS_MAX_BYTES, visits};
use crate::engine::Visit;

/// One line of the file, and what is known of its peer.
#[derive(Serialize)]
struct PeerRow {
    peer: String,
    read: bool,
    write: bool,
    clear: bool,
    path: Option<String>,
    expires: Option<String>,
    last_came: Option<String>,
    from: Option<String>,
    comment: Option<String>,
}

pub fn run(args: PeersArgs) -> Result<Exit, CliError> {
    let dir = args.of.map_or_else(trust::config_dir, Ok)?;
    let path = dir.join("authorized_peers");
    // Root asks for those of a daemon that runs as another user; nobody is trusted for it.
    let text = trusted::read(&path, Others::MayDoAnything, AUTHORIZED_PEERS_MAX_BYTES)?;
    let (policy, bad) = Policy::parse(&text);
    for line in bad {
        say(&format!("landro: {}: {line}", path.display()));
    }
    let visits = visits::read(&dir.join(visits::NAME), Others::MayDoAnything);
    let lines = policy.lines(&text);
    let rows = lines.map(|line| row(&line, visits.get(&line.peer)));
    let mut stdout = BufWriter::new(std::io::stdout().lock());
    let mut print = |row: PeerRow| match args.json {
        true => serde_json::to_writer(&mut stdout, &row)
            .map_err(std::io::Error::from)
            .and_then(|()| writeln!(stdout)),
        false => writeln!(stdout, "{}", in_words(&row)),
    };
    let printed = rows.into_iter().try_for_each(&mut print);
    let flushed = printed.and_then(|()| stdout.flush());
    flushed.map_err(CliError::Stdout)?;
    if !dir.join(visits::NAME).exists() {
        say("landro: no peer has come yet, or the daemon keeps its files elsewhere (--of DIR)");
    }
    Ok(Exit::Done)
}

fn row(line: &Line, visit: Option<&Visit>) -> PeerRow {
    let path = line.rights.path.as_ref();
    PeerRow {
        peer: line.peer.to_string(),
        read: line.rights.read,
        write: line.rights.write,
        clear: line.rights.clear,
        path: path.map(|path| escape::name(path)),
        expires: line.rights.expires_unix_s.map(time),
        last_came: visit.map(|visit| time(visit.at_unix_s)),
        from: visit.map(|visit| visit.from.to_string()),
        comment: line.comment.map(escape::text),
    }
}

/// In UTC, to the second (RFC 3339).
fn time(unix_s: i64) -> String {
    let since = Duration::from_secs(u64::try_from(unix_s).unwrap_or_default());
    humantime::format_rfc3339_seconds(UNIX_EPOCH + since).to_string()
}

/// `SHA256:... rw path=in expires=... last came 2026-11-30T10:00:00Z from 192.0.2.1 # alice`.
fn in_words(row: &PeerRow) -> String {
    let rights = match (row.read, row.write) {
        (true, true) => "rw",
        (true, false) => "ro",
        (false, _) => "wo",
    };
    let mut words = vec![row.peer.clone(), rights.to_owned()];
    words.extend(row.clear.then(|| "clear".to_owned()));
    words.extend(row.path.iter().map(|path| format!("path={path}")));
    words.extend(row.expires.iter().map(|at| format!("expires={at}")));
    words.push(match (&row.last_came, &row.from) {
        (Some(at), Some(from)) => format!("last came {at} from {from}"),
        _ => "never came".to_owned(),
    });
    words.extend(row.comment.iter().map(|comment| format!("# {comment}")));
    words.join(" ")
}
