//! What the kernel knows of a TCP connection: TCP_INFO (include/uapi/linux/tcp.h) and its queue.

use std::io;
use std::os::fd::RawFd;
use std::time::Duration;

/// include/uapi/linux/sockios.h; libc has it for some targets only.
const SIOCOUTQNSD: libc::c_ulong = 0x894B;

/// States of include/net/tcp_states.h that are none of a connection.
const TCP_SYN_SENT: u8 = 2;
const TCP_SYN_RECV: u8 = 3;
const TCP_CLOSE: u8 = 7;

/// What the kernel knows of a connection now. Zero where it is too old to say.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TcpInfo {
    /// The smoothed round trip.
    pub rtt: Duration,
    /// The shortest round trip of the last minutes; `None` before the first.
    pub min_rtt: Option<Duration>,
    /// What a full packet carries.
    pub mss_bytes: u32,
    /// The congestion window, in packets.
    pub cwnd_packets: u32,
    /// Sent and not acknowledged, in packets.
    pub unacknowledged_packets: u32,
    /// How often the first of those was repeated in vain, each time after twice as long.
    pub repeats: u32,
    /// Those of them taken for lost.
    pub lost_packets: u32,
    /// Packets sent again since the connection began.
    pub retransmitted_packets: u32,
    /// Bytes that the peer's kernel acknowledged.
    pub acknowledged_bytes: u64,
    /// Bytes that came in order.
    pub received_bytes: u64,
    /// What was delivered of late, in bytes per second.
    pub delivery_rate: u64,
    /// How long the peer's window alone held back what there was to send.
    pub window_limited: Duration,
    /// How long a full send buffer alone held it back.
    pub buffer_limited: Duration,
}

/// struct tcp_info as of Linux 5.4. The kernel writes as much of it as it knows.
#[repr(C)]
#[derive(Default)]
struct RawTcpInfo {
    state: u8,
    ca_state: u8,
    retransmits: u8,
    probes: u8,
    backoff: u8,
    options: u8,
    window_scales: u8,
    app_limited: u8,
    rto: u32,
    ato: u32,
    snd_mss: u32,
    rcv_mss: u32,
    unacked: u32,
    sacked: u32,
    lost: u32,
    retrans: u32,
    fackets: u32,
    last_data_sent: u32,
    last_ack_sent: u32,
    last_data_recv: u32,
    last_ack_recv: u32,
    pmtu: u32,
    rcv_ssthresh: u32,
    rtt: u32,
    rttvar: u32,
    snd_ssthresh: u32,
    snd_cwnd: u32,
    advmss: u32,
    reordering: u32,
    rcv_rtt: u32,
    rcv_space: u32,
    total_retrans: u32,
    pacing_rate: u64,
    max_pacing_rate: u64,
    bytes_acked: u64,
    bytes_received: u64,
    segs_out: u32,
    segs_in: u32,
    notsent_bytes: u32,
    min_rtt: u32,
    data_segs_in: u32,
    data_segs_out: u32,
    delivery_rate: u64,
    busy_time: u64,
    rwnd_limited: u64,
    sndbuf_limited: u64,
}

impl RawTcpInfo {
    fn of(fd: RawFd) -> io::Result<RawTcpInfo> {
        let mut raw = RawTcpInfo::default();
        let mut len = size_of::<RawTcpInfo>() as libc::socklen_t;
        // SAFETY: the kernel writes at most `len` bytes, the size of a struct of integers without
        // padding that outlives the call.
        let result = unsafe {
            libc::getsockopt(
                fd,
                libc::IPPROTO_TCP,
                libc::TCP_INFO,
                (&raw mut raw).cast(),
                &raw mut len,
            )
        };
        match result {
            0 => Ok(raw),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

impl TcpInfo {
    pub(super) fn of(fd: RawFd) -> io::Result<TcpInfo> {
        let raw = RawTcpInfo::of(fd)?;
        let micros = |micros: u32| Duration::from_micros(micros.into());
        Ok(TcpInfo {
            rtt: micros(raw.rtt),
            // All ones until there is a sample, and 0 before Linux 4.6.
            min_rtt: Some(raw.min_rtt)
                .filter(|&min| min != 0 && min != u32::MAX)
                .map(micros),
            mss_bytes: raw.snd_mss,
            cwnd_packets: raw.snd_cwnd,
            unacknowledged_packets: raw.unacked,
            repeats: raw.retransmits.into(),
            lost_packets: raw.lost,
            retransmitted_packets: raw.total_retrans,
            acknowledged_bytes: raw.bytes_acked,
            received_bytes: raw.bytes_received,
            delivery_rate: raw.delivery_rate,
            window_limited: Duration::from_micros(raw.rwnd_limited),
            buffer_limited: Duration::from_micros(raw.sndbuf_limited),
        })
    }
}

/// Whether a connection is there, or on the way.
pub(super) fn is_connected(fd: RawFd) -> io::Result<bool> {
    match RawTcpInfo::of(fd)?.state {
        TCP_SYN_SENT | TCP_SYN_RECV => Ok(false),
        TCP_CLOSE => Err(io::ErrorKind::NotConnected.into()),
        _ => Ok(true),
    }
}

pub(super) fn unsent_bytes(fd: RawFd) -> io::Result<usize> {
    queued(fd, SIOCOUTQNSD)
}

pub(super) fn unacknowledged_bytes(fd: RawFd) -> io::Result<usize> {
    // SIOCOUTQ is the terminal's number (include/uapi/linux/sockios.h).
    queued(fd, libc::TIOCOUTQ as libc::c_ulong)
}

fn queued(fd: RawFd, request: libc::c_ulong) -> io::Result<usize> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: both requests write one int, which outlives the call.
    let result = unsafe { libc::ioctl(fd, request as _, &raw mut bytes) };
    match result {
        0 => Ok(usize::try_from(bytes).unwrap_or(0)),
        _ => Err(io::Error::last_os_error()),
    }
}
