//! `landro cp`: one transfer with a daemon, or a local copy.

use std::path::Path;

use bytes::Bytes;

use crate::engine::{ClientEvent, Ended, LocalCopy, copy_locally};
use crate::ids::Fingerprint;
use crate::proto::session::{Direction, Request, Transfer, TransferOptions};
use crate::signals::{Hangup, Signals};

use super::args::{self, CopyRoute, CpArgs};
use super::client::{self, Dial};
use super::outcome::{Parties, judge};
use super::report::stats::{Stats, Transport};
use super::report::{Reporter, Style};
use super::url::Host;
use super::{CliError, Exit, escape};

pub fn run(args: CpArgs) -> Result<Exit, CliError> {
    let route = CopyRoute::parse(&args.sources, &args.destination)?;
    let signals = Signals::catch(Hangup::Default).map_err(CliError::Signals)?;
    let mut reporter = Reporter::new(Style {
        json: args.json,
        quiet: args.quiet,
        stats: args.stats,
    });
    let (direction, host) = match &route {
        CopyRoute::Push { to, .. } => ("push", Some(&to.host)),
        CopyRoute::Pull { from, .. } => ("pull", from.first().map(|url| &url.host)),
        CopyRoute::Local { .. } => ("local", None),
    };
    reporter.start(direction, host.map(Host::to_string));
    let mut seen = Seen::default();
    let result = match host {
        Some(host) => remote(&args, &route, host, &signals, &mut reporter, &mut seen),
        None => local(&args, &route, &signals, &mut reporter),
    };
    let (exit, totals) = match result {
        Ok((ended, own)) => {
            let verdict = judge(
                &ended,
                signals.asked(),
                Parties {
                    host,
                    own,
                    resumes: true,
                },
            );
            if let Some(message) = &verdict.message {
                reporter.error(verdict.code, message);
            }
            (verdict.exit, verdict.totals)
        }
        Err(error) => {
            let (exit, code) = error.exit();
            reporter.error(code, &error.to_string());
            (exit, None)
        }
    };
    reporter.finish(exit, totals, seen.stats());
    Ok(exit)
}

/// What the engine told about the connection.
#[derive(Default)]
pub(super) struct Seen {
    backend: Option<(String, String)>,
    peer: Option<String>,
    transport: Option<Transport>,
}

impl Seen {
    /// Takes what concerns the connection.
    pub fn note(&mut self, event: ClientEvent) {
        match event {
            ClientEvent::Connected {
                fingerprint,
                address,
                backend,
                backend_reason,
            } => {
                self.backend = Some((format!("{backend:?}"), backend_reason));
                self.peer = Some(format!("{address} {fingerprint}"));
            }
            ClientEvent::Stats(stats) => self.transport = Some(Transport::from(&*stats)),
            ClientEvent::Session(_) | ClientEvent::Ended(_) => {}
        }
    }

    pub fn stats(self) -> Stats {
        let (backend, backend_reason) = self.backend.unzip();
        Stats {
            backend,
            backend_reason,
            peer: self.peer,
            transport: self.transport,
            ..Stats::of_this_process()
        }
    }
}

type End = Result<(Ended, Option<Fingerprint>), CliError>;

fn remote(
    args: &CpArgs,
    route: &CopyRoute,
    host: &Host,
    signals: &Signals,
    reporter: &mut Reporter,
    seen: &mut Seen,
) -> End {
    let dial = Dial {
        streams: args.streams,
        ..Dial::new(host, &args.trust, &args.engine)
    };
    let request = request(args, route)?;
    let done = client::run(
        &dial,
        signals,
        &|| request.clone(),
        &mut |event| match event {
            None => reporter.tick(),
            Some(ClientEvent::Session(event)) => reporter.event(&event),
            Some(event) => seen.note(event),
        },
    )?;
    Ok((done.ended, Some(done.own)))
}

fn local(args: &CpArgs, route: &CopyRoute, signals: &Signals, reporter: &mut Reporter) -> End {
    let CopyRoute::Local {
        sources,
        target: typed,
    } = route
    else {
        unreachable!("only local copies have no host")
    };
    // What has no real path is not there; the copy says so, and goes on with the others.
    let real = |path: &Vec<u8>| local_source(path).unwrap_or_else(|_| Bytes::copy_from_slice(path));
    let sources: Vec<Bytes> = sources.iter().map(real).collect();
    args::names_differ(sources.iter().map(|path| &path[..]))?;
    let job = LocalCopy {
        must_be_dir: args::must_be_dir(typed, sources.len()),
        sources,
        target: Bytes::copy_from_slice(typed),
        force: args.force,
        fsync: args.fsync,
        keep_dirlinks: args.keep_dirlinks,
    };
    let stop = || signals.asked().is_some();
    let outcome =
        copy_locally(&job, &stop, &mut |event| reporter.event(&event)).map_err(CliError::Worker)?;
    Ok((Ended::Outcome(outcome), None))
}

fn request(args: &CpArgs, route: &CopyRoute) -> Result<Request, CliError> {
    let (force, fsync, keep_dirlinks) = (args.force, args.fsync, args.keep_dirlinks);
    // Typed in bytes, limited in bits; 0 means that nobody limits.
    let bwlimit_bps = args
        .bwlimit
        .filter(|&rate| rate > 0)
        .map(|bytes| bytes.saturating_mul(8));
    let transfer = |direction, sources, target, must_be_dir| {
        let options = TransferOptions {
            must_be_dir,
            force,
            fsync,
            keep_dirlinks,
            bwlimit_bps,
        };
        Request::Transfer(Transfer {
            direction,
            sources,
            target,
            options,
        })
    };
    Ok(match route {
        CopyRoute::Push { sources, to } => {
            let sources: Vec<Bytes> = sources
                .iter()
                .map(|path| local_source(path))
                .collect::<Result<_, _>>()?;
            args::names_differ(sources.iter().map(|path| &path[..]))?;
            let must_be_dir = args::must_be_dir(&to.path, sources.len());
            transfer(
                Direction::Push,
                sources,
                remote_target(&to.path),
                must_be_dir,
            )
        }
        CopyRoute::Pull {
            from,
            target: local,
        } => {
            let sources: Vec<Bytes> = from
                .iter()
                .map(|url| Bytes::from(url.path.clone()))
                .collect();
            let must_be_dir = args::must_be_dir(local, sources.len());
            transfer(
                Direction::Pull,
                sources,
                Bytes::copy_from_slice(local),
                must_be_dir,
            )
        }
        CopyRoute::Local { .. } => unreachable!("a local copy asks nobody"),
    })
}

/// A source that ends in `.` or `..` has no name to land under; its real path has.
fn local_source(path: &[u8]) -> Result<Bytes, CliError> {
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    let last = path.rsplit(|&b| b == b'/').find(|part| !part.is_empty());
    if !matches!(last, Some(b"." | b"..")) {
        return Ok(Bytes::copy_from_slice(path));
    }
    let failed = |source| CliError::NoName {
        path: escape::name(path),
        source,
    };
    let real = Path::new(std::ffi::OsStr::from_bytes(path))
        .canonicalize()
        .map_err(failed)?;
    Ok(Bytes::from(real.into_os_string().into_vec()))
}

/// Without its trailing slashes, which `must_be_dir` stands for.
fn remote_target(path: &[u8]) -> Bytes {
    let end = path
        .iter()
        .rposition(|&b| b != b'/')
        .map_or(path.len().min(1), |at| at + 1);
    Bytes::copy_from_slice(&path[..end])
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
            assert_eq!(remote_target(typed.as_bytes()), expected, "{typed}");
        }
    }

    #[test]
    fn dots_get_a_name() {
        assert_eq!(local_source(b"a/b/").unwrap(), "a/b/");
        let here = local_source(b".").unwrap();
        assert!(here.starts_with(b"/") && !here.ends_with(b"."));
        assert_eq!(local_source(b"/usr/../").unwrap(), "/");
    }
}
