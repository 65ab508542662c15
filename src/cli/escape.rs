//! Names and peers' texts made safe to print: nothing a terminal would act on gets through.

/// A file name as `ls -b` prints it: control, invisible and non-UTF-8 bytes as `\n`, `\033`,
/// `\302`...; a backslash as `\\`, so that two different names never look the same.
pub fn name(bytes: &[u8]) -> String {
    escape(bytes, true)
}

/// A text that may quote names or come from the peer. Like [`name`], but backslashes stay as they
/// are (the text may hold names that were escaped already).
pub fn text(text: &str) -> String {
    escape(text.as_bytes(), false)
}

/// A word as a shell takes it back: as it is, in quotes, or with what a terminal would act on, or
/// what is no UTF-8, as `$'\033'` (bash, zsh, ksh, and POSIX since 2024). Where the locale has no
/// characters beyond ASCII, so have they: shown as elsewhere they would be another word.
pub fn shell(word: &[u8], in_utf8: bool) -> String {
    let is_safe = |byte: &u8| byte.is_ascii_alphanumeric() || b"%+,-./:=@_".contains(byte);
    let shown = std::str::from_utf8(word).ok();
    let is_shown = |c: char| !acts_on_terminal(c) && (in_utf8 || c.is_ascii());
    match shown.filter(|word| word.chars().all(is_shown)) {
        Some(plain) if !plain.is_empty() && word.iter().all(is_safe) => plain.to_owned(),
        Some(quoted) => format!("'{}'", quoted.replace('\'', "'\\''")),
        None => {
            let octal = |byte: &u8| match is_safe(byte) {
                true => char::from(*byte).to_string(),
                false => format!("\\{byte:03o}"),
            };
            format!("$'{}'", word.iter().map(octal).collect::<String>())
        }
    }
}

fn escape(bytes: &[u8], double_backslash: bool) -> String {
    let mut out = String::with_capacity(bytes.len());
    for part in bytes.utf8_chunks() {
        for c in part.valid().chars() {
            if c == '\\' && double_backslash {
                out.push_str("\\\\");
            } else if acts_on_terminal(c) {
                c.encode_utf8(&mut [0; 4])
                    .bytes()
                    .for_each(|byte| push_byte(&mut out, byte));
            } else {
                out.push(c);
            }
        }
        part.invalid()
            .iter()
            .for_each(|&byte| push_byte(&mut out, byte));
    }
    out
}

fn push_byte(out: &mut String, byte: u8) {
    match byte {
        b'\n' => out.push_str("\\n"),
        b'\t' => out.push_str("\\t"),
        b'\r' => out.push_str("\\r"),
        _ => {
            out.push('\\');
            for shift in [6, 3, 0] {
                out.push(char::from(b'0' + (byte >> shift & 7)));
            }
        }
    }
}

/// Characters that move the cursor, start an escape sequence (C0, DEL, C1), or change how their
/// neighbours look: line separators, zero-width characters, bidirectional overrides, tags.
pub fn acts_on_terminal(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_names_stay() {
        assert_eq!(name(b"a b-c.txt"), "a b-c.txt");
        assert_eq!(name("größe 漢字".as_bytes()), "größe 漢字");
    }

    #[test]
    fn what_a_terminal_would_act_on_does_not_get_through() {
        assert_eq!(name(b"a\nb\tc\rd"), "a\\nb\\tc\\rd");
        assert_eq!(name(b"\x1b[31mred"), "\\033[31mred");
        assert_eq!(name(b"\x7f\x00"), "\\177\\000");
        assert_eq!(name("\u{9b}2J".as_bytes()), "\\302\\2332J");
        assert_eq!(
            name("a\u{202e}gpj.exe".as_bytes()),
            "a\\342\\200\\256gpj.exe"
        );
        assert_eq!(name(b"\xff\xfe"), "\\377\\376");
    }

    #[test]
    fn different_names_never_look_the_same() {
        assert_eq!(name(b"a\\n"), "a\\\\n");
        assert_ne!(name(b"a\\n"), name(b"a\n"));
        assert_eq!(text("a\\n\nb"), "a\\n\\nb");
    }

    #[test]
    fn a_shell_takes_its_words_back() {
        for (word, in_utf8, quoted) in [
            (&b"landro://h:4433/a%20b"[..], true, "landro://h:4433/a%20b"),
            (b"", true, "''"),
            (b"a b", true, "'a b'"),
            (b"it's", true, "'it'\\''s'"),
            (b"landro://[::1]/$x", true, "'landro://[::1]/$x'"),
            (b"~", true, "'~'"),
            (b"a\n\xff'", true, "$'a\\012\\377\\047'"),
            ("é".as_bytes(), true, "'é'"),
            ("é".as_bytes(), false, "$'\\303\\251'"),
        ] {
            assert_eq!(shell(word, in_utf8), quoted);
            let printed = std::process::Command::new("bash")
                .args(["-c", &format!("printf %s {quoted}")])
                .output();
            assert!(
                printed.is_ok_and(|printed| printed.stdout == word),
                "{quoted}"
            );
        }
    }
}
