//! Runs the real binary: daemons on free ports, commands with an outer timeout, their events
//! parsed.

// Each test file is its own crate and uses its own part of this.
#![allow(dead_code)]

pub mod fuse;
pub mod manager;
pub mod tree;

use std::ffi::{OsStr, OsString};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

pub const LANDRO: &str = env!("CARGO_BIN_EXE_landro");

/// Outer limit of one command: what takes longer hangs.
pub const COMMAND_TIMEOUT: Duration = Duration::from_secs(150);

/// Outer limit of a daemon's start and stop.
const DAEMON_TIMEOUT: Duration = Duration::from_secs(60);

/// Outer limit of what follows kill -9: a process within a call that a file system never answers
/// stays for ever, and that file system may be one of this very test.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);

/// What ends a program that is not run by [`Running`], as a prefix. In the foreground: script(1)
/// asks the terminal, if there is one, which stops everybody else.
pub const BOUNDED: [&str; 4] = ["timeout", "--foreground", "--kill-after=10", "150"];

/// Makes two tests of each `fn(&'static str)`: one per backend, the first only where the kernel has
/// io_uring.
#[macro_export]
macro_rules! on_both_backends {
    ($($(#[$attribute:meta])* $name:ident),+ $(,)?) => {
        mod io_uring {
            $($(#[$attribute])* #[test]
            fn $name() {
                if $crate::common::has_io_uring() {
                    super::$name("io_uring");
                }
            })+
        }
        mod poll {
            $($(#[$attribute])* #[test]
            fn $name() {
                super::$name("poll");
            })+
        }
    };
}

/// A test, or a part of one, is left out here, and why. What a test harness shows of one that
/// passed is nothing: where CI=true is said everything is there, or the test fails.
#[track_caller]
pub fn skipped(why: &str) {
    let is_allowed = std::env::var_os("CI").is_none_or(|ci| ci != "true");
    assert!(is_allowed, "skipped under CI=true: {why}");
    println!("skipped: {why}");
}

/// Says why when it is not there: containers forbid it by default.
pub fn has_io_uring() -> bool {
    let found = landro_sys::Caps::probe().io_uring;
    if !found.is_yes() {
        skipped(&format!("io_uring: {found}"));
    }
    found.is_yes()
}

pub fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|meta| meta.uid() == 0)
}

/// A user's configuration directory.
pub struct Side {
    path: PathBuf,
    /// Where it goes with this value.
    _dir: Option<TempDir>,
}

impl Side {
    pub fn new() -> Side {
        let dir = tempfile::tempdir().unwrap();
        Side {
            path: dir.path().to_path_buf(),
            _dir: Some(dir),
        }
    }

    /// With its files in a place of the caller's choice, where they stay.
    pub fn at(path: PathBuf) -> Side {
        Side { path, _dir: None }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes the identity at first use.
    pub fn id(&self) -> String {
        let output = landro(self, ["id"]);
        assert_eq!(output.code, Some(0), "{output:?}");
        output.stdout.trim().to_owned()
    }
}

/// How a command ended.
#[derive(Debug)]
pub struct Output {
    /// None: killed by a signal.
    pub code: Option<i32>,
    pub signal: Option<i32>,
    pub stdout: String,
    pub stderr: String,
    /// The lines of stdout that are JSON.
    pub events: Vec<Value>,
}

impl Output {
    pub fn of<'a>(&'a self, event: &'a str) -> impl Iterator<Item = &'a Value> {
        self.events
            .iter()
            .filter(move |value| value["event"] == event)
    }

    pub fn summary(&self) -> &Value {
        self.of("summary")
            .next()
            .unwrap_or_else(|| panic!("no summary: {self:?}"))
    }

    pub fn number(&self, field: &str) -> u64 {
        self.summary()[field]
            .as_u64()
            .unwrap_or_else(|| panic!("summary without {field}: {self:?}"))
    }

    #[track_caller]
    pub fn expect(self, code: i32) -> Output {
        assert!(
            self.code == Some(code),
            "expected exit code {code}, got {:?} (signal {:?})\n--- stdout\n{}\n--- stderr\n{}",
            self.code,
            self.signal,
            cut(&self.stdout),
            cut(&self.stderr)
        );
        self
    }
}

/// The end of a long text is where the errors are.
pub fn cut(text: &str) -> &str {
    &text[text.ceil_char_boundary(text.len().saturating_sub(
        if std::env::var_os("LANDRO_TEST_LOG").is_some() {
            1 << 20
        } else {
            6000
        },
    ))..]
}

/// A command that runs.
pub struct Running {
    child: Child,
    stdout: Reading,
    stderr: Reading,
    shown: String,
}

/// Collects what comes out of a pipe, so that the writer never waits.
struct Reading {
    text: Arc<Mutex<Vec<u8>>>,
    lines: Mutex<Receiver<String>>,
    thread: Option<JoinHandle<()>>,
}

impl Reading {
    fn of(pipe: impl Read + Send + 'static) -> Reading {
        let text = Arc::new(Mutex::new(Vec::new()));
        let copy = text.clone();
        let (sender, lines) = channel();
        let thread = thread::spawn(move || {
            let mut pipe = BufReader::new(pipe);
            let mut line = Vec::new();
            while let Ok(1..) = pipe.read_until(b'\n', &mut line) {
                copy.lock().unwrap().extend_from_slice(&line);
                // Nobody may be waiting for lines.
                let _ = sender.send(String::from_utf8_lossy(&line).trim_end().to_owned());
                line.clear();
            }
        });
        Reading {
            text,
            lines: Mutex::new(lines),
            thread: Some(thread),
        }
    }

    fn so_far(&self) -> String {
        String::from_utf8_lossy(&self.text.lock().unwrap()).into_owned()
    }

    fn read_to_end(&mut self) -> String {
        // Whoever was left behind may hold the pipe open.
        if let Some(thread) = self.thread.take()
            && within(KILL_TIMEOUT, || thread.is_finished())
        {
            thread.join().unwrap();
        }
        self.so_far()
    }
}

/// A command line of the binary for one side; `prefix` (such as setpriv or ip netns exec) runs
/// before it.
pub fn command<I, S>(side: &Side, prefix: &[&str], args: I) -> Command
where
    I: IntoIterator<Item = S>,
    S: AsRef<OsStr>,
{
    let mut words: Vec<OsString> = prefix.iter().map(OsString::from).collect();
    words.push(LANDRO.into());
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).args(args);
    command.env("LANDRO_CONFIG_DIR", side.path());
    for inherited in ["LANDRO_LOG", "QLOGDIR", "SSLKEYLOGFILE", "NOTIFY_SOCKET"] {
        command.env_remove(inherited);
    }
    // Nor what is configured on this host.
    for (name, _) in std::env::vars_os() {
        if name.as_encoded_bytes().starts_with(b"LANDRO_SERVE_") {
            command.env_remove(name);
        }
    }
    command.env("LANDRO_SERVE_CONFIG", "/dev/null");
    // To look into a failing test: what LANDRO_LOG takes, for daemons and commands.
    if let Some(directives) = std::env::var_os("LANDRO_TEST_LOG") {
        command.env("LANDRO_LOG", directives);
    }
    command
}

impl Running {
    pub fn spawn(mut command: Command) -> Running {
        let shown = format!("{command:?}");
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command
            .spawn()
            .unwrap_or_else(|error| panic!("{shown}: {error}"));
        let stdout = Reading::of(child.stdout.take().unwrap());
        let stderr = Reading::of(child.stderr.take().unwrap());
        Running {
            child,
            stdout,
            stderr,
            shown,
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// kill -9.
    pub fn kill(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
    }

    /// By the shell's own kill: std has none for other signals.
    pub fn signal(&self, name: &str) {
        signal(self.pid(), name);
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    pub fn stderr(&self) -> String {
        self.stderr.so_far()
    }

    pub fn stdout(&self) -> String {
        self.stdout.so_far()
    }

    /// The first line of stdout (from where the last call stopped) that satisfies `wanted`; None
    /// when it ends.
    pub fn line(&self, wanted: impl Fn(&str) -> bool) -> Option<String> {
        let lines = self.stdout.lines.lock().unwrap();
        loop {
            match lines.recv_timeout(DAEMON_TIMEOUT) {
                Ok(line) if wanted(&line) => return Some(line),
                Ok(_) => {}
                Err(RecvTimeoutError::Disconnected) => return None,
                Err(RecvTimeoutError::Timeout) => {
                    panic!("{}: silent\n{}", self.shown, self.stderr())
                }
            }
        }
    }

    /// Waits for the end; what does not end in time is killed, and the test fails.
    pub fn wait(mut self) -> Output {
        let status = self.end_within(COMMAND_TIMEOUT);
        if status.is_none() {
            self.put_down();
        }
        let stdout = self.stdout.read_to_end();
        let stderr = self.stderr.read_to_end();
        let Some(status) = status else {
            panic!(
                "{} does not end\n--- stdout\n{}\n--- stderr\n{}",
                self.shown,
                cut(&stdout),
                cut(&stderr)
            );
        };
        let events = stdout
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect();
        Output {
            code: status.code(),
            signal: status.signal(),
            stdout,
            stderr,
            events,
        }
    }

    fn end_within(&mut self, limit: Duration) -> Option<ExitStatus> {
        let mut status = None;
        within(limit, || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        status
    }

    /// kill -9, and the end of it, if there is one.
    fn put_down(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        if self.end_within(KILL_TIMEOUT).is_none() {
            eprintln!("{} cannot be killed, and is left behind", self.shown);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if thread::panicking() && self.is_running() {
            eprintln!("{}\nsaid at last:\n{}", self.shown, cut(&self.stderr()));
        }
        self.put_down();
    }
}

pub fn signal(pid: u32, name: &str) {
    let status = Command::new("sh")
        .args(["-c", &format!("kill -{name} {pid}")])
        .status()
        .unwrap();
    assert!(status.success(), "kill -{name} {pid}");
}

/// Runs a command to its end.
pub fn landro<I, S>(side: &Side, args: I) -> Output
where
    I: IntoIterator<Item = S>,
    S: AsRef<OsStr>,
{
    Running::spawn(command(side, &[], args)).wait()
}

/// A daemon; dropping it kills it.
pub struct Daemon {
    running: Running,
    /// `HOST:PORT` of each listening address.
    pub addresses: Vec<String>,
    pub fingerprint: String,
}

impl Daemon {
    /// `args` follow `serve ROOT`; without a `--listen` among them it is 127.0.0.1 and a free port.
    pub fn start(side: &Side, root: &Path, args: &[&str]) -> Daemon {
        Daemon::start_with(side, &[], root, args)
    }

    pub fn start_with(side: &Side, prefix: &[&str], root: &Path, args: &[&str]) -> Daemon {
        let mut all: Vec<&OsStr> = vec![OsStr::new("serve"), root.as_os_str()];
        all.extend(args.iter().map(OsStr::new));
        if !args.contains(&"--listen") {
            all.extend(["--listen", "127.0.0.1:0"].map(OsStr::new));
        }
        let running = Running::spawn(command(side, prefix, all));
        let Some(line) = running.line(|_| true) else {
            panic!(
                "the daemon did not start: {}\n{}",
                running.shown,
                running.stderr()
            );
        };
        let rest = line
            .strip_prefix("listening on ")
            .unwrap_or_else(|| panic!("unexpected line: {line}"));
        let (urls, fingerprint) = rest
            .split_once(" id ")
            .unwrap_or_else(|| panic!("unexpected line: {line}"));
        let addresses = urls.split(' ').map(|url| {
            let address = url
                .strip_prefix("landro://")
                .and_then(|url| url.strip_suffix('/'));
            address
                .unwrap_or_else(|| panic!("unexpected line: {line}"))
                .to_owned()
        });
        Daemon {
            addresses: addresses.collect(),
            fingerprint: fingerprint.to_owned(),
            running,
        }
    }

    pub fn address(&self) -> &str {
        &self.addresses[0]
    }

    pub fn url(&self, path: &str) -> String {
        format!("landro://{}/{path}", self.address())
    }

    pub fn pid(&self) -> u32 {
        self.running.pid()
    }

    pub fn log(&self) -> String {
        self.running.stderr()
    }

    pub fn is_running(&mut self) -> bool {
        self.running.is_running()
    }

    pub fn kill(&mut self) {
        self.running.put_down();
    }

    /// SIGTERM, and the end it makes.
    pub fn stop(self) -> Output {
        self.running.signal("TERM");
        self.wait()
    }

    /// The end of one that was told.
    pub fn wait(self) -> Output {
        self.running.wait()
    }

    /// Resident memory now, in bytes.
    pub fn rss_bytes(&self) -> u64 {
        status_bytes(self.pid(), "VmRSS:")
    }

    /// Most resident memory so far, in bytes.
    pub fn peak_rss_bytes(&self) -> u64 {
        status_bytes(self.pid(), "VmHWM:")
    }

    /// Waits until the log says something. What a daemon said before it was ready may be read later
    /// than that.
    pub fn wait_for_log(&self, what: &str) {
        self.wait_for_log_again(what, 0);
    }

    /// Waits until the log says something more often than `before`.
    pub fn wait_for_log_again(&self, what: &str, before: usize) {
        let said = || self.log().matches(what).count() > before;
        assert!(
            in_time(said),
            "the daemon never said {what:?}:\n{}",
            self.log()
        );
    }

    /// Waits for an end that was asked for by other means than [`Daemon::stop`].
    pub fn wait_for_end(&mut self) {
        let ended = in_time(|| !self.is_running());
        assert!(ended, "the daemon does not stop: {}", self.log());
    }
}

/// Whether something comes about within [`DAEMON_TIMEOUT`].
fn in_time(condition: impl FnMut() -> bool) -> bool {
    within(DAEMON_TIMEOUT, condition)
}

/// Whether something comes about in time.
pub fn within(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    const STEP: Duration = Duration::from_millis(5);
    for _ in 0..limit.as_millis() / STEP.as_millis() {
        if condition() {
            return true;
        }
        thread::sleep(STEP);
    }
    condition()
}

fn status_bytes(pid: u32, field: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(field))
        .unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

/// A daemon that serves `root`, a client it lets in, and a directory `here` for the client's files.
pub struct World {
    pub backend: &'static str,
    pub client: Side,
    pub server: Side,
    pub daemon: Daemon,
    dir: TempDir,
    serve_args: Vec<String>,
}

impl World {
    pub fn new(backend: &'static str) -> World {
        World::with(backend, &[])
    }

    /// With lanes over QUIC alone, for tests that look into those.
    pub fn over_quic(backend: &'static str) -> World {
        World::with(backend, &["--lane-kinds", "quic"])
    }

    pub fn with(backend: &'static str, serve_args: &[&str]) -> World {
        World::within(backend, serve_args, tempfile::tempdir().unwrap())
    }

    /// With `root` and `here` in a directory of the caller's choice.
    pub fn within(backend: &'static str, serve_args: &[&str], dir: TempDir) -> World {
        let (client, server) = (Side::new(), Side::new());
        for name in ["root", "here"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
        }
        let mut serve_args: Vec<String> = serve_args.iter().map(|arg| arg.to_string()).collect();
        serve_args.extend(["--backend", backend, "--allow", &client.id()].map(String::from));
        let daemon = start_daemon(&server, &dir.path().join("root"), &serve_args);
        World {
            backend,
            client,
            server,
            daemon,
            dir,
            serve_args,
        }
    }

    /// Starts the daemon again after its end, on the port it had.
    pub fn restart(&mut self) {
        let listen = self.daemon.address().to_owned();
        let mut args = self.serve_args.clone();
        args.extend(["--listen".to_owned(), listen]);
        self.daemon.kill();
        self.daemon = start_daemon(&self.server, &self.root(""), &args);
    }

    pub fn root(&self, path: &str) -> PathBuf {
        self.dir
            .path()
            .join("root")
            .join(path)
            .components()
            .collect()
    }

    pub fn here(&self, path: &str) -> PathBuf {
        self.dir
            .path()
            .join("here")
            .join(path)
            .components()
            .collect()
    }

    pub fn url(&self, path: &str) -> String {
        self.daemon.url(path)
    }

    /// `cp` with `--json`, the daemon's fingerprint and the backend, then `args`.
    pub fn cp_command<S: AsRef<OsStr>>(&self, prefix: &[&str], args: &[S]) -> Command {
        let mut all: Vec<OsString> = [
            "cp",
            "--json",
            "--backend",
            self.backend,
            "--peer",
            &self.daemon.fingerprint,
        ]
        .map(Into::into)
        .into();
        all.extend(args.iter().map(|arg| arg.as_ref().to_owned()));
        command(&self.client, prefix, all)
    }

    pub fn cp<S: AsRef<OsStr>>(&self, args: &[S]) -> Output {
        self.cp_start(args).wait()
    }

    pub fn cp_start<S: AsRef<OsStr>>(&self, args: &[S]) -> Running {
        Running::spawn(self.cp_command(&[], args))
    }

    pub fn push(&self, from: impl AsRef<OsStr>, to: &str) -> Output {
        self.cp(&[from.as_ref().to_owned(), self.url(to).into()])
    }

    pub fn pull(&self, from: &str, to: impl AsRef<OsStr>) -> Output {
        self.cp(&[self.url(from).into(), to.as_ref().to_owned()])
    }
}

fn start_daemon(server: &Side, root: &Path, args: &[String]) -> Daemon {
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    Daemon::start(server, root, &args)
}

/// A directory in memory if there is room for `bytes` (fast, and the disk is spared), else on disk.
pub fn roomy_dir(bytes: u64) -> TempDir {
    let free = Command::new("stat")
        .args(["-f", "-c", "%a %S", "/dev/shm"])
        .output();
    let free = free.ok().and_then(|output| {
        let text = String::from_utf8(output.stdout).ok()?;
        let (blocks, size) = text.trim().split_once(' ')?;
        Some(blocks.parse::<u64>().ok()? * size.parse::<u64>().ok()?)
    });
    match free {
        Some(free) if free > bytes + (bytes >> 2) => tempfile::tempdir_in("/dev/shm").unwrap(),
        _ => tempfile::tempdir().unwrap(),
    }
}

/// What makes root obey file modes, as a prefix; nothing for others, who do.
pub fn without_override() -> &'static [&'static str] {
    if is_root() {
        &[
            "setpriv",
            "--bounding-set",
            "-dac_override,-dac_read_search",
        ]
    } else {
        &[]
    }
}
