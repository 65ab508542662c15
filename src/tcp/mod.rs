//! One TLS 1.3 connection over TCP, without I/O and without a clock: bytes in, bytes out, streams.
//! Only this directory names rustls.
//!
//! rustls makes the handshake and derives keys; records are sealed and opened here, in place, by
//! BoringSSL: rustls's own data path copies twice. Inside the TLS byte stream are frames
//! (docs/protocol.md): streams with credit, as QUIC has them, so that a lane is a lane.

mod channel;
mod clear;
mod conn;
mod fault;
mod frame;
#[cfg(feature = "fuzzing")]
mod fuzzing;
mod hands;
mod handshake;
mod in_kernel;
mod inbox;
mod pin;
mod read_streams;
mod receiving;
mod record;
mod sealing;
mod setup;
mod spare;
mod unsealed;
mod write_streams;

#[cfg(test)]
mod tests;

#[cfg(feature = "fuzzing")]
use write_streams::Beside;

pub use clear::{ClearLane, ClearPass, ClearPasses};
pub use conn::{TcpConn, TcpWindows};
#[cfg(feature = "fuzzing")]
pub use fuzzing::is_taken_in_the_clear;
pub use in_kernel::KernelStep;
pub use setup::{TcpLimits, TcpSetup, TcpSetupError};

/// The one stream of both directions.
pub const CONTROL_STREAM: u64 = 0;

/// One-way streams that a side may have open at a time: opened, and not known to be read out.
const MAX_STREAMS: usize = 64;

/// What the control stream may carry in each direction before its first credit.
const INITIAL_CONTROL_BYTES: u64 = 32 << 10;

/// Gives back the large buffers that this thread's connections take turns with.
pub fn forget_spares() {
    inbox::forget_spares();
    sealing::forget_spares();
}

/// Never opened, of the other direction, or finished and forgotten.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("no such stream")]
pub struct UnknownStream;

/// What a server holds that takes `data` for the frames of a client, so many bytes at a time, reads
/// every other time, and answers.
#[cfg(feature = "fuzzing")]
pub fn held_after(data: &[u8], cut: usize, window_bytes: u64) -> usize {
    let mut channel = channel::Channel::new(true, window_bytes, window_bytes);
    let (mut answers, mut out) = (Vec::new(), [0; 100]);
    for (at, part) in data.chunks(cut.max(1)).enumerate() {
        answers.clear();
        channel.fill(&mut answers, record::MAX_PLAIN_BYTES, Beside::Pipes);
        assert!(answers.len() <= record::MAX_PLAIN_BYTES);
        if !matches!(channel.take(part, 0..part.len()), Ok(None)) {
            break;
        }
        while at % 2 == 0
            && let Some(stream) = channel.reads.readable_next()
        {
            while let Some(Some((_, false))) = channel.reads.read(stream, part, &mut out) {}
        }
        channel.reads.vacate(part);
    }
    channel.held_bytes()
}
