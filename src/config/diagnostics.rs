//! What connections write for those who look into them: TLS secrets and qlog, opened once, bounded,
//! never for strangers.
//!
//! A daemon's connection writes nothing before its peer is authenticated: whatever a handshake cost
//! on disk, strangers would make as many of them as they like.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Connections of one process that are looked into; a peer may come back in a loop. Each is a file
/// of qlog and, while it lives, a descriptor.
const MAX_CONNECTIONS: u64 = 1000;

/// All qlog of one process. A packet is some 250 bytes of it, so this is some 25 GB of files.
const MAX_QLOG_BYTES: u64 = 4 << 30;

/// Secrets of one connection, held back until its peer is known: five lines of about 200 bytes.
const MAX_HELD_BYTES: usize = 4 << 10;

/// Where to write; shared by all connections of a process.
#[derive(Debug)]
pub struct Diagnostics {
    key_log: Option<File>,
    qlog_dir: Option<File>,
    connections: AtomicU64,
    qlog_bytes: AtomicU64,
}

impl Diagnostics {
    /// `key_log` is open for appending, `qlog_dir` is a directory.
    pub fn new(key_log: Option<File>, qlog_dir: Option<File>) -> Diagnostics {
        Diagnostics {
            key_log,
            qlog_dir,
            connections: AtomicU64::new(0),
            qlog_bytes: AtomicU64::new(0),
        }
    }

    /// Whether TLS secrets are written.
    pub fn logs_keys(&self) -> bool {
        self.key_log.is_some()
    }

    /// Takes the place of one more connection; false: there have been enough.
    fn admit(&self) -> bool {
        let before = self.connections.fetch_add(1, Ordering::Relaxed);
        if before == MAX_CONNECTIONS {
            tracing::warn!(
                "key log and qlog have {MAX_CONNECTIONS} connections and take no more in this run"
            );
        }
        before < MAX_CONNECTIONS
    }
}

/// Only as the field of a configuration: two are the same if they write to the same place.
impl PartialEq for Diagnostics {
    fn eq(&self, other: &Diagnostics) -> bool {
        std::ptr::eq(self, other)
    }
}

impl Eq for Diagnostics {}

/// What one connection has to do with [`Diagnostics`]; begins before its peer is known.
#[derive(Clone)]
pub struct Diagnosis {
    to: Arc<Diagnostics>,
    secrets: Arc<Mutex<HeldSecrets>>,
}

/// A connection's secrets.
enum HeldSecrets {
    /// The peer is not known yet.
    Held(Vec<u8>),
    /// It is: they are written as they come.
    Written,
    /// There have been enough connections.
    Dropped,
}

impl Diagnosis {
    pub fn new(to: Arc<Diagnostics>) -> Diagnosis {
        Diagnosis {
            to,
            secrets: Arc::new(Mutex::new(HeldSecrets::Held(Vec::new()))),
        }
    }

    /// The peer is authenticated, or was dialled by us: what was held is written. Gives the
    /// connection's qlog file, if there is to be one, named `NAME.sqlog`.
    pub fn begin(&self, name: &str) -> Option<QlogFile> {
        let admitted = self.to.admit();
        let next = if admitted {
            HeldSecrets::Written
        } else {
            HeldSecrets::Dropped
        };
        let mut secrets = self.secrets.lock().unwrap_or_else(PoisonError::into_inner);
        let held = std::mem::replace(&mut *secrets, next);
        if let (true, HeldSecrets::Held(lines), Some(mut file)) =
            (admitted, held, self.to.key_log.as_ref())
            && let Err(error) = file.write_all(&lines)
        {
            tracing::warn!("the key log cannot be written: {error}");
        }
        let dir = self.to.qlog_dir.as_ref().filter(|_| admitted)?;
        // By descriptor: what its path means may have changed. A new file is made: no link of that
        // name is followed.
        let path = format!("/proc/self/fd/{}/{name}.sqlog", dir.as_raw_fd());
        match OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
        {
            Ok(file) => Some(QlogFile {
                to: self.to.clone(),
                file: io::BufWriter::new(file),
            }),
            Err(error) => {
                tracing::warn!("{name}.sqlog cannot be made in the directory for qlog: {error}");
                None
            }
        }
    }
}

/// Where the TLS library writes secrets, a line at a time.
impl Write for Diagnosis {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut secrets = self.secrets.lock().unwrap_or_else(PoisonError::into_inner);
        match (&mut *secrets, self.to.key_log.as_ref()) {
            (HeldSecrets::Held(held), _) if held.len() + line.len() <= MAX_HELD_BYTES => {
                held.extend_from_slice(line)
            }
            // One write(2) with O_APPEND: lines of several workers do not mix.
            (HeldSecrets::Written, Some(mut file)) => file.write_all(line)?,
            (HeldSecrets::Held(_) | HeldSecrets::Written | HeldSecrets::Dropped, _) => {}
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The qlog of one connection.
pub struct QlogFile {
    to: Arc<Diagnostics>,
    file: io::BufWriter<File>,
}

impl Write for QlogFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let before = self
            .to
            .qlog_bytes
            .fetch_add(bytes.len() as u64, Ordering::Relaxed);
        if before > MAX_QLOG_BYTES {
            return Err(io::Error::from(io::ErrorKind::QuotaExceeded));
        }
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn nothing_is_written_before_the_peer_is_known() {
        let dir = tempfile::tempdir().unwrap();
        let keys = File::create(dir.path().join("keys")).unwrap();
        let to = Arc::new(Diagnostics::new(
            Some(keys),
            Some(File::open(dir.path()).unwrap()),
        ));
        let written = || fs::read_to_string(dir.path().join("keys")).unwrap();
        let mut stranger = Diagnosis::new(to.clone());
        stranger.write_all(b"never\n").unwrap();
        drop(stranger);
        let mut peer = Diagnosis::new(to.clone());
        peer.write_all(b"one\n").unwrap();
        assert_eq!(
            (
                written().as_str(),
                fs::read_dir(dir.path()).unwrap().count()
            ),
            ("", 1)
        );
        peer.begin("a").unwrap().write_all(b"qlog").unwrap();
        peer.write_all(b"two\n").unwrap();
        assert_eq!(written(), "one\ntwo\n");
        assert_eq!(fs::read(dir.path().join("a.sqlog")).unwrap(), b"qlog");
        assert!(
            Diagnosis::new(to.clone()).begin("a").is_none(),
            "what is there is not written to"
        );
        for _ in 2..MAX_CONNECTIONS {
            Diagnosis::new(to.clone()).begin("a");
        }
        let mut late = Diagnosis::new(to);
        late.write_all(b"too late\n").unwrap();
        assert!(late.begin("b").is_none() && !dir.path().join("b.sqlog").exists());
        late.write_all(b"too late\n").unwrap();
        assert_eq!(written(), "one\ntwo\n");
    }

    #[test]
    fn what_is_held_is_bounded() {
        let mut held = Diagnosis::new(Arc::new(Diagnostics::new(None, None)));
        for _ in 0..1000 {
            held.write_all(&[b'x'; 200]).unwrap();
        }
        let secrets = held.secrets.lock().unwrap();
        assert!(matches!(&*secrets, HeldSecrets::Held(lines) if lines.len() <= MAX_HELD_BYTES));
    }
}
