//! Unsized files at the receiver: stretches as they come, and the end that says how many bytes they
//! are. Nothing of them is resumed.

use super::PartState;
use crate::ids::EntryId;
use crate::proto::errors::{Violation, corrupted, violation};
use crate::proto::integrity::Digest;
use crate::proto::ports::Ports;
use crate::proto::receive::plan::{ReceivePlan, ReceivedState};

/// A stretch that is written, and whose digest is right.
pub struct Stretch {
    pub offset: u64,
    pub len_bytes: u64,
    pub digest: Digest,
}

impl ReceivePlan {
    pub fn stretch_done(&mut self, ports: &mut Ports, at: usize, stretch: &Stretch) {
        let Stretch {
            offset,
            len_bytes,
            digest,
        } = *stretch;
        self.manifest.bytes = self.manifest.bytes.saturating_add(len_bytes);
        if let Some(chain) = &mut self.parts.open[at].stretches {
            chain.insert(offset, len_bytes, digest);
        }
        self.settle_part(ports, at);
    }

    /// How long an unsized file is.
    pub fn on_end(
        &mut self,
        ports: &mut Ports,
        id: EntryId,
        size_bytes: u64,
        digest: Digest,
    ) -> Result<(), Violation> {
        let Some(entry) = self.entries.get_mut(&id) else {
            return self.known_or_violation(id);
        };
        if let ReceivedState::Part(at) = entry.state {
            let part = &mut self.parts.open[at];
            let is_open = matches!(part.state, PartState::Receiving);
            if is_open && part.stretches.is_some() && part.root.is_none() {
                part.root = Some(digest);
                entry.size_bytes = size_bytes;
                self.settle_part(ports, at);
                return Ok(());
            }
        }
        violation(format!("end of entry {} in the wrong state", id.0))
    }

    /// Behind the end, once every stretch is written.
    pub(super) fn settle_stretches(&mut self, ports: &mut Ports, at: usize) {
        let part = &self.parts.open[at];
        let size_bytes = self.entries.get(&part.entry).map(|entry| entry.size_bytes);
        let (Some(chain), Some(root), Some(size_bytes)) = (&part.stretches, part.root, size_bytes)
        else {
            return;
        };
        match chain.digest(size_bytes) {
            Some(digest) if digest == root => self.part_is_whole(at),
            Some(_) => self.fail_part(ports, at, corrupted(), false),
            None => {}
        }
    }
}
