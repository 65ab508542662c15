//! The programs of `examples/`, run as they are.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// Built by `cargo test` beside the tests.
fn example(name: &str) -> Command {
    let mut path: PathBuf = std::env::current_exe().unwrap();
    path.pop();
    path.pop();
    Command::new(path.join("examples").join(name))
}

#[test]
fn a_file_is_sent_and_received() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    let data: Vec<u8> = (0..5_000_000_u32)
        .map(|n| (n.wrapping_mul(n) >> 7) as u8)
        .collect();
    fs::write(&from, &data).unwrap();
    let mut receives = example("receive");
    let mut receives = receives.arg(&to).stdout(Stdio::piped()).spawn().unwrap();
    let mut said = String::new();
    let mut output = BufReader::new(receives.stdout.take().unwrap());
    output.read_line(&mut said).unwrap();
    let (address, key) = said.trim().split_once(' ').unwrap();
    let sent = example("send_file")
        .arg(&from)
        .args([address, key])
        .output();
    let sent = sent.unwrap();
    let words = String::from_utf8_lossy(&sent.stderr);
    assert!(sent.status.success(), "{words}");
    assert!(receives.wait().unwrap().success());
    assert!(fs::read(&to).unwrap() == data, "another file arrived");
}

#[test]
fn under_tokio() {
    let done = example("tokio_interop").output().unwrap();
    let words = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{words}");
    let said = String::from_utf8_lossy(&done.stdout);
    assert_eq!(said, "1000000 bytes there, 1000000 bytes back\n");
}

#[test]
fn streams_and_datagrams() {
    let done = example("streams_and_datagrams").output().unwrap();
    let words = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{words}");
    let said = String::from_utf8_lossy(&done.stdout);
    let expected = "answer: b\"hello\"\npong: b\"ping\"\nround trip: ";
    assert!(said.starts_with(expected), "{said}");
}
