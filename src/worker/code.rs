//! Application error codes of CONNECTION_CLOSE (docs/protocol.md).

pub(crate) const DONE: u64 = 0;
pub(crate) const VIOLATION: u64 = 1;
pub(crate) const UNAUTHORISED: u64 = 2;
pub(crate) const TIMEOUT: u64 = 3;
pub(crate) const SHUTDOWN: u64 = 4;
pub(crate) const NO_SESSION: u64 = 5;
pub(crate) const BUSY: u64 = 6;
pub(crate) const REPLACED: u64 = 7;
// 8 is `crate::quic::KEY_SPENT`, which the transport says by itself.
pub(crate) const TOO_MUCH: u64 = 9;
