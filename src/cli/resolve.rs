//! From a daemon's name to its addresses, within a time that is said: a resolver may never answer.

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::thread;
use std::time::Duration;

use crossbeam::channel::{RecvTimeoutError, bounded};

use super::args::url::DaemonName;
use super::exit::CliError;
use crate::signals::Signals;

/// How long a name is looked up: glibc asks one name server twice, for 5 s each, before it says
/// that there is no answer (resolv.conf(5)); a second server has its turn, too.
const RESOLVE_FOR: Duration = Duration::from_secs(15);

/// Addresses of one name that are dialled: 16 s at one each 250 ms.
const MAX_ADDRESSES: usize = 64;

/// The addresses of a daemon. None: the user asked to stop.
///
/// # Errors
/// There is no such name, or nobody to ask.
pub fn resolve(
    host: &DaemonName,
    signals: &Signals,
    signal_check: Duration,
) -> Result<Option<Vec<SocketAddr>>, CliError> {
    if let Ok(ip) = host.name.parse::<IpAddr>() {
        return Ok(Some(vec![SocketAddr::new(ip, host.port)]));
    }
    let url = host.url(b"");
    let lookup = (host.name.clone(), host.port);
    let failed = |source| CliError::Resolve {
        host: url.clone(),
        source,
    };
    let (answer, answered) = bounded(1);
    // getaddrinfo(3) cannot be stopped: where it takes too long, the thread ends with the process.
    thread::Builder::new()
        .name("resolver".to_owned())
        .spawn(move || {
            let found = (lookup.0.as_str(), lookup.1).to_socket_addrs();
            let found = found.map(|all| all.take(MAX_ADDRESSES).collect::<Vec<_>>());
            let _ = answer.send(found);
        })
        .map_err(failed)?;
    let mut waited = Duration::ZERO;
    while waited < RESOLVE_FOR {
        if signals.asked().is_some() {
            return Ok(None);
        }
        match answered.recv_timeout(signal_check) {
            Ok(found) => return found.map(Some).map_err(failed),
            Err(RecvTimeoutError::Timeout) => waited += signal_check,
            Err(RecvTimeoutError::Disconnected) => {
                return Err(failed(io::Error::other("the resolver's thread failed")));
            }
        }
    }
    let seconds = RESOLVE_FOR.as_secs();
    Err(CliError::ResolverSilent { host: url, seconds })
}
