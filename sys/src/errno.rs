//! What an errno of a datagram socket says: of the moment, of the peer, of the way, or of the
//! socket itself.

use std::io;

/// Whether an error says something about a past send or the moment, not about the socket: ICMP
/// messages that were queued on it, memory pressure, interruptions. The next receive may succeed.
pub(crate) fn is_transient(errno: i32) -> bool {
    is_refusal(errno)
        || matches!(
            errno,
            libc::ECONNRESET
                | libc::EHOSTDOWN
                | libc::ENETUNREACH
                | libc::ENETDOWN
                | libc::EPROTO
                | libc::EOPNOTSUPP
                | libc::EMSGSIZE
                | libc::EPERM
                | libc::EINTR
                | libc::EAGAIN
                | libc::ENOMEM
                | libc::ENOBUFS
                | libc::ECANCELED
        )
}

/// Whether the peer's host, or somebody on the way, rejects what is sent (ICMP): a closed port, or
/// a firewall's word. The kernel tells connected sockets alone.
pub(crate) fn is_refusal(errno: i32) -> bool {
    matches!(
        errno,
        libc::ECONNREFUSED | libc::EHOSTUNREACH | libc::EACCES | libc::ENOPROTOOPT
    )
}

/// Whether a send failed because this host has no way to the peer, or has another one than the
/// socket was connected by. EINVAL: the address that packets are to leave from is nobody's any
/// more.
pub fn is_of_the_way(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::EINVAL
                | libc::EADDRNOTAVAIL
                | libc::ENETUNREACH
                | libc::ENETDOWN
                | libc::EHOSTUNREACH
                | libc::ENODEV
        )
    )
}

/// Whether a datagram is larger than the interface, or what ICMP said of the path, lets through.
pub fn is_too_large(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EMSGSIZE)
}
