//! What is sent over TCP is ruled by name on each lane of each interface: by what the kernel has,
//! and by what an administrator wrote in BPF.

use std::time::Duration;

use super::*;

const TLS: [&str; 2] = ["--lane-kinds", "tls"];
const BINDS: &[&str] = &["wire0", "wire1"];

/// The window of the one in BPF: no other has just this one all the time.
const WINDOW_PACKETS: &str = "97";

/// How often something is looked for, a tenth of a second between, which does not happen any more
/// if it is not there then.
const LOOKS: u32 = 150;

/// Has the kernel have a congestion control that is written in BPF, under a name that is nobody
/// else's: all network namespaces have the same ones.
struct InBpf {
    name: String,
}

impl InBpf {
    /// None: the machine lacks something for it, and which is said.
    fn new() -> Option<InBpf> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::SeqCst);
        let name = format!("lt{}_{count}", std::process::id());
        match InBpf::register(&name) {
            Ok(()) => Some(InBpf { name }),
            Err(why) => {
                common::skipped(&format!(
                    "no congestion control in BPF: it needs root (CAP_BPF, CAP_PERFMON, \
                     CAP_NET_ADMIN), a kernel with CONFIG_BPF_JIT and CONFIG_DEBUG_INFO_BTF, and \
                     of Debian bpftool, clang, libbpf-dev and linux-libc-dev, which \
                     scripts/setup.sh test installs: {why}"
                ));
                None
            }
        }
    }

    fn register(name: &str) -> Result<(), String> {
        let types = Path::new("/sys/kernel/btf/vmlinux");
        if !types.exists() {
            return Err(format!("there is no {}", types.display()));
        }
        let dir = tempfile::tempdir().unwrap();
        let object = dir.path().join("congestion.o");
        let object = object.to_str().unwrap();
        let source = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/interfaces/congestion.bpf.c"
        );
        // Debian keeps asm/types.h where clang looks for it only when it compiles for this machine.
        let headers = format!("-I/usr/include/{}-linux-gnu", std::env::consts::ARCH);
        let (name, window) = (
            format!("-DRULE={name}"),
            format!("-DWINDOW_PACKETS={WINDOW_PACKETS}"),
        );
        let target = ["-O2", "-g", "-Wall", "-Werror", "-target", "bpf"];
        let own = [&*headers, &name, &window, "-c", source, "-o", object];
        tried("clang", &[&target[..], &own].concat())?;
        tried("bpftool", &["struct_ops", "register", object])
    }

    /// What there is of it: the kernel keeps it while a socket has it.
    fn is_kept(&self) -> bool {
        let shown = Command::new("bpftool")
            .args(["struct_ops", "show"])
            .output();
        String::from_utf8_lossy(&shown.unwrap().stdout).contains(&self.name)
    }

    fn unregister(&self) -> Result<(), String> {
        tried("bpftool", &["struct_ops", "unregister", "name", &self.name])
    }
}

impl Drop for InBpf {
    fn drop(&mut self) {
        // Where it was taken away before, there is nothing to take away.
        let _ = self.unregister();
    }
}

fn in_time(mut condition: impl FnMut() -> bool) -> bool {
    (0..LOOKS).any(|_| {
        thread::sleep(Duration::from_millis(100));
        condition()
    })
}

/// What a tool says if it fails, or why it is not there.
fn tried(tool: &str, args: &[&str]) -> Result<(), String> {
    let output = Command::new(tool).args(args).output();
    let output = output.map_err(|error| format!("{tool}: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("{tool} {}: {said}", args.join(" "))),
    }
}

/// A connection as ss(8) shows it.
#[derive(Clone, Debug, PartialEq)]
struct Shown {
    local: String,
    peer: String,
    rule: String,
    window: String,
}

impl Hosts {
    /// What one of the hosts (the client's first) has on a wire.
    fn connections(&self, host: usize, wire: u8) -> Vec<Shown> {
        let [ip, netns, exec, name] = self.wires.within(host);
        let words = [netns, exec, name, "ss", "-tinH", "state", "established"];
        let output = Command::new(ip).args(words).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        let pairs = lines.chunks(2).map(|pair| {
            let first: Vec<&str> = pair[0].split_whitespace().collect();
            let second: Vec<&str> = pair[1].split_whitespace().collect();
            let window = second.iter().find_map(|word| word.strip_prefix("cwnd:"));
            Shown {
                local: first[2].to_owned(),
                peer: first[3].to_owned(),
                rule: second[0].to_owned(),
                window: window.unwrap_or_default().to_owned(),
            }
        });
        let ours = format!("198.18.{wire}.");
        pairs.filter(|it| it.local.starts_with(&ours)).collect()
    }

    /// What each host has on this wire, once both have one that is not of those that were before.
    fn new_connections(&self, wire: u8, before: &[Shown]) -> [Vec<Shown>; 2] {
        let mut found = [vec![], vec![]];
        let is_there = || {
            found = [0, 1].map(|host| {
                let ends = |it: &Shown| (it.local.clone(), it.peer.clone());
                let is_new = |it: &Shown| before.iter().all(|old| ends(old) != ends(it));
                let mut new = self.connections(host, wire);
                new.retain(is_new);
                new
            });
            found.iter().all(|of| !of.is_empty())
        };
        assert!(in_time(is_there), "no connection on {wire}");
        found
    }

    fn ruled(&self, binds: &[&str], limit: &str, rule: &str, args: &[OsString]) -> Running {
        let options = [TLS[0], TLS[1], "--tcp-congestion", rule, "--bwlimit", limit];
        let mut all: Vec<OsString> = options.map(OsString::from).into();
        all.extend(args.iter().cloned());
        self.start(binds, &all)
    }
}

fn have_rule(found: &[Vec<Shown>; 2], rules: [&str; 2]) {
    for (found, rule) in found.iter().zip(rules) {
        assert!(found.iter().all(|it| it.rule == rule), "{rule}: {found:?}");
    }
}

/// The first ones and those that are added on both wires, and those of a session that is taken up
/// again; it rules what is sent, and may be taken away meanwhile.
pub fn every_lane_has_the_rule(backend: &'static str) {
    for push in [true, false] {
        let Some(wires) = Wires::new() else { return };
        let Some(ours) = InBpf::new() else { return };
        let rule = &*ours.name;
        let serve = [TLS[0], TLS[1], "--tcp-congestion", rule];
        let mut hosts = Hosts::with(backend, wires, &serve);
        let (from, to, args) = hosts.places("file", push);
        tree::write_file(&from, FILE_BYTES, &mut Rng::new(rule));
        let running = hosts.ruled(BINDS, "12M", rule, &args);
        wait_for_bytes(&running, FILE_BYTES / 8);
        hosts.new_connections(0, &[]);
        // Under the limit the lane on the second has little to add, and may be gone again.
        for wire in [0, 1] {
            let found = [0, 1].map(|host| hosts.connections(host, wire));
            have_rule(&found, [rule; 2]);
        }
        let sends = usize::from(!push);
        let obeys = || {
            let sent = [0, 1].map(|wire| hosts.connections(sends, wire));
            sent.iter().flatten().any(|it| it.window == WINDOW_PACKETS)
        };
        assert!(in_time(obeys), "{:?}", hosts.connections(sends, 0));

        let known = [0, 1].map(|host| hosts.connections(host, 0)).concat();
        hosts.restart(&serve);
        have_rule(&hosts.new_connections(0, &known), [rule; 2]);
        // A connection is no session yet, and another one could not have the rule any more.
        wait_for_more_bytes(&running);

        ours.unregister().unwrap();
        wait_for_bytes(&running, FILE_BYTES / 8 * 7);
        have_rule(&[0, 1].map(|host| hosts.connections(host, 0)), [rule; 2]);
        assert!(ours.is_kept());
        let output = running.wait().expect(0);
        assert_eq!(output.number("sessions"), 2, "{}", output.summary());
        arrived(&from, &to);
        hosts.daemon.kill();
        assert!(in_time(|| !ours.is_kept()));
    }
}

/// Who has no right to it is told so. Where it is gone when lanes are lost, others over TCP are not
/// had, which is told; a daemon hands down the one that it holds.
pub fn a_rule_that_is_taken_away(backend: &'static str) {
    let Some(wires) = Wires::new() else { return };
    let Some(ours) = InBpf::new() else { return };
    let rule = &*ours.name;
    let mut hosts = Hosts::with(backend, wires, &["--tcp-congestion", rule]);
    let (from, _, args) = hosts.places("file", false);
    tree::write_file(&from, FILE_BYTES / 4, &mut Rng::new(rule));

    let copy = ["cp", "--tcp-congestion", rule, "landro://host/a", "b"].map(OsString::from);
    let user = ["setpriv", "--bounding-set", "-net_admin"];
    let refused = Running::spawn(common::command(&hosts.client, &user, copy)).wait();
    let said = refused.expect(2).stderr;
    for word in [
        &format!("{rule:?} is refused"),
        "reno",
        "tcp_allowed_congestion_control",
    ] {
        assert!(said.contains(word), "{word}: {said}");
    }

    let patience = [&["--timeout".into(), "5".into()], &args[..]].concat();
    let running = hosts.ruled(BINDS, "4M", rule, &patience);
    wait_for_bytes(&running, FILE_BYTES / 16);
    let known = [0, 1].map(|host| hosts.connections(host, 0)).concat();
    ours.unregister().unwrap();
    let (from, to, args) = hosts.places("another", false);
    tree::write_file(&from, FILE_BYTES / 8, &mut Rng::new("another"));
    let limit = ["--lane-kinds", "tls", "--bwlimit", "8M"].map(OsString::from);
    let another = hosts.start(BINDS, &[&limit[..], &args].concat());
    let has = fs::read_to_string("/proc/sys/net/ipv4/tcp_congestion_control").unwrap();
    have_rule(&hosts.new_connections(0, &known), [has.trim(), rule]);
    another.wait().expect(0);
    assert_same(&from, &to);

    hosts.restart(&[]);
    let said = running.wait().expect(5).stderr;
    assert!(said.contains(&format!("{rule:?} is not there")), "{said}");
}

/// What was asked for on either side goes before what a route has (`congctl` of ip-route(8)).
pub fn a_rule_of_a_route_goes_behind(backend: &'static str) {
    let Some(wires) = Wires::new() else { return };
    let has = fs::read_to_string("/proc/sys/net/ipv4/tcp_available_congestion_control").unwrap();
    let Some(other) = has.split_whitespace().find(|name| *name != "reno") else {
        return common::skipped(
            "the kernel has no congestion control beside reno (CONFIG_TCP_CONG_CUBIC)",
        );
    };
    let routes = |wires: &Wires, words: &str| {
        for (name, host) in wires.names.iter().zip([1, 2]) {
            let to = format!("198.18.0.0/24 dev wire0 proto kernel scope link src 198.18.0.{host}");
            run(
                "ip",
                &format!("-n {name} route replace {to} congctl {words}"),
            );
        }
    };
    routes(&wires, other);
    let hosts = Hosts::with(backend, wires, &["--tcp-congestion", "reno"]);
    let (from, to, args) = hosts.places("file", false);
    tree::write_file(&from, FILE_BYTES / 8, &mut Rng::new(other));
    let running = hosts.ruled(BINDS, "8M", "reno", &args);
    have_rule(&hosts.new_connections(0, &[]), ["reno"; 2]);
    running.wait().expect(0);
    arrived(&from, &to);

    // Unless that is locked, which is said on the side that is not obeyed.
    routes(&hosts.wires, &format!("lock {other}"));
    let output = hosts
        .ruled(&BINDS[..1], "8M", "reno", &args)
        .wait()
        .expect(5);
    assert!(output.stderr.contains("congctl lock"), "{}", output.stderr);
    fs::remove_file(&to).unwrap();
    hosts
        .start(&BINDS[..1], &[&TLS.map(OsString::from)[..], &args].concat())
        .wait()
        .expect(0);
    hosts.daemon.wait_for_log("congctl lock");
}
