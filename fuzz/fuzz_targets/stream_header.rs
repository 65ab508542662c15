//! The first bytes of a data stream are a header, a wait for a few more, or an error; never two of
//! these.
#![no_main]

use bytes::BytesMut;
use landro::proto::wire::StreamHeader;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let whole = StreamHeader::decode(data);
    // A shorter beginning says the same, or waits.
    for cut in 0..data.len().min(StreamHeader::MAX_BYTES) {
        let less = StreamHeader::decode(&data[..cut]);
        assert!(
            less == Ok(None) || less == whole,
            "{less:?} of {cut} bytes, {whole:?} of all"
        );
    }
    match whole {
        Ok(Some((header, len))) => {
            assert!(
                len <= data.len()
                    && len <= StreamHeader::MAX_BYTES
                    && !StreamHeader::is_lane_end(data)
            );
            let mut bytes = BytesMut::new();
            header.encode(&mut bytes);
            assert!(
                bytes.len() <= len,
                "its shortest form is longer than {len} bytes"
            );
            assert_eq!(
                StreamHeader::decode(&bytes),
                Ok(Some((header, bytes.len())))
            );
        }
        Ok(None) => assert!(data.len() < StreamHeader::MAX_BYTES, "waits for ever"),
        Err(_) => {}
    }
});
