//! What the user sees of a transfer: progress and errors on stderr, lines or NDJSON on stdout, and
//! the summary.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use crate::config::LaneKind;
use crate::engine::{ClientEvent, Ended};
use crate::proto::clear::ClearOff;
use crate::proto::{EntryError, EntryErrorCode, EntryPlace, EntryResult, Event, Kind, Totals};

use super::amount;
use super::bar::Bar;
use super::counting::Counting;
use super::json::{JsonEvent, Printer};
use super::progress::Progress;
use super::repeats::Repeats;
use super::sessions::LostSessions;
use super::shown::ShownPaths;
use super::stats::{Stats, goodput_bps};

use crate::cli::escape;
use crate::cli::exit::Exit;
use crate::cli::say::{in_locale, say};

/// Often enough to look alive, seldom enough to cost nothing.
const PROGRESS_EVERY: Duration = Duration::from_millis(250);

/// Warnings and failed entries that JSON tells of: the other side says as many as it likes, and
/// costs itself little by it. Who has more wants to know what they have in common, and the summary
/// counts all.
pub const WARNINGS_SHOWN: u64 = 1_000;
const ERRORS_SHOWN: u64 = 10_000;

/// Lines of `--verbose` that wait for each other, at most until the next progress.
const PRINT_BYTES: usize = 16 << 10;

/// What the command line says about output.
#[derive(Clone, Copy, Default, Debug)]
pub struct Style {
    pub json: bool,
    pub quiet: bool,
    pub stats: bool,
    pub verbose: bool,
    pub summary: bool,
    /// What is done is done again where a session is begun anew.
    pub force: bool,
    /// Warnings are failures, and so they are shown to who wants errors only.
    pub strict: bool,
}

/// Follows one transfer.
pub struct CopyReporter {
    style: Style,
    paths: ShownPaths,
    /// Shown on a terminal only.
    bar: Option<Bar>,
    counting: Option<Counting>,
    began: Instant,
    last_progress: Instant,
    progress: Progress,
    /// Of this session, counted from the events, for one that ends without the peer's own totals.
    totals: Totals,
    sessions: LostSessions,
    /// How many sessions began with a daemon.
    connected: u64,
    warnings: u64,
    /// Those that are not a session's.
    remarks: u64,
    failed: u64,
    repeated_warnings: Repeats,
    repeated_errors: Repeats,
    /// Lines of stdout.
    lines: String,
    printer: Printer,
    /// Why lines no longer reach stdout.
    unprinted: Option<io::Error>,
}

impl CopyReporter {
    /// `counting`: a walk that may say how much there is before all is announced.
    pub fn new(style: Style, paths: ShownPaths, counting: Option<Counting>) -> CopyReporter {
        let bar = CopyReporter::is_watched(style.quiet).then(Bar::new);
        let now = crate::engine::now();
        CopyReporter {
            counting: counting.filter(|_| bar.is_some() || style.json),
            sessions: LostSessions::new(style.force),
            style,
            paths,
            bar,
            began: now,
            last_progress: now,
            progress: Progress::new(now),
            totals: Totals::default(),
            connected: 0,
            warnings: 0,
            remarks: 0,
            failed: 0,
            repeated_warnings: Repeats::default(),
            repeated_errors: Repeats::default(),
            lines: String::new(),
            printer: Printer::default(),
            unprinted: None,
        }
    }

    /// Whether somebody looks on.
    pub fn is_watched(quiet: bool) -> bool {
        !quiet && io::stderr().is_terminal()
    }

    /// Where it all goes, as typed.
    pub fn target(&self) -> String {
        self.paths.target()
    }

    /// What was done so far, by all sessions.
    pub fn totals(&self) -> Totals {
        self.sessions.with_unfinished(&self.totals)
    }

    /// An end of the last session, as one of all.
    pub fn ended(&self, ended: Ended) -> Ended {
        self.sessions.ended(ended)
    }

    /// The first JSON event.
    pub fn start(&mut self, direction: &'static str, peer: Option<String>) {
        self.json(&JsonEvent::Start {
            direction,
            peer,
            version: env!("CARGO_PKG_VERSION"),
        });
    }

    /// A session begins with a daemon. On QUIC is what everybody expects.
    pub fn connected(&mut self, event: &ClientEvent) {
        let ClientEvent::Connected {
            fingerprint,
            address,
            kind,
            kind_reason,
            ..
        } = event
        else {
            return;
        };
        self.connected += 1;
        self.json(&JsonEvent::Connected {
            address: address.to_string(),
            fingerprint: fingerprint.to_string(),
            kind: kind.to_string(),
            reason: kind_reason,
        });
        if self.style.verbose && *kind == LaneKind::Tls {
            self.say(&format!("landro: over TLS on TCP: {kind_reason}"));
        }
    }

    /// A session is lost, and another one begins in its place, which finds done what was done.
    /// `words`: if it is to be said.
    pub fn lost(&mut self, loss: (&'static str, &str), pause: Duration, words: Option<&str>) {
        let (code, message) = loss;
        self.json(&JsonEvent::Lost {
            code,
            message,
            pause_seconds: pause.as_secs_f64(),
        });
        if let Some(words) = words.filter(|_| !self.style.quiet) {
            self.say(&format!("landro: {message}; {words}"));
        }
        self.say_left_out();
        self.sessions.lose(&self.totals);
        self.totals = Totals::default();
        self.progress = Progress::new(crate::engine::now());
        (self.failed, self.warnings) = (0, self.remarks);
    }

    /// Where warnings are failures: what is said of them at the end, if there were any.
    pub fn strict_words(&self) -> Option<String> {
        let warnings = amount::count(
            self.warnings,
            "warning is a failure",
            "warnings are failures",
        );
        if !self.style.strict {
            return None;
        }
        match self.warnings {
            0 if self.sessions.leave_doubt() => Some(
                "modes or times that a lost session could not set were not told, and --strict asks \
                 for them; --force sets them again"
                    .to_owned(),
            ),
            0 => None,
            _ => Some(format!("{warnings} with --strict; the rest is complete")),
        }
    }

    pub fn event(&mut self, event: &Event) {
        self.event_at(crate::engine::now(), event);
    }

    /// The same for one of many that were taken at once.
    pub fn event_at(&mut self, now: Instant, event: &Event) {
        count(&mut self.totals, event);
        self.progress.note(now, event);
        match event {
            Event::Placed { inside } => self.paths.placed(*inside),
            Event::Entry {
                path,
                kind,
                size_bytes,
                result,
            } => self.entry(path, *kind, *size_bytes, result),
            Event::Warning { path, place, text } => {
                let shown = self.paths.of_entry(*place, path);
                self.warn(path, shown, text);
            }
            Event::ClearOff(why) => self.warn(b"--clear", "--clear".to_owned(), clear_off(*why)),
            Event::Started
            | Event::Addresses(_)
            | Event::Asked { .. }
            | Event::Announced { .. }
            | Event::Begun { .. }
            | Event::Resumed { .. }
            | Event::Counted { .. }
            | Event::Progress { .. }
            | Event::Listing { .. }
            | Event::Answer { .. }
            | Event::RoundTrips(_)
            | Event::Benched { .. } => {}
        }
        self.tick_at(now);
    }

    /// A warning about the command, or a part of it.
    pub fn remark(&mut self, about: &'static str, text: &str) {
        self.remarks += 1;
        self.warn(about.as_bytes(), about.to_owned(), text);
        self.tick();
    }

    /// `shown`: the path as it was typed.
    fn warn(&mut self, path: &[u8], shown: String, text: &str) {
        self.warnings += 1;
        if self.warnings <= WARNINGS_SHOWN {
            self.json(&JsonEvent::Warning {
                path: path.into(),
                message: text,
            });
        }
        let is_shown = !self.style.quiet || self.style.strict;
        if is_shown && self.repeated_warnings.admits(text) {
            let text = escape::text(text);
            self.say(&format!("landro: warning: {shown}: {text}"));
        }
    }

    fn entry(&mut self, path: &[u8], kind: Kind, size_bytes: u64, result: &EntryResult) {
        let (status, resumed_bytes) = match result {
            EntryResult::Done { resumed_bytes } => ("done", *resumed_bytes),
            EntryResult::Skipped => ("skipped", 0),
            EntryResult::Failed(error) => return self.entry_failed(path, error),
        };
        let is_listed = kind != Kind::Directory && status == "done";
        let kind = match kind {
            Kind::File => "file",
            Kind::Directory => "directory",
            Kind::Symlink => "symlink",
            Kind::Special => "special",
        };
        if self.style.json {
            self.json(&JsonEvent::File {
                path: path.into(),
                kind,
                size_bytes,
                status,
                resumed_bytes,
            });
        }
        if is_listed && self.style.verbose && !self.style.json {
            let path = self.paths.of_entry(EntryPlace::Source, path);
            self.lines.push_str(&in_locale(&path));
            self.lines.push('\n');
            if self.lines.len() >= PRINT_BYTES {
                self.print_lines();
            }
        }
    }

    /// Writes the lines that wait for stdout.
    fn print_lines(&mut self) {
        let lines = std::mem::take(&mut self.lines);
        if lines.is_empty() || self.unprinted.is_some() {
            return;
        }
        let print = || {
            let mut stdout = io::stdout().lock();
            stdout
                .write_all(lines.as_bytes())
                .and_then(|()| stdout.flush())
        };
        let printed = match &self.bar {
            Some(bar) => bar.suspend(print),
            None => print(),
        };
        // A reader that goes away (`| head`) ends the lines, not the transfer.
        self.unprinted = printed.err();
    }

    fn entry_failed(&mut self, path: &[u8], error: &EntryError) {
        self.failed += 1;
        let code = word(error.code);
        let side = self.paths.side_in_json(error.place);
        if self.failed <= ERRORS_SHOWN {
            let aside = side.map_or_else(String::new, |side| format!(" (on the {side})"));
            self.json(&JsonEvent::Error {
                path: Some(path.into()),
                code,
                errno: (error.errno != 0).then_some(error.errno),
                call: (!error.call.is_empty()).then_some(&error.call),
                side,
                place: Some(match error.place {
                    EntryPlace::Source => "source",
                    EntryPlace::Destination => "destination",
                }),
                message: &error.sentence(&aside),
            });
        }
        let kind = error.sentence(&match side {
            Some("client") => " (here)".to_owned(),
            Some(_) => " (over there)".to_owned(),
            None => String::new(),
        });
        if self.repeated_errors.admits(&kind) {
            let path = self.paths.of_entry(error.place, path);
            let detail = error.detail().filter(|_| self.style.verbose);
            let aside = [self.paths.side(error.place), &detail.unwrap_or_default()]
                .into_iter()
                .filter(|part| !part.is_empty())
                .collect::<Vec<_>>()
                .join("; ");
            let aside = match aside.as_str() {
                "" => aside,
                some => format!(" ({some})"),
            };
            let text = escape::text(&error.sentence(&aside));
            self.say(&format!("landro: {path}: {text}"));
        }
    }

    /// Something that concerns the transfer as a whole.
    pub fn error(&mut self, code: &'static str, errno: Option<i32>, message: &str) {
        self.json(&JsonEvent::Error {
            path: None,
            code,
            errno,
            call: None,
            side: None,
            place: None,
            message,
        });
        self.say_left_out();
        self.say(&format!("landro: {message}"));
    }

    /// Shows progress when it is due. Cheap: called for every event.
    pub fn tick(&mut self) {
        self.tick_at(crate::engine::now());
    }

    fn tick_at(&mut self, now: Instant) {
        if now.duration_since(self.last_progress) >= PROGRESS_EVERY {
            self.tell_progress(now);
        }
    }

    fn tell_progress(&mut self, now: Instant) {
        self.last_progress = now;
        self.print_lines();
        if let Some(counting) = &mut self.counting
            && let Some(counted) = counting.poll(now - self.began, self.progress.all_announced)
        {
            self.progress.count(counted);
        }
        self.progress.sample(now);
        let progress = &self.progress;
        let (total, stalled) = (progress.total(), progress.stalled(now));
        let current = progress.current().map(|path| escape::name(path));
        let at = escape::name(progress.at());
        let event = JsonEvent::Progress {
            files: progress.settled.files,
            files_announced: progress.announced.files,
            bytes: progress.settled.bytes,
            bytes_announced: progress.announced.bytes,
            all_announced: progress.all_announced,
            files_total: total.map(|total| total.files),
            bytes_total: total.map(|total| total.bytes),
            rate_bps: (progress.rate() * 8.0) as u64,
            seconds_left: progress.left().map(|left| left.as_secs_f64()),
            current: current.clone(),
            stalled_seconds: stalled.map(|silent| silent.as_secs_f64()),
            seconds: now.duration_since(self.began).as_secs_f64(),
        };
        self.json(&event);
        if let Some(bar) = &self.bar {
            let below = match stalled {
                Some(silent) => self.paths.waits(amount::span(silent), current.as_deref()),
                None => at,
            };
            bar.show(&self.progress, &below);
        }
    }

    /// The summary. `totals`: the transfer's own, where it got far enough to have them.
    ///
    /// # Errors
    /// Standard output could not be written, and not because its reader went away.
    pub fn finish(mut self, exit: Exit, totals: Option<Totals>, stats: Stats) -> io::Result<()> {
        let now = crate::engine::now();
        self.tell_progress(now);
        self.say_left_out();
        let totals = totals.unwrap_or_else(|| self.totals());
        let seconds = now.duration_since(self.began).as_secs_f64();
        self.json(&JsonEvent::Summary {
            files: totals.files,
            directories: totals.directories,
            symlinks: totals.symlinks,
            bytes: totals.bytes,
            skipped: totals.skipped,
            resumed_bytes: totals.resumed_bytes,
            kept_chunks: totals.kept_chunks,
            sent_bytes: totals.sent_bytes,
            seconds,
            goodput_bps: goodput_bps(totals.sent_bytes, seconds),
            errors: totals.errors,
            warnings: self.warnings,
            sessions: (self.connected > 0).then_some(self.connected),
            exit_code: exit.code(),
            stats: self.style.stats.then_some(&stats),
        });
        let on_terminal = self.bar.take().inspect(Bar::clear).is_some();
        if self.style.json {
            return self.printer.finish();
        }
        let mut summary = summary_line(&totals, self.warnings, seconds);
        if self.connected > 1 {
            summary.push_str(&format!(
                ", in {} sessions",
                amount::thousands(self.connected)
            ));
        }
        if self.style.summary {
            self.lines.push_str(&format!("{summary}\n"));
            self.print_lines();
        } else if (on_terminal && !self.style.quiet) || self.style.stats {
            self.say(&summary);
        }
        if self.style.stats {
            self.say(&stats.to_string());
        }
        match self.unprinted {
            Some(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error),
            _ => Ok(()),
        }
    }

    /// How many lines of each kind were not shown.
    fn say_left_out(&mut self) {
        let errors = std::mem::take(&mut self.repeated_errors);
        let warnings = std::mem::take(&mut self.repeated_warnings);
        for (before, repeats) in [("", errors), ("warning: ", warnings)] {
            for (kind, more) in repeats.left_out() {
                let (more, kind) = (amount::thousands(more), escape::text(kind));
                self.say(&format!("landro: {before}{more} more: {kind}"));
            }
        }
    }

    /// A line on stderr, above the progress bar. With `--json`, too: stderr is for people.
    fn say(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| say(line)),
            None => say(line),
        }
    }

    fn json(&mut self, event: &JsonEvent) {
        if self.style.json {
            self.printer.print(event);
        }
    }
}

fn word(code: EntryErrorCode) -> &'static str {
    match code {
        EntryErrorCode::Source => "source",
        EntryErrorCode::Destination => "destination",
        EntryErrorCode::Full => "full",
        EntryErrorCode::Integrity => "integrity",
        EntryErrorCode::Permission => "permission",
        EntryErrorCode::Name => "name",
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
        | Event::Addresses(_)
        | Event::Placed { .. }
        | Event::Begun { .. }
        | Event::Resumed { .. }
        | Event::Counted { .. }
        | Event::Asked { .. }
        | Event::Announced { .. }
        | Event::Warning { .. }
        | Event::ClearOff(_)
        | Event::Listing { .. }
        | Event::Answer { .. }
        | Event::RoundTrips(_)
        | Event::Benched { .. } => {}
    }
}

/// Why nothing goes in the clear, or nothing more, and what goes on.
fn clear_off(why: ClearOff) -> &'static str {
    match why {
        ClearOff::NotAllowed => {
            "the daemon allows no lanes in the clear, so that all goes encrypted; it does with `serve --allow-clear` and the option clear on this host's line of its authorized_peers"
        }
        ClearOff::NotHad => {
            "no lane in the clear came to be, for TCP does not get through or somebody else answers on the way, so that all goes encrypted"
        }
        ClearOff::Altered => {
            "DATA IN THE CLEAR WAS CHANGED ON THE WIRE; what was changed comes again encrypted, as does all that follows. Somebody on the way does that, or a broken switch or network card: do not trust this wire"
        }
    }
}

fn summary_line(totals: &Totals, warnings: u64, seconds: f64) -> String {
    let mut line = format!(
        "{}, {} in {seconds:.2} s ({})",
        amount::count(totals.files, "file", "files"),
        amount::bytes(totals.bytes),
        amount::rate(goodput_bps(totals.sent_bytes, seconds) as f64 / 8.0),
    );
    for (count, what) in [(totals.skipped, "unchanged"), (totals.errors, "failed")] {
        if count > 0 {
            line.push_str(&format!(", {} {what}", amount::thousands(count)));
        }
    }
    if warnings > 0 {
        let warnings = amount::count(warnings, "warning", "warnings");
        line.push_str(&format!(", {warnings}"));
    }
    if totals.resumed_bytes > 0 {
        line.push_str(&format!(
            ", {} resumed",
            amount::bytes(totals.resumed_bytes)
        ));
    }
    line
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
            EntryResult::failed(EntryError {
                code,
                errno: 28,
                text: String::new(),
                place: EntryPlace::Destination,
                call: String::new(),
                advice: String::new(),
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
    fn a_summary_is_one_line() {
        let mut totals = Totals {
            files: 1,
            bytes: 1_070_000,
            sent_bytes: 2_000_000,
            ..Totals::default()
        };
        assert_eq!(
            summary_line(&totals, 0, 2.0),
            "1 file, 1.07 MB in 2.00 s (1.00 MB/s)"
        );
        (totals.skipped, totals.errors, totals.resumed_bytes) = (2, 1, 10);
        let more = summary_line(&totals, 0, 2.0);
        assert!(
            more.ends_with(", 2 unchanged, 1 failed, 10 B resumed"),
            "{more}"
        );
        let warned = summary_line(&totals, 1, 2.0);
        assert!(warned.contains(", 1 failed, 1 warning, "), "{warned}");
    }
}
