//! Mail that a full mailbox did not take: it goes in order, a moment later.
//!
//! What sessions tell their parts on other workers must not be lost, nor overtake itself. How much
//! of it there is at a time is bounded by what sessions may hold: files that are open, small files
//! that wait for the disk, lanes.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use super::mailbox::Mail;
use super::shared::Shared;
use crate::ids::WorkerId;

/// After this time a mailbox that was full is tried again. A worker takes from its own in each
/// turn.
const RETRY: Duration = Duration::from_millis(1);

#[derive(Default)]
pub(crate) struct Outbox(BTreeMap<WorkerId, VecDeque<Mail>>);

impl Outbox {
    /// Sends mail behind all that was sent to the same worker before.
    pub(crate) fn send(&mut self, shared: &Shared, to: WorkerId, mail: Mail) {
        if let Some(waiting) = self.0.get_mut(&to) {
            return waiting.push_back(mail);
        }
        if let Err(back) = shared.try_post(to, mail) {
            self.0.insert(to, VecDeque::from([back]));
        }
    }

    /// Tries again what waits.
    pub(crate) fn flush(&mut self, shared: &Shared) {
        self.0.retain(|to, waiting| {
            while let Some(mail) = waiting.pop_front() {
                if let Err(back) = shared.try_post(*to, mail) {
                    waiting.push_front(back);
                    return true;
                }
            }
            false
        });
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// When it is to be tried again.
    pub(crate) fn due(&self, now: Instant) -> Option<Instant> {
        (!self.0.is_empty()).then(|| now + RETRY)
    }
}
