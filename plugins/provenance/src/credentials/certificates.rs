// SPDX-License-Identifier: MPL-2.0

//! Certificates to try it out with. Nobody trusts them: for trust there has to be one's own from an authority on the
//! C2PA's trust list.

use std::time::{Duration, SystemTime};

use p256::ecdsa::signature::Signer as _;
use p256::ecdsa::{DerSignature, SigningKey};
use p256::elliptic_curve::rand_core::{OsRng, RngCore};
use p256::pkcs8::{EncodePrivateKey, LineEnding};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod,
    KeyUsagePurpose, PublicKeyData, SerialNumber, SignatureAlgorithm,
};

use crate::{Error, Result};

/// How long they hold.
const LIFETIME: Duration = Duration::from_hours(24 * 365);

/// An authority that lives as long as this takes, and a certificate of it to sign with; all PEM.
pub struct TestChain {
    /// The certificate to sign with.
    pub certificate: String,
    /// Its private key, PKCS #8.
    pub private_key: String,
    /// The authority's certificate: who takes it for a trust anchor trusts what is signed. Its key is gone.
    pub authority: String,
}

struct Key {
    signing: SigningKey,
    public: Vec<u8>,
}

impl Key {
    fn random() -> Self {
        let signing = SigningKey::random(&mut OsRng);
        let public = signing.verifying_key().to_encoded_point(false).as_bytes().to_vec();
        Self { signing, public }
    }
}

impl PublicKeyData for Key {
    fn der_bytes(&self) -> &[u8] {
        &self.public
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

impl rcgen::SigningKey for Key {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        let signature: DerSignature =
            self.signing.try_sign(message).map_err(|_| rcgen::Error::RemoteKeyError)?;
        Ok(signature.as_bytes().to_vec())
    }
}

/// A fresh chain on the curve P-256 that holds for a year from now, in the name of `organization`.
///
/// # Errors
/// [`Error::Certificate`].
pub fn test_chain(organization: &str) -> Result<TestChain> {
    let failed = |e: &dyn std::fmt::Display| Error::Certificate(e.to_string());
    let (root, leaf) = (Key::random(), Key::random());
    let now = SystemTime::now();
    let params = |name: &str, key: &Key| {
        let mut params = CertificateParams::default();
        params.not_before = now.into();
        params.not_after = (now + LIFETIME).into();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, organization);
        params.distinguished_name.push(DnType::CommonName, name);
        let mut serial = [0; 16];
        OsRng.fill_bytes(&mut serial);
        // Positive, and without a zero in front.
        serial[0] = serial[0] & 0x7f | 1;
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        let id = blake3::hash(&key.public).as_bytes()[..20].to_vec();
        params.key_identifier_method = KeyIdMethod::PreSpecified(id);
        params.use_authority_key_identifier_extension = true;
        params
    };
    let mut above = params("Test authority, not to be trusted", &root);
    above.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    above.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let authority = above.self_signed(&root).map_err(|e| failed(&e))?;
    let issuer = Issuer::from_params(&above, &root);

    let mut below = params("Test signer, not to be trusted", &leaf);
    below.is_ca = IsCa::ExplicitNoCa;
    below.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    below.extended_key_usages = vec![ExtendedKeyUsagePurpose::EmailProtection];
    let certificate = below.signed_by(&leaf, &issuer).map_err(|e| failed(&e))?;
    let private_key = leaf.signing.to_pkcs8_pem(LineEnding::LF).map_err(|e| failed(&e))?.to_string();
    Ok(TestChain { certificate: certificate.pem(), private_key, authority: authority.pem() })
}
