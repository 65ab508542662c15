//! Where TLS secrets and qlog go: options of a daemon, `SSLKEYLOGFILE` and `QLOGDIR` of a command.

use std::env;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use landro_sys::process::has_more_rights_than_its_caller;
use landro_sys::trusted::{self, Untrusted};

use crate::config::Diagnostics;

const KEY_LOG: &str = "SSLKEYLOGFILE";
const QLOG: &str = "QLOGDIR";

/// What `serve` was asked for in so many words. A daemon inherits its environment from whatever
/// started it: that is no reason to write its secrets down.
///
/// # Errors
/// A file or directory that may not be used for it.
pub fn asked_for(
    key_log: Option<&Path>,
    qlog: Option<&Path>,
) -> Result<Option<Arc<Diagnostics>>, Untrusted> {
    if set(KEY_LOG).is_some() || set(QLOG).is_some() {
        tracing::warn!(
            "a daemon does not look at {KEY_LOG} and {QLOG}; use --keylog FILE and --qlog DIR"
        );
    }
    let diagnostics = open(key_log, qlog)?;
    if key_log.is_some() {
        tracing::warn!("--keylog: whoever reads that file reads what these connections carry");
    }
    Ok(diagnostics)
}

/// What the environment asks of a command, as elsewhere; failing to does not stop it.
pub fn of_environment() -> Option<Arc<Diagnostics>> {
    let (key_log, qlog) = (set(KEY_LOG), set(QLOG));
    if has_more_rights_than_its_caller() {
        // Who calls a set-user-ID program may neither read its secrets nor say where it writes.
        return None;
    }
    open(key_log.as_deref(), qlog.as_deref()).unwrap_or_else(|error| {
        tracing::warn!("{KEY_LOG} and {QLOG} are not used: {error}");
        None
    })
}

fn set(name: &str) -> Option<PathBuf> {
    env::var_os(name)
        .filter(|value| !value.is_empty())
        .map(PathBuf::from)
}

fn open(
    key_log: Option<&Path>,
    qlog: Option<&Path>,
) -> Result<Option<Arc<Diagnostics>>, Untrusted> {
    let key_log = key_log.map(trusted::append_secret).transpose()?;
    let qlog = qlog.map(trusted::open_directory).transpose()?;
    let any = key_log.is_some() || qlog.is_some();
    Ok(any.then(|| Arc::new(Diagnostics::new(key_log, qlog))))
}
