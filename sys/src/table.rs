//! Things by number, operations in flight and sockets: a slab key and the generation of its slot,
//! never a pointer.

use slab::Slab;

/// Values the kernel, or the driver's user, refers to by number. A number from an earlier use of a
/// slot finds nothing.
pub(crate) struct Table<T> {
    slots: Slab<(u32, T)>,
    generation: u32,
}

impl<T> Default for Table<T> {
    fn default() -> Table<T> {
        Table {
            slots: Slab::new(),
            generation: 0,
        }
    }
}

impl<T> Table<T> {
    /// Stores `value` and gives its number, which is 2^32 or more.
    pub fn insert(&mut self, value: T) -> u64 {
        // From 1, so that 0 (a completion of a request without a number) is never found.
        self.generation = self.generation.wrapping_add(1).max(1);
        let key = self.slots.insert((self.generation, value));
        u64::from(self.generation) << 32 | key as u64
    }

    pub fn get(&self, number: u64) -> Option<&T> {
        let (generation, value) = self.slots.get(number as u32 as usize)?;
        (*generation == (number >> 32) as u32).then_some(value)
    }

    pub fn get_mut(&mut self, number: u64) -> Option<&mut T> {
        let (generation, value) = self.slots.get_mut(number as u32 as usize)?;
        (*generation == (number >> 32) as u32).then_some(value)
    }

    pub fn remove(&mut self, number: u64) -> Option<T> {
        self.get_mut(number)?;
        Some(self.slots.remove(number as u32 as usize).1)
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_number_finds_nothing() {
        let mut table = Table::default();
        let first = table.insert('a');
        assert_eq!(table.get_mut(first), Some(&mut 'a'));
        assert_eq!(table.get(first), Some(&'a'));
        assert_eq!(table.remove(first), Some('a'));
        let second = table.insert('b');
        assert_eq!(first as u32, second as u32);
        assert_eq!((table.remove(first), table.get_mut(0)), (None, None));
        assert_eq!((table.get(first), table.get(second)), (None, Some(&'b')));
        assert_eq!(table.remove(second), Some('b'));
        assert!(table.is_empty());
    }
}
