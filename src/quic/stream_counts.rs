//! Numbers of a connection's streams as quiche has them.

use std::time::Duration;

use super::conn::Conn;

/// What became of a connection's streams, and what held them back.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct StreamCounts {
    /// Cut off by their sender: us, the peer.
    pub resets: [u64; 2],
    /// Not wanted any more by their receiver: us, the peer.
    pub stops: [u64; 2],
    /// How often data of ours waited for credit: of the connection, of a stream.
    pub blocked: [u64; 2],
    /// How long something of ours was on its way.
    pub in_flight: Duration,
    /// One-way streams that the peer would let us open now.
    pub credit: u64,
}

impl Conn {
    /// Not for every packet.
    pub fn stream_counts(&self) -> StreamCounts {
        let (quiche, stats) = (&self.quiche, self.quiche.stats());
        StreamCounts {
            resets: [
                stats.reset_stream_count_local,
                stats.reset_stream_count_remote,
            ],
            stops: [
                stats.stopped_stream_count_local,
                stats.stopped_stream_count_remote,
            ],
            blocked: [
                stats.data_blocked_sent_count,
                stats.stream_data_blocked_sent_count,
            ],
            in_flight: stats.bytes_in_flight_duration,
            credit: quiche.peer_streams_left_uni(),
        }
    }
}
