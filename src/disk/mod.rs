//! Runs a session's disk operations: each is a small async function over the driver's file
//! operations.
//!
//! A task is polled when it starts and whenever one of its file operations completed; there is no
//! waker and no runtime beyond this file. On memory file systems a file operation is a plain system
//! call right here: tmpfs never blocks, while io_uring hands almost every metadata operation to an
//! io-wq thread (they are `REQ_F_FORCE_ASYNC` in the kernel): that costs more than the call itself.
//! Anywhere else a call may never come back, and goes to the driver, whose threads it may hold.

mod behind;
#[cfg(test)]
mod conformance;
mod copies;
mod descriptors;
mod digests;
mod dirlinks;
mod dispatch;
mod durable;
mod full;
mod history;
pub mod leftovers;
mod local;
mod marks;
mod mounts;
mod named;
mod names;
mod part;
mod publish;
mod root;
mod settle;
mod shared;
mod sink;
mod source;
mod space;
mod spelling;
mod systems;
mod target;
#[cfg(test)]
mod tests;
mod times;
mod work;
mod workplace;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use landro_sys::{Buffer, FileDone, FileOp, Pool};

use self::descriptors::Allowance;
use crate::ids::OpId;
use crate::metrics::DiskWork;
use crate::proto::errno::EIO;
use crate::proto::{Attributes, DiskDone, DiskError, DiskOp, PIECE_BYTES};

pub use digests::Digests;
pub use local::Side;
pub use root::ServedRoot;
pub use settle::{Settler, start as start_settler};
pub use shared::{SharedDir, SharedFile};
#[cfg(feature = "command")]
pub use sink::keep_aside_in;
#[cfg(feature = "fuzzing")]
pub use source::{relative, split_path};
pub use space::{Base, Space};

// What `proto` reads and writes at a time lies in one buffer.
const _: () = assert!(Pool::BUFFER_BYTES == PIECE_BYTES);

/// Pool buffers any session may hold: one being sent, one being read.
const MIN_SHARE_BUFFERS: usize = 2;

/// This part of the pool is for what is being received, and for sessions that hold nothing yet.
const RESERVED_PART: usize = 8;

/// A finished operation: whose it was, and what it found.
pub struct Finished {
    pub session: usize,
    pub serial: u64,
    pub op: OpId,
    pub result: Result<DiskDone, DiskError>,
    /// What it was for and how long it took, if that is looked at.
    pub took: Option<(DiskWork, Duration)>,
}

type Job = Pin<Box<dyn Future<Output = Result<DiskDone, DiskError>>>>;

struct Task {
    session: usize,
    serial: u64,
    op: OpId,
    job: Job,
    work: DiskWork,
    began: Option<Instant>,
    /// Its session is over, and has not waited for it.
    is_hung: bool,
}

/// The disk layer of one worker.
pub struct Disk {
    shared: Rc<Shared>,
    tasks: slab::Slab<Task>,
    finished: Vec<Finished>,
    /// Sessions that gave up their turn, in the order they did.
    yielded: VecDeque<Finished>,
    /// Tasks whose sessions are over.
    hung: usize,
    /// When tasks that found no descriptor try again.
    short_until: Option<Instant>,
    /// By which operations are timed, if they are.
    clock: Option<fn() -> Instant>,
}

/// What tasks and the worker have in common.
struct Shared {
    pool: Pool,
    /// The running kernel's; zeros, which are never believed, where it cannot be read.
    boot_id: [u8; 16],
    /// Where marked directories are named; a command ends before its data is on disk and has none.
    settler: Option<Settler>,
    /// Of a daemon that is to remember them.
    digests: Option<Arc<Digests>>,
    /// File operations in flight: which task waits, and the result once it is there.
    slots: RefCell<slab::Slab<Slot>>,
    /// File operations that tasks asked for and the worker has not handed to the driver yet.
    pending: RefCell<Vec<(usize, FileOp)>>,
    /// Open files whose last close(2) may wait, each held here, too, so that it is never closed in
    /// passing.
    kept: RefCell<Vec<Arc<OwnedFd>>>,
    /// Tasks to poll again when a pool buffer is free, and whose they are, in the order they came.
    starved: RefCell<VecDeque<(usize, Rc<Space>)>>,
    /// The task that is polled is the first of these that may have one.
    is_fed: Cell<bool>,
    /// Tasks to poll again in a moment.
    paused: RefCell<Vec<usize>>,
    /// Tasks to poll again when a descriptor may be free, in the order they came.
    short: RefCell<VecDeque<usize>>,
    /// How many operations lacked one when they last looked.
    short_of_descriptors: Cell<usize>,
    allowance: Allowance,
    /// How often such tasks were polled.
    rounds: Cell<u32>,
    /// In which of these one of them last got what it waited for.
    round_of_success: Cell<u32>,
    current_task: Cell<usize>,
    /// Pool buffers the reads of one session may hold.
    share_buffers: Cell<usize>,
    /// Sessions of this worker.
    sessions: Cell<usize>,
}

impl Drop for Shared {
    /// What was not closed by now is left to the end of the process: whoever closes it may wait for
    /// ever, and here that would be the worker's thread, which is to end.
    fn drop(&mut self) {
        self.kept.get_mut().drain(..).for_each(std::mem::forget);
    }
}

struct Slot {
    /// None: nobody waits any more.
    task: Option<usize>,
    space: Rc<Space>,
    result: Option<io::Result<FileDone>>,
}

/// The token of an operation that nobody waits for.
const NOBODY: u64 = u64::MAX;

impl Shared {
    /// The first task that waits for a pool buffer and may have one.
    fn next_starved(&self) -> Option<usize> {
        let mut starved = self.starved.borrow_mut();
        let at = starved.iter().position(|(_, space)| self.has_buffer(space));
        at.and_then(|at| starved.remove(at)).map(|(task, _)| task)
    }

    /// Whether a session may have another pool buffer now.
    fn has_buffer(&self, space: &Space) -> bool {
        let free = self.pool.capacity() - self.pool.in_use();
        self.is_within_share(space) && free > self.reserved_from(space)
    }

    fn is_within_share(&self, space: &Space) -> bool {
        space.pinned.load(Ordering::Relaxed) < self.share_buffers.get()
    }

    /// Buffers that are not for this session: what peers leave unacknowledged may not take the last
    /// ones from those who send to us.
    fn reserved_from(&self, space: &Space) -> usize {
        match space.pinned.load(Ordering::Relaxed) < MIN_SHARE_BUFFERS {
            true => 1,
            false => self.pool.capacity() / RESERVED_PART,
        }
    }

    /// Whether somebody waits for a buffer who is to have one before this session's newcomer:
    /// earlier tasks of its own, and of others that may have whatever it may.
    fn is_behind(&self, space: &Rc<Space>) -> bool {
        let starved = self.starved.borrow();
        starved.iter().any(|(_, other)| {
            let is_as_good = self.is_within_share(other)
                && self.reserved_from(other) <= self.reserved_from(space);
            Rc::ptr_eq(other, space) || is_as_good
        })
    }

    /// A result that nobody takes. What was opened is not closed here: that may wait.
    fn let_go(&self, slot: usize) {
        let unseen = self.slots.borrow_mut().try_remove(slot);
        if let Some(Ok(FileDone::Opened(file))) = unseen.and_then(|slot| slot.result) {
            let close = (NOBODY as usize, FileOp::Close { file });
            self.pending.borrow_mut().push(close);
        }
    }
}

impl Disk {
    pub fn new(pool: Pool, settler: Option<Settler>, digests: Option<Arc<Digests>>) -> Disk {
        let shared = Shared {
            pool,
            boot_id: landro_sys::boot_id().unwrap_or_default(),
            settler,
            digests,
            slots: RefCell::default(),
            pending: RefCell::default(),
            kept: RefCell::default(),
            starved: RefCell::default(),
            is_fed: Cell::new(false),
            paused: RefCell::default(),
            short: RefCell::default(),
            short_of_descriptors: Cell::new(0),
            allowance: Allowance::of_this_process(),
            rounds: Cell::new(0),
            round_of_success: Cell::new(0),
            current_task: Cell::new(0),
            share_buffers: Cell::new(usize::MAX),
            sessions: Cell::new(1),
        };
        Disk {
            shared: Rc::new(shared),
            tasks: slab::Slab::new(),
            finished: Vec::new(),
            yielded: VecDeque::new(),
            hung: 0,
            short_until: None,
            clock: None,
        }
    }

    /// Times operations by this clock. A turn's time would not do: where files are in memory an
    /// operation is over within the turn that began it.
    pub fn timed_by(mut self, clock: fn() -> Instant) -> Disk {
        self.clock = Some(clock);
        self
    }

    /// Starts one operation of a session; its result comes out of [`Disk::finished`], perhaps at
    /// once.
    pub fn start(&mut self, session: usize, serial: u64, space: &Rc<Space>, op: OpId, cmd: DiskOp) {
        if let DiskOp::Yield = cmd {
            let result = Ok(DiskDone::Yielded);
            return self.yielded.push_back(Finished {
                session,
                serial,
                op,
                result,
                took: None,
            });
        }
        let files = Files {
            shared: self.shared.clone(),
            space: space.clone(),
        };
        let (work, began) = (work::of(&cmd), self.clock.map(|clock| clock()));
        let entry = self.tasks.vacant_entry();
        let key = entry.key();
        entry.insert(Task {
            session,
            serial,
            op,
            work,
            began,
            job: Box::pin(dispatch::run_with_descriptors(files, cmd)),
            is_hung: false,
        });
        self.poll_task(key);
    }

    /// A file operation completed.
    pub fn complete(&mut self, token: u64, result: io::Result<FileDone>) {
        if token == NOBODY {
            return;
        }
        let slot = token as usize;
        let (task, space) = {
            let mut slots = self.shared.slots.borrow_mut();
            let Some(found) = slots.get_mut(slot) else {
                return;
            };
            found.result = Some(result);
            (found.task, found.space.clone())
        };
        if let Some(next) = space.next_admitted() {
            self.shared.pending.borrow_mut().push(next);
        }
        match task {
            Some(task) => {
                self.poll_task(task);
                // What ended is told by its result.
                space.set_moved(self.tasks.contains(task));
            }
            None => self.shared.let_go(slot),
        }
    }

    /// Polls tasks that wait for a pool buffer and may have one again, in the order they came: what
    /// was read of a file can only leave when what comes before it was read, too.
    pub fn feed_starved(&mut self) {
        while let Some(task) = self.shared.next_starved() {
            self.shared.is_fed.set(true);
            self.poll_task(task);
            self.shared.is_fed.set(false);
        }
    }

    /// Lets one session that yielded go on: one a turn, so that however many reckon, packets wait
    /// for one slice.
    pub fn feed_yielded(&mut self) {
        self.finished.extend(self.yielded.pop_front());
    }

    /// When tasks that wait for a descriptor try again, as another thread may have closed some.
    pub fn short_until(&self) -> Option<Instant> {
        self.short_until
    }

    /// Has tasks that wait for a descriptor try again, if it is time to. A few of them: each opens
    /// a directory first, and where all did at once there was none left for the files in them.
    pub fn feed_short(&mut self, now: Instant) {
        if self.short_until.take_if(|at| *at <= now).is_some() {
            self.shared.rounds.update(|rounds| rounds.wrapping_add(1));
            let mut due = std::mem::take(&mut *self.shared.paused.borrow_mut());
            let mut short = self.shared.short.borrow_mut();
            let few = self.shared.allowance.at_once().min(short.len());
            due.extend(short.drain(..few));
            drop(short);
            for task in due {
                self.poll_task(task);
            }
        }
        let waits =
            !self.shared.paused.borrow().is_empty() || !self.shared.short.borrow().is_empty();
        if self.short_until.is_none() && waits {
            self.short_until = Some(now + descriptors::RETRY);
        }
    }

    /// Divides the pool among the worker's sessions. A quarter stays free for what is being
    /// received.
    pub fn share_among(&self, sessions: usize) {
        self.shared.sessions.set(sessions);
        let share = self.shared.pool.capacity() * 3 / 4 / sessions.max(1);
        self.shared.share_buffers.set(share.max(MIN_SHARE_BUFFERS));
    }

    /// Has files closed that nobody works with any more.
    pub fn close_kept(&mut self) {
        let mut kept = self.shared.kept.borrow_mut();
        let mut pending = self.shared.pending.borrow_mut();
        for at in (0..kept.len()).rev() {
            if Arc::strong_count(&kept[at]) == 1
                && let Some(file) = Arc::into_inner(kept.swap_remove(at))
            {
                pending.push((NOBODY as usize, FileOp::Close { file }));
            }
        }
    }

    /// A session is over: what it has under way is not waited for.
    pub fn abandon(&mut self, session: usize, serial: u64) {
        for (_, task) in &mut self.tasks {
            if (task.session, task.serial) == (session, serial) && !task.is_hung {
                task.is_hung = true;
                self.hung += 1;
            }
        }
    }

    /// Operations whose sessions are over, and which have not come back.
    pub fn hung(&self) -> usize {
        self.hung
    }

    /// The next file operation to hand to the driver, with its token.
    pub fn next_operation(&mut self) -> Option<(u64, FileOp)> {
        self.shared
            .pending
            .borrow_mut()
            .pop()
            .map(|(slot, op)| (slot as u64, op))
    }

    pub fn take_finished(&mut self, into: &mut Vec<Finished>) {
        into.append(&mut self.finished);
    }

    pub fn has_finished(&self) -> bool {
        !self.finished.is_empty()
    }

    /// Operations started and not finished, but for those that nobody waits for.
    pub fn in_flight(&self) -> usize {
        self.tasks.len() + self.yielded.len() - self.hung
    }

    fn poll_task(&mut self, key: usize) {
        let Some(task) = self.tasks.get_mut(key) else {
            return;
        };
        if task.is_hung {
            // It came back: nothing more is done of what nobody waits for.
            self.hung -= 1;
            drop(self.tasks.remove(key));
            return;
        }
        self.shared.current_task.set(key);
        let mut context = Context::from_waker(Waker::noop());
        if let Poll::Ready(result) = task.job.as_mut().poll(&mut context) {
            let task = self.tasks.remove(key);
            let timed = self.clock.zip(task.began);
            let took = timed.map(|(clock, began)| clock().saturating_duration_since(began));
            self.finished.push(Finished {
                took: took.map(|took| (task.work, took)),
                session: task.session,
                serial: task.serial,
                op: task.op,
                result,
            });
        }
    }
}

/// What an operation works with: the worker's buffers and ring, its session's directories and
/// files.
#[derive(Clone)]
struct Files {
    shared: Rc<Shared>,
    space: Rc<Space>,
}

impl Files {
    /// Runs one file operation; a failure names the call.
    async fn call(&self, call: &'static str, op: FileOp) -> Result<FileDone, DiskError> {
        if self.space.in_place() {
            return self.call_in_place(call, op);
        }
        let ring = Ring {
            files: self,
            state: RingState::New(Some(op)),
        };
        ring.await.map_err(|error| failed(call, &error))
    }

    /// What waits for nobody.
    fn call_in_place(&self, call: &'static str, op: FileOp) -> Result<FileDone, DiskError> {
        landro_sys::run(op).map_err(|error| failed(call, &error))
    }

    /// A free pool buffer, waiting for one if need be.
    async fn buffer(&self) -> Buffer {
        TakeBuffer {
            files: self.clone(),
        }
        .await
    }
}

/// A file operation with the driver, as a future.
struct Ring<'a> {
    files: &'a Files,
    state: RingState,
}

/// What a failed call is to a session.
fn failed(call: &'static str, error: &io::Error) -> DiskError {
    DiskError {
        call,
        // Without one: a short write, say.
        errno: error.raw_os_error().unwrap_or(EIO),
    }
}

enum RingState {
    New(Option<FileOp>),
    Waiting(usize),
    Done,
}

impl Future for Ring<'_> {
    type Output = io::Result<FileDone>;

    fn poll(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Self::Output> {
        let Files { shared, space } = self.files;
        match &mut self.state {
            RingState::New(op) => {
                let op = op.take().expect("a ring operation is polled as new once");
                let slot = shared.slots.borrow_mut().insert(Slot {
                    task: Some(shared.current_task.get()),
                    space: space.clone(),
                    result: None,
                });
                if let Some(op) = space.admit(slot, op) {
                    shared.pending.borrow_mut().push((slot, op));
                }
                self.state = RingState::Waiting(slot);
                Poll::Pending
            }
            RingState::Waiting(slot) => {
                let slot = *slot;
                let mut slots = shared.slots.borrow_mut();
                match slots[slot].result.take() {
                    Some(result) => {
                        slots.remove(slot);
                        drop(slots);
                        self.state = RingState::Done;
                        Poll::Ready(result)
                    }
                    None => Poll::Pending,
                }
            }
            RingState::Done => unreachable!("a finished ring operation is polled once"),
        }
    }
}

impl Drop for Ring<'_> {
    /// The task is given up: its operation comes back to nobody.
    fn drop(&mut self) {
        if let RingState::Waiting(slot) = self.state {
            let mut slots = self.files.shared.slots.borrow_mut();
            match slots.get_mut(slot) {
                Some(found) if found.result.is_none() => found.task = None,
                _ => {
                    drop(slots);
                    self.files.shared.let_go(slot);
                }
            }
        }
    }
}

/// A free pool buffer, as a future: ready when there is one, the session is within its share, and
/// nobody waits who is to have it before.
struct TakeBuffer {
    files: Files,
}

impl Future for TakeBuffer {
    type Output = Buffer;

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Buffer> {
        let Files { shared, space } = &self.files;
        let is_first = shared.is_fed.take() || !shared.is_behind(space);
        let buffer = match is_first && shared.has_buffer(space) {
            true => shared.pool.take(),
            false => None,
        };
        match buffer {
            Some(buffer) => Poll::Ready(buffer),
            None => {
                let waiter = (shared.current_task.get(), space.clone());
                shared.starved.borrow_mut().push_back(waiter);
                Poll::Pending
            }
        }
    }
}

/// Bytes read for a session, counted until the transport lets go of them: a peer that acknowledges
/// nothing holds its own session's share of the pool and no more.
struct Pinned {
    data: Bytes,
    count: Arc<AtomicUsize>,
}

impl Files {
    fn pin(&self, data: Bytes) -> Bytes {
        self.space.pinned.fetch_add(1, Ordering::Relaxed);
        Bytes::from_owner(Pinned {
            data,
            count: self.space.pinned.clone(),
        })
    }
}

impl AsRef<[u8]> for Pinned {
    fn as_ref(&self) -> &[u8] {
        &self.data
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::Relaxed);
    }
}
