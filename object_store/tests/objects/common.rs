//! A daemon, a directory that it serves, and a store over it.

// Each test binary uses a part of it.
#![allow(dead_code)]

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path as FilePath, PathBuf};

use bytes::Bytes;
use futures_lite::future::block_on;
use landro::{BackendChoice, Engine, Grant, Identity, PeerTrust};
use landro_object_store::LandroStore;
use object_store::path::Path;
use object_store::{ObjectStoreExt, Result};
use tempfile::TempDir;

pub const BOTH: Grant = Grant {
    read: true,
    write: true,
};

pub struct Served {
    pub serves: Engine,
    pub asks: Engine,
    pub store: LandroStore,
    root: TempDir,
    staging: TempDir,
}

impl Served {
    pub fn new() -> Served {
        Served::with(BackendChoice::Auto, BOTH)
    }

    pub fn with(backend: BackendChoice, grant: Grant) -> Served {
        let (root, staging) = (on_disk(), on_disk());
        let identity = Identity::generate().unwrap();
        let ours = identity.fingerprint();
        let serves = Engine::builder()
            .backend(backend)
            .listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))
            .accept(PeerTrust::OneOf(vec![ours]))
            .serve(root.path(), move |peer| (*peer == ours).then_some(grant))
            .start()
            .unwrap();
        let asks = Engine::builder().backend(backend).identity(identity);
        let asks = asks.start().unwrap();
        let trust = PeerTrust::Pinned(serves.fingerprint());
        let store = LandroStore::new(asks.clone(), &address(&serves), trust)
            .with_staging_directory(staging.path());
        Served {
            serves,
            asks,
            store,
            root,
            staging,
        }
    }

    pub fn root(&self) -> &FilePath {
        self.root.path()
    }

    /// The file of an object.
    pub fn file(&self, location: &Path) -> PathBuf {
        self.root().join(location.as_ref())
    }

    /// Makes a file over there, not by way of the store.
    pub fn write(&self, name: &str, data: &[u8]) {
        let file = self.root().join(name);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, data).unwrap();
    }

    pub fn get(&self, location: &Path) -> Result<Bytes> {
        block_on(async { self.store.get(location).await?.bytes().await })
    }

    /// Whether nothing is left of what was staged.
    pub fn has_nothing_staged(&self) -> bool {
        self.staging.path().read_dir().unwrap().next().is_none()
    }
}

pub fn address(serves: &Engine) -> String {
    serves.listener().addresses()[0].to_string()
}

/// Not in memory, as a daemon's files are.
pub fn on_disk() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// Data of which no piece is another one.
pub fn data(bytes: usize, seed: u64) -> Vec<u8> {
    let number = |n: u64| n.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(seed) ^ (n >> 7);
    let words = (0..bytes as u64).step_by(8).map(number);
    let mut data: Vec<u8> = words.flat_map(u64::to_le_bytes).collect();
    data.truncate(bytes);
    data
}
