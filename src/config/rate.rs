//! Rate policies: what bounds the packets of one QUIC connection besides its congestion controller.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Bounds how fast the packets of one QUIC connection leave, from outside of its congestion
/// controller: whichever of the two lets less through counts. [`QuicConfig::rate_policy`] takes
/// policies of a program; the engine's own answer to queues that overflow is one, too.
///
/// What is bounded are UDP payloads that this side sends: acknowledgements, and what is sent again
/// for a loss, are among them. The other side has a policy of its own, or none. A lane over TCP has
/// none: the kernel's controller rules it.
///
/// A policy is asked by the worker of the connection, each time it sends or has received a batch of
/// packets: some thousand times a second at most speeds. It may not block, and has no clock: `now`
/// is the worker's. If it panics, the worker ends, and with it all its connections.
///
/// # A bad policy
/// No answer stalls a connection for ever: less than [`RateBound::LEAST_BYTES_PER_SECOND`] is taken
/// for that. A bound above what the controller lets through changes nothing: on a long path BBR2's
/// release times are kept to beside it. So no policy sends more than the connection would without
/// one.
///
/// ```
/// use std::time::{Duration, Instant};
/// use landro::{PathView, QuicConfig, RateBound, RatePolicy};
///
/// /// Gives way to whoever else fills the queue: while the round trip is more than twice the
/// /// shortest, half the rate from when that began.
/// #[derive(Debug, Default)]
/// struct Background {
///     kept: Option<RateBound>,
/// }
///
/// impl RatePolicy for Background {
///     fn bound(&mut self, _now: Instant, path: &PathView<'_>) -> RateBound {
///         match path.min_rtt {
///             Some(shortest) if path.rtt > 2 * shortest => {
///                 // Not half anew each time: soon the bound is what is delivered.
///                 let half = RateBound::rate(path.delivery_bytes_per_second / 2);
///                 *self.kept.get_or_insert(half)
///             }
///             _ => {
///                 self.kept = None;
///                 RateBound::none()
///             }
///         }
///     }
/// }
///
/// let config = QuicConfig::auto().rate_policy(Background::default);
/// # let (mut policy, mut path) = (Background::default(), PathView::default());
/// # path.min_rtt = Some(Duration::from_millis(1));
/// # for (rtt_ms, delivery, bound) in [
/// #     (1, 9_000_000, RateBound::none()),
/// #     (9, 2_000_000, RateBound::rate(1_000_000)),
/// #     (9, 1_000_000, RateBound::rate(1_000_000)),
/// #     (2, 1_000_000, RateBound::none()),
/// #     (3, 4_000_000, RateBound::rate(2_000_000)),
/// # ] {
/// #     path.rtt = Duration::from_millis(rtt_ms);
/// #     path.delivery_bytes_per_second = delivery;
/// #     assert_eq!(policy.bound(Instant::now(), &path), bound);
/// # }
/// ```
///
/// [`QuicConfig::rate_policy`]: super::QuicConfig::rate_policy
pub trait RatePolicy: Send {
    /// How fast packets may leave from now on, until it is asked again.
    fn bound(&mut self, now: Instant, path: &PathView<'_>) -> RateBound;
}

/// What a [`RatePolicy`] is shown of its connection. Counts are of the whole connection and only
/// grow.
///
/// The bytes in flight are not here: quiche keeps them to itself, and no difference of its counts
/// is exact, since packets of acknowledgements alone are never acknowledged.
#[derive(Clone, Copy)]
#[non_exhaustive]
pub struct PathView<'a> {
    /// Smoothed, with what the peer waits before it acknowledges.
    pub rtt: Duration,
    /// The shortest so far. `None` before the first measurement.
    pub min_rtt: Option<Duration>,
    /// What the congestion controller lets be in flight.
    pub cwnd_bytes: usize,
    /// Packets sent.
    pub sent_packets: u64,
    /// Packets taken for lost.
    pub lost_packets: u64,
    /// UDP payload sent.
    pub sent_bytes: u64,
    /// UDP payload taken for lost.
    pub lost_bytes: u64,
    /// What the congestion controller believes the path delivers; 0 before the first measurement.
    /// Trap: while a bound holds packets back, that is the bound. A policy that reckons its next
    /// bound from it ends at the least.
    pub delivery_bytes_per_second: u64,
    /// UDP payload that the peer acknowledged. Not to be called each time: quiche walks all streams
    /// for it.
    pub acked_bytes: &'a dyn Fn() -> u64,
    /// Whether the peer is in a subnet of ours, with no router between. Not to be called each time:
    /// the kernel is asked.
    pub is_on_link: &'a dyn Fn() -> bool,
}

impl Default for PathView<'_> {
    /// A path of which nothing is known.
    fn default() -> Self {
        PathView {
            rtt: Duration::ZERO,
            min_rtt: None,
            cwnd_bytes: 0,
            sent_packets: 0,
            lost_packets: 0,
            sent_bytes: 0,
            lost_bytes: 0,
            delivery_bytes_per_second: 0,
            acked_bytes: &|| 0,
            is_on_link: &|| false,
        }
    }
}

impl fmt::Debug for PathView<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PathView")
            .field("rtt", &self.rtt)
            .field("min_rtt", &self.min_rtt)
            .field("cwnd_bytes", &self.cwnd_bytes)
            .field("sent_packets", &self.sent_packets)
            .field("lost_packets", &self.lost_packets)
            .finish_non_exhaustive()
    }
}

/// The answer of a [`RatePolicy`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RateBound {
    bytes_per_second: Option<u64>,
    bytes_in_flight: Option<u64>,
    is_measured: bool,
}

impl RateBound {
    /// No rate is below this, a thousandth of 1 Gbit/s: a packet of an Ethernet frame, which may be
    /// a probe or an acknowledgement, waits 15 ms at most.
    pub const LEAST_BYTES_PER_SECOND: u64 = 100_000;

    /// Packets leave as the congestion controller lets them.
    pub fn none() -> RateBound {
        RateBound::default()
    }

    /// At most so many bytes of UDP payload leave in a second. What was missed of it in the last
    /// 4 ms may be made up for, as timers fire late where cores are busy.
    pub fn rate(bytes_per_second: u64) -> RateBound {
        RateBound {
            bytes_per_second: Some(bytes_per_second),
            ..RateBound::default()
        }
    }

    /// About so many bytes are in flight at most: they leave at the rate that has so many on the
    /// way for a round trip. Where that is longer since a queue is full, the rate is lower. Before
    /// the first round trip is measured this bounds nothing.
    pub fn in_flight(mut self, bytes: u64) -> RateBound {
        self.bytes_in_flight = Some(bytes);
        self
    }

    /// The rate is what the path carries, behind a queue that holds little: packets leave at that
    /// rate in place of the congestion controller's release times (its window still counts), in
    /// messages of a few packets, and nothing is made up for.
    ///
    /// The engine's own policy alone may say so: it has seen a queue overflow. A policy of a
    /// program would free packets of release times by it.
    ///
    /// ```compile_fail,E0624
    /// landro::RateBound::rate(u64::MAX).measured();
    /// ```
    pub(crate) fn measured(mut self) -> RateBound {
        self.is_measured = true;
        self
    }

    /// What keeps to both bounds.
    pub(crate) fn and(self, other: RateBound) -> RateBound {
        let less = |a: Option<u64>, b: Option<u64>| a.into_iter().chain(b).min();
        RateBound {
            bytes_per_second: less(self.bytes_per_second, other.bytes_per_second),
            bytes_in_flight: less(self.bytes_in_flight, other.bytes_in_flight),
            is_measured: self.is_measured || other.is_measured,
        }
    }

    pub(crate) fn is_measured(self) -> bool {
        self.is_measured
    }

    /// The rate that keeps to the bound on this path, if it has one.
    pub(crate) fn bytes_per_second(self, path: &PathView<'_>) -> Option<u64> {
        let rtt_ns = path.rtt.as_nanos().max(1);
        let in_a_second = |bytes: u64| {
            u64::try_from(u128::from(bytes) * 1_000_000_000 / rtt_ns).unwrap_or(u64::MAX)
        };
        let in_flight = self.bytes_in_flight.filter(|_| path.min_rtt.is_some());
        let rates = self.bytes_per_second.into_iter();
        rates
            .chain(in_flight.map(in_a_second))
            .min()
            .map(|rate| rate.max(RateBound::LEAST_BYTES_PER_SECOND))
    }

    pub(crate) fn bounds_flight(self) -> bool {
        self.bytes_in_flight.is_some()
    }
}

/// The policy that gives each connection the same rate.
///
/// ```
/// use landro::{FixedRate, QuicConfig};
///
/// let config = QuicConfig::auto().rate_policy(|| FixedRate::bytes_per_second(10_000_000));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FixedRate {
    bytes_per_second: u64,
}

impl FixedRate {
    /// At least [`RateBound::LEAST_BYTES_PER_SECOND`], to which less is corrected.
    pub fn bytes_per_second(bytes_per_second: u64) -> FixedRate {
        FixedRate { bytes_per_second }
    }
}

impl RatePolicy for FixedRate {
    fn bound(&mut self, _now: Instant, _path: &PathView<'_>) -> RateBound {
        RateBound::rate(self.bytes_per_second)
    }
}

/// Makes the policies of a program: one for each connection.
#[derive(Clone)]
pub(crate) struct RatePolicies(Arc<dyn Fn() -> Box<dyn RatePolicy> + Send + Sync>);

impl RatePolicies {
    pub(super) fn new<P: RatePolicy + 'static>(
        make: impl Fn() -> P + Send + Sync + 'static,
    ) -> RatePolicies {
        RatePolicies(Arc::new(move || Box::new(make())))
    }

    pub(crate) fn make(&self) -> Box<dyn RatePolicy> {
        (self.0)()
    }
}

/// The same if it is the same function.
impl PartialEq for RatePolicies {
    fn eq(&self, other: &RatePolicies) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for RatePolicies {}

impl fmt::Debug for RatePolicies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RatePolicies(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lower_of_two_bounds_counts_and_none_is_below_the_least() {
        let mut path = PathView {
            rtt: Duration::from_millis(20),
            ..PathView::default()
        };
        let at = |bound: RateBound, path: &PathView<'_>| bound.bytes_per_second(path);
        let both = RateBound::rate(7_000_000).and(RateBound::rate(5_000_000).measured());
        assert_eq!(both, RateBound::rate(5_000_000).measured());
        assert_eq!(RateBound::none().and(both), both);
        assert_eq!(at(RateBound::none(), &path), None);
        assert_eq!(at(RateBound::rate(0), &path), Some(100_000));
        assert_eq!(at(RateBound::rate(u64::MAX), &path), Some(u64::MAX));
        let window = RateBound::none().in_flight(200_000);
        assert_eq!(at(window, &path), None, "no round trip was measured");
        path.min_rtt = Some(Duration::from_millis(10));
        assert_eq!(at(window, &path), Some(10_000_000));
        assert_eq!(at(window.and(both), &path), Some(5_000_000));
        path.rtt = Duration::ZERO;
        assert_eq!(
            at(RateBound::none().in_flight(u64::MAX), &path),
            Some(u64::MAX)
        );
    }
}
