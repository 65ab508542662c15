//! Interleaved rounds: for each scenario each library in turn, a server and a client process each.

use std::hint::black_box;
use std::io::{BufRead, BufReader, Read};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::Peer;
use crate::certificates::make_certificates;
use crate::ours::make_identities;
use crate::report::Report;
use crate::scenario::Scenario;
use crate::transport::{Result, Setup};

/// Touched before each run: where a host takes free memory back, a run that has to fetch it anew
/// takes longer.
const TOUCHED_BYTES: usize = 512 << 20;

/// A client that takes longer than that is stuck.
const RUN_DURATION_MAX: Duration = Duration::from_secs(180);
const LOOKS_EVERY: Duration = Duration::from_millis(20);

/// What QUIC asks of every path, and what a full Ethernet frame carries: none of the three has to
/// look for it, and beyond that they do it in different ways.
const UDP_PAYLOADS: RangeInclusive<u16> = 1200..=1472;

struct Options {
    rounds: usize,
    udp_payload_bytes: u16,
    threads: usize,
    scenarios: Vec<Scenario>,
    peers: Vec<Peer>,
}

impl Options {
    fn of(words: &[String]) -> Result<Options> {
        let mut options = Options {
            rounds: 5,
            udp_payload_bytes: *UDP_PAYLOADS.end(),
            threads: 2,
            scenarios: Scenario::ALL.to_vec(),
            peers: Peer::ALL.to_vec(),
        };
        for pair in words.chunks(2) {
            let [name, value] = pair else {
                return Err(format!("{} needs a value", pair[0]).into());
            };
            match name.as_str() {
                "--rounds" => options.rounds = value.parse()?,
                "--udp-payload" => options.udp_payload_bytes = value.parse()?,
                "--threads" => options.threads = value.parse()?,
                "--scenarios" => options.scenarios = all_of(value, Scenario::of)?,
                "--peers" => options.peers = all_of(value, Peer::of)?,
                _ => return Err(format!("no option {name:?}; src/main.rs has them").into()),
            }
        }
        if !UDP_PAYLOADS.contains(&options.udp_payload_bytes) {
            return Err(format!("a UDP payload has {UDP_PAYLOADS:?} bytes here").into());
        }
        match options.rounds == 0 || options.threads == 0 {
            true => Err("at least one round, by one thread".into()),
            false => Ok(options),
        }
    }
}

fn all_of<T>(names: &str, of: impl Fn(&str) -> Result<T>) -> Result<Vec<T>> {
    names.split(',').map(of).collect()
}

/// A directory that is gone when this is dropped.
struct Trust(PathBuf);

impl Drop for Trust {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A process that ends with the run.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub fn run(words: &[String]) -> Result<()> {
    let options = Options::of(words)?;
    let name = format!("landro-peers-{}", std::process::id());
    let trust = Trust(std::env::temp_dir().join(name));
    std::fs::create_dir(&trust.0)?;
    let setup = Setup {
        udp_payload_bytes: options.udp_payload_bytes,
        trust: trust.0.clone(),
    };
    make_certificates(&setup)?;
    make_identities(&setup)?;
    println!(
        "UDP payload {} bytes, {} threads of tokio on each side, {} rounds",
        options.udp_payload_bytes, options.threads, options.rounds
    );
    let mut report = Report::default();
    for &scenario in &options.scenarios {
        for round in 1..=options.rounds {
            for &peer in &options.peers {
                let found = one(peer, scenario, &options, &trust.0)?;
                let values = found
                    .iter()
                    .map(|(name, value)| format!("{name} {value:.3}"));
                let values: Vec<String> = values.collect();
                println!(
                    "{} {} {round}: {}",
                    scenario.name(),
                    peer.name(),
                    values.join(", ")
                );
                report.add((scenario, peer), found);
            }
        }
    }
    report.print();
    Ok(())
}

fn one(
    peer: Peer,
    scenario: Scenario,
    options: &Options,
    trust: &Path,
) -> Result<Vec<(String, f64)>> {
    black_box(vec![1_u8; TOUCHED_BYTES]);
    let program = std::env::current_exe()?;
    let role = [
        peer.name().to_owned(),
        scenario.name().to_owned(),
        options.udp_payload_bytes.to_string(),
        options.threads.to_string(),
        trust
            .to_str()
            .ok_or("a directory that is no text")?
            .to_owned(),
    ];
    let mut server = Command::new(&program);
    server.arg("serve").args(&role);
    let server = server.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut server = Running(server.spawn()?);
    let told: Option<ChildStdin> = server.0.stdin.take();
    let mut address = String::new();
    let says = server.0.stdout.take().ok_or("a server without output")?;
    BufReader::new(says).read_line(&mut address)?;
    let mut client = Command::new(&program);
    client.args(["measure", address.trim(), &server.0.id().to_string()]);
    let mut client = Running(client.args(&role).stdout(Stdio::piped()).spawn()?);
    await_end(&mut client.0)?;
    let mut said = String::new();
    let output = client.0.stdout.take().ok_or("a client without output")?;
    BufReader::new(output).read_to_string(&mut said)?;
    drop(told);
    let values = said.lines().filter_map(|line| {
        let (name, value) = line.split_once('=')?;
        Some((name.to_owned(), value.parse().ok()?))
    });
    Ok(values.collect())
}

/// What a client prints fits into its pipe, so nobody has to read meanwhile.
fn await_end(client: &mut Child) -> Result<()> {
    let begun = Instant::now();
    while begun.elapsed() < RUN_DURATION_MAX {
        match client.try_wait()? {
            Some(status) if status.success() => return Ok(()),
            Some(status) => return Err(format!("a client ended with {status}").into()),
            None => thread::sleep(LOOKS_EVERY),
        }
    }
    Err("a client got stuck".into())
}
