//! Resolved transport configuration: its constants, the names it is given by, and what is wrong
//! with it.

mod check;
mod diagnostics;
mod kinds;
mod quic;
mod rate;

use std::str::FromStr;
use std::time::Duration;

pub use check::Correction;
pub use diagnostics::{Diagnosis, Diagnostics};
pub use kinds::{LaneCount, LaneKind, LaneKinds, MAX_LANE_COUNT};
pub use quic::QuicConfig;
pub(crate) use rate::RatePolicies;
pub use rate::{FixedRate, PathView, RateBound, RatePolicy};

/// Lowest initial RTT that is safe with BBR2. Its min-RTT filter starts from this guess and only
/// ever falls: a guess below about half the true RTT caps the connection at a fraction of the path
/// for ever. RFC 9002's default covers every path on Earth and costs BBR2 nothing on a LAN.
pub const BBR_SAFE_INITIAL_RTT: Duration = Duration::from_millis(333);

/// UDP payload of a full Ethernet frame over IPv4: 1500 − 20 − 8.
pub const ETHERNET_UDP_PAYLOAD_BYTES: usize = 1472;

/// QUIC's own floor: every path must carry this, so nothing smaller is ever configured.
pub const MIN_UDP_PAYLOAD_BYTES: usize = 1200;

/// Largest UDP payload we build: quiche encodes packet lengths as two-byte varints, so 16,383 is
/// its limit; a few bytes less and four of them fit the 65,507 bytes of one GSO message.
pub const MAX_UDP_PAYLOAD_BYTES: usize = 16_376;

/// Largest UDP payload we accept, the protocol's own maximum: receive buffers are 64 KiB.
pub const MAX_RECV_UDP_PAYLOAD_BYTES: usize = 65_527;

/// Packets after which a lane is replaced: half of AES-GCM's confidentiality limit of 2^23 packets
/// per key (RFC 9001 §6.6). quiche never starts a key update, and the other half is time to move
/// over without a pause.
pub const LANE_PACKET_LIMIT: u64 = 1 << 22;

/// Packets that one key may seal at most: AES-GCM's confidentiality limit (RFC 9001 §6.6). A lane
/// that could not be replaced closes before. (The integrity limit, 2^52 forged packets, is out of
/// reach.)
pub const KEY_PACKET_LIMIT: u64 = 1 << 23;

const _: () = assert!(LANE_PACKET_LIMIT * 2 == KEY_PACKET_LIMIT);

/// Records of TLS over TCP that one key seals before it is renewed, below AES-GCM's 2^24.5 (RFC
/// 8446 §5.5).
const KEY_RECORD_LIMIT: u64 = 1 << 24;

/// A connection that has not finished its handshake after this long is given up: four Initial
/// packets at RFC 9002's back-off (1 s, 2 s, 4 s) fit in it.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Without traffic for this long we ask for an acknowledgement. Also what finds a path that came
/// back: probe timeouts double each time, so after 20 s unplugged the next one alone would come 20
/// s later.
pub const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// DATAGRAM frames queued in each direction; older ones are dropped, which datagrams allow. At most
/// one packet each, so 8 × 16 KiB per connection.
pub const DATAGRAM_QUEUE_PACKETS: usize = 8;

/// Below this min RTT a connection is not paced unless it loses packets: a timer per burst costs
/// more than the switch's buffers save (measured: BBR2 unpaced is best on the LAN, paced on the
/// WAN).
pub const PACING_MIN_RTT: Duration = Duration::from_millis(2);

/// Congestion controllers the transport has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CongestionControl {
    /// CUBIC (RFC 9438).
    Cubic,
    /// NewReno (RFC 9002 §7).
    Reno,
    /// BBR in its second version.
    Bbr2,
}

impl FromStr for CongestionControl {
    type Err = ConfigError;

    /// `"bbr"` means the second version: there is no other.
    fn from_str(name: &str) -> Result<Self, ConfigError> {
        match name {
            "cubic" => Ok(CongestionControl::Cubic),
            "reno" => Ok(CongestionControl::Reno),
            "bbr" | "bbr2" => Ok(CongestionControl::Bbr2),
            _ => Err(ConfigError::CongestionControl(name.to_owned())),
        }
    }
}

/// A name in the configuration that means nothing, or a value that no connection can have.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// No congestion control has this name.
    #[error("unknown congestion control {0:?}: bbr, cubic or reno")]
    CongestionControl(String),
    /// No connection can have this value.
    #[error("{what} cannot be {value}: {why}")]
    Impossible {
        /// What of [`QuicConfig`], as its method is called.
        what: &'static str,
        /// As it was given.
        value: String,
        /// The reason, and what there may be in its place.
        why: &'static str,
    },
    /// No lane is of this kind.
    #[error(
        "unknown kind of lane {0:?}: quic, tls, or both with a comma between (those in the clear are added by --clear)"
    )]
    LaneKind(String),
    /// There cannot be so many lanes.
    #[error("not a number of lanes: {0:?}; auto, or 1 to {MAX_LANE_COUNT}")]
    LaneCount(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lan_profile_has_the_values_of_its_name() {
        let lan = QuicConfig::lan_optimized();
        assert_eq!(lan.stream_receive_window_bytes, 16 * 1024 * 1024);
        assert_eq!(lan.receive_window_bytes, 256 * 1024 * 1024);
        assert_eq!((lan.max_bidi_streams, lan.max_uni_streams), (256, 512));
        assert_eq!(lan.initial_rtt, Duration::from_micros(200));
        assert_eq!(lan.effective_initial_rtt(), Duration::from_micros(200));
        assert_eq!(lan.max_ack_delay, Duration::from_millis(5));
        assert_eq!(lan.udp_payload_bytes, 1472);
        assert!(lan.mtu_discovery && lan.datagrams);
        assert_eq!(lan.congestion_control, CongestionControl::Cubic);
        assert_eq!(lan.initial_window_packets, 100);
        assert_eq!(lan.idle_timeout, Duration::from_secs(60));
    }

    #[test]
    fn wan_profile_has_the_values_of_its_name() {
        let wan = QuicConfig::wan_optimized();
        assert_eq!(wan.stream_receive_window_bytes, 4 * 1024 * 1024);
        assert_eq!(wan.receive_window_bytes, 32 * 1024 * 1024);
        assert_eq!(wan.initial_rtt, Duration::from_millis(50));
        assert_eq!(wan.max_ack_delay, Duration::from_millis(25));
        assert_eq!(wan.udp_payload_bytes, 1200);
        assert!(wan.mtu_discovery && wan.pacing);
        assert_eq!(wan.congestion_control, CongestionControl::Bbr2);
        // Named 50 ms, used safely.
        assert_eq!(wan.effective_initial_rtt(), BBR_SAFE_INITIAL_RTT);
    }

    #[test]
    fn auto_profile_is_safe_everywhere() {
        let auto = QuicConfig::default();
        assert_eq!(auto, QuicConfig::auto());
        assert_eq!(auto.congestion_control, CongestionControl::Bbr2);
        assert_eq!(auto.initial_rtt, BBR_SAFE_INITIAL_RTT);
        assert_eq!(
            (auto.stream_receive_window_bytes, auto.receive_window_bytes),
            (16 << 20, 32 << 20)
        );
        assert_eq!(auto.udp_payload_bytes, 1472);
        assert!(auto.lane_packet_limit < 1 << 23);
    }

    #[test]
    fn builder_changes_what_it_names() {
        let config = QuicConfig::lan_optimized()
            .congestion_control("bbr")
            .stream_receive_window(1 << 20)
            .receive_window(8 << 20)
            .udp_payload(100_000);
        let (config, _) = config.checked().unwrap();
        assert_eq!(config.congestion_control, CongestionControl::Bbr2);
        assert_eq!(config.initial_rtt, BBR_SAFE_INITIAL_RTT);
        assert_eq!(
            (
                config.stream_receive_window_bytes,
                config.receive_window_bytes
            ),
            (1 << 20, 8 << 20)
        );
        assert_eq!(config.udp_payload_bytes, MAX_UDP_PAYLOAD_BYTES);
        let unknown = QuicConfig::auto().congestion_control("vegas");
        assert!(unknown.checked().is_err());
    }
}
