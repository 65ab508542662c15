//! The command line as typed: options, their units and defaults. Nothing is opened or resolved
//! here.

pub mod habits;
pub mod listen;
pub mod reference;
pub mod route;
pub mod url;

use std::ffi::OsString;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::builder::{RangedI64ValueParser, RangedU64ValueParser};
use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};
use landro_sys::Bind;

use crate::budget::MIN_MEMORY_BUDGET_BYTES;
use crate::cli::escape;
use crate::config::{BBR_SAFE_INITIAL_RTT, LaneCount, LaneKinds, QuicConfig};
use crate::daemon::metrics::MetricsAddress;
use crate::engine::{BackendChoice, DEFAULT_STREAMS, Persistence};
use crate::ids::Fingerprint;
use crate::proto::bench::MAX_BENCH;
use crate::proto::session::PATIENCE;
use crate::proto::wire::MAX_ECHO_BYTES;
use listen::Listen;
use route::RouteError;

/// Moves files between Linux hosts over QUIC and TLS, on io_uring.
#[derive(Parser, Debug)]
#[command(name = "landro", version, max_term_width = 100)]
#[command(after_help = reference::help_of_all())]
// An alias of a shell may say an option that the command line says again.
#[command(args_override_self = true)]
pub struct Arguments {
    #[command(subcommand)]
    pub command: CliCommand,
}

#[derive(Subcommand, Debug)]
pub enum CliCommand {
    /// Serves a directory to the peers listed in authorized_peers
    Serve(ServeArgs),
    /// Copies files and directories to or from a daemon, or locally
    Cp(CpArgs),
    /// Lists a directory of a daemon, or shows one file
    Ls(LsArgs),
    /// Removes unfinished files that nobody went on with for long, from a local directory and all
    /// below it
    Clean(CleanArgs),
    /// Measures the network and the engine between memory and memory, with a daemon or on this host
    /// alone
    Bench(BenchArgs),
    /// Prints this user's fingerprint on this host; makes its identity at first use, and says so
    Id(IdArgs),
    /// Lists who may come in, and when each came last
    Peers(PeersArgs),
    /// Shows what landro serve would be told, and by whom: the command line, the environment, the
    /// configuration file, or nobody
    Config(ConfigArgs),
}

/// How the log is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    #[default]
    Auto,
    Text,
    Json,
    Journald,
}

#[derive(Args, Debug)]
#[command(after_help = reference::help("serve"))]
pub struct ServeArgs {
    /// Directory to serve; paths in URLs are relative to it
    #[arg(default_value = ".", value_hint = ValueHint::DirPath)]
    pub root: PathBuf,
    /// Reads options from this file too, which the command line and the environment
    /// (LANDRO_SERVE_READ_ONLY=true) come before: TOML, listen = [":4433"], read-only = true;
    /// /dev/null is none [default: for root /etc/landro/landro.toml, if it is there]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub config: Option<PathBuf>,
    /// Where to listen, repeatable: ADDR or ADDR:PORT (port 4433 unless it is said; 0 takes a free
    /// one), :PORT on all addresses, a host name, IPv6 as ::1, [::1]:PORT or [fe80::1%eth0]:PORT
    /// [default: :4433]
    #[arg(long, value_name = "ADDR", value_parser = Listen::parse)]
    pub listen: Vec<Listen>,
    /// Lets this peer in, in addition to authorized_peers and whatever is said of it there, but not
    /// in the clear; repeatable [default: nobody besides]
    #[arg(long, value_name = "FINGERPRINT")]
    pub allow: Vec<Fingerprint>,
    /// Nobody may write, whatever authorized_peers says
    #[arg(long, conflicts_with = "write_only")]
    pub read_only: bool,
    /// Nobody may read or list, whatever authorized_peers says
    #[arg(long)]
    pub write_only: bool,
    /// Lets peers whose line in authorized_peers has the option clear have lanes without TLS, on
    /// wires that are trusted: whoever is on them reads their files, and cannot change them
    /// unnoticed
    #[arg(long)]
    pub allow_clear: bool,
    /// Appends the TLS secrets of authenticated connections to this file, for packet analysers:
    /// whoever reads it reads what they carry [default: none are written]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub keylog: Option<PathBuf>,
    /// Writes a qlog file per authenticated connection into this directory [default: none are
    /// written]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub qlog: Option<PathBuf>,
    /// Worker threads, each on its own core [default: one per core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=255))]
    pub workers: Option<u8>,
    #[command(flatten)]
    pub engine: EngineArgs,
    /// Removes unfinished files that nothing was written to for so long (30d, 12h), and looks for
    /// them every hour [default: they stay]
    #[arg(long, value_name = "AGE", value_parser = age)]
    pub partial_max_age: Option<Duration>,
    /// Remembers the digests of files above 64 KiB that were sent whole, in this directory, one for
    /// each daemon: such a file is hashed once as long as it does not change, however many fetch it
    /// without --clear [default: each hashes it anew]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub digest_cache: Option<PathBuf>,
    /// How the log on stderr is written: as text, one JSON object a line, fields of the journal
    /// (systemd.journal-fields(7), LANDRO_PEER= and so on), or auto: journald where the service
    /// manager has connected stderr to the journal, else text
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    pub log_format: LogFormat,
    /// Tells metrics there to whoever asks, as Prometheus does, over HTTP (/metrics), without
    /// encryption: on an address that only those reach who may know (127.0.0.1:9464), or on a
    /// socket that only this user may open (docs/monitoring.md) [default: nowhere]
    #[arg(long, value_name = "ADDR:PORT|unix:PATH")]
    pub metrics: Option<MetricsAddress>,
    /// Most memory for transfers; suffixes as in --bwlimit [default: 64M]
    #[arg(long, value_name = "BYTES", value_parser = memory_budget)]
    pub memory_budget: Option<u64>,
}

#[derive(Args, Debug)]
#[command(override_usage = "landro cp [OPTIONS] SRC... DST")]
#[command(after_help = reference::help("cp"))]
pub struct CpArgs {
    /// What to copy, and where to. SRC: local paths, or landro://HOST[:PORT]/PATH all on one host;
    /// of one that ends in /. the content. DST: an existing directory or a name ending in / takes
    /// the sources under their own names; else it is the one source's new name. A local name with a
    /// colon before its first slash is written ./NAME. Options may stand anywhere before --
    // In one list: clap knows no options between the values of one positional and the next.
    #[arg(required = true, value_name = "SRC... DST", value_hint = ValueHint::AnyPath)]
    pub places: Vec<OsString>,
    #[command(flatten)]
    pub trust: TrustArgs,
    #[command(flatten)]
    pub from: BindArgs,
    /// Sends files again whose size and time of modification already match
    #[arg(long)]
    pub force: bool,
    /// Copies directories whole: that is what is done without it, too
    #[arg(long, short, visible_short_alias = 'R')]
    pub recursive: bool,
    /// What -a of rsync and cp means, as far as it goes: directories whole, symlinks as symlinks,
    /// modes (as with -p) and times. Owners, ACLs, extended attributes, hard links and devices are
    /// not kept, which a warning says
    #[arg(long, short)]
    pub archive: bool,
    /// Waits until the destination's disk has everything
    #[arg(long)]
    pub fsync: bool,
    /// Takes a symlink to a directory at the destination for that directory; otherwise it is an
    /// error of the directory that is to be there. Only links that this user or root made on that
    /// host are followed, never copied ones (nor ones restored from a backup), on a daemon never
    /// out of its root. Whoever you copy from decides what is written, and which modes are set,
    /// where your links lead
    #[arg(long)]
    pub keep_dirlinks: bool,
    /// DST is the one source's new name, even if a directory is there, which the source's content
    /// then goes into
    #[arg(long, short = 'T')]
    pub no_target_directory: bool,
    /// Copies a symlink among the sources as a symlink, as -a does; otherwise a source is what it
    /// leads to. Symlinks below the sources are always copied as symlinks
    #[arg(long, short = 'P')]
    pub no_dereference: bool,
    /// Fails a file that grows while it is read (a log, the image of a running machine); otherwise
    /// what it held at first is copied, and said in a warning
    #[arg(long)]
    pub no_growing: bool,
    /// Gives directories that are there already the modes of their sources, too; new ones, and
    /// files, get them in any case
    #[arg(long, short, conflicts_with = "no_perms")]
    pub perms: bool,
    /// Sets no modes: files and directories that are made have what the umask over there leaves
    /// them
    #[arg(long)]
    pub no_perms: bool,
    /// Sets no times; a later run then takes a file of the same size for the same unless the source
    /// is younger
    #[arg(long)]
    pub no_times: bool,
    /// Takes warnings (modes or times that could not be set, sockets left out) for failures: exit
    /// code 3
    #[arg(long)]
    pub strict: bool,
    /// Prints one JSON object per event on stdout
    #[arg(long)]
    pub json: bool,
    /// Prints errors only: no progress, no warnings, no summary
    #[arg(long, short)]
    pub quiet: bool,
    /// Prints each file and symlink that was copied, a line each on stdout, and with errors the
    /// system call that failed
    #[arg(long, short, conflicts_with = "quiet")]
    pub verbose: bool,
    /// Prints one line at the end on stdout: files, bytes, seconds, rate, what failed. On a
    /// terminal it is printed anyway, on stderr. With --json there is one in any case
    #[arg(long)]
    pub summary: bool,
    /// Adds transport, CPU and memory figures to the summary
    #[arg(long)]
    pub stats: bool,
    #[command(flatten)]
    pub engine: EngineArgs,
    /// Most data streams of the transfer; how many are used follows the measured goodput
    #[arg(long, value_name = "N", default_value_t = DEFAULT_STREAMS, value_parser = streams())]
    pub streams: u8,
    /// How many lanes over TCP carry the bulk together: 1 to 16; auto is one. More help where a
    /// core is the limit and both sides have several, or where each lane has a limit of its own;
    /// none help where the wire is the limit
    #[arg(long, value_name = "N|auto", default_value_t, value_parser = LaneCount::from_str)]
    pub lanes: LaneCount,
    /// Threads that have these lanes [default: with --lanes above 1 as many, up to one per core;
    /// with --clear one, which has those in the clear in any case; several --bind have all on one]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=255))]
    pub workers: Option<u8>,
    /// Has those lanes do without TLS, if the daemon lets this host (serve --allow-clear): the bulk
    /// is then read by whoever is on the wire, and nobody can change it unnoticed; for trusted
    /// wires
    #[arg(long)]
    pub clear: bool,
    /// Begins anew so many times when the peer is not there, is lost, or does not get on (exit code
    /// 5), after a pause that grows from one second to half a minute; what arrived is not sent
    /// again. 0 is never [default: once the daemon has accepted the copy, as often as it takes, but
    /// for no more than 15 minutes, or --timeout, without getting further; with --strict never]
    #[arg(long, value_name = "TIMES")]
    pub retry: Option<u32>,
    /// Most file bytes per second: K M G T are powers of 1024, KB MB GB TB of 1000, fractions
    /// allowed (1.5M); 0 is no limit [default: 0]
    #[arg(long, value_name = "RATE", value_parser = bytes)]
    pub bwlimit: Option<u64>,
}

impl CpArgs {
    /// What is done where the session is lost.
    pub fn persistence(&self) -> Persistence {
        match (self.retry, self.engine.timeout) {
            (Some(0), _) => Persistence::NONE,
            (Some(times), _) => Persistence {
                times: Some(times),
                within: None,
                from_the_start: true,
                until_accepted: false,
            },
            // What a lost session could not set is not told by the next, which finds the file.
            (None, _) if self.strict => Persistence::NONE,
            (None, None) => Persistence::default(),
            (None, Some(_)) => Persistence {
                within: self.engine.patience(),
                ..Persistence::default()
            },
        }
    }

    /// The sources, and where they go.
    ///
    /// # Errors
    /// Only one place was given.
    pub fn sources_and_destination(&self) -> Result<(&[OsString], &OsString), RouteError> {
        match self.places.split_last() {
            Some((destination, sources)) if !sources.is_empty() => Ok((sources, destination)),
            only => {
                let typed = only.map(|(typed, _)| typed.as_encoded_bytes());
                Err(RouteError::NoDestination(escape::name(
                    typed.unwrap_or_default(),
                )))
            }
        }
    }
}

// -h is no help here: to ls it is the size of files.
#[derive(Args, Debug)]
#[command(after_help = reference::help("clean"))]
pub struct CleanArgs {
    /// Where to look; symlinks are not followed, other file systems are looked into
    #[arg(value_hint = ValueHint::DirPath)]
    pub dir: PathBuf,
    /// Only files that nothing was written to for so long; s, m, h, d and w are taken
    #[arg(long, value_name = "AGE", default_value = "7d", value_parser = age)]
    pub older_than: Duration,
    /// Says what would be removed, and removes nothing
    #[arg(long, short = 'n')]
    pub dry_run: bool,
}

#[derive(Args, Debug)]
#[command(disable_help_flag = true, after_help = reference::help("ls"))]
pub struct LsArgs {
    /// landro://HOST[:PORT]/PATH; with --partial also a local directory
    #[arg(value_hint = ValueHint::DirPath)]
    pub url: OsString,
    /// Lists unfinished files, in the directory and all below it: the name each is to get, how much
    /// is there, and when that came
    #[arg(long)]
    pub partial: bool,
    /// Shows type, permissions, size in bytes, time of modification (UTC), and where symlinks lead
    #[arg(long, short)]
    pub long: bool,
    /// Shows names that begin with a dot, too
    #[arg(long, short)]
    pub all: bool,
    /// Prints one JSON object per entry on stdout
    #[arg(long)]
    pub json: bool,
    /// Prints help
    #[arg(long, action = clap::ArgAction::Help)]
    help: Option<bool>,
    #[command(flatten)]
    pub trust: TrustArgs,
    #[command(flatten)]
    pub from: BindArgs,
    #[command(flatten)]
    pub engine: EngineArgs,
}

#[derive(Args, Debug)]
#[command(override_usage = "landro bench [OPTIONS] URL\n       landro bench [OPTIONS] --local")]
#[command(after_help = reference::help("bench"))]
pub struct BenchArgs {
    /// landro://HOST[:PORT]
    #[arg(required_unless_present = "local")]
    pub url: Option<OsString>,
    /// Measures this host alone: a daemon with a key of its own and its client in this process,
    /// over loopback
    #[arg(long, conflicts_with_all = ["url", "peer", "accept_new"])]
    pub local: bool,
    /// How long to measure
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = bench_seconds())]
    pub seconds: u64,
    /// Data streams used at a time
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = streams())]
    pub streams: u8,
    /// The daemon sends, this host receives
    #[arg(long)]
    pub reverse: bool,
    /// Measures round trips of small messages, one at a time, instead of throughput
    #[arg(long, conflicts_with_all = ["reverse", "streams"])]
    pub latency: bool,
    /// Bytes of each message of --latency, at most 65504; suffixes as in `cp --bwlimit` [default:
    /// 1K]
    #[arg(long, value_name = "BYTES", requires = "latency", value_parser = echo_bytes)]
    pub size: Option<usize>,
    /// Prints one JSON object on stdout at the end
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub trust: TrustArgs,
    #[command(flatten)]
    pub from: BindArgs,
    #[command(flatten)]
    pub engine: EngineArgs,
}

#[derive(Args, Debug)]
#[command(after_help = reference::help("peers"))]
pub struct PeersArgs {
    /// The daemon's directory (/var/lib/landro/config of landro.service) [default: this
    /// user's own, as for landro serve]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub of: Option<PathBuf>,
    /// Prints one JSON object per peer on stdout
    #[arg(long)]
    pub json: bool,
}

#[derive(Args, Debug)]
#[command(override_usage = "landro config [OPTIONS] [-- SERVE OPTIONS...]", after_help = reference::help("config"))]
pub struct ConfigArgs {
    /// Prints each value with its origin, as lines of such a file (this is what it does anyway)
    #[arg(long, conflicts_with = "check")]
    pub show: bool,
    /// Says only whether all of it is understood
    #[arg(long)]
    pub check: bool,
    /// The file that is read [default: as for landro serve]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub config: Option<PathBuf>,
    /// What would stand behind landro serve
    #[arg(last = true, value_name = "SERVE OPTIONS")]
    pub serve: Vec<OsString>,
}

#[derive(Args, Debug)]
#[command(after_help = reference::help("id"))]
pub struct IdArgs {
    /// The identity in this directory, such as a daemon's LANDRO_CONFIG_DIR
    /// (/var/lib/landro/config of landro.service); none is made there
    /// [default: this user's own]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub of: Option<PathBuf>,
}

/// How the client knows the daemon's key.
#[derive(Args, Debug, Default)]
pub struct TrustArgs {
    /// The daemon must have this fingerprint; for this run, known_hosts is not added to
    /// [default: what known_hosts says]
    #[arg(long, value_name = "FINGERPRINT")]
    pub peer: Option<Fingerprint>,
    /// Trusts a daemon never seen before and remembers it in known_hosts; a changed key still fails
    #[arg(long)]
    pub accept_new: bool,
}

/// Where a client's packets leave this host.
#[derive(Args, Debug, Default)]
pub struct BindArgs {
    /// An interface or address of this host that packets leave from; given more than once, each has
    /// lanes of its own, and what they carry adds up [default: the kernel's choice]
    #[arg(long, value_name = "IF|ADDR", value_parser = Bind::from_str)]
    pub bind: Vec<Bind>,
}

#[derive(Args, Debug)]
pub struct EngineArgs {
    /// Kernel interface; auto takes io_uring where the kernel and the sandbox allow it
    #[arg(long, value_name = "BACKEND", value_enum, default_value_t)]
    pub backend: BackendArg,
    /// Transport settings: auto measures the path, lan and wan are fixed
    #[arg(long, value_name = "PROFILE", value_enum, default_value_t)]
    pub profile: ProfileArg,
    /// What carries the data, a comma between: quic (UDP), tls (TCP on the same port). A client
    /// begins with quic, and with tls where UDP gets no answer; a daemon listens for these (clear
    /// is added to them by cp --clear and serve --allow-clear)
    #[arg(long, value_name = "KINDS", default_value_t, value_parser = LaneKinds::from_str)]
    pub lane_kinds: LaneKinds,
    /// Congestion control of what is sent over TCP, any that the kernel has, in BPF, too
    /// [default: the kernel's; in place of cubic and reno, bbr once packets are lost all the time,
    /// if this process may have it]
    #[arg(long, value_name = "NAME", value_parser = tcp_congestion)]
    pub tcp_congestion: Option<String>,
    /// Who seals the records of tls: off is this program, auto the kernel where it can (its module
    /// tls, and Linux 6.14)
    #[arg(long, value_name = "CHOICE", value_enum, default_value_t)]
    pub ktls: KtlsArg,
    /// Gives up when nothing was got on with for so many seconds: no byte moved, no file was
    /// finished, the peer gave no sign that it works; 0 is never [default: 60]
    #[arg(long, value_name = "SECONDS")]
    pub timeout: Option<u32>,
}

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum KtlsArg {
    #[default]
    Off,
    Auto,
}

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum BackendArg {
    #[default]
    Auto,
    #[value(name = "io_uring")]
    IoUring,
    Poll,
}

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ProfileArg {
    #[default]
    Auto,
    Lan,
    Wan,
}

impl EngineArgs {
    pub fn backend(&self) -> BackendChoice {
        match self.backend {
            BackendArg::Auto => BackendChoice::Auto,
            BackendArg::IoUring => BackendChoice::IoUring,
            BackendArg::Poll => BackendChoice::Poll,
        }
    }

    /// Whether the kernel is to seal what it can.
    pub fn ktls(&self) -> bool {
        self.ktls == KtlsArg::Auto
    }

    pub fn patience(&self) -> Option<Duration> {
        match self.timeout {
            None => Some(PATIENCE),
            Some(0) => None,
            Some(seconds) => Some(Duration::from_secs(seconds.into())),
        }
    }

    pub fn quic(&self) -> QuicConfig {
        match self.profile {
            ProfileArg::Auto => QuicConfig::auto(),
            ProfileArg::Lan => QuicConfig::lan_optimized(),
            // The profile's own value is one that BBR is never used with, which is nothing that
            // whoever asked for the profile is to be warned of.
            ProfileArg::Wan => QuicConfig::wan_optimized().initial_rtt(BBR_SAFE_INITIAL_RTT),
        }
    }
}

fn streams() -> RangedI64ValueParser<u8> {
    clap::value_parser!(u8).range(1..=64)
}

fn bench_seconds() -> RangedU64ValueParser {
    clap::value_parser!(u64).range(1..=MAX_BENCH.as_secs())
}

/// The kernel of this host says whether it has it.
fn tcp_congestion(name: &str) -> Result<String, String> {
    landro_sys::check_congestion(name).map_err(|error| error.to_string())?;
    Ok(name.to_owned())
}

fn memory_budget(typed: &str) -> Result<u64, String> {
    match bytes(typed)? {
        budget if budget < MIN_MEMORY_BUDGET_BYTES => Err(format!(
            "nothing works with less than {}M",
            MIN_MEMORY_BUDGET_BYTES >> 20
        )),
        budget => Ok(budget),
    }
}

fn echo_bytes(typed: &str) -> Result<usize, String> {
    match bytes(typed)? {
        size if (1..=MAX_ECHO_BYTES as u64).contains(&size) => Ok(size as usize),
        _ => Err(format!("a message has 1 to {MAX_ECHO_BYTES} bytes")),
    }
}

/// A number with a unit of time.
fn age(typed: &str) -> Result<Duration, String> {
    let hint = "write a number and s, m, h, d or w: 90m, 12h, 7d";
    let digits = typed.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit: u64 = match &typed[digits.len()..] {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        "w" => 7 * 86_400,
        // A bare number could be seconds or days, and files are removed by it.
        _ if digits == "0" => 1,
        _ => return Err(hint.into()),
    };
    let number: u64 = digits.parse().map_err(|_| hint.to_owned())?;
    let seconds = number.checked_mul(unit).ok_or("too long")?;
    Ok(Duration::from_secs(seconds))
}

/// A number of bytes with a suffix as curl and rsync take them: `K`, `M`, `G`, `T` (or `KiB`...)
/// are powers of 1024, `KB`... powers of 1000, case does not matter, a plain number is bytes.
/// Fractions are allowed.
pub fn bytes(typed: &str) -> Result<u64, String> {
    let digits_end = typed
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(typed.len());
    let (number, suffix) = typed.split_at(digits_end);
    let suffix = suffix.to_ascii_lowercase();
    let (letter, base) = match suffix.as_str() {
        "" | "b" => ("", 1024_u64),
        s if s.len() == 1 => (s, 1024),
        s if s.len() == 3 && s.ends_with("ib") => (&s[..1], 1024),
        s if s.len() == 2 && s.ends_with('b') => (&s[..1], 1000),
        _ => ("?", 0),
    };
    let power = match letter {
        "" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        _ => return Err("unknown unit; use K, M, G or T (1024) or KB, MB, GB or TB (1000)".into()),
    };
    let unit = base.pow(power);
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(unit).ok_or_else(|| "too large".into());
    }
    let value: f64 = number
        .parse()
        .map_err(|_| "not a number of bytes such as 500K, 1.5M or 2G".to_string())?;
    let value = value * unit as f64;
    if value < u64::MAX as f64 {
        Ok(value as u64)
    } else {
        Err("too large".into())
    }
}

#[cfg(test)]
mod tests;
