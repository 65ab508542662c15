//! Who may talk to whom: identities pinned in both directions, rights per peer, and what is said
//! when refused.

mod common;
#[path = "trust/peers.rs"]
mod peers;

use std::fs;
use std::fs::Permissions;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

use common::tree::assert_no_leftovers;
use common::{Daemon, Output, Running, Side, command, landro};
use peers::{a_peer_whose_time_is_over_is_out, who_may_come_and_who_came_is_listed};

on_both_backends!(
    an_unknown_daemon_is_not_talked_to,
    a_changed_daemon_fails_loudly,
    peer_pins_for_one_run,
    an_unauthorised_client_is_refused_in_the_handshake,
    rights_per_peer,
    a_line_that_is_not_understood_lets_nobody_in,
    files_others_may_write_let_nobody_in,
    files_others_may_write_are_not_trusted_by_clients,
    a_path_confines_a_peer,
    a_read_only_or_write_only_root,
    hangup_reads_the_peers_again,
    hangup_ends_what_is_no_longer_allowed,
    a_peer_whose_time_is_over_is_out,
    who_may_come_and_who_came_is_listed,
);

/// A daemon, a client, and a file to send; nobody is authorised and nobody knows anybody.
struct Strangers {
    backend: &'static str,
    client: Side,
    server: Side,
    dir: tempfile::TempDir,
}

impl Strangers {
    fn new(backend: &'static str) -> Strangers {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("root")).unwrap();
        fs::write(dir.path().join("file"), "content").unwrap();
        fs::write(dir.path().join("root/there"), "content").unwrap();
        Strangers {
            backend,
            client: Side::new(),
            server: Side::new(),
            dir,
        }
    }

    fn root(&self) -> std::path::PathBuf {
        self.dir.path().join("root")
    }

    fn serve(&self, args: &[&str]) -> Daemon {
        Daemon::start(
            &self.server,
            &self.root(),
            &[&["--backend", self.backend], args].concat(),
        )
    }

    fn authorize(&self, lines: &str) {
        let path = self.server.path().join("authorized_peers");
        fs::write(&path, lines).unwrap();
        // Whatever the umask.
        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
    }

    fn cp(&self, client: &Side, args: &[&str]) -> Output {
        landro(
            client,
            ["cp", "--json", "--backend", self.backend]
                .iter()
                .chain(args),
        )
    }

    fn push(&self, daemon: &Daemon, options: &[&str]) -> Output {
        let file = self.dir.path().join("file");
        let url = daemon.url("");
        self.cp(
            &self.client,
            &[options, &[file.to_str().unwrap(), &url]].concat(),
        )
    }

    fn pull(&self, daemon: &Daemon, options: &[&str]) -> Output {
        let to = self.dir.path().join("pulled");
        let _ = fs::remove_file(&to);
        let url = daemon.url("there");
        self.cp(
            &self.client,
            &[options, &[&url, to.to_str().unwrap()]].concat(),
        )
    }

    fn known_hosts(&self) -> String {
        fs::read_to_string(self.client.path().join("known_hosts")).unwrap_or_default()
    }
}

#[track_caller]
fn refused_identity(output: &Output, words: &[&str]) {
    assert_eq!(output.code, Some(4), "{output:?}");
    assert_eq!(output.number("exit_code"), 4);
    for word in words {
        assert!(
            output.stderr.contains(word),
            "{word} is missing in {}",
            output.stderr
        );
    }
}

fn an_unknown_daemon_is_not_talked_to(backend: &'static str) {
    let s = Strangers::new(backend);
    let daemon = s.serve(&["--allow", &s.client.id()]);
    // No terminal, so nobody can be asked.
    let output = s.push(&daemon, &[]);
    refused_identity(&output, &[&daemon.fingerprint, "--accept-new"]);
    let ls = landro(&s.client, ["ls", &daemon.url("")]).expect(4);
    assert!(ls.stderr.contains(&daemon.fingerprint) && ls.stdout.is_empty());
    assert_eq!(
        (fs::read_dir(s.root()).unwrap().count(), s.known_hosts()),
        (1, String::new())
    );

    s.push(&daemon, &["--accept-new"]).expect(0);
    let line = format!("{} {}\n", daemon.address(), daemon.fingerprint);
    assert_eq!(s.known_hosts(), line);
    s.push(&daemon, &[]).expect(0);
    s.pull(&daemon, &["--accept-new"]).expect(0);
    landro(&s.client, ["ls", &daemon.url("")]).expect(0);
    assert_eq!(s.known_hosts(), line, "remembered once");

    // Another name for the same daemon is another host.
    let port = daemon.address().rsplit(':').next().unwrap();
    let file = s.dir.path().join("file");
    let by_name = format!("landro://localhost:{port}/");
    refused_identity(&s.cp(&s.client, &[file.to_str().unwrap(), &by_name]), &[]);
}

fn a_changed_daemon_fails_loudly(backend: &'static str) {
    let s = Strangers::new(backend);
    let allow = s.client.id();
    let daemon = s.serve(&["--allow", &allow]);
    s.push(&daemon, &["--accept-new"]).expect(0);
    let (address, old) = (daemon.address().to_owned(), daemon.fingerprint.clone());
    drop(daemon);
    fs::remove_file(s.server.path().join("identity.pem")).unwrap();
    let daemon = s.serve(&["--allow", &allow, "--listen", &address]);
    assert_ne!(daemon.fingerprint, old);
    let before = s.known_hosts();
    for options in [&[][..], &["--accept-new"], &["--peer", &daemon.fingerprint]] {
        fs::write(s.dir.path().join("file"), "this must not arrive").unwrap();
        refused_identity(&s.push(&daemon, options), &[&old, &address]);
        refused_identity(&s.pull(&daemon, options), &[]);
        assert_eq!(s.known_hosts(), before);
    }
    let output = s.push(&daemon, &[]);
    assert!(
        output.stderr.contains("CHANGED") && output.stderr.contains(&daemon.fingerprint),
        "{}",
        output.stderr
    );
    assert_eq!(fs::read(s.root().join("file")).unwrap(), b"content");
    // Removing the line is what it takes.
    fs::write(s.client.path().join("known_hosts"), "").unwrap();
    s.push(&daemon, &["--accept-new"]).expect(0);
}

fn peer_pins_for_one_run(backend: &'static str) {
    let s = Strangers::new(backend);
    let daemon = s.serve(&["--allow", &s.client.id()]);
    let wrong = s.client.id();
    refused_identity(
        &s.push(&daemon, &["--peer", &wrong]),
        &[&daemon.fingerprint],
    );
    refused_identity(&s.push(&daemon, &["--peer", &wrong, "--accept-new"]), &[]);
    assert!(!s.root().join("file").exists());
    s.push(&daemon, &["--peer", &daemon.fingerprint]).expect(0);
    assert_eq!(s.known_hosts(), "", "for this run only");
    fs::write(s.client.path().join("known_hosts"), "half a line\n").unwrap();
    let output = s.push(&daemon, &[]);
    assert!(
        output.code == Some(1) && output.stderr.contains("line 1"),
        "{output:?}"
    );
}

fn an_unauthorised_client_is_refused_in_the_handshake(backend: &'static str) {
    let s = Strangers::new(backend);
    let (other, own) = (Side::new().id(), s.client.id());
    // Nobody is authorised: it runs, lets nobody in, and says so.
    let mut daemon = s.serve(&[]);
    daemon.wait_for_log("nobody is authorised");
    for options in [&["--accept-new"][..], &["--peer", &daemon.fingerprint]] {
        refused_identity(&s.push(&daemon, options), &[&own, "authorized_peers"]);
        refused_identity(&s.pull(&daemon, options), &[&own]);
    }
    let ls = landro(
        &s.client,
        ["ls", "--peer", &daemon.fingerprint, &daemon.url("")],
    )
    .expect(4);
    assert!(ls.stdout.is_empty() && ls.stderr.contains(&own));
    assert!(daemon.is_running());
    drop(daemon);
    // Somebody else is.
    let daemon = s.serve(&["--allow", &other]);
    refused_identity(&s.push(&daemon, &["--peer", &daemon.fingerprint]), &[&own]);
    assert_eq!(fs::read_dir(s.root()).unwrap().count(), 1);
}

fn rights_per_peer(backend: &'static str) {
    let s = Strangers::new(backend);
    let id = s.client.id();
    let no_rights = format!("# comment\n\n{id} rw,unknown\n");
    for (line, may_read, may_write) in [
        (id.clone(), true, true),
        (format!("{id} rw # laptop\r\n"), true, true),
        (format!("{id} ro #the backup host"), true, false),
        (format!("{id} wo"), false, true),
        (no_rights, false, false),
    ] {
        s.authorize(&line);
        let _ = fs::remove_file(s.root().join("file"));
        let daemon = s.serve(&[]);
        let options = ["--peer", daemon.fingerprint.as_str()];
        let (pushed, pulled) = (s.push(&daemon, &options), s.pull(&daemon, &options));
        let ls = landro(
            &s.client,
            ["ls", "--peer", &daemon.fingerprint, &daemon.url("")],
        );
        let code = |may: bool| if may { Some(0) } else { Some(4) };
        assert_eq!(
            (pushed.code, pulled.code),
            (code(may_write), code(may_read)),
            "{line}\n{pushed:?}\n{pulled:?}"
        );
        assert_eq!(ls.code, code(may_read), "{line}");
        assert_eq!(s.root().join("file").exists(), may_write, "{line}");
        assert_eq!(s.dir.path().join("pulled").exists(), may_read, "{line}");
        assert_no_leftovers(&s.root());
    }
}

/// Each is what somebody might write who wants to grant less than everything.
fn a_line_that_is_not_understood_lets_nobody_in(backend: &'static str) {
    let s = Strangers::new(backend);
    let id = s.client.id();
    s.authorize("");
    let daemon = s.serve(&[]);
    let options = ["--peer", daemon.fingerprint.as_str()];
    for (text, meant) in [
        (format!("{id} path:there\n"), "path=SUB"),
        (format!("{id} (ro)\n"), "meant as ro"),
        (format!("{id} no-write\n"), "meant as ro"),
        (format!("{id} restrict\n"), "begins with #"),
        (format!("{id} RO\n"), "meant as ro"),
        (format!("{id} the backup host, ro\n"), "begins with #"),
        (format!("{id} ro rw\n"), "more than one of ro, rw and wo"),
        (
            format!("{id} path=/there\n"),
            "relative to the served directory",
        ),
        (format!("{id}\u{a0}ro\n"), "43 characters"),
        (format!("{id}\n{id} ro\n"), "line 1"),
        (format!("{id}\n  ro\n"), "line 1"),
    ] {
        let before = daemon.log().matches("nobody is authorised").count();
        s.authorize(&text);
        common::signal(daemon.pid(), "HUP");
        daemon.wait_for_log_again("nobody is authorised", before);
        let (pushed, pulled) = (s.push(&daemon, &options), s.pull(&daemon, &options));
        assert_eq!(
            (pushed.code, pulled.code),
            (Some(4), Some(4)),
            "{text:?} let somebody in"
        );
        let last = text.matches('\n').count();
        assert!(
            daemon
                .log()
                .contains(&format!("authorized_peers: line {last}: ")),
            "{text:?}: {}",
            daemon.log()
        );
        assert!(daemon.log().contains(meant), "{text:?}: {}", daemon.log());
    }
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// What is done to `authorized_peers` in the first directory; others may write the second.
type Spoil = fn(config: &Path, elsewhere: &Path);

const SPOILS: [Spoil; 6] = [
    |config, _| chmod(&config.join("authorized_peers"), 0o664),
    |config, _| chmod(&config.join("authorized_peers"), 0o646),
    |config, _| chmod(config, 0o770),
    |config, elsewhere| {
        let (file, moved) = (config.join("authorized_peers"), elsewhere.join("peers"));
        fs::copy(&file, &moved).unwrap();
        fs::remove_file(&file).unwrap();
        symlink(moved, file).unwrap();
    },
    |config, _| {
        fs::remove_file(config.join("authorized_peers")).unwrap();
        fs::create_dir(config.join("authorized_peers")).unwrap();
    },
    |config, _| match common::is_root() {
        true => chown(config.join("authorized_peers"), Some(65_534), None).unwrap(),
        false => chmod(&config.join("authorized_peers"), 0o666),
    },
];

/// As sshd with StrictModes: who may write the file, or put another in its place, decides who comes
/// in.
fn files_others_may_write_let_nobody_in(backend: &'static str) {
    let s = Strangers::new(backend);
    let good = format!("{} ro\n", s.client.id());
    let config = s.server.path();
    s.authorize(&good);
    let daemon = s.serve(&[]);
    let options = ["--peer", daemon.fingerprint.as_str()];
    let reload = |said: &str| {
        let before = daemon.log().matches(said).count();
        common::signal(daemon.pid(), "HUP");
        daemon.wait_for_log_again(said, before);
    };
    let elsewhere = s.dir.path().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    chmod(&elsewhere, 0o777);
    for (number, spoil) in SPOILS.iter().enumerate() {
        let before = s.pull(&daemon, &options).code;
        assert_eq!(before, Some(0), "before number {number}");
        spoil(config, &elsewhere);
        reload("NOBODY IS LET IN");
        let spoilt = s.pull(&daemon, &options).code;
        assert_eq!(spoilt, Some(4), "number {number}: {}", daemon.log());
        // Nor does a daemon start with it.
        let root = s.root();
        let serve = ["serve", root.to_str().unwrap(), "--listen", "127.0.0.1:0"];
        landro(&s.server, serve).expect(1);
        let file = config.join("authorized_peers");
        let _ = fs::remove_file(&file);
        let _ = fs::remove_dir(&file);
        chmod(config, 0o700);
        s.authorize(&good);
        reload("1 peer is authorised");
    }
}

/// What a client trusts, and its own key, are held to the same.
fn files_others_may_write_are_not_trusted_by_clients(backend: &'static str) {
    let s = Strangers::new(backend);
    s.authorize(&format!("{} ro\n", s.client.id()));
    let daemon = s.serve(&[]);
    let config = s.client.path();
    let (known, key) = (config.join("known_hosts"), config.join("identity.pem"));
    let line = format!("{} {}\n", daemon.address(), daemon.fingerprint);
    fs::write(&known, line).unwrap();
    chmod(&known, 0o644);
    s.pull(&daemon, &[]).expect(0);
    for (path, mode, back) in [
        (&known, 0o666, 0o644),
        (&key, 0o640, 0o600),
        (&config.to_owned(), 0o777, 0o700),
    ] {
        chmod(path, mode);
        let output = s.pull(&daemon, &[]).expect(1);
        assert!(output.stderr.contains("chmod"), "{output:?}");
        chmod(path, back);
    }
    fs::write(&known, vec![b'#'; (8 << 20) + 1]).unwrap();
    let output = s.pull(&daemon, &["--accept-new"]).expect(1);
    assert!(output.stderr.contains("longer than"), "{output:?}");
}

fn a_path_confines_a_peer(backend: &'static str) {
    let s = Strangers::new(backend);
    fs::create_dir_all(s.root().join("inbox/a b")).unwrap();
    std::os::unix::fs::symlink("../../there", s.root().join("inbox/a b/up")).unwrap();
    s.authorize(&format!("{} path=inbox/a%20b\n", s.client.id()));
    let daemon = s.serve(&[]);
    let options = ["--peer", daemon.fingerprint.as_str()];
    s.push(&daemon, &options).expect(0);
    assert!(s.root().join("inbox/a b/file").is_file());
    assert_ne!(
        s.pull(&daemon, &options).code,
        Some(0),
        "`there` is outside of it"
    );
    let to = s.dir.path().join("stolen");
    for path in ["../../there", "up", "/there", "inbox/a b/file"] {
        let output = s.cp(
            &s.client,
            &[&options[..], &[&daemon.url(path), to.to_str().unwrap()]].concat(),
        );
        // The link itself may be copied; what it points to may not.
        assert!(!to.is_file(), "{path}: {output:?}");
    }
    // The directory is gone: nobody gets the whole root instead.
    fs::rename(s.root().join("inbox"), s.root().join("elsewhere")).unwrap();
    assert_eq!(s.push(&daemon, &options).code, Some(1));
    assert!(!s.root().join("file").exists());
}

fn a_read_only_or_write_only_root(backend: &'static str) {
    let s = Strangers::new(backend);
    let id = s.client.id();
    s.authorize(&format!("{id} rw\n"));
    for (option, may_read, may_write) in
        [("--read-only", true, false), ("--write-only", false, true)]
    {
        let _ = fs::remove_file(s.root().join("file"));
        let daemon = s.serve(&[option, "--allow", &id]);
        let options = ["--peer", daemon.fingerprint.as_str()];
        let (pushed, pulled) = (s.push(&daemon, &options), s.pull(&daemon, &options));
        let code = |may: bool| if may { Some(0) } else { Some(4) };
        assert_eq!(
            (pushed.code, pulled.code),
            (code(may_write), code(may_read)),
            "{pushed:?}\n{pulled:?}"
        );
        let refused = if may_write { &pulled } else { &pushed };
        assert_eq!(
            refused.of("error").next().unwrap()["code"],
            "permission",
            "{refused:?}"
        );
        assert_eq!(s.root().join("file").exists(), may_write);
    }
}

fn hangup_reads_the_peers_again(backend: &'static str) {
    let s = Strangers::new(backend);
    let id = s.client.id();
    let mut daemon = s.serve(&[]);
    let fingerprint = daemon.fingerprint.clone();
    let options = ["--peer", fingerprint.as_str()];
    let hangup = |daemon: &Daemon, lines: &str, said: &str| {
        let before = daemon.log().matches(said).count();
        s.authorize(lines);
        common::signal(daemon.pid(), "HUP");
        daemon.wait_for_log_again(said, before);
    };
    assert_eq!(s.push(&daemon, &options).code, Some(4));
    hangup(&daemon, &format!("{id} ro\n"), "1 peer is authorised");
    assert_eq!(
        (
            s.push(&daemon, &options).code,
            s.pull(&daemon, &options).code
        ),
        (Some(4), Some(0))
    );
    hangup(&daemon, &format!("{id} rw\nSHA256:garbage\n"), "line 2");
    assert_eq!(
        (
            s.push(&daemon, &options).code,
            s.pull(&daemon, &options).code
        ),
        (Some(0), Some(0))
    );
    hangup(&daemon, "# gone\n", "nobody is authorised");
    assert_eq!(
        (
            s.push(&daemon, &options).code,
            s.pull(&daemon, &options).code
        ),
        (Some(4), Some(4))
    );
    assert!(daemon.is_running());
    let stopped = daemon.stop();
    assert_eq!(
        (stopped.code, stopped.stdout.lines().count()),
        (Some(0), 1),
        "{stopped:?}"
    );
}

/// Sessions of a peer that was removed, or has fewer rights, end; those of others go on.
fn hangup_ends_what_is_no_longer_allowed(backend: &'static str) {
    let s = Strangers::new(backend);
    let (id, other) = (s.client.id(), Side::new());
    fs::create_dir(s.root().join("sub")).unwrap();
    for big in [s.root().join("big"), s.dir.path().join("big")] {
        fs::write(big, vec![7; 8 << 20]).unwrap();
    }
    for (round, (began, left, why)) in [
        ("rw", None, "removed from authorized_peers"),
        ("rw", Some("ro"), "narrowed in authorized_peers"),
        ("rw", Some("wo"), "narrowed in authorized_peers"),
        ("rw", Some("path=sub"), "changed in authorized_peers"),
    ]
    .into_iter()
    .enumerate()
    {
        s.authorize(&format!("{id} {began}\n{} ro\n", other.id()));
        let daemon = s.serve(&["--workers", "2"]);
        let start = |side: &Side, from: &str, to: &str| {
            let options = [
                "cp",
                "--json",
                "--backend",
                backend,
                "--peer",
                &daemon.fingerprint,
            ];
            let slow = ["--bwlimit", "2M", from, to];
            let running = Running::spawn(command(side, &[], options.iter().chain(&slow)));
            running
                .line(|line| line.contains("\"progress\""))
                .expect("data flows");
            running
        };
        let here = |name: &str| s.dir.path().join(name).to_str().unwrap().to_owned();
        // Under names of their own: what one round left would let the next one end before it can be
        // ended.
        let (pulled, pushed) = (format!("pulled {round}"), format!("pushed{round}"));
        let pull = start(&s.client, &daemon.url("big"), &here(&pulled));
        let push = start(&s.client, &here("big"), &daemon.url(&pushed));
        let unchanged = start(&other, &daemon.url("big"), &here("unchanged"));
        let left = left.map_or(String::new(), |rights| format!("{id} {rights}\n"));
        s.authorize(&format!("{left}{} rw\n", other.id()));
        common::signal(daemon.pid(), "HUP");
        for output in [pull.wait().expect(4), push.wait().expect(4)] {
            let error = output.of("error").next().unwrap();
            assert_eq!(error["code"], "permission", "{output:?}");
            assert!(
                error["message"].as_str().unwrap().contains(why),
                "{output:?}"
            );
        }
        unchanged.wait().expect(0);
        assert!(
            !s.root().join(&pushed).exists(),
            "nothing half-written has the name"
        );
        let _ = fs::remove_file(here("unchanged"));
    }
}

/// On a terminal a person is asked; script(1) gives one.
#[test]
fn a_person_is_asked_on_a_terminal() {
    let s = Strangers::new("poll");
    let daemon = s.serve(&["--allow", &s.client.id()]);
    let file = s.dir.path().join("file");
    let run = |answer: &str| {
        let line = format!(
            "'{}' cp '{}' '{}'",
            common::LANDRO,
            file.display(),
            daemon.url("")
        );
        let mut script = Command::new(common::BOUNDED[0]);
        script
            .args(&common::BOUNDED[1..])
            .args(["script", "-qec", &line, "/dev/null"])
            .env("LANDRO_CONFIG_DIR", s.client.path());
        script
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut child = script.spawn().unwrap();
        child
            .stdin
            .take()
            .unwrap()
            .write_all(answer.as_bytes())
            .unwrap();
        let output = child.wait_with_output().unwrap();
        (
            output.status.code(),
            String::from_utf8_lossy(&output.stdout).into_owned(),
        )
    };
    if !Path::new("/usr/bin/script").exists() {
        common::skipped("script(1) is not installed");
        return;
    }
    let (code, shown) = run("no\n");
    assert_eq!(code, Some(4), "{shown}");
    assert!(
        shown.contains(&daemon.fingerprint) && s.known_hosts().is_empty(),
        "{shown}"
    );
    let (code, shown) = run(&format!("{}\n", s.client.id()));
    assert_eq!(
        (code, s.known_hosts().is_empty()),
        (Some(4), true),
        "another fingerprint is a no: {shown}"
    );
    let (code, shown) = run("what?\nyes\n");
    assert_eq!(code, Some(0), "{shown}");
    assert_eq!(
        s.known_hosts(),
        format!("{} {}\n", daemon.address(), daemon.fingerprint)
    );
    assert!(s.root().join("file").is_file());
}
