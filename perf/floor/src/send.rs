//! The sender: reads the file piece by piece, keeps about a batch of it unsent in quiche, waits for
//! the confirmation.

use std::collections::VecDeque;
use std::fs::File;
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::path::Path;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use nix::sys::socket::{getsockopt, sockopt::IpMtu};

use crate::Result;
use crate::config::{
    ByReference, CLIENT_CID_BYTES, DONE_STREAM, FILE_STREAM, PIECE_BYTES, config, random_cid,
};
use crate::link::{Link, Socket};

/// What IPv4 and UDP take of a frame.
const HEADER_BYTES: usize = 28;
/// Unsent in quiche at least, as far as the congestion window lets it in, and at most a piece more:
/// what waits there for longer grows cold.
const UNSENT_BYTES: usize = 64 * 1024;
/// What a packet in mid-transfer has besides the file's bytes: header, id and number 8, STREAM
/// frame 8, tag 16.
const PACKET_OVERHEAD_BYTES: usize = 32;

#[expect(
    clippy::disallowed_methods,
    reason = "the clock is read at both ends of the copy, for the user"
)]
pub fn send(to: SocketAddrV4, path: &Path, name: &str, hash: bool) -> Result<()> {
    let started = Instant::now();
    let mut source = Source::open(path, name, hash)?;
    let bytes = source.left;
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect(to)?;
    let payload_bytes = getsockopt(&socket, IpMtu)? as usize - HEADER_BYTES;
    let mut socket = Socket::new(socket)?;
    let (cid, mut config) = (random_cid(CLIENT_CID_BYTES)?, config(payload_bytes, hash)?);
    let local = socket.local.into();
    let conn = quiche::connect_with_buffer_factory::<ByReference>(
        None,
        &cid,
        local,
        to.into(),
        &mut config,
    )?;
    let mut link = Link::new(conn, &mut socket, to, true);
    transfer(&mut link, &mut source)?;
    let seconds = started.elapsed().as_secs_f64();
    let quiche::Stats { retrans, sent, .. } = link.conn.stats();
    println!("{bytes} bytes in {seconds:.3} s; {retrans} of {sent} packets sent again");
    Ok(())
}

fn transfer(link: &mut Link, source: &mut Source) -> Result<()> {
    // As far as packets' sizes tell.
    let mut unsent_bytes = 0;
    loop {
        while link.take()? {}
        if link.conn.stream_recv(DONE_STREAM, &mut [0]) == Ok((1, true)) {
            link.conn.close(true, 0, b"")?;
            link.put()?;
            return Ok(());
        }
        if link.is_over() {
            return Err(link.reason().into());
        }
        if link.conn.is_established() {
            while unsent_bytes < UNSENT_BYTES
                && let Some(taken_bytes) = source.feed(link)?
            {
                unsent_bytes += taken_bytes;
            }
        }
        let put = link.put()?;
        unsent_bytes = unsent_bytes.saturating_sub(
            put.bytes
                .saturating_sub(put.packets * PACKET_OVERHEAD_BYTES),
        );
        if put.packets == 0 {
            unsent_bytes = 0;
            link.wait()?;
        }
    }
}

/// The stream's bytes. quiche keeps references to those that are under way.
struct Source {
    file: File,
    left: u64,
    hasher: Option<blake3::Hasher>,
    /// Read but not offered yet.
    next: Bytes,
    /// Pieces that quiche was given, oldest first.
    given: VecDeque<Bytes>,
    /// Pieces that came back, the newest (which caches still know) last.
    free: Vec<BytesMut>,
}

impl Source {
    fn open(path: &Path, name: &str, hash: bool) -> Result<Source> {
        let file = File::open(path).map_err(|error| format!("{}: {error}", path.display()))?;
        let left = file.metadata()?.len();
        let next = format!("{name}\n").into();
        let hasher = hash.then(blake3::Hasher::new);
        Ok(Source {
            file,
            left,
            hasher,
            next,
            given: VecDeque::new(),
            free: Vec::new(),
        })
    }

    /// Offers quiche what it has room for, up to a piece. `None`: no room, or there is nothing
    /// more.
    fn feed(&mut self, link: &mut Link) -> Result<Option<usize>> {
        if self.next.is_empty() && !self.read()? {
            return Ok(None);
        }
        // The stream does not exist before its first bytes. More than the capacity would cost a
        // packet saying so.
        let capacity = link
            .conn
            .stream_capacity(FILE_STREAM)
            .unwrap_or(self.next.len());
        let offer = self.next.split_to(self.next.len().min(capacity));
        if offer.is_empty() {
            return Ok(None);
        }
        // An end that came after the last byte would be lost for good if it were lost once.
        let ends = self.next.is_empty() && self.left == 0 && self.hasher.is_none();
        let (taken, _) = link.conn.stream_send_zc(FILE_STREAM, offer, ends)?;
        Ok(Some(taken))
    }

    /// False: that was all.
    fn read(&mut self) -> Result<bool> {
        if self.left == 0 {
            let digest = self.hasher.take().map(|hasher| hasher.finalize());
            self.next = digest
                .map(|digest| Bytes::copy_from_slice(digest.as_bytes()))
                .unwrap_or_default();
            return Ok(!self.next.is_empty());
        }
        while let Some(piece) = self.given.pop_front_if(|piece| piece.is_unique()) {
            self.free.extend(piece.try_into_mut());
        }
        let mut piece = self
            .free
            .pop()
            .unwrap_or_else(|| BytesMut::zeroed(PIECE_BYTES));
        piece.truncate(self.left.min(PIECE_BYTES as u64) as usize);
        self.file.read_exact(&mut piece)?;
        self.left -= piece.len() as u64;
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&piece);
        }
        self.next = piece.freeze();
        self.given.push_back(self.next.clone());
        Ok(true)
    }
}
