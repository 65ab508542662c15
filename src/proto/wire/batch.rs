//! Items of one kind that leave as one message: as many as fit, by number and by bytes.

use super::{MAX_BATCH_BYTES, MAX_ITEMS};

/// What is held back to go together.
#[derive(Debug)]
pub struct MessageBatch<T> {
    items: Vec<T>,
    /// At most, when they are encoded.
    bytes: usize,
}

impl<T> Default for MessageBatch<T> {
    fn default() -> MessageBatch<T> {
        let items = Vec::new();
        MessageBatch { items, bytes: 0 }
    }
}

impl<T> MessageBatch<T> {
    /// Adds an item that takes at most so many bytes. Gives what has to leave first, if that leaves
    /// no room for it.
    #[must_use]
    pub fn push(&mut self, item: T, most_bytes: usize) -> Option<Vec<T>> {
        let is_full = self.items.len() == MAX_ITEMS || self.bytes + most_bytes > MAX_BATCH_BYTES;
        let full = if is_full { self.take() } else { None };
        self.bytes += most_bytes;
        self.items.push(item);
        full
    }

    /// What is there, if anything is.
    pub fn take(&mut self) -> Option<Vec<T>> {
        self.bytes = 0;
        Some(std::mem::take(&mut self.items)).filter(|items| !items.is_empty())
    }

    /// Holds the sum against the items.
    #[cfg(test)]
    pub fn check(&self, most_bytes: fn(&T) -> usize) {
        let bytes: usize = self.items.iter().map(most_bytes).sum();
        assert_eq!(bytes, self.bytes, "bytes held back to go together");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fits_no_more_lets_the_others_go_first() {
        let mut batch = MessageBatch::default();
        assert!(batch.take().is_none());
        for item in 0..MAX_ITEMS {
            assert!(batch.push(item, 1).is_none());
        }
        let full = batch.push(MAX_ITEMS, MAX_BATCH_BYTES);
        assert_eq!(full.map(|items| items.len()), Some(MAX_ITEMS));
        assert_eq!(batch.push(0, 1), Some(vec![MAX_ITEMS]), "bytes count, too");
        batch.check(|_| 1);
        assert_eq!(batch.take(), Some(vec![0]));
    }
}
