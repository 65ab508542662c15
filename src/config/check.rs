//! Whether the values of a configuration go together: what is impossible is refused, what harms is
//! corrected, and each correction says why.

use std::fmt;
use std::time::Duration;

use super::{
    BBR_SAFE_INITIAL_RTT, ConfigError, CongestionControl, KEY_PACKET_LIMIT, KEY_RECORD_LIMIT,
    MAX_UDP_PAYLOAD_BYTES, MIN_UDP_PAYLOAD_BYTES, QuicConfig,
};

/// Largest number that QUIC writes (RFC 9000 §16).
const MAX_VARINT: u64 = (1 << 62) - 1;

/// Streams of one kind that there can be: a peer takes more for an error (RFC 9000 §4.6).
const MAX_STREAMS: u64 = 1 << 60;

/// Longest delay of an acknowledgement that a peer takes for none (RFC 9000 §18.2).
const MAX_ACK_DELAY: Duration = Duration::from_millis((1 << 14) - 1);

/// Longest of our timeouts: the kernel takes TCP_USER_TIMEOUT, which the idle timeout becomes on
/// TCP, as milliseconds in an int (do_tcp_setsockopt in net/ipv4/tcp.c). Far below what a clock can
/// count.
const MAX_TIMEOUT: Duration = Duration::from_millis(i32::MAX as u64);

/// The shortest time that QUIC's timeouts are told in; 0 would mean for ever.
const MIN_TIMEOUT: Duration = Duration::from_millis(1);

/// Packets beyond which quiche's BBR2 has no window (MAX_WINDOW_PACKETS in
/// recovery/gcongestion/recovery.rs).
const MAX_WINDOW_PACKETS: usize = 20_000;

/// A value that was asked for, and what is used in its place.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Correction {
    /// Which value, as its method of [`QuicConfig`] is called.
    pub what: &'static str,
    /// As it was asked for.
    pub from: String,
    /// As it is used.
    pub to: String,
    /// The reason in one sentence.
    pub why: &'static str,
}

impl fmt::Display for Correction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Correction {
            what,
            from,
            to,
            why,
        } = self;
        write!(f, "{what} is {to} instead of {from}: {why}")
    }
}

impl QuicConfig {
    /// The configuration as it is used, and what was corrected in it. Whoever starts something with
    /// a configuration calls this and logs the corrections; a second call corrects nothing.
    ///
    /// # Errors
    /// A name is unknown, or no connection can have a value.
    pub fn checked(mut self) -> Result<(QuicConfig, Vec<Correction>), ConfigError> {
        if let Some(name) = self.unknown_congestion_control.take() {
            return Err(ConfigError::CongestionControl(name));
        }
        self.refuse_impossible_sizes()?;
        self.refuse_impossible_times()?;
        self.refuse_impossible_keys()?;
        let corrections = self.correct();
        Ok((self, corrections))
    }

    /// Whether peers that send early, which know what this host allowed them before, are allowed as
    /// much as they send without asking.
    ///
    /// # Errors
    /// They are not.
    pub(crate) fn checked_for_early(&self, bytes: u64, streams: u64) -> Result<(), ConfigError> {
        for (what, window) in [
            ("stream_receive_window", self.stream_receive_window_bytes),
            ("receive_window", self.receive_window_bytes),
        ] {
            let why = "with accept_early a peer sends 16 KiB before it hears from us; let it be \
                       that or more, or leave accept_early off";
            refuse(what, window, window < bytes, why)?;
        }
        for (what, most) in [
            ("max_bidi_streams", self.max_bidi_streams),
            ("max_uni_streams", self.max_uni_streams),
        ] {
            let why = "with accept_early a peer opens 8 streams before it hears from us; let it be \
                       that or more, none at all, or leave accept_early off";
            refuse(what, most, (1..streams).contains(&most), why)?;
        }
        Ok(())
    }

    fn refuse_impossible_sizes(&self) -> Result<(), ConfigError> {
        for (what, bytes) in [
            ("stream_receive_window", self.stream_receive_window_bytes),
            ("receive_window", self.receive_window_bytes),
        ] {
            refuse(what, bytes, bytes == 0, "the peer could not send a byte")?;
            let why = "QUIC counts to 2^62 - 1, and memory ends long before";
            refuse(what, bytes, bytes > MAX_VARINT, why)?;
        }
        for (what, streams) in [
            ("max_bidi_streams", self.max_bidi_streams),
            ("max_uni_streams", self.max_uni_streams),
        ] {
            let why = "QUIC has 2^60 streams of a kind, and a peer refuses more";
            refuse(what, streams, streams > MAX_STREAMS, why)?;
        }
        let has_no_streams = self.max_bidi_streams == 0 && self.max_uni_streams == 0;
        let why = "with max_uni_streams 0, too, the peer could send nothing at all";
        refuse("max_bidi_streams", 0, has_no_streams, why)?;
        let packets = self.initial_window_packets;
        let why = "not even the first packet could leave";
        refuse("initial_window", packets, packets == 0, why)
    }

    fn refuse_impossible_times(&self) -> Result<(), ConfigError> {
        for (what, time) in [
            ("idle_timeout", self.idle_timeout),
            ("handshake_timeout", self.handshake_timeout),
            ("keep_alive", self.keep_alive),
        ] {
            let why = "the shortest time that can be told and waited for is 1 ms";
            refuse_time(what, time, time < MIN_TIMEOUT, why)?;
            let why = "the kernel waits 24 days at most";
            refuse_time(what, time, time > MAX_TIMEOUT, why)?;
        }
        let is_idle_first = self.idle_timeout <= self.keep_alive;
        let why = "it has to be longer than keep_alive, or every pause ends the connection";
        refuse_time("idle_timeout", self.idle_timeout, is_idle_first, why)?;
        let is_too_late = self.max_ack_delay > MAX_ACK_DELAY;
        let why = "a peer refuses 2^14 ms and more";
        refuse_time("max_ack_delay", self.max_ack_delay, is_too_late, why)
    }

    fn refuse_impossible_keys(&self) -> Result<(), ConfigError> {
        let (lane, key) = (self.lane_packet_limit, self.key_packet_limit);
        let why = "the lane would be replaced before its first packet";
        refuse("lane_packet_limit", lane, lane == 0, why)?;
        let why = "the key would be spent before the lane is replaced; let key_packet_limit be \
                   twice as much";
        refuse("lane_packet_limit", lane, lane > key, why)?;
        let why = "a key of AES-GCM is safe for 2^23 packets (RFC 9001 §6.6)";
        refuse("key_packet_limit", key, key > KEY_PACKET_LIMIT, why)?;
        let records = self.key_record_limit;
        let is_unsafe = !(1..=KEY_RECORD_LIMIT).contains(&records);
        let why = "a key is renewed after 1 to 2^24 records (RFC 8446 §5.5)";
        refuse("key_record_limit", records, is_unsafe, why)
    }

    fn correct(&mut self) -> Vec<Correction> {
        let mut made = Vec::new();
        let rtt = self.effective_initial_rtt();
        let why = "BBR never recovers from a guess below the path's RTT, and a larger one costs it \
                   nothing";
        correct(&mut made, "initial_rtt", &mut self.initial_rtt, rtt, why);

        let is_paced = self.pacing && self.congestion_control == CongestionControl::Bbr2;
        let why = "only BBR says when a packet is to leave";
        correct(&mut made, "pacing", &mut self.pacing, is_paced, why);

        let window = &mut self.initial_window_packets;
        let most = MAX_WINDOW_PACKETS.min(*window);
        let why = "quiche's BBR never has more packets in flight, and no path takes them at once";
        correct(&mut made, "initial_window", window, most, why);

        let most = self.receive_window_bytes;
        let window = &mut self.stream_receive_window_bytes;
        let most = most.min(*window);
        let why = "all streams together are held to receive_window";
        correct(&mut made, "stream_receive_window", window, most, why);

        let payload = &mut self.udp_payload_bytes;
        let nearest = (*payload).clamp(MIN_UDP_PAYLOAD_BYTES, MAX_UDP_PAYLOAD_BYTES);
        let why = "QUIC wants 1200 bytes of every path, and quiche writes no length above 16383, \
                   four of which are to fit a message";
        correct(&mut made, "udp_payload", payload, nearest, why);
        self.correct_times(&mut made);
        made
    }

    fn correct_times(&mut self, made: &mut Vec<Correction>) {
        let delay = in_whole_milliseconds(self.max_ack_delay);
        let why = "QUIC tells it in whole milliseconds, and less than what we take would have the \
                   peer send again too soon";
        correct(made, "max_ack_delay", &mut self.max_ack_delay, delay, why);

        let idle = in_whole_milliseconds(self.idle_timeout);
        let why = "QUIC tells it in whole milliseconds";
        correct(made, "idle_timeout", &mut self.idle_timeout, idle, why);

        let idle = self.idle_timeout;
        let handshake = &mut self.handshake_timeout;
        let most = idle.min(*handshake);
        let why = "a handshake that hears nothing ends with idle_timeout";
        correct(made, "handshake_timeout", handshake, most, why);
    }

    /// The initial RTT that is used: never below [`BBR_SAFE_INITIAL_RTT`] with BBR2, whatever was
    /// asked.
    pub(super) fn effective_initial_rtt(&self) -> Duration {
        match self.congestion_control {
            CongestionControl::Bbr2 => self.initial_rtt.max(BBR_SAFE_INITIAL_RTT),
            CongestionControl::Cubic | CongestionControl::Reno => self.initial_rtt,
        }
    }
}

fn in_whole_milliseconds(time: Duration) -> Duration {
    let down = Duration::from_millis(time.as_millis() as u64);
    match down == time {
        true => time,
        false => down + Duration::from_millis(1),
    }
}

fn refuse(
    what: &'static str,
    value: impl fmt::Display,
    is_impossible: bool,
    why: &'static str,
) -> Result<(), ConfigError> {
    match is_impossible {
        true => Err(ConfigError::Impossible {
            what,
            value: value.to_string(),
            why,
        }),
        false => Ok(()),
    }
}

fn refuse_time(
    what: &'static str,
    time: Duration,
    is_impossible: bool,
    why: &'static str,
) -> Result<(), ConfigError> {
    refuse(what, format_args!("{time:?}"), is_impossible, why)
}

/// Puts `to` in the place of a value, and writes down that it did, if the two differ.
fn correct<T: PartialEq + Copy + fmt::Debug>(
    made: &mut Vec<Correction>,
    what: &'static str,
    value: &mut T,
    to: T,
    why: &'static str,
) {
    if *value != to {
        made.push(Correction {
            what,
            from: format!("{value:?}"),
            to: format!("{to:?}"),
            why,
        });
        *value = to;
    }
}

#[cfg(test)]
mod tests;
