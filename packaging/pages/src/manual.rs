//! A manual page for each command: its options by clap_mangen, the rest from what the help says.

use std::io::{self, Write};

use clap::builder::PossibleValue;
use clap::{Arg, Command};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, italic, roman};
use landro::cli::manual::{self, Row};

/// The manual page of one command.
pub struct Page {
    /// `landro-cp.1`.
    pub file: String,
    /// What is in it, in roff.
    pub text: Vec<u8>,
}

/// The pages of all commands, `landro(1)` first; `date` (`YYYY-MM-DD`) is in their last line.
///
/// # Errors
/// None but those of memory that is written to.
pub fn pages(date: &str) -> io::Result<Vec<Page>> {
    let landro = manual::command().disable_help_subcommand(true);
    let mut landro = landro.mut_subcommands(|command| command.mut_args(values_in_words));
    landro.build();
    let commands: Vec<&Command> = std::iter::once(&landro)
        .chain(landro.get_subcommands())
        .collect();
    commands
        .iter()
        .map(|of| page(of, &commands, date))
        .collect()
}

/// Values that an option may have, in its sentence: as a list each takes a line, with two empty
/// ones before it.
fn values_in_words(option: Arg) -> Arg {
    let values = option.get_possible_values();
    let names: Vec<&str> = values.iter().map(PossibleValue::get_name).collect();
    if !option.get_action().takes_values() || names.is_empty() {
        return option;
    }
    let said = option.get_help().map(ToString::to_string);
    let said = said.unwrap_or_default();
    let words = format!("{said} [possible values: {}]", names.join(", "));
    option.help(words).hide_possible_values(true)
}

/// `landro` or `landro-cp`.
fn title(command: &Command) -> &str {
    command
        .get_display_name()
        .unwrap_or_else(|| command.get_name())
}

fn page(of: &Command, all: &[&Command], date: &str) -> io::Result<Page> {
    let man = Man::new(of.clone())
        .title(title(of).to_uppercase())
        .date(date)
        .source(concat!("landro ", env!("CARGO_PKG_VERSION")))
        .manual("landro manual");
    let mut text = Vec::new();
    man.render_title(&mut text)?;
    section(&mut text, |part| man.render_name_section(part))?;
    section(&mut text, |part| man.render_synopsis_section(part))?;
    section(&mut text, |part| man.render_description_section(part))?;
    section(&mut text, |part| man.render_options_section(part))?;
    if of.has_subcommands() {
        section(&mut text, |part| man.render_subcommands_section(part))?;
    }
    section(&mut text, |part| rest(of, all).to_writer(part))?;
    Ok(Page {
        file: man.get_filename(),
        text,
    })
}

/// Each part comes with the definitions that a whole page needs once.
fn section(
    text: &mut Vec<u8>,
    write: impl FnOnce(&mut Vec<u8>) -> io::Result<()>,
) -> io::Result<()> {
    let mut part = Vec::new();
    write(&mut part)?;
    let of_the_page = |line: &&[u8]| line.starts_with(b".ie ") || line.starts_with(b".el ");
    let lines = part.split_inclusive(|&byte| byte == b'\n');
    for line in lines.skip_while(of_the_page) {
        text.write_all(line)?;
    }
    Ok(())
}

/// What clap does not know of.
fn rest(of: &Command, all: &[&Command]) -> Roff {
    let mut roff = Roff::new();
    table(&mut roff, "EXIT STATUS", &manual::EXIT_CODES);
    roff.control("SH", ["FILES"]);
    roff.text([
        roman("In "),
        italic(manual::CONFIG_DIR),
        roman(
            ", which belongs to root or to the user who runs landro, and nobody else may write to:",
        ),
    ]);
    rows(&mut roff, &manual::FILES);
    roff.control("PP", []);
    roff.text([roman("In places of their own:")]);
    rows(&mut roff, &manual::OTHER_FILES);
    table(&mut roff, "ENVIRONMENT", &manual::ENVIRONMENT);
    table(&mut roff, "EXAMPLES", manual::examples(of.get_name()));
    roff.control("SH", ["SEE ALSO"]);
    let others = all.iter().filter(|other| title(other) != title(of));
    let others: Vec<String> = others.map(|other| format!("{}(1)", title(other))).collect();
    roff.text([roman(others.join(", "))]);
    roff
}

fn table(roff: &mut Roff, heading: &str, of: &[Row]) {
    roff.control("SH", [heading]);
    rows(roff, of);
}

fn rows(roff: &mut Roff, of: &[Row]) {
    for (what, means) in of {
        roff.control("TP", []);
        roff.text([bold(*what)]);
        roff.text([roman(*means)]);
    }
}
