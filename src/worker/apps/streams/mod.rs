//! Streams and datagrams for programs that embed this library: what ties connections with handles
//! to the parts of a worker.

mod attached;
mod connecting;
mod pipe;
mod running;
mod turns;

pub use attached::ConnectionStatistics;
pub(crate) use attached::{Attached, Hold};
pub use connecting::{Answer, ConnectFailure, ConnectStart, Owed};
pub(crate) use connecting::{Dials, Incoming};
pub(crate) use pipe::{Pipe, ReceivePhase, SendPhase, Written};
pub(crate) use running::StreamsApp;
