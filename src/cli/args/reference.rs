//! What the help says beside the options, once for `--help` and the manual pages: exit codes,
//! files, environment, examples.

/// A thing and what it means.
pub type Row = (&'static str, &'static str);

/// How commands end; [`crate::cli::exit::Exit`] has the same numbers.
pub const EXIT_CODES: [Row; 10] = [
    ("0", "all done"),
    (
        "1",
        "other error; nothing was copied, for a source is missing or something is in the way",
    ),
    ("2", "usage"),
    ("3", "partial: some entries failed, the rest is complete"),
    (
        "4",
        "identity unknown, changed or refused, or permission refused by the peer",
    ),
    ("5", "peer unreachable, lost or timed out; a rerun resumes"),
    ("6", "destination full"),
    (
        "7",
        "integrity: what arrived or was read is not what was sent",
    ),
    ("8", "serve was told to stop, and a worker did not"),
    (
        "130, 143",
        "interrupted by SIGINT, SIGTERM; a rerun resumes. (serve, which runs until it is told to \
         stop, ends with 0)",
    ),
];

/// In which directory [`FILES`] are.
pub const CONFIG_DIR: &str =
    "$LANDRO_CONFIG_DIR, else $XDG_CONFIG_HOME/landro, else ~/.config/landro";

/// What is in [`CONFIG_DIR`].
pub const FILES: [Row; 5] = [
    (
        "identity.pem",
        "this user's Ed25519 key on this host, mode 0600, made at first use",
    ),
    (
        "reset.key",
        "random bytes by which a daemon that was restarted tells its clients so, mode 0600",
    ),
    (
        "authorized_peers",
        "who may come in: SHA256:... a line, then options (ro, rw, wo, clear, path=SUB, expires=TIME), then # a \
         comment; read again on SIGHUP",
    ),
    (
        "visits",
        "when each of them came last, and from where; a daemon writes it, landro peers reads it",
    ),
    (
        "known_hosts",
        "daemons met so far: HOST:PORT SHA256:... a line",
    ),
];

/// Files in places of their own.
pub const OTHER_FILES: [Row; 3] = [
    (
        "/etc/landro/landro.toml",
        "options of landro.service, and of every landro serve of root that is given no --config",
    ),
    (
        "/etc/default/landro",
        "the environment of landro.service, which comes before that file",
    ),
    (
        "/var/lib/landro",
        "what landro.service keeps: config (in place of the directory above) and files, which it serves",
    ),
];

/// What commands look at.
pub const ENVIRONMENT: [Row; 8] = [
    (
        "LANDRO_CONFIG_DIR, XDG_CONFIG_HOME",
        "where the first of the files above are; the second counts if it is absolute",
    ),
    (
        "LANDRO_SERVE_...",
        "options of serve: LANDRO_SERVE_READ_ONLY=true, LANDRO_SERVE_LISTEN=\":4433 :4434\". They come \
         behind the command line, and before the file of --config, which LANDRO_SERVE_CONFIG names \
         as well",
    ),
    (
        "LANDRO_LOG",
        "what is logged on standard error: error, warn (the default of commands), info (that of \
         serve), debug or trace, also of a part: landro::quic=trace",
    ),
    (
        "NO_COLOR, TERM",
        "if the first is not empty, or the second is missing or dumb, the log has no colours",
    ),
    (
        "JOURNAL_STREAM",
        "of systemd: if it names what standard error is, serve logs to the journal, with fields",
    ),
    (
        "SSLKEYLOGFILE, QLOGDIR",
        "for packet analysers: the file that TLS secrets are appended to, the directory of qlog \
         files. serve looks at neither and has --keylog and --qlog",
    ),
    (
        "TMPDIR",
        "where that is kept which goes into a pipe once it is proven [default: /tmp]",
    ),
    (
        "NOTIFY_SOCKET, WATCHDOG_USEC",
        "of a service manager, which serve tells that it is ready, stops, and that its workers turn",
    ),
];

const OF_LANDRO: [Row; 3] = [
    (
        "landro id",
        "Who am I? The fingerprint for authorized_peers over there",
    ),
    (
        "landro serve /srv/files --allow SHA256:4hPN...",
        "Serves a directory, to one peer",
    ),
    (
        "landro cp photos movie.mkv landro://server/",
        "Copies there",
    ),
];

const OF_SERVE: [Row; 3] = [
    (
        "landro serve /srv/files",
        "Serves a directory to the peers in authorized_peers",
    ),
    (
        "landro serve /srv/inbox --write-only --listen 192.0.2.1:4434",
        "Takes files on one address and port, and gives none",
    ),
    (
        "landro serve /srv/files --partial-max-age 30d --memory-budget 256M",
        "Removes what nobody went on with for a month, and may hold more in memory",
    ),
];

const OF_CP: [Row; 5] = [
    (
        "landro cp photos movie.mkv landro://server/",
        "Copies there",
    ),
    ("landro cp landro://server/photos .", "And back"),
    (
        "landro cp --fsync --retry 3 --summary /srv/www landro://store/",
        "For cron: waits for the disk and for a daemon that is away, and says one line",
    ),
    (
        "landro cp --bwlimit 40M big.img landro://[2001:db8::1]:4434/images/",
        "At most 40 MiB a second, to an address and a port",
    ),
    (
        "pg_dump db | landro cp /dev/stdin landro://store/db.sql",
        "What a pipe brings",
    ),
];

const OF_LS: [Row; 2] = [
    (
        "landro ls -l landro://server/photos",
        "With types, sizes and times",
    ),
    ("landro ls --partial .", "Unfinished files here, and below"),
];

const OF_CLEAN: [Row; 1] = [(
    "landro clean -n --older-than 12h /srv/files",
    "Says what would be removed",
)];

const OF_BENCH: [Row; 2] = [
    (
        "landro bench --reverse landro://server",
        "How fast the daemon sends to this host",
    ),
    (
        "landro bench --local --latency",
        "Round trips within this host",
    ),
];

const OF_PEERS: [Row; 1] = [(
    "landro peers --of /var/lib/landro/config",
    "Who may come in to the daemon of landro.service, and who came",
)];

const OF_CONFIG: [Row; 2] = [
    (
        "landro config --config /etc/landro/landro.toml",
        "What landro.service is told by this file; /etc/default/landro, its environment, comes before it",
    ),
    (
        "landro config --check -- --workers 4 /srv/files",
        "Whether landro serve would take that",
    ),
];

const OF_ID: [Row; 1] = [(
    "landro id --of /var/lib/landro/config",
    "Who is the daemon of landro.service?",
)];

/// Command lines of a command (`landro` is all of them) and what each does.
pub fn examples(command: &str) -> &'static [Row] {
    match command {
        "serve" => &OF_SERVE,
        "cp" => &OF_CP,
        "ls" => &OF_LS,
        "clean" => &OF_CLEAN,
        "bench" => &OF_BENCH,
        "id" => &OF_ID,
        "peers" => &OF_PEERS,
        "config" => &OF_CONFIG,
        _ => &OF_LANDRO,
    }
}

/// What stands below the options of one command.
pub fn help(command: &str) -> String {
    let lines = examples(command)
        .iter()
        .map(|(line, does)| format!("  {line}\n      {does}"));
    format!("Examples:\n{}", lines.collect::<Vec<_>>().join("\n"))
}

/// What stands below the commands.
pub fn help_of_all() -> String {
    let rows = |rows: &[Row]| {
        let lines = rows
            .iter()
            .map(|(name, means)| format!("  {name}: {means}"));
        lines.collect::<Vec<_>>().join("\n")
    };
    format!(
        "{}\n\nExit codes:\n{}\n\nFiles in {CONFIG_DIR}:\n{}\n\nOther files:\n{}\n\nEnvironment:\n{}",
        help("landro"),
        rows(&EXIT_CODES),
        rows(&FILES),
        rows(&OTHER_FILES),
        rows(&ENVIRONMENT),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::exit::Exit;

    /// A command that was forgotten has those of `landro` itself.
    #[test]
    fn every_command_has_examples_of_its_own() {
        let landro = <crate::cli::args::Arguments as clap::CommandFactory>::command();
        for command in landro.get_subcommands() {
            let name = command.get_name();
            assert_ne!(examples(name), examples("landro"), "{name}");
            let is_of_it = |row: &Row| row.0.contains(&format!("landro {name}"));
            assert!(examples(name).iter().all(is_of_it), "{name}");
        }
    }

    /// Every way to end has its line, and no line is of none.
    #[test]
    fn the_codes_are_those_of_the_process() {
        let told = EXIT_CODES.iter().flat_map(|(codes, _)| codes.split(", "));
        let told: Vec<u8> = told.map(|code| code.parse().unwrap()).collect();
        let ends = [
            Exit::Done,
            Exit::Error,
            Exit::Usage,
            Exit::Partial,
            Exit::Identity,
            Exit::Unreachable,
            Exit::Full,
            Exit::Integrity,
            Exit::Stuck,
            Exit::Interrupted,
            Exit::Terminated,
        ];
        assert_eq!(told, ends.map(Exit::code));
    }
}
