//! `landro bench`: memory to memory with a daemon, or with both ends on this host.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use crate::budget::DEFAULT_MEMORY_BUDGET_BYTES;
use crate::cli::args::BenchArgs;
use crate::cli::args::url::{Url, UrlError};
use crate::cli::diagnostics;
use crate::cli::dial::{self, Dial};
use crate::cli::exit::{CliError, Exit};
use crate::cli::output::meter::Meter;
use crate::cli::output::outcome::{Parties, judge};
use crate::cli::say::without_numbers;
use crate::cli::trust::TrustError;
use crate::config::LaneCount;
use crate::daemon::DaemonError;
use crate::engine::{
    Client, ClientConfig, Ended, Grant, PeerAccess, Persistence, ServeConfig, Server,
};
use crate::ids::Fingerprint;
use crate::proto::session::{BenchWork, Request};
use crate::quic::Identity;
use crate::signals::{Hangup, Signals};

/// What most messages of a program to another are smaller than.
const DEFAULT_SIZE_BYTES: usize = 1024;

pub fn run(args: BenchArgs) -> Result<Exit, CliError> {
    let url = args
        .url
        .as_ref()
        .map(|typed| Url::parse(typed))
        .transpose()?;
    if let (Some(url), Some(typed)) = (&url, &args.url)
        && !url.path.is_empty()
    {
        return Err(UrlError::Path(typed.to_string_lossy().into_owned()).into());
    }
    let work = match (args.latency, args.reverse) {
        (true, _) => BenchWork::Echo {
            size_bytes: args.size.unwrap_or(DEFAULT_SIZE_BYTES),
        },
        (false, true) => BenchWork::Receive,
        (false, false) => BenchWork::Send,
    };
    let request = Request::Bench {
        work,
        duration: Duration::from_secs(args.seconds),
    };
    let signals = Signals::catch(Hangup::Default).map_err(CliError::Signals)?;
    let mut meter = Meter::new(work, &args);
    let result = match &url {
        Some(url) => remote(&args, url, &request, &signals, &mut meter),
        None => local(&args, request, &signals, &mut meter),
    };
    let exit = match result {
        Ok((ended, own)) => {
            let host = url.as_ref().map(|url| &url.host);
            let verdict = judge(
                &ended,
                signals.asked(),
                &Parties {
                    host,
                    own: Some(own),
                    ..Parties::default()
                },
            );
            if let Some(message) = &verdict.message {
                meter.error(verdict.code, message);
            }
            verdict.exit
        }
        Err(error) => {
            let (exit, code) = error.exit();
            meter.error(code, &without_numbers(&error.to_string()));
            exit
        }
    };
    meter.finish(exit).map_err(CliError::Stdout)?;
    Ok(exit)
}

type BenchEnd = Result<(Ended, Fingerprint), CliError>;

fn remote(
    args: &BenchArgs,
    url: &Url,
    request: &Request,
    signals: &Signals,
    meter: &mut Meter,
) -> BenchEnd {
    let dial = Dial {
        streams: args.streams,
        ..Dial::new(&url.host, &args.trust, &args.from, &args.engine)
    };
    let done = dial::run(&dial, signals, request, &mut |event| meter.hear(event))?;
    Ok((done.ended, done.own))
}

/// A daemon that knows one client and lets it touch nothing, and that client.
fn local(args: &BenchArgs, request: Request, signals: &Signals, meter: &mut Meter) -> BenchEnd {
    let identity = || {
        Identity::generate()
            .map_err(|error| CliError::from(TrustError::Generate(error.to_string())))
    };
    let (daemon, own) = (identity()?, identity()?);
    let (shown, peer) = (daemon.fingerprint(), own.fingerprint());
    let quic = args.engine.quic();
    let quic = quic.diagnostics(diagnostics::of_environment());
    let nothing = Grant {
        read: false,
        write: false,
    };
    let server = Server::start(ServeConfig {
        listen: vec![(Ipv4Addr::LOCALHOST, 0).into()],
        root: "/".into(),
        // A connection is one worker's.
        workers: 1,
        backend: args.engine.backend(),
        quic: quic.clone(),
        memory_budget_bytes: DEFAULT_MEMORY_BUDGET_BYTES,
        patience: args.engine.patience(),
        lane_kinds: args.engine.lane_kinds,
        tcp_congestion: args.engine.tcp_congestion.clone(),
        ktls: args.engine.ktls(),
        digest_cache: None,
        allow_clear: false,
        identity: daemon,
        reset_secret: rand::random(),
        authorize: Arc::new(move |asks| {
            (*asks == peer).then_some(PeerAccess {
                access: nothing,
                path: None,
                clear: false,
            })
        }),
    })?;
    let config = ClientConfig {
        peer: server.addresses().to_vec(),
        binds: Vec::new(),
        backend: args.engine.backend(),
        quic,
        memory_budget_bytes: DEFAULT_MEMORY_BUDGET_BYTES,
        patience: args.engine.patience(),
        identity: own,
        trust: Arc::new(move |seen| *seen == shown),
        streams: usize::from(args.streams),
        lanes: LaneCount::Auto,
        workers: 1,
        clear: false,
        lane_kinds: args.engine.lane_kinds,
        tcp_congestion: args.engine.tcp_congestion.clone(),
        ktls: args.engine.ktls(),
        persistence: Persistence::NONE,
    };
    let mut client = Client::start(config, request)?;
    let ended = dial::pump(&mut client, signals, &mut || None, &mut |event| {
        meter.hear(event)
    });
    client.join().map_err(CliError::Worker)?;
    meter.served(&server.shutdown().map_err(DaemonError::Shutdown)?);
    Ok((ended, peer))
}
