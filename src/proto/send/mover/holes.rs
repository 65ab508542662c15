//! Chunks that are all hole: nothing of them is read or emitted, only hashed.

use super::{SendMover, SendMoverOp};
use crate::proto::DiskOp;
use crate::proto::ports::Ports;
use crate::proto::send::orders::{HolesOrder, SendReport};

impl SendMover {
    pub fn take_holes(&mut self, order: HolesOrder) {
        self.holes.push_back(order);
    }

    /// Hashes what may be hashed before the next turn. Chunks that are part hole come before: their
    /// data waits.
    pub fn hash_holes(&mut self, ports: &mut Ports) {
        while let Some(order) = self.holes.front_mut() {
            let file = order.file;
            match order.chunks.hash(&mut self.pace) {
                Some((chunk, value, len_bytes)) => {
                    self.ahead.hole_bytes += len_bytes;
                    self.reports.push_back(SendReport::Chunk {
                        file,
                        chunk,
                        value,
                        is_kept: false,
                        piped_bytes: 0,
                        at: None,
                    });
                }
                None if order.chunks.is_over() => {
                    self.holes.pop_front();
                    self.reports.push_back(SendReport::Over { file });
                }
                None => return self.yield_turn(ports),
            }
        }
    }

    /// Asks to go on when others had their turn.
    pub(super) fn yield_turn(&mut self, ports: &mut Ports) {
        if self.pace.asks() {
            self.ops.start(ports, SendMoverOp::Yield, DiskOp::Yield);
        }
    }

    pub(super) fn cancel_holes(&mut self, file: usize) {
        let before = self.holes.len();
        self.holes.retain(|order| order.file != file);
        for _ in self.holes.len()..before {
            self.reports.push_back(SendReport::Over { file });
        }
    }
}
