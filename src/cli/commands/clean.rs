//! `landro clean`: removes unfinished files that nobody went on with for long.

use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;

use crate::cli::args::CleanArgs;
use crate::cli::args::url::Operand;
use crate::cli::escape;
use crate::cli::exit::{CliError, Exit};
use crate::cli::output::amount;
use crate::engine::{self, Fate, Removal, Sight};
use crate::signals::{Hangup, Signals};

pub fn run(args: CleanArgs) -> Result<Exit, CliError> {
    let signals = Signals::catch(Hangup::Default).map_err(CliError::Signals)?;
    let removal = Removal::WrittenBefore {
        seconds: engine::before(args.older_than),
        rehearsal: args.dry_run,
    };
    let root = args.dir.as_os_str().as_bytes();
    let mut stdout = io::BufWriter::new(io::stdout().lock());
    let (mut told, mut failed) = (Ok(()), false);
    let searched = engine::search_leftovers(&args.dir, removal, &mut |sight| {
        let (path, problem) = match &sight {
            Sight::File(_, Fate::Kept | Fate::Busy) => return signals.asked().is_none(),
            Sight::File(left, fate @ (Fate::Removed | Fate::Doomed)) => {
                let path = escape::name(&below(root, &left.path));
                let size = amount::bytes(left.meta.size_bytes);
                told = match fate {
                    Fate::Doomed => writeln!(stdout, "would remove {path} ({size})"),
                    _ => writeln!(stdout, "removed {path} ({size})"),
                };
                return told.is_ok() && signals.asked().is_none();
            }
            Sight::File(left, Fate::Failed(error)) => (&left.path, error),
            Sight::Unreadable(path, error) => (path, error),
        };
        failed = true;
        let path = escape::name(&below(root, path));
        let why = io::Error::from_raw_os_error(problem.errno);
        eprintln!("landro: {path}: {}: {why}", problem.call);
        signals.asked().is_none()
    });
    if let Err(error) = searched {
        let (path, source) = (
            escape::name(root),
            io::Error::from_raw_os_error(error.errno),
        );
        return Err(match Operand::parse(args.dir.as_os_str()) {
            Ok(Operand::Local(_)) => CliError::Search { path, source },
            Ok(Operand::Remote(_)) | Err(_) => CliError::NotHere(path),
        });
    }
    match told.and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            return Err(CliError::Stdout(error));
        }
        _ => {}
    }
    Ok(match signals.asked() {
        Some(signal_hook::consts::SIGTERM) => Exit::Terminated,
        Some(_) => Exit::Interrupted,
        None if failed => Exit::Partial,
        None => Exit::Done,
    })
}

/// A path from where the search began, as it is from here.
pub fn below(root: &[u8], path: &[u8]) -> Vec<u8> {
    match root {
        b"." => path.to_vec(),
        root if path.is_empty() => root.to_vec(),
        root if root.ends_with(b"/") => [root, path].concat(),
        root => [root, b"/", path].concat(),
    }
}
