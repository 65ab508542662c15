//! Attributes that could not be had, counted by kind: metadata is not data, so each kind is one
//! warning of a session.

use bytes::Bytes;

use crate::proto::errors::{LapseKind, lapse_text};
use crate::proto::{Lapses, TimeLapse};

/// What was lost of so many entries.
#[derive(Default)]
pub(super) struct LapseCounts {
    modes: Option<LapseCount>,
    times: Option<LapseCount>,
    ranges: Option<LapseCount>,
    unkept: Option<LapseCount>,
}

struct LapseCount {
    entries: u64,
    /// The path and errno (0 without one) of the first of them.
    first: (Bytes, i32),
}

/// What is said of a kind.
pub(super) struct LapseWarning {
    pub path: Bytes,
    pub text: String,
}

impl LapseCounts {
    pub(super) fn count(&mut self, lapses: Lapses, path: Bytes) {
        let add = |kind: &mut Option<LapseCount>, errno| {
            let count = kind.get_or_insert_with(|| LapseCount {
                entries: 0,
                first: (path.clone(), errno),
            });
            count.entries += 1;
        };
        if let Some(errno) = lapses.mode {
            add(&mut self.modes, errno);
        }
        match lapses.mtime {
            None => {}
            Some(TimeLapse::Refused(errno)) => add(&mut self.times, errno),
            Some(TimeLapse::OutOfRange) => add(&mut self.ranges, 0),
            Some(TimeLapse::NotKept) => add(&mut self.unkept, 0),
        }
    }

    /// Everything counted since, in words.
    pub(super) fn take(&mut self) -> Vec<LapseWarning> {
        let kinds = [
            (LapseKind::Mode, self.modes.take()),
            (LapseKind::Time, self.times.take()),
            (LapseKind::TimeRange, self.ranges.take()),
            (LapseKind::TimeKept, self.unkept.take()),
        ];
        let told = kinds.into_iter().filter_map(|(kind, count)| {
            let LapseCount {
                entries,
                first: (path, errno),
            } = count?;
            let text = lapse_text(kind, entries, errno);
            Some(LapseWarning { path, text })
        });
        told.collect()
    }
}
