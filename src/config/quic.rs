//! The values of the QUIC transport: the lan, wan and auto profiles, and a method for every value
//! with its unit, its cost and its trap.

use std::sync::Arc;
use std::time::Duration;

use super::{
    BBR_SAFE_INITIAL_RTT, CongestionControl, Diagnostics, ETHERNET_UDP_PAYLOAD_BYTES,
    HANDSHAKE_TIMEOUT, KEEP_ALIVE, KEY_PACKET_LIMIT, KEY_RECORD_LIMIT, LANE_PACKET_LIMIT,
    MIN_UDP_PAYLOAD_BYTES, RatePolicies, RatePolicy,
};

/// Values of the QUIC transport: a profile, changed method by method.
///
/// ```
/// use landro::QuicConfig;
///
/// let config = QuicConfig::lan_optimized()
///     .congestion_control("bbr")
///     .stream_receive_window(32 * 1024 * 1024)
///     .receive_window(512 * 1024 * 1024);
/// ```
///
/// The methods take what they are given; whether it goes together is said by
/// [`QuicConfig::checked`], which everything that starts with a configuration calls: what harms is
/// corrected, and the log has a warning with the reason; what is impossible is an error.
///
/// Defaults are given for [`QuicConfig::auto`], then, where they differ, for
/// [`QuicConfig::lan_optimized`] and [`QuicConfig::wan_optimized`]. Memory is that of one
/// connection; what all of them have together is bounded by the budget of the process.
///
/// # Key exchange
/// Nothing is to be chosen. Two peers that both have it agree on X25519MLKEM768, so that what is
/// recorded today is not read by a quantum computer later; with a peer that has not, it is X25519,
/// without a further round trip. The client's first flight has two datagrams for it. A handshake
/// takes one datagram of 1,200 bytes more in each direction, 0.15 ms more of the client and 0.12 ms
/// of the server, resumed or not, and a daemon keeps 3 kB more of each stranger's
/// (`docs/performance.md`). TLS over TCP has X25519 alone.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct QuicConfig {
    pub(crate) stream_receive_window_bytes: u64,
    pub(crate) receive_window_bytes: u64,
    pub(crate) max_bidi_streams: u64,
    pub(crate) max_uni_streams: u64,
    pub(crate) initial_rtt: Duration,
    pub(crate) max_ack_delay: Duration,
    pub(crate) udp_payload_bytes: usize,
    pub(crate) mtu_discovery: bool,
    pub(crate) congestion_control: CongestionControl,
    /// What was asked for in place of that and is no name of one: an error where it is used.
    pub(super) unknown_congestion_control: Option<String>,
    pub(crate) initial_window_packets: usize,
    pub(crate) pacing: bool,
    pub(crate) idle_timeout: Duration,
    pub(crate) handshake_timeout: Duration,
    pub(crate) keep_alive: Duration,
    pub(crate) datagrams: bool,
    pub(crate) lane_packet_limit: u64,
    pub(crate) key_packet_limit: u64,
    pub(crate) key_record_limit: u64,
    pub(crate) diagnostics: Option<Arc<Diagnostics>>,
    pub(crate) rate_policy: Option<RatePolicies>,
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
            unknown_congestion_control: None,
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
            rate_policy: None,
        }
    }

    /// For the Internet: BBR2, paced; packets every path carries until discovery proves more. Its
    /// initial RTT of 50 ms is corrected where it is used, as with any BBR.
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

    /// Who decides how much is in flight, by name: `"bbr"` (its second version, also as `"bbr2"`),
    /// `"cubic"` or `"reno"`. Default: BBR; CUBIC on a LAN. Another name is an error of
    /// [`QuicConfig::checked`].
    ///
    /// Memory, of a sender: 0.67 kB for each packet in flight.
    ///
    /// Trap: CUBIC of quiche keeps a bottleneck's queue overflowing, and at 1 % random loss on a
    /// path of 50 ms it gets 1 % of the link, where BBR gets 76 %. BBR never recovers from an
    /// initial RTT far below the path's: see [`QuicConfig::initial_rtt`].
    pub fn congestion_control(mut self, name: &str) -> QuicConfig {
        match name.parse() {
            Ok(known) => {
                self.congestion_control = known;
                self.unknown_congestion_control = None;
            }
            Err(_) => self.unknown_congestion_control = Some(name.to_owned()),
        }
        self
    }

    /// Largest receive window of one stream, in bytes: what the peer may send in it that we have
    /// not read. Default: 16 MiB; 4 MiB on a WAN. It is advertised from the start, as far as the
    /// memory budget grants a window.
    ///
    /// Memory: 1.13 times itself for each stream in full packets, 1.5 times in small ones; all
    /// streams together are held to [`QuicConfig::receive_window`].
    ///
    /// Trap: a window above the connection's means nothing, and is corrected to it. quiche gives
    /// credit when half is used up, so a stream alone on a path needs several times what is on the
    /// way.
    pub fn stream_receive_window(mut self, bytes: u64) -> QuicConfig {
        self.stream_receive_window_bytes = bytes;
        self
    }

    /// Largest receive window of one connection, in bytes: what the peer may send in all streams
    /// that we have not read. Default: 32 MiB; 256 MiB on a LAN. It is advertised from the start,
    /// as far as the memory budget grants: the first connection may have half of what the budget
    /// has for windows.
    ///
    /// Memory: a quarter more than itself, and 4 MiB beside it; a peer that makes us keep more is
    /// disconnected.
    ///
    /// Trap: with 256 MiB one peer can make us hold 290 MB, and a budget of 64 MiB grants a
    /// fraction of it, whatever is said here.
    pub fn receive_window(mut self, bytes: u64) -> QuicConfig {
        self.receive_window_bytes = bytes;
        self
    }

    /// Bidirectional streams that the peer may have open at once. Default: 16; 256 by the profiles
    /// for LAN and WAN. A peer that has used half of them is allowed more as they end.
    ///
    /// Memory: 1.6 kB for each stream that is open, beside what is unread in it.
    ///
    /// Trap: each landro session needs one, the control stream: with 0 a daemon serves nobody.
    pub fn max_bidi_streams(mut self, streams: u64) -> QuicConfig {
        self.max_bidi_streams = streams;
        self
    }

    /// Unidirectional streams that the peer may have open at once: data, and the end of a lane.
    /// Default: 256; 512 by the profiles for LAN and WAN.
    ///
    /// Memory: as [`QuicConfig::max_bidi_streams`].
    ///
    /// Trap: a sender of small files opens many, and waits a round trip where they are few: 16 at
    /// once is what a transfer uses.
    pub fn max_uni_streams(mut self, streams: u64) -> QuicConfig {
        self.max_uni_streams = streams;
        self
    }

    /// The RTT assumed until the first is measured: a first packet that is lost is sent again after
    /// three times this. Default: 333 ms; 200 µs on a LAN, 50 ms on a WAN.
    ///
    /// Trap: BBR's smallest RTT is seeded with it and only ever falls: on a path of 200 ms a guess
    /// of 50 ms held it to 2 of 500 Mbit/s for ever. With BBR less than 333 ms is
    /// corrected to that, which costs it nothing anywhere.
    pub fn initial_rtt(mut self, rtt: Duration) -> QuicConfig {
        self.initial_rtt = rtt;
        self
    }

    /// How long we may delay an acknowledgement, as the peer is told; we send one for each batch
    /// that the kernel hands over. Default: 5 ms; 25 ms on a WAN. Below 16.384 s.
    ///
    /// Trap: QUIC says it in whole milliseconds, so that 200 µs would be told as none at all: it is
    /// rounded up. What the peer adds to the time after which it sends again is this.
    pub fn max_ack_delay(mut self, delay: Duration) -> QuicConfig {
        self.max_ack_delay = delay;
        self
    }

    /// UDP payload in bytes that is looked for wherever the interface allows it: packets are this
    /// large once the path has carried one, and 1,200 until then. 1,200 to 16,376; else it is
    /// corrected to the nearer one. Default: 1,472, a full Ethernet frame over IPv4 (IPv6 takes 20
    /// less); 1,200 on a WAN. With discovery on, an interface with larger frames has larger packets
    /// looked for.
    ///
    /// Memory: 64 KiB of packets in one message, whatever their size.
    ///
    /// Trap: without [`QuicConfig::mtu_discovery`] it is used unproven.
    pub fn udp_payload(mut self, bytes: usize) -> QuicConfig {
        self.udp_payload_bytes = bytes;
        self
    }

    /// Whether the path is probed for larger packets, first for what the interface carries.
    /// Default: yes.
    ///
    /// Trap: without it packets have [`QuicConfig::udp_payload`] from the handshake's end on. Where
    /// the path carries less, the handshake succeeds and nothing that follows arrives.
    pub fn mtu_discovery(mut self, is_on: bool) -> QuicConfig {
        self.mtu_discovery = is_on;
        self
    }

    /// Packets sent before the first acknowledgement. Default: 32; 100 on a LAN.
    ///
    /// Memory, of a sender: 0.67 kB a packet.
    ///
    /// Trap: with BBR it is also the smallest window ever used: where a queue held 64 kB, a window
    /// of 100 packets lost nine of ten for ever. quiche lets BBR have 20,000 packets at most, so
    /// more is corrected to that.
    pub fn initial_window(mut self, packets: usize) -> QuicConfig {
        self.initial_window_packets = packets;
        self
    }

    /// Whether BBR's release times are obeyed on paths with a round trip of
    /// 2 ms and more, and packets are held back where a LAN's queues overflow.
    /// Default: yes; no on a LAN.
    ///
    /// Trap: quiche has no release times with CUBIC and Reno; asked for with one of these, it is
    /// corrected to no.
    pub fn pacing(mut self, is_on: bool) -> QuicConfig {
        self.pacing = is_on;
        self
    }

    /// A connection that heard nothing for this long is over, whatever carries it. Default: 60 s.
    /// At most 24 days; the shorter of both sides' counts.
    ///
    /// Memory: what an idle connection keeps, 24 to 62 kB, until then.
    ///
    /// Trap: quiche waits three probe timeouts at least, 3 s until the first RTT is measured. With
    /// [`QuicConfig::keep_alive`] not below it, every pause would end the connection: that is an
    /// error.
    pub fn idle_timeout(mut self, timeout: Duration) -> QuicConfig {
        self.idle_timeout = timeout;
        self
    }

    /// A handshake that has not ended after this long is given up. Default: 10 s, in which a first
    /// packet is sent four times. At most the idle timeout, to which it is corrected.
    ///
    /// Memory: at most 64 KiB and BoringSSL's 20 KiB for each handshake until then.
    ///
    /// Trap: a first packet that is lost is sent again after three times the initial RTT, 1 s by
    /// default: below that, one lost packet is a failure.
    pub fn handshake_timeout(mut self, timeout: Duration) -> QuicConfig {
        self.handshake_timeout = timeout;
        self
    }

    /// Silence after which an acknowledgement is asked for. Default: 5 s. At least 1 ms, and less
    /// than the idle timeout.
    ///
    /// Trap: it is also what finds a path that came back, and what keeps a NAT's mapping, which
    /// many forget after 30 s.
    pub fn keep_alive(mut self, silence: Duration) -> QuicConfig {
        self.keep_alive = silence;
        self
    }

    /// DATAGRAM frames (RFC 9221). Default: yes.
    ///
    /// Memory: 8 of them in each direction, each at most a packet; older ones are dropped.
    ///
    /// Trap: without them no peer is followed to another address: a NAT that forgets it, or another
    /// network, ends the connection.
    pub fn datagrams(mut self, is_on: bool) -> QuicConfig {
        self.datagrams = is_on;
        self
    }

    /// Packets in one direction after which a lane is to be replaced by a fresh connection.
    /// Default: 2^22, half of what a key may seal.
    ///
    /// Trap: the other half is the time that the replacement has; above
    /// [`QuicConfig::key_packet_limit`] it would never come in time, which is an error.
    pub fn lane_packet_limit(mut self, packets: u64) -> QuicConfig {
        self.lane_packet_limit = packets;
        self
    }

    /// Packets sent after which a lane that was not replaced is closed. Default, and most: 2^23, as
    /// AES-GCM's keys are worn then (RFC 9001 §6.6) and quiche never makes new ones: 12 GB in
    /// packets of 1,472 bytes.
    ///
    /// Trap: streams of an application that are on such a connection end with it.
    pub fn key_packet_limit(mut self, packets: u64) -> QuicConfig {
        self.key_packet_limit = packets;
        self
    }

    /// Records after which TLS over TCP renews a key, without a pause. Default, and most: 2^24.
    ///
    /// Trap: each renewal is a record of its own, so a low limit costs speed.
    pub fn key_record_limit(mut self, records: u64) -> QuicConfig {
        self.key_record_limit = records;
        self
    }

    /// Where TLS secrets and qlog of connections are written, if anywhere. Default: nowhere.
    ///
    /// Trap: who has the secrets reads everything; and a qlog has a line for each packet.
    pub fn diagnostics(mut self, diagnostics: Option<Arc<Diagnostics>>) -> QuicConfig {
        self.diagnostics = diagnostics;
        self
    }

    /// What bounds the packets of each connection besides congestion control: `make` is called once
    /// for each, by the worker that has it. [`FixedRate`](super::FixedRate) is one that is there.
    /// Default: none.
    ///
    /// Trap: it bounds connections one by one, and only what this side sends; policies that are to
    /// bound several together have to share what they count. Where transfers are embedded, lanes
    /// over TCP are not bounded by it: `TransferOptions::bwlimit_bps` bounds a transfer as a whole.
    pub fn rate_policy<P: RatePolicy + 'static>(
        mut self,
        make: impl Fn() -> P + Send + Sync + 'static,
    ) -> QuicConfig {
        self.rate_policy = Some(RatePolicies::new(make));
        self
    }
}

impl Default for QuicConfig {
    fn default() -> QuicConfig {
        QuicConfig::auto()
    }
}
