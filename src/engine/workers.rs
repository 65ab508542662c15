//! Threads of workers, what they share, and the backend they run on.

use std::sync::{Arc, Mutex, OnceLock};
use std::thread::JoinHandle;
use std::{io, thread};

use crossbeam::channel::{Receiver, bounded};
use landro_sys::{Availability, Backend, probe};

use super::{BackendChoice, EngineError};
use crate::budget::Budget;
use crate::config::QuicConfig;
use crate::quic::Secrets;
use crate::worker::{
    BackendWish, Mail, Mailbox, Pulse, Refusals, Service, Shared, Worker, WorkerParts,
};

/// Mail a worker may have waiting: strays of a busy moment; more are dropped like datagrams may
/// be.
const MAILBOX_ROOM: usize = 1024;

/// A session may hold some 200 descriptors (64 directories, 64 partial files and their journals),
/// and there are many.
pub(super) fn raise_open_files() {
    if let Err(error) = landro_sys::process::raise_open_files() {
        tracing::warn!(%error, "cannot raise the limit of open files (ulimit -n)");
    }
}

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

pub(super) fn share(
    workers: u8,
    secrets: Arc<Secrets>,
    budget: Budget,
    quic: QuicConfig,
    service: Option<Service>,
) -> (Arc<Shared>, Vec<Receiver<Mail>>) {
    let (mailboxes, inboxes) = (0..workers)
        .map(|_| {
            let (sender, inbox) = bounded(MAILBOX_ROOM);
            (
                Mailbox {
                    sender,
                    wake: OnceLock::new(),
                    pulse: Pulse::default(),
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
        service,
        settler,
        refusals: Refusals::default(),
        served: Mutex::default(),
    };
    (Arc::new(shared), inboxes)
}

/// A worker that runs.
pub(super) struct Started {
    pub(super) thread: JoinHandle<io::Result<()>>,
    /// Why it runs on poll although a ring was wanted.
    pub(super) no_ring: Option<String>,
}

/// Starts a worker's thread and waits until its ring is set up.
pub(super) fn spawn(parts: WorkerParts) -> Result<Started, EngineError> {
    let (ready, is_ready) = bounded(1);
    let shared = parts.shared.clone();
    let id = parts.id;
    let thread = thread::Builder::new()
        .name(format!("landro-{}", id.0))
        .spawn(move || {
            let built = Worker::new(parts, |wake| {
                if let Some(mailbox) = shared.mailboxes.get(id.0 as usize) {
                    let _ = mailbox.wake.set(wake);
                }
            });
            match built {
                Ok((worker, no_ring)) => {
                    let _ = ready.send(Ok(no_ring));
                    worker.run()
                }
                Err(error) => {
                    let _ = ready.send(Err(error));
                    Ok(())
                }
            }
        })
        .map_err(EngineError::Thread)?;
    match is_ready.recv() {
        Ok(Ok(no_ring)) => Ok(Started { thread, no_ring }),
        Ok(Err(error)) => Err(error.into()),
        Err(_) => Err(io::Error::other("a worker ended while it started").into()),
    }
}
