//! AES-128-GCM by BoringSSL, on buffers in place: what seals and opens the records of TLS.

use std::fmt;
use std::ptr::{self, NonNull};

use boring_sys as ffi;

#[cfg(test)]
mod tests;

/// Bytes of a tag, which a sealed message has beyond its plaintext.
pub const TAG_BYTES: usize = 16;

/// A key of TLS records, as somebody else has to know it who goes on with it.
#[derive(Clone)]
pub struct RecordKey {
    /// The key itself, of AES-128-GCM.
    pub key: [u8; 16],
    /// What nonces are made from.
    pub iv: [u8; 12],
    /// Records that were sealed or opened with it before.
    pub sequence: u64,
}

/// Why the kernel opens no more records of a peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BadRecord {
    /// It was changed, or sealed with another key.
    NotAuthentic,
    /// It says that it has more than a record may have.
    TooLong,
    /// What came has no header of a record.
    NotTls,
    /// Something was said of a next key, which was not given.
    NoKey,
}

/// One key, ready for use. It is overwritten when this is dropped (OPENSSL_free cleanses what it
/// gives back).
pub struct Aead {
    context: NonNull<ffi::EVP_AEAD_CTX>,
}

/// A message that was not sealed with this key, nonce and additional data, or was changed since.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NotAuthentic;

impl fmt::Display for NotAuthentic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the message is not authentic")
    }
}

impl std::error::Error for NotAuthentic {}

// SAFETY: the context is memory of BoringSSL's heap that belongs to this value alone, and none of
// its functions knows of threads.
unsafe impl Send for Aead {}

impl Aead {
    /// Prepares a key.
    ///
    /// # Panics
    /// When there is no memory.
    pub fn new(key: &[u8; 16]) -> Aead {
        // SAFETY: the key is as long as it is said to be, and copied before the call returns.
        let context = unsafe {
            ffi::EVP_AEAD_CTX_new(
                ffi::EVP_aead_aes_128_gcm(),
                key.as_ptr(),
                key.len(),
                TAG_BYTES,
            )
        };
        // A key of 16 bytes and a tag of 16 are what the algorithm takes.
        let context = NonNull::new(context).expect("no memory for a key");
        Aead { context }
    }

    /// Encrypts `buffer` in place and gives the tag over it and `aad`. A nonce is for one message
    /// of a key: a second one gives both away.
    ///
    /// # Panics
    /// For a buffer of more than 64 GiB, which AES-GCM cannot seal.
    pub fn seal_in_place(
        &self,
        nonce: &[u8; 12],
        aad: &[u8],
        buffer: &mut [u8],
    ) -> [u8; TAG_BYTES] {
        let mut tag = [0; TAG_BYTES];
        let mut tag_bytes = 0;
        let at = buffer.as_mut_ptr();
        // SAFETY: every pointer comes with the length of what it points to, and all outlive the
        // call. Input and output are the same memory, which is allowed; the tag overlaps nothing.
        let ok = unsafe {
            ffi::EVP_AEAD_CTX_seal_scatter(
                self.context.as_ptr(),
                at,
                tag.as_mut_ptr(),
                &raw mut tag_bytes,
                TAG_BYTES,
                nonce.as_ptr(),
                nonce.len(),
                at,
                buffer.len(),
                ptr::null(),
                0,
                aad.as_ptr(),
                aad.len(),
            )
        };
        assert!(ok == 1 && tag_bytes == TAG_BYTES, "nothing was sealed");
        tag
    }

    /// Decrypts `buffer`, a ciphertext with its tag behind it, in place, and gives the length of
    /// the plaintext.
    ///
    /// # Errors
    /// When it is not authentic; nothing of the plaintext is in `buffer` then.
    pub fn open_in_place(
        &self,
        nonce: &[u8; 12],
        aad: &[u8],
        buffer: &mut [u8],
    ) -> Result<usize, NotAuthentic> {
        let mut plain_bytes = 0;
        let at = buffer.as_mut_ptr();
        // SAFETY: as above; at most as many bytes are written as `buffer` has.
        let ok = unsafe {
            ffi::EVP_AEAD_CTX_open(
                self.context.as_ptr(),
                at,
                &raw mut plain_bytes,
                buffer.len(),
                nonce.as_ptr(),
                nonce.len(),
                at,
                buffer.len(),
                aad.as_ptr(),
                aad.len(),
            )
        };
        if ok == 1 {
            return Ok(plain_bytes);
        }
        // BoringSSL leaves a line in a queue of this thread, which others read as theirs.
        // SAFETY: it takes nothing and touches memory of this thread only.
        unsafe { ffi::ERR_clear_error() };
        Err(NotAuthentic)
    }
}

impl Drop for Aead {
    fn drop(&mut self) {
        // SAFETY: made by EVP_AEAD_CTX_new, given back once, not used afterwards.
        unsafe { ffi::EVP_AEAD_CTX_free(self.context.as_ptr()) }
    }
}

impl fmt::Debug for Aead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Aead")
    }
}
