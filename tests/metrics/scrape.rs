//! Asks a daemon for its metrics as Prometheus does, and reads them.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use crate::common::Daemon;

/// Longer than any scrape that is answered.
const PATIENCE: Duration = Duration::from_secs(30);

/// `HOST:PORT` where a daemon told that its metrics are.
pub fn port_of(daemon: &Daemon) -> String {
    daemon.wait_for_log("metrics are at http://");
    let log = daemon.log();
    let (_, rest) = log.split_once("metrics are at http://").unwrap();
    rest.split('/').next().unwrap().to_owned()
}

/// All that comes back on a new connection.
pub fn ask(at: &str, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(at).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(request).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

pub fn ask_socket(at: &Path) -> String {
    let mut stream = UnixStream::connect(at).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(GET).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

pub const GET: &[u8] = b"GET /metrics HTTP/1.1\r\nHost: here\r\n\r\n";

/// Every series with its value, and every metric with its type.
pub struct Scraped {
    pub series: BTreeMap<String, f64>,
    pub types: BTreeMap<String, String>,
}

impl Scraped {
    pub fn of(at: &str) -> Scraped {
        Scraped::read(&ask(at, GET))
    }

    pub fn read(answer: &str) -> Scraped {
        let (head, body) = answer.split_once("\r\n\r\n").expect("an answer of HTTP");
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        let length = format!("Content-Length: {}\r\n", body.len());
        assert!(head.contains(&length), "{head}");
        assert!(
            head.contains("application/openmetrics-text; version=1.0.0"),
            "{head}"
        );
        assert!(body.ends_with("# EOF\n"), "{body}");
        let (mut series, mut types) = (BTreeMap::new(), BTreeMap::new());
        for line in body.lines() {
            if let Some(told) = line.strip_prefix("# TYPE ") {
                let (name, kind) = told.split_once(' ').unwrap();
                let before = types.insert(name.to_owned(), kind.to_owned());
                assert_eq!(before, None, "{name} twice");
            } else if !line.starts_with('#') {
                let (name, value) = line.rsplit_once(' ').unwrap();
                let before = series.insert(name.to_owned(), value.parse().unwrap());
                assert_eq!(before, None, "{name} twice");
            }
        }
        Scraped { series, types }
    }

    /// One series, with its labels in the order that they are told in.
    #[track_caller]
    pub fn value(&self, series: &str) -> f64 {
        let found = self.series.get(series);
        *found.unwrap_or_else(|| panic!("no {series} in {:#?}", self.series.keys()))
    }

    /// All series of a metric whose labels have this.
    pub fn sum(&self, name: &str, label: &str) -> f64 {
        let is_it = |series: &str| {
            let rest = series.strip_prefix(name);
            rest.is_some_and(|rest| {
                (rest.is_empty() || rest.starts_with('{')) && rest.contains(label)
            })
        };
        let found = self.series.iter().filter(|(series, _)| is_it(series));
        found.map(|(_, value)| value).sum()
    }

    /// Series that only grow.
    pub fn growing(&self) -> impl Iterator<Item = (&String, &f64)> {
        let ends = ["_total", "_sum", "_count", "_bucket"];
        let grows = move |series: &str| {
            let name = series.split('{').next().unwrap();
            ends.iter().any(|end| name.ends_with(end))
        };
        self.series.iter().filter(move |(series, _)| grows(series))
    }
}
