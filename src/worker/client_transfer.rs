//! A command's one transfer: whom it dials, how far it is, how it ends.

use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use crossbeam::channel::Sender;
use landro_sys::UdpOptions;

use crate::config::{LaneCount, LaneKind, LaneKinds};
use crate::ids::Fingerprint;
use crate::proto::lanes::code;
use crate::proto::session::Request;
use crate::proto::{CancelReason, Outcome, SessionError, SessionErrorCode, Totals};
use crate::quic::{CloseReason, Setup};
use crate::worker::client_events::{ClientEvent, ClientStart, Ended, TcpSetups};
use crate::worker::paths::{Path, Paths};
use crate::worker::race::{Race, RaceStep};
use crate::worker::stats::TransportStats;

/// What QUIC has after TLS was refused: an answer on the longest paths takes less.
const QUIC_GRACE: Duration = Duration::from_secs(1);

/// How long a command that is over waits for what its lanes on other workers carried, which takes a
/// turn of their loops. It is for statistics alone.
const CARRIED_WITHIN: Duration = Duration::from_secs(1);

pub(crate) struct ClientTransfer {
    state: ClientState,
    race: Race,
    pub(crate) paths: Paths,
    pub(crate) kinds: LaneKinds,
    pub(crate) lanes: LaneCount,
    pub(crate) clear: bool,
    pub(crate) setup: Setup,
    pub(crate) tcp: TcpSetups,
    trust_refused: Arc<Mutex<Option<Fingerprint>>>,
    pub(crate) met: Arc<OnceLock<Fingerprint>>,
    /// TLS met somebody it does not trust, or who does not trust us; and until when QUIC may still
    /// meet another.
    refused_over_tls: Option<(Instant, Ended)>,
    pub(crate) streams: usize,
    pub(crate) socket_options: UdpOptions,
    events: Sender<ClientEvent>,
    pub(crate) backend_reason: String,
    /// To resume the newest lane's TLS session.
    pub(crate) ticket: Option<Vec<u8>>,
    pub(crate) elsewhere: TakeoverDial,
    /// Other workers that have yet to count what their lanes carried, and until when that is waited
    /// for.
    carried_due: usize,
    carried_until: Option<Instant>,
}

/// Where a lane is dialled that takes over from one that is silent, or cut.
#[derive(Default)]
pub(crate) struct TakeoverDial {
    /// Of which kind the next one is, if it is not the one that the silent lane is not.
    pub(crate) kind: Option<LaneKind>,
    /// The sockets of those over QUIC.
    pub(crate) listeners: Vec<(Path, usize)>,
    /// Which of the daemon's workers has the session, as far as QUIC told; else all are tried in
    /// turn.
    pub(crate) steer: u8,
}

/// How far the transfer is.
enum ClientState {
    /// Addresses are dialled; whoever answers first is asked for this. Next: Running, Over.
    Dialling(Request),
    /// The session goes on; the reason is that of the first connection that ended as it should not.
    /// Next: Stopping, Over.
    Running(Option<Ended>),
    /// As Running, but the user asked to stop. Next: Over.
    Stopping(Option<Ended>),
    Over(Ended),
}

impl ClientTransfer {
    pub(crate) fn new(start: ClientStart, now: Instant) -> ClientTransfer {
        let paths = Paths::new(start.binds);
        ClientTransfer {
            state: ClientState::Dialling(start.request),
            race: Race::new(&paths.to_all(&start.peers), start.kinds, now),
            paths,
            kinds: start.kinds,
            lanes: start.lanes,
            clear: start.clear,
            setup: start.setup,
            tcp: start.tcp,
            trust_refused: start.trust_refused,
            met: start.met,
            refused_over_tls: None,
            streams: start.streams,
            socket_options: start.socket_options,
            events: start.events,
            backend_reason: start.backend_reason,
            ticket: None,
            elsewhere: TakeoverDial::default(),
            carried_due: 0,
            carried_until: None,
        }
    }

    /// A reader that went away is no reason to stop: the transfer ends by itself or by `Cancel`.
    pub(crate) fn tell(&self, event: ClientEvent) {
        let _ = self.events.send(event);
    }

    /// When the next address is dialled, if nothing happens before.
    pub(crate) fn dial_at(&self) -> Option<Instant> {
        match self.state {
            ClientState::Dialling(_) => {
                let refused = self.refused_over_tls.as_ref().map(|(until, _)| *until);
                self.race.due().into_iter().chain(refused).min()
            }
            ClientState::Running(_) | ClientState::Stopping(_) | ClientState::Over(_) => None,
        }
    }

    /// What to do about the peer's addresses. Where none is left, the transfer is over.
    pub(crate) fn next_address(&mut self, now: Instant) -> RaceStep {
        match self.state {
            ClientState::Dialling(_) => {}
            ClientState::Running(_) | ClientState::Stopping(_) | ClientState::Over(_) => {
                return RaceStep::Wait;
            }
        }
        let mut step = self.race.step(now);
        let is_due = |(until, _): &(Instant, Ended)| *until <= now;
        if step == RaceStep::Wait && self.refused_over_tls.as_ref().is_some_and(is_due) {
            step = RaceStep::Failed(String::new());
        }
        if let RaceStep::Failed(why) = &step {
            let unreachable = || Ended::Unreachable {
                kinds: self.kinds,
                why: why.clone(),
            };
            let refused = self.refused_over_tls.take().map(|(_, ended)| ended);
            self.state = ClientState::Over(refused.unwrap_or_else(unreachable));
        }
        step
    }

    /// An address could not be dialled.
    pub(crate) fn not_dialled(&mut self, now: Instant, at: (LaneKind, Path), why: String) {
        self.race.failed(now, at, why, false);
    }

    /// ICMP says that nobody takes UDP there.
    pub(crate) fn udp_refused(&mut self, now: Instant) {
        self.race.udp_refused(now);
    }

    /// Why the session begins on this kind of lane.
    pub(crate) fn why(&self, kind: LaneKind) -> &'static str {
        self.race.why(kind)
    }

    /// Somebody answered: the session begins. None: nothing is to be asked any more.
    pub(crate) fn begin(&mut self) -> Option<Request> {
        match self.take_state() {
            ClientState::Dialling(request) => Some(request),
            other @ (ClientState::Running(_) | ClientState::Stopping(_) | ClientState::Over(_)) => {
                self.state = other;
                None
            }
        }
    }

    /// The user asked to stop. True: there is no session, so that it is over at once.
    pub(crate) fn stop(&mut self) -> bool {
        let cancelled = Ended::Outcome(Outcome::Cancelled {
            reason: CancelReason::User,
            totals: Totals::default(),
        });
        let (state, at_once) = match self.take_state() {
            ClientState::Dialling(_) => (ClientState::Over(cancelled), true),
            ClientState::Running(why) | ClientState::Stopping(why) => {
                (ClientState::Stopping(why), false)
            }
            ClientState::Over(ended) => (ClientState::Over(ended), true),
        };
        self.state = state;
        at_once
    }

    /// A connection of the running session is closing for this reason; the first one counts.
    pub(crate) fn note(&mut self, closed: Option<CloseReason>) {
        let ended = self.how_it_ended(closed);
        if let ClientState::Running(why) | ClientState::Stopping(why) = &mut self.state
            && why.is_none()
        {
            *why = ended;
        }
    }

    /// The session outlived what was noted.
    pub(crate) fn goes_on(&mut self) {
        if let ClientState::Running(why) | ClientState::Stopping(why) = &mut self.state {
            *why = None;
        }
    }

    /// A connection that was dialled is gone before the session began. `shown`: the key that the
    /// peer showed.
    pub(crate) fn not_answered(
        &mut self,
        now: Instant,
        at: (LaneKind, Path),
        closed: Option<CloseReason>,
        shown: Option<Fingerprint>,
    ) {
        if !matches!(self.state, ClientState::Dialling(_)) {
            return;
        }
        let is_refused = matches!(closed, Some(CloseReason::GivenUp(_)));
        let ended = match (at.0, &closed, shown) {
            (
                LaneKind::Tls,
                Some(CloseReason::IdentityRefused { by_peer: false, .. }),
                Some(shown),
            ) => Some(Ended::IdentityUnknown(shown)),
            _ => self.how_it_ended(closed),
        };
        let why = match ended {
            Some(
                ended @ (Ended::IdentityUnknown(_) | Ended::RefusedByPeer(_) | Ended::Failed(_)),
            ) => {
                if at.0 == LaneKind::Quic || !self.race.hopes_for_quic() {
                    self.state = ClientState::Over(ended);
                    return;
                }
                // Somebody else's TCP port may be in the way of a daemon that answers yet.
                self.refused_over_tls
                    .get_or_insert((now + QUIC_GRACE, ended));
                "because it was refused".to_owned()
            }
            Some(Ended::Lost(text)) => format!("because {text}"),
            Some(Ended::Unreachable { why, .. }) => why,
            Some(Ended::Outcome(_)) | None => "because it closed the connection".to_owned(),
        };
        self.race.failed(now, at, why, is_refused);
    }

    /// The session is over, and all its files are closed.
    pub(crate) fn session_ended(&mut self, outcome: Option<Outcome>) {
        let (why, asked_to_stop) = match self.take_state() {
            ClientState::Running(why) => (why, false),
            ClientState::Stopping(why) => (why, true),
            ClientState::Over(ended) => (Some(ended), false),
            ClientState::Dialling(_) => (None, false),
        };
        let ended = match (outcome, why) {
            (
                Some(
                    outcome @ (Outcome::Complete(_)
                    | Outcome::Stopped { .. }
                    | Outcome::Stalled { .. }),
                ),
                _,
            ) => Ended::Outcome(outcome),
            (Some(outcome @ Outcome::Cancelled { .. }), _) if asked_to_stop => {
                Ended::Outcome(outcome)
            }
            (_, Some(ended)) => ended,
            (Some(Outcome::Cancelled { .. }), None) => {
                Ended::Lost("the peer stopped the transfer".to_owned())
            }
            (Some(Outcome::Lost(_)) | None, None) => Ended::Lost("the connection ended".to_owned()),
            (Some(outcome), None) => Ended::Outcome(outcome),
        };
        self.state = ClientState::Over(ended);
    }

    pub(crate) fn is_over(&self, now: Instant) -> bool {
        match self.state {
            ClientState::Over(_) => {
                self.carried_due == 0 || self.carried_until.is_none_or(|until| until <= now)
            }
            ClientState::Dialling(_) | ClientState::Running(_) | ClientState::Stopping(_) => false,
        }
    }

    /// Another worker was told that the session is over, and answers once it has counted what its
    /// lanes carried.
    pub(crate) fn await_carried(&mut self, now: Instant) {
        self.carried_due += 1;
        self.carried_until = Some(now + CARRIED_WITHIN);
    }

    /// When a command that is over ends without what another worker has not told.
    pub(crate) fn carried_until(&self, now: Instant) -> Option<Instant> {
        let until = self.carried_until.filter(|_| self.carried_due > 0);
        // Later it is no reason to look, should the session not be over.
        until.filter(|until| *until > now)
    }

    pub(crate) fn counted(&mut self) {
        self.carried_due = self.carried_due.saturating_sub(1);
    }

    /// Tells the command how it ended, once it is over, and what all its sessions did.
    pub(crate) fn say_the_end(mut self, stats: TransportStats) {
        if let ClientState::Over(ended) = self.take_state() {
            self.tell(ClientEvent::Stats(Box::new(stats)));
            self.tell(ClientEvent::Ended(ended));
        }
    }

    /// The state, to be followed by another.
    fn take_state(&mut self) -> ClientState {
        std::mem::replace(&mut self.state, ClientState::Running(None))
    }

    /// What a closed connection means to a command; None: it was closed as it should be.
    fn how_it_ended(&self, closed: Option<CloseReason>) -> Option<Ended> {
        let refused = self.trust_refused.lock().ok();
        let has_met = self.met.get().is_some();
        if let Some(refused) = refused.and_then(|refused| *refused)
            && !has_met
        {
            return Some(Ended::IdentityUnknown(refused));
        }
        Some(match closed? {
            // Somebody else answered where a lane was dialled.
            CloseReason::IdentityRefused { by_peer: false, .. } if has_met => return None,
            refused @ CloseReason::IdentityRefused { .. } => {
                Ended::RefusedByPeer(refused.to_string())
            }
            CloseReason::PeerApp {
                code: code::UNAUTHORISED,
                reason,
            } => Ended::RefusedByPeer(reason),
            // Whom it knows it may tell more than a stranger.
            CloseReason::PeerApp {
                code: code::UNAVAILABLE,
                reason,
            } => {
                let error = SessionError::told(SessionErrorCode::NotFound, reason);
                Ended::Outcome(Outcome::Refused(error))
            }
            CloseReason::PeerApp {
                code: code::SHUTDOWN,
                ..
            } => Ended::Outcome(Outcome::Stopped {
                reason: CancelReason::Ending,
                totals: Totals::default(),
            }),
            CloseReason::PeerApp {
                code: code::VIOLATION,
                reason,
            } => Ended::Failed(format!("the peer reports a protocol violation: {reason}")),
            CloseReason::Local {
                code: code::TOO_MUCH,
                reason,
            } => Ended::Failed(format!("the connection was closed: {reason}")),
            CloseReason::PeerApp {
                code: code::DONE | code::REPLACED,
                ..
            }
            | CloseReason::Local { .. } => return None,
            CloseReason::PeerApp { reason, .. } => {
                Ended::Lost(format!("the daemon closed the connection: {reason}"))
            }
            CloseReason::HandshakeTimeout => {
                let why = format!("in {} s", self.setup.handshake_timeout().as_secs());
                let kinds = self.kinds;
                Ended::Unreachable { kinds, why }
            }
            CloseReason::IdleTimeout => {
                Ended::Lost("nothing was heard of it for the idle timeout".to_owned())
            }
            CloseReason::StatelessReset => Ended::Lost(
                "the daemon was restarted, or ended without a word, and knows nothing of this \
                 transfer any more"
                    .to_owned(),
            ),
            CloseReason::GivenUp(why) => Ended::Lost(why),
            other => Ended::Lost(other.to_string()),
        })
    }
}
