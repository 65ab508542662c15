//! Descriptors that run out: operations wait for them, holding none, and nobody keeps the last
//! ones.
//!
//! An operation that finds the table full lets go of whatever it opened, waits, and begins anew.
//! What stays open longer than one operation (a partial file, a source, a cached directory) leaves
//! a part of the table to operations that end by themselves, so that these always get on. The
//! kernel gives the lowest free number, so a descriptor's number tells how full the table is.

use crate::proto::errno::{EMFILE, ENFILE};
use std::os::fd::{AsRawFd, OwnedFd};
use std::task::Poll;
use std::time::Duration;

use super::{DiskError, Files};

/// Time between two tries.
pub const RETRY: Duration = Duration::from_millis(2);

/// Rounds of tries, each [`RETRY`] behind the last, in which no operation of the worker got what it
/// waited for, before one fails: a minute. Sessions close files as they get on, and where none
/// does, waiting longer helps nobody.
pub(super) const STANDSTILL_ROUNDS: u32 = 30_000;

/// Rounds before an operation fails though others got on: ten minutes. What it waits for is held by
/// a session that keeps it for longer than people wait.
const ROUNDS: u32 = 10 * STANDSTILL_ROUNDS;

/// Which descriptors may be kept, by their numbers.
#[derive(Clone, Copy, Debug)]
pub struct Allowance {
    limit: u64,
}

impl Allowance {
    pub fn of_this_process() -> Allowance {
        Allowance {
            limit: landro_sys::process::open_files_limit(),
        }
    }

    #[cfg(test)]
    pub fn of(limit: u64) -> Allowance {
        Allowance { limit }
    }

    /// For a directory that can be opened again: half of what sessions may begin with, so that
    /// directories that others keep open let nobody wait for them.
    pub fn may_cache(self, fd: &OwnedFd) -> bool {
        number(fd) < self.limit / 4
    }

    /// Operations of a worker that try again at a time. Each needs some descriptors (a directory,
    /// its workplace, a file and a journal), and the quarter that nobody keeps has them for as
    /// many.
    pub fn at_once(self) -> usize {
        usize::try_from(self.limit / 32)
            .unwrap_or(usize::MAX)
            .max(1)
    }

    /// For the directory that a session begins with.
    fn may_begin(self, fd: &OwnedFd) -> bool {
        number(fd) < self.limit / 2
    }

    /// For a file that stays open while its data travels, of a session that holds so many among so
    /// many sessions. While the table is half empty anyone may; of the next quarter each has its
    /// share, so that one that came early does not have it all.
    ///
    /// # Errors
    /// EMFILE when the rest of the table is for others.
    fn keep(self, number: u64, held: usize, sessions: usize) -> Result<(), DiskError> {
        let share = (self.limit / 4 / sessions.max(1) as u64).max(LEAST_SHARE);
        let most = match (held as u64) < share {
            true => self.limit / 4 * 3,
            false => self.limit / 2,
        };
        (number < most).then_some(()).ok_or(SHORTAGE)
    }
}

/// Files a session may hold however many sessions there are: a partial file and its journal.
const LEAST_SHARE: u64 = 2;

const SHORTAGE: DiskError = DiskError {
    call: "openat2",
    errno: EMFILE,
};

impl Files {
    /// For a file that stays open while its data travels.
    ///
    /// # Errors
    /// EMFILE when the rest of the table is for others.
    pub(super) fn keep(&self, fd: &OwnedFd) -> Result<(), DiskError> {
        self.keep_number(number(fd))
    }

    /// The same before the file is there. One that is made and then not kept is not only in vain:
    /// ext4 gives an inode that was deleted to nobody for five seconds and looks at each such one
    /// again for the next file (recently_deleted() in fs/ext4/ialloc.c), which took twenty pushes
    /// at once more time than all they had to do. It is asked while anything waits; otherwise there
    /// is room.
    ///
    /// # Errors
    /// EMFILE when the rest of the table is for others.
    pub(super) fn expect_to_keep(&self) -> Result<(), DiskError> {
        if self.shared.short_of_descriptors.get() == 0 {
            return Ok(());
        }
        let next = landro_sys::process::next_descriptor().map_err(|_| SHORTAGE)?;
        self.keep_number(next)
    }

    fn keep_number(&self, number: u64) -> Result<(), DiskError> {
        let (held, sessions) = (self.space.held_files(), self.shared.sessions.get());
        self.space.allowance.keep(number, held, sessions)
    }

    /// For the directory that a session begins with, and holds to its end: as many sessions begin
    /// as leave room for what they open then.
    ///
    /// # Errors
    /// EMFILE when others have to end first.
    pub(super) fn admit(&self, fd: &OwnedFd) -> Result<(), DiskError> {
        let is_alone = self.shared.sessions.get() <= 1;
        let is_let_in = is_alone || self.space.allowance.may_begin(fd);
        is_let_in.then_some(()).ok_or(SHORTAGE)
    }
}

fn number(fd: &OwnedFd) -> u64 {
    u64::from(fd.as_raw_fd().unsigned_abs())
}

/// Whether the table is full, which passes.
pub fn is_shortage(error: &DiskError) -> bool {
    matches!(error.errno, EMFILE | ENFILE)
}

/// An operation's wait for descriptors, which ends when this is dropped.
pub(super) struct Wait<'a> {
    files: &'a Files,
    begun: u32,
}

impl<'a> Wait<'a> {
    pub(super) fn begin(files: &'a Files) -> Wait<'a> {
        let shared = &files.shared;
        shared.short_of_descriptors.update(|waiting| waiting + 1);
        let begun = shared.rounds.get();
        Wait { files, begun }
    }

    /// It has lasted too long, or nobody's comes to an end.
    pub(super) fn is_over(&self) -> bool {
        let shared = &self.files.shared;
        let rounds_since = |then: u32| shared.rounds.get().wrapping_sub(then);
        let waited = rounds_since(self.begun);
        let stood_still = waited.min(rounds_since(shared.round_of_success.get()));
        stood_still > STANDSTILL_ROUNDS || waited > ROUNDS
    }

    /// Until it is this task's turn to look again; what this session can open again is closed
    /// first.
    pub(super) async fn for_a_turn(&self) {
        let files = self.files;
        files.space.close_idle_directories();
        polled_again(
            |task| files.shared.short.borrow_mut().push_back(task),
            files,
        )
        .await;
    }

    /// The operation has what it waited for.
    pub(super) fn has_ended_well(self) {
        let shared = &self.files.shared;
        shared.round_of_success.set(shared.rounds.get());
    }
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        let shared = &self.files.shared;
        shared.short_of_descriptors.update(|waiting| waiting - 1);
    }
}

/// Until the worker has tasks look again, which takes [`RETRY`].
pub(super) async fn pause(files: &Files) {
    polled_again(|task| files.shared.paused.borrow_mut().push(task), files).await;
}

/// Until this task is polled again, for which it is `noted`.
async fn polled_again(noted: impl FnOnce(usize), files: &Files) {
    let mut noted = Some(noted);
    std::future::poll_fn(|_| match noted.take() {
        Some(note) => {
            note(files.shared.current_task.get());
            Poll::Pending
        }
        None => Poll::Ready(()),
    })
    .await;
}
