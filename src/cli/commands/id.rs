//! `landro id`: this host's fingerprint.

use std::io::Write;

use crate::cli::exit::{CliError, Exit};
use crate::cli::trust;

pub fn run() -> Result<Exit, CliError> {
    let identity = trust::identity(&trust::config_dir()?)?;
    writeln!(std::io::stdout(), "{}", identity.fingerprint()).map_err(CliError::Stdout)?;
    Ok(Exit::Done)
}
