//! TLS secrets and qlog: written only where somebody asked for it, into files of nobody else, and
//! never for strangers.

mod common;

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;
use std::process::Command;

use common::{Daemon, Output, Running, Side, World, landro};

const BACKEND: &str = "poll";

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

fn files(dir: &Path) -> Vec<std::path::PathBuf> {
    fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect()
}

fn text(path: impl AsRef<Path>) -> &'static str {
    path.as_ref().to_str().unwrap().to_owned().leak()
}

/// A push with these variables set.
fn push(world: &World, variables: &[(&str, &Path)]) -> Output {
    fs::write(world.here("file"), "x").unwrap();
    let mut cp = world.cp_command(
        &[],
        &["--force", text(world.here("file")), &world.url("file")],
    );
    cp.envs(variables.iter().copied());
    Running::spawn(cp).wait()
}

#[test]
fn a_command_writes_where_its_environment_says() {
    let world = World::new(BACKEND);
    let (qlog, keys) = (world.here("qlog"), world.here("keys"));
    fs::create_dir(&qlog).unwrap();
    push(&world, &[("QLOGDIR", &qlog), ("SSLKEYLOGFILE", &keys)]).expect(0);
    let logs = files(&qlog);
    assert_eq!(logs.len(), 1);
    assert!(fs::metadata(&logs[0]).unwrap().len() > 1000);
    assert_eq!((mode(&logs[0]), mode(&keys)), (0o600, 0o600));
    let secrets = fs::read_to_string(&keys).unwrap();
    assert!(
        secrets.contains("CLIENT_TRAFFIC_SECRET_0") && secrets.contains("SERVER_TRAFFIC_SECRET_0")
    );
    push(&world, &[("SSLKEYLOGFILE", &keys)]).expect(0);
    let more = fs::read_to_string(&keys).unwrap();
    assert!(
        more.starts_with(&secrets) && more.len() > secrets.len(),
        "appended"
    );
}

/// Something at the name of the secrets, made by somebody else.
type Plant = fn(&World, keys: &Path);

/// What is planted, and what is said of it.
const PLANTS: [(&str, Plant); 6] = [
    ("symbolic link", |world, keys| {
        symlink(world.here("victim"), keys).unwrap()
    }),
    ("symbolic link", |world, keys| {
        symlink(world.here("nowhere"), keys).unwrap()
    }),
    ("hard link", |world, keys| {
        fs::hard_link(world.here("victim"), keys).unwrap()
    }),
    ("mode 0644", |_, keys| {
        fs::write(keys, "").unwrap();
        fs::set_permissions(keys, Permissions::from_mode(0o644)).unwrap();
    }),
    ("keys: ", |_, keys| {
        let made = Command::new("mkfifo").arg("-m600").arg(keys).status();
        assert!(made.unwrap().success());
    }),
    ("keys: ", |_, keys| {
        fs::write(keys, "").unwrap();
        fs::set_permissions(keys, Permissions::from_mode(0o666)).unwrap();
        if common::is_root() {
            chown(keys, Some(65_534), None).unwrap();
        }
    }),
];

/// What others planted at the name is neither written to nor followed, and the transfer goes on
/// without.
#[test]
fn what_somebody_else_put_there_is_not_written_to() {
    let world = World::new(BACKEND);
    let (victim, keys) = (world.here("victim"), world.here("keys"));
    for (number, (said, plant)) in PLANTS.into_iter().enumerate() {
        fs::write(&victim, "untouched").unwrap();
        fs::set_permissions(&victim, Permissions::from_mode(0o600)).unwrap();
        plant(&world, &keys);
        let output = push(&world, &[("SSLKEYLOGFILE", &keys)]).expect(0);
        assert!(
            output.stderr.contains(said),
            "number {number}: {}",
            output.stderr
        );
        assert_eq!(fs::read(&victim).unwrap(), b"untouched", "number {number}");
        assert!(!world.here("nowhere").exists());
        // A daemon, which was told in so many words, does not start.
        let mut serve = vec!["serve", text(world.here("")), "--listen", "127.0.0.1:0"];
        serve.extend(["--keylog", text(&keys)]);
        let stderr = landro(&Side::new(), serve).expect(1).stderr;
        assert!(stderr.contains(said), "number {number}: {stderr}");
        assert_eq!(fs::read(&victim).unwrap(), b"untouched", "number {number}");
        fs::remove_file(&keys).unwrap();
    }
}

#[test]
fn a_directory_that_is_a_symlink_gets_no_logs() {
    let world = World::new(BACKEND);
    let qlog = world.here("qlog");
    // What a push adds itself.
    fs::write(world.here("file"), "x").unwrap();
    symlink(world.here(""), &qlog).unwrap();
    let before = files(&world.here("")).len();
    let output = push(&world, &[("QLOGDIR", &qlog)]).expect(0);
    assert!(output.stderr.contains("QLOGDIR"), "{}", output.stderr);
    assert_eq!(files(&world.here("")).len(), before);
}

#[test]
fn a_daemon_does_not_look_at_its_environment() {
    let (client, server) = (Side::new(), Side::new());
    let dir = tempfile::tempdir().unwrap();
    let (qlog, keys, root) = (
        dir.path().join("qlog"),
        dir.path().join("keys"),
        dir.path().join("root"),
    );
    fs::create_dir(&qlog).unwrap();
    fs::create_dir(&root).unwrap();
    fs::write(root.join("file"), "x").unwrap();
    let id = client.id();
    let prefix = [
        "env".into(),
        format!("QLOGDIR={}", text(&qlog)),
        format!("SSLKEYLOGFILE={}", text(&keys)),
    ];
    // `command` takes both variables away, so they come by env(1).
    let prefix: Vec<&str> = prefix.iter().map(String::as_str).collect();
    let daemon = Daemon::start_with(
        &server,
        &prefix,
        &root,
        &["--backend", BACKEND, "--allow", &id],
    );
    landro(
        &client,
        ["ls", "--peer", &daemon.fingerprint, &daemon.url("")],
    )
    .expect(0);
    daemon.wait_for_log("--qlog DIR");
    assert_eq!(
        daemon.log().matches("SSLKEYLOGFILE").count(),
        1,
        "said once: {}",
        daemon.log()
    );
    let stopped = daemon.stop().expect(0);
    assert!(
        files(&qlog).is_empty() && !keys.exists(),
        "{}",
        stopped.stderr
    );
}

#[test]
fn a_daemon_writes_when_told_to_and_nothing_of_strangers() {
    let (client, stranger, server) = (Side::new(), Side::new(), Side::new());
    let dir = tempfile::tempdir().unwrap();
    let (qlog, keys, root) = (
        dir.path().join("qlog"),
        dir.path().join("keys"),
        dir.path().join("root"),
    );
    fs::create_dir(&qlog).unwrap();
    fs::create_dir(&root).unwrap();
    let id = client.id();
    let args = [
        "--backend",
        BACKEND,
        "--allow",
        &id,
        "--qlog",
        text(&qlog),
        "--keylog",
        text(&keys),
    ];
    let daemon = Daemon::start(&server, &root, &args);
    let ls = |side: &Side| landro(side, ["ls", "--peer", &daemon.fingerprint, &daemon.url("")]);
    for _ in 0..3 {
        ls(&stranger).expect(4);
    }
    // Packets that look like the beginning of a handshake.
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    for number in 0..50_u8 {
        let mut initial = vec![
            0xc0, 0, 0, 0, 1, 8, number, 1, 2, 3, 4, 5, 6, 7, 8, number, 1, 2, 3, 4, 5, 6, 7, 0,
            0x44, 0xb0,
        ];
        initial.resize(1200, 0);
        socket.send_to(&initial, daemon.address()).unwrap();
    }
    ls(&stranger).expect(4);
    assert_eq!(
        (files(&qlog).len(), fs::read_to_string(&keys).unwrap()),
        (0, String::new())
    );
    assert_eq!(mode(&keys), 0o600);
    ls(&client).expect(0);
    let secrets = fs::read_to_string(&keys).unwrap();
    assert!(
        secrets.contains("CLIENT_TRAFFIC_SECRET_0")
            && secrets.contains("CLIENT_HANDSHAKE_TRAFFIC_SECRET")
    );
    assert!(!files(&qlog).is_empty());
    let before = files(&qlog).len();
    daemon.stop().expect(0);
    assert_eq!(files(&qlog).len(), before);
    for log in files(&qlog) {
        assert_eq!(mode(&log), 0o600);
        assert!(fs::read_to_string(&log).unwrap().contains("packet_sent"));
    }
}

/// A set-user-ID copy of the binary, called by somebody else: the caller may neither read its
/// secrets nor say where it writes.
#[test]
fn a_set_user_id_program_ignores_its_callers_environment() {
    if !common::is_root() {
        common::skipped("needs root to make a set-user-ID program of another user");
        return;
    }
    let world = World::new(BACKEND);
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
    let (program, config, qlog) = (
        dir.path().join("landro"),
        dir.path().join("config"),
        dir.path().join("qlog"),
    );
    fs::copy(common::LANDRO, &program).unwrap();
    fs::create_dir(&config).unwrap();
    fs::create_dir(&qlog).unwrap();
    fs::set_permissions(&qlog, Permissions::from_mode(0o1777)).unwrap();
    for path in [&program, &config] {
        chown(path, Some(65_534), None).unwrap();
    }
    fs::set_permissions(&config, Permissions::from_mode(0o700)).unwrap();
    fs::set_permissions(&program, Permissions::from_mode(0o4755)).unwrap();
    let keys = qlog.join("keys");
    let run = || {
        let mut ls = Command::new(&program);
        ls.args(["ls", "--peer", &world.daemon.fingerprint, &world.url("")]);
        ls.env("LANDRO_CONFIG_DIR", &config)
            .env("SSLKEYLOGFILE", &keys)
            .env("QLOGDIR", &qlog);
        Running::spawn(ls).wait()
    };
    // Its key, made as the other user, may not come in; it has connected all the same.
    run().expect(4);
    assert!(
        config.join("identity.pem").exists(),
        "it ran as the other user, or this mount forbids set-user-ID"
    );
    assert!(files(&qlog).is_empty(), "{:?}", files(&qlog));
    // Without the bit the same call writes.
    fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
    for path in [config.clone(), config.join("identity.pem")] {
        chown(path, Some(0), None).unwrap();
    }
    run().expect(4);
    assert_eq!(files(&qlog).len(), 2, "{:?}", files(&qlog));
}
