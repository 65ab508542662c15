//! `landro bench`, real binary: forward, reverse, round trips, both ends at once; its JSON and its
//! exit codes.

mod common;

use std::ffi::OsString;

use common::{Output, Running, Side, World, command};
use serde_json::Value;

on_both_backends!(
    both_directions,
    round_trips,
    both_ends_on_this_host,
    any_right_will_do,
    interrupted_benchmarks_say_how_far_they_came,
    what_goes_wrong,
);

/// `bench --json` against the world's daemon.
fn start(world: &World, args: &[&str]) -> Running {
    let mut all: Vec<OsString> = ["bench", "--json", "--backend", world.backend]
        .map(Into::into)
        .into();
    all.extend(["--peer".into(), world.daemon.fingerprint.clone().into()]);
    all.push(format!("landro://{}", world.daemon.address()).into());
    all.extend(args.iter().map(Into::into));
    Running::spawn(command(&world.client, &[], all))
}

/// What every summary has.
fn check(output: &Output, mode: &str, backend: &str) -> Value {
    assert_eq!(
        output.events.len(),
        output.stdout.lines().count(),
        "{}",
        output.stdout
    );
    assert_eq!(output.of("summary").count(), 1, "{}", output.stdout);
    let summary = output.summary();
    assert!(
        output.stdout.contains(r#"{"schema":1,"event":"summary""#),
        "{}",
        output.stdout
    );
    assert_eq!(summary["mode"], mode, "{summary}");
    for field in ["sent_bytes", "goodput_bps", "exit_code"] {
        assert!(summary[field].is_u64(), "{field} in {summary}");
    }
    assert!(
        summary["seconds"].is_f64() && summary["local"].is_boolean(),
        "{summary}"
    );
    assert_eq!(
        summary["exit_code"].as_i64(),
        output.code.map(i64::from),
        "{summary}"
    );
    let stats = &summary["stats"];
    for field in [
        "rtt_us",
        "min_rtt_us",
        "sent_packets",
        "received_packets",
        "lost_packets",
        "lanes",
    ] {
        assert!(stats[field].is_u64(), "{field} in {stats}");
    }
    for field in [
        "gso_batch",
        "gro_batch",
        "cpu_user_seconds",
        "cpu_system_seconds",
    ] {
        assert!(stats[field].is_number(), "{field} in {stats}");
    }
    assert_eq!(stats["backend"], backend);
    summary.clone()
}

fn check_throughput(summary: &Value) {
    let number = |field: &str| {
        summary[field]
            .as_f64()
            .unwrap_or_else(|| panic!("{field} in {summary}"))
    };
    assert!(number("sent_bytes") >= 65_536.0, "{summary}");
    let rate = number("sent_bytes") * 8.0 / number("seconds");
    assert!(
        (number("goodput_bps") / rate - 1.0).abs() < 0.01,
        "{summary}"
    );
    assert!(number("cpu_seconds_per_gb") > 0.0, "{summary}");
    assert!(summary["latency"].is_null(), "{summary}");
}

fn both_directions(backend: &'static str) {
    let world = World::new(backend);
    let sent = start(&world, &["--seconds", "1"]).wait().expect(0);
    let summary = check(&sent, "send", backend);
    check_throughput(&summary);
    assert_eq!(
        (&summary["streams"], &summary["local"]),
        (&1.into(), &false.into())
    );
    let seconds = summary["seconds"].as_f64().unwrap();
    assert!(seconds >= 1.0, "{summary}");
    let received = start(&world, &["--seconds", "1", "--reverse", "--streams", "8"])
        .wait()
        .expect(0);
    let summary = check(&received, "receive", backend);
    check_throughput(&summary);
    assert_eq!(summary["streams"], 8);
    assert_eq!((sent.stderr.as_str(), received.stderr.as_str()), ("", ""));
    assert!(
        world.root("").read_dir().unwrap().next().is_none(),
        "a benchmark writes nothing"
    );
}

fn round_trips(backend: &'static str) {
    let world = World::new(backend);
    for (args, size_bytes) in [
        (&["--latency"][..], 1024),
        (&["--latency", "--size", "65504"], 65504),
    ] {
        let output = start(&world, &[args, &["--seconds", "1"]].concat())
            .wait()
            .expect(0);
        let summary = check(&output, "latency", backend);
        assert_eq!(summary["size_bytes"], size_bytes);
        let latency = &summary["latency"];
        assert!(
            latency["count"].as_u64().is_some_and(|count| count > 10),
            "{summary}"
        );
        assert_eq!(
            summary["sent_bytes"].as_u64().unwrap(),
            latency["count"].as_u64().unwrap() * size_bytes
        );
        let fields = ["min_us", "p50_us", "p90_us", "p99_us", "p999_us", "max_us"];
        let values: Vec<f64> = fields
            .iter()
            .map(|field| latency[field].as_f64().unwrap())
            .collect();
        assert!(values[0] > 0.0 && values.is_sorted(), "{latency}");
        assert!(
            summary["cpu_seconds_per_gb"].is_null() && summary["streams"].is_null(),
            "{summary}"
        );
    }
}

fn both_ends_on_this_host(backend: &'static str) {
    let side = Side::new();
    for (args, mode) in [
        (&[][..], "send"),
        (&["--reverse"], "receive"),
        (&["--latency"], "latency"),
    ] {
        let all = [
            &[
                "bench",
                "--local",
                "--json",
                "--seconds",
                "1",
                "--backend",
                backend,
            ],
            args,
        ]
        .concat();
        let output = common::landro(&side, all).expect(0);
        let summary = check(&output, mode, backend);
        assert_eq!(summary["local"], true);
        if mode != "latency" {
            check_throughput(&summary);
            assert!(
                summary["daemon_cpu_seconds_per_gb"]
                    .as_f64()
                    .is_some_and(|cpu| cpu > 0.0),
                "{summary}"
            );
        }
        let daemon = &summary["daemon"];
        assert!(
            daemon["received_packets"]
                .as_u64()
                .is_some_and(|packets| packets > 0),
            "{summary}"
        );
        assert!(
            daemon["gro_batch"]
                .as_f64()
                .is_some_and(|batch| batch >= 1.0),
            "{summary}"
        );
    }
    // For people: what was measured on stdout, and no identity was made for it.
    let output = common::landro(
        &side,
        ["bench", "--local", "--seconds", "1", "--backend", backend],
    )
    .expect(0);
    for word in ["sent ", "Gbit/s", "cpu/GB", "rtt ", "batches ", "daemon "] {
        assert!(output.stdout.contains(word), "{word}: {}", output.stdout);
    }
    assert!(
        side.path().read_dir().unwrap().next().is_none(),
        "files were left"
    );
}

fn any_right_will_do(backend: &'static str) {
    for restricted in ["--read-only", "--write-only"] {
        let world = World::with(backend, &[restricted]);
        start(&world, &["--seconds", "1"]).wait().expect(0);
        start(&world, &["--seconds", "1", "--reverse"])
            .wait()
            .expect(0);
    }
}

fn interrupted_benchmarks_say_how_far_they_came(backend: &'static str) {
    let world = World::new(backend);
    for reverse in [false, true] {
        let args: &[&str] = if reverse {
            &["--seconds", "3600", "--reverse"]
        } else {
            &["--seconds", "3600"]
        };
        let running = start(&world, args);
        wait_until_it_listens(&running);
        running.signal("INT");
        let output = running.wait().expect(130);
        assert!(
            output.stderr.contains("stopped by SIGINT") && !output.stderr.contains("resumes"),
            "{output:?}"
        );
        assert_eq!(output.of("error").next().unwrap()["code"], "interrupted");
        assert_eq!(output.summary()["exit_code"], 130);
    }
    // A daemon that goes away.
    let running = start(&world, &["--seconds", "3600"]);
    wait_until_it_listens(&running);
    world.daemon.stop().expect(0);
    let output = running.wait().expect(5);
    // However far it had come.
    let code = output.of("error").next().unwrap()["code"].clone();
    assert!(code == "lost" || code == "unreachable", "{output:?}");
}

/// Until a signal no longer kills it, and as a rule much longer than it needs to be in the middle
/// of its work.
fn wait_until_it_listens(running: &Running) {
    for _ in 0..3000 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", running.pid())).unwrap();
        let caught = status
            .lines()
            .find_map(|line| line.strip_prefix("SigCgt:"))
            .unwrap()
            .trim();
        // Bit 1 is SIGINT.
        let ready = u64::from_str_radix(caught, 16).unwrap() & 2 != 0;
        std::thread::sleep(std::time::Duration::from_millis(if ready {
            300
        } else {
            10
        }));
        if ready {
            return;
        }
    }
    panic!("it never caught SIGINT: {}", running.stderr());
}

fn what_goes_wrong(backend: &'static str) {
    let world = World::new(backend);
    let stranger = Side::new();
    let url = format!("landro://{}", world.daemon.address());
    let bench = |side: &Side, args: &[&str]| {
        let all = [
            &["bench", "--json", "--seconds", "1", "--backend", backend],
            args,
        ]
        .concat();
        common::landro(side, all)
    };
    let peer = &world.daemon.fingerprint;
    bench(&stranger, &[&url, "--peer", peer]).expect(4);
    bench(&world.client, &[&url]).expect(4);
    let output = bench(&world.client, &["landro://127.0.0.1:1", "--peer", peer]).expect(5);
    assert_eq!(output.of("error").next().unwrap()["code"], "unreachable");
    assert_eq!(output.summary()["exit_code"], 5);
    let output = bench(&world.client, &[&format!("{url}/path"), "--peer", peer]).expect(2);
    assert!(output.stderr.contains("takes no path"), "{output:?}");
}
