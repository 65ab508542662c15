//! What a session's lanes are told, and what they want carried out.

use std::collections::VecDeque;

use crate::metrics::{Distribution, EntryEnd, Metric, SessionEnd, SessionVerb};
use crate::proto::lanes::{LaneKey, LaneStream, LanesInput, LanesOutput, Taken, code};
use crate::proto::{Event, Outcome, Verb};
use crate::worker::Worker;
use crate::worker::client_events::ClientEvent;
use crate::worker::event_loop::Loop;
use crate::worker::limits::TRIM_AFTER;
use crate::worker::log::SessionLanes;

impl Worker {
    /// Tells a session something and carries out what it wants. Gives how many bytes its transports
    /// took.
    pub(crate) fn tell(&mut self, session: usize, input: LanesInput) -> usize {
        let now = self.io.now;
        if let Some(running) = self.sessions.get_mut(session) {
            running.lanes.handle(now, input);
        }
        self.carry_out(session)
    }

    /// Carries out everything a session wants, until it wants nothing. Gives how many bytes its
    /// transports took.
    pub(crate) fn carry_out(&mut self, session: usize) -> usize {
        let (mut taken_bytes, mut inputs) = (0, VecDeque::new());
        loop {
            while let Some(running) = self.sessions.get_mut(session)
                && let Some(output) = running.lanes.poll()
            {
                match output {
                    LanesOutput::Send {
                        lane,
                        stream,
                        payload,
                        fin,
                    } => {
                        let len = payload.len_bytes() as usize;
                        let taken = self.send(lane.0, stream, payload, fin);
                        let (took_bytes, left_bytes) = match taken {
                            Taken::All => (len, len),
                            Taken::Part(bytes) => (bytes as usize, bytes as usize),
                            Taken::Gone => (len, 0),
                        };
                        if stream != LaneStream::Control && left_bytes > 0 {
                            self.data_moves(session);
                        }
                        taken_bytes += took_bytes;
                        inputs.push_front(LanesInput::Taken(taken));
                    }
                    LanesOutput::Dial { kind } => inputs.extend(self.dial_lane(session, kind)),
                    LanesOutput::DialClear {
                        session: id,
                        lane,
                        secret,
                    } => inputs.extend(self.dial_in_the_clear(session, (id, lane, secret))),
                    other => self.do_at_once(session, other),
                }
            }
            let (Some(input), Some(running)) = (inputs.pop_front(), self.sessions.get_mut(session))
            else {
                break;
            };
            running.lanes.handle(self.io.now, input);
        }
        self.sessions.schedule(&mut self.io, session);
        taken_bytes
    }

    /// What needs no answer.
    fn do_at_once(&mut self, session: usize, output: LanesOutput) {
        let Some(running) = self.sessions.get_mut(session) else {
            return;
        };
        match output {
            LanesOutput::Wants { lane } => self.connections.touch(lane.0),
            LanesOutput::ReadControl { lane, allowed } => {
                let most = if allowed { usize::MAX } else { 0 };
                self.read_control_up_to(lane.0, most);
            }
            LanesOutput::TakesData(takes_data) => {
                running.takes_data = takes_data;
                if takes_data {
                    self.connections.touch_all_of(session);
                }
            }
            LanesOutput::Piece {
                lane,
                stream,
                bytes,
            } => {
                let is_client = running.is_client;
                if let Some((_, lane)) = self.connections.lane_mut(lane.0) {
                    lane.set_piece(super::reading::id_of_theirs(stream, is_client), bytes);
                }
            }
            LanesOutput::Watch { lane, stream } => {
                if let Some((_, lane)) = self.connections.lane_mut(lane.0) {
                    lane.watched.push(stream);
                }
            }
            LanesOutput::TakenOver { lane } => self.taken_over(lane),
            LanesOutput::Close { lane, code, text } => self.close_lane(lane, code, &text),
            LanesOutput::Ping { lane } => {
                if let Some(connection) = self.connections.get_mut(lane.0) {
                    connection.ping(self.io.now);
                    self.connections.touch(lane.0);
                }
            }
            LanesOutput::Listen(listens) => running.listens = listens,
            LanesOutput::Settled(id) => self.settled(id),
            LanesOutput::TakesOutposts { sends } => self.io.shared.homes.open(&running.id, sends),
            LanesOutput::ToOutpost { to, mail } => self.mail_outpost(session, to, mail),
            LanesOutput::ToHome(mail) => self.mail_home(session, mail),
            LanesOutput::Disk { op, cmd } => {
                let space = running.space.clone();
                self.disk.start(session, running.serial, &space, op, cmd);
            }
            LanesOutput::Event(event) => self.report(session, event),
            LanesOutput::Finished(outcome) => self.finished(session, outcome),
            LanesOutput::Over => self.session_over(session),
            LanesOutput::Send { .. } | LanesOutput::Dial { .. } | LanesOutput::DialClear { .. } => {
                unreachable!("what is answered is not done here")
            }
        }
    }

    /// A session goes on over a lane in place of one that fell silent, or was cut.
    fn taken_over(&mut self, lane: LaneKey) {
        let Some(connection) = self.connections.get(lane.0) else {
            return;
        };
        let (peer, who, kind) = (connection.peer, connection.who(), connection.conn.kind());
        if self.io.log.admits(who, self.io.now) {
            tracing::info!(%peer, %kind, "a session goes on over another lane, for its own fell silent or was cut");
        }
        let path = connection.path();
        if let Some(client) = &mut self.client {
            client.goes_on();
            client.paths.carries(path);
        }
    }

    /// Closes a lane for its session, whose it is no more.
    fn close_lane(&mut self, lane: LaneKey, code: u64, text: &str) {
        let Some(connection) = self.connections.get_mut(lane.0) else {
            return;
        };
        let (peer, who) = (connection.peer, connection.who());
        if code == code::TIMEOUT && self.io.log.admits(who, self.io.now) {
            tracing::info!(%peer, reason = text, "a session makes room for its successor");
        }
        self.leave_and_close(lane.0, code, text);
    }

    /// Closes a connection that carries no session, or none any more.
    pub(super) fn leave_and_close(&mut self, key: usize, code: u64, text: &str) {
        self.connections.measure(&self.io, key);
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        connection.last_stats();
        let (peer, who) = (connection.peer, connection.who());
        let path = *connection.measured_path();
        let mut of_session = None;
        if let Some((_, lane)) = connection.lane_mut() {
            of_session = lane.session().map(|session| (session, lane.is_added));
            lane.leave();
        }
        if let Some((session, is_added)) = of_session {
            if is_added {
                self.added_lane_leaves(session);
            }
            self.carried_by_lane(session, &path);
        }
        if code == code::VIOLATION && self.io.log.admits(who, self.io.now) {
            tracing::warn!(%peer, reason = text, "protocol violation");
        }
        self.connections.close(&self.io, key, code, text);
    }

    /// Data of a session leaves, or came: of the first it is told how long it took.
    pub(super) fn data_moves(&mut self, session: usize) {
        let Some(running) = self.sessions.get_mut(session) else {
            return;
        };
        if let Some(began) = running.awaits_data.take() {
            let took = self.io.now.saturating_duration_since(began);
            self.io.recorder.record(Distribution::FirstByte, [], took);
        }
    }

    fn report(&mut self, session: usize, event: Event) {
        let Some(running) = self.sessions.get_mut(session) else {
            return;
        };
        let now = self.io.now;
        count_event(&self.io, running.log.verb(), &event);
        match &mut self.client {
            Some(client) if running.is_client => {
                if let Event::Addresses(addresses) = &event {
                    client.paths.learn(addresses);
                }
                client.tell(ClientEvent::Session(event));
            }
            _ => {
                if let Event::ClearOff(_) = event {
                    self.io.shared.homes.leave_clear(&running.id);
                }
                let (log, peer) = (&mut running.log, &running.peer);
                self.io.log.event(log, peer, &event, now);
            }
        }
    }

    fn finished(&mut self, session: usize, outcome: Outcome) {
        let lanes = self.lanes_of(session);
        if let Some(running) = self.sessions.get_mut(session) {
            if running.home.is_none() {
                count_end(&self.io, &outcome);
            }
            // A command tells its user.
            if !running.is_client {
                let (log, now) = (&running.log, self.io.now);
                let ended = (&outcome, lanes);
                self.io.log.outcome(log, &running.peer, ended, now);
            }
            running.finished = Some(outcome);
        }
        // Nobody waits for a lane that would come too late.
        self.connections.give_up_adding(&mut self.io, session);
    }

    /// What carried a session of a daemon so far; of lanes on other workers those that are there
    /// now. Packets are those of QUIC, whose lanes are all here.
    fn lanes_of(&mut self, session: usize) -> SessionLanes {
        let Some(running) = self.sessions.get(session) else {
            return SessionLanes::default();
        };
        let mut lanes = running.carried;
        lanes.lanes += self.io.shared.homes.lanes_elsewhere(&running.id);
        for key in self.connections.keys_of(session) {
            if let Some(connection) = self.connections.get_mut(key) {
                connection.last_stats();
                lanes.add(connection.measured_path());
            }
        }
        lanes
    }

    /// A session has finished, and no lane is left.
    fn session_over(&mut self, session: usize) {
        let Some(mut running) = self.sessions.remove(session) else {
            return;
        };
        running.count_records(&self.io);
        self.io.lookups.want();
        match running.home {
            None => self.io.shared.homes.remove(&running.id),
            Some(_) => self.connections.give_up_adding(&mut self.io, session),
        }
        self.disk.abandon(session, running.serial);
        self.disk.share_among(self.sessions.len());
        match &mut self.client {
            Some(client) => client.session_ended(running.finished),
            None if self.sessions.is_empty() => self.io.trim_at = Some(self.io.now + TRIM_AFTER),
            None => {}
        }
    }
}

/// What of a session's events is counted. `verb`: of a daemon's session; what a command does it
/// tells its user.
fn count_event(io: &Loop, verb: Option<Verb>, event: &Event) {
    let verb = verb.map(|verb| match verb {
        Verb::Push => SessionVerb::Push,
        Verb::Pull => SessionVerb::Pull,
        Verb::List => SessionVerb::List,
        Verb::Queries => SessionVerb::Queries,
        Verb::Bench => SessionVerb::Bench,
    });
    if let (Event::Progress { bytes }, Some(verb)) = (event, verb) {
        io.numbers.add(Metric::FileBytes, [verb as usize], *bytes);
    }
}

/// How a session ended, and what became of its entries.
fn count_end(io: &Loop, outcome: &Outcome) {
    io.count(Metric::SessionsEnded, [end_of(outcome) as usize]);
    let (Outcome::Complete(totals)
    | Outcome::Cancelled { totals, .. }
    | Outcome::Stopped { totals, .. }
    | Outcome::Lost(totals)
    | Outcome::Stalled { totals, .. }) = outcome
    else {
        return;
    };
    for (end, entries) in [
        (
            EntryEnd::Done,
            totals.files + totals.directories + totals.symlinks,
        ),
        (EntryEnd::Skipped, totals.skipped),
        (EntryEnd::Failed, totals.errors),
    ] {
        io.numbers.add(Metric::Entries, [end as usize], entries);
    }
}

fn end_of(outcome: &Outcome) -> SessionEnd {
    match outcome {
        Outcome::Complete(_) => SessionEnd::Complete,
        Outcome::Cancelled { .. } => SessionEnd::Cancelled,
        Outcome::Stopped { .. } => SessionEnd::Stopped,
        Outcome::Lost(_) => SessionEnd::Lost,
        Outcome::Stalled { .. } => SessionEnd::Stalled,
        Outcome::Refused(_) | Outcome::CalledOff(_) => SessionEnd::Refused,
        Outcome::Violation(_) => SessionEnd::Violation,
    }
}
