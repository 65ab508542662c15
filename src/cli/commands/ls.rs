//! `landro ls`: a directory of a daemon, one line per entry.

use bytes::Bytes;

use crate::cli::args::LsArgs;
use crate::cli::args::url::Url;
use crate::cli::dial::{self, Dial};
use crate::cli::escape;
use crate::cli::exit::{CliError, Exit};
use crate::cli::output::copy::WARNINGS_SHOWN;
use crate::cli::output::outcome::{Parties, judge};
use crate::cli::output::rows::{RowFormat, Rows};
use crate::cli::say::{say, without_numbers};
use crate::engine::ClientEvent;
use crate::proto::Event;
use crate::proto::session::Request;
use crate::signals::{Hangup, Signals};

pub fn run(args: LsArgs) -> Result<Exit, CliError> {
    let url = Url::parse(&args.url)?;
    let signals = Signals::catch(Hangup::Default).map_err(CliError::Signals)?;
    let format = match (args.json, args.long) {
        (true, _) => RowFormat::Json,
        (false, true) => RowFormat::Long,
        (false, false) => RowFormat::Names,
    };
    let (mut rows, mut warnings) = (Rows::new(format, args.all, &url.path), 0);
    let request = Request::List {
        path: Bytes::from(url.path.clone()),
    };
    let result = dial::run(
        &Dial::new(&url.host, &args.trust, &args.engine),
        &signals,
        &request,
        &mut |event| match event {
            Some(ClientEvent::Session(Event::Listing { path, meta, link })) => {
                rows.take(path, meta, link);
            }
            Some(ClientEvent::Session(Event::Warning { path, text }))
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
                rows.error(verdict.code, &message);
            }
            verdict.exit
        }
        Err(error) => {
            let (exit, code) = error.exit();
            rows.error(code, &without_numbers(&error.to_string()));
            exit
        }
    };
    rows.finish(exit).map_err(CliError::Stdout)?;
    Ok(exit)
}
