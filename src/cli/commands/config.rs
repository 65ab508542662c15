//! `landro config`: what `landro serve` would be told, and by whom.

use std::ffi::OsString;
use std::io::Write;

use super::serve;
use crate::cli::args::ConfigArgs;
use crate::cli::exit::{CliError, Exit};
use crate::cli::settings::{self, Places};

pub fn run(args: ConfigArgs) -> Result<Exit, CliError> {
    let named = args.config.map(|path| {
        let mut word = OsString::from("--config=");
        word.push(path);
        word
    });
    let typed: Vec<OsString> = named.into_iter().chain(args.serve).collect();
    let settings = settings::resolve(&Places::of_process(&typed))?;
    serve::check(&settings.args)?;
    let mut stdout = std::io::stdout().lock();
    let file = settings.file.map(|path| path.display().to_string());
    let told = match (args.check, file) {
        (true, Some(file)) => writeln!(stdout, "{file}: all of it is understood"),
        (true, None) => writeln!(stdout, "no file: what is said elsewhere is understood"),
        (false, file) => {
            let file = file.unwrap_or_else(|| "no file".to_owned());
            let head = writeln!(stdout, "# {file}");
            let mut lines = settings.provenance.all.iter();
            head.and_then(|()| lines.try_for_each(|setting| writeln!(stdout, "{setting}")))
        }
    };
    told.and_then(|()| stdout.flush())
        .map_err(CliError::Stdout)?;
    Ok(Exit::Done)
}
