//! When lanes in the clear come to an end: one that was altered ends all of them.

use std::time::Instant;

use super::Lanes;
use super::lane::{ControlOut, Lane};
use super::ports::{LaneClosed, LaneKey, LanesOutput, code};
use crate::proto::Event;
use crate::proto::clear::ClearOff;

const ALTERED: &str = "data in the clear was changed on the wire";

impl Lanes {
    /// Lanes in the clear may come, for both sides agreed on that and none was altered.
    pub fn may_go_clear(&self) -> bool {
        self.adding.clear.is_some()
    }

    /// Client: nobody was there, or not the server. What such lanes were to carry goes on others.
    pub(super) fn dial_in_the_clear_failed(&mut self, now: Instant) {
        self.adding.clear_failures += 1;
        let may_come = self.adding.clear_failures < self.places || self.lanes.is_empty();
        let is_there = self.added.iter().any(Lane::is_clear);
        // Where one came before, a wire is down: there may be others, and it may be back.
        if self.adding.has_had_clear || is_there || may_come {
            self.adding.dial_failed(now);
        } else if self.adding.dial_ended() && self.is_on() {
            self.leave_clear(now, ClearOff::NotHad);
        }
    }

    /// What the loss of an added lane says of lanes in the clear. Gives how it is to be taken.
    pub(super) fn judge_clear(
        &mut self,
        now: Instant,
        key: LaneKey,
        why: LaneClosed,
    ) -> LaneClosed {
        let lane = self.added.iter().find(|lane| lane.key == key);
        let Some(lane) = lane.filter(|lane| lane.is_clear()) else {
            // What was encrypted nobody could alter, whatever the peer says.
            return match why {
                LaneClosed::Altered => LaneClosed::Otherwise,
                why => why,
            };
        };
        // The server has read what the lane is for, and said so under a code. Before, somebody on
        // the way may have changed our proof or that, and would again, for ever.
        let was_had = lane.control_out == ControlOut::Arrived;
        match why {
            LaneClosed::Altered => self.leave_clear(now, ClearOff::Altered),
            LaneClosed::Cut | LaneClosed::Otherwise
                if self.is_client() && self.is_on() && !was_had =>
            {
                self.leave_clear(now, ClearOff::NotHad);
            }
            LaneClosed::Cut
            | LaneClosed::Otherwise
            | LaneClosed::Replaced
            | LaneClosed::NoSession => {}
        }
        why
    }

    /// Nothing more goes in the clear in this session. What did and did not arrive whole comes
    /// again on lanes that nobody can change.
    pub(super) fn leave_clear(&mut self, now: Instant, why: ClearOff) {
        // A peer that complains of what is right had it over some other lane.
        let was_clear = self.adding.has_had_clear || self.added.iter().any(Lane::is_clear);
        if why == ClearOff::Altered && self.adding.sends && !was_clear {
            return;
        }
        let is_left = self.adding.clear.take().is_none();
        if self.adding.was_altered || is_left && why == ClearOff::NotHad {
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
