//! What is not copied is named, and the rest arrives.

use std::ffi::OsString;
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};

use crate::common::tree::{self, Rng, assert_no_leftovers, assert_same};
use crate::common::{self, Running, World};
use crate::on_both_backends;
use crate::{Placement, Way};

on_both_backends!(
    special_files_are_skipped_with_a_warning,
    what_cannot_be_read_is_named_and_the_rest_arrives,
    what_cannot_be_written_is_named_and_the_rest_arrives,
    symlinks_inside_the_root_work_and_lead_nowhere_else,
);

fn special_files_are_skipped_with_a_warning(backend: &'static str) {
    let world = World::new(backend);
    for way in [Way::Push, Way::Pull, Way::Local] {
        let at = Placement { world: &world, way };
        fs::create_dir_all(at.from("tree")).unwrap();
        fs::create_dir_all(at.to("")).unwrap();
        fs::write(at.from("tree/file"), "x").unwrap();
        let fifo = at.from("tree/fifo\n");
        tree::mkfifo(&fifo);
        let _socket = std::os::unix::net::UnixListener::bind(at.from("tree/socket")).unwrap();
        let output = at.cp(&["tree"], "tree").expect(0);
        let warned: Vec<&str> = output
            .of("warning")
            .filter_map(|warning| warning["path"].as_str())
            .collect();
        assert_eq!(warned.len(), 2, "{way:?} {warned:?}");
        assert!(
            warned.iter().any(|path| path.ends_with("fifo\n")),
            "{way:?} {warned:?}"
        );
        assert!(
            !output.stderr.trim_end().contains("fifo\n"),
            "a newline of a name is printed: {}",
            output.stderr
        );
        assert_eq!(fs::read_dir(at.to("tree")).unwrap().count(), 1);
    }
}

fn what_cannot_be_read_is_named_and_the_rest_arrives(backend: &'static str) {
    let (client, server) = (common::Side::new(), common::Side::new());
    let dir = tempfile::tempdir().unwrap();
    let (root, here) = (dir.path().join("root"), dir.path().join("here"));
    let mut rng = Rng::new(backend);
    for side in [&root, &here] {
        fs::create_dir_all(side.join("tree/closed")).unwrap();
        for (name, size_bytes) in [
            ("fine", 10),
            ("secret", 10),
            ("secret-large", 2 << 20),
            ("closed/x", 1),
        ] {
            tree::write_file(&side.join("tree").join(name), size_bytes, &mut rng);
        }
        for name in ["secret", "secret-large", "closed"] {
            fs::set_permissions(side.join("tree").join(name), Permissions::from_mode(0o000))
                .unwrap();
        }
    }
    let prefix = common::without_override();
    let args = ["--backend", backend, "--allow", &client.id()];
    let daemon = common::Daemon::start_with(&server, prefix, &root, &args);
    let (there, back) = (daemon.url("pushed"), here.join("pulled"));
    for (from, to, landed) in [
        (
            here.join("tree").into_os_string(),
            OsString::from(there),
            root.join("pushed"),
        ),
        (daemon.url("tree").into(), back.clone().into(), back),
    ] {
        let args = [
            "cp".into(),
            "--json".into(),
            "--peer".into(),
            daemon.fingerprint.clone().into(),
            from,
            to,
        ];
        let output = Running::spawn(common::command(&client, prefix, args))
            .wait()
            .expect(3);
        for name in ["secret", "secret-large", "closed"] {
            let named = |value: &serde_json::Value| {
                value["path"]
                    .as_str()
                    .is_some_and(|path| path.ends_with(name))
            };
            assert!(output.of("error").any(named), "{name}: {output:?}");
            assert!(output.stderr.contains(name), "{name}");
        }
        assert_eq!(output.number("errors"), 3, "{output:?}");
        assert!(landed.join("fine").is_file() && !landed.join("secret").exists());
        assert_no_leftovers(&landed);
    }
    for side in [&root, &here] {
        fs::set_permissions(side.join("tree/closed"), Permissions::from_mode(0o700)).unwrap();
    }
}

fn what_cannot_be_written_is_named_and_the_rest_arrives(backend: &'static str) {
    let (client, server) = (common::Side::new(), common::Side::new());
    let dir = tempfile::tempdir().unwrap();
    let (root, tree) = (dir.path().join("root"), dir.path().join("tree"));
    let mut rng = Rng::new(backend);
    for directory in ["open", "shut"] {
        fs::create_dir_all(tree.join(directory)).unwrap();
        tree::write_file(&tree.join(directory).join("small"), 10, &mut rng);
        tree::write_file(&tree.join(directory).join("large"), 2 << 20, &mut rng);
    }
    fs::create_dir_all(root.join("tree/shut")).unwrap();
    fs::set_permissions(root.join("tree/shut"), Permissions::from_mode(0o555)).unwrap();
    let prefix = common::without_override();
    let args = ["--backend", backend, "--allow", &client.id()];
    let daemon = common::Daemon::start_with(&server, prefix, &root, &args);
    let args = [
        "cp",
        "--json",
        "--peer",
        &daemon.fingerprint,
        tree.to_str().unwrap(),
        &daemon.url(""),
    ];
    let output = common::landro(&client, args).expect(3);
    let failed: Vec<&str> = output
        .of("error")
        .filter_map(|error| error["path"].as_str())
        .collect();
    for name in ["tree/shut/small", "tree/shut/large"] {
        assert!(
            failed.iter().any(|path| path.ends_with(name)),
            "{name} is missing in {failed:?}"
        );
    }
    assert!(
        output
            .of("error")
            .filter(|error| !error["path"].is_null())
            .all(|error| error["code"] == "permission")
    );
    assert_same(&tree.join("open"), &root.join("tree/open"));
    assert_eq!(fs::read_dir(root.join("tree/shut")).unwrap().count(), 0);
    assert_no_leftovers(&root);
}

fn symlinks_inside_the_root_work_and_lead_nowhere_else(backend: &'static str) {
    let world = World::new(backend);
    fs::create_dir_all(world.root("real/inner")).unwrap();
    fs::write(world.root("real/inner/file"), "inside").unwrap();
    symlink("real/inner", world.root("relative")).unwrap();
    fs::write(world.here("secret"), "outside").unwrap();
    symlink(world.here(""), world.root("out")).unwrap();
    symlink("../here", world.root("up")).unwrap();
    fs::write(world.here("new"), "new").unwrap();

    world.pull("relative/file", world.here("got")).expect(0);
    assert_eq!(fs::read(world.here("got")).unwrap(), b"inside");
    world.push(world.here("new"), "relative/").expect(0);
    assert_eq!(fs::read(world.root("real/inner/new")).unwrap(), b"new");

    for link in ["out", "up"] {
        assert_ne!(
            world
                .pull(&format!("{link}/secret"), world.here("stolen"))
                .code,
            Some(0),
            "{link}"
        );
        assert_ne!(
            world.pull(&format!("{link}/"), world.here("stolen")).code,
            Some(0),
            "{link}"
        );
        assert_ne!(
            world
                .push(world.here("new"), &format!("{link}/planted"))
                .code,
            Some(0),
            "{link}"
        );
        assert_ne!(
            world.push(world.here("new"), &format!("{link}/")).code,
            Some(0),
            "{link}"
        );
    }
    for path in [
        "../here/secret",
        "real/../../here/secret",
        "%2e%2e/here/secret",
        "/../here/secret",
    ] {
        assert_ne!(
            world.pull(path, world.here("stolen")).code,
            Some(0),
            "{path}"
        );
        let planted = path.replace("secret", "planted");
        assert_ne!(
            world.push(world.here("new"), &planted).code,
            Some(0),
            "{path}"
        );
    }
    assert!(!world.here("stolen").exists() && !world.here("planted").exists());
    assert_eq!(
        fs::read_dir(world.here("")).unwrap().count(),
        3,
        "secret, new, got"
    );
}
