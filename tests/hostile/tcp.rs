//! The same over TCP: who is no TLS, who breaks it, who joins what is not his, who stays.

#[path = "tcp/descriptors.rs"]
pub mod descriptors;
#[path = "tcp/peer.rs"]
mod peer;
#[path = "tcp/server.rs"]
pub mod server;
#[path = "tcp/sessions.rs"]
mod sessions;
#[path = "tcp/strangers.rs"]
mod strangers;
#[path = "tcp/takeovers.rs"]
mod takeovers;

use super::Scene;

/// An honest client over TLS works on beside each.
const TLS: &[&str] = &["--lane-kinds", "tls"];

pub fn strangers(backend: &'static str) {
    Scene::play_beside(backend, TLS, strangers::who_are_no_peers);
}

pub fn crowds(backend: &'static str) {
    // The good client comes from an address of the crowd, and is as new to the daemon: its
    // handshake may be the one that has to go.
    let again = &["--lane-kinds", "tls", "--retry", "5"];
    Scene::play_beside(backend, again, strangers::crowds);
}

pub fn broken_records(backend: &'static str) {
    Scene::play_beside(backend, TLS, sessions::broken_records);
}

pub fn odd_records(backend: &'static str) {
    Scene::play_beside(backend, TLS, sessions::odd_records);
}

pub fn joins(backend: &'static str) {
    Scene::play_beside(backend, TLS, sessions::joins_of_others);
}

pub fn lanes(backend: &'static str) {
    Scene::play_beside(backend, TLS, sessions::lanes_that_stay);
}

pub fn takeovers(backend: &'static str) {
    Scene::play_beside(backend, TLS, takeovers::that_lie);
    Scene::play_beside(backend, TLS, takeovers::without_end);
}

pub fn accounts(backend: &'static str) {
    Scene::play_beside(backend, TLS, sessions::accounts);
}
