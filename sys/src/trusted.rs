//! Files that decide whom to trust, or hold secrets: nobody but root and this user may have a hand
//! in them.
//!
//! Reading follows sshd's StrictModes: the file and every directory that leads to it, up to the
//! home directory if they are below it. Writing takes a file that is ours alone, and no link to
//! somebody else's.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::process::effective_uid;

/// Write permission of group and others.
const OTHERS_WRITE: u32 = 0o022;

/// Any permission of group and others.
const OTHERS_ANY: u32 = 0o077;

/// In a directory with this bit nobody renames or removes what belongs to another.
const STICKY: u32 = 0o1000;

/// Who but the owner may do what with a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Others {
    /// It says who is trusted.
    MayRead,
    /// It holds a secret.
    MayNothing,
    /// It is only shown, and nobody is trusted for it: it may be anybody's.
    MayDoAnything,
}

/// Why a file is not used.
#[derive(Debug)]
pub enum Untrusted {
    /// A system call failed.
    Io {
        /// What it was about.
        path: PathBuf,
        /// Its name.
        call: &'static str,
        /// Its error.
        source: io::Error,
    },
    /// A directory, a FIFO, a device.
    NotAFile {
        /// What is none.
        path: PathBuf,
    },
    /// It, or a directory that leads to it, belongs to another user, who can put anything there.
    Owner {
        /// The file or directory.
        path: PathBuf,
        /// Its owner.
        uid: u32,
    },
    /// Group or others may write it, or a directory that leads to it.
    Writable {
        /// The file or directory.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// A secret that group or others may use.
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// Longer than such a file ever is.
    TooLong {
        /// The file.
        path: PathBuf,
        /// The limit.
        limit_bytes: u64,
    },
    /// It has a second name, which may be anywhere.
    Linked {
        /// The file.
        path: PathBuf,
    },
}

impl Untrusted {
    /// Whether there simply is no such file.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Untrusted::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

fn failed(path: &Path, call: &'static str) -> impl FnOnce(io::Error) -> Untrusted {
    move |source| Untrusted::Io {
        path: path.to_path_buf(),
        call,
        source,
    }
}

/// Reads all of a file that decides whom to trust or holds a secret. Symbolic links are followed
/// first, and what they lead to is judged.
///
/// # Errors
/// It cannot be read, is no file, is longer than `limit_bytes` (a part of it would say something
/// else), or somebody else may have written it (or, for a secret, read it).
pub fn read(path: &Path, others: Others, limit_bytes: u64) -> Result<Vec<u8>, Untrusted> {
    let mut contents = Vec::new();
    let file = open(path, others)?;
    file.take(limit_bytes + 1)
        .read_to_end(&mut contents)
        .map_err(failed(path, "read"))?;
    match contents.len() as u64 > limit_bytes {
        true => Err(Untrusted::TooLong {
            path: path.to_path_buf(),
            limit_bytes,
        }),
        false => Ok(contents),
    }
}

fn open(path: &Path, others: Others) -> Result<File, Untrusted> {
    let real = fs::canonicalize(path).map_err(failed(path, "open"))?;
    // Should it be swapped for a link or a FIFO now: not followed, not waited for.
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags)
        .open(&real)
        .map_err(failed(path, "open"))?;
    let meta = file.metadata().map_err(failed(path, "fstat"))?;
    if !meta.is_file() {
        return Err(Untrusted::NotAFile {
            path: path.to_path_buf(),
        });
    }
    if others != Others::MayDoAnything {
        check_owner(&real, &meta)?;
    }
    let mode = meta.mode() & 0o7777;
    match others {
        Others::MayNothing if mode & OTHERS_ANY != 0 => {
            Err(Untrusted::Exposed { path: real, mode })
        }
        Others::MayRead if mode & OTHERS_WRITE != 0 => {
            Err(Untrusted::Writable { path: real, mode })
        }
        Others::MayDoAnything => Ok(file),
        Others::MayNothing | Others::MayRead => check_directories(&real).map(|()| file),
    }
}

fn check_owner(path: &Path, meta: &Metadata) -> Result<(), Untrusted> {
    match meta.uid() {
        0 => Ok(()),
        uid if uid == effective_uid() => Ok(()),
        uid => Err(Untrusted::Owner {
            path: path.to_path_buf(),
            uid,
        }),
    }
}

/// Whoever may write a directory can put another file, or another directory, in the place of one in
/// it.
fn check_directories(real: &Path) -> Result<(), Untrusted> {
    let home = std::env::home_dir().and_then(|home| fs::canonicalize(home).ok());
    for dir in real.ancestors().skip(1) {
        let meta = fs::symlink_metadata(dir).map_err(failed(dir, "stat"))?;
        check_owner(dir, &meta)?;
        let mode = meta.mode() & 0o7777;
        if mode & OTHERS_WRITE != 0 && mode & STICKY == 0 {
            return Err(Untrusted::Writable {
                path: dir.to_path_buf(),
                mode,
            });
        }
        // What is above the home directory is the administrator's, as sshd sees it.
        if home.as_deref() == Some(dir) {
            break;
        }
    }
    Ok(())
}

/// Opens a file to append secrets to, or makes it with mode 0600. No symbolic link is followed in
/// its last component.
///
/// # Errors
/// It cannot be opened, is no file, belongs to somebody else, has a second name, or others may use
/// it.
pub fn append_secret(path: &Path) -> Result<File, Untrusted> {
    // O_NONBLOCK: a FIFO without a reader is an error at once.
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY;
    let mut options = OpenOptions::new();
    options
        .append(true)
        .create(true)
        .mode(0o600)
        .custom_flags(flags);
    let file = options.open(path).map_err(failed(path, "open"))?;
    let meta = file.metadata().map_err(failed(path, "fstat"))?;
    let mode = meta.mode() & 0o7777;
    let path = path.to_path_buf();
    if !meta.is_file() {
        return Err(Untrusted::NotAFile { path });
    }
    if meta.uid() != effective_uid() {
        return Err(Untrusted::Owner {
            path,
            uid: meta.uid(),
        });
    }
    match (mode & OTHERS_ANY, meta.nlink()) {
        (0, 1) => Ok(file),
        (0, _) => Err(Untrusted::Linked { path }),
        _ => Err(Untrusted::Exposed { path, mode }),
    }
}

/// Opens a directory to make files in; its last component is no symbolic link.
///
/// # Errors
/// It cannot be opened, or is something else.
pub fn open_directory(path: &Path) -> Result<File, Untrusted> {
    let flags = libc::O_NOFOLLOW | libc::O_DIRECTORY;
    OpenOptions::new()
        .read(true)
        .custom_flags(flags)
        .open(path)
        .map_err(failed(path, "open"))
}

impl std::fmt::Display for Untrusted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Untrusted::Io { path, call, source } if source.raw_os_error() == Some(libc::ELOOP) => {
                write!(
                    f,
                    "{}: {call}: it is a symbolic link, which is not followed",
                    path.display()
                )
            }
            Untrusted::Io { path, source, .. }
                if source.kind() == io::ErrorKind::PermissionDenied =>
            {
                write!(
                    f,
                    "{}: permission denied; run this as the user that it belongs to",
                    path.display()
                )
            }
            Untrusted::Io { path, source, .. } if source.kind() == io::ErrorKind::NotADirectory => {
                write!(f, "{}: a part of this path is no directory", path.display())
            }
            Untrusted::Io { path, call, source } => {
                write!(f, "{}: {call}: {source}", path.display())
            }
            Untrusted::NotAFile { path } => write!(f, "{}: not a regular file", path.display()),
            Untrusted::Owner { path, uid } => write!(
                f,
                "{0}: belongs to uid {uid}, who can change it, and not to uid {1} or root, so it is not trusted; \
                 run: chown {1} {0}",
                path.display(),
                effective_uid(),
            ),
            Untrusted::Writable { path, mode } => write!(
                f,
                "{0}: mode {mode:04o} lets others write it, so it is not trusted; run: chmod go-w {0}",
                path.display()
            ),
            Untrusted::Exposed { path, mode } => write!(
                f,
                "{0}: mode {mode:04o} lets others use the secrets in it, so it is not used; run: chmod 600 {0}, or \
                 remove it if they may have read it",
                path.display()
            ),
            Untrusted::TooLong { path, limit_bytes } => {
                write!(
                    f,
                    "{}: longer than {limit_bytes} bytes, so it is not read",
                    path.display()
                )
            }
            Untrusted::Linked { path } => {
                write!(
                    f,
                    "{}: has another name (a hard link), so it is not used; remove it",
                    path.display()
                )
            }
        }
    }
}

impl std::error::Error for Untrusted {}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    use super::*;

    fn chmod(path: &Path, mode: u32) {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    /// `dir/file` with safe modes, whatever the umask.
    fn file_in_dir() -> (tempfile::TempDir, PathBuf, PathBuf) {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().canonicalize().unwrap().join("dir");
        fs::create_dir(&dir).unwrap();
        chmod(&dir, 0o755);
        let file = dir.join("file");
        fs::write(&file, "x").unwrap();
        chmod(&file, 0o644);
        (root, dir, file)
    }

    #[test]
    fn modes_of_the_file_and_of_every_directory() {
        let (root, dir, file) = file_in_dir();
        let read = || open(&file, Others::MayRead);
        assert!(read().is_ok());
        for mode in [0o664, 0o646, 0o620, 0o602, 0o666] {
            chmod(&file, mode);
            assert!(
                matches!(read(), Err(Untrusted::Writable { path, .. }) if path == file),
                "{mode:o}"
            );
        }
        chmod(&file, 0o644);
        assert!(matches!(
            open(&file, Others::MayNothing),
            Err(Untrusted::Exposed { mode: 0o644, .. })
        ));
        for parent in [&dir, &root.path().canonicalize().unwrap()] {
            for mode in [0o775, 0o757, 0o777] {
                chmod(parent, mode);
                assert!(
                    matches!(read(), Err(Untrusted::Writable { path, .. }) if path == **parent),
                    "{mode:o}"
                );
            }
            // As /tmp: others cannot put anything in the place of what is ours.
            chmod(parent, 0o1777);
            assert!(read().is_ok());
            chmod(parent, 0o755);
        }
        assert!(
            open(&dir.join("missing"), Others::MayRead).is_err_and(|error| error.is_not_found())
        );
        assert!(matches!(
            open(&dir, Others::MayRead),
            Err(Untrusted::NotAFile { .. })
        ));
        fs::write(&file, "12345").unwrap();
        assert_eq!(super::read(&file, Others::MayRead, 5).unwrap(), b"12345");
        assert!(matches!(
            super::read(&file, Others::MayRead, 4),
            Err(Untrusted::TooLong { .. })
        ));
    }

    #[test]
    fn what_a_link_leads_to_is_judged() {
        let (root, dir, file) = file_in_dir();
        let elsewhere = root.path().join("elsewhere");
        fs::create_dir(&elsewhere).unwrap();
        chmod(&elsewhere, 0o755);
        symlink(&file, elsewhere.join("link")).unwrap();
        assert!(open(&elsewhere.join("link"), Others::MayRead).is_ok());
        chmod(&dir, 0o777);
        assert!(open(&elsewhere.join("link"), Others::MayRead).is_err());
    }

    #[test]
    fn owners() {
        if effective_uid() != 0 {
            println!("skipped: needs root to give a file away");
            return;
        }
        let (_root, dir, file) = file_in_dir();
        for path in [&dir, &file] {
            chown(path, Some(65_534), None).unwrap();
            assert!(matches!(
                open(&file, Others::MayRead),
                Err(Untrusted::Owner { uid: 65_534, .. })
            ));
            chown(path, Some(0), None).unwrap();
        }
        chmod(&file, 0o600);
        chown(&file, Some(65_534), None).unwrap();
        assert!(matches!(
            append_secret(&file),
            Err(Untrusted::Owner { uid: 65_534, .. })
        ));
    }

    #[test]
    fn secrets_go_into_a_file_of_our_own() {
        let (_root, dir, file) = file_in_dir();
        let keys = dir.join("keys");
        assert_eq!(
            append_secret(&keys).unwrap().metadata().unwrap().mode() & 0o7777,
            0o600
        );
        fs::write(&keys, "kept").unwrap();
        assert!(append_secret(&keys).is_ok());
        assert_eq!(fs::read(&keys).unwrap(), b"kept");
        assert!(matches!(
            append_secret(&file),
            Err(Untrusted::Exposed { mode: 0o644, .. })
        ));
        symlink(&keys, dir.join("link")).unwrap();
        assert!(
            append_secret(&dir.join("link"))
                .unwrap_err()
                .to_string()
                .contains("symbolic link")
        );
        symlink(dir.join("nowhere"), dir.join("dangling")).unwrap();
        assert!(append_secret(&dir.join("dangling")).is_err() && !dir.join("nowhere").exists());
        symlink(&dir, dir.join("here")).unwrap();
        assert!(open_directory(&dir).is_ok() && open_directory(&dir.join("here")).is_err());
        assert!(open_directory(&file).is_err());
        fs::hard_link(&keys, dir.join("second")).unwrap();
        assert!(matches!(
            append_secret(&keys),
            Err(Untrusted::Linked { .. })
        ));
        nix::unistd::mkfifo(
            &dir.join("fifo"),
            nix::sys::stat::Mode::from_bits_truncate(0o600),
        )
        .unwrap();
        assert!(
            append_secret(&dir.join("fifo")).is_err(),
            "and it does not wait for a reader"
        );
        assert!(append_secret(&dir).is_err());
    }
}
