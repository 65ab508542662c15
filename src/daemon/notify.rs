//! sd_notify(3) without libsystemd: one datagram to the socket that the service manager names.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Tells the service manager `state` (`READY=1`, `STOPPING=1`), if there is one. Failing to is logged: the
/// service works all the same.
pub fn tell(state: &str) {
    let Some(name) = std::env::var_os("NOTIFY_SOCKET") else { return };
    if let Err(error) = send(&name, state) {
        tracing::warn!("cannot tell the service manager {state} through NOTIFY_SOCKET: {error}");
    }
}

/// A name that begins with `@` is in the abstract namespace (unix(7)).
fn send(name: &OsStr, state: &str) -> io::Result<()> {
    let address = match name.as_bytes() {
        [b'@', rest @ ..] => SocketAddr::from_abstract_name(rest)?,
        _ => SocketAddr::from_pathname(name)?,
    };
    UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reaches_a_socket_in_the_file_system_and_an_abstract_one() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("notify");
        let abstract_name = format!("@landro-test-{}", std::process::id());
        let abstract_address = SocketAddr::from_abstract_name(&abstract_name[1..]).unwrap();
        let by_path = (UnixDatagram::bind(&path).unwrap(), path.into_os_string());
        let by_name = (UnixDatagram::bind_addr(&abstract_address).unwrap(), abstract_name.into());
        for (socket, name) in [by_path, by_name] {
            send(&name, "READY=1").unwrap();
            let mut got = [0; 16];
            let size = socket.recv(&mut got).unwrap();
            assert_eq!(&got[..size], b"READY=1");
        }
        assert!(send(OsStr::new("/nonexistent/socket"), "READY=1").is_err());
    }
}
