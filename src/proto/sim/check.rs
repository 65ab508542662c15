//! Compares a destination with its source entry by entry: identical, untouched, never anything in
//! between.

use std::collections::{BTreeMap, BTreeSet};

use super::disk::{Body, Disk, Ino};
use crate::proto::fs::{DIRECTORY_MODE, FILE_MODE, UNFINISHED_MODE};
use crate::proto::{Kind, Totals};

/// How strict to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strictness {
    /// Everything is resolved, and as it must be.
    Exact,
    /// As exact, but any file or directory may have failed for lack of space.
    Full,
    /// Stopped half-way: each entry is whole or untouched.
    Partial,
}

/// A source directory's content against a destination directory before and after.
pub struct Check<'a> {
    pub source: &'a Disk,
    pub before: &'a Disk,
    pub after: &'a Disk,
    /// The receiver's force flag.
    pub force: bool,
    pub strictness: Strictness,
    /// Files that changed meanwhile, with the content they have now if they are still there: by
    /// directory, name.
    pub changed: BTreeMap<(Ino, Vec<u8>), Option<Vec<u8>>>,
    /// The directory whose children are the sources, if they are.
    pub named_in: Option<Ino>,
    pub found: Found,
}

/// What was found, in the terms of `Totals`.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Found {
    pub files: u64,
    pub bytes: u64,
    pub directories: u64,
    pub symlinks: u64,
    pub skipped: u64,
    pub failed: u64,
    /// Untouched, for it matched at first, or because it changed: skipped, failed, or never seen.
    pub unsure: u64,
    /// A directory failed: what lay below may be counted or not.
    pub pruned: bool,
}

impl Check<'_> {
    /// All of `source_dir`'s children, which went into a destination directory under their own
    /// names.
    pub fn children(
        &mut self,
        source_dir: Ino,
        before_dir: Option<Ino>,
        after_dir: Ino,
        at: &[u8],
    ) {
        let names = |disk: &Disk, dir: Option<Ino>| -> BTreeSet<Vec<u8>> {
            dir.and_then(|dir| disk.children(dir))
                .into_iter()
                .flat_map(|c| c.keys().cloned())
                .collect()
        };
        let sources = names(self.source, Some(source_dir));
        let before = names(self.before, before_dir);
        let after = names(self.after, Some(after_dir));
        for name in before.union(&after).filter(|name| !sources.contains(*name)) {
            let was = before_dir.and_then(|dir| self.before.child(dir, name));
            let is = self.after.child(after_dir, name);
            assert_eq!(
                was,
                is,
                "{} has nothing to do with the sources",
                show(at, name)
            );
        }
        for name in sources {
            let source = self.source.child(source_dir, &name).expect("just listed");
            let was = before_dir.and_then(|dir| self.before.child(dir, &name));
            let is = self.after.child(after_dir, &name);
            let path = [at, b"/", &name[..]].concat();
            self.entry((source_dir, &name), source, was, is, &path);
        }
    }

    /// One source and what stands (stood) in its place. `key` is where the source lies.
    pub fn entry(
        &mut self,
        key: (Ino, &[u8]),
        source: Ino,
        was: Option<Ino>,
        is: Option<Ino>,
        path: &[u8],
    ) {
        match self.source.meta(source).kind {
            Kind::Special => {
                assert_eq!(
                    was,
                    is,
                    "{}: a special file's place was touched",
                    show(path, b"")
                );
                self.found.failed += u64::from(self.named_in == Some(key.0));
            }
            Kind::Directory => self.directory(key, source, was, is, path),
            Kind::File | Kind::Symlink => self.leaf(key, source, was, is, path),
        }
    }

    /// Whether the receiver has no reason to want what stands there replaced.
    fn looks_same(&self, source: Ino, was: Ino) -> bool {
        let (meta, there) = (self.source.meta(source), self.before.meta(was));
        let content = match (&self.source.node(source).body, &self.before.node(was).body) {
            (Body::Symlink(target), Body::Symlink(other)) => target == other,
            _ => meta.size_bytes == there.size_bytes && !self.before.doubtful.contains(&was),
        };
        content && (meta.kind, meta.mtime) == (there.kind, there.mtime)
    }

    fn leaf(
        &mut self,
        key: (Ino, &[u8]),
        source: Ino,
        was: Option<Ino>,
        is: Option<Ino>,
        path: &[u8],
    ) {
        let meta = self.source.meta(source);
        let text = show(path, b"");
        let was_meta = was.map(|ino| self.before.meta(ino));
        let matches = was.is_some_and(|ino| self.looks_same(source, ino));
        let changed = self.changed.get(&(key.0, key.1.to_vec())).cloned();
        if matches && !self.force && (changed.is_none() || was == is) {
            assert_eq!(was, is, "{text}: matched and was replaced");
            if changed.is_some() {
                self.found.unsure += 1;
                return;
            }
            self.found.skipped += u64::from(self.strictness != Strictness::Partial);
            return;
        }
        let blocked = was_meta.is_some_and(|was| was.kind == Kind::Directory);
        let must_fail = blocked || self.is_faulty(key.1, source);
        if was == is {
            let may = must_fail || changed.is_some() || self.strictness != Strictness::Exact;
            assert!(may, "{text}: is not there ({meta:?}, before: {was_meta:?})");
            self.found.failed += 1;
            return;
        }
        assert!(!must_fail, "{text}: is there and could not be");
        let is = is.unwrap_or_else(|| panic!("{text}: was removed"));
        let (node, got) = (self.after.node(is), self.after.meta(is));
        let same = match (&self.source.node(source).body, &node.body) {
            (Body::File(a), Body::File(b)) => {
                a == b && (meta.mode & FILE_MODE, meta.mtime) == (got.mode, got.mtime)
            }
            (Body::Symlink(a), Body::Symlink(b)) => a == b && meta.mtime == got.mtime,
            _ => false,
        };
        let other = match (&changed, &node.body) {
            (Some(Some(other)), Body::File(data)) => other == data,
            _ => false,
        };
        assert!(same || other, "{text}: differs ({meta:?}, got {got:?})");
        match meta.kind {
            Kind::File => {
                self.found.files += 1;
                self.found.bytes += got.size_bytes;
            }
            Kind::Symlink => self.found.symlinks += 1,
            Kind::Directory | Kind::Special => {}
        }
    }

    fn directory(
        &mut self,
        key: (Ino, &[u8]),
        source: Ino,
        was: Option<Ino>,
        is: Option<Ino>,
        path: &[u8],
    ) {
        let text = show(path, b"");
        let was_kind = was.map(|ino| self.before.meta(ino).kind);
        if self.after.faults.unwritable.contains(key.1) && was != is {
            panic!("{text}: was made and could not be");
        }
        let blocked = was_kind.is_some_and(|kind| kind != Kind::Directory)
            || self.after.faults.unwritable.contains(key.1);
        if blocked {
            assert_eq!(was, is, "{text}: is in the way and was touched");
            self.found.failed += 1;
            self.found.pruned = true;
            return;
        }
        if self.source.faults.unreadable.contains(key.1) {
            let made = is.is_some_and(|ino| self.after.children(ino).is_some());
            assert!(was == is || made, "{text}: cannot be listed, what is this");
            self.found.failed += 1;
            self.found.pruned = true;
            return;
        }
        let Some(is) = is else {
            assert_eq!(
                self.strictness,
                Strictness::Partial,
                "{text}: directory is missing"
            );
            return;
        };
        let (want, got) = (self.source.meta(source), self.after.meta(is));
        assert_eq!(got.kind, Kind::Directory, "{text}");
        if self.strictness != Strictness::Partial {
            assert_eq!(
                (got.mode, got.mtime),
                (self.expected_mode(was, want.mode, got.mode), want.mtime),
                "{text}: mode and mtime of the directory"
            );
            self.found.directories += 1;
        }
        self.children(source, was, is, path);
    }

    /// A directory that was there keeps its mode, unless an earlier session did not come to set it;
    /// a new one has what its source has, and setgid if that was handed down to it.
    fn expected_mode(&self, was: Option<Ino>, source: u32, got: u32) -> u32 {
        const SETGID: u32 = 0o2000;
        let before = was.map(|ino| self.before.meta(ino).mode);
        match before.filter(|mode| mode & !SETGID != UNFINISHED_MODE) {
            Some(before) => before,
            None => source & DIRECTORY_MODE | got & SETGID,
        }
    }

    /// Whether a rule of the faults makes this leaf fail.
    fn is_faulty(&self, name: &[u8], source: Ino) -> bool {
        if self.after.faults.unwritable.contains(name) {
            return true;
        }
        let faults = &self.source.faults;
        let unreadable = faults.unreadable.contains(name) || faults.broken.contains(name);
        self.source.meta(source).kind == Kind::File && unreadable
    }

    /// The sums the client reports must be the sums found.
    pub fn compare(&self, totals: &Totals) {
        let found = &self.found;
        let told = (
            totals.files,
            totals.bytes,
            totals.directories,
            totals.symlinks,
        );
        let seen = (found.files, found.bytes, found.directories, found.symlinks);
        assert_eq!(
            told, seen,
            "files, bytes, directories, symlinks: told and found ({found:?})"
        );
        let skipped = found.skipped..=found.skipped + found.unsure;
        assert!(
            skipped.contains(&totals.skipped),
            "{} told to be skipped, {found:?}",
            totals.skipped
        );
        match (found.pruned, self.changed.is_empty()) {
            (false, true) => assert_eq!(totals.errors, found.failed, "errors told and found"),
            (true, _) => assert!(totals.errors >= 1, "no errors told, {} found", found.failed),
            // A source that vanished before it was listed is no error: it was never there.
            (false, false) => {
                assert!(
                    totals.errors <= found.failed + found.unsure,
                    "{} errors told",
                    totals.errors
                )
            }
        }
    }
}

/// A path for people.
fn show(at: &[u8], name: &[u8]) -> String {
    format!("{}/{}", at.escape_ascii(), name.escape_ascii())
}
