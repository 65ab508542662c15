//! Names of hosts, looked up on threads of their own: the resolver of libc blocks.

use std::fmt;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use event_listener::{Event, Listener};

use super::errors::ConnectError;
use crate::engine::now;

/// Names that are looked up at a time, each by a thread of its own.
const LOOKUPS_MAX: usize = 32;

static LOOKUPS: AtomicUsize = AtomicUsize::new(0);

/// One look-up's part of [`LOOKUPS_MAX`].
struct LookupPlace;

impl LookupPlace {
    fn take() -> Option<LookupPlace> {
        let place = LookupPlace;
        (LOOKUPS.fetch_add(1, Ordering::Relaxed) < LOOKUPS_MAX).then_some(place)
    }
}

impl Drop for LookupPlace {
    fn drop(&mut self) {
        LOOKUPS.fetch_sub(1, Ordering::Relaxed);
    }
}

type Found = io::Result<Vec<SocketAddr>>;

/// The addresses of one `HOST:PORT`, which are known, or on their way.
pub(super) struct Lookup {
    name: String,
    found: Arc<(Mutex<Option<Found>>, Event)>,
}

impl Lookup {
    /// Begins to look for a name; an address is its own.
    ///
    /// # Errors
    /// As many are looked for as may be, or there is no thread.
    pub(super) fn begin(name: &str) -> Result<Lookup, ConnectError> {
        let address = name.parse().ok();
        let lookup = Lookup {
            name: name.to_owned(),
            found: Arc::new((
                Mutex::new(address.map(|address| Ok(vec![address]))),
                Event::new(),
            )),
        };
        if address.is_some() {
            return Ok(lookup);
        }
        let place = LookupPlace::take().ok_or(ConnectError::Busy)?;
        let (tell, host) = (lookup.found.clone(), name.to_owned());
        let looks = move || {
            let _place = place;
            let addresses = host.to_socket_addrs().map(Iterator::collect);
            *tell.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(addresses);
            tell.1.notify(usize::MAX);
        };
        let started = thread::Builder::new()
            .name("landro-lookup".to_owned())
            .spawn(looks);
        match started {
            Ok(_) => Ok(lookup),
            Err(error) => Err(lookup.not_found(&error)),
        }
    }

    /// Waits for the addresses.
    ///
    /// # Errors
    /// The name has none.
    pub(super) async fn addresses(self) -> Result<Vec<SocketAddr>, ConnectError> {
        loop {
            let changed = self.found.1.listen();
            if let Some(found) = self.take() {
                return found;
            }
            changed.await;
        }
    }

    /// Looks for a name on this thread, and asks each `look` whether that is to go on. None: it is
    /// over.
    pub(super) fn on_this_thread(
        name: &str,
        look: Duration,
        is_over: impl Fn() -> bool,
    ) -> Option<Result<Vec<SocketAddr>, ConnectError>> {
        let lookup = loop {
            match Lookup::begin(name) {
                Ok(lookup) => break lookup,
                // Others look names up, which comes to an end.
                Err(ConnectError::Busy) if !is_over() => thread::sleep(look),
                Err(error) => return Some(Err(error)),
            }
        };
        loop {
            if is_over() {
                return None;
            }
            if let Some(found) = lookup.wait_until(now() + look) {
                return Some(found);
            }
        }
    }

    /// As [`Lookup::addresses`], on this thread, until then at most.
    fn wait_until(&self, at: Instant) -> Option<Result<Vec<SocketAddr>, ConnectError>> {
        let changed = self.found.1.listen();
        self.take().or_else(|| {
            changed.wait_deadline(at);
            self.take()
        })
    }

    fn take(&self) -> Option<Result<Vec<SocketAddr>, ConnectError>> {
        let mut found = self.found.0.lock().unwrap_or_else(PoisonError::into_inner);
        Some(match found.take()? {
            Ok(addresses) if addresses.is_empty() => Err(self.not_found(&"it has no address")),
            Ok(addresses) => Ok(addresses),
            Err(error) => Err(self.not_found(&error)),
        })
    }

    fn not_found(&self, why: &dyn fmt::Display) -> ConnectError {
        ConnectError::Name {
            name: self.name.clone(),
            why: why.to_string(),
        }
    }
}
