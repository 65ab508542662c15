//! The pages and completions as they are written: complete, clean by their readers, and of use in
//! the shells.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use clap::Arg;
use landro::cli::manual;

/// What every page has, in this order.
const SECTIONS: [&str; 8] = [
    "NAME",
    "SYNOPSIS",
    "DESCRIPTION",
    "OPTIONS",
    "EXIT STATUS",
    "FILES",
    "ENVIRONMENT",
    "EXAMPLES",
];

fn written() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let mut program = Command::new(env!("CARGO_BIN_EXE_landro-pages"));
    run(program.arg(dir.path()).arg("2026-11-30"));
    dir
}

fn output(command: &mut Command) -> Output {
    let output = command.output();
    output.unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

/// What a command says; it must end well.
fn run(command: &mut Command) -> String {
    let output = output(command);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{command:?}: {said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    said
}

/// `scripts/setup.sh test` installs them; a test that needs one and has none says so.
fn is_there(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|dir| dir.join(program).exists());
    if !found {
        eprintln!("SKIPPED: {program} is not installed (scripts/setup.sh test)");
    }
    found
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).unwrap();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

/// A page as text without roff's escapes of hyphens.
fn text(dir: &Path, title: &str) -> String {
    let page = fs::read_to_string(dir.join(format!("man/{title}.1")));
    page.unwrap_or_else(|error| panic!("{title}: {error}"))
        .replace("\\-", "-")
}

/// Default and unit are said where clap does not say them by itself.
fn says_its_default(option: &Arg, page: &str) -> bool {
    let help = option.get_help().map(ToString::to_string);
    let values = option.get_default_values();
    match values.first().and_then(|value| value.to_str()) {
        Some(value) => page.contains(&format!("[default: {value}]")),
        None => help.is_some_and(|help| help.contains("[default:") || help.contains("known_hosts")),
    }
}

#[test]
fn every_command_and_option_has_its_place() {
    let dir = written();
    let mut landro = manual::command();
    landro.build();
    let commands = landro
        .get_subcommands()
        .filter(|command| command.get_name() != "help");
    let mut pages = 1;
    for command in commands.chain([&landro]) {
        let title = command.get_display_name().unwrap_or("landro");
        let page = text(dir.path(), title);
        let headings: Vec<Option<usize>> = SECTIONS
            .iter()
            .map(|name| {
                page.find(&format!(".SH {name}\n"))
                    .or_else(|| page.find(&format!(".SH \"{name}\"\n")))
            })
            .collect();
        assert!(
            headings.iter().all(Option::is_some) && headings.is_sorted(),
            "{title}: {headings:?}"
        );
        for option in command
            .get_arguments()
            .filter(|option| !option.is_positional())
        {
            let name = option.get_long().unwrap();
            assert!(page.contains(&format!("--{name}")), "{title}: --{name}");
            assert!(
                option.get_help().is_some(),
                "{title}: --{name} says nothing"
            );
            let takes_value = option.get_action().takes_values();
            assert!(
                !takes_value || says_its_default(option, &page),
                "{title}: --{name} does not say its default"
            );
        }
        pages += usize::from(title != "landro");
    }
    assert_eq!(
        files(&dir.path().join("man")).len(),
        pages,
        "a page of nothing"
    );
}

#[test]
fn readers_of_pages_find_nothing_wrong() {
    let dir = written();
    let pages = files(&dir.path().join("man"));
    if is_there("mandoc") {
        for page in &pages {
            let lint = output(
                Command::new("mandoc")
                    .args(["-T", "lint", "-W", "warning"])
                    .arg(page),
            );
            let said = String::from_utf8_lossy(&lint.stdout);
            assert!(lint.status.success() && said.is_empty(), "{said}");
        }
    }
    if is_there("man") {
        for page in &pages {
            let shown = output(
                Command::new("man")
                    .args(["--warnings", "-E", "UTF-8", "-l"])
                    .arg(page)
                    .envs([
                        ("LC_ALL", "C.UTF-8"),
                        ("MANROFFSEQ", ""),
                        ("MANWIDTH", "80"),
                    ]),
            );
            let said = String::from_utf8_lossy(&shown.stderr);
            assert!(shown.status.success() && said.is_empty(), "{said}");
            assert!(shown.stdout.len() > 2000, "{}", page.display());
        }
    }
}

/// What bash offers for a word that was begun, as its own completion calls the function.
fn bash(dir: &Path, words: &[&str]) -> Vec<String> {
    let script = r#"
        source "$1" || exit 1
        shift
        [ "$(complete -p landro)" != "" ] || exit 1
        COMP_WORDS=("$@")
        COMP_CWORD=$(($# - 1))
        last=${!#}
        _landro landro "$last" "${COMP_WORDS[COMP_CWORD - 1]}"
        printf '%s\n' "${COMPREPLY[@]}"
    "#;
    let mut bash = Command::new("bash");
    let bash = bash.args(["--norc", "-c", script, "bash"]);
    let said = run(bash
        .arg(dir.join("completions/landro"))
        .args(words)
        .current_dir(dir));
    said.lines().map(str::to_owned).collect()
}

#[test]
fn bash_completes() {
    let dir = written();
    let completes = |words: &[&str]| bash(dir.path(), words);
    assert_eq!(completes(&["landro", "ser"]), ["serve"]);
    assert_eq!(completes(&["landro", "cp", "--keep"]), ["--keep-dirlinks"]);
    assert_eq!(
        completes(&["landro", "cp", "--backend", "io"]),
        ["io_uring"]
    );
    assert_eq!(completes(&["landro", "serve", "--ktls", "a"]), ["auto"]);
    assert_eq!(completes(&["landro", "serve", "--keylog", "ma"]), ["man"]);
    for command in manual::command().get_subcommands() {
        let name = command.get_name();
        let offered = completes(&["landro", name, "--"]);
        for option in command.get_arguments().filter_map(Arg::get_long) {
            let option = format!("--{option}");
            assert!(offered.contains(&option), "{name} {option}: {offered:?}");
        }
    }
    // Nothing is offered where paths are: `-o default` then has readline complete them.
    assert_eq!(completes(&["landro", "cp", "./compl"]), [""]);
    let script = fs::read_to_string(dir.path().join("completions/landro")).unwrap();
    assert!(script.contains("-o default"));
}

#[test]
fn zsh_and_fish_understand_theirs() {
    let dir = written();
    let completions = dir.path().join("completions");
    if is_there("zsh") {
        let script = r#"
            autoload -Uz compinit && compinit -u -D || exit 1
            [ "$_comps[landro]" = _landro ] || exit 1
            autoload +X -U _landro || exit 1
        "#;
        let mut zsh = Command::new("zsh");
        let before = format!("fpath=({} $fpath)\n{script}", completions.display());
        run(zsh.args(["-f", "-c", &before]));
        run(Command::new("zsh")
            .arg("-n")
            .arg(completions.join("_landro")));
    }
    if is_there("fish") {
        let script = completions.join("landro.fish");
        let asks = |line: &str| {
            let ask = format!("source {}; complete -C '{line}'", script.display());
            let mut fish = Command::new("fish");
            run(fish
                .args(["--no-config", "-c", &ask])
                .env("HOME", dir.path()))
        };
        assert!(asks("landro ser").starts_with("serve\t"));
        assert!(asks("landro cp --keep").starts_with("--keep-dirlinks\t"));
        assert!(asks("landro cp --backend io").starts_with("io_uring"));
    }
}
