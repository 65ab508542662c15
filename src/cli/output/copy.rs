//! What the user sees of a transfer: progress and errors on stderr, or NDJSON on stdout, and the
//! summary.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{
    BinaryBytes, HumanBytes, HumanCount, ProgressBar, ProgressDrawTarget, ProgressStyle,
};

use crate::proto::{EntryError, EntryErrorCode, EntryResult, Event, Kind, Totals};

use super::json::{JsonEvent, Printer};
use super::stats::{Stats, goodput_bps};
use crate::cli::escape;
use crate::cli::exit::Exit;

/// Often enough to look alive, seldom enough to cost nothing.
const PROGRESS_EVERY: Duration = Duration::from_millis(250);

/// Warnings that are shown, and failed entries: the other side says as many as it likes, and costs
/// itself little by it. Who has more wants to know what they have in common, and the summary counts
/// all.
pub const WARNINGS_SHOWN: u64 = 1_000;
const ERRORS_SHOWN: u64 = 10_000;

/// What the command line says about output.
#[derive(Clone, Copy, Default, Debug)]
pub struct Style {
    pub json: bool,
    pub quiet: bool,
    pub stats: bool,
}

/// Follows one transfer.
pub struct CopyReporter {
    style: Style,
    /// Shown on a terminal only.
    bar: Option<ProgressBar>,
    began: Instant,
    last_progress: Instant,
    /// Counted from the events, for a transfer that ends without the peer's own totals.
    totals: Totals,
    announced_files: u64,
    announced_bytes: u64,
    announced_all: bool,
    /// File bytes that crossed, or need not: skipped and resumed ones.
    settled_bytes: u64,
    warnings: u64,
    failed: u64,
    printer: Printer,
}

impl CopyReporter {
    pub fn new(style: Style) -> CopyReporter {
        let bar = (!style.quiet && std::io::stderr().is_terminal()).then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(8));
            bar.set_style(spinner());
            bar
        });
        let now = crate::engine::now();
        CopyReporter {
            style,
            bar,
            began: now,
            last_progress: now,
            totals: Totals::default(),
            announced_files: 0,
            announced_bytes: 0,
            announced_all: false,
            settled_bytes: 0,
            warnings: 0,
            failed: 0,
            printer: Printer::default(),
        }
    }

    /// The first JSON event.
    pub fn start(&mut self, direction: &'static str, peer: Option<String>) {
        self.json(&JsonEvent::Start {
            direction,
            peer,
            version: env!("CARGO_PKG_VERSION"),
        });
    }

    /// Whether anything was warned of so far.
    pub fn has_warned(&self) -> bool {
        self.warnings > 0
    }

    pub fn event(&mut self, event: &Event) {
        count(&mut self.totals, event);
        match event {
            Event::Started
            | Event::Asked { .. }
            | Event::Listing { .. }
            | Event::RoundTrips(_)
            | Event::Benched { .. } => {}
            Event::Announced {
                files,
                bytes,
                complete,
            } => {
                (self.announced_files, self.announced_bytes) = (*files, *bytes);
                if *complete && !self.announced_all {
                    self.announced_all = true;
                    self.bar.iter().for_each(|bar| bar.set_style(full_bar()));
                }
            }
            Event::Progress { bytes } => {
                self.settled_bytes = self.settled_bytes.saturating_add(*bytes)
            }
            Event::Entry {
                path,
                kind,
                size_bytes,
                result,
            } => self.entry(path, *kind, *size_bytes, result),
            Event::Warning { .. } if self.warnings >= WARNINGS_SHOWN => self.warnings += 1,
            Event::Warning { path, text } => {
                self.warnings += 1;
                self.json(&JsonEvent::Warning {
                    path: path.into(),
                    message: text,
                });
                if !self.style.quiet {
                    self.say(&format!(
                        "landro: warning: {}: {}",
                        escape::name(path),
                        escape::text(text)
                    ));
                }
            }
        }
        self.tick();
    }

    fn entry(&mut self, path: &[u8], kind: Kind, size_bytes: u64, result: &EntryResult) {
        let (status, resumed_bytes) = match result {
            EntryResult::Done { resumed_bytes } => ("done", *resumed_bytes),
            EntryResult::Skipped => ("skipped", 0),
            EntryResult::Failed(error) => return self.entry_failed(path, error),
        };
        let settled_bytes = if *result == EntryResult::Skipped {
            size_bytes
        } else {
            resumed_bytes
        };
        self.settled_bytes = self.settled_bytes.saturating_add(settled_bytes);
        let kind = match kind {
            Kind::File => "file",
            Kind::Directory => "directory",
            Kind::Symlink => "symlink",
            Kind::Special => "special",
        };
        self.json(&JsonEvent::File {
            path: path.into(),
            kind,
            size_bytes,
            status,
            resumed_bytes,
        });
    }

    fn entry_failed(&mut self, path: &[u8], error: &EntryError) {
        self.failed += 1;
        if self.failed > ERRORS_SHOWN {
            return;
        }
        let code = match error.code {
            EntryErrorCode::Source => "source",
            EntryErrorCode::Destination => "destination",
            EntryErrorCode::Full => "full",
            EntryErrorCode::Integrity => "integrity",
            EntryErrorCode::Permission => "permission",
            EntryErrorCode::Name => "name",
        };
        let errno = (error.errno != 0).then_some(error.errno);
        self.json(&JsonEvent::Error {
            path: Some(path.into()),
            code,
            errno,
            message: &error.text,
        });
        self.say(&format!(
            "landro: {}: {}",
            escape::name(path),
            escape::text(&error.text)
        ));
    }

    /// Something that concerns the transfer as a whole.
    pub fn error(&mut self, code: &'static str, message: &str) {
        self.json(&JsonEvent::Error {
            path: None,
            code,
            errno: None,
            message,
        });
        self.say(&format!("landro: {message}"));
    }

    /// Shows progress when it is due. Cheap: called for every event.
    pub fn tick(&mut self) {
        let now = crate::engine::now();
        if now.duration_since(self.last_progress) >= PROGRESS_EVERY {
            self.progress(now);
        }
    }

    fn progress(&mut self, now: Instant) {
        self.last_progress = now;
        let files = self.totals.files + self.totals.skipped;
        self.json(&JsonEvent::Progress {
            files,
            files_announced: self.announced_files,
            bytes: self.settled_bytes,
            bytes_announced: self.announced_bytes,
            all_announced: self.announced_all,
            seconds: now.duration_since(self.began).as_secs_f64(),
        });
        if let Some(bar) = &self.bar {
            bar.set_length(self.announced_bytes);
            bar.set_position(self.settled_bytes);
            bar.set_message(format!(
                "{}/{} files",
                HumanCount(files),
                HumanCount(self.announced_files)
            ));
        }
    }

    /// The summary. `totals`: the transfer's own, where it got far enough to have them.
    pub fn finish(mut self, exit: Exit, totals: Option<Totals>, stats: Stats) {
        let now = crate::engine::now();
        self.progress(now);
        self.say_left_out();
        let totals = totals.unwrap_or(self.totals);
        let seconds = now.duration_since(self.began).as_secs_f64();
        self.json(&JsonEvent::Summary {
            files: totals.files,
            directories: totals.directories,
            symlinks: totals.symlinks,
            bytes: totals.bytes,
            skipped: totals.skipped,
            resumed_bytes: totals.resumed_bytes,
            sent_bytes: totals.sent_bytes,
            seconds,
            goodput_bps: goodput_bps(totals.sent_bytes, seconds),
            errors: totals.errors,
            warnings: self.warnings,
            exit_code: exit.code(),
            stats: self.style.stats.then_some(&stats),
        });
        let on_terminal = self
            .bar
            .take()
            .inspect(ProgressBar::finish_and_clear)
            .is_some();
        if self.style.json {
            return;
        }
        if (on_terminal && !self.style.quiet) || self.style.stats {
            self.say(&summary_line(&totals, seconds));
        }
        if self.style.stats {
            self.say(&stats.to_string());
        }
    }

    /// How much was not shown.
    fn say_left_out(&self) {
        let (errors, warnings) = (
            self.failed.saturating_sub(ERRORS_SHOWN),
            self.warnings.saturating_sub(WARNINGS_SHOWN),
        );
        if errors > 0 {
            self.say(&format!("landro: {errors} more entries failed"));
        }
        if warnings > 0 && !self.style.quiet {
            self.say(&format!("landro: warning: {warnings} more warnings"));
        }
    }

    /// A line on stderr, above the progress bar. With `--json`, too: stderr is for people.
    fn say(&self, line: &str) {
        let print = || {
            // Nobody is left to be told that stderr is gone.
            let _ = writeln!(std::io::stderr().lock(), "{line}");
        };
        match &self.bar {
            Some(bar) => bar.suspend(print),
            None => print(),
        }
    }

    fn json(&mut self, event: &JsonEvent) {
        if self.style.json {
            self.printer.print(event);
        }
    }
}

/// Adds what one event says to totals; the other side of a transfer does the same.
fn count(totals: &mut Totals, event: &Event) {
    match event {
        Event::Progress { bytes } => totals.sent_bytes += bytes,
        Event::Entry {
            kind,
            size_bytes,
            result,
            ..
        } => totals.count(*kind, *size_bytes, result),
        Event::Started
        | Event::Asked { .. }
        | Event::Announced { .. }
        | Event::Warning { .. }
        | Event::Listing { .. }
        | Event::RoundTrips(_)
        | Event::Benched { .. } => {}
    }
}

fn summary_line(totals: &Totals, seconds: f64) -> String {
    let rate = HumanBytes((goodput_bps(totals.sent_bytes, seconds) / 8).max(1));
    let mut line = format!(
        "{} files, {} in {seconds:.2} s ({rate}/s)",
        HumanCount(totals.files),
        BinaryBytes(totals.bytes)
    );
    for (count, what) in [(totals.skipped, "unchanged"), (totals.errors, "failed")] {
        if count > 0 {
            line.push_str(&format!(", {} {what}", HumanCount(count)));
        }
    }
    if totals.resumed_bytes > 0 {
        line.push_str(&format!(", {} resumed", BinaryBytes(totals.resumed_bytes)));
    }
    line
}

/// While the walk goes on the total is unknown.
fn spinner() -> ProgressStyle {
    let template = "{spinner} {msg}  {binary_bytes}  {binary_bytes_per_sec}";
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner())
}

fn full_bar() -> ProgressStyle {
    let template =
        "{wide_bar} {msg}  {binary_bytes}/{binary_total_bytes}  {binary_bytes_per_sec}  {eta}";
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn totals_from_events() {
        let entry = |kind, result| Event::Entry {
            path: Bytes::from("x"),
            kind,
            size_bytes: 10,
            result,
        };
        let failed = |code| {
            EntryResult::Failed(EntryError {
                code,
                errno: 28,
                text: String::new(),
            })
        };
        let mut totals = Totals::default();
        for event in [
            entry(Kind::File, EntryResult::Done { resumed_bytes: 4 }),
            Event::Progress { bytes: 6 },
            entry(Kind::File, EntryResult::Skipped),
            entry(Kind::Directory, EntryResult::Done { resumed_bytes: 0 }),
            entry(Kind::Symlink, EntryResult::Done { resumed_bytes: 0 }),
            entry(Kind::File, failed(EntryErrorCode::Full)),
        ] {
            count(&mut totals, &event);
        }
        let expected = Totals {
            files: 1,
            directories: 1,
            symlinks: 1,
            bytes: 10,
            skipped: 1,
            resumed_bytes: 4,
            sent_bytes: 6,
            errors: 1,
            full: true,
            ..Totals::default()
        };
        assert_eq!(totals, expected);
    }

    #[test]
    fn templates_are_valid() {
        for template in [spinner, full_bar] {
            drop(template());
        }
        assert!(ProgressStyle::with_template("{wide_bar} {binary_total_bytes} {eta}").is_ok());
    }
}
