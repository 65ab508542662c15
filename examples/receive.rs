//! Receives a file: `receive FILE` prints where it listens and its key, for `send_file`.

use std::fs::File;
use std::io::Write;

use futures_lite::future::block_on;
use landro::{Engine, PeerTrust};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args_os().nth(1).ok_or("usage: receive FILE")?;
    let engine = Engine::builder()
        .protocol("example-file/1")
        .listen("127.0.0.1:0".parse()?)
        // Whoever comes may send; a real receiver lists keys in PeerTrust::OneOf.
        .accept(PeerTrust::Decide(std::sync::Arc::new(|_| true)))
        .start()?;
    let listener = engine.listener();
    println!("{} {}", listener.addresses()[0], engine.fingerprint());
    block_on(async {
        let connection = listener.accept().await.ok_or("the engine ended")?;
        let mut stream = connection.accept_uni().await?;
        let mut file = File::create(path)?;
        while let Some(bytes) = stream.read_bytes(usize::MAX).await? {
            file.write_all(&bytes)?;
        }
        file.sync_all()?;
        // The sender waits for this word: what arrived may be lost until it is on disk.
        connection.close(0, "received");
        Ok::<_, Box<dyn std::error::Error>>(())
    })?;
    // The word leaves before the process ends.
    engine.shut_down();
    Ok(())
}
