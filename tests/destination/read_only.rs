//! Directories that their owner may not write: what is new comes into them all the same, as with
//! rsync, and they stay as they were.

use super::*;

pub fn read_only_directories_take_what_is_new(backend: &'static str) {
    if !is_root() {
        common::skipped("without root the sides cannot be told apart");
        return;
    }
    let nobody = [
        "setpriv",
        "--reuid",
        "65534",
        "--regid",
        "65534",
        "--clear-groups",
    ];
    let side = || {
        let config = tempfile::tempdir().unwrap();
        std::os::unix::fs::chown(config.path(), Some(65534), Some(65534)).unwrap();
        (Side::at(config.path().to_owned()), config)
    };
    let ((client, _config), (server, _of_server), place) = (side(), side(), disk_dir());
    fs::set_permissions(place.path(), Permissions::from_mode(0o755)).unwrap();
    let run = |args: &[&str]| Running::spawn(command(&client, &nobody, args)).wait();
    let id = run(&["id"]).expect(0).stdout.trim().to_owned();
    let args = ["--backend", backend, "--allow", &id];
    let daemon = Daemon::start_with(&server, &nobody, place.path(), &args);
    for way in ["local", "push", "pull"] {
        let at = |name: &str| place.path().join(way).join(name);
        let (source, target) = (at("src"), at("dst"));
        fill(&source);
        fs::create_dir(&target).unwrap();
        fs::set_permissions(&target, Permissions::from_mode(0o777)).unwrap();
        let from = match way {
            "pull" => daemon.url("pull/src"),
            _ => text(&source),
        };
        let to = match way {
            "push" => daemon.url("push/dst"),
            _ => text(&target),
        };
        let options = ["cp", "--backend", backend, "--peer", &daemon.fingerprint];
        let run = |from: &str, to: &str| run(&[&options[..], &[from, to]].concat());
        let copy = || run(&from, &to);
        let sub = source.join("sub");
        fs::set_permissions(&sub, Permissions::from_mode(0o555)).unwrap();
        copy().expect(0);
        let landed = target.join("src/sub");
        let mode = || fs::metadata(&landed).unwrap().mode() & 0o7777;
        assert_eq!(mode(), 0o555, "{way}");
        fs::write(sub.join("new"), b"new").unwrap();
        copy().expect(0);
        assert_eq!(fs::read(landed.join("new")).unwrap(), b"new", "{way}");
        assert_eq!(mode(), 0o555, "{way}");
        contents_come_into_a_read_only_directory(&run, [&from, &to], &target);
    }
}

/// A read-only directory that is named takes the place of the source, so that its owner may write
/// in it for the time being. Where only something is put into it, it is as he left it.
fn contents_come_into_a_read_only_directory(
    run: &dyn Fn(&str, &str) -> common::Output,
    [from, to]: [&str; 2],
    target: &Path,
) {
    let into = target.join("into");
    fs::create_dir(&into).unwrap();
    std::os::unix::fs::chown(&into, Some(65534), Some(65534)).unwrap();
    fs::set_permissions(&into, Permissions::from_mode(0o555)).unwrap();
    let mode = || fs::metadata(&into).unwrap().mode() & 0o7777;
    run(&format!("{from}/."), &format!("{to}/into")).expect(0);
    assert_eq!(fs::read(into.join("c")).unwrap().len(), 200_000);
    assert_eq!(fs::read(into.join("sub/new")).unwrap(), b"new");
    assert_eq!(mode(), 0o555);
    fs::remove_file(into.join("c")).unwrap();
    let refused = run(&format!("{from}/c"), &format!("{to}/into/"));
    assert_ne!(refused.code, Some(0));
    assert!(
        refused.stderr.contains("permission denied"),
        "{}",
        refused.stderr
    );
    assert!(!into.join("c").exists());
    assert_eq!(mode(), 0o555);
}
