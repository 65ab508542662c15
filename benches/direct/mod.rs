//! The engine without handles: a benchmark's session drives the same workers, connections and
//! sockets, and no thread of a program has to be woken.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use hdrhistogram::Histogram;
use landro::budget::DEFAULT_MEMORY_BUDGET_BYTES;
use landro::config::{LaneCount, LaneKind, LaneKinds, QuicConfig};
use landro::engine::{
    BackendChoice, Client, ClientConfig, ClientEvent, Ended, Grant, PeerAccess, Persistence,
    ServeConfig, Server,
};
use landro::proto::session::{BenchWork, Request};
use landro::proto::{Event, Outcome};
use landro::quic::Identity;

/// As long as a gigabyte takes.
const BULK_DURATION: Duration = Duration::from_millis(1_400);
/// As long as the requests by handles take.
const ECHO_DURATION: Duration = Duration::from_millis(600);

/// A daemon that nobody may copy from or to.
pub struct Direct {
    server: Server,
    client: Identity,
}

impl Direct {
    pub fn start() -> Direct {
        let client = Identity::generate().expect("an identity");
        let allowed = client.fingerprint();
        let server = Server::start(ServeConfig {
            listen: vec![(Ipv4Addr::LOCALHOST, 0).into()],
            root: "/".into(),
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
                let access = Grant {
                    read: false,
                    write: false,
                };
                (*peer == allowed).then_some(PeerAccess {
                    access,
                    path: None,
                    clear: false,
                })
            }),
        });
        Direct {
            server: server.expect("a daemon on loopback"),
            client,
        }
    }

    /// MB/s of one stream after the other on a new connection.
    pub fn bulk(&self) -> f64 {
        let mut megabytes_per_second = None;
        self.run(BenchWork::Send, BULK_DURATION, |event| {
            if let Event::Benched { bytes, elapsed } = event {
                megabytes_per_second = Some(bytes as f64 / 1e6 / elapsed.as_secs_f64());
            }
        });
        megabytes_per_second.expect("how much it was")
    }

    /// Medians and 99th percentiles of round trips of so many bytes on a new connection.
    pub fn requests(&self, size_bytes: usize) -> (Duration, Duration) {
        let mut taken = Histogram::<u64>::new(3).expect("a histogram");
        self.run(BenchWork::Echo { size_bytes }, ECHO_DURATION, |event| {
            let Event::RoundTrips(trips) = event else {
                return;
            };
            for trip in trips {
                let nanos = trip.as_nanos() as u64;
                taken.record(nanos).expect("it grows with what it is told");
            }
        });
        assert!(!taken.is_empty(), "no round trip was told of");
        let at = |quantile| Duration::from_nanos(taken.value_at_quantile(quantile));
        (at(0.5), at(0.99))
    }

    fn run(&self, work: BenchWork, duration: Duration, mut hear: impl FnMut(Event)) {
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
            streams: 1,
            lanes: LaneCount::Auto,
            persistence: Persistence::NONE,
            workers: 1,
        };
        let mut client =
            Client::start(config, Request::Bench { work, duration }).expect("a client");
        loop {
            match client.next(Duration::from_secs(60)) {
                Some(ClientEvent::Session(event)) => hear(event),
                Some(ClientEvent::Ended(Ended::Outcome(Outcome::Complete(_)))) => break,
                Some(ClientEvent::Ended(other)) => panic!("the benchmark ended with {other:?}"),
                Some(_) => {}
                None => panic!("a benchmark of a second takes a minute"),
            }
        }
        client.join().expect("the client's worker");
    }
}
