//! Files that are cut off, grow, or are none.

use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::engine;

/// On a disk: what lies on tmpfs is other code of the kernel.
fn directory() -> tempfile::TempDir {
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("target");
    std::fs::create_dir_all(&target).unwrap();
    tempfile::tempdir_in(target).unwrap()
}

/// Without a zero among them: zeros are what a page reads as behind the end.
fn some_bytes(count: usize) -> Vec<u8> {
    (0..count).map(|at| (at * 31 % 251) as u8 + 1).collect()
}

fn reader_of(data: &[u8]) -> (MmapFileReader, tempfile::TempDir, File) {
    let dir = directory();
    let path = dir.path().join("file");
    std::fs::write(&path, data).unwrap();
    let writer = File::options().write(true).open(&path).unwrap();
    (MmapFileReader::new(&path).unwrap(), dir, writer)
}

#[test]
fn every_part_is_what_the_file_has_there() {
    let data = some_bytes(5 * 1024 * 1024 + 3);
    let (reader, ..) = reader_of(&data);
    assert!(reader.file.is_mapped());
    assert_eq!(
        (reader.len(), reader.is_empty()),
        (data.len() as u64, false)
    );
    for (offset, size) in [
        (0, 1),
        (4_095, 2),
        (65_536, 65_536),
        (100_001, 4 << 20),
        (0, data.len()),
        (data.len() - 1, 1),
        (data.len(), 0),
    ] {
        let slice = reader.get_slice(offset as u64, size).unwrap();
        assert!(slice == data[offset..offset + size]);
    }
    // Slices outlive their reader.
    let slice = reader.get_slice(7, 9).unwrap();
    drop(reader);
    assert_eq!(slice, data[7..16]);
}

#[test]
fn what_is_beyond_the_end_is_an_error() {
    let (reader, ..) = reader_of(&some_bytes(10_000));
    for (offset, size) in [
        (0, 10_001),
        (9_999, 2),
        (10_000, 1),
        (10_001, 0),
        (u64::MAX, 0),
        (u64::MAX, 1),
        (u64::MAX, usize::MAX),
        (1, usize::MAX),
    ] {
        let error = reader.get_slice(offset, size).unwrap_err();
        assert!(
            matches!(error, MmapError::OutOfBounds { len: 10_000, .. }),
            "{error}"
        );
    }
    assert_eq!(reader.buffers.statistics().taken, 0);
}

#[test]
fn a_file_that_was_cut_off_is_an_error_where_it_was() {
    let data = some_bytes(1 << 20);
    let (reader, _dir, writer) = reader_of(&data);
    reader.get_slice(0, 1 << 20).unwrap();
    // Within a page, of which the rest reads as zeros, and not as SIGBUS.
    writer.set_len(300_001).unwrap();
    for (offset, size) in [(0, 1 << 20), (300_000, 2), (300_001, 1), (900_000, 4096)] {
        match reader.get_slice(offset, size).unwrap_err() {
            MmapError::Shrank { was, is, .. } => assert_eq!((was, is), (1 << 20, 300_001)),
            other => panic!("{other}"),
        }
    }
    assert!(reader.get_slice(0, 300_001).unwrap() == data[..300_001]);
    writer.set_len(0).unwrap();
    let error = reader.get_slice(0, 1).unwrap_err();
    assert!(
        error.to_string().contains("shrank from 1048576 to 0 bytes"),
        "{error}"
    );
    // All buffers are back.
    assert_eq!(reader.buffers.statistics().in_use_bytes, 0);
}

#[test]
fn a_file_that_grew_is_as_long_as_it_was() {
    let data = some_bytes(6_000);
    let (reader, _dir, writer) = reader_of(&data[..5_000]);
    writer.write_all_at(&data, 0).unwrap();
    assert_eq!(reader.len(), 5_000);
    assert!(reader.get_slice(0, 5_001).is_err());
    assert!(reader.get_slice(0, 5_000).unwrap() == data[..5_000]);
}

/// Whether each change that somebody looked for is told by a file's times (Linux 6.13 on most disk
/// file systems).
fn times_are_exact(file: &File) -> bool {
    (0..100u8).all(|byte| {
        let before = Version::from(file.metadata().unwrap());
        file.write_all_at(&[byte], 0).unwrap();
        before != Version::from(file.metadata().unwrap())
    })
}

/// It cannot be foreseen what each read meets. Each is right, or an error that says so.
#[test]
fn a_file_that_is_cut_off_again_and_again_kills_nobody() {
    const LEN: usize = 1 << 20;
    /// Data ends in the page in which the file is cut off: what was there is put back in a moment,
    /// while a long read is at the pages behind, which it holds. Of some thousand long reads a few
    /// have zeros of that page, and length and holes as they should be: the file's times tell.
    const DATA: usize = 303_000;
    const CUT: usize = 300_001;
    let mut data = some_bytes(DATA);
    let (reader, _dir, writer) = reader_of(&data);
    let are_exact = times_are_exact(&writer);
    writer.write_all_at(&data[..1], 0).unwrap();
    data.resize(LEN, 0);
    writer.set_len(LEN as u64).unwrap();
    let reader = MmapFileReader::new(&reader.path).unwrap();
    let is_over = AtomicBool::new(false);
    let mut wrong_offsets = Vec::new();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                writer.set_len(CUT as u64).unwrap();
                writer.write_all_at(&data[CUT..DATA], CUT as u64).unwrap();
                writer.set_len(LEN as u64).unwrap();
            }
        });
        for round in 0..4_000usize {
            let (offset, size) = match round % 4 {
                0 => (CUT - 100 + round % 3_000, 4_096),
                _ => (round % 3_000, 700_000),
            };
            match reader.get_slice(offset as u64, size) {
                Ok(slice) => {
                    let wrong = (0..size).find(|&at| slice[at] != data[offset + at]);
                    wrong_offsets.extend(wrong.map(|at| (offset + at, slice[at])));
                }
                Err(MmapError::Shrank { .. } | MmapError::Changing { .. }) => {}
                Err(other) => panic!("{other}"),
            }
        }
        is_over.store(true, Ordering::Relaxed);
    });
    // Where times are coarse there may be zeros of the moment in between.
    wrong_offsets.retain(|&(at, byte)| are_exact || at < CUT || byte != 0);
    assert!(wrong_offsets.is_empty(), "{wrong_offsets:?}");
    assert!(reader.get_slice(0, LEN).unwrap() == data);
    assert_eq!(reader.buffers.statistics().in_use_bytes, 0);
}

#[test]
fn an_empty_file_has_one_part_of_no_bytes() {
    let (reader, ..) = reader_of(b"");
    assert!(reader.is_empty() && !reader.file.is_mapped());
    assert!(reader.get_slice(0, 0).unwrap().is_empty());
    assert!(reader.get_slice(0, 1).is_err());
}

#[test]
fn what_is_no_file_is_refused_at_once() {
    let dir = directory();
    let fifo = dir.path().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let refused = |path: &Path| MmapFileReader::new(path).unwrap_err().to_string();
    assert!(refused(&fifo).contains("is a FIFO"));
    assert!(refused(dir.path()).contains("is a directory"));
    assert!(refused(Path::new("/dev/null")).contains("is a device"));
    let socket = dir.path().join("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    assert!(refused(&socket).contains("cannot open"));
    assert!(refused(&dir.path().join("none")).contains("is the path right"));
}

#[test]
fn a_huge_file_of_holes_is_read_anywhere() {
    const LEN: u64 = 4 << 40;
    let (reader, _dir, writer) = reader_of(b"");
    writer.set_len(LEN).unwrap();
    writer.write_all_at(b"end", LEN - 3).unwrap();
    let reader = MmapFileReader::new(&reader.path).unwrap();
    assert!(reader.file.is_mapped());
    assert_eq!(reader.len(), LEN);
    assert_eq!(reader.get_slice(LEN - 5, 5).unwrap(), &b"\0\0end"[..]);
    assert!(
        reader
            .get_slice(3 << 40, 100_000)
            .unwrap()
            .iter()
            .all(|&byte| byte == 0)
    );
    // Nobody allocates as much as is asked for.
    let error = reader.get_slice(0, 1 << 40).unwrap_err();
    assert!(matches!(
        error,
        MmapError::Buffer {
            source: BufferPoolError::TooLarge { .. },
            ..
        }
    ));
}

#[test]
fn slices_are_bounded_by_their_pool() {
    let data = some_bytes(100_000);
    let (first, _dir, _) = reader_of(&data);
    let pool = BufferPool::new(256 << 10);
    let reader = MmapFileReader::with_pool(&first.path, pool.clone()).unwrap();
    let slices: Vec<_> = (0..4)
        .map(|_| reader.get_slice(0, 65_536).unwrap())
        .collect();
    let error = reader.get_slice(0, 1).unwrap_err();
    assert!(error.to_string().contains("drop buffers"), "{error}");
    drop(slices);
    reader.get_slice(0, 1).unwrap();
    assert_eq!(pool.statistics().reused, 0, "of another size");
    assert_eq!(pool.statistics().returned, 5);
}

/// What docs/adr/0046 says.
#[test]
#[ignore = "prints how long get_slice takes, and pread into the same buffers"]
fn get_slice_beside_pread() {
    const LEN: usize = 256 << 20;
    let (reader, _dir, _) = reader_of(&some_bytes(LEN));
    let file = File::open(&reader.path).unwrap();
    let by_pread = |offset, size| {
        let mut buffer = reader.buffers.take(size).unwrap();
        file.read_exact_at(&mut buffer, offset).unwrap();
        buffer.freeze()
    };
    let by_map = |offset, size| {
        let mut buffer = reader.buffers.take(size).unwrap();
        assert_eq!(reader.file.read_at(offset, &mut buffer).unwrap(), size);
        buffer.freeze()
    };
    let by_slice = |offset, size| reader.get_slice(offset, size).unwrap();
    let ways = [
        ("get_slice", &by_slice as &dyn Fn(u64, usize) -> Bytes),
        ("map alone", &by_map),
        ("pread", &by_pread),
    ];
    for size in [4 << 10, 64 << 10, 4 << 20] {
        let mut micros = [const { Vec::new() }; 3];
        // The first round maps the pages, and is not counted.
        for round in 0..12 {
            for (way, (_, read)) in ways.iter().enumerate() {
                let begun = engine::now();
                for offset in (0..LEN).step_by(size) {
                    std::hint::black_box(read(offset as u64, size));
                }
                let took = begun.elapsed().as_secs_f64() * 1e6 / (LEN / size) as f64;
                if round > 0 {
                    micros[way].push(took);
                }
            }
        }
        for (way, (name, _)) in ways.iter().enumerate() {
            micros[way].sort_by(f64::total_cmp);
            let of = &micros[way];
            let (median, min, max) = (of[of.len() / 2], of[0], of[of.len() - 1]);
            println!("{size:>8} {name:>9}: {median:.2} us ({min:.2} to {max:.2})");
        }
    }
}
