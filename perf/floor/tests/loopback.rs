//! The real program on both ends, over loopback: what arrives, and what is refused.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

const BYTES: usize = 3 << 20;

struct Server {
    child: Child,
    address: String,
}

impl Server {
    fn start(root: &Path, options: &[&str]) -> Server {
        let mut command = Command::new(env!("CARGO_BIN_EXE_landro-floor"));
        command
            .args(["serve", "--listen", "127.0.0.1:0", "--root"])
            .arg(root)
            .args(options);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let address = line
            .trim_end()
            .strip_prefix("listening on ")
            .unwrap()
            .to_owned();
        Server { child, address }
    }

    fn send(&self, file: &Path, name: &str, options: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_landro-floor"));
        command
            .args(["send", &self.address])
            .arg(file)
            .arg(name)
            .args(options)
            .output()
            .unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Bytes of which no two pieces are alike.
fn content(bytes: usize) -> Vec<u8> {
    let mut content = vec![0; bytes];
    blake3::Hasher::new().finalize_xof().fill(&mut content);
    content
}

/// A file of so many bytes, and an empty directory.
fn place(bytes: usize) -> (tempfile::TempDir, std::path::PathBuf, std::path::PathBuf) {
    let place = tempfile::tempdir().unwrap();
    let (source, root) = (place.path().join("source"), place.path().join("root"));
    std::fs::write(&source, content(bytes)).unwrap();
    std::fs::create_dir(&root).unwrap();
    (place, source, root)
}

#[test]
fn files_arrive_as_they_were() {
    for options in [&[][..], &["--hash"]] {
        // One that ends with a piece, some that do not, one in which only the digest does not fit
        // the piece.
        for bytes in [BYTES, BYTES + 1, 65_536 - 31, 0] {
            let (_place, source, root) = place(bytes);
            let server = Server::start(&root, options);
            for name in ["first", "second"] {
                let sent = server.send(&source, name, options);
                assert!(sent.status.success(), "{bytes} {options:?}: {sent:?}");
                assert!(
                    String::from_utf8(sent.stdout)
                        .unwrap()
                        .starts_with(&format!("{bytes} bytes in "))
                );
                assert!(
                    std::fs::read(root.join(name)).unwrap() == content(bytes),
                    "{bytes} {options:?}"
                );
            }
        }
    }
}

#[test]
fn a_name_that_leads_elsewhere_is_refused() {
    let (place, source, root) = place(BYTES);
    let server = Server::start(&root, &[]);
    for name in ["../x", "..", "a/b", ""] {
        let sent = server.send(&source, name, &[]);
        let said = String::from_utf8(sent.stderr).unwrap();
        assert!(!sent.status.success());
        assert_eq!(
            said,
            format!("landro-floor: refused: {name:?} is not the name of a file\n")
        );
    }
    let entries = |path: &Path| std::fs::read_dir(path).unwrap().count();
    assert_eq!(
        (entries(place.path()), entries(&root)),
        (2, 0),
        "nothing was written"
    );
    assert!(
        server.send(&source, "x", &[]).status.success(),
        "the server goes on"
    );
}

#[test]
fn ends_that_do_not_agree_about_the_digest_do_not_begin() {
    let (_place, source, root) = place(BYTES);
    let server = Server::start(&root, &["--hash"]);
    assert!(!server.send(&source, "x", &[]).status.success());
    assert_eq!(std::fs::read_dir(&root).unwrap().count(), 0);
}
