//! Who we are: an Ed25519 key, the self-signed certificate that carries it through TLS, and its
//! fingerprint.
//!
//! The certificate is only an envelope. Peers pin the key; nobody checks names, dates or signatures
//! of the certificate, so it says as little as X.509 allows and never expires.

use std::sync::Arc;

use boring::error::ErrorStack;
use boring::pkey::{HasPublic, Id, PKey, PKeyRef, Private};
use boring::sign::Signer;
use boring::x509::{X509, X509Ref};

use crate::ids::Fingerprint;

/// Asked with the peer's fingerprint in the TLS verify callback, and again after a resumed
/// handshake, where TLS itself asks nothing. May not block: it runs in the worker's loop.
pub type Trust = Arc<dyn Fn(&Fingerprint) -> bool + Send + Sync>;

/// An Ed25519 key with its certificate. Cheap to clone (reference counts).
#[derive(Clone)]
pub struct Identity {
    key: PKey<Private>,
    certificate: X509,
    fingerprint: Fingerprint,
}

/// Why there is no identity.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// There is no key, or not in this form.
    #[error("no Ed25519 private key in PKCS#8 PEM form: {0}")]
    Key(BoringError),
    /// The key is of another kind.
    #[error("the private key is not an Ed25519 key")]
    KeyKind,
    /// There is no certificate.
    #[error("no certificate in PEM form: {0}")]
    Certificate(BoringError),
    /// Key and certificate do not belong together.
    #[error("the certificate belongs to another key")]
    Mismatch,
    /// BoringSSL refuses, which only lack of memory makes it do.
    #[error("BoringSSL: {0}")]
    Boring(BoringError),
}

/// What BoringSSL says.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct BoringError(ErrorStack);

fn boring(error: ErrorStack) -> IdentityError {
    IdentityError::Boring(BoringError(error))
}

impl Identity {
    /// Makes a new key.
    ///
    /// # Errors
    /// BoringSSL refuses, which only lack of memory makes it do.
    pub fn generate() -> Result<Identity, IdentityError> {
        let generate = || {
            let key = PKey::generate(Id::ED25519)?;
            let certificate = X509::from_der(&self_signed(&key)?)?;
            Ok(Identity {
                fingerprint: fingerprint_of(&key)?,
                key,
                certificate,
            })
        };
        generate().map_err(boring)
    }

    /// Reads what [`Identity::to_pem`] wrote: a PKCS#8 key and a certificate.
    ///
    /// # Errors
    /// Either is missing or malformed, the key is of another kind, or they do not belong together.
    pub fn from_pem(pem: &str) -> Result<Identity, IdentityError> {
        let key = PKey::private_key_from_pem(pem.as_bytes())
            .map_err(|error| IdentityError::Key(BoringError(error)))?;
        if key.id() != Id::ED25519 {
            return Err(IdentityError::KeyKind);
        }
        let certificate = X509::from_pem(pem.as_bytes())
            .map_err(|error| IdentityError::Certificate(BoringError(error)))?;
        if !certificate.public_key().map_err(boring)?.public_eq(&key) {
            return Err(IdentityError::Mismatch);
        }
        Ok(Identity {
            fingerprint: fingerprint_of(&key).map_err(boring)?,
            key,
            certificate,
        })
    }

    /// The key (PKCS#8, unencrypted) and the certificate. Whoever reads this is us: store it 0600.
    ///
    /// # Errors
    /// BoringSSL refuses, which only lack of memory makes it do.
    pub fn to_pem(&self) -> Result<String, IdentityError> {
        let mut pem = self.key.private_key_to_pem_pkcs8().map_err(boring)?;
        pem.extend(self.certificate.to_pem().map_err(boring)?);
        Ok(String::from_utf8_lossy(&pem).into_owned())
    }

    /// The name of the key.
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    pub(crate) fn key(&self) -> &PKey<Private> {
        &self.key
    }

    pub(crate) fn certificate(&self) -> &X509 {
        &self.certificate
    }
}

/// The same for TLS stacks other than BoringSSL.
impl Identity {
    /// The private key as PKCS#8 in DER.
    ///
    /// # Errors
    /// BoringSSL refuses, which only lack of memory makes it do.
    pub(crate) fn key_der(&self) -> Result<Vec<u8>, IdentityError> {
        self.key.private_key_to_der_pkcs8().map_err(boring)
    }

    /// The certificate in DER.
    ///
    /// # Errors
    /// BoringSSL refuses, which only lack of memory makes it do.
    pub(crate) fn certificate_der(&self) -> Result<Vec<u8>, IdentityError> {
        self.certificate.to_der().map_err(boring)
    }
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Identity({})", self.fingerprint)
    }
}

/// SHA-256 of the key's SubjectPublicKeyInfo.
fn fingerprint_of<T: HasPublic>(key: &PKeyRef<T>) -> Result<Fingerprint, ErrorStack> {
    Ok(Fingerprint(boring::sha::sha256(&key.public_key_to_der()?)))
}

/// Fingerprint of the key in a certificate a peer presented; `None` when it is no Ed25519
/// certificate.
pub(crate) fn certificate_fingerprint(certificate: &X509Ref) -> Option<Fingerprint> {
    let key = certificate.public_key().ok()?;
    if key.id() != Id::ED25519 {
        return None;
    }
    fingerprint_of(&key).ok()
}

/// SubjectPublicKeyInfo and fingerprint of the key in a certificate in DER; `None` when it is no
/// Ed25519 certificate.
pub(crate) fn public_key_of_der(der: &[u8]) -> Option<(Vec<u8>, Fingerprint)> {
    let certificate = X509::from_der(der).ok()?;
    let fingerprint = certificate_fingerprint(&certificate)?;
    let key = certificate.public_key().ok()?.public_key_to_der().ok()?;
    Some((key, fingerprint))
}

/// What the handshake does with a peer's certificate as it came.
#[cfg(feature = "fuzzing")]
pub fn fingerprint_of_der(der: &[u8]) -> Option<Fingerprint> {
    certificate_fingerprint(X509::from_der(der).ok()?.as_ref())
}

/// DER of SEQUENCE { OBJECT IDENTIFIER 1.3.101.112 }: the algorithm Ed25519 (RFC 8410).
const ED25519_ALGORITHM: [u8; 7] = [0x30, 5, 0x06, 3, 0x2b, 0x65, 0x70];

/// DER of the validity 1970-01-01 to 9999-12-31 (RFC 5280: "no well-defined expiration date").
const FOR_EVER: &[u8] = b"\x30\x20\x17\x0d700101000000Z\x18\x0f99991231235959Z";

/// DER of the name CN=landro.
const COMMON_NAME: &[u8] = b"\x30\x11\x31\x0f\x30\x0d\x06\x03\x55\x04\x03\x0c\x06landro";

/// A self-signed X.509 certificate in DER. Written by hand because boring's builder insists on a
/// digest, and Ed25519 signs without one.
fn self_signed(key: &PKeyRef<Private>) -> Result<Vec<u8>, ErrorStack> {
    let version_3 = [0xa0, 3, 0x02, 1, 2];
    let mut serial = [0; 18];
    boring::rand::rand_bytes(&mut serial[2..])?;
    // INTEGER of 16 bytes, positive and without a leading zero byte.
    (serial[0], serial[1], serial[2]) = (0x02, 16, serial[2] & 0x3f | 0x40);
    let key_info = key.public_key_to_der()?;

    let signed = sequence(&[
        &version_3,
        &serial,
        &ED25519_ALGORITHM,
        COMMON_NAME,
        FOR_EVER,
        COMMON_NAME, // subject = issuer
        &key_info,
    ]);
    let signature = Signer::new_without_digest(key)?.sign_oneshot_to_vec(&signed)?;
    // BIT STRING: length of the signature and the count of unused bits, 0.
    let bit_string = [&[0x03, 1 + signature.len() as u8, 0], &signature[..]].concat();
    Ok(sequence(&[&signed, &ED25519_ALGORITHM, &bit_string]))
}

/// DER SEQUENCE of parts, up to 65,535 bytes.
fn sequence(parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let mut der = vec![0x30];
    match content.len() {
        short @ 0..128 => der.push(short as u8),
        long => {
            der.push(0x82);
            der.extend((long as u16).to_be_bytes());
        }
    }
    // DER wants the shortest length form: one byte where it fits.
    if let [0x30, 0x82, 0, low] = der[..] {
        der = vec![0x30, 0x81, low];
    }
    der.extend(content);
    der
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn survives_pem() {
        let identity = Identity::generate().unwrap();
        let pem = identity.to_pem().unwrap();
        assert!(pem.contains("BEGIN PRIVATE KEY") && pem.contains("BEGIN CERTIFICATE"));
        let again = Identity::from_pem(&pem).unwrap();
        assert_eq!(again.fingerprint(), identity.fingerprint());
        assert_eq!(again.to_pem().unwrap(), pem);
        assert_ne!(
            Identity::generate().unwrap().fingerprint(),
            identity.fingerprint()
        );
    }

    #[test]
    fn the_certificate_is_a_valid_one() {
        let identity = Identity::generate().unwrap();
        let certificate = identity.certificate();
        assert!(
            certificate
                .verify(&certificate.public_key().unwrap())
                .unwrap()
        );
        assert_eq!(
            certificate_fingerprint(certificate),
            Some(identity.fingerprint())
        );
    }

    #[test]
    fn refuses_what_does_not_belong_together() {
        let (one, two) = (Identity::generate().unwrap(), Identity::generate().unwrap());
        let mixed = [
            one.key.private_key_to_pem_pkcs8().unwrap(),
            two.certificate.to_pem().unwrap(),
        ]
        .concat();
        let mixed = String::from_utf8(mixed).unwrap();
        assert!(matches!(
            Identity::from_pem(&mixed),
            Err(IdentityError::Mismatch)
        ));
        assert!(matches!(Identity::from_pem(""), Err(IdentityError::Key(_))));
        let key_only = String::from_utf8(one.key.private_key_to_pem_pkcs8().unwrap()).unwrap();
        assert!(matches!(
            Identity::from_pem(&key_only),
            Err(IdentityError::Certificate(_))
        ));
        let other = PKey::generate(Id::X25519)
            .unwrap()
            .private_key_to_pem_pkcs8()
            .unwrap();
        assert!(matches!(
            Identity::from_pem(&String::from_utf8(other).unwrap()),
            Err(IdentityError::KeyKind)
        ));
    }
}
