//! What a file system makes of times of modification: learnt by asking it, and believed for the
//! session.
//!
//! A file that was sent is known again by its time, and file systems keep less of that than they
//! take: whole seconds, 100 ns, the years from 1980 or to 2038, or nothing. What is stored is read
//! back once where all is well. Where a time at the destination is not the source's, a file of no
//! importance is given a time that tells the steps apart, so that such a time is compared as the
//! file system would have stored it.

use std::cell::Cell;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use landro_sys::FileOp;

use super::publish::{apart, is_refusal, unlink};
use super::{DiskError, Files};
use crate::ids::{DirId, Name};
use crate::proto::{Mtime, TimeLapse};

/// Steps in which times are stored: all of it, NTFS and CIFS, then what servers and old file
/// systems do, and FAT last.
const STEPS_NS: [u64; 7] = [
    1,
    100,
    1_000,
    1_000_000,
    10_000_000,
    1_000_000_000,
    2_000_000_000,
];

/// More than a time of these decades is off by that was a floating-point number of seconds.
const FLOAT_STEP_NS: u64 = 1_000;

/// No step is as long as this, so what is farther off was not stored.
const NEAR_NS: u64 = 2_000_000_000;

/// Each step cuts something else from it. 2001: within every range.
const TELLING: Mtime = Mtime {
    seconds: 1_000_000_001,
    nanoseconds: 987_654_321,
};

/// Seconds that every file system with times has: FAT's begin with 1980 (in the local time of
/// whoever mounted it), those of 32 bits end with January 2038.
const COMMON_RANGE: (i64, i64) = (315_532_800 + 86_400, (1 << 31) - 86_400);

/// What is known of a file system's times.
#[derive(Default)]
pub struct Times {
    keeping: Cell<Keeping>,
    /// Seconds between which a time was seen to be stored.
    proven: Cell<Option<(i64, i64)>>,
    /// What is stored for everything before, and for everything behind.
    first: Cell<Option<Mtime>>,
    last: Cell<Option<Mtime>>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Keeping {
    #[default]
    Unknown,
    /// To so many nanoseconds.
    Steps(u64),
    /// A file has the time of its last write, whatever is asked for.
    Writes,
    /// Every file has the same, or any.
    Nothing,
}

fn nanoseconds(time: Mtime) -> i128 {
    i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanoseconds)
}

fn distance_ns(one: Mtime, other: Mtime) -> u128 {
    nanoseconds(one).abs_diff(nanoseconds(other))
}

/// Whether some step may make the one of the other.
fn is_near(asked: Mtime, stored: Mtime) -> bool {
    distance_ns(asked, stored) < u128::from(NEAR_NS)
}

fn is_common(time: Mtime) -> bool {
    (COMMON_RANGE.0..COMMON_RANGE.1).contains(&time.seconds)
}

impl Times {
    /// What becomes of a time, as far as it is known: `Some(None)`: it is stored.
    fn foreseen(&self, asked: Mtime) -> Option<Option<TimeLapse>> {
        if self.keeps_none() {
            return Some(Some(TimeLapse::NotKept));
        }
        let is_proven = self
            .proven
            .get()
            .is_some_and(|(from, to)| (from..=to).contains(&asked.seconds));
        if is_proven {
            return Some(None);
        }
        (self.limited(asked) != asked).then_some(Some(TimeLapse::OutOfRange))
    }

    fn keeps_none(&self) -> bool {
        matches!(self.keeping.get(), Keeping::Writes | Keeping::Nothing)
    }

    /// A time within the range, as far as that is known.
    fn limited(&self, asked: Mtime) -> Mtime {
        let first = self.first.get().filter(|first| asked < *first);
        let last = self.last.get().filter(|last| asked > *last);
        first.or(last).unwrap_or(asked)
    }

    /// Of a time that the file system took, and what it stored: whether that is it. None: it is
    /// not, though every file system has that time.
    fn learn(&self, asked: Mtime, stored: Mtime) -> Option<Result<(), TimeLapse>> {
        // Another file may have told since this one was asked: then it says nothing of a range.
        if self.keeps_none() {
            return Some(Err(TimeLapse::NotKept));
        }
        if is_near(asked, stored) {
            let (from, to) = self.proven.get().unwrap_or(COMMON_RANGE);
            let proven = (from.min(asked.seconds), to.max(asked.seconds));
            self.proven.set(Some(proven));
            return Some(Ok(()));
        }
        if is_common(asked) {
            return None;
        }
        let limit = if stored < asked {
            &self.last
        } else {
            &self.first
        };
        limit.set(Some(stored));
        Some(Err(TimeLapse::OutOfRange))
    }

    /// Of the telling time, and what was stored.
    fn learn_steps(&self, stored: Mtime) {
        let off_ns = distance_ns(TELLING, stored);
        let mut steps = STEPS_NS.into_iter();
        let step = steps.find(|step| off_ns < u128::from(*step));
        // What was not cut down went through a floating-point number (servers in Python), which
        // keeps a quarter of a microsecond.
        let is_cut = |step: u64| nanoseconds(stored) % i128::from(step) == 0;
        self.keeping.set(match step {
            Some(step) if !is_cut(step) => Keeping::Steps(step.max(FLOAT_STEP_NS)),
            Some(step) => Keeping::Steps(step),
            None if stored > TELLING => Keeping::Writes,
            None => Keeping::Nothing,
        });
    }

    /// Whether a file that has a time is what a file of another time would be here.
    fn is_stored_for(&self, found: Mtime, asked: Mtime) -> bool {
        match self.keeping.get() {
            Keeping::Unknown => found == asked,
            Keeping::Steps(step) => distance_ns(found, self.limited(asked)) < u128::from(step),
            Keeping::Writes => found >= asked,
            Keeping::Nothing => true,
        }
    }
}

impl Files {
    /// What became of a time that a file was just given.
    pub(super) async fn stored_time(
        &self,
        dir: DirId,
        file: &Arc<OwnedFd>,
        asked: Mtime,
    ) -> Result<Option<TimeLapse>, DiskError> {
        let Some(footing) = self.space.footing(dir) else {
            return Ok(None);
        };
        let times = &footing.volume.times;
        if let Some(foreseen) = times.foreseen(asked) {
            return Ok(foreseen);
        }
        let stored = self.mtime_of(file).await?;
        // A time that every file gets says nothing of a range.
        let is_told = is_near(asked, stored) || times.keeping.get() != Keeping::Unknown;
        if is_told && let Some(learnt) = times.learn(asked, stored) {
            return Ok(learnt.err());
        }
        self.ask_steps(times, file).await?;
        self.set_mtime(file, asked).await?;
        if let Some(foreseen) = times.foreseen(asked) {
            return Ok(foreseen);
        }
        let learnt = times.learn(asked, self.mtime_of(file).await?);
        Ok(learnt.and_then(Result::err))
    }

    /// Whether a file whose time is not the one asked about has what the file system would have
    /// made of it.
    pub(super) async fn has_time(
        &self,
        dir: DirId,
        name: &Name,
        found: Mtime,
        asked: Mtime,
    ) -> bool {
        if found == asked {
            return true;
        }
        let Some(footing) = self.space.footing(dir) else {
            return false;
        };
        let times = &footing.volume.times;
        let is_open = !is_common(asked) && times.foreseen(asked).is_none();
        if times.keeping.get() == Keeping::Unknown || is_open {
            // Where nothing can be made, there is nothing to be compared either: the copy says so.
            let _ = self.ask_apart(times, dir, name, asked).await;
        }
        times.is_stored_for(found, asked)
    }

    /// Gives a file of no importance times, to see what is stored.
    async fn ask_apart(
        &self,
        times: &Times,
        dir: DirId,
        name: &Name,
        asked: Mtime,
    ) -> Result<(), DiskError> {
        let fd = self.dir(dir).await?;
        let (file, path) = apart(self, &self.temporary_dir(dir, &fd), name).await?;
        let answer = self.ask(times, &file, asked).await;
        // Behind the question: servers that go by paths (FUSE, 9P) know no file without a name.
        if let Some(path) = path {
            unlink(self, &fd, &path.to_c()).await?;
        }
        answer
    }

    async fn ask(&self, times: &Times, file: &Arc<OwnedFd>, asked: Mtime) -> Result<(), DiskError> {
        if times.keeping.get() == Keeping::Unknown {
            self.ask_steps(times, file).await?;
        }
        if !is_common(asked) && times.foreseen(asked).is_none() {
            self.set_mtime(file, asked).await?;
            times.learn(asked, self.mtime_of(file).await?);
        }
        Ok(())
    }

    async fn ask_steps(&self, times: &Times, file: &Arc<OwnedFd>) -> Result<(), DiskError> {
        match self.set_mtime(file, TELLING).await {
            Err(error) if !is_refusal(error.errno) => return Err(error),
            // A file that may be given no time has that of its writing.
            Ok(()) | Err(_) => {}
        }
        times.learn_steps(self.mtime_of(file).await?);
        Ok(())
    }

    async fn set_mtime(&self, file: &Arc<OwnedFd>, mtime: Mtime) -> Result<(), DiskError> {
        let op = FileOp::SetMeta {
            file: file.clone(),
            mode: None,
            mtime: Some((mtime.seconds, mtime.nanoseconds)),
        };
        self.call("futimens", op).await.map(drop)
    }

    async fn mtime_of(&self, file: &Arc<OwnedFd>) -> Result<Mtime, DiskError> {
        let stat = self.fstat(file).await?;
        Ok(Mtime {
            seconds: stat.mtime_s,
            nanoseconds: stat.mtime_ns,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(seconds: i64, nanoseconds: u32) -> Mtime {
        Mtime {
            seconds,
            nanoseconds,
        }
    }

    #[test]
    fn every_step_is_told_from_the_others() {
        for step in STEPS_NS {
            let kept = nanoseconds(TELLING) / i128::from(step) * i128::from(step);
            let (seconds, rest) = (kept / 1_000_000_000, kept % 1_000_000_000);
            let stored = time(seconds as i64, rest as u32);
            let times = Times::default();
            times.learn_steps(stored);
            assert_eq!(times.keeping.get(), Keeping::Steps(step));
            assert!(times.is_stored_for(stored, TELLING));
            let other = time(stored.seconds + 4, stored.nanoseconds);
            assert!(!times.is_stored_for(other, TELLING));
        }
        let times = Times::default();
        times.learn_steps(time(1_700_000_000, 0));
        assert_eq!(times.keeping.get(), Keeping::Writes);
        assert!(times.is_stored_for(time(10, 0), time(9, 0)));
        assert!(!times.is_stored_for(time(10, 0), time(11, 0)));
        times.learn_steps(time(0, 0));
        assert_eq!(times.keeping.get(), Keeping::Nothing);
        let learnt = times.learn(time(7, 0), time(1_700_000_000, 0));
        assert_eq!(learnt, Some(Err(TimeLapse::NotKept)));
        assert_eq!(times.first.get(), None);
    }

    #[test]
    fn times_that_were_floating_point_numbers_are_near() {
        let times = Times::default();
        times.learn_steps(time(TELLING.seconds, TELLING.nanoseconds + 11));
        let (asked, stored) = (time(1_790_000_000, 307_544_359), 307_544_469);
        assert!(times.is_stored_for(time(asked.seconds, stored), asked));
        assert!(!times.is_stored_for(time(asked.seconds, stored + 2_000), asked));
    }

    #[test]
    fn a_range_is_learnt_from_what_lies_outside() {
        let times = Times::default();
        assert_eq!(times.foreseen(time(5_000_000_000, 0)), None);
        let last = time((1 << 31) - 1, 0);
        let learnt = times.learn(time(5_000_000_000, 0), last);
        assert_eq!(learnt, Some(Err(TimeLapse::OutOfRange)));
        let foreseen = times.foreseen(time(6_000_000_000, 1));
        assert_eq!(foreseen, Some(Some(TimeLapse::OutOfRange)));
        times.learn_steps(time(TELLING.seconds, 0));
        assert!(times.is_stored_for(last, time(6_000_000_000, 1)));
        assert!(!times.is_stored_for(last, time(1_500_000_000, 0)));
        assert_eq!(times.learn(time(0, 0), time(0, 0)), Some(Ok(())));
        assert_eq!(times.foreseen(time(7, 5)), Some(None));
        assert_eq!(times.foreseen(time(-1, 0)), None);
        assert_eq!(times.learn(time(1_500_000_000, 0), time(7, 0)), None);
    }
}
