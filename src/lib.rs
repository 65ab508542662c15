//! landro: a Linux-specialised engine that moves files between hosts over QUIC on io_uring.
//!
//! The layers, from the top: [`cli`] and [`daemon`] are what people run; [`engine`] starts the
//! workers of a process; [`worker`] is one thread with one ring, where kernel, QUIC and transfer
//! meet; [`proto`] is the transfer protocol without I/O; [`quic`] and [`tcp`] are the transports;
//! `landro_sys` is the kernel. `docs/architecture.md` draws it.
//!
//! The API is [`engine`], [`config`], and in [`api`] what programs use beside them. What is below
//! is public only with the feature `internals`, which is for tests and benches and promises
//! nothing.
#![forbid(unsafe_code)]

pub mod api;
#[cfg(feature = "internals")]
pub mod budget;
#[cfg(not(feature = "internals"))]
mod budget;
mod carrier;
pub mod cli;
pub mod config;
mod daemon;
mod disk;
pub mod engine;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod identity;
#[cfg(feature = "internals")]
pub mod ids;
#[cfg(not(feature = "internals"))]
mod ids;
#[cfg(feature = "internals")]
pub mod proto;
#[cfg(not(feature = "internals"))]
mod proto;
#[cfg(feature = "internals")]
pub mod quic;
#[cfg(not(feature = "internals"))]
mod quic;
mod signals;
#[cfg(feature = "internals")]
pub mod tcp;
#[cfg(not(feature = "internals"))]
mod tcp;
mod worker;

/// Tests weigh connections as the binary does.
#[cfg(test)]
#[global_allocator]
static ALLOCATOR: landro_sys::weigh::Weighed<std::alloc::System> =
    landro_sys::weigh::Weighed(std::alloc::System);
