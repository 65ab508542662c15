//! A seeded world for `proto`: client and server session, a wire and two disks, all of it a
//! function of the seed.
//!
//! Nothing here has threads, real time or real files. At every step one thing that could happen
//! next is picked at random (deliver these control bytes, let the transport take those, complete
//! that disk operation, ...), so thousands of seeds visit orders no real machine shows. A failing
//! seed prints itself; run it again with `LANDRO_SIM_SEED`.

mod bench_tests;
mod check;
mod destination_tests;
pub(crate) mod disk;
mod edge_tests;
mod hole_tests;
mod hostile;
mod hostile_tests;
mod kept_tests;
mod lanes;
mod local;
pub(crate) mod ops;
mod query_tests;
mod scenario;
mod tap;
pub(crate) mod tests;
pub(crate) mod tree;
mod wire;
mod world;

use crate::ids::EntryId;
use crate::proto::DiskDone;
use crate::proto::integrity::Digest;
use crate::proto::wire::Message;

/// Any instant will do; a simulation counts on from it.
#[allow(
    clippy::disallowed_methods,
    reason = "a starting point is needed, and only differences are used"
)]
pub fn start() -> std::time::Instant {
    std::time::Instant::now()
}

/// SplitMix64: a few lines, well distributed, and the same on every machine for ever.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Rng {
        Rng(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// A number below `end`; 0 when `end` is 0.
    pub fn below(&mut self, end: usize) -> usize {
        if end == 0 {
            0
        } else {
            (self.next() % end as u64) as usize
        }
    }

    /// True `percent` times of 100.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.next() % 100 < percent
    }

    /// A pipe now and then has nothing.
    pub fn input(&mut self) -> DiskDone {
        let is_ready = self.chance(70);
        DiskDone::Input { is_ready }
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut out = Vec::with_capacity(len + 8);
        while out.len() < len {
            out.extend_from_slice(&self.next().to_le_bytes());
        }
        out.truncate(len);
        out
    }

    pub fn shuffle<T>(&mut self, list: &mut [T]) {
        for i in (1..list.len()).rev() {
            list.swap(i, self.below(i + 1));
        }
    }
}

/// The digest of a file of several chunks.
pub fn root(entry: EntryId, digest: Digest) -> Message {
    Message::Root {
        entry,
        digest,
        has_grown: false,
        agains: 0,
    }
}
