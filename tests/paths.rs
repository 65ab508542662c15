//! Paths that change in the middle of a transfer, between network namespaces with a router: the
//! client's address, what the path carries, and addresses at which nobody answers.

mod common;

use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::tree::{self, Rng, assert_no_leftovers, assert_same};
use common::{Daemon, Output, Running, Side};

on_both_backends!(
    a_client_moves_to_another_address,
    large_packets_do_not_arrive_any_more,
    one_of_two_addresses_is_dead,
    the_name_leads_to_another_address,
);

const MIB: u64 = 1 << 20;
const FILE_BYTES: u64 = 24 * MIB;

/// The file takes three seconds.
const LIMIT: &str = "8M";
const PORT: u16 = 4433;

/// What lanes a client has: those over TCP carry the bulk, and know one address and one size of
/// packets.
const LANE_KINDS: [&str; 2] = ["quic", "quic,tls"];

/// What a narrow path carries; 1,228 are what QUIC needs over IPv4, 1,280 IPv6 itself.
const NARROW: &str = "1290";

/// A client with two interfaces, a router, and a server. Dropping it removes them, also after a
/// panic.
struct Net {
    client: String,
    router: String,
    server: String,
}

impl Net {
    /// None: that needs root and ip(8).
    fn new() -> Option<Net> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let has_ip = Command::new("ip").arg("-V").output();
        if !common::is_root() || !has_ip.is_ok_and(|output| output.status.success()) {
            common::skipped("network namespaces need root and ip(8) of iproute2");
            return None;
        }
        let number = COUNT.fetch_add(1, Ordering::SeqCst);
        let name = |role: &str| format!("landro-p{}-{number}-{role}", std::process::id());
        let net = Net {
            client: name("client"),
            router: name("router"),
            server: name("server"),
        };
        let (client, router, server) = (&net.client, &net.router, &net.server);
        for host in [client, router, server] {
            net.ip(&format!("netns add {host}"));
            net.ip(&format!("-n {host} link set lo up"));
        }
        // The range of RFC 2544, for tests of networks, and unique local ones. In each subnet the
        // router is 1 and the host is 2; the client's second interface is not in use yet.
        let links = [
            (client, "eth0", 1),
            (client, "eth1", 2),
            (server, "eth0", 3),
        ];
        for (host, device, subnet) in links {
            net.ip(&format!(
                "-n {router} link add port{subnet} type veth peer name {device} netns {host}"
            ));
            net.address(router, &format!("port{subnet}"), subnet, 1);
            net.ip(&format!("-n {router} link set port{subnet} up"));
            // Also what is not in use yet: for a second an interface of which IPv6 has only just
            // heard is asked about by the kernel itself (duplicate addresses, neighbours).
            net.ip(&format!("-n {host} link set {device} up"));
            if subnet != 2 {
                net.address(host, device, subnet, 2);
                net.route(host, subnet);
            }
        }
        for key in ["net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"] {
            net.ip(&format!("netns exec {router} sysctl -qw {key}=1"));
        }
        Some(net)
    }

    fn ip(&self, words: &str) {
        let output = Command::new("ip").args(words.split(' ')).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "ip {words}: {said}");
    }

    fn address(&self, host: &str, device: &str, subnet: u8, number: u8) {
        for address in [
            format!("198.18.{subnet}.{number}/24 dev {device}"),
            format!("fd00:{subnet}::{number}/64 dev {device} nodad"),
        ] {
            self.ip(&format!("-n {host} addr add {address}"));
        }
    }

    fn no_address(&self, subnet: u8, number: u8) {
        for address in [
            format!("198.18.{subnet}.{number}/24"),
            format!("fd00:{subnet}::{number}/64"),
        ] {
            let client = &self.client;
            self.ip(&format!("-n {client} addr del {address} dev eth0"));
        }
    }

    fn route(&self, host: &str, subnet: u8) {
        self.ip(&format!(
            "-n {host} route replace default via 198.18.{subnet}.1"
        ));
        self.ip(&format!(
            "-n {host} -6 route replace default via fd00:{subnet}::1"
        ));
    }

    /// The router says nothing any more: no ICMP comes of what it drops.
    fn filter_icmp(&self) {
        for family in ["-4", "-6"] {
            self.ip(&format!(
                "-n {} {family} rule add iif lo priority 1 blackhole",
                self.router
            ));
        }
    }

    fn narrow(&self, mtu: &str) {
        for port in ["port1", "port3"] {
            self.ip(&format!("-n {} link set {port} mtu {mtu}", self.router));
        }
    }

    /// What the client's host takes names for.
    fn name(&self, names: &[(&str, &str)]) {
        let lines = names
            .iter()
            .map(|(address, name)| format!("{address} {name}\n"));
        fs::create_dir_all(self.names_dir()).unwrap();
        fs::write(self.names_dir().join("hosts"), lines.collect::<String>()).unwrap();
    }

    /// ip-netns(8) mounts what is there over /etc.
    fn names_dir(&self) -> PathBuf {
        PathBuf::from("/etc/netns").join(&self.client)
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(self.names_dir());
        for name in [&self.client, &self.router, &self.server] {
            // One that was never made is not there.
            let _ = Command::new("ip").args(["netns", "del", name]).output();
        }
    }
}

/// A daemon and a client on two ends of the net, and a file to move.
struct Hosts {
    backend: &'static str,
    kinds: &'static str,
    push: bool,
    client: Side,
    daemon: Daemon,
    dir: tempfile::TempDir,
    net: Net,
}

impl Hosts {
    fn new(backend: &'static str, kinds: &'static str, push: bool) -> Hosts {
        let net = Net::new().unwrap();
        let (client, server) = (Side::new(), Side::new());
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        for name in ["root", "here"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        let listen = format!("[::]:{PORT}");
        let args = [
            "--backend",
            backend,
            "--listen",
            &listen,
            "--allow",
            &client.id(),
        ];
        let within = ["ip", "netns", "exec", &net.server];
        let daemon = Daemon::start_with(&server, &within, &dir.path().join("root"), &args);
        let hosts = Hosts {
            backend,
            kinds,
            push,
            client,
            daemon,
            dir,
            net,
        };
        let (from, _) = hosts.ends();
        tree::write_file(&from, FILE_BYTES, &mut Rng::new(backend));
        // Addresses of IPv6 that the kernel makes itself are in use after a second.
        thread::sleep(Duration::from_secs(2));
        hosts
    }

    fn ends(&self) -> (PathBuf, PathBuf) {
        let (here, root) = (
            self.dir.path().join("here/file"),
            self.dir.path().join("root/file"),
        );
        if self.push {
            (here, root)
        } else {
            (root, here)
        }
    }

    fn start(&self, host: &str, args: &[&str]) -> Running {
        let here = self.dir.path().join("here/file").into_os_string();
        let url = OsString::from(format!("landro://{host}:{PORT}/file"));
        let mut all: Vec<OsString> = ["cp", "--json", "--backend", self.backend]
            .into_iter()
            .chain(["--peer", &self.daemon.fingerprint])
            .chain(["--lane-kinds", self.kinds])
            .chain(args.iter().copied())
            .map(OsString::from)
            .collect();
        all.extend(if self.push { [here, url] } else { [url, here] });
        let within = ["ip", "netns", "exec", &self.net.client];
        Running::spawn(common::command(&self.client, &within, all))
    }

    /// Starts a transfer of one session and lets something happen in the middle of it.
    fn midway(&self, host: &str, happens: impl FnOnce(&Net)) -> Running {
        let running = self.start(host, &["--retry", "0", "--bwlimit", LIMIT]);
        until_moved(&running, 6 * MIB);
        happens(&self.net);
        running
    }

    /// The copy is whole, in one go.
    fn check(&self, output: Output) {
        let output = output.expect(0);
        assert_eq!(output.number("resumed_bytes"), 0, "one session");
        let (from, to) = self.ends();
        assert_same(&from, &to);
        assert_no_leftovers(to.parent().unwrap());
    }
}

/// Waits until a transfer says that so much has been moved.
fn until_moved(running: &Running, bytes: u64) {
    let moved = running.line(|line| {
        let event: serde_json::Value = serde_json::from_str(line).unwrap();
        event["event"] == "progress" && event["bytes"].as_u64().unwrap() >= bytes
    });
    let said = || format!("{}{}", running.stdout(), running.stderr());
    assert!(moved.is_some(), "it ended before: {}", said());
}

const V4: &str = "198.18.3.2";
const V6: &str = "[fd00:3::2]";

/// In seconds, what a transfer of three may take whose path was away for none of them: the idle
/// timeout is a minute.
const SOON: f64 = 20.0;

fn a_client_moves_to_another_address(backend: &'static str) {
    if Net::new().is_none() {
        return;
    }
    let moves = |kinds, push: bool, host: &str, happens: fn(&Net)| {
        let hosts = Hosts::new(backend, kinds, push);
        let output = hosts.midway(host, happens).wait();
        let seconds = output.summary()["seconds"].as_f64();
        assert!(seconds.is_some_and(|seconds| seconds < SOON), "{output:?}");
        hosts.check(output);
    };
    thread::scope(|scope| {
        for push in [false, true] {
            for host in [V4, V6] {
                scope.spawn(move || moves("quic", push, host, another_address));
            }
            scope.spawn(move || moves("quic", push, V4, another_interface));
            scope.spawn(move || moves("quic", push, V6, none_for_a_while));
        }
        scope.spawn(|| none_any_more(backend));
    });
    thread::scope(|scope| {
        for push in [false, true] {
            let both = "quic,tls";
            scope.spawn(move || moves(both, push, V6, another_address));
            scope.spawn(move || moves(both, push, V4, none_for_a_while));
        }
    });
    // Without the crowd.
    for kinds in LANE_KINDS {
        let took: Vec<Duration> = (0..TRIES).map(|_| moving_on(backend, kinds)).collect();
        let is_soon = took.iter().any(|took| *took < MOVED_ON);
        assert!(is_soon, "{kinds}: {took:?}");
    }
}

/// How long the next 6 MiB take, of which the limit makes three quarters of a second, when the
/// address is gone that all packets came from: the kernel tells of it, so that nobody waits for a
/// timeout.
const MOVED_ON: Duration = Duration::from_secs(2);

/// One of them is to keep to that: a busy machine may be late.
const TRIES: usize = 3;

fn moving_on(backend: &'static str, kinds: &'static str) -> Duration {
    let hosts = Hosts::new(backend, kinds, false);
    let running = hosts.midway(V4, another_interface);
    #[allow(clippy::disallowed_methods)] // Measures it.
    let began = Instant::now();
    until_moved(&running, 12 * MIB);
    let took = began.elapsed();
    hosts.check(running.wait());
    took
}

/// As a DHCP server gives it.
fn another_address(net: &Net) {
    net.no_address(1, 2);
    net.address(&net.client, "eth0", 1, 77);
    net.route(&net.client, 1);
}

/// Its first address stays; what comes from there finds no way back.
fn another_interface(net: &Net) {
    net.address(&net.client, "eth1", 2, 2);
    net.ip(&format!("-n {} link set port1 down", net.router));
    net.route(&net.client, 2);
}

fn none_for_a_while(net: &Net) {
    net.no_address(1, 2);
    thread::sleep(Duration::from_secs(5));
    net.address(&net.client, "eth0", 1, 77);
    net.route(&net.client, 1);
}

/// The idle timeout of a minute ends it, and the error says what happened.
fn none_any_more(backend: &'static str) {
    let hosts = Hosts::new(backend, "quic", false);
    let output = hosts
        .midway(V4, |net| net.no_address(1, 2))
        .wait()
        .expect(5);
    let error = output.of("error").last().unwrap()["message"].to_string();
    assert!(error.contains("no way to 198.18.3.2"), "{error}");
}

fn large_packets_do_not_arrive_any_more(backend: &'static str) {
    if Net::new().is_none() {
        return;
    }
    let narrows = |kinds, push: bool, host: &str, happens: fn(&Net)| {
        let hosts = Hosts::new(backend, kinds, push);
        let output = hosts.midway(host, happens).wait();
        let seconds = output.summary()["seconds"].as_f64();
        assert!(seconds.is_some_and(|seconds| seconds < SOON), "{output:?}");
        hosts.check(output);
    };
    thread::scope(|scope| {
        for push in [false, true] {
            for host in [V4, V6] {
                scope.spawn(move || narrows("quic,tls", push, host, a_black_hole));
            }
        }
    });
    thread::scope(|scope| {
        for push in [false, true] {
            for host in [V4, V6] {
                scope.spawn(move || narrows("quic", push, host, a_black_hole));
            }
            scope.spawn(move || narrows("quic", push, V4, |net| net.narrow(NARROW)));
            scope.spawn(move || narrows("quic", push, V4, a_smaller_interface));
            scope.spawn(move || narrows("quic", push, V6, narrower_and_narrower));
        }
    });
}

fn a_black_hole(net: &Net) {
    net.filter_icmp();
    net.narrow(NARROW);
}

fn a_smaller_interface(net: &Net) {
    net.filter_icmp();
    for (host, device) in [(&net.client, "eth0"), (&net.server, "eth0")] {
        net.ip(&format!("-n {host} link set {device} mtu {NARROW}"));
    }
}

/// And wide again, and narrow again.
fn narrower_and_narrower(net: &Net) {
    net.filter_icmp();
    for mtu in ["1450", "1400", "1350", "1500", NARROW] {
        net.narrow(mtu);
        thread::sleep(Duration::from_millis(200));
    }
}

fn one_of_two_addresses_is_dead(backend: &'static str) {
    if Net::new().is_none() {
        return;
    }
    let hosts = Hosts::new(backend, "quic", false);
    let router = &hosts.net.router;
    hosts
        .net
        .ip(&format!("-n {router} route add blackhole 198.18.9.0/24"));
    hosts
        .net
        .ip(&format!("-n {router} -6 route add blackhole fd00:9::/64"));
    let dial = |dead: &[&str], live: &str| {
        let all = dead
            .iter()
            .chain([&live])
            .filter(|address| !address.is_empty());
        hosts
            .net
            .name(&all.map(|address| (*address, "daemon")).collect::<Vec<_>>());
        let _ = fs::remove_file(hosts.ends().1);
        hosts.start("daemon", &["--force"]).wait()
    };
    let soon = |output: Output| {
        let seconds = output.summary()["seconds"].as_f64().unwrap();
        hosts.check(output);
        assert!(seconds < 5.0, "a handshake alone has 10 s: {seconds}");
    };
    // The resolver puts IPv6 first.
    soon(dial(&["fd00:9::1"], "198.18.3.2"));
    // Nobody listens there, which ICMP says at once; and no way leads there.
    soon(dial(&["fd00:3::1"], "198.18.3.2"));
    soon(dial(&["2001:db8::1"], "198.18.3.2"));
    let many: Vec<String> = (1..7).map(|number| format!("fd00:9::{number}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    soon(dial(&many, "198.18.3.2"));
    // Each is named where none answers.
    let output = dial(&["fd00:9::1", "198.18.9.1"], "").expect(5);
    let error = output.of("error").last().unwrap()["message"].to_string();
    for address in ["([fd00:9::1]:4433)", "(198.18.9.1:4433)"] {
        assert!(error.contains(address), "{error}");
    }
    // Nor does a name server.
    let servers = "nameserver 198.18.9.53\noptions timeout:30 attempts:1\n";
    fs::write(hosts.net.names_dir().join("resolv.conf"), servers).unwrap();
    let output = hosts.start("daemon.example", &[]).wait().expect(5);
    let error = output.of("error").last().unwrap()["message"].to_string();
    assert!(
        error.contains("no answer from the resolver in 15 s"),
        "{error}"
    );
}

/// A session that is taken up again asks where the daemon is by now.
fn the_name_leads_to_another_address(backend: &'static str) {
    let Some(_) = Net::new() else { return };
    const NAME: &str = "daemon.example";
    let hosts = Hosts::new(backend, "quic,tls", true);
    let (net, server) = (&hosts.net, &hosts.net.server);
    net.name(&[("198.18.3.2", NAME)]);
    let options = ["--bwlimit", LIMIT, "--timeout", "3", "--retry", "9"];
    let running = hosts.start(NAME, &options);
    until_moved(&running, 6 * MIB);
    net.ip(&format!("-n {server} addr del 198.18.3.2/24 dev eth0"));
    net.ip(&format!("-n {server} addr add 198.18.3.3/24 dev eth0"));
    net.route(server, 3);
    net.name(&[("198.18.3.3", NAME)]);
    let output = running.wait().expect(0);
    let at: Vec<_> = output.of("connected").map(|it| &it["address"]).collect();
    assert_eq!(at, ["198.18.3.2:4433", "198.18.3.3:4433"]);
    assert!(output.number("resumed_bytes") >= 2 * MIB);
    let (from, to) = hosts.ends();
    assert_same(&from, &to);
}
