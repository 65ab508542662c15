//! What quiche keeps for one connection, weighed: quiche bounds offsets, not how many ranges,
//! packets and frames it keeps.
//!
//! Each call that may change a connection goes through [`Held::act`], which compares this thread's
//! heap before and after. So whatever a peer finds to make quiche keep has one bound, and none has
//! to be found first. What is handed to quiche by reference is not quiche's: see [`Given`].

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use bytes::Bytes;
use landro_sys::weigh;

use super::reason::QuicError;

/// quiche takes what it sends as [`Given`], by reference.
pub(super) type Quiche = quiche::Connection<ByReference>;

#[derive(Clone, Default, Debug)]
pub(super) struct ByReference;

impl quiche::BufFactory for ByReference {
    type Buf = Given;
    type DgramBuf = Vec<u8>;

    fn buf_from_slice(buf: &[u8]) -> Given {
        Given {
            bytes: weigh::uncounted(|| Bytes::copy_from_slice(buf)),
            weight_bytes: 0,
            mark: None,
        }
    }

    fn dgram_buf_from_slice(buf: &[u8]) -> Vec<u8> {
        buf.to_vec()
    }
}

/// Bytes in quiche's hands until they are acknowledged. Their memory was taken elsewhere and is
/// given back inside quiche: counted as it happens, it would make the connection lighter by what it
/// never kept. Data lies in the pool, which has a bound of its own; control messages have none, so
/// they weigh what they are long.
#[derive(Debug)]
pub(super) struct Given {
    bytes: Bytes,
    weight_bytes: i64,
    /// Shared by all of a stream that is not acknowledged yet, where that is of interest.
    mark: Option<Arc<()>>,
}

impl Given {
    pub fn data(bytes: Bytes) -> Given {
        Given {
            bytes,
            weight_bytes: 0,
            mark: None,
        }
    }

    /// The same of an application, which has its memory in its own hands. As long as somebody has
    /// the mark, some of it is not acknowledged.
    pub fn marked(bytes: Bytes, mark: &Arc<()>) -> Given {
        Given {
            bytes,
            weight_bytes: 0,
            mark: Some(Arc::clone(mark)),
        }
    }

    /// To be made within [`Held::act`], as it is dropped there.
    pub fn control(bytes: Bytes) -> Given {
        let weight_bytes = bytes.len() as i64;
        weigh::add(weight_bytes);
        Given {
            bytes,
            weight_bytes,
            mark: None,
        }
    }
}

impl AsRef<[u8]> for Given {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Clone for Given {
    fn clone(&self) -> Given {
        Given {
            bytes: weigh::uncounted(|| self.bytes.clone()),
            weight_bytes: 0,
            mark: self.mark.clone(),
        }
    }
}

impl quiche::BufSplit for Given {
    fn split_at(&mut self, at: usize) -> Given {
        Given {
            bytes: weigh::uncounted(|| self.bytes.split_off(at)),
            weight_bytes: 0,
            mark: self.mark.clone(),
        }
    }
}

impl Drop for Given {
    fn drop(&mut self) {
        weigh::uncounted(|| drop(std::mem::take(&mut self.bytes)));
        weigh::add(-self.weight_bytes);
    }
}

/// A quiche connection and its weight. It can be looked at freely, and changed only on the scale.
pub(super) struct Held {
    quiche: Box<Quiche>,
    bytes: i64,
}

impl Held {
    /// Weighs a connection from its making on.
    pub fn make(make: impl FnOnce() -> Result<Quiche, QuicError>) -> Result<Held, QuicError> {
        let before = weigh::live_bytes();
        let quiche = Box::new(make()?);
        Ok(Held {
            quiche,
            bytes: weigh::live_bytes() - before,
        })
    }

    /// Heap bytes kept for the connection.
    pub fn bytes(&self) -> u64 {
        self.bytes.max(0) as u64
    }

    /// The only way to change the connection.
    #[inline]
    pub fn act(&mut self) -> Scale<'_> {
        Scale {
            before: weigh::live_bytes(),
            held: self,
        }
    }
}

impl Deref for Held {
    type Target = Quiche;

    fn deref(&self) -> &Quiche {
        &self.quiche
    }
}

/// The connection while it is changed.
pub(super) struct Scale<'a> {
    held: &'a mut Held,
    before: i64,
}

impl Deref for Scale<'_> {
    type Target = Quiche;

    fn deref(&self) -> &Quiche {
        &self.held.quiche
    }
}

impl DerefMut for Scale<'_> {
    fn deref_mut(&mut self) -> &mut Quiche {
        &mut self.held.quiche
    }
}

impl Drop for Scale<'_> {
    #[inline]
    fn drop(&mut self) {
        // Never below nothing: a debt would hide what is kept later.
        self.held.bytes = (self.held.bytes + weigh::live_bytes() - self.before).max(0);
    }
}
