//! A path that a peer asks for falls into a parent and a last component that is a name, or has no
//! such name.
#![no_main]

use bytes::Bytes;
use landro::fuzzing::{relative, split_path};
use landro::ids::{NAME_MAX_BYTES, Name, NameError};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let (parent, last, trailing_slash) = split_path(data);
    assert!(!parent.is_empty() && (!trailing_slash || data.ends_with(b"/")));
    assert_eq!(
        parent.starts_with(b"/"),
        data.starts_with(b"/"),
        "absolute is not relative"
    );
    if let Some(last) = last {
        match Name::new(Bytes::copy_from_slice(last)) {
            Ok(_) => {}
            Err(NameError::TooLong) => assert!(last.len() > NAME_MAX_BYTES),
            Err(NameError::Nul) => assert!(data.contains(&0)),
            Err(error) => panic!("{error}"),
        }
        let slashes = data.iter().rev().take_while(|&&byte| byte == b'/').count();
        assert!(data[..data.len() - slashes].ends_with(last));
    }
    let below = relative(data);
    assert!(!below.starts_with(b"/") && data.ends_with(below));
});
