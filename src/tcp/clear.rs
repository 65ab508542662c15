//! A lane in the clear: TCP without TLS, between two that an encrypted lane has introduced.
//!
//! Nothing is hidden, and nothing but the data of files can be changed unnoticed: a record is what
//! is *said*, with a code by a key that only these two have (BLAKE3, keyed), and behind it *bulk*,
//! bytes of a file that no code covers, since their digest is among what is said behind them.

use std::ops::Range;
use std::sync::Arc;

use super::channel::Channel;
use super::fault::Fault;
use super::frame::MAX_LONG_DATA_BYTES;
use super::record::MAX_PLAIN_BYTES;
use super::write_streams::{Beside, PipedBytes};
use crate::ids::{Fingerprint, SessionId};

/// What a client's side begins with. No record of TLS does, whose first byte is 0x16.
pub(super) const MAGIC: [u8; 8] = *b"landro:1";

const NONCE_BYTES: usize = 32;
const PROOF_BYTES: usize = 32;

/// Magic, session, lane, nonce.
const HELLO_BYTES: usize = MAGIC.len() + 16 + 4 + NONCE_BYTES;

/// The server's nonce and proof.
const CHALLENGE_BYTES: usize = NONCE_BYTES + PROOF_BYTES;

/// Bytes that are said, in two bytes, and bytes of bulk.
pub(super) const HEADER_BYTES: usize = 2 + 4;
const CODE_BYTES: usize = 32;

/// What a record has beyond what it carries.
pub(super) const CLEAR_OVERHEAD_BYTES: usize = HEADER_BYTES + CODE_BYTES;

const ALTERED: Fault = Fault::Wire("what came is not what the peer sent");
const NOT_ADMITTED: Fault = Fault::Wire("somebody without the secret of a lane in the clear");

/// What lets one connection in: the secret of one lane, which went over an encrypted one.
#[derive(Clone)]
pub struct ClearPass {
    pub session: SessionId,
    pub lane: u32,
    pub secret: [u8; 32],
    /// Whose session it is.
    pub peer: Fingerprint,
}

/// A server's: what lets lanes in.
#[derive(Clone)]
pub struct ClearPasses {
    /// The pass of this lane of this session, if there is one that was not used.
    pub find: Arc<dyn Fn(SessionId, u32) -> Option<ClearPass> + Send + Sync>,
    /// Its peer has proven to have it, and it is used up. False: it was, or is no more.
    pub take: Arc<dyn Fn(SessionId, u32) -> bool + Send + Sync>,
}

/// What remains of a pass once it was used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ClearLane {
    pub session: SessionId,
    pub lane: u32,
}

/// Both sides prove that they have the secret, over what each made up for this connection.
pub(super) enum ClearHandshake {
    /// A client, which has said its hello.
    Asked(Box<Exchange>),
    /// A server. Next: Challenged.
    Awaits(ClearPasses),
    /// A server, which has answered.
    Challenged(Box<Exchange>, ClearPasses),
}

/// What was said in a handshake so far.
pub(super) struct Exchange {
    pass: ClearPass,
    hello: [u8; HELLO_BYTES],
    nonce: [u8; NONCE_BYTES],
}

/// The keys of both directions, of one connection alone.
pub(super) struct ClearKeys {
    pub seal: ClearKey,
    pub open: ClearKey,
    /// Bulk of the record before that is to come.
    pub missing_bulk_bytes: usize,
    pub lane: ClearLane,
    pub peer: Fingerprint,
}

/// One direction's key, and how many records have their codes by it.
pub(super) struct ClearKey {
    key: [u8; 32],
    sequence: u64,
}

/// What is said in a record, where it is in the receive buffer, and how much bulk follows.
pub(super) struct ClearRecord {
    pub said: Range<usize>,
    pub bulk_bytes: usize,
}

/// What there was to write.
pub(super) enum Written {
    Nothing,
    Record,
    /// A record, but for its bulk.
    Head(PipedBytes),
}

impl ClearHandshake {
    /// A client's: what it says first goes to `out`.
    pub fn ask(pass: ClearPass, out: &mut Vec<u8>) -> ClearHandshake {
        let mut hello = Vec::with_capacity(HELLO_BYTES);
        hello.extend(MAGIC);
        hello.extend(pass.session.0);
        hello.extend(pass.lane.to_be_bytes());
        hello.extend(rand::random::<[u8; NONCE_BYTES]>());
        out.extend(&hello);
        let mut exchange = Exchange {
            pass,
            hello: [0; HELLO_BYTES],
            nonce: [0; NONCE_BYTES],
        };
        exchange.hello.copy_from_slice(&hello);
        ClearHandshake::Asked(Box::new(exchange))
    }

    /// How many bytes it goes on with.
    pub fn missing_bytes(&self) -> usize {
        match self {
            ClearHandshake::Asked(_) => CHALLENGE_BYTES,
            ClearHandshake::Awaits(_) => HELLO_BYTES,
            ClearHandshake::Challenged(..) => PROOF_BYTES,
        }
    }

    /// Goes on with [`ClearHandshake::missing_bytes`] bytes; the keys, once the other side has
    /// proven that it has the secret.
    pub fn go_on(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<Option<ClearKeys>, Fault> {
        match self {
            ClearHandshake::Asked(exchange) => {
                let (nonce, proof) = bytes.split_at(NONCE_BYTES);
                exchange.nonce.copy_from_slice(nonce);
                if !is_same(exchange.derived("server proof"), proof) {
                    return Err(NOT_ADMITTED);
                }
                out.extend(exchange.derived("client proof").as_bytes());
                Ok(Some(exchange.keys(false)))
            }
            ClearHandshake::Awaits(passes) => {
                let exchange = Exchange::answering(bytes, passes)?;
                out.extend(exchange.nonce);
                out.extend(exchange.derived("server proof").as_bytes());
                *self = ClearHandshake::Challenged(Box::new(exchange), passes.clone());
                Ok(None)
            }
            ClearHandshake::Challenged(exchange, passes) => {
                let (session, lane) = (exchange.pass.session, exchange.pass.lane);
                // Only who has proven to have it uses it up.
                match is_same(exchange.derived("client proof"), bytes)
                    && (passes.take)(session, lane)
                {
                    true => Ok(Some(exchange.keys(true))),
                    false => Err(NOT_ADMITTED),
                }
            }
        }
    }
}

impl Exchange {
    fn answering(bytes: &[u8], passes: &ClearPasses) -> Result<Exchange, Fault> {
        let mut hello = [0; HELLO_BYTES];
        hello.copy_from_slice(bytes);
        let (magic, rest) = hello.split_at(MAGIC.len());
        let session = rest.first_chunk().copied().map(SessionId);
        let lane = rest[16..].first_chunk().copied().map(u32::from_be_bytes);
        let pass = session.zip(lane).filter(|_| magic == MAGIC);
        let pass = pass.and_then(|(session, lane)| (passes.find)(session, lane));
        Ok(Exchange {
            pass: pass.ok_or(NOT_ADMITTED)?,
            hello,
            nonce: rand::random(),
        })
    }

    /// A key or proof of this connection for one use.
    fn derived(&self, r#use: &str) -> blake3::Hash {
        blake3::Hasher::new_keyed(&self.pass.secret)
            .update(&self.hello)
            .update(&self.nonce)
            .update(r#use.as_bytes())
            .finalize()
    }

    fn keys(&self, is_server: bool) -> ClearKeys {
        let key = |r#use| ClearKey {
            key: *self.derived(r#use).as_bytes(),
            sequence: 0,
        };
        let (client, server) = (key("client records"), key("server records"));
        let (seal, open) = match is_server {
            true => (server, client),
            false => (client, server),
        };
        ClearKeys {
            seal,
            open,
            missing_bulk_bytes: 0,
            lane: ClearLane {
                session: self.pass.session,
                lane: self.pass.lane,
            },
            peer: self.pass.peer,
        }
    }
}

/// Compares in the same time whatever differs.
fn is_same(code: blake3::Hash, bytes: &[u8]) -> bool {
    bytes.first_chunk().is_some_and(|bytes| code == *bytes)
}

impl ClearKey {
    /// The next record's code. Each has its number, so that none can be left out, come twice or
    /// elsewhere.
    fn code(&mut self, header_and_said: &[u8]) -> blake3::Hash {
        let sequence = self.sequence;
        self.sequence += 1;
        blake3::Hasher::new_keyed(&self.key)
            .update(&sequence.to_be_bytes())
            .update(header_and_said)
            .finalize()
    }

    /// Writes the next record of what a channel has to say.
    pub fn seal(&mut self, channel: &mut Channel, out: &mut Vec<u8>) -> Written {
        let at = out.len();
        out.extend([0; HEADER_BYTES]);
        let bulk = channel.fill(out, MAX_PLAIN_BYTES, Beside::Bulk);
        let said_bytes = out.len() - at - HEADER_BYTES;
        if said_bytes == 0 {
            out.truncate(at);
            return Written::Nothing;
        }
        self.end_said(out, at, bulk.map_or(0, |bulk| bulk.bytes));
        match bulk.and_then(|bulk| channel.writes.take_aside(bulk, out)) {
            Some(piped) => Written::Head(piped),
            None => Written::Record,
        }
    }

    /// Of the record that begins at `at` all is written that is said: its lengths and code go
    /// around that.
    pub fn end_said(&mut self, out: &mut Vec<u8>, at: usize, bulk_bytes: usize) {
        let said_bytes = out.len() - at - HEADER_BYTES;
        let header = &mut out[at..at + HEADER_BYTES];
        header[..2].copy_from_slice(&(said_bytes as u16).to_be_bytes());
        header[2..].copy_from_slice(&(bulk_bytes as u32).to_be_bytes());
        let code = self.code(&out[at..]);
        out.extend(code.as_bytes());
    }

    /// Looks whether a record, which is here but for its bulk, is what the peer said.
    pub fn open(&mut self, buffer: &[u8], record: Range<usize>) -> Result<ClearRecord, Fault> {
        let Some((said_bytes, bulk_bytes)) = parts(&buffer[record.clone()])? else {
            return Err(ALTERED);
        };
        let said = record.start + HEADER_BYTES..record.start + HEADER_BYTES + said_bytes;
        let code = said.end..said.end + CODE_BYTES;
        if !is_same(
            self.code(&buffer[record.start..said.end]),
            &buffer[code.clone()],
        ) {
            return Err(ALTERED);
        }
        Ok(ClearRecord { said, bulk_bytes })
    }
}

/// Bytes of the two parts of the record that `bytes` begin with; `None`: its header is not whole.
fn parts(bytes: &[u8]) -> Result<Option<(usize, usize)>, Fault> {
    let Some(header) = bytes.first_chunk::<HEADER_BYTES>() else {
        return Ok(None);
    };
    let said = usize::from(u16::from_be_bytes([header[0], header[1]]));
    let bulk = u32::from_be_bytes([header[2], header[3], header[4], header[5]]) as usize;
    match said <= MAX_PLAIN_BYTES && bulk <= MAX_LONG_DATA_BYTES {
        true => Ok(Some((said, bulk))),
        false => Err(ALTERED),
    }
}

/// As [`super::record::record_bytes`], of records in the clear, without their bulk.
pub(super) fn clear_record_bytes(bytes: &[u8]) -> Result<Option<usize>, Fault> {
    let parts = parts(bytes)?;
    Ok(parts.map(|(said, _)| CLEAR_OVERHEAD_BYTES + said))
}
