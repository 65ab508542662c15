//! Which way brings more: the lane that carries control, or those that are added.
//!
//! The sender of data decides. What the transports take is counted in *windows*: stretches of time
//! in which something waited to be sent, so that a slow disk or a bandwidth limit says nothing. A
//! window in which both ways took something counts for neither, and neither does the one behind
//! it, in which queues fill.
//!
//! - One way is *settled* on. The other is *tried* after a pause, and soon when the settled one
//!   falls. The pause grows with each try that fails.
//! - A try is over when what it cost, against what the settled way brought before, is more than a
//!   small share of the pause, or when enough windows say which way is better. Where too little
//!   waits to tell, the added lanes are good enough, and the other is not needed unless it brings
//!   more all the same.
//! - Within [`NOISE_PERCENT`] both are the same, and the added lanes win: a byte costs them less
//!   CPU (docs/adr/0034).
//!
//! Nothing is concluded from round trips and losses: on a busy host those of loopback look bad.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// A window of [`super::LanesConfig::goodput_window`], usually. Some round trips of most paths, and
/// long enough that what is taken in bursts evens out.
pub const GOODPUT_WINDOW: Duration = Duration::from_millis(40);

/// So many windows one like the other are no accident, until one was: each verdict that the next
/// takes back makes it twice as many, up to [`FULL`].
const FEW: usize = 8;

/// After so many of which none is better, a try of a lane of the same kind is over.
const ALIKE_FEW: usize = 2;

/// So many windows are compared by their mean.
const FULL: usize = 16;

/// What brings so much of the other is as good, usually. Where both are TCP, neither path brings
/// more, and what a window says is how busy the hosts were: then [`ALIKE_PERCENT`].
const NOISE_PERCENT: u128 = 97;

/// The same of lanes of one kind: what throttles one and not the other does so to less.
const ALIKE_PERCENT: u128 = 50;

/// A way fell if it brings less than this part of what it or the other brought.
const FALL_PERCENT: u128 = 75;

/// The same, of the means of many windows.
const SLIDE_PERCENT: u128 = 90;

/// Pauses before a try, in windows: 4 s, four times as long each time, up to 64 s.
const FIRST_PAUSE: u32 = 100;
const PAUSE_GROWS: u32 = 4;
const LAST_PAUSE: u32 = 1600;

/// Before a try because the settled way fell, since the last try, in windows: 1 s, twice as long
/// each time that the other brings no more, up to 16 s.
const FIRST_GAP: u32 = 25;
const LAST_GAP: u32 = 400;

/// A try may cost so much of the pause before it, within these bounds, in windows: 40 ms to 640 ms.
const COST_SHARE: u32 = 64;
const LEAST_COST: u32 = 1;
const MOST_COST: u32 = 16;

/// A try ends undecided at last, in windows: 10 s. What the other way still holds may keep it from
/// telling anything.
const TRY_AT_MOST: u32 = 250;

/// Where data streams begin.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum DataWay {
    /// On the lane that carries control.
    Carrying,
    /// On one that is added.
    Added,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum ChoiceState {
    /// Next: Trying.
    Settled,
    /// The other way than the settled one is in use. Next: Settled.
    Trying(Try),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Try {
    began: Instant,
    /// What the settled way brought before.
    against: Rate,
    /// The settled way fell.
    for_a_fall: bool,
    busy: Duration,
    bytes: u64,
    idle: IdleWindows,
}

/// Of a try: the windows in which too little waited to be sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct IdleWindows {
    count: usize,
    time: Duration,
    bytes: u64,
}

/// Bytes per second.
type Rate = u128;

#[derive(Debug)]
pub(super) struct Choice {
    settled: DataWay,
    state: ChoiceState,
    pause: Duration,
    next_try: Option<Instant>,
    last_try: Option<Instant>,
    gap: Duration,
    /// The last windows of each way, in bytes per second.
    carrying: RateRecord,
    added: RateRecord,
    /// The most that the settled way brought since the last try.
    peak: Rate,
    /// So many windows are enough for a verdict now.
    few: usize,
    /// When the settled way became that in a try.
    since: Option<Instant>,
    window: Window,
    /// How long one is.
    length: Duration,
    /// The lane that carries control is of the kind that is added.
    is_alike: bool,
    /// What brings so much of the other is as good.
    same_percent: u128,
    /// What was in use when last looked at.
    used: DataWay,
    is_added_usable: bool,
}

#[derive(Debug, Default)]
struct RateRecord(VecDeque<Rate>);

#[derive(Debug)]
struct Window {
    began: Instant,
    seen: Instant,
    /// Something has waited since then.
    waits: bool,
    /// For so long something waited.
    busy: Duration,
    bytes: u64,
    /// Taken on the way that is not in use.
    other_bytes: u64,
    /// Queues fill in it.
    is_first: bool,
}

impl Choice {
    pub fn new(now: Instant, length: Duration, is_alike: bool) -> Choice {
        Choice {
            is_alike,
            same_percent: match is_alike {
                true => ALIKE_PERCENT,
                false => NOISE_PERCENT,
            },
            // The first added lane is used as soon as it is there.
            settled: DataWay::Added,
            state: ChoiceState::Settled,
            pause: length * FIRST_PAUSE,
            next_try: None,
            last_try: None,
            gap: length * FIRST_GAP,
            carrying: RateRecord::default(),
            added: RateRecord::default(),
            peak: 0,
            few: FEW,
            since: None,
            window: Window::new(now, true),
            length,
            used: DataWay::Carrying,
            is_added_usable: false,
        }
    }

    pub fn prefers_added(&self) -> bool {
        self.preferred() == DataWay::Added
    }

    fn preferred(&self) -> DataWay {
        match self.state {
            ChoiceState::Settled => self.settled,
            ChoiceState::Trying(_) => self.settled.other(),
        }
    }

    /// A transport took so much data.
    pub fn took(&mut self, way: DataWay, bytes: u64) {
        match way == self.used {
            true => self.window.bytes += bytes,
            false => self.window.other_bytes += bytes,
        }
    }

    /// When time alone is worth a look.
    pub fn deadline(&self) -> Option<Instant> {
        let is_running = self.window.waits && self.is_added_usable;
        let left = self.length.saturating_sub(self.window.busy);
        is_running.then(|| self.window.seen + left)
    }

    /// How things are now: whether an added lane takes streams, and for which way data waits.
    pub fn look(&mut self, now: Instant, is_added_usable: bool, waits: impl Fn(DataWay) -> bool) {
        self.pass_time(now);
        if self.is_added_usable && !is_added_usable {
            // Whatever was tried: it is over.
            self.state = ChoiceState::Settled;
        }
        if !self.is_added_usable && is_added_usable {
            self.note_a_short_window();
            self.next_try.get_or_insert(now + self.pause);
        }
        self.is_added_usable = is_added_usable;
        self.use_preferred(now);
        self.window.waits = waits(self.used);
    }

    fn use_preferred(&mut self, now: Instant) {
        let way = match self.is_added_usable {
            true => self.preferred(),
            false => DataWay::Carrying,
        };
        if way != self.used {
            let waits = self.window.waits;
            self.used = way;
            self.window = Window::new(now, true);
            self.window.waits = waits;
        }
    }

    fn pass_time(&mut self, now: Instant) {
        let is_slowed = self.is_slowed();
        let window = &mut self.window;
        if window.waits {
            window.busy += now.saturating_duration_since(window.seen);
        }
        window.seen = window.seen.max(now);
        if window.busy >= self.length {
            self.end_window(now);
        } else if now.saturating_duration_since(window.began) >= self.length * 2 && !is_slowed {
            self.end_idle_window(now);
        }
        if let ChoiceState::Trying(it) = self.state
            && now.saturating_duration_since(it.began) >= self.length * TRY_AT_MOST
        {
            self.settle(now, false);
        }
    }

    /// Carrying brought less than a window when the first lane was added: a hint of what it brings.
    fn note_a_short_window(&mut self) {
        let window = &self.window;
        if self.carrying.0.is_empty() && window.busy >= self.length / 20 {
            self.carrying.add(window.rate());
        }
    }

    fn end_window(&mut self, now: Instant) {
        let next = Window::new(now, self.window.other_bytes > 0);
        let window = std::mem::replace(&mut self.window, next);
        self.window.waits = window.waits;
        let is_clean = window.other_bytes == 0 && !window.is_first;
        if is_clean || self.is_above_already(&window) {
            self.record_mut(self.used).add(window.rate());
        }
        match self.state {
            ChoiceState::Trying(mut it) => {
                it.busy += window.busy;
                it.bytes += window.bytes + window.other_bytes;
                self.state = ChoiceState::Trying(it);
                self.judge(now, it);
            }
            ChoiceState::Settled if self.is_added_usable => self.consider(now),
            ChoiceState::Settled => {}
        }
        self.use_preferred(now);
    }

    /// Too little waited: a transport that takes what it gets says nothing of its path.
    fn end_idle_window(&mut self, now: Instant) {
        let next = Window::new(now, self.window.is_first);
        let window = std::mem::replace(&mut self.window, next);
        self.window.waits = window.waits;
        if window.bytes == 0 {
            // A source that stands still says nothing at all.
            return;
        }
        let ChoiceState::Trying(mut it) = self.state else {
            // What was better when more was to be sent costs more, and need not be now.
            if self.settled == DataWay::Carrying && self.is_added_usable && self.is_due(now) {
                self.begin_try(now, false);
                self.use_preferred(now);
            }
            return;
        };
        it.idle.count += 1;
        it.idle.time += now.saturating_duration_since(window.began);
        it.idle.bytes += window.bytes;
        self.state = ChoiceState::Trying(it);
        if it.idle.count >= self.few {
            // It takes all that there is, at the least CPU, and was not found too slow where there
            // was more; or it took more than the other did, and could take still more.
            let is_better = match self.used {
                DataWay::Added => {
                    it.busy.is_zero()
                        || !is_below(rate(it.bytes, it.busy), it.against, self.same_percent)
                }
                DataWay::Carrying => is_below(
                    it.against,
                    rate(it.idle.bytes, it.idle.time),
                    self.same_percent,
                ),
            };
            self.settle(now, is_better);
        }
    }

    /// In a try, what is left on the other way holds up what goes to this one.
    fn is_slowed(&self) -> bool {
        matches!(self.state, ChoiceState::Trying(_)) && self.window.other_bytes > 0
    }

    /// In a try: it brings more than the other did, though that still takes its share.
    fn is_above_already(&self, window: &Window) -> bool {
        match self.state {
            ChoiceState::Settled => false,
            ChoiceState::Trying(it) => {
                !it.busy.is_zero() && is_below(it.against, window.rate(), self.same_percent)
            }
        }
    }

    /// Whether the other way is to be tried.
    fn consider(&mut self, now: Instant) {
        let (record, other) = (self.record(self.used), self.record(self.used.other()));
        if record.0.len() < self.few {
            return;
        }
        let (mean, is_full) = (record.mean(), record.0.len() >= FULL);
        let least = self.peak.max(other.mean());
        let fell = record
            .recent(self.few)
            .all(|rate| is_below(rate, least, FALL_PERCENT));
        let slid = is_full && is_below(mean, other.mean(), SLIDE_PERCENT);
        // Nothing is known of the other yet.
        let is_new = self.last_try.is_none() && other.0.is_empty();
        let is_due = is_new || self.is_due(now);
        // What is of one kind on one path is no better for having waited.
        let is_due = is_due && (!self.is_alike || self.settled == DataWay::Carrying);
        let rests = self.last_try.is_some_and(|at| now < at + self.gap);
        if fell {
            let few = self.few;
            // What was before says nothing of what is now.
            self.record_mut(self.used).keep_recent(few);
        } else if is_full {
            self.peak = self.peak.max(mean);
        }
        if is_due {
            self.gap = self.length * FIRST_GAP;
        }
        if is_due || (fell || slid) && !rests {
            self.begin_try(now, !is_due);
        }
    }

    fn is_due(&self, now: Instant) -> bool {
        self.next_try.is_some_and(|at| at <= now)
    }

    fn begin_try(&mut self, now: Instant, for_a_fall: bool) {
        let against = self.record(self.used).mean();
        self.record_mut(self.used.other()).0.clear();
        self.state = ChoiceState::Trying(Try {
            began: now,
            against,
            for_a_fall,
            busy: Duration::ZERO,
            bytes: 0,
            idle: IdleWindows::default(),
        });
    }

    fn judge(&mut self, now: Instant, it: Try) {
        let (tried, settled) = (self.record(self.used), self.record(self.used.other()));
        let count = tried.0.len();
        let few = self.few;
        let is_above = |rate| {
            settled
                .recent(few)
                .all(|known| is_below(known, rate, self.same_percent))
        };
        if count >= few && tried.recent(few).all(is_above) {
            return self.settle(now, true);
        }
        // Where there is a difference between lanes of one kind, it is plain.
        let is_of_a_kind = self.is_alike && self.used == DataWay::Carrying;
        if is_of_a_kind && count >= ALIKE_FEW && !tried.recent(count).any(is_above) {
            return self.settle(now, false);
        }
        let window = self.length;
        let most = (self.pause / COST_SHARE).clamp(window * LEAST_COST, window * MOST_COST);
        let due_bytes = bytes_in(it.against, it.busy);
        if due_bytes.saturating_sub(u128::from(it.bytes)) > bytes_in(it.against, most) {
            return self.settle(now, false);
        }
        if count >= FULL {
            let is_better = match self.used {
                DataWay::Added => !is_below(tried.mean(), it.against, self.same_percent),
                DataWay::Carrying => is_below(it.against, tried.mean(), self.same_percent),
            };
            self.settle(now, is_better);
        }
    }

    /// A try is over.
    fn settle(&mut self, now: Instant, is_better: bool) {
        let ChoiceState::Trying(it) = self.state else {
            return;
        };
        self.state = ChoiceState::Settled;
        if is_better {
            self.learn_patience(now);
            self.settled = self.settled.other();
            self.pause = self.length * FIRST_PAUSE;
            self.gap = self.length * FIRST_GAP;
        } else {
            let tried = self.record_mut(self.settled.other());
            if tried.0.is_empty() && !it.busy.is_zero() {
                tried.add(rate(it.bytes, it.busy));
            }
            self.pause = (self.pause * PAUSE_GROWS).min(self.length * LAST_PAUSE);
            if it.for_a_fall {
                self.gap = (self.gap * 2).min(self.length * LAST_GAP);
            }
        }
        self.peak = self.record(self.settled).mean();
        (self.last_try, self.next_try) = (Some(now), Some(now + self.pause));
        self.use_preferred(now);
    }

    /// A verdict that did not last was an accident.
    fn learn_patience(&mut self, now: Instant) {
        let lasted = self.since.map(|since| now.saturating_duration_since(since));
        self.few = match lasted {
            Some(lasted) if lasted < self.length * LAST_PAUSE => (self.few * 2).min(FULL),
            Some(_) | None => FEW,
        };
        self.since = Some(now);
    }

    fn record(&self, way: DataWay) -> &RateRecord {
        match way {
            DataWay::Carrying => &self.carrying,
            DataWay::Added => &self.added,
        }
    }

    fn record_mut(&mut self, way: DataWay) -> &mut RateRecord {
        match way {
            DataWay::Carrying => &mut self.carrying,
            DataWay::Added => &mut self.added,
        }
    }
}

impl DataWay {
    fn other(self) -> DataWay {
        match self {
            DataWay::Carrying => DataWay::Added,
            DataWay::Added => DataWay::Carrying,
        }
    }
}

impl RateRecord {
    fn add(&mut self, rate: Rate) {
        self.0.push_back(rate);
        if self.0.len() > FULL {
            self.0.pop_front();
        }
    }

    fn mean(&self) -> Rate {
        self.0.iter().sum::<Rate>() / (self.0.len() as Rate).max(1)
    }

    fn recent(&self, few: usize) -> impl Iterator<Item = Rate> {
        self.0.iter().rev().take(few).copied()
    }

    fn keep_recent(&mut self, few: usize) {
        let older = self.0.len().saturating_sub(few);
        self.0.drain(..older);
    }
}

impl Window {
    fn new(now: Instant, is_first: bool) -> Window {
        Window {
            began: now,
            seen: now,
            waits: false,
            busy: Duration::ZERO,
            bytes: 0,
            other_bytes: 0,
            is_first,
        }
    }

    fn rate(&self) -> Rate {
        rate(self.bytes, self.busy)
    }
}

fn is_below(rate: Rate, other: Rate, percent: u128) -> bool {
    rate * 100 < other * percent
}

fn rate(bytes: u64, busy: Duration) -> Rate {
    u128::from(bytes) * 1_000_000_000 / busy.as_nanos().max(1)
}

fn bytes_in(rate: Rate, time: Duration) -> u128 {
    rate * time.as_nanos() / 1_000_000_000
}

#[cfg(test)]
mod tests;
