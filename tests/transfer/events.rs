//! One tree with every kind of result, pushed, pulled and copied on this host: the events say the
//! same.

use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::common::tree::{self, Rng, mkfifo, temporary, unfinished};
use crate::common::{self, Daemon, Output, Running, Side};
use crate::{Way, on_both_backends};

on_both_backends!(events_say_the_same_whatever_the_direction);

/// What is to be copied: done, skipped, failed at its source, failed at its destination, passed
/// over.
fn build_source(tree: &Path, rng: &mut Rng) {
    for dir in ["sub/deeper", "empty", "closed", "dir-on-file"] {
        fs::create_dir_all(tree.join(dir)).unwrap();
    }
    for (name, size_bytes) in [
        ("zero", 0),
        ("small", 1_000),
        ("sub/large", 3 << 20),
        ("sub/deeper/inner", 70_000),
        ("same", 10),
        ("same-large", 2 << 20),
        ("secret", 10),
        ("secret-large", 2 << 20),
        ("file-on-dir", 10),
        ("file-on-fifo", 10),
        ("closed/inside", 10),
    ] {
        tree::write_file(&tree.join(name), size_bytes, rng);
    }
    unfinished(tree, "a file");
    fs::write(tree.join(OsStr::from_bytes(b"odd\xff\n\x1b")), "x").unwrap();
    for (name, target) in [
        ("link", "small"),
        ("dangling", "nowhere"),
        ("same-link", "same"),
        ("link-on-dir", "small"),
    ] {
        symlink(target, tree.join(name)).unwrap();
    }
    mkfifo(&tree.join("fifo"));
    for name in ["secret", "secret-large", "closed"] {
        fs::set_permissions(tree.join(name), Permissions::from_mode(0o000)).unwrap();
    }
}

/// What stands there already.
fn build_destination(tree: &Path, source: &Path) {
    for dir in ["file-on-dir", "link-on-dir"] {
        fs::create_dir_all(tree.join(dir)).unwrap();
    }
    for name in ["same", "same-large"] {
        fs::copy(source.join(name), tree.join(name)).unwrap();
        for side in [source, tree] {
            let time = UNIX_EPOCH + Duration::from_secs(1_000_000_000);
            tree::set_mtime(&side.join(name), time);
        }
    }
    let copied = Command::new("cp")
        .arg("-a")
        .args([source.join("same-link"), tree.join("same-link")])
        .status();
    assert!(copied.unwrap().success());
    fs::write(tree.join("dir-on-file"), "in the way").unwrap();
    mkfifo(&tree.join("file-on-fifo"));
}

/// What is said of entries, and what all of it adds up to; without times, and without the side that
/// something happened on.
fn said(output: &Output) -> (Vec<String>, Value) {
    let plain = |event: &Value| {
        let mut event = event.clone();
        if let Some(text) = event["message"].as_str() {
            let text = text
                .replace(" (on the client)", "")
                .replace(" (on the server)", "");
            event["message"] = text.into();
        }
        let fields = event.as_object_mut().unwrap();
        fields.retain(|name, _| name != "side");
        event.to_string()
    };
    let of_entry = |event: &&Value| {
        let kinds = ["file", "warning", "error"];
        kinds.contains(&event["event"].as_str().unwrap())
    };
    let mut lines: Vec<String> = output.events.iter().filter(of_entry).map(plain).collect();
    lines.sort_unstable();
    let sums = [
        output.summary(),
        output
            .of("progress")
            .last()
            .expect("one before the summary"),
    ]
    .map(|event| {
        let mut event = event.clone();
        let fields = event.as_object_mut().unwrap();
        let timed = ["seconds", "goodput_bps", "rate_bps", "seconds_left"];
        // Of a copy with a daemon.
        let sessions = fields.remove("sessions");
        assert!(sessions.is_none_or(|sessions| sessions == 1));
        fields.retain(|name, _| !timed.contains(&name.as_str()));
        event
    });
    (lines, json!(sums))
}

/// A client's and a daemon's directory, side by side; who runs there obeys file modes.
struct Hosts {
    client: Side,
    daemon: Daemon,
    dir: tempfile::TempDir,
    backend: &'static str,
}

impl Hosts {
    fn start(backend: &'static str) -> Hosts {
        let (client, server) = (Side::new(), Side::new());
        let dir = tempfile::tempdir().unwrap();
        for side in ["here", "root"] {
            fs::create_dir(dir.path().join(side)).unwrap();
        }
        let args = ["--backend", backend, "--allow", &client.id()];
        let root = dir.path().join("root");
        let daemon = Daemon::start_with(&server, common::without_override(), &root, &args);
        Hosts {
            client,
            daemon,
            dir,
            backend,
        }
    }

    /// Runs in the client's directory, so that what is typed for a source is the same on both
    /// sides: `from/...`.
    fn cp(&self, way: Way, sources: &[&str], target: &str) -> Output {
        let url = |path: &str| self.daemon.url(path);
        let source = |path: &&str| match way {
            Way::Pull => url(path),
            Way::Push | Way::Local => (*path).to_owned(),
        };
        let mut args: Vec<String> = ["cp", "--json", "--peer", &self.daemon.fingerprint]
            .into_iter()
            .chain(["--backend", self.backend])
            .map(String::from)
            .collect();
        args.extend(sources.iter().map(source));
        args.push(match way {
            Way::Push => url(target),
            Way::Pull | Way::Local => target.to_owned(),
        });
        let mut command = common::command(&self.client, common::without_override(), args);
        command.current_dir(self.dir.path().join("here"));
        Running::spawn(command).wait()
    }
}

fn events_say_the_same_whatever_the_direction(backend: &'static str) {
    let hosts = Hosts::start(backend);
    let at = |side: &str, path: &str| hosts.dir.path().join(side).join(path);
    for side in ["here", "root"] {
        fs::create_dir(at(side, "from")).unwrap();
        build_source(&at(side, "from/tree"), &mut Rng::new("events"));
        fs::write(at(side, "from/beside"), "x").unwrap();
    }
    let mut told = Vec::new();
    for (way, from, to) in [
        (Way::Push, "here", "root"),
        (Way::Pull, "root", "here"),
        (Way::Local, "here", "here"),
    ] {
        let target = format!("{way:?}");
        build_destination(&at(to, &target).join("tree"), &at(from, "from/tree"));
        let sources = ["from/tree", "from/beside", "from/gone"];
        let several = hosts.cp(way, &sources, &target).expect(3);
        let has_sessions = several.summary().get("sessions").is_some();
        assert_eq!(has_sessions, !matches!(way, Way::Local), "{way:?}");
        let again = hosts.cp(way, &sources, &target).expect(3);
        // Under another name at the destination.
        let renamed = hosts
            .cp(way, &["from/tree/sub"], &format!("{target}-renamed"))
            .expect(0);
        told.push((way, [several, again, renamed].map(|run| said(&run))));
    }
    let (_, expected) = &told[0];
    for (way, found) in &told[1..] {
        for (expected, found) in expected.iter().zip(found) {
            assert_eq!(found.0, expected.0, "{way:?}");
            assert_eq!(found.1, expected.1, "{way:?}");
        }
    }
    every_kind_was_there(&expected[0].0, &expected[2].0);
    for path in ["here/from/tree/closed", "root/from/tree/closed"] {
        let closed = hosts.dir.path().join(path);
        fs::set_permissions(closed, Permissions::from_mode(0o700)).unwrap();
    }
}

fn every_kind_was_there(lines: &[String], renamed: &[String]) {
    for part in [
        r#""tree/zero","kind":"file","size_bytes":0,"status":"done""#,
        r#""tree/sub/large","kind":"file","size_bytes":3145728,"status":"done""#,
        r#""tree/empty","kind":"directory","size_bytes":0,"status":"done""#,
        r#""tree/link","kind":"symlink","size_bytes":0,"status":"done""#,
        r#""tree/same-link","kind":"symlink","size_bytes":0,"status":"skipped""#,
        r#""tree/same","kind":"file","size_bytes":10,"status":"skipped""#,
        r#""path_hex":"747265652f6f6464ff0a1b""#,
        r#""path":"beside""#,
        r#""path":"from/gone""#,
    ] {
        assert!(
            lines.iter().any(|line| line.contains(part)),
            "{part}: {lines:#?}"
        );
    }
    for (kind, name) in [
        ("error", "secret"),
        ("error", "secret-large"),
        ("error", "closed"),
        ("error", "file-on-dir"),
        ("error", "file-on-fifo"),
        ("error", "link-on-dir"),
        ("error", "dir-on-file"),
        ("warning", "fifo"),
        ("warning", &temporary("a file", "part")),
    ] {
        let event = format!(r#""event":"{kind}""#);
        let path = format!(r#""path":"tree/{name}""#);
        let is_it = |line: &&String| line.contains(&event) && line.contains(&path);
        assert_eq!(lines.iter().filter(is_it).count(), 1, "{path}: {lines:#?}");
    }
    assert!(
        renamed
            .iter()
            .any(|line| line.contains(r#""sub/deeper/inner""#)),
        "{renamed:#?}"
    );
}
