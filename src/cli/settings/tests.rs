//! Which place a value is from, and what is no value.

use super::*;

const FP: &str = "SHA256:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

/// What the command line, the environment and a file say together.
fn told(typed: &str, environment: &[(&str, &str)], file: &str) -> Result<Settings, SettingsError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("landro.toml");
    std::fs::write(&path, file).unwrap();
    let typed: Vec<OsString> = typed.split_whitespace().map(OsString::from).collect();
    let environment = environment.iter();
    resolve(&Places {
        typed: &typed,
        environment: environment
            .map(|(name, value)| ((*name).to_owned(), OsString::from(value)))
            .collect(),
        default_file: Some(&path),
        found_file: None,
    })
}

fn line<'a>(settings: &'a Settings, name: &str) -> (&'a Setting, String) {
    let setting = settings
        .provenance
        .all
        .iter()
        .find(|it| it.name == name)
        .expect(name);
    let shown = setting.to_string();
    (setting, shown)
}

/// Without the directory of the file.
fn said(error: &SettingsError) -> String {
    let said = error.to_string();
    match said.split_once("landro.toml") {
        Some((_, rest)) => rest.to_owned(),
        None => said,
    }
}

#[test]
fn the_command_line_comes_before_the_environment_before_the_file() {
    let file = "workers = 2\nmemory-budget = \"32M\"\nlisten = [\":1\", \":2\"]\nroot = \"/srv\"\ntimeout = 0x10\n";
    let environment = [
        ("LANDRO_SERVE_MEMORY_BUDGET", "48M"),
        ("LANDRO_SERVE_WORKERS", "3"),
        ("PATH", "/bin"),
    ];
    let settings = told("--workers 4", &environment, file).unwrap();
    let args = &settings.args;
    assert_eq!(
        (args.workers, args.memory_budget),
        (Some(4), Some(48 << 20))
    );
    assert_eq!((args.listen.len(), &args.root), (2, &PathBuf::from("/srv")));
    assert_eq!(args.engine.timeout, Some(16));
    let origin = |name| line(&settings, name).0.origin.clone();
    assert_eq!(origin("workers"), Origin::CommandLine);
    assert_eq!(
        origin("memory-budget"),
        Origin::Variable("LANDRO_SERVE_MEMORY_BUDGET".to_owned())
    );
    assert!(matches!(origin("listen"), Origin::File { line: 3, .. }));
    assert_eq!(origin("backend"), Origin::Default);
    assert_eq!(
        line(&settings, "backend").1,
        "backend = \"auto\"  # default"
    );
    assert_eq!(
        line(&settings, "qlog").1,
        "# qlog: none are written  # default"
    );
    let settings = told("/typed", &[], file).unwrap();
    assert_eq!(settings.args.root, PathBuf::from("/typed"));
    assert_eq!(line(&settings, "root").0.origin, Origin::CommandLine);
    assert_eq!(
        line(&told("", &[], "").unwrap(), "workers").1,
        "# workers: one per core  # default"
    );
}

/// A repeatable option is all of one place: a file's peers are not added to those of the command
/// line, nor is a switch that is off in between forgotten.
#[test]
fn a_place_says_all_of_an_option() {
    let file = format!("allow = [\"{FP}\"]\nread-only = true\n");
    let settings = told("", &[], &file).unwrap();
    assert!(settings.args.allow.len() == 1 && settings.args.read_only);
    let settings = told("", &[("LANDRO_SERVE_READ_ONLY", "no")], &file).unwrap();
    assert!(!settings.args.read_only);
    assert_eq!(
        line(&settings, "read-only").1,
        "read-only = false  # LANDRO_SERVE_READ_ONLY"
    );
    let settings = told("", &[("LANDRO_SERVE_ALLOW", "")], &file).unwrap();
    assert_eq!(settings.args.allow.len(), 1, "nothing is said");
    // What excludes it was said in a place that comes first.
    let settings = told("--write-only", &[], &file).unwrap();
    assert!(settings.args.write_only && !settings.args.read_only);
    // A switch that is off excludes nothing, in whatever order.
    for lines in [
        "read-only = false\nwrite-only = true\n",
        "write-only = true\nread-only = false\n",
    ] {
        let settings = told("", &[], lines).unwrap();
        assert!(settings.args.write_only && !settings.args.read_only);
    }
    let off = [("LANDRO_SERVE_READ_ONLY", "0")];
    let settings = told("", &off, "write-only = true").unwrap();
    assert!(settings.args.write_only && !settings.args.read_only);
}

/// A place that contradicts itself is not understood, as on the command line.
#[test]
fn a_place_does_not_contradict_itself() {
    let error = told("", &[], "read-only = true\nwrite-only = true\n").unwrap_err();
    assert!(said(&error).starts_with(":2: write-only: cannot be used together with read-only"));
    let both = [
        ("LANDRO_SERVE_WRITE_ONLY", "1"),
        ("LANDRO_SERVE_READ_ONLY", "1"),
    ];
    assert!(told("", &both, "").is_err());
    assert!(told("--read-only --write-only", &[], "").is_err());
}

/// Whatever is typed of `--`, the root is the last word.
#[test]
fn a_root_stands_behind_the_options() {
    for typed in ["", "--", "--workers 2 --"] {
        let settings = told(typed, &[], "root = \"-odd\"").unwrap();
        assert_eq!(settings.args.root, PathBuf::from("-odd"), "{typed}");
    }
}

/// What is shown is a file that says the same.
#[test]
fn what_is_shown_can_be_read() {
    let shown = |settings: &Settings| -> Vec<String> {
        let all = settings.provenance.all.iter().map(Setting::to_string);
        all.map(|line| line.rsplit_once("  # ").unwrap().0.to_owned())
            .collect()
    };
    for switch in ["--read-only", "--write-only"] {
        let typed = format!("--listen :1 --listen [::1]:2 --allow {FP} --qlog /a\"b\\c {switch}");
        let settings = told(&typed, &[], "").unwrap();
        let lines = shown(&settings);
        let again = told("", &[], &lines.join("\n")).unwrap();
        assert_eq!(shown(&again), lines);
    }
}

#[test]
fn what_is_no_setting_is_told_with_its_place() {
    for (file, words) in [
        ("a\n", ":1: "),
        (
            "workers = 2\nworkres = 3\n",
            ":2: there is no option workres",
        ),
        ("config = \"x\"", ":1: there is no option config"),
        ("[roots]\na = 1", ":1: roots: is a table"),
        ("workers = 0", ":1: workers: invalid value '0'"),
        ("workers = 2.5", ":1: workers: takes a text in quotes"),
        ("workers = [2, 3]", ":1: workers: takes one value"),
        ("workers = true", ":1: workers: takes a value"),
        (
            "\n\nread-only = \"yes\"",
            ":3: read-only: is either true or false",
        ),
        ("listen = [[\":1\"]]", ":1: listen: takes one list"),
        ("help = true", ":1: there is no option help"),
        ("\"a\\u001bb\" = 1", ":1: there is no option a"),
    ] {
        let error = told("", &[], file).unwrap_err();
        assert!(said(&error).starts_with(words), "{file}: {error}");
        assert!(!error.to_string().contains(['\n', '\u{1b}']), "{error}");
    }
    let error = told("", &[("LANDRO_SERVE_WORKRES", "3")], "").unwrap_err();
    assert!(said(&error).starts_with("LANDRO_SERVE_WORKRES: there is no option workres"));
    let error = told("", &[("LANDRO_SERVE_READ_ONLY", "maybe")], "").unwrap_err();
    assert!(said(&error).contains("is either true or false"), "{error}");
    let error = told("", &[("LANDRO_SERVE_workers", "3")], "").unwrap_err();
    assert!(said(&error).starts_with("LANDRO_SERVE_workers: there is no option"));
    let words = told("--workers 0", &[], "").unwrap_err().to_string();
    assert!(
        words.starts_with("invalid value '0' for '--workers"),
        "{words}"
    );
}

#[test]
fn a_file_that_is_named_has_to_be_there_and_nobody_elses() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.toml");
    let typed = [OsString::from("--config"), path.clone().into()];
    let resolve = |typed: &[OsString], environment: &[(String, OsString)]| {
        resolve(&Places {
            typed,
            environment: environment.to_vec(),
            default_file: Some(Path::new("/nowhere/landro.toml")),
            found_file: None,
        })
    };
    let settings = resolve(&[], &[]).unwrap();
    assert_eq!(settings.file, None);
    assert!(matches!(resolve(&typed, &[]), Err(SettingsError::File(_))));
    std::fs::write(&path, "workers = 7").unwrap();
    assert_eq!(resolve(&typed, &[]).unwrap().args.workers, Some(7));
    let environment = [(
        "LANDRO_SERVE_CONFIG".to_owned(),
        path.clone().into_os_string(),
    )];
    let settings = resolve(&[], &environment).unwrap();
    assert_eq!(
        (settings.args.workers, settings.file),
        (Some(7), Some(path.clone()))
    );
    let others_write = std::os::unix::fs::PermissionsExt::from_mode(0o666);
    std::fs::set_permissions(&path, others_write).unwrap();
    assert!(matches!(resolve(&typed, &[]), Err(SettingsError::File(_))));
}

/// Of what may change while a daemon runs, and of nothing else.
#[test]
fn what_may_change_is_read_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.toml");
    let write = |text: &str| std::fs::write(&path, text).unwrap();
    write("workers = 2\ntimeout = 5\nread-only = true\n");
    let typed = [OsString::from("--allow"), FP.into(), "--listen=:1".into()];
    let settings = resolve(&Places {
        typed: &typed,
        environment: Vec::new(),
        default_file: Some(&path),
        found_file: None,
    });
    let before = settings.unwrap().provenance;
    // A name that nobody resolves now is no matter, nor is a value that is so with the next start.
    write("listen = [\"no.such.invalid\"]\nworkers = 0\nwrite-only = true\n");
    let changed = resolve_again(&before, Some(&path)).unwrap();
    assert!(changed.args.write_only && !changed.args.read_only);
    assert_eq!(changed.args.allow.len(), 1, "as it was typed");
    let later = changed.later.iter();
    let later: Vec<&str> = later.map(|it| it.split("  #").next().unwrap()).collect();
    let expected = [
        "listen = \"no.such.invalid\"",
        "workers = \"0\"",
        "timeout is there no more",
    ];
    assert_eq!(later, expected);
    write("workres = 2\n");
    assert!(resolve_again(&before, Some(&path)).is_err());
    // Where none was to be read, none is later.
    let words = [OsString::from("--config=/dev/null")];
    let settings = resolve(&Places {
        typed: &words,
        environment: Vec::new(),
        default_file: Some(&path),
        found_file: None,
    });
    let none = settings.unwrap();
    assert_eq!(none.file.as_deref(), Some(Path::new(NO_FILE)));
    let again = Places {
        typed: &[],
        environment: Vec::new(),
        default_file: Some(&path),
        found_file: none.file.as_deref(),
    };
    assert_eq!(resolve(&again).unwrap().args.workers, None);
    // One that was there and is gone says nothing good.
    std::fs::remove_file(&path).unwrap();
    assert!(resolve_again(&before, Some(&path)).is_err());
}
