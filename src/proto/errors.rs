//! Errors put into words: what is wrong and what to do about it. Path, side and system call stand
//! beside the words, for whoever shows them.

use std::fmt::Write;

use std::time::Duration;

use crate::proto::errno::{
    EACCES, EAGAIN, EDQUOT, EEXIST, EFBIG, EIO, EISDIR, ELOOP, EMFILE, ENAMETOOLONG, ENFILE,
    ENOENT, ENOSPC, ENOTDIR, ENXIO, EPERM, EROFS, EXDEV,
};
use crate::proto::{
    Carriage, DiskError, EntryError, EntryErrorCode, EntryPlace, SessionError, SessionErrorCode,
};

/// Of a path in such a text, which travels: texts have at most 512 bytes.
const STALLED_PATH_BYTES: usize = 300;

/// Something the peer did that the protocol does not allow. Ends the session.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Violation(pub String);

/// `Err` with a violation in these words.
pub fn violation<T>(text: impl Into<String>) -> Result<T, Violation> {
    Err(Violation(text.into()))
}

/// What a path was wanted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    Read,
    Write,
}

/// What is wrong, and what to do about it (perhaps nothing).
type Explained = (String, &'static str);

fn explain(error: &DiskError, access: Access) -> Explained {
    if let Some((text, advice)) = of_our_own(error) {
        return (text, advice);
    }
    let (text, advice) = match (access, error.errno) {
        (Access::Write, errno) => writing(errno),
        (Access::Read, errno) => reading(errno),
    };
    match text {
        "" => (kernels_words(error.errno), advice),
        text => (text.to_owned(), advice),
    }
}

/// What we say in the kernel's place.
fn of_our_own(error: &DiskError) -> Option<Explained> {
    let (text, advice) = match *error {
        DiskError::UNFINISHED => (
            "an unfinished file of a transfer, which that transfer goes on with",
            "copy the file itself when it is whole (landro ls --partial tells its name)",
        ),
        DiskError::OUR_FORM => (
            "unfinished files of transfers have names of this form, and this file system keeps no \
             extended attributes that would tell them apart",
            "give the file another name",
        ),
        DiskError::RECEIVED_LINK => (
            "a symlink stands where a directory is to be, and it may have been copied here, so \
             it is not followed",
            "if it is yours, make it anew (ln -sfn), end the destination with / if it is the \
             destination itself, or mount the directory (mount --bind) where the file system \
             keeps no times of making",
        ),
        DiskError::NO_INODES => (
            "no inodes left: each file and directory takes one, whatever room there is for data",
            "delete files there, or make it with more inodes (mkfs -i), and run the same command \
             again",
        ),
        DiskError::NOTHING_LEFT => (
            "neither space nor inodes left",
            "free space there by deleting files, which gives their inodes back, too, and run the \
             same command again",
        ),
        DiskError::NOT_STORED => (
            "the file system there took the data without an error and did not store all of it",
            "look at its server, or at the program that it is of: this copy was not kept",
        ),
        DiskError::UNMOUNTED => (
            "the file system that was served is not mounted there any more",
            "mount it again, or restart landro serve to have it serve what is there now",
        ),
        DiskError {
            call: call @ (DiskError::ROOT | DiskError::CONFINED),
            errno,
        } => return Some(of_root(call, errno)),
        _ => return None,
    };
    Some((text.to_owned(), advice))
}

/// What is served, or the part of it that is a peer's, cannot be opened. The peer is not told which
/// directory that is; the daemon's log has it.
fn of_root(call: &str, errno: i32) -> Explained {
    match errno {
        EXDEV => (
            format!("{call} leads out of the served directory"),
            "a bind mount over there can bring it in",
        ),
        ENOTDIR => (
            format!("{call} is not a directory over there"),
            "move away what stands in its place, or name another in authorized_peers; the log of \
             landro serve has its name",
        ),
        ENOENT => (
            format!("{call} cannot be opened over there: no such file or directory"),
            "make it (mkdir -p), or is it to be mounted? The log of landro serve has its name",
        ),
        EACCES | EPERM => (
            format!("{call} cannot be opened over there: permission denied"),
            "let the user that landro serve runs as enter it",
        ),
        _ => (
            format!(
                "{call} cannot be opened over there: {}",
                kernels_words(errno)
            ),
            "is it mounted?",
        ),
    }
}

/// An empty text: the kernel's will do.
fn reading(errno: i32) -> (&'static str, &'static str) {
    match errno {
        EPERM | EACCES => (
            "permission denied reading it",
            "let the user that landro runs as read it",
        ),
        ENOENT => ("no such file or directory", ""),
        ENOTDIR => (
            "it, or one of its parents, is not a directory",
            "correct the path",
        ),
        ELOOP => (
            "a symlink is in the way, or too many of them are",
            "look where it leads (ls -l)",
        ),
        other => either_way(other),
    }
}

fn writing(errno: i32) -> (&'static str, &'static str) {
    match errno {
        EPERM | EACCES => (
            "permission denied writing it",
            "let the user that landro runs as write there",
        ),
        ENOENT => (
            "no such file or directory",
            "it vanished or was renamed meanwhile, or is a symlink that leads nowhere",
        ),
        ENOTDIR => ("something that is not a directory is in the way", "move it"),
        EISDIR | EEXIST => ("a directory is in the way", "move it"),
        ELOOP => (
            "a symlink stands where a directory is to be, and is not followed",
            "remove it, or give --keep-dirlinks if it is yours",
        ),
        ENXIO => (
            "nobody reads from this FIFO (or it is a socket, or a device without hardware)",
            "start the reader first",
        ),
        EAGAIN => ("whoever reads from this FIFO takes nothing", ""),
        other => either_way(other),
    }
}

fn either_way(errno: i32) -> (&'static str, &'static str) {
    match errno {
        EXDEV => (
            "leads out of the served directory",
            "a bind mount over there can bring it in",
        ),
        EMFILE | ENFILE => (
            "too many open files",
            "raise the limit where landro runs (ulimit -n, LimitNOFILE=)",
        ),
        EFBIG => (
            "the file system does not take files of this size",
            "copy to another file system, or in pieces (split)",
        ),
        ENOSPC => ("no space left", "free some and run the same command again"),
        EDQUOT => (
            "the quota is used up, of space or of files",
            "delete some, or have it raised, and run the same command again",
        ),
        EROFS => (
            "the file system is mounted read-only",
            "mount it writable (mount -o remount,rw), or copy to another place",
        ),
        ENAMETOOLONG => (
            "the file system takes only shorter names",
            "give it a shorter name",
        ),
        EIO => (
            "input/output error",
            "look at that host's kernel log: the device may be failing",
        ),
        _ => ("", ""),
    }
}

/// As strerror(3), in the middle of a sentence.
fn kernels_words(errno: i32) -> String {
    let text = std::io::Error::from_raw_os_error(errno).to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut chars = text.chars();
    let first = chars.next().map(|first| first.to_ascii_lowercase());
    first.into_iter().chain(chars).collect()
}

impl EntryError {
    /// One that no system call had a part in.
    fn told(code: EntryErrorCode, place: EntryPlace, text: String, advice: &str) -> EntryError {
        EntryError {
            code,
            errno: 0,
            text,
            place,
            call: String::new(),
            advice: advice.to_owned(),
        }
    }

    fn of(code: EntryErrorCode, place: EntryPlace, error: &DiskError) -> EntryError {
        let access = match place {
            EntryPlace::Source => Access::Read,
            EntryPlace::Destination => Access::Write,
        };
        let (text, advice) = explain(error, access);
        EntryError {
            code,
            errno: error.errno,
            text,
            place,
            call: error.call.to_owned(),
            advice: advice.to_owned(),
        }
    }

    /// What is wrong (`aside` behind it), and what to do about it.
    pub fn sentence(&self, aside: &str) -> String {
        sentence(&self.text, aside, &self.advice)
    }

    /// For those who want to know: the system call and what the kernel said.
    pub fn detail(&self) -> Option<String> {
        detail(&self.call, self.errno)
    }
}

impl SessionError {
    /// One that no system call had a part in.
    pub fn told(code: SessionErrorCode, text: impl Into<String>) -> SessionError {
        SessionError {
            code,
            text: text.into(),
            errno: 0,
            call: String::new(),
            advice: String::new(),
        }
    }

    /// Whether it is about the path that was asked for, and not about the session.
    pub fn is_about_path(&self) -> bool {
        self.errno != 0
    }

    /// What is wrong (`aside` behind it), and what to do about it.
    pub fn sentence(&self, aside: &str) -> String {
        sentence(&self.text, aside, &self.advice)
    }

    /// For those who want to know: the system call and what the kernel said.
    pub fn detail(&self) -> Option<String> {
        detail(&self.call, self.errno)
    }
}

fn sentence(text: &str, aside: &str, advice: &str) -> String {
    let mut sentence = format!("{text}{aside}");
    if !advice.is_empty() {
        // Writing to a String cannot fail.
        let _ = write!(sentence, "; {advice}");
    }
    sentence
}

/// E.g. `openat2: Permission denied (os error 13)`.
fn detail(call: &str, errno: i32) -> Option<String> {
    let said = || std::io::Error::from_raw_os_error(errno);
    (!call.is_empty()).then(|| format!("{call}: {}", said()))
}

/// A source that could not be read.
pub fn source_error(error: &DiskError) -> EntryError {
    let code = match *error {
        DiskError::UNFINISHED => EntryErrorCode::Name,
        _ => EntryErrorCode::Source,
    };
    EntryError::of(code, EntryPlace::Source, error)
}

/// A source that is not any more what was announced.
pub fn source_changed() -> EntryError {
    EntryError::told(
        EntryErrorCode::Source,
        EntryPlace::Source,
        "changed while it was read".to_owned(),
        "copy it again when it is quiet, or copy a snapshot",
    )
}

/// A source that grows, which was not to be copied as it was.
pub fn source_grew() -> EntryError {
    EntryError::told(
        EntryErrorCode::Source,
        EntryPlace::Source,
        "grew while it was read".to_owned(),
        "copy it when nobody writes, or without --no-growing as it was at first",
    )
}

/// A socket, or on a daemon a pipe or device, that was asked for by name.
pub fn special_source(is_own: bool) -> EntryError {
    let (why, advice) = match is_own {
        true => (
            "is a socket, which cannot be read",
            "name files, directories, symlinks or pipes",
        ),
        false => (
            "is a pipe, a device or a socket, which a daemon does not read",
            "read it into a file over there",
        ),
    };
    EntryError::told(
        EntryErrorCode::Source,
        EntryPlace::Source,
        why.to_owned(),
        advice,
    )
}

/// A destination that could not be written.
pub fn destination_error(error: &DiskError) -> EntryError {
    let code = match error.errno {
        ENOSPC | EDQUOT => EntryErrorCode::Full,
        EACCES | EPERM | EROFS => EntryErrorCode::Permission,
        ENAMETOOLONG => EntryErrorCode::Name,
        _ => EntryErrorCode::Destination,
    };
    let mut error = EntryError::of(code, EntryPlace::Destination, error);
    if error.errno == EXDEV {
        error.text = "a symlink that leads out of the destination stands where a directory is to \
                      be, and is not followed"
            .to_owned();
        error.advice = "remove it, or give --keep-dirlinks if it is yours (a daemon follows none \
                        out of the directory it serves; a bind mount can bring it in)"
            .to_owned();
    }
    error
}

/// Something about the destination that is in the way, as this errno would say.
fn in_the_way(errno: i32, text: &str, advice: &str) -> EntryError {
    let (code, place) = (EntryErrorCode::Destination, EntryPlace::Destination);
    EntryError {
        errno,
        ..EntryError::told(code, place, text.to_owned(), advice)
    }
}

/// A destination that is a directory where a file or symlink is to go.
pub fn is_a_directory() -> EntryError {
    in_the_way(EISDIR, "is a directory", "move it away, or copy into it")
}

/// A destination that is a device, FIFO or socket: `/dev/null` replaced by a file is missed by the
/// whole host.
pub fn is_special() -> EntryError {
    in_the_way(
        EEXIST,
        "is a special file (device, FIFO or socket), which is not replaced",
        "remove it if a file is to be there",
    )
}

/// A symlink that the user named as the place of a file: whoever writes to such a name means what
/// it leads to, and whoever replaces it loses it.
pub fn is_a_symlink(target: Option<&[u8]>) -> EntryError {
    let target = String::from_utf8_lossy(target.unwrap_or_default());
    let text = format!("is a symlink, to \"{target}\", which is not replaced");
    let advice = "name the file it leads to, or remove the link";
    in_the_way(EEXIST, &text, advice)
}

/// A name that the destination's file system takes for another one, which something has.
pub fn name_taken(by: &[u8]) -> EntryError {
    let by = String::from_utf8_lossy(by);
    let text = format!(
        "the file system there takes the name for \"{by}\", which is there; nothing was replaced"
    );
    EntryError {
        code: EntryErrorCode::Name,
        ..in_the_way(EEXIST, &text, "rename one of the two")
    }
}

/// What could not be had of so many entries, whose data is there.
pub fn lapse_text(kind: LapseKind, entries: u64, errno: i32) -> String {
    let why = kernels_words(errno);
    let (what, advice) = match kind {
        LapseKind::Mode => (
            format!("mode not set at the destination: {why}"),
            "--no-perms does not try to set modes",
        ),
        LapseKind::Time => (
            format!("time of modification not set at the destination: {why}"),
            "--no-times does not try to set times",
        ),
        LapseKind::TimeRange => (
            "time of modification is outside the range of the destination's file system, and \
             another was stored"
                .to_owned(),
            "its range may be larger if it is made anew (ext4 with inodes of 256 bytes, XFS with \
             bigtime)",
        ),
        LapseKind::TimeKept => (
            "time of modification not kept by the destination's file system".to_owned(),
            "a later run takes a file of the same size for the same unless the source is younger",
        ),
    };
    let others = match entries - 1 {
        0 => String::new(),
        more => format!(" (and of {more} more)"),
    };
    format!("{what}{others}; the data is there; {advice}")
}

/// What of the metadata could not be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LapseKind {
    Mode,
    Time,
    TimeRange,
    TimeKept,
}

/// A second entry of one name in one directory: two sources of one name, or a directory that
/// changed while it was read.
pub fn second_of_a_name() -> EntryError {
    EntryError {
        code: EntryErrorCode::Name,
        ..in_the_way(EEXIST, "another entry of this name is being received", "")
    }
}

/// A child of a directory that could not be made.
pub fn no_parent() -> EntryError {
    in_the_way(ENOENT, "the directory it belongs in could not be made", "")
}

/// Digests that differ.
pub fn corrupted() -> EntryError {
    EntryError::told(
        EntryErrorCode::Integrity,
        EntryPlace::Destination,
        "what arrived differs from what was read (BLAKE3), and nothing of it was kept".to_owned(),
        "run the same command again, and suspect memory or disk if it happens twice",
    )
}

/// A name or tree shape that cannot be sent.
pub fn unsendable(why: &str) -> EntryError {
    let (code, place) = (EntryErrorCode::Name, EntryPlace::Source);
    EntryError::told(code, place, why.to_owned(), "rename or move it")
}

/// A source that is the destination, or a directory the destination lies in.
pub fn into_itself() -> EntryError {
    EntryError::told(
        EntryErrorCode::Name,
        EntryPlace::Source,
        "a directory cannot be copied into itself".to_owned(),
        "choose a destination outside of it",
    )
}

/// Why a whole session cannot begin: its target or listed path failed.
pub fn session_error(access: Access, error: &DiskError) -> SessionError {
    let code = match error.errno {
        EACCES | EPERM | EROFS => SessionErrorCode::Permission,
        ENOENT | ENOTDIR => SessionErrorCode::NotFound,
        ENOSPC | EDQUOT => SessionErrorCode::Full,
        _ => SessionErrorCode::Other,
    };
    let (text, advice) = match (access, error.errno) {
        _ if error.is_of_root() => explain(error, access),
        (Access::Write, ENOENT) => (
            "its parent directory does not exist".to_owned(),
            "make it first (mkdir -p), or correct the path",
        ),
        (_, ENOTDIR) => (
            "it, or one of its parents, is not a directory".to_owned(),
            "correct the path",
        ),
        (Access::Write | Access::Read, _) => explain(error, access),
    };
    let call = match error.call {
        DiskError::ROOT | DiskError::CONFINED => "openat2",
        call => call,
    };
    SessionError {
        code,
        text,
        errno: error.errno,
        call: call.to_owned(),
        advice: advice.to_owned(),
    }
}

/// A listing that is complete but for so many names that could not be looked at.
pub fn not_all_listed(first: &[u8], names: u64, error: &DiskError) -> SessionError {
    let error = session_error(Access::Read, error);
    let first = String::from_utf8_lossy(first);
    let (cut, _) = first.split_at(first.floor_char_boundary(STALLED_PATH_BYTES));
    let others = match names - 1 {
        0 => String::new(),
        more => format!(" and {more} more in it"),
    };
    SessionError {
        text: format!("{cut}{others} could not be looked at: {}", error.text),
        ..error
    }
}

/// A right that a peer does not have; who gives them is on the other side.
pub fn not_allowed(what: &str, option: &str, right: &str) -> SessionError {
    SessionError {
        advice: format!(
            "over there, landro serve {option} or {right} in its line of authorized_peers says so"
        ),
        ..SessionError::told(
            SessionErrorCode::Permission,
            format!("this client may not {what} this server"),
        )
    }
}

/// Where the file system is that failed, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostSide {
    Client,
    Server,
    /// The only one: a copy within this host.
    Only,
}

impl HostSide {
    pub fn of(client: bool, carriage: Carriage) -> HostSide {
        match (carriage, client) {
            (Carriage::Copies, _) => HostSide::Only,
            (Carriage::Bytes, true) => HostSide::Client,
            (Carriage::Bytes, false) => HostSide::Server,
        }
    }

    fn on(self) -> &'static str {
        match self {
            HostSide::Client => " on the client",
            HostSide::Server => " on the server",
            HostSide::Only => "",
        }
    }
}

/// Why a session ends in which nothing was got on with: the disk of this host is waited for, or the
/// host itself, and what about.
pub fn stalled(host: HostSide, of_disk: bool, about: Option<&[u8]>, silence: Duration) -> String {
    let about = about.map_or_else(String::new, |path| {
        let path = String::from_utf8_lossy(path);
        let (cut, _) = path.split_at(path.floor_char_boundary(STALLED_PATH_BYTES));
        format!(" ({cut})")
    });
    let seconds = silence.as_secs();
    match (of_disk, host) {
        (true, _) => format!(
            "the file system{} has not answered for {seconds} s{about}",
            host.on()
        ),
        (false, HostSide::Client) => {
            format!("the client has not moved or finished anything for {seconds} s{about}")
        }
        (false, HostSide::Server | HostSide::Only) => {
            format!("the server has not moved or finished anything for {seconds} s{about}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(errno: i32) -> DiskError {
        DiskError {
            call: "openat2",
            errno,
        }
    }

    #[test]
    fn neither_calls_nor_numbers_are_among_the_words() {
        for errno in 1..=133 {
            for error in [
                source_error(&failed(errno)),
                destination_error(&failed(errno)),
            ] {
                let words = error.sentence(" (here)");
                let bare = words.contains("openat2") || words.contains("os error");
                assert!(!bare && words.contains(" (here)"), "{errno}: {words}");
                assert!(!error.text.is_empty() && error.text.len() < 200, "{words}");
                let detail = error.detail().unwrap();
                assert!(detail.starts_with("openat2: "), "{detail}");
                assert!(detail.ends_with(&format!("(os error {errno})")), "{detail}");
            }
            for access in [Access::Read, Access::Write] {
                let error = session_error(access, &failed(errno));
                assert!(error.is_about_path() && !error.text.contains("os error"));
            }
        }
        assert_eq!(source_changed().detail(), None);
    }

    #[test]
    fn what_fills_up_is_said() {
        let words = |error| destination_error(&error).sentence("");
        assert!(words(failed(ENOSPC)).starts_with("no space left; free some"));
        let inodes = words(DiskError::NO_INODES);
        assert!(
            inodes.contains("inodes") && !inodes.contains("free some"),
            "{inodes}"
        );
        let both = words(DiskError::NOTHING_LEFT);
        assert!(both.starts_with("neither space nor inodes left"), "{both}");
        assert!(words(failed(EDQUOT)).contains("quota"));
    }

    #[test]
    fn a_symlink_at_the_destination_has_advice() {
        for errno in [ELOOP, EXDEV] {
            let words = destination_error(&failed(errno)).sentence("");
            assert!(words.contains("--keep-dirlinks"), "{words}");
            assert!(words.contains("symlink"), "{words}");
        }
    }

    #[test]
    fn the_kernels_words_begin_small_and_end_before_the_number() {
        assert_eq!(kernels_words(16), "device or resource busy");
    }
}
