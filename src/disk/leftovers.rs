//! Unfinished files of all transfers in a tree: found, and removed when nobody went on with them
//! for long.
//!
//! Plain calls, made by a thread or a command of its own. Only what bears our mark is touched, and
//! of that nothing that a session has locked.

use bytes::Bytes;

use super::local::{Side, first_poll};
use super::marks::Unfinished;
use super::names::{TemporaryName, Use};
use super::publish::unlink;
use super::source::meta_of;
use super::{DiskDone, DiskError, DiskOp, Files};
use crate::ids::{DirId, Name};
use crate::proto::chunk::MAX_DEPTH;
use crate::proto::errno::ENOMEM;
use crate::proto::path::join;
use crate::proto::{Kind, Listed, Meta};

/// Names asked for at a time.
const LIST_ENTRIES: usize = 256;

/// A file of a transfer that was not finished.
#[derive(Clone, Debug)]
pub struct Leftover {
    /// What it was to become, from where the search began.
    pub path: Bytes,
    /// What is there of it, and when that was written last.
    pub meta: Meta,
}

/// What became of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Somebody wrote it not long ago, or nothing is to be removed.
    Kept,
    /// A session works on it.
    Busy,
    /// It would be removed, were this no rehearsal.
    Doomed,
    Removed,
    Failed(DiskError),
}

/// What a search comes across.
#[derive(Debug)]
pub enum Sight {
    File(Leftover, Fate),
    /// A directory that cannot be read, or not all of it.
    Unreadable(Bytes, DiskError),
}

/// What is to be removed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Removal {
    Nothing,
    /// What was last written before this time, in seconds since the epoch.
    WrittenBefore {
        seconds: i64,
        rehearsal: bool,
    },
}

/// One search.
struct LeftoverSearch<'a> {
    side: Side,
    removal: Removal,
    /// Told what is found; false ends the search.
    on: &'a mut dyn FnMut(Sight) -> bool,
    dirs: Vec<SearchedDir>,
    last_dir: u32,
}

struct SearchedDir {
    id: DirId,
    path: Bytes,
    /// Of one batch of names, those that are looked at or into.
    pending: Vec<Listed>,
    ended: bool,
}

/// Looks through a directory and all below it on any file system, never through a symlink.
///
/// # Errors
/// When the directory itself cannot be opened, or there is no memory to begin with.
pub fn search(
    path: &[u8],
    removal: Removal,
    on: &mut dyn FnMut(Sight) -> bool,
) -> Result<(), DiskError> {
    let side = Side::new().map_err(|error| DiskError {
        call: "mmap",
        errno: error.raw_os_error().unwrap_or(ENOMEM),
    })?;
    // A path without a name of its own is the directory itself.
    let path = Bytes::from([path, b"/."].concat());
    side.run(DiskOp::ResolveSource {
        path,
        follow: false,
        dir: DirId(0),
    })?;
    let mut search = LeftoverSearch {
        side,
        removal,
        on,
        dirs: Vec::new(),
        last_dir: 0,
    };
    search.enter(DirId(0), None, Bytes::new())?;
    while search.go_on() {}
    Ok(())
}

impl LeftoverSearch<'_> {
    fn enter(&mut self, parent: DirId, name: Option<Name>, path: Bytes) -> Result<(), DiskError> {
        self.last_dir = self.last_dir.wrapping_add(1);
        let id = DirId(self.last_dir);
        let cmd = DiskOp::OpenDir {
            parent,
            name,
            dir: id,
        };
        self.side.run(cmd)?;
        self.dirs.push(SearchedDir {
            id,
            path,
            pending: Vec::new(),
            ended: false,
        });
        Ok(())
    }

    /// One step. False: that was all.
    fn go_on(&mut self) -> bool {
        let depth = self.dirs.len();
        let Some(dir) = self.dirs.last_mut() else {
            return false;
        };
        let id = dir.id;
        match dir.pending.pop() {
            Some(Listed { name, found: Ok(_) }) => {
                let path = join(&dir.path, &name);
                let (Ok(name), true) = (Name::new(name), depth < MAX_DEPTH) else {
                    return true;
                };
                match self.enter(id, Some(name), path.clone()) {
                    Ok(()) => true,
                    Err(error) => (self.on)(Sight::Unreadable(path, error)),
                }
            }
            Some(Listed { name, .. }) => self.judge(id, &name),
            None if dir.ended => {
                self.dirs.pop();
                // A number that is forgotten; nothing of it can fail.
                let _ = self.side.run(DiskOp::CloseDir { dir: id });
                true
            }
            None => self.list(id),
        }
    }

    fn list(&mut self, id: DirId) -> bool {
        let cmd = DiskOp::List {
            dir: id,
            max_entries: LIST_ENTRIES,
        };
        let listed = self.side.run(cmd);
        let Some(dir) = self.dirs.last_mut() else {
            return false;
        };
        match listed {
            Ok(DiskDone::Listed { entries, end }) => {
                dir.ended = end;
                let is_wanted = |listed: &Listed| match &listed.found {
                    Ok((meta, _)) => meta.kind == Kind::Directory,
                    Err(error) => *error == DiskError::UNFINISHED,
                };
                dir.pending = entries.into_iter().filter(is_wanted).collect();
                true
            }
            Ok(other) => unreachable!("List answered {other:?}"),
            Err(error) => {
                dir.ended = true;
                (self.on)(Sight::Unreadable(dir.path.clone(), error))
            }
        }
    }

    /// A file with our mark.
    fn judge(&mut self, dir: DirId, name: &[u8]) -> bool {
        let at = self
            .dirs
            .last()
            .map_or(Bytes::new(), |dir| dir.path.clone());
        let cmd = DiskOp::LookUnfinished {
            dir,
            name: Bytes::copy_from_slice(name),
        };
        let looked = self.side.run(cmd);
        let alone = first_poll(lstat(self.side.files(), dir, name));
        let removed = match self.removal {
            Removal::Nothing => Ok(Fate::Kept),
            Removal::WrittenBefore { seconds, rehearsal } => {
                let files = self.side.files();
                first_poll(remove(files, dir, name, (seconds, rehearsal)))
            }
        };
        let fate = removed.unwrap_or_else(Fate::Failed);
        let (final_name, meta) = match (looked, alone) {
            (Ok(DiskDone::Unfinished(Some(found))), _) => found,
            // A journal whose part is gone.
            (_, Ok(meta)) if fate != Fate::Kept => (Bytes::copy_from_slice(name), meta),
            // The part tells of its journal.
            _ => return true,
        };
        let path = join(&at, &final_name);
        (self.on)(Sight::File(Leftover { path, meta }, fate))
    }
}

async fn lstat(files: &Files, dir: DirId, name: &[u8]) -> Result<Meta, DiskError> {
    files.lstat(&files.dir(dir).await?, name).await
}

/// Removes one of our files if it is old and nobody works on it, and the journal beside a part
/// before it.
async fn remove(
    files: &Files,
    dir: DirId,
    name: &[u8],
    (written_before, rehearsal): (i64, bool),
) -> Result<Fate, DiskError> {
    let dir = files.dir(dir).await?;
    let Some(of_form) = TemporaryName::parse(name) else {
        return Ok(Fate::Kept);
    };
    let (part, journal) = (of_form.with(Use::Part), of_form.with(Use::Journal));
    // A journal goes with its part; one that is alone has none.
    if of_form.purpose == Use::Journal && files.lstat(&dir, part.to_c().as_bytes()).await.is_ok() {
        return Ok(Fate::Kept);
    }
    let Some(found) = files.unfinished(&dir, name).await? else {
        return Ok(Fate::Kept);
    };
    if !files.lock(&found.file).await? {
        return Ok(Fate::Busy);
    }
    let beside = match of_form.purpose {
        Use::Part => files.unfinished(&dir, journal.to_c().as_bytes()).await?,
        Use::Journal | Use::New => None,
    };
    // Looked at behind the lock: a session may have gone on with it until now, or given it its name
    // and begun another.
    let named = files.lstat(&dir, name).await?;
    if named.object() != meta_of(&files.fstat(&found.file).await?).object() {
        return Ok(Fate::Kept);
    }
    if !is_older(files, &found, written_before).await? {
        return Ok(Fate::Kept);
    }
    if let Some(beside) = &beside
        && !is_older(files, beside, written_before).await?
    {
        return Ok(Fate::Kept);
    }
    if rehearsal {
        return Ok(Fate::Doomed);
    }
    if beside.is_some() {
        unlink(files, &dir, &journal.to_c()).await?;
    }
    // As it is spelt there, where the case of letters does not count.
    unlink(files, &dir, &super::names::c_string(name)?).await?;
    Ok(Fate::Removed)
}

async fn is_older(files: &Files, found: &Unfinished, seconds: i64) -> Result<bool, DiskError> {
    let meta = meta_of(&files.fstat(&found.file).await?);
    // With "<" a file of this very second is not older than 0 s.
    Ok(meta.mtime.seconds <= seconds)
}
