//! What a benchmark measured: a line per second on a terminal, and the summary.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::cli::Exit;
use crate::cli::args::BenchArgs;
use crate::cli::cp::Seen;
use crate::cli::report::json::{JsonEvent, Printer};
use crate::cli::report::stats::{Stats, Transport};
use crate::engine::{ClientEvent, TransportStats};
use crate::proto::Event;
use crate::proto::session::BenchWork;

const TELL_EVERY: Duration = Duration::from_secs(1);

/// Longer round trips count as this; a silent peer is given up before.
const MAX_ROUND_TRIP_NS: u64 = 60_000_000_000;

/// Three significant digits: 0.1 % of a round trip.
const DIGITS: u8 = 3;

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
    seen: Seen,
    served: Option<(Transport, Duration)>,
    printer: Printer,
}

/// The object of `--json`. What `cp` has, too, means the same there.
#[derive(Serialize)]
pub struct BenchSummary {
    /// `send`, `receive` or `latency`, as this host sees it.
    mode: &'static str,
    /// Both ends were on this host.
    local: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    streams: Option<u8>,
    /// Bytes of each message.
    #[serde(skip_serializing_if = "Option::is_none")]
    size_bytes: Option<usize>,
    /// Bytes that arrived: filler, or messages, counted one way.
    sent_bytes: u64,
    seconds: f64,
    goodput_bps: u64,
    /// CPU time of this side for 10^9 bytes; with --local of the client, without the daemon.
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu_seconds_per_gb: Option<f64>,
    /// Of the daemon, with --local.
    #[serde(skip_serializing_if = "Option::is_none")]
    daemon_cpu_seconds_per_gb: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    latency: Option<Latency>,
    exit_code: u8,
    stats: Stats,
    /// The transport as the daemon saw it, with --local.
    #[serde(skip_serializing_if = "Option::is_none")]
    daemon: Option<Transport>,
}

/// Round trips.
#[derive(Serialize)]
struct Latency {
    count: u64,
    min_us: f64,
    mean_us: f64,
    p50_us: f64,
    p90_us: f64,
    p99_us: f64,
    p999_us: f64,
    max_us: f64,
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
            seen: Seen::default(),
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
        self.served = Some((Transport::from(stats), stats.cpu));
    }

    /// Something went wrong.
    pub fn error(&mut self, code: &'static str, message: &str) {
        if self.json {
            self.printer.print(&JsonEvent::Error {
                path: None,
                code,
                errno: None,
                message,
            });
        }
        say(&format!("landro: {message}"));
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
                BenchWork::Echo { .. } => latency_line(&Latency::of(&self.since_told)),
            };
            say(&format!("{at:6.1} s  {what}"));
        }
        (self.told_at, self.told_bytes) = (now, self.bytes);
        self.since_told.reset();
    }

    /// Prints the summary.
    ///
    /// # Errors
    /// Standard output cannot be written; one that was closed is no error.
    pub fn finish(mut self, exit: Exit) -> io::Result<()> {
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
        let echo = matches!(self.work, BenchWork::Echo { .. });
        let per_gb = |cpu: f64| (!echo && sent_bytes > 0).then(|| cpu * 1e9 / sent_bytes as f64);
        let summary = BenchSummary {
            mode: match self.work {
                BenchWork::Send => "send",
                BenchWork::Receive => "receive",
                BenchWork::Echo { .. } => "latency",
            },
            local: self.local,
            streams: (!echo).then_some(self.streams),
            size_bytes: match self.work {
                BenchWork::Echo { size_bytes } => Some(size_bytes),
                BenchWork::Send | BenchWork::Receive => None,
            },
            sent_bytes,
            seconds,
            goodput_bps: if seconds > 0.0 {
                (sent_bytes as f64 * 8.0 / seconds) as u64
            } else {
                0
            },
            cpu_seconds_per_gb: per_gb(process_cpu - daemon_cpu.unwrap_or(0.0)),
            daemon_cpu_seconds_per_gb: daemon_cpu.and_then(per_gb),
            latency: echo.then(|| Latency::of(&self.all)),
            exit_code: exit.code(),
            stats,
            daemon,
        };
        if self.json {
            self.printer.print(&JsonEvent::Bench(&summary));
            return Ok(());
        }
        // Nothing was measured: what went wrong was said already.
        if sent_bytes == 0 {
            return Ok(());
        }
        let mut stdout = io::stdout().lock();
        match write!(stdout, "{}", text(&summary)).and_then(|()| stdout.flush()) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error),
            _ => Ok(()),
        }
    }

    fn bytes_echoed(&self) -> u64 {
        match self.work {
            BenchWork::Echo { size_bytes } => self.all.len() * size_bytes as u64,
            BenchWork::Send | BenchWork::Receive => 0,
        }
    }
}

impl Latency {
    fn of(histogram: &Histogram<u64>) -> Latency {
        let us = |ns: u64| ns as f64 / 1000.0;
        let at = |quantile| us(histogram.value_at_quantile(quantile));
        Latency {
            count: histogram.len(),
            min_us: us(histogram.min()),
            mean_us: histogram.mean() / 1000.0,
            p50_us: at(0.5),
            p90_us: at(0.9),
            p99_us: at(0.99),
            p999_us: at(0.999),
            max_us: us(histogram.max()),
        }
    }
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, MAX_ROUND_TRIP_NS, DIGITS)
        .expect("bounds and digits are within its own")
}

/// As people read it.
fn text(summary: &BenchSummary) -> String {
    use std::fmt::Write;
    let mut text = String::new();
    let seconds = summary.seconds;
    // Writing to a String cannot fail.
    let _ = match (&summary.latency, summary.size_bytes) {
        (Some(latency), Some(size_bytes)) => writeln!(
            text,
            "latency   {}\n          {} round trips of {size_bytes} bytes in {seconds:.2} s",
            latency_line(latency),
            latency.count,
        ),
        _ => writeln!(
            text,
            "{:9} {} in {seconds:.2} s",
            if summary.mode == "send" {
                "sent"
            } else {
                "received"
            },
            throughput(summary.sent_bytes, seconds),
        ),
    };
    if let Some(cpu) = summary.cpu_seconds_per_gb {
        let daemon = summary
            .daemon_cpu_seconds_per_gb
            .map(|cpu| format!(" client, {cpu:.3} s daemon"));
        let _ = writeln!(text, "cpu/GB    {cpu:.3} s{}", daemon.unwrap_or_default());
    }
    let _ = writeln!(text, "{}", summary.stats);
    if let Some(daemon) = &summary.daemon {
        let _ = writeln!(
            text,
            "daemon    {} packets sent, {} lost; {:.1} packets per send, {:.1} per receive",
            daemon.sent_packets, daemon.lost_packets, daemon.gso_batch, daemon.gro_batch
        );
    }
    text
}

fn throughput(bytes: u64, seconds: f64) -> String {
    let gb = bytes as f64 / 1e9;
    let per_second = if seconds > 0.0 { gb / seconds } else { 0.0 };
    format!(
        "{gb:.3} GB  {:.3} Gbit/s  {:.1} MB/s",
        per_second * 8.0,
        per_second * 1000.0
    )
}

fn latency_line(latency: &Latency) -> String {
    let Latency {
        p50_us,
        p90_us,
        p99_us,
        p999_us,
        max_us,
        ..
    } = latency;
    format!(
        "p50 {p50_us:.1} us  p90 {p90_us:.1}  p99 {p99_us:.1}  p99.9 {p999_us:.1}  max {max_us:.1}"
    )
}

fn say(line: &str) {
    // Nobody is left to be told that stderr is gone.
    let _ = writeln!(io::stderr().lock(), "{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_in_microseconds() {
        let mut histogram = histogram();
        (1..=1000u64).for_each(|us| histogram.saturating_record(us * 1000));
        histogram.saturating_record(MAX_ROUND_TRIP_NS);
        let latency = Latency::of(&histogram);
        assert_eq!(latency.count, 1001);
        assert!((latency.p50_us - 501.0).abs() < 1.0, "{}", latency.p50_us);
        assert!((latency.p99_us - 991.0).abs() < 2.0, "{}", latency.p99_us);
        assert!(latency.max_us >= 6e7);
        assert_eq!(Latency::of(&super::histogram()).max_us, 0.0);
    }

    #[test]
    fn rates() {
        assert_eq!(
            throughput(2_000_000_000, 2.0),
            "2.000 GB  8.000 Gbit/s  1000.0 MB/s"
        );
        assert_eq!(throughput(5, 0.0), "0.000 GB  0.000 Gbit/s  0.0 MB/s");
    }
}
