//! Where scrapes come in: a TCP port, or a socket among files that only this user may open.

use std::fs::{self, DirBuilder, Permissions};
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{self, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::address::MetricsAddress;

/// Why nothing listens.
#[derive(Debug, thiserror::Error)]
pub enum MetricsError {
    #[error(
        "cannot listen for --metrics on {address}: {source}; who has it is told by ss -tlpn, which \
         addresses there are by ip address"
    )]
    Port {
        address: SocketAddr,
        source: io::Error,
    },
    #[error(
        "cannot make the socket of --metrics {}: {source}; its directory has to exist and be this \
         user's to write, and a name may have some 80 bytes",
        path.display()
    )]
    Socket { path: PathBuf, source: io::Error },
    #[error("the socket of --metrics, {}, is used by another process", path.display())]
    InUse { path: PathBuf },
    #[error(
        "{} is there and is no socket: it is not replaced by one for --metrics; name another, or \
         remove it",
        path.display()
    )]
    NoSocket { path: PathBuf },
    #[error("starting the thread of --metrics: {0}")]
    Thread(io::Error),
}

/// What is listened on. A socket among files goes with it.
#[derive(Debug)]
pub(super) enum MetricsDoor {
    Tcp(TcpListener),
    Unix(UnixListener, PathBuf, SocketFile),
}

/// Which file a socket is, whatever its name is given to later: its device and inode.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct SocketFile(u64, u64);

impl SocketFile {
    /// # Errors
    /// Nothing has that name, or nobody may look.
    fn of(path: &Path) -> io::Result<SocketFile> {
        let found = fs::symlink_metadata(path)?;
        Ok(SocketFile(found.dev(), found.ino()))
    }
}

impl MetricsDoor {
    /// # Errors
    /// It cannot be had.
    pub(super) fn open(at: &MetricsAddress) -> Result<MetricsDoor, MetricsError> {
        match at {
            MetricsAddress::Tcp(address) => {
                let listener = TcpListener::bind(address);
                listener.map(MetricsDoor::Tcp).map_err(|source| {
                    let address = *address;
                    MetricsError::Port { address, source }
                })
            }
            MetricsAddress::Unix(path) => {
                make_room(path)?;
                let listener = listen_in_private(path);
                let (listener, file) = listener.map_err(|source| {
                    let path = path.clone();
                    MetricsError::Socket { path, source }
                })?;
                Ok(MetricsDoor::Unix(listener, path.clone(), file))
            }
        }
    }

    /// Where that is, with the port that was taken for port 0.
    pub(super) fn shown(&self) -> MetricsAddress {
        match self {
            MetricsDoor::Tcp(listener) => MetricsAddress::Tcp(
                listener
                    .local_addr()
                    .unwrap_or_else(|_| SocketAddr::from(([0, 0, 0, 0], 0))),
            ),
            MetricsDoor::Unix(_, path, _) => MetricsAddress::Unix(path.clone()),
        }
    }

    /// Waits for the next who comes.
    ///
    /// # Errors
    /// What accept(2) says.
    pub(super) fn accept(&self) -> io::Result<Scrape> {
        match self {
            MetricsDoor::Tcp(listener) => Ok(Scrape::Tcp(listener.accept()?.0)),
            MetricsDoor::Unix(listener, ..) => Ok(Scrape::Unix(listener.accept()?.0)),
        }
    }

    /// Who waits in [`MetricsDoor::accept`] comes back with an error, and so does who waits later.
    /// It takes no descriptor, no address and no name, which may all be gone.
    pub(super) fn close(&self) {
        let stopped = match self {
            MetricsDoor::Tcp(listener) => landro_sys::stop_accepting(listener),
            MetricsDoor::Unix(listener, ..) => landro_sys::stop_accepting(listener),
        };
        if let Err(error) = stopped {
            tracing::warn!(%error, "ending to listen for --metrics failed");
        }
        // What another process has given that name is its own.
        if let MetricsDoor::Unix(_, path, file) = self
            && SocketFile::of(path).is_ok_and(|found| found == *file)
        {
            let _ = fs::remove_file(path);
        }
    }
}

/// A socket that nobody listens on any more is removed, and nothing else.
fn make_room(path: &Path) -> Result<(), MetricsError> {
    let failed = |source| {
        let path = path.to_path_buf();
        MetricsError::Socket { path, source }
    };
    // rename(2) below would give it a name that nobody can connect to.
    net::SocketAddr::from_pathname(path).map_err(failed)?;
    let path_of = || path.to_path_buf();
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failed(error)),
        Ok(found) if !found.file_type().is_socket() => {
            Err(MetricsError::NoSocket { path: path_of() })
        }
        Ok(_) => match UnixStream::connect(path) {
            // It is replaced by rename(2) below.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
            Err(error) => Err(failed(error)),
            Ok(_) => Err(MetricsError::InUse { path: path_of() }),
        },
    }
}

/// A socket has the mode that the umask leaves until it is given another one: so it is made where
/// nobody else may look, and then moved to its place.
fn listen_in_private(path: &Path) -> io::Result<(UnixListener, SocketFile)> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    let private = directory.join(format!(".landro-{:08x}", rand::random::<u32>()));
    DirBuilder::new().mode(0o700).create(&private)?;
    let socket = private.join("m");
    let made = UnixListener::bind(&socket).and_then(|listener| {
        fs::set_permissions(&socket, Permissions::from_mode(0o600))?;
        let file = SocketFile::of(&socket)?;
        fs::rename(&socket, path)?;
        Ok((listener, file))
    });
    if made.is_err() {
        let _ = fs::remove_file(&socket);
    }
    let _ = fs::remove_dir(&private);
    made
}

/// One connection.
#[derive(Debug)]
pub(super) enum Scrape {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Scrape {
    /// Another handle of the same connection.
    ///
    /// # Errors
    /// There is no descriptor for it.
    pub(super) fn again(&self) -> io::Result<Scrape> {
        match self {
            Scrape::Tcp(stream) => stream.try_clone().map(Scrape::Tcp),
            Scrape::Unix(stream) => stream.try_clone().map(Scrape::Unix),
        }
    }

    /// Nothing more is read or written, by any handle; what was written arrives.
    pub(super) fn end(&self) {
        // Where there is no connection any more, there is nothing to end.
        let _ = match self {
            Scrape::Tcp(stream) => stream.shutdown(Shutdown::Both),
            Scrape::Unix(stream) => stream.shutdown(Shutdown::Both),
        };
    }

    /// How long the next read waits at most.
    ///
    /// # Errors
    /// What setsockopt(2) says.
    pub(super) fn read_until(&self, left: Duration) -> io::Result<()> {
        match self {
            Scrape::Tcp(stream) => stream.set_read_timeout(Some(left)),
            Scrape::Unix(stream) => stream.set_read_timeout(Some(left)),
        }
    }

    /// How long the next write waits at most.
    ///
    /// # Errors
    /// What setsockopt(2) says.
    pub(super) fn write_until(&self, left: Duration) -> io::Result<()> {
        match self {
            Scrape::Tcp(stream) => stream.set_write_timeout(Some(left)),
            Scrape::Unix(stream) => stream.set_write_timeout(Some(left)),
        }
    }
}

impl Read for Scrape {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Scrape::Tcp(stream) => stream.read(into),
            Scrape::Unix(stream) => stream.read(into),
        }
    }
}

impl Write for Scrape {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Scrape::Tcp(stream) => stream.write(bytes),
            Scrape::Unix(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_its_users_alone_and_goes_with_its_door() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.sock");
        let at = MetricsAddress::Unix(path.clone());
        // Left by one that was killed.
        drop(UnixListener::bind(&path).unwrap());
        let door = MetricsDoor::open(&at).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let names: Vec<_> = fs::read_dir(dir.path()).unwrap().collect();
        assert_eq!(names.len(), 1, "{names:?}");
        let taken = MetricsDoor::open(&at).unwrap_err();
        assert!(matches!(taken, MetricsError::InUse { .. }), "{taken}");
        door.close();
        assert!(!path.exists());
    }

    /// Whoever waits for scrapes ends, though nobody can reach the socket any more.
    #[test]
    fn who_waits_ends_whatever_became_of_the_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.sock");
        for at in [
            MetricsAddress::Unix(path.clone()),
            MetricsAddress::Tcp(SocketAddr::from(([127, 0, 0, 1], 0))),
        ] {
            let door = MetricsDoor::open(&at).unwrap();
            let is_among_files = matches!(at, MetricsAddress::Unix(_));
            if is_among_files {
                fs::remove_file(&path).unwrap();
                fs::write(&path, "another's").unwrap();
            }
            std::thread::scope(|scope| {
                let waits = scope.spawn(|| door.accept().is_err());
                // It may wait by now, or come too late to wait at all.
                std::thread::sleep(Duration::from_millis(50));
                door.close();
                assert!(waits.join().unwrap());
            });
            assert!(!is_among_files || fs::read(&path).unwrap() == b"another's");
        }
    }

    #[test]
    fn a_name_that_nobody_can_connect_to_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m".repeat(120));
        let refused = MetricsDoor::open(&MetricsAddress::Unix(path.clone())).unwrap_err();
        assert!(matches!(refused, MetricsError::Socket { .. }), "{refused}");
        assert!(!path.exists());
    }

    #[test]
    fn what_is_no_socket_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data");
        fs::write(&path, "precious").unwrap();
        let refused = MetricsDoor::open(&MetricsAddress::Unix(path.clone())).unwrap_err();
        assert!(matches!(refused, MetricsError::NoSocket { .. }));
        assert_eq!(fs::read(&path).unwrap(), b"precious");
        let nowhere = dir.path().join("no/where");
        let refused = MetricsDoor::open(&MetricsAddress::Unix(nowhere)).unwrap_err();
        assert!(matches!(refused, MetricsError::Socket { .. }), "{refused}");
    }
}
