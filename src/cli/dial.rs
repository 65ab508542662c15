//! One session with a daemon, from known_hosts to its end: what `cp`, `ls` and `bench` have in
//! common.

use std::sync::Arc;
use std::time::Duration;

use crossbeam::channel::RecvTimeoutError;

use crate::budget::DEFAULT_MEMORY_BUDGET_BYTES;
use crate::config::{LaneCount, QuicConfig};
use crate::engine::{Client, ClientConfig, ClientEvent, Ended};
use crate::ids::Fingerprint;
use crate::proto::session::Request;
use crate::proto::{CancelReason, Outcome, Totals};
use crate::signals::Signals;

use super::args::url::DaemonName;
use super::args::{DEFAULT_STREAMS, EngineArgs, TrustArgs};
use super::diagnostics;
use super::exit::CliError;
use super::resolve;
use super::stance::{self, Stance};
use super::trust::{self, KnownHosts};

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
}

impl<'a> Dial<'a> {
    pub fn new(host: &'a DaemonName, trust: &'a TrustArgs, engine: &'a EngineArgs) -> Dial<'a> {
        Dial {
            host,
            trust,
            engine,
            streams: DEFAULT_STREAMS,
            lanes: LaneCount::Auto,
            workers: 1,
        }
    }
}

/// A session that came to an end.
pub struct Followed {
    pub ended: Ended,
    /// This host's fingerprint, as the daemon saw it.
    pub own: Fingerprint,
}

/// Runs one session. After the question whether to trust a daemon there is a second attempt. `on`
/// gets every event but the last, and None when nothing happened for a while.
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
    let Some(peer) = resolve::resolve(dial.host, signals, SIGNAL_CHECK)? else {
        let ended = Ended::Outcome(Outcome::Cancelled {
            reason: CancelReason::User,
            totals: Totals::default(),
        });
        return Ok(Followed { ended, own });
    };
    let mut stance = stance::before(dial.host, dial.trust, &known)?;
    let quic = QuicConfig {
        diagnostics: diagnostics::of_environment(),
        ..dial.engine.quic()
    };
    loop {
        let trusted = stance.clone();
        let config = ClientConfig {
            peer: peer.clone(),
            backend: dial.engine.backend(),
            quic: quic.clone(),
            patience: dial.engine.patience(),
            memory_budget_bytes: DEFAULT_MEMORY_BUDGET_BYTES,
            identity: trust::identity(&dir)?,
            trust: Arc::new(move |shown| trusted.trusts(shown)),
            streams: usize::from(dial.streams),
            lane_kinds: dial.engine.lane_kinds,
            lanes: dial.lanes,
            workers: dial.workers,
            tcp_congestion: dial.engine.tcp_congestion.clone(),
            ktls: dial.engine.ktls(),
        };
        let client = Client::start(config, request.clone())?;
        let mut remembered = Ok(());
        let ended = pump(&client, signals, &mut |event| {
            if let (Stance::AnyAndRemember, Some(ClientEvent::Connected { fingerprint, .. })) =
                (&stance, &event)
            {
                remembered = known.add(dial.host, *fingerprint);
            }
            on(event);
        });
        client.join().map_err(CliError::Worker)?;
        if let Err(error) = remembered {
            // The transfer is not worth less for it.
            tracing::warn!("{} is not remembered: {error}", dial.host);
        }
        match ended {
            Ended::IdentityUnknown(shown) if signals.asked().is_none() => {
                stance = match stance {
                    Stance::LookFirst => stance::ask(dial.host, shown, signals, &mut known)?,
                    Stance::Only(_) | Stance::AnyAndRemember => {
                        return Err(stance::refuse(dial.host, dial.trust, &known, shown));
                    }
                };
            }
            ended => return Ok(Followed { ended, own }),
        }
    }
}

/// Follows a client to its end.
pub fn pump(client: &Client, signals: &Signals, on: &mut dyn FnMut(Option<ClientEvent>)) -> Ended {
    let mut cancelled = false;
    loop {
        if !cancelled && signals.asked().is_some() {
            cancelled = true;
            client.cancel();
        }
        match client.events().recv_timeout(SIGNAL_CHECK) {
            Ok(ClientEvent::Ended(ended)) => return ended,
            Ok(event) => on(Some(event)),
            Err(RecvTimeoutError::Timeout) => on(None),
            Err(RecvTimeoutError::Disconnected) => {
                return Ended::Failed(
                    "the worker ended without a result; this is a bug in landro".into(),
                );
            }
        }
    }
}
