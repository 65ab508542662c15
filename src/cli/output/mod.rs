//! What a user sees of a command, on a terminal, in logs and as JSON.

pub mod amount;
mod bar;
pub mod bench;
pub mod copy;
pub mod counting;
pub mod json;
pub mod meter;
pub mod outcome;
mod progress;
mod repeats;
pub mod rows;
mod sessions;
pub mod shown;
pub mod stats;
