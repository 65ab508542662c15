//! The workers of a program, and how connections begin.

use std::fmt;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::connection::Connection;
use super::errors::{ConnectError, StartError};
use super::lookup::Lookup;
use super::remote_files::{ListedEntry, RemoteFiles};
use super::transfer::{RunningTransfer, TransferError};
use crate::budget::DEFAULT_MEMORY_BUDGET_BYTES;
use crate::config::QuicConfig;
use crate::engine::{BackendChoice, Embedded, EmbeddedConfig, ServedDirectory};
use crate::ids::Fingerprint;
use crate::proto::session::{Grant, Transfer};
use crate::quic::{EARLY_BYTES_MAX, EARLY_STREAMS_MAX, Identity, Trust};
use crate::worker::{Answer, Authorize, ConnectFailure, PeerAccess, Ticket};

/// What a program speaks that does not say.
const DEFAULT_PROTOCOL: &[u8] = b"landro-streams/1";

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

/// What an engine is to be. Made by [`Engine::builder`].
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
    served: Option<ServedDirectory>,
    accepts_early: bool,
}

impl EngineBuilder {
    /// Values of the transport. Default: [`QuicConfig::auto`].
    pub fn quic(mut self, quic: QuicConfig) -> EngineBuilder {
        self.quic = quic;
        self
    }

    /// Threads that carry connections, 1 to 255, each with a ring and sockets of its own; one is
    /// the default. A connection stays on one of them for life. What [`EngineBuilder::serve`] is
    /// given has as many threads of its own, and so has each transfer.
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
    /// Each transfer has as much for itself, and so has what [`EngineBuilder::serve`] is given.
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
    /// such). The time on the ticket bounds that to about a minute after the recording, for TLS
    /// takes no early data of one that is more than 60 s off. So nothing early may change
    /// anything. Recordings may take all 128 places of those that wait to be accepted. The peer is
    /// asked for trust before any of it is read; a connection whose handshake does not come to an
    /// end is over after [`QuicConfig`]'s handshake timeout.
    ///
    /// [`RecvStream::is_early`]: super::RecvStream::is_early
    pub fn accept_early(mut self, accepts: bool) -> EngineBuilder {
        self.accepts_early = accepts;
        self
    }

    /// The name of a protocol of the program (ALPN, RFC 7301), of 1 to 255 bytes; may be called
    /// again for others, in the order of preference. `landro/1` is the engine's own and is refused.
    /// Default: `landro-streams/1`, for programs whose peers are of one kind.
    pub fn protocol(mut self, name: impl Into<Vec<u8>>) -> EngineBuilder {
        self.protocols.push(name.into());
        self
    }

    /// Serves a directory, and what is below it, to `landro cp` and to [`Engine::transfer`], at the
    /// addresses that are listened at, over QUIC and over TLS on TCP. `access` says what a peer may
    /// do; `None`: nothing. It runs on a worker and may not block. It decides about transfers
    /// alone, and [`EngineBuilder::accept`] about the program's own protocols.
    pub fn serve(
        mut self,
        root: impl Into<PathBuf>,
        access: impl Fn(&Fingerprint) -> Option<Grant> + Send + Sync + 'static,
    ) -> EngineBuilder {
        let authorize: Authorize = Arc::new(move |peer| {
            access(peer).map(|access| PeerAccess {
                access,
                path: None,
                clear: false,
            })
        });
        self.served = Some(ServedDirectory {
            root: root.into(),
            authorize,
        });
        self
    }

    /// Binds, and starts the workers.
    ///
    /// # Errors
    /// A protocol has no name that can be used; an address cannot be had; a worker cannot be
    /// started; with [`EngineBuilder::accept_early`], windows below 16 KiB or fewer than 8 streams.
    pub fn start(self) -> Result<Engine, StartError> {
        let is_name = |name: &Vec<u8>| {
            (1..=255).contains(&name.len()) && name.as_slice() != crate::quic::TRANSFER_PROTOCOL
        };
        if !self.protocols.iter().all(is_name) {
            return Err(StartError::Protocol);
        }
        let protocols = match self.protocols.is_empty() {
            true => vec![DEFAULT_PROTOCOL.to_vec()],
            false => self.protocols,
        };
        if self.accepts_early {
            let bytes = EARLY_BYTES_MAX as u64;
            self.quic.checked_for_early(bytes, EARLY_STREAMS_MAX)?;
        }
        let identity = match self.identity {
            Some(identity) => identity,
            None => Identity::generate().map_err(StartError::Identity)?,
        };
        let embedded = Embedded::start(EmbeddedConfig {
            workers: self.workers,
            backend: self.backend,
            quic: self.quic,
            memory_budget_bytes: self.memory_budget_bytes,
            identity,
            listen: self.listen,
            trust: self.trust.into_trust(),
            protocols,
            accepts_early: self.accepts_early,
            served: self.served,
        })?;
        Ok(Engine(Arc::new(embedded)))
    }
}

/// Workers that carry connections. A clone is another handle to the same ones; they end when the
/// last is dropped, or at [`Engine::shut_down`], and with them all connections. Such
/// handles are a [`Listener`] and a [`RunningTransfer`], too.
///
/// ```no_run
/// # use landro::{Engine, PeerTrust};
/// # use landro::Fingerprint;
/// # async fn example(fingerprint: Fingerprint) -> Result<(), Box<dyn std::error::Error>> {
/// let engine = Engine::builder().protocol("example/1").workers(2).start()?;
/// let connection = engine
///     .connect("host:4433", PeerTrust::Pinned(fingerprint))
///     .await?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Engine(Arc<Embedded>);

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
            served: None,
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
        let addresses = Lookup::begin(&name)?.addresses().await?;
        self.dial(name, addresses, trust.into_trust(), None).await
    }

    /// As [`Engine::connect`], for requests whose repetition changes nothing: where this engine was
    /// connected to the same `to` within the last hour and that peer gave it a ticket, the
    /// connection is there at once, at the address that answered then, and what is sent in it
    /// travels before the handshake is complete (0-RTT, RFC 9001 §4.6): at most 16 KiB in 16 pieces
    /// and 8 streams. More streams and all datagrams wait until it is. Whoever records what travels
    /// early can have the peer's program read it again.
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
        let ticket = self.0.host().take_ticket(to, &trust);
        let addresses = match &ticket {
            Some(ticket) => vec![ticket.address],
            None => Lookup::begin(&name)?.addresses().await?,
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
            .host()
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

    /// Copies files to a daemon, or from it. Begins at once, on workers of its own, and goes on
    /// where the same transfer, of the same user with the same identity
    /// ([`EngineBuilder::identity`]), was cut short; a connection that is lost is made again, for
    /// 15 minutes as long as nothing comes of it. `trust`: of the daemon at `to`, a `HOST:PORT`.
    ///
    /// What the daemon takes or gives, its own configuration says; here files are read and written
    /// with the rights of this process. An error is a result of the [`RunningTransfer`]. A transfer
    /// may hold some 200 descriptors: a program with several raises its limit of open files
    /// (`RLIMIT_NOFILE`), which the engine leaves as it is. What is copied into a pipe waits in
    /// `/tmp` until it is whole.
    ///
    /// ```no_run
    /// # use landro::{Direction, Engine, PeerTrust, Transfer, TransferOptions};
    /// # async fn example(trust: PeerTrust) -> Result<(), Box<dyn std::error::Error>> {
    /// let engine = Engine::builder().start()?;
    /// let transfer = Transfer {
    ///     direction: Direction::Push,
    ///     sources: vec!["/srv/photos".into()],
    ///     target: "backup".into(),
    ///     options: TransferOptions::default(),
    /// };
    /// let summary = engine.transfer("host:4433", trust, transfer).result().await?;
    /// println!("{} files", summary.files);
    /// # Ok(()) }
    /// ```
    pub fn transfer(&self, to: &str, trust: PeerTrust, transfer: Transfer) -> RunningTransfer {
        RunningTransfer::start(&self.0, to, trust.into_trust(), transfer)
    }

    /// The files of the daemon at `to`, a `HOST:PORT`, to be listed and read over one session;
    /// `trust` says whose key is accepted there. Nothing is asked of it yet.
    ///
    /// A session has as much memory for its transport as [`EngineBuilder::memory_budget`] says.
    pub fn remote_files(&self, to: &str, trust: PeerTrust) -> RemoteFiles {
        RemoteFiles::new(&self.0, to, trust.into_trust())
    }

    /// [`RemoteFiles::list`], with a session of its own: a handshake for one question.
    ///
    /// # Errors
    /// As of [`RemoteFiles::list`].
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing over there.
    pub async fn list(
        &self,
        to: &str,
        trust: PeerTrust,
        path: impl AsRef<Path>,
    ) -> Result<Vec<ListedEntry>, TransferError> {
        self.remote_files(to, trust).list(path).await
    }

    /// The bytes of [`RemoteFiles::read_range`], with a session of its own: a handshake for one
    /// question.
    ///
    /// # Errors
    /// As of [`RemoteFiles::read_range`].
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing over there.
    ///
    /// ```no_run
    /// # use landro::{Engine, PeerTrust};
    /// # async fn example(trust: PeerTrust) -> Result<(), Box<dyn std::error::Error>> {
    /// let engine = Engine::builder().start()?;
    /// let header = engine.read_range("host:4433", trust, "images/disk.img", 0..512).await?;
    /// # Ok(()) }
    /// ```
    pub async fn read_range(
        &self,
        to: &str,
        trust: PeerTrust,
        path: impl AsRef<Path>,
        range: Range<u64>,
    ) -> Result<Bytes, TransferError> {
        let files = self.remote_files(to, trust);
        files.read_range(path, range).await.map(|found| found.bytes)
    }

    /// Has what [`EngineBuilder::serve`] was given asked again about everybody who is in: who may
    /// not any more is sent away. Blocks while a worker is that busy, for a second at most.
    pub fn reauthorise(&self) {
        self.0.reauthorise();
    }

    /// What accepts at the addresses that the builder was given.
    pub fn listener(&self) -> Listener {
        Listener(self.0.clone())
    }

    /// Our key, as peers name it.
    pub fn fingerprint(&self) -> Fingerprint {
        self.0.host().identity().fingerprint()
    }

    /// What the workers run on, `io_uring` or `poll`, and why.
    pub fn backend(&self) -> (String, String) {
        let (backend, why) = self.0.host().backend();
        (backend.to_string(), why.to_owned())
    }

    /// Closes all connections with code 0, cancels transfers, and waits for the workers to end,
    /// eight seconds at most. Blocks. Bytes that the peer has not acknowledged may be lost:
    /// [`SendStream::delivered`] waits for them.
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
pub struct Listener(Arc<Embedded>);

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

impl fmt::Debug for EngineBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EngineBuilder")
            .field("listen", &self.listen)
            .finish_non_exhaustive()
    }
}
