//! However a data stream is cut into pieces, the parser says the same of it.
#![no_main]

use bytes::Bytes;
use landro::proto::wire::{Record, RecordParser};
use libfuzzer_sys::fuzz_target;

/// What a stream says, its data joined, until its end or first error.
fn parse(pieces: impl Iterator<Item = Bytes>) -> (Vec<Record>, bool) {
    let (mut parser, mut records) = (RecordParser::default(), Vec::new());
    for mut piece in pieces {
        loop {
            match parser.next(&mut piece) {
                Ok(None) => break,
                Err(_) => return (records, true),
                Ok(Some(Record::Data(data))) => match records.last_mut() {
                    Some(Record::Data(before)) => {
                        *before = [&before[..], &data[..]].concat().into()
                    }
                    _ => records.push(Record::Data(data)),
                },
                Ok(Some(record)) => records.push(record),
            }
        }
        assert!(piece.is_empty());
    }
    (records, false)
}

fuzz_target!(|data: &[u8]| {
    let Some((&step, rest)) = data.split_first() else {
        return;
    };
    let step = usize::from(step).max(1);
    let cut = parse(rest.chunks(step).map(Bytes::copy_from_slice));
    let whole = parse(std::iter::once(Bytes::copy_from_slice(rest)));
    assert_eq!(cut, whole);
});
