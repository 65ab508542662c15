//! Transfers over `landro/1`: what ties lanes, sessions and a command's transfer together.

mod arrival;
mod carrying;
mod dialling;
mod feeding;
mod handover;
mod lifecycle;
mod outposts;
mod reading;
mod revoke;
mod roaming;
mod succession;
