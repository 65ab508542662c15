//! Objects that are read: in pieces, each of which is of the version that was asked for.
//!
//! A daemon says of a piece that its file did not change while the piece was read, and not which
//! file it was. So the file is looked at before the first piece and after each: where both times
//! it is the same version, what was read between them is of that version.

use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures_util::future::ready;
use futures_util::stream::{self, BoxStream, StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    Error, GetOptions, GetRange, GetResult, GetResultPayload, OBJECT_STORE_COALESCE_DEFAULT,
    ObjectMeta, Result as StoreResult, coalesce_ranges,
};

use crate::daemon::{Daemon, Failure, Looked};
use crate::errors::{ChangedError, NoFileError, local};
use crate::version::FileVersion;

/// What is read at a time. A session costs two round trips and a thread, and each piece a second
/// session, which looks at the file: this is as much as 10 GbE carries meanwhile.
const PIECE_BYTES: u64 = 4 << 20;

/// Pieces under way, or read and not taken. With what the reader has, a stream holds four.
const PIECES_AHEAD: usize = 3;

/// Whole chunks of a file travel, and a file has 65,536 of them at most: a piece is no less than a
/// chunk, up to this.
const PIECE_MAX_BYTES: u64 = 64 << 20;

/// A file has no more chunks than 2 to this power.
const CHUNKS_MAX_LOG2: u32 = 16;

/// A file as it was when it was looked at.
#[derive(Clone)]
pub(crate) struct Object {
    daemon: Arc<Daemon>,
    location: Path,
    file: Vec<u8>,
    version: FileVersion,
}

impl Object {
    /// # Errors
    /// No file is there.
    pub(crate) async fn find(
        daemon: &Arc<Daemon>,
        location: &Path,
        file: Vec<u8>,
    ) -> StoreResult<Object> {
        let looked = daemon.look(file.clone()).await;
        match looked.map_err(|failure| failure.about(location))? {
            Looked::File(version) => Ok(Object {
                daemon: daemon.clone(),
                location: location.clone(),
                file,
                version,
            }),
            Looked::Other(what) => Err(no_file(location, what)),
        }
    }

    pub(crate) fn meta(&self) -> ObjectMeta {
        self.version.meta(self.location.clone())
    }

    /// What the options ask for, if their conditions hold. The first piece is read before it is
    /// answered: a get that succeeds has read something, or there is nothing to read.
    pub(crate) async fn get(self, options: GetOptions) -> StoreResult<GetResult> {
        let meta = self.meta();
        options.check_preconditions(&meta)?;
        let range = match &options.range {
            Some(range) => range
                .as_range(meta.size)
                .map_err(|error| local(&meta.location, error))?,
            None => 0..meta.size,
        };
        let payload = match options.head || range.is_empty() {
            true => {
                self.demand_file().await?;
                stream::empty().boxed()
            }
            false => self.stream(range.clone()).await?,
        };
        Ok(GetResult {
            payload: GetResultPayload::Stream(payload),
            meta,
            range,
            attributes: Default::default(),
            extensions: Default::default(),
        })
    }

    /// These ranges, each as far as the object has it; those that are near each other are read
    /// together.
    pub(crate) async fn ranges(&self, ranges: &[Range<u64>]) -> StoreResult<Vec<Bytes>> {
        let within = |range: &Range<u64>| GetRange::Bounded(range.clone()).as_range(self.size());
        let ranges: Result<Vec<_>, _> = ranges.iter().map(within).collect();
        let ranges = ranges.map_err(|error| local(&self.location, error))?;
        let fetch = |range| self.read_whole(range);
        let found = coalesce_ranges(&ranges, fetch, OBJECT_STORE_COALESCE_DEFAULT).await?;
        self.demand_same().await?;
        Ok(found)
    }

    fn size(&self) -> u64 {
        self.version.bytes
    }

    async fn stream(
        self,
        range: Range<u64>,
    ) -> StoreResult<BoxStream<'static, StoreResult<Bytes>>> {
        let mut pieces = pieces(range, self.size());
        let first = match pieces.next() {
            Some(first) => self.piece(first).await?,
            None => Bytes::new(),
        };
        let rest = stream::iter(pieces).map(move |piece| {
            let object = self.clone();
            async move { object.piece(piece).await }
        });
        let all = stream::once(ready(Ok(first))).chain(rest.buffered(PIECES_AHEAD));
        // Nothing comes behind a piece that is missing.
        let until_failed = all.scan(false, |has_failed, piece: StoreResult<Bytes>| {
            let goes_on = !*has_failed;
            *has_failed |= piece.is_err();
            ready(goes_on.then_some(piece))
        });
        Ok(until_failed.boxed())
    }

    /// A piece of this version.
    async fn piece(&self, range: Range<u64>) -> StoreResult<Bytes> {
        let bytes = self.read(range).await?;
        self.demand_same().await?;
        Ok(bytes)
    }

    /// A range in one, of which nobody knows yet that it is of this version.
    async fn read_whole(&self, range: Range<u64>) -> StoreResult<Bytes> {
        let wanted_bytes = range.end - range.start;
        let reads = stream::iter(pieces(range, self.size())).map(|piece| self.read(piece));
        let mut reads = reads.buffered(PIECES_AHEAD);
        let first = reads.try_next().await?.unwrap_or_default();
        if first.len() as u64 == wanted_bytes {
            return Ok(first);
        }
        // A daemon's word for the size is no reason to have so much memory before the bytes come.
        let mut whole = BytesMut::with_capacity(wanted_bytes.min(PIECE_MAX_BYTES) as usize);
        whole.extend_from_slice(&first);
        while let Some(piece) = reads.try_next().await? {
            whole.extend_from_slice(&piece);
        }
        Ok(whole.freeze())
    }

    async fn read(&self, range: Range<u64>) -> StoreResult<Bytes> {
        let wanted_bytes = range.end - range.start;
        let failure = match self.daemon.read(self.file.clone(), range).await {
            Ok(bytes) if bytes.len() as u64 == wanted_bytes => return Ok(bytes),
            Ok(_) => None,
            Err(failure) if failure.may_be_of_change() => Some(failure),
            Err(failure) => return Err(failure.about(&self.location)),
        };
        // Less than there was: the file is another one now, or its file system lies.
        self.demand_same().await?;
        Err(match failure {
            Some(failure) => failure.about(&self.location),
            None => local(
                &self.location,
                "the file holds less than its size says; is it one of /proc or /sys?",
            ),
        })
    }

    /// # Errors
    /// [`Error::Precondition`] where the file is another one than it was.
    async fn demand_same(&self) -> StoreResult<()> {
        let now = match self.daemon.look(self.file.clone()).await {
            Ok(Looked::File(now)) => now,
            Ok(Looked::Other(what)) => return Err(no_file(&self.location, what)),
            Err(failure) => return Err(failure.about(&self.location)),
        };
        if now == self.version {
            return Ok(());
        }
        let before = self.version;
        Err(Error::Precondition {
            path: self.location.to_string(),
            source: ChangedError { before, now }.into(),
        })
    }

    /// # Errors
    /// [`Error::NotFound`] where it only looked like a file.
    async fn demand_file(&self) -> StoreResult<()> {
        let is_directory = self.daemon.is_directory(&self.file).await;
        match is_directory.map_err(|failure: Failure| failure.about(&self.location))? {
            true => Err(no_file(&self.location, "a directory")),
            false => Ok(()),
        }
    }
}

fn no_file(location: &Path, what: &'static str) -> Error {
    Error::NotFound {
        path: location.to_string(),
        source: NoFileError(what).into(),
    }
}

/// The pieces of a range of a file of this size. They end where pieces of the whole file would, so
/// that no chunk of the file travels for two of them.
fn pieces(range: Range<u64>, file_bytes: u64) -> impl Iterator<Item = Range<u64>> + Send + 'static {
    let chunk_bytes = file_bytes
        .div_ceil(1 << CHUNKS_MAX_LOG2)
        .next_power_of_two();
    let piece_bytes = chunk_bytes.clamp(PIECE_BYTES, PIECE_MAX_BYTES);
    let mut at = range.start;
    std::iter::from_fn(move || {
        let from = at;
        let next = (from / piece_bytes)
            .saturating_add(1)
            .saturating_mul(piece_bytes);
        at = next.min(range.end);
        (from < range.end).then_some(from..at)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_cover_a_range_and_no_chunk_twice() {
        let tib = 1 << 40;
        for (range, file_bytes, most_bytes) in [
            (0..0, 0, PIECE_BYTES),
            (0..1, 1, PIECE_BYTES),
            (5..PIECE_BYTES * 3 + 7, PIECE_BYTES * 4, PIECE_BYTES),
            (PIECE_BYTES..PIECE_BYTES * 2, PIECE_BYTES * 2, PIECE_BYTES),
            (tib - 100..tib, tib, 16 << 20),
            (0..100 << 20, tib, 16 << 20),
            (1..200 << 20, 64 * tib, PIECE_MAX_BYTES),
            (u64::MAX - 5..u64::MAX, u64::MAX, PIECE_MAX_BYTES),
        ] {
            let mut at = range.start;
            for piece in pieces(range.clone(), file_bytes) {
                assert_eq!(piece.start, at);
                assert!(piece.end > at && piece.end - at <= most_bytes, "{piece:?}");
                at = piece.end;
                assert!(
                    at == range.end || at.is_multiple_of(most_bytes),
                    "{piece:?}"
                );
            }
            assert_eq!(at, range.end);
        }
    }
}
