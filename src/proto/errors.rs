//! Errors put into words: which side, which system call, what the kernel said, what to do about it.

use crate::ids::NameError;
use crate::proto::errno::{
    EACCES, EAGAIN, EDQUOT, EEXIST, EFBIG, EIO, EISDIR, ELOOP, EMFILE, ENAMETOOLONG, ENFILE,
    ENOENT, ENOSPC, ENOTDIR, ENXIO, EPERM, EROFS, EXDEV,
};
use crate::proto::{
    Carriage, DiskError, EntryError, EntryErrorCode, SessionError, SessionErrorCode,
};

/// Something the peer did that the protocol does not allow. Ends the session.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Violation(pub String);

/// `Err` with a violation in these words.
pub fn violation<T>(text: impl Into<String>) -> Result<T, Violation> {
    Err(Violation(text.into()))
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
            (Carriage::Bytes | Carriage::Ranges, true) => HostSide::Client,
            (Carriage::Bytes | Carriage::Ranges, false) => HostSide::Server,
        }
    }

    /// To put behind "source" or "destination".
    fn on(self) -> &'static str {
        match self {
            HostSide::Client => " on the client",
            HostSide::Server => " on the server",
            HostSide::Only => "",
        }
    }
}

/// What the kernel says, e.g. `openat2: Permission denied (os error 13)`, or what we say in its
/// place, with advice.
fn explain(error: &DiskError, advice: &str) -> String {
    match *error {
        DiskError::RESERVED_NAME => NameError::Reserved.to_string(),
        DiskError::RECEIVED_LINK => "a symlink stands where a directory is to be, and it may have been copied here, so \
                                     it is not followed; if it is yours, make it anew (ln -sfn), end the destination \
                                     with / if it is the destination itself, or mount the directory (mount --bind) \
                                     where the file system keeps no times of making"
            .into(),
        DiskError { call, errno } => {
            format!("{call}: {}{advice}", std::io::Error::from_raw_os_error(errno))
        }
    }
}

fn advice(error: &DiskError, write: bool) -> &'static str {
    match error.errno {
        EPERM | EACCES if write => "; let the user landro runs as write there",
        EPERM | EACCES => "; let the user landro runs as read it",
        ENOENT if write => {
            "; it vanished or was renamed meanwhile, or is a symlink that leads nowhere"
        }
        ENOENT => "; it is not there, or not any more",
        EXDEV => {
            "; it, or a symlink in it, leads out of the directory that is served (an absolute symlink does)"
        }
        ENOTDIR if write => "; something that is not a directory is in the way: move it",
        EISDIR | EEXIST if write => "; a directory is in the way: move it",
        EMFILE | ENFILE => "; raise the limit of open files (ulimit -n)",
        EFBIG => "; the destination's file system does not take files of this size",
        ENOSPC => "; free some space and run it again",
        EDQUOT => "; the quota is used up: free some and run it again",
        ENXIO if write => {
            "; nobody reads from this FIFO (or it is a socket, or a device without hardware): start \
             the reader first"
        }
        EAGAIN if write => "; whoever reads from this FIFO takes nothing",
        EROFS => "; the file system is mounted read-only",
        ENAMETOOLONG => "; this file system takes only shorter names",
        ELOOP if write => {
            "; a symlink stands where a directory is to be, and is not followed: remove it, or give --keep-dirlinks if \
             it is yours"
        }
        ELOOP => "; a symlink is in the way",
        EIO => "; look at the kernel's log: the device may be failing",
        _ => "",
    }
}

/// A source that could not be read.
pub fn source_error(host: HostSide, error: &DiskError) -> EntryError {
    let code = if *error == DiskError::RESERVED_NAME {
        EntryErrorCode::Name
    } else {
        EntryErrorCode::Source
    };
    let text = format!(
        "source{}: {}",
        host.on(),
        explain(error, advice(error, false))
    );
    EntryError {
        code,
        errno: error.errno,
        text,
    }
}

/// A source that is not any more what was announced.
pub fn source_changed(host: HostSide) -> EntryError {
    let text = format!(
        "source{}: changed while it was read; copy it again when it is quiet",
        host.on()
    );
    EntryError {
        code: EntryErrorCode::Source,
        errno: 0,
        text,
    }
}

/// A destination that could not be written.
pub fn destination_error(host: HostSide, error: &DiskError) -> EntryError {
    let code = match error.errno {
        ENOSPC | EDQUOT => EntryErrorCode::Full,
        EACCES | EPERM | EROFS => EntryErrorCode::Permission,
        ENAMETOOLONG => EntryErrorCode::Name,
        _ => EntryErrorCode::Destination,
    };
    let text = format!(
        "destination{}: {}",
        host.on(),
        explain(error, advice(error, true))
    );
    EntryError {
        code,
        errno: error.errno,
        text,
    }
}

/// A destination that is a directory where a file or symlink is to go.
pub fn is_a_directory(host: HostSide) -> EntryError {
    let text = format!(
        "destination{}: is a directory; move it away, or copy into it",
        host.on()
    );
    EntryError {
        code: EntryErrorCode::Destination,
        errno: EISDIR,
        text,
    }
}

/// A destination that is a device, FIFO or socket: `/dev/null` replaced by a file is missed by the
/// whole host.
pub fn is_special(host: HostSide) -> EntryError {
    let text = format!(
        "destination{}: is a special file (device, FIFO or socket), which is not replaced; remove it if a file is to be there",
        host.on()
    );
    EntryError {
        code: EntryErrorCode::Destination,
        errno: EEXIST,
        text,
    }
}

/// A symlink that the user named as the place of a file: whoever writes to such a name means what
/// it leads to, and whoever replaces it loses it.
pub fn is_a_symlink(host: HostSide, target: Option<&[u8]>) -> EntryError {
    let text = format!(
        "destination{}: is a symlink, to \"{}\", which is not replaced: name the file it leads to, or \
         remove the link",
        host.on(),
        String::from_utf8_lossy(target.unwrap_or_default())
    );
    EntryError {
        code: EntryErrorCode::Destination,
        errno: EEXIST,
        text,
    }
}

/// A second entry of one name in one directory: two sources of one name, or a directory that
/// changed while it was read.
pub fn second_of_a_name(host: HostSide) -> EntryError {
    let text = format!(
        "destination{}: another entry of this name is being received",
        host.on()
    );
    EntryError {
        code: EntryErrorCode::Name,
        errno: EEXIST,
        text,
    }
}

/// A name that the destination's file system takes for another one, which something has.
pub fn name_taken(host: HostSide, by: &[u8]) -> EntryError {
    let text = format!(
        "destination{}: this file system takes the name for \"{}\", which is there; nothing was \
         replaced; rename one of the two",
        host.on(),
        String::from_utf8_lossy(by)
    );
    EntryError {
        code: EntryErrorCode::Name,
        errno: EEXIST,
        text,
    }
}

/// What could not be had of so many entries, whose data is there.
pub fn lapse_text(host: HostSide, kind: LapseKind, entries: u64, errno: i32) -> String {
    let why = std::io::Error::from_raw_os_error(errno);
    let (what, advice) = match kind {
        LapseKind::Mode => (
            format!("mode not set: {why}"),
            "--no-perms does not try to set modes",
        ),
        LapseKind::Time => (
            format!("time of modification not set: {why}"),
            "--no-times does not try to set times",
        ),
        LapseKind::TimeRange => (
            "time of modification is outside the range of this file system, and another was stored"
                .to_owned(),
            "its range may be larger if it is made anew (ext4 with inodes of 256 bytes, XFS with \
             bigtime)",
        ),
        LapseKind::TimeKept => (
            "time of modification not kept by this file system".to_owned(),
            "a later run takes a file of the same size for the same unless the source is younger",
        ),
    };
    let others = match entries - 1 {
        0 => String::new(),
        1 => " (and of 1 more)".to_owned(),
        more => format!(" (and of {more} more)"),
    };
    format!(
        "destination{}: {what}{others}; the data is there; {advice}",
        host.on()
    )
}

/// What of the metadata could not be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LapseKind {
    Mode,
    Time,
    TimeRange,
    TimeKept,
}

/// A child of a directory that could not be made.
pub fn no_parent(host: HostSide) -> EntryError {
    let text = format!(
        "destination{}: parent directory could not be made",
        host.on()
    );
    EntryError {
        code: EntryErrorCode::Destination,
        errno: ENOENT,
        text,
    }
}

/// Digests that differ.
pub fn corrupted(host: HostSide) -> EntryError {
    let text = format!(
        "what arrived{} differs from what was read (BLAKE3); nothing was kept, run it again, and suspect \
         memory or disk if it happens twice",
        host.on()
    );
    EntryError {
        code: EntryErrorCode::Integrity,
        errno: 0,
        text,
    }
}

/// A name or tree shape that cannot be sent.
pub fn unsendable(host: HostSide, why: &str) -> EntryError {
    let text = format!("source{}: {why}; rename or move it", host.on());
    EntryError {
        code: EntryErrorCode::Name,
        errno: 0,
        text,
    }
}

/// A source that is the destination, or a directory the destination lies in.
pub fn into_itself(host: HostSide) -> EntryError {
    let text = format!(
        "source{}: a directory cannot be copied into itself; choose a destination outside of it",
        host.on()
    );
    EntryError {
        code: EntryErrorCode::Name,
        errno: 0,
        text,
    }
}

/// What a path was wanted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    Read,
    Write,
}

/// Why a whole session cannot begin: its target or listed path failed.
pub fn session_error(access: Access, what: &str, error: &DiskError) -> SessionError {
    let code = match error.errno {
        EACCES | EPERM | EROFS => SessionErrorCode::Permission,
        ENOENT | ENOTDIR => SessionErrorCode::NotFound,
        ENOSPC | EDQUOT => SessionErrorCode::Full,
        _ => SessionErrorCode::Other,
    };
    let hint = match (access, error.errno) {
        (Access::Write, ENOENT) => "; its parent directory must exist",
        (_, ENOTDIR) => "; it or one of its parents is not a directory",
        (Access::Write | Access::Read, _) => advice(error, access == Access::Write),
    };
    SessionError {
        code,
        text: format!("{what}: {}", explain(error, hint)),
    }
}
