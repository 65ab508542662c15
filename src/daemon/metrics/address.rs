//! Where metrics are told, as typed.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

/// An address and a port, or a socket among files. There is no default: where nobody said so,
/// nothing is told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum MetricsAddress {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

const HINT: &str = "write ADDR:PORT (127.0.0.1:9464, [::1]:9464) or unix:PATH \
                    (unix:/run/landro/metrics.sock)";

impl FromStr for MetricsAddress {
    type Err = String;

    /// # Errors
    /// What is wrong with it, in words.
    fn from_str(typed: &str) -> Result<MetricsAddress, String> {
        match typed.strip_prefix("unix:") {
            Some("") => Err(format!("the path is missing; {HINT}")),
            Some(path) => Ok(MetricsAddress::Unix(path.into())),
            None => match typed.parse() {
                Ok(address) => Ok(MetricsAddress::Tcp(address)),
                Err(_) => Err(format!("no address with a port; {HINT}")),
            },
        }
    }
}

impl fmt::Display for MetricsAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MetricsAddress::Tcp(address) => write!(f, "http://{address}/metrics"),
            MetricsAddress::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_paths_and_what_is_none() {
        let tcp = |typed: &str| MetricsAddress::Tcp(typed.parse().unwrap());
        for typed in ["127.0.0.1:0", "[::1]:9464", "0.0.0.0:1"] {
            assert_eq!(typed.parse(), Ok(tcp(typed)), "{typed}");
        }
        assert_eq!(
            "unix:a b".parse(),
            Ok(MetricsAddress::Unix(PathBuf::from("a b")))
        );
        for typed in [
            "",
            ":9464",
            "9464",
            "127.0.0.1",
            "localhost:1",
            "unix:",
            "::1:1x",
        ] {
            let wrong = typed.parse::<MetricsAddress>().unwrap_err();
            assert!(wrong.contains("unix:PATH"), "{typed}: {wrong}");
        }
    }
}
