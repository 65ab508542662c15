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

/// Read by root's daemon if it is there and no other is named. Others' daemons name it: it may hold
/// `allow`, and whom the host's administrator lets in does not come in as somebody else.
pub const DEFAULT_FILE: &str = "/etc/landro/landro.toml";

/// Environment variables are options in capitals, behind this.
const VARIABLE: &str = "LANDRO_SERVE_";

/// The file that is none.
const NO_FILE: &str = "/dev/null";

/// What follows is no option.
const END_OF_OPTIONS: &str = "--";

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
    pub default_file: Option<&'a Path>,
    /// The one that was found before, whatever its name would mean in the working directory of now.
    pub found_file: Option<&'a Path>,
}

/// What all places say together.
#[derive(Debug)]
pub struct Settings {
    pub args: ServeArgs,
    pub provenance: Provenance,
    pub file: Option<PathBuf>,
}

/// Who says what.
#[derive(Debug, Default)]
pub struct Provenance {
    /// All options, in the order of the help.
    pub all: Vec<Setting>,
    /// What the file says, whether or not somebody comes before it.
    pub in_file: Vec<PlacedOption>,
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
        // A program that may do more than its caller listens to its words alone.
        let is_trusted = !landro_sys::process::has_more_rights_than_its_caller();
        let environment = std::env::vars_os().filter_map(|(name, value)| {
            let name = name.into_string().ok()?;
            (is_trusted && name.starts_with(VARIABLE)).then_some((name, value))
        });
        let is_root = landro_sys::process::effective_uid() == 0;
        Places {
            typed,
            environment: environment.collect(),
            default_file: is_root.then_some(Path::new(DEFAULT_FILE)),
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
    let variables = variables(&command, &places.environment)?;
    let (file, in_file) = read_file(places, &typed, &variables)?;
    let below = effective(&command, &typed, variables.iter().chain(&in_file))?;
    let matches = match below.is_empty() {
        true => typed.clone(),
        false => parse(&together(places.typed, &below))?,
    };
    let all = arguments(&command)
        .filter(|arg| name_of(arg) != FILE)
        .map(|arg| {
            let found = below.iter().find(|it| it.option.name == name_of(arg));
            let is_typed = is_typed(&typed, arg.get_id().as_str());
            setting(arg, &matches, found.map(|it| it.option), is_typed)
        })
        .collect();
    Ok(Settings {
        args: ServeArgs::from_arg_matches(&matches).map_err(|error| of_clap(&error))?,
        provenance: Provenance { all, in_file },
        file,
    })
}

fn is_typed(typed: &ArgMatches, id: &str) -> bool {
    typed.value_source(id) == Some(ValueSource::CommandLine)
}

/// The configuration file, and what it says.
fn read_file(
    places: &Places,
    typed: &ArgMatches,
    variables: &[PlacedOption],
) -> Result<(Option<PathBuf>, Vec<PlacedOption>), SettingsError> {
    let named = match (places.found_file, is_typed(typed, FILE)) {
        (Some(path), _) => Some(path.to_path_buf()),
        (None, true) => typed.get_one::<PathBuf>(FILE).cloned(),
        (None, false) => {
            let named = variables.iter().find(|option| option.name == FILE);
            named.and_then(PlacedOption::one).map(PathBuf::from)
        }
    };
    match (named, places.default_file) {
        // Remembered as the file that was named, or SIGHUP would read the default one.
        (Some(path), _) if path == Path::new(NO_FILE) => Ok((Some(path), Vec::new())),
        (Some(path), _) => {
            let options = file::read(&path)?;
            Ok((Some(path), options))
        }
        (None, Some(default)) => match file::read(default) {
            Err(SettingsError::File(error)) if error.is_not_found() => Ok((None, Vec::new())),
            options => Ok((Some(default.to_path_buf()), options?)),
        },
        (None, None) => Ok((None, Vec::new())),
    }
}

/// An option that no place before its own says anything of, or against.
struct Effective<'a> {
    option: &'a PlacedOption,
    words: Vec<OsString>,
    is_positional: bool,
}

/// Which options below the command line are so. The places come in their order.
fn effective<'a>(
    command: &Command,
    typed: &ArgMatches,
    below: impl Iterator<Item = &'a PlacedOption>,
) -> Result<Vec<Effective<'a>>, SettingsError> {
    let typed = |arg: &&Arg| is_typed(typed, arg.get_id().as_str());
    let mut said: HashSet<&str> = arguments(command).filter(typed).map(name_of).collect();
    // A switch that is off excludes nothing.
    let mut excluding: Vec<(&Arg, usize)> = arguments(command)
        .filter(typed)
        .map(|arg| (arg, Origin::CommandLine.rank()))
        .collect();
    let mut found = Vec::new();
    for option in below {
        let arg = arguments(command).find(|arg| name_of(arg) == option.name);
        let is_variable = matches!(option.origin, Origin::Variable(_));
        let arg = arg.filter(|arg| name_of(arg) != FILE || is_variable);
        let Some(arg) = arg else {
            return Err(SettingsError::Unknown {
                at: option.origin.clone(),
                name: escape::name(option.name.as_bytes()),
            });
        };
        let words = option.words(arg)?;
        // Alone first, so that what is wrong with it is said of its place.
        parse(&words).map_err(|error| option.wrong(error.to_string()))?;
        if said.contains(name_of(arg)) {
            continue;
        }
        if option.told != OptionValue::Flag(false) {
            let (rank, other) = (option.origin.rank(), exclusion(command, arg, &excluding));
            match other {
                Some((_, of_other)) if of_other < rank => continue,
                Some((other, _)) => {
                    let text = format!("cannot be used together with {}", name_of(other));
                    return Err(option.wrong(text));
                }
                None => excluding.push((arg, rank)),
            }
        }
        said.insert(name_of(arg));
        found.push(Effective {
            option,
            words,
            is_positional: arg.is_positional(),
        });
    }
    Ok(found)
}

/// Something that was said before and excludes this one.
fn exclusion<'a>(
    command: &Command,
    arg: &Arg,
    excluding: &[(&'a Arg, usize)],
) -> Option<(&'a Arg, usize)> {
    let excludes = |one: &Arg, other: &Arg| {
        let all = command.get_arg_conflicts_with(one);
        all.iter().any(|it| it.get_id() == other.get_id())
    };
    let mut all = excluding.iter().copied();
    all.find(|(other, _)| excludes(arg, other) || excludes(other, arg))
}

/// One command line.
fn together(typed: &[OsString], below: &[Effective]) -> Vec<OsString> {
    let options = below.iter().filter(|it| !it.is_positional);
    let mut words: Vec<OsString> = options.flat_map(|it| it.words.clone()).collect();
    words.extend(typed.iter().cloned());
    let root = below.iter().filter(|it| it.is_positional);
    let mut root: Vec<OsString> = root.flat_map(|it| it.words.clone()).collect();
    if typed.iter().any(|word| word == END_OF_OPTIONS) {
        // A second one would be a path.
        root.retain(|word| word != END_OF_OPTIONS);
    }
    words.extend(root);
    words
}

/// What may change while a daemon runs.
const CHANGEABLE: [&str; 3] = ["allow", "read-only", "write-only"];

/// What the places say now of what may change while a daemon runs. Nothing else is looked at: a
/// name that is not resolved just now is no reason to let nobody in.
#[derive(Debug)]
pub struct Changed {
    pub args: ServeArgs,
    /// Of the file, what is so with the next start.
    pub later: Vec<String>,
}

/// As [`resolve`], of what may change; `file` is the one that was found at the start.
///
/// # Errors
/// As [`resolve`].
pub fn resolve_again(before: &Provenance, file: Option<&Path>) -> Result<Changed, SettingsError> {
    let is_changeable = |option: &PlacedOption| CHANGEABLE.contains(&option.name.as_str());
    let command = serve_command();
    let mut words = Vec::new();
    for setting in before
        .all
        .iter()
        .filter(|it| it.origin == Origin::CommandLine)
    {
        let arg = arguments(&command).find(|arg| name_of(arg) == setting.name);
        let option = PlacedOption {
            name: setting.name.clone(),
            told: setting.told.clone().unwrap_or(OptionValue::Flag(false)),
            origin: Origin::CommandLine,
        };
        if let Some(arg) = arg.filter(|_| is_changeable(&option)) {
            words.extend(option.words(arg)?);
        }
    }
    let places = Places {
        found_file: file,
        ..Places::of_process(&words)
    };
    let typed = parse(&words)?;
    let variables = variables(&command, &places.environment)?;
    // Where there was none, one may be now.
    let (_, in_file) = read_file(&places, &typed, &variables)?;
    let unknown = in_file.iter().find(|option| {
        let name = option.name.as_str();
        name == FILE || !arguments(&command).any(|arg| name_of(arg) == name)
    });
    if let Some(option) = unknown {
        return Err(SettingsError::Unknown {
            at: option.origin.clone(),
            name: escape::name(option.name.as_bytes()),
        });
    }
    let now = variables.iter().chain(&in_file);
    let below = effective(&command, &typed, now.filter(|it| is_changeable(it)))?;
    let matches = parse(&together(&words, &below))?;
    let differs = |option: &PlacedOption, others: &[PlacedOption]| {
        let is_same = |it: &PlacedOption| it.name == option.name && it.told == option.told;
        !is_changeable(option) && !others.iter().any(is_same)
    };
    let new = in_file.iter().filter(|it| differs(it, &before.in_file));
    let is_gone = |it: &&PlacedOption| !in_file.iter().any(|other| other.name == it.name);
    let gone = before.in_file.iter().filter(is_gone);
    let gone = gone.filter(|it| !is_changeable(it));
    Ok(Changed {
        args: ServeArgs::from_arg_matches(&matches).map_err(|error| of_clap(&error))?,
        later: new
            .map(PlacedOption::to_string)
            .chain(gone.map(|it| format!("{} is there no more", it.name)))
            .collect(),
    })
}

/// What a place other than the command line says of an option.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PlacedOption {
    name: String,
    told: OptionValue,
    origin: Origin,
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
        let wrong = |text: &str| Err(self.wrong(text.to_owned()));
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

    fn wrong(&self, text: String) -> SettingsError {
        SettingsError::Value {
            at: self.origin.clone(),
            name: self.name.clone(),
            text,
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
    // One that is empty says nothing: files of variables leave them so.
    for (variable, value) in environment.iter().filter(|(_, value)| !value.is_empty()) {
        let Some(rest) = variable.strip_prefix(VARIABLE) else {
            continue;
        };
        let origin = Origin::Variable(variable.clone());
        let (name, is_capital) = (
            rest.to_lowercase().replace('_', "-"),
            rest == rest.to_uppercase(),
        );
        let arg = arguments(command).find(|arg| name_of(arg) == name);
        let Some(arg) = arg.filter(|_| is_capital) else {
            return Err(SettingsError::Unknown { at: origin, name });
        };
        let wrong = |origin, text: &str| SettingsError::Value {
            at: origin,
            name: name.clone(),
            text: text.to_owned(),
        };
        let told = if is_flag(arg) {
            match value.to_str() {
                Some("1" | "true" | "yes" | "on") => OptionValue::Flag(true),
                Some("0" | "false" | "no" | "off") => OptionValue::Flag(false),
                Some(_) | None => return Err(wrong(origin, "is either true or false")),
            }
        } else if is_repeatable(arg) {
            // No value of such an option has a blank.
            let Some(text) = value.to_str() else {
                return Err(wrong(origin, "is not UTF-8"));
            };
            OptionValue::Values(text.split_whitespace().map(OsString::from).collect())
        } else {
            OptionValue::Values(vec![value.clone()])
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

impl Origin {
    /// Which place comes first.
    fn rank(&self) -> usize {
        match self {
            Origin::CommandLine => 0,
            Origin::Variable(_) => 1,
            Origin::File { .. } => 2,
            Origin::Default => 3,
        }
    }
}

/// As a line of the file has it.
fn line(name: &str, told: &OptionValue, is_list: bool) -> String {
    match told {
        OptionValue::Flag(on) => format!("{name} = {on}"),
        OptionValue::Values(values) => {
            let quoted = values.iter().map(|value| file::quoted(value));
            let quoted = quoted.collect::<Vec<_>>().join(", ");
            match is_list {
                true => format!("{name} = [{quoted}]"),
                false => format!("{name} = {quoted}"),
            }
        }
    }
}

/// As a line of the file, with its origin behind it.
impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = &self.name;
        match (&self.told, &self.help_default) {
            (Some(told), _) => f.write_str(&line(name, told, self.is_repeatable))?,
            (None, Some(default)) => write!(f, "# {name}: {default}")?,
            (None, None) => write!(f, "# {name}: not set")?,
        }
        write!(f, "  # {}", self.origin)
    }
}

impl fmt::Display for PlacedOption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_list = matches!(&self.told, OptionValue::Values(values) if values.len() != 1);
        let line = line(&self.name, &self.told, is_list);
        write!(f, "{line}  # {}", self.origin)
    }
}

/// The words behind `landro serve` on a command line.
fn typed_behind_serve() -> Vec<OsString> {
    let words = std::env::args_os().skip(1);
    words.skip_while(|word| word != "serve").skip(1).collect()
}

/// With what the environment and the file say in place of the words alone, and who said what.
///
/// # Errors
/// As [`resolve`].
pub fn complete(command: CliCommand) -> Result<(CliCommand, Provenance), SettingsError> {
    match command {
        CliCommand::Serve(_) => {
            let settings = resolve(&Places::of_process(&typed_behind_serve()))?;
            let args = ServeArgs {
                config: settings.file,
                ..settings.args
            };
            Ok((CliCommand::Serve(args), settings.provenance))
        }
        other => Ok((other, Provenance::default())),
    }
}

#[cfg(test)]
mod tests;
