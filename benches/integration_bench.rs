//! The real binary end to end: a warm daemon and one command per copy, over loopback, files in
//! memory, both backends.
//!
//! `cargo bench --bench integration_bench [-- FILTER]`. Each figure is of whole processes, from
//! fork to exit code, as a user sees them. What comes back is compared with what went before the
//! clock starts.

#[path = "../tests/common/mod.rs"]
mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use common::World;
use common::tree::{Rng, assert_same, same_content, write_file};
use criterion::{
    BatchSize, BenchmarkId, Criterion, SamplingMode, Throughput, criterion_group, criterion_main,
};

const BIG_BYTES: u64 = 256 << 20;
const TREE_FILES: usize = 5_000;
const TREE_FILES_PER_DIRECTORY: usize = 100;
const TREE_FILE_BYTES: u64 = 4 << 10;
const TINY_BYTES: u64 = 1 << 10;

/// Commands at once, and what each sends.
const CLIENTS: [usize; 3] = [1, 10, 100];
const CLIENT_BYTES: u64 = 1 << 20;

/// The big file, its copy and the one that replaces it; the rest is small.
const ROOM_BYTES: u64 = 4 * BIG_BYTES;

fn backends() -> Vec<&'static str> {
    if common::has_io_uring() {
        vec!["io_uring", "poll"]
    } else {
        vec!["poll"]
    }
}

fn world(backend: &'static str) -> World {
    World::within(backend, &[], common::roomy_dir(ROOM_BYTES))
}

fn make(path: &Path, size_bytes: u64) {
    write_file(path, size_bytes, &mut Rng(size_bytes));
}

fn make_tree(root: &Path) {
    let mut rng = Rng(1);
    for number in 0..TREE_FILES {
        let dir = root.join(format!("{:03}", number / TREE_FILES_PER_DIRECTORY));
        if number % TREE_FILES_PER_DIRECTORY == 0 {
            fs::create_dir_all(&dir).expect("a directory");
        }
        write_file(&dir.join(format!("{number:05}")), TREE_FILE_BYTES, &mut rng);
    }
}

fn start(world: &World, args: &[String]) -> Child {
    let mut command: Command = world.cp_command(&[], args);
    command.stdin(Stdio::null()).stdout(Stdio::null());
    command.spawn().expect("the binary runs")
}

fn finish(mut child: Child) {
    let status = child.wait().expect("the command ends");
    assert!(status.success(), "cp ended with {status}");
}

/// `cp` to its end. Without the polling of a test's time limit, which would round to its steps.
fn cp(world: &World, args: &[String]) {
    finish(start(world, args));
}

/// From a path here, as text.
fn here(world: &World, name: &str) -> String {
    text(world.here(name))
}

fn text(path: PathBuf) -> String {
    path.into_os_string()
        .into_string()
        .expect("temporary directories have plain names")
}

/// Removes what an earlier copy made; the first time there is nothing.
fn clear(path: PathBuf) {
    let _ = fs::remove_dir_all(path);
}

fn big_file(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("256 MiB file");
    group.throughput(Throughput::Bytes(BIG_BYTES));
    group.sampling_mode(SamplingMode::Flat);
    for backend in backends() {
        let world = world(backend);
        make(&world.here("big"), BIG_BYTES);
        let push = ["--force".to_owned(), here(&world, "big"), world.url("big")];
        let pull = ["--force".to_owned(), world.url("big"), here(&world, "back")];
        cp(&world, &push);
        cp(&world, &pull);
        assert!(
            same_content(&world.here("big"), &world.here("back")),
            "the copy differs"
        );
        group.bench_function(BenchmarkId::new("push", backend), |bencher| {
            bencher.iter(|| cp(&world, &push))
        });
        group.bench_function(BenchmarkId::new("pull", backend), |bencher| {
            bencher.iter(|| cp(&world, &pull))
        });
    }
    group.finish();
}

fn tree(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("5,000 files of 4 KiB");
    group.throughput(Throughput::Elements(TREE_FILES as u64));
    group.sampling_mode(SamplingMode::Flat);
    for backend in backends() {
        let world = world(backend);
        make_tree(&world.here("tree"));
        let push = [here(&world, "tree"), world.url("new")];
        let pull = [world.url("new"), here(&world, "back")];
        cp(&world, &push);
        cp(&world, &pull);
        assert_same(&world.here("tree"), &world.here("back"));
        group.bench_function(
            BenchmarkId::new("push again, nothing new", backend),
            |bencher| {
                bencher.iter(|| cp(&world, &push));
            },
        );
        group.bench_function(BenchmarkId::new("pull", backend), |bencher| {
            bencher.iter_batched(
                || clear(world.here("back")),
                |()| cp(&world, &pull),
                BatchSize::PerIteration,
            );
        });
        group.bench_function(BenchmarkId::new("push", backend), |bencher| {
            bencher.iter_batched(
                || clear(world.root("new")),
                |()| cp(&world, &push),
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

fn tiny_file(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("1 KiB file");
    group.sample_size(50);
    group.sampling_mode(SamplingMode::Flat);
    for backend in backends() {
        let world = world(backend);
        make(&world.here("tiny"), TINY_BYTES);
        make(&world.root("tiny"), TINY_BYTES);
        let push = [
            "--force".to_owned(),
            here(&world, "tiny"),
            world.url("copy"),
        ];
        group.bench_function(BenchmarkId::new("push", backend), |bencher| {
            bencher.iter(|| cp(&world, &push))
        });
        let pull = [
            "--force".to_owned(),
            world.url("tiny"),
            here(&world, "back"),
        ];
        group.bench_function(BenchmarkId::new("pull", backend), |bencher| {
            bencher.iter(|| cp(&world, &pull))
        });
    }
    group.finish();
}

fn clients_at_once(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("1 MiB from each client at once");
    group.sampling_mode(SamplingMode::Flat);
    for backend in backends() {
        let world = world(backend);
        make(&world.here("file"), CLIENT_BYTES);
        for clients in CLIENTS {
            group.throughput(Throughput::Bytes(clients as u64 * CLIENT_BYTES));
            let pushes: Vec<[String; 3]> = (0..clients)
                .map(|client| {
                    [
                        "--force".to_owned(),
                        here(&world, "file"),
                        world.url(&format!("file-{client}")),
                    ]
                })
                .collect();
            group.bench_function(BenchmarkId::new(backend, clients), |bencher| {
                bencher.iter(|| {
                    let running: Vec<Child> =
                        pushes.iter().map(|push| start(&world, push)).collect();
                    running.into_iter().for_each(finish);
                });
            });
        }
    }
    group.finish();
}

/// Some twenty figures: the file stays below three minutes.
fn config() -> Criterion {
    Criterion::default()
        .without_plots()
        .sample_size(15)
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(4))
}

criterion_group! { name = all; config = config(); targets = big_file, tree, tiny_file, clients_at_once }
criterion_main!(all);
