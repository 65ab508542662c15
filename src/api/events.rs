//! What happens to a connection beside its streams.

use std::fmt;
use std::sync::Arc;

use super::errors::ConnectionError;
use crate::worker::{Attached, ConnectionEvent};

/// Events of a connection from when [`Connection::events`] was called. It is no handle to the
/// connection: that is closed with its last handle though somebody listens.
///
/// There are those that the worker of the connection knows of. That a peer has another address is
/// none of them, for the peers of such connections are not followed.
///
/// [`Connection::events`]: super::Connection::events
pub struct ConnectionEvents {
    attached: Arc<Attached>,
    place: u64,
}

impl ConnectionEvents {
    pub(super) fn new(attached: &Arc<Attached>) -> ConnectionEvents {
        ConnectionEvents {
            attached: Arc::clone(attached),
            place: attached.events_end(),
        }
    }

    /// The next event. 64 are kept for those who have not come so far; who is further behind is
    /// told with [`ConnectionEvent::Missed`] how many are gone.
    ///
    /// # Errors
    /// All events were taken and the connection is over; here is why.
    ///
    /// # Cancel safety
    /// No event is lost by dropping the future.
    pub async fn next(&mut self) -> Result<ConnectionEvent, ConnectionError> {
        loop {
            let changed = self.attached.listen();
            // Before the event: what came before the end is given before it.
            let end = self.attached.end();
            if let Some(event) = self.attached.take_event(&mut self.place) {
                return Ok(event);
            }
            if let Some(reason) = end {
                return Err(ConnectionError::of(reason));
            }
            changed.await;
        }
    }
}

impl fmt::Debug for ConnectionEvents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ConnectionEvents({})", self.attached.facts.peer)
    }
}
