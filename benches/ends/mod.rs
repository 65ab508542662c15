//! A daemon and a client of one process, each with a worker of its own, over loopback and QUIC.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use landro::budget::DEFAULT_MEMORY_BUDGET_BYTES;
use landro::config::{LaneCount, LaneKind, LaneKinds, QuicConfig};
use landro::engine::{
    BackendChoice, Client, ClientConfig, ClientEvent, Ended, Grant, PeerAccess, Persistence,
    ServeConfig, Server,
};
use landro::proto::session::Request;
use landro::proto::{Event, Outcome, Totals};
use landro::quic::Identity;

/// No request of a benchmark takes so long.
const EVENT_AT_MOST: Duration = Duration::from_secs(60);

/// A daemon, and whom it lets in.
pub struct Ends {
    pub server: Server,
    client: Identity,
}

impl Ends {
    pub fn start(root: PathBuf, access: Grant) -> Ends {
        let client = Identity::generate().expect("an identity");
        let allowed = client.fingerprint();
        let server = Server::start(ServeConfig {
            listen: vec![(Ipv4Addr::LOCALHOST, 0).into()],
            root,
            // One lane has one worker; a second would only make its core a matter of chance.
            workers: 1,
            backend: BackendChoice::Auto,
            quic: QuicConfig::auto(),
            memory_budget_bytes: DEFAULT_MEMORY_BUDGET_BYTES,
            patience: None,
            lane_kinds: LaneKinds::Only(LaneKind::Quic),
            tcp_congestion: None,
            allow_clear: false,
            ktls: false,
            digest_cache: None,
            identity: Identity::generate().expect("an identity"),
            reset_secret: [0; 32],
            authorize: Arc::new(move |peer| {
                (*peer == allowed).then_some(PeerAccess {
                    access,
                    path: None,
                    clear: false,
                })
            }),
        });
        Ends {
            server: server.expect("a daemon on loopback"),
            client,
        }
    }

    /// One session from its thread's start to its end.
    pub fn run(&self, request: Request, streams: usize, mut hear: impl FnMut(Event)) -> Totals {
        let config = ClientConfig {
            peer: self.server.addresses().to_vec(),
            binds: Vec::new(),
            backend: BackendChoice::Auto,
            quic: QuicConfig::auto(),
            memory_budget_bytes: DEFAULT_MEMORY_BUDGET_BYTES,
            patience: None,
            lane_kinds: LaneKinds::Only(LaneKind::Quic),
            tcp_congestion: None,
            clear: false,
            ktls: false,
            identity: self.client.clone(),
            trust: Arc::new(|_| true),
            streams,
            lanes: LaneCount::Auto,
            persistence: Persistence::NONE,
            workers: 1,
        };
        let mut client = Client::start(config, request).expect("a client");
        let totals = loop {
            match client.next(EVENT_AT_MOST) {
                Some(ClientEvent::Session(event)) => hear(event),
                Some(ClientEvent::Ended(Ended::Outcome(Outcome::Complete(totals)))) => {
                    break totals;
                }
                Some(ClientEvent::Ended(other)) => panic!("it ended with {other:?}"),
                Some(_) => {}
                None => panic!("nothing happened for {EVENT_AT_MOST:?}"),
            }
        };
        client.join().expect("the client's worker");
        totals
    }
}
