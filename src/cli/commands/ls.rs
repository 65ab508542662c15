//! `landro ls`: a directory of a daemon, one line per entry.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use bytes::Bytes;

use crate::cli::args::LsArgs;
use crate::cli::args::url::{Operand, Url};
use crate::cli::dial::{self, Dial};
use crate::cli::escape;
use crate::cli::exit::{CliError, Exit};
use crate::cli::output::copy::WARNINGS_SHOWN;
use crate::cli::output::outcome::{Parties, judge};
use crate::cli::output::rows::{RowFormat, Rows};
use crate::cli::say::{say, without_numbers};
use crate::engine::{self, ClientEvent, Removal, Sight};
use crate::proto::Event;
use crate::proto::session::Request;
use crate::signals::{Hangup, Signals};

pub fn run(args: LsArgs) -> Result<Exit, CliError> {
    let url = match Operand::parse(&args.url)? {
        Operand::Local(path) if args.partial => return partial_here(&path, &args),
        _ => Url::parse(&args.url)?,
    };
    let signals = Signals::catch(Hangup::Default).map_err(CliError::Signals)?;
    let (mut rows, mut warnings) = (rows(&args, &url.path), 0);
    let request = Request::List {
        path: Bytes::from(url.path.clone()),
        partial: args.partial,
    };
    let result = dial::run(
        &Dial::new(&url.host, &args.trust, &args.from, &args.engine),
        &signals,
        &request,
        &mut |event| match event {
            Some(ClientEvent::Session(Event::Listing { path, meta, link })) => {
                rows.take(path, *meta, link);
            }
            Some(ClientEvent::Session(Event::Warning { path, text, .. }))
                if warnings < WARNINGS_SHOWN =>
            {
                warnings += 1;
                let (path, text) = (escape::name(&path), escape::text(&text));
                say(&format!("landro: warning: {path}: {text}"));
            }
            _ => {}
        },
    );
    let exit = match result {
        Ok(done) => {
            let parties = Parties {
                host: Some(&url.host),
                own: Some(done.own),
                asked: url.host.url(&url.path),
                ..Parties::default()
            };
            let verdict = judge(&done.ended, signals.asked(), &parties);
            if let Some(message) = verdict.message {
                rows.error(verdict.code, verdict.errno, &message);
            }
            verdict.exit
        }
        Err(error) => {
            let (exit, code) = error.exit();
            rows.error(code, None, &without_numbers(&error.to_string()));
            exit
        }
    };
    rows.finish(exit).map_err(CliError::Stdout)?;
    Ok(exit)
}

/// Of unfinished files all is told.
fn rows(args: &LsArgs, path: &[u8]) -> Rows {
    let format = match (args.json, args.long || args.partial) {
        (true, _) => RowFormat::Json,
        (false, true) => RowFormat::Long,
        (false, false) => RowFormat::Names,
    };
    Rows::new(format, args.all || args.partial, path)
}

/// Unfinished files in a local directory.
fn partial_here(path: &[u8], args: &LsArgs) -> Result<Exit, CliError> {
    let (mut rows, mut exit) = (rows(args, path), Exit::Done);
    let dir = Path::new(OsStr::from_bytes(path));
    let searched = engine::search_leftovers(dir, Removal::Nothing, &mut |sight| {
        match sight {
            Sight::File(left, _) => rows.take(left.path, left.meta, None),
            Sight::Unreadable(path, error) => {
                exit = Exit::Partial;
                let why = io::Error::from_raw_os_error(error.errno);
                let message = format!("{}: {why}", escape::name(&path));
                rows.error("source", Some(error.errno), &message);
            }
        }
        true
    });
    searched.map_err(|error| CliError::Search {
        path: escape::name(path),
        source: io::Error::from_raw_os_error(error.errno),
    })?;
    rows.finish(exit).map_err(CliError::Stdout)?;
    Ok(exit)
}
