//! Peers that mean harm get a protocol error or their share and no more, and nobody else notices.

mod common;
#[path = "hostile/control.rs"]
mod control;
#[path = "hostile/craft.rs"]
mod craft;
#[path = "hostile/data.rs"]
mod data;
#[path = "hostile/descriptors.rs"]
mod descriptors;
#[path = "hostile/escape.rs"]
mod escape;
#[path = "hostile/frames.rs"]
mod frames;
#[path = "hostile/greed.rs"]
mod greed;
#[path = "hostile/impostor.rs"]
mod impostor;
#[path = "hostile/memory.rs"]
mod memory;
#[path = "hostile/names.rs"]
mod names;
#[path = "hostile/noise.rs"]
mod noise;
#[path = "hostile/peer.rs"]
mod peer;
#[path = "hostile/queries.rs"]
mod queries;
#[path = "hostile/reserved.rs"]
mod reserved;
#[path = "hostile/revoked.rs"]
mod revoked;
#[path = "hostile/server.rs"]
mod server;
#[path = "hostile/tcp.rs"]
mod tcp;

use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use common::tree::{self, Rng, assert_same};
use common::{World, roomy_dir};
use landro::quic::Identity;

use peer::Peer;

on_both_backends!(
    names_that_lead_elsewhere,
    targets_that_lead_elsewhere,
    symlinks_written_through,
    symlinks_swapped_for_directories,
    trees_too_deep,
    data_that_lies,
    digests_that_lie,
    manifests_without_end,
    control_messages_that_are_none,
    silence,
    clients_that_never_read,
    benchmarks_that_are_not_read,
    crowds,
    noise_at_the_port,
    a_server_that_lies,
    a_server_that_writes_through_links,
    clients_that_write_through_links,
    two_entries_of_one_name,
    impostors_take_no_places,
    impostors_are_strangers,
    small_files_that_do_not_end,
    sessions_full_of_entries,
    verdicts_that_are_not_read,
    resumes_that_do_not_go_on,
    stretches_of_a_byte,
    stretches_with_holes,
    holes_one_by_one,
    links_that_lead_to_received_ones,
    directories_that_are_left_open,
    many_sources_that_are_left_open,
    reserved_names_of_clients,
    reserved_names_on_the_command_line,
    a_server_that_leaves_holes,
    strangers_whose_frames_leave_holes,
    half_open_handshakes,
    bytes_that_leave_holes,
    windows_filled_and_left,
    packets_that_are_never_acknowledged,
    many_connections_that_leave_holes,
    frames_at_random,
    peers_that_are_removed_and_do_not_go,
    tcp_strangers,
    tcp_crowds,
    tcp_records_that_are_broken,
    tcp_records_that_are_odd,
    tcp_joins_of_others,
    tcp_lanes_that_stay,
    tcp_accounts_without_end,
    tcp_takeovers,
    tcp_strangers_that_take_descriptors,
    tcp_peers_that_take_descriptors,
    a_server_that_lies_over_tcp,
    queries_without_end,
    a_server_that_lies_to_who_asks,
);

/// Budget of the daemon under attack; what it may hold beyond it is code, stacks and the kernel's
/// rings.
const BUDGET: &str = "32M";
const RSS_LIMIT_BYTES: u64 = (32 + 48) << 20;

/// A daemon that lets a villain in, and a well-behaved client that works on meanwhile.
struct Scene {
    good_args: &'static [&'static str],
    world: World,
    villain: Identity,
    outside: PathBuf,
}

impl Scene {
    /// Runs an attack while the good client pushes and pulls, then looks for harm.
    fn play(backend: &'static str, attack: impl FnOnce(&Scene) + Send) {
        Scene::play_beside(backend, &[], attack);
    }

    /// The same beside a good client with more options.
    fn play_beside(
        backend: &'static str,
        good_args: &'static [&'static str],
        attack: impl FnOnce(&Scene) + Send,
    ) {
        let villain = Identity::generate().unwrap();
        let allow = villain.fingerprint().to_string();
        let args = [
            "--memory-budget",
            BUDGET,
            "--workers",
            "2",
            "--allow",
            &allow,
        ];
        let world = World::within(backend, &args, roomy_dir(256 << 20));
        let mut rng = Rng::new(backend);
        let tree = world.here("good");
        fs::create_dir(&tree).unwrap();
        tree::write_file(&tree.join("large"), 5 << 20, &mut rng);
        for number in 0..50 {
            tree::write_file(&tree.join(format!("{number}")), rng.below(5000), &mut rng);
        }
        let outside = world.here("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("witness"), "untouched").unwrap();
        let scene = Scene {
            good_args,
            world,
            villain,
            outside,
        };
        let over = AtomicBool::new(false);
        let rounds = thread::scope(|scope| {
            let good = scope.spawn(|| scene.work_until(&over));
            // The good client must stop even if the attack's assertions fail.
            let attack = scope.spawn(|| attack(&scene)).join();
            over.store(true, Ordering::SeqCst);
            let rounds = good.join();
            if let Err(failure) = attack {
                let log = scene.world.daemon.log();
                let tail = log.ceil_char_boundary(log.len().saturating_sub(2000));
                eprintln!("the end of the daemon's log:\n{}", &log[tail..]);
                std::panic::resume_unwind(failure);
            }
            rounds.unwrap()
        });
        assert!(rounds > 0);
        scene.look_for_harm();
    }

    /// Transfers of a client that has nothing to do with it: all must succeed.
    fn work_until(&self, over: &AtomicBool) -> u64 {
        let mut rounds = 0;
        while rounds == 0 || !over.load(Ordering::SeqCst) {
            let name = format!("good-{rounds}");
            let copy = |from: OsString, to: OsString| {
                let mut args: Vec<OsString> = self.good_args.iter().map(OsString::from).collect();
                args.extend([from, to]);
                self.world.cp(&args).expect(0);
            };
            copy(self.world.here("good").into(), self.world.url(&name).into());
            assert_same(&self.world.here("good"), &self.world.root(&name));
            copy(
                self.world.url(&name).into(),
                self.world.here("good-back").into(),
            );
            assert_same(&self.world.here("good"), &self.world.here("good-back"));
            fs::remove_dir_all(self.world.root(&name)).unwrap();
            fs::remove_dir_all(self.world.here("good-back")).unwrap();
            rounds += 1;
        }
        rounds
    }

    fn look_for_harm(mut self) {
        assert!(
            self.world.daemon.is_running(),
            "it died: {}",
            self.world.daemon.log()
        );
        let peak = self.world.daemon.peak_rss_bytes();
        println!("peak memory of the daemon: {} MiB", peak >> 20);
        assert!(
            peak < RSS_LIMIT_BYTES,
            "{} MiB resident at most",
            peak >> 20
        );
        assert!(
            !self.world.daemon.log().contains("panicked"),
            "{}",
            self.world.daemon.log()
        );
        let outside: Vec<_> = fs::read_dir(&self.outside)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(
            outside,
            ["witness"],
            "something was written outside of the root"
        );
        assert_eq!(
            fs::read(self.outside.join("witness")).unwrap(),
            b"untouched"
        );
        let around: Vec<_> = fs::read_dir(self.world.root("..")).unwrap().collect();
        assert_eq!(around.len(), 2, "root and here: {around:?}");
        let stopped = self.world.daemon.stop();
        assert_eq!(stopped.code, Some(0), "{stopped:?}");
    }

    fn connect(&self) -> Peer {
        Peer::connect(self.world.daemon.address(), &self.villain)
    }

    /// A push into the root that was welcomed.
    fn push(&self) -> Peer {
        let mut peer = self.connect();
        peer.push("");
        peer
    }

    /// Names in the root that the good client did not put there.
    fn planted(&self) -> Vec<OsString> {
        let names = fs::read_dir(self.world.root(""))
            .unwrap()
            .map(|entry| entry.unwrap().file_name());
        names
            .filter(|name| !name.to_string_lossy().starts_with("good-"))
            .collect()
    }
}

fn names_that_lead_elsewhere(backend: &'static str) {
    Scene::play(backend, names::that_lead_elsewhere);
}

fn targets_that_lead_elsewhere(backend: &'static str) {
    Scene::play(backend, names::targets);
}

fn symlinks_written_through(backend: &'static str) {
    Scene::play(backend, names::symlinks_written_through);
}

fn symlinks_swapped_for_directories(backend: &'static str) {
    Scene::play(backend, names::symlinks_swapped);
}

fn trees_too_deep(backend: &'static str) {
    Scene::play(backend, names::too_deep);
}

fn data_that_lies(backend: &'static str) {
    Scene::play(backend, data::that_lies);
}

fn digests_that_lie(backend: &'static str) {
    Scene::play(backend, data::digests);
}

fn manifests_without_end(backend: &'static str) {
    Scene::play(backend, greed::manifests);
}

fn control_messages_that_are_none(backend: &'static str) {
    Scene::play(backend, control::messages);
}

fn silence(backend: &'static str) {
    Scene::play(backend, greed::silence);
}

fn clients_that_never_read(backend: &'static str) {
    Scene::play(backend, greed::never_reading);
}

fn benchmarks_that_are_not_read(backend: &'static str) {
    Scene::play(backend, greed::unread_benchmarks);
}

fn crowds(backend: &'static str) {
    Scene::play(backend, greed::crowds);
}

fn noise_at_the_port(backend: &'static str) {
    Scene::play(backend, noise::at_the_port);
}

fn a_server_that_leaves_holes(backend: &'static str) {
    server::that_leaves_holes(backend);
}

fn a_server_that_lies(backend: &'static str) {
    server::that_lies(backend);
}

fn a_server_that_writes_through_links(backend: &'static str) {
    escape::of_a_server(backend);
}

fn clients_that_write_through_links(backend: &'static str) {
    Scene::play(backend, escape::of_a_client);
}

fn reserved_names_of_clients(backend: &'static str) {
    Scene::play(backend, reserved::by_a_client);
}

fn reserved_names_on_the_command_line(backend: &'static str) {
    Scene::play(backend, reserved::by_a_command);
}

fn impostors_take_no_places(backend: &'static str) {
    impostor::take_no_places(backend);
}

fn impostors_are_strangers(backend: &'static str) {
    impostor::are_strangers(backend);
}

fn small_files_that_do_not_end(backend: &'static str) {
    memory::small_files_begun(backend);
}

fn sessions_full_of_entries(backend: &'static str) {
    memory::manifests_begun(backend);
}

fn resumes_that_do_not_go_on(backend: &'static str) {
    memory::chunks_that_are_there(backend);
}

fn stretches_of_a_byte(backend: &'static str) {
    memory::stretches_of_a_byte(backend);
}

fn stretches_with_holes(backend: &'static str) {
    memory::stretches_with_holes(backend);
}

fn holes_one_by_one(backend: &'static str) {
    memory::holes_one_by_one(backend);
}

fn verdicts_that_are_not_read(backend: &'static str) {
    memory::verdicts_never_read(backend);
}

fn links_that_lead_to_received_ones(backend: &'static str) {
    escape::through_own_links(backend);
}

fn directories_that_are_left_open(backend: &'static str) {
    descriptors::of_directories(backend);
}

fn many_sources_that_are_left_open(backend: &'static str) {
    descriptors::of_sources(backend);
}

fn two_entries_of_one_name(backend: &'static str) {
    Scene::play(backend, escape::twice_of_one_name);
}

fn strangers_whose_frames_leave_holes(backend: &'static str) {
    frames::strangers_with_holes(backend);
}

fn half_open_handshakes(backend: &'static str) {
    frames::half_open(backend);
}

fn bytes_that_leave_holes(backend: &'static str) {
    frames::holes(backend);
}

fn packets_that_are_never_acknowledged(backend: &'static str) {
    frames::unacknowledged(backend);
}

fn many_connections_that_leave_holes(backend: &'static str) {
    frames::many_with_holes(backend);
}

fn frames_at_random(backend: &'static str) {
    frames::random_frames(backend);
}

fn windows_filled_and_left(backend: &'static str) {
    frames::left_behind(backend);
}

fn peers_that_are_removed_and_do_not_go(backend: &'static str) {
    revoked::who_do_not_go(backend);
}

fn tcp_strangers(backend: &'static str) {
    tcp::strangers(backend);
}

fn tcp_crowds(backend: &'static str) {
    tcp::crowds(backend);
}

fn tcp_records_that_are_broken(backend: &'static str) {
    tcp::broken_records(backend);
}

fn tcp_records_that_are_odd(backend: &'static str) {
    tcp::odd_records(backend);
}

fn tcp_joins_of_others(backend: &'static str) {
    tcp::joins(backend);
}

fn tcp_lanes_that_stay(backend: &'static str) {
    tcp::lanes(backend);
}

fn tcp_takeovers(backend: &'static str) {
    tcp::takeovers(backend);
}

fn tcp_accounts_without_end(backend: &'static str) {
    tcp::accounts(backend);
}

fn tcp_strangers_that_take_descriptors(backend: &'static str) {
    tcp::descriptors::of_strangers(backend);
}

fn tcp_peers_that_take_descriptors(backend: &'static str) {
    tcp::descriptors::of_one_peer(backend);
}

fn a_server_that_lies_over_tcp(backend: &'static str) {
    tcp::server::that_lies(backend);
}

fn queries_without_end(backend: &'static str) {
    queries::without_end(backend);
}

fn a_server_that_lies_to_who_asks(backend: &'static str) {
    queries::a_server_that_lies(backend);
}
