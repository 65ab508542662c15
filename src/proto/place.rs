//! Where a receiver's target is, told so that only the same host understands it: a copy from there
//! is not led into itself.
//!
//! An object is told as a keyed hash of its device and inode number. The key follows from the boot
//! id, which nobody else has: a peer elsewhere learns nothing and finds nothing.

use super::ObjectId;

/// Most directories that are told, the target first: as deep as paths are in practice, and a
/// message stays small. Those above are seldom anybody's source.
pub const MAX_ABOVE: usize = 128;

/// What objects of this host are told with, as long as its kernel runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostKey([u8; 32]);

/// A target: of which host, and which directories it is and lies in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetPlace {
    pub host: [u8; 16],
    pub above: Vec<u64>,
}

impl HostKey {
    /// None: nothing is known of this host that tells it from others.
    pub fn of_boot(boot_id: [u8; 16]) -> Option<HostKey> {
        let key = || blake3::derive_key("landro 2026-11 objects of a running kernel", &boot_id);
        (boot_id != [0; 16]).then(|| HostKey(key()))
    }

    fn host(&self) -> [u8; 16] {
        let mut host = [0; 16];
        host.copy_from_slice(&blake3::keyed_hash(&self.0, b"host").as_bytes()[..16]);
        host
    }

    fn told(&self, object: ObjectId) -> u64 {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&object.device.to_be_bytes());
        bytes[8..].copy_from_slice(&object.inode.to_be_bytes());
        let mut told = [0; 8];
        told.copy_from_slice(&blake3::keyed_hash(&self.0, &bytes).as_bytes()[..8]);
        u64::from_be_bytes(told)
    }

    /// What is told of a target that is and lies in these.
    pub fn place(&self, above: &[ObjectId]) -> TargetPlace {
        let above = above.iter().take(MAX_ABOVE);
        TargetPlace {
            host: self.host(),
            above: above.map(|&object| self.told(object)).collect(),
        }
    }

    /// A place, if it is on this host.
    pub fn understand(&self, place: TargetPlace) -> Option<NearPlace> {
        (place.host == self.host()).then_some(NearPlace {
            key: *self,
            above: place.above,
        })
    }
}

/// A target on the same host.
#[derive(Clone, Debug)]
pub struct NearPlace {
    key: HostKey,
    above: Vec<u64>,
}

impl NearPlace {
    /// Whether the target is this directory, or lies in it.
    pub fn is_in(&self, object: ObjectId) -> bool {
        self.above.contains(&self.key.told(object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_kernel_understands() {
        let object = |inode| ObjectId { device: 3, inode };
        let (ours, theirs) = (
            HostKey::of_boot([1; 16]).unwrap(),
            HostKey::of_boot([2; 16]).unwrap(),
        );
        let place = ours.place(&[object(7), object(8)]);
        assert!(theirs.understand(place.clone()).is_none());
        let near = ours.understand(place).unwrap();
        assert!(near.is_in(object(7)) && near.is_in(object(8)) && !near.is_in(object(9)));
        assert_eq!(HostKey::of_boot([0; 16]), None);
    }
}
