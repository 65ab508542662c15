//! File systems that take two names for one (by case, by how letters are composed): what stands at
//! a name may be another's.
//!
//! A second name must not replace what the first one brought, in this run or in the next. So what
//! stands at a name counts as its own only where the directory lists that very name. Directories
//! that tell names apart are not listed: one look at the name in the other case tells.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use bytes::Bytes;
use landro_sys::{DirEntry, FileDone, FileOp};

use super::{DiskError, Files, descriptors};
use crate::ids::{DirId, Name};
use crate::proto::Meta;
use crate::proto::errno::ENOENT;

/// Names remembered of one directory, as hashes: 4 MiB of the receiver's memory. A larger one that
/// takes two names for one is listed for each name that is there already.
const NAMES_MAX: usize = 1 << 18;

/// Names asked for at a time.
const LIST_NAMES: usize = 1024;

/// Names that are looked up, to see which of them a name is taken for.
const LOOKED_UP_MAX: usize = 4096;

/// How often they are, before the error names nobody.
const LOOKS: usize = 3;

/// Stands for a spelling that may be any other one.
pub(super) const ANY_SPELLING: &[u8] = &[0xff];

/// How a directory of a destination tells names apart.
pub enum DirNames {
    /// Each by its bytes; by case for certain, and letters of two compositions are looked at.
    Exact,
    /// Not for certain: these are there. None: too many to remember.
    Listed(Option<DirListing>),
}

/// Names of a directory, as keyed hashes.
#[derive(Default)]
pub struct DirListing {
    names: HashSet<u64>,
    hash: RandomState,
}

impl DirListing {
    fn add(&mut self, name: &[u8]) {
        self.names.insert(self.hash.hash_one(name));
    }

    fn has(&self, name: &[u8]) -> bool {
        self.names.contains(&self.hash.hash_one(name))
    }
}

impl DirNames {
    /// Something was given a name.
    pub fn add(&mut self, name: &Name) {
        if let DirNames::Listed(listed) = self {
            if let Some(listing) = listed {
                listing.add(name.as_bytes());
            }
            listed.take_if(|listing| listing.names.len() > NAMES_MAX);
        }
    }
}

/// Keeps others of this session from giving a name while one that may be the same is looked for.
pub struct Naming<'a> {
    files: &'a Files,
    key: (DirId, Vec<u8>),
}

impl Drop for Naming<'_> {
    fn drop(&mut self) {
        self.files.space.end_naming(&self.key);
    }
}

/// What a listing says of a name.
enum Spelt {
    AsGiven,
    Otherwise(Bytes),
    /// Neither it nor what stands for it, as far as the listing tells.
    Nowhere,
}

impl Files {
    /// Where the file system cannot give a name that nothing has in one step (NFS and FUSE know no
    /// RENAME_NOREPLACE), two entries with two spellings of one name come one after the other.
    pub(super) async fn naming(&self, dir: DirId, name: &Name) -> Naming<'_> {
        // How letters are composed and folded is not looked into: `ß` may be `ss`.
        let spelling = match name.as_bytes().is_ascii() {
            true => name.as_bytes().to_ascii_lowercase(),
            false => ANY_SPELLING.to_vec(),
        };
        let key = (dir, spelling);
        while !self.space.begin_naming(&key) {
            descriptors::pause(self).await;
        }
        Naming { files: self, key }
    }

    /// Something stands at a name that is to be placed: None, if it is of that name; else what its
    /// name is.
    pub(super) async fn taken_by(
        &self,
        dir: DirId,
        fd: &Arc<OwnedFd>,
        name: &Name,
        found: &Meta,
    ) -> Result<Option<Bytes>, DiskError> {
        let may_compose = self.may_compose(dir, name);
        let known = self.space.with_names(dir, |names| match names {
            Some(DirNames::Exact) if !may_compose => Some(true),
            None | Some(DirNames::Exact) => None,
            Some(DirNames::Listed(Some(listing))) => Some(listing.has(name.as_bytes())),
            Some(DirNames::Listed(None)) => Some(false),
        });
        let is_own = match known {
            Some(is_own) => is_own,
            None => self.tells_apart(dir, fd, name).await?,
        };
        if is_own {
            return Ok(None);
        }
        self.owner_of(dir, fd, name, found).await
    }

    /// Whether a name is one of its own here, without a listing.
    async fn tells_apart(
        &self,
        dir: DirId,
        fd: &Arc<OwnedFd>,
        name: &Name,
    ) -> Result<bool, DiskError> {
        if !self.may_fold(dir, name) {
            return Ok(true);
        }
        let Some(other) = other_case(name.as_bytes()) else {
            return Ok(false);
        };
        let mut looked = self.lstat(fd, &other).await;
        if matches!(looked, Err(DiskError { errno: ENOENT, .. })) {
            // Looked at twice: while a file is renamed, a listing may miss it, by which some file
            // systems in user space find it.
            looked = self.lstat(fd, &other).await;
        }
        match looked {
            Ok(_) => Ok(false),
            // Letters may be composed in two ways, which case says nothing about.
            Err(DiskError { errno: ENOENT, .. }) if self.may_compose(dir, name) => Ok(false),
            Err(DiskError { errno: ENOENT, .. }) => {
                self.space.set_names(dir, DirNames::Exact);
                Ok(true)
            }
            Err(error) => Err(error),
        }
    }

    /// Whether a name is one of its own, as far as was found out.
    pub(super) fn is_known_exact(&self, dir: DirId, name: &Name) -> bool {
        let is_exact = |names: Option<&mut DirNames>| matches!(names, Some(DirNames::Exact));
        !self.may_compose(dir, name) && self.space.with_names(dir, is_exact)
    }

    /// Whether a name could be taken for another one.
    pub(super) fn may_fold(&self, dir: DirId, name: &Name) -> bool {
        other_case(name.as_bytes()).is_some() || self.may_compose(dir, name)
    }

    /// Whether letters that are composed in two ways may be one: the file systems of the kernel
    /// that do that fold cases, too.
    fn may_compose(&self, dir: DirId, name: &Name) -> bool {
        !name.as_bytes().is_ascii()
            && self
                .space
                .footing(dir)
                .is_some_and(|footing| footing.volume.is_unknown())
    }

    /// What stands at a name, by the directory's listing; the names of which are remembered.
    pub(super) async fn owner_of(
        &self,
        dir: DirId,
        fd: &Arc<OwnedFd>,
        name: &Name,
        found: &Meta,
    ) -> Result<Option<Bytes>, DiskError> {
        // What came a moment ago may be missing in the first.
        for _ in 0..2 {
            match self.spelt(dir, fd, name, found).await? {
                Spelt::AsGiven => return Ok(None),
                Spelt::Otherwise(by) => return Ok(Some(by)),
                Spelt::Nowhere => {}
            }
            match self.lstat(fd, name.as_bytes()).await {
                Ok(_) => {}
                Err(DiskError { errno: ENOENT, .. }) => return Ok(None),
                Err(error) => return Err(error),
            }
        }
        // It stands there, and is not listed: inode numbers of listings are made up here, and how
        // letters are folded is for the file system to know.
        Ok(Some(self.looked_up(fd, name).await?))
    }

    /// The name in a directory whose look-up finds what another name's finds.
    async fn looked_up(&self, fd: &Arc<OwnedFd>, name: &Name) -> Result<Bytes, DiskError> {
        let fd = self.open_dir_below(fd, b"").await?;
        // Again, for what has the name may be replaced between two looks (`--force`).
        for _ in 0..LOOKS {
            if let Some(by) = self.look_for(&fd, name).await? {
                return Ok(by);
            }
        }
        Ok(Bytes::from_static(b"another name"))
    }

    async fn look_for(&self, fd: &Arc<OwnedFd>, name: &Name) -> Result<Option<Bytes>, DiskError> {
        let (mut cursor, mut looked_up) = (Some(0), 0);
        while let Some(at) = cursor
            && looked_up < LOOKED_UP_MAX
        {
            let (entries, next) = self.names_from(fd, at).await?;
            for entry in entries {
                // Two of ASCII letters alone differ in case, which the listing tells.
                if entry.name.is_ascii() && name.as_bytes().is_ascii() {
                    continue;
                }
                looked_up += 1;
                let found = match self.lstat(fd, name.as_bytes()).await {
                    Ok(found) => found.object(),
                    // It is being replaced just now.
                    Err(DiskError { errno: ENOENT, .. }) => return Ok(None),
                    Err(error) => return Err(error),
                };
                let there = self.lstat(fd, &entry.name).await;
                if there.is_ok_and(|there| there.object() == found) {
                    return Ok(Some(Bytes::from(entry.name)));
                }
            }
            cursor = next;
        }
        Ok(None)
    }

    async fn names_from(
        &self,
        dir: &Arc<OwnedFd>,
        cursor: u64,
    ) -> Result<(Vec<DirEntry>, Option<u64>), DiskError> {
        let op = FileOp::List {
            file: dir.clone(),
            cursor,
            max: LIST_NAMES,
        };
        match self.call("getdents64", op).await? {
            FileDone::Listed { entries, next } => Ok((entries, next)),
            other => unreachable!("getdents64 answered {other:?}"),
        }
    }

    async fn spelt(
        &self,
        dir: DirId,
        fd: &Arc<OwnedFd>,
        name: &Name,
        found: &Meta,
    ) -> Result<Spelt, DiskError> {
        // A descriptor of its own: listing keeps its position in the open file description, and
        // several names may be looked for at a time.
        let fd = self.open_dir_below(fd, b"").await?;
        let mut listing = Some(DirListing::default());
        let (mut cursor, mut spelt) = (Some(0), Spelt::Nowhere);
        while let Some(at) = cursor {
            let (entries, next) = self.names_from(&fd, at).await?;
            for entry in entries {
                let is_other = entry.ino == found.inode || are_one(&entry.name, name.as_bytes());
                if entry.name == name.as_bytes() {
                    spelt = Spelt::AsGiven;
                } else if is_other && !matches!(spelt, Spelt::AsGiven) {
                    spelt = Spelt::Otherwise(Bytes::copy_from_slice(&entry.name));
                }
                if let Some(listing) = &mut listing {
                    listing.add(&entry.name);
                }
                listing.take_if(|listing| listing.names.len() > NAMES_MAX);
            }
            cursor = next;
        }
        let both_are_there = |listing: &DirListing| {
            let other = other_case(name.as_bytes());
            other.is_some_and(|other| listing.has(&other)) && !self.may_compose(dir, name)
        };
        let names = match listing {
            Some(listing) if matches!(spelt, Spelt::AsGiven) && both_are_there(&listing) => {
                DirNames::Exact
            }
            listing => DirNames::Listed(listing),
        };
        self.space.set_names(dir, names);
        Ok(spelt)
    }
}

/// Whether two names differ in nothing but case.
fn are_one(one: &[u8], other: &[u8]) -> bool {
    match (std::str::from_utf8(one), std::str::from_utf8(other)) {
        (Ok(one), Ok(other)) => one.to_lowercase() == other.to_lowercase(),
        _ => one.eq_ignore_ascii_case(other),
    }
}

/// The name in the other case. None where it has no letters with two cases. Only ASCII letters
/// change if there are any: some file systems know no others.
fn other_case(name: &[u8]) -> Option<Vec<u8>> {
    if name.iter().any(u8::is_ascii_alphabetic) {
        let other = |byte: &u8| match byte.is_ascii_lowercase() {
            true => byte.to_ascii_uppercase(),
            false => byte.to_ascii_lowercase(),
        };
        return Some(name.iter().map(other).collect());
    }
    let name = std::str::from_utf8(name).ok()?;
    let other: String = if name.chars().any(char::is_lowercase) {
        name.to_uppercase()
    } else {
        name.to_lowercase()
    };
    (other != name && other.len() <= crate::ids::NAME_MAX_BYTES).then(|| other.into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_another_case_or_none() {
        for (name, other) in [
            ("readme.TXT", Some("README.txt")),
            ("2024-01", None),
            ("a\u{e9}", Some("A\u{e9}")),
            ("\u{e9}", Some("\u{c9}")),
            ("\u{4e2d}", None),
        ] {
            let other = other.map(|other| other.as_bytes().to_vec());
            assert_eq!(other_case(name.as_bytes()), other, "{name}");
        }
        assert_eq!(other_case(b"\xffa"), Some(b"\xffA".to_vec()));
        assert_eq!(other_case(b"\xff\xfe"), None);
        assert!(are_one("\u{c9}A".as_bytes(), "\u{e9}a".as_bytes()));
        assert!(!are_one(b"a", b"b") && are_one(b"\xffA", b"\xffa"));
    }
}
