//! Where the log goes, and in which form: text for people, JSON for collectors, fields for the
//! journal.

use std::io::{self, IsTerminal};
use std::os::unix::fs::MetadataExt;

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, fmt};

use super::args::LogFormat;
use super::exit::CliError;

/// What the journal calls the source of a line.
const IDENTIFIER: &str = "landro";

/// Starts the log. `LANDRO_LOG` takes tracing's directives, such as `debug` or
/// `landro::quic=trace`, in place of `level`.
///
/// # Errors
/// The journal was asked for, and is not there.
pub fn start(level: &str, format: LogFormat) -> Result<(), CliError> {
    let filter = || EnvFilter::try_from_env("LANDRO_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    let journal = match format {
        LogFormat::Journald => Some(journal().map_err(CliError::Journal)?),
        // Text on stderr is what is left where the journal is not there after all.
        LogFormat::Auto if is_journal_on_stderr() => journal().ok(),
        LogFormat::Auto | LogFormat::Text | LogFormat::Json => None,
    };
    let with_filter = tracing_subscriber::registry().with(filter());
    match (journal, format) {
        (Some(journal), _) => with_filter.with(journal).init(),
        (None, LogFormat::Json) => with_filter
            .with(
                fmt::layer()
                    .json()
                    .flatten_event(true)
                    .with_current_span(false)
                    .with_target(false)
                    .with_writer(io::stderr),
            )
            .init(),
        (None, LogFormat::Auto | LogFormat::Text | LogFormat::Journald) => with_filter
            .with(
                fmt::layer()
                    .with_ansi(takes_colours())
                    .with_target(false)
                    .with_writer(io::stderr),
            )
            .init(),
    }
    Ok(())
}

/// Fields of a line are fields of the journal's entry, in capitals behind `LANDRO_`.
fn journal() -> io::Result<tracing_journald::Layer> {
    let layer = tracing_journald::layer()?;
    Ok(layer
        .with_syslog_identifier(IDENTIFIER.to_owned())
        .with_field_prefix(Some("LANDRO".to_owned())))
}

/// Whether the service manager has connected stderr to the journal (`JOURNAL_STREAM`,
/// systemd.exec(5)).
fn is_journal_on_stderr() -> bool {
    let stream = std::env::var("JOURNAL_STREAM").unwrap_or_default();
    // A socket, as a rule, which stat(2) reaches through procfs.
    std::fs::metadata("/proc/self/fd/2")
        .is_ok_and(|meta| stream == format!("{}:{}", meta.dev(), meta.ino()))
}

/// Whether the log may be coloured: on a terminal that has colours, unless somebody wants none
/// (no-color.org).
fn takes_colours() -> bool {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    let is_plain = set("NO_COLOR").is_some() || set("TERM").is_none_or(|term| term == "dumb");
    !is_plain && IsTerminal::is_terminal(&io::stderr())
}
