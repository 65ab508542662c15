//! Bytes of a session out: what its lanes hand over into a lane's QUIC, a little at a time.

use std::os::fd::OwnedFd;

use bytes::Bytes;

use crate::proto::Payload;
use crate::proto::lanes::{LaneKey, LaneStream, LanesInput, Taken};
use crate::worker::Worker;
use crate::worker::lane::{CONTROL_STREAM, TransferLane};
use crate::worker::limits::UNSENT_BYTES;

impl Worker {
    /// Has the session offer bytes to the connection, until it has `UNSENT_BYTES`. Gives how many
    /// it took.
    pub(crate) fn feed_lane(&mut self, key: usize) -> usize {
        let mut taken = 0;
        while let Some(connection) = self.connections.get(key)
            && let Some(session) = connection.lane().and_then(TransferLane::session)
            && let unsent = connection.conn.unsent_bytes()
            && unsent < UNSENT_BYTES
        {
            let bytes = match self.connections.has_to_wait(&self.io, key) {
                true => 0,
                false => UNSENT_BYTES - unsent,
            };
            let room = LanesInput::Room {
                lane: LaneKey(key),
                bytes,
                takes_pipes: connection.conn.takes_pipes(),
            };
            match self.tell(session, room) {
                0 => break,
                bytes => taken += bytes,
            }
        }
        taken
    }

    /// Hands bytes to QUIC, which opens the stream if it is new.
    pub(super) fn send(
        &mut self,
        key: usize,
        stream: LaneStream,
        payload: Payload,
        fin: bool,
    ) -> Taken {
        let Some((conn, lane)) = self.connections.lane_mut(key) else {
            return Taken::Gone;
        };
        if let LaneStream::OneWay(number) = stream
            && number == lane.opened
        {
            // MAX_STREAMS: earlier streams must end first.
            if conn.open_uni().is_none() {
                return Taken::Part(0);
            }
            lane.opened += 1;
        }
        let (stream, len) = (id_of_ours(stream, conn.is_server()), payload.len_bytes());
        let rest = match payload {
            Payload::Bytes(bytes) => conn.send(stream, bytes, fin).map(bytes_of),
            Payload::FileData(bytes) => conn.send_bulk(stream, bytes).map(bytes_of),
            Payload::Piped { data, .. } => match data.get::<OwnedFd>() {
                Some(pipe) => conn.send_piped(stream, pipe, len),
                None => unreachable!("what the disk layer has in the kernel is in pipes"),
            },
        };
        match rest {
            Ok(None) => Taken::All,
            Ok(Some(rest_bytes)) => Taken::Part(len - rest_bytes),
            // STOP_SENDING or a closing connection: what is left will not be wanted.
            Err(_) => Taken::Gone,
        }
    }
}

fn bytes_of(rest: Option<Bytes>) -> Option<u64> {
    rest.map(|rest| rest.len() as u64)
}

/// Streams count up in steps of four from what says who opened them, and that they go one way
/// (RFC 9000 §2.1).
pub(super) fn id_of_ours(stream: LaneStream, is_server: bool) -> u64 {
    match stream {
        LaneStream::Control => CONTROL_STREAM,
        LaneStream::OneWay(number) => number * 4 + 2 + u64::from(is_server),
    }
}
