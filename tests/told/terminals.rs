//! Terminals of any width and locale, and the question at one.

use std::fs;
use std::process::Command;

use crate::common::tree::{self, Rng};
use crate::common::{self, Running, Side, World};
use crate::{disk_dir, on_both_backends, typed};

on_both_backends!(nothing_but_ascii_where_the_locale_has_no_more);

/// What stands on the terminal, without what moves and colours.
fn without_escapes(drawn: &str) -> String {
    let mut text = String::new();
    let mut escaped = false;
    for c in drawn.chars() {
        match c {
            '\u{1b}' => {
                escaped = true;
                text.push('\r');
            }
            c if escaped => escaped = !c.is_ascii_alphabetic(),
            c => text.push(c),
        }
    }
    text
}

/// Runs `cp` on a terminal of its own that is so wide, by script(1). None: there is no script(1).
fn on_terminal(world: &World, columns: usize, locale: &str, args: &str) -> Option<String> {
    let peer = &world.daemon.fingerprint;
    let landro = format!(
        "{} cp --backend {} --peer {peer} {args}",
        common::LANDRO,
        world.backend
    );
    let script = format!("stty rows 24 cols {columns}; exec {landro}");
    let mut command = Command::new(common::BOUNDED[0]);
    command.args(&common::BOUNDED[1..]);
    command.args(["script", "-qec", &script, "/dev/null"]);
    command.current_dir(world.here(""));
    command
        .env("LANDRO_CONFIG_DIR", world.client.path())
        .env("LC_ALL", locale);
    command.env("TERM", "xterm");
    let output = command.output().ok()?;
    // That there is no such program is said so by timeout(1).
    if output.status.code() == Some(127) {
        return None;
    }
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn nothing_but_ascii_where_the_locale_has_no_more(backend: &'static str) {
    let world = World::within(backend, &[], disk_dir());
    let name = "gr\u{fc}n-".repeat(20);
    tree::write_file(&world.here(&name), 3 << 20, &mut Rng::new(backend));
    let gone = world.url("gr\u{fc}n");
    for (locale, shown) in [("C", "gr\\303\\274n"), ("C.UTF-8", "gr\u{fc}n")] {
        let mut pull = typed(&world, &[], &[], &[&gone, "."]);
        pull.env("LC_ALL", locale);
        let output = Running::spawn(pull).wait().expect(1);
        let line = format!("/{shown}: no such file or directory");
        assert!(output.stderr.contains(&line), "{}", output.stderr);
    }
    for columns in [30, 80, 200] {
        let args = format!("--bwlimit 4M --force {name} {}", world.url("to"));
        let Some(drawn) = on_terminal(&world, columns, "C", &args) else {
            common::skipped("no script(1)");
            return;
        };
        assert!(drawn.is_ascii(), "{drawn}");
        assert!(
            drawn.contains(" %") && drawn.contains("1 file,"),
            "{drawn:?}"
        );
        assert!(!drawn.contains("iB"), "one unit system: {drawn:?}");
        assert!(drawn.contains('#'), "{drawn:?}");
        for line in without_escapes(&drawn).split(['\r', '\n']) {
            let width = line.trim_end().chars().count();
            assert!(width <= 2 * columns, "two lines of {columns}: {line:?}");
        }
    }
}

/// The help, at any width that words fit in.
#[test]
fn help_fits_the_terminal() {
    let world = World::new("poll");
    for columns in [50, 80, 120] {
        let Some(help) = on_terminal(&world, columns, "C", "--help") else {
            common::skipped("no script(1)");
            return;
        };
        assert!(help.contains("--summary"), "{help}");
        let help = without_escapes(&help).replace('\r', "");
        for line in help.lines() {
            assert!(
                line.trim_end().chars().count() <= columns,
                "{columns}: {line}"
            );
        }
    }
}

/// The log of a daemon that cannot start, on a terminal: in colours, unless they are not wanted.
#[test]
fn colours_are_for_terminals_that_want_them() {
    let side = common::Side::new();
    let coloured = |name: &str, value: &str| {
        let landro = format!("{} serve no-such-directory", common::LANDRO);
        let mut command = Command::new(common::BOUNDED[0]);
        command.args(&common::BOUNDED[1..]);
        command.args(["script", "-qec", &landro, "/dev/null"]);
        command.env("LANDRO_CONFIG_DIR", side.path());
        command.env("TERM", "xterm").env_remove("NO_COLOR");
        let output = command.env(name, value).output().unwrap();
        let drawn = String::from_utf8_lossy(&output.stdout).into_owned();
        let is_there = drawn.contains("this daemon is SHA256:");
        is_there.then(|| drawn.contains('\x1b'))
    };
    if coloured("LC_ALL", "C").is_none() {
        common::skipped("no script(1)");
        return;
    }
    for (name, value, expected) in [
        ("LC_ALL", "C", true),
        ("NO_COLOR", "1", false),
        ("NO_COLOR", "", true),
        ("TERM", "dumb", false),
    ] {
        assert_eq!(coloured(name, value), Some(expected), "{name}={value}");
    }
}

/// `y` at the prompt, on a terminal.
#[test]
fn the_question_takes_the_answers_people_give() {
    if Command::new("script").arg("--version").output().is_err() {
        common::skipped("no script(1)");
        return;
    }
    let world = World::new("poll");
    fs::write(world.here("file"), "x").unwrap();
    for (answer, code) in [("y", 0), ("Yes", 0), ("N", 4)] {
        let fresh = Side::new();
        fs::copy(
            world.client.path().join("identity.pem"),
            fresh.path().join("identity.pem"),
        )
        .unwrap();
        let landro = format!("{} cp --force file {}", common::LANDRO, world.url(""));
        let bounded = common::BOUNDED.join(" ");
        let script = format!("printf '{answer}\\n' | {bounded} script -qec '{landro}' /dev/null");
        let mut command = Command::new("sh");
        command.args(["-c", &script]).current_dir(world.here(""));
        command.env("LANDRO_CONFIG_DIR", fresh.path());
        let output = command.output().unwrap();
        let drawn = String::from_utf8_lossy(&output.stdout);
        assert!(drawn.contains("never met before"), "{drawn}");
        assert_eq!(output.status.code(), Some(code), "{answer}: {drawn}");
    }
}
