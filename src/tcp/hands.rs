//! Who seals and opens a connection's records: we, or the kernel.

use super::record::RecordContent;

/// Who has a direction's records.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Hands {
    Ours,
    /// Ours, and the kernel's from the next record that nothing is left of.
    Wanted,
    Kernel,
    /// The kernel's, which is to go on with the next key.
    Due,
}

impl Hands {
    /// Whether the kernel took the key that it was given. False: there is no way back.
    pub fn answered(&mut self, took: bool) -> bool {
        let is_first = *self == Hands::Wanted;
        *self = match took {
            true => Hands::Kernel,
            false => Hands::Ours,
        };
        took || is_first
    }
}

/// Both directions.
pub(super) struct InKernel {
    pub seals: Hands,
    pub opens: Hands,
    /// TLS is between the socket and TCP.
    pub is_layered: bool,
    /// What the bytes that go out are.
    pub content: RecordContent,
    /// KeyUpdate goes out, and then the next key begins.
    pub is_update_out: bool,
}

impl InKernel {
    pub fn new(is_wanted: bool) -> InKernel {
        let hands = match is_wanted {
            true => Hands::Wanted,
            false => Hands::Ours,
        };
        InKernel {
            seals: hands,
            opens: hands,
            is_layered: false,
            content: RecordContent::Data,
            is_update_out: false,
        }
    }

    pub fn seals(&self) -> bool {
        matches!(self.seals, Hands::Kernel | Hands::Due)
    }

    /// Whether records are still opened here that are to be the kernel's.
    pub fn is_to_open(&self) -> bool {
        self.opens == Hands::Wanted
    }

    /// Whether nothing may go out before the kernel has the next key.
    pub fn owes_key(&self) -> bool {
        self.is_update_out || self.seals == Hands::Due
    }

    /// A direction has its next key.
    pub fn renewed(&mut self, is_ours: bool) {
        let hands = match is_ours {
            true => &mut self.seals,
            false => &mut self.opens,
        };
        if *hands == Hands::Kernel {
            *hands = Hands::Due;
        }
    }
}
