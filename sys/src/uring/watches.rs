//! TCP sockets of a ring: what is waited for on each, as at most one poll that counts.

use std::os::fd::AsRawFd;

use io_uring::types::Fd;
use io_uring::{cqueue, opcode, squeue};

use crate::op::Completion;
use crate::table::Table;
use crate::tcp::{Interest, TcpId, TcpSocket};

/// Failures and the end of both directions, which are reported asked for or not.
const ENDED: i16 = libc::POLLERR | libc::POLLHUP | libc::POLLNVAL;

/// A socket and what is waited for on it.
struct RingWatch {
    socket: TcpSocket,
    /// Waited for, until the next completion.
    armed: Interest,
    /// The poll in flight: its number and what it asks for. Another one of this socket is being
    /// cancelled, and says nothing any more.
    poll: Option<(u64, Interest)>,
    /// The peer sends no more, and what is waited for is room to send. The ring reports the former
    /// asked for or not (IO_POLL_UNMASK in io_uring/poll.c): a poll of one answer would give it at
    /// once, each time, for as long as there is no room. One of many answers gives it once, and
    /// then what happens.
    peer_ended: bool,
    /// Listed in `unsubmitted`.
    is_listed: bool,
}

/// All TCP sockets of a ring.
#[derive(Default)]
pub(super) struct RingWatches {
    sockets: Table<RingWatch>,
    /// Sockets that more is waited for on than the kernel knows.
    unsubmitted: Vec<TcpId>,
}

/// What is to be told the ring of one socket.
pub(super) struct PollChange {
    /// Cancels the poll before, which asks for less.
    pub cancel: Option<squeue::Entry>,
    /// A poll for everything that is waited for.
    pub entry: squeue::Entry,
}

/// What a poll's answer leads to.
pub(super) struct Told {
    /// What the user is told.
    pub completion: Completion,
    /// Cancels a poll that would go on answering.
    pub cancel: Option<squeue::Entry>,
}

impl RingWatches {
    pub fn add(&mut self, socket: TcpSocket) -> TcpId {
        TcpId(self.sockets.insert(RingWatch {
            socket,
            armed: Interest::NONE,
            poll: None,
            peer_ended: false,
            is_listed: false,
        }))
    }

    pub fn socket(&self, id: TcpId) -> Option<&TcpSocket> {
        self.sockets.get(id.0).map(|watch| &watch.socket)
    }

    /// Waits for `interest` too, from the next submission on. `None`: there is no such socket.
    pub fn arm(&mut self, id: TcpId, interest: Interest) -> Option<()> {
        let watch = self.sockets.get_mut(id.0)?;
        watch.armed = watch.armed.union(interest);
        let is_known = watch
            .poll
            .is_some_and(|(_, asked)| asked.covers(watch.armed));
        if !is_known && !watch.is_listed {
            watch.is_listed = true;
            self.unsubmitted.push(id);
        }
        Some(())
    }

    /// The next socket of which the kernel knows too little; its entry is in flight from now on
    /// under the number that `number` gives.
    pub fn next_change(&mut self, number: impl FnOnce(TcpId) -> u64) -> Option<PollChange> {
        while let Some(id) = self.unsubmitted.pop() {
            // It may be removed by now, and its number be of no socket.
            let Some(watch) = self.sockets.get_mut(id.0) else {
                continue;
            };
            watch.is_listed = false;
            // A poll before may have completed, and ended what was armed.
            if watch.armed == Interest::NONE {
                continue;
            }
            let cancel = watch.poll.map(|(before, _)| cancel(before));
            let number = number(id);
            watch.poll = Some((number, watch.armed));
            let fd = Fd(watch.socket.as_raw_fd());
            let entry = opcode::PollAdd::new(fd, events(watch.armed) as u32)
                .multi(watch.peer_ended && !watch.armed.read)
                .build();
            return Some(PollChange {
                cancel,
                entry: entry.user_data(number),
            });
        }
        None
    }

    /// Poll `number` of socket `id` answered. `None`: it was cancelled, its socket removed, or what
    /// it says is not waited for.
    pub fn complete(&mut self, id: TcpId, number: u64, answer: &cqueue::Entry) -> Option<Told> {
        let watch = self.sockets.get_mut(id.0)?;
        watch.poll.filter(|(current, _)| *current == number)?;
        // What could not be waited for (ENOMEM) is tried.
        let found = i16::try_from(answer.result())
            .ok()
            .filter(|&found| found >= 0)
            .unwrap_or(ENDED);
        let goes_on = cqueue::more(answer.flags());
        if !goes_on {
            watch.poll = None;
        }
        let peer_ended = found & libc::POLLRDHUP != 0;
        watch.peer_ended |= peer_ended;
        if !watch.armed.read && found & (libc::POLLOUT | ENDED) == 0 {
            if !goes_on && !watch.is_listed {
                watch.is_listed = true;
                self.unsubmitted.push(id);
            }
            return None;
        }
        let ended = found & ENDED != 0 || peer_ended && watch.armed.read;
        watch.armed = Interest::NONE;
        let completion = Completion::Ready {
            id,
            readable: ended || found & libc::POLLIN != 0,
            writable: ended || found & libc::POLLOUT != 0,
        };
        let cancel = watch.poll.take().map(|(number, _)| cancel(number));
        Some(Told { completion, cancel })
    }

    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.sockets.is_empty()
    }

    /// Gives a socket back, and the entry that cancels its poll.
    pub fn remove(&mut self, id: TcpId) -> Option<(TcpSocket, Option<squeue::Entry>)> {
        let watch = self.sockets.remove(id.0)?;
        Some((watch.socket, watch.poll.map(|(number, _)| cancel(number))))
    }
}

fn cancel(number: u64) -> squeue::Entry {
    opcode::PollRemove::new(number).build()
}

/// poll(2)'s word for it.
fn events(interest: Interest) -> i16 {
    let read = match interest.read {
        true => libc::POLLIN | libc::POLLRDHUP,
        false => 0,
    };
    let write = match interest.write {
        true => libc::POLLOUT,
        false => 0,
    };
    read | write
}
