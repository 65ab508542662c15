//! `landro-emulator`: a long, slow or lossy path between UDP programs, for kernels without netem.

#![forbid(unsafe_code)]

mod args;
mod link;
mod relay;
mod report;
mod socket;

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::Parser;
use clap::error::ErrorKind;

use args::Arguments;
use relay::Relay;

fn main() -> ExitCode {
    let args = Arguments::parse();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("landro-emulator: {} → {}: {error}", args.listen, args.to);
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Arguments) -> io::Result<()> {
    let shapes = args.shapes().unwrap_or_else(|beyond| {
        use clap::CommandFactory;
        Arguments::command()
            .error(ErrorKind::ValueValidation, beyond)
            .exit()
    });
    // Short, as it has to be copied from one terminal to the next. RandomState is seeded by the
    // system.
    let seed = args
        .seed
        .unwrap_or_else(|| RandomState::new().hash_one(0) % 1_000_000);
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&stop))?;
    }
    let mut relay = Relay::new(args.listen, args.to, shapes, seed)?;
    println!("listening on {} seed {seed}", relay.local_addr()?);
    relay.run(&stop)?;
    println!("{}", relay.report());
    Ok(())
}
