//! TLS 1.3 records that the kernel seals and opens (its module `tls`), on a socket that was given
//! the keys.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::sys::socket::sockopt::{TcpTlsRx, TcpTlsTx, TcpUlp, TlsCryptoInfo};
use nix::sys::socket::{MsgFlags, recvmsg, setsockopt};
use socket2::{MsgHdr, SockRef};

use crate::aead::{BadRecord, RecordKey};
use crate::availability::Availability;
use crate::cmsg::{self, ControlPart};
use crate::tcp::{TcpListener, TcpStream, unless_later};

#[cfg(test)]
mod tests;

/// What [`TcpStream::receive_record`] found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RecordsHeard {
    /// Nothing that is whole.
    Nothing,
    /// What one record says, or several of data.
    Of {
        /// Their type (RFC 8446 §5.1).
        content: u8,
        /// How much of the buffer is filled.
        bytes: usize,
    },
    /// The peer sends no more. It may have stopped within a record.
    End,
}

impl BadRecord {
    /// What an error of [`TcpStream::receive_record`] says of the peer; `None`: nothing.
    pub fn of(error: &io::Error) -> Option<BadRecord> {
        // tls_rx_msg_size and tls_rx_one_record in net/tls/tls_sw.c.
        match error.raw_os_error()? {
            libc::EBADMSG => Some(BadRecord::NotAuthentic),
            libc::EMSGSIZE => Some(BadRecord::TooLong),
            libc::EINVAL => Some(BadRecord::NotTls),
            libc::EKEYEXPIRED => Some(BadRecord::NoKey),
            _ => None,
        }
    }
}

fn for_kernel(key: &RecordKey) -> TlsCryptoInfo {
    // What TLS 1.2 calls the salt is the IV's first part; the rest is in every nonce, too.
    let [s0, s1, s2, s3, iv @ ..] = key.iv;
    TlsCryptoInfo::Aes128Gcm(libc::tls12_crypto_info_aes_gcm_128 {
        info: libc::tls_crypto_info {
            version: libc::TLS_1_3_VERSION,
            cipher_type: libc::TLS_CIPHER_AES_GCM_128,
        },
        iv,
        key: key.key,
        salt: [s0, s1, s2, s3],
        rec_seq: key.sequence.to_be_bytes(),
    })
}

impl TcpStream {
    /// Puts TLS between this connection and TCP. Nothing changes until a direction has its key.
    ///
    /// # Errors
    /// `ENOENT`: there is no module, nor can this process load it; `ENOTCONN`: there is no
    /// connection.
    pub fn layer_tls(&self) -> io::Result<()> {
        Ok(setsockopt(self, TcpUlp::default(), b"tls")?)
    }

    /// Has the kernel seal what is sent from now on, or go on with the next key: in records of
    /// data, unless [`TcpStream::send_record`] says otherwise.
    ///
    /// # Errors
    /// What setsockopt(2) says: `EBUSY` where there is a key and the kernel (before 6.14) takes no
    /// second one; `ENOENT` where it lacks the cipher.
    pub fn seal_with(&self, key: &RecordKey) -> io::Result<()> {
        Ok(setsockopt(self, TcpTlsTx, &for_kernel(key))?)
    }

    /// Has the kernel open what is received from now on, or go on with the next key. The next byte
    /// that nobody received yet begins a record.
    ///
    /// # Errors
    /// As of [`TcpStream::seal_with`].
    pub fn open_with(&self, key: &RecordKey) -> io::Result<()> {
        Ok(setsockopt(self, TcpTlsRx, &for_kernel(key))?)
    }

    /// Sends a record of this type, of its own. `None`: there is no room now.
    ///
    /// # Errors
    /// As of [`TcpStream::send`].
    pub fn send_record(&self, content: u8, said: &[u8]) -> io::Result<Option<usize>> {
        let mut control = ControlPart::new();
        control.push_record_type(content);
        let parts = [IoSlice::new(said)];
        let message = MsgHdr::new()
            .with_buffers(&parts)
            .with_control(control.as_bytes());
        unless_later(SockRef::from(self).sendmsg(&message, libc::MSG_NOSIGNAL))
    }

    /// Receives what records of one type say. What does not fit into `buffer` is there the next
    /// time. Records of data that say nothing are passed over.
    ///
    /// # Errors
    /// As of [`TcpStream::receive`], and what [`BadRecord`] names: no more is received then, but
    /// there may still be something to send.
    pub fn receive_record(&self, buffer: &mut [u8]) -> io::Result<RecordsHeard> {
        if buffer.is_empty() {
            return Ok(RecordsHeard::Nothing);
        }
        let mut control = [0; CONTROL_BYTES];
        let mut parts = [IoSliceMut::new(buffer)];
        let message = match recvmsg::<()>(
            self.as_raw_fd(),
            &mut parts,
            Some(&mut control),
            MsgFlags::MSG_DONTWAIT,
        ) {
            Ok(message) => message,
            Err(Errno::EAGAIN | Errno::EINTR) => return Ok(RecordsHeard::Nothing),
            Err(error) => {
                // The kernel leaves it on the socket as well (tls_err_abort), and the alert that is
                // the answer would not be sent.
                let _ = SockRef::from(self).take_error();
                return Err(error.into());
            }
        };
        let bytes = message.bytes;
        // Each record is told with its type; the end of the stream is not.
        Ok(match cmsg::decode(&control).record_type {
            Some(content) => RecordsHeard::Of { content, bytes },
            None => RecordsHeard::End,
        })
    }
}

/// Whether the kernel seals, opens, and goes on to a next key, which every long connection needs;
/// tried on loopback.
pub fn probe() -> Availability {
    match try_it() {
        Ok(()) => Availability::Yes,
        Err((step, error)) => Availability::No(format!("{step}: {error} - {}", hint(step, &error))),
    }
}

/// Room for one control message of a byte: struct cmsghdr, and a word.
const CONTROL_BYTES: usize = 24;

const LAYER: &str = "TCP_ULP";
const KEY: &str = "TLS_TX";
const NEXT_KEY: &str = "TLS_TX again";

fn try_it() -> Result<(), (&'static str, io::Error)> {
    let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let at = |step| move |error| (step, error);
    let listener = TcpListener::bind(loopback, false).map_err(at("listen"))?;
    let address = listener.local_addr().map_err(at("listen"))?;
    // Over loopback the connection is there when connect(2) returns.
    let stream = TcpStream::connect(address, None, None).map_err(at("connect"))?;
    let key = RecordKey {
        key: [0; 16],
        iv: [0; 12],
        sequence: 0,
    };
    stream.layer_tls().map_err(at(LAYER))?;
    stream.open_with(&key).map_err(at("TLS_RX"))?;
    stream.seal_with(&key).map_err(at(KEY))?;
    stream.seal_with(&key).map_err(at(NEXT_KEY))
}

fn hint(step: &str, error: &io::Error) -> &'static str {
    match (step, error.raw_os_error()) {
        (LAYER, Some(libc::ENOENT)) => {
            "the kernel has no module tls, or it is not loaded (modprobe tls)"
        }
        (NEXT_KEY, Some(libc::EBUSY)) => "needs Linux 6.14, which can renew keys",
        (_, Some(libc::ENOENT)) => "the kernel has no AES-GCM, or it is not loaded (modprobe gcm)",
        (_, Some(libc::EPERM | libc::EACCES)) => "a sandbox forbids it",
        _ => "unexpected",
    }
}
