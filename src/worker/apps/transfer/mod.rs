//! Transfers over `landro/1`: what ties lanes, sessions and a command's transfer together.

mod arrival;
mod dialling;
mod feeding;
mod hangup;
mod lifecycle;
mod reading;
mod revoke;
mod succession;
