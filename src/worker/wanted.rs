//! Connections of a worker whose handles want a turn, and how the worker is woken for them.

use std::sync::{Mutex, OnceLock, PoisonError};

use landro_sys::WakeHandle;

/// The list of one worker.
#[derive(Default)]
pub struct WantedTurns {
    /// By key and serial number.
    list: Mutex<Vec<(usize, u64)>>,
    pub wake: OnceLock<WakeHandle>,
}

impl WantedTurns {
    /// Has a connection given a turn. Whoever calls this sees to it that the same one is not named
    /// again before it had its turn, so that the list is no longer than the worker's table.
    pub fn want(&self, key: usize, serial: u64) {
        let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        list.push((key, serial));
        let is_first = list.len() == 1;
        drop(list);
        // Who was first woke it, and it takes all.
        if is_first && let Some(wake) = self.wake.get() {
            wake.wake();
        }
    }

    pub fn is_empty(&self) -> bool {
        let list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        list.is_empty()
    }

    /// Takes all.
    pub fn take(&self) -> Vec<(usize, u64)> {
        let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *list)
    }
}
