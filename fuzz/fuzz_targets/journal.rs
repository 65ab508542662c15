//! Any bytes are a journal of a file's own chunks, or none.
#![no_main]

use landro::proto::integrity::Tree;
use landro::proto::journal::{HEADER_BYTES, Header, Journal, Storage};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    check(data);
    // The same bytes behind a header that passes its check, so that records are reached.
    let Some((size, rest)) = data.split_first_chunk::<8>() else {
        return;
    };
    let mtime = landro::proto::Mtime {
        seconds: 0,
        nanoseconds: 0,
    };
    let size_bytes = u64::from_be_bytes(*size) >> 1;
    let header = Header {
        storage: Storage::default(),
        size_bytes,
        mtime,
        source_tag: 0,
    };
    let mut journal = header.encode().to_vec();
    let mut bytes = bytes::BytesMut::new();
    for value in rest.chunks_exact(4) {
        let chunk = u32::from_be_bytes([0, value[0], value[1], value[2]]);
        header
            .key()
            .encode_record(landro::ids::ChunkIndex(chunk), &[value[3]; 32], &mut bytes);
    }
    journal.extend_from_slice(&bytes);
    journal.extend_from_slice(rest);
    check(&journal);
});

fn check(data: &[u8]) {
    let Some(journal) = Journal::decode(data) else {
        return;
    };
    assert!(data.len() >= HEADER_BYTES && journal.end_bytes <= data.len() as u64);
    let mut tree = Tree::new(journal.header.size_bytes);
    for (chunk, value) in journal.records {
        assert!(
            tree.insert(chunk, value),
            "a chunk outside the file or twice"
        );
    }
}
