//! One session with a daemon, from known_hosts to its end: what `cp`, `ls` and `bench` have in
//! common.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use landro_sys::Bind;

use crate::budget::DEFAULT_MEMORY_BUDGET_BYTES;
use crate::config::LaneCount;
use crate::engine::{
    Client, ClientConfig, ClientEvent, DEFAULT_STREAMS, Ended, Identity, Persistence,
};
use crate::ids::Fingerprint;
use crate::proto::session::Request;
use crate::proto::{CancelReason, Outcome, Totals};
use crate::signals::Signals;

use super::args::url::DaemonName;
use super::args::{BindArgs, EngineArgs, TrustArgs};
use super::diagnostics;
use super::exit::CliError;
use super::resolve;
use super::stance::{self, Stance};
use super::trust::{self, Known, KnownHosts};

/// How long a signal may go unnoticed while no event comes.
const SIGNAL_CHECK: Duration = Duration::from_millis(50);

/// Whom to dial, and how.
pub struct Dial<'a> {
    pub host: &'a DaemonName,
    pub trust: &'a TrustArgs,
    pub engine: &'a EngineArgs,
    pub streams: u8,
    pub lanes: LaneCount,
    pub workers: usize,
    pub binds: &'a [Bind],
    pub persistence: Persistence,
    pub clear: bool,
}

impl<'a> Dial<'a> {
    pub fn new(
        host: &'a DaemonName,
        trust: &'a TrustArgs,
        from: &'a BindArgs,
        engine: &'a EngineArgs,
    ) -> Dial<'a> {
        Dial {
            host,
            trust,
            engine,
            streams: DEFAULT_STREAMS,
            lanes: LaneCount::Auto,
            workers: 1,
            binds: &from.bind,
            clear: false,
            persistence: Persistence::NONE,
        }
    }

    /// All but whom it is with.
    fn config(&self, identity: Identity) -> ClientConfig {
        ClientConfig {
            peer: Vec::new(),
            binds: self.binds.to_vec(),
            backend: self.engine.backend(),
            quic: self.engine.quic(),
            patience: self.engine.patience(),
            memory_budget_bytes: DEFAULT_MEMORY_BUDGET_BYTES,
            identity,
            trust: Arc::new(|_| false),
            streams: usize::from(self.streams),
            lane_kinds: self.engine.lane_kinds,
            lanes: self.lanes,
            workers: self.workers,
            clear: self.clear,
            tcp_congestion: self.engine.tcp_congestion.clone(),
            ktls: self.engine.ktls(),
            persistence: self.persistence,
        }
    }
}

/// A request that came to an end.
pub struct Followed {
    pub ended: Ended,
    /// This host's fingerprint, as the daemon saw it.
    pub own: Fingerprint,
}

/// Follows one request to its end. After the question whether to trust a daemon there is a second
/// attempt. `on` gets every event but the last, and None when nothing happened for a while.
///
/// # Errors
/// The session could not begin, or the daemon's identity is not what it should be.
pub fn run(
    dial: &Dial,
    signals: &Signals,
    request: &Request,
    on: &mut dyn FnMut(Option<ClientEvent>),
) -> Result<Followed, CliError> {
    let dir = trust::config_dir()?;
    let own = trust::identity(&dir)?.fingerprint();
    let mut known = KnownHosts::load(&dir)?;
    let mut addresses = PeerAddresses::new(dial.host, signals);
    let mut peer = match addresses.look_up() {
        Ok(Some(peer)) => peer,
        Ok(None) => {
            let (reason, totals) = (CancelReason::User, Totals::default());
            let ended = Ended::Outcome(Outcome::Cancelled { reason, totals });
            return Ok(Followed { ended, own });
        }
        // A name server may be there later, as a daemon may.
        Err(error) if dial.persistence.from_the_start => {
            addresses.failed = Some(error);
            Vec::new()
        }
        Err(error) => return Err(error),
    };
    let mut stance = stance::before(dial.host, dial.trust, &known)?;
    let quic = dial.engine.quic();
    let quic = quic.diagnostics(diagnostics::of_environment());
    loop {
        let trusted = stance.clone();
        let config = ClientConfig {
            peer: peer.clone(),
            quic: quic.clone(),
            trust: Arc::new(move |shown| trusted.trusts(shown)),
            ..dial.config(trust::identity(&dir)?)
        };
        let mut client = Client::start(config, request.clone())?;
        let again = &mut || addresses.anew().inspect(|found| peer.clone_from(found));
        let ended = pump(&mut client, signals, again, &mut |event| {
            if let (Stance::AnyAndRemember, Some(ClientEvent::Connected { fingerprint, .. })) =
                (&stance, &event)
            {
                remember(&mut known, dial.host, *fingerprint);
            }
            on(event);
        });
        client.join().map_err(CliError::Worker)?;
        match ended {
            Ended::IdentityUnknown(shown) if signals.asked().is_none() => {
                stance = match stance {
                    Stance::LookFirst => stance::ask(dial.host, shown, signals, &mut known)?,
                    Stance::Only(_) | Stance::AnyAndRemember => {
                        return Err(stance::refuse(dial.host, dial.trust, &known, shown));
                    }
                };
            }
            ended @ Ended::Unreachable { .. } => {
                // Without an address nobody was dialled.
                let failed = addresses.failed.map_or(Ok(()), Err);
                return failed.map(|()| Followed { ended, own });
            }
            ended => return Ok(Followed { ended, own }),
        }
    }
}

/// Once, however many sessions it takes. The transfer is not worth less where that fails.
fn remember(known: &mut KnownHosts, host: &DaemonName, fingerprint: Fingerprint) {
    if matches!(known.find(host), Known::Never)
        && let Err(error) = known.add(host, fingerprint)
    {
        tracing::warn!("{host} is not remembered: {error}");
    }
}

/// The addresses of a daemon, looked up before each session.
struct PeerAddresses<'a> {
    host: &'a DaemonName,
    signals: &'a Signals,
    /// Why none is known yet.
    failed: Option<CliError>,
}

impl<'a> PeerAddresses<'a> {
    fn new(host: &'a DaemonName, signals: &'a Signals) -> PeerAddresses<'a> {
        PeerAddresses {
            host,
            signals,
            failed: None,
        }
    }

    /// None: the user asked to stop.
    fn look_up(&self) -> Result<Option<Vec<SocketAddr>>, CliError> {
        resolve::resolve(self.host, self.signals, SIGNAL_CHECK)
    }

    /// For a session that is begun anew. None: those that are known will do, for without a network
    /// no name server is there either.
    fn anew(&mut self) -> Option<Vec<SocketAddr>> {
        match self.look_up() {
            Ok(found) => {
                self.failed.take_if(|_| found.is_some());
                found
            }
            Err(error) => {
                tracing::debug!("{error}");
                None
            }
        }
    }
}

/// Follows a client to its end. `again`: addresses for a session that is begun anew, if there are
/// others.
pub fn pump(
    client: &mut Client,
    signals: &Signals,
    again: &mut dyn FnMut() -> Option<Vec<SocketAddr>>,
    on: &mut dyn FnMut(Option<ClientEvent>),
) -> Ended {
    let mut cancelled = false;
    loop {
        if !cancelled && signals.asked().is_some() {
            cancelled = true;
            client.cancel();
        }
        let event = client.next(SIGNAL_CHECK);
        let is_lost = matches!(event, Some(ClientEvent::Lost { .. }));
        match event {
            Some(ClientEvent::Ended(ended)) => return ended,
            event => on(event),
        }
        if is_lost && let Some(peer) = again() {
            client.redirect(peer);
        }
    }
}
