//! The receiver: one connection after the other, each of which writes one file in pieces as they
//! arrive.

use std::fs::File;
use std::net::{SocketAddrV4, UdpSocket};
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::Result;
use crate::config::{
    ByReference, DONE_STREAM, FILE_STREAM, MAX_NAME_BYTES, PIECE_BYTES, SERVER_CID_BYTES, config,
    random_cid,
};
use crate::link::{Link, Socket};

/// The server sends little more than acknowledgements, which fit everywhere.
const PAYLOAD_BYTES: usize = 1200;

pub fn serve(listen: SocketAddrV4, root: &Path, hash: bool) -> Result<()> {
    if !root.is_dir() {
        return Err(format!("{}: not a directory", root.display()).into());
    }
    let mut config = config(PAYLOAD_BYTES, hash)?;
    let mut socket = Socket::new(UdpSocket::bind(listen)?)?;
    println!("listening on {}", socket.local);
    loop {
        let local = socket.local;
        let (peer, packet) = socket.first()?;
        // What is left of an earlier connection is no beginning of a new one.
        let is_new = quiche::Header::from_slice(packet, SERVER_CID_BYTES).is_ok_and(|header| {
            header.ty == quiche::Type::Initial && header.version == quiche::PROTOCOL_VERSION
        });
        if !is_new {
            continue;
        }
        let cid = random_cid(SERVER_CID_BYTES)?;
        let mut conn = quiche::accept_with_buf_factory::<ByReference>(
            &cid,
            None,
            local.into(),
            peer.into(),
            &mut config,
        )?;
        let understood = conn
            .recv(
                packet,
                quiche::RecvInfo {
                    from: peer.into(),
                    to: local.into(),
                },
            )
            .is_ok();
        // Whom it refuses it tells so.
        if !understood && conn.local_error().is_none() {
            continue;
        }
        let target = Target::new(root, hash);
        if let Err(error) = receive(&mut Link::new(conn, &mut socket, peer, false), target) {
            eprintln!("landro-floor: {peer}: {error}");
        }
    }
}

/// One connection, to its end.
fn receive(link: &mut Link, mut target: Target) -> Result<()> {
    let mut done = Ok(false);
    loop {
        if let Ok(false) = done {
            done = target.drain(link);
            match &done {
                Ok(false) => {}
                // With its end, for an end alone may be lost for good.
                Ok(true) => drop(link.conn.stream_send(DONE_STREAM, b"\n", true)?),
                Err(error) => link.conn.close(true, 1, error.to_string().as_bytes())?,
            }
        }
        // One acknowledgement for all that was taken.
        link.put()?;
        if link.is_over() {
            return if done? {
                Ok(())
            } else {
                Err(link.reason().into())
            };
        }
        if !link.take()? {
            link.wait()?;
        }
    }
}

/// Where the stream goes.
struct Target<'a> {
    root: &'a Path,
    file: Option<File>,
    offset: u64,
    buffer: Vec<u8>,
    filled: usize,
    hasher: Option<blake3::Hasher>,
    /// Of the stream's end, which is not the file's.
    digest_bytes: usize,
}

impl Target<'_> {
    fn new(root: &Path, hash: bool) -> Target<'_> {
        let digest_bytes = if hash { blake3::OUT_LEN } else { 0 };
        let buffer = vec![0; PIECE_BYTES + digest_bytes];
        let hasher = hash.then(blake3::Hasher::new);
        Target {
            root,
            file: None,
            offset: 0,
            buffer,
            filled: 0,
            hasher,
            digest_bytes,
        }
    }

    /// Writes what quiche has, as far as it makes whole pieces. True: the file is complete.
    fn drain(&mut self, link: &mut Link) -> Result<bool> {
        loop {
            let (bytes, ended) = match link
                .conn
                .stream_recv(FILE_STREAM, &mut self.buffer[self.filled..])
            {
                Ok(read) => read,
                Err(quiche::Error::Done | quiche::Error::InvalidStreamState(_)) => {
                    return Ok(false);
                }
                Err(error) => return Err(error.into()),
            };
            self.filled += bytes;
            if self.file.is_none() {
                self.begin(ended)?;
            }
            if ended {
                return self.end().map(|()| true);
            }
            if self.filled == self.buffer.len() {
                self.write(PIECE_BYTES)?;
            }
        }
    }

    /// Makes the file when the line with its name is there.
    fn begin(&mut self, ended: bool) -> Result<()> {
        let received = &self.buffer[..self.filled];
        let Some(name_bytes) = received
            .iter()
            .take(MAX_NAME_BYTES + 1)
            .position(|byte| *byte == b'\n')
        else {
            let never = ended || self.filled > MAX_NAME_BYTES;
            return if never {
                Err("refused: no name of a file".into())
            } else {
                Ok(())
            };
        };
        let name = std::str::from_utf8(&received[..name_bytes])?;
        if matches!(name, "" | "." | "..") || name.contains(['/', '\0']) {
            return Err(format!("refused: {name:?} is not the name of a file").into());
        }
        let path = self.root.join(name);
        self.file =
            Some(File::create(&path).map_err(|error| format!("refused: {name:?}: {error}"))?);
        self.buffer.copy_within(name_bytes + 1..self.filled, 0);
        self.filled -= name_bytes + 1;
        Ok(())
    }

    /// Writes the first bytes of the buffer.
    fn write(&mut self, bytes: usize) -> Result<()> {
        let piece = &self.buffer[..bytes];
        if let Some(hasher) = &mut self.hasher {
            hasher.update(piece);
        }
        let file = self.file.as_ref().ok_or("a file without a name")?;
        file.write_all_at(piece, self.offset)?;
        self.offset += bytes as u64;
        self.buffer.copy_within(bytes..self.filled, 0);
        self.filled -= bytes;
        Ok(())
    }

    fn end(&mut self) -> Result<()> {
        let last_bytes = self
            .filled
            .checked_sub(self.digest_bytes)
            .ok_or("a stream without its digest")?;
        self.write(last_bytes)?;
        match &self.hasher {
            Some(hasher) if hasher.finalize().as_bytes()[..] != self.buffer[..self.filled] => {
                Err("what was written is not what was sent".into())
            }
            _ => Ok(()),
        }
    }
}
