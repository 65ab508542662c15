//! What an errno of a receive says: of the moment, of the peer, or of the socket itself.

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
