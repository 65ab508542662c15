//! `landro cp`: one transfer with a daemon, or within this host.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use bytes::Bytes;

use crate::cli::args::CpArgs;
use crate::cli::args::route::{self, CopyRoute, CopyWay};
use crate::cli::args::url::DaemonName;
use crate::cli::dial::{self, Dial};
use crate::cli::exit::{CliError, Exit};
use crate::cli::output::copy::{CopyReporter, Style};
use crate::cli::output::counting::Counting;
use crate::cli::output::outcome::{Parties, judge};
use crate::cli::output::shown::ShownPaths;
use crate::cli::output::stats::ConnectionSeen;
use crate::cli::say::without_numbers;
use crate::engine::{ClientEvent, Ended, copy_locally};
use crate::ids::Fingerprint;
use crate::proto::Event;
use crate::proto::receive::MetadataOptions;
use crate::proto::session::{Direction, Request, Transfer, TransferOptions};
use crate::signals::{Hangup, Signals};

/// What `-a` promises elsewhere.
const NOT_KEPT: &str =
    "owners, ACLs, extended attributes, hard links and devices are not kept; the rest of it is";

pub fn run(args: CpArgs) -> Result<Exit, CliError> {
    let (sources, destination) = args.sources_and_destination()?;
    let route = CopyRoute::parse(sources, destination)?;
    let signals = Signals::catch(Hangup::Default).map_err(CliError::Signals)?;
    let mut copying = Copying {
        reporter: CopyReporter::new(style(&args), ShownPaths::of(&route), counting(&route)),
        seen: ConnectionSeen::default(),
        args,
        signals,
    };
    let daemon = route.way.daemon();
    copying
        .reporter
        .start(route.way.name(), daemon.map(DaemonName::to_string));
    if copying.args.archive {
        copying.reporter.event(&Event::Warning {
            path: Bytes::from_static(b"-a"),
            text: NOT_KEPT.to_owned(),
        });
    }
    let result = match daemon {
        Some(daemon) => copying.with(daemon, &route),
        None => copying.locally(&route),
    };
    let (exit, totals) = match result {
        Ok(end) => {
            let parties = Parties {
                host: daemon,
                own: end.own,
                asked: copying.reporter.target(),
                resumes: true,
                done: copying.reporter.totals(),
                verbose: copying.args.verbose,
            };
            let verdict = judge(&end.ended, copying.signals.asked(), &parties);
            if let Some(message) = &verdict.message {
                copying.reporter.error(verdict.code, verdict.errno, message);
            }
            (verdict.exit, verdict.totals)
        }
        Err(error) => {
            let (exit, code) = error.exit();
            let words = without_numbers(&error.to_string());
            copying.reporter.error(code, None, &words);
            (exit, None)
        }
    };
    // What was warned of is not all that was asked for.
    let exit = match exit {
        Exit::Done if copying.args.strict && copying.reporter.has_warned() => Exit::Partial,
        other => other,
    };
    copying.reporter.finish(exit, totals, copying.seen.stats());
    Ok(exit)
}

fn style(args: &CpArgs) -> Style {
    Style {
        json: args.json,
        quiet: args.quiet,
        stats: args.stats,
        verbose: args.verbose,
        summary: args.summary,
    }
}

/// Only local sources can be counted from here.
fn counting(route: &CopyRoute) -> Option<Counting> {
    match route.way {
        CopyWay::Push { .. } | CopyWay::Local => Some(Counting::of(&route.sources)),
        CopyWay::Pull { .. } => None,
    }
}

/// One `cp` under way.
struct Copying {
    args: CpArgs,
    signals: Signals,
    reporter: CopyReporter,
    seen: ConnectionSeen,
}

/// How it ended.
struct CopyEnd {
    ended: Ended,
    /// This host's fingerprint, as the daemon saw it.
    own: Option<Fingerprint>,
}

impl Copying {
    fn with(&mut self, daemon: &DaemonName, route: &CopyRoute) -> Result<CopyEnd, CliError> {
        let request = Request::Transfer(transfer(&self.args, route)?);
        let dial = Dial {
            streams: self.args.streams,
            ..Dial::new(daemon, &self.args.trust, &self.args.engine)
        };
        let (reporter, seen) = (&mut self.reporter, &mut self.seen);
        let followed = dial::run(&dial, &self.signals, &request, &mut |event| match event {
            None => reporter.tick(),
            Some(ClientEvent::Session(event)) => reporter.event(&event),
            Some(event) => seen.note(event),
        })?;
        Ok(CopyEnd {
            ended: followed.ended,
            own: Some(followed.own),
        })
    }

    fn locally(&mut self, route: &CopyRoute) -> Result<CopyEnd, CliError> {
        let transfer = transfer(&self.args, route)?;
        let stop = || self.signals.asked().is_some();
        let on = &mut |event: Event| self.reporter.event(&event);
        let outcome = copy_locally(&transfer, &stop, on)?;
        Ok(CopyEnd {
            ended: Ended::Outcome(outcome),
            own: None,
        })
    }
}

fn transfer(args: &CpArgs, route: &CopyRoute) -> Result<Transfer, CliError> {
    let bytes = |path: &Vec<u8>| Bytes::copy_from_slice(path);
    let (direction, sources) = match route.way {
        CopyWay::Pull { .. } => (Direction::Pull, route.sources.iter().map(bytes).collect()),
        CopyWay::Push { .. } | CopyWay::Local => {
            let sources: Vec<Bytes> = route.sources.iter().map(|path| named(path)).collect();
            route::names_differ(sources.iter().map(|path| &path[..]))?;
            (Direction::Push, sources)
        }
    };
    let target = match route.way {
        CopyWay::Push { .. } => without_slashes(&route.target),
        // A slash has a symlink of the user's own followed.
        CopyWay::Pull { .. } | CopyWay::Local => &route.target,
    };
    Ok(Transfer {
        direction,
        sources,
        target: Bytes::copy_from_slice(target),
        options: TransferOptions {
            must_be_dir: route::must_be_dir(&route.target, route.sources.len()),
            force: args.force,
            fsync: args.fsync,
            keep_dirlinks: args.keep_dirlinks,
            metadata: MetadataOptions {
                no_perms: args.no_perms,
                no_times: args.no_times,
                dir_modes: args.perms || (args.archive && !args.no_perms),
            },
            // Typed in bytes, limited in bits; 0 means that nobody limits.
            bwlimit_bps: args
                .bwlimit
                .filter(|&rate| rate > 0)
                .map(|bytes| bytes.saturating_mul(8)),
            counts: args.json || CopyReporter::is_watched(args.quiet),
        },
    })
}

/// A source that ends in `.` or `..` has no name to land under; its real path has. What has no real
/// path is not there: the transfer says so, and goes on with the others.
fn named(path: &[u8]) -> Bytes {
    let last = path.rsplit(|&b| b == b'/').find(|part| !part.is_empty());
    let real = match last {
        Some(b"." | b"..") => Path::new(OsStr::from_bytes(path)).canonicalize().ok(),
        _ => None,
    };
    real.map_or_else(
        || Bytes::copy_from_slice(path),
        |real| Bytes::from(OsString::from(real).into_vec()),
    )
}

/// `must_be_dir` stands for them.
fn without_slashes(path: &[u8]) -> &[u8] {
    let end = path
        .iter()
        .rposition(|&b| b != b'/')
        .map_or(path.len().min(1), |at| at + 1);
    &path[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_lose_their_trailing_slashes() {
        for (typed, expected) in [
            ("a", "a"),
            ("a//", "a"),
            ("/", "/"),
            ("//", "/"),
            ("", ""),
            ("/a/b/", "/a/b"),
        ] {
            let left = without_slashes(typed.as_bytes());
            assert_eq!(left, expected.as_bytes(), "{typed}");
        }
    }

    #[test]
    fn dots_get_a_name() {
        assert_eq!(named(b"a/b/"), "a/b/");
        let here = named(b".");
        assert!(here.starts_with(b"/") && !here.ends_with(b"."));
        assert_eq!(named(b"/usr/../"), "/");
        assert_eq!(named(b"/no such/.."), "/no such/..");
    }
}
