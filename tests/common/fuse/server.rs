//! The kernel's questions to the file system of `super`, as the trait of `fuser` puts them.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use fuser::{
    BsdFileFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, Generation, INodeNo,
    LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory,
    ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, Request, TimeOrNow, WriteFlags,
};

use super::{Call, Inner};

/// Nothing is remembered by the kernel, so that a switch thrown counts at once.
const TTL: Duration = Duration::ZERO;

pub struct Server {
    pub inner: Arc<Mutex<Inner>>,
}

/// The errno of an error; std's own errors have none.
fn errno(error: io::Error) -> Errno {
    let of_kind = match error.kind() {
        io::ErrorKind::NotFound => 2,
        io::ErrorKind::AlreadyExists => 17,
        _ => 5,
    };
    Errno::from_i32(error.raw_os_error().unwrap_or(of_kind))
}

impl Server {
    /// The state, unless nothing is to be answered about a name or an object.
    fn about<T: Send + 'static>(
        &self,
        inode: INodeNo,
        name: Option<&OsStr>,
        reply: T,
    ) -> Option<(MutexGuard<'_, Inner>, T)> {
        self.answering(None, inode, name, reply)
    }

    /// The state, unless this call about an open file is not to be answered.
    fn calling<T: Send + 'static>(
        &self,
        call: Call,
        inode: INodeNo,
        reply: T,
    ) -> Option<(MutexGuard<'_, Inner>, T)> {
        self.answering(Some(call), inode, None, reply)
    }

    fn answering<T: Send + 'static>(
        &self,
        call: Option<Call>,
        inode: INodeNo,
        name: Option<&OsStr>,
        reply: T,
    ) -> Option<(MutexGuard<'_, Inner>, T)> {
        let mut inner = self.inner.lock().unwrap();
        let is_meant = inner.faults.silent_call.is_none() || inner.faults.silent_call == call;
        if let Some(silent) = inner.faults.silent_about.as_ref().filter(|_| is_meant) {
            let path = inner.paths.get(&inode.0).cloned().unwrap_or_default();
            let path = path.join(name.unwrap_or_default());
            if path.to_string_lossy().contains(silent.as_str()) {
                inner.unanswered.push(Box::new(reply));
                return None;
            }
        }
        Some((inner, reply))
    }

    fn answer_entry(reply: ReplyEntry, result: io::Result<FileAttr>) {
        match result {
            Ok(attr) => reply.entry(&TTL, &attr, Generation(0)),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn answer(reply: ReplyEmpty, result: io::Result<()>) {
        match result {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(errno(error)),
        }
    }

    /// Fails by one of the faults, if the file was written to.
    fn written_back(&self, call: Call, inode: INodeNo, handle: FileHandle, reply: ReplyEmpty) {
        let Some((inner, reply)) = self.calling(call, inode, reply) else {
            return;
        };
        let fault = match call {
            Call::Flush => inner.faults.flush,
            _ => inner.faults.fsync,
        };
        match (inner.opened(handle), fault) {
            (Ok(open), Some(fault)) if open.is_written => reply.error(Errno::from_i32(fault)),
            _ => reply.ok(),
        }
    }
}

impl Filesystem for Server {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if let Some((mut inner, reply)) = self.about(parent, Some(name), reply) {
            let path = inner.child(parent, name);
            let result = path.and_then(|path| inner.entry(&path));
            Self::answer_entry(reply, result);
        }
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        if let Some((inner, reply)) = self.about(inode, None, reply) {
            match inner.found(inode) {
                Ok(found) => reply.attr(&TTL, &inner.attr(inode.0, &found)),
                Err(error) => reply.error(errno(error)),
            }
        }
    }

    fn setattr(
        &self,
        _: &Request,
        inode: INodeNo,
        mode: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let Some((inner, reply)) = self.about(inode, None, reply) else {
            return;
        };
        let result = inner.path(inode).and_then(|path| {
            if let Some(mode) = mode {
                if let Some(errno) = inner.faults.chmod {
                    return Err(io::Error::from_raw_os_error(errno));
                }
                fs::set_permissions(&path, Permissions::from_mode(mode & 0o7777))?;
            }
            if let Some(size) = size {
                File::options().write(true).open(&path)?.set_len(size)?;
            }
            let is_heard = atime.is_some() || !inner.faults.utimes_need_both;
            if let Some(mtime) = mtime.filter(|_| is_heard) {
                inner.set_times(&path, mtime)?;
            }
            inner.found(inode)
        });
        match result {
            Ok(found) => reply.attr(&TTL, &inner.attr(inode.0, &found)),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn readlink(&self, _: &Request, inode: INodeNo, reply: ReplyData) {
        if let Some((inner, reply)) = self.about(inode, None, reply) {
            match inner.path(inode).and_then(fs::read_link) {
                Ok(target) => reply.data(target.as_os_str().as_bytes()),
                Err(error) => reply.error(errno(error)),
            }
        }
    }

    fn mkdir(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _: u32,
        reply: ReplyEntry,
    ) {
        if let Some((mut inner, reply)) = self.about(parent, Some(name), reply) {
            let result = inner.child(parent, name).and_then(|path| {
                fs::create_dir(&path)?;
                fs::set_permissions(&path, Permissions::from_mode(mode & 0o7777))?;
                inner.entry(&path)
            });
            Self::answer_entry(reply, result);
        }
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        if let Some((inner, reply)) = self.about(parent, Some(name), reply) {
            Self::answer(reply, inner.child(parent, name).and_then(fs::remove_file));
        }
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        if let Some((inner, reply)) = self.about(parent, Some(name), reply) {
            Self::answer(reply, inner.child(parent, name).and_then(fs::remove_dir));
        }
    }

    fn symlink(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        if let Some((mut inner, reply)) = self.about(parent, Some(name), reply) {
            if inner.faults.no_symlinks {
                return reply.error(Errno::EPERM);
            }
            let result = inner.child(parent, name).and_then(|path| {
                std::os::unix::fs::symlink(target, &path)?;
                inner.entry(&path)
            });
            Self::answer_entry(reply, result);
        }
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        to_parent: INodeNo,
        to_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        if let Some((mut inner, reply)) = self.about(to_parent, Some(to_name), reply) {
            let result = inner.child(parent, name).and_then(|from| {
                let to = inner.child(to_parent, to_name)?;
                inner.rename(&from, &to, flags)
            });
            Self::answer(reply, result);
        }
    }

    fn link(&self, _: &Request, inode: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if let Some((mut inner, reply)) = self.about(parent, Some(name), reply) {
            if inner.faults.no_links {
                return reply.error(Errno::EPERM);
            }
            let result = inner.path(inode).and_then(|from| {
                let to = inner.child(parent, name)?;
                fs::hard_link(from, &to)?;
                inner.entry(&to)
            });
            Self::answer_entry(reply, result);
        }
    }

    fn open(&self, _: &Request, inode: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        if let Some((mut inner, reply)) = self.about(inode, None, reply) {
            let writes = flags.0 & 3 != 0;
            let file = inner
                .path(inode)
                .and_then(|path| File::options().read(true).write(writes).open(path));
            match file {
                Ok(file) => {
                    let (handle, flags) = inner.open(inode.0, file);
                    reply.opened(handle, flags);
                }
                Err(error) => reply.error(errno(error)),
            }
        }
    }

    fn create(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _: u32,
        _: i32,
        reply: ReplyCreate,
    ) {
        if let Some((mut inner, reply)) = self.about(parent, Some(name), reply) {
            let result = inner.child(parent, name).and_then(|path| {
                let mut options = File::options();
                let file = options.read(true).write(true).create(true).open(&path)?;
                file.set_permissions(Permissions::from_mode(mode & 0o7777))?;
                Ok((inner.entry(&path)?, file))
            });
            match result {
                Ok((attr, file)) => {
                    let (handle, flags) = inner.open(attr.ino.0, file);
                    reply.created(&TTL, &attr, Generation(0), handle, flags);
                }
                Err(error) => reply.error(errno(error)),
            }
        }
    }

    fn read(
        &self,
        _: &Request,
        inode: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        if let Some((inner, reply)) = self.calling(Call::Read, inode, reply) {
            if let Some((from, fault)) = inner.faults.read_behind
                && offset + u64::from(size) > from
            {
                return reply.error(Errno::from_i32(fault));
            }
            let most = inner.faults.moves_at_most.unwrap_or(usize::MAX);
            let mut data = vec![0; most.min(size as usize)];
            let mut len = 0;
            let result = inner.opened(handle).and_then(|open| {
                while len < data.len() {
                    match open.file.read_at(&mut data[len..], offset + len as u64)? {
                        0 => break,
                        bytes => len += bytes,
                    }
                }
                Ok(())
            });
            match result {
                Ok(()) => reply.data(&data[..len]),
                Err(error) => reply.error(errno(error)),
            }
        }
    }

    fn write(
        &self,
        _: &Request,
        inode: INodeNo,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        if let Some((mut inner, reply)) = self.calling(Call::Write, inode, reply) {
            if let Some(errno) = inner.faults.write {
                return reply.error(Errno::from_i32(errno));
            }
            let drops_data = inner.faults.drops_data;
            let most = inner.faults.moves_at_most.unwrap_or(usize::MAX);
            let data = &data[..most.min(data.len())];
            let Some(open) = inner.open.get_mut(&handle.0) else {
                return reply.error(Errno::EBADF);
            };
            open.is_written = true;
            let written = if drops_data {
                Ok(())
            } else {
                open.file.write_all_at(data, offset)
            };
            match written {
                Ok(()) => reply.written(data.len() as u32),
                Err(error) => reply.error(errno(error)),
            }
        }
    }

    fn flush(
        &self,
        _: &Request,
        inode: INodeNo,
        handle: FileHandle,
        _: LockOwner,
        reply: ReplyEmpty,
    ) {
        self.written_back(Call::Flush, inode, handle, reply);
    }

    fn fsync(&self, _: &Request, inode: INodeNo, handle: FileHandle, _: bool, reply: ReplyEmpty) {
        self.written_back(Call::Fsync, inode, handle, reply);
    }

    fn release(
        &self,
        _: &Request,
        inode: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        if let Some((mut inner, reply)) = self.calling(Call::Release, inode, reply) {
            inner.open.remove(&handle.0);
            reply.ok();
        }
    }

    fn readdir(
        &self,
        _: &Request,
        inode: INodeNo,
        _: FileHandle,
        offset: u64,
        reply: ReplyDirectory,
    ) {
        let Some((mut inner, mut reply)) = self.about(inode, None, reply) else {
            return;
        };
        let names = inner.path(inode).and_then(|dir| {
            let mut names = Vec::new();
            for entry in fs::read_dir(dir)? {
                names.push(entry?.path());
            }
            names.sort();
            Ok(names)
        });
        let names = match names {
            Ok(names) => names,
            Err(error) => return reply.error(errno(error)),
        };
        let dots = [".", ".."].map(|name| (inode.0, FileType::Directory, OsString::from(name)));
        let entries = names.iter().filter_map(|path| {
            let kind = fs::symlink_metadata(path).ok()?.file_type();
            let name = path.file_name()?.to_owned();
            let inode = match inner.faults.lists_no_inodes {
                true => u64::from(u32::MAX),
                false => inner.inode(path),
            };
            Some((inode, FileType::from_std(kind)?, name))
        });
        let all: Vec<_> = dots.into_iter().chain(entries).collect();
        for (at, (inode, kind, name)) in all.into_iter().enumerate().skip(offset as usize) {
            if reply.add(INodeNo(inode), at as u64 + 1, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn statfs(&self, _: &Request, inode: INodeNo, reply: ReplyStatfs) {
        if let Some((inner, reply)) = self.about(inode, None, reply) {
            let free = inner.faults.free_bytes.unwrap_or(1 << 40) / 4096;
            reply.statfs(1 << 30, free, free, 1 << 20, 1 << 20, 4096, 255, 4096);
        }
    }
}
