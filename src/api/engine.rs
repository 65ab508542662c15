//! The workers of a program, and how connections begin.

use std::fmt;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use event_listener::Event;

use super::connection::Connection;
use crate::budget::DEFAULT_MEMORY_BUDGET_BYTES;
use crate::config::QuicConfig;
use crate::engine::{BackendChoice, EngineError, Host, HostConfig};
use crate::ids::Fingerprint;
use crate::quic::{Identity, Trust};
use crate::worker::{Answer, ConnectFailure, Ticket};

/// Names that are looked up at a time, each by a thread of its own: the resolver of libc blocks.
const LOOKUPS_MAX: usize = 32;

/// Whose key is accepted in a handshake.
#[derive(Clone)]
#[non_exhaustive]
pub enum PeerTrust {
    /// Only this one.
    Pinned(Fingerprint),
    /// Any of these; of an empty list, nobody.
    OneOf(Vec<Fingerprint>),
    /// Whoever the function says. It runs on a worker and may not block.
    Decide(Arc<dyn Fn(&Fingerprint) -> bool + Send + Sync>),
}

impl PeerTrust {
    fn into_trust(self) -> Trust {
        match self {
            PeerTrust::Pinned(peer) => Arc::new(move |shown| *shown == peer),
            PeerTrust::OneOf(peers) => Arc::new(move |shown| peers.contains(shown)),
            PeerTrust::Decide(decide) => decide,
        }
    }
}

impl fmt::Debug for PeerTrust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PeerTrust::Pinned(peer) => f.debug_tuple("Pinned").field(peer).finish(),
            PeerTrust::OneOf(peers) => f.debug_tuple("OneOf").field(peers).finish(),
            PeerTrust::Decide(_) => f.write_str("Decide(..)"),
        }
    }
}

/// Why there is no connection.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The address is no `HOST:PORT`, or its name has no address.
    #[error(
        "{name:?} cannot be looked up: {why}; an address is HOST:PORT, as in 192.0.2.1:4433 or [2001:db8::1]:4433"
    )]
    Name {
        /// As it was given.
        name: String,
        /// What the resolver said.
        why: String,
    },
    /// No address answered.
    #[error("{name:?} does not answer: {why}")]
    NoAnswer {
        /// As it was given.
        name: String,
        /// What each address said.
        why: String,
    },
    /// Whoever answered has a key that is not trusted here.
    #[error("{name:?} has the key {}, which is not trusted here", shown_key(shown))]
    NotTrusted {
        /// As it was given.
        name: String,
        /// The key that was shown, if one was.
        shown: Option<Fingerprint>,
    },
    /// The peer does not trust our key.
    #[error("{name:?} does not let {ours} in")]
    Refused {
        /// As it was given.
        name: String,
        /// Our key.
        ours: Fingerprint,
    },
    /// As many connections are being made as may be; later there is room again.
    #[error("too many connections are being made at a time")]
    Busy,
    /// The engine was shut down.
    #[error("the engine was shut down")]
    ShutDown,
    /// The transport cannot be set up.
    #[error("cannot set up a connection: {0}")]
    Setup(String),
}

impl ConnectError {
    /// Whether the same call may succeed later.
    pub fn is_retryable(&self) -> bool {
        match self {
            ConnectError::NoAnswer { .. } | ConnectError::Busy => true,
            ConnectError::Name { .. }
            | ConnectError::NotTrusted { .. }
            | ConnectError::Refused { .. }
            | ConnectError::ShutDown
            | ConnectError::Setup(_) => false,
        }
    }
}

fn shown_key(shown: &Option<Fingerprint>) -> String {
    shown.map_or_else(|| "of no known kind".to_owned(), |key| key.to_string())
}

/// What an engine is to be. Made by [`Engine::builder`].
#[derive(Debug)]
#[must_use = "nothing runs before `start`"]
pub struct EngineBuilder {
    quic: QuicConfig,
    workers: usize,
    backend: BackendChoice,
    memory_budget_bytes: u64,
    identity: Option<Identity>,
    listen: Vec<SocketAddr>,
    trust: PeerTrust,
    protocols: Vec<Vec<u8>>,
    accepts_early: bool,
}

impl EngineBuilder {
    /// Values of the transport. Default: [`QuicConfig::auto`].
    pub fn quic(mut self, quic: QuicConfig) -> EngineBuilder {
        self.quic = quic;
        self
    }

    /// Threads that carry connections, 1 to 255, each with a ring and sockets of its own. Default:
    /// 1. A connection stays on one of them for life.
    pub fn workers(mut self, workers: usize) -> EngineBuilder {
        self.workers = workers;
        self
    }

    /// io_uring or poll. Default: io_uring where the kernel allows it, else poll.
    pub fn backend(mut self, backend: BackendChoice) -> EngineBuilder {
        self.backend = backend;
        self
    }

    /// Memory for what peers have sent and the transport holds, in bytes of the whole engine.
    /// Default: 64 MiB; at least 8 MiB. Receive windows are granted out of it, so a connection
    /// among many gets less than [`QuicConfig`] says. Beside it each connection keeps less than
    /// 5 MiB for handles that do not read, and 16 KiB for each of its streams where those are more
    /// than 64.
    ///
    /// What QUIC keeps beside that for a peer is weighed by the allocator: where
    /// `landro_sys::weigh::Weighed` is not the program's global allocator, it is not bounded.
    pub fn memory_budget(mut self, bytes: u64) -> EngineBuilder {
        self.memory_budget_bytes = bytes;
        self
    }

    /// The key that peers know this program by. Default: a new one for each start.
    pub fn identity(mut self, identity: Identity) -> EngineBuilder {
        self.identity = Some(identity);
        self
    }

    /// Lets peers in at this address; may be called again for others. Port 0: the kernel chooses
    /// ([`Listener::addresses`] says which). Default: nobody is let in.
    pub fn listen(mut self, address: SocketAddr) -> EngineBuilder {
        self.listen.push(address);
        self
    }

    /// Which peers are let in. Default: nobody.
    pub fn accept(mut self, trust: PeerTrust) -> EngineBuilder {
        self.trust = trust;
        self
    }

    /// Whether a peer that was here before may send before its handshake is complete
    /// ([`Engine::connect_early`]). Default: it may not, and what it sends early comes a round trip
    /// later.
    ///
    /// Trap: whoever recorded such a first flight can send it again, from anywhere, and this
    /// program reads it again, as often as that is done ([`RecvStream::is_early`] says what may be
    /// such). So nothing early may change anything. The peer is asked for trust before any of it is
    /// read; a connection whose handshake does not come to an end is over after
    /// [`QuicConfig`]'s handshake timeout.
    ///
    /// [`RecvStream::is_early`]: super::RecvStream::is_early
    pub fn accept_early(mut self, accepts: bool) -> EngineBuilder {
        self.accepts_early = accepts;
        self
    }

    /// The name of a protocol of the program (ALPN, RFC 7301), of 1 to 255 bytes; may be called
    /// again for others, in the order of preference. At least one is needed. `landro/1` is the
    /// engine's own and is refused.
    pub fn protocol(mut self, name: impl Into<Vec<u8>>) -> EngineBuilder {
        self.protocols.push(name.into());
        self
    }

    /// Binds, and starts the workers.
    ///
    /// # Errors
    /// No protocol has a name, or one is no name; an address cannot be had; a worker cannot be
    /// started.
    pub fn start(self) -> Result<Engine, EngineError> {
        let is_name = |name: &Vec<u8>| {
            (1..=255).contains(&name.len()) && name.as_slice() != crate::quic::TRANSFER_PROTOCOL
        };
        if self.protocols.is_empty() || !self.protocols.iter().all(is_name) {
            return Err(EngineError::Protocol);
        }
        let identity = match self.identity {
            Some(identity) => identity,
            None => Identity::generate().map_err(EngineError::NewIdentity)?,
        };
        let host = Host::start(HostConfig {
            workers: self.workers,
            backend: self.backend,
            quic: self.quic,
            memory_budget_bytes: self.memory_budget_bytes,
            identity,
            listen: self.listen,
            trust: self.trust.into_trust(),
            protocols: self.protocols,
            accepts_early: self.accepts_early,
        })?;
        Ok(Engine(Arc::new(host)))
    }
}

/// Workers that carry connections. A clone is another handle to the same ones; they end when the
/// last is dropped, and with them all connections.
///
/// ```no_run
/// # use landro::api::{Engine, PeerTrust};
/// # use landro::engine::Fingerprint;
/// # async fn example(fingerprint: Fingerprint) -> Result<(), Box<dyn std::error::Error>> {
/// let engine = Engine::builder().protocol("example/1").workers(2).start()?;
/// let connection = engine
///     .connect("host:4433", PeerTrust::Pinned(fingerprint))
///     .await?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Engine(Arc<Host>);

impl Engine {
    /// An engine that is not started yet.
    pub fn builder() -> EngineBuilder {
        EngineBuilder {
            quic: QuicConfig::auto(),
            workers: 1,
            backend: BackendChoice::Auto,
            memory_budget_bytes: DEFAULT_MEMORY_BUDGET_BYTES,
            identity: None,
            listen: Vec::new(),
            trust: PeerTrust::OneOf(Vec::new()),
            protocols: Vec::new(),
            accepts_early: false,
        }
    }

    /// Connects to `HOST:PORT`, where HOST is an address or a name. All addresses of a name are
    /// tried, a quarter of a second apart (RFC 8305), and the first that answers is taken. Each has
    /// as long as [`QuicConfig`]'s handshake timeout.
    ///
    /// Protocols are offered in the order in which the builder was given them;
    /// [`Connection::protocol`] says which the peer chose.
    ///
    /// A name is looked up on a thread of its own for as long as that takes.
    ///
    /// # Errors
    /// [`ConnectError`] says which may be tried again. A handshake is complete here before the peer
    /// has said that it does not trust our key: then the connection ends with
    /// [`ConnectionError::Transport`](super::ConnectionError::Transport).
    ///
    /// # Cancel safety
    /// A connection that comes after the future was dropped is closed. A look-up goes on, and
    /// nobody hears of it.
    pub async fn connect(&self, to: &str, trust: PeerTrust) -> Result<Connection, ConnectError> {
        let name = to.to_owned();
        let addresses = look_up(&name).await?;
        self.dial(name, addresses, trust.into_trust(), None).await
    }

    /// As [`Engine::connect`], for requests whose repetition changes nothing: where this engine was
    /// connected to the same `to` within the last hour and that peer gave it a ticket, the
    /// connection is there at once, at the address that answered then, and what is sent in it
    /// travels before the handshake is complete, at most 16 KiB (0-RTT, RFC 9001 §4.6). Whoever
    /// records that can have the peer's program read it again.
    ///
    /// A peer that does not take it early ([`EngineBuilder::accept_early`]) reads it all the same:
    /// it is sent again when the handshake is complete. [`Connection::early_data_accepted`] says
    /// which it was, and that the peer is there at all; until then that is not known, and where it
    /// is not, the connection ends with that reason.
    ///
    /// # Errors
    /// As of [`Engine::connect`].
    ///
    /// # Cancel safety
    /// As of [`Engine::connect`]. The ticket is used up.
    pub async fn connect_early(
        &self,
        to: &str,
        trust: PeerTrust,
    ) -> Result<Connection, ConnectError> {
        let trust = trust.into_trust();
        let name = to.to_owned();
        let ticket = self.0.take_ticket(to, &trust);
        let addresses = match &ticket {
            Some(ticket) => vec![ticket.address],
            None => look_up(&name).await?,
        };
        self.dial(name, addresses, trust, ticket).await
    }

    async fn dial(
        &self,
        name: String,
        addresses: Vec<SocketAddr>,
        trust: Trust,
        ticket: Option<Ticket>,
    ) -> Result<Connection, ConnectError> {
        let answer = self
            .0
            .connect((&name, addresses), trust, ticket)
            .map_err(|error| ConnectError::Setup(error.to_string()))?;
        let waits = Waits(answer);
        loop {
            let changed = waits.0.listen();
            match waits.0.take() {
                Some(Ok(hold)) => return Ok(Connection::new(hold)),
                Some(Err(failure)) => return Err(self.in_words(name, failure)),
                None => changed.await,
            }
        }
    }

    fn in_words(&self, name: String, failure: ConnectFailure) -> ConnectError {
        match failure {
            ConnectFailure::Busy => ConnectError::Busy,
            ConnectFailure::ShuttingDown => ConnectError::ShutDown,
            ConnectFailure::NoAnswer(why) => ConnectError::NoAnswer { name, why },
            ConnectFailure::Refused {
                by_peer: false,
                shown,
            } => ConnectError::NotTrusted { name, shown },
            ConnectFailure::Refused { by_peer: true, .. } => ConnectError::Refused {
                name,
                ours: self.fingerprint(),
            },
        }
    }

    /// What accepts at the addresses that the builder was given.
    pub fn listener(&self) -> Listener {
        Listener(self.0.clone())
    }

    /// Our key, as peers name it.
    pub fn fingerprint(&self) -> Fingerprint {
        self.0.identity().fingerprint()
    }

    /// What the workers run on, `io_uring` or `poll`, and why.
    pub fn backend(&self) -> (String, String) {
        let (backend, why) = self.0.backend();
        (backend.to_string(), why.to_owned())
    }

    /// Closes all connections with code 0 and waits for the workers to end, five seconds at most.
    /// Blocks. Bytes that the peer has not acknowledged may be lost: [`SendStream::delivered`]
    /// waits for them.
    ///
    /// [`SendStream::delivered`]: super::SendStream::delivered
    pub fn shut_down(&self) {
        self.0.shut_down();
    }
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Engine({})", self.fingerprint())
    }
}

/// Whoever waits for a connection says so when it does not any more.
struct Waits(Arc<Answer>);

impl Drop for Waits {
    fn drop(&mut self) {
        self.0.forget();
    }
}

/// Accepts connections of peers that the builder's [`EngineBuilder::accept`] lets in. A clone
/// takes from the same queue.
#[derive(Clone)]
pub struct Listener(Arc<Host>);

impl Listener {
    /// The next connection. `None`: the engine was shut down.
    ///
    /// 128 connections wait to be accepted; who comes then is closed with code 0.
    ///
    /// # Cancel safety
    /// No connection is lost by dropping the future.
    pub async fn accept(&self) -> Option<Connection> {
        let incoming = self.0.incoming();
        loop {
            let changed = incoming.listen();
            if let Some(hold) = incoming.take() {
                return Some(Connection::new(hold));
            }
            if incoming.is_over() {
                return None;
            }
            changed.await;
        }
    }

    /// What is listened on, with the ports that the kernel chose.
    pub fn addresses(&self) -> &[SocketAddr] {
        self.0.addresses()
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Listener").field(&self.addresses()).finish()
    }
}

static LOOKUPS: AtomicUsize = AtomicUsize::new(0);

/// One look-up's part of [`LOOKUPS_MAX`].
struct Lookup;

impl Lookup {
    fn begin() -> Option<Lookup> {
        let lookup = Lookup;
        (LOOKUPS.fetch_add(1, Ordering::Relaxed) < LOOKUPS_MAX).then_some(lookup)
    }
}

impl Drop for Lookup {
    fn drop(&mut self) {
        LOOKUPS.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The addresses of `HOST:PORT`.
async fn look_up(name: &str) -> Result<Vec<SocketAddr>, ConnectError> {
    if let Ok(address) = name.parse() {
        return Ok(vec![address]);
    }
    let lookup = Lookup::begin().ok_or(ConnectError::Busy)?;
    let found = Arc::new((std::sync::Mutex::new(None), Event::new()));
    let (tell, host) = (found.clone(), name.to_owned());
    let looked_up = thread::Builder::new()
        .name("landro-lookup".to_owned())
        .spawn(move || {
            let _lookup = lookup;
            let addresses: io::Result<Vec<SocketAddr>> =
                host.to_socket_addrs().map(Iterator::collect);
            if let Ok(mut found) = tell.0.lock() {
                *found = Some(addresses);
            }
            tell.1.notify(usize::MAX);
        });
    let not_found = |why: &dyn fmt::Display| ConnectError::Name {
        name: name.to_owned(),
        why: why.to_string(),
    };
    looked_up.map_err(|error| not_found(&error))?;
    loop {
        let changed = found.1.listen();
        let addresses = found.0.lock().ok().and_then(|mut found| found.take());
        match addresses {
            Some(Ok(addresses)) if addresses.is_empty() => {
                return Err(not_found(&"it has no address"));
            }
            Some(Ok(addresses)) => return Ok(addresses),
            Some(Err(error)) => return Err(not_found(&error)),
            None => changed.await,
        }
    }
}
