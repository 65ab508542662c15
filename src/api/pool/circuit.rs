//! When a peer may be dialled: pauses that grow with its failures, and a circuit that opens after
//! some of them.
//!
//! ```text
//!            failure_threshold failures, or a lasting one
//!   Closed ────────────────────────────────────────────────▶ Open
//!      ▲                                                    │  ▲
//!      │ connected              the pause is over, a dial   ▼  │ failed
//!      └───────────────────────────────────────────────── HalfOpen
//! ```

use std::time::{Duration, Instant};

use super::config::ConnectionPoolConfig;
use super::errors::PeerFailure;

/// A connection that lasts for so long is a success. What ends sooner is a failure: who completes
/// a handshake and closes then would be dialled without a pause for ever.
pub(super) const PROVEN_AFTER: Duration = Duration::from_secs(1);

/// What a peer's dials led to.
#[derive(Debug)]
pub(super) struct Circuit {
    /// In a row.
    failures: u32,
    /// Since when there is a connection that may prove to last.
    connected_at: Option<Instant>,
    /// When it failed last.
    failed_at: Option<Instant>,
    state: CircuitState,
}

#[derive(Debug)]
enum CircuitState {
    /// Dials are made as needed; behind a failure not before that. Next: Open.
    Closed { not_before: Option<Instant> },
    /// Nobody is dialled before `next_try`. Next: HalfOpen.
    Open { trouble: Trouble, next_try: Instant },
    /// One dial was let through. Next: either other.
    HalfOpen { trouble: Trouble },
}

/// Why a circuit is not closed.
#[derive(Clone, Debug)]
struct Trouble {
    since: Instant,
    why: PeerFailure,
}

/// What callers are told while nobody is dialled.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) open_for: Duration,
    pub(super) failures: u32,
    pub(super) why: PeerFailure,
    pub(super) next_try_in: Duration,
}

impl Circuit {
    pub(super) fn new() -> Circuit {
        Circuit {
            failures: 0,
            connected_at: None,
            failed_at: None,
            state: CircuitState::Closed { not_before: None },
        }
    }

    /// When the next dial may begin; `None`: at any time, or the one that may is under way.
    pub(super) fn not_before(&self) -> Option<Instant> {
        match &self.state {
            CircuitState::Closed { not_before } => *not_before,
            CircuitState::Open { next_try, .. } => Some(*next_try),
            CircuitState::HalfOpen { .. } => None,
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        matches!(self.state, CircuitState::Closed { .. })
    }

    pub(super) fn is_open(&self) -> bool {
        matches!(self.state, CircuitState::Open { .. })
    }

    /// Whether there is nothing to be remembered of.
    pub(super) fn is_blank(&self, now: Instant) -> bool {
        self.is_closed() && (self.failures == 0 || self.is_proven(now))
    }

    /// What a caller is told, if the circuit is open and the next dial not due.
    pub(super) fn refusal(&self, now: Instant) -> Option<Refusal> {
        let CircuitState::Open { trouble, next_try } = &self.state else {
            return None;
        };
        let next_try_in = next_try.saturating_duration_since(now);
        (!next_try_in.is_zero()).then(|| Refusal {
            open_for: now.saturating_duration_since(trouble.since),
            failures: self.failures,
            why: trouble.why.clone(),
            next_try_in,
        })
    }

    /// A dial begins. True: it is the one that is let through.
    pub(super) fn dialled(&mut self) -> bool {
        let CircuitState::Open { trouble, .. } = &self.state else {
            return false;
        };
        let trouble = trouble.clone();
        self.state = CircuitState::HalfOpen { trouble };
        true
    }

    /// A dial succeeded. True: that closed the circuit.
    pub(super) fn connected(&mut self, now: Instant) -> bool {
        let was_closed = self.is_closed();
        self.connected_at.get_or_insert(now);
        self.state = CircuitState::Closed { not_before: None };
        !was_closed
    }

    /// Whether the failure of a connection that was made then is counted already: what ended it may
    /// be the same that was noticed on another one.
    pub(super) fn knows_of_what_befell(&self, connected_at: Instant) -> bool {
        self.failed_at.is_some_and(|at| connected_at <= at)
    }

    /// The peer has a connection that lasts. Failures of long ago are not in a row with the next
    /// one then. Those are that nobody dialled behind though the pause was over: a peer that takes
    /// no second connection is dialled at the pace of its failures all the same.
    pub(super) fn lasts_elsewhere(&mut self, now: Instant, config: &ConnectionPoolConfig) {
        let row = config.backoff_max + config.connect_timeout;
        let is_over = self.failed_at.is_some_and(|at| at + row <= now);
        if is_over && self.is_closed() {
            self.failures = 0;
        }
    }

    /// A failure; `random` is any number. Gives when the next dial may begin, if that opened the
    /// circuit.
    pub(super) fn failed(
        &mut self,
        now: Instant,
        why: PeerFailure,
        (config, random): (&ConnectionPoolConfig, u64),
    ) -> Option<Instant> {
        if self.is_proven(now) {
            self.failures = 0;
        }
        self.connected_at = None;
        self.failed_at = Some(now);
        self.failures = self.failures.saturating_add(1);
        let is_lasting = why.is_lasting();
        let doublings = if is_lasting {
            u32::MAX
        } else {
            self.failures - 1
        };
        let next_try = now + pause(config, doublings, random);
        let since = match &self.state {
            CircuitState::Open { trouble, .. } | CircuitState::HalfOpen { trouble } => {
                trouble.since
            }
            CircuitState::Closed { .. } => now,
        };
        if is_lasting || self.failures >= config.failure_threshold {
            let trouble = Trouble { since, why };
            self.state = CircuitState::Open { trouble, next_try };
            return Some(next_try);
        }
        self.state = CircuitState::Closed {
            not_before: Some(next_try),
        };
        None
    }

    /// A dial was not begun for want of room in the engine: no fault of the peer. The next one
    /// waits all the same.
    pub(super) fn put_off(&mut self, until: Instant) {
        match &mut self.state {
            CircuitState::Closed { not_before } => *not_before = Some(until),
            CircuitState::Open { next_try, .. } => *next_try = until,
            CircuitState::HalfOpen { trouble } => {
                let trouble = trouble.clone();
                let next_try = until;
                self.state = CircuitState::Open { trouble, next_try };
            }
        }
    }

    fn is_proven(&self, now: Instant) -> bool {
        self.connected_at.is_some_and(|at| at + PROVEN_AFTER <= now)
    }
}

/// The first pause so often doubled, but no longer than the longest, less a random part of up to a
/// half: peers of one host that went away would be dialled by all of its clients at once else.
pub(super) fn pause(config: &ConnectionPoolConfig, doublings: u32, random: u64) -> Duration {
    let factor = 1_u32.checked_shl(doublings).unwrap_or(u32::MAX);
    let whole = config.backoff_initial.saturating_mul(factor);
    let whole = whole.min(config.backoff_max);
    let off = (random >> 40) as f64 / (1_u64 << 24) as f64 / 2.0;
    whole.mul_f64(1.0 - off)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::ConnectError;

    fn silent() -> PeerFailure {
        let (name, why) = ("host:1".to_owned(), "silent".to_owned());
        PeerFailure::Connect(ConnectError::NoAnswer { name, why })
    }

    fn stranger() -> PeerFailure {
        let name = "host:1".to_owned();
        PeerFailure::Connect(ConnectError::NotTrusted { name, shown: None })
    }

    fn ended() -> PeerFailure {
        PeerFailure::EndedAtOnce(crate::api::ConnectionError::TimedOut)
    }

    #[test]
    fn pauses_grow_to_the_longest_and_are_never_the_same() {
        let config = ConnectionPoolConfig::default();
        let mut longest = Duration::ZERO;
        for doublings in 0..80 {
            let whole = pause(&config, doublings, 0);
            let least = pause(&config, doublings, u64::MAX);
            assert!(whole >= longest && whole <= config.backoff_max);
            assert!(least >= whole.mul_f64(0.499) && least < whole.mul_f64(0.501));
            longest = whole;
        }
        assert_eq!(pause(&config, 0, 0), config.backoff_initial);
        assert_eq!(pause(&config, 3, 0), config.backoff_initial * 8);
        assert_eq!(longest, config.backoff_max);
    }

    #[test]
    fn three_states() {
        let config = ConnectionPoolConfig::default();
        let start = crate::engine::now();
        let mut circuit = Circuit::new();
        let mut now = start;
        for failure in 1..3 {
            assert_eq!(circuit.failed(now, silent(), (&config, 7)), None);
            assert!(circuit.is_closed() && circuit.refusal(now).is_none());
            assert!(circuit.not_before().unwrap() > now, "failure {failure}");
            now = circuit.not_before().unwrap();
            assert!(!circuit.dialled(), "it is not open");
        }
        let opened_at = now;
        let next = circuit.failed(now, silent(), (&config, 7)).unwrap();
        let refusal = circuit.refusal(now + Duration::from_millis(1)).unwrap();
        assert_eq!(refusal.open_for, Duration::from_millis(1));
        assert_eq!((refusal.failures, refusal.why), (3, silent()));
        assert_eq!(refusal.next_try_in, next - now - Duration::from_millis(1));
        // Once it is due, one is let through.
        assert_eq!(circuit.refusal(next), None);
        assert!(circuit.dialled());
        assert!(!circuit.dialled(), "only one");
        let later = circuit.failed(next, silent(), (&config, 7)).unwrap();
        assert!(later - next > next - opened_at, "the pause grows");
        let refusal = circuit.refusal(next).unwrap();
        assert_eq!(refusal.open_for, next - opened_at, "since it first opened");
        assert!(circuit.dialled() && circuit.connected(later));
        assert!(circuit.is_closed() && circuit.not_before().is_none());
        assert!(!circuit.is_blank(later) && circuit.is_blank(later + PROVEN_AFTER));
    }

    #[test]
    fn a_key_that_is_not_trusted_opens_it_for_the_longest_pause() {
        let config = ConnectionPoolConfig::default();
        let now = crate::engine::now();
        let mut circuit = Circuit::new();
        let next = circuit.failed(now, stranger(), (&config, 0)).unwrap();
        assert_eq!(next - now, config.backoff_max);
        assert!(!circuit.refusal(now).unwrap().why.is_retryable());
    }

    #[test]
    fn a_name_that_is_not_found_may_be_tried_again() {
        let (name, why) = ("host:1".to_owned(), "no server answers".to_owned());
        let failure = PeerFailure::Connect(ConnectError::Name { name, why });
        assert!(failure.is_retryable());
        let config = ConnectionPoolConfig::default();
        let mut circuit = Circuit::new();
        let now = crate::engine::now();
        assert_eq!(circuit.failed(now, failure, (&config, 0)), None);
    }

    #[test]
    fn failures_far_apart_are_in_a_row_only_where_nothing_lasts() {
        let config = ConnectionPoolConfig::default();
        let hour = Duration::from_secs(3600);
        for lasts in [true, false] {
            let mut now = crate::engine::now();
            let mut circuit = Circuit::new();
            let opened = (0..10).find(|_| {
                now += hour;
                if lasts {
                    circuit.lasts_elsewhere(now, &config);
                }
                circuit.failed(now, silent(), (&config, 3)).is_some()
            });
            assert_eq!(opened, (!lasts).then_some(2));
            // Those that follow each other's pauses are, whatever lasts.
            let mut circuit = Circuit::new();
            let opened = (0..10).find(|_| {
                now = circuit.not_before().unwrap_or(now);
                circuit.lasts_elsewhere(now, &config);
                circuit.failed(now, silent(), (&config, 3)).is_some()
            });
            assert_eq!(opened, Some(2));
            assert!(circuit.knows_of_what_befell(now));
            assert!(!circuit.knows_of_what_befell(now + PROVEN_AFTER));
        }
    }

    #[test]
    fn what_ends_at_once_is_no_success() {
        let config = ConnectionPoolConfig::default();
        let mut now = crate::engine::now();
        let mut circuit = Circuit::new();
        for _ in 0..2 {
            circuit.connected(now);
            assert_eq!(circuit.failed(now, ended(), (&config, 1)), None);
        }
        circuit.connected(now);
        assert!(circuit.failed(now, ended(), (&config, 1)).is_some());
        // What lasts is one, and failures are counted from one again.
        assert!(circuit.dialled() && circuit.connected(now));
        now += PROVEN_AFTER;
        assert_eq!(circuit.failed(now, silent(), (&config, 1)), None);
        assert!(circuit.is_closed());
    }
}
