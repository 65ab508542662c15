//! What the kernel does for TLS lanes: it may seal and open them, and rules how fast they send.

use super::*;

/// The kernel seals and opens on both sides or on one; where it cannot, that is said, and the rest
/// is the same.
pub fn tls_in_the_kernel(backend: &'static str) {
    let (begun, found) = (kernel_connections(), landro_sys::ktls::probe());
    for (serve, copy) in [("auto", "auto"), ("auto", "off"), ("off", "auto")] {
        let world = world(backend, &["--ktls", serve]);
        tree::write_file(&world.here("file"), MIB, &mut Rng::new("in the kernel"));
        let args = [&TLS[..], &["--ktls", copy]].concat();
        for output in there_and_back(&world, &args, &world.url("file")) {
            assert_eq!(began_on(&output), "tls");
            let said = output.summary()["stats"]["ktls"].as_str();
            assert_eq!(said, (copy == "auto").then_some(&*found.to_string()));
        }
    }
    if found.is_yes() {
        assert!(kernel_connections() >= begun + 8);
    }
}

/// Directions that the kernel ever sealed or opened (include/uapi/linux/snmp.h); the file is there
/// where the module is.
fn kernel_connections() -> u64 {
    let text = fs::read_to_string("/proc/net/tls_stat").unwrap_or_default();
    let ever = text
        .lines()
        .filter(|line| line.starts_with("TlsTxSw ") || line.starts_with("TlsRxSw "));
    ever.filter_map(|line| line.split_whitespace().last()?.parse::<u64>().ok())
        .sum()
}

/// Each side's own, whatever the other has: what is sent over TCP is ruled by the one that was asked
/// for, as the kernel tells.
#[test]
fn a_congestion_control_of_the_kernels_is_taken_by_name() {
    let has = fs::read_to_string("/proc/sys/net/ipv4/tcp_congestion_control").unwrap();
    let other = match has.trim() {
        "reno" => "cubic",
        _ => "reno",
    };
    let args = ["--tcp-congestion", other, TLS[0], TLS[1]];
    let world = World::with("poll", &args);
    fs::write(world.here("large"), vec![7; 8 << 20]).unwrap();
    let rules = |side: &str| -> Vec<String> {
        let (_, port) = world.daemon.address().rsplit_once(':').unwrap();
        let port = format!("{side} = :{port}");
        let mut ss = std::process::Command::new("ss");
        let told = ss.args(["-tinH", "state", "established", &port]).output();
        let told = String::from_utf8(told.unwrap().stdout).unwrap();
        let lines = told.lines().filter(|line| line.starts_with(['\t', ' ']));
        let rule = |line: &str| line.split_whitespace().next().unwrap().to_owned();
        lines.map(rule).collect()
    };
    let push = |options: &[&str]| {
        let all: Vec<OsString> = (TLS.iter().chain(options).map(OsString::from))
            .chain(["--bwlimit".into(), "4M".into()])
            .chain([world.here("large").into()])
            .chain([world.url(&format!("large{}", options.len())).into()])
            .collect();
        Running::spawn(world.cp_command(&[], &all))
    };
    for (options, ours) in [(&[][..], has.trim()), (&args[..2], other)] {
        let running = push(options);
        let begun = landro::engine::now();
        let found = loop {
            let found = (rules("sport"), rules("dport"));
            if !found.0.is_empty() && !found.1.is_empty() {
                break found;
            }
            assert!(begun.elapsed() < LONG, "no connection is seen: {found:?}");
            thread::sleep(Duration::from_millis(20));
        };
        assert_eq!(found, (vec![other.to_owned()], vec![ours.to_owned()]));
        running.wait().expect(0);
    }
    for command in ["serve", "cp"] {
        let words = [
            command,
            "--tcp-congestion",
            "nosuch",
            "landro://host/a",
            "b",
        ];
        let output = landro(&world.client, &words[..if command == "cp" { 5 } else { 4 }]);
        let said = output.expect(2).stderr;
        assert!(
            said.contains("the kernel has") && said.contains("reno"),
            "{said}"
        );
    }
}
