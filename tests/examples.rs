//! The programs of `examples/`, run as they are.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
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
    fs::create_dir(&to).unwrap();
    let data: Vec<u8> = (0..5_000_000_u32)
        .map(|n| (n.wrapping_mul(n) >> 7) as u8)
        .collect();
    fs::write(&from, &data).unwrap();
    let mut receives = example("receive");
    let receives = receives.arg(&to).stdin(Stdio::piped());
    let mut receives = receives.stdout(Stdio::piped()).spawn().unwrap();
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
    drop(receives.stdin.take());
    assert!(receives.wait().unwrap().success());
    let arrived = fs::read(to.join("from")).unwrap();
    assert!(arrived == data, "another file arrived");
}

/// The programs of the README are those that are run here.
#[test]
fn the_readme_has_them_as_they_are() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = fs::read_to_string(root.join("README.md")).unwrap();
    for name in ["send_file", "receive"] {
        let source = root.join("examples").join(name).with_extension("rs");
        let source = fs::read_to_string(source).unwrap();
        let (_, program) = source.split_once("\n\n").unwrap();
        assert!(readme.contains(program), "README.md has another {name}");
    }
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

#[test]
fn a_pool_of_connections() {
    let done = example("pool").output().unwrap();
    let words = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{words}");
    let said = String::from_utf8_lossy(&done.stdout);
    let expected = "20 answers over 1 connection\ncan be tried again: true\n\
                    not dialled after 1 failure\ncut off: 0\n";
    assert_eq!(said, expected);
}

#[test]
fn parallel_chunks() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    let data: Vec<u8> = (0..20_000_001_u32)
        .map(|n| (n.wrapping_mul(n) >> 9) as u8)
        .collect();
    fs::write(&from, &data).unwrap();
    let done = example("parallel_chunks").args([&from, &to]).output();
    let done = done.unwrap();
    let words = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{words}");
    let said = String::from_utf8_lossy(&done.stdout);
    assert!(said.contains("received: 20 of 20"), "{said}");
    assert!(fs::read(&to).unwrap() == data, "another file arrived");
    fs::write(&from, b"").unwrap();
    let done = example("parallel_chunks").args([&from, &to]).output();
    let done = done.unwrap();
    let words = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{words}");
    let said = String::from_utf8_lossy(&done.stdout);
    assert!(said.contains("received: 1 of 1"), "{said}");
    assert!(fs::read(&to).unwrap().is_empty());
}
