//! Certificates for quinn and s2n-quic: one authority, and below it a key for each side.

use std::fs;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

use crate::transport::{Result, Setup};

/// What the server is called in its certificate.
pub const SERVER_NAME: &str = "localhost";

/// PEM, in files of the directory that both sides are told.
pub const AUTHORITY: &str = "authority.pem";

pub fn make_certificates(setup: &Setup) -> Result<()> {
    let authority_key = KeyPair::generate()?;
    let mut authority = CertificateParams::new(Vec::new())?;
    // Subjects that are the same would have a certificate taken for its own issuer.
    authority
        .distinguished_name
        .push(DnType::CommonName, "landro-peers");
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let certificate = authority.self_signed(&authority_key)?;
    fs::write(setup.trust.join(AUTHORITY), certificate.pem())?;
    let issuer = Issuer::new(authority, authority_key);
    for (side, usage) in [
        (Side::Server, ExtendedKeyUsagePurpose::ServerAuth),
        (Side::Client, ExtendedKeyUsagePurpose::ClientAuth),
    ] {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(vec![SERVER_NAME.to_owned()])?;
        params
            .distinguished_name
            .push(DnType::CommonName, side.certificate());
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![usage];
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(&key, &issuer)?;
        fs::write(setup.trust.join(side.certificate()), certificate.pem())?;
        fs::write(setup.trust.join(side.key()), key.serialize_pem())?;
    }
    Ok(())
}

#[derive(Clone, Copy, Debug)]
pub enum Side {
    Server,
    Client,
}

impl Side {
    fn certificate(self) -> &'static str {
        match self {
            Side::Server => "server.pem",
            Side::Client => "client.pem",
        }
    }

    fn key(self) -> &'static str {
        match self {
            Side::Server => "server-key.pem",
            Side::Client => "client-key.pem",
        }
    }
}

/// PEM of the authority, of the side's certificate, and of its key.
pub fn read(setup: &Setup, side: Side) -> Result<(String, String, String)> {
    let read = |name: &str| fs::read_to_string(setup.trust.join(name));
    Ok((
        read(AUTHORITY)?,
        read(side.certificate())?,
        read(side.key())?,
    ))
}
