//! landro's only unsafe code: the io_uring and poll drivers, pool memory, sockets, file operations
//! and a cipher.
//!
//! A [`Driver`] belongs to one thread. It takes operations ([`Driver::send`], [`Driver::file`]) and
//! gives [`Completion`]s; which of the two backends does the work is visible only in
//! [`Driver::backend`].
#![deny(unsafe_op_in_unsafe_fn)]
#![warn(missing_docs)]

pub mod aead;
pub mod cpu;
pub mod file;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
pub mod gso;
pub mod ktls;
pub mod mmap;
pub mod numa;
pub mod probe;
pub mod process;
pub mod splice;
pub mod trusted;
pub mod weigh;

mod availability;
mod cmsg;
mod deadline;
mod driver;
mod errno;
mod memory;
mod message;
mod op;
mod outbox;
pub mod pipe;
mod poll;
mod pool;
mod receive;
mod socket;
mod table;
mod tcp;
mod threads;
mod uring;
mod wake;

#[cfg(test)]
mod tests;

pub use availability::Availability;
pub use driver::{Backend, Driver};
pub use errno::{is_of_the_way, is_too_large};
pub use file::{DirEntry, FileDone, FileKind, FileOp, FileSystem, Flock, OpenHow, Statx, run};
pub use gso::Run;
pub use op::{Completion, DriverConfig, DriverLoad, SendBuffer, SendRun};
pub use pool::{Buffer, Pool};
pub use probe::{Caps, boot_id};
pub use receive::Datagrams;
pub use socket::{
    BadBind, Bind, RouteTo, SocketId, UdpOptions, UdpSocket, is_on_link, reachable_addresses,
    route_to,
};
pub use tcp::{Interest, TcpId, TcpInfo, TcpListener, TcpStream, check_congestion};
pub use wake::{WakeHandle, stop_accepting};
