//! Rows of a listing: sorted as far as memory goes, as names, as `ls -l` has them, or as JSON.

use std::io::{self, BufWriter, Stdout, Write};

use bytes::Bytes;

use crate::cli::escape;
use crate::cli::exit::Exit;
use crate::cli::say::say;
use crate::proto::{Kind, Meta};

use super::json::{JsonEvent, JsonPath, Printer};

/// What is kept of a directory to sort it, about: half a million names. Rows of a larger one are
/// printed as they come.
const SORTED_MAX_BYTES: usize = 64 << 20;

/// What a row takes beside its names.
const ROW_BYTES: usize = size_of::<Row>();

/// How rows are printed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RowFormat {
    /// One name per line.
    Names,
    Long,
    Json,
}

/// A row as it came.
#[derive(Debug)]
struct Row {
    name: Bytes,
    meta: Meta,
    link: Option<Bytes>,
}

/// Whether rows wait for the others.
enum Order {
    /// By the bytes of their names. Next: AsTheyCome.
    Sorted {
        kept: Vec<Row>,
        kept_bytes: usize,
    },
    AsTheyCome,
}

/// Takes the rows of one listing.
pub struct Rows {
    format: RowFormat,
    /// Names that begin with a dot are shown, too.
    all: bool,
    /// The name that the URL ends in, which is shown whatever it is.
    asked: Vec<u8>,
    order: Order,
    out: BufWriter<Stdout>,
    json: Printer,
    written: io::Result<()>,
    shown: u64,
}

impl Rows {
    /// `path`: what is listed.
    pub fn new(format: RowFormat, all: bool, path: &[u8]) -> Rows {
        let last = path
            .rsplit(|&byte| byte == b'/')
            .find(|part| !part.is_empty());
        Rows {
            format,
            all,
            asked: last.unwrap_or_default().to_vec(),
            order: Order::Sorted {
                kept: Vec::new(),
                kept_bytes: 0,
            },
            out: BufWriter::new(io::stdout()),
            json: Printer::default(),
            written: Ok(()),
            shown: 0,
        }
    }

    pub fn take(&mut self, name: Bytes, meta: Meta, link: Option<Bytes>) {
        if name.starts_with(b".") && !self.all && name != self.asked {
            return;
        }
        let bytes = ROW_BYTES + name.len() + link.as_ref().map_or(0, Bytes::len);
        let row = Row { name, meta, link };
        match &mut self.order {
            Order::AsTheyCome => self.print(&row),
            Order::Sorted { kept, kept_bytes } => {
                kept.push(row);
                *kept_bytes += bytes;
                if *kept_bytes > SORTED_MAX_BYTES {
                    let so_many = kept.len();
                    say(&format!(
                        "landro: warning: more than {so_many} entries: they are not sorted, but \
                         come as the directory has them"
                    ));
                    self.let_go();
                }
            }
        }
    }

    /// Prints what waits, in the order in which it stands.
    fn let_go(&mut self) {
        if let Order::Sorted { kept, .. } = std::mem::replace(&mut self.order, Order::AsTheyCome) {
            kept.iter().for_each(|row| self.print(row));
        }
    }

    fn print(&mut self, row: &Row) {
        let Row { name, meta, link } = row;
        self.shown += 1;
        if self.written.is_err() {
            return;
        }
        match self.format {
            RowFormat::Names => self.written = writeln!(self.out, "{}", escape::name(name)),
            RowFormat::Long => {
                let row = long(name, meta, link.as_deref());
                self.written = writeln!(self.out, "{row}");
            }
            RowFormat::Json => self.json.print(&JsonEvent::Entry {
                path: name.into(),
                kind: match meta.kind {
                    Kind::File => "file",
                    Kind::Directory => "directory",
                    Kind::Symlink => "symlink",
                    Kind::Special => "special",
                },
                mode: format!("{:04o}", meta.mode & 0o7777),
                size_bytes: meta.size_bytes,
                modified: utc(meta.mtime.seconds),
                modified_seconds: meta.mtime.seconds,
                modified_nanoseconds: meta.mtime.nanoseconds,
                link: link.as_ref().map(JsonPath::from),
            }),
        }
    }

    /// Something that concerns the listing as a whole; the rows that came are printed before.
    pub fn error(&mut self, code: &'static str, errno: Option<i32>, message: &str) {
        self.all_that_came();
        if self.format == RowFormat::Json {
            self.json.print(&JsonEvent::Error {
                path: None,
                code,
                errno,
                call: None,
                side: None,
                place: None,
                message,
            });
        }
        say(&format!("landro: {message}"));
    }

    fn all_that_came(&mut self) {
        if let Order::Sorted { kept, .. } = &mut self.order {
            kept.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        }
        self.let_go();
        if self.written.is_ok() {
            self.written = self.out.flush();
        }
    }

    /// The end.
    ///
    /// # Errors
    /// Standard output cannot be written.
    pub fn finish(mut self, exit: Exit) -> io::Result<()> {
        self.all_that_came();
        if self.format == RowFormat::Json {
            self.json.print(&JsonEvent::Listed {
                entries: self.shown,
                exit_code: exit.code(),
            });
            return self.json.finish();
        }
        match self.written {
            // `landro ls ... | head` is no failure.
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error),
            _ => Ok(()),
        }
    }
}

/// `-rw-r--r--         1234 2026-01-02T03:04:05Z name -> target`
fn long(path: &[u8], meta: &Meta, link: Option<&[u8]>) -> String {
    let mut row = format!(
        "{} {:>12} {} {}",
        mode(meta),
        meta.size_bytes,
        utc(meta.mtime.seconds),
        escape::name(path)
    );
    if let Some(link) = link {
        row.push_str(" -> ");
        row.push_str(&escape::name(link));
    }
    row
}

/// As `ls -l` prints it, with the set-id and sticky bits.
fn mode(meta: &Meta) -> String {
    let kind = match meta.kind {
        Kind::File => '-',
        Kind::Directory => 'd',
        Kind::Symlink => 'l',
        Kind::Special => '?',
    };
    let mut text = String::from(kind);
    for (shift, special, with_x, without_x) in [
        (6, 0o4000, 's', 'S'),
        (3, 0o2000, 's', 'S'),
        (0, 0o1000, 't', 'T'),
    ] {
        let bits = meta.mode >> shift;
        text.push(if bits & 4 != 0 { 'r' } else { '-' });
        text.push(if bits & 2 != 0 { 'w' } else { '-' });
        text.push(match (meta.mode & special != 0, bits & 1 != 0) {
            (true, true) => with_x,
            (true, false) => without_x,
            (false, true) => 'x',
            (false, false) => '-',
        });
    }
    text
}

/// Seconds since the epoch as a date and time in UTC; years as they come, before 1970 too.
fn utc(seconds: i64) -> String {
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    // Years that begin in March have their leap day at the end, and 400 of them have 146,097 days.
    let from_march_0000 = days + 719_468;
    let (era, day) = (
        from_march_0000.div_euclid(146_097),
        from_march_0000.rem_euclid(146_097),
    );
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day_of_month = day - (153 * month + 2) / 5 + 1;
    let (month, next_year) = if month < 10 {
        (month + 3, 0)
    } else {
        (month - 9, 1)
    };
    let year = era * 400 + year + next_year;
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day_of_month:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use crate::proto::{Lasting, Mtime};

    use super::*;

    fn meta(kind: Kind, mode: u32) -> Meta {
        let mtime = Mtime {
            seconds: 0,
            nanoseconds: 5,
        };
        Meta {
            kind,
            mode,
            mtime,
            size_bytes: 42,
            allocated_bytes: 42,
            inode: 1,
            device: 0,
            lasting: Lasting::Inode,
            links: 1,
            is_sized: true,
        }
    }

    #[test]
    fn rows() {
        assert_eq!(
            long(b"a\nb", &meta(Kind::File, 0o644), None),
            "-rw-r--r--           42 1970-01-01T00:00:00Z a\\nb"
        );
        let link = long(b"l", &meta(Kind::Symlink, 0o777), Some(b"to"));
        assert!(link.starts_with("lrwxrwxrwx") && link.ends_with("l -> to"));
    }

    #[test]
    fn many_rows_are_not_kept() {
        let mut rows = Rows::new(RowFormat::Long, false, b"dir/");
        rows.written = Err(io::ErrorKind::BrokenPipe.into());
        let name = |number: usize| Bytes::from(format!("{number:0>255}"));
        let most = SORTED_MAX_BYTES / (ROW_BYTES + 255);
        for number in 0..most {
            rows.take(name(number), meta(Kind::File, 0o644), None);
        }
        assert!(matches!(&rows.order, Order::Sorted { kept, .. } if kept.len() == most));
        rows.take(name(most), meta(Kind::File, 0o644), None);
        rows.take(name(0), meta(Kind::File, 0o644), None);
        assert!(matches!(rows.order, Order::AsTheyCome) && rows.shown == most as u64 + 2);
    }

    #[test]
    fn names_with_a_dot_are_shown_when_asked_for() {
        for (all, path, shown) in [
            (false, &b"dir"[..], 1),
            (true, b"dir", 3),
            (false, b"", 1),
            (false, b"dir/.b", 2),
        ] {
            let mut rows = Rows::new(RowFormat::Json, all, path);
            for name in ["a", ".b", ".c"] {
                rows.take(Bytes::from(name), meta(Kind::File, 0o644), None);
            }
            let Order::Sorted { kept, .. } = &rows.order else {
                panic!()
            };
            assert_eq!(kept.len(), shown, "{all} {path:?}");
        }
    }

    #[test]
    fn modes() {
        assert_eq!(mode(&meta(Kind::Directory, 0o1777)), "drwxrwxrwt");
        assert_eq!(mode(&meta(Kind::File, 0o6745)), "-rwsr-Sr-x");
    }

    #[test]
    fn dates() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_735_689_599, "2024-12-31T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
            (-1, "1969-12-31T23:59:59Z"),
            (-62_135_596_800, "0001-01-01T00:00:00Z"),
        ] {
            assert_eq!(utc(seconds), text);
        }
    }
}
