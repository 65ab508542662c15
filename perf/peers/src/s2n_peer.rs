//! s2n-quic, with s2n-tls: its default policy, windows as landro's, segmentation offload on.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use s2n_quic::client::Connect;
use s2n_quic::connection::Connection;
use s2n_quic::provider::io::tokio::Provider as Io;
use s2n_quic::provider::limits::Limits;
use s2n_quic::provider::tls::s2n_tls;
use s2n_quic::stream::{ReceiveStream, SendStream};

use crate::certificates::{self, SERVER_NAME, Side};
use crate::sockets::socket;
use crate::transport::{
    Accepts, CONNECTION_WINDOW_BYTES, Connects, Dials, PROTOCOL, Reads, Result,
    STREAM_WINDOW_BYTES, Setup, Writes,
};

/// The IP and UDP headers, which its MTU counts in.
const HEADER_BYTES: u16 = 28;

/// A thousand of them at once take longer than the ten seconds that are its default.
const HANDSHAKE_DURATION_MAX: Duration = Duration::from_secs(60);

fn io(setup: &Setup) -> Result<Io> {
    let mtu = setup.udp_payload_bytes + HEADER_BYTES;
    Ok(Io::builder()
        .with_rx_socket(socket()?)?
        .with_max_mtu(mtu)?
        .with_initial_mtu(mtu)?
        .build()?)
}

fn limits() -> Result<Limits> {
    Ok(Limits::new()
        .with_data_window(CONNECTION_WINDOW_BYTES.into())?
        .with_bidirectional_local_data_window(STREAM_WINDOW_BYTES.into())?
        .with_bidirectional_remote_data_window(STREAM_WINDOW_BYTES.into())?
        .with_max_send_buffer_size(STREAM_WINDOW_BYTES)?
        .with_max_handshake_duration(HANDSHAKE_DURATION_MAX)?)
}

pub struct Client(s2n_quic::Client);

pub fn client(setup: &Setup) -> Result<Client> {
    let (authority, certificate, key) = certificates::read(setup, Side::Client)?;
    let tls = s2n_tls::Client::builder()
        .with_empty_trust_store()?
        .with_certificate(authority.as_str())?
        .with_client_identity(certificate.as_str(), key.as_str())?
        .with_application_protocols([PROTOCOL])?
        .build()?;
    let client = s2n_quic::Client::builder()
        .with_tls(tls)?
        .with_io(io(setup)?)?
        .with_limits(limits()?)?
        .start()?;
    Ok(Client(client))
}

impl Dials for Client {
    type Connection = Connection;

    async fn connect(&self, to: SocketAddr) -> Result<Connection> {
        let connect = Connect::new(to).with_server_name(SERVER_NAME);
        Ok(self.0.connect(connect).await?)
    }
}

pub struct Server(s2n_quic::Server);

pub fn server(setup: &Setup) -> Result<Server> {
    let (authority, certificate, key) = certificates::read(setup, Side::Server)?;
    let tls = s2n_tls::Server::builder()
        .with_empty_trust_store()?
        .with_trusted_certificate(authority.as_str())?
        .with_certificate(certificate.as_str(), key.as_str())?
        .with_client_authentication()?
        // A client has no name that anybody asks for.
        .with_verify_host_name_callback(AnyName)?
        .with_application_protocols([PROTOCOL])?
        .build()?;
    let server = s2n_quic::Server::builder()
        .with_tls(tls)?
        .with_io(io(setup)?)?
        .with_limits(limits()?)?
        .start()?;
    Ok(Server(server))
}

struct AnyName;

impl s2n_tls::callbacks::VerifyHostNameCallback for AnyName {
    fn verify_host_name(&self, _name: &str) -> bool {
        true
    }
}

impl Accepts for Server {
    type Connection = Connection;

    fn address(&self) -> Result<SocketAddr> {
        Ok(self.0.local_addr()?)
    }

    async fn accept(&mut self) -> Option<Connection> {
        self.0.accept().await
    }
}

impl Connects for Connection {
    type Writer = SendStream;
    type Reader = ReceiveStream;

    async fn open(&mut self) -> Result<(SendStream, ReceiveStream)> {
        let (reader, writer) = self.open_bidirectional_stream().await?.split();
        Ok((writer, reader))
    }

    async fn accept(&mut self) -> Option<(SendStream, ReceiveStream)> {
        let stream = self.accept_bidirectional_stream().await.ok()??;
        let (reader, writer) = stream.split();
        Some((writer, reader))
    }
}

impl Writes for SendStream {
    async fn write(&mut self, bytes: Bytes) -> Result<()> {
        Ok(self.send(bytes).await?)
    }

    fn finish(&mut self) -> Result<()> {
        Ok(SendStream::finish(self)?)
    }
}

impl Reads for ReceiveStream {
    async fn read(&mut self) -> Result<Option<Bytes>> {
        Ok(self.receive().await?)
    }
}
