//! How long the requests of a store take against a daemon in the same process, over loopback, and
//! beside them the same by sessions of their own: medians, least and most.
//! `cargo run -p landro-object-store --example latency [DIRECTORY]`

use std::error::Error;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use futures_lite::future::block_on;
use futures_util::TryStreamExt;
use landro::{Engine, Grant, Identity, PeerTrust, TransferError};
use landro_object_store::LandroStore;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, Result};

const MIB: u64 = 1 << 20;
const LARGE_BYTES: u64 = 200 * MIB;

/// Rounds of what is small, and of what is large.
const SMALL_ROUNDS: usize = 100;
const LARGE_ROUNDS: usize = 5;

type Failure = Box<dyn Error>;

fn measure(what: &str, rounds: usize, mut does: impl FnMut() -> Result<()>) -> Result<(), Failure> {
    measure_all(rounds, &mut [(what, &mut || Ok(does()?))])
}

/// What is measured, and how it is done once.
type Measured<'a> = (&'a str, &'a mut dyn FnMut() -> Result<(), Failure>);

/// In turn, so that what else the machine does meets all of them.
fn measure_all(rounds: usize, all: &mut [Measured]) -> Result<(), Failure> {
    let mut times: Vec<Vec<Duration>> = all.iter().map(|_| Vec::new()).collect();
    for _ in 0..rounds {
        for ((_, does), times) in all.iter_mut().zip(&mut times) {
            #[allow(clippy::disallowed_methods)] // What is measured is time.
            let begun = Instant::now();
            does()?;
            times.push(begun.elapsed());
        }
    }
    let ms = |time: Duration| time.as_secs_f64() * 1000.0;
    for ((what, _), mut times) in all.iter().zip(times) {
        times.sort_unstable();
        let (least, most) = (ms(times[0]), ms(times[rounds - 1]));
        let median = ms(times[rounds / 2]);
        println!("{what:<34} {median:7.2} ms ({least:.2}–{most:.2})");
    }
    Ok(())
}

async fn drain(store: &LandroStore, location: &Path) -> Result<()> {
    let mut pieces = store.get(location).await?.into_stream();
    while pieces.try_next().await?.is_some() {}
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let directory = std::env::args_os().nth(1);
    let directory = directory.map_or_else(std::env::temp_dir, Into::into);
    let (root, staging) = (
        tempfile::tempdir_in(&directory)?,
        tempfile::tempdir_in(directory)?,
    );
    let identity = Identity::generate()?;
    let ours = identity.fingerprint();
    let grant = Grant {
        read: true,
        write: true,
    };
    let serves = Engine::builder()
        .listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))
        .serve(root.path(), move |peer| (*peer == ours).then_some(grant))
        .start()?;
    let asks = Engine::builder().identity(identity).start()?;
    let at = serves.listener().addresses()[0].to_string();
    let trust = PeerTrust::Pinned(serves.fingerprint());
    let store =
        LandroStore::new(asks.clone(), &at, trust.clone()).with_staging_directory(staging.path());

    let (small, large) = (Path::from("d/small"), Path::from("large"));
    let data: Vec<u8> = (0..LARGE_BYTES).map(|at| (at % 251) as u8).collect();
    let data = bytes::Bytes::from(data);
    let put = |location, data: bytes::Bytes| block_on(store.put(location, data.into())).map(drop);
    let little = data.slice(..4096);
    measure("put of 4 KiB", SMALL_ROUNDS, || put(&small, little.clone()))?;
    // As before there was a session for many questions: one for each.
    let look = || block_on(asks.list(&at, trust.clone(), "d/small")).map(drop);
    let read = || block_on(asks.read_range(&at, trust.clone(), "d/small", 0..4096)).map(drop);
    let within = || block_on(asks.list(&at, trust.clone(), "d/small/small")).map(drop);
    measure_all(
        SMALL_ROUNDS,
        &mut [
            ("head", &mut || Ok(block_on(store.head(&small)).map(drop)?)),
            ("head, two sessions", &mut || {
                look()?;
                // It is no directory.
                Ok(within().or_else(|error| match error {
                    TransferError::NotFound(_) => Ok(()),
                    other => Err(other),
                })?)
            }),
            ("list of a directory", &mut || {
                Ok(block_on(store.list_with_delimiter(None)).map(drop)?)
            }),
            ("list, a session", &mut || {
                Ok(block_on(asks.list(&at, trust.clone(), ".")).map(drop)?)
            }),
            ("get of 4 KiB", &mut || Ok(block_on(drain(&store, &small))?)),
            ("get, three sessions", &mut || {
                look()?;
                read()?;
                Ok(look()?)
            }),
        ],
    )?;
    measure("put of 200 MiB", LARGE_ROUNDS, || put(&large, data.clone()))?;
    let ranges = [1, 50, 100, 150].map(|mib| mib * MIB..mib * MIB + 1000);
    measure("four ranges of 1 kB of 200 MiB", SMALL_ROUNDS, || {
        block_on(store.get_ranges(&large, &ranges)).map(drop)
    })?;
    measure("200 MiB streamed", LARGE_ROUNDS, || {
        block_on(drain(&store, &large))
    })?;
    Ok(())
}
