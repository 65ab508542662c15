//! The store against a daemon in the same process, on a disk.

#[path = "objects/changes.rs"]
mod changes;
#[path = "objects/common.rs"]
mod common;
#[path = "objects/faults.rs"]
mod faults;
#[path = "objects/names.rs"]
mod names;
#[path = "objects/suite.rs"]
mod suite;
#[path = "objects/uploads.rs"]
mod uploads;
