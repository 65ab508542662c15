//! Objects that are read: in pieces, each of which is of the version that was asked for.
//!
//! A daemon says with each piece which file that is of, by its size and time, and that the file did
//! not change while the piece was read. So a get of an object of one piece is one question.

use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures_util::future::ready;
use futures_util::stream::{self, BoxStream, StreamExt, TryStreamExt};
use landro::RemoteRange;
use object_store::path::Path;
use object_store::{
    Error, GetOptions, GetRange, GetResult, GetResultPayload, OBJECT_STORE_COALESCE_DEFAULT,
    ObjectMeta, Result as StoreResult, coalesce_ranges,
};

use crate::daemon::Daemon;
use crate::errors::{ChangedError, local};
use crate::version::FileVersion;

/// What is read at a time. A piece costs a round trip: this is what 10 GbE carries in 3 ms.
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
        let found = daemon.read(&file, 0..0).await;
        let found = found.map_err(|failure| failure.about(location))?;
        Ok(Object::of(daemon, location, file, &found))
    }

    fn of(daemon: &Arc<Daemon>, location: &Path, file: Vec<u8>, found: &RemoteRange) -> Object {
        Object {
            daemon: daemon.clone(),
            location: location.clone(),
            file,
            version: FileVersion::of_read(found),
        }
    }

    pub(crate) fn meta(&self) -> ObjectMeta {
        self.version.meta(self.location.clone())
    }

    /// What the options ask for, if their conditions hold. The first piece is read before it is
    /// answered: a get that succeeds has read something, or there is nothing to read.
    pub(crate) async fn get(
        daemon: &Arc<Daemon>,
        location: &Path,
        file: Vec<u8>,
        options: GetOptions,
    ) -> StoreResult<GetResult> {
        let first = first_piece(&options);
        let (object, read) = match daemon.read(&file, first.clone()).await {
            Ok(found) => (Object::of(daemon, location, file, &found), found.bytes),
            // It begins behind the object's end, or the object changes: its size and time say more.
            Err(failure) if failure.may_be_of_change() && !first.is_empty() => {
                let object = Object::find(daemon, location, file).await?;
                (object, Bytes::new())
            }
            Err(failure) => return Err(failure.about(location)),
        };
        let meta = object.meta();
        options.check_preconditions(&meta)?;
        let range = match &options.range {
            Some(range) => range
                .as_range(meta.size)
                .map_err(|error| local(&meta.location, error))?,
            None => 0..meta.size,
        };
        let payload = match options.head || range.is_empty() {
            true => stream::empty().boxed(),
            false => object.stream(range.clone(), read).await?,
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
        coalesce_ranges(&ranges, fetch, OBJECT_STORE_COALESCE_DEFAULT).await
    }

    fn size(&self) -> u64 {
        self.version.bytes
    }

    /// `read`: what the range begins with, if that is here.
    async fn stream(
        self,
        range: Range<u64>,
        read: Bytes,
    ) -> StoreResult<BoxStream<'static, StoreResult<Bytes>>> {
        let from = range.start + read.len() as u64;
        let mut pieces = pieces(from..range.end, self.size());
        let first = match (read.is_empty(), pieces.next()) {
            (true, Some(first)) => self.piece(first).await?,
            (false, Some(next)) => {
                let rest = std::iter::once(next).chain(pieces);
                return Ok(self.behind(read, rest));
            }
            (_, None) => read,
        };
        Ok(self.behind(first, pieces))
    }

    /// Nothing comes behind a piece that is missing.
    fn behind(
        self,
        first: Bytes,
        pieces: impl Iterator<Item = Range<u64>> + Send + 'static,
    ) -> BoxStream<'static, StoreResult<Bytes>> {
        let rest = stream::iter(pieces).map(move |piece| {
            let object = self.clone();
            async move { object.piece(piece).await }
        });
        let all = stream::once(ready(Ok(first))).chain(rest.buffered(PIECES_AHEAD));
        let until_failed = all.scan(false, |has_failed, piece: StoreResult<Bytes>| {
            let goes_on = !*has_failed;
            *has_failed |= piece.is_err();
            ready(goes_on.then_some(piece))
        });
        until_failed.boxed()
    }

    /// A range in one.
    async fn read_whole(&self, range: Range<u64>) -> StoreResult<Bytes> {
        let wanted_bytes = range.end - range.start;
        let reads = stream::iter(pieces(range, self.size())).map(|piece| self.piece(piece));
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

    /// A piece of this version.
    async fn piece(&self, range: Range<u64>) -> StoreResult<Bytes> {
        let wanted_bytes = range.end - range.start;
        let found = match self.daemon.read(&self.file, range).await {
            Ok(found) => found,
            Err(failure) if failure.may_be_of_change() => {
                // Less than there was: the file is another one now, or its file system lies.
                let now = self.daemon.read(&self.file, 0..0).await;
                let now = now.map_err(|failure| failure.about(&self.location))?;
                self.demand_same(&now)?;
                return Err(failure.about(&self.location));
            }
            Err(failure) => return Err(failure.about(&self.location)),
        };
        self.demand_same(&found)?;
        match found.bytes.len() as u64 == wanted_bytes {
            true => Ok(found.bytes),
            false => Err(local(
                &self.location,
                "the file holds less than its size says; is it one of /proc or /sys?",
            )),
        }
    }

    /// # Errors
    /// [`Error::Precondition`] where the file is another one than it was.
    fn demand_same(&self, found: &RemoteRange) -> StoreResult<()> {
        let (before, now) = (self.version, FileVersion::of_read(found));
        if now == before {
            return Ok(());
        }
        Err(Error::Precondition {
            path: self.location.to_string(),
            source: ChangedError { before, now }.into(),
        })
    }
}

/// What is read before the object's size is known: the first piece of what is asked for. Nothing
/// where the size decides what that is, or a condition whether it is wanted.
fn first_piece(options: &GetOptions) -> Range<u64> {
    let is_conditional = options.if_match.is_some()
        || options.if_none_match.is_some()
        || options.if_modified_since.is_some()
        || options.if_unmodified_since.is_some();
    let asked = match &options.range {
        _ if options.head || is_conditional => 0..0,
        None => 0..u64::MAX,
        Some(GetRange::Bounded(range)) => range.clone(),
        Some(GetRange::Offset(from)) => *from..u64::MAX,
        Some(GetRange::Suffix(_)) => 0..0,
    };
    // Of a file without chunks larger than that; of another one, a chunk may travel again.
    let piece = pieces(asked, PIECE_BYTES).next();
    // An empty range, or one that ends before it begins, is no reason to find nothing.
    piece.unwrap_or(0..0)
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

    /// Which is for the object's size to judge, and not for a daemon that has nothing there.
    #[test]
    fn a_range_of_nothing_asks_for_no_place_in_the_object() {
        for (start, end) in [(5, 5), (5, 3)] {
            let range = Some(GetRange::Bounded(Range { start, end }));
            let options = GetOptions {
                range,
                ..GetOptions::default()
            };
            assert_eq!(first_piece(&options), 0..0);
        }
    }

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
