//! Whether something of the kernel can be used, and why not.

use std::fmt;

/// Whether something can be used.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Availability {
    /// It works; it was tried.
    Yes,
    /// It does not, and why, for a log line.
    No(String),
}

impl Availability {
    /// Whether it works.
    pub fn is_yes(&self) -> bool {
        *self == Availability::Yes
    }
}

impl fmt::Display for Availability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Availability::Yes => f.write_str("yes"),
            Availability::No(reason) => write!(f, "no ({reason})"),
        }
    }
}
