//! Sends a file to `receive`: `send_file FILE ADDRESS KEY`, the last two as that one printed them.

use std::fs::File;
use std::io::Read;

use futures_lite::future::block_on;
use landro::{ConnectionError, Engine, PeerTrust};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [path, address, key] = &arguments[..] else {
        return Err("usage: send_file FILE ADDRESS KEY".into());
    };
    let engine = Engine::builder().protocol("example-file/1").start()?;
    block_on(async {
        let trust = PeerTrust::Pinned(key.parse()?);
        let connection = engine.connect(address, trust).await?;
        let mut stream = connection.open_uni().await?;
        let (mut file, mut buffer) = (File::open(path)?, vec![0; 64 << 10]);
        loop {
            match file.read(&mut buffer)? {
                0 => break,
                bytes => stream.write_all(&buffer[..bytes]).await?,
            }
        }
        stream.finish()?;
        match connection.closed().await {
            ConnectionError::ClosedByPeer { code: 0, .. } => Ok(()),
            other => Err(other.into()),
        }
    })
}
