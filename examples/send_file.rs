//! Sends a file to `receive`: `send_file FILE ADDRESS KEY`, the last two as that one printed them.

use std::os::unix::ffi::OsStringExt;

use futures_lite::future::block_on;
use landro::{Direction, Engine, PeerTrust, Transfer, TransferOptions};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args_os().skip(1);
    let (Some(file), Some(address), Some(key)) =
        (arguments.next(), arguments.next(), arguments.next())
    else {
        return Err("usage: send_file FILE ADDRESS KEY".into());
    };
    let (address, key) = (address.to_string_lossy(), key.to_string_lossy());
    let engine = Engine::builder().start()?;
    let transfer = Transfer {
        direction: Direction::Push,
        sources: vec![file.into_vec().into()],
        target: ".".into(),
        options: TransferOptions::default(),
    };
    // It survives a lost connection, and an earlier run that was cut short is gone on with.
    let sent = engine.transfer(&address, PeerTrust::Pinned(key.parse()?), transfer);
    let summary = block_on(sent.result())?;
    println!("{} bytes sent", summary.moved_bytes);
    Ok(())
}
