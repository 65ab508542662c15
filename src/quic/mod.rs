//! One QUIC connection as the worker sees it. Only this directory names quiche.
//!
//! quiche reads the clock and random bytes itself; nothing here can be simulated. Traps it leaves
//! to its callers are closed here: pinning in both directions, trust after resumption, handshake
//! timeout, zero-copy sends that would lose a refused buffer, one reason why a connection is over.

mod app_streams;
mod black_hole;
mod conn;
mod early;
mod first_flight;
mod gso;
mod held;
mod kept;
mod note;
mod outgoing;
mod pace;
mod packet_size;
mod path;
mod reason;
mod route;
mod sending;
mod setup;
mod share;
mod stream_counts;
mod streams;
mod token;
mod unsent;
mod whereabouts;

#[cfg(test)]
mod tests;

pub use crate::carrier::{ALPN as TRANSFER_PROTOCOL, Alpn, CloseReason, ConnState};
pub use crate::identity::{Identity, Trust};
pub use app_streams::{DatagramRefusal, SendState, StreamDirection};
pub use conn::{Accept, Conn, Connect};
pub use first_flight::{EARLY_BYTES_MAX, EARLY_STREAMS_MAX};
pub use kept::STOPPED_MAX;
#[cfg(feature = "internals")]
pub use landro_sys::gso::{MAX_SEGMENTS, Run};
#[cfg(feature = "fuzzing")]
pub use note::note_again;
pub use outgoing::{DATA_URGENCY, URGENCIES};
pub use path::PathSnapshot;
pub use reason::{KEY_SPENT, QuicError, StreamError};
pub use route::{NewConn, Route, Router};
pub use setup::{Setup, TicketKeys};
pub use stream_counts::StreamCounts;
pub use token::Secrets;
