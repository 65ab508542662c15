//! How long the requests of a store take against a daemon in the same process, over loopback:
//! medians, least and most. `cargo run -p landro-object-store --example latency [DIRECTORY]`

use std::error::Error;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use futures_lite::future::block_on;
use futures_util::TryStreamExt;
use landro::{Engine, Grant, Identity, PeerTrust};
use landro_object_store::LandroStore;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, Result};

const MIB: u64 = 1 << 20;
const LARGE_BYTES: u64 = 200 * MIB;

/// Rounds of what is small, and of what is large.
const SMALL_ROUNDS: usize = 30;
const LARGE_ROUNDS: usize = 5;

fn measure(what: &str, rounds: usize, mut does: impl FnMut() -> Result<()>) -> Result<()> {
    let mut times = Vec::with_capacity(rounds);
    for _ in 0..rounds {
        #[allow(clippy::disallowed_methods)] // What is measured is time.
        let begun = Instant::now();
        does()?;
        times.push(begun.elapsed());
    }
    times.sort_unstable();
    let ms = |time: Duration| time.as_secs_f64() * 1000.0;
    let (least, most) = (ms(times[0]), ms(times[rounds - 1]));
    let median = ms(times[rounds / 2]);
    println!("{what:<34} {median:7.1} ms ({least:.1}–{most:.1})");
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
    let store = LandroStore::new(asks, &at, PeerTrust::Pinned(serves.fingerprint()))
        .with_staging_directory(staging.path());

    let (small, large) = (Path::from("d/small"), Path::from("large"));
    let data: Vec<u8> = (0..LARGE_BYTES).map(|at| (at % 251) as u8).collect();
    let data = bytes::Bytes::from(data);
    let put = |location, data: bytes::Bytes| block_on(store.put(location, data.into())).map(drop);
    let little = data.slice(..1000);
    measure("put of 1 kB", SMALL_ROUNDS, || put(&small, little.clone()))?;
    measure("head", SMALL_ROUNDS, || {
        block_on(store.head(&small)).map(drop)
    })?;
    measure("list of a directory", SMALL_ROUNDS, || {
        block_on(store.list_with_delimiter(None)).map(drop)
    })?;
    measure("get of 1 kB", SMALL_ROUNDS, || {
        block_on(drain(&store, &small))
    })?;
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
