//! Which kinds of lanes a process has: QUIC over UDP, TLS over TCP, or both, and in the clear
//! beside them; and how many of them.

use std::fmt;
use std::str::FromStr;

use super::ConfigError;

/// What carries a lane.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum LaneKind {
    /// QUIC over UDP.
    Quic,
    /// TLS 1.3 over TCP.
    Tls,
    /// TCP without TLS, beside one of the others.
    Clear,
}

impl LaneKind {
    /// What a session goes on over where this kind fell silent.
    pub fn other(self) -> LaneKind {
        match self {
            LaneKind::Quic => LaneKind::Tls,
            LaneKind::Tls | LaneKind::Clear => LaneKind::Quic,
        }
    }

    /// Whether TCP is below it.
    pub fn is_over_tcp(self) -> bool {
        match self {
            LaneKind::Quic => false,
            LaneKind::Tls | LaneKind::Clear => true,
        }
    }
}

impl fmt::Display for LaneKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            LaneKind::Quic => "quic",
            LaneKind::Tls => "tls",
            LaneKind::Clear => "clear",
        })
    }
}

/// The kinds that a session may be carried by; there is always one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum LaneKinds {
    Only(LaneKind),
    #[default]
    Both,
}

impl LaneKinds {
    pub fn has(self, kind: LaneKind) -> bool {
        match self {
            LaneKinds::Only(only) => only == kind,
            LaneKinds::Both => true,
        }
    }
}

impl fmt::Display for LaneKinds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LaneKinds::Only(kind) => kind.fmt(f),
            LaneKinds::Both => f.write_str("quic,tls"),
        }
    }
}

impl FromStr for LaneKinds {
    type Err = ConfigError;

    /// A comma between the names; their order says nothing.
    fn from_str(typed: &str) -> Result<LaneKinds, ConfigError> {
        let (mut quic, mut tls) = (false, false);
        for name in typed.split(',') {
            match name {
                "quic" => quic = true,
                "tls" => tls = true,
                _ => return Err(ConfigError::LaneKind(name.to_owned())),
            }
        }
        // A list has one name at least, be it an empty one.
        Ok(match (quic, tls) {
            (true, false) => LaneKinds::Only(LaneKind::Quic),
            (false, true) => LaneKinds::Only(LaneKind::Tls),
            (true, true) | (false, false) => LaneKinds::Both,
        })
    }
}

/// Most lanes that may be asked for. What more would bring no measurement has shown.
pub const MAX_LANE_COUNT: u8 = 16;

/// How many lanes over TCP are added to a session, which carry the bulk of it together.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum LaneCount {
    /// As many as are worth it: one, and one thread.
    #[default]
    Auto,
    /// So many, be there one core or several.
    Exactly(u8),
}

impl LaneCount {
    pub fn lanes(self) -> usize {
        match self {
            LaneCount::Auto => 1,
            LaneCount::Exactly(lanes) => usize::from(lanes),
        }
    }
}

impl fmt::Display for LaneCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LaneCount::Auto => f.write_str("auto"),
            LaneCount::Exactly(lanes) => lanes.fmt(f),
        }
    }
}

impl FromStr for LaneCount {
    type Err = ConfigError;

    fn from_str(typed: &str) -> Result<LaneCount, ConfigError> {
        let lanes = typed.parse().ok();
        match lanes.filter(|lanes| (1..=MAX_LANE_COUNT).contains(lanes)) {
            Some(lanes) => Ok(LaneCount::Exactly(lanes)),
            None if typed == "auto" => Ok(LaneCount::Auto),
            None => Err(ConfigError::LaneCount(typed.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_of_lanes() {
        let parse = |typed: &str| typed.parse::<LaneCount>();
        assert_eq!(parse("auto"), Ok(LaneCount::Auto));
        for (typed, lanes) in [("1", 1), ("4", 4), ("16", 16)] {
            assert_eq!(parse(typed), Ok(LaneCount::Exactly(lanes)));
            assert_eq!(parse(typed).unwrap().to_string(), typed);
        }
        for bad in ["", "0", "17", "-1", "256", "Auto", "4.0"] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_list_of_names() {
        let parse = |typed: &str| typed.parse::<LaneKinds>();
        assert_eq!(parse("quic"), Ok(LaneKinds::Only(LaneKind::Quic)));
        assert_eq!(parse("tls"), Ok(LaneKinds::Only(LaneKind::Tls)));
        assert_eq!(parse("tls,quic"), Ok(LaneKinds::Both));
        for bad in ["", "tcp", "quic,", "QUIC", "quic, tls"] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
        for kinds in ["quic", "tls", "quic,tls"] {
            assert_eq!(parse(kinds).unwrap().to_string(), kinds);
        }
    }
}
