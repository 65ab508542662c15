//! What a user sees of a command, on a terminal, in logs and as JSON.

pub mod bench;
pub mod copy;
pub mod json;
pub mod meter;
pub mod outcome;
pub mod rows;
pub mod stats;
