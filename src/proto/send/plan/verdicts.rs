//! What the receiver decides about entries, held against what it may decide in each state.

use bytes::Bytes;

use super::{Resume, SendPlan, SentState};
use crate::ids::{ChunkIndex, EntryId};
use crate::proto::chunk::{chunk_count, chunk_len_bytes, is_resumable};
use crate::proto::errors::{Violation, violation};
use crate::proto::integrity::Tree;
use crate::proto::parallel::MAX_PARTIAL_CHUNKS;
use crate::proto::ports::Ports;
use crate::proto::send::orders::SendCommand;
use crate::proto::wire::{Verdict, VerdictKind};
use crate::proto::{EntryError, EntryResult, Event, Kind};

impl SendPlan {
    pub fn on_verdict(&mut self, ports: &mut Ports, verdict: Verdict) -> Result<(), Violation> {
        let id = verdict.entry;
        let Some(entry) = self.entries.get_mut(&id) else {
            return violation(format!("verdict on entry {}, which is not open", id.0));
        };
        if let SentState::Told = entry.state {
            return violation(format!("another verdict on entry {}", id.0));
        }
        match verdict.kind {
            VerdictKind::Send {} => self.on_send(ports, id),
            VerdictKind::Have { first, values } => self.on_have(id, first, &values),
            VerdictKind::Skipped {} => match (&entry.state, entry.kind) {
                (SentState::Offered { resume: None, .. }, Kind::File | Kind::Symlink) => {
                    self.resolve(ports, id, EntryResult::Skipped);
                    Ok(())
                }
                _ => violation(format!("entry {} skipped in the wrong state", id.0)),
            },
            // Of what another worker sent it may be known before that worker's mail came.
            VerdictKind::Done { resumed_bytes: 0 }
                if matches!(entry.state, SentState::Ordered { is_away: true }) =>
            {
                entry.state = SentState::Told;
                Ok(())
            }
            VerdictKind::Done { resumed_bytes } => {
                let possible = match entry.kind {
                    Kind::Symlink => {
                        matches!(entry.state, SentState::Offered { .. }) && resumed_bytes == 0
                    }
                    Kind::Directory => {
                        matches!(entry.state, SentState::Emitted) && resumed_bytes == 0
                    }
                    Kind::File => {
                        let is_sent = match entry.state {
                            SentState::Emitted => true,
                            // Its last chunk was sent again, and is being looked at.
                            SentState::Large { file } => self.files.is_rooted(file),
                            _ => false,
                        };
                        let size_bytes = entry.sent.whole_bytes;
                        is_sent && resumed_bytes <= size_bytes.unwrap_or(entry.version.size_bytes)
                    }
                    Kind::Special => false,
                };
                if !possible {
                    return violation(format!("entry {} done in the wrong state", id.0));
                }
                if let SentState::Large { file } = entry.state {
                    self.cancel_file(ports, file);
                }
                self.resolve(ports, id, EntryResult::Done { resumed_bytes });
                Ok(())
            }
            VerdictKind::Failed { error } => {
                self.on_failed(ports, id, error);
                Ok(())
            }
        }
    }

    fn on_send(&mut self, ports: &mut Ports, id: EntryId) -> Result<(), Violation> {
        let Some(entry) = self.entries.get_mut(&id) else {
            return Ok(());
        };
        let (SentState::Offered { dir, resume }, Kind::File) = (&mut entry.state, entry.kind)
        else {
            return violation(format!("entry {} wanted in the wrong state", id.0));
        };
        let (dir, resume) = (dir.take(), resume.take());
        if let (true, Some(resume)) = (self.client, &resume) {
            let bytes = resume.bytes;
            ports.event(Event::Resumed { bytes });
        }
        entry.state = SentState::Wanted { dir, resume };
        let (size_bytes, is_unsized) = (entry.version.size_bytes, entry.is_unsized);
        self.want(id, size_bytes, is_unsized);
        Ok(())
    }

    fn on_have(&mut self, id: EntryId, first: u32, values: &Bytes) -> Result<(), Violation> {
        let Some(entry) = self.entries.get_mut(&id) else {
            return Ok(());
        };
        let size_bytes = entry.version.size_bytes;
        let (SentState::Offered { resume, .. }, Kind::File, true) =
            (&mut entry.state, entry.kind, is_resumable(size_bytes))
        else {
            return violation(format!("entry {} resumed in the wrong state", id.0));
        };
        let resume = match resume {
            Some(resume) => resume,
            None => {
                self.files.resumed_chunks += u64::from(chunk_count(size_bytes));
                if self.files.resumed_chunks > MAX_PARTIAL_CHUNKS {
                    return violation("more files resumed at once than allowed");
                }
                resume.insert(Box::new(Resume {
                    tree: Tree::new(size_bytes),
                    bytes: 0,
                }))
            }
        };
        for (at, value) in values.chunks_exact(32).enumerate() {
            let chunk = ChunkIndex(first.saturating_add(at as u32));
            let mut digest = [0; 32];
            digest.copy_from_slice(value);
            if !resume.tree.insert(chunk, digest) {
                return violation(format!(
                    "entry {} resumed with chunk {} twice or beyond its end",
                    id.0, chunk.0
                ));
            }
            resume.bytes += chunk_len_bytes(size_bytes, chunk);
        }
        Ok(())
    }

    /// The receiver gave an entry up: whatever is under way for it ends.
    fn on_failed(&mut self, ports: &mut Ports, id: EntryId, error: EntryError) {
        let state = self.entries.get(&id).map(|entry| &entry.state);
        match state {
            Some(SentState::Open) => self.prune(ports, id),
            Some(SentState::Large { file }) => {
                let file = *file;
                self.cancel_file(ports, file);
            }
            Some(SentState::Copied) => self.cancel_copied(id),
            Some(SentState::Ordered { .. }) => {
                self.commands.push_back(SendCommand::Forget { entry: id });
            }
            Some(
                SentState::Offered { .. }
                | SentState::Wanted { .. }
                | SentState::Emitted
                | SentState::Told
                | SentState::Aborted,
            )
            | None => {}
        }
        self.resolve(ports, id, EntryResult::failed(error));
    }

    /// The end of an entry: counted, told, forgotten.
    pub(super) fn resolve(&mut self, ports: &mut Ports, id: EntryId, result: EntryResult) {
        let Some(entry) = self.entries.remove(&id) else {
            return;
        };
        if let SentState::Offered { dir, resume } | SentState::Wanted { dir, resume } = &entry.state
        {
            if resume.is_some() {
                self.files.resumed_chunks -= u64::from(chunk_count(entry.version.size_bytes));
            }
            if let Some(dir) = *dir {
                self.release_dir(ports, dir);
            }
        }
        self.forget_sent(ports, &entry);
        let size_bytes = entry.sent.whole_bytes.unwrap_or(entry.version.size_bytes);
        let kind = entry.kind;
        self.totals.count(kind, size_bytes, &result);
        // A daemon's log wants to know what failed, not each of a million files that did not.
        if self.client || matches!(result, EntryResult::Failed(_)) {
            ports.event(Event::Entry {
                path: entry.path(),
                kind,
                size_bytes,
                result,
            });
        }
    }
}
