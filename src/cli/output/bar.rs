//! The progress bar: two lines on a terminal, as wide as it is and in ASCII.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use terminal_size::{Width, terminal_size_of};

use super::amount;
use super::progress::{Amount, Progress};
use crate::cli::say::in_locale;

/// Of a terminal that does not say.
const COLUMNS: usize = 80;

/// A shorter bar tells nothing that the per cent do not.
const BAR_MIN: usize = 10;
const BAR_MAX: usize = 40;

/// Drawn on stderr, if that is a terminal.
pub struct Bar {
    drawn: ProgressBar,
}

impl Bar {
    pub fn new() -> Bar {
        let drawn = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(8));
        // The text is made here, and nothing of the template can be wrong.
        let style = ProgressStyle::with_template("{msg}");
        drawn.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        Bar { drawn }
    }

    /// `below`: the file that is moved, or why nothing moves.
    pub fn show(&self, progress: &Progress, below: &str) {
        // The last column is left free: some terminals wrap when it is written.
        let columns = terminal_size_of(std::io::stderr())
            .map_or(COLUMNS, |(Width(columns), _)| usize::from(columns))
            .saturating_sub(1);
        let mut text = line(progress, columns);
        let below = in_locale(below);
        if !below.is_empty() {
            text.push('\n');
            text.push_str(end_of(&below, columns));
        }
        self.drawn.set_message(text);
        self.drawn.tick();
    }

    /// Prints above it.
    pub fn suspend<T>(&self, print: impl FnOnce() -> T) -> T {
        self.drawn.suspend(print)
    }

    pub fn clear(&self) {
        self.drawn.finish_and_clear();
    }
}

/// As much as fits, what matters most first.
fn line(progress: &Progress, columns: usize) -> String {
    let settled = progress.settled;
    let mut parts = Vec::new();
    let total = progress.total();
    parts.push(match total {
        Some(total) => format!("{:3} %", percent(settled, total)),
        None => amount::bytes(settled.bytes),
    });
    parts.push(amount::rate(progress.rate()));
    if let Some(total) = total {
        parts.extend(
            progress
                .left()
                .filter(|left| !left.is_zero())
                .map(|left| format!("{} left", amount::span(rounded_up(left)))),
        );
        let (done, all) = (amount::bytes(settled.bytes), amount::bytes(total.bytes));
        parts.push(format!("{done} of {all}"));
    }
    let of = total.map_or(progress.announced, |total| total).files;
    let (files, of) = (
        amount::thousands(settled.files),
        amount::count(of, "file", "files"),
    );
    parts.push(format!("{files} of {of}"));
    let mut text = String::new();
    for part in parts {
        let gap = if text.is_empty() { "" } else { "  " };
        if text.len() + gap.len() + part.len() > columns {
            break;
        }
        text.push_str(gap);
        text.push_str(&part);
    }
    let room = columns.saturating_sub(text.len() + 4).min(BAR_MAX);
    match total {
        Some(total) if room >= BAR_MIN => {
            let filled = room * percent(settled, total) as usize / 100;
            format!(
                "[{}{}]  {text}",
                "#".repeat(filled),
                "-".repeat(room - filled)
            )
        }
        _ => text,
    }
}

/// Nobody waits for 0 s.
fn rounded_up(left: Duration) -> Duration {
    Duration::from_secs(left.as_secs() + u64::from(left.subsec_nanos() > 0))
}

/// Of the bytes; where there are none, of the files.
fn percent(settled: Amount, total: Amount) -> u64 {
    let (part, whole) = match total.bytes {
        0 => (settled.files, total.files),
        bytes => (settled.bytes, bytes),
    };
    let percent = u128::from(part.min(whole)) * 100 / u128::from(whole.max(1));
    percent as u64
}

/// The end of a path says more than its beginning. A column for each character is too few for some,
/// which are rare; those take two.
fn end_of(text: &str, columns: usize) -> &str {
    let width = |c: char| if c.is_ascii() { 1 } else { 2 };
    let mut used = 0;
    for (at, c) in text.char_indices().rev() {
        used += width(c);
        if used > columns {
            return &text[at + c.len_utf8()..];
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use crate::proto::Event;

    use super::*;

    fn half_way() -> Progress {
        let start = crate::engine::now();
        let mut progress = Progress::new(start);
        progress.sample(start);
        for event in [
            Event::Announced {
                files: 12_345,
                bytes: 2_000_000_000,
                complete: true,
            },
            Event::Progress {
                bytes: 1_000_000_000,
            },
        ] {
            progress.note(start, &event);
        }
        progress.sample(start + Duration::from_secs(1));
        progress
    }

    #[test]
    fn no_width_is_exceeded_and_nothing_but_ascii_is_drawn() {
        let progress = half_way();
        for columns in 0..200 {
            let line = line(&progress, columns);
            assert!(
                line.len() <= columns && line.is_ascii(),
                "{columns}: {line}"
            );
        }
        let wide = line(&progress, 100);
        let words = "50 %  1.00 GB/s  1 s left  1.00 GB of 2.00 GB  0 of 12,345 files";
        assert!(wide.starts_with("[####") && wide.ends_with(words), "{wide}");
        assert_eq!(line(&progress, 16), " 50 %  1.00 GB/s");
    }

    #[test]
    fn unknown_totals_are_not_made_up() {
        let start = crate::engine::now();
        let mut progress = Progress::new(start);
        progress.note(start, &Event::Progress { bytes: 5 });
        assert_eq!(line(&progress, 80), "5 B  0 B/s  0 of 0 files");
    }

    #[test]
    fn long_paths_keep_their_end() {
        assert_eq!(end_of("abc", 3), "abc");
        assert_eq!(end_of("abcd", 3), "bcd");
        assert_eq!(end_of("\u{e4}\u{e4}b", 3), "\u{e4}b");
    }

    #[test]
    fn per_cent_of_anything() {
        let amount = |files, bytes| Amount { files, bytes };
        assert_eq!(percent(amount(1, 0), amount(2, 0)), 50);
        assert_eq!(percent(amount(0, u64::MAX), amount(0, u64::MAX)), 100);
        assert_eq!(percent(amount(9, 300), amount(3, 200)), 100);
        assert_eq!(percent(amount(0, 0), amount(0, 0)), 0);
    }
}
