//! What quiche is told: landro's `auto` profile on a LAN, without path MTU discovery, and a
//! certificate nobody checks.

use boring::asn1::Asn1Time;
use boring::ec::{EcGroup, EcKey};
use boring::hash::MessageDigest;
use boring::nid::Nid;
use boring::pkey::PKey;
use boring::ssl::{SslContextBuilder, SslMethod, SslVersion};
use boring::x509::X509;
use bytes::Bytes;

use crate::Result;

/// Streams are given to quiche by reference.
pub type Connection = quiche::Connection<ByReference>;

#[derive(Clone, Default, Debug)]
pub struct ByReference;

impl quiche::BufFactory for ByReference {
    type Buf = Bytes;
    type DgramBuf = Vec<u8>;

    fn buf_from_slice(buf: &[u8]) -> Bytes {
        Bytes::copy_from_slice(buf)
    }

    fn dgram_buf_from_slice(buf: &[u8]) -> Vec<u8> {
        buf.to_vec()
    }
}

/// The client's stream with the file: a line with its name, the bytes, with `--hash` the digest.
pub const FILE_STREAM: u64 = 2;
/// The server's stream: one byte when all is written.
pub const DONE_STREAM: u64 = 3;
/// What files are read and written by.
pub const PIECE_BYTES: usize = 64 * 1024;
/// The longest name of a file, on any Linux.
pub const MAX_NAME_BYTES: usize = 255;
/// Lengths of connection ids are landro's: each packet carries one.
pub const SERVER_CID_BYTES: usize = 5;
pub const CLIENT_CID_BYTES: usize = 4;

/// Without a word from the peer for so long there is no progress to hope for.
const PATIENCE_MS: u64 = 10_000;
/// quiche writes a packet's length in two bytes of two bits less.
const MAX_PAYLOAD_BYTES: usize = 16_376;

/// `payload_bytes`: what a UDP datagram to the peer carries.
pub fn config(payload_bytes: usize, hash: bool) -> Result<quiche::Config> {
    let mut tls = SslContextBuilder::new(SslMethod::tls())?;
    tls.set_min_proto_version(Some(SslVersion::TLS1_3))?;
    tls.set_curves_list("X25519")?;
    let curve = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1)?;
    let key = PKey::from_ec_key(EcKey::generate(&curve)?)?;
    let mut certificate = X509::builder()?;
    certificate.set_version(2)?;
    certificate.set_pubkey(&key)?;
    certificate.set_not_before(&*Asn1Time::days_from_now(0)?)?;
    certificate.set_not_after(&*Asn1Time::days_from_now(1)?)?;
    certificate.sign(&key, MessageDigest::sha256())?;
    tls.set_certificate(&certificate.build())?;
    tls.set_private_key(&key)?;

    let mut config = quiche::Config::with_boring_ssl_ctx_builder(quiche::PROTOCOL_VERSION, tls)?;
    config.verify_peer(false);
    // Peers that do not agree about the digest must not begin.
    config.set_application_protos(&[if hash {
        b"landro-floor-hash"
    } else {
        b"landro-floor"
    }])?;
    config.set_max_send_udp_payload_size(payload_bytes.min(MAX_PAYLOAD_BYTES));
    config.set_max_recv_udp_payload_size(65_527);
    config.set_initial_max_data(32 << 20);
    config.set_max_connection_window(32 << 20);
    config.set_initial_max_stream_data_uni(16 << 20);
    config.set_max_stream_window(16 << 20);
    config.set_initial_max_streams_uni(1);
    config.set_initial_rtt(std::time::Duration::from_millis(333));
    config.set_max_ack_delay(5);
    config.set_max_idle_timeout(PATIENCE_MS);
    config.set_cc_algorithm(quiche::CongestionControlAlgorithm::Bbr2Gcongestion);
    config.set_initial_congestion_window_packets(32);
    config.enable_pacing(false);
    config.set_disable_active_migration(true);
    config.grease(false);
    Ok(config)
}

/// Both ends' connection ids mean nothing.
pub fn random_cid(bytes: usize) -> Result<quiche::ConnectionId<'static>> {
    let mut id = vec![0; bytes];
    boring::rand::rand_bytes(&mut id)?;
    Ok(quiche::ConnectionId::from_vec(id))
}
