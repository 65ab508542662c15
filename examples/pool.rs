//! A pool of connections: many requests over few connections, one that is kept ready, and a peer
//! that is not there.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use futures_lite::future::block_on;
use landro::{
    Connection, ConnectionPool, ConnectionPoolConfig, Engine, PeerTrust, PoolError, PoolEventKind,
};

const PROTOCOL: &str = "example-pool/1";
const CALLERS: usize = 20;

/// Answers each request with itself.
async fn serve(connection: Connection) {
    while let Ok((mut send, mut receive)) = connection.accept_bi().await {
        let Ok(request) = receive.read_to_end(1 << 20).await else {
            continue;
        };
        if send.write_bytes(request).await.is_ok() {
            let _ = send.finish();
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
    thread::spawn(move || {
        while let Some(connection) = block_on(listener.accept()) {
            thread::spawn(move || block_on(serve(connection)));
        }
    });

    let client = Engine::builder().protocol(PROTOCOL).start()?;
    let config = ConnectionPoolConfig {
        connect_timeout: Duration::from_millis(500),
        failure_threshold: 1,
        ..ConnectionPoolConfig::default()
    };
    let pool = ConnectionPool::new(&client, config)?;
    let trust = PeerTrust::Pinned(server.fingerprint());
    pool.keep_warm(&address, trust.clone(), 1)?;
    while !matches!(
        block_on(pool.next_event()).map(|event| event.kind),
        Some(PoolEventKind::Connected(_)) | None
    ) {}

    // Each caller has a place on a connection, and streams of its own.
    thread::scope(|scope| {
        for number in 0..CALLERS {
            let got = pool.get(&address, trust.clone());
            scope.spawn(move || {
                let answered = block_on(async {
                    let connection = got.await?;
                    let (mut send, mut receive) = connection.open_bi().await?;
                    send.write_all(format!("request {number}").as_bytes())
                        .await?;
                    send.finish()?;
                    receive.read_to_end(100).await?;
                    Ok::<_, Box<dyn std::error::Error>>(())
                });
                answered.expect("an answer");
            });
        }
    });
    let statistics = pool.statistics();
    println!("{} answers over {} connection", CALLERS, statistics.dials);

    // A port where nobody answers: the first caller waits for the dial, the next is told at once.
    let silent = std::net::UdpSocket::bind("127.0.0.1:0")?;
    let nowhere = silent.local_addr()?.to_string();
    for _ in 0..2 {
        match block_on(pool.get(&nowhere, trust.clone())) {
            Err(PoolError::CircuitOpen { failures, .. }) => {
                println!("not dialled after {failures} failure");
            }
            Err(error) => println!("can be tried again: {}", error.is_retryable()),
            Ok(_) => return Err("somebody answers".into()),
        }
    }
    println!("cut off: {}", block_on(pool.drain()));
    Ok(())
}
