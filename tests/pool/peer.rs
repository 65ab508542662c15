//! A peer in a process of its own, which can be killed and frozen: the test binary once more.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread;

use futures_lite::future::block_on;
use landro::engine::{Fingerprint, Identity};
use landro::{Connection, Engine, PeerTrust};

/// What both sides speak.
pub const PROTOCOL: &str = "pool-test/1";

/// Where the process listens, `ADDRESS:PORT`; unset, the test that it runs does nothing.
const LISTENS_AT: &str = "LANDRO_TEST_POOL_PEER";

/// Answers each request with itself.
pub async fn echo(connection: Connection) {
    while let Ok((mut send, mut receive)) = connection.accept_bi().await {
        let Ok(request) = receive.read_to_end(1 << 20).await else {
            continue;
        };
        if send.write_bytes(request).await.is_ok() {
            let _ = send.finish();
        }
    }
}

pub fn listening(at: SocketAddr, identity: Identity) -> Engine {
    let engine = Engine::builder().protocol(PROTOCOL).identity(identity);
    let engine = engine
        .listen(at)
        .accept(PeerTrust::Decide(Arc::new(|_| true)));
    engine.start().unwrap()
}

/// What the process does.
#[test]
fn is_a_peer() {
    let Ok(at) = std::env::var(LISTENS_AT) else {
        return;
    };
    let (at, key) = at.split_once(' ').unwrap();
    let identity = Identity::from_pem(&key.replace('|', "\n")).unwrap();
    let engine = listening(at.parse().unwrap(), identity);
    let listener = engine.listener();
    // libtest keeps what the macros print.
    use std::io::Write;
    writeln!(std::io::stdout(), "listens {}", listener.addresses()[0]).unwrap();
    thread::spawn(move || {
        // Its test is over, whatever became of it.
        let _ = std::io::stdin().read(&mut [0]);
        std::process::exit(0);
    });
    while let Some(connection) = block_on(listener.accept()) {
        thread::spawn(move || block_on(echo(connection)));
    }
}

/// The process.
pub struct PeerProcess {
    child: Child,
    pub address: SocketAddr,
    pub key: Fingerprint,
}

impl PeerProcess {
    pub fn start(at: SocketAddr, identity: &Identity) -> PeerProcess {
        let pem = identity.to_pem().unwrap().replace('\n', "|");
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "peer::is_a_peer", "--nocapture"])
            .env(LISTENS_AT, format!("{at} {pem}"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let address = lines
            .map_while(Result::ok)
            .find_map(|line| line.split_once("listens ").map(|(_, at)| at.to_owned()))
            .expect("it listens");
        PeerProcess {
            child,
            address: address.parse().unwrap(),
            key: identity.fingerprint(),
        }
    }

    /// By the shell's own kill: std has none for other signals.
    pub fn signal(&self, name: &str) {
        let kill = format!("kill -{name} {}", self.child.id());
        let status = Command::new("sh").args(["-c", &kill]).status();
        assert!(status.unwrap().success(), "{kill}");
    }

    /// kill -9, and waits until its port is free.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for PeerProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
