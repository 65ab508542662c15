//! Which of a peer's addresses is dialled when: the next soon after one that does not answer, and
//! the first that answers is taken (RFC 8305, "happy eyeballs").

use std::time::{Duration, Instant};

use super::paths::Path;

/// How long one address has before the next is dialled beside it (RFC 8305 §8).
const NEXT_AFTER: Duration = Duration::from_millis(250);

/// Addresses dialled at a time. One that has had 4 s, time for three first packets on a long path,
/// gives way to the next.
const MAX_DIALLED: usize = 16;

/// All addresses are dialled in turn again until so long after the first dial, if all that keeps
/// them from answering is ICMP: a daemon that is being started anew is missed for a moment only.
pub(crate) const DIAL_FOR: Duration = Duration::from_millis(600);

/// How soon all are dialled again: what the kernel refuses at once would otherwise be tried without
/// a pause.
const ROUND: Duration = Duration::from_millis(150);

/// Addresses that are named where none answered.
const MAX_NAMED: usize = 8;

/// A peer's addresses, and what became of those that were dialled.
pub(crate) struct Addresses {
    all: Vec<Path>,
    next: usize,
    /// Being dialled, the first of them for longest.
    dialled: Vec<Path>,
    next_at: Option<Instant>,
    /// Before that nothing is dialled.
    begins_at: Instant,
    /// When the last round began, and until when there are rounds.
    round_at: Instant,
    dial_until: Instant,
    /// ICMP kept one from answering since they were last dialled from the first.
    was_refused: bool,
    /// What each that failed said last.
    errors: Vec<(Path, String)>,
}

/// What to do about addresses.
#[derive(PartialEq, Eq, Debug)]
pub(crate) enum AddressStep {
    Dial(Path),
    /// This one has had its time, and another is to be dialled.
    GiveUp(Path),
    /// Those that are dialled may answer yet.
    Wait,
    /// None answered, and this is what each said.
    Failed(String),
}

impl Addresses {
    /// In the order of preference that the resolver gave them, but the two families by turns; the
    /// first is dialled at `begins_at`.
    pub(crate) fn new(all: Vec<Path>, begins_at: Instant) -> Addresses {
        Addresses {
            all: by_turns(all),
            next: 0,
            dialled: Vec::new(),
            next_at: Some(begins_at),
            begins_at,
            round_at: begins_at,
            dial_until: begins_at + DIAL_FOR,
            was_refused: false,
            errors: Vec::new(),
        }
    }

    /// When the next is dialled although nothing happened.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.next_at
    }

    /// The first is dialled now. False: it was before.
    pub(crate) fn hurry(&mut self, now: Instant) -> bool {
        let hurries = now < self.begins_at;
        if hurries {
            (self.begins_at, self.round_at) = (now, now);
            self.next_at = self.next_at.map(|_| now);
        }
        hurries
    }

    /// What to do now; to be asked until it says to wait.
    pub(crate) fn step(&mut self, now: Instant) -> AddressStep {
        if now < self.begins_at {
            return AddressStep::Wait;
        }
        if self.dialled.is_empty() {
            // Only what somebody refused: what fails here would fail for ever.
            if self.next == self.all.len() && self.was_refused && now < self.dial_until {
                let round_at = self.round_at + ROUND;
                if now < round_at {
                    self.next_at = Some(round_at);
                    return AddressStep::Wait;
                }
                (self.next, self.was_refused, self.round_at) = (0, false, now);
            }
            if self.next == self.all.len() {
                self.next_at = None;
                return AddressStep::Failed(self.in_words());
            }
            self.next_at = Some(now);
        }
        if self.next_at.is_none_or(|at| at > now) {
            return AddressStep::Wait;
        }
        if let Some(first) = self.dialled.first()
            && self.dialled.len() >= MAX_DIALLED
        {
            return AddressStep::GiveUp(*first);
        }
        let address = self.all[self.next];
        self.next += 1;
        self.dialled.push(address);
        self.next_at = (self.next < self.all.len()).then_some(now + NEXT_AFTER);
        AddressStep::Dial(address)
    }

    /// One does not answer; the next need not wait. `by_icmp`: the peer's host, or somebody on the
    /// way, says so.
    pub(crate) fn failed(&mut self, now: Instant, address: Path, why: String, by_icmp: bool) {
        let Some(at) = self.dialled.iter().position(|other| *other == address) else {
            return;
        };
        self.dialled.remove(at);
        self.was_refused |= by_icmp;
        self.errors.retain(|(other, _)| *other != address);
        self.errors.push((address, why));
        self.next_at = self.next_at.map(|_| now);
    }

    fn in_words(&self) -> String {
        if self.errors.is_empty() {
            return "because it has no address".to_owned();
        }
        let named = self.errors.iter().take(MAX_NAMED);
        let mut words: Vec<String> = named
            .map(|(at, why)| format!("{why} ({})", at.peer))
            .collect();
        if let Some(more) = self.errors.len().checked_sub(MAX_NAMED).filter(|n| *n > 0) {
            let addresses = if more == 1 { "address" } else { "addresses" };
            words.push(format!("and {more} more {addresses}"));
        }
        words.join(", ")
    }
}

/// Those of the other family than the first between its own (RFC 8305 §4): where one family leads
/// nowhere, all of its addresses do.
fn by_turns(all: Vec<Path>) -> Vec<Path> {
    let first_is_v4 = all.first().is_some_and(|path| path.peer.is_ipv4());
    let (mut own, mut other) = (Vec::new(), Vec::new());
    for address in all {
        let family = match address.peer.is_ipv4() == first_is_v4 {
            true => &mut own,
            false => &mut other,
        };
        if !family.contains(&address) {
            family.push(address);
        }
    }
    let mut other = other.into_iter();
    let mut turns: Vec<Path> = Vec::new();
    for address in own {
        turns.push(address);
        turns.extend(other.next());
    }
    turns.extend(other);
    turns
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    fn v4(last: u8) -> Path {
        Path::to(SocketAddr::from(([198, 18, 0, last], 4433)))
    }

    fn v6(last: u16) -> Path {
        Path::to(SocketAddr::from(([0xfd00, 0, 0, 0, 0, 0, 0, last], 4433)))
    }

    fn many(count: u8) -> (Addresses, Instant) {
        let now = crate::worker::now();
        (Addresses::new((0..count).map(v4).collect(), now), now)
    }

    #[test]
    fn families_take_turns() {
        let all = vec![v6(1), v6(2), v6(3), v4(1), v6(1)];
        assert_eq!(by_turns(all), [v6(1), v4(1), v6(2), v6(3)]);
        assert_eq!(by_turns(vec![v4(1), v6(1), v6(2)]), [v4(1), v6(1), v6(2)]);
    }

    #[test]
    fn the_next_is_dialled_soon_and_at_once_after_a_failure() {
        let (mut it, now) = many(3);
        assert_eq!(it.step(now), AddressStep::Dial(v4(0)));
        assert_eq!(it.step(now), AddressStep::Wait);
        assert_eq!(it.due(), Some(now + NEXT_AFTER));
        assert_eq!(it.step(now + NEXT_AFTER), AddressStep::Dial(v4(1)));
        it.failed(now + NEXT_AFTER, v4(0), "closed".into(), false);
        assert_eq!(it.step(now + NEXT_AFTER), AddressStep::Dial(v4(2)));
        assert_eq!(
            (it.step(now + NEXT_AFTER * 9), it.due()),
            (AddressStep::Wait, None)
        );
        it.failed(now, v4(2), "silent".into(), false);
        it.failed(now, v4(1), "silent".into(), false);
        let all = "closed (198.18.0.0:4433), silent (198.18.0.2:4433), silent (198.18.0.1:4433)";
        assert_eq!(it.step(now), AddressStep::Failed(all.to_owned()));
    }

    #[test]
    fn of_many_only_so_many_are_dialled_at_a_time() {
        let (mut it, mut now) = many(40);
        for number in 0..40 {
            let mut step = it.step(now);
            if let AddressStep::GiveUp(address) = step {
                assert_eq!(address, v4(number - MAX_DIALLED as u8));
                it.failed(now, address, "silent".into(), false);
                step = it.step(now);
            }
            assert_eq!(step, AddressStep::Dial(v4(number)));
            assert!(it.dialled.len() <= MAX_DIALLED);
            now += NEXT_AFTER;
        }
        assert_eq!(it.step(now), AddressStep::Wait);
    }

    #[test]
    fn what_icmp_refuses_is_dialled_again_for_a_while() {
        let (mut it, now) = many(1);
        assert_eq!(it.step(now), AddressStep::Dial(v4(0)));
        it.failed(now, v4(0), "closed".into(), true);
        let later = now + DIAL_FOR / 2;
        assert_eq!(it.step(later), AddressStep::Dial(v4(0)));
        it.failed(later, v4(0), "closed".into(), true);
        let failed = AddressStep::Failed("closed (198.18.0.0:4433)".to_owned());
        assert_eq!(it.step(now + DIAL_FOR), failed);
    }

    #[test]
    fn no_address_is_a_failure() {
        let (mut it, now) = many(0);
        let failed = AddressStep::Failed("because it has no address".to_owned());
        assert_eq!(it.step(now), failed);
    }
}
