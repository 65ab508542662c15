//! The lane that carries control is cut, or falls silent, in the middle of a transfer: another
//! takes over.

use std::cell::Cell;

use super::*;

/// A transfer in which something is cut, each time into another file: how it is called, and whether
/// it is there afterwards.
struct Cut<'a> {
    world: &'a World,
    number: Cell<u32>,
}

impl Cut<'_> {
    fn new(world: &World) -> Cut<'_> {
        let source = world.here("file");
        tree::write_file(&source, 40 * MIB, &mut Rng::new("control is cut"));
        fs::copy(&source, world.root("source")).unwrap();
        let number = Cell::new(0);
        Cut { world, number }
    }

    fn start(&self, relay: &Relay, push: bool, args: &[&str]) -> Running {
        self.number.set(self.number.get() + 1);
        let name = format!("target-{}", self.number.get());
        let (from, to): (OsString, OsString) = match push {
            true => (self.world.here("file").into(), relay.url(&name).into()),
            false => (relay.url("source").into(), self.world.here(&name).into()),
        };
        let always = ["--bwlimit", "24M", "--stats"].iter().chain(args);
        let mut args: Vec<OsString> = always.map(OsString::from).collect();
        args.extend([from, to]);
        self.world.cp_start(&args)
    }

    /// All is there, within the time that the silence takes (5 s) and the data, and not that of an
    /// idle timeout.
    fn check(&self, running: Running, push: bool) -> Output {
        let start = landro::engine::now();
        let output = running.wait().expect(0);
        assert!(
            start.elapsed() < LONG / 2,
            "{:?}: {output:?}",
            start.elapsed()
        );
        let name = format!("target-{}", self.number.get());
        let (source, target) = match push {
            true => (self.world.here("file"), self.world.root(&name)),
            false => (self.world.root("source"), self.world.here(&name)),
        };
        assert_same(&source, &target);
        assert_eq!(output.number("errors"), 0, "{output:?}");
        assert_no_leftovers(&self.world.root(""));
        fs::remove_file(target).unwrap();
        output
    }
}

/// In the middle of a transfer UDP does not pass any more, and nobody says so: TLS takes over,
/// beside one lane that was added or several.
pub fn udp_that_is_cut(backend: &'static str) {
    let world = world(backend, &[]);
    let cut = Cut::new(&world);
    for (push, lanes) in [(true, "1"), (false, "1"), (true, "3"), (false, "3")] {
        let relay = Relay::new(world.daemon.address(), Udp::Passes);
        let running = cut.start(&relay, push, &["--lanes", lanes]);
        midway(&running, &relay);
        relay.silence_udp(true);
        let output = cut.check(running, push);
        assert_eq!(began_on(&output), "quic");
        assert!(of_kind(&output, "tls", "lanes") >= 2, "{output:?}");
    }
    world.daemon.wait_for_log("goes on over another lane");
}

/// As soon as the session began; no lane was added yet.
pub fn udp_that_is_cut_early(backend: &'static str) {
    let world = world(backend, &[]);
    let cut = Cut::new(&world);
    for push in [true, false] {
        let relay = Relay::new(world.daemon.address(), Udp::Passes);
        let running = cut.start(&relay, push, &[]);
        wait(&running, || relay.udp_bytes() > 100 << 10);
        relay.silence_udp(true);
        let output = cut.check(running, push);
        assert_eq!(began_on(&output), "quic");
        assert!(of_kind(&output, "tls", "lanes") >= 1, "{output:?}");
    }
}

/// About when TLS takes over, or a little before.
pub fn udp_that_is_back(backend: &'static str) {
    let world = world(backend, &[]);
    let cut = Cut::new(&world);
    for (push, after_ms) in [(true, 4900), (false, 5100), (true, 2000), (false, 5500)] {
        let relay = Relay::new(world.daemon.address(), Udp::Passes);
        let running = cut.start(&relay, push, &[]);
        wait(&running, || relay.udp_bytes() > 100 << 10);
        relay.silence_udp(true);
        thread::sleep(Duration::from_millis(after_ms));
        relay.silence_udp(false);
        let output = cut.check(running, push);
        assert_eq!(began_on(&output), "quic");
    }
}

/// A session that began on TLS goes on over QUIC, if TCP is cut and UDP passes by then: by a
/// firewall that says so and by one that does not.
pub fn tls_that_is_cut_where_udp_passes(backend: &'static str) {
    let world = world(backend, &[]);
    let cut = Cut::new(&world);
    for (resets, push) in [(true, true), (true, false), (false, true), (false, false)] {
        let relay = Relay::new(world.daemon.address(), Udp::Silent);
        let running = cut.start(&relay, push, &[]);
        midway(&running, &relay);
        relay.silence_udp(false);
        match resets {
            true => relay.reset(),
            false => relay.stall(),
        }
        let output = cut.check(running, push);
        assert_eq!(began_on(&output), "tls");
        assert!(of_kind(&output, "quic", "lanes") >= 1, "{output:?}");
        assert!(crossed(&output, "quic") > MIB, "{output:?}");
    }
}

/// There is nothing to take over with: it ends as it would without.
pub fn udp_that_is_cut_where_there_is_no_tls(backend: &'static str) {
    let world = world(backend, &QUIC);
    let cut = Cut::new(&world);
    for args in [
        &["--timeout", "3"][..],
        &["--timeout", "3", "--lane-kinds", "quic"],
    ] {
        let relay = Relay::new(world.daemon.address(), Udp::Passes);
        let running = cut.start(&relay, true, args);
        wait(&running, || relay.udp_bytes() > MIB);
        relay.silence_udp(true);
        let output = running.wait().expect(5);
        assert!(output.stdout.contains("(--timeout)"), "{output:?}");
    }
}
