//! sd_notify(3) without libsystemd: one datagram to the socket that the service manager names.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// Tells the service manager `state` (`READY=1`, `STOPPING=1`), if there is one. Failing to is
/// logged: the service works all the same.
pub fn tell(state: &str) {
    let Some(name) = std::env::var_os("NOTIFY_SOCKET") else {
        return;
    };
    if let Err(error) = send(&name, state) {
        tracing::warn!("cannot tell the service manager {state} through NOTIFY_SOCKET: {error}");
    }
}

/// How often the service manager wants to hear `WATCHDOG=1` of this process, if it does
/// (sd_watchdog_enabled(3)).
pub fn watchdog() -> Option<Duration> {
    let set = |name| std::env::var(name).ok();
    timeout(
        set("WATCHDOG_USEC").as_deref(),
        set("WATCHDOG_PID").as_deref(),
        std::process::id(),
    )
}

/// The variables are inherited: with the number of another process they are not for us.
fn timeout(microseconds: Option<&str>, process: Option<&str>, own: u32) -> Option<Duration> {
    if process.is_some_and(|process| process.parse() != Ok(own)) {
        return None;
    }
    let timeout = Duration::from_micros(microseconds?.parse().ok()?);
    Some(timeout).filter(|timeout| !timeout.is_zero())
}

/// A name that begins with `@` is in the abstract namespace (unix(7)).
fn send(name: &OsStr, state: &str) -> io::Result<()> {
    let address = match name.as_bytes() {
        [b'@', rest @ ..] => SocketAddr::from_abstract_name(rest)?,
        _ => SocketAddr::from_pathname(name)?,
    };
    UnixDatagram::unbound()?
        .send_to_addr(state.as_bytes(), &address)
        .map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_watchdog_is_asked_for_by_name() {
        let second = Some(Duration::from_secs(1));
        assert_eq!(timeout(Some("1000000"), None, 7), second);
        assert_eq!(timeout(Some("1000000"), Some("7"), 7), second);
        assert_eq!(timeout(Some("1000000"), Some("8"), 7), None, "our parent's");
        for nothing in [None, Some("0"), Some(""), Some("soon")] {
            assert_eq!(timeout(nothing, None, 7), None);
        }
    }

    #[test]
    fn reaches_a_socket_in_the_file_system_and_an_abstract_one() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("notify");
        let abstract_name = format!("@landro-test-{}", std::process::id());
        let abstract_address = SocketAddr::from_abstract_name(&abstract_name[1..]).unwrap();
        let by_path = (UnixDatagram::bind(&path).unwrap(), path.into_os_string());
        let by_name = (
            UnixDatagram::bind_addr(&abstract_address).unwrap(),
            abstract_name.into(),
        );
        for (socket, name) in [by_path, by_name] {
            send(&name, "READY=1").unwrap();
            let mut got = [0; 16];
            let size = socket.recv(&mut got).unwrap();
            assert_eq!(&got[..size], b"READY=1");
        }
        assert!(send(OsStr::new("/nonexistent/socket"), "READY=1").is_err());
    }
}
