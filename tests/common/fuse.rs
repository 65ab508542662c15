//! A file system over a directory that can be told to fail, to forget or to be silent, as network
//! file systems do.

mod server;

use std::collections::HashMap;
use std::ffi::{CString, OsStr, OsString};
use std::fs::{self, File, FileTimes, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{
    BackgroundSession, Config, FileAttr, FileHandle, FileType, FopenFlags, INodeNo, MountOption,
    RenameFlags, SessionACL, TimeOrNow,
};
use landro_sys::FileOp;
use nix::mount::MntFlags;
use server::Server;
use tempfile::TempDir;

/// What the file system does wrong. Errors are errno numbers.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// At close(2) of a file that was written to, and not before.
    pub flush: Option<i32>,
    /// At fsync(2) of a file that was written to.
    pub fsync: Option<i32>,
    /// What is written is said to be stored, and is not.
    pub drops_data: bool,
    pub write: Option<i32>,
    /// At read(2) behind this many bytes.
    pub read_behind: Option<(u64, i32)>,
    /// At chmod(2) of anything.
    pub chmod: Option<i32>,
    /// At utimensat(2) of anything.
    pub utimes: Option<i32>,
    /// A request for the time of modification alone is passed over, as by libfuse 2.
    pub utimes_need_both: bool,
    /// Modification times are cut down to multiples of this; 0 as 1.
    pub mtime_step_ns: u64,
    /// Modification times are kept within these seconds since the epoch.
    pub mtime_range: Option<(i64, i64)>,
    /// Modification times are taken without an error, and are the time of that moment.
    pub keeps_no_mtime: bool,
    /// Each look-up gives an object another inode number.
    pub inodes_change: bool,
    /// Every file says that its size is 0, and has content.
    pub size_unknown: bool,
    /// No file says that its size is less than this.
    pub size_at_least: u64,
    /// No answer to a read or a write is about more bytes.
    pub moves_at_most: Option<usize>,
    pub names: Names,
    /// Listings have no inode numbers that look-ups would give.
    pub lists_no_inodes: bool,
    /// Operations on what has this in its name are not answered until it is taken out of here, or
    /// until the end.
    pub silent_about: Option<String>,
    /// Which of these operations it is; all of them, if none is said.
    pub silent_call: Option<Call>,
    /// renameat2(2) with any flag is EINVAL.
    pub no_rename_flags: bool,
    /// link(2) is EPERM.
    pub no_links: bool,
    /// symlink(2) is EPERM.
    pub no_symlinks: bool,
    /// Bytes that statfs(2) says are free, instead of very many.
    pub free_bytes: Option<u64>,
}

/// What is done with an open file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    Read,
    Write,
    Flush,
    Fsync,
    Release,
}

/// Which names are one; the first one given stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Names {
    #[default]
    Exact,
    /// `File` is `file`.
    CaseFolded,
    /// An é of two code points is the é of one.
    Normalised,
    /// Both, and `ß` is `ss`, as where ext4 and f2fs fold cases.
    Folded,
}

impl Names {
    fn fold(self, name: &OsStr) -> OsString {
        match (self, name.to_str()) {
            (Names::Exact, _) | (_, None) => name.to_owned(),
            (Names::CaseFolded, Some(name)) => name.to_lowercase().into(),
            (Names::Normalised, Some(name)) => name.replace("e\u{301}", "\u{e9}").into(),
            (Names::Folded, Some(name)) => {
                let name = name.to_lowercase().replace("e\u{301}", "\u{e9}");
                name.replace('\u{df}', "ss").into()
            }
        }
    }
}

/// How long a mount lasts at most: longer than any test that goes well. What hangs in it then hangs
/// no more, whatever the test waits for.
const MOUNT_TIMEOUT: Duration = Duration::from_secs(300);

/// A mounted file system. It is unmounted, and who waits for it is let go, where this is dropped.
pub struct Fuse {
    inner: Arc<Mutex<Inner>>,
    backing: TempDir,
    mounted: PathBuf,
    session: Option<BackgroundSession>,
    /// Ends the thread that watches over [`MOUNT_TIMEOUT`].
    watched: Option<Sender<()>>,
}

impl Fuse {
    /// Mounted in a directory of its own next to the one that holds its files, below `place`. None,
    /// with a word, where this process may not mount.
    pub fn mount(place: &Path, faults: Faults) -> Option<Fuse> {
        let backing = tempfile::tempdir_in(place).unwrap();
        let mounted = backing.path().join("mounted");
        fs::create_dir(backing.path().join("files")).unwrap();
        fs::create_dir(&mounted).unwrap();
        let inner = Arc::new(Mutex::new(Inner::new(backing.path().join("files"), faults)));
        let mut config = Config::default();
        config.mount_options = vec![
            MountOption::FSName("landro-test".into()),
            MountOption::DefaultPermissions,
        ];
        config.acl = SessionACL::All;
        let server = Server {
            inner: inner.clone(),
        };
        match fuser::spawn_mount(server, &mounted, &config) {
            Ok(session) => Some(Fuse {
                inner,
                backing,
                watched: Some(watch(mounted.clone())),
                mounted,
                session: Some(session),
            }),
            Err(error) => {
                super::skipped(&format!("no FUSE here: {error}"));
                None
            }
        }
    }

    /// The directory where it is mounted.
    pub fn path(&self) -> &Path {
        &self.mounted
    }

    /// What it holds, seen past it.
    pub fn files(&self) -> PathBuf {
        self.backing.path().join("files")
    }

    /// Throws switches. Who waited for what is not silent any more is answered with EIO.
    pub fn set(&self, change: impl FnOnce(&mut Faults)) {
        let mut inner = self.inner.lock().unwrap();
        change(&mut inner.faults);
        inner.unanswered.clear();
    }
}

impl Drop for Fuse {
    fn drop(&mut self) {
        drop(self.watched.take());
        abort(&self.mounted);
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.unanswered.clear();
        drop(inner);
        drop(self.session.take());
    }
}

/// Takes a file system away from whoever is within a call of it: the call fails with ENOTCONN, or
/// ECONNABORTED. Killing the caller would not do: a request that was read is waited for, kill -9
/// or not. Lazily, too, for a process that a failed test left behind may have files of it open.
/// Without umount(8), which asks the file system things before.
fn abort(mounted: &Path) {
    let how = MntFlags::MNT_FORCE | MntFlags::MNT_DETACH;
    // Who is not root may not; the end of the session is what remains then.
    let _ = nix::mount::umount2(mounted, how);
}

fn watch(mounted: PathBuf) -> Sender<()> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        if receiver.recv_timeout(MOUNT_TIMEOUT) == Err(RecvTimeoutError::Timeout) {
            eprintln!("{} was mounted for too long", mounted.display());
            abort(&mounted);
        }
    });
    sender
}

struct Inner {
    root: PathBuf,
    faults: Faults,
    /// Where objects are that the kernel was told of, below `root`.
    paths: HashMap<u64, PathBuf>,
    last_inode: u64,
    open: HashMap<u64, Opened>,
    last_handle: u64,
    /// Replies that are held back: dropped they are EIO.
    unanswered: Vec<Box<dyn Send>>,
}

struct Opened {
    inode: u64,
    file: Arc<File>,
    is_written: bool,
}

impl Inner {
    fn new(root: PathBuf, faults: Faults) -> Inner {
        Inner {
            root,
            faults,
            paths: HashMap::from([(INodeNo::ROOT.0, PathBuf::new())]),
            last_inode: INodeNo::ROOT.0,
            open: HashMap::new(),
            last_handle: 0,
            unanswered: Vec::new(),
        }
    }

    fn path(&self, inode: INodeNo) -> io::Result<PathBuf> {
        let path = self.paths.get(&inode.0);
        Ok(self.root.join(path.ok_or(io::ErrorKind::NotFound)?))
    }

    /// Where a name of a directory is, if there is one that the file system takes for it.
    fn child(&self, parent: INodeNo, name: &OsStr) -> io::Result<PathBuf> {
        let dir = self.path(parent)?;
        let names = self.faults.names;
        if names != Names::Exact {
            let wanted = names.fold(name);
            for entry in fs::read_dir(&dir)? {
                let found = entry?.file_name();
                if names.fold(&found) == wanted {
                    return Ok(dir.join(found));
                }
            }
        }
        Ok(dir.join(name))
    }

    /// The number of the object at a path.
    fn inode(&mut self, path: &Path) -> u64 {
        let below = path.strip_prefix(&self.root).unwrap();
        let known = self.paths.iter().find(|(_, known)| *known == below);
        match known {
            Some((inode, _)) if !self.faults.inodes_change => *inode,
            _ => {
                self.last_inode += 1;
                self.paths.insert(self.last_inode, below.to_owned());
                self.last_inode
            }
        }
    }

    fn entry(&mut self, path: &Path) -> io::Result<FileAttr> {
        let found = fs::symlink_metadata(path)?;
        let inode = self.inode(path);
        Ok(self.attr(inode, &found))
    }

    fn found(&self, inode: INodeNo) -> io::Result<Metadata> {
        // One that was unlinked and is open still is its file.
        let open = self.open.values().find(|open| open.inode == inode.0);
        match (fs::symlink_metadata(self.path(inode)?), open) {
            (Err(_), Some(open)) => open.file.metadata(),
            (found, _) => found,
        }
    }

    fn attr(&self, inode: u64, found: &Metadata) -> FileAttr {
        let time = |seconds: i64, nanoseconds: i64| {
            let whole = Duration::from_secs(seconds.unsigned_abs());
            let base = if seconds < 0 {
                UNIX_EPOCH - whole
            } else {
                UNIX_EPOCH + whole
            };
            base + Duration::from_nanos(nanoseconds as u64)
        };
        let kind = FileType::from_std(found.file_type()).unwrap();
        let size = match kind {
            FileType::RegularFile if self.faults.size_unknown => 0,
            FileType::RegularFile => found.size().max(self.faults.size_at_least),
            _ => found.size(),
        };
        FileAttr {
            ino: INodeNo(inode),
            size,
            blocks: found.blocks(),
            atime: time(found.atime(), found.atime_nsec()),
            mtime: time(found.mtime(), found.mtime_nsec()),
            ctime: time(found.ctime(), found.ctime_nsec()),
            crtime: UNIX_EPOCH,
            kind,
            perm: (found.mode() & 0o7777) as u16,
            nlink: found.nlink() as u32,
            uid: found.uid(),
            gid: found.gid(),
            rdev: found.rdev() as u32,
            blksize: 4096,
            flags: 0,
        }
    }

    fn open(&mut self, inode: u64, file: File) -> (FileHandle, FopenFlags) {
        self.last_handle += 1;
        let opened = Opened {
            inode,
            file: Arc::new(file),
            is_written: false,
        };
        self.open.insert(self.last_handle, opened);
        // Without it the kernel reads no further than the size that it was told, and fills up to
        // it.
        let faults = &self.faults;
        let is_direct = faults.size_unknown || faults.size_at_least > 0;
        let flags = if is_direct || faults.moves_at_most.is_some() {
            FopenFlags::FOPEN_DIRECT_IO
        } else {
            FopenFlags::empty()
        };
        (FileHandle(self.last_handle), flags)
    }

    fn opened(&self, handle: FileHandle) -> io::Result<&Opened> {
        self.open
            .get(&handle.0)
            .ok_or(io::ErrorKind::NotFound.into())
    }

    /// The time that is stored for one that was asked for.
    fn stored(&self, asked: TimeOrNow) -> SystemTime {
        let asked = match asked {
            TimeOrNow::SpecificTime(time) if !self.faults.keeps_no_mtime => time,
            TimeOrNow::SpecificTime(_) | TimeOrNow::Now => SystemTime::now(),
        };
        let nanoseconds = match asked.duration_since(UNIX_EPOCH) {
            Ok(since) => since.as_nanos() as i128,
            Err(before) => -(before.duration().as_nanos() as i128),
        };
        let (low, high) = self.faults.mtime_range.unwrap_or((i64::MIN, i64::MAX));
        let second = 1_000_000_000;
        let kept = nanoseconds.clamp(i128::from(low) * second, i128::from(high) * second);
        let step = i128::from(self.faults.mtime_step_ns.max(1));
        let kept = kept.div_euclid(step) * step;
        let distance = Duration::from_nanos(kept.unsigned_abs() as u64);
        if kept < 0 {
            UNIX_EPOCH - distance
        } else {
            UNIX_EPOCH + distance
        }
    }

    fn set_times(&self, path: &Path, mtime: TimeOrNow) -> io::Result<()> {
        if let Some(errno) = self.faults.utimes {
            return Err(io::Error::from_raw_os_error(errno));
        }
        let stored = self.stored(mtime);
        if fs::symlink_metadata(path)?.is_symlink() {
            let since = stored.duration_since(UNIX_EPOCH).unwrap_or_default();
            let mtime = (since.as_secs() as i64, since.subsec_nanos());
            let path = CString::new(path.as_os_str().as_bytes())?;
            let dir = None;
            return landro_sys::run(FileOp::SetLinkTime { dir, path, mtime }).map(drop);
        }
        File::open(path)?.set_times(FileTimes::new().set_modified(stored))
    }

    fn rename(&mut self, from: &Path, to: &Path, flags: RenameFlags) -> io::Result<()> {
        if self.faults.no_rename_flags && !flags.is_empty() {
            return Err(io::Error::from_raw_os_error(22));
        }
        if flags.contains(RenameFlags::RENAME_NOREPLACE) && fs::symlink_metadata(to).is_ok() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        fs::rename(from, to)?;
        let [from, to] = [from, to].map(|path| path.strip_prefix(&self.root).unwrap().to_owned());
        for path in self.paths.values_mut() {
            // What is replaced has no name any more, or that one would have two numbers.
            if *path == to {
                *path = PathBuf::from("replaced");
            }
            if let Ok(rest) = path.strip_prefix(&from) {
                *path = if rest == Path::new("") {
                    to.clone()
                } else {
                    to.join(rest)
                };
            }
        }
        Ok(())
    }
}
