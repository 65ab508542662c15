//! Streams both ways and datagrams between two engines of one process: requests that are answered,
//! one that is given up, and pings that may be lost.

use std::sync::Arc;
use std::thread;

use bytes::Bytes;
use futures_lite::future::block_on;
use landro::{Connection, Engine, PeerTrust};

const PROTOCOL: &str = "example-echo/1";
const NOT_WANTED: u64 = 1;

/// Answers each request with itself, and each datagram.
fn serve(connection: Connection) -> impl Future<Output = ()> {
    let datagrams = connection.clone();
    thread::spawn(move || {
        block_on(async {
            while let Ok(datagram) = datagrams.receive_datagram().await {
                let _ = datagrams.send_datagram(datagram);
            }
        });
    });
    async move {
        while let Ok((mut send, mut receive)) = connection.accept_bi().await {
            let Ok(request) = receive.read_to_end(1 << 20).await else {
                continue;
            };
            if send.write_bytes(request).await.is_ok() {
                let _ = send.finish();
            }
        }
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let server = Engine::builder()
        .protocol(PROTOCOL)
        .listen("127.0.0.1:0".parse()?)
        .accept(PeerTrust::Decide(Arc::new(|_| true)))
        .start()?;
    let listener = server.listener();
    let address = listener.addresses()[0].to_string();
    let served = thread::spawn(move || {
        block_on(async {
            if let Some(connection) = listener.accept().await {
                serve(connection).await;
            }
        });
    });
    let client = Engine::builder().protocol(PROTOCOL).start()?;
    let trust = PeerTrust::Pinned(server.fingerprint());
    block_on(async {
        let connection = client.connect(&address, trust).await?;
        let (mut send, mut receive) = connection.open_bi().await?;
        send.write_all(b"hello").await?;
        send.finish()?;
        println!("answer: {:?}", receive.read_to_end(100).await?);

        // A request that is given up: the other side reads an error, not half of it.
        let (mut send, mut receive) = connection.open_bi().await?;
        send.write_all(b"never mi").await?;
        send.reset(NOT_WANTED);
        receive.stop(NOT_WANTED);

        // On loopback the first one comes back; elsewhere one would send another after a while.
        connection.send_datagram(Bytes::from_static(b"ping"))?;
        println!("pong: {:?}", connection.receive_datagram().await?);
        println!("round trip: {:?}", connection.statistics().rtt);
        connection.close(0, "done");
        Ok::<_, Box<dyn std::error::Error>>(())
    })?;
    served.join().map_err(|_| "the server failed")?;
    Ok(())
}
