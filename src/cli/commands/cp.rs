//! `landro cp`: one transfer with a daemon, or within this host.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;

use crate::cli::args::CpArgs;
use crate::cli::args::route::{self, CopyRoute, CopyWay, RouteError};
use crate::cli::args::url::DaemonName;
use crate::cli::dial::{self, Dial};
use crate::cli::escape;
use crate::cli::exit::{CliError, Exit};
use crate::cli::output::amount;
use crate::cli::output::copy::{CopyReporter, Style};
use crate::cli::output::counting::Counting;
use crate::cli::output::outcome::{Ending, Parties, judge};
use crate::cli::output::shown::ShownPaths;
use crate::cli::output::stats::ConnectionSeen;
use crate::cli::say::{speaks_utf8, without_numbers};
use crate::config::{LaneCount, LaneKind};
use crate::engine::{
    self, ClientEvent, Ended, LocalCopy, Persistence, local_part, now, one_per_core,
};
use crate::ids::{CopyId, Fingerprint};
use crate::proto::Outcome;
use crate::proto::receive::MetadataOptions;
use crate::proto::session::{Direction, Request, Transfer, TransferOptions};
use crate::signals::{Hangup, Signals};

/// How long a file system has to say what kind of files a copy is from and to. A local one takes
/// microseconds, and only an advice depends on it.
const STREAMS_ASKED: Duration = Duration::from_millis(200);

/// How often a copy within this host is looked at.
const LOCAL_LOOK: Duration = Duration::from_millis(20);

/// A copy within this host that was asked to stop is left alone if it does not get on for so long.
const STOPS_WITHIN: Duration = Duration::from_secs(3);

/// What `-a` promises elsewhere.
const NOT_KEPT: &str =
    "owners, ACLs, extended attributes, hard links and devices are not kept; the rest of it is";

pub fn run(args: CpArgs) -> Result<Exit, CliError> {
    let (sources, destination) = args.sources_and_destination()?;
    let route = CopyRoute::parse(sources, destination)?;
    if args.no_target_directory && route.sources.len() > 1 {
        return Err(RouteError::OneName.into());
    }
    let has_tcp = args.engine.lane_kinds.has(LaneKind::Tls);
    if matches!(args.lanes, LaneCount::Exactly(2..)) && !has_tcp {
        return Err(RouteError::NothingToAdd.into());
    }
    if args.clear && !has_tcp {
        return Err(RouteError::NothingInTheClear.into());
    }
    let signals = Signals::catch(Hangup::Default).map_err(CliError::Signals)?;
    let mut copying = Copying {
        reporter: CopyReporter::new(style(&args), ShownPaths::of(&route), counting(&route)),
        seen: ConnectionSeen::default(),
        streams: None,
        args,
        signals,
    };
    let daemon = route.way.daemon();
    copying
        .reporter
        .start(route.way.name(), daemon.map(DaemonName::to_string));
    if copying.args.archive {
        copying.reporter.remark("-a", NOT_KEPT);
    }
    let result = match daemon {
        Some(daemon) => copying.with(daemon, &route),
        None => copying.locally(&route),
    };
    let verdict = copying.judge(&result, daemon, &route);
    if let Some(message) = &verdict.message {
        copying.reporter.error(verdict.code, verdict.errno, message);
    }
    let (exit, totals) = (verdict.exit, verdict.totals);
    // What was warned of is not all that was asked for.
    let exit = match (exit, copying.reporter.strict_words()) {
        (Exit::Done, Some(words)) => {
            copying.reporter.error("strict", None, &words);
            Exit::Partial
        }
        (other, _) => other,
    };
    let told = copying.reporter.finish(exit, totals, copying.seen.stats());
    match (exit, told) {
        (Exit::Done, Err(error)) => Err(CliError::Stdout(error)),
        (other, _) => Ok(other),
    }
}

fn style(args: &CpArgs) -> Style {
    Style {
        json: args.json,
        quiet: args.quiet,
        stats: args.stats,
        verbose: args.verbose,
        summary: args.summary,
        force: args.force,
        strict: args.strict,
    }
}

/// Only local sources can be counted from here.
fn counting(route: &CopyRoute) -> Option<Counting> {
    match route.way {
        CopyWay::Push { .. } | CopyWay::Local => Some(Counting::of(&route.sources)),
        CopyWay::Pull { .. } => None,
    }
}

/// What of a copy flows by: it comes from a pipe or a device, or goes to one, or to what the output
/// of a program was redirected to (`/dev/stdout`).
#[derive(Clone, Copy, Default)]
struct Streams {
    /// Nothing of what is moved stays when a copy is cut short.
    all: bool,
    /// Something of it cannot be had twice.
    some: bool,
}

impl Streams {
    /// A file system that does not answer is asked by the copy, which says so; here it is no reason
    /// to wait.
    fn of(route: &CopyRoute) -> Streams {
        let path = |typed: &[u8]| PathBuf::from(OsStr::from_bytes(typed));
        let sources: Vec<PathBuf> = route.sources.iter().map(|source| path(source)).collect();
        let target = path(&route.target);
        let (asks_sources, asks_target) = match route.way {
            CopyWay::Push { .. } => (true, false),
            CopyWay::Pull { .. } => (false, true),
            CopyWay::Local => (true, true),
        };
        let is_stream = |path: &Path| {
            std::fs::metadata(path).is_ok_and(|meta| !meta.is_file() && !meta.is_dir())
        };
        let (answer, answered) = std::sync::mpsc::sync_channel(1);
        std::thread::spawn(move || {
            let count = sources.iter().filter(|source| is_stream(source)).count();
            let from = |enough| asks_sources && count >= enough;
            // No other symlink to a file is written to.
            let is_redirected = || target.is_symlink() && target.is_file();
            let to_stream = asks_target && (is_stream(&target) || is_redirected());
            let _ = answer.send(Streams {
                all: from(sources.len()) || to_stream,
                some: from(1) || to_stream,
            });
        });
        // What does not answer may be a pipe.
        answered.recv_timeout(STREAMS_ASKED).unwrap_or(Streams {
            all: false,
            some: true,
        })
    }
}

/// One `cp` under way.
struct Copying {
    args: CpArgs,
    signals: Signals,
    reporter: CopyReporter,
    seen: ConnectionSeen,
    /// Looked at when it matters.
    streams: Option<Streams>,
}

/// How it ended.
struct CopyEnd {
    ended: Ended,
    /// This host's fingerprint, as the daemon saw it.
    own: Option<Fingerprint>,
}

impl Copying {
    /// What an end means to the user, and how a rerun goes on.
    fn judge(
        &self,
        result: &Result<CopyEnd, CliError>,
        host: Option<&DaemonName>,
        route: &CopyRoute,
    ) -> Ending {
        match result {
            Ok(end) => {
                let is_done = matches!(end.ended, Ended::Outcome(Outcome::Complete(_)));
                let streams = match is_done {
                    true => Streams::default(),
                    false => self.streams.unwrap_or_else(|| Streams::of(route)),
                };
                let parties = Parties {
                    host,
                    own: end.own,
                    asked: self.reporter.target(),
                    rerun: Some(typed()),
                    begins_anew: streams.all,
                    flows_once: host.is_some() && streams.some && self.args.retry != Some(0),
                    done: self.reporter.totals(),
                    verbose: self.args.verbose,
                };
                judge(&end.ended, self.signals.asked(), &parties)
            }
            Err(error) => {
                let (exit, code) = error.exit();
                Ending {
                    exit,
                    totals: None,
                    code,
                    errno: None,
                    message: Some(without_numbers(&error.to_string())),
                }
            }
        }
    }

    fn with(&mut self, daemon: &DaemonName, route: &CopyRoute) -> Result<CopyEnd, CliError> {
        let request = Request::Transfer(transfer(&self.args, route));
        let streams = *self.streams.get_or_insert_with(|| Streams::of(route));
        let persistence = Persistence {
            until_accepted: streams.some,
            ..self.args.persistence()
        };
        let dial = Dial {
            streams: self.args.streams,
            lanes: self.args.lanes,
            workers: workers(&self.args),
            clear: self.args.clear,
            persistence,
            ..Dial::new(daemon, &self.args.trust, &self.args.from, &self.args.engine)
        };
        let mut setbacks = Setbacks {
            daemon,
            within: persistence.within,
            are_told: false,
            verbose: self.args.verbose,
        };
        let (reporter, seen) = (&mut self.reporter, &mut self.seen);
        let followed = dial::run(&dial, &self.signals, &request, &mut |event| match event {
            None => reporter.tick(),
            Some(ClientEvent::Session(event)) => reporter.event(&event),
            Some(lost @ ClientEvent::Lost { .. }) => setbacks.tell(reporter, lost),
            Some(event) => {
                reporter.connected(&event);
                seen.note(event);
            }
        })?;
        Ok(CopyEnd {
            ended: self.reporter.ended(followed.ended),
            own: Some(followed.own),
        })
    }

    fn locally(&mut self, route: &CopyRoute) -> Result<CopyEnd, CliError> {
        let copy = LocalCopy::start(transfer(&self.args, route))?;
        let outcome = self.follow_locally(&copy)?;
        Ok(CopyEnd {
            ended: Ended::Outcome(outcome),
            own: None,
        })
    }

    /// Follows a copy within this host to its end, or until it does not get on any more.
    fn follow_locally(&mut self, copy: &LocalCopy) -> Result<Outcome, CliError> {
        let patience = self.args.engine.patience();
        let (mut steps, mut since, mut stops_at) = (0, now(), None);
        loop {
            let news = copy.next(LOCAL_LOOK);
            let now = now();
            for event in &news.events {
                self.reporter.event_at(now, event);
            }
            if let Some(ended) = news.ended {
                return ended.map_err(CliError::Worker);
            }
            if std::mem::replace(&mut steps, news.steps) != news.steps {
                since = now;
            }
            let silence = now.duration_since(since);
            if self.signals.asked().is_some() {
                copy.stop();
                let until = *stops_at.get_or_insert(now + STOPS_WITHIN);
                if now >= until && silence >= STOPS_WITHIN {
                    return Ok(copy.stalled(silence));
                }
            } else if patience.is_some_and(|patience| silence >= patience) {
                return Ok(copy.stalled(silence));
            }
        }
    }
}

/// What the user is told of sessions that are lost and begun anew.
struct Setbacks<'a> {
    daemon: &'a DaemonName,
    /// For how long that is tried.
    within: Option<Duration>,
    /// Only what was got on with makes it news again.
    are_told: bool,
    verbose: bool,
}

impl Setbacks<'_> {
    fn tell(&mut self, reporter: &mut CopyReporter, lost: ClientEvent) {
        let ClientEvent::Lost {
            ended,
            pause,
            got_further,
            times_left,
        } = lost
        else {
            return;
        };
        let ended = reporter.ended(ended);
        let verdict = judge(
            &ended,
            None,
            &Parties {
                host: Some(self.daemon),
                asked: reporter.target(),
                done: reporter.totals(),
                verbose: self.verbose,
                ..Parties::default()
            },
        );
        let is_first = !std::mem::replace(&mut self.are_told, true);
        let is_news = is_first || got_further;
        let words = match (times_left, self.within) {
            (Some(left), _) => {
                let tries = amount::count(u64::from(left) + 1, "try", "tries");
                let seconds = pause.as_secs();
                Some(format!(
                    "it begins anew in {seconds} s (--retry, {tries} left)"
                ))
            }
            (None, _) if !is_news => None,
            (None, Some(within)) => {
                let within = amount::span(within);
                Some(format!(
                    "it is taken up again, for {within} as long as nothing comes of it"
                ))
            }
            (None, None) => Some("it is taken up again".to_owned()),
        };
        let message = verdict.message.unwrap_or_default();
        reporter.lost((verdict.code, &message), pause, words.as_deref());
    }
}

/// The command line of this process, for a shell.
fn typed() -> String {
    let words: Vec<String> = std::env::args_os()
        .map(|word| escape::shell(word.as_bytes(), speaks_utf8()))
        .collect();
    words.join(" ")
}

fn transfer(args: &CpArgs, route: &CopyRoute) -> Transfer {
    let bytes = |path: &Vec<u8>| Bytes::copy_from_slice(path);
    let direction = match route.way {
        CopyWay::Pull { .. } => Direction::Pull,
        CopyWay::Push { .. } | CopyWay::Local => Direction::Push,
    };
    let target = match route.way {
        CopyWay::Push { .. } => without_slashes(&route.target),
        CopyWay::Pull { .. } | CopyWay::Local if args.no_target_directory => {
            without_slashes(&route.target)
        }
        // A slash has a symlink of the user's own followed.
        CopyWay::Pull { .. } | CopyWay::Local => &route.target,
    };
    Transfer {
        direction,
        sources: route.sources.iter().map(bytes).collect(),
        target: Bytes::copy_from_slice(target),
        options: TransferOptions {
            must_be_dir: !args.no_target_directory
                && route::must_be_dir(&route.target, route.sources.len()),
            force: args.force,
            fsync: args.fsync,
            keep_dirlinks: args.keep_dirlinks,
            no_target_dir: args.no_target_directory,
            copy: Some(copy_id(route)),
            follow_named: !(args.no_dereference || args.archive),
            no_growing: args.no_growing,
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
    }
}

/// The same for every run of one command by one user, from whatever directory, and for no other.
fn copy_id(route: &CopyRoute) -> CopyId {
    let there = |path: &Vec<u8>| without_slashes(path).to_vec();
    let here = |path: &Vec<u8>| local_part(path);
    let is_pull = matches!(route.way, CopyWay::Pull { .. });
    let is_push = matches!(route.way, CopyWay::Push { .. });
    let daemon = route.way.daemon();
    let mut parts = vec![
        route.way.name().as_bytes().to_vec(),
        daemon
            .map_or_else(String::new, DaemonName::to_string)
            .into(),
    ];
    let sources = route.sources.iter();
    parts.extend(sources.map(|source| if is_pull { there(source) } else { here(source) }));
    let target = &route.target;
    parts.push(if is_push { there(target) } else { here(target) });
    engine::copy_id(parts.iter().map(Vec::as_slice))
}

/// `must_be_dir` stands for them.
fn without_slashes(path: &[u8]) -> &[u8] {
    let end = path
        .iter()
        .rposition(|&b| b != b'/')
        .map_or(path.len().min(1), |at| at + 1);
    &path[..end]
}

/// Threads that have the lanes of a copy.
fn workers(args: &CpArgs) -> usize {
    let each = || match args.clear {
        // These have one worker, whatever there is.
        true => 1,
        false => args.lanes.lanes().min(one_per_core()),
    };
    args.workers.map_or_else(each, usize::from)
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
    fn a_copy_is_the_same_however_it_is_typed() {
        let id = |source: &str, target: &str| {
            copy_id(&CopyRoute::parse(&[source.into()], &target.into()).unwrap())
        };
        let here = std::env::current_dir().unwrap();
        let full = here.join("a").into_os_string().into_string().unwrap();
        assert_eq!(id("a", "landro://h/b"), id(&full, "landro://h/b/"));
        assert_eq!(id("./a/", "b"), id("a", "./b"));
        let all = [
            id("a", "b"),
            id("b", "a"),
            id("a", "landro://h/b"),
            id("a", "landro://g/b"),
            id("a", "landro://h/c"),
            id("landro://h/a", "b"),
            id("landro://h/b", "a"),
        ];
        for (at, one) in all.iter().enumerate() {
            assert!(!all[..at].contains(one), "{at}");
        }
    }
}
