//! landro's streams beside those of quinn and s2n-quic: the same scenarios, over loopback, each
//! library with a server and a client process of its own, rounds interleaved.
//!
//! In perf/peers, `cargo run --locked --release -- [--rounds N] [--udp-payload BYTES]
//! [--threads N] [--scenarios bulk,requests,crowd] [--peers landro,quinn,s2n-quic]` prints every
//! round and then medians with their spread.

#![forbid(unsafe_code)]

mod certificates;
mod ours;
mod quinn_peer;
mod report;
mod rounds;
mod s2n_peer;
mod scenario;
mod sockets;
mod transport;
mod usage;

use std::io::{self, Read};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use scenario::{Found, Scenario, measure, serve};
use tokio::runtime::{self, Runtime};
use transport::{Accepts, CLIENTS, Dials, Result, Setup};

/// One allocator for all three.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Peer {
    Landro,
    Quinn,
    S2n,
}

impl Peer {
    pub const ALL: [Peer; 3] = [Peer::Landro, Peer::Quinn, Peer::S2n];

    pub fn name(self) -> &'static str {
        match self {
            Peer::Landro => "landro",
            Peer::Quinn => "quinn",
            Peer::S2n => "s2n-quic",
        }
    }

    pub fn of(name: &str) -> Result<Peer> {
        let named = Peer::ALL.into_iter().find(|it| it.name() == name);
        named.ok_or_else(|| format!("no library {name:?}: landro, quinn, s2n-quic").into())
    }
}

/// What both processes of a run are told: `PEER SCENARIO BYTES THREADS DIRECTORY`.
struct Role {
    peer: Peer,
    scenario: Scenario,
    setup: Setup,
    runtime: Runtime,
}

impl Role {
    fn of(words: &[String]) -> Result<Role> {
        let [peer, scenario, bytes, threads, trust] = words else {
            return Err("this is not how the program calls itself".into());
        };
        let threads = threads.parse::<usize>()?;
        let mut builder = match threads {
            1 => runtime::Builder::new_current_thread(),
            _ => runtime::Builder::new_multi_thread(),
        };
        if threads > 1 {
            builder.worker_threads(threads);
        }
        Ok(Role {
            peer: Peer::of(peer)?,
            scenario: Scenario::of(scenario)?,
            setup: Setup {
                udp_payload_bytes: bytes.parse()?,
                trust: PathBuf::from(trust),
            },
            runtime: builder.enable_all().build()?,
        })
    }

    fn serve(&self) -> Result<()> {
        // s2n-quic looks for a runtime when it is made.
        let _entered = self.runtime.enter();
        match self.peer {
            Peer::Landro => self.run_server(ours::server(&self.setup)?),
            Peer::Quinn => self.run_server(quinn_peer::server(&self.setup)?),
            Peer::S2n => self.run_server(s2n_peer::server(&self.setup)?),
        }
    }

    /// Until standard input ends.
    fn run_server(&self, listener: impl Accepts) -> Result<()> {
        println!("{}", listener.address()?);
        let (over, told) = tokio::sync::oneshot::channel::<()>();
        std::thread::spawn(move || {
            let _ = io::stdin().read(&mut [0]);
            drop(over);
        });
        self.runtime.block_on(async {
            tokio::select! {
                () = serve(listener, self.scenario) => {}
                _ = told => {}
            }
        });
        Ok(())
    }

    fn measure(&self, to: SocketAddr, server: u32) -> Result<()> {
        let _entered = self.runtime.enter();
        let found = match self.peer {
            Peer::Landro => {
                self.run_client((to, server), |number| ours::client(&self.setup, number))
            }
            Peer::Quinn => self.run_client((to, server), |_| quinn_peer::client(&self.setup)),
            Peer::S2n => self.run_client((to, server), |_| s2n_peer::client(&self.setup)),
        }?;
        for (name, value) in found {
            println!("{name}={value}");
        }
        Ok(())
    }

    fn run_client<D: Dials>(
        &self,
        server: (SocketAddr, u32),
        client: impl Fn(usize) -> Result<D>,
    ) -> Result<Found> {
        let clients = match self.scenario {
            Scenario::Crowd => CLIENTS,
            Scenario::Bulk | Scenario::Requests => 1,
        };
        let dials = (0..clients).map(client).collect::<Result<_>>()?;
        self.runtime.block_on(measure(dials, server, self.scenario))
    }
}

fn run(words: &[String]) -> Result<()> {
    match words {
        [verb, role @ ..] if verb == "serve" => Role::of(role)?.serve(),
        [verb, to, server, role @ ..] if verb == "measure" => {
            Role::of(role)?.measure(to.parse()?, server.parse()?)
        }
        _ => rounds::run(words),
    }
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match run(&words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("landro-peers: {error}");
            ExitCode::FAILURE
        }
    }
}
