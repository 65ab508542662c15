//! When lanes in the clear come to an end: one that was altered ends all of them.

use std::time::Instant;

use super::Lanes;
use super::lane::Lane;
use super::ports::{LaneClosed, LanesOutput, code};
use crate::proto::Event;
use crate::proto::clear::ClearOff;

const ALTERED: &str = "data in the clear was changed on the wire";

impl Lanes {
    /// Client: nobody was there, or not the server. What such lanes were to carry goes on others.
    pub(super) fn dial_in_the_clear_failed(&mut self, now: Instant) {
        if self.adding.dial_ended() && self.is_on() {
            self.leave_clear(now, ClearOff::NotHad);
        }
    }

    /// Nothing more goes in the clear in this session. What did and did not arrive whole comes
    /// again on lanes that nobody can change.
    pub(super) fn leave_clear(&mut self, now: Instant, why: ClearOff) {
        self.adding.clear = None;
        if self.adding.was_altered {
            return;
        }
        let event = Event::ClearOff(why);
        self.outputs.push_back(LanesOutput::Event(event));
        if why != ClearOff::Altered {
            return;
        }
        self.adding.was_altered = true;
        while let Some(key) = self
            .added
            .iter()
            .find(|it| Lane::is_clear(it))
            .map(|lane| lane.key)
        {
            self.close(key, code::ALTERED, ALTERED);
            self.added_gone(now, key, LaneClosed::Altered);
        }
    }
}
