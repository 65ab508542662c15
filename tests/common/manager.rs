//! A service manager that hears what sd_notify(3) is told, and does nothing of its own.

use std::io::ErrorKind;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::Duration;

/// What a service manager is told.
pub struct Manager(UnixDatagram);

impl Manager {
    pub fn at(path: &Path) -> Manager {
        Manager(UnixDatagram::bind(path).unwrap())
    }

    /// None: nothing in a minute.
    pub fn hear(&self) -> Option<String> {
        self.hear_within(Duration::from_secs(60))
    }

    /// None: nothing for so long.
    pub fn hear_within(&self, patience: Duration) -> Option<String> {
        self.0.set_read_timeout(Some(patience)).unwrap();
        let mut said = [0; 64];
        loop {
            match self.0.recv(&mut said) {
                Ok(bytes) => return Some(String::from_utf8_lossy(&said[..bytes]).into_owned()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return None,
                Err(error) => panic!("{error}"),
            }
        }
    }
}
