//! Lines that say the same of many entries: the first few, then a count of each kind.

use std::collections::HashMap;

/// Lines of one kind; more say nothing new.
const SHOWN_OF_A_KIND: u64 = 5;

/// Kinds that are told apart; a peer that makes up more has them counted as one.
const KINDS_MAX: usize = 100;

/// Messages by kind.
#[derive(Default)]
pub struct Repeats {
    kinds: HashMap<String, RepeatedKind>,
    others: u64,
}

struct RepeatedKind {
    /// Which came first.
    number: usize,
    seen: u64,
}

impl Repeats {
    /// Whether one more of this kind is to be shown.
    pub fn admits(&mut self, kind: &str) -> bool {
        if let Some(known) = self.kinds.get_mut(kind) {
            known.seen += 1;
            return known.seen <= SHOWN_OF_A_KIND;
        }
        if self.kinds.len() >= KINDS_MAX {
            self.others += 1;
            return self.others <= SHOWN_OF_A_KIND;
        }
        let number = self.kinds.len();
        self.kinds
            .insert(kind.to_owned(), RepeatedKind { number, seen: 1 });
        true
    }

    /// How many of each kind were not shown, in the order the kinds came in.
    pub fn left_out(&self) -> impl Iterator<Item = (&str, u64)> {
        let mut kinds: Vec<_> = self.kinds.iter().collect();
        kinds.sort_unstable_by_key(|(_, kind)| kind.number);
        let others = ("of other kinds", self.others);
        kinds
            .into_iter()
            .map(|(text, kind)| (text.as_str(), kind.seen))
            .chain([others])
            .map(|(text, seen)| (text, seen.saturating_sub(SHOWN_OF_A_KIND)))
            .filter(|(_, left_out)| *left_out > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_of_a_kind_and_a_count() {
        let mut repeats = Repeats::default();
        let shown = (0..575).filter(|_| repeats.admits("full")).count();
        assert_eq!(shown, 5);
        assert!(repeats.admits("denied"));
        assert_eq!(repeats.left_out().collect::<Vec<_>>(), [("full", 570)]);
    }

    #[test]
    fn made_up_kinds_are_one() {
        let mut repeats = Repeats::default();
        let shown = (0..10_000)
            .filter(|n| repeats.admits(&n.to_string()))
            .count();
        assert_eq!(shown, KINDS_MAX + 5);
        assert_eq!(repeats.kinds.len(), KINDS_MAX);
        assert_eq!(repeats.left_out().count(), 1);
    }
}
