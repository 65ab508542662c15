//! Two ends of a connection in one process: packets go from one `fill` to the other's `recv`, no
//! sockets.

mod early;
mod ends;
mod exchange;
mod handshake;
mod paths;
mod strangers;
mod streams;
mod weight;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::reason::{KEY_SPENT, StreamError};
use super::route::{CLIENT_CID_BYTES, SERVER_CID_BYTES};

use super::*;
use crate::carrier::ALPN;
use crate::config::QuicConfig;
use crate::ids::{Fingerprint, WorkerId};

const CLIENT: &str = "192.0.2.1:1111";
const SERVER: &str = "192.0.2.2:4433";

fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

#[allow(clippy::disallowed_methods, reason = "quiche reads the same clock")]
pub(super) fn now() -> Instant {
    Instant::now()
}

/// A trust decision that can be changed, and counts how often it was asked.
#[derive(Clone)]
struct Judge {
    expects: Fingerprint,
    trusts: Arc<AtomicBool>,
    asked: Arc<AtomicUsize>,
}

impl Judge {
    fn of(identity: &Identity) -> Judge {
        Judge {
            expects: identity.fingerprint(),
            trusts: Arc::new(AtomicBool::new(true)),
            asked: Arc::default(),
        }
    }

    fn trust(&self) -> Trust {
        let judge = self.clone();
        Arc::new(move |peer| {
            judge.asked.fetch_add(1, Ordering::Relaxed);
            *peer == judge.expects && judge.trusts.load(Ordering::Relaxed)
        })
    }

    fn set(&self, trusts: bool) {
        self.trusts.store(trusts, Ordering::Relaxed);
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

/// Identities and what each thinks of the other.
struct Pair {
    client: Identity,
    server: Identity,
    /// The client's judgement of the server.
    of_server: Judge,
    of_client: Judge,
    tickets: TicketKeys,
    secrets: Arc<Secrets>,
    quic: QuicConfig,
}

impl Pair {
    fn new() -> Pair {
        let (client, server) = (Identity::generate().unwrap(), Identity::generate().unwrap());
        Pair {
            of_server: Judge::of(&server),
            of_client: Judge::of(&client),
            client,
            server,
            tickets: TicketKeys::random().unwrap(),
            secrets: Arc::new(Secrets::fresh(now())),
            quic: QuicConfig::auto(),
        }
    }

    fn client_setup(&self) -> Setup {
        Setup::client(&self.client, self.of_server.trust(), &self.quic).unwrap()
    }

    fn server_setup(&self) -> Setup {
        Setup::server(
            &self.server,
            self.of_client.trust(),
            &self.quic,
            &self.tickets,
        )
        .unwrap()
    }

    fn world(&self) -> World {
        self.world_with(None, self.client_setup(), self.server_setup())
    }

    fn world_with(&self, ticket: Option<&[u8]>, mut client: Setup, server: Setup) -> World {
        self.dial(addr(CLIENT), addr(SERVER), ticket, &mut client, server)
    }

    fn dial(
        &self,
        local: SocketAddr,
        peer: SocketAddr,
        ticket: Option<&[u8]>,
        client_setup: &mut Setup,
        server_setup: Setup,
    ) -> World {
        let secrets = Arc::clone(&self.secrets);
        let mut client_router = Router::new(WorkerId(0), 1, Arc::clone(&secrets), false);
        let connect = Connect {
            key: 7,
            local,
            peer,
            steer: None,
            ticket,
            now: now(),
        };
        let client = Conn::connect(client_setup, &mut client_router, connect).unwrap();
        World {
            client,
            server: None,
            client_router,
            server_router: Router::new(WorkerId(0), 1, secrets, true),
            server_setup,
            demand_retry: false,
            retries: 0,
            client_addr: local,
            server_addr: peer,
            largest: 0,
        }
    }
}

/// A client, a server's worker, and the wire between them.
struct World {
    client: Conn,
    server: Option<Conn>,
    client_router: Router,
    server_router: Router,
    server_setup: Setup,
    demand_retry: bool,
    retries: usize,
    client_addr: SocketAddr,
    server_addr: SocketAddr,
    /// Largest datagram that crossed.
    largest: usize,
}

impl World {
    fn server(&mut self) -> &mut Conn {
        self.server.as_mut().expect("the server accepted")
    }

    /// Carries packets until both sides have nothing more to say.
    fn pump(&mut self) {
        while self.carry_up() | self.carry_down() {}
    }

    /// Carries what the client has to say. False: nothing.
    fn carry_up(&mut self) -> bool {
        let datagrams = datagrams(&mut self.client);
        let any = !datagrams.is_empty();
        for datagram in datagrams {
            self.deliver_to_server(datagram);
        }
        any
    }

    fn deliver_to_server(&mut self, mut datagram: Vec<u8>) {
        self.largest = self.largest.max(datagram.len());
        let from = self.client_addr;
        match self.server_router.route(
            &mut datagram,
            from,
            self.server_addr,
            now(),
            self.demand_retry,
        ) {
            Route::Conn(key) => {
                assert_eq!(key, 3);
                let _ = self.server().recv(&mut datagram, from);
            }
            Route::New(new) => {
                assert_eq!(new.address_proven(), self.demand_retry);
                let (router, setup) = (&mut self.server_router, &mut self.server_setup);
                let accept = Accept {
                    key: 3,
                    new,
                    local: self.server_addr,
                    peer: self.client_addr,
                    now: now(),
                };
                let accepted = Conn::accept(setup, router, accept);
                self.server = Some(accepted.unwrap());
                let _ = self.server().recv(&mut datagram, from);
            }
            Route::Reply(reply) => {
                self.retries += 1;
                self.deliver_to_client(reply);
            }
            Route::Drop => {}
            Route::Stray(worker) => panic!("stray to {worker:?}"),
        }
    }

    fn carry_down(&mut self) -> bool {
        let Some(server) = &mut self.server else {
            return false;
        };
        let datagrams = datagrams(server);
        let any = !datagrams.is_empty();
        for datagram in datagrams {
            self.deliver_to_client(datagram);
        }
        any
    }

    fn deliver_to_client(&mut self, mut datagram: Vec<u8>) {
        self.largest = self.largest.max(datagram.len());
        match self.client_router.route(
            &mut datagram,
            self.server_addr,
            self.client_addr,
            now(),
            false,
        ) {
            Route::Conn(7) => {
                let _ = self.client.recv(&mut datagram, self.server_addr);
            }
            other => panic!("{other:?}"),
        }
    }

    fn established(mut self) -> World {
        self.pump();
        assert_eq!(self.client.state(), ConnState::Established);
        assert_eq!(self.server().state(), ConnState::Established);
        self
    }

    /// How both ended.
    fn reasons(&mut self) -> (CloseReason, CloseReason) {
        self.pump();
        let client = self
            .client
            .close_reason()
            .expect("the client's connection is over");
        (
            client,
            self.server()
                .close_reason()
                .expect("the server's connection is over"),
        )
    }
}

/// Everything a connection has to send, as the datagrams the kernel would make of its runs.
fn datagrams(conn: &mut Conn) -> Vec<Vec<u8>> {
    let (mut out, mut runs, mut datagrams) = (vec![0; 65_536], Vec::new(), Vec::new());
    while let Some(filled) = conn.fill(now(), &mut out, 1_000, &mut runs) {
        assert_eq!(
            filled.bytes,
            runs.iter().map(|run| run.range.len()).sum::<usize>()
        );
        for run in &runs {
            let bytes = &out[run.range.clone()];
            let segment = run.segment_bytes.map_or(bytes.len(), usize::from);
            datagrams.extend(bytes.chunks(segment).map(<[u8]>::to_vec));
        }
        if !filled.more {
            break;
        }
    }
    datagrams
}
