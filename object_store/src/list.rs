//! Objects that are listed: the files of directories, and of those below.

use std::collections::VecDeque;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use landro::{Kind, ListedEntry};
use object_store::path::Path;
use object_store::{ListResult, ObjectMeta, Result as StoreResult};

use crate::daemon::Daemon;
use crate::errors::{TooManyNames, generic, local};
use crate::names::{StoreRoot, below};
use crate::version::FileVersion;

/// Directories that are listed at a time: less than half of what a daemon is asked at once.
const LISTINGS_AHEAD: usize = 3;

/// Names of directories that wait to be listed, and of objects that wait to be taken: those of two
/// of the largest listings that landro keeps.
const NAMES_MAX: usize = 1 << 21;

/// Where directories are.
#[derive(Clone)]
pub(crate) struct ObjectTree {
    pub(crate) daemon: Arc<Daemon>,
    pub(crate) root: StoreRoot,
}

/// What one directory has.
#[derive(Default)]
struct Level {
    objects: Vec<ObjectMeta>,
    directories: Vec<Path>,
}

impl Level {
    /// Symlinks, devices, and names that no path can say, are no objects.
    fn of(prefix: &Path, rows: &[ListedEntry]) -> Level {
        let mut level = Level::default();
        for row in rows {
            let Some(path) = below(prefix, &row.name) else {
                continue;
            };
            match row.kind {
                Kind::File => level.objects.push(FileVersion::of(row).meta(path)),
                Kind::Directory => level.directories.push(path),
                Kind::Symlink | Kind::Special => {}
            }
        }
        let Level {
            objects,
            directories,
        } = &mut level;
        objects.sort_unstable_by(|one, other| one.location.cmp(&other.location));
        directories.sort_unstable();
        level
    }
}

impl ObjectTree {
    /// Where there is no directory, there is nothing.
    async fn level(self, prefix: Path) -> StoreResult<Level> {
        let directory = self.root.directory(&prefix);
        let directory = directory.map_err(|error| local(&prefix, error))?;
        let rows = self.daemon.directory(&directory).await;
        let rows = rows.map_err(|failure| failure.about(&prefix))?;
        Ok(Level::of(&prefix, &rows.unwrap_or_default()))
    }

    pub(crate) async fn list_one(self, prefix: Option<&Path>) -> StoreResult<ListResult> {
        let level = self.level(prefix.cloned().unwrap_or_default()).await?;
        Ok(ListResult {
            common_prefixes: level.directories,
            objects: level.objects,
            extensions: Default::default(),
        })
    }

    pub(crate) fn walk(self, prefix: Option<&Path>) -> ObjectWalk {
        ObjectWalk {
            tree: self,
            waiting: vec![prefix.cloned().unwrap_or_default()],
            running: FuturesUnordered::new(),
            found: VecDeque::new(),
            has_failed: false,
        }
    }
}

/// All objects below a directory, in no order.
pub(crate) struct ObjectWalk {
    tree: ObjectTree,
    waiting: Vec<Path>,
    running: FuturesUnordered<BoxFuture<'static, StoreResult<Level>>>,
    found: VecDeque<ObjectMeta>,
    has_failed: bool,
}

impl ObjectWalk {
    /// Behind an error there is nothing more.
    pub(crate) async fn next(&mut self) -> Option<StoreResult<ObjectMeta>> {
        loop {
            if let Some(object) = self.found.pop_front() {
                return Some(Ok(object));
            }
            if self.has_failed {
                return None;
            }
            while self.running.len() < LISTINGS_AHEAD
                && let Some(directory) = self.waiting.pop()
            {
                let level = self.tree.clone().level(directory);
                self.running.push(Box::pin(level));
            }
            let level = self.running.next().await?;
            if let Err(error) = level.and_then(|level| self.take(level)) {
                self.has_failed = true;
                return Some(Err(error));
            }
        }
    }

    fn take(&mut self, level: Level) -> StoreResult<()> {
        let names = self.waiting.len() + level.directories.len() + level.objects.len();
        if names > NAMES_MAX {
            return Err(generic(TooManyNames(NAMES_MAX)));
        }
        // The first of them is taken next.
        self.waiting.extend(level.directories.into_iter().rev());
        self.found = level.objects.into();
        Ok(())
    }
}
