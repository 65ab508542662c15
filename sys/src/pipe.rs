//! Pipes as sources: whether there is something to read now, and room for more of it.

use std::io;
use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;

/// What a pipe is made to hold, if it may: the most that fs.pipe-max-size lets an ordinary user
/// have. With the kernel's own 64 KiB a writer waits for every look of a reader that looks now and
/// then.
const PIPE_BYTES: i32 = 1 << 20;

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

#[cfg(test)]
mod tests {
    use std::io::Write;
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
}
