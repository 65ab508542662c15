//! What `fuzz/` reaches beyond the library: the parsers of what the kernel writes, as functions on
//! bytes.

use std::net::{IpAddr, SocketAddr};

use crate::cmsg::{self, ControlPart};
use crate::{DirEntry, file};

/// Names of a getdents64(2) buffer, and the cursor behind the last.
pub fn directory_entries(raw: &[u8]) -> (Vec<DirEntry>, Option<u64>) {
    file::list::parse(raw)
}

/// What the control part of a received message says: where it was sent to, and the size of joined
/// datagrams.
pub fn control_messages(control: &[u8]) -> (Option<IpAddr>, Option<usize>) {
    let received = cmsg::decode(control);
    (received.to, received.segment_bytes)
}

/// The control part of a message that is cut into segments and leaves from `source`.
pub fn control_part(segment_bytes: u16, source: IpAddr) -> Vec<u8> {
    let mut control = ControlPart::new();
    control.push_segment(segment_bytes);
    control.push_source(source);
    control.as_bytes().to_vec()
}

/// A `sockaddr` as the kernel wrote it.
pub fn socket_address(raw: &[u8]) -> Option<SocketAddr> {
    cmsg::decode_address(raw)
}
