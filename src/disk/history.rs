//! What happened to a partial file, by whichever worker has it.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};

#[derive(Default)]
pub struct History {
    /// It was begun anew: all of it is this session's.
    pub whole: AtomicBool,
    /// It was a file and empty when this session began it: what is not written reads as zeros.
    pub fresh: AtomicBool,
    replaces: AtomicU8,
    /// Where what this session wrote ends.
    pub written_to: AtomicU64,
    /// Written since the disk was last told to write back.
    pub unwritten_bytes: AtomicU64,
}

/// Values of [`History::replaces`] beside zero, which says that it was not looked at.
const REPLACES_NOTHING: u8 = 1;
const REPLACES: u8 = 2;

impl History {
    /// Whether its name is another file's, which its data will have to be on disk to replace. None:
    /// that was not looked at.
    pub fn replaces(&self) -> Option<bool> {
        match self.replaces.load(Ordering::Relaxed) {
            REPLACES_NOTHING => Some(false),
            REPLACES => Some(true),
            _ => None,
        }
    }

    pub fn set_replaces(&self, replaces: bool) {
        let value = match replaces {
            true => REPLACES,
            false => REPLACES_NOTHING,
        };
        self.replaces.store(value, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_part_replaces_is_looked_at_once() {
        let history = History::default();
        assert_eq!(history.replaces(), None);
        for replaces in [true, false] {
            history.set_replaces(replaces);
            assert_eq!(history.replaces(), Some(replaces));
        }
    }
}
