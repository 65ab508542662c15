//! Pipes: as sources, whether there is something to read now, and room for more of it; as what
//! holds a part of a file on its way to a socket.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, splice};
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;

/// What a pipe is made to hold, if it may: the most that fs.pipe-max-size lets an ordinary user
/// have. With the kernel's own 64 KiB a writer waits for every look of a reader that looks now and
/// then.
const PIPE_BYTES: i32 = 1 << 20;

/// What [`filled`] moves at most: a pipe of that size holds as many bytes only if they begin at a
/// page, and otherwise a page less (4 KiB).
pub const MAX_PIPED_BYTES: usize = PIPE_BYTES as usize;

/// Whether a read would not wait: there are bytes, the end, or an error. A FIFO that nobody has
/// opened for writing yet has neither, while read(2) already gives 0 there.
///
/// # Errors
/// What ppoll(2) says.
pub fn has_input(file: impl AsFd) -> io::Result<bool> {
    let mut descriptors = [PollFd::new(file.as_fd(), PollFlags::POLLIN)];
    loop {
        match ppoll(&mut descriptors, Some(TimeSpec::new(0, 0)), None) {
            Ok(ready) => return Ok(ready > 0),
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Gives a pipe more room; what is none stays as it is.
pub fn widen(file: impl AsFd) {
    // EBADF of what is no pipe, EPERM where this user has too many: then it is slower.
    let _ = fcntl(file.as_fd(), FcntlArg::F_SETPIPE_SZ(PIPE_BYTES));
}

/// A new pipe with so many bytes of a file, of which none is copied; its end to read from. Waits as
/// long as the disk does. Fewer bytes came where the file ends, or the pipe was full.
///
/// # Errors
/// What pipe2(2), fcntl(2) with F_SETPIPE_SZ and splice(2) say: `EMFILE`; `EPERM` where this user's
/// pipes hold as much as they may; `EINVAL` of a file that cannot.
pub(crate) fn filled(file: impl AsFd, offset: u64, len: usize) -> io::Result<(OwnedFd, usize)> {
    // Neither end waits for the other, whatever there is: nobody else has one.
    let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
    let len = len.min(MAX_PIPED_BYTES);
    fcntl(&write, FcntlArg::F_SETPIPE_SZ(len as i32))?;
    let mut at = i64::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut filled = 0;
    while filled < len {
        // SPLICE_F_NONBLOCK is about the pipe: the file is waited for.
        let flags = SpliceFFlags::SPLICE_F_MOVE | SpliceFFlags::SPLICE_F_NONBLOCK;
        match splice(&file, Some(&mut at), &write, None, len - filled, flags) {
            Ok(0) | Err(Errno::EAGAIN) => break,
            Ok(bytes) => filled += bytes,
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok((read, filled))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::fs::OpenOptionsExt;

    use super::*;

    #[test]
    fn a_fifo_without_a_writer_yet_is_not_at_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("fifo");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let mut options = std::fs::File::options();
        let reader = options
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(&path)
            .unwrap();
        widen(&reader);
        assert!(!has_input(&reader).unwrap());
        let mut writer = std::fs::File::options().write(true).open(&path).unwrap();
        assert!(!has_input(&reader).unwrap());
        writer.write_all(&[7; 300_000]).unwrap();
        assert!(has_input(&reader).unwrap());
        let mut taken = vec![0; 400_000];
        let mut read = 0;
        while read < 300_000 {
            read += nix::unistd::read(&reader, &mut taken[read..]).unwrap();
        }
        assert!(!has_input(&reader).unwrap());
        drop(writer);
        assert!(has_input(&reader).unwrap(), "the end is input, too");
    }

    #[test]
    fn a_part_of_a_file_is_in_a_pipe_and_no_more() {
        let memory = tempfile::tempdir_in("/dev/shm").unwrap();
        let disk = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let data: Vec<u8> = (0..3_000_000u32).map(|i| (i * 7) as u8).collect();
        for dir in [disk, memory] {
            let path = dir.path().join("file");
            std::fs::write(&path, &data).unwrap();
            let file = std::fs::File::open(&path).unwrap();
            for (offset, len, there) in [
                (0, 1 << 20, 1 << 20),
                (1 << 20, 70_000, 70_000),
                (2_990_000, 1 << 20, 10_000),
                (4_000_000, 10, 0),
            ] {
                let (pipe, bytes) = filled(&file, offset as u64, len).unwrap();
                assert_eq!(bytes, there);
                let mut read = Vec::new();
                std::fs::File::from(pipe).read_to_end(&mut read).unwrap();
                let end = data.len().min(offset + len);
                assert!(read == data[offset.min(end)..end]);
            }
        }
    }
}
