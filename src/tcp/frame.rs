//! Frames inside the byte stream of a TLS connection: heads are written and parsed, wherever
//! records begin and end.

use super::fault::Fault;
use crate::carrier::MAX_REASON_BYTES;

/// Most that one DATA frame carries. A frame that has begun is to end before anything urgent can be
/// said, so it is no longer than a record.
pub(super) const MAX_DATA_BYTES: usize = super::record::MAX_PLAIN_BYTES - DATA_HEAD_BYTES;

/// The same of what goes beside records: in the clear as bulk, or from a pipe. Until it has left
/// nothing else does, as with what waits in a socket. As much as a pipe holds.
pub(super) const MAX_LONG_DATA_BYTES: usize = 1 << 20;

/// Kind, stream, length.
pub(super) const DATA_HEAD_BYTES: usize = 1 + 8 + 2;

/// The same of a frame that is longer than a record.
pub(super) const LONG_DATA_HEAD_BYTES: usize = 1 + 8 + 4;

/// Longest frame but DATA without its bytes: CLOSE with its text.
pub(super) const MAX_HEAD_BYTES: usize = CLOSE_HEAD_BYTES + MAX_REASON_BYTES;

const CLOSE_HEAD_BYTES: usize = 1 + 8 + 2;

/// One frame; of DATA the head, its bytes follow.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum TcpFrame {
    /// Bytes of a stream, the last ones if it `ends`.
    Data {
        stream: u64,
        bytes: usize,
        ends: bool,
    },
    /// Data streams may carry so many bytes in all, counted from the beginning; each new one may
    /// carry `stream_bytes` before it gets [`TcpFrame::Credit`] of its own.
    Grant {
        limit: u64,
        stream_bytes: u64,
    },
    /// A stream may carry so many bytes, counted from its beginning.
    Credit {
        stream: u64,
        limit: u64,
    },
    /// A stream was read to its end.
    ReadOut {
        stream: u64,
    },
    Ping,
    Pong,
    Close {
        code: u64,
        reason: Vec<u8>,
    },
}

const DATA: u8 = 0;
const LAST_DATA: u8 = 1;
const GRANT: u8 = 2;
const CREDIT: u8 = 3;
const READ_OUT: u8 = 4;
const PING: u8 = 5;
const PONG: u8 = 6;
const CLOSE: u8 = 7;
const LONG_DATA: u8 = 8;
const LAST_LONG_DATA: u8 = 9;

impl TcpFrame {
    pub fn write(&self, out: &mut Vec<u8>) {
        match self {
            TcpFrame::Data {
                stream,
                bytes,
                ends,
            } => {
                let is_long = *bytes > MAX_DATA_BYTES;
                out.push(match (is_long, ends) {
                    (false, false) => DATA,
                    (false, true) => LAST_DATA,
                    (true, false) => LONG_DATA,
                    (true, true) => LAST_LONG_DATA,
                });
                out.extend(stream.to_be_bytes());
                match is_long {
                    false => out.extend((*bytes as u16).to_be_bytes()),
                    true => out.extend((*bytes as u32).to_be_bytes()),
                }
            }
            TcpFrame::Grant {
                limit,
                stream_bytes,
            } => {
                out.push(GRANT);
                out.extend(limit.to_be_bytes());
                out.extend(stream_bytes.to_be_bytes());
            }
            TcpFrame::Credit { stream, limit } => {
                out.push(CREDIT);
                out.extend(stream.to_be_bytes());
                out.extend(limit.to_be_bytes());
            }
            TcpFrame::ReadOut { stream } => {
                out.push(READ_OUT);
                out.extend(stream.to_be_bytes());
            }
            TcpFrame::Ping => out.push(PING),
            TcpFrame::Pong => out.push(PONG),
            TcpFrame::Close { code, reason } => {
                let reason = &reason[..reason.len().min(MAX_REASON_BYTES)];
                out.push(CLOSE);
                out.extend(code.to_be_bytes());
                out.extend((reason.len() as u16).to_be_bytes());
                out.extend(reason);
            }
        }
    }

    /// The frame that `bytes` begin with and its length; `None`: it is not whole.
    pub fn parse(bytes: &[u8]) -> Result<Option<(TcpFrame, usize)>, Fault> {
        let Some((&kind, fields)) = bytes.split_first() else {
            return Ok(None);
        };
        let fixed_bytes = match kind {
            DATA | LAST_DATA | CLOSE => 10,
            LONG_DATA | LAST_LONG_DATA => 12,
            GRANT | CREDIT => 16,
            READ_OUT => 8,
            PING | PONG => 0,
            _ => return Err(Fault::Frames("a frame of unknown kind")),
        };
        if fields.len() < fixed_bytes {
            return Ok(None);
        }
        let short = |at: usize| usize::from(u16::from_be_bytes([fields[at], fields[at + 1]]));
        let frame = match kind {
            DATA | LAST_DATA => {
                let ends = kind == LAST_DATA;
                data(number(fields, 0), (short(8), MAX_DATA_BYTES), ends)?
            }
            LONG_DATA | LAST_LONG_DATA => {
                let (ends, bytes) = (kind == LAST_LONG_DATA, short(8) << 16 | short(10));
                data(number(fields, 0), (bytes, MAX_LONG_DATA_BYTES), ends)?
            }
            GRANT => TcpFrame::Grant {
                limit: number(fields, 0),
                stream_bytes: number(fields, 8),
            },
            CREDIT => TcpFrame::Credit {
                stream: number(fields, 0),
                limit: number(fields, 8),
            },
            READ_OUT => TcpFrame::ReadOut {
                stream: number(fields, 0),
            },
            PING => TcpFrame::Ping,
            PONG => TcpFrame::Pong,
            _ => return close(fields, short(8)),
        };
        Ok(Some((frame, 1 + fixed_bytes)))
    }
}

/// Eight bytes, which are there.
fn number(fields: &[u8], at: usize) -> u64 {
    fields[at..at + 8]
        .iter()
        .fold(0, |number, &byte| number << 8 | u64::from(byte))
}

fn data(stream: u64, (bytes, most): (usize, usize), ends: bool) -> Result<TcpFrame, Fault> {
    if bytes > most {
        return Err(Fault::Frames("a frame is too long"));
    }
    if bytes == 0 && !ends {
        return Err(Fault::Frames("a frame says nothing"));
    }
    Ok(TcpFrame::Data {
        stream,
        bytes,
        ends,
    })
}

fn close(fields: &[u8], reason_bytes: usize) -> Result<Option<(TcpFrame, usize)>, Fault> {
    if reason_bytes > MAX_REASON_BYTES {
        return Err(Fault::Frames("a reason is too long"));
    }
    let Some(reason) = fields.get(10..10 + reason_bytes) else {
        return Ok(None);
    };
    let frame = TcpFrame::Close {
        code: number(fields, 0),
        reason: reason.to_vec(),
    };
    Ok(Some((frame, CLOSE_HEAD_BYTES + reason_bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_frame_survives_and_no_part_of_one_is_taken_for_it() {
        let frames = [
            TcpFrame::Data {
                stream: 2,
                bytes: 7,
                ends: false,
            },
            TcpFrame::Data {
                stream: 0,
                bytes: 0,
                ends: true,
            },
            TcpFrame::Data {
                stream: 6,
                bytes: MAX_DATA_BYTES + 1,
                ends: true,
            },
            TcpFrame::Data {
                stream: 6,
                bytes: MAX_LONG_DATA_BYTES,
                ends: false,
            },
            TcpFrame::Grant {
                limit: 1 << 40,
                stream_bytes: 3,
            },
            TcpFrame::Credit {
                stream: 6,
                limit: u64::MAX,
            },
            TcpFrame::ReadOut { stream: 3 },
            TcpFrame::Ping,
            TcpFrame::Pong,
            TcpFrame::Close {
                code: 7,
                reason: b"replaced".to_vec(),
            },
        ];
        for frame in frames {
            let mut bytes = Vec::new();
            frame.write(&mut bytes);
            assert!(bytes.len() <= MAX_HEAD_BYTES);
            for cut in 0..bytes.len() {
                assert_eq!(TcpFrame::parse(&bytes[..cut]), Ok(None), "{frame:?}");
            }
            let all = bytes.len();
            assert_eq!(TcpFrame::parse(&bytes), Ok(Some((frame, all))));
        }
    }

    #[test]
    fn lies_are_refused_by_their_heads() {
        let lies: [&[u8]; 5] = [
            &[10],
            &[0, 0, 0, 0, 0, 0, 0, 0, 2, 0x40, 0],
            &[0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0],
            &[7, 0, 0, 0, 0, 0, 0, 0, 2, 1, 1],
            &[8, 0, 0, 0, 0, 0, 0, 0, 2, 0, 16, 0, 1],
        ];
        for lie in lies {
            assert!(
                matches!(TcpFrame::parse(lie), Err(Fault::Frames(_))),
                "{lie:?}"
            );
        }
    }
}
