//! Reads the sources and fails on what the design forbids: arrows that point back, long files,
//! stray clock reads.

#[path = "tidy/reader.rs"]
mod reader;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use reader::{arrows, functions, has_word, module_path, named_after, sources, types};

/// Longer than this, a file holds two ideas.
const MAX_LINES: usize = 700;
const MAX_COLUMNS: usize = 100;

/// Who may name whom. `landro_sys` is the kernel; those of [`MEMORY_ONLY`] are not.
const MAY_NAME: &[(&str, &str)] = &[
    ("ids", ""),
    ("config", "ids"),
    ("budget", "ids"),
    ("metrics", "config"),
    ("proto", "ids"),
    ("identity", "ids"),
    ("carrier", ""),
    (
        "quic",
        "ids config identity carrier landro_sys::pool landro_sys::weigh landro_sys::gso",
    ),
    ("tcp", "ids identity carrier landro_sys::aead"),
    ("disk", "ids proto metrics landro_sys"),
    (
        "worker",
        "ids config budget metrics proto quic tcp disk landro_sys",
    ),
    (
        "engine",
        "ids config budget metrics proto quic tcp disk worker landro_sys",
    ),
    ("signals", ""),
    (
        "api",
        "ids config budget proto identity quic worker engine landro_sys",
    ),
    (
        "daemon",
        "ids config budget metrics proto quic engine signals landro_sys",
    ),
    (
        "cli",
        "ids config budget proto quic engine daemon signals landro_sys",
    ),
    ("fuzzing", "ids identity quic tcp disk daemon cli"),
];

/// Modules of `landro_sys` that call no kernel, and what it re-exports of them: buffers, the
/// heap's weight, stretches of a buffer that are one message, a cipher.
const MEMORY_ONLY: [(&str, &[&str]); 4] = [
    ("landro_sys::pool", &["Pool", "Buffer"]),
    ("landro_sys::weigh", &["weigh"]),
    ("landro_sys::gso", &["gso", "Run"]),
    ("landro_sys::aead", &["aead"]),
];

fn report(wrong: Vec<String>) {
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

#[test]
fn no_arrow_points_back() {
    let mut wrong = Vec::new();
    for source in sources(&["src"]) {
        let Some(module) = source.module() else {
            continue;
        };
        let path = source.path.display();
        let Some((_, may)) = MAY_NAME.iter().find(|(name, _)| *name == module) else {
            wrong.push(format!("{path}: module {module} has no line in MAY_NAME"));
            continue;
        };
        let may: Vec<&str> = may.split(' ').collect();
        // `super::` out of a top-level module would be a way around.
        for name in named_after(&source.code, "crate") {
            let known = MAY_NAME.iter().any(|(module, _)| *module == name);
            if known && name != module && !may.contains(&name.as_str()) {
                wrong.push(format!("{path}: {module} names crate::{name}"));
            }
        }
        for name in named_after(&source.code, "landro_sys") {
            let memory_only = MEMORY_ONLY
                .iter()
                .any(|(of, names)| names.contains(&name.as_str()) && may.contains(of));
            if !memory_only && !may.contains(&"landro_sys") {
                wrong.push(format!("{path}: {module} names landro_sys::{name}"));
            }
        }
    }
    for source in sources(&["sys/src"]) {
        if has_word(&source.code, "landro") || has_word(&source.code, "quiche") {
            wrong.push(format!(
                "{}: landro-sys names what is above it",
                source.path.display()
            ));
        }
    }
    report(wrong);
}

#[test]
fn only_quic_names_the_transport_library() {
    let outside = sources(&["src"])
        .into_iter()
        .filter(|source| source.module().as_deref() != Some("quic"));
    let mut wrong = Vec::new();
    for source in outside {
        // An identity is what both transports prove theirs by.
        let may_name_boring = source.module().as_deref() == Some("identity");
        if has_word(&source.code, "quiche")
            || (has_word(&source.code, "boring") && !may_name_boring)
        {
            wrong.push(format!("{}: names quiche or boring", source.path.display()));
        }
    }
    report(wrong);
}

#[test]
fn only_tcp_names_rustls() {
    let outside = sources(&["src"])
        .into_iter()
        .filter(|source| source.module().as_deref() != Some("tcp"));
    report(
        outside
            .filter(|source| has_word(&source.code, "rustls"))
            .map(|source| format!("{}: names rustls", source.path.display()))
            .collect(),
    );
}

#[test]
fn the_clock_is_read_in_one_place() {
    let mut wrong = Vec::new();
    for source in sources(&["src"]) {
        let reads = ["Instant::now", "SystemTime::now"]
            .iter()
            .any(|call| source.shipped_code().contains(call));
        if reads && source.path != Path::new("src/worker/mod.rs") {
            wrong.push(format!(
                "{}: reads the clock; take `now` as an argument",
                source.path.display()
            ));
        }
    }
    report(wrong);
}

/// What belongs to a process is its program's: the command's here, the embedding program's else.
#[test]
fn the_library_leaves_its_process_alone() {
    let touches = [
        "env::var",
        "env::temp_dir",
        "env::home_dir",
        "raise_open_files",
        "signal_hook",
        "set_global_default",
    ];
    let command = ["src/cli", "src/daemon", "src/signals.rs", "src/main.rs"];
    let mut wrong = Vec::new();
    for source in sources(&["src"]) {
        let is_command = command.iter().any(|place| source.path.starts_with(place));
        let code = source.shipped_code();
        for touch in touches.iter().filter(|touch| code.contains(**touch)) {
            if !is_command {
                let path = source.path.display();
                wrong.push(format!("{path}: {touch} is for the command to use"));
            }
        }
    }
    report(wrong);
}

#[test]
fn unsafe_code_is_in_sys_alone() {
    let outside = sources(&[
        "src",
        "tests",
        "benches",
        "object_store",
        "packaging/pages",
        "perf/emulator",
        "perf/floor",
        "perf/holder",
        "perf/peers/src",
    ]);
    let unsafe_code = outside
        .iter()
        .filter(|source| has_word(&source.code, "unsafe"));
    report(
        unsafe_code
            .map(|source| format!("{}: has unsafe code", source.path.display()))
            .collect(),
    );
    let lib = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs")).unwrap();
    assert!(lib.contains("#![forbid(unsafe_code)]"));
}

#[test]
fn files_are_short_and_say_what_they_are() {
    let mut wrong = Vec::new();
    for source in sources(&[
        "src",
        "sys",
        "tests",
        "benches",
        "fuzz",
        "object_store",
        "packaging/pages",
        "perf/emulator",
        "perf/floor",
        "perf/holder",
        "perf/peers/src",
    ]) {
        if source
            .path
            .components()
            .any(|part| part.as_os_str() == "target")
        {
            continue;
        }
        let (path, lines) = (source.path.display(), source.text.lines().count());
        if lines > MAX_LINES {
            wrong.push(format!("{path}: {lines} lines, more than {MAX_LINES}"));
        }
        for (at, line) in source.text.lines().enumerate() {
            // rustfmt does not wrap comments.
            if line.trim_start().starts_with("//") && line.chars().count() > MAX_COLUMNS {
                wrong.push(format!(
                    "{path}:{}: a comment beyond {MAX_COLUMNS} columns",
                    at + 1
                ));
            }
        }
        if !source.text.starts_with("//! ") {
            wrong.push(format!("{path}: the first line is not a //! sentence"));
        }
    }
    report(wrong);
}

/// A line that a peer can cause is written only where `worker/log.rs` admits it: one peer once
/// wrote 22 MB of log a second.
#[test]
fn what_peers_cause_is_logged_within_limits() {
    let mut wrong = Vec::new();
    for source in sources(&["src/worker", "src/disk"]) {
        let (code, path) = (source.shipped_code(), source.path.display());
        // The starting of a worker is nobody's doing but ours.
        if source.path.ends_with("log.rs") || source.path.ends_with("worker/mod.rs") {
            continue;
        }
        for (at, _) in code.match_indices("tracing::") {
            let before = &code[code.floor_char_boundary(at.saturating_sub(300))..at];
            if !before.contains(".admits(") {
                let line = code[..at].lines().count();
                wrong.push(format!("{path}:{line}: logs without asking Log::admits"));
            }
        }
    }
    report(wrong);
}

/// Longer than this, a function cannot be seen whole beside another.
const MAX_FUNCTION_LINES: usize = 70;
const MAX_PARAMETERS: usize = 5;

/// They implement traits of other crates, which decided on the parameters.
const FOREIGN_TRAITS: [&str; 3] = [
    "tests/common/fuse/server.rs",
    "src/tcp/pin.rs",
    "src/tcp/tests/interop.rs",
];

#[test]
fn functions_can_be_seen_whole() {
    let mut wrong = Vec::new();
    for source in sources(&[
        "src",
        "sys/src",
        "tests",
        "benches",
        "fuzz/src",
        "fuzz/fuzz_targets",
        "object_store",
        "packaging/pages",
        "perf/peers/src",
    ]) {
        let path = source.path.display();
        for function in functions(&source.code) {
            let reader::Function {
                name,
                line,
                lines,
                parameters,
            } = function;
            if lines > MAX_FUNCTION_LINES {
                wrong.push(format!("{path}:{line}: {name} has {lines} lines"));
            }
            if parameters > MAX_PARAMETERS && !FOREIGN_TRAITS.contains(&&*path.to_string()) {
                wrong.push(format!("{path}:{line}: {name} has {parameters} parameters"));
            }
        }
    }
    report(wrong);
}

#[test]
fn one_name_is_one_type() {
    let mut places: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for source in sources(&["src", "sys/src", "object_store/src"]) {
        for name in types(source.shipped_code()) {
            places
                .entry(name)
                .or_default()
                .push(source.path.display().to_string());
        }
    }
    let several = places.into_iter().filter(|(_, places)| places.len() > 1);
    report(
        several
            .map(|(name, places)| format!("{name}: {}", places.join(", ")))
            .collect(),
    );
}

/// Modules of one directory depend on each other in one direction. A module and those below it may
/// name each other.
#[test]
fn no_circle_in_a_directory() {
    let mut wrong = Vec::new();
    for root in ["src", "sys/src", "object_store/src"] {
        let mut named: BTreeMap<Vec<String>, BTreeSet<(String, String)>> = BTreeMap::new();
        let sources = sources(&[root]);
        let modules: BTreeSet<Vec<String>> = sources
            .iter()
            .map(|source| module_path(&source.path, root))
            .collect();
        for source in &sources {
            for (dir, from, to) in arrows(&module_path(&source.path, root), source.shipped_code()) {
                let is_module = modules.contains(&[dir.clone(), vec![to.clone()]].concat());
                if is_module && from != to {
                    named.entry(dir).or_default().insert((from, to));
                }
            }
        }
        for (dir, arrows) in named {
            wrong.extend(circle(&arrows).map(|names| format!("{root}/{}: {names}", dir.join("/"))));
        }
    }
    report(wrong);
}

/// The members of circles, if there are any.
fn circle(arrows: &BTreeSet<(String, String)>) -> Option<String> {
    let mut reached = arrows.clone();
    loop {
        let further: Vec<_> = reached
            .iter()
            .flat_map(|(a, b)| {
                arrows
                    .iter()
                    .filter(move |(c, _)| b == c)
                    .map(move |(_, d)| (a, d))
            })
            .map(|(a, d)| (a.clone(), d.clone()))
            .filter(|arrow| !reached.contains(arrow))
            .collect();
        if further.is_empty() {
            break;
        }
        reached.extend(further);
    }
    let around: BTreeSet<&str> = reached
        .iter()
        .filter(|(a, b)| a == b)
        .map(|(a, _)| a.as_str())
        .collect();
    let ties = arrows
        .iter()
        .filter(|(a, b)| around.contains(a.as_str()) && reached.contains(&(b.clone(), a.clone())));
    let ties: Vec<String> = ties.map(|(a, b)| format!("{a} → {b}")).collect();
    (!ties.is_empty()).then(|| ties.join(", "))
}
