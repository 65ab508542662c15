//! What all three libraries have, under one name each: connections, streams that go both ways,
//! bytes written and read without a copy.

use std::error::Error;
use std::net::SocketAddr;
use std::path::PathBuf;

use bytes::Bytes;

pub type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// What every peer is told.
#[derive(Clone, Debug)]
pub struct Setup {
    /// UDP payload that packets have; no path discovery goes beyond it.
    pub udp_payload_bytes: u16,
    /// Where keys and certificates of both sides are.
    pub trust: PathBuf,
}

/// Endpoints on the client's side, of which only the crowd uses more than the first: one identity
/// may have 512 connections with a worker of landro's.
pub const CLIENTS: usize = 2;

/// What peers say that they speak.
pub const PROTOCOL: &str = "landro-peers/1";

/// What one stream may have unread, and what a connection may: landro's defaults, given to all.
pub const STREAM_WINDOW_BYTES: u32 = 16 << 20;
pub const CONNECTION_WINDOW_BYTES: u32 = 32 << 20;

pub trait Dials: Send + Sync + 'static {
    type Connection: Connects;

    fn connect(&self, to: SocketAddr) -> impl Future<Output = Result<Self::Connection>> + Send;
}

pub trait Accepts: Send + 'static {
    type Connection: Connects;

    fn address(&self) -> Result<SocketAddr>;

    /// `None`: nobody comes any more.
    fn accept(&mut self) -> impl Future<Output = Option<Self::Connection>> + Send;
}

pub trait Connects: Send + 'static {
    type Writer: Writes;
    type Reader: Reads;

    fn open(&mut self) -> impl Future<Output = Result<(Self::Writer, Self::Reader)>> + Send;

    /// `None`: the connection is over.
    fn accept(&mut self) -> impl Future<Output = Option<(Self::Writer, Self::Reader)>> + Send;
}

pub trait Writes: Send + 'static {
    fn write(&mut self, bytes: Bytes) -> impl Future<Output = Result<()>> + Send;

    fn finish(&mut self) -> Result<()>;
}

pub trait Reads: Send + 'static {
    /// `None`: the stream has ended.
    fn read(&mut self) -> impl Future<Output = Result<Option<Bytes>>> + Send;
}
