//! The files identity and trust live in: `identity.pem`, `reset.key`, `known_hosts`; where
//! `authorized_peers` is looked for.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use landro_sys::trusted::{self, Others, Untrusted};

use crate::ids::Fingerprint;
use crate::quic::Identity;

use super::args::url::{DaemonName, Url};

/// An Ed25519 key and its certificate take about 700 bytes; more than this is another kind of file.
const IDENTITY_MAX_BYTES: u64 = 64 << 10;

/// A longer file is something else and not read further.
const RESET_SECRET_MAX_BYTES: u64 = 64;

/// About 100,000 hosts.
const KNOWN_HOSTS_MAX_BYTES: u64 = 8 << 20;

/// Why identity or trust could not be established.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    #[error("no home directory to keep the identity in; set LANDRO_CONFIG_DIR")]
    NoHome,
    #[error("{path}: cannot {call} it: {source}", path = .path.display())]
    Io {
        path: PathBuf,
        call: &'static str,
        source: io::Error,
    },
    #[error(transparent)]
    Untrusted(#[from] Untrusted),
    #[error(
        "{path}: not an identity ({why}); move it away and landro id makes a new one",
        path = .path.display()
    )]
    BadIdentity { path: PathBuf, why: String },
    #[error("{path}: not 32 bytes", path = .path.display())]
    BadSecret { path: PathBuf },
    #[error(
        "{path}: there is no identity; landro serve makes one at its first start",
        path = .path.display()
    )]
    NoIdentity { path: PathBuf },
    #[error("making an identity: {0}")]
    Generate(String),
    #[error(
        "{path}: line {line}: expected `host:port SHA256:...`, then nothing or a # and a \
         comment; correct or remove the line (while it is there, no host can be told from a \
         changed one)",
        path = .path.display()
    )]
    BadLine { path: PathBuf, line: usize },
}

fn io_error(path: &Path, call: &'static str) -> impl FnOnce(io::Error) -> TrustError {
    move |source| TrustError::Io {
        path: path.to_path_buf(),
        call,
        source,
    }
}

/// `$LANDRO_CONFIG_DIR`, else `$XDG_CONFIG_HOME/landro`, else `~/.config/landro`. A variable that
/// is set but empty counts as unset, and a relative `$XDG_CONFIG_HOME` too (the XDG specification
/// demands both).
pub fn config_dir() -> Result<PathBuf, TrustError> {
    let set = |name| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    if let Some(dir) = set("LANDRO_CONFIG_DIR") {
        return Ok(dir);
    }
    if let Some(dir) = set("XDG_CONFIG_HOME").filter(|dir| dir.is_absolute()) {
        return Ok(dir.join("landro"));
    }
    let home = std::env::home_dir()
        .filter(|home| home.is_absolute())
        .ok_or(TrustError::NoHome)?;
    Ok(home.join(".config/landro"))
}

/// Where an identity lies in its directory.
pub fn identity_file(dir: &Path) -> PathBuf {
    dir.join("identity.pem")
}

/// The fingerprint of the identity in `dir`, whoever owns it: root asks for that of a daemon which
/// runs as another user, and what is printed makes nobody trusted.
///
/// # Errors
/// There is none, or it cannot be read.
pub fn fingerprint_in(dir: &Path) -> Result<Fingerprint, TrustError> {
    let path = identity_file(dir);
    match read_identity(&path, Others::MayDoAnything) {
        Err(TrustError::Untrusted(error)) if error.is_not_found() => {
            Err(TrustError::NoIdentity { path })
        }
        found => found.map(|identity| identity.fingerprint()),
    }
}

/// This host's identity, made at first use.
///
/// # Errors
/// The key cannot be read or made, or others may use it.
pub fn identity(dir: &Path) -> Result<Identity, TrustError> {
    let path = identity_file(dir);
    match read_identity(&path, Others::MayNothing) {
        Err(TrustError::Untrusted(error)) if error.is_not_found() => {}
        found => return found,
    }
    make_dir(dir)?;
    let identity = Identity::generate().map_err(|error| TrustError::Generate(error.to_string()))?;
    let pem = identity
        .to_pem()
        .map_err(|error| TrustError::Generate(error.to_string()))?;
    publish(dir, &path, pem.as_bytes())?;
    // Not ours if another process was faster: what counts is what stands in the file.
    read_identity(&path, Others::MayNothing)
}

/// What this host's daemons make stateless resets from, made at first use: 32 random bytes, no part
/// of the identity, so that a copied identity takes none of it along.
///
/// # Errors
/// It cannot be read or made, or others may use it.
pub fn reset_secret(dir: &Path) -> Result<[u8; 32], TrustError> {
    let path = dir.join("reset.key");
    let read = || {
        let secret = trusted::read(&path, Others::MayNothing, RESET_SECRET_MAX_BYTES)?;
        secret
            .try_into()
            .map_err(|_| TrustError::BadSecret { path: path.clone() })
    };
    match read() {
        Err(TrustError::Untrusted(error)) if error.is_not_found() => {}
        found => return found,
    }
    make_dir(dir)?;
    publish(dir, &path, &rand::random::<[u8; 32]>())?;
    read()
}

fn make_dir(dir: &Path) -> Result<(), TrustError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(io_error(dir, "make"))
}

/// Puts `contents` at `path` unless something is there already. A complete file appears or none:
/// the name is made by link(2), which never replaces, from a private file that is already written.
fn publish(dir: &Path, path: &Path, contents: &[u8]) -> Result<(), TrustError> {
    let private = dir.join(format!(".private.{:016x}", rand::random::<u64>()));
    let write = || {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&private)?;
        file.write_all(contents)?;
        file.sync_all()?;
        match fs::hard_link(&private, path) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
            other => other,
        }
    };
    let result = write().map_err(io_error(path, "create"));
    // Only a leftover of this very call can be there; failing to remove it harms nobody (mode
    // 0600).
    let _ = fs::remove_file(&private);
    result
}

fn read_identity(path: &Path, others: Others) -> Result<Identity, TrustError> {
    let bad = |why| TrustError::BadIdentity {
        path: path.to_path_buf(),
        why,
    };
    let pem = String::from_utf8(trusted::read(path, others, IDENTITY_MAX_BYTES)?)
        .map_err(|error| bad(error.to_string()))?;
    Identity::from_pem(&pem).map_err(|error| bad(error.to_string()))
}

/// The daemons this user has met: `host:port SHA256:...` a line, a word that begins with `#` begins
/// a comment.
#[derive(Debug)]
pub struct KnownHosts {
    path: PathBuf,
    lines: Vec<(usize, DaemonName, Fingerprint)>,
}

/// What `known_hosts` says of a host.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Known {
    Never,
    /// Its fingerprints (several lines: any of them is right), and the number of its first line.
    As {
        fingerprints: Vec<Fingerprint>,
        line: usize,
    },
}

impl KnownHosts {
    /// A missing file is an empty one.
    ///
    /// # Errors
    /// The file cannot be read, or holds a line that cannot be understood: skipping it might turn a
    /// changed host into one never seen.
    pub fn load(dir: &Path) -> Result<KnownHosts, TrustError> {
        let path = dir.join("known_hosts");
        let text = match trusted::read(&path, Others::MayRead, KNOWN_HOSTS_MAX_BYTES) {
            Err(error) if error.is_not_found() => Vec::new(),
            text => text?,
        };
        KnownHosts::parse(path, &text)
    }

    /// `text`: what is in the file at `path`.
    pub(crate) fn parse(path: PathBuf, text: &[u8]) -> Result<KnownHosts, TrustError> {
        let mut lines = Vec::new();
        for (index, bytes) in text.split(|&b| b == b'\n').enumerate() {
            let line = index + 1;
            let bad = || TrustError::BadLine {
                path: path.clone(),
                line,
            };
            let words = std::str::from_utf8(bytes).map_err(|_| bad())?;
            let mut words = words
                .split([' ', '\t', '\r'])
                .filter(|word| !word.is_empty());
            let Some(host) = words.next().filter(|word| !word.starts_with('#')) else {
                continue;
            };
            let fingerprint = words
                .next()
                .and_then(|word| word.parse().ok())
                .ok_or_else(bad)?;
            if words.next().is_some_and(|word| !word.starts_with('#')) {
                return Err(bad());
            }
            // In the one spelling it is looked for in; a name that no URL can have would make its
            // host one never met.
            // Nor may it go on as a URL does: whoever wrote that meant something else.
            let url = Url::parse(format!("landro://{host}").as_ref()).map_err(|_| bad())?;
            if host.contains('/') {
                return Err(bad());
            }
            lines.push((line, url.host, fingerprint));
        }
        Ok(KnownHosts { path, lines })
    }

    pub fn find(&self, host: &DaemonName) -> Known {
        let mut found = self
            .lines
            .iter()
            .filter(|(_, known, _)| known == host)
            .peekable();
        match found.peek() {
            None => Known::Never,
            Some(&&(line, ..)) => Known::As {
                fingerprints: found.map(|&(.., peer)| peer).collect(),
                line,
            },
        }
    }

    /// Remembers a host. One write(2) on a descriptor opened with O_APPEND, so two processes that
    /// meet hosts at the same time do not mix their lines.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn add(&mut self, host: &DaemonName, peer: Fingerprint) -> Result<(), TrustError> {
        if let Some(dir) = self.path.parent() {
            make_dir(dir)?;
        }
        let mut options = OpenOptions::new();
        options.read(true).append(true).create(true).mode(0o600);
        let mut file = options
            .open(&self.path)
            .map_err(io_error(&self.path, "open"))?;
        let separator = if ends_mid_line(&file).map_err(io_error(&self.path, "read"))? {
            "\n"
        } else {
            ""
        };
        let line = format!("{separator}{host} {peer}\n");
        file.write_all(line.as_bytes())
            .map_err(io_error(&self.path, "write"))?;
        let number = self.lines.last().map_or(1, |(line, ..)| line + 1);
        self.lines.push((number, host.clone(), peer));
        Ok(())
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// A file edited by hand may lack its last newline.
fn ends_mid_line(file: &File) -> io::Result<bool> {
    use std::os::unix::fs::FileExt;
    let mut last = [0];
    let size_bytes = file.metadata()?.len();
    Ok(size_bytes > 0 && file.read_at(&mut last, size_bytes - 1)? == 1 && last[0] != b'\n')
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use super::*;

    fn host(name: &str, port: u16) -> DaemonName {
        DaemonName {
            name: name.into(),
            port,
        }
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o777
    }

    #[test]
    fn identity_is_made_once_and_private() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("a/b");
        let first = identity(&dir).unwrap().fingerprint();
        assert_eq!(identity(&dir).unwrap().fingerprint(), first);
        assert_eq!(
            (mode(&dir), mode(&dir.join("identity.pem"))),
            (0o700, 0o600)
        );
        assert_eq!(
            fs::read_dir(&dir).unwrap().count(),
            1,
            "nothing else is left there"
        );
    }

    #[test]
    fn racing_processes_get_the_same_identity() {
        let root = tempfile::tempdir().unwrap();
        let peers: Vec<Fingerprint> = std::thread::scope(|scope| {
            let racers: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| identity(root.path()).unwrap().fingerprint()))
                .collect();
            racers
                .into_iter()
                .map(|racer| racer.join().unwrap())
                .collect()
        });
        assert!(peers.iter().all(|peer| *peer == peers[0]));
    }

    #[test]
    fn a_key_others_may_read_is_refused() {
        let root = tempfile::tempdir().unwrap();
        identity(root.path()).unwrap();
        let path = root.path().join("identity.pem");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let Err(error) = identity(root.path()) else {
            panic!()
        };
        assert!(
            error.to_string().contains("mode 0640") && error.to_string().contains("chmod 600"),
            "{error}"
        );
    }

    #[test]
    fn the_secret_of_resets_is_made_once_private_and_no_part_of_the_identity() {
        let (here, copy) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        identity(here.path()).unwrap();
        let secret = reset_secret(here.path()).unwrap();
        assert_eq!(reset_secret(here.path()).unwrap(), secret);
        let path = here.path().join("reset.key");
        assert_eq!(mode(&path), 0o600);
        fs::copy(
            here.path().join("identity.pem"),
            copy.path().join("identity.pem"),
        )
        .unwrap();
        assert_ne!(reset_secret(copy.path()).unwrap(), secret);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(
            reset_secret(here.path()),
            Err(TrustError::Untrusted(_))
        ));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        for wrong in [&[7; 31][..], &[7; 33]] {
            fs::write(&path, wrong).unwrap();
            assert!(matches!(
                reset_secret(here.path()),
                Err(TrustError::BadSecret { .. })
            ));
        }
    }

    #[test]
    fn a_file_that_is_no_identity_is_not_overwritten() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("identity.pem");
        fs::write(&path, "not a key").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert!(matches!(
            identity(root.path()),
            Err(TrustError::BadIdentity { .. })
        ));
        assert_eq!(fs::read(&path).unwrap(), b"not a key");
    }

    #[test]
    fn known_hosts_are_found_by_host_and_port() {
        let root = tempfile::tempdir().unwrap();
        let (one, two) = (Fingerprint([1; 32]), Fingerprint([2; 32]));
        let mut known = KnownHosts::load(root.path()).unwrap();
        assert_eq!(known.find(&host("h", 4433)), Known::Never);
        known.add(&host("h", 4433), one).unwrap();
        known.add(&host("::1", 5), two).unwrap();
        let known = KnownHosts::load(root.path()).unwrap();
        assert_eq!(
            known.find(&host("h", 4433)),
            Known::As {
                fingerprints: vec![one],
                line: 1
            }
        );
        assert_eq!(
            known.find(&host("::1", 5)),
            Known::As {
                fingerprints: vec![two],
                line: 2
            }
        );
        assert_eq!(known.find(&host("h", 4434)), Known::Never);
        assert_eq!(mode(known.path()), 0o600);
    }

    #[test]
    fn a_host_with_a_zone_in_capitals_is_found_again() {
        let root = tempfile::tempdir().unwrap();
        let (one, capitals, small) = (
            Fingerprint([1; 32]),
            host("fe80::1%Eth0", 1),
            host("fe80::1%eth0", 1),
        );
        KnownHosts::load(root.path())
            .unwrap()
            .add(&capitals, one)
            .unwrap();
        let known = KnownHosts::load(root.path()).unwrap();
        assert_eq!(
            known.find(&capitals),
            Known::As {
                fingerprints: vec![one],
                line: 1
            }
        );
        assert_eq!(
            known.find(&small),
            Known::Never,
            "interfaces eth0 and Eth0 are two"
        );
    }

    #[test]
    fn known_hosts_written_by_hand() {
        let root = tempfile::tempdir().unwrap();
        let (one, two) = (Fingerprint([1; 32]), Fingerprint([2; 32]));
        fs::write(
            root.path().join("known_hosts"),
            format!("# mine\n\nH:1 {one} # old key\r\nh:1\t{two}\n[::1] {two}"),
        )
        .unwrap();
        let mut known = KnownHosts::load(root.path()).unwrap();
        assert_eq!(
            known.find(&host("h", 1)),
            Known::As {
                fingerprints: vec![one, two],
                line: 3
            }
        );
        assert_eq!(
            known.find(&host("::1", 4433)),
            Known::As {
                fingerprints: vec![two],
                line: 5
            }
        );
        known.add(&host("i", 1), one).unwrap();
        let known = KnownHosts::load(root.path()).unwrap();
        assert_eq!(
            known.find(&host("i", 1)),
            Known::As {
                fingerprints: vec![one],
                line: 6
            }
        );
    }

    #[test]
    fn a_file_longer_than_its_limit_is_not_cut() {
        let root = tempfile::tempdir().unwrap();
        let mut text = "#".repeat(KNOWN_HOSTS_MAX_BYTES as usize);
        fs::write(root.path().join("known_hosts"), &text).unwrap();
        assert!(KnownHosts::load(root.path()).is_ok());
        text.push_str("\nh:1 SHA256:");
        fs::write(root.path().join("known_hosts"), &text).unwrap();
        let error = KnownHosts::load(root.path()).unwrap_err();
        assert!(error.to_string().contains("longer than"), "{error}");
    }

    #[test]
    fn a_bad_line_is_an_error_with_its_number() {
        let peer = Fingerprint([1; 32]);
        for bad in [
            "h:1".into(),
            "h:1 SHA256:short".into(),
            "h:1 \u{fffd}".into(),
            format!("h:1 {peer} {peer}"),
            format!("h:1,i:1 {peer}"),
            format!("h:x {peer}"),
            format!("h:1/ {peer}"),
            format!("h:1/path {peer}"),
            format!("{peer} h:1"),
            format!("h:1 {peer}="),
        ] {
            let root = tempfile::tempdir().unwrap();
            fs::write(root.path().join("known_hosts"), format!("\n{bad}\n")).unwrap();
            assert!(
                matches!(
                    KnownHosts::load(root.path()),
                    Err(TrustError::BadLine { line: 2, .. })
                ),
                "{bad}"
            );
        }
    }
}
