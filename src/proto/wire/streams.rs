//! How streams begin and end: a first byte says what a stream carries, a last one ends it.
//!
//! Every stream, the control stream of a lane included, ends with the byte [`END`], and FIN travels
//! with that byte. quiche takes a stream for delivered when its bytes are, so that a FIN of its own
//! is not sent, or not sent again, once they were (`quic/tests/streams.rs` shows it). Only
//! `proto/lanes` writes that byte and takes it off again: whoever fills a stream never sees it.

use bytes::{BufMut, Bytes, BytesMut};

use super::WireError;

/// Ends every stream.
pub const END: [u8; 1] = [0];

/// First byte of a data stream.
pub const DATA: u8 = 1;

/// First byte of the stream that says how many data streams a replaced lane has.
pub const LANE_END: u8 = 2;

/// What stands between [`LANE_END`] and [`END`]: the number of data streams, big-endian.
pub const LANE_END_BYTES: usize = 4;

/// A lane end as it travels, the end of its stream included.
pub fn lane_end(streams: u32) -> Bytes {
    let mut bytes = BytesMut::with_capacity(1 + LANE_END_BYTES + END.len());
    bytes.put_u8(LANE_END);
    bytes.put_u32(streams);
    bytes.put_slice(&END);
    bytes.freeze()
}

/// Takes the end off the bytes that came with FIN.
///
/// # Errors
/// [`WireError::StreamEnd`] when it is not there.
pub fn without_end(mut bytes: Bytes) -> Result<Bytes, WireError> {
    match bytes.split_last() {
        Some((last, rest)) if *last == END[0] => {
            bytes.truncate(rest.len());
            Ok(bytes)
        }
        _ => Err(WireError::StreamEnd),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_one_byte_and_must_be_there() {
        assert_eq!(without_end(Bytes::from_static(&[7, 0])).unwrap(), [7][..]);
        assert_eq!(without_end(Bytes::from_static(&[0, 0])).unwrap(), [0][..]);
        assert_eq!(without_end(Bytes::from_static(&END)).unwrap(), [][..]);
        assert_eq!(
            without_end(Bytes::from_static(&[7])),
            Err(WireError::StreamEnd)
        );
        assert_eq!(without_end(Bytes::new()), Err(WireError::StreamEnd));
    }
}
