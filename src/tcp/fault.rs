//! What a peer did wrong: against TLS, which is answered with an alert, or against our frames; and
//! what others did on the way, where nothing hides the bytes.

/// TLS alerts (RFC 8446 §6) that are said of records; those of handshakes are rustls's to say.
pub(super) mod alert {
    pub const CLOSE_NOTIFY: u8 = 0;
    pub const UNEXPECTED_MESSAGE: u8 = 10;
    pub const BAD_RECORD_MAC: u8 = 20;
    pub const RECORD_OVERFLOW: u8 = 22;
    pub const DECODE_ERROR: u8 = 50;
    pub const INTERNAL_ERROR: u8 = 80;
    pub const USER_CANCELED: u8 = 90;
}

/// A rule that was broken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fault {
    Tls {
        alert: u8,
        what: &'static str,
    },
    Frames(&'static str),
    /// Not the peer's: somebody on the wire of a lane in the clear.
    Wire(&'static str),
}

impl Fault {
    pub fn tls(alert: u8, what: &'static str) -> Fault {
        Fault::Tls { alert, what }
    }
}
