//! Unsized files, read to their end in stretches: which came, and one digest over theirs.

use std::collections::BTreeMap;

use blake3::Hasher;

use super::integrity::Digest;

/// Stretches of a file that are here before an earlier one is. They are sent in order, on one data
/// stream at a time; what overtakes is on a stream behind, or on a fresh lane. A stretch is a
/// read's worth, of a pipe often 4 KiB, so that these are 64 MiB and more.
const EARLY_MAX: usize = 16_384;

/// What an early stretch takes in its tables, here and at the mover that let it in.
const EARLY_BYTES: u64 = 200;

/// Stretches as they come, given back in the order of the file.
#[derive(Debug)]
pub struct InOrder<T> {
    /// All before is here.
    next: u64,
    early: BTreeMap<u64, (u64, T)>,
}

impl<T> Default for InOrder<T> {
    fn default() -> InOrder<T> {
        InOrder {
            next: 0,
            early: BTreeMap::new(),
        }
    }
}

impl<T> InOrder<T> {
    /// Adds a stretch. `false`: it overlaps another, too many are early, or no file is so long.
    pub fn insert(&mut self, offset: u64, len_bytes: u64, what: T) -> bool {
        let before = self.early.range(..=offset).next_back();
        let after = self.early.range(offset..).next();
        let is_free = offset >= self.next
            && before.is_none_or(|(at, (len, _))| at + len <= offset)
            && after.is_none_or(|(at, _)| offset + len_bytes <= *at);
        let is_possible = offset <= u64::MAX / 4 && self.early.len() < EARLY_MAX;
        if is_free && is_possible {
            self.early.insert(offset, (len_bytes, what));
        }
        is_free && is_possible
    }

    /// The next stretch in the order of the file, if it is here.
    pub fn pop(&mut self) -> Option<T> {
        let first = self.early.first_entry()?;
        if *first.key() != self.next {
            return None;
        }
        let (len_bytes, what) = first.remove();
        self.next += len_bytes;
        Some(what)
    }
}

/// The digest of an unsized file: BLAKE3 over the digests of its stretches, in order.
#[derive(Debug, Default)]
pub struct StretchChain {
    order: InOrder<Digest>,
    hasher: Box<Hasher>,
}

impl StretchChain {
    pub fn insert(&mut self, offset: u64, len_bytes: u64, digest: Digest) -> bool {
        let is_new = self.order.insert(offset, len_bytes, digest);
        while let Some(digest) = self.order.pop() {
            self.hasher.update(&digest);
        }
        is_new
    }

    /// Heap bytes, about: of what came early.
    pub fn held_bytes(&self) -> u64 {
        self.order.early.len() as u64 * EARLY_BYTES
    }

    /// The digest, if so many bytes are all that there are.
    pub fn digest(&self, size_bytes: u64) -> Option<Digest> {
        let is_all = self.order.next == size_bytes && self.order.early.is_empty();
        is_all.then(|| *self.hasher.finalize().as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_order_gives_one_digest() {
        let stretches: Vec<(u64, u64, Digest)> = (0..50)
            .map(|i| (i * (i + 1) / 2, i + 1, [i as u8; 32]))
            .collect();
        let mut in_order = StretchChain::default();
        let mut shuffled = StretchChain::default();
        for at in 0..50 {
            let (offset, len, digest) = stretches[at];
            assert!(in_order.insert(offset, len, digest));
            let (offset, len, digest) = stretches[at * 7 % 50];
            assert!(shuffled.insert(offset, len, digest));
            assert!(!shuffled.insert(offset, len, digest), "twice");
        }
        let size: u64 = stretches.iter().map(|(_, len, _)| len).sum();
        assert!(in_order.digest(size).is_some());
        assert_eq!(in_order.digest(size), shuffled.digest(size));
        assert_eq!(in_order.digest(size + 1), None);
    }

    #[test]
    fn overlaps_and_crowds_are_refused() {
        let mut order = InOrder::default();
        assert!(order.insert(100, 50, ()));
        assert!(!order.insert(99, 2, ()));
        assert!(!order.insert(149, 1, ()));
        assert!(!order.insert(u64::MAX - 3, 10, ()));
        assert!(order.insert(0, 100, ()));
        assert!(order.pop().is_some() && order.pop().is_some() && order.pop().is_none());
        assert!(!order.insert(0, 1, ()), "it was here");
        let crowd = (0..).take_while(|i| order.insert(200 + 2 * i, 1, ()));
        assert_eq!(crowd.count(), EARLY_MAX);
    }
}
