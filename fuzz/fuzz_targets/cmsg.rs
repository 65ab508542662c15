//! Control messages and socket addresses of a received datagram, lengths and all, are what anybody
//! wrote there.
#![no_main]

use std::net::{IpAddr, Ipv6Addr};

use landro_sys::fuzzing::{control_messages, control_part, socket_address};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let (to, segment_bytes) = control_messages(data);
    assert!(segment_bytes.is_none_or(|bytes| bytes <= i32::MAX as usize));
    if let Some(IpAddr::V6(ip)) = to {
        assert_eq!(ip.to_ipv4_mapped(), None, "a v4 address in v6 clothes");
    }
    if let Some(address) = socket_address(data) {
        assert!(address.is_ipv4() || data.len() >= 28);
        assert_eq!(address.ip(), address.ip().to_canonical());
    }
    // Behind what the kernel wrote, the fuzzer's bytes change nothing that was said before.
    let source = data
        .first_chunk::<16>()
        .map_or(Ipv6Addr::LOCALHOST, |raw| Ipv6Addr::from(*raw));
    let written = control_part(1200, IpAddr::V6(source));
    assert_eq!(
        control_messages(&written).0,
        Some(IpAddr::V6(source).to_canonical())
    );
    let _ = control_messages(&[&written, data].concat());
});
