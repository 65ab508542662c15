//! The real binary against a daemon in this process: what it reports is what the daemon does.

use std::io::{BufRead, BufReader, Read};
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;

use landro::budget::DEFAULT_MEMORY_BUDGET_BYTES;
use landro::config::{LaneKind, LaneKinds, QuicConfig};
use landro::engine::{BackendChoice, Grant, PeerAccess, ServeConfig, Server};
use landro::ids::Fingerprint;
use landro::quic::Identity;

const SESSIONS: u64 = 70;

/// Serves `root` to these.
fn serve(root: &Path, clients: &[Fingerprint]) -> (Server, Fingerprint) {
    let (identity, clients) = (Identity::generate().unwrap(), clients.to_vec());
    let own = identity.fingerprint();
    let all = PeerAccess {
        access: Grant {
            read: true,
            write: true,
        },
        path: None,
        clear: false,
    };
    let server = Server::start(ServeConfig {
        listen: vec![(Ipv4Addr::LOCALHOST, 0).into()],
        root: root.to_path_buf(),
        workers: 2,
        backend: BackendChoice::Auto,
        quic: QuicConfig::auto(),
        memory_budget_bytes: DEFAULT_MEMORY_BUDGET_BYTES,
        patience: None,
        lane_kinds: LaneKinds::Only(LaneKind::Quic),
        tcp_congestion: None,
        allow_clear: false,
        ktls: false,
        digest_cache: None,
        identity,
        reset_secret: [0; 32],
        authorize: Arc::new(move |asks| clients.contains(asks).then(|| all.clone())),
    });
    (server.unwrap(), own)
}

/// Identities as `landro id` leaves them, and an empty directory to serve.
struct Place {
    root: tempfile::TempDir,
    keys: tempfile::TempDir,
    fingerprints: Vec<Fingerprint>,
}

impl Place {
    fn new() -> Place {
        let (root, keys) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let made = (0..2).map(|number| {
            let identity = Identity::generate().unwrap();
            std::fs::write(
                keys.path().join(number.to_string()),
                identity.to_pem().unwrap(),
            )
            .unwrap();
            identity.fingerprint()
        });
        Place {
            fingerprints: made.collect(),
            root,
            keys,
        }
    }

    fn hold(&self, server: &Server, shown: Fingerprint) -> Holder {
        let mut command = Command::new(env!("CARGO_BIN_EXE_landro-holder"));
        command.args([
            "--to",
            &server.addresses()[0].to_string(),
            "--peer",
            &shown.to_string(),
        ]);
        command.args(["--sessions", &SESSIONS.to_string()]);
        for number in ["0", "1"] {
            command.arg("--identity").arg(self.keys.path().join(number));
        }
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        Holder { child, stdout }
    }
}

struct Holder {
    child: Child,
    stdout: BufReader<ChildStdout>,
}

impl Holder {
    fn wait_until_held(&mut self) {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        assert_eq!(line, format!("holding {SESSIONS}\n"));
    }

    fn stop(&self) {
        let pid = nix::unistd::Pid::from_raw(self.child.id() as i32);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    }

    /// Whether it calls itself successful, and its report.
    fn end(mut self) -> (bool, serde_json::Value) {
        let mut line = String::new();
        self.stdout.read_to_string(&mut line).unwrap();
        (
            self.child.wait().unwrap().success(),
            serde_json::from_str(&line).unwrap(),
        )
    }
}

#[test]
fn every_session_is_there_to_the_end() {
    let place = Place::new();
    let (server, shown) = serve(place.root.path(), &place.fingerprints);
    let mut holder = place.hold(&server, shown);
    holder.wait_until_held();
    holder.stop();
    let (success, report) = holder.end();
    assert!(success, "{report}");
    assert_eq!(
        (&report["sessions"], &report["finished"]),
        (&SESSIONS.into(), &SESSIONS.into())
    );
    assert_eq!(report["lost"], serde_json::json!({}));
    assert_eq!(
        std::fs::read_dir(place.root.path()).unwrap().count(),
        0,
        "nothing was written"
    );
    server.shutdown().unwrap();
}

#[test]
fn a_daemon_that_went_away_is_noticed() {
    let place = Place::new();
    let (server, shown) = serve(place.root.path(), &place.fingerprints);
    let mut holder = place.hold(&server, shown);
    holder.wait_until_held();
    server.shutdown().unwrap();
    holder.stop();
    let (success, report) = holder.end();
    assert!(!success);
    assert_eq!(report["finished"], 0, "{report}");
}

#[test]
fn who_is_not_let_in_holds_nothing() {
    let place = Place::new();
    let (server, shown) = serve(place.root.path(), &place.fingerprints[..1]);
    let (success, report) = place.hold(&server, shown).end();
    assert!(!success);
    assert!(
        report["lost"]
            .as_object()
            .is_some_and(|lost| !lost.is_empty()),
        "{report}"
    );
    server.shutdown().unwrap();
}
