//! Follows a benchmark: a line per second on a terminal, and the summary.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::bench::{BenchLatency, BenchSummary, histogram, latency_line, text, throughput};
use super::json::{JsonEvent, Printer};
use super::stats::{ConnectionSeen, TransportFigures, goodput_bps};
use crate::cli::args::BenchArgs;
use crate::cli::exit::Exit;
use crate::engine::{ClientEvent, TransportStats};
use crate::proto::Event;
use crate::proto::session::BenchWork;

const TELL_EVERY: Duration = Duration::from_secs(1);

/// Follows one benchmark.
pub struct Meter {
    work: BenchWork,
    json: bool,
    streams: u8,
    local: bool,
    /// Somebody looks on.
    watched: bool,
    began: Instant,
    told_at: Instant,
    told_bytes: u64,
    bytes: u64,
    /// Bytes and time as the engine measured them, when it came to its end.
    measured: Option<(u64, Duration)>,
    all: Histogram<u64>,
    since_told: Histogram<u64>,
    seen: ConnectionSeen,
    served: Option<(TransportFigures, Duration)>,
    printer: Printer,
}

impl Meter {
    pub fn new(work: BenchWork, args: &BenchArgs) -> Meter {
        let now = crate::engine::now();
        Meter {
            work,
            json: args.json,
            streams: args.streams,
            local: args.local,
            watched: !args.json && io::stderr().is_terminal(),
            began: now,
            told_at: now,
            told_bytes: 0,
            bytes: 0,
            measured: None,
            all: histogram(),
            since_told: histogram(),
            seen: ConnectionSeen::default(),
            served: None,
            printer: Printer::default(),
        }
    }

    /// None: nothing happened for a while.
    pub fn hear(&mut self, event: Option<ClientEvent>) {
        match event {
            Some(ClientEvent::Session(Event::Started)) => {
                self.began = crate::engine::now();
                self.told_at = self.began;
            }
            Some(ClientEvent::Session(Event::Progress { bytes })) => self.bytes += bytes,
            Some(ClientEvent::Session(Event::RoundTrips(round_trips))) => {
                for round_trip in round_trips {
                    let ns = u64::try_from(round_trip.as_nanos()).unwrap_or(u64::MAX);
                    self.all.saturating_record(ns);
                    self.since_told.saturating_record(ns);
                }
            }
            Some(ClientEvent::Session(Event::Benched { bytes, elapsed })) => {
                self.measured = Some((bytes, elapsed));
            }
            Some(ClientEvent::Session(_)) | None => {}
            Some(event) => self.seen.note(event),
        }
        self.tick();
    }

    /// What the daemon's side of `--local` was.
    pub fn served(&mut self, stats: &TransportStats) {
        self.served = Some((TransportFigures::from(stats), stats.cpu));
    }

    /// Something went wrong.
    pub fn error(&mut self, code: &'static str, message: &str) {
        if self.json {
            self.printer.print(&JsonEvent::Error {
                path: None,
                code,
                errno: None,
                call: None,
                side: None,
                place: None,
                message,
            });
        }
        crate::cli::say::say(&format!("landro: {message}"));
    }

    fn tick(&mut self) {
        let now = crate::engine::now();
        let passed = now.duration_since(self.told_at);
        if passed < TELL_EVERY || self.measured.is_some() {
            return;
        }
        if self.watched {
            let at = now.duration_since(self.began).as_secs_f64();
            let what = match self.work {
                BenchWork::Send | BenchWork::Receive => {
                    throughput(self.bytes - self.told_bytes, passed.as_secs_f64())
                }
                BenchWork::Echo { .. } => latency_line(&BenchLatency::of(&self.since_told)),
            };
            crate::cli::say::say(&format!("{at:6.1} s  {what}"));
        }
        (self.told_at, self.told_bytes) = (now, self.bytes);
        self.since_told.reset();
    }

    /// Prints the summary.
    ///
    /// # Errors
    /// Standard output cannot be written; one that was closed is no error.
    pub fn finish(mut self, exit: Exit) -> io::Result<()> {
        let summary = self.sum_up(exit);
        if self.json {
            self.printer.print(&JsonEvent::Bench(&summary));
            return self.printer.finish();
        }
        // Nothing was measured: what went wrong was said already.
        if summary.sent_bytes == 0 {
            return Ok(());
        }
        let mut stdout = io::stdout().lock();
        match write!(stdout, "{}", text(&summary)).and_then(|()| stdout.flush()) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error),
            _ => Ok(()),
        }
    }

    fn sum_up(&mut self, exit: Exit) -> BenchSummary {
        let now = crate::engine::now();
        let echoed = self.bytes_echoed();
        let (sent_bytes, elapsed) = self
            .measured
            .unwrap_or_else(|| (self.bytes.max(echoed), now.duration_since(self.began)));
        let seconds = elapsed.as_secs_f64();
        let stats = std::mem::take(&mut self.seen).stats();
        let (daemon, daemon_cpu) = self.served.take().unzip();
        let process_cpu = stats.cpu_user_seconds + stats.cpu_system_seconds;
        let daemon_cpu = daemon_cpu.map(|cpu| cpu.as_secs_f64());
        let (mode, echo_bytes) = match self.work {
            BenchWork::Send => ("send", None),
            BenchWork::Receive => ("receive", None),
            BenchWork::Echo { size_bytes } => ("latency", Some(size_bytes)),
        };
        let echo = echo_bytes.is_some();
        let per_gb = |cpu: f64| (!echo && sent_bytes > 0).then(|| cpu * 1e9 / sent_bytes as f64);
        BenchSummary {
            mode,
            local: self.local,
            streams: (!echo).then_some(self.streams),
            size_bytes: echo_bytes,
            sent_bytes,
            seconds,
            goodput_bps: goodput_bps(sent_bytes, seconds),
            cpu_seconds_per_gb: per_gb(process_cpu - daemon_cpu.unwrap_or(0.0)),
            daemon_cpu_seconds_per_gb: daemon_cpu.and_then(per_gb),
            latency: echo.then(|| BenchLatency::of(&self.all)),
            exit_code: exit.code(),
            stats,
            daemon,
        }
    }

    fn bytes_echoed(&self) -> u64 {
        match self.work {
            BenchWork::Echo { size_bytes } => self.all.len() * size_bytes as u64,
            BenchWork::Send | BenchWork::Receive => 0,
        }
    }
}
