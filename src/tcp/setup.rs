//! Turns an identity and a trust decision into what rustls needs: TLS 1.3 alone, one cipher suite,
//! both sides with Ed25519 certificates that the other's trust function is asked about.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use rustls::client::{Resumption, UnbufferedClientConnection};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName};
use rustls::server::{NoServerSessionStorage, UnbufferedServerConnection};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, Error, ServerConfig};

use super::clear::ClearPasses;
use super::pin::{Pin, Shown};
use crate::carrier::ALPN;
use crate::identity::{Identity, Trust};

/// How long a connection waits for what, each of which ends it, and how long a key lasts.
#[derive(Clone, Copy, Debug)]
pub struct TcpLimits {
    /// From the connection to the end of the handshake.
    pub handshake: Duration,
    /// In which nothing was heard of the peer.
    pub idle: Duration,
    /// From our close to the peer's end: what the peer sent meanwhile must not come back as a
    /// reset, which would take the reason from it.
    pub linger: Duration,
    /// A key seals so many records, at most 2^24.5 with AES-GCM (RFC 8446 §5.5). Then it is
    /// renewed.
    pub key_records: u64,
}

/// Everything connections of one role have in common.
#[derive(Clone)]
pub struct TcpSetup {
    provider: Arc<CryptoProvider>,
    certificate: Arc<SingleCertAndKey>,
    trust: Trust,
    pub(super) is_server: bool,
    pub(super) limits: TcpLimits,
    /// The kernel seals and opens records.
    pub(super) is_in_kernel: bool,
    /// Of a server: who may come in the clear.
    pub(super) clear: Option<ClearPasses>,
}

/// rustls refuses our own key.
#[derive(Debug, thiserror::Error)]
pub enum TcpSetupError {
    #[error("rustls: {0}")]
    Rustls(#[from] Error),
    #[error("{0}")]
    Identity(#[from] crate::identity::IdentityError),
}

impl TcpSetup {
    /// For connections we make.
    ///
    /// # Errors
    /// rustls refuses the key.
    pub fn client(
        identity: &Identity,
        trust: Trust,
        limits: TcpLimits,
    ) -> Result<TcpSetup, TcpSetupError> {
        TcpSetup::new(identity, trust, limits, false)
    }

    /// For connections we accept.
    ///
    /// # Errors
    /// rustls refuses the key.
    pub fn server(
        identity: &Identity,
        trust: Trust,
        limits: TcpLimits,
    ) -> Result<TcpSetup, TcpSetupError> {
        TcpSetup::new(identity, trust, limits, true)
    }

    fn new(
        identity: &Identity,
        trust: Trust,
        limits: TcpLimits,
        is_server: bool,
    ) -> Result<TcpSetup, TcpSetupError> {
        // Not rustls's default provider, which needs 82 ms at its first use.
        let provider = CryptoProvider {
            cipher_suites: vec![ring::cipher_suite::TLS13_AES_128_GCM_SHA256],
            kx_groups: vec![ring::kx_group::X25519],
            ..ring::default_provider()
        };
        let key = PrivatePkcs8KeyDer::from(identity.key_der()?);
        let key = provider.key_provider.load_private_key(key.into())?;
        let certificate = CertificateDer::from(identity.certificate_der()?);
        Ok(TcpSetup {
            provider: Arc::new(provider),
            certificate: Arc::new(CertifiedKey::new(vec![certificate], key).into()),
            trust,
            is_server,
            limits,
            is_in_kernel: false,
            clear: None,
        })
    }

    /// Has the kernel seal and open the records of connections, which is to be known to work
    /// (`landro_sys::ktls::probe`).
    pub fn use_kernel(&mut self) {
        self.is_in_kernel = true;
    }

    /// Lets those in that do without TLS, if there is a pass for them.
    pub fn admit_clear(&mut self, passes: ClearPasses) {
        self.clear = Some(passes);
    }

    fn pin(&self) -> (Arc<Pin>, Shown) {
        let shown = Shown::default();
        let pin = Pin {
            trust: Arc::clone(&self.trust),
            algorithms: self.provider.signature_verification_algorithms,
            shown: Arc::clone(&shown),
        };
        (Arc::new(pin), shown)
    }

    /// Configurations are made for each connection, so that each remembers whose certificate it was
    /// shown.
    pub(super) fn client_handshake(&self) -> Result<(UnbufferedClientConnection, Shown), Error> {
        let (pin, shown) = self.pin();
        let mut config = ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(pin)
            .with_client_cert_resolver(Arc::clone(&self.certificate) as _);
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.resumption = Resumption::disabled();
        config.enable_sni = false;
        config.enable_secret_extraction = true;
        // Nobody looks at names.
        let name = ServerName::IpAddress(IpAddr::V4(Ipv4Addr::UNSPECIFIED).into());
        Ok((
            UnbufferedClientConnection::new(Arc::new(config), name)?,
            shown,
        ))
    }

    pub(super) fn server_handshake(&self) -> Result<(UnbufferedServerConnection, Shown), Error> {
        let (pin, shown) = self.pin();
        let mut config = ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(pin)
            .with_cert_resolver(Arc::clone(&self.certificate) as _);
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        config.max_early_data_size = 0;
        config.enable_secret_extraction = true;
        Ok((UnbufferedServerConnection::new(Arc::new(config))?, shown))
    }
}
