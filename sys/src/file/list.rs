//! getdents64 in bounded batches with a cursor, so that a directory of millions never fills memory.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use super::{DirEntry, FileDone, FileKind};

/// Most bytes one getdents64 call may return; a name takes 24 to 280 of them.
const BATCH_MAX_BYTES: usize = 64 * 1024;
/// Room for 11 entries of the longest name (NAME_MAX 255 → 280 bytes): below this the kernel could
/// answer EINVAL.
const BATCH_MIN_BYTES: usize = 11 * 280;
/// Smallest linux_dirent64: 19 bytes of header, a name byte, NUL, padded to 8.
const ENTRY_MIN_BYTES: usize = 24;
/// Offset of `d_name` in linux_dirent64.
const NAME_OFFSET: usize = 19;

/// One batch of names from `cursor` on. See [`super::FileOp::List`].
pub(super) fn list(dir: &OwnedFd, cursor: u64, max: usize) -> io::Result<FileDone> {
    let fd = dir.as_raw_fd();
    let position = i64::try_from(cursor).map_err(|_| super::invalid("directory cursor"))?;
    // Seeking resets ext4's sorted cache of the current hash bucket, so only when somebody else
    // moved it.
    let here = nix::unistd::lseek(dir, 0, nix::unistd::Whence::SeekCur)?;
    if here != position {
        nix::unistd::lseek(dir, position, nix::unistd::Whence::SeekSet)?;
    }
    let want = max
        .saturating_mul(ENTRY_MIN_BYTES)
        .clamp(BATCH_MIN_BYTES, BATCH_MAX_BYTES);
    let mut raw = vec![0u8; want];
    // SAFETY: the kernel writes at most `raw.len()` bytes into `raw`, which lives past the call.
    let got = unsafe { libc::syscall(libc::SYS_getdents64, fd, raw.as_mut_ptr(), raw.len()) };
    if got < 0 {
        return Err(io::Error::last_os_error());
    }
    let (entries, last) = parse(&raw[..got as usize]);
    Ok(FileDone::Listed {
        entries,
        next: last,
    })
}

/// Entries of a getdents64 buffer and the cursor after the last one (`None` for an empty buffer:
/// the end).
pub(crate) fn parse(mut raw: &[u8]) -> (Vec<DirEntry>, Option<u64>) {
    let mut entries = Vec::with_capacity(raw.len() / 32);
    let mut next = None;
    while let Some((ino, off, record, kind)) = header(raw) {
        let name = &raw[NAME_OFFSET..record];
        let name = &name[..name
            .iter()
            .position(|&byte| byte == 0)
            .unwrap_or(name.len())];
        if name != b"." && name != b".." && !name.is_empty() {
            entries.push(DirEntry {
                name: name.to_vec(),
                kind,
                ino,
            });
        }
        next = Some(off);
        raw = &raw[record..];
    }
    (entries, next)
}

/// (d_ino, d_off, d_reclen, d_type) of the first record, if there is a whole one.
fn header(raw: &[u8]) -> Option<(u64, u64, usize, FileKind)> {
    let ino = u64::from_ne_bytes(raw.get(0..8)?.try_into().ok()?);
    let off = u64::from_ne_bytes(raw.get(8..16)?.try_into().ok()?);
    let record = usize::from(u16::from_ne_bytes(raw.get(16..18)?.try_into().ok()?));
    let kind = match *raw.get(18)? {
        libc::DT_REG => FileKind::File,
        libc::DT_DIR => FileKind::Dir,
        libc::DT_LNK => FileKind::Symlink,
        libc::DT_UNKNOWN => FileKind::Unknown,
        _ => FileKind::Special,
    };
    (record > NAME_OFFSET && record <= raw.len()).then_some((ino, off, record, kind))
}
