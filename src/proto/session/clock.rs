//! What time changes in a session: it gives up, is given up, says that it works, or rests.

use std::time::{Duration, Instant};

use super::{End, Outcome, Session, Stage};
use crate::proto::errors::{HostSide, Violation, stalled, violation};
use crate::proto::query::QueryRequest;
use crate::proto::wire::Message;
use crate::proto::{SessionError, SessionErrorCode};

impl Session {
    pub(super) fn on_tick(&mut self, now: Instant) -> Result<(), Violation> {
        match &self.stage {
            Stage::AwaitHello { until, .. } if now >= *until => {
                return violation("no request within 10 s");
            }
            Stage::AwaitHello { .. } => return Ok(()),
            Stage::Placing { .. } | Stage::AwaitWelcome { .. } | Stage::Running => {}
        }
        if !matches!(self.end, End::No) {
            return Ok(());
        }
        self.watch.looked(now);
        let is_running = matches!(self.stage, Stage::Running);
        if is_running {
            self.role.on_tick(now, &mut self.ports);
        }
        if self.role.gives_up_at().is_some_and(|at| now >= at) {
            self.finish(Outcome::Lost(self.totals()));
        } else if let Some(since) = self.watch.stalled_since(now, self.disk_under_way()) {
            match is_running && self.role.rests() {
                true => self.rest(now),
                false => self.stall(now - since),
            }
        } else {
            self.sign_work(now);
        }
        Ok(())
    }

    /// Client: another query, or none any more.
    pub(super) fn on_ask(&mut self, now: Instant, ask: QueryRequest) {
        if self.role.rests() {
            // What is asked now has had no time to be answered.
            self.watch.rest(now);
        }
        self.role.ask(now, &mut self.ports, ask);
    }

    /// Nothing was asked for long: a client may ask yet, a server waits no longer.
    fn rest(&mut self, now: Instant) {
        match self.client {
            true => self.watch.rest(now),
            false => {
                self.ports.message(&Message::Finished {});
                self.finish(Outcome::Complete(self.totals()));
            }
        }
    }

    /// Says that there is work of which nothing travels, if that is due.
    pub(super) fn sign_work(&mut self, now: Instant) {
        if self.may_speak()
            && let Some(finished) = self.watch.due_sign(now)
        {
            self.ports.message(&Message::Working { finished });
            self.watch.said(now);
        }
    }

    /// Nothing was got on with for so long: tells the peer what was waited for.
    fn stall(&mut self, silence: Duration) {
        let of_disk = self.disk_under_way() > 0;
        // Who waits for its own disk is at fault itself, else the other side.
        let at_client = self.client == of_disk;
        let host = HostSide::of(at_client, self.limits.carriage);
        let about = self.role.awaited(of_disk);
        let text = stalled(host, of_disk, about.as_deref(), silence);
        if !matches!(self.stage, Stage::Placing { .. }) || !self.client {
            self.role.flush(&mut self.ports);
            let error = SessionError::told(SessionErrorCode::Stalled, text.clone());
            self.ports.message(&Message::Error(error));
        }
        let totals = self.totals();
        self.finish(Outcome::Stalled { totals, text });
    }
}
