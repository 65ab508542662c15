//! The configuration file: TOML, one line for each option of `landro serve`.

use std::ffi::{OsStr, OsString};
use std::path::Path;

use landro_sys::trusted::{self, Others};
use toml::de::{DeTable, DeValue};

use super::{OptionValue, Origin, PlacedOption, SettingsError};

/// Many times what all options take.
const FILE_MAX_BYTES: u64 = 1 << 20;

/// What a file says, in the order of its lines.
///
/// # Errors
/// It cannot be read, others may write it, or it is not TOML, or says something that no option
/// takes.
pub fn read(path: &Path) -> Result<Vec<PlacedOption>, SettingsError> {
    let bytes = trusted::read(path, Others::MayRead, FILE_MAX_BYTES)?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        SettingsError::Syntax {
            at: origin(path, error.as_bytes(), valid),
            text: "is not UTF-8 from here on".to_owned(),
        }
    })?;
    let table = DeTable::parse(&text).map_err(|error| SettingsError::Syntax {
        at: origin(
            path,
            text.as_bytes(),
            error.span().map_or(0, |span| span.start),
        ),
        text: error.message().to_owned(),
    })?;
    let mut all = Vec::new();
    for (key, value) in table.get_ref() {
        let at = origin(path, text.as_bytes(), key.span().start);
        let told = told(value.get_ref()).map_err(|text| SettingsError::Value {
            at: at.clone(),
            name: key.get_ref().to_string(),
            text,
        })?;
        all.push(PlacedOption {
            name: key.get_ref().to_string(),
            told,
            origin: at,
        });
    }
    all.sort_by_key(|found| match found.origin {
        Origin::File { line, .. } => line,
        Origin::CommandLine | Origin::Variable(_) | Origin::Default => 0,
    });
    Ok(all)
}

fn origin(path: &Path, text: &[u8], at: usize) -> Origin {
    let before = &text[..at.min(text.len())];
    Origin::File {
        path: path.to_path_buf(),
        line: 1 + before.iter().filter(|byte| **byte == b'\n').count(),
    }
}

fn told(value: &DeValue) -> Result<OptionValue, String> {
    match value {
        DeValue::Boolean(on) => Ok(OptionValue::Flag(*on)),
        DeValue::Array(items) => {
            let items = items.iter().map(|item| word(item.get_ref()));
            Ok(OptionValue::Values(items.collect::<Result<_, _>>()?))
        }
        one => Ok(OptionValue::Values(vec![word(one)?])),
    }
}

fn word(value: &DeValue) -> Result<OsString, String> {
    match value {
        DeValue::String(text) => Ok(OsString::from(text.as_ref())),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
            .map(|number| OsString::from(number.to_string()))
            .map_err(|error| format!("{}: {error}", number.as_str())),
        DeValue::Float(_) | DeValue::Boolean(_) | DeValue::Datetime(_) => {
            Err("takes a text in quotes, or a whole number".to_owned())
        }
        DeValue::Array(_) => Err("takes one list, and none within it".to_owned()),
        DeValue::Table(_) => {
            Err("is a table: options stand by themselves, under no [heading]".to_owned())
        }
    }
}

/// A value as it is written in the file.
pub fn quoted(value: &OsStr) -> String {
    let text = value.to_string_lossy();
    let mut quoted = String::from("\"");
    for char in text.chars() {
        match char {
            '"' | '\\' => quoted.extend(['\\', char]),
            _ if char.is_control() => quoted.push_str(&format!("\\u{:04X}", u32::from(char))),
            _ => quoted.push(char),
        }
    }
    quoted.push('"');
    quoted
}
