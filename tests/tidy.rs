//! Reads the sources and fails on what the design forbids: arrows that point back, long files,
//! stray clock reads.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Longer than this, a file holds two ideas.
const MAX_LINES: usize = 700;

/// Who may name whom. `landro_sys` is the kernel; `landro_sys::pool` and `::weigh` only memory.
const MAY_NAME: &[(&str, &str)] = &[
    ("ids", ""),
    ("config", "ids"),
    ("budget", "ids"),
    ("proto", "ids"),
    ("quic", "ids config landro_sys::pool landro_sys::weigh"),
    ("disk", "ids proto landro_sys"),
    ("worker", "ids config budget proto quic disk landro_sys"),
    (
        "engine",
        "ids config budget proto quic disk worker landro_sys",
    ),
    ("daemon", "ids config budget proto quic engine landro_sys"),
    (
        "cli",
        "ids config budget proto quic engine daemon landro_sys",
    ),
    ("fuzzing", "ids quic disk cli"),
];

/// Names that `landro_sys` re-exports from its pool.
const POOL_NAMES: [&str; 3] = ["pool", "Pool", "Buffer"];

struct Source {
    /// Relative to the repository.
    path: PathBuf,
    text: String,
    /// `text` with comments and the insides of literals blanked out, line by line the same.
    code: String,
}

impl Source {
    /// `src/quic/route.rs` and `src/quic.rs` belong to `quic`; `src/lib.rs` and `src/main.rs` to
    /// nobody.
    fn module(&self) -> Option<String> {
        let mut parts = self.path.strip_prefix("src").ok()?.components();
        let first = parts.next()?.as_os_str().to_str()?;
        let name = first.strip_suffix(".rs").unwrap_or(first);
        (!matches!(name, "lib" | "main")).then(|| name.to_string())
    }

    fn is_test(&self) -> bool {
        self.path.starts_with("src/proto/sim")
            || self.path.file_name().is_some_and(|name| name == "tests.rs")
            || self
                .path
                .components()
                .any(|part| part.as_os_str() == "tests")
    }

    /// The code before the unit tests, which stand at the end of a file.
    fn shipped_code(&self) -> &str {
        match self.code.find("#[cfg(test)]\nmod ") {
            _ if self.is_test() => "",
            Some(at) => &self.code[..at],
            None => &self.code,
        }
    }
}

fn sources(directories: &[&str]) -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut pending: Vec<PathBuf> = directories
        .iter()
        .map(|dir| root.join(dir))
        .filter(|dir| dir.exists())
        .collect();
    let mut found = Vec::new();
    while let Some(dir) = pending.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                pending.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                let code = blank_out(&text);
                found.push(Source {
                    path: path.strip_prefix(root).unwrap().to_path_buf(),
                    text,
                    code,
                });
            }
        }
    }
    assert!(!found.is_empty());
    found.sort_by(|one, other| one.path.cmp(&other.path));
    found
}

/// Replaces comments and the insides of string and character literals by blanks. Line breaks stay.
fn blank_out(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut code = String::with_capacity(text.len());
    let mut at = 0;
    while at < bytes.len() {
        let end =
            at + literal_or_comment(&bytes[at..], at.checked_sub(1).map(|before| bytes[before]));
        if end == at {
            code.push(if bytes[at].is_ascii() {
                bytes[at] as char
            } else {
                ' '
            });
            at += 1;
        } else {
            code.extend(
                bytes[at..end]
                    .iter()
                    .map(|&b| if b == b'\n' { '\n' } else { ' ' }),
            );
            at = end;
        }
    }
    code
}

/// Length of the comment or literal that begins here; 0: none does.
fn literal_or_comment(rest: &[u8], before: Option<u8>) -> usize {
    let until = |start: usize, end: &[u8]| {
        rest[start..]
            .windows(end.len())
            .position(|found| found == end)
            .map_or(rest.len(), |at| start + at + end.len())
    };
    match rest {
        [b'/', b'/', ..] => until(2, b"\n") - 1,
        [b'/', b'*', ..] => until(2, b"*/"),
        [b'"', ..] => {
            let mut at = 1;
            while at < rest.len() && rest[at] != b'"' {
                at += if rest[at] == b'\\' { 2 } else { 1 };
            }
            (at + 1).min(rest.len())
        }
        [b'r', b'"' | b'#', ..]
            if !before.is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_') =>
        {
            let hashes = rest[1..].iter().take_while(|&&b| b == b'#').count();
            match rest.get(1 + hashes) {
                Some(b'"') => until(2 + hashes, &[&b"\""[..], &b"#".repeat(hashes)].concat()),
                _ => 0, // A raw identifier.
            }
        }
        [b'\'', b'\\', _, ..] => until(3, b"'"),
        [b'\'', _, b'\'', ..] => 3,
        _ => 0,
    }
}

/// The first path segments that follow `prefix::` in code, groups in braces opened: `crate::{a::b,
/// c}` → a, c.
fn named_after(code: &str, prefix: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let separator = format!("{prefix}::");
    for (at, _) in code.match_indices(&separator) {
        if code[..at].ends_with(is_word) {
            continue; // The end of a longer word.
        }
        let rest = &code[at + separator.len()..];
        match rest.strip_prefix('{') {
            None => names.extend(first_word(rest)),
            Some(group) => names.extend(group_heads(group)),
        }
    }
    names
}

fn group_heads(group: &str) -> Vec<String> {
    let mut heads = Vec::new();
    let (mut depth, mut expecting) = (0, true);
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => expecting = true,
            _ if expecting && is_word(c) => {
                heads.extend(first_word(&group[at..]));
                expecting = false;
            }
            _ => {}
        }
    }
    heads
}

fn first_word(text: &str) -> Option<String> {
    let word: String = text.chars().take_while(|&c| is_word(c)).collect();
    (!word.is_empty()).then_some(word)
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// Whether `word` stands in the code as a word of its own.
fn has_word(code: &str, word: &str) -> bool {
    code.match_indices(word).any(|(at, _)| {
        !code[..at].ends_with(is_word) && !code[at + word.len()..].starts_with(is_word)
    })
}

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
        // `super::` out of a top-level module would be a way around.
        for name in named_after(&source.code, "crate") {
            let known = MAY_NAME.iter().any(|(module, _)| *module == name);
            if known && name != module && !may.contains(name.as_str()) {
                wrong.push(format!("{path}: {module} names crate::{name}"));
            }
        }
        for name in named_after(&source.code, "landro_sys") {
            let pool = POOL_NAMES.contains(&name.as_str()) && may.contains("landro_sys::pool");
            let weigh = name == "weigh" && may.contains("landro_sys::weigh");
            if !pool && !weigh && !may.contains("landro_sys") {
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
    let naming = outside
        .filter(|source| has_word(&source.code, "quiche") || has_word(&source.code, "boring"));
    report(
        naming
            .map(|source| format!("{}: names quiche or boring", source.path.display()))
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

#[test]
fn unsafe_code_is_in_sys_alone() {
    let outside = sources(&[
        "src",
        "tests",
        "benches",
        "perf/emulator",
        "perf/floor",
        "perf/holder",
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
        "perf/emulator",
        "perf/floor",
        "perf/holder",
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

#[test]
fn the_reader_itself_can_read() {
    let code =
        blank_out("a // crate::x\n\"crate::y \\\" \" b /* z */ 'c' r#\"crate::\"# '\\'' &'a str\n");
    assert!(!code.contains("crate") && code.contains('b') && code.contains("&'a str"));
    assert_eq!(code.lines().count(), 2);
    let names = named_after(
        "use crate::{a::{b, c}, d,\n e}; crate::f::g(); my_crate::h; super::i",
        "crate",
    );
    assert_eq!(names.into_iter().collect::<Vec<_>>(), ["a", "d", "e", "f"]);
    assert!(has_word("unsafe {", "unsafe") && !has_word("unsafe_code", "unsafe"));
}
