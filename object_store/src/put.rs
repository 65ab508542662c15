//! Objects that are put: a file without a name becomes one with a name, all at once.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;

use landro::{MetadataOptions, TransferOptions};
use object_store::path::Path;
use object_store::{PutPayload, PutResult, Result as StoreResult};

use crate::daemon::{Daemon, Failure, put_options};
use crate::errors::StagingError;
use crate::names::split;
use crate::staging::{Staged, StagedDirectories};
use crate::threads::Caller;
use crate::version::FileVersion;

/// How often a put begins: once more where directories were missing, and again where somebody
/// removed them meanwhile.
const TRIES: u32 = 3;

/// Where objects are put, and by way of which directory here.
#[derive(Clone)]
pub(crate) struct Putter {
    pub(crate) daemon: Arc<Daemon>,
    pub(crate) staging: Arc<FilePath>,
    pub(crate) fsync: bool,
}

/// What became of a put: the version that is there, if it is known.
type Put = Result<Option<FileVersion>, Failure>;

impl Putter {
    /// An object that is in memory.
    pub(crate) async fn put(
        &self,
        location: &Path,
        file: Vec<u8>,
        payload: PutPayload,
    ) -> StoreResult<PutResult> {
        let putter = self.clone();
        let stage = move || {
            let staged = Staged::for_bytes(payload.content_length(), &putter.staging)?;
            staged.write(&payload, 0)?;
            Ok(Arc::new(staged))
        };
        self.put_what(location, file, stage).await
    }

    /// An object that is in a file already.
    pub(crate) async fn put_staged(
        &self,
        location: &Path,
        file: Vec<u8>,
        staged: Arc<Staged>,
    ) -> StoreResult<PutResult> {
        self.put_what(location, file, move || Ok(staged)).await
    }

    async fn put_what(
        &self,
        location: &Path,
        file: Vec<u8>,
        stage: impl FnOnce() -> Result<Arc<Staged>, StagingError> + Send + 'static,
    ) -> StoreResult<PutResult> {
        let putter = self.clone();
        let put = self.daemon.run(move |_, caller| match stage() {
            Ok(staged) => putter.send(caller, &staged, &file),
            Err(error) => Some(Err(Failure::Staging(error))),
        });
        let version = put.await.map_err(|failure| failure.about(location))?;
        Ok(PutResult {
            e_tag: version.map(|version| version.e_tag()),
            version: None,
            extensions: Default::default(),
        })
    }

    fn send(&self, caller: &mut Caller<Put>, staged: &Staged, file: &[u8]) -> Option<Put> {
        let version = match staged.stamp() {
            Ok(version) => version,
            Err(error) => return Some(Err(Failure::Staging(error))),
        };
        let options = TransferOptions {
            // Nothing is put into a directory of that name.
            no_target_dir: true,
            ..put_options(self.fsync)
        };
        let (above, _) = split(file);
        let mut tries = 1;
        loop {
            let pushed = self.daemon.push(caller, &staged.path(), file, options)?;
            match pushed {
                Ok(is_exact) => return Some(Ok(is_exact.then_some(version))),
                Err(failure) if failure.is_not_found() && !above.is_empty() && tries < TRIES => {}
                Err(failure) => return Some(Err(failure)),
            }
            if let Err(failure) = self.make_directories(caller, above)? {
                return Some(Err(failure));
            }
            tries += 1;
        }
    }

    /// Those that are there stay as they are.
    fn make_directories<T>(
        &self,
        caller: &mut Caller<T>,
        path: &[u8],
    ) -> Option<Result<(), Failure>> {
        let path = PathBuf::from(OsStr::from_bytes(path));
        let staged = match StagedDirectories::new(&path, &self.staging) {
            Ok(staged) => staged,
            Err(error) => return Some(Err(Failure::Staging(error))),
        };
        let options = TransferOptions {
            must_be_dir: true,
            metadata: MetadataOptions {
                no_perms: true,
                no_times: true,
                dir_modes: false,
            },
            ..put_options(self.fsync)
        };
        let pushed = self.daemon.push(caller, &staged.content(), b".", options)?;
        Some(pushed.map(drop))
    }
}
