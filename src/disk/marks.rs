//! Which files are ours: a name of our form and our mark, an extended attribute that no peer can
//! set.
//!
//! The mark's value is the final name, from which the temporary one follows: a mark counts only
//! under a name that belongs to it, so a published file that kept its mark (a crash came between)
//! is a file like any other. Where a file system keeps no attributes, the head of a journal says
//! the same of the journal and of the part beside it; there nothing that is received gets a name of
//! our form, or a peer could write such a head.

use std::ffi::CStr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use bytes::Bytes;
use landro_sys::file::flags;
use landro_sys::{FileDone, FileOp, Flock, OpenHow};

use super::durable::TemporaryDir;
use super::names::{TemporaryName, Use};
use super::publish::{TRIES, link, unnamed, write_all};
use super::{DiskError, Files};
use crate::ids::{NAME_MAX_BYTES, Name};
use crate::proto::errno::{
    EACCES, EEXIST, EISDIR, ELOOP, ENODEV, ENOENT, ENXIO, EOPNOTSUPP, EPERM, ETXTBSY,
};

/// `user.` is the part of the name space that needs no privilege (xattr(7)).
pub const MARK: &CStr = c"user.landro.unfinished";

/// What the head of a journal begins with. Behind it: the final name, its length before it, filled
/// up with zeros.
const HEAD_MAGIC: [u8; 8] = *b"lndrhead";

/// Bytes of a journal's head; what `proto` writes comes behind it.
pub const HEAD_BYTES: u64 = HEAD_MAGIC.len() as u64 + 1 + NAME_MAX_BYTES as u64;

/// What a journal begins with.
pub fn head(name: &[u8]) -> Bytes {
    let mut head = vec![0; HEAD_BYTES as usize];
    let at = HEAD_MAGIC.len();
    head[..at].copy_from_slice(&HEAD_MAGIC);
    let len = name.len().min(NAME_MAX_BYTES);
    head[at] = len as u8;
    head[at + 1..][..len].copy_from_slice(&name[..len]);
    head.into()
}

/// The final name that a journal's head tells.
fn name_in(head: &[u8]) -> Option<&[u8]> {
    let rest = head.get(..HEAD_BYTES as usize)?.strip_prefix(&HEAD_MAGIC)?;
    let (len, name) = rest.split_first()?;
    name.get(..usize::from(*len))
}

/// A file that was looked at for a mark.
#[derive(Clone, Debug)]
pub struct Unfinished {
    /// The name it is to get.
    pub name: Bytes,
    pub file: Arc<OwnedFd>,
}

/// Not ours to open, or nothing that can be opened for reading: whatever it is, we did not make it.
fn is_of_others(errno: i32) -> bool {
    matches!(
        errno,
        ELOOP | EACCES | EPERM | EISDIR | ENXIO | ENODEV | ETXTBSY
    )
}

impl Files {
    /// Marks a file that is to get this name, where the file system keeps attributes.
    pub(super) async fn mark_file(
        &self,
        dir: &TemporaryDir,
        file: &Arc<OwnedFd>,
        name: &Name,
    ) -> Result<(), DiskError> {
        if dir.lacks_attributes() {
            return Ok(());
        }
        let op = FileOp::SetXattr {
            file: file.clone(),
            name: MARK,
            value: name.as_bytes().to_vec(),
        };
        match self.call("fsetxattr", op).await {
            Ok(_) => Ok(()),
            // EPERM: a mount without user attributes may say so, too.
            Err(DiskError {
                errno: EOPNOTSUPP | EPERM,
                ..
            }) => {
                dir.has_no_attributes();
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Takes the mark from a file that has its final name. One that stays says nothing there.
    pub(super) async fn unmark_file(&self, dir: &TemporaryDir, file: &Arc<OwnedFd>) {
        if !dir.lacks_attributes() {
            let op = FileOp::RemoveXattr {
                file: file.clone(),
                name: MARK,
            };
            let _ = self.call("fremovexattr", op).await;
        }
    }

    /// Opens a file for reading if it is one of ours. None: nothing of ours has that name.
    pub(super) async fn unfinished(
        &self,
        dir: &Arc<OwnedFd>,
        name: &[u8],
    ) -> Result<Option<Unfinished>, DiskError> {
        let Some(of_form) = TemporaryName::parse(name) else {
            return Ok(None);
        };
        let how = OpenHow {
            flags: flags::O_RDONLY | flags::O_NOFOLLOW | flags::O_NONBLOCK,
            mode: 0,
            resolve: flags::RESOLVE_BENEATH,
        };
        let file = match self.open(Some(dir), name, how).await {
            Ok(file) => file,
            Err(error) if error.errno == ENOENT || is_of_others(error.errno) => return Ok(None),
            Err(error) => return Err(error),
        };
        let found = self.final_name(dir, &file, &of_form).await?;
        Ok(found.map(|name| Unfinished { name, file }))
    }

    /// The final name of an open file that is ours.
    async fn final_name(
        &self,
        dir: &Arc<OwnedFd>,
        file: &Arc<OwnedFd>,
        of_form: &TemporaryName,
    ) -> Result<Option<Bytes>, DiskError> {
        let op = FileOp::GetXattr {
            file: file.clone(),
            name: MARK,
        };
        let name = match self.call("fgetxattr", op).await {
            Ok(FileDone::Xattr(value)) => value.map(Bytes::from),
            Ok(other) => unreachable!("fgetxattr answered {other:?}"),
            Err(DiskError {
                errno: EOPNOTSUPP, ..
            }) => self.told_by_journal(dir, file, of_form).await?,
            Err(error) => return Err(error),
        };
        Ok(name.filter(|name| of_form.belongs_to(name)))
    }

    /// Where there are no attributes: what the head of the journal tells, of itself and of the part
    /// beside it.
    async fn told_by_journal(
        &self,
        dir: &Arc<OwnedFd>,
        file: &Arc<OwnedFd>,
        of_form: &TemporaryName,
    ) -> Result<Option<Bytes>, DiskError> {
        let journal = match of_form.purpose {
            Use::Journal => file.clone(),
            Use::New => return Ok(None),
            Use::Part => {
                let how = OpenHow {
                    flags: flags::O_RDONLY | flags::O_NOFOLLOW | flags::O_NONBLOCK,
                    mode: 0,
                    resolve: flags::RESOLVE_BENEATH,
                };
                let beside = of_form.with(Use::Journal).to_c();
                match self.open(Some(dir), beside.as_bytes(), how).await {
                    Ok(file) => file,
                    Err(error) if error.errno == ENOENT || is_of_others(error.errno) => {
                        return Ok(None);
                    }
                    Err(error) => return Err(error),
                }
            }
        };
        let buffer = self.buffer().await;
        let (mut buffer, _) = self.read(&journal, 0, buffer, HEAD_BYTES as usize).await?;
        let read = buffer.split();
        Ok(name_in(&read).map(Bytes::copy_from_slice))
    }

    /// Whether a name of our form stands for something that is ours.
    pub(super) async fn is_unfinished(
        &self,
        dir: &Arc<OwnedFd>,
        name: &[u8],
    ) -> Result<bool, DiskError> {
        Ok(self.unfinished(dir, name).await?.is_some())
    }

    /// Whether files in a directory can be marked. One that may not be read does not tell.
    pub(super) async fn keeps_attributes(&self, dir: &Arc<OwnedFd>) -> bool {
        let op = FileOp::GetXattr {
            file: dir.clone(),
            name: MARK,
        };
        self.call("fgetxattr", op).await.is_ok()
    }

    /// Opens one of our temporary files, or makes it, marked before it has its name where there are
    /// unnamed files. None: what has the name is not ours, or somebody else owns it or has another
    /// name for it, and could read or change what we publish.
    pub(super) async fn open_own(
        &self,
        dir: &TemporaryDir,
        path: &TemporaryName,
        name: &Name,
        mode: u32,
    ) -> Result<Option<Arc<OwnedFd>>, DiskError> {
        for _ in 0..TRIES {
            match self.make_own(dir, path, name, mode).await {
                Err(error) if error.errno == EEXIST => {}
                other => return other.map(Some),
            }
            let how = OpenHow {
                flags: flags::O_RDWR | flags::O_NOFOLLOW | flags::O_NONBLOCK,
                mode: 0,
                resolve: flags::RESOLVE_BENEATH,
            };
            let file = match self.open(Some(&dir.fd), path.to_c().as_bytes(), how).await {
                Ok(file) => file,
                Err(DiskError { errno: ENOENT, .. }) => continue,
                Err(error) if is_of_others(error.errno) => return Ok(None),
                Err(error) => return Err(error),
            };
            let found = self.fstat(&file).await?;
            let alone = found.uid == landro_sys::process::effective_uid() && found.nlink <= 1;
            if !alone || found.kind != landro_sys::FileKind::File {
                return Ok(None);
            }
            let told = self.final_name(&dir.fd, &file, path).await?;
            return Ok(told
                .is_some_and(|told| told == name.as_bytes())
                .then_some(file));
        }
        Ok(None)
    }

    /// EEXIST: the name is taken.
    async fn make_own(
        &self,
        dir: &TemporaryDir,
        path: &TemporaryName,
        name: &Name,
        mode: u32,
    ) -> Result<Arc<OwnedFd>, DiskError> {
        let (path, purpose) = (path.to_c(), path.purpose);
        if let Some(file) = unnamed(self, dir, mode).await? {
            self.begin_own(dir, &file, (purpose, name)).await?;
            link(self, &file, &dir.fd, &path).await?;
            return Ok(file);
        }
        let how = OpenHow {
            flags: flags::O_CREAT
                | flags::O_EXCL
                | flags::O_RDWR
                | flags::O_NOFOLLOW
                | flags::O_NONBLOCK,
            mode,
            resolve: flags::RESOLVE_BENEATH,
        };
        let file = self.open(Some(&dir.fd), path.as_bytes(), how).await?;
        self.begin_own(dir, &file, (purpose, name)).await?;
        Ok(file)
    }

    async fn begin_own(
        &self,
        dir: &TemporaryDir,
        file: &Arc<OwnedFd>,
        (purpose, name): (Use, &Name),
    ) -> Result<(), DiskError> {
        self.mark_file(dir, file, name).await?;
        match purpose {
            Use::Journal => write_all(self, file, 0, head(name.as_bytes())).await,
            Use::Part | Use::New => Ok(()),
        }
    }

    /// Whether nobody else has the lock of an open file; it is ours then, until the file is closed.
    pub(super) async fn lock(&self, file: &Arc<OwnedFd>) -> Result<bool, DiskError> {
        let op = FileOp::Lock {
            file: file.clone(),
            how: Flock::Exclusive,
        };
        Ok(matches!(
            self.call("flock", op).await?,
            FileDone::Locked(true)
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_tells_its_name_and_nothing_else_does() {
        let longest = [b'n'; NAME_MAX_BYTES];
        for name in [&b"a"[..], b"\xff\n", &longest] {
            assert_eq!(name_in(&head(name)), Some(name));
        }
        for other in [&b""[..], b"lndrhead", &[0; 400]] {
            assert_eq!(name_in(other), None);
        }
        let mut lies = head(b"a").to_vec();
        lies[0] ^= 1;
        assert_eq!(name_in(&lies), None);
    }
}
