//! Threads of workers, what they share, and the backend they run on.

use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;
use std::{io, thread};

use crossbeam::channel::{Receiver, bounded};
use landro_sys::{Availability, Backend, probe};

use super::{BackendChoice, EngineError};
use crate::budget::Budget;
use crate::config::{LaneKinds, QuicConfig};
use crate::disk::Digests;
use crate::metrics::Metrics;
use crate::quic::Secrets;
use crate::tcp::TcpSetup;
use crate::worker::{
    BackendWish, Mail, Mailbox, Programs, Pulse, Service, Shared, StreamDescriptors, Worker,
    WorkerParts,
};

/// Mail a worker may have waiting: strays of a busy moment; more are dropped like datagrams may
/// be.
const MAILBOX_ROOM: usize = 1024;

/// What workers are to run on, and why.
pub(super) struct Chosen {
    pub(super) wish: BackendWish,
    pub(super) reason: String,
}

impl Chosen {
    pub(super) fn backend(&self) -> Backend {
        match self.wish {
            BackendWish::Only(backend) => backend,
            BackendWish::RingOrPoll => Backend::IoUring,
        }
    }
}

pub(super) fn choose(
    choice: BackendChoice,
    io_uring: impl FnOnce() -> Availability,
) -> Result<Chosen, EngineError> {
    let (wish, reason) = match choice {
        BackendChoice::Poll => (BackendWish::Only(Backend::Poll), "asked for".to_owned()),
        BackendChoice::Auto => match probe::best_backend(&io_uring()) {
            (Backend::IoUring, reason) => (BackendWish::RingOrPoll, reason),
            (Backend::Poll, reason) => (BackendWish::Only(Backend::Poll), reason),
        },
        BackendChoice::IoUring => match io_uring() {
            Availability::No(why) => return Err(EngineError::Backend(why)),
            Availability::Yes => (BackendWish::Only(Backend::IoUring), "asked for".to_owned()),
        },
    };
    Ok(Chosen { wish, reason })
}

/// What a process begins with, beside its workers.
pub(super) struct Sharing {
    pub secrets: Arc<Secrets>,
    pub budget: Budget,
    pub quic: QuicConfig,
    pub lane_kinds: LaneKinds,
    pub tcp_congestion: Option<String>,
    pub patience: Option<Duration>,
    /// Of a daemon.
    pub service: Option<Service>,
    /// Of a command: how lanes are dialled that are added.
    pub added_lanes: Option<TcpSetup>,
    pub digests: Option<Arc<Digests>>,
    /// Set where protocols of the embedding program are accepted.
    pub programs: Option<Programs>,
    /// Where so many workers count; those before them may have counted there.
    pub metrics: Arc<Metrics>,
}

pub(super) fn share(workers: u8, sharing: Sharing) -> (Arc<Shared>, Vec<Receiver<Mail>>) {
    let Sharing {
        secrets,
        budget,
        quic,
        lane_kinds,
        tcp_congestion,
        patience,
        service,
        added_lanes,
        digests,
        programs,
        metrics,
    } = sharing;
    let (mailboxes, inboxes) = (0..workers)
        .map(|_| {
            let (sender, inbox) = bounded(MAILBOX_ROOM);
            (
                Mailbox {
                    sender,
                    wake: OnceLock::new(),
                    pulse: Pulse::default(),
                    turns: Arc::default(),
                    connects: Arc::default(),
                },
                inbox,
            )
        })
        .unzip();
    let settler = service.as_ref().and_then(|_| {
        let started = crate::disk::start_settler();
        if let Err(error) = &started {
            tracing::warn!(%error, "no thread to see data reach the disk: marks of unsynced directories stay");
        }
        started.ok()
    });
    let shared = Shared {
        workers,
        secrets,
        mailboxes,
        budget,
        quic,
        lane_kinds,
        tcp_congestion,
        patience,
        service,
        added_lanes,
        homes: Arc::default(),
        visits: Arc::default(),
        descriptors: StreamDescriptors::of_this_process(workers),
        settler,
        digests,
        programs,
        metrics,
    };
    (Arc::new(shared), inboxes)
}

/// The thread of a worker. It is not joined: where a call on a file never comes back, the kernel
/// does not let the thread of a ring go, though the worker has ended.
pub(super) struct WorkerThread {
    thread: JoinHandle<()>,
    ended: Receiver<io::Result<()>>,
}

impl WorkerThread {
    pub(super) fn is_running(&self) -> bool {
        !self.thread.is_finished()
    }

    pub(super) fn name(&self) -> &str {
        self.thread.thread().name().unwrap_or_default()
    }

    /// Waits for the worker's end.
    ///
    /// # Errors
    /// What it failed with.
    pub(super) fn end(self) -> io::Result<()> {
        let ended = self.ended.recv();
        ended.unwrap_or_else(|_| Err(io::Error::other("a worker panicked")))
    }
}

/// A worker that runs.
pub(super) struct Started {
    pub(super) thread: WorkerThread,
    /// Why it runs on poll although a ring was wanted.
    pub(super) no_ring: Option<String>,
}

/// Starts a worker's thread and waits until its ring is set up.
pub(super) fn spawn(parts: WorkerParts) -> Result<Started, EngineError> {
    let (ready, is_ready) = bounded(1);
    let (end, ended) = bounded(1);
    let shared = parts.shared.clone();
    let id = parts.id;
    let thread = thread::Builder::new()
        .name(format!("landro-{}", id.0))
        .spawn(move || {
            let built = Worker::new(parts, |wake| {
                if let Some(mailbox) = shared.mailboxes.get(id.0 as usize) {
                    let _ = mailbox.turns.wake.set(wake.clone());
                    let _ = mailbox.wake.set(wake);
                }
            });
            match built {
                Ok((worker, no_ring)) => {
                    let _ = ready.send(Ok(no_ring));
                    let _ = end.send(worker.run());
                }
                Err(error) => {
                    let _ = ready.send(Err(error));
                }
            }
        })
        .map_err(EngineError::Thread)?;
    match is_ready.recv() {
        Ok(Ok(no_ring)) => {
            let thread = WorkerThread { thread, ended };
            Ok(Started { thread, no_ring })
        }
        Ok(Err(error)) => Err(error.into()),
        Err(_) => Err(io::Error::other("a worker ended while it started").into()),
    }
}
