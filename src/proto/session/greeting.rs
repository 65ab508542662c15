//! Hello and welcome: versions are compared, rights checked, roles taken.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::listing::Lister;
use super::{
    AfterWelcome, BenchWork, Direction, End, Grant, HELLO_TIMEOUT, Limits, Phase, Request, Session,
    Then, Told, Transfer, TransferOptions, WELCOME_TIMEOUT,
};
use crate::ids::PATH_MAX_BYTES;
use crate::proto::bench::{Bench, MAX_BENCH, Role};
use crate::proto::errors::{Violation, violation};
use crate::proto::path::own_name;
use crate::proto::ports::Ports;
use crate::proto::receive::{Receiver, ReceiverConfig};
use crate::proto::send::{Sender, SenderConfig};
use crate::proto::wire::{
    self, BenchMode, Decoder, Hello, MAX_SOURCES, Message, VERSION, Welcome, WireRequest,
};
use crate::proto::{Event, SessionError, SessionErrorCode};

/// Program and version, for the peer's log.
const AGENT: &str = concat!("landro/", env!("CARGO_PKG_VERSION"));

impl Session {
    /// The side that dialled. A pull looks at its local target first.
    pub fn client(now: Instant, request: Request, limits: Limits) -> Session {
        let mut ports = Ports::default();
        let until = now + WELCOME_TIMEOUT;
        let (phase, hello) = match request {
            Request::Transfer(Transfer {
                direction,
                sources,
                target,
                options,
            }) => match direction {
                Direction::Pull => {
                    let single = sources.len() == 1;
                    let mut config =
                        receiver_config(true, target.clone(), options, single, &limits);
                    config.expected = Some(sources.iter().map(own_name).collect());
                    let receiver = Box::new(Receiver::new(now, &mut ports, config));
                    let bwlimit_bps = options.bwlimit_bps;
                    let then = Then::Ask {
                        sources,
                        bwlimit_bps,
                    };
                    (
                        Phase::Placing {
                            receiver,
                            target,
                            then,
                        },
                        None,
                    )
                }
                Direction::Push => {
                    let TransferOptions {
                        must_be_dir,
                        force,
                        fsync,
                        keep_dirlinks,
                        bwlimit_bps,
                    } = options;
                    let single = sources.len() == 1;
                    let asked = WireRequest::Push {
                        target,
                        must_be_dir,
                        force,
                        fsync,
                        single,
                        keep_dirlinks,
                    };
                    let then = AfterWelcome::Send {
                        sources,
                        bwlimit_bps,
                    };
                    (
                        Phase::AwaitWelcome { then, until },
                        Some((asked, bwlimit_bps)),
                    )
                }
            },
            Request::List { path } => {
                let asked = WireRequest::List { path };
                let then = AfterWelcome::Read;
                (Phase::AwaitWelcome { then, until }, Some((asked, None)))
            }
            Request::Bench { work, duration } => {
                let (mode, role) = match work {
                    BenchWork::Send => (BenchMode::Send, sends_filler(None, &limits)),
                    BenchWork::Receive => (BenchMode::Receive, Role::Receive),
                    BenchWork::Echo { size_bytes } => (BenchMode::Echo, Role::Ask { size_bytes }),
                };
                let bench = Box::new(Bench::new(now, &mut ports, role, duration));
                let asked = WireRequest::Bench {
                    mode,
                    milliseconds: duration.as_millis() as u64,
                };
                (Phase::AwaitBench { bench, until }, Some((asked, None)))
            }
        };
        let decoder = Decoder::new();
        let mut session = Session {
            client: true,
            limits,
            decoder,
            ports,
            phase,
            told: Told::default(),
            end: End::No,
            #[cfg(test)]
            unchecked: 0,
        };
        if let Some((asked, bwlimit_bps)) = hello {
            session.greet(asked, bwlimit_bps);
            session.close();
        }
        session
    }

    /// The side that was dialled by someone who may do what `grant` says.
    pub fn server(now: Instant, grant: Grant, limits: Limits) -> Session {
        let phase = Phase::AwaitHello {
            grant,
            until: now + HELLO_TIMEOUT,
        };
        let (decoder, ports) = (Decoder::new(), Ports::default());
        Session {
            client: false,
            limits,
            decoder,
            ports,
            phase,
            told: Told::default(),
            end: End::No,
            #[cfg(test)]
            unchecked: 0,
        }
    }

    /// Says `Hello`, if what is asked can be said at all.
    fn greet(&mut self, request: WireRequest, bwlimit_bps: Option<u64>) {
        let (paths_fit, few) = match &request {
            WireRequest::Push { target: path, .. } | WireRequest::List { path } => {
                (path.len() <= PATH_MAX_BYTES, true)
            }
            WireRequest::Pull { sources } => (
                sources.iter().all(|path| path.len() <= PATH_MAX_BYTES),
                sources.len() <= MAX_SOURCES,
            ),
            WireRequest::Bench { .. } => (true, true),
        };
        let message = Message::Hello(Hello {
            version: VERSION,
            agent: AGENT.into(),
            request,
            entry_window: self.limits.entry_window,
            bwlimit_bps,
            streams: Some(self.limits.parallel.max_concurrent_streams.clamp(1, 255) as u8),
        });
        if paths_fit && few && wire::fits(&message) {
            self.ports.message(&message);
            return;
        }
        let text = match paths_fit {
            true => format!("too many sources for one request (at most {MAX_SOURCES}); split them"),
            false => format!("a path is longer than {PATH_MAX_BYTES} bytes"),
        };
        self.call_off(SessionError {
            code: SessionErrorCode::Unsupported,
            text,
        });
    }

    /// The receiver's target is known.
    pub(super) fn begin_receiving(&mut self, now: Instant) {
        let until = now + WELCOME_TIMEOUT;
        let Phase::Placing { receiver, then, .. } =
            std::mem::replace(&mut self.phase, Phase::Reading)
        else {
            return;
        };
        match then {
            Then::Welcome => {
                self.phase = Phase::Receiving(receiver);
                self.welcome();
            }
            Then::Ask {
                sources,
                bwlimit_bps,
            } => {
                self.phase = Phase::AwaitSender { receiver, until };
                self.greet(WireRequest::Pull { sources }, bwlimit_bps);
            }
        }
    }

    fn welcome(&mut self) {
        let entry_window = self.limits.entry_window;
        self.ports.message(&Message::Welcome(Welcome {
            version: VERSION,
            agent: AGENT.into(),
            entry_window,
        }));
        self.ports.event(Event::Started);
    }

    /// Server: what the client wants.
    pub(super) fn on_hello(&mut self, now: Instant, hello: Hello) -> Result<(), Violation> {
        let Phase::AwaitHello { grant, .. } = self.phase else {
            return Ok(());
        };
        if hello.version != VERSION {
            let text = format!(
                "this server speaks version {VERSION}, the client version {}",
                hello.version
            );
            self.refuse(SessionError {
                code: SessionErrorCode::Unsupported,
                text,
            });
            return Ok(());
        }
        let (allowed, what) = match &hello.request {
            WireRequest::Push { .. } => (grant.write, "write to"),
            WireRequest::Pull { .. } | WireRequest::List { .. } => (grant.read, "read from"),
            // Whoever may come in may use the network.
            WireRequest::Bench { .. } => (true, "measure"),
        };
        if !allowed {
            let text = format!("this client may not {what} this server");
            self.refuse(SessionError {
                code: SessionErrorCode::Permission,
                text,
            });
            return Ok(());
        }
        match hello.request {
            WireRequest::Push {
                target,
                must_be_dir,
                force,
                fsync,
                single,
                keep_dirlinks,
            } => {
                let bwlimit_bps = hello.bwlimit_bps;
                let options = TransferOptions {
                    must_be_dir,
                    force,
                    fsync,
                    keep_dirlinks,
                    bwlimit_bps,
                };
                let config = receiver_config(false, target.clone(), options, single, &self.limits);
                let receiver = Box::new(Receiver::new(now, &mut self.ports, config));
                self.phase = Phase::Placing {
                    receiver,
                    target,
                    then: Then::Welcome,
                };
            }
            WireRequest::Pull { sources } => {
                let mut config =
                    self.sender_config(sources, hello.entry_window, hello.bwlimit_bps)?;
                if let Some(streams) = hello.streams {
                    let max = &mut config.parallel.max_concurrent_streams;
                    *max = (*max).min(usize::from(streams)).max(1);
                }
                self.phase = Phase::Sending(Box::new(Sender::new(now, config)));
                self.welcome();
            }
            WireRequest::List { path } => {
                self.welcome();
                self.phase = Phase::Listing(Box::new(Lister::new(&mut self.ports, path)));
            }
            WireRequest::Bench { mode, milliseconds } => {
                let duration = Duration::from_millis(milliseconds);
                if duration > MAX_BENCH {
                    let text = format!("a benchmark takes at most {} s", MAX_BENCH.as_secs());
                    self.refuse(SessionError {
                        code: SessionErrorCode::Unsupported,
                        text,
                    });
                    return Ok(());
                }
                let role = match mode {
                    BenchMode::Send => Role::Receive,
                    BenchMode::Receive => sends_filler(hello.streams, &self.limits),
                    BenchMode::Echo => Role::Answer,
                };
                self.welcome();
                let mut bench = Box::new(Bench::new(now, &mut self.ports, role, duration));
                bench.start(now);
                self.phase = Phase::Benching(bench);
            }
        }
        Ok(())
    }

    /// Client: the server accepted.
    pub(super) fn on_welcome(&mut self, now: Instant, welcome: &Welcome) -> Result<(), Violation> {
        if welcome.version != VERSION {
            return violation(format!(
                "the server welcomed version {VERSION} with version {}",
                welcome.version
            ));
        }
        self.ports.event(Event::Started);
        self.phase = match std::mem::replace(&mut self.phase, Phase::Reading) {
            Phase::AwaitWelcome {
                then:
                    AfterWelcome::Send {
                        sources,
                        bwlimit_bps,
                    },
                ..
            } => {
                let config = self.sender_config(sources, welcome.entry_window, bwlimit_bps)?;
                Phase::Sending(Box::new(Sender::new(now, config)))
            }
            Phase::AwaitSender { receiver, .. } => Phase::Receiving(receiver),
            Phase::AwaitBench { mut bench, .. } => {
                bench.start(now);
                Phase::Benching(bench)
            }
            _ => Phase::Reading,
        };
        Ok(())
    }

    fn sender_config(
        &self,
        sources: Vec<Bytes>,
        peer_window: u32,
        bwlimit_bps: Option<u64>,
    ) -> Result<SenderConfig, Violation> {
        if peer_window == 0 {
            return violation("an entry window of 0 lets nothing through");
        }
        Ok(SenderConfig {
            client: self.client,
            sources,
            window: peer_window.min(self.limits.entry_window),
            read_ahead_bytes: self.limits.read_ahead_bytes as u64,
            read_ahead_in_place_bytes: self.limits.read_ahead_in_place_bytes as u64,
            carriage: self.limits.carriage,
            lookups: self.limits.lookups,
            parallel: self.limits.parallel.clone(),
            bwlimit_bps,
        })
    }
}

/// `streams`: what the client asked for, when it is the server that sends; else our own setting
/// counts.
fn sends_filler(streams: Option<u8>, limits: &Limits) -> Role {
    let streams = streams.map_or(limits.parallel.max_concurrent_streams, usize::from);
    Role::Send {
        streams,
        read_ahead_bytes: limits.read_ahead_bytes as u64,
    }
}

/// `single`: one source, which may take the target's own name.
fn receiver_config(
    client: bool,
    target: Bytes,
    options: TransferOptions,
    single: bool,
    limits: &Limits,
) -> ReceiverConfig {
    ReceiverConfig {
        client,
        target,
        must_be_dir: options.must_be_dir || !single,
        force: options.force,
        fsync: options.fsync,
        keep_dirlinks: options.keep_dirlinks,
        window: limits.entry_window,
        write_behind_bytes: limits.write_behind_bytes as u64,
        lookups: limits.lookups,
        carriage: limits.carriage,
        expected: None,
    }
}
