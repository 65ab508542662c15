//! The files of a landro daemon as an [`object_store::ObjectStore`].
//!
//! ```no_run
//! use landro::{Engine, PeerTrust};
//! use landro_object_store::LandroStore;
//! use object_store::path::Path;
//! use object_store::{ObjectStore, ObjectStoreExt};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let engine = Engine::builder().start()?;
//! // What `landro serve` prints when it starts.
//! let trust = PeerTrust::Pinned("SHA256:mZ0d3vP7RE7xJ9W1xvTAhLeYxIYt0vnk3M5bdtFqQ1s".parse()?);
//! let store = LandroStore::new(engine, "server:4433", trust).with_root("datasets")?;
//!
//! let location = Path::from("2026/11/events.parquet");
//! store.put(&location, "PAR1".into()).await?;
//! let footer = store.get_range(&location, 0..4).await?;
//! let november = store.list_with_delimiter(Some(&Path::from("2026/11"))).await?;
//! # Ok(()) }
//! ```
//!
//! # What an object is
//! A file of what the daemon serves, below the store's root. Symlinks, devices, unfinished files
//! and directories are none, and neither are files whose names no [`Path`] can say: those that are
//! not UTF-8, or have control characters. A path is a file's name as it is written, with its
//! percent signs, so that no two paths are one file. `Path::from` and `Path::from_iter` write a
//! percent sign in place of what they take for special, such as all that is not ASCII:
//! `Path::from("a/ö")` is the file `%C3%B6` in the directory `a`. `Path::parse("a/ö")` is the file
//! `ö`, and that is what a list says of it. Directories are made as they are needed and stay;
//! `list_with_delimiter` names those that are empty, too.
//!
//! A put replaces a file that stands at its path; a directory or a symlink there is an error. Into
//! a device or a FIFO that stands there the daemon writes, as of `landro cp`.
//!
//! # What is offered
//! - get, with all ranges and conditions; head; lists; put that replaces; uploads in parts.
//! - [`PutMode::Create`] and [`PutMode::Update`], delete, copy and rename are
//!   [`Error::NotImplemented`]: a daemon does none of them, and what is made of others is not
//!   atomic. Attributes are so, too; tags are ignored, as the trait says.
//! - A put has the name of its object when all of it is there, whose BLAKE3 digest the daemon has
//!   checked; [`LandroStore::with_fsync`] waits for the disk, too. Where it is lost midway, another
//!   connection is made, for 15 minutes as long as nothing comes of it. One that is dropped midway
//!   may leave an unfinished file over there, which `landro ls --partial` shows and `landro clean`
//!   removes.
//!
//! # Versions
//! An `e_tag` is a file's size and time of modification, to the nanosecond. Whatever this process
//! puts has a time of its own, which is this host's. The daemon says with each piece that a get
//! reads which version that is of: where it is not the one that it was, the get ends with
//! [`Error::Precondition`], and nothing of the other version was handed over. A program that writes
//! into a served file in place, twice within a tick of the kernel's clock (4 ms at most), leaves no
//! trace by which this could be noticed; nor does one whose file system keeps coarser times. On
//! such a file system a put tells another `e_tag` than a later head; where the daemon says that it
//! could not set a time, the put tells none.
//!
//! # Errors
//! The source of an error that came of a request is a [`RequestError`], which knows whether the
//! same request may succeed later. What is asked over a session that was lost is asked once more,
//! and ends a minute after the daemon's last sign of life at the latest. A head asks as a get does:
//! what the daemon may not read has none, and neither have files of /proc and /sys.
//!
//! # What it takes
//! Any async runtime will do, or none. What is read and listed is asked of the daemon over one
//! session of a store and its clones ([`landro::RemoteFiles`]), eight questions at a time; a get of
//! an object of up to 4 MiB is one. Eight puts are under way at once, each a session of its own.
//! Further ones wait their turn. A get of a large object has four pieces of 4 MiB at most in memory
//! (more only in files above 256 GiB), however large it is, and reads on only as far as it is
//! polled. Puts are carried out by threads of the store, and so is what blocks: a put of up to
//! 8 MiB is copied into a file in memory, what is larger or comes in parts is written into a file
//! without a name in [`LandroStore::with_staging_directory`]. Whoever polls waits for no disk.
//!
//! [`Path`]: object_store::path::Path
//! [`PutMode::Create`]: object_store::PutMode::Create
//! [`PutMode::Update`]: object_store::PutMode::Update
//! [`Error::NotImplemented`]: object_store::Error::NotImplemented
//! [`Error::Precondition`]: object_store::Error::Precondition
#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod daemon;
mod errors;
mod get;
mod list;
mod names;
mod put;
mod staging;
mod store;
mod threads;
mod upload;
mod version;

pub use errors::RequestError;
pub use store::LandroStore;
