//! What people type from habit of scp, rsync and cp: what landro has in its place.

use std::ffi::OsString;

use clap::error::{ContextKind, ContextValue, ErrorKind};

/// An option of other programs, and what to do here.
struct Habit {
    options: &'static [&'static str],
    instead: &'static str,
}

const fn habit(options: &'static [&'static str], instead: &'static str) -> Habit {
    Habit { options, instead }
}

/// For a command line that one of several programs would take, the answer speaks of each.
const OF_CP: &[Habit] = &[
    habit(
        &["-n", "--dry-run", "--no-clobber"],
        "there is neither a dry run (rsync -n) nor a copy of missing names only (cp -n): what a \
         copy would do is found out by doing it; landro ls -l shows what is there",
    ),
    habit(
        &[
            "-z",
            "-C",
            "--compress",
            "--compress-level",
            "--compress-choice",
            "--skip-compress",
        ],
        "nothing is compressed on the way (scp -C, rsync -z), and what is unfinished is continued \
         by itself (curl -C): leave it out",
    ),
    habit(
        &[
            "--delete",
            "--delete-after",
            "--delete-before",
            "--delete-during",
            "--del",
            "--delete-excluded",
            "--delete-delay",
            "--max-delete",
            "--remove-destination",
            "-m",
            "--prune-empty-dirs",
        ],
        "nothing is ever deleted at the destination: leave it out, and remove there what is \
         superfluous",
    ),
    habit(
        &[
            "-u",
            "--update",
            "--existing",
            "--ignore-existing",
            "--size-only",
            "--modify-window",
            "-@",
        ],
        "files whose size and time of modification match are skipped anyway, all others at the \
         destination are replaced, newer ones, too: leave it out, or name the files to copy",
    ),
    habit(
        &[
            "--progress",
            "--info",
            "-h",
            "--human-readable",
            "--itemize-changes",
            "--out-format",
            "--log-file",
            "--log-format",
            "--debug",
            "--progress-bar",
            "-#",
        ],
        "progress is shown on a terminal without being asked for; -v prints each file, --summary \
         one line at the end, --json tells all to programs",
    ),
    habit(
        &[
            "--partial",
            "--partial-dir",
            "--append",
            "--append-verify",
            "--inplace",
            "--continue-at",
            "--delay-updates",
            "--temp-dir",
        ],
        "what is unfinished is kept and continued by the same command without being asked for: \
         leave it out",
    ),
    habit(
        &["-l", "--links", "--link"],
        "symlinks are copied as symlinks without being asked for (rsync -l), a limit (scp -l) is \
         --bwlimit, and hard links (cp -l) are not made: leave it out",
    ),
    habit(
        &[
            "-L",
            "--copy-links",
            "-k",
            "--copy-dirlinks",
            "--dereference",
            "--copy-unsafe-links",
            "--safe-links",
            "--munge-links",
        ],
        "symlinks inside a directory are copied as symlinks, never followed: name what they lead \
         to as a source of its own",
    ),
    habit(
        &["-K"],
        "the short form is not taken: write --keep-dirlinks",
    ),
    habit(
        &["-c", "--checksum", "-I", "--ignore-times"],
        "every byte that is sent is verified by BLAKE3; --force sends what looks the same, too",
    ),
    habit(
        &["-f"],
        "a file in the way is replaced anyway; --force, in full, sends what looks the same, too",
    ),
    habit(
        &["-i", "--interactive"],
        "nothing is asked before a file is replaced, and there is no key to name (scp -i): this \
         host's is the one that landro id prints",
    ),
    habit(
        &[
            "-e",
            "--rsh",
            "-F",
            "-J",
            "-o",
            "-O",
            "-4",
            "-6",
            "--ipv4",
            "--ipv6",
            "--rsync-path",
            "--output",
            "--password-file",
            "--no-motd",
        ],
        "no ssh is involved: landro serve runs on the other host; a port is written in the URL, \
         landro://HOST:PORT/PATH",
    ),
    habit(
        // Of scp's -P22 clap sees -P, which there is, and then -2.
        &["--port", "-0", "-1", "-2", "-3", "-5", "-7", "-8", "-9"],
        "a port is written in the URL, landro://HOST:PORT/PATH; -P copies a symlink as a symlink",
    ),
    habit(
        &[
            "-g",
            "--owner",
            "--group",
            "--chown",
            "-A",
            "--acls",
            "-X",
            "--xattrs",
            "-H",
            "--hard-links",
            "-D",
            "--devices",
            "--specials",
            "--numeric-ids",
            "--no-owner",
            "--no-group",
            "--super",
            "--fake-super",
            "--copy-devices",
            "-Z",
            "--context",
        ],
        "owners, ACLs, extended attributes, hard links and devices are not copied: leave it out",
    ),
    habit(
        &["-t", "--target-directory"],
        "the destination stands at the end (cp -t has it in front); times are kept without being \
         asked for (rsync -t)",
    ),
    habit(
        &[
            "--times",
            "-E",
            "--executability",
            "--preserve",
            "--chmod",
            "-U",
            "--atimes",
            "-N",
            "--crtimes",
            "--omit-dir-times",
            "--no-links",
        ],
        "modes and times of modification are kept as they are without being asked for, and \
         nothing else is: leave it out (--no-perms, --no-times)",
    ),
    habit(
        &["-S", "--sparse", "--reflink"],
        "holes stay holes, and a local copy shares blocks where the file system can, without \
         being asked for: leave it out",
    ),
    habit(
        &[
            "--exclude",
            "--include",
            "--filter",
            "--files-from",
            "--exclude-from",
            "-x",
            "--one-file-system",
            "--max-size",
            "--min-size",
            "--include-from",
            "--cvs-exclude",
        ],
        "nothing is filtered, and what is mounted below a directory is copied with it: name the \
         files and directories to copy",
    ),
    habit(
        &["-d", "--dirs", "--no-recursive"],
        "directories are copied whole (rsync -d does not); symlinks in them are copied as symlinks, \
         and with -P those that are named, too (cp -d)",
    ),
    habit(
        &[
            "--parents",
            "--relative",
            "--mkpath",
            "--no-implied-dirs",
            "--strip-trailing-slashes",
        ],
        "no part of a source's path is made at the destination but its last: make the directories \
         first, and name the last one as the destination",
    ),
    habit(
        &["-s", "--symbolic-link", "--protect-args", "--silent"],
        "no symlinks are made (cp -s), names need no protection (rsync -s), and --quiet prints \
         errors only (curl -s)",
    ),
    habit(
        &[
            "-b",
            "--backup",
            "--suffix",
            "--backup-dir",
            "--link-dest",
            "--copy-dest",
            "--compare-dest",
        ],
        "no earlier version is kept: copy into a new directory",
    ),
    habit(
        &["--remove-source-files"],
        "sources are never removed: remove them after exit code 0",
    ),
    habit(
        &[
            "-B",
            "-W",
            "--whole-file",
            "--no-whole-file",
            "--block-size",
            "-y",
            "--fuzzy",
        ],
        "a file that differs is sent whole, an unfinished one continued: leave it out",
    ),
    habit(
        &["--no-preserve", "--attributes-only", "--copy-contents"],
        "contents are copied always, owners never; --no-perms and --no-times leave modes and \
         times alone",
    ),
    habit(
        &["-w", "--rate", "--limit", "--limit-rate", "--max-speed"],
        "the limit is --bwlimit, in bytes per second: --bwlimit 40M",
    ),
    habit(
        &[
            "-j",
            "--jobs",
            "--threads",
            "--parallel",
            "--transfers",
            "--checkers",
        ],
        "how much is under way at a time follows what the network carries: leave it out \
         (--streams bounds it)",
    ),
    habit(
        &[
            "--contimeout",
            "--connect-timeout",
            "--max-time",
            "--stop-after",
        ],
        "an address that does not answer is given up after 10 s; --timeout ends what does not get \
         on, and --retry tries again",
    ),
    habit(
        &["--list-only"],
        "landro ls landro://HOST/PATH lists a directory",
    ),
    habit(
        &["--insecure", "--trust", "--yes"],
        "a daemon never seen before is trusted by --peer SHA256:..., or by --accept-new",
    ),
    habit(
        &["--sync"],
        "--fsync waits until the destination's disk has everything",
    ),
];

const OF_SERVE: &[Habit] = &[
    habit(
        &["-p", "--port", "--bind", "--address", "--host", "-b", "-l"],
        "where to listen is --listen: --listen :4433, --listen 192.0.2.1, --listen [::1]:4433",
    ),
    habit(
        &["-d", "--daemon", "--detach", "-D", "--background"],
        "it stays in the foreground, as service managers want it: landro.service is a \
         unit for systemd",
    ),
    habit(
        &["--path", "--root", "--dir", "--directory"],
        "the directory is an argument: landro serve /srv/files",
    ),
    habit(
        &[
            "--user",
            "--password",
            "--auth",
            "--token",
            "--key",
            "--cert",
        ],
        "peers are known by their keys: a line of authorized_peers, or --allow SHA256:...",
    ),
    habit(
        &["-v", "--verbose", "--log-level", "--log"],
        "the log goes to standard error; LANDRO_LOG=debug logs more",
    ),
];

const OF_LS: &[Habit] = &[
    habit(
        &["-h", "--human-readable"],
        "sizes are in bytes; leave it out",
    ),
    habit(
        &["-R", "--recursive", "-r"],
        "one directory is listed at a time",
    ),
    habit(
        &["-t", "-S", "--sort", "-X", "-c", "-u", "-U"],
        "rows are sorted by name; landro ls --json gives size and time to sort by",
    ),
    habit(
        &["-A", "--almost-all"],
        "write -a: names that begin with a dot are then listed",
    ),
    habit(
        &["-1", "-C", "-x", "-m", "--color", "-F", "-p", "--classify"],
        "each name has a line of its own, without colour: leave it out",
    ),
    habit(
        &["-d", "--directory"],
        "a directory is listed, and not told of: list the one that it lies in",
    ),
    habit(
        &["-n", "-g", "-o", "-i", "-G", "-s"],
        "no owner, group, inode or block is told: -l has mode, size and time of modification",
    ),
    habit(
        &["-v", "--verbose"],
        "-l tells more of each entry; LANDRO_LOG=debug logs what goes on",
    ),
];

const OF_ID: &[Habit] = &[
    habit(
        &["--json", "-q", "--quiet"],
        "the fingerprint alone is on standard output: leave it out",
    ),
    habit(
        &["-f", "--file", "--dir", "--config", "-l"],
        "the directory whose identity is told is named by --of DIR",
    ),
];

/// Commands that there are elsewhere.
const COMMANDS: &[Habit] = &[
    habit(
        &[
            "sync", "rsync", "scp", "copy", "put", "get", "push", "pull", "send", "recv",
            "receive", "upload", "download", "sftp", "rcp",
        ],
        "landro cp SRC... DST copies in either direction, a trailing / of DST means into it",
    ),
    habit(
        &["mv", "rm", "mkdir", "delete", "remove", "move"],
        "nothing is removed, renamed or made over there but by copying: landro cp SRC... DST",
    ),
    habit(
        &["dir", "list"],
        "landro ls landro://HOST/PATH lists a directory",
    ),
    habit(
        &["daemon", "server", "server-start", "listen", "start"],
        "landro serve DIR serves a directory",
    ),
    habit(
        &["keygen", "key", "whoami", "fingerprint", "identity"],
        "landro id prints this user's fingerprint, and makes its key at first use",
    ),
];

/// The word on an option that does not exist, if it is somebody's habit.
fn instead(command: &str, option: &str) -> Option<&'static str> {
    let habits = match command {
        "cp" => OF_CP,
        "serve" => OF_SERVE,
        "ls" => OF_LS,
        "id" => OF_ID,
        _ => return None,
    };
    // `--port=22` is said of `--port`.
    let name = option.split('=').next().unwrap_or(option);
    let found = habits.iter().find(|habit| habit.options.contains(&name));
    found.map(|habit| habit.instead)
}

/// What a usage error is in one sentence, where clap can only say that it does not know an option.
/// None: clap's own text is the best there is.
pub fn in_words(error: &clap::Error, words: impl Iterator<Item = OsString>) -> Option<String> {
    if error.kind() == ErrorKind::InvalidSubcommand
        && let Some(ContextValue::String(command)) = error.get(ContextKind::InvalidSubcommand)
    {
        let found = COMMANDS
            .iter()
            .find(|habit| habit.options.contains(&&command[..]))?;
        return Some(format!(
            "landro: there is no landro {command}: {}",
            found.instead
        ));
    }
    if error.kind() != ErrorKind::UnknownArgument {
        return None;
    }
    let Some(ContextValue::String(option)) = error.get(ContextKind::InvalidArg) else {
        return None;
    };
    let command = words.skip(1).find_map(|word| {
        word.into_string()
            .ok()
            .filter(|word| !word.starts_with('-'))
    })?;
    let instead = instead(&command, option)?;
    let name = option.split('=').next().unwrap_or(option);
    Some(format!(
        "landro: {command} has no {name}: {instead} (landro {command} --help has what there is)"
    ))
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;
    use crate::cli::args::Arguments;

    fn said(line: &str) -> Option<String> {
        let words = || line.split_whitespace().map(OsString::from);
        let error = Arguments::try_parse_from(words()).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{line}");
        in_words(&error, words())
    }

    #[test]
    fn habits_are_answered() {
        for (line, words) in [
            ("landro cp -rpz a b", "-z: nothing is compressed"),
            ("landro cp --delete a b", "nothing is ever deleted"),
            ("landro cp a -n b", "neither a dry run"),
            ("landro cp -t dir a", "the destination stands at the end"),
            ("landro cp --target-directory=d a", "stands at the end"),
            (
                "landro cp --exclude=*.o a b",
                "--exclude: nothing is filtered",
            ),
            ("landro cp -d a b", "with -P those that are named"),
            ("landro cp -P22 a b", "a port is written in the URL"),
            ("landro cp --ignore-existing a b", "skipped anyway"),
            ("landro cp --parents a/b c", "make the directories first"),
            ("landro ls -d landro://h/", "list the one that it lies in"),
            ("landro id --json", "leave it out"),
            ("landro serve -p 99 /srv", "--listen :4433"),
            ("landro ls -R landro://h/", "one directory"),
            ("landro sync a landro://h/", "landro cp SRC... DST"),
            ("landro rm landro://h/x", "nothing is removed"),
        ] {
            let said = said(line).unwrap_or_else(|| panic!("{line}: clap's own"));
            assert!(said.contains(words), "{line}: {said}");
        }
        assert_eq!(said("landro cp --no-such-option a b"), None);
        assert_eq!(said("landro frobnicate"), None);
    }

    /// An answer that stands for an option which exists is never given, and one that stands twice
    /// only the first time.
    #[test]
    fn habits_are_no_options_and_are_answered_once() {
        let root = Arguments::command();
        for name in COMMANDS.iter().flat_map(|habit| habit.options) {
            assert!(root.find_subcommand(name).is_none(), "{name} exists");
        }
        for (command, habits) in [
            ("cp", OF_CP),
            ("serve", OF_SERVE),
            ("ls", OF_LS),
            ("id", OF_ID),
        ] {
            let known = root.find_subcommand(command).unwrap();
            let mut seen = std::collections::HashSet::new();
            for option in habits.iter().flat_map(|habit| habit.options) {
                assert!(seen.insert(option), "{command} {option} stands twice");
                let exists = known.get_arguments().any(|arg| {
                    let short = arg.get_short().map(|short| format!("-{short}"));
                    let long = arg.get_long().map(|long| format!("--{long}"));
                    [short, long]
                        .into_iter()
                        .flatten()
                        .any(|name| name == *option)
                });
                assert!(!exists, "{command} {option} exists");
            }
        }
    }
}
