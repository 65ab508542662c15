//! Subtree hashing as transfers do it, beside one call of BLAKE3 over the same bytes: the
//! difference is ours.

use std::hint::black_box;

use criterion::{Criterion, Throughput};
use landro::ids::ChunkIndex;
use landro::proto::integrity::{ChunkHasher, Tree, digest_of};

use super::{MIB, PIECE_BYTES, noise};

/// A file whose chunks do not fit any cache together.
const FILE_BYTES: usize = 128 * MIB;

const TREE_CHUNKS: u32 = 1_024;

pub fn bench(criterion: &mut Criterion) {
    let file = noise(FILE_BYTES);
    let mut group = criterion.benchmark_group("hash");

    group.throughput(Throughput::Bytes(MIB as u64));
    let chunk = |at: usize| {
        let mut hasher = ChunkHasher::new(ChunkIndex(at as u32), FILE_BYTES as u64);
        file[at * MIB..][..MIB]
            .chunks(PIECE_BYTES)
            .for_each(|piece| hasher.update(piece));
        hasher.finish()
    };
    group.bench_function("chunk in pieces, hot", |bencher| {
        bencher.iter(|| chunk(black_box(5)))
    });
    let mut at = 0;
    group.bench_function("chunk in pieces, cold", |bencher| {
        bencher.iter(|| {
            at = (at + 1) % (FILE_BYTES / MIB);
            chunk(at)
        });
    });
    group.bench_function("BLAKE3 of 1 MiB, hot", |bencher| {
        bencher.iter(|| blake3::hash(black_box(&file[..MIB])));
    });

    for (name, len_bytes) in [("1 KiB", 1 << 10), ("4 KiB", 4 << 10), ("64 KiB", 64 << 10)] {
        group.throughput(Throughput::Bytes(len_bytes as u64));
        group.bench_function(format!("small file of {name}"), |bencher| {
            bencher.iter(|| digest_of(black_box(&file[..len_bytes])));
        });
    }

    group.throughput(Throughput::Elements(u64::from(TREE_CHUNKS)));
    group.bench_function("merge chunks to the root", |bencher| {
        bencher.iter(|| {
            let mut tree = Tree::new(u64::from(TREE_CHUNKS) * MIB as u64);
            for chunk in 0..TREE_CHUNKS {
                tree.insert(ChunkIndex(chunk), [chunk as u8; 32]);
            }
            tree.root().expect("all chunks are there")
        });
    });
    group.finish();
}
