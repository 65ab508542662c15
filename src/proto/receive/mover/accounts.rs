//! What was taken of lanes that are no more: what half arrived is dropped, the rest is told.

use std::collections::VecDeque;

use super::ReceiveMover;
use crate::ids::StreamKey;
use crate::proto::LostLane;
use crate::proto::wire::{LaneAccount, LanePart, MAX_ITEMS};

/// What a lane that is lost costs, and a stream of it.
const LANE_BYTES: u64 = size_of::<LostLane>() as u64;
const PART_BYTES: u64 = size_of::<LanePart>() as u64;

#[derive(Debug, Default)]
pub(super) struct Accounts {
    /// Lanes whose streams were not dropped yet: while what a hole stands for is hashed, there may
    /// be many.
    lost: VecDeque<LostLane>,
    /// What is to be told once nothing of what was dropped is being written.
    due: VecDeque<LaneAccount>,
}

impl Accounts {
    pub(super) fn held_bytes(&self) -> u64 {
        let of_lost = |lost: &LostLane| (lost.ended.len() + lost.begun.len()) as u64;
        let of_due = |due: &LaneAccount| due.parts.len() as u64;
        let lanes = (self.lost.len() + self.due.len()) as u64;
        let lost: u64 = self.lost.iter().map(of_lost).sum();
        let due: u64 = self.due.iter().map(of_due).sum();
        lanes * LANE_BYTES + (lost + due) * PART_BYTES
    }
}

impl ReceiveMover {
    /// A lane is no more.
    pub fn lose(&mut self, lost: LostLane) {
        self.accounts.lost.push_back(lost);
    }

    /// What the sender is to be told of lanes that are no more. What half arrived comes again then,
    /// so that nothing of it may be under way to the disk any more, or it might be written last.
    pub fn next_account(&mut self) -> Option<LaneAccount> {
        // What waits behind a hole, or an answer, arrived, and is taken first.
        while !self.is_held_up()
            && let Some(lost) = self.accounts.lost.pop_front()
        {
            self.drop_lane(&lost);
        }
        match self.dropped {
            0 => self.accounts.due.pop_front(),
            _ => None,
        }
    }

    fn drop_lane(&mut self, lost: &LostLane) {
        // What was read to its end may have turned out altered in the middle.
        let altered = lost.lately.iter().copied();
        let altered = altered.filter(|(_, key)| self.was_altered(*key));
        let altered: Vec<(u32, StreamKey)> = altered.collect();
        let is_whole = |stream: &u32| !altered.iter().any(|(it, _)| it == stream);
        let first = altered.iter().map(|(stream, _)| *stream).min();
        let below = first.map_or(lost.below, |first| lost.below.min(first));
        let ended = lost.ended.iter().copied().chain(below..lost.below);
        let ended = ended.filter(is_whole).map(|stream| LanePart {
            stream,
            records: None,
        });
        let mut parts: Vec<LanePart> = ended.collect();
        let mut streams = lost.begun.iter().chain(&altered);
        let is_altered = lost.altered || streams.any(|(_, key)| self.was_altered(*key));
        for (stream, key) in lost.begun.iter().chain(&altered) {
            let records = self.drop_stream(*key);
            if records > 0 {
                let (stream, records) = (*stream, Some(records));
                parts.push(LanePart { stream, records });
            }
        }
        parts.sort_unstable_by_key(|part| part.stream);
        let lane = lost.number;
        while parts.len() > MAX_ITEMS {
            let rest = parts.split_off(MAX_ITEMS);
            self.accounts.due.push_back(LaneAccount {
                lane,
                below,
                parts: std::mem::replace(&mut parts, rest),
                more: true,
                altered: is_altered,
            });
        }
        self.accounts.due.push_back(LaneAccount {
            lane,
            below,
            parts,
            more: false,
            altered: is_altered,
        });
    }
}
