//! Whether a worker's loop turns: it is asked now and then, and answers with its next turn.

use std::sync::atomic::{AtomicU64, Ordering};

/// Two counters instead of a command: a mailbox may be full, and an answer costs a turn two loads.
/// A worker that waits for nothing but events is as healthy as a busy one: whoever asks wakes it.
#[derive(Default)]
pub struct Pulse {
    asked: AtomicU64,
    answered: AtomicU64,
}

impl Pulse {
    /// Asks; the worker is to be woken after this.
    pub fn ask(&self) {
        self.asked.fetch_add(1, Ordering::Release);
    }

    /// Whether the loop turned since [`Pulse::ask`].
    pub fn is_answered(&self) -> bool {
        self.answered.load(Ordering::Acquire) == self.asked.load(Ordering::Acquire)
    }

    /// The worker's part, once a turn.
    pub fn beat(&self) {
        let asked = self.asked.load(Ordering::Acquire);
        if self.answered.load(Ordering::Relaxed) != asked {
            self.answered.store(asked, Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_of_the_last_question() {
        let pulse = Pulse::default();
        assert!(pulse.is_answered(), "nobody asked yet");
        pulse.ask();
        assert!(!pulse.is_answered());
        pulse.beat();
        assert!(pulse.is_answered());
        pulse.ask();
        pulse.ask();
        assert!(!pulse.is_answered(), "it turned before it was asked");
        pulse.beat();
        assert!(pulse.is_answered());
    }
}
