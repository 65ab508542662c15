//! The names of temporary files. They follow from the final name, so that a rerun finds what a
//! crash left; a name alone says nothing ([`super::marks`]).

use std::ffi::CString;

use super::DiskError;
use crate::ids::Name;
use crate::proto::errno::EINVAL;

const PREFIX: &[u8] = b".landro-";

/// 64 bits of a digest: short enough beside any name, and a name of 255 bytes stays possible.
const DIGITS: usize = 16;

/// Names for one file, of which the first that is free or ours is taken. Who may write there can
/// occupy all of them; the file then goes without a name as long as it is not whole, or under one
/// that a rerun does not find ([`free_names`]).
pub const TURNS: u32 = 8;

/// What a temporary file is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Use {
    /// A partial file.
    Part,
    /// The journal beside one.
    Journal,
    /// A complete file, symlink or directory on its way to its name.
    New,
}

impl Use {
    const ALL: [Use; 3] = [Use::Part, Use::Journal, Use::New];

    fn suffix(self) -> &'static str {
        match self {
            Use::Part => "part",
            Use::Journal => "journal",
            Use::New => "new",
        }
    }
}

/// A name of the form that only temporary files have: what else has it is the user's.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TemporaryName {
    pub digits: String,
    pub purpose: Use,
}

impl TemporaryName {
    /// What a final name's temporary file is called, the `turn`th time that a name is looked for.
    pub fn of(name: &[u8], purpose: Use, turn: u32) -> TemporaryName {
        let mut hasher = blake3::Hasher::new();
        hasher.update(name);
        // No name holds a NUL.
        if turn > 0 {
            hasher.update(&[0]).update(&turn.to_be_bytes());
        }
        TemporaryName {
            digits: hasher.finalize().to_hex()[..DIGITS].to_owned(),
            purpose,
        }
    }

    /// One that nobody will look for.
    pub fn random(purpose: Use) -> TemporaryName {
        TemporaryName {
            digits: format!("{:016x}", rand::random::<u64>()),
            purpose,
        }
    }

    /// In any case of its letters, for there are file systems that do not tell them apart.
    pub fn parse(name: &[u8]) -> Option<TemporaryName> {
        let (prefix, rest) = name.split_at_checked(PREFIX.len())?;
        let (digits, suffix) = rest.split_at_checked(DIGITS)?;
        let suffix = suffix.strip_prefix(b".")?;
        let purpose = Use::ALL
            .into_iter()
            .find(|purpose| suffix.eq_ignore_ascii_case(purpose.suffix().as_bytes()))?;
        let digits = String::from_utf8(digits.to_ascii_lowercase()).ok()?;
        let is_one = prefix.eq_ignore_ascii_case(PREFIX)
            && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
        is_one.then_some(TemporaryName { digits, purpose })
    }

    /// Whether this is one of the names that belong to a final name.
    pub fn belongs_to(&self, name: &[u8]) -> bool {
        (0..TURNS).any(|turn| TemporaryName::of(name, self.purpose, turn) == *self)
    }

    /// The name of the same file and turn that serves another purpose.
    pub fn with(&self, purpose: Use) -> TemporaryName {
        TemporaryName {
            purpose,
            ..self.clone()
        }
    }

    pub fn to_c(&self) -> CString {
        let mut name = PREFIX.to_vec();
        name.extend_from_slice(self.digits.as_bytes());
        name.push(b'.');
        name.extend_from_slice(self.purpose.suffix().as_bytes());
        CString::new(name).expect("hex and letters hold no NUL")
    }
}

/// The names under which a file's temporary one may stand, in the order they are tried.
pub fn turns(name: &Name, purpose: Use) -> impl Iterator<Item = TemporaryName> {
    (0..TURNS).map(move |turn| TemporaryName::of(name.as_bytes(), purpose, turn))
}

/// The same, and behind them one that nobody can have occupied and nobody will look for.
pub fn free_names(name: &Name, purpose: Use) -> impl Iterator<Item = TemporaryName> {
    turns(name, purpose).chain(std::iter::once_with(move || TemporaryName::random(purpose)))
}

/// A name or path for a system call.
///
/// # Errors
/// EINVAL when the bytes hold a NUL.
pub fn c_string(bytes: &[u8]) -> Result<CString, DiskError> {
    CString::new(bytes).map_err(|_| DiskError {
        call: "path",
        errno: EINVAL,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_exact_form_is_one() {
        for name in [
            ".landro-0123456789abcdef.part",
            ".landro-0123456789abcdef.journal",
            ".landro-0123456789abcdef.new",
            ".LANDRO-0123456789ABCDEF.Part",
        ] {
            assert!(TemporaryName::parse(name.as_bytes()).is_some(), "{name}");
        }
        for name in [
            "",
            ".landro-",
            ".landro-notes",
            ".landro-0123456789abcde.part",
            ".landro-0123456789abcdeff.part",
            ".landro-0123456789abcdeg.part",
            ".landro-0123456789abcdef.part~",
            ".landro-0123456789abcdef.parts",
            ".landro-0123456789abcdef",
            ".landro-0123456789abcdef.",
            "x.landro-0123456789abcdef.part",
        ] {
            assert_eq!(TemporaryName::parse(name.as_bytes()), None, "{name}");
        }
    }

    #[test]
    fn names_are_found_again() {
        let name = Name::new("a file".as_bytes().to_vec().into()).unwrap();
        for purpose in Use::ALL {
            let all: Vec<_> = turns(&name, purpose).collect();
            for (turn, one) in all.iter().enumerate() {
                assert!(!all[..turn].contains(one));
                assert!(one.belongs_to(b"a file") && !one.belongs_to(b"another"));
                let typed = one.to_c();
                assert_eq!(TemporaryName::parse(typed.as_bytes()).as_ref(), Some(one));
            }
        }
    }
}
