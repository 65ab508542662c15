//! Uploads in parts: they are gathered in a file without a name, and put in one piece.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use futures_util::future::{BoxFuture, FutureExt, ready};
use object_store::path::Path;
use object_store::{MultipartUpload, PutPayload, PutResult, Result as StoreResult, UploadPart};

use crate::errors::{StagingError, UploadError, local};
use crate::put::Putter;
use crate::staging::Staged;
use crate::threads::StoreThreads;

/// Threads that write parts into files on this host, of a store and its clones.
pub(crate) const WRITERS_MAX: usize = 2;

/// An upload that goes on until it is completed, aborted or dropped.
pub(crate) struct Upload {
    putter: Putter,
    writers: Arc<StoreThreads>,
    location: Path,
    file: Vec<u8>,
    parts: Arc<Parts>,
    /// Parts that there are, and their bytes.
    given: u64,
    given_bytes: u64,
    is_over: bool,
}

/// What was written so far.
#[derive(Default)]
struct Parts {
    /// From the first part on.
    staged: Mutex<Option<Arc<Staged>>>,
    written: AtomicU64,
}

impl Parts {
    fn staged(&self, putter: &Putter) -> Result<Arc<Staged>, StagingError> {
        let mut staged = self.staged.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(staged) = &*staged {
            return Ok(staged.clone());
        }
        let made = Arc::new(Staged::in_directory(&putter.staging)?);
        *staged = Some(made.clone());
        Ok(made)
    }

    fn write(&self, putter: &Putter, data: &PutPayload, at: u64) -> Result<(), StagingError> {
        self.staged(putter)?.write(data, at)?;
        self.written.fetch_add(1, Ordering::AcqRel);
        Ok(())
    }
}

impl Upload {
    pub(crate) fn new(
        putter: Putter,
        writers: Arc<StoreThreads>,
        location: &Path,
        file: Vec<u8>,
    ) -> Upload {
        Upload {
            putter,
            writers,
            location: location.clone(),
            file,
            parts: Arc::default(),
            given: 0,
            given_bytes: 0,
            is_over: false,
        }
    }

    fn demand_open(&self) -> StoreResult<()> {
        match self.is_over {
            true => Err(local(&self.location, UploadError::Over)),
            false => Ok(()),
        }
    }

    /// Where a part of so many bytes begins.
    fn place(&mut self, bytes: usize) -> StoreResult<u64> {
        self.demand_open()?;
        let at = self.given_bytes;
        let end = at.checked_add(bytes as u64);
        let end = end.filter(|&end| i64::try_from(end).is_ok());
        self.given_bytes = end.ok_or_else(|| local(&self.location, StagingError::TooLarge))?;
        self.given += 1;
        Ok(at)
    }

    fn end(&mut self) {
        self.is_over = true;
        // What is being written goes with who writes it.
        self.parts = Arc::default();
    }

    fn write_part(&self, data: PutPayload, at: u64) -> BoxFuture<'static, StoreResult<()>> {
        let (parts, putter) = (self.parts.clone(), self.putter.clone());
        let (writers, location) = (self.writers.clone(), self.location.clone());
        let write = async move {
            let written = writers.run(move |_| Some(parts.write(&putter, &data, at)));
            let written = written.await.map_err(|error| local(&location, error))?;
            written.map_err(|error| local(&location, error))
        };
        write.boxed()
    }
}

#[async_trait]
impl MultipartUpload for Upload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        match self.place(data.content_length()) {
            Ok(at) => self.write_part(data, at),
            Err(error) => ready(Err(error)).boxed(),
        }
    }

    /// May be called again where it failed.
    async fn complete(&mut self) -> StoreResult<PutResult> {
        self.demand_open()?;
        let written = self.parts.written.load(Ordering::Acquire);
        if written < self.given {
            let gap = UploadError::Incomplete {
                missing: self.given - written,
                parts: self.given,
            };
            return Err(local(&self.location, gap));
        }
        let staged = self.parts.staged.lock();
        let staged = staged.unwrap_or_else(PoisonError::into_inner).clone();
        let file = self.file.clone();
        let put = match staged {
            Some(staged) => self.putter.put_staged(&self.location, file, staged).await,
            None => {
                let empty = PutPayload::default();
                self.putter.put(&self.location, file, empty).await
            }
        };
        if put.is_ok() {
            self.end();
        }
        put
    }

    async fn abort(&mut self) -> StoreResult<()> {
        self.demand_open()?;
        self.end();
        Ok(())
    }
}

impl fmt::Debug for Upload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upload")
            .field("location", &self.location)
            .field("bytes", &self.given_bytes)
            .finish_non_exhaustive()
    }
}
