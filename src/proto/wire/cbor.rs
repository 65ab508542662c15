//! How shared types look in CBOR, each with its cap checked before it is copied out of the message.

use std::net::IpAddr;

use bytes::{BufMut, Bytes, BytesMut};
use minicbor::data::Type;
use minicbor::decode::{self, Decoder};
use minicbor::encode::{self, Encoder, Write};
use minicbor::{Decode, Encode};

use super::{
    BenchMode, MAX_ADDRESSES, MAX_ECHO_BYTES, MAX_FILE_BYTES, MAX_PART_BYTES, MAX_TEXT_BYTES,
    MAX_VALUES, WireError,
};
use crate::ids::{EntryId, NAME_MAX_BYTES, PATH_MAX_BYTES};
use crate::proto::place::MAX_ABOVE;
use crate::proto::{
    CancelReason, EntryError, EntryErrorCode, EntryPlace, Kind, Lasting, Meta, Mtime, ObjectId,
    SessionError, SessionErrorCode,
};

/// Where `minicbor` writes: the end of a growing buffer.
pub struct Sink<'a>(pub &'a mut BytesMut);

impl Write for Sink<'_> {
    type Error = std::convert::Infallible;

    fn write_all(&mut self, bytes: &[u8]) -> Result<(), Self::Error> {
        self.0.put_slice(bytes);
        Ok(())
    }
}

/// Keeps "I do not know this kind" apart from "this is broken": the former is answered with
/// `Unsupported`.
pub fn wire_error(error: decode::Error) -> WireError {
    if error.is_unknown_variant() {
        let text = error.to_string();
        let digits: String = text
            .chars()
            .skip_while(|c| !c.is_ascii_digit())
            .take_while(char::is_ascii_digit)
            .collect();
        return WireError::Unknown(digits.parse().unwrap_or(-1));
    }
    WireError::Malformed(error.to_string())
}

/// A definite byte string of at most `cap` bytes. Segmented (indefinite) ones are not part of the
/// protocol.
fn octets(d: &mut Decoder<'_>, cap: usize, what: &'static str) -> Result<Bytes, decode::Error> {
    let at = d.position();
    let bytes = d.bytes()?;
    if bytes.len() > cap {
        return Err(decode::Error::message(what).at(at));
    }
    Ok(Bytes::copy_from_slice(bytes))
}

/// A definite text string of at most `cap` bytes.
fn string(d: &mut Decoder<'_>, cap: usize, what: &'static str) -> Result<String, decode::Error> {
    let at = d.position();
    let text = d.str()?;
    if text.len() > cap {
        return Err(decode::Error::message(what).at(at));
    }
    Ok(text.to_owned())
}

/// The longest prefix of at most `cap` bytes that ends between characters.
fn cut(text: &str, cap: usize) -> &str {
    &text[..text.floor_char_boundary(cap)]
}

/// Makes a `with` module of a `Bytes` field with a cap.
macro_rules! octets_module {
    ($name:ident, $cap:expr, $what:literal) => {
        pub mod $name {
            use super::*;

            pub fn encode<C, W: Write>(
                v: &Bytes,
                e: &mut Encoder<W>,
                _: &mut C,
            ) -> Result<(), encode::Error<W::Error>> {
                e.bytes(v)?.ok()
            }

            pub fn decode<C>(d: &mut Decoder<'_>, _: &mut C) -> Result<Bytes, decode::Error> {
                octets(d, $cap, $what)
            }
        }
    };
}

octets_module!(name, NAME_MAX_BYTES, "name longer than 255 bytes");
octets_module!(path, PATH_MAX_BYTES, "path longer than 4095 bytes");
octets_module!(echo, MAX_ECHO_BYTES, "echo of more than 65504 bytes");
octets_module!(part, MAX_PART_BYTES, "part of more than 32768 bytes");

pub mod values {
    use super::*;

    pub fn encode<C, W: Write>(
        v: &Bytes,
        e: &mut Encoder<W>,
        _: &mut C,
    ) -> Result<(), encode::Error<W::Error>> {
        e.bytes(v)?.ok()
    }

    pub fn decode<C>(d: &mut Decoder<'_>, _: &mut C) -> Result<Bytes, decode::Error> {
        let at = d.position();
        let values = octets(d, 32 * MAX_VALUES, "too many chaining values")?;
        if values.is_empty() || values.len() % 32 != 0 {
            return Err(decode::Error::message("chaining values are 32 bytes each").at(at));
        }
        Ok(values)
    }
}

/// 16 bytes for each address, IPv4 mapped into IPv6.
pub mod addresses {
    use super::*;

    pub fn encode<C, W: Write>(
        v: &[IpAddr],
        e: &mut Encoder<W>,
        _: &mut C,
    ) -> Result<(), encode::Error<W::Error>> {
        let mapped = |ip: &IpAddr| match ip {
            IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
            IpAddr::V6(ip) => ip.octets(),
        };
        let bytes: Vec<u8> = v.iter().take(MAX_ADDRESSES).flat_map(mapped).collect();
        e.bytes(&bytes)?.ok()
    }

    pub fn decode<C>(d: &mut Decoder<'_>, _: &mut C) -> Result<Vec<IpAddr>, decode::Error> {
        let at = d.position();
        let bytes = octets(d, 16 * MAX_ADDRESSES, "too many addresses")?;
        let (all, rest) = bytes.as_chunks::<16>();
        if !rest.is_empty() {
            return Err(decode::Error::message("addresses are 16 bytes each").at(at));
        }
        let plain = |bytes: &[u8; 16]| IpAddr::from(*bytes).to_canonical();
        Ok(all.iter().map(plain).collect())
    }
}

/// 8 bytes for each object.
pub mod above {
    use super::*;

    pub fn encode<C, W: Write>(
        v: &[u64],
        e: &mut Encoder<W>,
        _: &mut C,
    ) -> Result<(), encode::Error<W::Error>> {
        let bytes: Vec<u8> = v.iter().flat_map(|object| object.to_be_bytes()).collect();
        e.bytes(&bytes)?.ok()
    }

    pub fn decode<C>(d: &mut Decoder<'_>, _: &mut C) -> Result<Vec<u64>, decode::Error> {
        let at = d.position();
        let bytes = octets(d, 8 * MAX_ABOVE, "too many directories of a target")?;
        let (objects, []) = bytes.as_chunks() else {
            return Err(decode::Error::message("directories of a target are 8 bytes each").at(at));
        };
        Ok(objects
            .iter()
            .map(|object| u64::from_be_bytes(*object))
            .collect())
    }
}

pub mod link {
    use super::*;

    pub fn encode<C, W: Write>(
        v: &Option<Bytes>,
        e: &mut Encoder<W>,
        _: &mut C,
    ) -> Result<(), encode::Error<W::Error>> {
        match v {
            Some(target) => e.bytes(target)?.ok(),
            None => e.null()?.ok(),
        }
    }

    pub fn decode<C>(d: &mut Decoder<'_>, _: &mut C) -> Result<Option<Bytes>, decode::Error> {
        if d.datatype()? == Type::Null {
            d.null()?;
            return Ok(None);
        }
        octets(d, PATH_MAX_BYTES, "symlink target longer than 4095 bytes").map(Some)
    }

    /// Lets an absent trailing field stand for `None`, as `null` does.
    pub fn nil() -> Option<Option<Bytes>> {
        Some(None)
    }

    pub fn is_nil(v: &Option<Bytes>) -> bool {
        v.is_none()
    }
}

pub mod text {
    use super::*;

    pub fn encode<C, W: Write>(
        v: &str,
        e: &mut Encoder<W>,
        _: &mut C,
    ) -> Result<(), encode::Error<W::Error>> {
        e.str(cut(v, MAX_TEXT_BYTES))?.ok()
    }

    pub fn decode<C>(d: &mut Decoder<'_>, _: &mut C) -> Result<String, decode::Error> {
        string(d, MAX_TEXT_BYTES, "text longer than 512 bytes")
    }
}

pub mod mode {
    use super::*;

    pub fn encode<C, W: Write>(
        v: &u32,
        e: &mut Encoder<W>,
        _: &mut C,
    ) -> Result<(), encode::Error<W::Error>> {
        e.u32(*v)?.ok()
    }

    pub fn decode<C>(d: &mut Decoder<'_>, _: &mut C) -> Result<u32, decode::Error> {
        let at = d.position();
        match d.u32()? {
            mode @ 0..=0o7777 => Ok(mode),
            _ => Err(decode::Error::message("mode has more than permission bits").at(at)),
        }
    }
}

pub mod size {
    use super::*;

    pub fn encode<C, W: Write>(
        v: &u64,
        e: &mut Encoder<W>,
        _: &mut C,
    ) -> Result<(), encode::Error<W::Error>> {
        e.u64(*v)?.ok()
    }

    pub fn decode<C>(d: &mut Decoder<'_>, _: &mut C) -> Result<u64, decode::Error> {
        let at = d.position();
        match d.u64()? {
            size if size <= MAX_FILE_BYTES => Ok(size),
            _ => Err(decode::Error::message("size above 2^63-1").at(at)),
        }
    }
}

/// Makes a `with` module of a definite array with a cap on its count. No room is reserved by the
/// peer's word.
macro_rules! list_module {
    ($name:ident, $item:ty, $cap:expr, $what:literal) => {
        pub mod $name {
            use super::*;

            pub fn encode<C, W: Write>(
                v: &Vec<$item>,
                e: &mut Encoder<W>,
                ctx: &mut C,
            ) -> Result<(), encode::Error<W::Error>> {
                e.array(v.len() as u64)?;
                for item in v {
                    Encode::encode(item, e, ctx)?;
                }
                Ok(())
            }

            pub fn decode<C>(
                d: &mut Decoder<'_>,
                ctx: &mut C,
            ) -> Result<Vec<$item>, decode::Error> {
                let at = d.position();
                let count = match d.array()? {
                    Some(count) if count <= $cap as u64 => count,
                    _ => return Err(decode::Error::message($what).at(at)),
                };
                let mut list = Vec::with_capacity(count.min(64) as usize);
                for _ in 0..count {
                    list.push(Decode::decode(d, ctx)?);
                }
                Ok(list)
            }
        }
    };
}

list_module!(
    items,
    super::super::Item,
    super::super::MAX_ITEMS,
    "batch of more than 512 items"
);
list_module!(
    verdicts,
    super::super::Verdict,
    super::super::MAX_ITEMS,
    "batch of more than 512 verdicts"
);
list_module!(
    rows,
    super::super::ListItem,
    super::super::MAX_ITEMS,
    "batch of more than 512 rows"
);

list_module!(
    lane_parts,
    super::super::LanePart,
    super::super::MAX_ITEMS,
    "account of more than 512 streams"
);

pub mod sources {
    use super::*;

    pub fn encode<C, W: Write>(
        v: &Vec<Bytes>,
        e: &mut Encoder<W>,
        _: &mut C,
    ) -> Result<(), encode::Error<W::Error>> {
        e.array(v.len() as u64)?;
        for source in v {
            e.bytes(source)?;
        }
        Ok(())
    }

    pub fn decode<C>(d: &mut Decoder<'_>, _: &mut C) -> Result<Vec<Bytes>, decode::Error> {
        let at = d.position();
        let count = match d.array()? {
            Some(count) if count <= super::super::MAX_SOURCES as u64 => count,
            _ => return Err(decode::Error::message("more than 1024 sources").at(at)),
        };
        (0..count)
            .map(|_| octets(d, PATH_MAX_BYTES, "path longer than 4095 bytes"))
            .collect()
    }
}

impl<C> Encode<C> for EntryId {
    fn encode<W: Write>(
        &self,
        e: &mut Encoder<W>,
        _: &mut C,
    ) -> Result<(), encode::Error<W::Error>> {
        e.u32(self.0)?.ok()
    }
}

impl<'b, C> Decode<'b, C> for EntryId {
    fn decode(d: &mut Decoder<'b>, _: &mut C) -> Result<Self, decode::Error> {
        d.u32().map(EntryId)
    }
}

impl<C> Encode<C> for Mtime {
    fn encode<W: Write>(
        &self,
        e: &mut Encoder<W>,
        _: &mut C,
    ) -> Result<(), encode::Error<W::Error>> {
        e.array(2)?.i64(self.seconds)?.u32(self.nanoseconds)?.ok()
    }
}

impl<'b, C> Decode<'b, C> for Mtime {
    fn decode(d: &mut Decoder<'b>, _: &mut C) -> Result<Self, decode::Error> {
        let at = d.position();
        if d.array()? != Some(2) {
            return Err(decode::Error::message("time is [seconds, nanoseconds]").at(at));
        }
        let (seconds, nanoseconds) = (d.i64()?, d.u32()?);
        if nanoseconds >= 1_000_000_000 {
            return Err(decode::Error::message("nanoseconds of a second and more").at(at));
        }
        Ok(Mtime {
            seconds,
            nanoseconds,
        })
    }
}

impl<C> Encode<C> for ObjectId {
    fn encode<W: Write>(
        &self,
        e: &mut Encoder<W>,
        _: &mut C,
    ) -> Result<(), encode::Error<W::Error>> {
        e.array(2)?.u64(self.device)?.u64(self.inode)?.ok()
    }
}

impl<'b, C> Decode<'b, C> for ObjectId {
    fn decode(d: &mut Decoder<'b>, _: &mut C) -> Result<Self, decode::Error> {
        let at = d.position();
        if d.array()? != Some(2) {
            return Err(decode::Error::message("object is [device, inode]").at(at));
        }
        let (device, inode) = (d.u64()?, d.u64()?);
        Ok(ObjectId { device, inode })
    }
}

/// Makes the two impls of a field-less enum out of one table of (value, number).
macro_rules! numbers {
    ($type:ty, $($variant:path = $number:literal),+) => {
        impl<C> Encode<C> for $type {
            fn encode<W: Write>(&self, e: &mut Encoder<W>, _: &mut C) -> Result<(), encode::Error<W::Error>> {
                e.u32(match self { $($variant => $number),+ })?.ok()
            }
        }

        impl<'b, C> Decode<'b, C> for $type {
            fn decode(d: &mut Decoder<'b>, _: &mut C) -> Result<Self, decode::Error> {
                let at = d.position();
                match d.u32()? {
                    $($number => Ok($variant),)+
                    other => Err(decode::Error::unknown_variant(i64::from(other)).at(at)),
                }
            }
        }
    };
}

numbers!(
    BenchMode,
    BenchMode::Send = 0,
    BenchMode::Receive = 1,
    BenchMode::Echo = 2
);
numbers!(
    Kind,
    Kind::File = 0,
    Kind::Directory = 1,
    Kind::Symlink = 2,
    Kind::Special = 3
);
numbers!(
    EntryErrorCode,
    EntryErrorCode::Source = 0,
    EntryErrorCode::Destination = 1,
    EntryErrorCode::Full = 2,
    EntryErrorCode::Integrity = 3,
    EntryErrorCode::Permission = 4,
    EntryErrorCode::Name = 5
);
numbers!(
    EntryPlace,
    EntryPlace::Source = 0,
    EntryPlace::Destination = 1
);
numbers!(
    SessionErrorCode,
    SessionErrorCode::Permission = 0,
    SessionErrorCode::NotFound = 1,
    SessionErrorCode::Busy = 2,
    SessionErrorCode::Unsupported = 3,
    SessionErrorCode::Full = 4,
    SessionErrorCode::Other = 5,
    SessionErrorCode::Stalled = 6,
    SessionErrorCode::Integrity = 7
);

impl<C> Encode<C> for CancelReason {
    fn encode<W: Write>(
        &self,
        e: &mut Encoder<W>,
        _: &mut C,
    ) -> Result<(), encode::Error<W::Error>> {
        e.u32(match self {
            CancelReason::User => 0,
            CancelReason::Ending => 1,
            CancelReason::Stalled => 2,
        })?
        .ok()
    }
}

/// Whatever the reason is, the session ends: one that is not known is no error.
impl<'b, C> Decode<'b, C> for CancelReason {
    fn decode(d: &mut Decoder<'b>, _: &mut C) -> Result<Self, decode::Error> {
        Ok(match d.u32()? {
            1 => CancelReason::Ending,
            2 => CancelReason::Stalled,
            _ => CancelReason::User,
        })
    }
}

impl<C> Encode<C> for EntryError {
    fn encode<W: Write>(
        &self,
        e: &mut Encoder<W>,
        ctx: &mut C,
    ) -> Result<(), encode::Error<W::Error>> {
        e.array(6)?
            .encode_with(self.code, ctx)?
            .i32(self.errno)?
            .str(cut(&self.text, MAX_TEXT_BYTES))?
            .encode_with(self.place, ctx)?
            .str(cut(&self.call, MAX_TEXT_BYTES))?
            .str(cut(&self.advice, MAX_TEXT_BYTES))?
            .ok()
    }
}

impl<'b, C> Decode<'b, C> for EntryError {
    fn decode(d: &mut Decoder<'b>, ctx: &mut C) -> Result<Self, decode::Error> {
        let rest = fields(d, 6)?;
        let error = EntryError {
            code: d.decode_with(ctx)?,
            errno: d.i32()?,
            text: text::decode(d, ctx)?,
            place: d.decode_with(ctx)?,
            call: text::decode(d, ctx)?,
            advice: text::decode(d, ctx)?,
        };
        skip(d, rest)?;
        Ok(error)
    }
}

impl<C> Encode<C> for SessionError {
    fn encode<W: Write>(
        &self,
        e: &mut Encoder<W>,
        ctx: &mut C,
    ) -> Result<(), encode::Error<W::Error>> {
        e.array(5)?
            .encode_with(self.code, ctx)?
            .str(cut(&self.text, MAX_TEXT_BYTES))?
            .i32(self.errno)?
            .str(cut(&self.call, MAX_TEXT_BYTES))?
            .str(cut(&self.advice, MAX_TEXT_BYTES))?
            .ok()
    }
}

impl<'b, C> Decode<'b, C> for SessionError {
    fn decode(d: &mut Decoder<'b>, ctx: &mut C) -> Result<Self, decode::Error> {
        let rest = fields(d, 5)?;
        let error = SessionError {
            code: d.decode_with(ctx)?,
            text: text::decode(d, ctx)?,
            errno: d.i32()?,
            call: text::decode(d, ctx)?,
            advice: text::decode(d, ctx)?,
        };
        skip(d, rest)?;
        Ok(error)
    }
}

impl<C> Encode<C> for Meta {
    fn encode<W: Write>(
        &self,
        e: &mut Encoder<W>,
        ctx: &mut C,
    ) -> Result<(), encode::Error<W::Error>> {
        e.array(5)?
            .encode_with(self.kind, ctx)?
            .u32(self.mode)?
            .encode_with(self.mtime, ctx)?;
        e.u64(self.size_bytes)?.u64(self.inode)?.ok()
    }
}

impl<'b, C> Decode<'b, C> for Meta {
    fn decode(d: &mut Decoder<'b>, ctx: &mut C) -> Result<Self, decode::Error> {
        let rest = fields(d, 5)?;
        let kind = d.decode_with(ctx)?;
        let mode = mode::decode(d, ctx)?;
        let mtime = d.decode_with(ctx)?;
        let size_bytes = size::decode(d, ctx)?;
        let inode = d.u64()?;
        skip(d, rest)?;
        Ok(Meta {
            kind,
            mode,
            mtime,
            size_bytes,
            // Of rows of a listing nobody asks.
            allocated_bytes: size_bytes,
            inode,
            device: 0,
            lasting: Lasting::Inode,
            links: 1,
            is_sized: true,
        })
    }
}

/// The head of an array of at least `known` fields; gives how many unknown ones follow.
fn fields(d: &mut Decoder<'_>, known: u64) -> Result<u64, decode::Error> {
    let at = d.position();
    match d.array()? {
        Some(count) if count >= known => Ok(count - known),
        _ => Err(decode::Error::message("too few fields").at(at)),
    }
}

fn skip(d: &mut Decoder<'_>, fields: u64) -> Result<(), decode::Error> {
    // Each field is at least a byte of a capped message, so this ends at the message's end.
    for _ in 0..fields {
        d.skip()?;
    }
    Ok(())
}
