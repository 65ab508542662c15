//! How much memory may be in use, as permits in bytes: taken before memory is, in the order of
//! asking, and given back with the bytes themselves.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use event_listener::Event;

/// All permits of one user of memory.
#[derive(Debug)]
pub(super) struct MemoryGate {
    most_bytes: usize,
    state: Mutex<GateState>,
    changed: Event,
}

#[derive(Debug)]
struct GateState {
    free_bytes: usize,
    /// Who waits, first come, first served: a large permit is not overtaken by small ones for ever.
    waiting: VecDeque<u64>,
    next_ticket: u64,
    most_used_bytes: usize,
}

/// A place in the queue, left when whoever waits is dropped.
struct PermitTurn<'a>(&'a MemoryGate, u64);

impl Drop for PermitTurn<'_> {
    fn drop(&mut self) {
        self.0.state().waiting.retain(|ticket| *ticket != self.1);
        self.0.changed.notify(usize::MAX);
    }
}

impl MemoryGate {
    pub fn new(most_bytes: usize) -> Arc<MemoryGate> {
        Arc::new(MemoryGate {
            most_bytes,
            state: Mutex::new(GateState {
                free_bytes: most_bytes,
                waiting: VecDeque::new(),
                next_ticket: 0,
                most_used_bytes: 0,
            }),
            changed: Event::new(),
        })
    }

    fn state(&self) -> MutexGuard<'_, GateState> {
        // Every critical section leaves it whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for so many bytes, and for those that asked before. More than there are at all is
    /// waited for until there is everything: callers check that before.
    ///
    /// # Cancel safety
    /// A dropped future has taken nothing and has left its place.
    pub async fn take(self: &Arc<Self>, bytes: usize) -> Permit {
        let bytes = bytes.min(self.most_bytes);
        let ticket = {
            let mut state = self.state();
            let ticket = state.next_ticket;
            state.next_ticket += 1;
            state.waiting.push_back(ticket);
            PermitTurn(self, ticket)
        };
        loop {
            let changed = self.changed.listen();
            let is_first = self.state().waiting.front() == Some(&ticket.1);
            let permit = is_first.then(|| self.take_free(bytes)).flatten();
            if let Some(permit) = permit {
                return permit;
            }
            changed.await;
        }
    }

    /// So many bytes, if they are free and nobody waits.
    pub fn try_take(self: &Arc<Self>, bytes: usize) -> Option<Permit> {
        let is_free = self.state().waiting.is_empty();
        is_free.then(|| self.take_free(bytes)).flatten()
    }

    fn take_free(self: &Arc<Self>, bytes: usize) -> Option<Permit> {
        let mut state = self.state();
        state.free_bytes = state.free_bytes.checked_sub(bytes)?;
        let used_bytes = self.most_bytes - state.free_bytes;
        state.most_used_bytes = state.most_used_bytes.max(used_bytes);
        Some(Permit {
            gate: Arc::clone(self),
            bytes,
        })
    }

    pub fn in_use_bytes(&self) -> usize {
        self.most_bytes - self.state().free_bytes
    }

    pub fn most_used_bytes(&self) -> usize {
        self.state().most_used_bytes
    }
}

/// Leave to use so many bytes, until it is dropped.
#[derive(Debug)]
pub(super) struct Permit {
    gate: Arc<MemoryGate>,
    bytes: usize,
}

impl Permit {
    /// A part of it; what is left of it where that is less.
    pub fn split(&mut self, bytes: usize) -> Permit {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        Permit {
            gate: Arc::clone(&self.gate),
            bytes,
        }
    }

    /// Bytes that keep the permit until their last clone and slice is dropped.
    pub fn hold(self, bytes: Bytes) -> Bytes {
        Bytes::from_owner(HeldBytes {
            bytes,
            _permit: self,
        })
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut state = self.gate.state();
        state.free_bytes += self.bytes;
        drop(state);
        self.gate.changed.notify(usize::MAX);
    }
}

/// Fields are dropped in their order: the memory is free when the permit is.
struct HeldBytes {
    bytes: Bytes,
    _permit: Permit,
}

impl AsRef<[u8]> for HeldBytes {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    fn poll<T>(future: std::pin::Pin<&mut impl Future<Output = T>>) -> Poll<T> {
        future.poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn permits_are_given_in_order_and_come_back_with_the_bytes() {
        let gate = MemoryGate::new(100);
        let Poll::Ready(mut all) = poll(pin!(gate.take(90))) else {
            panic!("there was room");
        };
        let mut large = Box::pin(gate.take(40));
        let mut small = Box::pin(gate.take(10));
        assert!(poll(large.as_mut()).is_pending());
        assert!(poll(small.as_mut()).is_pending(), "it overtook");
        let part = all.split(30).hold(Bytes::from_static(b"thirty"));
        let slice = part.slice(1..2);
        drop(part);
        assert!(poll(large.as_mut()).is_pending(), "a slice is left");
        drop(slice);
        assert_eq!(gate.in_use_bytes(), 60);
        let Poll::Ready(large) = poll(large.as_mut()) else {
            panic!("there are 40");
        };
        assert!(poll(small.as_mut()).is_pending());
        drop(all);
        assert!(poll(small.as_mut()).is_ready());
        drop((large, small));
        assert_eq!((gate.in_use_bytes(), gate.most_used_bytes()), (0, 100));
    }

    #[test]
    fn who_gives_up_leaves_the_queue() {
        let gate = MemoryGate::new(10);
        let Poll::Ready(all) = poll(pin!(gate.take(10))) else {
            panic!("there was room");
        };
        let mut first = Box::pin(gate.take(10));
        let mut second = Box::pin(gate.take(5));
        assert!(poll(first.as_mut()).is_pending());
        assert!(poll(second.as_mut()).is_pending());
        drop((first, all));
        assert!(poll(second.as_mut()).is_ready());
    }
}
