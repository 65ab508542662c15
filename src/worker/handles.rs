//! What handles of the library and the worker of their connection have in common, and the worker's
//! part of it.

mod answers;
mod attached;
mod events;
mod handshaken;
mod order;
mod pipe;
mod read_buffers;
mod running;
mod running_stream;
mod tickets;
mod told;

pub(crate) use answers::{AcceptQueue, Accepting, ConnectsEnd};
pub use answers::{Answer, ConnectFailure, ConnectQueue, ConnectStart, Owed};
pub use attached::ConnectionStatistics;
pub(crate) use attached::{Attached, Facts, Hold, Place};
pub use events::ConnectionEvent;
pub(crate) use pipe::{Pipe, ReceivePhase, SendPhase, ToWrite};
pub(crate) use read_buffers::ReadBuffers;
pub(crate) use running::StreamsApp;
pub use tickets::{Ticket, Tickets};
