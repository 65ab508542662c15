//! Each rule at its edge: what is refused, what is corrected, and what is just possible.

use super::super::{KEY_PACKET_LIMIT, LANE_PACKET_LIMIT};
use super::*;

/// The only correction of a configuration.
fn only(config: QuicConfig) -> (QuicConfig, Correction) {
    let (used, mut corrections) = config.checked().unwrap();
    assert_eq!(corrections.len(), 1, "{corrections:?}");
    let again = used.clone().checked().unwrap();
    assert_eq!(again, (used.clone(), Vec::new()), "what is used is right");
    let correction = corrections.remove(0);
    assert!(!correction.why.ends_with('.') && correction.why.len() > 10);
    (used, correction)
}

/// What is refused, and the text of it.
fn refused(config: QuicConfig) -> (&'static str, String) {
    let error = config.checked().unwrap_err();
    match &error {
        ConfigError::Impossible { what, .. } => (what, error.to_string()),
        other => panic!("{other:?}"),
    }
}

fn lan() -> QuicConfig {
    QuicConfig::lan_optimized()
}

#[test]
fn the_profiles_go_together_but_for_a_value_of_the_specification() {
    for config in [lan(), QuicConfig::auto()] {
        assert_eq!(config.clone().checked(), Ok((config, Vec::new())));
    }
    let (used, correction) = only(QuicConfig::wan_optimized());
    assert_eq!(used.initial_rtt, BBR_SAFE_INITIAL_RTT);
    assert_eq!(
        used,
        QuicConfig::wan_optimized().initial_rtt(BBR_SAFE_INITIAL_RTT)
    );
    let text = correction.to_string();
    assert!(
        text.starts_with("initial_rtt is 333ms instead of 50ms: BBR"),
        "{text}"
    );
}

#[test]
fn the_chain_of_the_specification_is_taken_with_one_correction() {
    let config = QuicConfig::lan_optimized()
        .congestion_control("bbr")
        .stream_receive_window(32 * 1024 * 1024)
        .receive_window(512 * 1024 * 1024);
    let (used, correction) = only(config);
    assert_eq!(used.congestion_control, CongestionControl::Bbr2);
    assert_eq!(
        (correction.what, &*correction.from),
        ("initial_rtt", "200µs")
    );
}

#[test]
fn an_unknown_name_is_an_error_that_lists_the_known_ones() {
    let unknown = lan().congestion_control("vegas");
    let error = unknown.clone().checked().unwrap_err();
    assert_eq!(error, ConfigError::CongestionControl("vegas".to_owned()));
    assert_eq!(
        error.to_string(),
        "unknown congestion control \"vegas\": bbr, cubic or reno"
    );
    // The last word counts.
    let (used, _) = unknown.congestion_control("reno").checked().unwrap();
    assert_eq!(used.congestion_control, CongestionControl::Reno);
}

#[test]
fn what_harms_is_corrected_and_said() {
    let (used, said) = only(lan().stream_receive_window(9 << 20).receive_window(8 << 20));
    assert_eq!(used.stream_receive_window_bytes, 8 << 20);
    assert_eq!((&*said.from, &*said.to), ("9437184", "8388608"));

    for (typed, used_micros) in [(200, 1_000), (1_001, 2_000), (16_382_001, 16_383_000)] {
        let (used, said) = only(lan().max_ack_delay(Duration::from_micros(typed)));
        assert_eq!(said.what, "max_ack_delay");
        assert_eq!(used.max_ack_delay, Duration::from_micros(used_micros));
    }
    for (typed, used_bytes) in [
        (0, 1_200),
        (1_199, 1_200),
        (16_377, 16_376),
        (65_000, 16_376),
    ] {
        let (used, said) = only(lan().udp_payload(typed));
        assert_eq!(
            (said.what, used.udp_payload_bytes),
            ("udp_payload", used_bytes)
        );
    }
    for name in ["cubic", "reno"] {
        let (used, said) = only(QuicConfig::auto().congestion_control(name));
        assert_eq!((said.what, used.pacing), ("pacing", false));
    }
    let (used, said) = only(lan().initial_window(20_001));
    assert_eq!(
        (said.what, used.initial_window_packets),
        ("initial_window", 20_000)
    );

    let (used, said) = only(lan().idle_timeout(Duration::from_micros(60_000_001)));
    assert_eq!(said.what, "idle_timeout");
    assert_eq!(used.idle_timeout, Duration::from_millis(60_001));

    let short = Duration::from_secs(7);
    let (used, said) = only(lan().idle_timeout(short));
    assert_eq!(
        (said.what, used.handshake_timeout),
        ("handshake_timeout", short)
    );
}

#[test]
fn several_corrections_are_each_told() {
    let config = QuicConfig::wan_optimized()
        .receive_window(1 << 20)
        .udp_payload(9_000)
        .max_ack_delay(Duration::from_micros(1));
    let (_, said) = config.checked().unwrap();
    let said: Vec<_> = said.iter().map(|said| said.what).collect();
    assert_eq!(
        said,
        ["initial_rtt", "stream_receive_window", "max_ack_delay"]
    );
}

#[test]
fn what_no_connection_can_have_is_refused() {
    let (ms, long) = (
        Duration::from_millis,
        MAX_TIMEOUT + Duration::from_millis(1),
    );
    for (config, expected) in [
        (lan().stream_receive_window(0), "stream_receive_window"),
        (lan().receive_window(0), "receive_window"),
        (
            lan().stream_receive_window(1 << 62),
            "stream_receive_window",
        ),
        (lan().receive_window(u64::MAX), "receive_window"),
        (
            lan().max_bidi_streams(0).max_uni_streams(0),
            "max_bidi_streams",
        ),
        (lan().max_bidi_streams(MAX_STREAMS + 1), "max_bidi_streams"),
        (lan().max_uni_streams(u64::MAX), "max_uni_streams"),
        (lan().initial_window(0), "initial_window"),
        (lan().idle_timeout(Duration::ZERO), "idle_timeout"),
        (lan().idle_timeout(long), "idle_timeout"),
        (lan().idle_timeout(Duration::from_secs(5)), "idle_timeout"),
        (lan().keep_alive(Duration::from_secs(61)), "idle_timeout"),
        (lan().keep_alive(Duration::from_micros(999)), "keep_alive"),
        (lan().handshake_timeout(Duration::ZERO), "handshake_timeout"),
        (lan().handshake_timeout(Duration::MAX), "handshake_timeout"),
        (lan().max_ack_delay(ms(16_384)), "max_ack_delay"),
        (lan().lane_packet_limit(0), "lane_packet_limit"),
        (
            lan().lane_packet_limit(KEY_PACKET_LIMIT + 1),
            "lane_packet_limit",
        ),
        (
            lan().key_packet_limit(LANE_PACKET_LIMIT - 1),
            "lane_packet_limit",
        ),
        (
            lan().key_packet_limit(KEY_PACKET_LIMIT + 1),
            "key_packet_limit",
        ),
        (lan().key_record_limit(0), "key_record_limit"),
        (
            lan().key_record_limit(KEY_RECORD_LIMIT + 1),
            "key_record_limit",
        ),
    ] {
        let (what, text) = refused(config);
        assert_eq!(what, expected, "{text}");
    }
    let (_, text) = refused(lan().idle_timeout(Duration::from_secs(5)));
    assert_eq!(
        text,
        "idle_timeout cannot be 5s: it has to be longer than keep_alive, or every pause ends the \
         connection"
    );
}

#[test]
fn what_is_just_possible_is_taken_as_it_is() {
    let config = lan()
        .receive_window(MAX_VARINT)
        .stream_receive_window(1)
        .max_bidi_streams(0)
        .max_uni_streams(MAX_STREAMS)
        .initial_window(1)
        .initial_rtt(Duration::from_micros(1))
        .max_ack_delay(Duration::ZERO)
        .udp_payload(MIN_UDP_PAYLOAD_BYTES)
        .mtu_discovery(false)
        .datagrams(false)
        .keep_alive(MIN_TIMEOUT)
        .idle_timeout(MIN_TIMEOUT * 2)
        .handshake_timeout(MIN_TIMEOUT)
        .lane_packet_limit(1)
        .key_packet_limit(1)
        .key_record_limit(1)
        .diagnostics(None);
    assert_eq!(config.clone().checked(), Ok((config, Vec::new())));
}
