//! The protocols that run on connections, each with what ties it to the parts of a worker.

pub(super) mod streams;
mod transfer;
