//! Any bytes are messages, a wait for more, or an error; what decodes is encoded again to the same
//! message.
#![no_main]

use bytes::{Bytes, BytesMut};
use landro::proto::wire::{Decoder, Message, encode};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut decoder = Decoder::new();
    decoder.push(Bytes::copy_from_slice(data));
    while let Ok(Some(message)) = decoder.next() {
        again(&message);
    }
    // The same bytes as one framed message, so that the fuzzer need not find the length.
    if data.len() <= u16::MAX as usize {
        let mut framed = BytesMut::from(&(data.len() as u32).to_be_bytes()[..]);
        framed.extend_from_slice(data);
        let mut decoder = Decoder::new();
        decoder.push(framed.freeze());
        if let Ok(Some(message)) = decoder.next() {
            again(&message);
        }
    }
});

fn again(message: &Message) {
    let mut bytes = BytesMut::new();
    encode(message, &mut bytes);
    let mut decoder = Decoder::new();
    decoder.push(bytes.freeze());
    assert_eq!(decoder.next().as_ref(), Ok(&Some(message.clone())));
}
