//! What `serve` is told, from four places: the command line, before the environment, before the
//! configuration file, before the defaults.
//!
//! An option has one name and one meaning in all of them: what the environment and the file say is
//! put before the command line as the words that would say it there, and read by the same parser.

mod file;

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::{Path, PathBuf};

use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command, CommandFactory, FromArgMatches};
use landro_sys::trusted::Untrusted;

use super::args::{Arguments, CliCommand, ServeArgs};
use super::escape;

/// Read if it is there and no other is named.
pub const DEFAULT_FILE: &str = "/etc/landro/landro.toml";

/// Environment variables are options in capitals, behind this.
const VARIABLE: &str = "LANDRO_SERVE_";

/// The argument that is no option.
const ROOT: &str = "root";

/// The option that names the file, which is no option of the file.
const FILE: &str = "config";

/// Where a value is from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Origin {
    CommandLine,
    Variable(String),
    File { path: PathBuf, line: usize },
    Default,
}

/// What an option is told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum OptionValue {
    Flag(bool),
    /// One, or of an option that is repeatable any number.
    Values(Vec<OsString>),
}

/// An option, as it is told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Setting {
    /// Its long name on the command line, without the dashes.
    pub name: String,
    /// None: what its help says of its default.
    pub told: Option<OptionValue>,
    pub origin: Origin,
    pub is_repeatable: bool,
    /// The default of its help, where that is no value.
    pub help_default: Option<String>,
}

/// Where settings come from.
pub struct Places<'a> {
    /// The words behind `landro serve`.
    pub typed: &'a [OsString],
    pub environment: Vec<(String, OsString)>,
    /// Where the words and the environment name no other.
    pub default_file: &'a Path,
    /// The one that was found before, whatever its name would mean in the working directory of now.
    pub found_file: Option<&'a Path>,
}

/// What all places say together.
#[derive(Debug)]
pub struct Settings {
    pub args: ServeArgs,
    /// In the order of the help.
    pub all: Vec<Setting>,
    pub file: Option<PathBuf>,
}

/// What of the places is no setting.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    #[error("{0}; it configures nothing")]
    File(#[from] Untrusted),
    #[error("{at}: {text}")]
    Syntax { at: Origin, text: String },
    #[error("{at}: there is no option {name}: landro serve --help has those there are")]
    Unknown { at: Origin, name: String },
    #[error("{at}: {name}: {text}")]
    Value {
        at: Origin,
        name: String,
        text: String,
    },
    /// Of all together, or of the command line.
    #[error("{0}")]
    Words(String),
}

impl Places<'_> {
    /// Those of this process. `typed`: the words behind `landro serve`.
    pub fn of_process(typed: &[OsString]) -> Places<'_> {
        let environment = std::env::vars_os().filter_map(|(name, value)| {
            let name = name.into_string().ok()?;
            name.starts_with(VARIABLE).then_some((name, value))
        });
        Places {
            typed,
            environment: environment.collect(),
            default_file: Path::new(DEFAULT_FILE),
            found_file: None,
        }
    }
}

/// Puts together what all places say.
///
/// # Errors
/// The file cannot be read or others may write it, or something in one of the places is no option,
/// or no value of it.
pub fn resolve(places: &Places) -> Result<Settings, SettingsError> {
    let command = serve_command();
    let typed = parse(places.typed)?;
    let is_typed = |id: &str| typed.value_source(id) == Some(ValueSource::CommandLine);
    let variables = variables(&command, &places.environment)?;
    let path = match (places.found_file, is_typed(FILE)) {
        (Some(path), _) => Some(path.to_path_buf()),
        (None, true) => typed.get_one::<PathBuf>(FILE).cloned(),
        (None, false) => {
            let named = variables.iter().find(|found| found.name == FILE);
            named.and_then(|found| found.one()).map(PathBuf::from)
        }
    };
    let (file, in_file) = match path {
        Some(path) => (Some(path.clone()), file::read(&path)?),
        None => match file::read(places.default_file) {
            Err(SettingsError::File(error)) if error.is_not_found() => (None, Vec::new()),
            found => (Some(places.default_file.to_path_buf()), found?),
        },
    };
    let mut taken: HashSet<&str> = arguments(&command)
        .map(|arg| arg.get_id().as_str())
        .filter(|id| is_typed(id))
        .collect();
    let (mut words, mut root, mut below) = (Vec::new(), None, Vec::new());
    for found in variables.into_iter().chain(in_file) {
        let arg = arguments(&command).find(|arg| name_of(arg) == found.name);
        let arg =
            arg.filter(|arg| name_of(arg) != FILE || matches!(found.origin, Origin::Variable(_)));
        let Some(arg) = arg else {
            let (at, name) = (found.origin, escape::name(found.name.as_bytes()));
            return Err(SettingsError::Unknown { at, name });
        };
        let own = found.words(arg)?;
        // Alone first, so that what is wrong with it is said of its place.
        parse(&own).map_err(|error| found.wrong(&error))?;
        let id = arg.get_id().as_str();
        // Who is told the contrary by a place that comes first is not told this.
        if taken.contains(id) || is_countermanded(&command, arg, &taken) {
            continue;
        }
        taken.insert(id);
        match arg.is_positional() {
            true => root = Some(own),
            false => words.extend(own),
        }
        below.push((id.to_owned(), found));
    }
    words.extend(places.typed.iter().cloned());
    words.extend(root.into_iter().flatten());
    let matches = parse(&words)?;
    let all = arguments(&command)
        .filter(|arg| name_of(arg) != FILE)
        .map(|arg| {
            let id = arg.get_id().as_str();
            let found = below.iter().find(|(below, _)| below == id);
            setting(arg, &matches, found.map(|(_, found)| found), is_typed(id))
        })
        .collect();
    Ok(Settings {
        args: ServeArgs::from_arg_matches(&matches).map_err(|error| of_clap(&error))?,
        all,
        file,
    })
}

/// What a place other than the command line says of an option.
pub(super) struct PlacedOption {
    pub name: String,
    pub told: OptionValue,
    pub origin: Origin,
}

impl PlacedOption {
    fn one(&self) -> Option<&OsStr> {
        match &self.told {
            OptionValue::Values(values) => values.first().map(OsString::as_os_str),
            OptionValue::Flag(_) => None,
        }
    }

    /// The same on a command line.
    fn words(&self, arg: &Arg) -> Result<Vec<OsString>, SettingsError> {
        let is_flag = is_flag(arg);
        let wrong = |text: &str| {
            Err(SettingsError::Value {
                at: self.origin.clone(),
                name: self.name.clone(),
                text: text.to_owned(),
            })
        };
        let values = match &self.told {
            OptionValue::Flag(on) if is_flag => {
                let word = OsString::from(format!("--{}", self.name));
                return Ok(on.then_some(word).into_iter().collect());
            }
            OptionValue::Flag(_) => return wrong("takes a value, and is neither true nor false"),
            OptionValue::Values(_) if is_flag => return wrong("is either true or false"),
            OptionValue::Values(values) => values,
        };
        if values.len() != 1 && !is_repeatable(arg) {
            return wrong("takes one value");
        }
        if arg.is_positional() {
            return Ok([OsString::from("--")]
                .into_iter()
                .chain(values.clone())
                .collect());
        }
        let word = |value: &OsString| {
            let mut word = OsString::from(format!("--{}=", self.name));
            word.push(value);
            word
        };
        Ok(values.iter().map(word).collect())
    }

    fn wrong(&self, error: &SettingsError) -> SettingsError {
        SettingsError::Value {
            at: self.origin.clone(),
            name: self.name.clone(),
            text: error.to_string(),
        }
    }
}

fn serve_command() -> Command {
    let mut command = Arguments::command();
    command.build();
    let serve = command.find_subcommand("serve").cloned();
    serve.unwrap_or_default()
}

/// Those that have a value or are a flag.
fn arguments(command: &Command) -> impl Iterator<Item = &Arg> {
    let is_told = |arg: &&Arg| {
        matches!(
            arg.get_action(),
            ArgAction::Set | ArgAction::Append | ArgAction::SetTrue
        )
    };
    command.get_arguments().filter(is_told)
}

fn name_of(arg: &Arg) -> &str {
    arg.get_long().unwrap_or(ROOT)
}

fn is_flag(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::SetTrue)
}

fn is_repeatable(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::Append)
}

/// Whether something that was said before excludes this one.
fn is_countermanded(command: &Command, arg: &Arg, taken: &HashSet<&str>) -> bool {
    let excludes = |one: &Arg, other: &Arg| {
        let all = command.get_arg_conflicts_with(one);
        all.iter().any(|it| it.get_id() == other.get_id())
    };
    arguments(command)
        .filter(|other| taken.contains(other.get_id().as_str()))
        .any(|other| excludes(arg, other) || excludes(other, arg))
}

fn parse(words: &[OsString]) -> Result<ArgMatches, SettingsError> {
    let before = ["landro", "serve"].map(OsString::from);
    let words = before.iter().chain(words);
    let matches = Arguments::command().try_get_matches_from(words);
    let (_, matches) = matches
        .map_err(|error| of_clap(&error))?
        .remove_subcommand()
        .unwrap_or_default();
    Ok(matches)
}

/// What clap says, without what is around it.
fn of_clap(error: &clap::Error) -> SettingsError {
    let text = error.to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    let said = text.lines().take_while(|line| !line.trim().is_empty());
    SettingsError::Words(said.map(str::trim).collect::<Vec<_>>().join(" "))
}

/// What the environment says, in the order of the names.
fn variables(
    command: &Command,
    environment: &[(String, OsString)],
) -> Result<Vec<PlacedOption>, SettingsError> {
    let mut found = Vec::new();
    for (variable, value) in environment {
        let Some(rest) = variable.strip_prefix(VARIABLE) else {
            continue;
        };
        let (name, origin) = (
            rest.to_lowercase().replace('_', "-"),
            Origin::Variable(variable.clone()),
        );
        let arg = arguments(command).find(|arg| name_of(arg) == name);
        let text = value.to_str();
        let told = match arg {
            Some(arg) if is_flag(arg) => match text {
                Some("1" | "true" | "yes" | "on") => OptionValue::Flag(true),
                Some("" | "0" | "false" | "no" | "off") => OptionValue::Flag(false),
                Some(_) | None => {
                    let text = "is either true or false".to_owned();
                    return Err(SettingsError::Value {
                        at: origin,
                        name,
                        text,
                    });
                }
            },
            Some(arg) if is_repeatable(arg) => {
                // No value of such an option has a blank.
                let values = text.unwrap_or_default().split_whitespace();
                OptionValue::Values(values.map(OsString::from).collect())
            }
            Some(_) | None => OptionValue::Values(vec![value.clone()]),
        };
        found.push(PlacedOption { name, told, origin });
    }
    found.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(found)
}

/// An option as it came to be.
fn setting(
    arg: &Arg,
    matches: &ArgMatches,
    below: Option<&PlacedOption>,
    is_typed: bool,
) -> Setting {
    let id = arg.get_id().as_str();
    let told = match is_flag(arg) {
        true => Some(OptionValue::Flag(matches.get_flag(id))),
        false => {
            let values = matches.get_raw(id);
            values.map(|values| OptionValue::Values(values.map(OsStr::to_owned).collect()))
        }
    };
    let origin = match (is_typed, below) {
        (true, _) => Origin::CommandLine,
        (false, Some(found)) => found.origin.clone(),
        (false, None) => Origin::Default,
    };
    Setting {
        name: name_of(arg).to_owned(),
        told,
        origin,
        is_repeatable: is_repeatable(arg),
        help_default: default_in_help(arg),
    }
}

/// `[default: one per core]`, without what is around it.
fn default_in_help(arg: &Arg) -> Option<String> {
    let help = arg.get_help()?.to_string();
    let (_, default) = help.split_once("[default: ")?;
    let (default, _) = default.split_once(']')?;
    Some(default.to_owned())
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::CommandLine => f.write_str("command line"),
            Origin::Variable(name) => f.write_str(name),
            Origin::File { path, line } => write!(f, "{}:{line}", path.display()),
            Origin::Default => f.write_str("default"),
        }
    }
}

/// As a line of the file, with its origin behind it.
impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Setting {
            name, told, origin, ..
        } = self;
        match (told, &self.help_default) {
            (Some(OptionValue::Flag(on)), _) => write!(f, "{name} = {on}")?,
            (Some(OptionValue::Values(values)), _) => {
                let quoted = values.iter().map(|value| file::quoted(value));
                let quoted = quoted.collect::<Vec<_>>().join(", ");
                match self.is_repeatable {
                    true => write!(f, "{name} = [{quoted}]")?,
                    false => write!(f, "{name} = {quoted}")?,
                }
            }
            (None, Some(default)) => write!(f, "# {name}: {default}")?,
            (None, None) => write!(f, "# {name}: not set")?,
        }
        write!(f, "  # {origin}")
    }
}

/// The words behind `landro serve` on a command line.
pub fn typed_behind_serve() -> Vec<OsString> {
    std::env::args_os()
        .skip_while(|word| word != "serve")
        .skip(1)
        .collect()
}

/// With what the environment and the file say in place of the words alone, and who said what.
///
/// # Errors
/// As [`resolve`].
pub fn complete(command: CliCommand) -> Result<(CliCommand, Vec<Setting>), SettingsError> {
    match command {
        CliCommand::Serve(_) => {
            let settings = resolve(&Places::of_process(&typed_behind_serve()))?;
            let args = ServeArgs {
                config: settings.file,
                ..settings.args
            };
            Ok((CliCommand::Serve(args), settings.all))
        }
        other => Ok((other, Vec::new())),
    }
}

#[cfg(test)]
mod tests;
