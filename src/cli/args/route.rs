//! What one `cp` moves, from where to where: the rules between its arguments.

use std::collections::HashSet;
use std::ffi::OsString;

use super::url::{DaemonName, Operand, Url, UrlError};
use crate::cli::escape;

/// What one `cp` moves.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CopyRoute {
    pub way: CopyWay,
    /// Paths on the side that sends.
    pub sources: Vec<Vec<u8>>,
    /// A path on the side that receives.
    pub target: Vec<u8>,
}

/// Which way the files go.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CopyWay {
    Push { to: DaemonName },
    Pull { from: DaemonName },
    Local,
}

impl CopyWay {
    /// For the JSON `start` event.
    pub fn name(&self) -> &'static str {
        match self {
            CopyWay::Push { .. } => "push",
            CopyWay::Pull { .. } => "pull",
            CopyWay::Local => "local",
        }
    }

    pub fn daemon(&self) -> Option<&DaemonName> {
        match self {
            CopyWay::Push { to: daemon } | CopyWay::Pull { from: daemon } => Some(daemon),
            CopyWay::Local => None,
        }
    }
}

/// Most remote sources of one command: they travel in one message.
const MAX_REMOTE_SOURCES: usize = 1024;

/// Why the arguments of one `cp` do not go together.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RouteError {
    #[error(transparent)]
    Url(#[from] UrlError),
    #[error("{0}: and where to? Write landro cp SRC... DST")]
    NoDestination(String),
    #[error("both sides are remote; copy to this host first, or run landro on one of the two")]
    BothRemote,
    #[error("local and remote sources in one command; use one command for each")]
    MixedSources,
    #[error("sources on {0} and {1}; use one command for each host")]
    TwoHosts(String, String),
    #[error("more than {MAX_REMOTE_SOURCES} remote sources; name the directory they are in")]
    TooManySources,
    #[error(
        "{0} stands for what is in it, and goes with no other source; use one command for each"
    )]
    Content(String),
    #[error("--no-target-directory takes one source, which gets the name of the destination")]
    OneName,
    #[error("--lanes adds lanes over TCP, and --lane-kinds quic has none; leave one of them out")]
    NothingToAdd,
    #[error("lanes in the clear go over TCP, which --lane-kinds quic leaves out")]
    NothingInTheClear,
    #[error("two sources are named {0} and would land in the same place; use one command for each")]
    SameName(String),
}

impl CopyRoute {
    /// # Errors
    /// A bad URL, or arguments that do not go together.
    pub fn parse(sources: &[OsString], destination: &OsString) -> Result<CopyRoute, RouteError> {
        let (mut local, mut remote) = (Vec::new(), Vec::new());
        for source in sources {
            match Operand::parse(source)? {
                Operand::Local(path) => local.push(path),
                Operand::Remote(url) => remote.push(url),
            }
        }
        let of_remote = remote.iter().map(|url| &url.path);
        let destination = Operand::parse(destination)?;
        names_differ(local.iter().chain(of_remote).map(Vec::as_slice))?;
        let mut remote = remote.into_iter();
        let Some(first) = remote.next() else {
            return Ok(match destination {
                Operand::Remote(Url { host, path }) => CopyRoute {
                    way: CopyWay::Push { to: host },
                    sources: local,
                    target: path,
                },
                Operand::Local(target) => CopyRoute {
                    way: CopyWay::Local,
                    sources: local,
                    target,
                },
            });
        };
        match destination {
            _ if !local.is_empty() => Err(RouteError::MixedSources),
            Operand::Remote(_) => Err(RouteError::BothRemote),
            Operand::Local(target) => pull(first, remote.as_slice(), target),
        }
    }
}

fn pull(first: Url, others: &[Url], target: Vec<u8>) -> Result<CopyRoute, RouteError> {
    if others.len() >= MAX_REMOTE_SOURCES {
        return Err(RouteError::TooManySources);
    }
    let Url { host: from, path } = first;
    if let Some(other) = others.iter().find(|url| url.host != from) {
        let (one, two) = (from.to_string(), other.host.to_string());
        return Err(RouteError::TwoHosts(one, two));
    }
    let others = others.iter().map(|url| url.path.clone());
    Ok(CopyRoute {
        way: CopyWay::Pull { from },
        sources: std::iter::once(path).chain(others).collect(),
        target,
    })
}

/// Sources land under their own names, in one directory. One without a name stands for its content,
/// of which nobody knows yet whether the others' names are in it.
fn names_differ<'a>(sources: impl Iterator<Item = &'a [u8]>) -> Result<(), RouteError> {
    let mut seen = HashSet::new();
    let sources: Vec<&[u8]> = sources.collect();
    for source in &sources {
        match last_name(source) {
            None if sources.len() > 1 => {
                let shown = if source.is_empty() { b"/" } else { *source };
                return Err(RouteError::Content(escape::name(shown)));
            }
            Some(name) if !seen.insert(name) => {
                return Err(RouteError::SameName(escape::name(name)));
            }
            Some(_) | None => {}
        }
    }
    Ok(())
}

/// The name a source has by its path.
fn last_name(path: &[u8]) -> Option<&[u8]> {
    let last = path
        .rsplit(|&byte| byte == b'/')
        .find(|part| !part.is_empty());
    last.filter(|name| !matches!(*name, b"." | b".."))
}

/// Whether sources must land inside the destination: it ends in `/` (or is the root), or there are
/// several.
pub fn must_be_dir(target: &[u8], sources: usize) -> bool {
    sources > 1 || target.is_empty() || target.ends_with(b"/")
}
