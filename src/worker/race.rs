//! Which kind of lane a session begins on: QUIC is dialled first, TLS soon after it, and who
//! answers first is taken.
//!
//! A firewall that drops UDP says nothing, so silence is all there is to go by. Each kind goes
//! through the addresses by itself (`addresses.rs`).

use std::time::{Duration, Instant};

use super::addresses::{AddressStep, Addresses};
use super::paths::Path;
use crate::config::{LaneKind, LaneKinds};

/// What QUIC has before TLS is dialled beside it, as much as one address has before the next. An
/// answer takes one round trip, and the longest on Earth is about that.
const TLS_AFTER: Duration = Duration::from_millis(250);

const SILENT: &str = "UDP did not answer in 250 ms";
const REFUSED: &str = "UDP is refused there";
const ASKED_FOR: &str = "asked for";
const FIRST: &str = "UDP answered";

/// A daemon's addresses, and who is dialled there.
pub(crate) struct Race {
    quic: Option<Runner>,
    tls: Option<Runner>,
    /// Why TLS was dialled, or would be.
    why_tls: &'static str,
}

/// One kind.
struct Runner {
    addresses: Addresses,
    /// Why there is no hope any more.
    failed: Option<String>,
}

/// What to do next.
#[derive(PartialEq, Eq, Debug)]
pub(crate) enum RaceStep {
    Dial(LaneKind, Path),
    /// This one has had its time, and another is to be dialled.
    GiveUp(LaneKind, Path),
    /// Those that are dialled may answer yet.
    Wait,
    /// None answered, and this is what each said.
    Failed(String),
}

impl Race {
    pub(crate) fn new(all: &[Path], kinds: LaneKinds, now: Instant) -> Race {
        let runner = |kind, begins_at| {
            kinds.has(kind).then(|| Runner {
                addresses: Addresses::new(all.to_vec(), begins_at),
                failed: None,
            })
        };
        let quic = runner(LaneKind::Quic, now);
        let (tls_at, why_tls) = match quic {
            Some(_) => (now + TLS_AFTER, SILENT),
            None => (now, ASKED_FOR),
        };
        Race {
            quic,
            tls: runner(LaneKind::Tls, tls_at),
            why_tls,
        }
    }

    /// When the next address is dialled although nothing happened.
    pub(crate) fn due(&self) -> Option<Instant> {
        let running = [&self.quic, &self.tls].into_iter().flatten();
        let running = running.filter(|runner| runner.failed.is_none());
        running.filter_map(|runner| runner.addresses.due()).min()
    }

    /// What to do now; to be asked until it says to wait.
    pub(crate) fn step(&mut self, now: Instant) -> RaceStep {
        for kind in [LaneKind::Quic, LaneKind::Tls] {
            let Some(runner) = self.runner(kind).filter(|it| it.failed.is_none()) else {
                continue;
            };
            match runner.addresses.step(now) {
                AddressStep::Dial(address) => return RaceStep::Dial(kind, address),
                AddressStep::GiveUp(address) => return RaceStep::GiveUp(kind, address),
                AddressStep::Wait => {}
                AddressStep::Failed(why) => {
                    runner.failed = Some(why);
                    if kind == LaneKind::Quic {
                        self.udp_refused(now);
                    }
                }
            }
        }
        match self.in_words() {
            Some(why) => RaceStep::Failed(why),
            None => RaceStep::Wait,
        }
    }

    /// One does not answer; the next need not wait. `refused`: the peer's host, or somebody on the
    /// way, says so.
    pub(crate) fn failed(
        &mut self,
        now: Instant,
        (kind, address): (LaneKind, Path),
        why: String,
        refused: bool,
    ) {
        if let Some(runner) = self.runner(kind) {
            runner.addresses.failed(now, address, why, refused);
        }
        if kind == LaneKind::Quic && refused {
            self.udp_refused(now);
        }
    }

    /// Somebody says that UDP goes nowhere: TLS need not wait.
    pub(crate) fn udp_refused(&mut self, now: Instant) {
        if let (Some(tls), Some(_)) = (&mut self.tls, &self.quic)
            && tls.addresses.hurry(now)
        {
            self.why_tls = REFUSED;
        }
    }

    /// Why the session begins on this kind.
    pub(crate) fn why(&self, kind: LaneKind) -> &'static str {
        match (kind, &self.tls) {
            (LaneKind::Tls | LaneKind::Clear, _) => self.why_tls,
            (LaneKind::Quic, Some(_)) => FIRST,
            (LaneKind::Quic, None) => ASKED_FOR,
        }
    }

    /// QUIC may be answered yet.
    pub(crate) fn hopes_for_quic(&self) -> bool {
        let quic = self.quic.as_ref();
        quic.is_some_and(|runner| runner.failed.is_none())
    }

    fn runner(&mut self, kind: LaneKind) -> Option<&mut Runner> {
        match kind {
            LaneKind::Quic => self.quic.as_mut(),
            LaneKind::Tls => self.tls.as_mut(),
            LaneKind::Clear => None,
        }
    }

    /// What everybody said, once there is no hope.
    fn in_words(&self) -> Option<String> {
        let words = |runner: &Option<Runner>| match runner {
            Some(runner) => runner.failed.clone().map(Some),
            None => Some(None),
        };
        match (words(&self.quic)?, words(&self.tls)?) {
            (Some(quic), Some(tls)) => Some(format!("{quic}, nor over TCP, {tls}")),
            (Some(only), None) | (None, Some(only)) => Some(only),
            (None, None) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDRESS: &str = "198.18.0.1:4433";

    fn race(kinds: LaneKinds) -> (Race, Instant, Path) {
        let (now, address) = (crate::worker::now(), Path::to(ADDRESS.parse().unwrap()));
        (Race::new(&[address], kinds, now), now, address)
    }

    #[test]
    fn tls_follows_where_quic_is_silent() {
        let (mut race, now, address) = race(LaneKinds::Both);
        let quic = RaceStep::Dial(LaneKind::Quic, address);
        let tls = RaceStep::Dial(LaneKind::Tls, address);
        assert_eq!(race.step(now), quic);
        assert_eq!(race.step(now), RaceStep::Wait);
        assert_eq!(race.due(), Some(now + TLS_AFTER));
        assert_eq!(race.step(now + TLS_AFTER), tls);
        assert_eq!(race.step(now + TLS_AFTER), RaceStep::Wait);
        assert_eq!(race.why(LaneKind::Tls), SILENT);
    }

    #[test]
    fn tls_does_not_wait_where_udp_is_refused() {
        let (mut race, now, address) = race(LaneKinds::Both);
        race.step(now);
        race.udp_refused(now);
        assert_eq!(race.step(now), RaceStep::Dial(LaneKind::Tls, address));
        assert_eq!(race.why(LaneKind::Tls), REFUSED);
    }

    #[test]
    fn it_fails_when_both_have() {
        let (mut race, now, address) = race(LaneKinds::Both);
        race.step(now);
        race.failed(now, (LaneKind::Quic, address), "silent".to_owned(), false);
        assert_eq!(race.step(now), RaceStep::Dial(LaneKind::Tls, address));
        assert_eq!(race.step(now), RaceStep::Wait);
        race.failed(now, (LaneKind::Tls, address), "closed".to_owned(), false);
        let words = format!("silent ({ADDRESS}), nor over TCP, closed ({ADDRESS})");
        assert_eq!(race.step(now), RaceStep::Failed(words));
    }

    #[test]
    fn one_kind_runs_alone() {
        for kind in [LaneKind::Quic, LaneKind::Tls] {
            let (mut race, now, address) = race(LaneKinds::Only(kind));
            assert_eq!(race.step(now), RaceStep::Dial(kind, address));
            assert_eq!(race.step(now + TLS_AFTER), RaceStep::Wait);
            assert_eq!(race.why(kind), ASKED_FOR);
            race.failed(now, (kind, address), "no".to_owned(), false);
            let words = format!("no ({ADDRESS})");
            assert_eq!(race.step(now), RaceStep::Failed(words));
        }
    }
}
