//! How a worker is reached: mail for it, through a bounded queue that wakes it.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crossbeam::channel::{Sender, TrySendError};
use landro_sys::WakeHandle;

use super::client_events::ClientStart;
use super::handed_over::HandedOver;
use super::handles::{ConnectQueue, ConnectStart};
use super::outpost_mail::OutpostMail;
use super::pulse::Pulse;
use super::wanted::WantedTurns;
use crate::ids::{Fingerprint, WorkerId};
use crate::proto::query::QueryRequest;

/// How one worker is reached by others.
pub struct Mailbox {
    pub sender: Sender<Mail>,
    pub wake: OnceLock<WakeHandle>,
    pub pulse: Pulse,
    pub turns: Arc<WantedTurns>,
    /// Connections that handles wait for.
    pub connects: Arc<ConnectQueue>,
}

impl Mailbox {
    /// Puts mail into the worker's queue and wakes it. False: the queue is full or the worker
    /// is gone.
    pub fn post(&self, mail: Mail) -> bool {
        self.try_post(mail).is_ok()
    }

    /// As [`Mailbox::post`], but gives back what could not be posted.
    ///
    /// # Errors
    /// The queue is full, or the worker is gone.
    pub fn try_post(&self, mail: Mail) -> Result<(), Mail> {
        let posted = self.sender.try_send(mail);
        self.wake();
        posted.map_err(TrySendError::into_inner)
    }

    /// As [`Mailbox::post`], but waits for room: what the user wants is not lost among strays.
    /// False: the worker is gone or stuck.
    pub fn insist(&self, mail: Mail) -> bool {
        let posted = self.sender.send_timeout(mail, ROOM_TIMEOUT).is_ok();
        self.wake();
        posted
    }

    /// Has the worker connect to a peer for a handle.
    pub fn connect(&self, start: ConnectStart) {
        self.connects.leave(start);
        self.wake();
    }

    /// Makes the worker's loop turn.
    pub fn wake(&self) {
        if let Some(wake) = self.wake.get() {
            wake.wake();
        }
    }
}

/// A worker takes from its mailbox in each turn of its loop.
const ROOM_TIMEOUT: Duration = Duration::from_secs(1);

/// What a worker is told or asked.
pub enum Mail {
    /// A datagram that reached the wrong worker's socket, for its owner.
    Stray(Stray),
    /// A new session of `peer` begins on the lane with this serial number: which older ones live?
    AreYouAlive {
        asker: WorkerId,
        lane: u64,
        peer: Fingerprint,
    },
    /// The older sessions of one worker are settled.
    Answered { lane: u64 },
    /// A TCP connection for a session of this worker, which arrived at another.
    HandedOver(Box<HandedOver>),
    /// Between a session and what of it is on another worker.
    Outpost(Box<OutpostMail>),
    /// Start the one transfer of a command.
    Start(Box<ClientStart>),
    /// What is asked in a command's session of queries.
    Ask(QueryRequest),
    /// The user asked to stop.
    Cancel,
    /// The list of peers was read again.
    Reauthorise,
    /// The process is ending; sessions may take this long to say so.
    Shutdown(Duration),
}

pub struct Stray {
    pub datagram: Vec<u8>,
    pub from: SocketAddr,
    pub to: Option<IpAddr>,
    /// Index of the listening address it arrived at; workers list them in the same order.
    pub socket: usize,
}
