//! What the sender says a whole is; and chunks that are asked for again, for it remembered them
//! wrongly.
//!
//! A digest that was said before a chunk was asked for again may be made from the wrong value. So
//! the sender says with each how many it was asked for before, and an earlier one does not count.

use super::{PartState, ReceivePlan, ReceivedState};
use crate::ids::{ChunkIndex, EntryId};
use crate::proto::errors::{Violation, corrupted, violation};
use crate::proto::integrity::Digest;
use crate::proto::ports::{OddSize, Ports};
use crate::proto::wire::Message;

impl ReceivePlan {
    /// The digest of a whole file of several chunks, behind so many that were asked for again.
    pub(in crate::proto::receive::plan) fn on_root(
        &mut self,
        ports: &mut Ports,
        id: EntryId,
        (digest, agains): (Digest, u32),
        has_grown: bool,
    ) -> Result<(), Violation> {
        let Some(entry) = self.entries.get_mut(&id) else {
            return self.known_or_violation(id);
        };
        if let ReceivedState::Part(at) = entry.state {
            let part = &mut self.parts.open[at];
            let is_open = matches!(part.state, PartState::Receiving);
            let is_new = part.rooted_at < Some(agains) && agains <= part.agains;
            if is_open && is_new && part.tree.chunks() > 1 {
                part.rooted_at = Some(agains);
                part.root = (agains == part.agains).then_some(digest);
                entry.odd_size = has_grown.then_some(OddSize::Grown);
                self.settle_part(ports, at);
                return Ok(());
            }
        }
        violation(format!("digest of entry {} in the wrong state", id.0))
    }

    /// The sender's value of a chunk is not that of its data. It remembered the value, so it is
    /// asked for the chunk once more, hashed; a chunk for which that is not enough is corrupted.
    pub(in crate::proto::receive::plan) fn ask_again(
        &mut self,
        ports: &mut Ports,
        at: usize,
        chunk: ChunkIndex,
    ) {
        let part = &mut self.parts.open[at];
        if !matches!(part.state, PartState::Receiving) {
            return;
        }
        if part.agains >= part.tree.chunks() {
            return self.fail_part(ports, at, corrupted(), false);
        }
        part.agains += 1;
        part.root = None;
        let entry = part.entry;
        ports.message(&Message::Again {
            entry,
            chunk: chunk.0,
        });
    }
}
