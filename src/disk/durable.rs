//! What a power cut may take, and how a later run knows: data waits, or its file system is marked.
//!
//! Without `--fsync` a name may reach the disk before the data behind it. Where a name replaces
//! another, the data is written back first, so that a cut leaves the old or the new. Where it is
//! new, nothing waits: a mark (an extended attribute) on the directory the session works in says
//! which kernel and mount held the data. A later run that finds the mark of another kernel or mount
//! does not believe sizes and times below it: a file of which not every block was written is sent
//! again. The mark is gone once all is on disk ([`super::settle`]).

use std::cell::Cell;
use std::ffi::CStr;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;

use landro_sys::file::{flags, magic};
use landro_sys::{FileDone, FileOp, Flock, OpenHow, Statx};

use super::mounts::is_local;
use super::times::Times;
use super::workplace::{Lacks, TemporaryDir};
use super::{DiskError, Files, Space, descriptors};
use crate::ids::{DirId, Name};
use crate::proto::journal::Storage;

/// The mark. `user.` is the part of the name space that needs no privilege (xattr(7)).
pub const MARK: &CStr = c"user.landro.unsynced";

/// Bytes of a mark: kernel, mount, a number of its own, whether there was an earlier one.
const MARK_BYTES: usize = 16 + 8 + 8 + 1;

/// Directories above the target that may carry a mark: as deep as a path of 4,095 bytes goes is out
/// of proportion.
const ANCESTORS_MAX: usize = 64;

/// Whoever takes a mark away holds its lock for microseconds.
const LOCK_TRIES: usize = 8;

/// What a file system does with data and names that are not on disk yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Medium {
    /// Nothing survives a power cut.
    Memory,
    /// Changes of metadata reach the disk in the order they were made, and a block counts as
    /// written only once it is (ext4, XFS, btrfs). `by_writeback`: data that is written back is
    /// safe from the rename that follows it; btrfs enters its extents later, in a worker thread of
    /// the kernel.
    Ordered { by_writeback: bool },
    /// Nothing is known (NFS, FUSE, FAT, …): data is flushed before it gets a name.
    Unknown,
}

impl Medium {
    fn of(found: &landro_sys::FileSystem) -> Medium {
        match found.magic {
            _ if found.is_memory => Medium::Memory,
            magic::EXT | magic::XFS => Medium::Ordered { by_writeback: true },
            // An overlay's files, attributes and extents are those of its upper layer, which is one
            // of these as good as everywhere; but its pages are not where sync_file_range(2) looks
            // for them.
            magic::BTRFS | magic::OVERLAY => Medium::Ordered {
                by_writeback: false,
            },
            _ => Medium::Unknown,
        }
    }
}

/// A file system that a session writes to, from the first directory there downwards.
pub struct Volume {
    top: Arc<OwnedFd>,
    dev: u64,
    storage: Storage,
    medium: Medium,
    marked: Cell<Marked>,
    pub times: Times,
    pub lacks: Rc<Lacks>,
    /// That what was written could not be stored may be told by close(2) and not before.
    tells_late: bool,
}

impl Volume {
    /// Whether nothing is known of how it does things.
    pub fn is_unknown(&self) -> bool {
        self.medium == Medium::Unknown
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Marked {
    /// Nothing was published yet. Next: Yes, Refused.
    No,
    Yes,
    /// The file system or its owner takes no mark: data is waited for.
    Refused,
}

/// How a directory of the destination stands.
#[derive(Clone)]
pub struct Footing {
    pub volume: Rc<Volume>,
    /// Data below may have been lost with an earlier kernel or mount.
    pub in_doubt: bool,
}

#[cfg(test)]
impl Footing {
    /// The same directory, as if nothing were known of its file system.
    pub fn on_unknown(&self) -> Footing {
        let Volume {
            top, dev, storage, ..
        } = &*self.volume;
        let volume = Volume {
            top: top.clone(),
            dev: *dev,
            storage: *storage,
            medium: Medium::Unknown,
            marked: Cell::new(Marked::No),
            times: Times::default(),
            lacks: Rc::default(),
            tells_late: true,
        };
        Footing {
            volume: Rc::new(volume),
            in_doubt: false,
        }
    }
}

/// What a mark says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Mark {
    storage: Storage,
    /// Chosen anew by every session, so that who takes the mark away sees that another one began.
    number: u64,
    /// An earlier kernel's or mount's mark was here and never taken away.
    earlier: bool,
}

impl Mark {
    fn encode(&self) -> Vec<u8> {
        let mut value = Vec::with_capacity(MARK_BYTES);
        value.extend_from_slice(&self.storage.boot);
        value.extend_from_slice(&self.storage.mount.to_be_bytes());
        value.extend_from_slice(&self.number.to_be_bytes());
        value.push(u8::from(self.earlier));
        value
    }

    /// What is no mark of ours (another version, another program) may mean anything: it is doubted.
    fn decode(value: &[u8]) -> Mark {
        let whole: Option<&[u8; MARK_BYTES]> = value.try_into().ok();
        let Some(value) = whole else {
            return Mark {
                storage: Storage::default(),
                number: 0,
                earlier: true,
            };
        };
        let u64_at =
            |at: usize| u64::from_be_bytes(value[at..at + 8].try_into().unwrap_or_default());
        let mut boot = [0; 16];
        boot.copy_from_slice(&value[..16]);
        let storage = Storage {
            boot,
            mount: u64_at(16),
        };
        Mark {
            storage,
            number: u64_at(24),
            earlier: value[32] != 0,
        }
    }

    /// Whether what it covers may be gone, as seen from `now`.
    fn is_doubtful(&self, now: &Storage) -> bool {
        self.earlier || self.storage != *now
    }
}

/// What remains of a mark when all that `storage` held is on disk: nothing, unless an earlier one
/// is still in doubt.
pub fn settled(value: &[u8]) -> Option<Vec<u8>> {
    let mark = Mark::decode(value);
    mark.earlier.then(|| {
        Mark {
            storage: Storage::default(),
            ..mark
        }
        .encode()
    })
}

/// Whether a mark says that data of this kernel and mount may not be on disk.
pub fn is_of(value: &[u8], storage: &Storage) -> bool {
    Mark::decode(value).storage == *storage
}

impl Space {
    /// Whether all data is on disk before it gets its name, as no mark says that it may not be.
    pub(super) fn waits_for_data(&self, dir: DirId) -> bool {
        self.footing(dir)
            .is_some_and(|footing| match footing.volume.medium {
                Medium::Memory => false,
                Medium::Ordered { .. } => footing.volume.marked.get() == Marked::Refused,
                Medium::Unknown => true,
            })
    }
}

impl Files {
    /// The target of a session: looks for marks on it and above it.
    pub(super) async fn stand_on_target(
        &self,
        dir: DirId,
        fd: &Arc<OwnedFd>,
    ) -> Result<(), DiskError> {
        let volume = self.volume(fd).await?;
        let mut in_doubt = false;
        if let Medium::Ordered { .. } = volume.medium {
            let mut above = Some(fd.clone());
            for _ in 0..ANCESTORS_MAX {
                let Some(at) = above else { break };
                in_doubt = self.is_doubtful(&at, &volume.storage).await;
                if in_doubt {
                    break;
                }
                above = self.parent_on(&at, volume.dev).await?;
            }
        }
        self.space.set_footing(dir, Footing { volume, in_doubt });
        Ok(())
    }

    /// A directory that a symlink led to: marks lie above it where it is, too, and later runs may
    /// come there otherwise.
    pub(super) async fn stand_behind_link(
        &self,
        dir: DirId,
        parent: DirId,
        fd: &Arc<OwnedFd>,
    ) -> Result<(), DiskError> {
        self.stand_on_target(dir, fd).await?;
        if let (true, Some(footing)) = (self.space.is_in_doubt(parent), self.space.footing(dir)) {
            self.space.set_footing(
                dir,
                Footing {
                    in_doubt: true,
                    ..footing
                },
            );
        }
        Ok(())
    }

    /// A directory below another one.
    pub(super) async fn stand_on(
        &self,
        dir: DirId,
        parent: DirId,
        fd: &Arc<OwnedFd>,
        existed: bool,
    ) -> Result<(), DiskError> {
        let Some(above) = self.space.footing(parent) else {
            return Ok(());
        };
        let mut footing = Footing {
            in_doubt: above.in_doubt && existed,
            ..above
        };
        if existed {
            if self.fstat(fd).await?.dev != footing.volume.dev {
                footing = Footing {
                    volume: self.volume(fd).await?,
                    in_doubt: false,
                };
            }
            if !footing.in_doubt && matches!(footing.volume.medium, Medium::Ordered { .. }) {
                footing.in_doubt = self.is_doubtful(fd, &footing.volume.storage).await;
            }
        }
        self.space.set_footing(dir, footing);
        Ok(())
    }

    async fn volume(&self, top: &Arc<OwnedFd>) -> Result<Rc<Volume>, DiskError> {
        let stat = self.fstat(top).await?;
        let FileDone::FileSystem(found) = self
            .call("fstatfs", FileOp::StatFs { file: top.clone() })
            .await?
        else {
            unreachable!("fstatfs answers FileSystem")
        };
        let medium = Medium::of(&found);
        let storage = self.storage_of(&stat);
        let marked = Cell::new(Marked::No);
        Ok(Rc::new(Volume {
            top: top.clone(),
            dev: stat.dev,
            storage,
            medium,
            marked,
            times: Times::default(),
            lacks: Rc::default(),
            tells_late: !is_local(&found),
        }))
    }

    /// A directory of the destination, to make temporary files in.
    pub(super) fn temporary_dir(&self, dir: DirId, fd: &Arc<OwnedFd>) -> TemporaryDir {
        TemporaryDir {
            fd: fd.clone(),
            lacks: self.lacks(dir),
        }
    }

    /// What the file system of a directory of the destination was found not to have.
    pub(super) fn lacks(&self, dir: DirId) -> Rc<Lacks> {
        let footing = self.space.footing(dir);
        footing.map_or_else(Rc::default, |footing| footing.volume.lacks.clone())
    }

    /// What holds the data of a file until it is on disk.
    pub(super) fn storage_of(&self, stat: &Statx) -> Storage {
        Storage {
            boot: self.shared.boot_id,
            mount: stat.mount.unwrap_or_default(),
        }
    }

    /// Whether what a file system took may be lost without a word before close(2).
    pub(super) fn tells_late(&self, dir: DirId) -> bool {
        self.space
            .footing(dir)
            .is_none_or(|footing| footing.volume.tells_late)
    }

    /// Whether blocks are reserved for a file without holes before its data comes. On ext4 and XFS
    /// data then goes faster into the page cache, and pieces that arrive in any order do not
    /// scatter. Elsewhere it would be writing itself (tmpfs), or keep the file system from
    /// compressing (btrfs, ZFS, bcachefs, f2fs).
    pub(super) fn reserves(&self, dir: DirId) -> bool {
        self.space
            .footing(dir)
            .is_some_and(|footing| footing.volume.medium == Medium::Ordered { by_writeback: true })
    }

    /// Whether the content of a file may be trusted to be what its size and time promise. `sparse`:
    /// its source has holes. Data of such a file was on disk before its name was (see
    /// [`super::part`]), so that a gap in its extents is a hole and no loss.
    pub(super) async fn is_sound(
        &self,
        dir: DirId,
        name: &Name,
        (size_bytes, sparse): (u64, bool),
    ) -> Result<bool, DiskError> {
        if size_bytes == 0 || !self.space.is_in_doubt(dir) {
            return Ok(true);
        }
        let fd = self.dir(dir).await?;
        let how = OpenHow {
            flags: flags::O_RDONLY | flags::O_NOFOLLOW | flags::O_NONBLOCK,
            mode: 0,
            resolve: flags::RESOLVE_BENEATH,
        };
        // One that cannot be opened or looked into is sent again.
        let file = match self.open(Some(&fd), name.as_bytes(), how).await {
            Ok(file) => file,
            Err(error) if descriptors::is_shortage(&error) => return Err(error),
            Err(_) => return Ok(false),
        };
        if self.is_written(&file, size_bytes, sparse).await {
            return Ok(true);
        }
        // What this kernel wrote a moment ago is not there yet either; what is lost is not dirty,
        // and stays unwritten.
        Ok(self.before_replacing(dir, &file).await.is_ok()
            && self.is_written(&file, size_bytes, sparse).await)
    }

    async fn is_written(&self, file: &Arc<OwnedFd>, size_bytes: u64, has_holes: bool) -> bool {
        let op = FileOp::Extents {
            file: file.clone(),
            len: size_bytes,
            has_holes,
        };
        matches!(self.call("fiemap", op).await, Ok(FileDone::Allocated(true)))
    }

    /// Before data gets a name that nothing had: a later run will know that it may be gone, or it
    /// is waited for. `whole`: this session wrote all of it.
    pub(super) async fn before_naming(
        &self,
        dir: DirId,
        file: &Arc<OwnedFd>,
        whole: bool,
    ) -> Result<(), DiskError> {
        let Some(Footing { volume, .. }) = self.space.footing(dir) else {
            return Ok(());
        };
        match volume.medium {
            // What an earlier session wrote lies in blocks that count as written, whatever was
            // written over it since.
            Medium::Ordered { .. } if whole && self.mark(&volume).await => Ok(()),
            Medium::Memory => Ok(()),
            Medium::Ordered { .. } | Medium::Unknown => self.before_replacing(dir, file).await,
        }
    }

    /// Before data takes the name of something else: the disk has it, so that a power cut leaves
    /// the old or the new.
    pub(super) async fn before_replacing(
        &self,
        dir: DirId,
        file: &Arc<OwnedFd>,
    ) -> Result<(), DiskError> {
        let Some(Footing { volume, .. }) = self.space.footing(dir) else {
            return Ok(());
        };
        let file = file.clone();
        match volume.medium {
            Medium::Memory => return Ok(()),
            Medium::Ordered { by_writeback: true } => {
                self.call(
                    "sync_file_range",
                    FileOp::SyncRange {
                        file,
                        range: (0, 0),
                        wait: true,
                    },
                )
                .await?
            }
            Medium::Ordered {
                by_writeback: false,
            }
            | Medium::Unknown => {
                self.call(
                    "fdatasync",
                    FileOp::Fsync {
                        file,
                        data_only: true,
                    },
                )
                .await?
            }
        };
        Ok(())
    }

    /// Has the volume marked. False: it takes no mark (now).
    async fn mark(&self, volume: &Volume) -> bool {
        match volume.marked.get() {
            Marked::Yes => return true,
            Marked::Refused => return false,
            Marked::No => {}
        }
        let top = &volume.top;
        // Held with the directory to the session's end: nobody takes the mark away meanwhile.
        let mut locked = Ok(FileDone::Locked(false));
        for _ in 0..LOCK_TRIES {
            let op = FileOp::Lock {
                file: top.clone(),
                how: Flock::Shared,
            };
            locked = self.call("flock", op).await;
            if !matches!(locked, Ok(FileDone::Locked(false))) {
                break;
            }
        }
        let marked = match locked {
            Ok(FileDone::Locked(false)) => return false,
            Ok(_) => self.set_mark(volume).await,
            Err(error) => Err(error),
        };
        volume.marked.set(if marked.is_ok() {
            Marked::Yes
        } else {
            Marked::Refused
        });
        if let (Ok(_), Some(settler)) = (&marked, &self.shared.settler) {
            // Without room there, the mark stays until a later session of this directory.
            let _ = settler.try_send(top.clone());
        }
        marked.is_ok()
    }

    async fn set_mark(&self, volume: &Volume) -> Result<(), DiskError> {
        let before = self.mark_on(&volume.top).await?;
        let mark = Mark {
            storage: volume.storage,
            number: rand::random(),
            earlier: before.is_some_and(|mark| mark.is_doubtful(&volume.storage)),
        };
        let op = FileOp::SetXattr {
            file: volume.top.clone(),
            name: MARK,
            value: mark.encode(),
        };
        self.call("fsetxattr", op).await.map(drop)
    }

    /// The directory above, if it is on the same file system and may be read. Upwards, out of
    /// whatever the session is confined to: only a mark is looked for, nothing a peer sees.
    async fn parent_on(
        &self,
        dir: &Arc<OwnedFd>,
        dev: u64,
    ) -> Result<Option<Arc<OwnedFd>>, DiskError> {
        let how = OpenHow {
            flags: flags::O_RDONLY | flags::O_DIRECTORY,
            mode: 0,
            resolve: 0,
        };
        let above = match self.open(Some(dir), b"..", how).await {
            Ok(above) => above,
            // No mark is overlooked for want of a descriptor: the operation waits for one.
            Err(error) if descriptors::is_shortage(&error) => return Err(error),
            Err(_) => return Ok(None),
        };
        let (here, there) = (self.fstat(dir).await?, self.fstat(&above).await?);
        Ok((there.dev == dev && there.ino != here.ino).then_some(above))
    }

    async fn mark_on(&self, dir: &Arc<OwnedFd>) -> Result<Option<Mark>, DiskError> {
        let op = FileOp::GetXattr {
            file: dir.clone(),
            name: MARK,
        };
        match self.call("fgetxattr", op).await? {
            FileDone::Xattr(value) => Ok(value.map(|value| Mark::decode(&value))),
            other => unreachable!("fgetxattr answered {other:?}"),
        }
    }

    /// A directory that takes or shows no attributes (EOPNOTSUPP, EACCES, an O_PATH descriptor) was
    /// never marked.
    async fn is_doubtful(&self, dir: &Arc<OwnedFd>, now: &Storage) -> bool {
        matches!(self.mark_on(dir).await, Ok(Some(mark)) if mark.is_doubtful(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_of_others_are_doubted() {
        let ours = Storage {
            boot: [1; 16],
            mount: 7,
        };
        let mark = Mark {
            storage: ours,
            number: 9,
            earlier: false,
        };
        assert_eq!(Mark::decode(&mark.encode()), mark);
        assert!(!mark.is_doubtful(&ours) && is_of(&mark.encode(), &ours));
        for other in [
            Storage {
                boot: [2; 16],
                ..ours
            },
            Storage { mount: 8, ..ours },
        ] {
            assert!(mark.is_doubtful(&other) && !is_of(&mark.encode(), &other));
        }
        for strange in [&b""[..], b"x", &[0; MARK_BYTES + 1]] {
            assert!(Mark::decode(strange).is_doubtful(&ours));
        }
        assert_eq!(settled(&mark.encode()), None);
        let earlier = settled(
            &Mark {
                earlier: true,
                ..mark
            }
            .encode(),
        )
        .unwrap();
        assert!(Mark::decode(&earlier).is_doubtful(&ours));
    }
}
