//! The protocols that run on connections, each with what ties it to the parts of a worker.

mod transfer;
