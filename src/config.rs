//! Resolved transport configuration: the lan, wan and auto profiles, every value a field with its
//! unit.

mod diagnostics;
mod kinds;

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

pub use diagnostics::{Diagnosis, Diagnostics};
pub use kinds::{LaneCount, LaneKind, LaneKinds, MAX_LANE_COUNT};

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
    Cubic,
    Reno,
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

/// Which set of values to start from.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Profile {
    #[default]
    Auto,
    Lan,
    Wan,
}

impl FromStr for Profile {
    type Err = ConfigError;

    fn from_str(name: &str) -> Result<Self, ConfigError> {
        match name {
            "auto" => Ok(Profile::Auto),
            "lan" => Ok(Profile::Lan),
            "wan" => Ok(Profile::Wan),
            _ => Err(ConfigError::Profile(name.to_owned())),
        }
    }
}

/// A name in the configuration that means nothing.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("unknown congestion control {0:?}: bbr, cubic or reno")]
    CongestionControl(String),
    #[error("unknown profile {0:?}: auto, lan or wan")]
    Profile(String),
    #[error(
        "unknown kind of lane {0:?}: quic, tls, or both with a comma between (those in the clear are added by --clear)"
    )]
    LaneKind(String),
    #[error("not a number of lanes: {0:?}; auto, or 1 to {MAX_LANE_COUNT}")]
    LaneCount(String),
}

/// Values of the QUIC transport. Built from a profile, then changed field by field or by the
/// builder methods.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct QuicConfig {
    /// Largest receive window of one stream, the upper bound of what is advertised. Worst case a
    /// peer makes us hold this much unread per stream, within `receive_window_bytes` for all of
    /// them.
    pub stream_receive_window_bytes: u64,
    /// Largest receive window of one connection: the worst case of unread bytes it may make us
    /// hold.
    pub receive_window_bytes: u64,
    /// Bidirectional streams the peer may have open at once.
    pub max_bidi_streams: u64,
    /// Unidirectional streams the peer may have open at once.
    pub max_uni_streams: u64,
    /// RTT assumed before the first measurement; see [`QuicConfig::effective_initial_rtt`].
    pub initial_rtt: Duration,
    /// How long we may delay an acknowledgement, as told to the peer (whole milliseconds).
    pub max_ack_delay: Duration,
    /// UDP payload that needs no discovery to be wanted: packets are this large once the path has
    /// carried one (or at once with `mtu_discovery` off).
    pub udp_payload_bytes: usize,
    /// Probe the path, first for what the interface carries. Off: `udp_payload_bytes` is used
    /// unproven.
    pub mtu_discovery: bool,
    pub congestion_control: CongestionControl,
    /// Packets sent before the first acknowledgement; with BBR2 also the smallest window it ever
    /// uses.
    pub initial_window_packets: usize,
    /// Obey BBR2's release times on paths of [`PACING_MIN_RTT`] and more, and where a LAN's queues
    /// overflow.
    pub pacing: bool,
    /// A connection that heard nothing for this long is over.
    pub idle_timeout: Duration,
    pub handshake_timeout: Duration,
    /// Silence after which an acknowledgement is asked for.
    pub keep_alive: Duration,
    /// DATAGRAM frames (RFC 9221). Without them no peer is followed to another address.
    pub datagrams: bool,
    /// Packets in one direction after which a lane is to be replaced.
    pub lane_packet_limit: u64,
    /// Packets sent after which a lane that was not replaced is closed.
    pub key_packet_limit: u64,
    /// Records after which TLS over TCP renews a key.
    pub key_record_limit: u64,
    /// TLS secrets and qlog of connections, if somebody wants to look into them.
    pub diagnostics: Option<Arc<Diagnostics>>,
}

impl QuicConfig {
    /// For one switch between the peers: windows wide open at once, CUBIC, quick acknowledgements.
    pub fn lan_optimized() -> QuicConfig {
        QuicConfig {
            stream_receive_window_bytes: 16 << 20,
            receive_window_bytes: 256 << 20,
            max_bidi_streams: 256,
            max_uni_streams: 512,
            initial_rtt: Duration::from_micros(200),
            max_ack_delay: Duration::from_millis(5),
            udp_payload_bytes: ETHERNET_UDP_PAYLOAD_BYTES,
            mtu_discovery: true,
            congestion_control: CongestionControl::Cubic,
            initial_window_packets: 100,
            pacing: false,
            idle_timeout: Duration::from_secs(60),
            handshake_timeout: HANDSHAKE_TIMEOUT,
            keep_alive: KEEP_ALIVE,
            datagrams: true,
            lane_packet_limit: LANE_PACKET_LIMIT,
            key_packet_limit: KEY_PACKET_LIMIT,
            key_record_limit: KEY_RECORD_LIMIT,
            diagnostics: None,
        }
    }

    /// For the Internet: BBR2, paced; packets every path carries until discovery proves more.
    pub fn wan_optimized() -> QuicConfig {
        QuicConfig {
            stream_receive_window_bytes: 4 << 20,
            receive_window_bytes: 32 << 20,
            initial_rtt: Duration::from_millis(50),
            max_ack_delay: Duration::from_millis(25),
            udp_payload_bytes: MIN_UDP_PAYLOAD_BYTES,
            congestion_control: CongestionControl::Bbr2,
            // 32 × 1200 bytes: it stays BBR2's floor, and 38 kB queue 30 ms at 10 Mbit/s.
            initial_window_packets: 32,
            pacing: true,
            ..QuicConfig::lan_optimized()
        }
    }

    /// What the binary does when not told otherwise: BBR2 loses a hundredth of what CUBIC loses at
    /// the same speed on a LAN and holds its own at random loss; its pacing is obeyed only where
    /// the RTT shows a WAN. Windows are open at once, as far as the memory budget grants: a stream
    /// carries a few MiB and ends before it could have grown one by use, so every stream of a long
    /// path would wait for its second half.
    pub fn auto() -> QuicConfig {
        QuicConfig {
            stream_receive_window_bytes: 16 << 20,
            receive_window_bytes: 32 << 20,
            max_bidi_streams: 16,
            max_uni_streams: 256,
            initial_rtt: BBR_SAFE_INITIAL_RTT,
            max_ack_delay: Duration::from_millis(5),
            congestion_control: CongestionControl::Bbr2,
            // BBR2's floor, too: 47 kB and what is on the wire fit a queue of 64 kB, where a floor
            // of 100 packets lost nine of ten packets for ever; 1 Gbit/s at an RTT of 0.4 ms needs
            // no more.
            initial_window_packets: 32,
            pacing: true,
            ..QuicConfig::lan_optimized()
        }
    }

    pub fn from_profile(profile: Profile) -> QuicConfig {
        match profile {
            Profile::Auto => QuicConfig::auto(),
            Profile::Lan => QuicConfig::lan_optimized(),
            Profile::Wan => QuicConfig::wan_optimized(),
        }
    }

    /// Chooses by name: `"bbr"`, `"cubic"` or `"reno"`. With BBR a low initial RTT is raised to
    /// [`BBR_SAFE_INITIAL_RTT`], and the log says so.
    ///
    /// # Errors
    /// The name is none of these.
    pub fn congestion_control(mut self, name: &str) -> Result<QuicConfig, ConfigError> {
        self.congestion_control = name.parse()?;
        let safe = self.effective_initial_rtt();
        if safe != self.initial_rtt {
            tracing::warn!(
                from = ?self.initial_rtt,
                to = ?safe,
                "initial RTT raised: BBR never recovers from a guess below the true RTT"
            );
            self.initial_rtt = safe;
        }
        Ok(self)
    }

    /// Largest receive window of a stream, in bytes; it is advertised from the start.
    pub fn stream_receive_window(mut self, bytes: u64) -> QuicConfig {
        self.stream_receive_window_bytes = bytes;
        self
    }

    /// Largest receive window of a connection, in bytes; it is advertised from the start.
    pub fn receive_window(mut self, bytes: u64) -> QuicConfig {
        self.receive_window_bytes = bytes;
        self
    }

    pub fn initial_rtt(mut self, rtt: Duration) -> QuicConfig {
        self.initial_rtt = rtt;
        self
    }

    pub fn max_ack_delay(mut self, delay: Duration) -> QuicConfig {
        self.max_ack_delay = delay;
        self
    }

    /// Clamped to what QUIC and quiche can do: 1200 to 16,383 bytes.
    pub fn udp_payload(mut self, bytes: usize) -> QuicConfig {
        self.udp_payload_bytes = bytes.clamp(MIN_UDP_PAYLOAD_BYTES, MAX_UDP_PAYLOAD_BYTES);
        self
    }

    pub fn idle_timeout(mut self, timeout: Duration) -> QuicConfig {
        self.idle_timeout = timeout;
        self
    }

    pub fn lane_packet_limit(mut self, packets: u64) -> QuicConfig {
        self.lane_packet_limit = packets;
        self
    }

    pub fn key_packet_limit(mut self, packets: u64) -> QuicConfig {
        self.key_packet_limit = packets;
        self
    }

    pub fn key_record_limit(mut self, records: u64) -> QuicConfig {
        self.key_record_limit = records;
        self
    }

    /// The initial RTT that is used: never below [`BBR_SAFE_INITIAL_RTT`] with BBR2, whatever was
    /// asked.
    pub fn effective_initial_rtt(&self) -> Duration {
        match self.congestion_control {
            CongestionControl::Bbr2 => self.initial_rtt.max(BBR_SAFE_INITIAL_RTT),
            CongestionControl::Cubic | CongestionControl::Reno => self.initial_rtt,
        }
    }
}

impl Default for QuicConfig {
    fn default() -> QuicConfig {
        QuicConfig::auto()
    }
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
            .unwrap()
            .stream_receive_window(1 << 20)
            .receive_window(8 << 20)
            .udp_payload(100_000);
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
        assert!(QuicConfig::auto().congestion_control("vegas").is_err());
        assert_eq!("lan".parse::<Profile>(), Ok(Profile::Lan));
        assert!("moon".parse::<Profile>().is_err());
    }
}
