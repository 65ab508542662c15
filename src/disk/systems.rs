//! What file systems keep of what they say of a file: its number, its size, when it changed.

use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::BuildHasherDefault;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use landro_sys::file::{flags, magic};
use landro_sys::{FileDone, FileOp, OpenHow, Statx};

use super::{DiskError, Files};
use crate::proto::Lasting;
use crate::proto::entries::IdHasher;

/// Devices remembered; a tree that crosses more of them learns of some again.
const DEVICES_MAX: usize = 4096;

/// What a file system keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keeps {
    numbers: Numbers,
    sizes: Sizes,
}

/// What tells a file from another of its name, size and mtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Numbers {
    /// Its inode number.
    Inodes,
    /// Inode numbers may be made up for each lookup; when the inode changed is the server's word.
    Changes,
    /// Neither: FUSE passes on whatever its program thinks of.
    Nothing,
}

/// Whether a file holds as many bytes as is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sizes {
    Always,
    /// A size of 0 may mean that nobody knows.
    UnlessZero,
    /// The kernel makes the content up when it is read: proc says 0, sysfs 4096.
    Never,
}

/// Magic numbers of statfs(2), from linux/magic.h unless another header is named.
fn keeps(magic: i64) -> Keeps {
    let (numbers, sizes) = match magic {
        magic::EXT | magic::XFS | magic::BTRFS | magic::OVERLAY => (Numbers::Inodes, Sizes::Always),
        magic::TMPFS | magic::F2FS | magic::BCACHEFS | magic::ZFS | magic::NTFS3 => {
            (Numbers::Inodes, Sizes::Always)
        }
        // ramfs, hugetlbfs, JFS, ReiserFS, NILFS2.
        0x8584_58f6 | 0x9584_58f6 | 0x3153_464a | 0x5265_4973 | 0x3434 => {
            (Numbers::Inodes, Sizes::Always)
        }
        // SquashFS, EROFS, ISO 9660, UDF, HFS+, eCryptfs, OCFS2, GFS2, Ceph, Lustre, GPFS.
        0x7371_7368 | 0xe0f5_e1e2 | 0x9660 | 0x1501_3346 | 0x482b | 0xf15f | 0x7461_636f
        | 0x0116_1970 | 0x00c3_6400 | 0x0bd0_0bd0 | 0x4750_4653 => (Numbers::Inodes, Sizes::Always),
        // They number their inodes anew whenever these leave the cache.
        magic::FAT | magic::EXFAT => (Numbers::Nothing, Sizes::Always),
        // NFS, SMB 1, CIFS, SMB 2 and AFS: numbers are the server's, and some make them up.
        0x6969 | 0x517b | 0xff53_4d42 | 0xfe53_4d42 | 0x5346_414f => {
            (Numbers::Changes, Sizes::Always)
        }
        // 9P passes on what the other side says, of its proc as well.
        0x0102_1997 => (Numbers::Changes, Sizes::UnlessZero),
        // With it: sysfs, cgroup, cgroup2, debugfs, tracefs, securityfs, SELinux, Smack, configfs.
        magic::PROC
        | 0x6265_6572
        | 0x0027_e0eb
        | 0x6367_7270
        | 0x6462_6720
        | 0x7472_6163
        | 0x7363_6673
        | 0xf97c_ff8c
        | 0x4341_5d53
        | 0x6265_6570 => MADE_UP,
        // bpf, efivarfs, pstore, nsfs, binfmt_misc, resctrl, xenfs, AppArmor, rpc_pipefs, fusectl.
        0xcafe_4a11 | 0xde5e_81e4 | 0x6165_676c | 0x6e73_6673 | 0x4249_4e4d | 0x0765_5821
        | 0xabba_1974 | 0x5a3c_69f0 | 0x6759_6969 | 0x6573_5543 => MADE_UP,
        // FUSE, and what is not known.
        _ => (Numbers::Nothing, Sizes::UnlessZero),
    };
    Keeps { numbers, sizes }
}

/// What the kernel makes up as it is asked.
const MADE_UP: (Numbers, Sizes) = (Numbers::Nothing, Sizes::Never);

impl Keeps {
    pub fn lasting(self, stat: &Statx) -> Lasting {
        match self.numbers {
            Numbers::Inodes => Lasting::Inode,
            Numbers::Changes => {
                let (seconds, nanoseconds) = stat.ctime;
                let nanoseconds = i64::from(nanoseconds);
                let changed = seconds
                    .wrapping_mul(1_000_000_000)
                    .wrapping_add(nanoseconds);
                Lasting::Changed(changed.cast_unsigned())
            }
            Numbers::Nothing => Lasting::Nothing,
        }
    }

    /// Whether a file of which this is said holds so many bytes.
    pub fn is_sized(self, size_bytes: u64) -> bool {
        match self.sizes {
            Sizes::Always => true,
            Sizes::UnlessZero => size_bytes > 0,
            Sizes::Never => false,
        }
    }
}

/// What is known of the devices a session came across.
#[derive(Default)]
pub struct Systems {
    devices: RefCell<HashMap<u64, Keeps, BuildHasherDefault<IdHasher>>>,
}

impl Systems {
    fn of(&self, device: u64) -> Option<Keeps> {
        self.devices.borrow().get(&device).copied()
    }

    fn learn(&self, device: u64, keeps: Keeps) {
        let mut devices = self.devices.borrow_mut();
        if devices.len() >= DEVICES_MAX {
            devices.clear();
        }
        devices.insert(device, keeps);
    }
}

impl Files {
    /// What the file system of an open file keeps; `stat` is the file's. One statfs(2) a device.
    pub(super) async fn keeps_of(
        &self,
        file: &Arc<OwnedFd>,
        stat: &Statx,
    ) -> Result<Keeps, DiskError> {
        if let Some(known) = self.space.systems.of(stat.dev) {
            return Ok(known);
        }
        let op = FileOp::StatFs { file: file.clone() };
        let FileDone::FileSystem(found) = self.call("fstatfs", op).await? else {
            unreachable!("fstatfs answers FileSystem")
        };
        let keeps = keeps(found.magic);
        self.space.systems.learn(stat.dev, keeps);
        Ok(keeps)
    }

    /// The same of a name in a directory. What something is mounted on has another device than its
    /// directory, so the name itself is asked.
    pub(super) async fn keeps_of_name(
        &self,
        dir: &Arc<OwnedFd>,
        name: &[u8],
        stat: &Statx,
    ) -> Result<Keeps, DiskError> {
        if let Some(known) = self.space.systems.of(stat.dev) {
            return Ok(known);
        }
        let how = OpenHow {
            flags: flags::O_PATH | flags::O_NOFOLLOW,
            mode: 0,
            resolve: 0,
        };
        let file = self.open(Some(dir), name, how).await?;
        self.keeps_of(&file, stat).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_is_not_believed() {
        let fuse = keeps(0x6573_5546);
        assert_eq!(fuse, keeps(0));
        assert!(fuse.is_sized(1) && !fuse.is_sized(0));
        assert!(keeps(magic::EXT).is_sized(0));
        assert!(!keeps(0x6265_6572).is_sized(4096));
    }
}
