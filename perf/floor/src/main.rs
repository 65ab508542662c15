//! `landro-floor`: what quiche itself can do on a machine. One file, one connection, one stream,
//! plain blocking calls.
//!
//! A yardstick for closed lab networks, and not for anything else: it verifies no peer, and writes
//! for whoever comes.

#![forbid(unsafe_code)]

mod config;
mod link;
mod send;
mod serve;

use std::error::Error;
use std::net::SocketAddrV4;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// As in landro, and for the same reason.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Copies one file by quiche and plain system calls: a yardstick for closed lab networks. NOT
/// SECURE: it verifies no peer, and whoever reaches the server writes files
#[derive(Parser, Debug)]
#[command(name = "landro-floor", version, max_term_width = 110)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Takes files, one after the other, until it is killed; prints one line when it is ready
    Serve {
        /// Port 0 takes a free one
        #[arg(long, value_name = "IPV4:PORT")]
        listen: SocketAddrV4,
        /// The directory where files go; what has the same name is overwritten
        #[arg(long, value_name = "DIR")]
        root: PathBuf,
        /// Compare what was written with the sender's BLAKE3 digest; the sender has to be told, too
        #[arg(long)]
        hash: bool,
    },
    /// Sends a file; prints bytes and seconds when all of it is written
    Send {
        #[arg(value_name = "IPV4:PORT")]
        to: SocketAddrV4,
        file: PathBuf,
        /// What it is called there
        name: String,
        /// Append the BLAKE3 digest
        #[arg(long)]
        hash: bool,
    },
}

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Serve { listen, root, hash } => serve::serve(listen, &root, hash),
        Command::Send {
            to,
            file,
            name,
            hash,
        } => send::send(to, &file, &name, hash),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("landro-floor: {error}");
            ExitCode::FAILURE
        }
    }
}
