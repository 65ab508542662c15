//! A copy within one host does not lead into itself: which objects its directories are.

use super::{ReceivePlan, ReceivePlanOp, Target};
use crate::ids::{EntryId, Name};
use crate::proto::errors::{destination_error, into_itself};
use crate::proto::ports::Ports;
use crate::proto::{Carriage, DirFound, DiskDone, DiskError, DiskOp};

impl ReceivePlan {
    /// The target was looked up.
    pub(super) fn target_resolved(
        &mut self,
        ports: &mut Ports,
        result: Result<DiskDone, DiskError>,
    ) {
        let rename = match result {
            Ok(DiskDone::Target { name }) => name,
            Ok(_) => None,
            Err(error) => {
                self.target = Target::Failed(error);
                return;
            }
        };
        match self.carriage {
            Carriage::Bytes | Carriage::Ranges => self.target = Target::Ready { rename },
            Carriage::Copies => {
                let cmd = DiskOp::DirsAbove {
                    dir: self.dir_id(0),
                };
                self.ops.start(ports, ReceivePlanOp::Above { rename }, cmd);
            }
        }
    }

    pub(super) fn above_found(
        &mut self,
        rename: Option<Name>,
        result: Result<DiskDone, DiskError>,
    ) {
        self.target = match result {
            Ok(DiskDone::Above(objects)) => {
                self.above = objects;
                Target::Ready { rename }
            }
            Ok(_) => Target::Ready { rename },
            Err(error) => Target::Failed(error),
        };
    }

    /// A directory was made or found: asks which object it is.
    pub(super) fn identify_dir(&mut self, ports: &mut Ports, dir: usize, found: DirFound) {
        let cmd = DiskOp::StatDir {
            dir: self.dir_id(dir),
        };
        let op = ReceivePlanOp::StatDir { dir, found };
        self.ops.start(ports, op, cmd);
    }

    pub(super) fn dir_identified(
        &mut self,
        ports: &mut Ports,
        dir: usize,
        found: DirFound,
        result: Result<DiskDone, DiskError>,
    ) {
        let entry = self.entries.get(&self.tree.dirs[dir].entry);
        let source = entry.and_then(|entry| entry.source);
        let error = match result {
            Ok(DiskDone::Meta(meta)) if source != Some(meta.object()) => {
                self.tree.dirs[dir].object = Some(meta.object());
                return self.dir_ready(ports, dir, found);
            }
            Ok(_) => into_itself(),
            Err(error) => destination_error(&error),
        };
        let id = self.dir_id(dir);
        self.close_dir(ports, id);
        self.dir_not_made(ports, dir, error);
    }

    /// Whether a directory is one that its copy lies in, be it by another mount or by another name
    /// on the way. Such a copy has no end.
    pub(super) fn leads_into_itself(&self, id: EntryId) -> bool {
        let Some(entry) = self.entries.get(&id) else {
            return false;
        };
        let Some(source) = entry.source else {
            return false;
        };
        let mut at = entry.dir;
        while at != 0 {
            if self.tree.dirs[at].object == Some(source) {
                return true;
            }
            at = self.tree.dirs[at].parent;
        }
        self.above.contains(&source)
    }
}
