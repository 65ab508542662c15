//! Peers as `authorized_peers` has them: until when each may come, and who came when.

use std::fs;
use std::process::Command;

use super::Strangers;
use super::common::{Running, Side, command, landro};

/// So many seconds from now, as a line of `authorized_peers` has it.
fn in_seconds(seconds: u64) -> String {
    let format = ["-u", "+%FT%TZ", "-d"];
    let at = format!("now + {seconds} seconds");
    let output = Command::new("date").args(format).arg(at).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Nobody has to tell the daemon when that is.
pub fn a_peer_whose_time_is_over_is_out(backend: &'static str) {
    let s = Strangers::new(backend);
    let (id, other) = (s.client.id(), Side::new());
    fs::write(s.root().join("big"), vec![7; 40 << 20]).unwrap();
    s.authorize(&format!(
        "{id} expires={}\n{} ro\n",
        in_seconds(12),
        other.id()
    ));
    let daemon = s.serve(&[]);
    let start = |side: &Side, to: &str| {
        let cp = ["cp", "--json", "--backend", backend, "--bwlimit", "2M"];
        let to = s.dir.path().join(to);
        let (url, to) = (daemon.url("big"), to.to_str().unwrap());
        let way = ["--peer", &daemon.fingerprint, &url, to];
        Running::spawn(command(side, &[], cp.iter().chain(&way)))
    };
    s.push(&daemon, &["--peer", &daemon.fingerprint]).expect(0);
    let (expires, stays) = (start(&s.client, "mine"), start(&other, "others"));
    for running in [&expires, &stays] {
        running.line(|line| line.contains("\"progress\"")).unwrap();
    }
    let output = expires.wait().expect(4);
    let error = output.of("error").next().unwrap();
    let message = error["message"].as_str().unwrap();
    assert!(message.contains("its time there is over"), "{output:?}");
    s.push(&daemon, &["--peer", &daemon.fingerprint]).expect(4);
    let mut stays = stays;
    assert!(stays.is_running(), "{}", stays.stderr());
}

pub fn who_may_come_and_who_came_is_listed(backend: &'static str) {
    let s = Strangers::new(backend);
    let (id, other, bad) = (s.client.id(), Side::new().id(), Side::new().id());
    s.authorize(&format!(
        "{other} ro path=in%20box expires=2100-01-31\n{id} # alice\n{bad} xo\n"
    ));
    let peers = |more: &[&str]| {
        let of = s.server.path().to_str().unwrap();
        landro(&Side::new(), [&["peers", "--of", of], more].concat()).expect(0)
    };
    let never = peers(&[]).stdout;
    let lines: Vec<&str> = never.lines().collect();
    let first = format!("{other} ro path=in box expires=2100-01-31T00:00:00Z never came");
    assert_eq!(lines, [first, format!("{id} rw never came # alice")]);
    let daemon = s.serve(&[]);
    s.push(&daemon, &["--peer", &daemon.fingerprint]).expect(0);
    s.cp(
        &Side::new(),
        &[
            "--peer",
            &daemon.fingerprint,
            &daemon.url("there"),
            "/nowhere",
        ],
    )
    .expect(4);
    daemon.stop().expect(0);
    let output = peers(&["--json"]);
    assert!(
        output.stderr.contains("line 3: unknown option"),
        "{}",
        output.stderr
    );
    let rows: Vec<serde_json::Value> = output
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(rows.len(), 2);
    assert_eq!(rows[0]["last_came"], serde_json::Value::Null);
    assert_eq!(rows[1]["from"], "127.0.0.1");
    let came = rows[1]["last_came"].as_str().unwrap();
    assert!(came.starts_with("20") && came.ends_with('Z'), "{came}");
    assert!(
        peers(&[])
            .stdout
            .contains(&format!("last came {came} from 127.0.0.1 # alice"))
    );
    // Who may come no more is forgotten; the others stay, over a restart.
    s.authorize(&format!("{id}\n"));
    s.serve(&[]).stop().expect(0);
    assert!(peers(&[]).stdout.contains(&format!("last came {came}")));
}
