//! The store: which request of the trait is what to the daemon.

use std::fmt;
use std::ops::Range;
use std::path::Path as FilePath;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::{self, BoxStream, StreamExt};
use landro::{Engine, PeerTrust};
use object_store::path::Path;
use object_store::{
    Attributes, CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions,
    Result,
};

use crate::daemon::Daemon;
use crate::errors::{generic, local, not_implemented};
use crate::get::Object;
use crate::list::ObjectTree;
use crate::names::{ObjectNameError, StoreRoot};
use crate::put::Putter;
use crate::threads::StoreThreads;
use crate::upload::{Upload, WRITERS_MAX};

/// The files that a daemon serves, or a directory of it, as a store of objects. The crate's root
/// says what is an object, and what is not offered.
///
/// A clone shares the session and the threads of the original, and with them the bounds of eight
/// questions and eight puts at once, whatever root, staging directory and durability it is given.
/// Session and threads end ten seconds after their last work, or with the last clone.
///
/// # Cancel safety
/// A future that is dropped before its turn has done nothing. Dropped later, a question is called
/// off; what is put is cancelled, and either there whole, or not at all.
#[derive(Clone)]
pub struct LandroStore {
    daemon: Arc<Daemon>,
    writers: Arc<StoreThreads>,
    root: StoreRoot,
    staging: Arc<FilePath>,
    fsync: bool,
}

impl LandroStore {
    /// The files of the daemon at `peer`, a `HOST:PORT`, as the engine reaches it. Nothing is asked
    /// of it before the first request. `trust` says whose key is accepted there.
    ///
    /// Defaults: all of what the daemon serves to us, [`std::env::temp_dir`] as staging directory,
    /// and no fsync.
    pub fn new(engine: Engine, peer: &str, trust: PeerTrust) -> LandroStore {
        LandroStore {
            daemon: Arc::new(Daemon::new(engine, peer, trust)),
            writers: Arc::new(StoreThreads::new("landro-parts", WRITERS_MAX)),
            root: StoreRoot::default(),
            staging: std::env::temp_dir().into(),
            fsync: false,
        }
    }

    /// Paths begin in this directory, relative to what the daemon serves, and never lead out of it
    /// by name. It need not be there before something is put into it. It is no border against those
    /// who make symlinks in it, for the daemon follows a symlink on the way to a file as far as it
    /// leads within what it serves: `path=` in the daemon's `authorized_peers` is one.
    ///
    /// # Errors
    /// The path is absolute, or has `..` in it.
    pub fn with_root(mut self, directory: impl AsRef<FilePath>) -> Result<LandroStore> {
        self.root = StoreRoot::new(directory.as_ref()).map_err(generic)?;
        Ok(self)
    }

    /// Where what is put lies on its way, in files without names: all of what comes in parts, and
    /// what is larger than 8 MiB. As much room is needed there as all uploads under way have
    /// together.
    pub fn with_staging_directory(mut self, directory: impl AsRef<FilePath>) -> LandroStore {
        self.staging = directory.as_ref().into();
        self
    }

    /// Whether a put is on the daemon's disk, with its name, before it counts as done. Without
    /// that, a power cut over there leaves the old object or the new one, or neither where there
    /// was none.
    pub fn with_fsync(mut self, waits: bool) -> LandroStore {
        self.fsync = waits;
        self
    }

    fn putter(&self) -> Putter {
        Putter {
            daemon: self.daemon.clone(),
            staging: self.staging.clone(),
            fsync: self.fsync,
        }
    }

    fn tree(&self) -> ObjectTree {
        ObjectTree {
            daemon: self.daemon.clone(),
            root: self.root.clone(),
        }
    }

    fn file(&self, location: &Path) -> Result<Vec<u8>> {
        let file = self.root.file(location);
        file.map_err(|error| local(location, error))
    }

    /// The file of an object that is there, if it is.
    fn object(&self, location: &Path) -> Result<Vec<u8>> {
        self.root.file(location).map_err(|error| match error {
            ObjectNameError::Root => Error::NotFound {
                path: location.to_string(),
                source: error.into(),
            },
            error => local(location, error),
        })
    }
}

fn refuse_attributes(operation: &str, attributes: &Attributes) -> Result<()> {
    match attributes.is_empty() {
        true => Ok(()),
        false => Err(not_implemented(
            operation,
            "with attributes; a file has none: keep them in an object of their own",
        )),
    }
}

#[async_trait]
impl ObjectStore for LandroStore {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        opts: PutOptions,
    ) -> Result<PutResult> {
        refuse_attributes("put_opts", &opts.attributes)?;
        match opts.mode {
            PutMode::Overwrite => {}
            PutMode::Create | PutMode::Update(_) => {
                return Err(not_implemented(
                    "put_opts",
                    "with PutMode::Create or PutMode::Update; a daemon replaces what is there \
                     without looking at it, and to look before would not be atomic",
                ));
            }
        }
        let file = self.file(location)?;
        self.putter().put(location, file, payload).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        refuse_attributes("put_multipart_opts", &opts.attributes)?;
        let file = self.file(location)?;
        let upload = Upload::new(self.putter(), self.writers.clone(), location, file);
        Ok(Box::new(upload))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        if options.version.is_some() {
            let source = "landro keeps no versions: an object is as it is now".into();
            return Err(Error::NotSupported { source });
        }
        let file = self.object(location)?;
        Object::get(&self.daemon, location, file, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        if ranges.is_empty() {
            return Ok(Vec::new());
        }
        let file = self.object(location)?;
        let object = Object::find(&self.daemon, location, file).await?;
        object.ranges(ranges).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let refused = |location: Result<Path>| {
            let location = location?;
            let what = format!("of {location}; a daemon removes nothing: do it over there");
            Err(not_implemented("delete", &what))
        };
        locations.map(refused).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let walk = self.tree().walk(prefix);
        let next = |mut walk: crate::list::ObjectWalk| async move {
            let object = walk.next().await?;
            Some((object, walk))
        };
        stream::unfold(walk, next).boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.tree().list_one(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, _options: CopyOptions) -> Result<()> {
        let what = format!(
            "of {from} to {to}; a daemon copies nothing within itself: get the object and put it"
        );
        Err(not_implemented("copy", &what))
    }

    async fn rename_opts(&self, from: &Path, to: &Path, _options: RenameOptions) -> Result<()> {
        let what = format!("of {from} to {to}; a daemon renames nothing: do it over there");
        Err(not_implemented("rename", &what))
    }
}

impl fmt::Display for LandroStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = self.daemon.address();
        write!(f, "LandroStore(landro://{address}/{})", self.root)
    }
}

impl fmt::Debug for LandroStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LandroStore")
            .field("peer", &self.daemon.address())
            .field("root", &self.root)
            .field("staging", &self.staging)
            .field("fsync", &self.fsync)
            .finish()
    }
}
