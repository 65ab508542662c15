//! What is mounted where: whether calls below a directory may wait for somebody, and whether a file
//! system was taken away.
//!
//! Both are told from the names in `/proc/self/mountinfo` (proc_pid_mountinfo(5)), which no file
//! system is asked for: one that does not answer is found there like any other.

use std::fs::File;
use std::io::{self, Read};

use landro_sys::FileSystem;
use landro_sys::file::magic;

/// Of `/proc/self/mountinfo` on a host with some hundred mounts.
const USUAL_BYTES: usize = 16 << 10;

/// What a session can expect of the calls below a directory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ground {
    /// Nothing but memory is there: no call waits.
    pub in_memory: bool,
    /// close(2) may wait for somebody: what is behind it is a server (NFS, FUSE), which is told.
    pub closing_waits: bool,
}

/// The mounts of this process.
pub struct Mounts(Vec<Mount>);

struct Mount {
    point: Vec<u8>,
    kind: MountKind,
}

/// Who answers for a file system.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum MountKind {
    Memory,
    /// A disk of this host.
    Disk,
    /// Other file systems, which fstatfs(2) asks in turn (overlay).
    Layers,
    /// Somebody else: a server, a process.
    Other,
}

impl MountKind {
    /// From the name of its type.
    fn of(name: &[u8]) -> MountKind {
        match name {
            b"tmpfs" | b"ramfs" | b"devtmpfs" => MountKind::Memory,
            b"ext2" | b"ext3" | b"ext4" | b"xfs" | b"btrfs" | b"f2fs" | b"zfs" | b"bcachefs"
            | b"vfat" | b"exfat" | b"ntfs3" | b"squashfs" | b"iso9660" => MountKind::Disk,
            b"overlay" => MountKind::Layers,
            _ => MountKind::Other,
        }
    }

    fn of_open(found: &FileSystem) -> MountKind {
        match found.magic {
            _ if found.is_memory => MountKind::Memory,
            magic::EXT
            | magic::XFS
            | magic::BTRFS
            | magic::F2FS
            | magic::ZFS
            | magic::BCACHEFS
            | magic::FAT
            | magic::EXFAT
            | magic::NTFS3 => MountKind::Disk,
            magic::OVERLAY => MountKind::Layers,
            _ => MountKind::Other,
        }
    }
}

/// Whether a file system is of this host's own disks and memory, as far as it is known here. Others
/// ask a server (NFS, CIFS, AFS, Ceph, Lustre, 9p) or a process (FUSE) to store what they took.
pub fn is_local(found: &FileSystem) -> bool {
    MountKind::of_open(found) != MountKind::Other
}

impl Mounts {
    /// # Errors
    /// Where there is no /proc.
    pub fn of_this_process() -> io::Result<Mounts> {
        // In two calls, mostly: `fs::read` asks for the size first, which is 0 in /proc, and begins
        // with 32 bytes.
        let mut text = Vec::with_capacity(USUAL_BYTES);
        let file = File::open("/proc/self/mountinfo")?;
        file.take(u64::MAX).read_to_end(&mut text)?;
        Ok(Mounts::parse(&text))
    }

    fn parse(text: &[u8]) -> Mounts {
        let lines = text.split(|&b| b == b'\n');
        Mounts(lines.filter_map(Mount::parse).collect())
    }

    /// What is to be expected below the directory at `path`, which is on `found`.
    pub fn ground(&self, path: &[u8], found: &FileSystem) -> Ground {
        let here = MountKind::of_open(found);
        let below = self.0.iter().filter(|mount| is_below(&mount.point, path));
        let kinds = || below.clone().map(|mount| mount.kind).chain([here]);
        Ground {
            in_memory: kinds().all(|kind| kind == MountKind::Memory),
            closing_waits: kinds().any(|kind| kind == MountKind::Other),
        }
    }

    /// Whether even fstatfs(2) of `path` may wait, for what it is on is none of this host's.
    pub fn may_wait_at(&self, path: &[u8]) -> bool {
        self.mount_of(path).is_none_or(|mount| match mount.kind {
            MountKind::Memory | MountKind::Disk => false,
            MountKind::Layers | MountKind::Other => true,
        })
    }

    /// Where the file system is mounted that `path` is on.
    pub fn point_of(&self, path: &[u8]) -> Option<&[u8]> {
        self.mount_of(path).map(|mount| &mount.point[..])
    }

    /// Of those that are mounted at one point the last hides the others.
    fn mount_of(&self, path: &[u8]) -> Option<&Mount> {
        let above = self.0.iter().filter(|mount| is_in(path, &mount.point));
        above.max_by_key(|mount| mount.point.len())
    }
}

impl Ground {
    /// Where nothing is known of it.
    pub const UNKNOWN: Ground = Ground {
        in_memory: false,
        closing_waits: true,
    };

    /// Of a session that works here and there.
    pub fn and(self, other: Ground) -> Ground {
        Ground {
            in_memory: self.in_memory && other.in_memory,
            closing_waits: self.closing_waits || other.closing_waits,
        }
    }
}

impl Mount {
    /// `36 35 98:0 / /mnt rw,noatime shared:1 - ext4 /dev/sda1 rw`: the fifth field is where, the
    /// one behind the dash what.
    fn parse(line: &[u8]) -> Option<Mount> {
        let mut fields = line.split(|&b| b == b' ');
        let point = unescaped(fields.nth(4)?);
        let kind = fields.skip_while(|field| *field != b"-").nth(1)?;
        Some(Mount {
            point,
            kind: MountKind::of(kind),
        })
    }
}

/// Whether `path` is `above` or lies below it, both absolute.
pub fn is_in(path: &[u8], above: &[u8]) -> bool {
    path == above || is_below(path, above)
}

/// Whether `path` lies below `above`, both absolute.
fn is_below(path: &[u8], above: &[u8]) -> bool {
    let above = above.strip_suffix(b"/").unwrap_or(above);
    path.strip_prefix(above)
        .is_some_and(|rest| rest.len() > 1 && rest[0] == b'/')
}

/// Blanks, tabs, newlines and backslashes are written as `\040` and so on.
fn unescaped(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, behind)) = rest.split_first() {
        let digits = behind.get(..3).and_then(|it| std::str::from_utf8(it).ok());
        let escaped = digits.and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match (first, escaped) {
            (b'\\', Some(byte)) => {
                plain.push(byte);
                rest = &behind[3..];
            }
            _ => {
                plain.push(first);
                rest = behind;
            }
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &[u8] = b"22 1 8:1 / / rw - ext4 /dev/sda1 rw\n\
        30 22 0:25 / /tmp rw shared:5 - tmpfs tmpfs rw\n\
        31 30 0:30 / /tmp/a\\040b rw - fuse.sshfs h:/ rw\n\
        32 22 0:31 / /srv/disk rw master:1 shared:2 - xfs /dev/sdb rw\n\
        nonsense\n";

    fn file_system(magic: i64, is_memory: bool) -> FileSystem {
        FileSystem {
            is_memory,
            has_inodes: true,
            free_bytes: 0,
            total_bytes: 0,
            magic,
        }
    }

    #[test]
    fn what_lies_below_counts() {
        let mounts = Mounts::parse(TEXT);
        let memory = file_system(0, true);
        let disk = file_system(magic::EXT, false);
        let other = file_system(0x6573_5546, false);
        let ground = |path: &[u8], found| {
            let ground = mounts.ground(path, found);
            (ground.in_memory, ground.closing_waits)
        };
        assert_eq!(ground(b"/tmp", &memory), (false, true));
        assert_eq!(ground(b"/tmp/a", &memory), (true, false));
        assert_eq!(ground(b"/tmp/a b", &other), (false, true));
        assert_eq!(ground(b"/srv", &disk), (false, false));
        assert_eq!(ground(b"/", &disk), (false, true));
    }

    #[test]
    fn the_deepest_mount_point_is_the_paths() {
        let mounts = Mounts::parse(TEXT);
        let point = |path: &[u8]| mounts.point_of(path).map(<[u8]>::to_vec);
        assert_eq!(point(b"/srv/disk/x"), Some(b"/srv/disk".to_vec()));
        assert_eq!(point(b"/srv/disk"), Some(b"/srv/disk".to_vec()));
        assert_eq!(point(b"/srv/disks"), Some(b"/".to_vec()));
        assert_eq!(point(b"/tmp/a b/c"), Some(b"/tmp/a b".to_vec()));
        assert!(is_in(b"/srv/disk2", b"/srv/disk2") && is_in(b"/srv/disk2", b"/"));
        assert!(!is_in(b"/srv/disk22", b"/srv/disk2"));
        assert!(mounts.may_wait_at(b"/tmp/a b/c") && !mounts.may_wait_at(b"/tmp/a"));
    }
}
