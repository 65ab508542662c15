//! The configuration file of the daemon: what it says is so, and may change while sessions go on.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::{Daemon, Output, Running, Side, command, landro};

on_both_backends!(a_file_is_read_again_while_sessions_go_on);

/// A daemon whose peers and rights are in its configuration, and a client.
struct Configured {
    daemon: Daemon,
    client: Side,
    dir: tempfile::TempDir,
}

impl Configured {
    fn start(backend: &str) -> Configured {
        let (server, client, dir) = (Side::new(), Side::new(), tempfile::tempdir().unwrap());
        let file = dir.path().join("landro.toml");
        fs::create_dir(dir.path().join("root")).unwrap();
        write(&file, &[&client], "read-only = true");
        let args = ["--backend", backend, "--config", file.to_str().unwrap()];
        let daemon = Daemon::start(&server, &dir.path().join("root"), &args);
        Configured {
            daemon,
            client,
            dir,
        }
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("landro.toml")
    }

    /// Has the daemon read it again; what it says of that is in the log `times` times then.
    fn reread(&self, words: &str, times: usize) {
        common::signal(self.daemon.pid(), "HUP");
        self.daemon.wait_for_log_again(words, times - 1);
    }

    fn words(&self, from: &str, to: &str, more: &[&str]) -> Vec<String> {
        let peer = ["--peer", &self.daemon.fingerprint, from, to];
        let all = ["cp"].iter().chain(more).chain(&peer);
        all.map(|word| (*word).to_owned()).collect()
    }

    fn push(&self) -> Output {
        let file = self.file();
        let words = self.words(file.to_str().unwrap(), &self.daemon.url("pushed"), &[]);
        landro(&self.client, words)
    }
}

/// Peers and a line more.
fn write(file: &Path, peers: &[&Side], more: &str) {
    let peers = peers.iter().map(|side| format!("\"{}\"", side.id()));
    let peers = peers.collect::<Vec<_>>().join(", ");
    // As editors do: in one step.
    let new = file.with_extension("new");
    fs::write(&new, format!("allow = [{peers}]\n{more}\n")).unwrap();
    fs::rename(new, file).unwrap();
}

fn a_file_is_read_again_while_sessions_go_on(backend: &'static str) {
    let it = Configured::start(backend);
    fs::write(it.dir.path().join("root/big"), vec![7; 64 << 20]).unwrap();
    let back = it.dir.path().join("back");
    let slow = ["--bwlimit", "2M", "--retry", "0", "--json"];
    let pull = it.words(&it.daemon.url("big"), back.to_str().unwrap(), &slow);
    let mut pull = Running::spawn(command(&it.client, &[], pull));
    let moves = |line: &str| line.contains("\"progress\"");
    pull.line(moves).unwrap();
    it.push().expect(4);
    write(&it.file(), &[&it.client], "workers = 7");
    it.reread("1 peer is authorised", 2);
    it.daemon.wait_for_log("workers = \"7\"  # ");
    it.push().expect(0);
    assert!(pull.is_running(), "the session goes on");
    // Somebody else comes in with the next one.
    let other = Side::new();
    let url = it.daemon.url("");
    let ls = ["ls", "--peer", &it.daemon.fingerprint, &url];
    landro(&other, ls).expect(4);
    write(&it.file(), &[&it.client, &other], "");
    it.reread("2 peers are authorised", 1);
    landro(&other, ls).expect(0);
    assert!(pull.is_running(), "{}", pull.stderr());
    pull.kill();
    // What cannot be understood lets nobody in.
    write(&it.file(), &[&it.client, &other], "read-onyl = true");
    it.reread("there is no option read-onyl", 1);
    it.daemon.wait_for_log("landro.toml:2: ");
    landro(&other, ls).expect(4);
    it.push().expect(4);
    // Nor does a session stay that began before, of whom it lets in no more.
    write(&it.file(), &[&it.client], "");
    it.reread("1 peer is authorised", 3);
    it.push().expect(0);
    let gone = it.dir.path().join("gone");
    let words = it.words(&it.daemon.url("big"), gone.to_str().unwrap(), &slow);
    let pull = Running::spawn(command(&it.client, &[], words));
    pull.line(moves).unwrap();
    write(&it.file(), &[&other], "");
    it.reread("1 peer is authorised", 4);
    let ended = pull.wait().expect(4).stdout;
    assert!(ended.contains("removed from authorized_peers"), "{ended}");
}

/// The file of the package, as it is and with every option that it shows.
#[test]
fn the_file_of_the_package_is_understood() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/landro.toml");
    let shipped = fs::read_to_string(file).unwrap();
    let (side, dir) = (Side::new(), tempfile::tempdir().unwrap());
    let copy = dir.path().join("landro.toml");
    let check = |text: &str| {
        fs::write(&copy, text).unwrap();
        let words = ["config", "--check", "--config", copy.to_str().unwrap()];
        landro(&side, words).expect(0);
    };
    check(&shipped);
    // `#name = ...`, while a comment begins with a space.
    let is_option =
        |line: &&str| line.starts_with('#') && !line.starts_with("# ") && line.len() > 1;
    let options: Vec<&str> = shipped.lines().filter(is_option).collect();
    assert!(options.len() > 3, "{options:?}");
    for option in &options {
        check(&shipped.replace(option, &option[1..]));
    }
    let all = |text: String, option: &&str| text.replace(*option, &option[1..]);
    check(&options.iter().fold(shipped.clone(), all));
}

/// Each line that its example shows may stand in an `authorized_peers`.
#[test]
fn the_example_of_peers_is_understood() {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/examples/authorized_peers");
    let text = fs::read_to_string(example).unwrap();
    let lines = text.lines().filter_map(|line| {
        line.strip_prefix('#')
            .filter(|it| it.starts_with("SHA256:"))
    });
    let lines: Vec<&str> = lines.collect();
    assert!(lines.iter().any(|line| line.contains("expires=")));
    let (side, dir) = (Side::new(), tempfile::tempdir().unwrap());
    fs::write(dir.path().join("authorized_peers"), lines.join("\n")).unwrap();
    let shown = landro(&side, ["peers", "--of", dir.path().to_str().unwrap()]).expect(0);
    let names_a_line = shown.stderr.contains("authorized_peers:");
    assert!(!names_a_line, "{}", shown.stderr);
    assert_eq!(
        shown.stdout.lines().count(),
        lines.len(),
        "{}",
        shown.stdout
    );
}

/// What `landro serve` would be told, without one.
#[test]
fn the_configuration_is_shown_and_checked() {
    let (side, dir) = (Side::new(), tempfile::tempdir().unwrap());
    let file = dir.path().join("landro.toml");
    let path = file.to_str().unwrap();
    fs::write(&file, "\nworkers = 3\nmemory-budget = \"48M\"\n").unwrap();
    let config = |words: &[&str], prefix: &[&str]| {
        let all = [&["config", "--config", path], words].concat();
        Running::spawn(command(&side, prefix, all)).wait()
    };
    let shown = config(
        &["--", "--workers", "5", "/srv"],
        &["env", "LANDRO_SERVE_READ_ONLY=1"],
    );
    let shown = shown.expect(0).stdout;
    for line in [
        &format!("# {path}")[..],
        "root = \"/srv\"  # command line",
        "workers = \"5\"  # command line",
        "read-only = true  # LANDRO_SERVE_READ_ONLY",
        &format!("memory-budget = \"48M\"  # {path}:3"),
        "log-format = \"auto\"  # default",
        "# listen: :4433  # default",
    ] {
        assert!(shown.lines().any(|it| it == line), "{line}: {shown}");
    }
    let checked = config(&["--check"], &[]).expect(0);
    assert_eq!(checked.stdout, format!("{path}: all of it is understood\n"));
    fs::write(&file, "workers = 3\nmemory-budget = \"1\"\n").unwrap();
    let wrong = format!("landro: {path}:2: memory-budget: ");
    let checked = config(&["--check"], &[]).expect(2);
    assert!(checked.stderr.starts_with(&wrong), "{}", checked.stderr);
    let serve = ["serve", "--config", path];
    let started = Running::spawn(command(&side, &[], serve)).wait().expect(2);
    assert!(started.stderr.starts_with(&wrong), "{}", started.stderr);
    fs::remove_file(&file).unwrap();
    let missing = Running::spawn(command(&side, &[], serve)).wait().expect(1);
    assert!(missing.stderr.contains(path), "{}", missing.stderr);
}
