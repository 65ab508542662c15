//! Files and pieces to streams without a copy in the program: both backends, disks, files that are
//! cut off, peers that do not read.

#[path = "parallel/pair.rs"]
mod pair;

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::time::Duration;

use bytes::Bytes;
use futures_lite::future::{or, zip};
use landro::engine::BackendChoice;
use landro::{RecvStream, SendStream, WriteError, ZeroCopyError, ZeroCopyStreamWriter};
use pair::{BACKENDS, Pair, after, made_up, pair, pair_by, soon};

const MIB: usize = 1 << 20;

/// What arrives of what is written.
async fn arrives(
    pair: &Pair,
    writes: impl AsyncFnOnce(&mut SendStream) -> Result<(), ZeroCopyError>,
) -> (Result<(), ZeroCopyError>, Bytes) {
    let mut send = pair.here.open_uni().await.unwrap();
    let sends = async {
        let written = writes(&mut send).await;
        send.write_all(b".").await.unwrap();
        send.finish().unwrap();
        written
    };
    let receives = async {
        let mut receive = pair.there.accept_uni().await.unwrap();
        receive.read_to_end(usize::MAX).await.unwrap()
    };
    let (written, all) = zip(sends, receives).await;
    (written, all.slice(..all.len() - 1))
}

#[test]
fn a_range_of_a_file_arrives_and_its_position_stays() {
    for backend in BACKENDS {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let path = dir.path().join("file");
        let data = made_up(70 * MIB + 11, 2);
        fs::write(&path, &data).unwrap();
        let mut file = File::open(&path).unwrap();
        file.seek(SeekFrom::Start(17)).unwrap();
        let pair = pair_by(backend, |at| at);
        let writer = ZeroCopyStreamWriter::new(300_000);
        for (offset, size) in [(0, data.len()), (5, 0), (999, 1), (MIB, 3 * MIB + 1)] {
            let (done, all) = soon(arrives(&pair, async |stream| {
                let sent = writer
                    .sendfile_to_stream(stream, &file, offset as u64, size as u64)
                    .await?;
                assert_eq!(sent, size as u64);
                Ok(())
            }));
            done.unwrap();
            assert!(all == data[offset..offset + size], "{size} at {offset}");
        }
        let mut next = [0; 4];
        file.read_exact(&mut next).unwrap();
        assert_eq!(next, data[17..21], "the position has moved");
        let statistics = writer.statistics();
        assert_eq!(statistics.file_bytes, (data.len() + 1 + 3 * MIB + 1) as u64);
        assert!(statistics.buffers.reused > 0, "{statistics:?}");
        assert!(statistics.buffers.high_water_bytes <= 64 * MIB);
    }
}

#[test]
fn a_file_that_is_shorter_is_an_error_that_says_where() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = dir.path().join("file");
    let data = made_up(1_000_000, 3);
    fs::write(&path, &data).unwrap();
    let file = File::open(&path).unwrap();
    let pair = pair(BackendChoice::Auto);
    let writer = ZeroCopyStreamWriter::new(64 << 10);
    let (done, all) = soon(arrives(&pair, async |stream| {
        let sent = writer.sendfile_to_stream(stream, &file, 100, 2_000_000);
        sent.await.map(|_| ())
    }));
    let error = done.unwrap_err();
    let is_named = matches!(
        error,
        ZeroCopyError::Short {
            ends_at: 1_000_000,
            offset: 100,
            size: 2_000_000
        }
    );
    assert!(is_named, "{error:?}");
    assert!(
        error.to_string().contains("the file ends at 1000000"),
        "{error}"
    );
    // Whole chunks that were before the end.
    assert!(!all.is_empty() && all.len() % (64 << 10) == 0 && all == data[100..100 + all.len()]);
    let wrong = |chunk_size, (offset, size)| {
        let writer = ZeroCopyStreamWriter::new(chunk_size);
        let (done, _) = soon(arrives(&pair, async |stream| {
            let sent = writer.sendfile_to_stream(stream, &file, offset, size);
            sent.await.map(|_| ())
        }));
        done.unwrap_err()
    };
    assert!(matches!(wrong(0, (0, 1)), ZeroCopyError::ChunkSize { .. }));
    let large = wrong(usize::MAX, (0, 1));
    assert!(matches!(large, ZeroCopyError::ChunkSize { .. }));
    let beyond = wrong(4096, (u64::MAX, 2));
    assert!(matches!(beyond, ZeroCopyError::Range { .. }), "{beyond:?}");
    let directory = File::open(dir.path()).unwrap();
    let (done, _) = soon(arrives(&pair, async |stream| {
        let sent = writer.sendfile_to_stream(stream, &directory, 0, 10);
        sent.await.map(|_| ())
    }));
    let error = done.unwrap_err();
    assert!(
        matches!(error, ZeroCopyError::Read { at: 0, .. }),
        "{error:?}"
    );
}

#[test]
fn pieces_are_not_copied() {
    for backend in BACKENDS {
        let pair = pair(backend);
        let writer = ZeroCopyStreamWriter::new(64 << 10);
        let pieces: Vec<Bytes> = (0..40_u64)
            .map(|seed| Bytes::from(made_up(seed as usize * 5000, seed)))
            .collect();
        let (done, all) = soon(arrives(&pair, async |stream| {
            writer.write_all_vectored(stream, &pieces).await?;
            Ok(())
        }));
        done.unwrap();
        assert!(all == pieces.concat());
        let statistics = writer.statistics();
        assert_eq!(statistics.vectored_pieces, 40);
        assert_eq!(statistics.vectored_bytes, all.len() as u64);
        assert_eq!(statistics.buffers.taken, 0, "nothing needs a buffer");
    }
}

/// A peer that reads nothing: memory has its bound, and comes back when the future and the stream
/// are dropped.
#[test]
fn a_peer_that_does_not_read_is_waited_for_in_bounded_memory() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = dir.path().join("file");
    let file = File::create_new(&path).unwrap();
    // Without a byte on the disk.
    file.set_len(400 << 20).unwrap();
    let file = File::open(&path).unwrap();
    let pair = pair(BackendChoice::Auto);
    let writer = ZeroCopyStreamWriter::new(4 * MIB);
    let sent = soon(async {
        let mut stream = pair.here.open_uni().await.unwrap();
        let sends = writer.sendfile_to_stream(&mut stream, &file, 0, 400 << 20);
        let sent = or(async { Some(sends.await) }, async {
            after(Duration::from_millis(700)).await;
            None
        })
        .await;
        let statistics = writer.statistics();
        assert!(statistics.in_flight_bytes <= 64 * MIB, "{statistics:?}");
        assert!(statistics.in_flight_bytes >= 4 * MIB, "{statistics:?}");
        stream.reset(1);
        sent
    });
    assert!(sent.is_none(), "{sent:?}");
    let mut receive: RecvStream = soon(pair.there.accept_uni()).unwrap();
    soon(async { while let Ok(Some(_)) = receive.read_bytes(usize::MAX).await {} });
    for _ in 0..300 {
        if writer.statistics().in_flight_bytes == 0 {
            break;
        }
        soon(after(Duration::from_millis(20)));
    }
    assert_eq!(writer.statistics().in_flight_bytes, 0);
    // A stream that is over is an error.
    let mut stream = soon(pair.here.open_uni()).unwrap();
    stream.reset(1);
    let closed = soon(writer.sendfile_to_stream(&mut stream, &file, 0, 10));
    let is_closed = matches!(closed, Err(ZeroCopyError::Write(WriteError::Closed)));
    assert!(is_closed, "{closed:?}");
}
