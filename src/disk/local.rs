//! The disk layer for a copy within this host: the same operations, each run to its end at once.

use std::future::Future;
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use landro_sys::Pool;

use super::descriptors::is_shortage;
use super::dispatch::run;
use super::space::{Base, Space};
use super::{Disk, DiskDone, DiskError, DiskOp, Files};
use crate::proto::errno::ENOMEM;

/// An operation holds one buffer at a time, and the last one of a pool is never given out.
const POOL_BUFFERS: usize = 4;

/// One side of a copy: its directories and files, worked on in place.
pub struct Side {
    files: Files,
}

impl Side {
    /// The side that sends.
    ///
    /// # Errors
    /// When there is no memory for buffers.
    pub fn new() -> io::Result<Side> {
        let Disk { shared, .. } = Disk::new(Pool::new(POOL_BUFFERS)?, None, None);
        Ok(Side {
            files: Files {
                shared,
                space: Rc::new(Space::at_once(Base::Local)),
            },
        })
    }

    pub(super) fn files(&self) -> &Files {
        &self.files
    }

    /// The side that receives from this one.
    pub fn receiver(&self) -> Side {
        Side {
            files: Files {
                shared: self.files.shared.clone(),
                space: Rc::new(Space::beside_sender(self.files.space.clone())),
            },
        }
    }

    /// Runs an operation to its end. One that lacks a descriptor begins anew without those that can
    /// be opened again.
    ///
    /// # Errors
    /// What its calls say.
    pub fn run(&self, cmd: DiskOp) -> Result<DiskDone, DiskError> {
        match first_poll(run(&self.files, cmd.clone())) {
            Err(error) if is_shortage(&error) => {
                self.files.space.close_idle_directories();
                first_poll(run(&self.files, cmd))
            }
            other => other,
        }
    }
}

/// Nothing is waited for but a buffer, and one operation at a time finds one.
pub(super) fn first_poll<T>(
    task: impl Future<Output = Result<T, DiskError>>,
) -> Result<T, DiskError> {
    match std::pin::pin!(task).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(result) => result,
        Poll::Pending => Err(DiskError {
            call: "buffer",
            errno: ENOMEM,
        }),
    }
}
