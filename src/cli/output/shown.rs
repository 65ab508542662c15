//! Paths of entries as the user would type them: local ones, and those of a daemon as URLs.

use bytes::Bytes;

use crate::cli::args::route::{CopyRoute, CopyWay};
use crate::cli::args::url::DaemonName;
use crate::cli::escape;
use crate::proto::EntryPlace;
use crate::proto::path::{join, own_name};

/// Where one copy comes from and goes to, as it was typed.
pub struct ShownPaths {
    way: CopyWay,
    sources: Vec<ShownSource>,
    target: Vec<u8>,
    /// The sources land inside the target; told once it is known.
    inside: bool,
}

struct ShownSource {
    typed: Bytes,
    /// Under which its entries are told of; empty where it has none.
    name: Bytes,
}

impl ShownPaths {
    pub fn of(route: &CopyRoute) -> ShownPaths {
        let sources = route.sources.iter().map(|typed| {
            let typed = Bytes::copy_from_slice(typed);
            let name = own_name(&typed);
            ShownSource { typed, name }
        });
        ShownPaths {
            way: route.way.clone(),
            sources: sources.collect(),
            target: route.target.clone(),
            inside: true,
        }
    }

    pub fn placed(&mut self, inside: bool) {
        self.inside = inside;
    }

    /// The daemon, if the path at this end of the way is one of its.
    fn daemon(&self, place: EntryPlace) -> Option<&DaemonName> {
        match (&self.way, place) {
            (CopyWay::Push { to }, EntryPlace::Destination) => Some(to),
            (CopyWay::Pull { from }, EntryPlace::Source) => Some(from),
            (CopyWay::Push { .. } | CopyWay::Pull { .. } | CopyWay::Local, _) => None,
        }
    }

    /// The path of an entry at one end of its way.
    pub fn of_entry(&self, place: EntryPlace, path: &[u8]) -> String {
        let path = match place {
            EntryPlace::Source => self.at_source(path),
            EntryPlace::Destination => self.at_destination(path),
        };
        match self.daemon(place) {
            Some(daemon) => daemon.url(&path),
            None => escape::name(&path),
        }
    }

    /// What was asked for as the target.
    pub fn target(&self) -> String {
        match self.daemon(EntryPlace::Destination) {
            Some(daemon) => daemon.url(&self.target),
            None => escape::name(&self.target),
        }
    }

    /// Which side that is; empty where a URL says so, or where there is only one.
    pub fn side(&self, place: EntryPlace) -> &'static str {
        match (&self.way, self.daemon(place)) {
            (CopyWay::Local, _) | (_, Some(_)) => "",
            (CopyWay::Push { .. } | CopyWay::Pull { .. }, None) => "here",
        }
    }

    /// The same for who sees no URL, in JSON.
    pub fn side_in_json(&self, place: EntryPlace) -> Option<&'static str> {
        match (&self.way, self.daemon(place)) {
            (CopyWay::Local, _) => None,
            (_, Some(_)) => Some("server"),
            (_, None) => Some("client"),
        }
    }

    /// Nothing has moved for `silent`, perhaps since this file was begun.
    pub fn waits(&self, silent: String, file: Option<&str>) -> String {
        let whom = match &self.way {
            CopyWay::Push { to: daemon } | CopyWay::Pull { from: daemon } => daemon.url(b""),
            CopyWay::Local => "the disk".to_owned(),
        };
        let file = file.map_or_else(String::new, |file| format!(" with {file}"));
        format!("stalled since {silent}, waits for {whom}{file}")
    }

    /// A source that was not found is told of as it was typed.
    fn at_source(&self, path: &[u8]) -> Bytes {
        let first = path.split(|&byte| byte == b'/').next().unwrap_or_default();
        let found = |wanted: &[u8]| self.sources.iter().find(|source| source.name == wanted);
        if let Some(source) = self.sources.iter().find(|source| source.typed == path) {
            return source.typed.clone();
        }
        match (found(first), found(b"")) {
            (Some(source), _) => join(dir_of(&source.typed), path),
            (None, Some(nameless)) if path == b"." => nameless.typed.clone(),
            (None, Some(nameless)) => join(content_of(&nameless.typed), path),
            (None, None) => Bytes::copy_from_slice(path),
        }
    }

    fn at_destination(&self, path: &[u8]) -> Bytes {
        // The content of a source without a name is told of by its own names.
        let is_content = self.sources.iter().any(|source| source.name.is_empty());
        let below = match path.iter().position(|&byte| byte == b'/') {
            _ if path == b"." => b"",
            _ if self.inside || is_content => path,
            Some(slash) => &path[slash + 1..],
            None => b"",
        };
        match below {
            b"" => Bytes::copy_from_slice(&self.target),
            below if self.target == b"/" => Bytes::from([b"/", below].concat()),
            below => join(trimmed(&self.target), below),
        }
    }
}

/// Without slashes at its end, unless there is nothing else.
fn trimmed(path: &[u8]) -> &[u8] {
    let end = path.iter().rposition(|&byte| byte != b'/');
    &path[..end.map_or(0, |last| last + 1)]
}

/// The directory whose content was named, by `DIR/.`, too.
fn content_of(path: &[u8]) -> &[u8] {
    let path = trimmed(path);
    path.strip_suffix(b"/.").map_or(path, trimmed)
}

/// What a path's last component lies in, as typed.
fn dir_of(path: &[u8]) -> &[u8] {
    let path = trimmed(path);
    let slash = path.iter().rposition(|&byte| byte == b'/');
    slash.map_or(b"", |slash| &path[..slash])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(args: &[&str], inside: bool) -> ShownPaths {
        let (target, sources) = args.split_last().unwrap();
        let sources: Vec<_> = sources.iter().map(Into::into).collect();
        let mut shown = ShownPaths::of(&CopyRoute::parse(&sources, &target.into()).unwrap());
        shown.placed(inside);
        shown
    }

    #[test]
    fn paths_are_shown_as_they_were_typed() {
        use EntryPlace::{Destination, Source};
        let (push, pull) = ("landro://h/in/", "landro://h/x/tree");
        for (args, inside, place, path, expected) in [
            (
                &["/x/tree", "new"][..],
                false,
                Source,
                "tree/a",
                "/x/tree/a",
            ),
            (&["/x/tree", "new"], false, Destination, "tree/a", "new/a"),
            (&["/x/tree", "new"], false, Destination, "tree", "new"),
            (&["x/tree/", "d"], true, Destination, "tree/a", "d/tree/a"),
            (&["x/tree/", "d"], true, Source, "tree", "x/tree"),
            (
                &["src/nosuch", push],
                true,
                Source,
                "src/nosuch",
                "src/nosuch",
            ),
            (
                &["a", push],
                true,
                Destination,
                "a/b c",
                "landro://h/in/a/b%20c",
            ),
            (&[pull, "."], true, Source, "tree/a", "landro://h/x/tree/a"),
            (&[pull, "."], true, Destination, "tree/a", "./tree/a"),
            (&[pull, "/"], true, Destination, "tree", "/tree"),
            (
                &["landro://h:5/", "d"],
                true,
                Source,
                "a/b",
                "landro://h:5/a/b",
            ),
            (&["x/tree/.", "d"], true, Source, "a", "x/tree/a"),
            (&["landro://h/", "d"], true, Source, ".", "landro://h/"),
            (&["landro://h/", "d"], true, Destination, ".", "d"),
            (&["x/.", "d"], false, Destination, "a", "d/a"),
            (&["x/.", "d"], false, Destination, "b/c", "d/b/c"),
        ] {
            let shown = shown(args, inside).of_entry(place, path.as_bytes());
            assert_eq!(shown, expected, "{args:?} {path}");
        }
    }

    #[test]
    fn sides() {
        let push = shown(&["a", "landro://h/"], true);
        assert_eq!(push.side(EntryPlace::Source), "here");
        assert_eq!(push.side(EntryPlace::Destination), "");
        assert_eq!(push.side_in_json(EntryPlace::Destination), Some("server"));
        let local = shown(&["a", "b"], true);
        assert_eq!(local.side(EntryPlace::Source), "");
        assert_eq!(local.side_in_json(EntryPlace::Source), None);
    }
}
