//! Descriptors that run out by connections over TCP: files get theirs.

use std::net::TcpStream;

use landro::ids::SessionId;
use landro::proto::wire::PrefaceKind;

use super::TLS;
use super::peer::{TlsPeer, dial};
use crate::descriptors::Scene;

/// Of 128, a quarter.
const STRANGERS: usize = 32;

/// Of 128, an eighth.
const OF_ONE_PEER: usize = 16;

/// Strangers that say nothing, from many addresses.
pub fn of_strangers(backend: &'static str) {
    let scene = Scene::new(backend);
    let before = scene.open();
    let crowd: Vec<TcpStream> = (0..200)
        .map(|number| dial(scene.daemon.address(), 2 + number % 20))
        .collect();
    scene.works_over(TLS);
    let open = scene.open();
    println!(
        "{before} descriptors before, {open} beside {} strangers",
        crowd.len()
    );
    // A few are those of the client that was served.
    assert!(open <= before + STRANGERS + 8, "{open} of {before}");
    scene.works_over(&[]);
}

/// One who is known, and comes again and again.
pub fn of_one_peer(backend: &'static str) {
    let scene = Scene::new(backend);
    let before = scene.open();
    let mut crowd = Vec::new();
    for number in 0..60 {
        let mut peer = TlsPeer::connect(scene.daemon.address(), &scene.villain);
        peer.preface(PrefaceKind::New, SessionId([number; 16]), 0);
        peer.turn();
        crowd.push(peer);
    }
    scene.works_over(TLS);
    let open = scene.open();
    println!("{before} descriptors before, {open} beside one peer's 60");
    // As many again may be those that are refused and have not taken the answer.
    assert!(open <= before + 2 * OF_ONE_PEER + 8, "{open} of {before}");
    let goes_on = crowd.iter().filter(|peer| !peer.is_over()).count();
    assert!(goes_on > 0, "not one is let in");
}
