//! What the command line accepts, and what it becomes.

use clap::{CommandFactory, Parser};

use super::route::{CopyRoute, CopyWay, RouteError, must_be_dir};
use super::url::UrlError;
use super::*;

const FP: &str = "SHA256:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

fn parse(line: &str) -> Result<CliCommand, clap::Error> {
    Arguments::try_parse_from(line.split_whitespace()).map(|arguments| arguments.command)
}

fn cp(line: &str) -> CpArgs {
    match parse(line).unwrap() {
        CliCommand::Cp(args) => args,
        other => panic!("{other:?}"),
    }
}

#[test]
fn clap_finds_nothing_wrong() {
    Arguments::command().debug_assert();
}

#[test]
fn serve_defaults_and_options() {
    let CliCommand::Serve(args) = parse("landro serve").unwrap() else {
        panic!()
    };
    assert_eq!(args.root, PathBuf::from("."));
    assert!(args.listen.is_empty() && args.allow.is_empty() && !args.read_only && !args.write_only);
    assert_eq!((args.workers, args.memory_budget), (None, None));
    let line = format!(
        "landro serve /srv --listen 127.0.0.1:0 --listen [::1]:9 --allow {FP} --read-only \
         --workers 2 \
         --backend poll --profile wan --memory-budget 32M"
    );
    let CliCommand::Serve(args) = parse(&line).unwrap() else {
        panic!()
    };
    assert_eq!(args.listen[1].0[0].to_string(), "[::1]:9");
    assert_eq!(args.allow, [Fingerprint([0; 32])]);
    assert_eq!(
        (args.workers, args.memory_budget),
        (Some(2), Some(32 << 20))
    );
    assert_eq!(
        (args.engine.backend, args.engine.profile),
        (BackendArg::Poll, ProfileArg::Wan)
    );
}

#[test]
fn usage_errors_are_clap_errors() {
    for line in [
        "landro",
        "landro cp",
        "landro serve --read-only --write-only",
        "landro serve --workers 0",
        "landro serve --listen nonsense",
        "landro serve --memory-budget 1K",
        "landro cp --peer nonsense a b",
        "landro cp --backend epoll a b",
        "landro cp --bwlimit fast a b",
        "landro cp --streams 0 a b",
        "landro bench",
        "landro bench landro://h --local",
        "landro bench --local --seconds 0",
        "landro bench --local --seconds 3601",
        "landro bench --local --streams 65",
        "landro bench --local --latency --reverse",
        "landro bench --local --latency --size 64K",
        "landro bench --local --size 64",
    ] {
        assert_eq!(parse(line).unwrap_err().exit_code(), 2, "{line}");
    }
}

/// Whoever names a profile is warned of nothing that is in it.
#[test]
fn profiles_need_no_correction() {
    for profile in ["auto", "lan", "wan"] {
        let args = cp(&format!("landro cp a landro://h/ --profile {profile}"));
        let (_, corrections) = args.engine.quic().checked().unwrap();
        assert_eq!(corrections, [], "{profile}");
    }
}

#[test]
fn cp_options() {
    let args = cp(
        "landro cp --force --fsync --keep-dirlinks --json -q --stats --streams 4 --bwlimit 1.5M \
         a b landro://h/c/",
    );
    let (sources, destination) = args.sources_and_destination().unwrap();
    assert_eq!(
        (sources, destination.to_str()),
        (&["a".into(), "b".into()][..], Some("landro://h/c/"))
    );
    assert!(
        args.force && args.fsync && args.keep_dirlinks && args.json && args.quiet && args.stats
    );
    assert_eq!((args.streams, args.bwlimit), (4, Some(3 << 19)));
    assert_eq!(cp("landro cp a b").streams, 16);
    let args = cp(&format!(
        "landro cp --peer {FP} --accept-new --backend io_uring a b"
    ));
    assert_eq!(
        (args.trust.peer, args.trust.accept_new),
        (Some(Fingerprint([0; 32])), true)
    );
    assert_eq!(args.engine.backend, BackendArg::IoUring);
}

/// Options stand where they like, and the last place is the destination.
#[test]
fn options_in_any_order() {
    for line in [
        "landro cp --force a b c",
        "landro cp a --force b c",
        "landro cp a b --force c",
        "landro cp a b c --force",
        "landro cp -r a -R --recursive b --force -- c",
    ] {
        let args = cp(line);
        let (sources, destination) = args.sources_and_destination().unwrap();
        assert!(
            args.force && sources == ["a", "b"] && destination == "c",
            "{line}"
        );
    }
    let args = cp("landro cp --force -- -a --json c");
    let (sources, _) = args.sources_and_destination().unwrap();
    assert!(!args.archive && !args.json && sources == ["-a", "--json"]);
    let args = cp("landro cp a");
    let one = args.sources_and_destination();
    assert_eq!(one, Err(RouteError::NoDestination("a".into())));
}

#[test]
fn bench_options() {
    let CliCommand::Bench(args) = parse("landro bench landro://h").unwrap() else {
        panic!()
    };
    assert_eq!(
        (
            args.seconds,
            args.streams,
            args.reverse,
            args.latency,
            args.size
        ),
        (10, 1, false, false, None)
    );
    let line =
        format!("landro bench landro://h --seconds 3600 --streams 64 --reverse --json --peer {FP}");
    let CliCommand::Bench(args) = parse(&line).unwrap() else {
        panic!()
    };
    assert_eq!(
        (args.seconds, args.streams, args.reverse, args.json),
        (3600, 64, true, true)
    );
    let CliCommand::Bench(args) = parse("landro bench --local --latency --size 65504").unwrap()
    else {
        panic!()
    };
    assert_eq!(
        (args.local, args.latency, args.size),
        (true, true, Some(65504))
    );
}

#[test]
fn units_of_bytes() {
    for (typed, value) in [
        ("0", 0),
        ("4096", 4096),
        ("4096b", 4096),
        ("1k", 1024),
        ("1K", 1024),
        ("1KiB", 1024),
        ("1KB", 1000),
        ("1.5M", 3 << 19),
        (".5G", 1 << 29),
        ("2g", 2 << 30),
        ("1t", 1 << 40),
        ("3TB", 3_000_000_000_000),
    ] {
        assert_eq!(bytes(typed), Ok(value), "{typed}");
    }
    for bad in [
        "",
        "k",
        "-1",
        "1x",
        "1kk",
        "1.2.3",
        "1 k",
        "99999999T",
        "1e3",
        "é",
    ] {
        assert!(bytes(bad).is_err(), "{bad}");
    }
}

fn transfer(line: &str) -> Result<CopyRoute, RouteError> {
    let args = cp(&format!("landro cp {line}"));
    let (sources, destination) = args.sources_and_destination()?;
    CopyRoute::parse(sources, destination)
}

#[test]
fn directions() {
    let ways = [
        ("a b landro://h/x", "push", 2, "x"),
        ("landro://h/a landro://H:4433/b .", "pull", 2, "."),
        ("landro://h c", "pull", 1, "c"),
        ("a b", "local", 1, "b"),
    ];
    for (line, way, sources, target) in ways {
        let route = transfer(line).unwrap();
        let found = (route.way.name(), route.sources.len(), &route.target[..]);
        assert_eq!(found, (way, sources, target.as_bytes()), "{line}");
        assert_eq!(route.way.daemon().is_none(), route.way == CopyWay::Local);
    }
    assert_eq!(
        transfer("landro://h/a landro://h/b"),
        Err(RouteError::BothRemote)
    );
    assert_eq!(transfer("a landro://h/b ."), Err(RouteError::MixedSources));
    assert_eq!(
        transfer("landro://h/a landro://h:5/b ."),
        Err(RouteError::TwoHosts("h:4433".into(), "h:5".into()))
    );
    let same = Err(RouteError::SameName("x".into()));
    for line in [
        "a/x b/x c",
        "x a/x// landro://h/c",
        "landro://h/a/x landro://h/x c",
    ] {
        assert_eq!(transfer(line), same, "{line}");
    }
    for line in [
        "a/x b/y c",
        "x x",
        "a/. c",
        "landro://h/ c",
        ".. landro://h/c",
    ] {
        assert!(transfer(line).is_ok(), "{line}");
    }
    for (line, content) in [
        ("a/. b c", "a/."),
        ("a .. landro://h/c", ".."),
        ("landro://h/x landro://h c", "/"),
        ("landro://h/x/. landro://h/y c", "x/."),
    ] {
        let refused = Err(RouteError::Content(content.into()));
        assert_eq!(transfer(line), refused, "{line}");
    }
    assert!(matches!(
        transfer("landro://h/% ."),
        Err(RouteError::Url(UrlError::BadPercent(_)))
    ));
}

#[test]
fn when_the_destination_must_be_a_directory() {
    assert!(
        must_be_dir(b"x/", 1)
            && must_be_dir(b"", 1)
            && must_be_dir(b"x", 2)
            && must_be_dir(b"/", 1)
    );
    assert!(!must_be_dir(b"x", 1));
}
