//! Datagram runs waiting to be sent: one line per destination, one message of a line in flight at a
//! time.
//!
//! A full socket makes a send wait. Were two messages of one connection waiting, they could leave
//! in the wrong order, and QUIC takes packets three out of order for lost. Different destinations
//! do not wait for each other.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;

use slab::Slab;

use crate::file::invalid;
use crate::gso::Run;
use crate::message::Letter;
use crate::op::{Completion, SendBuffer, SendRun};
use crate::socket::SocketId;

#[cfg(test)]
mod tests;

/// One message of a [`SendRun`]; the run lies inside the job's buffer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Piece {
    job: usize,
    pub run: Run,
}

struct Job {
    token: u64,
    buffer: SendBuffer,
    to: SocketAddr,
    from: Option<IpAddr>,
    line: usize,
    /// Pieces queued or in flight; 0 completes the job.
    pending: usize,
    sent_bytes: usize,
    first_error: Option<io::Error>,
}

/// Messages to one destination from one socket. It exists while it has pieces queued or one in
/// flight.
struct Line {
    key: (SocketId, SocketAddr),
    pieces: VecDeque<Piece>,
    state: LineState,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum LineState {
    /// Neither of the others; only between two steps of one method.
    Idle,
    /// Listed in its queue's `runnable`, with pieces queued.
    Runnable,
    /// One piece was given out by `next`.
    InFlight,
}

/// What one socket has to send.
#[derive(Default)]
struct SocketQueue {
    /// Lines with pieces and none in flight, in turn.
    runnable: VecDeque<usize>,
    /// EIO came back: the device takes no UDP_SEGMENT, so this socket sends datagram by datagram
    /// from now on.
    gso_broken: bool,
}

/// All queued sends of a driver.
#[derive(Default)]
pub(crate) struct Outbox {
    jobs: Slab<Job>,
    lines: Slab<Line>,
    by_destination: HashMap<(SocketId, SocketAddr), usize>,
    queues: Vec<SocketQueue>,
}

impl Outbox {
    pub fn add_socket(&mut self) {
        self.queues.push(SocketQueue::default());
    }

    /// Send runs not completed yet.
    pub fn len(&self) -> usize {
        self.jobs.len()
    }

    /// Queues a run. A run with nothing to send, or that cannot be sent, completes at once.
    pub fn push(&mut self, token: u64, send: SendRun) -> Option<Completion> {
        if let Err(error) = check(&send, self.queues.len()) {
            return Some(Completion::Sent {
                token,
                buffer: send.buffer,
                result: Err(error),
            });
        }
        let SendRun {
            socket,
            buffer,
            runs,
            to,
            from,
        } = send;
        let pieces = runs.iter().filter(|run| !run.range.is_empty()).count();
        if pieces == 0 {
            return Some(Completion::Sent {
                token,
                buffer,
                result: Ok(0),
            });
        }
        let line = self.line((socket, to));
        let job = Job {
            token,
            buffer,
            to,
            from,
            line,
            pending: pieces,
            sent_bytes: 0,
            first_error: None,
        };
        let job = self.jobs.insert(job);
        let gso_broken = self.queues[socket.index()].gso_broken;
        for run in runs.into_iter().filter(|run| !run.range.is_empty()) {
            let pieces = &mut self.lines[line].pieces;
            if gso_broken && run.is_segmented() {
                let parts = run.datagrams();
                self.jobs[job].pending += parts.len() - 1;
                pieces.extend(parts.map(|part| Piece::single(job, part)));
            } else {
                pieces.push_back(Piece { job, run });
            }
        }
        self.make_runnable(line);
        None
    }

    fn line(&mut self, key: (SocketId, SocketAddr)) -> usize {
        if let Some(&line) = self.by_destination.get(&key) {
            return line;
        }
        let line = self.lines.insert(Line {
            key,
            pieces: VecDeque::new(),
            state: LineState::Idle,
        });
        self.by_destination.insert(key, line);
        line
    }

    fn make_runnable(&mut self, index: usize) {
        let line = &mut self.lines[index];
        if line.state == LineState::Idle {
            line.state = LineState::Runnable;
            self.queues[line.key.0.index()].runnable.push_back(index);
        }
    }

    /// Whether a message could be sent on some socket right now.
    pub fn has_runnable(&self) -> bool {
        self.queues.iter().any(|queue| !queue.runnable.is_empty())
    }

    /// The next message of `socket` in turn; it is in flight until [`Outbox::settle`] or
    /// [`Outbox::put_back`].
    pub fn next(&mut self, socket: SocketId) -> Option<Piece> {
        let line = self.queues[socket.index()].runnable.pop_front()?;
        let line = &mut self.lines[line];
        line.state = LineState::InFlight;
        line.pieces.pop_front()
    }

    /// Payload and addresses of a piece in flight. The payload stays where it is until the piece is
    /// settled.
    pub fn letter(&self, piece: &Piece) -> Letter<'_> {
        let job = &self.jobs[piece.job];
        Letter {
            payload: &job.buffer[piece.run.range.clone()],
            segment_bytes: piece.run.segment_bytes,
            to: job.to,
            from: job.from,
        }
    }

    /// The piece was not sent (full socket, interrupted): it is the next of its line again.
    pub fn put_back(&mut self, piece: Piece) {
        let index = self.jobs[piece.job].line;
        let line = &mut self.lines[index];
        line.state = LineState::Runnable;
        line.pieces.push_front(piece);
        self.queues[line.key.0.index()].runnable.push_front(index);
    }

    /// The piece was sent or refused. Gives the job's completion when it was the last.
    pub fn settle(&mut self, piece: Piece, result: io::Result<usize>) -> Option<Completion> {
        let job_index = piece.job;
        let index = self.jobs[job_index].line;
        let line = &mut self.lines[index];
        line.state = LineState::Idle;
        match result.as_ref().err().and_then(io::Error::raw_os_error) {
            // EIO: a device without checksum offload cannot segment. EINVAL: more segments than the
            // kernel takes (64, newer ones 128), and in old kernels a segment over the path MTU.
            // One by one each gets its answer.
            Some(errno @ (libc::EIO | libc::EINVAL)) if piece.run.is_segmented() => {
                if errno == libc::EIO {
                    self.queues[line.key.0.index()].gso_broken = true;
                }
                let parts: Vec<_> = piece.run.datagrams().collect();
                self.jobs[job_index].pending += parts.len() - 1;
                for part in parts.into_iter().rev() {
                    line.pieces.push_front(Piece::single(job_index, part));
                }
                self.make_runnable(index);
                return None;
            }
            _ => {}
        }
        if line.pieces.is_empty() {
            let line = self.lines.remove(index);
            self.by_destination.remove(&line.key);
        } else {
            self.make_runnable(index);
        }
        let job = &mut self.jobs[job_index];
        match result {
            Ok(bytes) => job.sent_bytes += bytes,
            Err(error) => job.first_error = job.first_error.take().or(Some(error)),
        }
        job.pending -= 1;
        if job.pending > 0 {
            return None;
        }
        let Job {
            token,
            buffer,
            sent_bytes,
            first_error,
            ..
        } = self.jobs.remove(job_index);
        Some(Completion::Sent {
            token,
            buffer,
            result: first_error.map_or(Ok(sent_bytes), Err),
        })
    }
}

impl Piece {
    fn single(job: usize, range: Range<usize>) -> Piece {
        Piece {
            job,
            run: Run::single(range),
        }
    }
}

/// The kernel reads what the ranges say, so they are checked here, once.
fn check(send: &SendRun, sockets: usize) -> io::Result<()> {
    if send.socket.index() >= sockets {
        return Err(invalid("no such socket"));
    }
    let len = send.buffer.len();
    for run in &send.runs {
        if run.range.start > run.range.end || run.range.end > len {
            return Err(invalid("a run outside its buffer"));
        }
        if run.segment_bytes == Some(0) {
            return Err(invalid("segments of no bytes"));
        }
    }
    Ok(())
}
