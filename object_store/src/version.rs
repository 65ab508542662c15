//! Which version of a file was seen: its size and time, as e_tag and conditions know it.

use std::time::{SystemTime, UNIX_EPOCH};

use chrono::{DateTime, Utc};
use landro::{ListedEntry, RemoteRange};
use object_store::ObjectMeta;
use object_store::path::Path;

/// What tells a file from what it was before. Whoever replaces a file by landro gives it another
/// time; who writes into it twice within a tick of the daemon's clock, and leaves its size, cannot
/// be told from who did so once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct FileVersion {
    pub(crate) bytes: u64,
    pub(crate) modified: SystemTime,
}

impl FileVersion {
    pub(crate) fn of(entry: &ListedEntry) -> FileVersion {
        FileVersion {
            bytes: entry.bytes,
            modified: entry.modified,
        }
    }

    /// Of the file that was read.
    pub(crate) fn of_read(found: &RemoteRange) -> FileVersion {
        FileVersion {
            bytes: found.file_bytes,
            modified: found.modified,
        }
    }

    /// Size and nanoseconds, which conditions compare as text. No comma and no quote is in it.
    pub(crate) fn e_tag(&self) -> String {
        let (sign, since) = match self.modified.duration_since(UNIX_EPOCH) {
            Ok(since) => ("", since),
            Err(before) => ("-", before.duration()),
        };
        format!("{:x}-{sign}{:x}", self.bytes, since.as_nanos())
    }

    pub(crate) fn meta(&self, location: Path) -> ObjectMeta {
        ObjectMeta {
            location,
            last_modified: self.last_modified(),
            size: self.bytes,
            e_tag: Some(self.e_tag()),
            version: None,
        }
    }

    fn last_modified(&self) -> DateTime<Utc> {
        let (seconds, nanoseconds) = match self.modified.duration_since(UNIX_EPOCH) {
            Ok(since) => (i64::try_from(since.as_secs()).ok(), since.subsec_nanos()),
            Err(before) => {
                let before = before.duration();
                // The fraction counts forwards.
                let whole = before.as_secs() + u64::from(before.subsec_nanos() > 0);
                let fraction = (1_000_000_000 - before.subsec_nanos()) % 1_000_000_000;
                (0i64.checked_sub_unsigned(whole), fraction)
            }
        };
        let found = seconds.and_then(|seconds| DateTime::from_timestamp(seconds, nanoseconds));
        // What the calendar cannot say is as far away as can be.
        found.unwrap_or(match self.modified < UNIX_EPOCH {
            true => DateTime::<Utc>::MIN_UTC,
            false => DateTime::<Utc>::MAX_UTC,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn version(bytes: u64, modified: SystemTime) -> FileVersion {
        FileVersion { bytes, modified }
    }

    #[test]
    fn a_nanosecond_or_a_byte_is_another_tag() {
        let at = UNIX_EPOCH + Duration::new(1_700_000_000, 5);
        let before = UNIX_EPOCH - Duration::new(0, 1);
        let versions = [
            version(3, at),
            version(3, at + Duration::from_nanos(1)),
            version(4, at),
            version(3, before),
            version(3, UNIX_EPOCH + Duration::new(0, 1)),
        ];
        for (number, one) in versions.iter().enumerate() {
            assert_eq!(one.e_tag(), one.clone().e_tag());
            for other in &versions[number + 1..] {
                assert_ne!(one.e_tag(), other.e_tag());
            }
        }
    }

    #[test]
    fn times_of_all_ages() {
        let says = |modified| version(0, modified).last_modified();
        for (seconds, nanoseconds) in [(0, 0), (-1, 999_999_999), (-2, 0), (5, 7)] {
            let modified = match seconds {
                0.. => UNIX_EPOCH + Duration::new(seconds as u64, nanoseconds),
                _ => {
                    let whole = Duration::from_secs(-seconds as u64);
                    UNIX_EPOCH - whole + Duration::from_nanos(nanoseconds.into())
                }
            };
            let expected = DateTime::from_timestamp(seconds, nanoseconds).unwrap();
            assert_eq!(says(modified), expected, "{seconds} {nanoseconds}");
        }
        let far = Duration::from_secs(1 << 60);
        assert_eq!(says(UNIX_EPOCH + far), DateTime::<Utc>::MAX_UTC);
        assert_eq!(says(UNIX_EPOCH - far), DateTime::<Utc>::MIN_UTC);
    }
}
