//! `landro id`: the fingerprint of this user on this host, or of a directory's identity.

use std::io::Write;

use crate::cli::args::IdArgs;
use crate::cli::exit::{CliError, Exit};
use crate::cli::trust;

pub fn run(args: IdArgs) -> Result<Exit, CliError> {
    let fingerprint = match &args.of {
        Some(dir) => trust::fingerprint_in(dir)?,
        None => {
            let dir = trust::config_dir()?;
            let file = trust::identity_file(&dir);
            let is_new = !file.exists();
            let identity = trust::identity(&dir)?;
            if is_new {
                eprintln!(
                    "landro: made a new identity, {}; a daemon with another LANDRO_CONFIG_DIR has \
                     another one: landro id --of DIR",
                    file.display()
                );
            }
            identity.fingerprint()
        }
    };
    writeln!(std::io::stdout(), "{fingerprint}").map_err(CliError::Stdout)?;
    Ok(Exit::Done)
}
