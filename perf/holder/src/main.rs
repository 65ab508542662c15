//! `landro-holder`: many authenticated sessions with a daemon, kept open and idle, for measuring
//! what they cost it.
//!
//! Each is what a `landro cp` would have while its source has nothing for it yet: a connection of
//! its own, the handshake with both keys, a push that was welcomed, keep-alives. In the end each is
//! asked to finish, which only a daemon that still has the session can answer.

#![forbid(unsafe_code)]

mod holder;
mod session;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::Parser;
use landro::ids::Fingerprint;
use landro::quic::Identity;

use holder::Holder;

/// Holds idle sessions with a landro daemon; prints one line when all are open, and a report when
/// it is told to end
#[derive(Parser, Debug)]
#[command(name = "landro-holder", version, max_term_width = 110)]
struct Arguments {
    /// The daemon
    #[arg(long, value_name = "ADDR:PORT")]
    to: SocketAddr,
    /// Its fingerprint
    #[arg(long, value_name = "SHA256:…")]
    peer: Fingerprint,
    /// Sessions to hold
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    sessions: u32,
    /// An identity.pem that the daemon lets in. Several share the sessions: a daemon bounds what
    /// one may have
    #[arg(long = "identity", value_name = "FILE", required = true)]
    identities: Vec<PathBuf>,
}

fn main() -> ExitCode {
    let args = Arguments::parse();
    match run(&args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("landro-holder: {}: {error}", args.to);
            ExitCode::FAILURE
        }
    }
}

/// True: every session was there to the end.
fn run(args: &Arguments) -> io::Result<bool> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&stop))?;
    }
    let identities = args
        .identities
        .iter()
        .map(read)
        .collect::<io::Result<Vec<Identity>>>()?;
    let mut holder = Holder::new(args.to, args.peer, &identities, args.sessions as usize)?;
    if holder.open(&stop)? {
        println!("holding {}", args.sessions);
        holder.hold(&stop)?;
        holder.finish()?;
    }
    let report = holder.report();
    println!("{}", serde_json::to_string(&report)?);
    Ok(report.finished == report.sessions)
}

fn read(path: &PathBuf) -> io::Result<Identity> {
    let about =
        |error: &dyn std::fmt::Display| io::Error::other(format!("{}: {error}", path.display()));
    let pem = std::fs::read_to_string(path).map_err(|error| about(&error))?;
    Identity::from_pem(&pem).map_err(|error| about(&error))
}
