//! Reads sources without their comments and literals, and finds names, functions and modules in
//! them.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

pub struct Source {
    /// Relative to the repository.
    pub path: PathBuf,
    pub text: String,
    /// `text` with comments and the insides of literals blanked out, line by line the same.
    pub code: String,
}

impl Source {
    /// `src/quic/route.rs` and `src/quic.rs` belong to `quic`; `src/lib.rs` and `src/main.rs` to
    /// nobody.
    pub fn module(&self) -> Option<String> {
        let mut parts = self.path.strip_prefix("src").ok()?.components();
        let first = parts.next()?.as_os_str().to_str()?;
        let name = first.strip_suffix(".rs").unwrap_or(first);
        (!matches!(name, "lib" | "main")).then(|| name.to_string())
    }

    pub fn is_test(&self) -> bool {
        self.path.starts_with("src/proto/sim")
            || self.path.file_name().is_some_and(|name| name == "tests.rs")
            || self
                .path
                .components()
                .any(|part| part.as_os_str() == "tests")
    }

    /// The code before the unit tests, which stand at the end of a file.
    pub fn shipped_code(&self) -> &str {
        match self.code.find("#[cfg(test)]\nmod ") {
            _ if self.is_test() => "",
            Some(at) => &self.code[..at],
            None => &self.code,
        }
    }
}

pub fn sources(directories: &[&str]) -> Vec<Source> {
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
pub fn blank_out(text: &str) -> String {
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
pub fn literal_or_comment(rest: &[u8], before: Option<u8>) -> usize {
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
pub fn named_after(code: &str, prefix: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let separator = format!("{prefix}::");
    for (at, _) in code.match_indices(&separator) {
        if code[..at].ends_with(is_word) || code[..at].ends_with("::") {
            continue; // The end of a longer word or path.
        }
        let rest = &code[at + separator.len()..];
        match rest.strip_prefix('{') {
            None => names.extend(first_word(rest)),
            Some(group) => names.extend(group_heads(group)),
        }
    }
    names
}

pub fn group_heads(group: &str) -> Vec<String> {
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

pub fn first_word(text: &str) -> Option<String> {
    let word: String = text.chars().take_while(|&c| is_word(c)).collect();
    (!word.is_empty()).then_some(word)
}

pub fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// Whether `word` stands in the code as a word of its own.
pub fn has_word(code: &str, word: &str) -> bool {
    code.match_indices(word).any(|(at, _)| {
        !code[..at].ends_with(is_word) && !code[at + word.len()..].starts_with(is_word)
    })
}

/// A function with a body.
pub struct Function {
    pub name: String,
    /// The line it begins in, counted from 1.
    pub line: usize,
    /// From `fn` to the closing brace.
    pub lines: usize,
    /// Without `self`.
    pub parameters: usize,
}

/// All functions of some code, those within others, too.
pub fn functions(code: &str) -> Vec<Function> {
    let starts = code
        .match_indices("fn ")
        .filter(|(at, _)| !code[..*at].ends_with(is_word));
    starts.filter_map(|(at, _)| function(code, at)).collect()
}

fn function(code: &str, at: usize) -> Option<Function> {
    let name = first_word(&code[at + 3..])?;
    let open = at + code[at..].find('(')?;
    let (parameters, close) = parameters(&code[open + 1..]);
    let behind = open + 1 + close;
    let body = behind + code[behind..].find(['{', ';'])?;
    if code.as_bytes()[body] == b';' {
        return None;
    }
    let mut depth = 0;
    let len = code[body..].find(|c| {
        depth += i32::from(c == '{') - i32::from(c == '}');
        depth == 0
    })?;
    let line = code[..at].matches('\n').count() + 1;
    let lines = code[at..body + len].matches('\n').count() + 1;
    Some(Function {
        name,
        line,
        lines,
        parameters,
    })
}

/// How many parameters there are, less `self`, and where their list ends.
fn parameters(list: &str) -> (usize, usize) {
    let (mut depth, mut count, mut begun) = (0, 0, String::new());
    for (at, c) in list.char_indices() {
        let arrow = list[..at].ends_with('-');
        match c {
            ')' if depth == 0 => {
                let last = usize::from(is_parameter(&begun));
                return (count + last, at);
            }
            '(' | '[' | '<' | '{' => depth += 1,
            '>' if arrow => {}
            ')' | ']' | '>' | '}' => depth -= 1,
            ',' if depth == 0 => {
                count += usize::from(is_parameter(&begun));
                begun.clear();
                continue;
            }
            _ => {}
        }
        begun.push(c);
    }
    (count, list.len())
}

fn is_parameter(text: &str) -> bool {
    let text = text.trim();
    !text.is_empty() && text != "self" && !text.ends_with("&self") && !text.ends_with(" self")
}

/// Names of the types that some code defines.
pub fn types(code: &str) -> Vec<String> {
    let words = ["struct ", "enum ", "trait ", "union "];
    let defined = words.iter().flat_map(|word| {
        let found = code
            .match_indices(word)
            .filter(|(at, _)| !code[..*at].ends_with(is_word));
        found.filter_map(|(at, _)| first_word(&code[at + word.len()..]))
    });
    defined
        .filter(|name| name.starts_with(|c: char| c.is_ascii_uppercase()))
        .collect()
}

/// The module that a file is: `src/a/b.rs` and `src/a/b/mod.rs` are a, b.
pub fn module_path(path: &Path, root: &str) -> Vec<String> {
    let below = path.strip_prefix(root).unwrap().with_extension("");
    let mut parts: Vec<String> = below
        .components()
        .map(|part| part.as_os_str().to_str().unwrap().to_owned())
        .collect();
    parts.pop_if(|last| matches!(last.as_str(), "mod" | "lib" | "main"));
    parts
}

/// Of a module's code: which neighbour, or neighbour of an ancestor, it names, each as the
/// directory, the one of the two in which the module is, and the other.
pub fn arrows(module: &[String], code: &str) -> Vec<(Vec<String>, String, String)> {
    let mut found = Vec::new();
    for at in 0..module.len() {
        let up = vec!["super"; module.len() - at].join("::");
        let down = [&["crate".to_owned()], &module[..at]].concat().join("::");
        let names = named_after(code, &up)
            .into_iter()
            .chain(named_after(code, &down));
        found.extend(names.map(|name| (module[..at].to_vec(), module[at].clone(), name)));
    }
    found
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

#[test]
fn functions_and_arrows_are_found() {
    let code =
        "pub fn one(&mut self, a: Vec<(u8, u8)>, f: impl Fn(u8) -> u8) {\n  two();\n}\nfn no();";
    let found = functions(code);
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].lines, found[0].parameters), (3, 2));
    assert_eq!(types("struct A<T>; enum B {} impl C {}"), ["A", "B"]);
    let module = ["a", "b"].map(str::to_owned);
    let arrows = arrows(
        &module,
        "use super::c; use super::super::d; use crate::a::e::f;",
    );
    let texts: Vec<_> = arrows
        .iter()
        .map(|(dir, from, to)| format!("{} {from}-{to}", dir.join("/")))
        .collect();
    assert_eq!(texts, [" a-d", " a-a", "a b-c", "a b-super", "a b-e"]);
}
