//! What the receiver was told of the sources so far: items that go together, notes, sums.

use bytes::Bytes;

use super::SendPlan;
use crate::ids::PATH_MAX_BYTES;
use crate::proto::ports::{Announced, Ports};
use crate::proto::wire::{Item, Message, MessageBatch};
use crate::proto::{EntryError, EntryPlace, EntryResult, Event, Kind};

/// Errors and warnings about things that never became entries are not covered by the window: a
/// client that never reads must not make a server pile up more. Those beyond are told as one sum at
/// the end.
const MAX_NOTES: u32 = 1024;

#[derive(Debug, Default)]
pub(super) struct SentManifest {
    pub(super) last_entry: u32,
    /// Told together, at the latest before anything else that speaks of them.
    items: MessageBatch<Item>,
    notes: u32,
    notes_left_out: u32,
    files: u64,
    bytes: u64,
    pub(super) ended: bool,
}

impl SentManifest {
    pub(super) fn announced(&self) -> Announced {
        Announced {
            files: self.files,
            bytes: self.bytes,
            complete: self.ended,
        }
    }

    pub(super) fn count_file(&mut self, size_bytes: u64) {
        self.files += 1;
        // Three sparse files of 8 EiB are more than there are numbers for.
        self.bytes = self.bytes.saturating_add(size_bytes);
    }

    /// More of an unsized file than was announced.
    pub(super) fn count_more(&mut self, bytes: u64) {
        self.bytes = self.bytes.saturating_add(bytes);
    }

    fn take_note(&mut self) -> bool {
        let room = self.notes < MAX_NOTES;
        match room {
            true => self.notes += 1,
            false => self.notes_left_out += 1,
        }
        room
    }

    #[cfg(test)]
    pub(super) fn check(&self) {
        self.items.check(Item::encoded_bound);
    }
}

impl SendPlan {
    pub(super) fn push_item(&mut self, ports: &mut Ports, item: Item) {
        let most_bytes = item.encoded_bound();
        if let Some(items) = self.manifest.items.push(item, most_bytes) {
            ports.message(&Message::Entries(items));
        }
    }

    pub fn flush(&mut self, ports: &mut Ports) {
        if let Some(items) = self.manifest.items.take() {
            ports.message(&Message::Entries(items));
        }
    }

    /// Any other message: what it speaks of must have been announced before it.
    pub(super) fn tell(&mut self, ports: &mut Ports, message: &Message) {
        self.flush(ports);
        ports.message(message);
    }

    /// Behind the last source.
    pub(super) fn end_manifest(&mut self, ports: &mut Ports) {
        if let Some((path, text)) = self.links.summary() {
            self.note_warning(ports, path, text);
        }
        if self.manifest.notes_left_out > 0 {
            let text = match self.manifest.notes_left_out {
                1 => "1 more message like these was left out".to_owned(),
                more => format!("{more} more messages like these were left out"),
            };
            let path = Bytes::new();
            self.tell(ports, &Message::SourceWarning { path, text });
        }
        self.manifest.ended = true;
        let entries = u64::from(self.manifest.last_entry);
        self.tell(ports, &Message::ManifestEnd { entries });
    }

    /// Something that never became an entry failed.
    pub(super) fn note_error(&mut self, ports: &mut Ports, path: Bytes, error: EntryError) {
        self.totals.count_error(error.code);
        if self.client {
            ports.event(Event::Entry {
                path: path.clone(),
                kind: Kind::File,
                size_bytes: 0,
                result: EntryResult::failed(error.clone()),
            });
        }
        // A server has to know that something is missing, and not each thing.
        let is_wanted = !self.client || self.manifest.notes == 0;
        if is_wanted && self.manifest.take_note() {
            let path = path.slice(..path.len().min(PATH_MAX_BYTES));
            self.tell(ports, &Message::SourceError { path, error });
        }
    }

    pub(super) fn note_warning(&mut self, ports: &mut Ports, path: Bytes, text: String) {
        if self.client {
            let place = EntryPlace::Source;
            ports.event(Event::Warning { path, place, text });
        } else if self.manifest.take_note() {
            let path = path.slice(..path.len().min(PATH_MAX_BYTES));
            self.tell(ports, &Message::SourceWarning { path, text });
        }
    }
}
