//! Streams under tokio: `tokio::io::copy` over them, in a runtime of one thread that has neither
//! timers nor sockets, for the engine has its own.

use std::sync::Arc;

use landro::{Engine, Listener, PeerTrust};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};

const PROTOCOL: &str = "example-copy/1";
const BYTES: u64 = 1_000_000;

/// Sends back what comes.
async fn echo(listener: Listener) -> std::io::Result<()> {
    if let Some(connection) = listener.accept().await {
        let (mut send, mut receive) = connection
            .accept_bi()
            .await
            .map_err(std::io::Error::other)?;
        copy(&mut receive, &mut send).await?;
        send.shutdown().await?;
        connection.closed().await;
    }
    Ok(())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let server = Engine::builder()
        .protocol(PROTOCOL)
        .listen("127.0.0.1:0".parse()?)
        .accept(PeerTrust::Decide(Arc::new(|_| true)))
        .start()?;
    let address = server.listener().addresses()[0].to_string();
    let client = Engine::builder().protocol(PROTOCOL).start()?;
    let trust = PeerTrust::Pinned(server.fingerprint());
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    runtime.block_on(async {
        let echoes = tokio::spawn(echo(server.listener()));
        let connection = client.connect(&address, trust).await?;
        let (mut send, mut receive) = connection.open_bi().await?;
        let sends = tokio::spawn(async move {
            let there = copy(&mut tokio::io::repeat(7).take(BYTES), &mut send).await?;
            send.shutdown().await?;
            Ok::<_, std::io::Error>(there)
        });
        let back = copy(&mut receive, &mut tokio::io::sink()).await?;
        println!("{} bytes there, {back} bytes back", sends.await??);
        connection.close(0, "done");
        echoes.await??;
        Ok(())
    })
}
