//! A path in whole windows: what is held back, by how much, and for how long.

use std::time::{Duration, Instant};

use super::crowd::{CROWD_CWND_BYTES, CROWD_MIN_RTT, FUTILE_WINDOWS};
use super::long_path::{LONG_PATH_AHEAD, LONG_PATH_BURST, burst_of};
use super::overflow::Measured;
use super::rate::SLOW_PATH_BURST_MAX;
use super::short_queue::WINDOW_PACKETS;
use super::term::{DESERTED_AFTER_SHARE, KEPT_FIRST, KEPT_MAX};
use super::window::WINDOWS;
use super::*;
use crate::config::{FixedRate, PACING_MIN_RTT, QuicConfig};

/// A path that carries 100 MB/s, in whole windows of packets of 1,000 bytes.
struct Path {
    now: Instant,
    numbers: PathSnapshot,
    pace: Pace,
    on_link: bool,
}

impl Path {
    fn new(min_rtt: Duration) -> Path {
        let mut path = Path {
            now: crate::quic::tests::now(),
            numbers: PathSnapshot {
                min_rtt: Some(min_rtt),
                delivery_bytes_per_second: 100_000_000,
                ..PathSnapshot::default()
            },
            pace: Pace::new(true, None),
            on_link: true,
        };
        path.observe();
        path
    }

    fn observe(&mut self) {
        let acked_bytes = self.numbers.sent_bytes - self.numbers.lost_bytes;
        self.pace
            .observe(self.now, &self.numbers, || acked_bytes, || self.on_link);
    }

    fn window(&mut self, lost: u64) {
        let numbers = &mut self.numbers;
        numbers.sent_packets += WINDOW_PACKETS;
        numbers.lost_packets += lost;
        numbers.sent_bytes += WINDOW_PACKETS * 1_000;
        numbers.lost_bytes += lost * 1_000;
        self.now += Duration::from_micros((WINDOW_PACKETS - lost) * 10);
        self.observe();
    }

    fn rate(&self) -> u64 {
        let measured = self.measured().as_ref().unwrap();
        measured.bytes_per_second().unwrap()
    }

    fn measured(&self) -> &Option<Measured> {
        let measured = &self.pace.queues.as_ref().unwrap().measured;
        assert_eq!(measured.is_some(), self.pace.held.is_some());
        measured
    }

    /// Bytes per second that leave while there is always something to send.
    fn kept_bytes_per_second(&mut self) -> Option<u64> {
        let (start, end) = (self.now, self.now + Duration::from_millis(100));
        let mut bytes = 0;
        while self.now < end {
            match self.pace.release_time(self.now, || None) {
                Some(at) => self.now = at,
                None if bytes > 1 << 30 => return None,
                None => {
                    self.pace.sent(self.now, 1_000);
                    bytes += 1_000;
                }
            }
        }
        Some(bytes * 1_000 / (self.now - start).as_millis() as u64)
    }
}

#[test]
fn a_clean_lan_and_one_with_random_loss_are_not_held_back() {
    let mut path = Path::new(Duration::from_micros(200));
    for window in 0..1_000 {
        path.window([0, 5, 9, 14][window % 4]);
        assert_eq!(path.pace.release_time(path.now, || unreachable!()), None);
        assert_eq!(path.pace.max_segments(), MAX_SEGMENTS);
    }
}

#[test]
fn a_long_path_asks_bbr() {
    let path = Path::new(PACING_MIN_RTT);
    let late = path.now + Duration::from_millis(5);
    assert_eq!(
        path.pace.release_time(path.now, || Some(late)),
        Some(late - LONG_PATH_AHEAD)
    );
    assert_eq!(path.pace.release_time(path.now, || Some(path.now)), None);
}

#[test]
fn slow_paths_send_several_packets_at_a_time() {
    let burst = |delivery_bytes_per_second| {
        burst_of(&PathView {
            delivery_bytes_per_second,
            ..PathView::default()
        })
    };
    assert_eq!(burst(60_000_000), LONG_PATH_BURST);
    assert_eq!(burst(2_000_000), Duration::from_millis(6));
    assert_eq!(burst(0), SLOW_PATH_BURST_MAX);
}

#[test]
fn late_timers_do_not_slow_a_long_path_down() {
    let path = Path::new(PACING_MIN_RTT);
    let start = path.now;
    let packet_time = Duration::from_micros(24); // 500 Mbit/s
    let (mut now, mut release, mut wakes) = (start, start, 0);
    for packet in 1..100_000u32 {
        // As quiche counts: from when the packet really left if that is later.
        release = release.max(now) + packet_time;
        if let Some(at) = path.pace.release_time(now, || Some(release)) {
            assert!(at - now >= LONG_PATH_BURST, "timers are coarse");
            now = at + LONG_PATH_AHEAD * (packet % 3) / 2;
            wakes += 1;
        }
        assert!(release - now <= LONG_PATH_AHEAD + LONG_PATH_BURST + packet_time);
        assert_eq!(release, start + packet_time * packet, "time was lost");
    }
    assert!(wakes > 800);
}

#[test]
fn an_overflowing_queue_gets_a_little_less_than_it_carries() {
    let mut path = Path::new(Duration::from_micros(200));
    path.window(0);
    path.window(100);
    assert_eq!(path.pace.max_segments(), SHORT_QUEUE_SEGMENTS);
    let kept = path.kept_bytes_per_second().unwrap();
    assert!((97_000_000..99_000_000).contains(&kept), "{kept}");
    path.window(100); // lost before it was held back
    path.window(10); // as much as the path carries already
    path.window(10);
    let lower = path.kept_bytes_per_second().unwrap();
    assert!((95_000_000..97_000_000).contains(&lower), "{lower}");
    for _ in 0..100 {
        path.window(0);
    }
    let regained = path.kept_bytes_per_second().unwrap();
    assert!((97_000_000..99_000_000).contains(&regained), "{regained}");
    for _ in 0..100 {
        path.window(10);
    }
    assert!(
        path.kept_bytes_per_second()
            .is_none_or(|kept| kept >= 59_000_000),
        "there is a floor"
    );
}

/// While another lane carries the bulk next to nothing is sent, which says nothing of the path.
#[test]
fn a_pause_is_no_part_of_a_window() {
    let mut path = Path::new(Duration::from_micros(200));
    for pause_ms in [0, 15, 500] {
        let mut send = |packets: u64, time: Duration| {
            path.numbers.sent_packets += packets;
            path.numbers.sent_bytes += packets * 1_000;
            path.now += time;
            path.observe();
        };
        send(WINDOW_PACKETS / 2, Duration::from_millis(2));
        for _ in 0..pause_ms / 10 {
            send(1, Duration::from_millis(10));
        }
        send(1, Duration::from_millis(pause_ms));
    }
    path.window(100);
    path.window(100);
    assert!(path.rate() > 90_000_000, "{}", path.rate());
}

#[test]
fn a_rate_measured_while_starting_rises_to_what_the_path_carries() {
    let mut path = Path::new(Duration::from_micros(200));
    path.now += Duration::from_millis(10); // slow to start: a third of what the path carries
    path.window(100);
    path.window(100);
    assert!(path.rate() < 40_000_000, "{}", path.rate());
    let mut windows = 0;
    while path.rate() < 100_000_000 {
        path.window(0);
        windows += 1;
    }
    assert!(windows < 15, "{windows}");
    path.window(60);
    assert!(
        (97_000_000..100_000_000).contains(&path.rate()),
        "{}",
        path.rate()
    );
}

#[test]
fn a_search_that_meets_no_loss_ends() {
    let mut path = Path::new(Duration::from_micros(200));
    path.window(100);
    path.pace
        .queues
        .as_mut()
        .unwrap()
        .measured
        .as_mut()
        .unwrap()
        .term
        .until += KEPT_MAX;
    for _ in 0..10_000 {
        path.window(0);
    }
    assert!(
        (200_000_000..230_000_000).contains(&path.rate()),
        "{}",
        path.rate()
    );
}

#[test]
fn the_last_of_a_crowd_is_not_held_back_to_its_share() {
    let mut path = Path::new(Duration::from_micros(200));
    path.numbers.rtt = Duration::from_millis(10);
    path.window(100);
    assert!(path.measured().is_some());
    path.numbers.rtt = Duration::from_micros(300);
    path.now += KEPT_FIRST / DESERTED_AFTER_SHARE - Duration::from_millis(1);
    path.observe();
    assert!(
        path.measured().is_some(),
        "a short queue that is not overrun looks the same at first"
    );
    path.now += Duration::from_millis(1);
    path.observe();
    assert!(path.measured().is_none());
}

#[test]
fn a_crowd_that_is_still_there_and_a_short_queue_are_no_deserted_ones() {
    for (overflowing, later) in [(10_000, 9_000), (700, 100)] {
        let mut path = Path::new(Duration::from_micros(100));
        path.numbers.rtt = Duration::from_micros(overflowing);
        path.window(100);
        path.numbers.rtt = Duration::from_micros(later);
        path.now += KEPT_FIRST - Duration::from_millis(1);
        path.observe();
        assert!(path.measured().is_some(), "{overflowing} µs, then {later}");
    }
}

#[test]
fn a_crowd_is_held_back_to_its_last_window_also_on_a_long_path() {
    for min_rtt in [Duration::from_micros(200), Duration::from_millis(9)] {
        let mut path = Path::new(min_rtt);
        path.window(0); // alone at first: 100 MB/s
        path.numbers.rtt = Duration::from_millis(10);
        path.numbers.cwnd_bytes = CROWD_CWND_BYTES - 1;
        path.now += Duration::from_millis(400);
        path.window(26);
        assert!(
            (1_000_000..1_300_000).contains(&path.rate()),
            "{min_rtt:?}: {}",
            path.rate()
        );
        // What leaves at once does so whole, and all of it again when the next packet is due.
        let mut sent = 0;
        while path
            .pace
            .release_time(path.now, || unreachable!())
            .is_none()
        {
            path.pace.sent(path.now, 1_000);
            sent += 1;
        }
        assert!((10..=13).contains(&sent), "{sent}");
        path.now += Duration::from_millis(2);
        assert!(
            path.pace
                .release_time(path.now, || unreachable!())
                .is_some(),
            "none is due yet"
        );
    }
}

#[test]
fn only_many_on_one_wire_are_a_crowd() {
    let wire = Duration::from_millis(10);
    let cases = [
        (true, wire, CROWD_CWND_BYTES - 1, true),
        (true, wire, CROWD_CWND_BYTES, false),
        (true, CROWD_MIN_RTT, CROWD_CWND_BYTES - 1, false),
        (false, wire, CROWD_CWND_BYTES - 1, false),
    ];
    for (on_link, min_rtt, cwnd_bytes, held_back) in cases {
        let mut path = Path::new(min_rtt);
        path.on_link = on_link;
        path.numbers.rtt = min_rtt;
        path.numbers.cwnd_bytes = cwnd_bytes;
        path.window(200);
        assert_eq!(
            path.measured().is_some(),
            held_back,
            "{on_link} {min_rtt:?} {cwnd_bytes}"
        );
    }
}

fn crowded() -> Path {
    let mut path = Path::new(Duration::from_millis(9));
    path.numbers.rtt = Duration::from_millis(10);
    path.numbers.cwnd_bytes = CROWD_CWND_BYTES - 1;
    path.window(60);
    assert!(path.measured().is_some());
    path
}

#[test]
fn an_outage_is_no_measure_of_a_share() {
    let mut path = Path::new(Duration::from_millis(9));
    path.window(0); // 100 MB/s
    path.numbers.rtt = Duration::from_millis(10);
    path.numbers.cwnd_bytes = CROWD_CWND_BYTES - 1;
    path.now += Duration::from_secs(20);
    path.window(60);
    assert!(path.rate() > 700_000, "{}", path.rate());
    let mut path = Path::new(Duration::from_millis(9));
    for _ in 0..=WINDOWS {
        path.now += Duration::from_secs(20);
        path.window(0); // 25 kB/s, and nothing faster is remembered
    }
    path.numbers.rtt = Duration::from_millis(10);
    path.numbers.cwnd_bytes = CROWD_CWND_BYTES - 1;
    path.now += Duration::from_secs(20);
    path.window(60);
    assert_eq!(path.rate(), RateBound::LEAST_BYTES_PER_SECOND);
}

#[test]
fn loss_that_stays_is_not_the_crowds() {
    let mut path = crowded();
    let before = path.rate();
    for _ in 0..FUTILE_WINDOWS {
        path.window(60);
    }
    assert!(path.measured().is_none());
    path.window(60);
    assert!(path.measured().is_none(), "not for a while");
    path.now += KEPT_FIRST;
    path.window(0);
    path.window(60);
    assert!(
        path.rate() * 10 > before * 9,
        "what was given up does not add up"
    );
}

#[test]
fn one_of_a_crowd_takes_what_the_others_leave() {
    let mut path = crowded();
    let before = path.rate();
    for window in 0..200 {
        // One that loses nothing: holding back helps.
        path.window(if window % 8 == 7 { 0 } else { 20 });
    }
    assert!(
        (60..=63).contains(&(path.rate() * 100 / before)),
        "there is a floor: {before} {}",
        path.rate()
    );
    let before = path.rate();
    for _ in 0..20 {
        path.window(0);
    }
    assert!(path.rate() > before * 115 / 100, "{before} {}", path.rate());
}

#[test]
fn the_path_is_tried_again_ever_more_seldom() {
    let mut path = Path::new(Duration::from_micros(200));
    let mut kept = KEPT_FIRST;
    for _ in 0..8 {
        path.window(100);
        path.now += kept - Duration::from_millis(1);
        path.observe();
        assert!(path.measured().is_some(), "{kept:?}");
        path.now += Duration::from_millis(1);
        path.observe();
        assert!(path.measured().is_none(), "{kept:?}");
        kept = (kept * 2).min(KEPT_MAX);
    }
}

fn bounded(policy: impl Fn() -> RateBound + Clone + Send + Sync + 'static) -> Path {
    bounded_at(Duration::from_micros(200), policy)
}

fn bounded_at(
    min_rtt: Duration,
    policy: impl Fn() -> RateBound + Clone + Send + Sync + 'static,
) -> Path {
    struct Fixed<F>(F);
    impl<F: Fn() -> RateBound + Send> RatePolicy for Fixed<F> {
        fn bound(&mut self, _: Instant, _: &PathView<'_>) -> RateBound {
            (self.0)()
        }
    }
    let config = QuicConfig::auto().rate_policy(move || Fixed(policy.clone()));
    let mut path = Path::new(min_rtt);
    path.pace = Pace::new(true, config.rate_policy.as_ref());
    path.observe();
    path
}

/// However late timers fire, up to what is made up for.
#[test]
fn a_programs_rate_is_kept_to_though_timers_are_late() {
    let mut path = bounded(|| RateBound::rate(20_000_000));
    assert_eq!(path.pace.max_segments(), MAX_SEGMENTS);
    let (start, mut bytes, mut wakes) = (path.now, 0, 0);
    while path.now < start + Duration::from_secs(1) {
        match path.pace.release_time(path.now, || unreachable!()) {
            Some(at) => {
                path.now = at + MADE_UP * (wakes % 3) / 2;
                wakes += 1;
            }
            None => {
                path.pace.sent(path.now, 1_000);
                bytes += 1_000;
            }
        }
    }
    assert!((19_900_000..20_150_000).contains(&bytes), "{bytes}");
    // Nor is there more to be made up for than that.
    path.now += Duration::from_secs(10);
    let mut at_once = 0;
    while path
        .pace
        .release_time(path.now, || unreachable!())
        .is_none()
    {
        path.pace.sent(path.now, 1_000);
        at_once += 1_000;
    }
    assert!((80_000..100_000).contains(&at_once), "{at_once}");
}

#[test]
fn the_lower_rate_counts_and_a_measured_one_has_short_messages() {
    let fixed = QuicConfig::auto().rate_policy(|| FixedRate::bytes_per_second(50_000_000));
    let mut path = Path::new(Duration::from_micros(200));
    path.pace = Pace::new(true, fixed.rate_policy.as_ref());
    path.observe();
    assert!(path.kept_bytes_per_second().unwrap() > 49_000_000);
    path.window(0);
    path.window(100);
    assert_eq!(path.pace.max_segments(), SHORT_QUEUE_SEGMENTS);
    assert!(path.rate() > 90_000_000, "{}", path.rate());
    let kept = path.kept_bytes_per_second().unwrap();
    assert!((49_000_000..51_000_000).contains(&kept), "{kept}");
    path.now += KEPT_FIRST;
    path.observe();
    assert_eq!(path.pace.max_segments(), MAX_SEGMENTS);
    assert!(path.kept_bytes_per_second().unwrap() < 53_000_000);
}

#[test]
fn without_pacing_a_programs_rate_is_kept_to_all_the_same() {
    let fixed = QuicConfig::auto().rate_policy(|| FixedRate::bytes_per_second(50_000_000));
    let mut path = Path::new(PACING_MIN_RTT);
    path.pace = Pace::new(false, None);
    assert!(!path.pace.is_looking());
    path.pace = Pace::new(false, fixed.rate_policy.as_ref());
    assert!(path.pace.is_looking());
    path.observe();
    let kept = path.kept_bytes_per_second().unwrap();
    assert!((49_000_000..52_500_000).contains(&kept), "{kept}");
}

#[test]
fn on_a_long_path_both_a_programs_rate_and_bbr_hold_back() {
    let fixed = QuicConfig::auto().rate_policy(|| FixedRate::bytes_per_second(1_000_000));
    let mut path = Path::new(PACING_MIN_RTT);
    path.pace = Pace::new(true, fixed.rate_policy.as_ref());
    path.observe();
    let late = path.now + Duration::from_secs(5);
    let bbr = path.pace.release_time(path.now, || Some(late));
    assert_eq!(bbr, Some(late - LONG_PATH_AHEAD));
    path.pace.sent(path.now, 100_000);
    let rate = path.pace.release_time(path.now, || Some(path.now));
    assert!(rate.is_some_and(|at| at > path.now + Duration::from_millis(90)));
}

/// Whatever a program can say, it sends no more than it would without a policy.
#[test]
fn on_a_long_path_bounds_that_are_too_high_leave_bbrs_release_times() {
    for bound in [
        RateBound::none(),
        RateBound::rate(u64::MAX),
        RateBound::none().in_flight(u64::MAX),
        RateBound::rate(u64::MAX).in_flight(u64::MAX),
    ] {
        let path = bounded_at(PACING_MIN_RTT, move || bound);
        let late = path.now + Duration::from_secs(5);
        let held = path.pace.release_time(path.now, || Some(late));
        assert_eq!(held, Some(late - LONG_PATH_AHEAD), "{bound:?}");
        assert_eq!(path.pace.max_segments(), MAX_SEGMENTS);
    }
}

/// The worst that a policy can do: the next packet leaves all the same, and soon.
#[test]
fn no_answer_holds_a_packet_back_for_long() {
    for bound in [
        RateBound::rate(0),
        RateBound::none().in_flight(0),
        RateBound::rate(u64::MAX).in_flight(0).measured(),
    ] {
        let mut path = bounded(move || bound);
        for _ in 0..100 {
            path.pace.sent(path.now, 1_472);
            path.observe();
            if let Some(at) = path.pace.release_time(path.now, || unreachable!()) {
                assert!(at - path.now < Duration::from_millis(26), "{bound:?}");
                path.now = at;
            }
        }
    }
    let mut path = bounded(|| RateBound::rate(u64::MAX));
    path.pace.sent(path.now, 1_472);
    assert_eq!(path.pace.release_time(path.now, || unreachable!()), None);
}
