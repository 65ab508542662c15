//! quinn, with rustls and ring: AES-128-GCM as the others, windows as landro's, segmentation
//! offload on.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{
    ClientConfig, Connection, Endpoint, EndpointConfig, RecvStream, SendStream, ServerConfig,
    TokioRuntime, TransportConfig,
};
use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::{cipher_suite::TLS13_AES_128_GCM_SHA256, default_provider};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, version::TLS13};

use crate::certificates::{self, SERVER_NAME, Side};
use crate::sockets::socket;
use crate::transport::{
    Accepts, CONNECTION_WINDOW_BYTES, Connects, Dials, PROTOCOL, Reads, Result,
    STREAM_WINDOW_BYTES, Setup, Writes,
};

fn provider() -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        cipher_suites: vec![TLS13_AES_128_GCM_SHA256],
        ..default_provider()
    })
}

/// The authority, and who the side is.
struct Trust {
    roots: RootCertStore,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

fn trust(setup: &Setup, side: Side) -> Result<Trust> {
    let (authority, certificate, key) = certificates::read(setup, side)?;
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.as_bytes())?)?;
    Ok(Trust {
        roots,
        chain: vec![CertificateDer::from_pem_slice(certificate.as_bytes())?],
        key: PrivateKeyDer::from_pem_slice(key.as_bytes())?,
    })
}

fn transport(setup: &Setup) -> Arc<TransportConfig> {
    let mut config = TransportConfig::default();
    config
        .stream_receive_window(STREAM_WINDOW_BYTES.into())
        .receive_window(CONNECTION_WINDOW_BYTES.into())
        .send_window(CONNECTION_WINDOW_BYTES.into())
        .initial_mtu(setup.udp_payload_bytes)
        .mtu_discovery_config(None);
    Arc::new(config)
}

/// The protocol's most (RFC 9000 §18.2), which landro tells its peers, too.
const RECEIVED_PAYLOAD_BYTES_MAX: u16 = 65_527;

fn endpoint_config() -> Result<EndpointConfig> {
    let mut config = EndpointConfig::default();
    config.max_udp_payload_size(RECEIVED_PAYLOAD_BYTES_MAX)?;
    Ok(config)
}

pub struct Client(Endpoint);

pub fn client(setup: &Setup) -> Result<Client> {
    let Trust { roots, chain, key } = trust(setup, Side::Client)?;
    let mut tls = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)?;
    tls.alpn_protocols = vec![PROTOCOL.into()];
    let mut config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?));
    config.transport_config(transport(setup));
    let runtime = Arc::new(TokioRuntime);
    let mut endpoint = Endpoint::new(endpoint_config()?, None, socket()?, runtime)?;
    endpoint.set_default_client_config(config);
    Ok(Client(endpoint))
}

impl Dials for Client {
    type Connection = Connection;

    async fn connect(&self, to: SocketAddr) -> Result<Connection> {
        Ok(self.0.connect(to, SERVER_NAME)?.await?)
    }
}

pub struct Server(Endpoint);

pub fn server(setup: &Setup) -> Result<Server> {
    let Trust { roots, chain, key } = trust(setup, Side::Server)?;
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider());
    let mut tls = rustls::ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(verifier.build()?)
        .with_single_cert(chain, key)?;
    tls.alpn_protocols = vec![PROTOCOL.into()];
    let mut config = ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls)?));
    config.transport_config(transport(setup));
    let runtime = Arc::new(TokioRuntime);
    let endpoint = Endpoint::new(endpoint_config()?, Some(config), socket()?, runtime)?;
    Ok(Server(endpoint))
}

impl Accepts for Server {
    type Connection = Connection;

    fn address(&self) -> Result<SocketAddr> {
        Ok(self.0.local_addr()?)
    }

    async fn accept(&mut self) -> Option<Connection> {
        self.0.accept().await?.await.ok()
    }
}

impl Connects for Connection {
    type Writer = SendStream;
    type Reader = RecvStream;

    async fn open(&mut self) -> Result<(SendStream, RecvStream)> {
        Ok(self.open_bi().await?)
    }

    async fn accept(&mut self) -> Option<(SendStream, RecvStream)> {
        self.accept_bi().await.ok()
    }
}

impl Writes for SendStream {
    async fn write(&mut self, bytes: Bytes) -> Result<()> {
        Ok(self.write_chunk(bytes).await?)
    }

    fn finish(&mut self) -> Result<()> {
        Ok(SendStream::finish(self)?)
    }
}

impl Reads for RecvStream {
    async fn read(&mut self) -> Result<Option<Bytes>> {
        let chunk = self.read_chunk(usize::MAX, true).await?;
        Ok(chunk.map(|chunk| chunk.bytes))
    }
}
