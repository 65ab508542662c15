//! `landro ls`: a directory of a daemon, one line per entry.

use std::io::{self, Write};

use bytes::Bytes;

use crate::cli::args::LsArgs;
use crate::cli::args::url::Url;
use crate::cli::dial::{self, Dial};
use crate::cli::escape;
use crate::cli::exit::{CliError, Exit};
use crate::cli::output::copy::WARNINGS_SHOWN;
use crate::cli::output::outcome::{Parties, judge};
use crate::engine::ClientEvent;
use crate::proto::session::Request;
use crate::proto::{Event, Kind, Meta};
use crate::signals::{Hangup, Signals};

pub fn run(args: LsArgs) -> Result<Exit, CliError> {
    let url = Url::parse(&args.url)?;
    let signals = Signals::catch(Hangup::Default).map_err(CliError::Signals)?;
    let mut stdout = io::BufWriter::new(io::stdout().lock());
    let (mut written, mut warnings) = (Ok(()), 0);
    let request = Request::List {
        path: Bytes::from(url.path.clone()),
    };
    let done = dial::run(
        &Dial::new(&url.host, &args.trust, &args.engine),
        &signals,
        &request,
        &mut |event| match event {
            Some(ClientEvent::Session(Event::Listing { path, meta, link })) if written.is_ok() => {
                written = writeln!(stdout, "{}", row(&path, &meta, link.as_deref()));
            }
            Some(ClientEvent::Session(Event::Warning { path, text }))
                if warnings < WARNINGS_SHOWN =>
            {
                warnings += 1;
                eprintln!(
                    "landro: warning: {}: {}",
                    escape::name(&path),
                    escape::text(&text)
                );
            }
            _ => {}
        },
    )?;
    match written.and_then(|()| stdout.flush()) {
        // `landro ls ... | head` is no failure.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            return Err(CliError::Stdout(error));
        }
        _ => {}
    }
    let parties = Parties {
        host: Some(&url.host),
        own: Some(done.own),
        resumes: false,
    };
    let verdict = judge(&done.ended, signals.asked(), parties);
    if let Some(message) = verdict.message {
        eprintln!("landro: {message}");
    }
    Ok(verdict.exit)
}

/// `-rw-r--r--         1234 2026-01-02T03:04:05Z name -> target`
fn row(path: &[u8], meta: &Meta, link: Option<&[u8]>) -> String {
    let mut row = format!(
        "{} {:>12} {} {}",
        mode(meta),
        meta.size_bytes,
        utc(meta.mtime.seconds),
        escape::name(path)
    );
    if let Some(link) = link {
        row.push_str(" -> ");
        row.push_str(&escape::name(link));
    }
    row
}

/// As `ls -l` prints it, with the set-id and sticky bits.
fn mode(meta: &Meta) -> String {
    let kind = match meta.kind {
        Kind::File => '-',
        Kind::Directory => 'd',
        Kind::Symlink => 'l',
        Kind::Special => '?',
    };
    let mut text = String::from(kind);
    for (shift, special, with_x, without_x) in [
        (6, 0o4000, 's', 'S'),
        (3, 0o2000, 's', 'S'),
        (0, 0o1000, 't', 'T'),
    ] {
        let bits = meta.mode >> shift;
        text.push(if bits & 4 != 0 { 'r' } else { '-' });
        text.push(if bits & 2 != 0 { 'w' } else { '-' });
        text.push(match (meta.mode & special != 0, bits & 1 != 0) {
            (true, true) => with_x,
            (true, false) => without_x,
            (false, true) => 'x',
            (false, false) => '-',
        });
    }
    text
}

/// Seconds since the epoch as a date and time in UTC; years as they come, before 1970 too.
fn utc(seconds: i64) -> String {
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    // Years that begin in March have their leap day at the end, and 400 of them have 146,097 days.
    let from_march_0000 = days + 719_468;
    let (era, day) = (
        from_march_0000.div_euclid(146_097),
        from_march_0000.rem_euclid(146_097),
    );
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day_of_month = day - (153 * month + 2) / 5 + 1;
    let (month, next_year) = if month < 10 {
        (month + 3, 0)
    } else {
        (month - 9, 1)
    };
    let year = era * 400 + year + next_year;
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day_of_month:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use crate::proto::Mtime;

    use super::*;

    fn meta(kind: Kind, mode: u32) -> Meta {
        let mtime = Mtime {
            seconds: 0,
            nanoseconds: 5,
        };
        Meta {
            kind,
            mode,
            mtime,
            size_bytes: 42,
            allocated_bytes: 42,
            inode: 1,
            device: 0,
        }
    }

    #[test]
    fn rows() {
        assert_eq!(
            row(b"a\nb", &meta(Kind::File, 0o644), None),
            "-rw-r--r--           42 1970-01-01T00:00:00Z a\\nb"
        );
        let link = row(b"l", &meta(Kind::Symlink, 0o777), Some(b"to"));
        assert!(link.starts_with("lrwxrwxrwx") && link.ends_with("l -> to"));
    }

    #[test]
    fn modes() {
        assert_eq!(mode(&meta(Kind::Directory, 0o1777)), "drwxrwxrwt");
        assert_eq!(mode(&meta(Kind::File, 0o6745)), "-rwsr-Sr-x");
    }

    #[test]
    fn dates() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_735_689_599, "2024-12-31T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
            (-1, "1969-12-31T23:59:59Z"),
            (-62_135_596_800, "0001-01-01T00:00:00Z"),
        ] {
            assert_eq!(utc(seconds), text);
        }
    }
}
