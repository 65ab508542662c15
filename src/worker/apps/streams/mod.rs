//! Streams and datagrams for programs that embed this library: what ties connections with handles
//! to the parts of a worker.

mod connecting;
mod early;
mod turns;

pub(crate) use connecting::Dials;
