//! What is said of warnings, and of a standard output that takes nothing.

use std::fs;
use std::process::Stdio;

use crate::common::{self, World, tree};
use crate::on_both_backends;
use crate::{disk_dir, people, says, typed};

on_both_backends!(
    warnings_name_what_was_typed,
    warnings_are_counted_and_may_be_failures,
    a_full_standard_output_is_no_success,
);

/// A tree with a FIFO on both sides.
fn with_a_fifo(backend: &'static str) -> World {
    let world = World::within(backend, &[], disk_dir());
    for at in [world.here("x/tree"), world.root("x/tree")] {
        fs::create_dir_all(&at).unwrap();
        tree::mkfifo(&at.join("p q"));
        fs::write(at.join("file"), "x").unwrap();
    }
    world
}

const SKIPPED: &str = "special file (socket, FIFO or device) skipped";

fn warnings_name_what_was_typed(backend: &'static str) {
    let world = with_a_fifo(backend);
    let (to, from) = (world.url("to"), world.url("x/tree"));
    for (args, shown) in [
        (["x/tree", &to], "x/tree/p q".to_owned()),
        (["x/tree/.", "local"], "x/tree/p q".to_owned()),
        ([&from, "back"], format!("{from}/p%20q")),
    ] {
        let output = people(&world, &[], &args);
        says(&output, 0, &format!("landro: warning: {shown}: {SKIPPED}"));
    }
}

fn warnings_are_counted_and_may_be_failures(backend: &'static str) {
    let world = with_a_fifo(backend);
    for to in [world.url("to"), "local".to_owned()] {
        let output = people(&world, &["--summary"], &["x/tree", &to]).expect(0);
        let summary = output.stdout.trim_end();
        assert!(summary.ends_with(", 1 warning"), "{summary}");
        // Who wants errors only is told what fails a copy.
        let output = people(&world, &["--strict", "--quiet", "-T"], &["x/tree", &to]);
        let warning = format!("landro: warning: x/tree/p q: {SKIPPED}");
        says(&output, 3, &warning);
        let end = "landro: 1 warning is a failure with --strict; the rest is complete";
        says(&output, 3, end);
        let output = people(&world, &["--quiet", "-T"], &["x/tree", &to]).expect(0);
        assert_eq!(output.stderr, "");
    }
}

fn a_full_standard_output_is_no_success(backend: &'static str) {
    let world = with_a_fifo(backend);
    let to = world.url("to");
    for (options, to, code) in [
        (&["--summary"][..], &to[..], 1),
        (&["-v", "--force"], &to, 1),
        (&["--json", "--force"], &to, 1),
        (&["-v", "--force"], "local", 1),
        (&["--force"], &to, 0),
    ] {
        let mut command = typed(&world, &[], options, &["x/tree/file", to]);
        let full = fs::OpenOptions::new().write(true).open("/dev/full");
        let output = command.stdout(full.unwrap()).stderr(Stdio::piped());
        let output = output.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{options:?}: {said}");
        let is_said = said.contains("landro: writing to standard output: No space left");
        assert_eq!(is_said, code != 0, "{options:?}: {said}");
    }
    // A reader that goes away is no failure.
    let words = format!(
        "{} cp -v --peer {} x/tree {} | :",
        common::LANDRO,
        world.daemon.fingerprint,
        world.url("tree")
    );
    let mut shell = std::process::Command::new("bash");
    shell
        .args(["-c", &format!("set -o pipefail; {words}")])
        .env("LANDRO_CONFIG_DIR", world.client.path())
        .current_dir(world.here(""));
    assert!(shell.status().unwrap().success());
}
