//! One held session: its connection, what was said so far, and when it has to do something.

use std::time::Instant;

use bytes::{Bytes, BytesMut};
use landro::config::KEEP_ALIVE;
use landro::ids::SessionId;
use landro::proto::wire::{
    self, Decoder, Hello, Message, Preface, PrefaceKind, VERSION, WireRequest,
};
use landro::quic::{Conn, ConnState};

/// The bidirectional stream that both sides' messages go through.
const CONTROL_STREAM: u64 = 0;

/// Entries that may be under way, as `landro cp` says it.
const ENTRY_WINDOW: u32 = 2048;

/// How far a session is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Stage {
    /// Next: Greeting.
    Connecting,
    /// The push was asked for. Next: Idle.
    Greeting,
    /// Welcomed: files could follow. Next: Ending.
    Idle,
    /// The daemon was told that no files follow. Next: Finished.
    Ending,
    /// The daemon said that it has everything.
    Finished,
    /// From any but Finished, and why.
    Lost(String),
}

pub struct Session {
    conn: Conn,
    stage: Stage,
    decoder: Decoder,
    /// What the stream did not take yet.
    unsent: BytesMut,
    heard: Instant,
    pinged: Instant,
    keep_alives: u64,
}

impl Session {
    pub fn new(conn: Conn, now: Instant) -> Session {
        Session {
            conn,
            stage: Stage::Connecting,
            decoder: Decoder::new(),
            unsent: BytesMut::new(),
            heard: now,
            pinged: now,
            keep_alives: 0,
        }
    }

    pub fn stage(&self) -> &Stage {
        &self.stage
    }

    pub fn conn(&mut self) -> &mut Conn {
        &mut self.conn
    }

    /// Packets sent and received, and keep-alives asked for, so far.
    pub fn traffic(&self) -> [u64; 3] {
        [
            self.conn.packets_sent(),
            self.conn.received_packets(),
            self.keep_alives,
        ]
    }

    /// A datagram of this connection.
    pub fn receive(&mut self, now: Instant, datagram: &mut [u8], from: std::net::SocketAddr) {
        self.heard = now;
        // What broke the connection is its close reason.
        let _ = self.conn.recv(datagram, from);
    }

    /// Says that no files follow; the answer makes it Finished.
    pub fn end(&mut self) {
        if self.stage == Stage::Idle {
            self.say(&Message::ManifestEnd { entries: 0 });
            self.stage = Stage::Ending;
        }
    }

    /// When [`Session::turn`] is due if nothing comes.
    pub fn due(&self, now: Instant) -> Option<Instant> {
        let alive = self
            .keeps_alive()
            .then(|| self.heard.max(self.pinged) + KEEP_ALIVE);
        let pacing = self.conn.release_time(now).filter(|at| *at > now);
        let stuck = self.conn.stuck_check().filter(|at| *at > now);
        [self.conn.timeout(), alive, pacing, stuck]
            .into_iter()
            .flatten()
            .min()
    }

    /// Reads, answers, does what is due. What is to be sent is then to be had from the connection.
    pub fn turn(&mut self, now: Instant) {
        if self.conn.timeout().is_some_and(|at| at <= now) {
            self.conn.on_timeout(now);
        }
        // As both sides of landro do it.
        if self.keeps_alive() && self.heard.max(self.pinged) + KEEP_ALIVE <= now {
            self.pinged = now;
            self.keep_alives += 1;
            self.conn.keep_alive();
        }
        if self.stage == Stage::Connecting && self.conn.state() == ConnState::Established {
            self.greet();
        }
        if let Err(reason) = self.read() {
            self.conn.close(1, reason.as_bytes());
            self.lose(reason);
        }
        if let Some(reason) = self.conn.close_reason() {
            self.lose(reason.to_string());
        }
        self.write();
    }

    fn keeps_alive(&self) -> bool {
        matches!(self.stage, Stage::Greeting | Stage::Idle | Stage::Ending)
    }

    fn lose(&mut self, reason: String) {
        if !matches!(self.stage, Stage::Finished | Stage::Lost(_)) {
            self.stage = Stage::Lost(reason);
        }
    }

    /// A push into the directory that is served.
    fn greet(&mut self) {
        let preface = Preface {
            kind: PrefaceKind::New,
            session: SessionId(rand::random::<[u8; 16]>()),
            lane: 0,
        };
        self.unsent.extend_from_slice(&preface.encode());
        self.say(&Message::Hello(Hello {
            version: VERSION,
            request: WireRequest::Push {
                target: Bytes::new(),
                must_be_dir: true,
                force: false,
                fsync: false,
                single: false,
                keep_dirlinks: false,
                no_perms: false,
                no_times: false,
                dir_modes: false,
                no_target_dir: false,
                copy: None,
            },
            entry_window: ENTRY_WINDOW,
            bwlimit_bps: None,
            streams: None,
            counts: false,
            patience_s: None,
            adds_lanes: false,
            asks_addresses: false,
            takes_kept: false,
            clear: false,
        }));
        self.stage = Stage::Greeting;
    }

    fn say(&mut self, message: &Message) {
        wire::encode(message, &mut self.unsent);
    }

    fn write(&mut self) {
        if self.unsent.is_empty() || self.conn.is_closing() {
            return;
        }
        match self
            .conn
            .send(CONTROL_STREAM, self.unsent.split().freeze(), false)
        {
            Ok(rest) => self.unsent.extend_from_slice(&rest.unwrap_or_default()),
            Err(error) => self.lose(error.to_string()),
        }
    }

    fn read(&mut self) -> Result<(), String> {
        // Only the control stream has anything to read.
        while self.conn.readable_next().is_some() {}
        let mut chunk = [0; 2048];
        while let Ok(Some((bytes, fin))) = self.conn.read(CONTROL_STREAM, &mut chunk) {
            self.decoder.push(Bytes::copy_from_slice(&chunk[..bytes]));
            while let Some(message) = self.decoder.next().map_err(|error| error.to_string())? {
                self.hear(message)?;
            }
            if fin {
                break;
            }
        }
        Ok(())
    }

    fn hear(&mut self, message: Message) -> Result<(), String> {
        self.stage = match (&self.stage, message) {
            (Stage::Greeting, Message::Welcome(_)) => Stage::Idle,
            (Stage::Ending, Message::Finished {}) => {
                self.conn.close(0, b"");
                Stage::Finished
            }
            // The daemon looked at its directory meanwhile.
            (_, Message::Working { .. }) => return Ok(()),
            (_, Message::Error(error)) => return Err(error.sentence("")),
            (stage, message) => return Err(format!("{message:?} while {stage:?}")),
        };
        Ok(())
    }
}
