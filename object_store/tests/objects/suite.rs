//! The tests that the crate `object_store` has for stores.
//!
//! These cannot run, for what they are about is not there:
//! - `put_opts` puts with `PutMode::Create` and `Update`, which a daemon has not (a test of our own
//!   holds that they are refused).
//! - `rename_and_copy`, `copy_if_not_exists` and `copy_rename_nonexistent_object` copy and rename
//!   within the store, which a daemon does not.
//! - `multipart` and its likes take a `MultipartStore`, whose parts lie at the store and are named
//!   by anybody: here they lie with who uploads.
//! - `list_paginated` takes a `PaginatedListStore`, which goes on listing at a name: a daemon lists
//!   a directory as the kernel gives it.
//! - `response_extensions` is about HTTP.
//!
//! Three others remove what they put, and one of these copies, too, which is beside what they are
//! about: there somebody at the daemon's host does that ([`Operated`]).

use std::fmt;
use std::fs;
use std::io;
use std::ops::Range;
use std::path::PathBuf;

use async_trait::async_trait;
use bytes::Bytes;
use futures_lite::future::block_on;
use futures_util::stream::{BoxStream, StreamExt};
use landro::BackendChoice;
use landro_object_store::LandroStore;
use object_store::integration;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result,
};

use crate::common::{BOTH, Served};

/// A store, and somebody at the daemon's host who removes, copies and renames its files.
#[derive(Debug)]
struct Operated {
    store: LandroStore,
    root: PathBuf,
}

impl Operated {
    fn new(served: &Served) -> Operated {
        Operated {
            store: served.store.clone(),
            root: served.root().to_owned(),
        }
    }

    fn file(&self, location: &Path) -> PathBuf {
        self.root.join(location.as_ref())
    }

    /// Where a file is to be.
    fn target(&self, location: &Path) -> PathBuf {
        let file = self.file(location);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        file
    }
}

fn told<T>(location: &Path, result: io::Result<T>) -> Result<T> {
    result.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Error::NotFound {
            path: location.to_string(),
            source: error.into(),
        },
        _ => panic!("{location}: {error}"),
    })
}

impl fmt::Display for Operated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.store.fmt(f)
    }
}

#[async_trait]
impl ObjectStore for Operated {
    async fn put_opts(&self, at: &Path, data: PutPayload, how: PutOptions) -> Result<PutResult> {
        self.store.put_opts(at, data, how).await
    }

    async fn put_multipart_opts(
        &self,
        at: &Path,
        how: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.store.put_multipart_opts(at, how).await
    }

    async fn get_opts(&self, at: &Path, how: GetOptions) -> Result<GetResult> {
        self.store.get_opts(at, how).await
    }

    async fn get_ranges(&self, at: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.store.get_ranges(at, ranges).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let root = self.root.clone();
        let remove = move |location: Result<Path>| {
            let location = location?;
            told(&location, fs::remove_file(root.join(location.as_ref())))?;
            Ok(location)
        };
        locations.map(remove).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.store.list(prefix)
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        self.store.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.store.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, _: CopyOptions) -> Result<()> {
        told(from, fs::copy(self.file(from), self.target(to))).map(drop)
    }

    async fn rename_opts(&self, from: &Path, to: &Path, _: RenameOptions) -> Result<()> {
        told(from, fs::rename(self.file(from), self.target(to)))
    }
}

#[test]
fn put_get_delete_list() {
    for backend in [BackendChoice::IoUring, BackendChoice::Poll] {
        let served = Served::with(backend, BOTH);
        block_on(integration::put_get_delete_list(&Operated::new(&served)));
    }
}

#[test]
fn put_get_attributes() {
    let served = Served::new();
    block_on(integration::put_get_attributes(&served.store));
}

#[test]
fn get_opts() {
    let served = Served::new();
    block_on(integration::get_opts(&served.store));
}

/// It writes by tasks of tokio.
#[test]
fn stream_get() {
    let runtime = tokio::runtime::Builder::new_multi_thread().build().unwrap();
    let served = Served::new();
    runtime.block_on(integration::stream_get(&served.store));
}

#[test]
fn list_uses_directories_correctly() {
    let served = Served::new();
    block_on(integration::list_uses_directories_correctly(&served.store));
}

#[test]
fn list_with_delimiter() {
    let served = Served::new();
    block_on(integration::list_with_delimiter(&Operated::new(&served)));
}

#[test]
fn list_with_offset_exclusivity() {
    let served = Served::new();
    let store = Operated::new(&served);
    block_on(integration::list_with_offset_exclusivity(&store));
}

#[test]
fn get_nonexistent_object() {
    let served = Served::new();
    for location in [None, Some(Path::from("no/such/directory"))] {
        let missing = block_on(integration::get_nonexistent_object(&served.store, location));
        assert!(
            matches!(missing, Err(Error::NotFound { .. })),
            "{missing:?}"
        );
    }
}

#[test]
fn multipart_race_condition() {
    let served = Served::new();
    block_on(integration::multipart_race_condition(&served.store, true));
}

#[test]
fn multipart_out_of_order() {
    let served = Served::new();
    block_on(integration::multipart_out_of_order(&served.store));
}
