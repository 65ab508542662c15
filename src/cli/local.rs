//! Copies between local paths: reflink or copy_file_range, with the rules, events and results of a transfer.

use std::ffi::CString;
use std::fs::{self, DirBuilder, File, Metadata, OpenOptions, Permissions, TryLockError};
use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use landro_sys::file::FileOp;
use walkdir::{DirEntry, WalkDir};

use crate::proto::{EntryError, EntryErrorCode, EntryResult, Event, Kind, Outcome, Totals};
use crate::units::TEMPORARY_PREFIX;

use super::args;
use super::escape;

/// One step of a big file: between two of them progress is shown and a signal is noticed.
const STEP_BYTES: u64 = 64 << 20;

/// What is to be copied, and how.
pub struct Job<'a> {
    pub sources: &'a [Vec<u8>],
    pub target: &'a [u8],
    pub force: bool,
    pub fsync: bool,
}

/// The destination itself is unusable; nothing was copied.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    #[error("{path}: {call}: {source}", path = escape::name(.path.as_os_str().as_bytes()))]
    Target { path: PathBuf, call: &'static str, source: io::Error },
    #[error("{0}: not a directory, and the sources must land inside it")]
    NotADirectory(String),
    #[error("{0}: the directory it is to be made in does not exist; make it first (mkdir -p)")]
    NoParent(String),
}

/// Copies; every entry is reported through `on`. `stop` is asked between files and steps.
///
/// # Errors
/// The destination cannot be used at all. What goes wrong with single entries is an event.
pub fn copy(job: &Job, stop: &dyn Fn() -> bool, on: &mut dyn FnMut(Event)) -> Result<Outcome, LocalError> {
    let (base, rename) = resolve_target(job)?;
    let mut copier = Copier { job, stop, on, totals: Totals::default(), announced: (0, 0) };
    for source in job.sources {
        if stop() {
            break;
        }
        copier.source(source, &base, rename.as_deref());
    }
    copier.announce(0, 0, true);
    let totals = copier.totals;
    Ok(if stop() { Outcome::Cancelled(totals) } else { Outcome::Complete(totals) })
}

/// The directory the sources land in, and the new name of the one source if it is to be renamed.
fn resolve_target(job: &Job) -> Result<(PathBuf, Option<PathBuf>), LocalError> {
    let path = to_path(job.target);
    let shown = || escape::name(job.target);
    let must_be_dir = args::must_be_dir(job.target, job.sources.len());
    match fs::metadata(&path) {
        Ok(meta) if meta.is_dir() => return Ok((path, None)),
        Ok(_) if must_be_dir => return Err(LocalError::NotADirectory(shown())),
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::NotFound && must_be_dir => {
            return match fs::create_dir(&path) {
                Ok(()) => Ok((path, None)),
                Err(error) if error.kind() == ErrorKind::NotFound => Err(LocalError::NoParent(shown())),
                Err(source) => Err(LocalError::Target { path, call: "mkdir", source }),
            };
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(source) => return Err(LocalError::Target { path, call: "stat", source }),
    }
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_path_buf(),
        _ => PathBuf::from("."),
    };
    match (path.file_name(), parent.is_dir()) {
        (Some(name), true) => Ok((parent, Some(PathBuf::from(name)))),
        _ => Err(LocalError::NoParent(shown())),
    }
}

fn to_path(bytes: &[u8]) -> PathBuf {
    PathBuf::from(std::ffi::OsString::from_vec(bytes.to_vec()))
}

struct Copier<'a> {
    job: &'a Job<'a>,
    stop: &'a dyn Fn() -> bool,
    on: &'a mut dyn FnMut(Event),
    totals: Totals,
    /// Files and bytes found so far.
    announced: (u64, u64),
}

/// A directory whose mode and mtime are set once its children are done.
struct OpenDirectory {
    depth: usize,
    relative: PathBuf,
    destination: PathBuf,
    meta: Metadata,
}

impl Copier<'_> {
    fn source(&mut self, typed: &[u8], base: &Path, rename: Option<&Path>) {
        let path = to_path(typed);
        let name = match rename {
            Some(name) => name.to_path_buf(),
            None => match own_name(&path) {
                Ok(name) => name,
                Err(error) => {
                    return self.fail(Path::new(&path), Kind::File, source_error("looking at it", &error));
                }
            },
        };
        if let (Ok(from), Ok(to)) = (path.canonicalize(), base.canonicalize())
            && from.is_dir()
            && to.join(&name).starts_with(&from)
        {
            let error =
                entry_error(EntryErrorCode::Name, 0, "a directory cannot be copied into itself".into());
            return self.fail(&name, Kind::Directory, error);
        }
        // As everywhere, a trailing slash follows a symlink; otherwise it is copied as one.
        let mut walk =
            WalkDir::new(&path).follow_links(false).follow_root_links(typed.ends_with(b"/")).into_iter();
        let mut open: Vec<OpenDirectory> = Vec::new();
        while let Some(found) = walk.next() {
            if (self.stop)() {
                return;
            }
            let depth = match &found {
                Ok(entry) => entry.depth(),
                Err(error) => error.depth(),
            };
            while let Some(done) = open.pop_if(|top| top.depth >= depth) {
                self.close_directory(&done);
            }
            match found {
                Ok(entry) => {
                    let relative = landing(&name, &path, entry.path());
                    let destination = base.join(&relative);
                    match self.entry(&entry, &relative, &destination) {
                        Step::Enter(meta) => open.push(OpenDirectory { depth, relative, destination, meta }),
                        Step::Prune => walk.skip_current_dir(),
                        Step::Next => {}
                    }
                }
                Err(error) => {
                    let relative = landing(&name, &path, error.path().unwrap_or(&path));
                    self.fail(&relative, Kind::File, walk_error(error));
                }
            }
        }
        while let Some(done) = open.pop() {
            self.close_directory(&done);
        }
    }

    fn entry(&mut self, entry: &DirEntry, relative: &Path, destination: &Path) -> Step {
        let meta = match entry.metadata() {
            Ok(meta) => meta,
            Err(error) => {
                self.fail(relative, Kind::File, walk_error(error));
                return Step::Next;
            }
        };
        let kind = entry.file_type();
        if kind.is_dir() {
            return match make_directory(destination) {
                Ok(()) => Step::Enter(meta),
                Err(error) => {
                    self.fail(relative, Kind::Directory, destination_error("making the directory", &error));
                    Step::Prune
                }
            };
        }
        if entry.file_name().as_bytes().starts_with(TEMPORARY_PREFIX.as_bytes()) {
            let text = "skipped: a temporary file of an unfinished transfer".to_string();
            self.emit(Event::Warning { path: path_bytes(relative), text });
        } else if kind.is_symlink() {
            let result = self.symlink(entry.path(), &meta, destination);
            self.resolved(relative, Kind::Symlink, 0, result);
        } else if kind.is_file() {
            self.announce(1, meta.len(), false);
            let result = self.file(entry.path(), &meta, destination);
            if !matches!(&result, Err(Interrupted::Stopped)) {
                self.resolved(relative, Kind::File, meta.len(), result);
            }
        } else {
            let text = "skipped: sockets, FIFOs and devices are not copied".to_string();
            self.emit(Event::Warning { path: path_bytes(relative), text });
        }
        Step::Next
    }

    fn file(
        &mut self,
        source: &Path,
        meta: &Metadata,
        destination: &Path,
    ) -> Result<EntryResult, Interrupted> {
        let reading = |call| move |error: io::Error| source_error(call, &error);
        let writing = |call| move |error: io::Error| destination_error(call, &error);
        match fs::symlink_metadata(destination) {
            Ok(there) if there.is_dir() => return Err(is_a_directory().into()),
            Ok(there) if (there.dev(), there.ino()) == (meta.dev(), meta.ino()) => {
                return Ok(EntryResult::Skipped);
            }
            Ok(there) if there.is_file() && !self.job.force && same(&there, meta) => {
                return Ok(EntryResult::Skipped);
            }
            _ => {}
        }
        let input = File::open(source).map_err(reading("opening it"))?;
        let temporary = Temporary::make(destination).map_err(writing("making a temporary file"))?;
        let mut done_bytes = 0;
        while done_bytes < meta.len() {
            if (self.stop)() {
                return Err(Interrupted::Stopped);
            }
            let step = STEP_BYTES.min(meta.len() - done_bytes);
            // One call reads and writes; only the destination runs full.
            let copied = landro_sys::splice::copy_local(input.as_fd(), temporary.file.as_fd(), step)
                .map_err(writing("copying"))?;
            if copied == 0 {
                break;
            }
            done_bytes += copied;
            self.emit(Event::Progress { bytes: copied });
        }
        let after = input.metadata().map_err(reading("looking at it"))?;
        if done_bytes != meta.len() || !same(&after, meta) || !after.is_file() {
            let text = "it changed while it was read; copy it again when it is quiet".into();
            return Err(entry_error(EntryErrorCode::Source, 0, text).into());
        }
        temporary.publish(meta, destination, self.job.fsync).map_err(writing("putting it in place"))?;
        Ok(EntryResult::Done { resumed_bytes: 0 })
    }

    fn symlink(
        &self,
        source: &Path,
        meta: &Metadata,
        destination: &Path,
    ) -> Result<EntryResult, Interrupted> {
        let target = fs::read_link(source).map_err(|error| source_error("reading the link", &error))?;
        match fs::symlink_metadata(destination) {
            Ok(there) if there.is_dir() => return Err(is_a_directory().into()),
            Ok(_) if !self.job.force && fs::read_link(destination).is_ok_and(|there| there == target) => {
                return Ok(EntryResult::Skipped);
            }
            _ => {}
        }
        let temporary = temporary_path(destination);
        let put = || {
            match fs::remove_file(&temporary) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            std::os::unix::fs::symlink(&target, &temporary)?;
            let path = CString::new(temporary.as_os_str().as_bytes())?;
            let mtime = (meta.mtime(), meta.mtime_nsec() as u32);
            landro_sys::file::run(FileOp::SetLinkTime { dir: None, path, mtime })?;
            fs::rename(&temporary, destination)
        };
        put().map_err(|error| destination_error("making the link", &error))?;
        Ok(EntryResult::Done { resumed_bytes: 0 })
    }

    fn close_directory(&mut self, done: &OpenDirectory) {
        let close = || {
            let dir = File::open(&done.destination)?;
            dir.set_permissions(Permissions::from_mode(done.meta.mode() & 0o7777))?;
            dir.set_modified(done.meta.modified()?)?;
            if self.job.fsync { dir.sync_all() } else { Ok(()) }
        };
        let result = close().map_err(|error| destination_error("setting its mode and time", &error).into());
        self.resolved(
            &done.relative,
            Kind::Directory,
            0,
            result.map(|()| EntryResult::Done { resumed_bytes: 0 }),
        );
    }

    fn announce(&mut self, files: u64, bytes: u64, complete: bool) {
        self.announced = (self.announced.0 + files, self.announced.1 + bytes);
        self.emit(Event::Announced { files: self.announced.0, bytes: self.announced.1, complete });
    }

    fn fail(&mut self, path: &Path, kind: Kind, error: EntryError) {
        self.resolved(path, kind, 0, Err(error.into()));
    }

    fn resolved(
        &mut self,
        path: &Path,
        kind: Kind,
        size_bytes: u64,
        result: Result<EntryResult, Interrupted>,
    ) {
        let result = match result {
            Ok(result) => result,
            Err(Interrupted::Failed(error)) => EntryResult::Failed(error),
            Err(Interrupted::Stopped) => return,
        };
        self.emit(Event::Entry { path: path_bytes(path), kind, size_bytes, result });
    }

    fn emit(&mut self, event: Event) {
        super::report::count(&mut self.totals, &event);
        (self.on)(event);
    }
}

/// How the walk goes on.
enum Step {
    Enter(Metadata),
    Prune,
    Next,
}

/// Why a file did not get its final state.
enum Interrupted {
    Failed(EntryError),
    /// A signal came; nothing is to be reported.
    Stopped,
}

impl From<EntryError> for Interrupted {
    fn from(error: EntryError) -> Self {
        Interrupted::Failed(error)
    }
}

/// A file that is not there until it is whole. Its name is derived from the final one, so that a rerun after
/// `kill -9` takes the leftover over instead of leaving another.
struct Temporary {
    path: PathBuf,
    file: File,
    published: bool,
}

impl Temporary {
    fn make(destination: &Path) -> io::Result<Temporary> {
        let path = temporary_path(destination);
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(0o600);
        loop {
            let file = options.open(&path)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    let text = "another landro is copying to this name now";
                    return Err(io::Error::new(ErrorKind::ResourceBusy, text));
                }
                Err(TryLockError::Error(error)) => return Err(error),
            }
            // Another process may have published (renamed) what we opened before we had the lock.
            let ours = file.metadata()?;
            if fs::symlink_metadata(&path)
                .is_ok_and(|there| (there.dev(), there.ino()) == (ours.dev(), ours.ino()))
            {
                file.set_len(0)?;
                return Ok(Temporary { path, file, published: false });
            }
        }
    }

    fn publish(mut self, meta: &Metadata, destination: &Path, fsync: bool) -> io::Result<()> {
        // Owners are not copied, so setuid and setgid are not either.
        self.file.set_permissions(Permissions::from_mode(meta.mode() & 0o1777))?;
        self.file.set_modified(meta.modified()?)?;
        if fsync {
            self.file.sync_all()?;
        }
        fs::rename(&self.path, destination)?;
        self.published = true;
        match destination.parent() {
            Some(parent) if fsync => File::open(parent)?.sync_all(),
            _ => Ok(()),
        }
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.published {
            // Nothing can be done about a failure here; the next run takes the file over.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Hidden, short whatever the final name's length, and the same at every run.
fn temporary_path(destination: &Path) -> PathBuf {
    let name = destination.file_name().unwrap_or_default();
    let digest = blake3::hash(name.as_bytes()).to_hex();
    destination.with_file_name(format!("{TEMPORARY_PREFIX}{}.tmp", &digest[..16]))
}

fn make_directory(path: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(path) {
        // A symlink to a directory is one, too.
        Err(error) if error.kind() == ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        other => other,
    }
}

/// The name a source lands under: `.`, `..` and paths ending in them have to be looked up. `/` has none: its
/// contents land in the destination.
fn own_name(path: &Path) -> io::Result<PathBuf> {
    let ends_in_dots = matches!(
        path.as_os_str().as_bytes().rsplit(|&b| b == b'/').find(|p| !p.is_empty()),
        Some(b"." | b"..")
    );
    match path.file_name() {
        Some(name) if !ends_in_dots => Ok(PathBuf::from(name)),
        _ => Ok(path.canonicalize()?.file_name().map(PathBuf::from).unwrap_or_default()),
    }
}

/// Where `found` below `source` lands, relative to the destination.
fn landing(name: &Path, source: &Path, found: &Path) -> PathBuf {
    match found.strip_prefix(source) {
        // Joining nothing would append a slash.
        Ok(below) if !below.as_os_str().is_empty() => name.join(below),
        _ => name.to_path_buf(),
    }
}

fn same(one: &Metadata, other: &Metadata) -> bool {
    (one.len(), one.mtime(), one.mtime_nsec()) == (other.len(), other.mtime(), other.mtime_nsec())
}

fn path_bytes(path: &Path) -> Bytes {
    Bytes::copy_from_slice(path.as_os_str().as_bytes())
}

fn entry_error(code: EntryErrorCode, errno: i32, text: String) -> EntryError {
    EntryError { code, errno, text }
}

fn is_a_directory() -> EntryError {
    let text = "there is a directory of this name at the destination; remove it or choose another name";
    entry_error(EntryErrorCode::Destination, 0, text.into())
}

fn source_error(call: &str, error: &io::Error) -> EntryError {
    let code = match error.kind() {
        ErrorKind::PermissionDenied => EntryErrorCode::Permission,
        _ => EntryErrorCode::Source,
    };
    entry_error(code, error.raw_os_error().unwrap_or(0), format!("source: {call}: {error}"))
}

fn walk_error(error: walkdir::Error) -> EntryError {
    // Without an I/O error inside it is a loop of symlinks, which this walk does not follow.
    let io = error.into_io_error().unwrap_or_else(|| ErrorKind::Other.into());
    source_error("looking at it", &io)
}

fn destination_error(call: &str, error: &io::Error) -> EntryError {
    let (code, advice) = match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            (EntryErrorCode::Full, "; free some space and run the same command again")
        }
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => (EntryErrorCode::Permission, ""),
        ErrorKind::InvalidFilename => (EntryErrorCode::Name, ""),
        _ => (EntryErrorCode::Destination, ""),
    };
    entry_error(code, error.raw_os_error().unwrap_or(0), format!("destination: {call}: {error}{advice}"))
}

#[cfg(test)]
mod tests;
