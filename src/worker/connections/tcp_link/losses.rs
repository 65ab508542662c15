//! When the kernel's usual congestion control is left for BBR: packets are lost all the time.
//!
//! CUBIC and Reno take each lost packet for a full queue and send less. Where one packet in a
//! hundred is lost for other reasons that leaves a third of a 1 Gbit/s wire, and BBR fills it
//! (docs/adr/0039). Where nothing is lost CUBIC costs less.

use std::sync::atomic::{AtomicBool, Ordering};

use landro_sys::TcpStream;

/// A look at the kernel's counters after so many bytes: some 360 packets of 1,448 bytes.
const LOOK_BYTES: usize = 512 << 10;

/// So many looks in a row that all saw losses are no accident. A queue that overflows loses many
/// packets at once, and then none for many megabytes.
const LOOKS: u32 = 4;

/// So many of 1,000 packets, in these looks together. CUBIC fills a wire of a short round trip
/// where fewer are lost.
const LOST_PER_MILLE: u64 = 4;

/// Congestion controls that take a lost packet for a full queue, and that hosts have unless an
/// administrator chose another.
const USUAL: [&str; 2] = ["cubic", "reno"];

const BBR: &str = "bbr";

/// This process cannot have it. For each question root has the kernel look for a module, and waits.
static IS_REFUSED: AtomicBool = AtomicBool::new(false);

/// What of a stream was lost of late.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum LossWatch {
    Watching {
        /// Since the last look.
        sent_bytes: usize,
        /// Packets sent again until then.
        again_packets: u32,
        lossy: Lossy,
    },
    /// Nothing is to be done, or nothing can be.
    Over,
}

/// Looks in a row that saw losses.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Lossy {
    looks: u32,
    packets: u64,
    again_packets: u64,
}

impl LossWatch {
    pub(super) fn new() -> LossWatch {
        LossWatch::Watching {
            sent_bytes: 0,
            again_packets: 0,
            lossy: Lossy::default(),
        }
    }

    /// The kernel took so many bytes to send.
    pub(super) fn sent(&mut self, stream: &TcpStream, bytes: usize) {
        let LossWatch::Watching {
            sent_bytes,
            again_packets,
            lossy,
        } = self
        else {
            return;
        };
        *sent_bytes += bytes;
        if *sent_bytes < LOOK_BYTES {
            return;
        }
        let Ok(info) = stream.info() else {
            return *self = LossWatch::Over;
        };
        let packets = *sent_bytes as u64 / u64::from(info.mss_bytes.max(1));
        let again = info.retransmitted_packets.saturating_sub(*again_packets);
        (*sent_bytes, *again_packets) = (0, info.retransmitted_packets);
        if lossy.add(packets, u64::from(again)) {
            let is_usual = |name: String| USUAL.contains(&name.as_str());
            if !IS_REFUSED.load(Ordering::Relaxed)
                && stream.congestion().is_ok_and(is_usual)
                && stream.set_congestion(BBR).is_err()
            {
                // The other kind of lane carries what this one does not.
                IS_REFUSED.store(true, Ordering::Relaxed);
            }
            *self = LossWatch::Over;
        }
    }
}

impl Lossy {
    /// A look saw that of so many packets some were sent again. True: these are enough.
    fn add(&mut self, packets: u64, again: u64) -> bool {
        if again == 0 {
            *self = Lossy::default();
            return false;
        }
        self.looks += 1;
        self.packets += packets;
        self.again_packets += again;
        self.looks >= LOOKS && self.again_packets * 1000 >= self.packets * LOST_PER_MILLE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hundredth_is_too_much_and_a_burst_is_none() {
        let mut lossy = Lossy::default();
        let looks: Vec<bool> = [4, 3, 2, 5].map(|again| lossy.add(362, again)).to_vec();
        assert_eq!(looks, [false, false, false, true]);

        let mut burst = Lossy::default();
        for again in [200, 0, 0, 300, 1, 0, 100] {
            assert!(!burst.add(362, again));
        }

        let mut little = Lossy::default();
        for _ in 0..100 {
            assert!(!little.add(362, 1), "one in 362");
        }
    }
}
