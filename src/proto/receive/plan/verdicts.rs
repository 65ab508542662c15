//! What the sender is told of entries, and what is counted and reported here with it.

use super::{ReceivePlan, ReceivedEntry, held};
use crate::ids::EntryId;
use crate::proto::ports::Ports;
use crate::proto::wire::{Message, Verdict, VerdictKind};
use crate::proto::{EntryResult, Event};

impl ReceivePlan {
    /// Sends the verdicts held back to go together.
    pub fn flush(&mut self, ports: &mut Ports) {
        if let Some(verdicts) = self.verdicts.take() {
            ports.message(&Message::Verdicts(verdicts));
        }
    }

    pub(super) fn push_verdict(&mut self, ports: &mut Ports, entry: EntryId, kind: VerdictKind) {
        let verdict = Verdict { entry, kind };
        let most_bytes = verdict.encoded_bound();
        if let Some(verdicts) = self.verdicts.push(verdict, most_bytes) {
            ports.message(&Message::Verdicts(verdicts));
        }
    }

    /// The final verdict on an entry: told to the sender (and here, if this is the client),
    /// counted. The caller takes the entry out of the table and, when its directory is quiet, calls
    /// [`ReceivePlan::child_done`].
    pub(super) fn conclude(
        &mut self,
        ports: &mut Ports,
        id: EntryId,
        entry: &ReceivedEntry,
        result: EntryResult,
    ) {
        self.manifest.unresolved -= 1;
        self.manifest.described_bytes -= held::of_entry(entry);
        self.forget_name(id, entry);
        self.totals.count(entry.kind, entry.size_bytes, &result);
        if let (Some(odd), EntryResult::Done { .. }) = (entry.odd_size, &result) {
            let path = self.path_of(entry);
            self.odd_sizes.note(odd, || path);
        }
        let kind = match &result {
            EntryResult::Done { resumed_bytes } => VerdictKind::Done {
                resumed_bytes: *resumed_bytes,
            },
            EntryResult::Skipped => VerdictKind::Skipped {},
            EntryResult::Failed(error) => VerdictKind::Failed {
                error: (**error).clone(),
            },
        };
        self.push_verdict(ports, id, kind);
        // A daemon's log wants to know what failed, not each of a million files that did not.
        if self.client || matches!(result, EntryResult::Failed(_)) {
            let path = self.path_of(entry);
            ports.event(Event::Entry {
                path,
                kind: entry.kind,
                size_bytes: entry.size_bytes,
                result,
            });
        }
    }
}
