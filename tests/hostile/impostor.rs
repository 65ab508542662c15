//! Handshakes that show somebody else's certificate, which proves nothing: its key does.

use std::fs;

use landro::quic::Identity;

use super::common::World;
use super::craft::{Impostor, frame};

/// Lines about strangers, or about one peer, at once on one worker; and what else a daemon has to
/// say.
const BURST_LINES: usize = 100 + 30;

/// Connections one identity may have on a worker.
const LANES_PER_PEER: usize = 512;

/// Those who only show somebody's certificate take none of that one's places.
pub fn take_no_places(backend: &'static str) {
    let world = World::with(backend, &["--workers", "1"]);
    let pem = fs::read_to_string(world.client.path().join("identity.pem")).unwrap();
    let victim = Identity::from_pem(&pem).unwrap();
    fs::write(world.here("file"), "file").unwrap();
    world.push(world.here("file"), "before").expect(0);
    let mut impostors = Vec::new();
    for number in 0..LANES_PER_PEER + 20 {
        let mut impostor = Impostor::new(
            world.daemon.address(),
            &format!("127.0.0.{}:0", 2 + number % 4),
        );
        impostor.pretend(&victim);
        impostors.push(impostor);
    }
    world.push(world.here("file"), "after").expect(0);
}

/// Nor is there a line more about each that they pretend to be.
pub fn are_strangers(backend: &'static str) {
    let world = World::with(backend, &["--workers", "1"]);
    for number in 0..BURST_LINES + 70 {
        let mut impostor = Impostor::new(
            world.daemon.address(),
            &format!("127.0.0.{}:0", 2 + number % 4),
        );
        impostor.pretend(&Identity::generate().unwrap());
        let mut offset = 1000;
        // More than any honest handshake makes us keep.
        for _ in 0..20 {
            let mut frames = Vec::new();
            while frames.len() < 1100 {
                frames.extend(frame(0x06, &[offset, 1]));
                frames.push(0);
                offset += 2;
            }
            impostor.send(&frames);
        }
    }
    world.daemon.wait_for_log("more than its share");
    let log = world.daemon.stop().expect(0).stderr;
    let lines = log.lines().count();
    println!("{lines} lines");
    assert!(lines < BURST_LINES, "{lines} lines");
}
