//! Hello and welcome: versions are compared, rights checked, roles taken.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::asking::QueryClient;
use super::handles::AnswerHandles;
use super::listing::Lister;
use super::role::Role;
use super::watch::ProgressWatch;
use super::{
    BenchWork, Direction, End, Grant, HELLO_TIMEOUT, Limits, Request, Session, Sources, Stage,
    Told, Transfer, TransferOptions,
};
use crate::ids::{CopyId, PATH_MAX_BYTES, WorkerId};
use crate::proto::bench::{Bench, BenchRole, MAX_BENCH};
use crate::proto::clear::{ClearOff, ClearSecret};
use crate::proto::errors::{Violation, not_allowed, violation};
use crate::proto::path::own_name;
use crate::proto::place::TargetPlace;
use crate::proto::ports::Ports;
use crate::proto::receive::{MetadataOptions, ReceiveOutpost, Receiver, ReceiverConfig};
use crate::proto::send::{SendOutpost, Sender, SenderConfig};
use crate::proto::wire::{
    self, BenchMode, Decoder, Hello, MAX_SOURCES, Message, VERSION, Welcome, WirePlace, WireRequest,
};
use crate::proto::{Event, SessionError, SessionErrorCode, Verb};

/// How a client begins.
struct SessionStart {
    stage: Stage,
    role: Role,
    /// What it says first; a pull looks at its target before.
    asks: Option<(WireRequest, Option<u64>)>,
}

impl Session {
    /// The side that dialled. A pull looks at its local target first.
    pub fn client(now: Instant, request: Request, limits: Limits) -> Session {
        let mut ports = Ports::default();
        let begin = match request {
            Request::Transfer(transfer) => match transfer.direction {
                Direction::Pull => begin_pull(now, &mut ports, transfer, &limits),
                Direction::Push => begin_push(transfer),
            },
            Request::List { path, partial } => {
                let asked = WireRequest::List { path, partial };
                await_welcome(Role::Read, asked, None)
            }
            Request::Queries => {
                let client = QueryClient::new(limits.patience, limits.carriage);
                await_welcome(Role::Asks(Box::new(client)), WireRequest::Queries {}, None)
            }
            Request::Bench { work, duration } => begin_bench(now, work, duration, &limits),
        };
        let watch = ProgressWatch::new(now, limits.patience);
        let mut session = Session {
            client: true,
            limits,
            decoder: Decoder::new(),
            ports,
            stage: begin.stage,
            role: begin.role,
            told: Told::default(),
            watch,
            disk_ended: 0,
            adds_lanes: false,
            is_asked_addresses: false,
            clear: None,
            now,
            end: End::No,
            #[cfg(test)]
            unchecked: 0,
        };
        if let Some((asked, bwlimit_bps)) = begin.asks {
            session.greet(asked, bwlimit_bps, false);
            session.close();
        }
        session
    }

    /// The side that was dialled by someone who may do what `grant` says.
    pub fn server(now: Instant, grant: Grant, limits: Limits) -> Session {
        let stage = Stage::AwaitHello {
            grant,
            until: now + HELLO_TIMEOUT,
        };
        let (decoder, ports) = (Decoder::new(), Ports::default());
        let watch = ProgressWatch::new(now, limits.patience);
        Session {
            client: false,
            limits,
            decoder,
            ports,
            stage,
            role: Role::Unknown,
            told: Told::default(),
            watch,
            disk_ended: 0,
            adds_lanes: false,
            is_asked_addresses: false,
            clear: None,
            now,
            end: End::No,
            #[cfg(test)]
            unchecked: 0,
        }
    }

    /// What of a session is on another worker than its own: movers. Who is there, and how long
    /// nothing may be got on with, is the session's to know. `sends`: data goes to the peer.
    pub fn away(now: Instant, worker: WorkerId, sends: bool, limits: Limits) -> Session {
        let role = match sends {
            true => {
                let config = of_movers_away(&limits);
                Role::SendAway(Box::new(SendOutpost::new(now, &config)))
            }
            false => {
                let write_behind_bytes = limits.write_behind_bytes as u64;
                let outpost = ReceiveOutpost::new(now, worker, write_behind_bytes);
                Role::ReceiveAway(Box::new(outpost))
            }
        };
        Session {
            client: false,
            limits,
            decoder: Decoder::new(),
            ports: Ports::default(),
            stage: Stage::Running,
            role,
            told: Told::default(),
            watch: ProgressWatch::new(now, None),
            disk_ended: 0,
            adds_lanes: true,
            is_asked_addresses: false,
            clear: None,
            now,
            end: End::No,
            #[cfg(test)]
            unchecked: 0,
        }
    }

    /// Says `Hello`, if what is asked can be said at all.
    fn greet(&mut self, request: WireRequest, bwlimit_bps: Option<u64>, counts: bool) {
        let (paths_fit, few) = match &request {
            WireRequest::Push { target: path, .. } | WireRequest::List { path, .. } => {
                (path.len() <= PATH_MAX_BYTES, true)
            }
            WireRequest::Pull { sources, .. } => (
                sources.iter().all(|path| path.len() <= PATH_MAX_BYTES),
                sources.len() <= MAX_SOURCES,
            ),
            WireRequest::Bench { .. } | WireRequest::Queries {} => (true, true),
        };
        let is_pull = matches!(request, WireRequest::Pull { .. });
        let is_transfer = is_pull || matches!(request, WireRequest::Push { .. });
        let message = Message::Hello(Hello {
            version: VERSION,
            request,
            entry_window: self.limits.entry_window,
            bwlimit_bps,
            streams: Some(self.limits.parallel.max_concurrent_streams.clamp(1, 255) as u8),
            counts,
            patience_s: self
                .limits
                .patience
                .map(|patience| u32::try_from(patience.as_secs()).unwrap_or(u32::MAX).max(1)),
            adds_lanes: self.limits.adds_lanes && is_transfer,
            asks_addresses: self.limits.asks_addresses && is_transfer,
            // On a lane in the clear a wrong value would be taken for data that somebody changed.
            takes_kept: is_pull,
            clear: self.limits.clear.is_wanted() && is_transfer,
        });
        if paths_fit && few && wire::fits(&message) {
            self.ports.message(&message);
            return;
        }
        let text = match paths_fit {
            true => format!("too many sources for one request (at most {MAX_SOURCES}); split them"),
            false => format!("a path is longer than {PATH_MAX_BYTES} bytes"),
        };
        self.call_off(SessionError::told(SessionErrorCode::Unsupported, text));
    }

    /// The receiver's target is known.
    pub(super) fn begin_receiving(&mut self) {
        let Stage::Placing { ask, .. } = std::mem::replace(&mut self.stage, Stage::Running) else {
            return;
        };
        match ask {
            None => self.welcome(),
            Some(Sources { paths, options }) => {
                let inside = self.role.lands_inside();
                self.ports.event(Event::Placed { inside });
                self.stage = Stage::AwaitWelcome { send: None };
                let asked = WireRequest::Pull {
                    sources: paths,
                    follow_named: options.follow_named,
                    no_growing: options.no_growing,
                    place: self.place().map(Into::into),
                };
                self.greet(asked, options.bwlimit_bps, options.counts);
            }
        }
    }

    fn welcome(&mut self) {
        let entry_window = self.limits.entry_window;
        self.ports.message(&Message::Welcome(Welcome {
            version: VERSION,
            entry_window,
            inside: self.role.lands_inside(),
            place: self.place().map(Into::into),
            adds_lanes: self.adds_lanes,
            addresses: match self.is_asked_addresses {
                true => self.limits.addresses.to_vec(),
                false => Vec::new(),
            },
            clear: self.clear,
        }));
        self.ports.event(Event::Started);
        self.say_adds_lanes();
    }

    /// Lanes may be added from now on, if both sides know how.
    fn say_adds_lanes(&mut self) {
        if self.adds_lanes {
            let sends = matches!(self.role, Role::Send(_));
            self.ports.adds_lanes(sends, self.clear);
        }
    }

    /// Where what this side receives is to land.
    fn place(&self) -> Option<TargetPlace> {
        match (&self.role, self.limits.host_key) {
            (Role::Receive(receiver), Some(key)) => Some(key.place(receiver.above())),
            _ => None,
        }
    }

    /// Server: what the client wants.
    pub(super) fn on_hello(&mut self, now: Instant, hello: Hello) -> Result<(), Violation> {
        let Stage::AwaitHello { grant, .. } = self.stage else {
            return Ok(());
        };
        if hello.version != VERSION {
            let text = format!(
                "this server speaks version {VERSION}, the client version {}",
                hello.version
            );
            self.refuse_with(SessionErrorCode::Unsupported, text);
            return Ok(());
        }
        self.watch.shorten(hello.patience());
        let is_transfer = matches!(
            hello.request,
            WireRequest::Push { .. } | WireRequest::Pull { .. }
        );
        self.adds_lanes = self.limits.adds_lanes && hello.adds_lanes && is_transfer;
        self.is_asked_addresses = hello.asks_addresses && is_transfer;
        let answer = self.limits.clear.answer(hello.clear);
        self.clear = answer.filter(|_| self.adds_lanes);
        self.ports.event(asked(&hello.request));
        if let Some(refusal) = refusal(&hello.request, grant) {
            self.refuse(refusal);
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
                no_perms,
                no_times,
                dir_modes,
                no_target_dir,
                copy,
            } => {
                let metadata = MetadataOptions {
                    no_perms,
                    no_times,
                    dir_modes,
                };
                let options = TransferOptions {
                    must_be_dir,
                    force,
                    fsync,
                    keep_dirlinks,
                    metadata,
                    no_target_dir,
                    copy: copy.map(|copy| CopyId(copy.into())),
                    ..TransferOptions::default()
                };
                let config = receiver_config(false, target, options, single, &self.limits);
                self.receive(now, config);
            }
            WireRequest::Pull { .. } => self.serve_files(now, &hello)?,
            WireRequest::List { path, partial } => self.serve_rows(path, partial),
            WireRequest::Queries {} => {
                self.welcome();
                self.run(Role::Answers(Box::default()));
            }
            WireRequest::Bench { mode, milliseconds } => {
                self.serve_bench(now, mode, milliseconds, hello.streams);
            }
        }
        Ok(())
    }

    fn serve_rows(&mut self, path: Bytes, partial: bool) {
        self.welcome();
        let lister = Lister::new(&mut self.ports, AnswerHandles::ALONE, path, partial);
        self.run(Role::List(Box::new(lister)));
    }

    /// Looks the target of a push up.
    fn receive(&mut self, now: Instant, config: ReceiverConfig) {
        let receiver = Receiver::new(now, &mut self.ports, config);
        self.role = Role::Receive(Box::new(receiver));
        self.stage = Stage::Placing { ask: None };
    }

    fn run(&mut self, role: Role) {
        (self.stage, self.role) = (Stage::Running, role);
    }

    fn serve_files(&mut self, now: Instant, hello: &Hello) -> Result<(), Violation> {
        let WireRequest::Pull {
            sources,
            follow_named,
            no_growing,
            place,
        } = &hello.request
        else {
            return Ok(());
        };
        let options = TransferOptions {
            follow_named: *follow_named,
            no_growing: *no_growing,
            bwlimit_bps: hello.bwlimit_bps,
            ..TransferOptions::default()
        };
        let paths = sources.clone();
        let sources = Sources { paths, options };
        let mut config = self.sender_config(sources, hello.entry_window, place.clone())?;
        config.counts = hello.counts;
        config.keeps_digests = self.limits.keeps_digests && hello.takes_kept;
        if let Some(streams) = hello.streams {
            let max = &mut config.parallel.max_concurrent_streams;
            *max = (*max).min(usize::from(streams)).max(1);
        }
        self.run(Role::Send(Box::new(Sender::new(now, config))));
        self.welcome();
        Ok(())
    }

    fn serve_bench(
        &mut self,
        now: Instant,
        mode: BenchMode,
        milliseconds: u64,
        streams: Option<u8>,
    ) {
        let duration = Duration::from_millis(milliseconds);
        if duration > MAX_BENCH {
            let text = format!("a benchmark takes at most {} s", MAX_BENCH.as_secs());
            return self.refuse_with(SessionErrorCode::Unsupported, text);
        }
        let role = match mode {
            BenchMode::Send => BenchRole::Receive,
            BenchMode::Receive => sends_filler(streams, &self.limits),
            BenchMode::Echo => BenchRole::Answer,
        };
        self.welcome();
        let mut bench = Box::new(Bench::new(now, role, duration));
        bench.start(now);
        self.run(Role::Bench(bench));
    }

    fn refuse_with(&mut self, code: SessionErrorCode, text: String) {
        self.refuse(SessionError::told(code, text));
    }

    /// Client: the server accepted.
    pub(super) fn on_welcome(&mut self, now: Instant, welcome: Welcome) -> Result<(), Violation> {
        if welcome.version != VERSION {
            return violation(format!(
                "the server welcomed version {VERSION} with version {}",
                welcome.version
            ));
        }
        self.ports.event(Event::Started);
        if self.limits.asks_addresses && !welcome.addresses.is_empty() {
            self.ports.event(Event::Addresses(welcome.addresses));
        }
        let asked = matches!(&self.role, Role::Receive(_))
            || matches!(&self.stage, Stage::AwaitWelcome { send: Some(_) });
        self.adds_lanes = self.limits.adds_lanes && welcome.adds_lanes && asked;
        self.welcome_in_the_clear(welcome.clear);
        let before = std::mem::replace(&mut self.stage, Stage::Running);
        if let Stage::AwaitWelcome {
            send: Some(sources),
            ..
        } = before
        {
            let inside = welcome.inside;
            self.ports.event(Event::Placed { inside });
            let config = self.sender_config(sources, welcome.entry_window, welcome.place)?;
            self.role = Role::Send(Box::new(Sender::new(now, config)));
        }
        if let Role::Bench(bench) = &mut self.role {
            bench.start(now);
        }
        self.say_adds_lanes();
        Ok(())
    }

    /// Client: whether the server lets lanes in the clear in.
    fn welcome_in_the_clear(&mut self, secret: Option<ClearSecret>) {
        let is_wanted = self.limits.clear.is_wanted();
        self.clear = secret.filter(|_| is_wanted && self.adds_lanes);
        if is_wanted && self.clear.is_none() {
            self.ports.event(Event::ClearOff(ClearOff::NotAllowed));
        }
    }

    fn sender_config(
        &self,
        sources: Sources,
        peer_window: u32,
        place: Option<WirePlace>,
    ) -> Result<SenderConfig, Violation> {
        if peer_window == 0 {
            return violation("an entry window of 0 lets nothing through");
        }
        let Sources { paths, options } = sources;
        let key = self.limits.host_key;
        Ok(SenderConfig {
            client: self.client,
            sources: paths,
            near: key.and_then(|key| key.understand(place?.into())),
            window: peer_window.min(self.limits.entry_window),
            read_ahead_bytes: self.limits.read_ahead_bytes as u64,
            read_ahead_in_place_bytes: self.limits.read_ahead_in_place_bytes as u64,
            read_ahead_all_bytes: self.limits.read_ahead_all_bytes as u64,
            carriage: self.limits.carriage,
            lookups: self.limits.lookups,
            parallel: self.limits.parallel.clone(),
            bwlimit_bps: options.bwlimit_bps,
            follow_named: options.follow_named,
            no_growing: options.no_growing,
            counts: false,
            adds_lanes: self.adds_lanes,
            keeps_digests: false,
        })
    }
}

/// Of movers on another worker than their plan's, which has everything else.
fn of_movers_away(limits: &Limits) -> SenderConfig {
    SenderConfig {
        client: false,
        sources: Vec::new(),
        near: None,
        window: 0,
        read_ahead_bytes: limits.read_ahead_bytes as u64,
        read_ahead_in_place_bytes: limits.read_ahead_in_place_bytes as u64,
        read_ahead_all_bytes: limits.read_ahead_all_bytes as u64,
        carriage: limits.carriage,
        lookups: limits.lookups,
        parallel: limits.parallel.clone(),
        bwlimit_bps: None,
        follow_named: false,
        no_growing: false,
        counts: false,
        adds_lanes: true,
        keeps_digests: false,
    }
}

/// Why this client may not have what it asks for.
fn refusal(request: &WireRequest, grant: Grant) -> Option<SessionError> {
    match request {
        WireRequest::Push { .. } => {
            (!grant.write).then(|| not_allowed("write to", "--read-only", "ro"))
        }
        WireRequest::Pull { .. } | WireRequest::List { .. } | WireRequest::Queries {} => {
            (!grant.read).then(|| not_allowed("read from", "--write-only", "wo"))
        }
        // Whoever may come in may use the network.
        WireRequest::Bench { .. } => None,
    }
}

/// What is asked for, for the log.
fn asked(request: &WireRequest) -> Event {
    let (verb, path, more) = match request {
        WireRequest::Push { target, .. } => (Verb::Push, target.clone(), 0),
        WireRequest::Pull { sources, .. } => {
            let first = sources.first().cloned().unwrap_or_default();
            (Verb::Pull, first, sources.len().saturating_sub(1))
        }
        WireRequest::List { path, .. } => (Verb::List, path.clone(), 0),
        WireRequest::Queries {} => (Verb::Queries, Bytes::new(), 0),
        WireRequest::Bench { .. } => (Verb::Bench, Bytes::new(), 0),
    };
    Event::Asked { verb, path, more }
}

/// Says what is wanted, and waits to be welcome.
fn await_welcome(role: Role, asked: WireRequest, send: Option<Sources>) -> SessionStart {
    let bwlimit_bps = send
        .as_ref()
        .and_then(|sources| sources.options.bwlimit_bps);
    SessionStart {
        stage: Stage::AwaitWelcome { send },
        role,
        asks: Some((asked, bwlimit_bps)),
    }
}

fn begin_pull(
    now: Instant,
    ports: &mut Ports,
    transfer: Transfer,
    limits: &Limits,
) -> SessionStart {
    let Transfer {
        sources,
        target,
        options,
        ..
    } = transfer;
    let single = sources.len() == 1;
    let mut config = receiver_config(true, target, options, single, limits);
    config.expected = Some(sources.iter().map(own_name).collect());
    let ask = Some(Sources {
        paths: sources,
        options,
    });
    SessionStart {
        stage: Stage::Placing { ask },
        role: Role::Receive(Box::new(Receiver::new(now, ports, config))),
        asks: None,
    }
}

fn begin_push(transfer: Transfer) -> SessionStart {
    let TransferOptions {
        must_be_dir,
        force,
        fsync,
        keep_dirlinks,
        no_target_dir,
        copy,
        metadata,
        follow_named: _,
        no_growing: _,
        bwlimit_bps: _,
        // The client walks its own sources itself.
        counts: _,
    } = transfer.options;
    let asked = WireRequest::Push {
        target: transfer.target,
        must_be_dir,
        force,
        fsync,
        single: transfer.sources.len() == 1,
        keep_dirlinks,
        no_perms: metadata.no_perms,
        no_times: metadata.no_times,
        dir_modes: metadata.dir_modes,
        no_target_dir,
        copy: copy.map(|copy| copy.0.into()),
    };
    let send = Sources {
        paths: transfer.sources,
        options: transfer.options,
    };
    await_welcome(Role::Unknown, asked, Some(send))
}

fn begin_bench(now: Instant, work: BenchWork, duration: Duration, limits: &Limits) -> SessionStart {
    let (mode, role) = match work {
        BenchWork::Send => (BenchMode::Send, sends_filler(None, limits)),
        BenchWork::Receive => (BenchMode::Receive, BenchRole::Receive),
        BenchWork::Echo { size_bytes } => (BenchMode::Echo, BenchRole::Ask { size_bytes }),
    };
    let bench = Box::new(Bench::new(now, role, duration));
    let asked = WireRequest::Bench {
        mode,
        milliseconds: duration.as_millis() as u64,
    };
    await_welcome(Role::Bench(bench), asked, None)
}

/// `streams`: what the client asked for, when it is the server that sends; else our own setting
/// counts.
fn sends_filler(streams: Option<u8>, limits: &Limits) -> BenchRole {
    let streams = streams.map_or(limits.parallel.max_concurrent_streams, usize::from);
    BenchRole::Send {
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
        no_target_dir: options.no_target_dir && single,
        copy: options.copy.filter(|_| single),
        metadata: options.metadata,
        window: limits.entry_window,
        write_behind_bytes: limits.write_behind_bytes as u64,
        lookups: limits.lookups,
        carriage: limits.carriage,
        expected: None,
        counts: client && options.counts,
    }
}
