//! One session with a daemon, from known_hosts to its end: what `cp` and `ls` have in common.

use std::io::{IsTerminal, Write};
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use crossbeam::channel::RecvTimeoutError;

use crate::budget::DEFAULT_MEMORY_BUDGET_BYTES;
use crate::config::QuicConfig;
use crate::engine::{Client, ClientConfig, ClientEvent, Ended};
use crate::ids::Fingerprint;
use crate::proto::session::Request;
use crate::signals::Signals;

use super::args::{DEFAULT_STREAMS, EngineArgs, TrustArgs};
use super::trust::{self, Known, KnownHosts};
use super::url::Host;
use super::{CliError, diagnostics, escape};

/// How long a signal may go unnoticed while no event comes.
const SIGNAL_CHECK: Duration = Duration::from_millis(50);

/// Whom to dial, and how.
pub struct Dial<'a> {
    pub host: &'a Host,
    pub trust: &'a TrustArgs,
    pub engine: &'a EngineArgs,
    pub streams: u8,
}

impl<'a> Dial<'a> {
    pub fn new(host: &'a Host, trust: &'a TrustArgs, engine: &'a EngineArgs) -> Dial<'a> {
        Dial {
            host,
            trust,
            engine,
            streams: DEFAULT_STREAMS,
        }
    }
}

/// A session that came to an end.
pub struct Done {
    pub ended: Ended,
    /// This host's fingerprint, as the daemon saw it.
    pub own: Fingerprint,
}

/// Which fingerprints the daemon may show in the handshake.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Stance {
    Only(Vec<Fingerprint>),
    /// `--accept-new` and never met: whoever it is, it is remembered.
    AnyAndRemember,
    /// Never met, nothing said: look at the fingerprint, send nothing, ask.
    LookFirst,
}

/// Runs one session. `request` is called once per attempt: after the question whether to trust a
/// daemon there is a second one. `on` gets every event but the last, and None when nothing happened
/// for a while.
///
/// # Errors
/// The session could not begin, or the daemon's identity is not what it should be.
pub fn run(
    dial: &Dial,
    signals: &Signals,
    request: &dyn Fn() -> Request,
    on: &mut dyn FnMut(Option<ClientEvent>),
) -> Result<Done, CliError> {
    let dir = trust::config_dir()?;
    let own = trust::identity(&dir)?.fingerprint();
    let mut known = KnownHosts::load(&dir)?;
    let peer = resolve(dial.host)?;
    let mut stance = stance(dial, &known)?;
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
            memory_budget_bytes: DEFAULT_MEMORY_BUDGET_BYTES,
            identity: trust::identity(&dir)?,
            trust: Arc::new(move |shown| match &trusted {
                Stance::Only(expected) => expected.contains(shown),
                Stance::AnyAndRemember => true,
                Stance::LookFirst => false,
            }),
            streams: usize::from(dial.streams),
        };
        let client = Client::start(config, request())?;
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
                    Stance::LookFirst => ask(dial.host, shown, signals, &mut known)?,
                    _ => return Err(CliError::Identity(wrong_identity(dial, &known, shown))),
                };
            }
            ended => return Ok(Done { ended, own }),
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

fn resolve(host: &Host) -> Result<Vec<SocketAddr>, CliError> {
    let failed = |source| CliError::Resolve {
        host: format!("landro://{host}/"),
        source,
    };
    Ok((host.name.as_str(), host.port)
        .to_socket_addrs()
        .map_err(failed)?
        .collect())
}

fn stance(dial: &Dial, known: &KnownHosts) -> Result<Stance, CliError> {
    match (known.find(dial.host), dial.trust.peer) {
        (Known::As { fingerprints, line }, Some(peer)) if !fingerprints.contains(&peer) => {
            Err(CliError::Identity(format!(
                "landro://{}/: --peer says {peer}, but {} line {line} says {}. Nothing was sent. If its identity \
                 changed and you know why, remove that line",
                dial.host,
                known.path().display(),
                fingerprints[0],
            )))
        }
        (_, Some(peer)) => Ok(Stance::Only(vec![peer])),
        (Known::As { fingerprints, .. }, None) => Ok(Stance::Only(fingerprints)),
        (Known::Never, None) if dial.trust.accept_new => Ok(Stance::AnyAndRemember),
        (Known::Never, None) => Ok(Stance::LookFirst),
    }
}

/// The daemon proved to have a key, but not the one expected.
fn wrong_identity(dial: &Dial, known: &KnownHosts, shown: Fingerprint) -> String {
    let host = dial.host;
    match (known.find(host), dial.trust.peer) {
        (Known::As { fingerprints, line }, None) => format!(
            "THE IDENTITY OF landro://{host}/ HAS CHANGED!\n\
             landro: It was {}\n\
             landro: ({} line {line}); now it is {shown}.\n\
             landro: Either someone else answers in its place, or it was set up anew. Nothing was sent.\n\
             landro: If you know why it changed, remove that line and try again.",
            fingerprints[0],
            known.path().display(),
        ),
        _ => format!("landro://{host}/: shows {shown}, not what --peer demands. Nothing was sent"),
    }
}

/// An unknown daemon: a person at a terminal decides, and elsewhere nobody can.
fn ask(
    host: &Host,
    shown: Fingerprint,
    signals: &Signals,
    known: &mut KnownHosts,
) -> Result<Stance, CliError> {
    if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
        return Err(CliError::Identity(format!(
            "landro://{host}/: never met before, and nobody to ask here; it shows {shown}. Nothing was sent. \
             Compare that with what `landro id` prints over there, then give --peer {shown} (for one run) or \
             --accept-new (remembers it)"
        )));
    }
    signals.quit_at_once(true);
    let answer = question(host, shown);
    signals.quit_at_once(false);
    match answer {
        Answer::Yes => {
            known.add(host, shown)?;
            Ok(Stance::Only(vec![shown]))
        }
        Answer::No => Err(CliError::Identity(format!(
            "landro://{host}/: not trusted. Nothing was sent"
        ))),
    }
}

enum Answer {
    Yes,
    No,
}

fn question(host: &Host, shown: Fingerprint) -> Answer {
    let mut stderr = std::io::stderr();
    let text = format!(
        "landro://{host}/ was never met before. It shows the fingerprint\n    {shown}\n\
         which should be what `landro id` prints over there.\n"
    );
    let mut prompt = format!("{text}Trust it from now on? (yes, no, or the fingerprint) ");
    loop {
        // A prompt that cannot be written will not be answered either.
        let _ = write!(stderr, "{prompt}").and_then(|()| stderr.flush());
        let mut answer = String::new();
        match std::io::stdin().read_line(&mut answer) {
            Ok(0) | Err(_) => return Answer::No,
            Ok(_) => {}
        }
        match answer.trim() {
            "yes" => return Answer::Yes,
            "no" => return Answer::No,
            typed if typed.parse() == Ok(shown) => return Answer::Yes,
            typed if typed.parse::<Fingerprint>().is_ok() => return Answer::No,
            typed => {
                prompt = format!(
                    "{:?} is neither yes nor no nor a fingerprint: ",
                    escape::text(typed)
                )
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::args::{BackendArg, ProfileArg};
    use super::*;

    fn peer(byte: u8) -> Fingerprint {
        Fingerprint([byte; 32])
    }

    fn stance_for(
        known: Option<u8>,
        peer_option: Option<u8>,
        accept_new: bool,
    ) -> Result<Stance, CliError> {
        let root = tempfile::tempdir().unwrap();
        let host = Host {
            name: "h".into(),
            port: 1,
        };
        let mut hosts = KnownHosts::load(root.path()).unwrap();
        if let Some(byte) = known {
            hosts.add(&host, peer(byte)).unwrap();
        }
        let trust = TrustArgs {
            peer: peer_option.map(peer),
            accept_new,
        };
        let engine = EngineArgs {
            backend: BackendArg::Auto,
            profile: ProfileArg::Auto,
        };
        stance(&Dial::new(&host, &trust, &engine), &hosts)
    }

    #[test]
    fn a_known_host_must_show_what_is_known() {
        assert_eq!(
            stance_for(Some(1), None, false).unwrap(),
            Stance::Only(vec![peer(1)])
        );
        assert_eq!(
            stance_for(Some(1), None, true).unwrap(),
            Stance::Only(vec![peer(1)])
        );
        assert_eq!(
            stance_for(Some(1), Some(1), false).unwrap(),
            Stance::Only(vec![peer(1)])
        );
        assert!(matches!(
            stance_for(Some(1), Some(2), true),
            Err(CliError::Identity(_))
        ));
    }

    #[test]
    fn an_unknown_host() {
        assert_eq!(stance_for(None, None, false).unwrap(), Stance::LookFirst);
        assert_eq!(
            stance_for(None, None, true).unwrap(),
            Stance::AnyAndRemember
        );
        assert_eq!(
            stance_for(None, Some(2), true).unwrap(),
            Stance::Only(vec![peer(2)])
        );
    }
}
