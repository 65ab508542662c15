//! `authorized_peers` as people write it, and as they get it wrong.

use proptest::prelude::*;

use super::*;

/// 2026-12-01T00:00:00Z.
const NOW: i64 = 1_796_083_200;

fn peer(byte: u8) -> Fingerprint {
    Fingerprint([byte; 32])
}

fn rights(policy: &Policy, byte: u8) -> Option<(bool, bool, Option<Vec<u8>>)> {
    let found = policy.access(&peer(byte), Restrict::Nothing, NOW)?;
    Some((found.access.read, found.access.write, found.path))
}

fn parse(text: &str) -> (Policy, Vec<BadLine>) {
    Policy::parse(text.as_bytes())
}

#[test]
fn options_and_comments() {
    let text = format!(
        "# peers\n\n{}\n{} ro\n  {} wo,path=in/box # alice, her laptop = new\r\n{}\tpath=a%20b/./c\trw\n{} #bob ro\n#{} rw\n",
        peer(1),
        peer(2),
        peer(3),
        peer(4),
        peer(5),
        peer(6)
    );
    let (policy, bad) = parse(&text);
    assert_eq!(bad, []);
    assert_eq!(rights(&policy, 1), Some((true, true, None)));
    assert_eq!(rights(&policy, 2), Some((true, false, None)));
    assert_eq!(
        rights(&policy, 3),
        Some((false, true, Some(b"in/box".to_vec())))
    );
    assert_eq!(
        rights(&policy, 4),
        Some((true, true, Some(b"a b/c".to_vec())))
    );
    assert_eq!(
        rights(&policy, 5),
        Some((true, true, None)),
        "after a comment begins, all is comment"
    );
    assert_eq!((rights(&policy, 6), rights(&policy, 9)), (None, None));
}

/// In the clear nobody's files travel whose line does not say so, `--allow` or not.
#[test]
fn only_a_line_lets_files_travel_in_the_clear() {
    let text = format!(
        "{} ro,clear\n{} rw\n{} clear\n{} Clear\n{} clear\n{}\n",
        peer(1),
        peer(2),
        peer(3),
        peer(4),
        peer(5),
        peer(5)
    );
    let (mut policy, bad) = parse(&text);
    let lines: Vec<usize> = bad.iter().map(|bad| bad.line).collect();
    assert_eq!(lines, [4, 6], "{bad:?}");
    let clear = |policy: &Policy, byte| {
        let found = policy.access(&peer(byte), Restrict::Nothing, NOW);
        found.map(|found| found.clear)
    };
    let said = [1, 2, 3, 4, 5].map(|byte| clear(&policy, byte));
    assert_eq!(said, [Some(true), Some(false), Some(true), None, None]);
    [2, 3, 7].iter().for_each(|byte| policy.allow(peer(*byte)));
    let allowed = [2, 3, 7].map(|byte| clear(&policy, byte));
    assert_eq!(allowed, [Some(false), Some(true), Some(false)]);
}

/// What somebody might write who wants to grant less than everything, and what is no option.
const NOT_UNDERSTOOD: &[&str] = &[
    "path:alice",
    "(ro)",
    "no-write",
    "restrict",
    "RO",
    "Ro",
    "r",
    "r/o",
    "readonly",
    "read-only",
    "ro;",
    "ro.",
    "-ro",
    "--read-only",
    "ro:",
    "=ro",
    "ro=yes",
    "ro=",
    "\"ro\"",
    "'ro'",
    "[ro]",
    "laptop",
    "alice@host",
    "path",
    "path =a",
    "Path=a",
    "pth=a",
    "path=",
    "paths=a",
    "path==",
    "subdir=a",
    "//",
    "; ro",
    "ro,",
    ",ro",
    "ro,,wo",
    "ro wo",
    "ro ro",
    "ro,rw",
    "rw wo",
    "ro#comment",
    "ro,#comment",
    "path=a path=a",
    "path=a,path=b",
    "path=..",
    "path=a/../b",
    "path=a/%2e%2e/b",
    "path=/",
    "path=/a",
    "path=%2fa",
    "path=.",
    "path=%zz",
    "path=a%",
    "path=a%0",
    "path=a%00",
    "path=a#b",
    "path=a;ro",
    "path=a:ro",
    "path=(a)",
    "path=\"a\"",
    "path=a\u{a0}ro",
    "\u{a0}ro",
    "ro\u{a0}",
    "r\u{200b}o",
    "r\u{43e}",
    "ro\u{feff}",
    "ro\0",
    "ro\r",
    "\u{b}ro",
    "ro \\",
];

#[test]
fn a_word_that_is_not_understood_authorises_nobody() {
    for word in NOT_UNDERSTOOD {
        let (policy, bad) = parse(&format!("\n{} {word}\n", peer(1)));
        // "ro\r" is the line end of another system.
        if *word == "ro\r" {
            assert_eq!(rights(&policy, 1), Some((true, false, None)));
            continue;
        }
        assert!(policy.is_empty(), "{word:?} lets somebody in");
        assert_eq!(bad.len(), 1, "{word:?}");
        assert!(bad[0].to_string().starts_with("line 2: "), "{}", bad[0]);
    }
}

#[test]
fn a_word_without_end_authorises_nobody() {
    let long = "x".repeat(1 << 20);
    let (policy, bad) = parse(&format!("{} {long}\n{} path={long}\n", peer(1), peer(2)));
    assert!(
        policy.is_empty() && bad.iter().all(|line| line.to_string().len() < 300),
        "{bad:?}"
    );
}

#[test]
fn what_may_have_been_meant_is_said() {
    for (line, said) in [
        ("SHA256:short rw".to_string(), "cut short"),
        (format!("{}= ro", peer(1)), "no = at its end"),
        (format!("{}", peer(1)).to_lowercase(), "capitals"),
        (format!("ro {}", peer(1)), "fingerprint comes first"),
        (format!("\u{feff}{}", peer(1)), "byte order mark"),
        ("ssh-ed25519 AAAA".to_string(), "landro id"),
        ("hello".to_string(), "landro id"),
        (format!("{} (ro)", peer(1)), "meant as ro"),
        (format!("{} no-write", peer(1)), "meant as ro"),
        (format!("{} W", peer(1)), "meant as wo"),
        (format!("{} path:alice", peer(1)), "meant as path=SUB"),
        (format!("{} my laptop", peer(1)), "begins with #"),
        (format!("{} ro,", peer(1)), "comma too many"),
        (format!("{}\rro", peer(1)), "control character"),
    ] {
        let (policy, bad) = parse(&line);
        assert!(policy.is_empty() && bad.len() == 1, "{line}");
        let text = bad[0].to_string();
        assert!(
            text.contains(said) && text.contains("authorises nobody"),
            "{text}"
        );
    }
    let (policy, bad) = Policy::parse(b"\xff\n");
    assert!(policy.is_empty());
    assert_eq!(bad[0].problem, Problem::NotUtf8);
}

#[test]
fn lines_of_one_peer_that_do_not_agree_cancel_each_other() {
    let one = peer(1);
    for text in [
        format!("{one} ro\n{one} rw\n"),
        format!("{one}\n{one} path=a\n"),
        format!("{one} rw\n{one} (ro)\n"),
        format!("{one} (ro)\n{one} rw\n"),
        format!("{one} rw\nro {one}\n"),
        format!("{one} ro\n{one} rw\n{one} ro\n"),
        // The peer is named, whatever is wrong around it.
        format!("{one} rw\n{one};ro\n"),
        format!("{one} rw\n{one}=ro\n"),
        format!("{one} rw\n{one}= ro\n"),
        format!("{one} rw\n\"{one}\" ro\n"),
        format!("{one} rw\n-{one}\n"),
        format!("{one} rw\n{one}\u{a0}ro\n"),
        format!("{one} rw\n{one}\x0bro\n"),
        format!("{one} rw\n\u{feff}{one} ro\n"),
        format!("{one} rw\nsha256:{} ro\n", &one.to_string()[7..]),
        format!("{one} rw\npeer={one} ro\n"),
        // The options slipped onto the next line.
        format!("{one}\n  ro\n"),
        format!("{one}\npath=a # box\n"),
    ] {
        let (policy, bad) = parse(&format!("{text}{} ro\n", peer(2)));
        assert_eq!(
            (rights(&policy, 1), rights(&policy, 2)),
            (None, Some((true, false, None))),
            "{text}"
        );
        assert!(!bad.is_empty(), "{text}");
    }
    let (policy, bad) = parse(&format!("{one} ro # one\n\n{one} ro # two\n"));
    assert_eq!(
        (rights(&policy, 1), bad),
        (Some((true, false, None)), vec![]),
        "twice the same is no harm"
    );
    // What an empty line separates is not the end of a line, and a bad line names its own peer.
    let (policy, bad) = parse(&format!(
        "{one}\n\nro\n{} (ro)\n{} # {one} (ro)\nSHA256:garbage\n",
        peer(2),
        peer(3)
    ));
    assert_eq!((policy.len(), rights(&policy, 2)), (2, None));
    assert_eq!(
        bad.iter()
            .map(|line| (line.line, line.voids))
            .collect::<Vec<_>>(),
        [(3, None), (4, None), (6, None)]
    );
}

#[test]
fn command_line_on_top() {
    let (mut policy, _) = parse(&format!("{} ro,path=x\n", peer(1)));
    policy.allow(peer(1));
    policy.allow(peer(2));
    assert_eq!(rights(&policy, 1), Some((true, true, None)));
    let of = |restrict| {
        policy
            .access(&peer(2), restrict, NOW)
            .map(|a| (a.access.read, a.access.write))
    };
    assert_eq!(of(Restrict::ReadOnly), Some((true, false)));
    assert_eq!(of(Restrict::WriteOnly), Some((false, true)));
}

/// What may follow a fingerprint.
const VALID: [&str; 8] = [
    "",
    " ro",
    " rw",
    " wo",
    " ro,path=box",
    "\tpath=in/box wo",
    " path=box # bob's",
    " path=a%20b,ro # x",
];

fn edited(line: &[u8], edits: &[(usize, u8, u8)]) -> Vec<u8> {
    let mut line = line.to_vec();
    for &(at, how, byte) in edits {
        let at = at % (line.len() + 1);
        match how % 3 {
            0 => line.insert(at, byte),
            1 if at < line.len() => drop(line.remove(at)),
            _ if at < line.len() => line[at] = byte,
            _ => line.push(byte),
        }
    }
    line
}

/// A second reading of the grammar, by whole words: what may a line that consists of these words
/// give at most?
fn words_allow(line: &[u8], read: bool, write: bool, path: &Option<Vec<u8>>) -> bool {
    let line = line
        .split(|b| *b == b'\n')
        .find(|line| line.trim_ascii_start().starts_with(b"SHA256:"))
        .unwrap_or_default();
    let line = String::from_utf8(line.to_vec()).unwrap();
    let words: Vec<&str> = line
        .split([' ', '\t', ',', '\r'])
        .filter(|word| !word.is_empty())
        .collect();
    let said = words
        .iter()
        .skip(1)
        .take_while(|word| !word.starts_with('#'));
    let (mut accesses, mut paths) = (Vec::new(), Vec::new());
    for word in said {
        match *word {
            "ro" | "rw" | "wo" => accesses.push(*word),
            _ if word.starts_with("path=") => paths.push(*word),
            _ => return false,
        }
    }
    let access = match accesses[..] {
        [] | ["rw"] => read && write,
        ["ro"] => read && !write,
        ["wo"] => !read && write,
        _ => false,
    };
    access && paths.len() == usize::from(path.is_some())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20_000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever is typed wrong: nobody is let in, or every word that stands there is an option and
    /// was obeyed.
    #[test]
    fn an_edited_line_gives_what_it_says_or_nothing(
        which in 0..VALID.len(),
        edits in prop::collection::vec((0usize..80, any::<u8>(), prop_oneof![any::<u8>(), prop::sample::select(b"#, \t\r\n=/.%orw-()".to_vec())]), 1..4),
    ) {
        let line = edited(format!("{}{}", peer(1), VALID[which]).as_bytes(), &edits);
        let (policy, _) = Policy::parse(&line);
        if let Some((read, write, path)) = rights(&policy, 1) {
            prop_assert!(words_allow(&line, read, write, &path), "{:?}: {read} {write} {path:?}", String::from_utf8_lossy(&line));
        }
        prop_assert!(policy.len() <= 1);
    }

    #[test]
    fn any_bytes_are_survived(text in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = Policy::parse(&text);
    }
}

#[test]
fn a_peer_may_come_until_its_time_is_over() {
    let text = format!(
        "{} expires=2026-12-02\n{} ro,expires=2026-12-01T00:00:01Z\n{} expires=2026-12-01\n",
        peer(1),
        peer(2),
        peer(3),
    );
    let (policy, bad) = parse(&text);
    assert_eq!(bad, []);
    let at = |byte, now| policy.access(&peer(byte), Restrict::Nothing, now).is_some();
    assert_eq!([1, 2, 3].map(|byte| at(byte, NOW)), [true, true, false]);
    assert_eq!([1, 2].map(|byte| at(byte, NOW + 1)), [true, false]);
    assert!(at(1, NOW + 86_399) && !at(1, NOW + 86_400));
    assert_eq!(policy.next_expiry_unix_s(NOW), Some(NOW + 1));
    assert_eq!(policy.next_expiry_unix_s(NOW + 1), Some(NOW + 86_400));
    assert_eq!(policy.next_expiry_unix_s(NOW + 86_400), None);
}

#[test]
fn what_is_no_time_lets_nobody_in() {
    for (option, words) in [
        ("expires=", "is no time"),
        ("expires=tomorrow", "is no time"),
        ("expires=2026-13-01", "is no time"),
        ("expires=2026-12-01T00:00", "is no time"),
        ("expires=2026-12-01T00:00:00+01:00", "is no time"),
        ("expires=20261201", "is no time"),
        ("expires=1960-01-01", "is no time"),
        (
            "expires=2027-01-01 expires=2027-01-01",
            "more than one expires=",
        ),
        ("expiry=2027-01-01", "may be meant as expires=TIME"),
        ("until=2027-01-01", "may be meant as expires=TIME"),
    ] {
        let (policy, bad) = parse(&format!("{} {option}\n", peer(1)));
        assert_eq!(policy.len(), 0, "{option}");
        assert!(bad[0].to_string().contains(words), "{option}: {}", bad[0]);
    }
}

#[test]
fn lines_are_listed_with_their_comments() {
    let text = format!(
        "# peers\n{} ro # alice, # her laptop \n{} path=a%23b\n{}\n{} xo # bad\n{} #\n{}\n",
        peer(1),
        peer(2),
        peer(2),
        peer(3),
        peer(4),
        peer(1)
    );
    let (policy, _) = parse(&text);
    let lines = policy.lines(text.as_bytes());
    let found: Vec<_> = lines.map(|line| (line.peer, line.comment)).collect();
    assert_eq!(found, [(peer(4), None)], "the others do not agree");
    let text = format!(
        "{} # alice, # her laptop \n{} path=a%23b\n",
        peer(1),
        peer(2)
    );
    let (policy, _) = parse(&text);
    let lines = policy.lines(text.as_bytes());
    let found: Vec<_> = lines.map(|line| (line.peer, line.comment)).collect();
    let expected = [(peer(1), Some("alice, # her laptop")), (peer(2), None)];
    assert_eq!(found, expected);
}
