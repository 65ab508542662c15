//! TLS 1.3 records that the kernel seals and opens (its module `tls`), on a socket that was given
//! the keys.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::sys::socket::sockopt::{TcpTlsRx, TcpTlsTx, TcpUlp, TlsCryptoInfo};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, TlsGetRecordType, recvmsg, setsockopt};
use socket2::{MsgHdr, SockRef};

use crate::aead::RecordKey;
use crate::availability::Availability;
use crate::cmsg::ControlPart;
use crate::tcp::{TcpListener, TcpStream, unless_later};

#[cfg(test)]
mod tests;

/// What a record of data is (RFC 8446 §5.1).
const APPLICATION_DATA: u8 = 23;

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

    /// Has the kernel seal what is sent from now on, or go on with the next key: in records of data,
    /// unless [`TcpStream::send_record`] says otherwise.
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

    /// Receives what records of one type say, several of data if they are there: which type, and
    /// how much. `Some` of no bytes: the peer sends no more.
    ///
    /// # Errors
    /// As of [`TcpStream::receive`], and `EBADMSG`: a record is not authentic; `EMSGSIZE`,
    /// `EINVAL`: it is none; `EKEYEXPIRED`: the peer said that the next key begins, and it was not
    /// given yet.
    pub fn receive_record(&self, buffer: &mut [u8]) -> io::Result<Option<(u8, usize)>> {
        let mut control = nix::cmsg_space!(u8);
        let mut parts = [IoSliceMut::new(buffer)];
        let message = match recvmsg::<()>(
            self.as_raw_fd(),
            &mut parts,
            Some(&mut control),
            MsgFlags::MSG_DONTWAIT,
        ) {
            Ok(message) => message,
            Err(Errno::EAGAIN | Errno::EINTR) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let mut content = APPLICATION_DATA;
        for told in message.cmsgs()? {
            if let ControlMessageOwned::TlsGetRecordType(kind) = told {
                content = number(kind);
            }
        }
        Ok(Some((content, message.bytes)))
    }
}

/// Whether [`TcpStream::receive_record`] failed for what the peer sent: its seal is broken, or it is
/// no record.
pub fn is_not_authentic(error: &io::Error) -> bool {
    let errno = error.raw_os_error();
    matches!(errno, Some(libc::EBADMSG | libc::EMSGSIZE | libc::EINVAL))
}

fn number(kind: TlsGetRecordType) -> u8 {
    match kind {
        TlsGetRecordType::ChangeCipherSpec => 20,
        TlsGetRecordType::Alert => 21,
        TlsGetRecordType::Handshake => 22,
        TlsGetRecordType::ApplicationData => APPLICATION_DATA,
        TlsGetRecordType::Unknown(number) => number,
        _ => 0,
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

const LAYER: &str = "TCP_ULP";
const KEY: &str = "TLS_TX";
const NEXT_KEY: &str = "TLS_TX again";

fn try_it() -> Result<(), (&'static str, io::Error)> {
    let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let at = |step| move |error| (step, error);
    let listener = TcpListener::bind(loopback, false).map_err(at("listen"))?;
    let address = listener.local_addr().map_err(at("listen"))?;
    // Over loopback the connection is there when connect(2) returns.
    let stream = TcpStream::connect(address).map_err(at("connect"))?;
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
