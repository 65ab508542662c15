//! What is measured: one long stream, requests one at a time, a crowd of connections.

use std::net::SocketAddr;
use std::process;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use hdrhistogram::Histogram;
use tokio::sync::{Barrier, Semaphore};
use tokio::task::JoinSet;

use crate::transport::{Accepts, Connects, Dials, Reads, Result, Writes};
use crate::usage;

/// What is written at once.
const PIECE_BYTES: usize = 256 << 10;
const BULK_BYTES: u64 = 1 << 30;
/// Sent before, for windows, path and memory.
const WARM_UP_BYTES: u64 = 128 << 20;
const REQUEST_BYTES: usize = 1024;
const REQUESTS: u32 = 10_000;
const WARM_UP_REQUESTS: u32 = 1_000;
const CROWD: usize = 1_000;
const CROWD_BYTES: u64 = 1 << 20;
/// Handshakes of a crowd at a time.
const DIALS: usize = 32;

/// What one client found, by name.
pub type Found = Vec<(&'static str, f64)>;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Scenario {
    /// 1 GiB on one stream.
    Bulk,
    /// 1 KiB there and back, one at a time, on one stream.
    Requests,
    /// 1,000 connections, each of which moves 1 MiB; every byte is compared.
    Crowd,
}

impl Scenario {
    pub const ALL: [Scenario; 3] = [Scenario::Bulk, Scenario::Requests, Scenario::Crowd];

    pub fn name(self) -> &'static str {
        match self {
            Scenario::Bulk => "bulk",
            Scenario::Requests => "requests",
            Scenario::Crowd => "crowd",
        }
    }

    pub fn of(name: &str) -> Result<Scenario> {
        let named = Scenario::ALL.into_iter().find(|it| it.name() == name);
        named.ok_or_else(|| format!("no scenario {name:?}: bulk, requests, crowd").into())
    }
}

/// Bytes that differ from place to place, so that none can be taken for another.
fn pattern() -> Bytes {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(CROWD_BYTES as usize);
    while bytes.len() < CROWD_BYTES as usize {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_ne_bytes());
    }
    Bytes::from(bytes)
}

/// Serves whoever comes until the process is told to end.
pub async fn serve<A: Accepts>(mut listener: A, scenario: Scenario) {
    let pattern = pattern();
    while let Some(mut connection) = listener.accept().await {
        let pattern = pattern.clone();
        tokio::spawn(async move {
            while let Some((writer, reader)) = connection.accept().await {
                let pattern = pattern.clone();
                tokio::spawn(async move {
                    let done = match scenario {
                        Scenario::Bulk => take(writer, reader, None).await,
                        Scenario::Crowd => take(writer, reader, Some(pattern)).await,
                        Scenario::Requests => answer(writer, reader).await,
                    };
                    if let Err(error) = done {
                        eprintln!("the server's stream: {error}");
                    }
                });
            }
        });
    }
}

/// Reads to the end, and answers how many bytes were right.
async fn take(mut writer: impl Writes, mut reader: impl Reads, right: Option<Bytes>) -> Result<()> {
    let mut bytes = 0;
    while let Some(read) = reader.read().await? {
        if let Some(right) = &right {
            let end = bytes as usize + read.len();
            if right.get(bytes as usize..end) != Some(&read) {
                return Err(format!("other bytes than were sent, at {bytes}").into());
            }
        }
        bytes += read.len() as u64;
    }
    let answer = Bytes::copy_from_slice(&bytes.to_be_bytes());
    writer.write(answer).await?;
    writer.finish()
}

/// Sends each request back once it is whole.
async fn answer(mut writer: impl Writes, mut reader: impl Reads) -> Result<()> {
    let mut request = BytesMut::new();
    while let Some(read) = reader.read().await? {
        request.extend_from_slice(&read);
        while request.len() >= REQUEST_BYTES {
            writer
                .write(request.split_to(REQUEST_BYTES).freeze())
                .await?;
        }
    }
    writer.finish()
}

/// Runs a scenario against a server, which is another process of this host.
pub async fn measure<D: Dials>(
    dials: Vec<D>,
    (to, server): (SocketAddr, u32),
    scenario: Scenario,
) -> Result<Found> {
    let mut found = match scenario {
        Scenario::Bulk => bulk(first(&dials)?.connect(to).await?, server).await?,
        Scenario::Requests => requests(first(&dials)?.connect(to).await?, server).await?,
        Scenario::Crowd => crowd(dials, to, server).await?,
    };
    let mib = |bytes: f64| bytes / f64::from(1 << 20);
    let own = process::id();
    found.push(("client peak MiB", mib(usage::peak_bytes(own)?)));
    found.push(("server peak MiB", mib(usage::peak_bytes(server)?)));
    Ok(found)
}

fn first<D>(dials: &[D]) -> Result<&D> {
    Ok(dials.first().ok_or("no client")?)
}

/// CPU time of both sides since then.
struct Spent {
    server: u32,
    begun: [f64; 2],
}

impl Spent {
    fn begin(server: u32) -> Result<Spent> {
        let begun = Spent::now(server)?;
        Ok(Spent { server, begun })
    }

    fn now(server: u32) -> Result<[f64; 2]> {
        Ok([
            usage::cpu_seconds(process::id())?,
            usage::cpu_seconds(server)?,
        ])
    }

    fn per(&self, amount: f64, found: &mut Found, names: [&'static str; 2]) -> Result<()> {
        let now = Spent::now(self.server)?;
        for (at, name) in names.into_iter().enumerate() {
            found.push((name, (now[at] - self.begun[at]) / amount));
        }
        Ok(())
    }
}

const PER_GB: [&str; 2] = ["client CPU s/GB", "server CPU s/GB"];

async fn bulk(mut connection: impl Connects, server: u32) -> Result<Found> {
    let pattern = pattern();
    push(&mut connection, &pattern, WARM_UP_BYTES).await?;
    let spent = Spent::begin(server)?;
    let begun = Instant::now();
    push(&mut connection, &pattern, BULK_BYTES).await?;
    let gigabytes = BULK_BYTES as f64 / 1e9;
    let mut found = vec![("MB/s", gigabytes * 1e3 / begun.elapsed().as_secs_f64())];
    spent.per(gigabytes, &mut found, PER_GB)?;
    Ok(found)
}

/// One stream; returns when the server has read all of it.
async fn push(connection: &mut impl Connects, pattern: &Bytes, bytes: u64) -> Result<()> {
    let (mut writer, mut reader) = connection.open().await?;
    let mut at = 0;
    while at < bytes {
        let from = at as usize % pattern.len();
        let to = pattern.len().min(from + PIECE_BYTES);
        writer.write(pattern.slice(from..to)).await?;
        at += (to - from) as u64;
    }
    writer.finish()?;
    let mut answer = BytesMut::new();
    while let Some(read) = reader.read().await? {
        answer.extend_from_slice(&read);
    }
    match answer[..] == bytes.to_be_bytes() {
        true => Ok(()),
        false => Err(format!("the server answers {answer:?} to {bytes} bytes").into()),
    }
}

async fn requests(mut connection: impl Connects, server: u32) -> Result<Found> {
    let (mut writer, mut reader) = connection.open().await?;
    let request = pattern().slice(..REQUEST_BYTES);
    let mut taken = Histogram::<u64>::new(3)?;
    let mut spent = Spent::begin(server)?;
    for number in 0..WARM_UP_REQUESTS + REQUESTS {
        if number == WARM_UP_REQUESTS {
            spent = Spent::begin(server)?;
        }
        let begun = Instant::now();
        writer.write(request.clone()).await?;
        let mut answered = 0;
        while answered < REQUEST_BYTES {
            let read = reader.read().await?.ok_or("the server ends the stream")?;
            if request.get(answered..answered + read.len()) != Some(&read) {
                return Err("the answer is another one".into());
            }
            answered += read.len();
        }
        if number >= WARM_UP_REQUESTS {
            taken.record(begun.elapsed().as_nanos() as u64)?;
        }
    }
    let at = |quantile| taken.value_at_quantile(quantile) as f64 / 1e3;
    let mut found = vec![("p50 us", at(0.5)), ("p99 us", at(0.99))];
    let names = ["client CPU us", "server CPU us"];
    spent.per(f64::from(REQUESTS) / 1e6, &mut found, names)?;
    // Behind the clock: the server is not cut off in the middle.
    writer.finish()?;
    while reader.read().await?.is_some() {}
    Ok(found)
}

async fn crowd<D: Dials>(dials: Vec<D>, to: SocketAddr, server: u32) -> Result<Found> {
    let pattern = pattern();
    // They are kept to the end: what is served ends with them.
    let dials = Arc::new(dials);
    let (gate, start) = (
        Arc::new(Semaphore::new(DIALS)),
        Arc::new(Barrier::new(CROWD + 1)),
    );
    let spent = Spent::begin(server)?;
    let begun = Instant::now();
    let mut all = JoinSet::new();
    for number in 0..CROWD {
        let (dials, gate) = (Arc::clone(&dials), Arc::clone(&gate));
        let (start, pattern) = (Arc::clone(&start), pattern.clone());
        all.spawn(async move {
            let place = gate.acquire_owned().await?;
            let connection = dials[number % dials.len()].connect(to).await;
            drop(place);
            // Whoever failed does not keep the others waiting.
            start.wait().await;
            let mut connection = connection?;
            let begun = Instant::now();
            push(&mut connection, &pattern, CROWD_BYTES).await?;
            // None is closed before all are done.
            Result::Ok((begun.elapsed(), connection))
        });
    }
    start.wait().await;
    let connected = begun.elapsed();
    let (mut done, mut kept, mut failed): (Vec<Duration>, Vec<_>, _) = (Vec::new(), Vec::new(), 0);
    while let Some(one) = all.join_next().await {
        match one? {
            Ok((taken, connection)) => {
                done.push(taken);
                kept.push(connection);
            }
            Err(error) => {
                failed += 1;
                if failed == 1 {
                    eprintln!("a connection of the crowd: {error}");
                }
            }
        }
    }
    done.sort();
    let at = |index: usize| done.get(index).map_or(f64::NAN, Duration::as_secs_f64);
    let mut found = vec![
        ("connected after s", connected.as_secs_f64()),
        ("right", done.len() as f64),
        ("median s", at(done.len() / 2)),
        ("max s", at(done.len().saturating_sub(1))),
    ];
    let gigabytes = (CROWD as u64 * CROWD_BYTES) as f64 / 1e9;
    spent.per(gigabytes, &mut found, PER_GB)?;
    Ok(found)
}
