//! Transfers over `landro/1`: the lanes of a connection's side and the sessions they carry.

mod arrival;
pub(in crate::worker) mod client;
mod dialling;
mod feeding;
mod hangup;
pub(in crate::worker) mod lane;
mod lifecycle;
mod questions;
mod reading;
mod revoke;
pub(in crate::worker) mod sessions;
mod succession;
