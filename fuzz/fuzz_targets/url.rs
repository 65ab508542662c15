//! An argument is a place or an error; a URL that is one, written out in full, is the same place
//! again.
#![no_main]

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use landro::fuzzing::{Operand, acts_on_terminal};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    check(data);
    // The same bytes behind the scheme, so that the fuzzer need not find it.
    check(&[b"landro://", data].concat());
});

fn check(typed: &[u8]) {
    match Operand::parse(OsStr::from_bytes(typed)) {
        Ok(Operand::Local(path)) => {
            assert!(path == typed && !path.is_empty() && !path.contains(&0))
        }
        Ok(Operand::Remote(url)) => {
            assert!(!url.path.contains(&0) && url.path.first() != Some(&b'/'));
            assert!(!url.host.name.is_empty() && url.host.port != 0);
            let (name, zone) = url
                .host
                .name
                .split_once('%')
                .unwrap_or((&url.host.name, ""));
            assert!(name == name.to_ascii_lowercase() && !zone.contains('%'));
            let path: String = url.path.iter().map(|byte| format!("%{byte:02x}")).collect();
            let full = format!("landro://{}/{path}", url.host);
            assert_eq!(
                Operand::parse(OsStr::new(&full)),
                Ok(Operand::Remote(url)),
                "{full}"
            );
        }
        Err(error) => assert!(!error.to_string().chars().any(acts_on_terminal)),
    }
}
