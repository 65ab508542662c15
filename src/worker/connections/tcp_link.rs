//! A connection over TCP and its stream: what the kernel said of the stream, and what it is asked.

use std::io::{self, IoSlice};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use landro_sys::aead::BadRecord;
use landro_sys::ktls::RecordsHeard;
use landro_sys::{Driver, Interest, TcpId, TcpStream};

use crate::quic::{ConnState, PathSnapshot};
use crate::tcp::{KernelStep, TcpConn};

mod losses;
#[cfg(test)]
mod tests;

use losses::LossWatch;

/// Received and sent at once, before others get their turn: some milliseconds of 1 Gbit/s, and a
/// fraction of one of the fastest.
const TURN_BYTES: usize = 256 << 10;

/// How often the kernel is asked what becomes of what was sent, until it is acknowledged.
const LOOK_PAUSE: Duration = Duration::from_millis(500);

/// So many times in a row something was repeated in vain: packets of its size may not arrive any
/// more (a black hole, RFC 8899 §4.3), or none do. The first takes 0.6 s where the round trip is
/// short.
const REPEATS_DOUBTED: u32 = 2;
/// And so many where there is another lane: what was under way here goes on there. 3 s.
const REPEATS_LOST: u32 = 4;

pub(crate) struct TcpLink {
    pub(crate) conn: TcpConn,
    pub(crate) id: TcpId,
    phase: StreamPhase,
    /// The kernel did not say that there is nothing to receive, or no room to send.
    readable: bool,
    writable: bool,
    /// The kernel says that there is no stream any more, and why, if a send failed.
    is_gone: bool,
    why_gone: Option<String>,
    /// The peer sends no more. A stream at its end is always readable: to watch it would be to
    /// spin, where what came before is not read yet.
    is_at_end: bool,
    /// What the driver watches.
    watched: Interest,
    /// What the kernel knew of the path when it was last asked.
    pub(crate) path: PathSnapshot,
    /// When the kernel is asked what became of what was sent. None: all of it was acknowledged.
    pub(super) look_at: Option<Instant>,
    /// When the kernel last said that what is sent is acknowledged. A peer that is sent much over a
    /// slow path says nothing itself for long.
    pub(super) arrives_at: Option<Instant>,
    losses: LossWatch,
}

/// How far the stream is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum StreamPhase {
    /// Next: either of the others.
    Connecting,
    /// Next: Shut.
    Open,
    /// We send no more, or there is no stream any more.
    Shut,
}

impl TcpLink {
    /// `connecting`: connect(2) is under way.
    pub(crate) fn new(conn: TcpConn, id: TcpId, connecting: bool) -> TcpLink {
        TcpLink {
            conn,
            id,
            phase: match connecting {
                true => StreamPhase::Connecting,
                false => StreamPhase::Open,
            },
            readable: !connecting,
            writable: !connecting,
            is_gone: false,
            why_gone: None,
            is_at_end: false,
            watched: Interest::NONE,
            path: PathSnapshot::default(),
            look_at: None,
            arrives_at: None,
            losses: LossWatch::Over,
        }
    }

    /// Has what is sent ruled by BBR once the kernel's usual congestion control does not get on.
    pub(crate) fn watch_losses(&mut self) {
        self.losses = LossWatch::new();
    }

    /// The driver says so, and watches no more.
    pub(crate) fn ready(&mut self, readable: bool, writable: bool) {
        self.watched = Interest::NONE;
        self.readable |= readable;
        self.writable |= writable;
    }

    /// Whether there may be more to receive.
    pub(crate) fn has_more(&self) -> bool {
        self.phase != StreamPhase::Connecting && self.readable
    }

    /// Takes in what the kernel has, so much at a time. What was not read in the last turn is no
    /// reason to wait: it is within the credit that the peer was given. What came in this one is to
    /// be read first, where it lies, or the next bytes would have it copied aside.
    pub(crate) fn receive(&mut self, driver: &Driver, now: Instant) {
        if self.phase == StreamPhase::Connecting && !self.is_connected(driver, now) {
            return;
        }
        let (stream, mut taken) = (driver.stream(self.id), 0);
        while self.readable && taken < TURN_BYTES && self.give_keys(driver, now) {
            let in_records = self.conn.is_opened_by_kernel();
            let buffer = self.conn.receive_buffer();
            let room = buffer.len();
            let received = match in_records {
                true => stream.receive_record(buffer),
                false => stream.receive(buffer).map(as_heard),
            };
            match received {
                Ok(RecordsHeard::End) => {
                    (self.readable, self.is_at_end) = (false, true);
                    match self.why_gone.take() {
                        Some(why) => self.conn.broken(now, &why),
                        None => self.conn.ended(now),
                    }
                }
                Ok(RecordsHeard::Of { content, bytes }) => {
                    // What comes after a short read, a watch tells as well. But not a KeyUpdate
                    // that the kernel has opened and kept, for it has another type than what was
                    // read: no poll tells of anything while the next key is missing
                    // (tls_sw_sock_is_readable in net/tls/tls_sw.c, 7.2).
                    self.readable = bytes == room || in_records;
                    match in_records {
                        true => self.conn.received_record(now, content, bytes),
                        false => self.conn.received(now, bytes),
                    }
                    taken += bytes;
                    if self.conn.reads_buffer() {
                        break;
                    }
                }
                Ok(RecordsHeard::Nothing) => self.readable = false,
                Err(error) if self.is_not_opened(now, &error) => {}
                Err(error) => self.lose(now, &error),
            }
        }
    }

    /// Sends what is sealed. True: the kernel may take more.
    pub(crate) fn send(&mut self, driver: &Driver, now: Instant) -> bool {
        if self.phase != StreamPhase::Open || !self.writable {
            return false;
        }
        let (stream, mut sent) = (driver.stream(self.id), 0);
        while sent < TURN_BYTES && self.give_keys(driver, now) {
            if !self.has_outgoing(now) {
                self.say_the_end(driver);
                break;
            }
            match self.push(stream, now) {
                Ok(Some(bytes)) => {
                    sent += bytes;
                    self.look_at.get_or_insert(now + LOOK_PAUSE);
                }
                Ok(None) => {
                    self.writable = false;
                    break;
                }
                // The kernel read ahead; the alert that answers is next.
                Err(error) if !self.is_at_end && self.is_not_opened(now, &error) => {}
                Err(error) => {
                    // What the peer said before may still be there to be received.
                    self.why_gone = Some(in_words(&error, self.phase));
                    self.phase = StreamPhase::Shut;
                    self.readable = true;
                    break;
                }
            }
        }
        self.losses.sent(stream, sent);
        sent > 0
    }

    fn has_outgoing(&mut self, now: Instant) -> bool {
        !self.conn.outgoing(now).is_empty() || self.conn.outgoing_piped().is_some()
    }

    /// Gives the kernel what it takes with one call of what is to be sent.
    fn push(&mut self, stream: &TcpStream, now: Instant) -> io::Result<Option<usize>> {
        let record = self.conn.outgoing_record();
        let is_ahead = self.conn.outgoing_piped().is_some();
        if self.conn.outgoing(now).is_empty()
            && let Some((pipe, bytes)) = self.conn.outgoing_piped()
        {
            let taken = match stream.send_piped(pipe, bytes) {
                Ok(Some(0)) => Err(io::ErrorKind::UnexpectedEof.into()),
                taken => taken,
            };
            return match taken {
                Ok(taken) => {
                    taken.into_iter().for_each(|it| self.conn.sent_piped(it));
                    Ok(taken)
                }
                Err(error) if is_of_stream(&error) => Err(error),
                // The stream itself is well: nothing would be told of it.
                Err(error) => {
                    self.give_up(now, &format!("what is in a pipe cannot be sent: {error}"));
                    Ok(None)
                }
            };
        }
        let out = self.conn.outgoing(now);
        let taken = match record {
            Some(content) => stream.send_record(content, out)?,
            None if is_ahead => stream.send_ahead(out)?,
            None => stream.send(&[IoSlice::new(out)])?,
        };
        taken.into_iter().for_each(|bytes| self.conn.sent(bytes));
        Ok(taken)
    }

    /// Whether a call failed for records of the peer that the kernel does not open, which is then
    /// told.
    fn is_not_opened(&mut self, now: Instant, error: &io::Error) -> bool {
        let bad = BadRecord::of(error).filter(|_| self.conn.is_opened_by_kernel());
        if let Some(bad) = bad {
            // From now on the socket is always readable, and its end is not told any more.
            (self.readable, self.is_at_end) = (false, true);
            self.conn.not_opened(now, bad);
        }
        bad.is_some()
    }

    /// All is sent: behind the reason why the connection closes nothing follows.
    fn say_the_end(&mut self, driver: &Driver) {
        if self.conn.is_closing() {
            self.phase = StreamPhase::Shut;
            // The kernel's TLS may have records that TCP had no room for, and a FIN would come
            // before them. The alert among them says the same, and who says it lingers.
            if !self.conn.is_sealed_by_kernel() {
                // Where there is no connection any more, there is nobody to tell.
                let _ = driver.stream(self.id).shutdown_write();
            }
        }
    }

    /// Gives the kernel the keys that it is to have; without them all goes on as before. False: it
    /// did not take the next of a key that it has.
    fn give_keys(&mut self, driver: &Driver, now: Instant) -> bool {
        let stream = driver.stream(self.id);
        while let Some(step) = self.conn.kernel_step(now) {
            let taken = match &step {
                KernelStep::Layer => stream.layer_tls(),
                KernelStep::Seal(key) => stream.seal_with(key),
                KernelStep::Open(key) => stream.open_with(key),
            };
            if !self.conn.kernel_answered(step, taken.is_ok())
                && let Err(error) = taken
            {
                let advice = "--ktls off does without";
                self.give_up(
                    now,
                    &format!("the kernel's TLS took no next key: {error}; {advice}"),
                );
                return false;
            }
        }
        true
    }

    fn is_connected(&mut self, driver: &Driver, now: Instant) -> bool {
        if !self.writable {
            return false;
        }
        match driver.stream(self.id).finish_connect() {
            Ok(true) => {
                self.phase = StreamPhase::Open;
                self.readable = true;
            }
            Ok(false) => self.writable = false,
            Err(error) => self.lose(now, &error),
        }
        self.phase == StreamPhase::Open
    }

    /// Looks, when it is time, what became of what was sent. True: nothing of it arrives.
    pub(crate) fn is_stuck(&mut self, driver: &Driver, now: Instant) -> bool {
        if self.phase != StreamPhase::Open {
            // A look that stays due would be a turn for ever.
            self.look_at = None;
        }
        if self.look_at.is_none_or(|at| at > now) {
            return false;
        }
        let stream = driver.stream(self.id);
        let info = stream.info().unwrap_or_default();
        let is_under_way = info.unacknowledged_packets > 0;
        self.look_at = is_under_way.then_some(now + LOOK_PAUSE);
        if info.repeats == 0 {
            self.arrives_at = Some(now);
        }
        if info.repeats >= REPEATS_DOUBTED {
            // Over IPv6 only another lane helps.
            let _ = stream.allow_fragments();
        }
        info.repeats >= REPEATS_LOST
    }

    /// Whether it leaves from this address. What the kernel does not say is no reason for doubt.
    pub(crate) fn is_from(&self, driver: &Driver, ip: IpAddr) -> bool {
        let local = driver.stream(self.id).local_addr();
        local.map_or(true, |local| local.ip() == ip)
    }

    /// There is no stream any more, as far as we are concerned: nobody hears why.
    pub(crate) fn give_up(&mut self, now: Instant, why: &str) {
        self.phase = StreamPhase::Shut;
        (self.readable, self.writable, self.is_gone) = (false, false, true);
        self.conn.broken(now, why);
    }

    /// There is no stream any more.
    fn lose(&mut self, now: Instant, error: &io::Error) {
        let why = self.why_gone.take();
        let why = why.unwrap_or_else(|| in_words(error, self.phase));
        self.give_up(now, &why);
    }

    /// Whether the peer is to hear something yet, and can: not before the stream was open.
    pub(crate) fn lingers(&self) -> bool {
        self.phase != StreamPhase::Connecting && !self.is_gone
    }

    /// Has the driver watch for what is waited for.
    pub(crate) fn watch(&mut self, driver: &mut Driver, now: Instant) {
        let waits_for_room = self.phase == StreamPhase::Open && self.has_outgoing(now);
        let waits_for_bytes = !self.readable && !self.is_at_end;
        let wanted = match self.phase {
            StreamPhase::Connecting => Interest::WRITE,
            StreamPhase::Open => Interest {
                read: waits_for_bytes,
                write: !self.writable && waits_for_room,
            },
            StreamPhase::Shut => Interest {
                read: waits_for_bytes && self.conn.state() == ConnState::Closing,
                write: false,
            },
        };
        let is_new = wanted.read && !self.watched.read || wanted.write && !self.watched.write;
        if is_new {
            driver.watch(self.id, wanted);
            self.watched.read |= wanted.read;
            self.watched.write |= wanted.write;
        }
    }

    /// Asks the kernel about the path.
    pub(crate) fn measure(&mut self, driver: &Driver) {
        if let Ok(info) = driver.stream(self.id).info() {
            let counters = self.conn.counters();
            self.path = PathSnapshot {
                rtt: info.rtt,
                min_rtt: info.min_rtt,
                cwnd_bytes: info.cwnd_packets as usize * info.mss_bytes as usize,
                retransmitted_frames: u64::from(info.retransmitted_packets),
                sent_bytes: counters.sent_bytes,
                received_bytes: counters.received_bytes,
                keys_renewed: counters.keys_renewed,
                under_old_keys_bytes: counters.under_old_keys_bytes.into_iter().sum(),
                delivery_bytes_per_second: info.delivery_rate,
                ..PathSnapshot::default()
            };
        }
    }
}

/// What a receive call without records had.
fn as_heard(bytes: Option<usize>) -> RecordsHeard {
    match bytes {
        None => RecordsHeard::Nothing,
        Some(0) => RecordsHeard::End,
        Some(bytes) => RecordsHeard::Of { content: 0, bytes },
    }
}

/// Whether a call failed since there is no connection any more.
fn is_of_stream(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset | io::ErrorKind::TimedOut
    )
}

/// Why there is no stream, in words that follow "because".
fn in_words(error: &io::Error, phase: StreamPhase) -> String {
    match (error.kind(), phase) {
        (io::ErrorKind::ConnectionRefused, _) => "nobody listens on the peer's TCP port".to_owned(),
        (io::ErrorKind::TimedOut, StreamPhase::Connecting) => {
            "the peer's host does not answer on TCP".to_owned()
        }
        (io::ErrorKind::TimedOut, _) => {
            "the peer's host acknowledged nothing for too long (TCP: ETIMEDOUT)".to_owned()
        }
        (io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe, _) => {
            "the TCP connection was reset: by the peer, or by a firewall".to_owned()
        }
        _ => format!("TCP failed: {error}"),
    }
}
