//! Lines for people, on stderr: in the characters that their locale has.

use std::borrow::Cow;
use std::env;
use std::fmt::Write as _;
use std::io::{self, Write};
use std::sync::LazyLock;

/// What setlocale(3) looks at for LC_CTYPE, the first one that is set and not empty; without any it
/// is the POSIX locale, which is ASCII.
static SPEAKS_UTF8: LazyLock<bool> = LazyLock::new(|| {
    let set = ["LC_ALL", "LC_CTYPE", "LANG"]
        .into_iter()
        .filter_map(env::var_os)
        .find(|value| !value.is_empty());
    set.is_some_and(|locale| is_utf8(&locale.to_string_lossy()))
});

/// Whether what is beyond ASCII may be shown here.
pub fn speaks_utf8() -> bool {
    *SPEAKS_UTF8
}

fn is_utf8(locale: &str) -> bool {
    let charset = locale.split_once('.').map_or("", |(_, charset)| charset);
    let charset = charset.split('@').next().unwrap_or_default();
    charset.eq_ignore_ascii_case("utf-8") || charset.eq_ignore_ascii_case("utf8")
}

/// A line of `landro:` on stderr.
pub fn say(line: &str) {
    // Nobody is left to be told that stderr is gone.
    let _ = writeln!(std::io::stderr().lock(), "{}", in_locale(line));
}

/// Without the numbers of errors, which say nothing to most.
pub fn without_numbers(text: &str) -> String {
    const BEFORE: &str = " (os error ";
    let mut words = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(BEFORE) {
        let after = &rest[at + BEFORE.len()..];
        let digits = after.bytes().take_while(u8::is_ascii_digit).count();
        match after[digits..].strip_prefix(')') {
            Some(behind) if digits > 0 => {
                words.push_str(&rest[..at]);
                rest = behind;
            }
            _ => {
                words.push_str(&rest[..at + BEFORE.len()]);
                rest = after;
            }
        }
    }
    words.push_str(rest);
    words
}

/// What getaddrinfo(3) said, without what Rust puts before it.
pub fn of_resolver(error: &io::Error) -> String {
    let text = error.to_string();
    match text.strip_prefix("failed to lookup address information: ") {
        Some(words) => words.to_owned(),
        None => text,
    }
}

/// As it may be shown here.
pub fn in_locale(text: &str) -> Cow<'_, str> {
    match speaks_utf8() {
        true => Cow::Borrowed(text),
        false => in_ascii(text),
    }
}

/// Characters beyond ASCII as `ls -b` shows them in the POSIX locale.
fn in_ascii(text: &str) -> Cow<'_, str> {
    if text.is_ascii() {
        return Cow::Borrowed(text);
    }
    let mut ascii = String::with_capacity(text.len() * 2);
    for c in text.chars() {
        if c.is_ascii() {
            ascii.push(c);
            continue;
        }
        for byte in c.encode_utf8(&mut [0; 4]).bytes() {
            // Writing to a String cannot fail.
            let _ = write!(ascii, "\\{byte:03o}");
        }
    }
    Cow::Owned(ascii)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locales_that_speak_utf8() {
        for locale in ["de_DE.UTF-8", "C.utf8", "en_US.UTF-8@euro"] {
            assert!(is_utf8(locale), "{locale}");
        }
        for locale in ["C", "POSIX", "de_DE.ISO-8859-1", "de_DE@euro", "utf8"] {
            assert!(!is_utf8(locale), "{locale}");
        }
    }

    #[test]
    fn numbers_of_errors_are_left_out() {
        for (text, words) in [
            ("x: Denied (os error 13); y", "x: Denied; y"),
            ("a (os error 1) b (os error 2)", "a b"),
            ("a (os error x) (os error 3", "a (os error x) (os error 3"),
        ] {
            assert_eq!(without_numbers(text), words);
        }
    }

    #[test]
    fn other_locales_get_ascii() {
        assert_eq!(in_ascii("a\u{e4}b"), "a\\303\\244b");
        assert_eq!(in_ascii("plain"), "plain");
    }
}
